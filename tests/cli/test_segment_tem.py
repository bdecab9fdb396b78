"""`microlab segment --method tem`: what it writes and how it fails."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from command_line import run
from edge_nets import patchwork, save_edge_segmenter
from typer.testing import CliRunner

from microlab.cli.main import main
from microlab.data import images
from microlab.data.files import MARK
from microlab.data.masks import read_mask
from microlab.pipelines.image_results import Options, segment_file
from microlab.segment.registry import load_segmenter

FILES = {
    "boundary.tif",
    "mask.png",
    "labels.tif",
    "iterations.tif",
    "changes.csv",
    "uncertainty.tif",
    "overlay.png",
    "grains.csv",
    "run.json",
    MARK,
}


def segment_tem(*arguments: object):
    return run("segment", *arguments, "--method", "tem")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_edge_segmenter(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def foil(tmp_path) -> Path:
    """A picture of 3 x 4 grains, 96 x 128 px."""
    return images.write_image(tmp_path / "foil.tif", patchwork(3, 4), pixel_size=0.002)


def test_it_writes_every_map_and_reports_how_the_refinement_ended(tmp_path, foil, weights):
    out = tmp_path / "out"
    result = segment_tem(foil, "-o", out, "--weights", weights, "--device", "cpu")
    assert result.exit_code == 0
    assert result.stderr == ""
    line = re.fullmatch(
        rf"{re.escape(str(foil))} -> {re.escape(str(out / 'foil'))}: 12 grains, mean diameter [\d.]+ nm, "
        r"pixel size 2 nm \(ImageJ\), (\d+) iterations, converged, disagreement (0\.\d+)\n"
        rf"report: {re.escape(str(out))}/report.html\n",
        result.stdout,
    )
    assert {f.name for f in (out / "foil").iterdir()} == FILES
    direct = load_segmenter("tem", weights, "cpu").segment(images.read_image(foil))
    record = json.loads((out / "foil" / "run.json").read_text(encoding="utf-8"))
    assert record["iterations"] == int(line[1]) == direct.refinement.iterations
    assert record["converged"] is True
    assert record["disagreement"] == pytest.approx(float(line[2]), abs=5e-4)
    assert (record["method"], record["grains"], record["notes"]) == ("tem", 12, [])
    assert record["tolerance"] == 0.003
    for part in ("first", "refine"):
        written = hashlib.sha256((weights / f"{part}.safetensors").read_bytes()).hexdigest()
        assert record["weights_sha256"][part] == written

    def stored(name: str) -> np.ndarray:
        return tifffile.imread(out / "foil" / name)

    np.testing.assert_array_equal(stored("boundary.tif"), direct.probability)
    np.testing.assert_array_equal(stored("iterations.tif"), direct.refinement.maps)
    assert stored("iterations.tif").shape == (direct.refinement.iterations + 1, 96, 128)
    np.testing.assert_array_equal(stored("labels.tif"), direct.labels)
    for name in ("boundary.tif", "iterations.tif", "uncertainty.tif"):
        assert stored(name).dtype == np.float32
        assert stored(name).shape[-2:] == (96, 128)
        with tifffile.TiffFile(out / "foil" / name) as tif:
            assert tif.is_imagej
            assert tif.imagej_metadata["unit"] == "um"
    np.testing.assert_array_equal(read_mask(out / "foil" / "mask.png")[0], direct.boundary)
    changes = pd.read_csv(out / "foil" / "changes.csv")
    assert list(changes["iteration"]) == list(range(1, direct.refinement.iterations + 1))
    np.testing.assert_allclose(changes["mean_change"], direct.refinement.changes, rtol=1e-4)
    table = pd.read_csv(out / "foil" / "grains.csv")
    assert table["area_um2"].sum() == pytest.approx(96 * 128 * 0.002**2, rel=1e-3)


def test_maps_have_the_size_of_the_image_at_every_scale(tmp_path, foil, weights):
    out = tmp_path / "out"
    assert segment_tem(foil, "-o", out, "--weights", weights, "--scale", 0.75).exit_code == 0
    for name in ("boundary.tif", "iterations.tif", "uncertainty.tif", "labels.tif"):
        assert tifffile.imread(out / "foil" / name).shape[-2:] == (96, 128)
    assert json.loads((out / "foil" / "run.json").read_text())["zoom"] == 0.75


def test_reaching_the_cap_is_reported_in_the_output_the_notes_and_the_record(tmp_path, foil, weights):
    out = tmp_path / "out"
    rule = ("--max-iterations", 2, "--tolerance", 1e-7)
    result = segment_tem(foil, "-o", out, "--weights", weights, *rule)
    assert result.exit_code == 0
    assert "12 grains, mean diameter" in result.stdout
    assert "2 iterations, cap reached" in result.stdout
    assert result.stderr.count("reached its cap of 2 iterations") == 1  # not once for every view
    record = json.loads((out / "foil" / "run.json").read_text())
    assert record["converged"] is False
    assert (record["max_iterations"], record["tolerance"]) == (2, 1e-7)
    assert record["last_mean_change"] > 1e-7
    (note,) = record["notes"]
    assert "cap of 2" in note


def test_one_bad_image_is_one_line_and_the_others_are_segmented(tmp_path, foil, weights):
    blank = images.write_image(tmp_path / "blank.png", np.full((64, 64), 0.4))
    small = images.write_image(tmp_path / "small.png", patchwork(1, 2, 16)[:16])
    missing = tmp_path / "missing.tif"
    result = segment_tem(blank, small, missing, foil, "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 1
    *lines, last = result.stderr.splitlines()
    assert last == "microlab: 3 of 4 images failed"
    for line, path, reason in zip(
        lines, (blank, small, missing), ("constant", "at least 17", "no such file")
    ):
        assert line.startswith(f"microlab: {path}: ")
        assert reason in line
    assert (tmp_path / "out" / "foil" / "run.json").is_file()
    assert segment_tem(missing, "-o", tmp_path / "out", "--weights", weights).stderr.count("\n") == 1


def test_an_interrupted_run_leaves_no_record_not_even_an_earlier_one(tmp_path, foil, weights, monkeypatch):
    out = tmp_path / "out"
    call = ("segment", foil, "-o", out, "--weights", weights, "--method", "tem")
    assert run(*call).exit_code == 0

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "write_labels", killed)  # after the maps, before the record
    assert CliRunner().invoke(main, [str(a) for a in call]).exit_code != 0
    assert not (out / "foil" / "run.json").exists()
    assert not [f for f in (out / "foil").iterdir() if "part" in f.name]
    monkeypatch.undo()
    assert run(*call).exit_code == 0
    shown = {f.name for f in out.iterdir() if not f.name.startswith(".")}
    assert shown == {"foil", "grains.csv", "report.html", "summary.csv"}  # the same folder again
    assert {f.name for f in (out / "foil").iterdir()} == FILES


@pytest.mark.parametrize(
    "wrong",
    [
        ["--max-iterations", "0"],
        ["--tolerance", "0"],
        ["--tolerance", "nan"],
        ["--scale", "big"],
        ["--views", "1"],
        ["--views", "9"],
        ["--method", "magic"],
    ],
)
def test_a_wrong_call_exits_with_2(wrong):
    assert run("segment", "a.tif", "-o", "out", *wrong).exit_code == 2


def test_a_wrong_method_names_the_choices():
    text = run("segment", "a.tif", "-o", "out", "--method", "magic").stderr
    assert "label-free, tem, threshold, gradient-watershed, ridge, got 'magic'" in " ".join(text.split())


def test_a_setting_of_another_method_is_one_line(tmp_path, foil):
    result = run("segment", foil, "-o", tmp_path / "out", "--tolerance", 0.01)
    assert result.exit_code == 1
    assert result.stderr == "microlab: method auto has no setting tolerance; leave it out\n"


def test_wrong_weights_are_one_line(tmp_path, foil, weights):
    damaged = save_edge_segmenter(tmp_path / "damaged")
    (damaged / "refine.safetensors").write_bytes((damaged / "refine.safetensors").read_bytes()[:-1])
    for wrong, reason in (
        ("nobody", "no such weights"),
        (tmp_path, "first.safetensors"),
        (damaged, "checksum"),
    ):
        result = segment_tem(foil, "-o", tmp_path / "out", "--weights", wrong)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert (
        segment_tem(foil, "-o", tmp_path / "out", "--weights", weights, "--device", "abacus").exit_code == 1
    )
    assert not (tmp_path / "out").exists()


def test_without_views_no_uncertainty_is_written(tmp_path, foil, weights):
    out = tmp_path / "out"
    assert segment_tem(foil, "-o", out, "--weights", weights, "--views", 0).exit_code == 0
    assert {f.name for f in (out / "foil").iterdir()} == FILES - {"uncertainty.tif"}
    assert "disagreement" not in json.loads((out / "foil" / "run.json").read_text())
    assert "No\nuncertainty of the segmentation" in (out / "report.html").read_text(encoding="utf-8")


def test_the_report_names_the_method_and_shows_both_cards_and_the_uncertainty(tmp_path, foil, weights):
    out = tmp_path / "out"
    segment_tem(foil, "-o", out, "--weights", weights)
    record = json.loads((out / "foil" / "run.json").read_text())
    assert record["method"] == "tem"
    assert set(record["weights_sha256"]) == {"first", "refine"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "as the method tem segmented them: for TEM: one network draws boundaries" in page
    for entry in ("first: architecture", "refine: architecture", "finish: method", "sobel, log, canny"):
        assert entry in page
    assert "disagreement between views" in page
    assert len(re.findall(r"<img [^>]*alt=", page.split("<script", 1)[0])) == 5


def test_the_report_mentions_that_the_cap_was_reached(tmp_path, foil):
    low_cap = save_edge_segmenter(tmp_path / "low_cap", max_iterations=1, tolerance=1e-7)
    result = segment_tem(foil, "-o", tmp_path / "out", "--weights", low_cap)
    assert result.exit_code == 0
    assert "cap of 1 iterations" in result.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "cap of 1 iterations" in page.split("<h3>Notes</h3>")[1]


def test_an_undefined_disagreement_is_null_in_the_record(tmp_path, weights):
    step = np.zeros((64, 96), np.float32)
    step[20:28, 40:48] = 1  # one speck: its mask does not divide the image
    path = images.write_image(tmp_path / "one.tif", np.clip(0.3 + 0.4 * step, 0, 1))
    segment_file(path, tmp_path / "out" / "one", load_segmenter("tem", weights), Options(views=8))
    record = json.loads((tmp_path / "out" / "one" / "run.json").read_text())
    assert record["grains"] == 1
    assert record["disagreement"] is None
