"""The grain scale of an image: intercepts calculated by hand, and known zooms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from microlab.data.transforms import resize_by
from microlab.measure.grain_size import mean_intercept
from microlab.segment.instances import watershed_grains
from microlab.segment.zoom import (
    CONFIDENCE_LADDER,
    LADDER,
    LARGEST_SHARE,
    ZoomTrial,
    matching_zoom,
    most_confident,
    zoom_trials,
)
from microlab.simulate import voronoi


@pytest.mark.parametrize("period", [4, 10, 16])
def test_intercept_of_stripes_is_twice_their_period(period):
    # Half of all lines run along the stripes and cross nothing. The frame is no crossing: k stripes, k - 1.
    k = 20
    stripes = np.tile(np.arange(k).repeat(period), (37, 1))
    expected = 2 * period * k / (k - 1)
    assert mean_intercept(stripes) == pytest.approx(expected)
    assert mean_intercept(stripes.T) == pytest.approx(expected)


def test_intercept_of_squares_is_their_side():
    k, side = 25, 8
    y, x = np.indices((k * side, k * side)) // side
    assert mean_intercept(y * k + x) == pytest.approx(side * k / (k - 1))


def test_intercept_of_a_polycrystal_follows_from_its_area_per_grain():
    # Poisson seeds of mean area A have 2 / sqrt(A) of boundary per area (Okabe et al., Spatial Tessellations,
    # table 5.5.1), and by Buffon's needle the mean intercept is pi / 2 over that: pi / 4 sqrt(A).
    shape = (400, 400)
    grain_map = voronoi.tessellate(voronoi.random_seeds(400, shape, 0), shape)
    assert mean_intercept(grain_map) == pytest.approx(np.pi / 4 * np.sqrt(400), rel=0.05)


def test_intercept_without_a_crossing_is_infinite():
    assert mean_intercept(np.ones((9, 9), int)) == np.inf
    assert mean_intercept(np.ones((1, 1), int)) == np.inf


def test_resizing_keeps_the_mean_and_scales_the_lengths():
    y, x = np.indices((96, 128))
    spot = np.exp(-((y - 48) ** 2 + (x - 64) ** 2) / (2 * 8.0**2)).astype(np.float32)
    for zoom in (0.5, 2.0):
        resized = resize_by(spot, zoom)
        assert resized.shape == (round(96 * zoom), round(128 * zoom))
        assert resized.dtype == np.float32
        assert resized.sum() == pytest.approx(spot.sum() * zoom**2, rel=0.02)
    np.testing.assert_array_equal(resize_by(spot, 1), spot)
    assert min(resize_by(spot[:1, :5], 0.01).shape) == 1


def stripes_image(period: float, size: int = 512) -> tuple[np.ndarray, Callable]:
    """A ramp, and an ideal segmentation that cuts it into stripes of `period` pixels at any zoom."""
    ramp = np.tile(np.arange(size, dtype=np.float32) / size, (size, 1))
    return ramp, lambda image: np.floor(image * size / period).astype(int)


@pytest.mark.parametrize("zoom", [0.3, 0.7, 1.0, 1.6, 2.5])
def test_the_zoom_of_stripes_is_recovered_with_an_ideal_segmentation(zoom):
    image, grains = stripes_image(16.0)  # mean intercept 32 pixels
    assert matching_zoom(image, grains, 32.0 * zoom) == pytest.approx(zoom, rel=0.1)


def test_grains_found_in_noise_at_high_zoom_do_not_mislead():
    # A segmentation that is ideal up to zoom 1.6, then finds grains of 10 pixels in noise, then 100 in blur.
    # The intercept rises through the design twice, but only once in proportion to the zoom.
    image, ideal_grains = stripes_image(16.0, 256)

    def grains(part):
        zoom = 1 / (256 * np.median(np.diff(part)))  # the ramp shows how far it was magnified
        y, x = np.indices(part.shape) // (10 if zoom < 2.2 else 100)
        return ideal_grains(part) if zoom < 1.6 else y * 1000 + x

    noise, blur = (mean_intercept(grains(resize_by(image, zoom))) for zoom in (2.0, 2.8))
    assert noise < 32 * 0.7 < blur
    assert matching_zoom(image, grains, 32 * 0.7) == pytest.approx(0.7, rel=0.1)


def micrograph(grains: int, size: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """A grain map and its picture: dark lines about 3 pixels wide on grey, with a little noise."""
    grain_map = voronoi.tessellate(voronoi.regular_seeds(grains, (size, size), 0.5, 3), (size, size))
    beside = (grain_map != np.roll(grain_map, 1, 0)) | (grain_map != np.roll(grain_map, 1, 1))
    lines = np.exp(-(ndimage.distance_transform_edt(~beside) ** 2) / (2 * 1.3**2))
    noise = 0.02 * np.random.default_rng(0).standard_normal((size, size))
    return grain_map, np.clip(0.7 * (1 - lines) + 0.1 + noise, 0, 1).astype(np.float32)


def dark_line_grains(image: np.ndarray) -> np.ndarray:
    return watershed_grains(np.clip(1.1 - image / 0.8, 0, 1))


SHORT = (0.5, 0.7, 1.0, 1.4, 2.0)


@pytest.mark.parametrize("zoom", [0.7, 1.6])
def test_the_zoom_of_a_micrograph_is_recovered_through_a_real_segmentation(zoom):
    grain_map, image = micrograph(60)
    design = zoom * mean_intercept(grain_map)
    estimate = matching_zoom(image, dark_line_grains, design, window=256, ladder=SHORT)
    assert estimate == pytest.approx(zoom, rel=0.1)


def test_a_magnified_micrograph_needs_the_inverse_zoom():
    _, image = micrograph(60)
    once, twice = (
        matching_zoom(picture, dark_line_grains, 32.0, window=256, ladder=SHORT)
        for picture in (image, resize_by(image, 1.5))
    )
    assert twice == pytest.approx(once / 1.5, rel=0.1)


def test_an_image_without_boundaries_gives_a_rung():
    image = np.full((80, 80), 0.5, np.float32)
    zoom = matching_zoom(image, lambda part: np.ones(part.shape, int), 30.0)
    assert np.isclose(zoom, LADDER).any()


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 200), (33, 20)])
def test_noise_gives_a_zoom_within_the_ladder(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    zoom = matching_zoom(image, dark_line_grains, 30.0)
    assert isinstance(zoom, float)
    assert LADDER[0] <= zoom <= LADDER[-1]


def test_no_more_than_the_window_is_read():
    sizes_read = []

    def grains(part):
        sizes_read.append(part.shape)
        return np.zeros(part.shape, int)

    matching_zoom(np.zeros((300, 500), np.float32), grains, 30.0, window=96, ladder=(0.5, 1.0, 2.0))
    assert sizes_read == [(96, 96)] * 3


@pytest.mark.parametrize("design", [0, -1.0, float("nan")])
def test_an_invalid_design_length_is_refused(design):
    with pytest.raises(ValueError, match=r"design_intercept must be positive, got"):
        matching_zoom(np.zeros((64, 64)), dark_line_grains, design)


# --- zoom of highest confidence --------------------------------------------------------------------------


def certain_at(best: float):
    """An ideal method for squares of 32 px that is sure of them at one zoom, less the farther away."""

    def segment(part):
        side = part.shape[0]
        zoom = side / 300
        squares = np.indices(part.shape) // max(int(32 * zoom), 1)
        labels = (squares[0] * 100 + squares[1] + 1).astype(np.int32)
        sure = 0.9 * np.exp(-(np.log2(zoom / best) ** 2))
        return np.full(part.shape, sure, np.float32), np.unique(labels, return_inverse=True)[1] + 1, None

    return segment


@pytest.mark.parametrize("best", [0.5, 1.0, 2.0])
def test_the_zoom_of_highest_confidence_is_taken(best):
    trials = zoom_trials(np.random.default_rng(0).random((300, 300)), certain_at(best), window=10**6)
    assert [trial.zoom for trial in trials] == list(CONFIDENCE_LADDER)
    assert most_confident(trials).zoom == pytest.approx(best, rel=0.02)
    assert most_confident(trials).confidence == pytest.approx(0.9, rel=0.01)


def test_a_dominating_grain_is_not_believed_however_sure_the_lines_are():
    sure_of_one = ZoomTrial(0.5, 0.99, LARGEST_SHARE + 0.01, 3)
    sound = ZoomTrial(1.0, 0.6, 0.05, 80)
    assert most_confident([sure_of_one, sound]) is sound
    assert most_confident([sure_of_one]) is sure_of_one


def test_of_zooms_that_are_as_good_the_one_nearest_to_the_image_is_taken():
    trials = [ZoomTrial(z, c, 0.1, 50) for z, c in ((0.5, 0.95), (1.0, 0.93), (2.0, 0.94))]
    assert most_confident(trials).zoom == 1.0
    trials[1] = ZoomTrial(1.0, 0.9, 0.1, 50)
    assert most_confident(trials).zoom in (0.5, 2.0)


def test_only_the_middle_is_looked_at_and_lines_beside_a_legend_do_not_count():
    shapes = []

    def segment(part):
        shapes.append(part.shape)
        valid = np.ones(part.shape, bool)
        valid[: part.shape[0] // 2] = False
        labels = valid.astype(np.int32)
        return np.ones(part.shape, np.float32), labels, valid

    trials = zoom_trials(np.zeros((900, 1200), np.float32), segment, window=256)
    assert all(
        abs(side - min(256, n * t.zoom)) <= 2
        for t, shape in zip(trials, shapes)
        for side, n in zip(shape, (900, 1200))
    )
    assert all(trial.confidence == 0 and trial.largest == 1 for trial in trials)
