"""Masks and label images of other programs: read right, or refused with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from pictures import save, squares
from PIL import Image
from scipy import ndimage

from microlab.data.errors import ImageError
from microlab.data.images import read_labels
from microlab.data.masks import boundary_vote, read_label_image, read_mask

GRID = squares()
LINES = GRID == 0

MASKS = {  # values where there are lines, and between them
    "255.png": np.where(LINES, 255, 0).astype(np.uint8),
    "1.png": LINES.astype(np.uint8),
    "bits.png": LINES,
    "inverted.png": np.where(LINES, 0, 255).astype(np.uint8),
    "inverted_1.png": np.where(LINES, 0, 1).astype(np.uint8),
    "inverted_bits.png": ~LINES,
    "127.png": np.where(LINES, 127, 0).astype(np.uint8),
    "128_255.png": np.where(LINES, 128, 255).astype(np.uint8),
    "16_bits.png": np.where(LINES, 255, 0).astype(np.uint16),
    "full.tif": np.where(LINES, 65535, 0).astype(np.uint16),
    "float.tif": np.where(LINES, 1.0, 0.0).astype(np.float32),
    "half.tif": np.where(LINES, 0.0, 0.5).astype(np.float32),
    "signed.tif": np.where(LINES, -1, 1).astype(np.int16),
    "grey_rgb.png": np.where(LINES, 255, 0)[..., None].repeat(3, 2).astype(np.uint8),
    "red.png": np.where(LINES[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8),
    "rgba.png": np.where(LINES[..., None], [255, 255, 0, 255], [0, 0, 90, 255]).astype(np.uint8),
}


@pytest.mark.parametrize("name", MASKS)
def test_any_two_values_are_a_mask_whose_thin_side_is_the_boundary(tmp_path, name):
    path = tmp_path / name
    tifffile.imwrite(path, MASKS[name]) if path.suffix == ".tif" else save(path, MASKS[name])
    image = read_label_image(path)
    np.testing.assert_array_equal(image.boundary, LINES)
    assert image.labels.max() == 144
    np.testing.assert_array_equal(image.labels > 0, ~LINES)
    assert bool(image.notes) == (name not in ("255.png", "16_bits.png", "grey_rgb.png"))  # the usual form
    np.testing.assert_array_equal(read_mask(path)[0], LINES)


def test_palettes_and_bits_in_tiff_are_masks_as_well(tmp_path):
    picture = Image.fromarray(LINES.astype(np.uint8), "P")
    picture.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)  # shown as black lines on white
    picture.save(tmp_path / "p.png")
    save(tmp_path / "fax.tif", LINES, compression="group4")
    tifffile.imwrite(tmp_path / "bits.tif", LINES)
    tifffile.imwrite(tmp_path / "white.tif", LINES.astype(np.uint8) * 255, photometric="miniswhite")
    for name in ("p.png", "fax.tif", "bits.tif", "white.tif"):
        np.testing.assert_array_equal(read_label_image(tmp_path / name).boundary, LINES, err_msg=name)


def test_the_boundary_can_be_named(tmp_path):
    path = save(tmp_path / "a.png", MASKS["1.png"])
    assert read_label_image(path, lines="bright").labels.max() == 144
    np.testing.assert_array_equal(read_label_image(path, lines="dark").boundary, ~LINES)
    with pytest.raises(ImageError, match="lines must be one of"):
        read_label_image(path, lines="thin")


def test_what_structure_does_not_tell_is_asked_for_or_follows_the_usual_form_and_is_said(tmp_path):
    halves = np.zeros((60, 80), np.uint8)
    halves[:, 40:] = 7
    with pytest.raises(ImageError, match=r"values 0 and 7, and which .* --lines bright"):
        read_label_image(save(tmp_path / "a.png", halves))
    image = read_label_image(save(tmp_path / "b.png", halves // 7 * 255))
    assert any("does not show which is the boundary: 255 is taken" in note for note in image.notes)
    assert image.labels.max() == 1


@pytest.mark.parametrize("gap", [0, 9])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_lines_are_recognised_thin_thick_and_with_gaps(gap, width):
    lines = squares(8, 20, width) == 0
    for k in range(8):
        place = width + k * (20 + width) + 6
        lines[place : place + gap] = False  # a gap in every line from top to bottom: the grains are bands
    assert boundary_vote(lines) > 0
    assert boundary_vote(~lines) < 0


def test_separate_particles_are_the_grains(tmp_path):
    y, x = np.indices((200, 200)) % 40 - 20
    discs = y**2 + x**2 < 15**2
    image = read_label_image(save(tmp_path / "a.png", discs.astype(np.uint8)))
    assert image.labels.max() == 25


def test_fine_grains_are_counted_like_in_a_label_image(tmp_path):
    """882 squares of 25 px and 72 of 484 px; a fixed least area would lose the former without a word."""
    labels = np.zeros((300, 300), np.uint16)
    number = 0
    for y in range(2, 148, 7):
        for x in range(2, 296, 7):
            number += 1
            labels[y : y + 5, x : x + 5] = number
    for y in range(152, 276, 24):
        for x in range(2, 276, 24):
            number += 1
            labels[y : y + 22, x : x + 22] = number
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    mask = read_label_image(save(tmp_path / "mask.png", ((labels == 0) * 255).astype(np.uint8)))
    expected = read_label_image(tmp_path / "labels.tif")
    assert expected.labels.max() == mask.labels.max() == number
    np.testing.assert_array_equal(
        np.sort(np.bincount(mask.labels.ravel())), np.sort(np.bincount(labels.ravel()))
    )
    specks = (LINES * 255).astype(np.uint8)
    specks[12, 12:15] = specks[10, 12:15] = specks[11, 11] = specks[11, 15] = 255  # a ring of 3 px inside
    notes = read_label_image(save(tmp_path / "specks.png", specks)).notes
    assert notes == ("1 of the 145 regions have fewer than 10 pixels, and are counted",)


# --- labels ----------------------------------------------------------------------------------------------


def test_labels_are_read_as_they_are(tmp_path):
    for name, values in {
        "a.tif": GRID,
        "b.tif": GRID.astype(np.float32),
        "c.tif": GRID.astype(np.uint32) * 1000,
        "d.png": GRID,
    }.items():
        tifffile.imwrite(tmp_path / name, values) if name.endswith("tif") else save(tmp_path / name, values)
        image = read_label_image(tmp_path / name)
        np.testing.assert_array_equal(image.labels, values)
        np.testing.assert_array_equal(image.boundary, LINES)  # lines of 0 are as wide as they are drawn
        assert image.notes == ()


def test_grains_that_fill_the_image_have_lines_of_one_pixel_in_each(tmp_path):
    labels = np.ones((40, 60), np.uint16)
    labels[:, 30:] = 2
    tifffile.imwrite(tmp_path / "a.tif", labels)
    image = read_label_image(tmp_path / "a.tif")
    assert image.labels.max() == 2
    np.testing.assert_array_equal(np.flatnonzero(image.boundary[0]), [29, 30])
    tifffile.imwrite(tmp_path / "one.tif", np.ones((40, 60), np.uint16))
    assert read_label_image(tmp_path / "one.tif").labels.max() == 1


def test_stray_pixels_of_a_label_are_left_out_and_said(tmp_path):
    clean = GRID.copy()
    clean[4 * 22 + 2 : 7 * 22, 4 * 22 + 2 : 7 * 22] = GRID[120, 120]
    stray = clean.copy()
    stray[23, 23] = stray[243, 243] = GRID[120, 120]
    tifffile.imwrite(tmp_path / "a.tif", stray)
    image = read_label_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.labels, clean)
    assert len(image.notes) == 1
    assert f"label {GRID[120, 120]} in several pieces: 2 of fewer than a tenth" in image.notes[0]


def test_a_label_in_two_large_pieces_is_two_grains(tmp_path):
    labels = GRID.copy()
    labels[labels == 100] = 1
    tifffile.imwrite(tmp_path / "a.tif", labels)
    image = read_label_image(tmp_path / "a.tif")
    assert len(np.unique(image.labels)) == 145
    assert (image.labels == 145).sum() == 400
    assert image.notes == ("label 1 in several pieces: 1 became grains of their own, numbered from 145",)
    touching = np.zeros((40, 40), np.uint16)  # pieces that meet at a corner are one
    touching[5:15, 5:15], touching[15:25, 15:25], touching[30:35, 30:35], touching[2:4, 30:39] = 1, 1, 2, 3
    tifffile.imwrite(tmp_path / "b.tif", touching)
    np.testing.assert_array_equal(read_label_image(tmp_path / "b.tif").labels, touching)


REFUSED = {
    "lines.jpg": ((LINES * 255).astype(np.uint8), "JPEG blurs"),
    "colours.png": (
        np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8),
        "is a colour picture",
    ),
    "micrograph.png": (
        np.random.default_rng(0).integers(90, 200, (80, 80)).astype(np.uint8),
        "it is a picture",
    ),
    "classes.tif": (np.random.default_rng(0).integers(0, 3, (80, 80)).astype(np.uint8), "a map of classes"),
    "three.png": (np.where(LINES, 255, np.where(GRID == 9, 127, 0)).astype(np.uint8), "many regions of 0"),
    "probability.tif": (np.random.default_rng(0).random((40, 40)).astype(np.float32), "whole numbers"),
    "negative.tif": (np.where(LINES, -1, GRID.astype(np.int32)), "must lie in 0"),
    "wrapped.tif": (np.where(LINES, 65535, GRID).astype(np.uint16), "label 65535 forms the lines"),
    "nan.tif": (np.where(LINES, np.nan, GRID).astype(np.float32), "NaN"),
    "black.png": (np.zeros((40, 40), np.uint8), "the value 0 everywhere"),
    "white.png": (np.full((40, 40), 255, np.uint8), "the value 255 everywhere"),
    "bits.png": (np.ones((40, 40), bool), "everywhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mask_and_no_label_image_is_refused_in_one_line(tmp_path, name):
    values, words = REFUSED[name]
    path = tmp_path / name
    tifffile.imwrite(path, values) if path.suffix == ".tif" else save(path, values)
    with pytest.raises(ImageError, match=words) as error:
        read_label_image(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_a_smoothed_mask_is_refused(tmp_path):
    smooth = np.rint(ndimage.gaussian_filter(LINES * 255.0, 0.7)).astype(np.uint8)
    with pytest.raises(ImageError, match="not smoothed"):
        read_label_image(save(tmp_path / "a.png", smooth))


def test_a_lossy_file_is_known_by_its_content(tmp_path):
    lines = (LINES * 255).astype(np.uint8)
    save(tmp_path / "a.png", lines, format="JPEG")
    save(tmp_path / "b.tif", lines, compression="jpeg")
    save(tmp_path / "c.webp", lines[..., None].repeat(3, 2))
    for name in ("a.png", "b.tif", "c.webp"):
        for read in (read_label_image, read_labels, read_mask):
            with pytest.raises(ImageError, match="JPEG blurs"):
                read(tmp_path / name)
    save(tmp_path / "d.webp", lines[..., None].repeat(3, 2), lossless=True)
    assert read_label_image(tmp_path / "d.webp").labels.max() == 144


def test_a_truth_without_boundary_has_none(tmp_path):
    assert not read_mask(save(tmp_path / "a.png", np.zeros((40, 40), np.uint8)))[0].any()
