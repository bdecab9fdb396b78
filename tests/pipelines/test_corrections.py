"""Corrections of grains: what the page is given, and what `measure --edits` makes of its file."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from dark_lines import grid, save_network
from PIL import Image
from voronoi_labels import voronoi_labels

from microlab.data import images
from microlab.data.edits import Edit, Edits, apply_edits, labels_sha256, read_edits, write_edits
from microlab.data.files import MARK, safe_name
from microlab.measure.grains import grain_table
from microlab.pipelines import corrections, report

SQUARES = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((20, 20), int)).astype(np.int32)
DELETE = Edit("delete", ((50, 50),))
MERGE = Edit("merge", ((30, 30), (30, 50)))  # grains 7 and 8, both whole


@pytest.fixture
def squares(tmp_path) -> tuple[Path, Path]:
    """Twenty-five squares as labels.tif, and a file of edits that merges two of them."""
    labels = images.write_labels(tmp_path / "labels.tif", SQUARES, pixel_size=0.5)
    edits = Edits(labels_sha256(SQUARES), SQUARES.shape, (MERGE,))
    return labels, write_edits(tmp_path / "edits.json", edits)


def test_measure_makes_the_edits_and_writes_what_comes_out(tmp_path, squares):
    labels, edits = squares
    result = run("measure", labels, "--edits", edits, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert re.search(r"\ngrains +24\n", result.stdout)
    table = pd.read_csv(tmp_path / "out" / "grains.csv")
    assert table.set_index("label")["area_um2"][7] == pytest.approx(2 * 20 * 20 * 0.25)
    assert 8 not in table["label"].to_numpy()
    written, pixel_size = images.read_labels(tmp_path / "out" / "labels.tif")
    np.testing.assert_array_equal(written, np.where(SQUARES == 8, 7, SQUARES))
    assert pixel_size == pytest.approx(0.5)
    assert read_edits(tmp_path / "out" / "edits.json") == read_edits(edits)
    names = {file.name for file in (tmp_path / "out").iterdir()} - {MARK}
    assert names == {"labels.tif", "grains.csv", "summary.csv", "edits.json"}
    again = run("measure", tmp_path / "out" / "labels.tif")
    assert again.stdout.split("\n", 1)[1] in result.stdout, "the written labels measure as the page said"


def test_measure_with_edits_also_writes_a_table_alone(tmp_path, squares):
    assert run("measure", squares[0], "--edits", squares[1], "-o", tmp_path / "g.csv").exit_code == 0
    assert len(pd.read_csv(tmp_path / "g.csv")) == 24


def test_no_file_is_replaced(tmp_path, squares):
    labels, edits = squares
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for out, named in ((tmp_path, labels), (edits, edits), (labels, labels)):
        result = run("measure", labels, "--edits", edits, "-o", out)
        assert result.exit_code == 1
        assert re.fullmatch(rf"microlab: {named}: is an input; name another .*\n", result.stderr)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_corrected_labels_are_not_corrected_into_their_own_folder(tmp_path, squares):
    """Their edits were made on the labels before; those would be lost."""
    out = tmp_path / "out"
    assert run("measure", *squares[:1], "--edits", squares[1], "-o", out).exit_code == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    labels = images.read_labels(out / "labels.tif")[0]
    again = write_edits(tmp_path / "again.json", Edits(labels_sha256(labels), labels.shape, (DELETE,)))
    for call in ((out / "labels.tif", "--edits", again), (squares[0], "--edits", out / "edits.json")):
        result = run("measure", *call, "-o", out)
        assert result.exit_code == 1
        assert re.fullmatch(
            rf"microlab: {out}/(labels.tif|edits.json): is an input; name another.*\n", result.stderr
        )
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    assert run("measure", out / "labels.tif", "--edits", again, "-o", tmp_path / "more").exit_code == 0
    assert len(pd.read_csv(tmp_path / "more" / "grains.csv")) == 23


def test_the_edits_of_a_result_keep_the_source_of_its_pixel_size(tmp_path, weights):
    field = images.write_image(tmp_path / "field.png", grid(4, 5)[0])
    out = tmp_path / "out"
    assert run("segment", field, "-o", out, "--weights", weights, "--pixel-size", 0.5).exit_code == 0
    path = out / "field" / "labels.tif"
    labels = images.read_labels(path)[0]
    edits = Edits(labels_sha256(labels), labels.shape, (Edit("delete", ((48, 60),)),))
    result = run("measure", path, "--edits", write_edits(tmp_path / "edits.json", edits))
    assert re.search(r"pixel size +0\.5 µm \(given\)", result.stdout)


def test_edits_of_another_image_are_one_line_and_write_nothing(tmp_path, squares):
    other = images.write_labels(tmp_path / "other.tif", SQUARES[::-1])
    result = run("measure", other, "--edits", squares[1], "-o", tmp_path / "out")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(squares[1]) in line
    assert f"belong to another label image (100 x 100 px, sha256 {labels_sha256(SQUARES)[:12]}" in line
    assert "give the labels.tif that they were made on" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", '{"edits": []}', "\x00"])
def test_a_file_that_holds_no_edits_is_one_line(tmp_path, squares, text):
    squares[1].write_text(text)
    result = run("measure", squares[0], "--edits", squares[1])
    assert result.exit_code == 1
    assert re.fullmatch(rf"microlab: {squares[1]}: is no file of edits.*\n", result.stderr)


def test_an_edit_that_cannot_be_made_is_one_line(tmp_path, squares):
    edits = Edits(labels_sha256(SQUARES), SQUARES.shape, (MERGE, MERGE))
    write_edits(squares[1], edits)
    result = run("measure", squares[0], "--edits", squares[1])
    assert result.exit_code == 1
    assert re.fullmatch(r"microlab: .*edits.json: edit 2: both pixels lie in grain 7.*\n", result.stderr)
    every = tuple(Edit("delete", ((10 + 20 * k, 10 + 20 * j),)) for k in range(5) for j in range(5))
    write_edits(squares[1], Edits(edits.sha256, edits.shape, every))
    result = run("measure", squares[0], "--edits", squares[1])
    assert re.fullmatch(r"microlab: .*edits.json: no grain of .*labels.tif is left.*\n", result.stderr)


def test_several_label_images_do_not_share_edits(squares):
    labels, edits = squares
    images.write_labels(labels.with_name("other.tif"), SQUARES)
    result = run("measure", labels, labels.with_name("other.tif"), "--edits", edits)
    assert result.exit_code == 1
    assert "--edits takes one image to correct, got 2" in result.stderr


def test_the_field_of_view_stays_known(tmp_path):
    """Grains that the edge of the field cuts count as cut, as when the image was segmented."""
    labels = np.where(np.arange(100)[:, None] < 30, 0, SQUARES).astype(np.int32)
    path = images.write_labels(tmp_path / "labels.tif", labels)
    edits = Edits(labels_sha256(labels), labels.shape, (Edit("merge", ((50, 30), (50, 50))),), True)
    result = corrections.measure_corrected(path, write_edits(tmp_path / "edits.json", edits))
    assert not result.table.set_index("label")["touches_edge"][12]
    assert result.table.set_index("label")["touches_edge"][7], "cut by the field's edge"
    expected = grain_table(apply_edits(labels, edits.edits), valid=labels > 0)
    pd.testing.assert_frame_equal(result.table, expected)
    assert ("cut by the field's edge", "14 grains") in result.summary


def unpacked(text: str, width: int) -> np.ndarray:
    """As the page unpacks labels, in numpy."""
    rows = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").reshape(-1, width)
    return np.bitwise_xor.accumulate(rows, axis=0)


def test_labels_travel_exactly_and_compactly():
    labels = voronoi_labels((1000, 1000), 1000)
    labels[0, :3] = [2**31 - 1, 0, 70_000]
    text = corrections.pack_labels(labels)
    np.testing.assert_array_equal(unpacked(text, 1000), labels)
    assert len(text) < 150_000, "a thousand grains in a megapixel fit into 150 kB"


def test_the_picture_keeps_its_contrast_whatever_a_few_pixels_say():
    image = grid(5, 5)[0] * 0.01
    image[0, 0] = 1.0
    data = corrections.page_data(np.ones(image.shape, np.int32), image)
    picture = Image.open(io.BytesIO(base64.b64decode(data["picture"].partition(",")[2])))
    assert picture.size == image.shape[::-1]
    assert np.ptp(np.percentile(picture, [5, 95])) > 150


class Scripts(HTMLParser):
    """Texts of the scripts of a page, by their type."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "script":
            self._open = dict(attributes)["type"]
            self.texts.setdefault(self._open, []).append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, text):
        if self._open:
            self.texts[self._open][-1] += text


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


def segmented(folder: Path, weights: Path, *names: str) -> tuple[str, list[dict]]:
    """The report about images of these names, and what it holds of each for its correction."""
    files = [images.write_image(folder / f"{name}.png", grid(4, 5)[0]) for name in names]
    assert run("segment", *files, "-o", folder / "out", "--weights", weights).exit_code == 0
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    return page, [json.loads(text) for text in Scripts(page).texts.get("application/json", [])]


def test_the_report_holds_the_labels_of_every_image_and_one_script(tmp_path, weights):
    page, data = segmented(tmp_path, weights, "<!--<script><b>", "-o b")
    assert len(Scripts(page).texts["module"]) == 1
    assert "<b>" not in page
    assert not re.search(r"https?://", corrections.script())
    assert len(page) < 600_000
    for one, name in zip(data, (safe_name("<!--<script><b>"), "-o b")):
        labels = images.read_labels(tmp_path / "out" / name / "labels.tif")[0]
        np.testing.assert_array_equal(unpacked(one["labels"], one["width"]), labels)
        assert one["sha256"] == labels_sha256(labels)
        assert one["file"] == f"{name}.edits.json"
    assert "microlab measure './-o b/labels.tif' --edits './-o b.edits.json'" in data[1]["command"]


def test_a_single_image_saves_edits_json(tmp_path, weights):
    _, (data,) = segmented(tmp_path, weights, "field")
    assert data["file"] == "edits.json"
    assert data["command"] == "microlab measure field/labels.tif --edits edits.json -o corrected"


def test_images_too_large_for_the_page_say_so(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(corrections, "MOST_PIXELS", 96 * 120 - 1)
    page, data = segmented(tmp_path, weights, "field")
    assert data == []
    assert "120 x 96 pixels are too many to correct the grains on this page: correct labels.tif with" in page
    assert 'type="module"' not in page


def test_a_page_that_is_full_says_so(tmp_path, weights, monkeypatch):
    (tmp_path / "one").mkdir()
    _, (data,) = segmented(tmp_path / "one", weights, "a")
    monkeypatch.setattr(report, "MOST_CORRECTIONS", 2 * (len(data["labels"]) + len(data["picture"])))
    page, data = segmented(tmp_path, weights, "a", "b", "c")
    assert [one["name"] for one in data] == ["a", "b"]
    assert page.count("has no room for more images to correct") == 1
