"""`microlab segment` on large images: the same grains, in tiled files, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from dark_lines import grid, save_network

from microlab.data import images, mapped
from microlab.data.errors import ImageError
from microlab.data.files import MARK
from microlab.data.masks import read_mask
from microlab.pipelines import image_results
from microlab.pipelines.image_results import Options, segment_file
from microlab.pipelines.segment_folder import segment_folder
from microlab.render import sem
from microlab.segment import blocks
from microlab.segment.registry import load_segmenter
from microlab.simulate import voronoi


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Everything above 10 000 px is large."""
    monkeypatch.setattr(mapped, "LARGE", 10_000)
    monkeypatch.setattr(blocks, "BLOCK", 130)
    monkeypatch.setattr(blocks, "HALO", 60)
    monkeypatch.setattr(image_results, "MEASURED_BLOCK", 90)


def write_field(path: Path) -> Path:
    """A virtual micrograph of about 150 grains."""
    shape = (264, 360)
    seeds = voronoi.random_seeds(150, shape, np.random.default_rng(0))
    image = sem.render(voronoi.tessellate(seeds, shape), sem.Microscope(), seed=0)
    return images.write_image(path, image, pixel_size=0.5)


def test_a_large_image_has_the_grains_of_a_small_one(weights, tmp_path, request):
    field = write_field(tmp_path / "field.tif")
    (whole,) = segment_folder([field], tmp_path / "whole", weights=weights).images
    request.getfixturevalue("small_blocks")
    (by_blocks,) = segment_folder([field], tmp_path / "blocks", weights=weights).images
    (one, _), (other, _) = (images.read_labels(result.folder / "labels.tif") for result in (by_blocks, whole))
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    assert pairs.shape[1] == one.max() == other.max() > 100
    # Tables and numbers: the rows in the order of the other labels, everything else equal as printed.
    table, expected = (pd.read_csv(result.folder / "grains.csv") for result in (by_blocks, whole))
    table["label"] = pairs[1][table["label"] - 1]
    table = table.sort_values("label", ignore_index=True)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=2e-6)  # six digits are written
    assert by_blocks.line == whole.line
    numbers, expected = (dict(result.section["numbers"]["rows"]) for result in (by_blocks, whole))
    interval = "95 % interval of the mean diameter"  # bootstrapped, so it depends on the order of the grains
    assert numbers | {interval: ""} == expected | {interval: ""}
    mask, _ = read_mask(by_blocks.folder / "mask.tif")
    np.testing.assert_array_equal(mask, read_mask(whole.folder / "mask.png")[0])


def test_files_are_tiled_the_notes_say_so_and_temporary_files_are_removed(
    weights, tmp_path, small_blocks, monkeypatch
):
    monkeypatch.setattr(image_results, "OVERLAY_SIDE", 100)
    out = tmp_path / "out"
    (result,) = segment_folder([write_field(tmp_path / "field.tif")], out, weights=weights).images
    shown = {f.name for f in out.iterdir() if not f.name.startswith(".")}
    assert shown == {"field", "grains.csv", "report.html", "summary.csv"}
    assert {f.name for f in result.folder.iterdir()} - {MARK} == {
        "mask.tif",
        "labels.tif",
        "grains.csv",
        "overlay.png",
        "run.json",
    }
    with tifffile.TiffFile(result.folder / "labels.tif") as tif:
        assert tif.is_bigtiff
        assert tif.pages[0].is_tiled
    assert images.read_image(result.folder / "overlay.png").shape == (66, 90)  # a quarter of 264 x 360
    notes = json.loads((result.folder / "run.json").read_text())["notes"]
    assert any("2 x 2 blocks" in note for note in notes)
    assert any("reduced 4 times" in note for note in notes)


def test_a_failing_large_image_leaves_nothing(weights, tmp_path, small_blocks):
    images.write_image(tmp_path / "blank.tif", np.full((200, 200), 0.5))
    with pytest.raises(ImageError, match="same grey everywhere"):
        segment_file(tmp_path / "blank.tif", tmp_path / "out" / "blank", load_segmenter(weights=weights))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("method", "views", "advice"),
    [("ridge", 0, "take method auto"), ("label-free", 2, "leave it out")],
)
def test_methods_that_need_the_whole_image_refuse_the_largest_in_one_line(
    tmp_path, monkeypatch, method, views, advice
):
    monkeypatch.setattr(mapped, "LARGE", 10_000)
    monkeypatch.setattr(image_results, "MOST_WHOLE", 50_000)
    field = write_field(tmp_path / "field.tif")
    with pytest.raises(ImageError, match="360 x 264 pixels") as error:
        segment_file(field, tmp_path / "out" / "field", load_segmenter(method), Options(views=views))
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


MEASURED = """
import resource, sys
from microlab.cli.main import main
from microlab.data import mapped
from microlab.measure import grain_size
from microlab.pipelines import image_results
from microlab.segment import blocks
mapped.LARGE = 100_000
mapped.BAND = grain_size.BAND = 250_000
blocks.BLOCK = image_results.MEASURED_BLOCK = 512
blocks.HALO = 64
image, out, weights = sys.argv[1:]
main(["segment", image, "-o", out, "--weights", weights, "--scale", "1"], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_memory_grows_by_less_than_eight_bytes_a_pixel(weights, tmp_path):
    """Blocks are as large in both images, so that only what grows with the image grows.

    400 million pixels in 4 GB leave 8 bytes a pixel beside 0.8 GB for the libraries, the network and a block.
    """
    peaks = []
    tile = grid(20, 20)[0]  # 480 px
    for side in (1024, 2560):
        field = tmp_path / f"{side}.tif"
        levels = np.rint(255 * np.tile(tile, (6, 6))).astype(np.uint8)[:side, :side]
        tifffile.imwrite(field, levels)
        command = [sys.executable, "-c", MEASURED, field, tmp_path / "out", weights]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(1024 * int(run.stdout.splitlines()[-1]))
    assert (peaks[1] - peaks[0]) / (2560**2 - 1024**2) < 8
