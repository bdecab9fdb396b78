"""Hot pixels, legends and numbers for "no value": they do not change the picture, and they are said."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from pictures import polycrystal

from microlab.data.contrast import find_range
from microlab.data.errors import ImageError
from microlab.data.images import read_image

PICTURE, LINES = polycrystal(200, 40)


def read(path, values, **options):
    """The image of a TIFF of some values, and what was said about it."""
    tifffile.imwrite(path, values, metadata=None, **options)
    with pytest.warns(UserWarning, match="pixel") as said:
        micrograph = read_image(path)  # with a search for data bars, which a strip without values is not
    assert micrograph.data_bar_height == micrograph.data_bar_top == 0
    return micrograph, " ".join(str(one.message) for one in said)


def correlation(image, pixels=slice(None)):
    """Of an image with the picture; 1 if one is the other in another contrast."""
    return np.corrcoef(image[pixels].ravel(), PICTURE[pixels].ravel())[0, 1]


@pytest.mark.parametrize(
    ("dtype", "scale", "hot"), [(np.uint16, 60, 65535), (np.float32, 200, 1e6), (np.int16, 90, -9e3)]
)
@pytest.mark.parametrize("number", [1, 3, 60])
def test_hot_pixels_do_not_decide_the_contrast(tmp_path, dtype, scale, hot, number):
    clean = (PICTURE * scale).astype(dtype)
    values = clean.copy()
    places = np.random.default_rng(0).permutation(values.size)[:number]
    values.ravel()[places] = hot
    micrograph, said = read(tmp_path / "hot.tif", values)
    assert f"{number} pixel" in said
    assert "neighbours" in said
    assert micrograph.valid is None
    tifffile.imwrite(tmp_path / "clean.tif", clean, metadata=None)
    expected = read_image(tmp_path / "clean.tif", data_bar=0).image
    others = np.setdiff1d(np.arange(values.size), places)
    np.testing.assert_array_equal(micrograph.image.ravel()[others], expected.ravel()[others])
    assert np.abs(micrograph.image - expected).ravel()[places].mean() < 0.25  # a line may pass there


@pytest.mark.parametrize("number", [-9999, -32768, np.nan, np.inf, 1e30, -3.4028235e38])
def test_a_strip_without_values_lies_outside_of_the_field_of_view(tmp_path, number):
    values = (PICTURE * 200).astype(np.float32)
    values[:20] = number
    micrograph, said = read(tmp_path / "a.tif", values)
    assert "4000 pixels are" in said
    assert "field of view" in said
    np.testing.assert_array_equal(micrograph.valid, np.arange(200)[:, None].repeat(200, 1) >= 20)
    assert correlation(micrograph.image, np.s_[20:]) > 0.9999
    assert micrograph.image[20:].min() == 0
    assert micrograph.image[20:].max() == 1


def test_a_frame_and_a_corner_without_values_lie_outside_too(tmp_path):
    """As rotating and registering leave them."""
    values = (PICTURE * 3000 + 3000).astype(np.uint16)
    empty = np.add.outer(np.arange(200), np.arange(200)) < 90
    empty[:6] = empty[-6:] = True
    empty[:, :6] = empty[:, -6:] = True
    values[empty] = 0
    micrograph, _ = read(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(micrograph.valid, ~empty)
    assert correlation(micrograph.image, ~empty) > 0.9999


def test_two_numbers_and_hot_pixels_in_one_image(tmp_path):
    values = (PICTURE * 200).astype(np.float32)
    values[:20], values[-10:] = -9999, -32768
    values[100, 100] = 1e6
    micrograph, said = read(tmp_path / "a.tif", values)
    assert "-9999" in said
    assert "-32768" in said
    assert micrograph.valid.sum() == 170 * 200
    assert correlation(micrograph.image, np.s_[20:-10]) > 0.999


def test_the_number_that_a_file_names_for_no_value_counts(tmp_path):
    values = (PICTURE * 200).astype(np.float32)
    values[50:70, 50:70] = 100  # inside of the picture's range
    micrograph, _ = read(tmp_path / "a.tif", values, extratags=[(42113, 2, 4, "100", True)])
    assert not micrograph.valid[50:70, 50:70].any()
    assert micrograph.valid.mean() > 0.98


def test_single_values_that_are_missing_are_filled_from_their_neighbours(tmp_path):
    values = (PICTURE * 200).astype(np.float32)
    values[30, 40] = values[90, 91] = np.nan
    micrograph, said = read(tmp_path / "a.tif", values)
    assert "2 pixels are NaN" in said
    assert micrograph.valid is None
    assert np.isfinite(micrograph.image).all()
    assert correlation(micrograph.image) > 0.999


def test_a_saturated_legend_does_not_decide_the_contrast(tmp_path):
    """Letters at the white level of the container over counts of a camera."""
    values = (PICTURE * 900).astype(np.uint16)
    legend = np.zeros_like(LINES)
    legend[170:174, 20:90] = True
    for column in range(20, 90, 12):
        legend[150:166, column : column + 3] = legend[150:153, column : column + 9] = True
    values[legend] = 65535
    micrograph, said = read(tmp_path / "a.tif", values)
    assert "65535" in said
    np.testing.assert_array_equal(micrograph.valid, ~legend)
    assert correlation(micrograph.image, ~legend) > 0.9999
    assert np.ptp(micrograph.image[~legend]) == 1


@pytest.mark.parametrize("noise", [0, 15])
@pytest.mark.parametrize("lines", [1000, 60000])
def test_thin_lines_on_even_grains_are_no_flaw(tmp_path, noise, lines):
    """They are far from the rest, by any measure of its spread; but they form a network."""
    values = np.where(LINES, lines, 30000 + np.random.default_rng(0).normal(0, 1, LINES.shape) * noise)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.uint16), metadata=None)
    micrograph = read_image(tmp_path / "a.tif", data_bar=0)
    assert micrograph.valid is None
    contrast = abs(micrograph.image[LINES].mean() - micrograph.image[~LINES].mean())
    assert contrast > 0.4


def test_pictures_of_two_or_three_greys_are_left_as_they_are():
    for values in (
        LINES * 65535.0,
        LINES * 200.0 - 100,
        np.where(LINES, 0.0, 1.0) + (np.indices(LINES.shape)[0] > 90),
    ):
        found = find_range(values)
        assert found.missing is None
        assert found.hot is None
        assert (found.low, found.high) == (values.min(), values.max())


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((PICTURE * 5000).astype(np.uint16), 0, 5000),
        ((PICTURE * 400 + 30000).astype(np.uint16), 30000, 30400),
        ((PICTURE * 0.05).astype(np.float32), 0, 0.05),
        ((PICTURE * 700).astype(np.uint16), 0, 700),
    ],
)
def test_a_picture_in_a_small_part_of_its_range_can_be_seen(tmp_path, values, low, high):
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None)
    image = read_image(tmp_path / "a.tif", data_bar=0).image
    assert (image.min(), image.max()) == (0, 1)
    assert np.percentile(image, 95) > 0.6  # of a dark overlay it was 15 of 255
    assert correlation(image) > 0.999


def test_the_grey_levels_of_eight_bits_are_never_changed(tmp_path):
    values = (PICTURE * 60).astype(np.uint8)
    values[100, 100] = 255
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").image, values / np.float32(255))


def test_a_data_bar_beside_counts_of_a_camera_is_found(tmp_path):
    """The bar has the container's black and white, the picture a small part between."""
    bar = np.zeros((24, 200), np.uint16)
    for column in range(10, 190, 9):
        bar[6:16, column : column + 2] = 65535
    for background in (0, 65535):
        below = bar if background == 0 else 65535 - bar
        values = np.vstack([(PICTURE * 5000 + 500).astype(np.uint16), below])
        tifffile.imwrite(tmp_path / "a.tif", values, metadata=None)
        with np.errstate(all="raise"):
            micrograph = read_image(tmp_path / "a.tif")
        assert micrograph.data_bar_height == 24
        assert micrograph.valid is None
        assert correlation(micrograph.image) > 0.999


def test_an_image_without_any_value_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 40), np.nan, np.float32))
    with pytest.raises(ImageError, match="no pixel has a value"):
        read_image(tmp_path / "a.tif")
