"""Whose a file in a folder of results is: microlab's, the user's, another call's, another image's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from dark_lines import grid
from roifile import ImagejRoi
from toy_method import TOY

from microlab.data import images
from microlab.data.errors import InputError
from microlab.data.files import MARK, atomic, claim, end_claim, is_ours
from microlab.data.pairs import begin_pairs
from microlab.data.run_folder import RunFolder
from microlab.pipelines.image_results import Options, is_complete
from microlab.pipelines.measure_folder import measure_folder
from microlab.pipelines.segment_folder import segment_folder
from microlab.segment.registry import REGISTRY


@pytest.fixture(autouse=True)
def quick_method(monkeypatch):
    monkeypatch.setitem(REGISTRY, "toy", TOY)


@pytest.fixture
def field(tmp_path) -> Path:
    return images.write_image(tmp_path / "mine" / "field.tif", grid(3, 4)[0], pixel_size=0.5)


@pytest.fixture
def out(field, tmp_path) -> Path:
    """The results of the field."""
    segment_folder([field], tmp_path / "out", method="toy")
    return tmp_path / "out"


def lines(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("microlab: ")]


# --- the user's own ---------------------------------------------------------------------------------------


def test_what_a_users_code_writes_among_the_results_stays(field, out):
    images.write_labels(out / "field" / "corrected.tif", np.ones((9, 9), int))
    (out / "field" / "mine.csv").write_text("a,b\n")
    for method in ("toy", "threshold"):
        assert not segment_folder([field], out, method=method).failed
        assert (out / "field" / "corrected.tif").is_file()
        assert (out / "field" / "mine.csv").read_text() == "a,b\n"


def test_labels_corrected_by_a_users_code_are_theirs(field, out):
    corrected = np.kron([[1, 2], [3, 4]], np.ones((30, 40), int))
    images.write_labels(out / "field" / "labels.tif", corrected)
    before = (out / "field" / "labels.tif").read_bytes()
    for how in ({}, {"skip_existing": True}):
        (failed,) = segment_folder([field], out, method="toy", **how).failed
        assert "labels.tif: was changed after microlab wrote it" in str(failed.error)
        assert (out / "field" / "labels.tif").read_bytes() == before


def test_a_link_is_replaced_and_not_what_it_leads_to(field, out, tmp_path):
    elsewhere = tmp_path / "elsewhere.tif"
    for change in (b"", b"edited"):
        shutil.copy(out / "field" / "labels.tif", elsewhere)
        elsewhere.write_bytes(elsewhere.read_bytes() + change)
        (out / "field" / "labels.tif").unlink()
        (out / "field" / "labels.tif").symlink_to(elsewhere)
        before = elsewhere.read_bytes()
        assert not segment_folder([field], out, method="toy", overwrite=bool(change)).failed
        assert elsewhere.read_bytes() == before
        assert not (out / "field" / "labels.tif").is_symlink()
        assert is_complete(out / "field")


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_file_is_not_overwritten(field, out, kind):
    place = out / "field" / "grains.csv"
    place.unlink()
    place.mkdir() if kind == "folder" else place.symlink_to("nowhere")
    (failed,) = segment_folder([field], out, method="toy", overwrite=True).failed
    assert f"{place}: is no file and cannot be replaced; move it away" in str(failed.error)


def test_an_image_that_fails_leaves_an_edited_table_the_users(field, out):
    table = out / "field" / "grains.csv"
    table.write_text("edited\n")
    whole = field.read_bytes()
    field.write_bytes(whole[:100])
    assert segment_folder([field], out, method="toy", overwrite=True).failed
    field.write_bytes(whole)
    for how in ({}, {"skip_existing": True}):
        assert segment_folder([field], out, method="toy", **how).failed
        assert table.read_text() == "edited\n"
    assert not segment_folder([field], out, method="toy", overwrite=True).failed
    assert table.read_text() != "edited\n"


def test_a_hidden_file_of_the_users_is_no_remainder_of_ours(tmp_path):
    (tmp_path / ".thesis.7777777.part.tex").write_text("years")
    with pytest.raises(InputError, match="thesis"):
        claim(tmp_path, "segment")
    assert (tmp_path / ".thesis.7777777.part.tex").read_text() == "years"


# --- other calls ------------------------------------------------------------------------------------------


def test_two_calls_at_once_do_not_swap_images_of_one_name(tmp_path):
    """They choose the same folder while neither has written yet."""
    start = """
import sys, time
from pathlib import Path
from microlab.pipelines import image_results, segment_folder as module
chosen = image_results.result_folders
def slowly(*arguments):
    folders = chosen(*arguments)
    Path(sys.argv[3]).touch()
    while not all(Path(name).exists() for name in sys.argv[3:5]):
        time.sleep(0.01)
    return folders
image_results.result_folders = slowly
result = module.segment_folder([sys.argv[1]], sys.argv[2], method="threshold")
print(*[image.error or image.folder for image in result.images])
"""
    calls = []
    for name, other in (("x", "y"), ("y", "x")):
        file = images.write_image(tmp_path / name / "f.tif", grid(3, 4 if name == "x" else 5)[0])
        ready = [str(tmp_path / f"{one}.ready") for one in (name, other)]
        command = [sys.executable, "-c", start, str(file), str(tmp_path / "out"), *ready]
        calls.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = [call.communicate(timeout=120)[0] for call in calls]
    written = json.loads((tmp_path / "out" / "f" / "run.json").read_text())["source"]
    assert sum("run again" in line for line in said) == 1, said
    loser = next(k for k, line in enumerate(said) if "run again" in line)
    assert written == str(tmp_path / "yx"[loser] / "f.tif")


def test_a_mark_is_written_by_one_process_only(tmp_path):
    claim(tmp_path, "image", source="a")
    with pytest.raises(InputError, match="holds the results of a, which another call may have written"):
        claim(tmp_path, "image", source="b")


def test_what_was_written_before_an_emptying_is_not_trusted(tmp_path):
    first = RunFolder(tmp_path / "run", {"seed": 0})
    first.write("sizes.json", [1, 2])
    old = (tmp_path / "run" / "sizes.json").read_bytes()
    second = RunFolder(tmp_path / "run", {"seed": 1}, fresh=True)
    (tmp_path / "run" / "sizes.json").write_bytes(old)
    with pytest.raises(InputError, match=r"sizes\.json: is damaged or was changed"):
        second.read("sizes.json")


def test_finder_does_not_stop_a_fresh_start(tmp_path):
    RunFolder(tmp_path / "run", {"seed": 0})
    (tmp_path / "run" / ".DS_Store").write_bytes(b"x")
    RunFolder(tmp_path / "run", {"seed": 1}, fresh=True)


def test_labels_of_another_method_do_not_pass_for_those_of_the_run(field, out):
    toy = (out / "field" / "labels.tif").read_bytes()
    assert not segment_folder([field], out, method="threshold").failed
    threshold = (out / "field" / "labels.tif").read_bytes()
    assert toy != threshold
    (out / "field" / "labels.tif").write_bytes(toy)
    assert not is_complete(out / "field")
    (measured,) = measure_folder([out])
    assert "was changed after it was segmented" in " ".join(measured.notes)
    (again,) = segment_folder([field], out, method="threshold", skip_existing=True).images
    assert not again.kept
    assert (out / "field" / "labels.tif").read_bytes() == threshold


def test_what_is_not_claimed_is_not_recorded(tmp_path):
    claim(tmp_path, "run")
    for name, ours in (("a.txt", True), ("b.txt", False)):
        with atomic(tmp_path / name) as partial:
            partial.write_text("x")
        assert is_ours(tmp_path / name) == ours
        end_claim(tmp_path)


# --- tables of several calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["removed", "edited"])
def test_an_image_without_a_whole_result_is_not_left_out_in_silence(field, tmp_path, harm):
    other = images.write_image(field.with_name("other.tif"), grid(4, 4)[0])
    segment_folder([field, other], tmp_path / "out", method="toy")
    run_file = tmp_path / "out" / "field" / "run.json"
    run_file.unlink() if harm == "removed" else run_file.write_text(run_file.read_text() + "\n")
    result = run("measure", tmp_path / "out")
    assert f"{run_file.parent}: is left out, it holds no whole result of an image" in result.stderr
    assert "other" in result.stdout


def test_an_image_that_cannot_get_its_outlines_stops_no_other(field, tmp_path):
    squares = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((20, 20), int))
    files = [images.write_labels(tmp_path / f"{name}.tif", squares) for name in ("a", "b", "grains.csv")]
    claim(tmp_path / "all", "measure")
    (tmp_path / "all" / "b").mkdir()
    (tmp_path / "all" / "b" / "mine.txt").write_text("mine")
    first, second, third = measure_folder(files, tmp_path / "all", geojson=True)
    assert first.error is None
    assert third.error is None
    assert "holds mine.txt, which microlab did not write" in str(second.error)
    assert set(pd.read_csv(tmp_path / "all" / "grains.csv")["image"]) == {"a", third.name}
    assert third.name == "grains.csv-2"  # the name of a table is taken
    outline = tmp_path / "all" / "a" / "grains.geojson"
    outline.write_text("edited")
    assert measure_folder(files[:1], tmp_path / "all", geojson=True)[0].error is not None
    assert measure_folder(files[:1], tmp_path / "all", geojson=True, overwrite=True)[0].error is None
    assert outline.read_text() != "edited"


def test_outlines_and_corrections_of_an_earlier_call_do_not_stay(tmp_path):
    squares = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((20, 20), int))
    file = images.write_labels(tmp_path / "a.tif", squares)
    measure_folder([file], tmp_path / "all", geojson=True, rois=True)
    measure_folder([file], tmp_path / "all", rois=True)
    assert {p.name for p in (tmp_path / "all" / "a").iterdir()} == {MARK, "rois.zip"}
    measure_folder([file], tmp_path / "all")
    assert {p.name for p in (tmp_path / "all" / "a").iterdir()} == {MARK}


def test_tables_say_that_everything_failed_and_a_new_folder_is_not_made(field, out, tmp_path):
    field.write_bytes(field.read_bytes()[:100])
    assert run("segment", field, "-o", out, "--method", "toy").exit_code == 1
    (row,) = pd.read_csv(out / "summary.csv").to_dict("records")
    assert str(field) in row["error"]
    assert str(field) in (out / "report.html").read_text()
    assert len(pd.read_csv(out / "grains.csv")) == 0
    assert run("segment", field, "-o", tmp_path / "new" / "out", "--method", "toy").exit_code == 1
    assert not (tmp_path / "new").exists()


def test_an_unfinished_set_of_pairs_leaves_no_images_in_the_next(tmp_path):
    begin_pairs(tmp_path)
    images.write_image(tmp_path / "images" / "a.tif", np.zeros((16, 16)))
    begin_pairs(tmp_path)
    assert not (tmp_path / "images" / "a.tif").exists()


def test_results_of_a_version_without_marks_are_not_segmented_as_images(field):
    old = field.parent / "results" / "field"
    old.mkdir(parents=True)
    (old / "run.json").write_text("{}")
    shutil.copy(field, old / "mask.tif")
    result = run("segment", field.parent, "-o", field.parent.parent / "out", "--method", "toy", "--recursive")
    assert result.exit_code == 0
    assert len(pd.read_csv(field.parent.parent / "out" / "summary.csv")) == 1


# --- where outlines lie -----------------------------------------------------------------------------------


def test_outlines_lie_on_the_image_file_whatever_was_cut_off(field, tmp_path):
    """A crop and a data bar above move the labels, not the grains in the file."""
    how = {"zoom": 1.0, "geojson": True, "rois": True}
    for name, options in (
        ("whole", Options(data_bar=0, **how)),
        ("cut", Options(data_bar="top:10", crop=(0, 24, 96, 48), **how)),
    ):
        assert not segment_folder([field], tmp_path / name, method="toy", options=options).failed
    corners = {}
    for name in ("whole", "cut"):
        place = tmp_path / name / "field"
        features = json.loads((place / "grains.geojson").read_text())["features"]
        corners[name] = np.concatenate([f["geometry"]["coordinates"][0] for f in features]).max(0)
        with zipfile.ZipFile(place / "rois.zip") as archive:
            rois = [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
        np.testing.assert_allclose(np.concatenate([r.coordinates() for r in rois]).max(0), corners[name])
    assert abs(corners["whole"] - corners["cut"]).max() <= 2  # lines may move by a pixel where the frame cuts


# --- outputs that are closed ------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_closed_stream_is_no_bug(closed, field, tmp_path):
    squares = images.write_labels(tmp_path / "squares.tif", np.kron([[1, 2]], np.ones((20, 20), int)))
    command = f"{sys.executable} -m microlab measure {squares} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bug" not in done.stderr


def test_a_table_goes_into_a_pipe(tmp_path):
    squares = images.write_labels(tmp_path / "squares.tif", np.kron([[1, 2]], np.ones((20, 20), int)))
    command = f"{sys.executable} -m microlab measure {squares} -o /dev/stdout --quiet | cat"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "image,label" in done.stdout, done
    assert not lines(done)
