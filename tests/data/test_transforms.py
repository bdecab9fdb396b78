"""Claims about microlab.data.transforms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from microlab.data import mapped, transforms
from microlab.render.flat import untextured


@pytest.fixture
def grains() -> np.ndarray:
    """A 96 x 96 map of 20 cells, ids 0..19."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 96, (20, 2))
    pixels = np.stack(np.mgrid[:96, :96], -1)[:, :, None]
    return ((pixels - points) ** 2).sum(-1).argmin(-1).astype(np.int32)


sizes = st.integers(1, 90)


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, st.integers(1, 40), st.floats(0, 0.99))
def test_tiles_cover_every_pixel_and_blending_weights_sum_to_one(height, width, tile, share):
    overlap = int(share * tile)
    total = np.zeros((height, width))
    tiles = []
    for piece, weights in transforms.blended_tiles((height, width), tile, overlap):
        assert weights.shape == (min(tile, height), min(tile, width))
        total[piece] += weights
        tiles.append(piece)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert tiles == transforms.tile_slices((height, width), tile, overlap)


def test_neighbouring_tiles_share_at_least_the_overlap():
    starts = sorted({rows.start for rows, _ in transforms.tile_slices((1000, 256), 256, 64)})
    assert max(np.diff(starts)) == 256 - 64
    assert starts[-1] + 256 == 1000


def map_tiles(function, image, tile, overlap):
    """Apply a function tile by tile and blend the results."""
    joined = np.zeros(image.shape, np.float32)
    for piece, weights in transforms.blended_tiles(image.shape, tile, overlap):
        joined[piece] += weights * function(image[piece])
    return joined


def test_a_pointwise_function_over_tiles_equals_the_function_over_the_image():
    image = np.random.default_rng(0).random((130, 77), dtype=np.float32)
    np.testing.assert_allclose(map_tiles(lambda p: p**2, image, 48, 16), image**2, atol=1e-6)


def test_blending_hides_the_seam_between_tiles_that_disagree():
    # Every tile returns its own mean: without overlap the result jumps at the seam, else it is gradual.
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (64, 1))

    def answer(piece):
        return np.full_like(piece, piece.mean())

    hard = np.abs(np.diff(map_tiles(answer, ramp, 64, 0), axis=1)).max()
    soft = np.abs(np.diff(map_tiles(answer, ramp, 64, 32), axis=1)).max()
    assert soft < hard / 20


@pytest.mark.parametrize(("tile", "overlap"), [(32, 32), (32, -1), (0, 0)])
def test_impossible_overlap_is_refused(tile, overlap):
    with pytest.raises(ValueError, match="overlap must lie in"):
        transforms.tile_slices((64, 64), tile, overlap)


def test_clahe_increases_contrast_under_uneven_illumination(grains):
    light = np.linspace(0.2, 1, 96)[None]
    image = ((0.4 + 0.1 * (grains % 2)) * light).astype(np.float32)

    def local_contrast(picture):
        return np.mean([picture[:, c : c + 12].std() for c in range(0, 96, 12)])

    flat = transforms.clahe(image)
    assert flat.dtype == np.float32
    assert flat.min() >= 0
    assert flat.max() <= 1
    assert local_contrast(flat) > 2 * local_contrast(image)


def test_clahe_does_not_change_a_blank_image_and_refuses_nan_and_wrong_ranges():
    blank = np.full((32, 32), 0.3, np.float32)
    np.testing.assert_array_equal(transforms.clahe(blank), blank)
    for wrong in (np.full((8, 8), np.nan), np.full((8, 8), 255.0), np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match="image must be"):
            transforms.clahe(wrong)


def test_stretch_puts_the_percentiles_at_black_and_white():
    image = np.random.default_rng(0).normal(5, 2, (100, 100))
    stretched = transforms.stretch(image, 2, 95)
    assert (stretched == 0).mean() == pytest.approx(0.02, abs=1e-3)
    assert (stretched == 1).mean() == pytest.approx(0.05, abs=1e-3)
    inside = (stretched > 0) & (stretched < 1)
    assert np.corrcoef(image[inside], stretched[inside])[0, 1] == pytest.approx(1)
    rare = np.zeros((100, 100))
    rare[50, 50] = 3  # the percentiles coincide: the range is used
    assert np.array_equal(transforms.stretch(rare), rare / 3)


def test_standardise_gives_zero_mean_and_unit_deviation():
    out = transforms.standardise(np.random.default_rng(0).random((64, 64)) * 3 + 5)
    assert abs(out.mean()) < 1e-5
    assert abs(out.std() - 1) < 1e-5
    assert not transforms.standardise(np.ones((8, 8))).any()


def test_untextured_grains_are_uniform_distinct_and_seeded(grains):
    image = untextured(grains, seed=3)
    for grain in range(20):
        assert np.ptp(image[grains == grain]) == 0
    assert len(np.unique(image)) == len(np.unique(grains))
    np.testing.assert_array_equal(image, untextured(grains, seed=3))
    assert (image != untextured(grains, seed=4)).any()


def test_untextured_paints_exactly_the_boundary_dark(grains):
    boundary = np.zeros_like(grains, bool)
    boundary[:, 1:] = grains[:, 1:] != grains[:, :-1]
    image = untextured(grains, boundary, seed=3)
    np.testing.assert_array_equal(image < 0.2, boundary)


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_keeps_image_and_masks_together(grains, seed):
    # The image shows one grain of the mask, so after the transform each must match the other.
    image = (grains == 7).astype(np.float32)
    view, mask, labels = transforms.augment(image, grains == 7, grains, brightness=0, contrast=0, seed=seed)
    assert mask.dtype == bool
    assert labels.dtype == np.int32
    assert np.abs(view - image).max() > 0.99  # it was transformed
    np.testing.assert_allclose(ndimage.center_of_mass(view), ndimage.center_of_mass(mask), atol=0.25)
    assert ((view > 0.5) != mask).sum() <= 0.05 * mask.sum()
    np.testing.assert_array_equal(mask, labels == 7)
    assert set(np.unique(labels)) <= set(range(20))


def test_flips_and_quarter_turns_are_exact_and_reach_all_eight_views():
    image = np.random.default_rng(0).random((17, 17), dtype=np.float32)
    expected_views = [np.rot90(i, k) for i in (image, image.T) for k in range(4)]
    views_found = set()
    for seed in range(60):
        view, same = transforms.augment(
            image, image, scale=(1, 1), rotation=0, brightness=0, contrast=0, seed=seed
        )
        np.testing.assert_array_equal(view, same)
        views_found.add(next(k for k, w in enumerate(expected_views) if np.allclose(view, w, atol=1e-6)))
    assert len(views_found) == 8


def test_oblong_images_keep_their_shape_and_are_only_flipped():
    image = np.random.default_rng(0).random((20, 31), dtype=np.float32)
    for seed in range(12):
        (view,) = transforms.augment(image, scale=(1, 1), rotation=0, brightness=0, contrast=0, seed=seed)
        assert any(
            np.allclose(view, w, atol=1e-6) for w in (image, image[::-1], image[:, ::-1], image[::-1, ::-1])
        )


def test_brightness_and_contrast_change_the_image_alone(grains):
    image = (0.5 + 0.01 * (grains % 3)).astype(np.float32)
    view, labels = transforms.augment(image, grains, scale=(1, 1), rotation=0, flips=False, seed=5)
    np.testing.assert_array_equal(labels, grains)
    assert np.abs(view - image).mean() > 1e-3
    # an affine change of grey keeps the order of the greys
    assert np.corrcoef(view.ravel(), image.ravel())[0, 1] > 0.999


def test_magnification_grows_the_objects():
    y, x = np.mgrid[:101, :101]
    disc = np.hypot(y - 50, x - 50) < 20
    _, big = transforms.augment(disc.astype(np.float32), disc, scale=(1.5, 1.5), seed=0)
    assert big.sum() / disc.sum() == pytest.approx(1.5**2, rel=0.03)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        transforms.augment(np.zeros((8, 8)), np.zeros((8, 9)))


@pytest.mark.parametrize("zoom", [0.3, 0.77, 1.6])
def test_bands_are_resized_as_the_whole_image(monkeypatch, zoom):
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((203, 131)).astype(np.float32), 1)
    monkeypatch.setattr(mapped, "BAND", 2000)
    resized = np.zeros(transforms.resized_shape(image.shape, zoom), np.float32)
    transforms.resize_into(image, resized)
    # Within float32 rounding.
    np.testing.assert_allclose(resized, transforms.resize_by(image, zoom), atol=2e-7)
    resized_back = np.zeros_like(image)
    transforms.resize_into(resized, resized_back)
    np.testing.assert_allclose(resized_back, transforms.resize_to(resized, image.shape), atol=2e-7)


def test_mean_and_deviation_of_bands_are_those_of_the_whole(monkeypatch):
    image = np.random.default_rng(0).random((300, 70)).astype(np.float32)
    monkeypatch.setattr(mapped, "BAND", 999)
    mean, deviation = transforms.mean_and_deviation(image)
    np.testing.assert_allclose((image - mean) / deviation, transforms.standardise(image), atol=1e-6)


def test_grey_follows_the_direction_in_which_colours_vary_most():
    rng = np.random.default_rng(0)
    share = rng.random((60, 80))[..., None]
    one, other = np.array([0.8, 0.3, 0.3]), np.array([0.3, 0.51, 0.35])
    colours = share * one + (1 - share) * other  # of nearly equal luminance
    assert np.ptp(colours @ transforms.LUMINANCE) < 0.06
    weights = transforms.grey_weights(colours)
    along = (one - other) / np.abs(one - other).sum()
    np.testing.assert_allclose(np.abs(weights), np.abs(along), atol=1e-5)
    grey = transforms.grey_of(colours, weights)
    assert np.corrcoef(grey.ravel(), share.ravel())[0, 1] ** 2 == pytest.approx(1)
    assert grey.min() >= 0
    assert grey.max() <= 1


def test_grey_rises_with_luminance_and_keeps_the_levels_of_a_grey_image():
    grey = np.random.default_rng(1).random((40, 50)).astype(np.float32)
    colours = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_allclose(transforms.grey_of(colours, transforms.grey_weights(colours)), grey, atol=1e-5)
    tinted = colours * np.array([0.2, 0.9, 0.4], np.float32)
    weights = transforms.grey_weights(tinted)
    assert np.corrcoef(transforms.grey_of(tinted, weights).ravel(), grey.ravel())[0, 1] == pytest.approx(1)


def test_one_colour_everywhere_becomes_its_luminance():
    colours = np.broadcast_to(np.array([1.0, 0, 0]), (8, 8, 3))
    assert np.array_equal(transforms.grey_weights(colours), transforms.LUMINANCE)
