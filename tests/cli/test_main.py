"""The command line: what it writes, what it prints, and how it reports mistakes."""

from __future__ import annotations

import functools
import json
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from command_line import run
from dark_lines import grid, save_network
from PIL import Image

import microlab
from microlab.cli.errors import ISSUES
from microlab.data import images
from microlab.data.datasets import DATASETS
from microlab.data.files import MARK
from microlab.pipelines import samples
from microlab.segment.registry import REGISTRY, Method

COMMANDS = ["segment", "demo", "measure", "simulate", "train", "adapt", "sample-pairs", "train-pairs"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


@pytest.fixture
def field(tmp_path) -> Path:
    """A micrograph of 4 x 5 grains."""
    return images.write_image(tmp_path / "field.png", grid(4, 5)[0])


class Page(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_version_and_help_answer_without_loading_torch():
    code = "import sys, microlab.cli.main; assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert run("--version").output.strip() == f"microlab {microlab.__version__}"
    for command in COMMANDS:
        page = run(command, "--help")
        assert page.exit_code == 0
        assert f"microlab {command}" in page.output.split("Example")[1]


@pytest.mark.parametrize(
    "wrong",
    [
        ["nonsense"],
        ["segment"],
        ["segment", "a.png"],
        ["segment", "a.png", "-o", "out", "--pixel-size", "-1"],
        ["segment", "a.png", "-o", "out", "--pixel-size", "nan"],
        ["segment", "a.png", "-o", "out", "--scale", "big"],
        ["segment", "a.png", "-o", "out", "--scale", "nan"],
        ["segment", "a.png", "-o", "out", "--data-bar", "-3"],
    ],
)
def test_a_wrong_call_exits_with_2(wrong):
    assert run(*wrong).exit_code == 2


def test_segment_writes_mask_labels_table_overlay_and_report(tmp_path, field, weights):
    out = tmp_path / "out"
    result = run("segment", field, "-o", out, "--weights", weights)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "20 grains" in result.stdout
    assert {f.name for f in (out / "field").iterdir()} == {
        "mask.png",
        "labels.tif",
        "grains.csv",
        "overlay.png",
        "run.json",
        MARK,
    }
    mask = np.asarray(Image.open(out / "field" / "mask.png"))
    assert set(np.unique(mask)) == {0, 255}
    truth = grid(4, 5)[1]
    assert ((mask == 255) == truth).mean() > 0.99
    labels = tifffile.imread(out / "field" / "labels.tif")
    assert labels.max() == 20
    table = pd.read_csv(out / "field" / "grains.csv")
    np.testing.assert_array_equal(table["label"], np.arange(1, 21))
    np.testing.assert_array_equal(table["area_px"], np.bincount(labels.ravel())[1:])
    assert table["area_um2"].isna().all()
    overlay = np.asarray(Image.open(out / "field" / "overlay.png")).astype(int)
    coloured = np.ptp(overlay, axis=2) > 50
    assert coloured.any()
    assert truth[coloured].mean() > 0.99  # the lines drawn lie on the true boundaries


def test_the_report_is_one_accessible_file_that_loads_nothing(tmp_path, field, weights):
    run("segment", field, "-o", tmp_path / "out", "--weights", weights)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("img")) == 4
    for picture in page.all("img"):
        assert picture["src"].startswith("data:image/png;base64,")
        assert len(picture["alt"]) > 10
    assert len(page.all("caption")) == len(page.all("table")) >= 2
    assert not [script for script in page.all("script") if "src" in script]
    assert not page.all("link")
    assert [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h2"]
    for link in page.all("a"):  # every link is an anchor in the page or a file beside it
        href = link["href"]
        assert f'id="{href[1:]}"' in text if href.startswith("#") else (tmp_path / "out" / href).is_file()
    assert "all lengths are in pixels" in text
    assert "uncertainty of the segmentation is given" in text
    assert "written by hand" in text  # the card


def test_names_in_the_report_cannot_break_it(tmp_path, weights):
    path = images.write_image(tmp_path / "<b>&a b#1.png", grid(3, 3)[0])
    assert run("segment", path, "-o", tmp_path / "out", "--weights", weights).exit_code == 0
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert not page.all("b")
    assert any("mask.png" in link["href"] for link in page.all("a"))


def test_pixel_size_gives_micrometres_from_the_option_or_the_file(tmp_path, field, weights):
    run("segment", field, "-o", tmp_path / "a", "--weights", weights, "--pixel-size", 0.5)
    given = pd.read_csv(tmp_path / "a" / "field" / "grains.csv")
    np.testing.assert_allclose(given["area_um2"], given["area_px"] * 0.25, rtol=1e-5)
    assert "ASTM E112" in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    tagged = images.write_image(tmp_path / "tagged.tif", grid(4, 5)[0], pixel_size=0.25)
    run("segment", tagged, "-o", tmp_path / "b", "--weights", weights)
    read = pd.read_csv(tmp_path / "b" / "tagged" / "grains.csv")
    np.testing.assert_allclose(read["diameter_um"], read["diameter_px"] * 0.25, rtol=1e-5)
    assert images.read_labels(tmp_path / "b" / "tagged" / "labels.tif")[1] == pytest.approx(0.25, rel=1e-3)


def test_a_data_bar_is_cut_off_and_reported(tmp_path, weights):
    picture = np.vstack([grid(4, 5)[0], np.zeros((20, 120), np.float32)])
    path = images.write_image(tmp_path / "bar.png", picture)
    result = run("segment", path, "-o", tmp_path / "out", "--weights", weights, "--data-bar", 20)
    assert result.exit_code == 0
    assert "lowest 20 rows are a data bar" in result.stderr
    assert tifffile.imread(tmp_path / "out" / "bar" / "labels.tif").shape == (96, 120)
    run("segment", path, "-o", tmp_path / "kept", "--weights", weights, "--data-bar", "none")
    assert tifffile.imread(tmp_path / "kept" / "bar" / "labels.tif").shape == (116, 120)


def test_a_folder_gives_each_of_its_images_once(tmp_path, weights):
    folder = tmp_path / "fields"
    for name, rows in (("a.png", 3), ("b.tif", 4)):
        images.write_image(folder / name, grid(rows, 3)[0])
    (folder / "notes.txt").write_text("not an image")
    result = run("segment", folder, folder / "a.png", "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 0
    names = {f.name for f in (tmp_path / "out").iterdir() if not f.name.startswith(".")}
    assert names == {"a", "b", "grains.csv", "report.html", "summary.csv"}
    assert "2 images" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_images_of_one_name_do_not_overwrite_one_another(tmp_path, weights):
    out, sizes = tmp_path / "out", {}
    for k, folder in enumerate(["one", "two", "three"]):
        images.write_image(tmp_path / folder / "field.png", grid(3 + k, 3)[0])
    both = [tmp_path / "one" / "field.png", tmp_path / "two" / "field.png"]
    run("segment", *both, "-o", out, "--weights", weights)
    run("segment", tmp_path / "three" / "field.png", "-o", out, "--weights", weights)  # a later run
    run("segment", both[0], "-o", out, "--weights", weights)  # the same image again keeps its folder
    for name in ("field", "field-2", "field-3"):
        sizes[name] = len(pd.read_csv(out / name / "grains.csv"))
    assert sizes == {"field": 9, "field-2": 12, "field-3": 15}
    assert not (out / "field-4").exists()
    assert json.loads((out / "field-2" / "run.json").read_text())["source"] == str(both[1])


def make_mistake(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_text("this is no image")
    elif kind == "empty":
        path.touch()
    elif kind == "one_pixel":
        Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    elif kind == "small":
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(path)
    elif kind == "blank":
        Image.fromarray(np.full((64, 64), 90, np.uint8)).save(path)
    elif kind == "cut_short":
        Image.fromarray((grid(4, 4)[0] * 255).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "nan":
        path = folder / "nan.tif"
        tifffile.imwrite(path, np.full((64, 64), np.nan, np.float32))
    return path  # "missing" is not created


@pytest.mark.parametrize(
    "kind", ["missing", "text", "empty", "one_pixel", "small", "blank", "cut_short", "nan"]
)
def test_a_bad_image_is_one_line_and_the_others_are_segmented(tmp_path, field, weights, kind):
    bad = make_mistake(kind, tmp_path)
    result = run("segment", bad, field, "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert str(bad) in first
    assert last == "microlab: 1 of 2 images failed"
    assert (tmp_path / "out" / "field" / "run.json").is_file()
    assert bad.name in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    alone = run("segment", bad, "-o", tmp_path / "alone", "--weights", weights)
    assert alone.exit_code == 1
    assert len(alone.stderr.splitlines()) == 1


def test_an_empty_folder_is_one_line(tmp_path, weights):
    (tmp_path / "empty").mkdir()
    result = run("segment", tmp_path / "empty", "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 1
    assert re.fullmatch(r"microlab: .*empty: the folder holds no image.*\n", result.stderr)


def test_wrong_weights_are_one_line(tmp_path, field, weights):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:-1])
    damaged.with_suffix(".json").write_text(weights.with_suffix(".json").read_text())
    without_card = tmp_path / "without_card.safetensors"
    without_card.write_bytes(weights.read_bytes())
    for wrong, reason in (
        ("nobody", "no such weights"),
        (damaged, "checksum"),
        (without_card, "has no card"),
    ):
        result = run("segment", field, "-o", tmp_path / "out", "--weights", wrong)
        assert result.exit_code == 1
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = run("segment", field, "-o", tmp_path / "out", "--weights", weights, "--device", "abacus")
    assert result.exit_code == 1
    assert re.fullmatch(r"microlab: device 'abacus'.*\n", result.stderr)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, field, weights):
    (tmp_path / "file").write_text("in the way")
    places = [tmp_path / "file", tmp_path / "file" / "below"]
    if sys.platform == "linux":
        places.append(Path("/proc/microlab"))  # closed even to root
    for place in places:
        result = run("segment", field, "-o", place, "--weights", weights)
        assert result.exit_code == 1
        assert re.fullmatch(
            r"microlab: .*(choose another|check the name|choose a folder|name a folder).*\n", result.stderr
        )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_partial_file(tmp_path, field, weights):
    # A limit of 2 kB on every file interrupts writing like a full disk.
    call = [
        sys.executable,
        "-m",
        "microlab.cli.main",
        "segment",
        field,
        "-o",
        tmp_path / "out",
        "--weights",
        weights,
    ]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2000, 2000))
    result = subprocess.run(call, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "choose another folder" in result.stderr
    left = {f.name for f in (tmp_path / "out" / "field").iterdir()}
    assert "run.json" not in left
    assert not [name for name in left if "part" in name]


def test_traceback_is_shown_on_request_only(tmp_path, weights):
    call = ["segment", tmp_path / "no.png", "-o", tmp_path / "out", "--weights", weights]
    assert "Traceback" not in run(*call).stderr
    assert "Traceback" in run("--traceback", *call).stderr
    assert "Traceback" not in run(*call).stderr


TOY = """
import numpy as np
from microlab.segment.segmenter import Segmenter

class Toy(Segmenter):
    name, card = "toy", {"trained_by": "nobody"}

    def probability(self, image, zoom=1.0, *, progress=False):
        return (image < 0.5).astype(np.float32)
"""


def test_a_new_segmenter_is_one_file_and_one_line_in_the_registry(tmp_path, field, monkeypatch):
    (tmp_path / "toy_segmenter.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REGISTRY, "toy", Method("toy_segmenter:Toy", "dark pixels are boundary"))
    result = run("segment", field, "-o", tmp_path / "out", "--method", "toy", "--views", 2)
    assert result.exit_code == 0
    assert "20 grains" in result.stdout
    record = json.loads((tmp_path / "out" / "field" / "run.json").read_text())
    assert (record["method"], record["weights"], record["grains"]) == ("toy", None, 20)
    assert record["disagreement"] == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "as the method toy segmented them: dark pixels are boundary." in page
    assert "nobody" in page


def test_a_classical_baseline_needs_no_weights(tmp_path, field):
    result = run("segment", field, "-o", tmp_path / "out", "--method", "ridge")
    assert result.exit_code == 0
    assert "20 grains" in result.stdout
    assert json.loads((tmp_path / "out" / "field" / "run.json").read_text())["weights_sha256"] is None


def test_an_internal_bug_is_shown_with_where_to_report_it(tmp_path, field, weights, monkeypatch):
    def broken(*arguments, **keywords):
        raise KeyError("pixels")

    monkeypatch.setattr(images, "write_labels", broken)
    result = run("segment", field, "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 70
    assert "KeyError: 'pixels'" in result.stderr
    assert f"this is a bug in microlab; please report it at {ISSUES}" in result.stderr.splitlines()[-1]
    assert ISSUES.removesuffix("/issues") in Path("_config.yml").read_text(encoding="utf-8")


def test_demo_scores_beside_baselines_and_says_virtual(tmp_path, weights, monkeypatch):
    small = functools.partial(samples.virtual_sample, size=192, grains=20, steps=60)
    monkeypatch.setattr(samples, "virtual_sample", small)
    result = run("demo", "-o", tmp_path / "demo", "--weights", weights)
    assert result.exit_code == 0
    assert "virtual" in result.stdout
    assert re.search(r"label +area_px +diameter_px", result.stdout)
    methods = ["U-Net", "threshold", "gradient watershed", "ridge", "ridge, our watershed", "trivial"]
    assert re.search(" +".join(methods), result.stdout)
    assert re.search(r"boundary F1, 3 px( +\d\.\d{3}){6}", result.stdout)
    assert max(map(len, result.stdout.splitlines()[1:])) <= 100
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert '<span class="kind virtual">virtual</span>' in page
    assert "trivial" in page


def test_measure_reads_what_segment_wrote(tmp_path, field, weights):
    run("segment", field, "-o", tmp_path / "out", "--weights", weights)
    truth = images.write_mask(tmp_path / "truth.png", grid(4, 5)[1])
    labels = tmp_path / "out" / "field" / "labels.tif"
    result = run("measure", labels, "--truth", truth, "-o", tmp_path / "g.csv", "--pixel-size", 0.1)
    assert result.exit_code == 0
    table = pd.read_csv(tmp_path / "g.csv")
    written = pd.read_csv(tmp_path / "out" / "field" / "grains.csv")
    np.testing.assert_array_equal(table["area_px"], written["area_px"])
    np.testing.assert_allclose(table["area_um2"], written["area_px"] * 0.01, rtol=1e-5)
    assert re.search(r"count error +0\.000", result.stdout)


def test_measure_takes_a_boundary_mask_and_counts_its_grains(tmp_path):
    mask = images.write_mask(tmp_path / "mask.png", grid(3, 4)[1])
    result = run("measure", mask, "--truth", mask)
    assert re.search(r"\ngrains +12\n", result.stdout)
    assert re.search(r"grain IoU +1\.000", result.stdout)


def test_measure_reports_mistakes_on_one_line_each(tmp_path, field):
    tifffile.imwrite(tmp_path / "none.tif", np.zeros((40, 40), np.uint16))
    good = images.write_labels(tmp_path / "good.tif", np.repeat([[1, 2]], 20, axis=1).repeat(40, axis=0))
    result = run("measure", tmp_path / "missing.tif", tmp_path / "none.tif", good)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert "2" in result.stdout
    result = run("measure", good, good.with_name("other.tif"), "--truth", good)
    assert "--truth takes one image to score, got 2" in result.stderr
    other = images.write_mask(tmp_path / "size.png", grid(4, 4)[1])
    result = run("measure", good, "--truth", other)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_simulate_builds_a_library(tmp_path):
    call = [
        "simulate",
        tmp_path / "lib",
        "-n",
        2,
        "--size",
        64,
        "--grains",
        5,
        8,
        "--steps",
        5,
        10,
        "--jobs",
        1,
    ]
    result = run(*call)
    assert result.exit_code == 0
    assert len(list((tmp_path / "lib" / "structures").iterdir())) == 2
    assert len(pd.read_csv(tmp_path / "lib" / "manifest.csv")) == 2
    refused = run(*call[:-2], "--seed", 5, "--jobs", 1)  # the folder holds another library
    assert refused.exit_code == 1
    assert len(refused.stderr.strip().splitlines()) == 1


def test_datasets_are_listed_with_licences_and_unknown_ones_refused():
    listing = run("datasets", "list")
    assert listing.exit_code == 0
    for name in DATASETS:
        assert name in listing.stdout
    assert listing.stdout.count("licence:") == len(DATASETS)
    refused = run("datasets", "fetch", "nobody")
    assert refused.exit_code == 1
    assert re.fullmatch(r"microlab: .*nobody.*choose from.*\n", refused.stderr)


def test_twins_are_an_option_of_the_methods_that_know_them(tmp_path):
    images.write_image(tmp_path / "a.png", grid(6, 6)[0])
    call = ["segment", tmp_path / "a.png", "-o", tmp_path / "out", "--scale", 2, "--twins"]
    assert run(*call, "--method", "appearances").exit_code == 0
    record = json.loads((tmp_path / "out" / "a" / "run.json").read_text())
    assert record["options"]["settings"] == {"twins": True}
    refused = run(*call, "--method", "label-free")
    assert refused.exit_code == 1
    assert "method label-free has no setting twins; leave it out" in refused.stderr
