"""Files as microscopes and people make them, given to the commands."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from command_line import run
from dark_lines import grid, save_network
from pictures import polycrystal, save, squares, tagged, text_tag

from microlab.data import images
from microlab.measure.labels import components
from microlab.pipelines.image_results import Options
from microlab.pipelines.segment_folder import segment_folder

GRID = squares()
LINES = GRID == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


def grains(result):
    """Number of grains that `measure` prints."""
    return int(re.search(r"^grains +(\d+)", result.stdout, re.MULTILINE)[1])


def value(result, name):
    return re.search(rf"^{name} +(\S+ \S+)", result.stdout, re.MULTILINE)[1]


# --- measure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["0/255", "0/1", "1 bit", "inverted"])
def test_measure_counts_the_grains_of_masks_of_any_values(tmp_path, kind):
    values = {
        "0/255": (LINES * 255).astype(np.uint8),
        "0/1": LINES.astype(np.uint8),
        "1 bit": LINES,
        "inverted": (~LINES * 255).astype(np.uint8),
    }[kind]
    result = run("measure", save(tmp_path / "a.png", values))
    assert result.exit_code == 0
    assert grains(result) == 144
    assert value(result, "mean diameter") == "22.6 px"
    assert ("by its structure" in result.stderr) == (kind != "0/255")


def test_measure_refuses_a_jpeg_and_goes_on_with_the_others(tmp_path):
    jpeg = save(tmp_path / "a.jpg", (LINES * 255).astype(np.uint8), quality=90)
    png = save(tmp_path / "b.png", (LINES * 255).astype(np.uint8))
    result = run("measure", jpeg, png)
    assert result.exit_code == 1
    assert grains(result) == 144
    assert re.fullmatch(r"microlab: .*a\.jpg: JPEG blurs .* PNG or TIFF\n", result.stderr)


def test_measure_takes_truth_and_labels_in_the_same_ways(tmp_path):
    """A perfect prediction has a perfect score, whatever the form of the truth."""
    labels = tmp_path / "labels.tif"
    tifffile.imwrite(labels, GRID)
    truths = {
        "lines.png": (LINES * 255).astype(np.uint8),
        "ones.png": LINES.astype(np.uint8),
        "bits.png": LINES,
        "deep.png": (LINES * 255).astype(np.uint16),
        "inverted.png": (~LINES * 127).astype(np.uint8),
    }
    for name, values in truths.items():
        result = run("measure", labels, "--truth", save(tmp_path / name, values))
        assert result.exit_code == 0
        assert re.search(r"grain IoU +1\.000", result.stdout), name
        assert re.search(r"boundary F1, 2 px +1\.000", result.stdout), name
    assert re.search(r"grain IoU +1\.000", run("measure", labels, "--truth", labels).stdout)


def test_stray_pixels_do_not_change_the_mean(tmp_path):
    labels = GRID.copy()
    labels[4 * 22 + 2 : 7 * 22, 4 * 22 + 2 : 7 * 22] = GRID[120, 120]
    tifffile.imwrite(tmp_path / "clean.tif", labels)
    labels[23, 23] = labels[243, 243] = GRID[120, 120]
    tifffile.imwrite(tmp_path / "stray.tif", labels)
    clean, stray = (run("measure", tmp_path / f"{name}.tif") for name in ("clean", "stray"))
    assert value(stray, "mean diameter") == value(clean, "mean diameter") == "23.4 px"
    assert "in several pieces" in stray.stderr
    assert clean.stderr == ""


def test_the_source_of_the_pixel_size_is_printed(tmp_path):
    how = {"imagej": True, "metadata": {"unit": "um"}}
    tifffile.imwrite(tmp_path / "a.tif", GRID, resolution=(10, 10), **how)
    result = run("measure", tmp_path / "a.tif")
    assert value(result, "mean area") == "4 µm²"
    assert re.search(r"^pixel size +0\.1 µm \(ImageJ\)$", result.stdout, re.MULTILINE)
    given = run("measure", tmp_path / "a.tif", "--pixel-size", 0.2)
    assert re.search(r"^pixel size +0\.2 µm \(given\)$", given.stdout, re.MULTILINE)
    tifffile.imwrite(tmp_path / "b.tif", GRID, resolution=(10, 5), **how)
    result = run("measure", tmp_path / "b.tif")
    assert value(result, "mean area") == "400 px²"
    assert "not square" in result.stderr


def test_a_page_of_labels_is_measured_or_each(tmp_path):
    half = np.where(GRID <= 72, GRID, 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GRID, half]), photometric="minisblack")
    assert "choose one with --page 0 to 1" in run("measure", tmp_path / "a.tif").stderr
    assert grains(run("measure", tmp_path / "a.tif", "--page", 1)) == 72
    both = run("measure", tmp_path / "a.tif", "--page", "all", "-o", tmp_path / "grains.csv")
    assert "a.tif, page 1\n" in both.stdout
    table = pd.read_csv(tmp_path / "grains.csv")
    assert table.groupby("image").size().tolist() == [144, 72]


@pytest.mark.parametrize(("size", "words"), [(100.0, "over 1 mm"), (1e-6, "under 1 nm")])
def test_a_pixel_size_that_makes_absurd_grains_is_questioned(tmp_path, weights, size, words):
    tifffile.imwrite(tmp_path / "a.tif", GRID)
    result = run("measure", tmp_path / "a.tif", "--pixel-size", size)
    assert result.exit_code == 0
    assert words in result.stderr
    field = images.write_image(tmp_path / "field.png", grid(3, 4)[0])
    out = tmp_path / "out"
    result = run("segment", field, "-o", out, "--weights", weights, "--pixel-size", size)
    assert f"WARNING: {field}: With the pixel size" in result.stderr
    assert words in json.loads((out / "field" / "run.json").read_text())["warnings"][0]


# --- segment ---------------------------------------------------------------------------------------------


def test_the_source_of_the_pixel_size_is_in_terminal_report_and_run(tmp_path, weights):
    text = "PixelSizeX=5e-8\nPixelSizeY=5e-8\n"
    values = np.rint(grid(4, 5)[0] * 255).astype(np.uint8)
    path = tagged(tmp_path / "a.tif", values, [text_tag(50431, text)])
    result = run("segment", path, "-o", tmp_path / "out", "--weights", weights)
    assert "pixel size 50 nm (Tescan tag)" in result.stdout
    assert json.loads((tmp_path / "out/a/run.json").read_text())["pixel_size_source"] == "Tescan tag"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The pixel size is 50 nm (Tescan tag)." in page


def test_every_page_of_a_stack_is_an_image(tmp_path, weights):
    stack = np.stack([np.rint(grid(4, 5)[0] * 255), np.rint(grid(4, 5)[0][::-1] * 255)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "z.tif", stack, photometric="minisblack")
    alone = images.write_image(tmp_path / "alone.png", grid(3, 3)[0])
    out = tmp_path / "out"
    result = run("segment", tmp_path / "z.tif", alone, "-o", out, "--weights", weights, "--page", "all")
    assert result.exit_code == 0
    names = sorted(folder.name for folder in out.iterdir() if folder.is_dir())
    assert names == ["alone", "z-page0", "z-page1"]
    pages = [tifffile.imread(out / name / "labels.tif") for name in names[1:]]
    np.testing.assert_array_equal(pages[0] > 0, pages[1][::-1] > 0)


def test_folders_inside_are_taken_on_request_and_results_never(tmp_path, weights):
    for name in ("a.png", "in/b.png", "in/a.png"):
        images.write_image(tmp_path / "fields" / name, grid(3, 3)[0])
    (tmp_path / "fields" / "c.jp2").touch()
    call = ["segment", tmp_path / "fields", "-o", tmp_path / "fields" / "results", "--weights", weights]
    result = run(*call)
    assert "1 folder inside left out; --recursive" in result.stderr
    assert "c.jp2" in result.stderr
    assert run(*call, "--recursive").exit_code == 0
    again = run(*call, "--recursive")
    folders = sorted(f.name for f in (tmp_path / "fields" / "results").iterdir() if f.is_dir())
    assert folders == ["a", "a-2", "b"]
    assert again.stdout.count(" grains, ") == 3


def test_a_part_of_an_image_is_segmented_alone(tmp_path, weights):
    field = images.write_image(tmp_path / "field.png", grid(4, 5)[0])
    width, height = 60, 48
    call = ["segment", field, "-o", tmp_path / "out", "--weights", weights]
    assert run(*call, "--crop", f"24,24,{width},{height}").exit_code == 0
    assert tifffile.imread(tmp_path / "out" / "field" / "labels.tif").shape == (height, width)
    result = run(*call, "--crop", "0,0,9999,40")
    assert result.exit_code == 1
    assert "a crop of 9999 x 40" in result.stderr
    for wrong in ("1,2,3", "a,b,c,d", "-1,0,40,40", "1.5,0,40,40"):
        assert run(*call, "--crop", wrong).exit_code == 2


def test_too_large_an_image_is_refused_by_its_header_unless_the_limit_is_raised(tmp_path, weights):
    field = images.write_image(tmp_path / "field.png", grid(4, 5)[0])
    call = ["segment", field, "-o", tmp_path / "out", "--weights", weights, "--max-megapixels"]
    result = run(*call, 0.001)
    assert result.exit_code == 1
    assert re.fullmatch(
        r"microlab: .*by its header, more than 0\.001 million.*--max-megapixels\)\n", result.stderr
    )
    assert run(*call, 0.1).exit_code == 0
    assert run(*call, 0).exit_code == 2
    mask = save(tmp_path / "mask.png", (LINES * 255).astype(np.uint8))
    assert "--max-megapixels" in run("measure", mask, "--max-megapixels", 0.01).stderr


def test_pixels_without_a_value_belong_to_no_grain(tmp_path, weights):
    values = (grid(4, 5)[0] * 200).astype(np.float32)
    values[:24] = -9999
    tifffile.imwrite(tmp_path / "a.tif", values)
    result = run("segment", tmp_path / "a.tif", "-o", tmp_path / "out", "--weights", weights)
    assert result.exit_code == 0
    assert f"{24 * values.shape[1]} pixels are -9999" in result.stderr
    labels = tifffile.imread(tmp_path / "out" / "a" / "labels.tif")
    assert not labels[:24].any()
    assert labels[24:].max() == 15
    assert pd.read_csv(tmp_path / "out" / "a" / "grains.csv")["area_px"].sum() == (labels > 0).sum()


@pytest.mark.slow
def test_one_picture_in_seven_files_gives_the_same_grains(tmp_path):
    """With the shipped network: counts, with hot pixels, in ink, with a strip without values."""
    picture, lines = polycrystal()
    grey = np.rint(picture * 255).astype(np.uint8)
    counts = (picture * 60).astype(np.uint16)
    files = {"ref.png": grey, "counts.tif": counts, "range.tif": (picture * 5000).astype(np.uint16)}
    hot = counts.copy()
    hot[100, 100] = hot[200, 50] = hot[30, 300] = 65535
    one = (picture * 200).astype(np.float32)
    strip = one.copy()
    one[100, 100], strip[:20] = 1e6, -9999
    files |= {"hot.tif": hot, "one.tif": one, "strip.tif": strip}
    for name, values in files.items():
        save(tmp_path / name, values) if name.endswith("png") else tifffile.imwrite(tmp_path / name, values)
    ink = np.dstack([255 - grey] * 3 + [np.zeros_like(grey)])
    tifffile.imwrite(tmp_path / "ink.tif", ink, photometric="separated")
    result = segment_folder([tmp_path], tmp_path / "out", method="appearances", options=Options(zoom=1.0))
    assert not result.failed
    count = {image.file.name: image.summary["grains"] for image in result.images}
    truth = count["ref.png"]
    drawn = components(lines, min_area=30).max()
    assert abs(truth - drawn) < 0.12 * drawn
    for name in ("counts.tif", "range.tif", "hot.tif", "one.tif", "ink.tif"):
        assert abs(count[name] - truth) <= 2, name  # counts of 60 levels are coarser
    assert 0.85 * truth < count["strip.tif"] <= truth
    said = {image.file.name: " ".join(image.notes) for image in result.images}
    assert "3 pixels" in said["hot.tif"]
    assert "1 pixel is" in said["one.tif"]
    assert "-9999" in said["strip.tif"]
