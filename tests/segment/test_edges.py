"""Claims of microlab.segment.edges on steps, ramps, noise and polycrystals whose boundaries are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import brentq
from scipy.special import i0e, i1e
from skimage.measure import label

from microlab.data.errors import ImageError
from microlab.data.transforms import stretch
from microlab.measure.boundary import boundary_f1
from microlab.measure.instance import adapted_rand_error
from microlab.segment.edges import (
    DETECTORS,
    EdgeConfig,
    agreement,
    choose_threshold,
    edge_probability,
    fused_edges,
    laplacian_of_gaussian,
    prepare,
)
from microlab.segment.instances import watershed_grains
from microlab.simulate.voronoi import lloyd_seeds, tessellate

NO_MEDIAN = EdgeConfig(median=1)


def step(place: float = 40, height: float = 0.5, noise: float = 0.0, shape=(64, 96)) -> np.ndarray:
    """Dark to the left of column `place` (between pixels place - 1 and place), bright from it on."""
    image = np.full(shape, 0.3)
    image[:, int(place) :] += height
    return image + noise * np.random.default_rng(0).standard_normal(shape)


def polycrystal(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voronoi grains of 14 different greys, their map, and the boundary between them."""
    shape = (96, 160)
    grains = tessellate(lloyd_seeds(14, shape, sweeps=3, seed=seed), shape)
    rng = np.random.default_rng(seed)
    clean = rng.permutation(np.linspace(0.1, 0.9, 14))[grains]
    boundary = np.zeros(shape, bool)
    boundary[:-1] |= grains[:-1] != grains[1:]
    boundary[:, :-1] |= grains[:, :-1] != grains[:, 1:]
    return clean + noise * rng.standard_normal(shape), grains, boundary


@pytest.mark.parametrize("channel", range(3), ids=DETECTORS)
@pytest.mark.parametrize("height", [0.5, -0.5, 0.05])
def test_a_step_is_found_within_one_pixel_and_nothing_beside_it(channel, height):
    image = step(40, height)
    image[0, :8], image[-1, :8] = 0.0, 1.0  # so that the contrast stretch keeps the height of the step
    edges = fused_edges(image, EdgeConfig(low=0, high=100))[channel, 12:-12] > 0
    columns = np.nonzero(edges)[1]
    assert (abs(columns - 39.5) <= 1).all()  # the step lies between the centres of columns 39 and 40
    assert edges.any(axis=1).all()  # and its line has no gap


def test_a_step_below_the_minimum_step_is_not_an_edge():
    for height, expected in ((0.05, True), (0.03, False)):
        image = step(40, height)
        image[0, :8], image[-1, :8] = 0.0, 1.0
        edges = fused_edges(image, EdgeConfig(low=0, high=100, least_step=0.04, median=1))
        assert (edges[:, 12:-12, 35:45].any(axis=(1, 2)) == expected).all()


@pytest.mark.parametrize("channel", range(3), ids=DETECTORS)
def test_noise_of_a_fifth_of_the_step_moves_its_line_by_two_pixels_at_most(channel):
    edges = fused_edges(step(40, 0.5, noise=0.1))[channel, 4:-4] > 0
    assert edges[:, 38:42].any(axis=1).mean() > 0.95
    assert edges[:, np.r_[4:34, 46:92]].mean() <= 0.06  # the density on noise alone, tested below


def test_blur_leaves_the_zero_crossing_of_a_straight_step_in_place_and_moves_that_of_a_disc_outwards():
    """Outside a disc of radius R the crossing solves r I1(z) = R I0(z), z = r R / sigma**2: the integral of
    the Gaussian's normal derivative along the rim. That is near R + sigma**2 / (2 R).
    """
    y, x = np.mgrid[-48:49, -48:49]
    disc = np.clip(20.5 - np.hypot(x, y), 0, 1)  # its rim one pixel soft, so that it is round
    for sigma in (2.0, 4.0, 6.0):
        radii = np.hypot(x, y)[laplacian_of_gaussian(disc, replace(NO_MEDIAN, sigma=sigma))]
        expected = brentq(lambda r, z: r * i1e(z * r) - 20 * i0e(z * r), 20, 30, args=(20 / sigma**2,))
        assert np.mean(radii) == pytest.approx(expected, abs=0.2)
    assert expected > 20.8  # so that the last one could not pass with R itself
    for blur in (1, 3, 5):
        straight = ndimage.gaussian_filter(step(40), (0, blur), mode="nearest")
        columns = np.nonzero(laplacian_of_gaussian(stretch(straight, 1, 99), NO_MEDIAN))[1]
        assert set(columns) <= {39, 40}
        assert columns.size >= 64


@pytest.mark.parametrize("slopes", [(0, 1), (1, 0), (1, 2)])
def test_a_linear_ramp_has_no_edge(slopes):
    y, x = np.mgrid[:64, :96]
    ramp = slopes[0] * y + slopes[1] * x
    inside = np.s_[:, 10:-10, 10:-10]  # the filters create kinks at the frame
    assert not fused_edges(ramp, EdgeConfig(low=0, high=100))[inside].any()
    for rule in ("otsu", "percentile"):  # their Canny thresholds lie on the slope itself
        assert not fused_edges(ramp, EdgeConfig(low=0, high=100, rule=rule))[inside][:2].any()


@pytest.mark.parametrize(
    "turn", [lambda a: a[..., ::-1], lambda a: a[..., ::-1, :], lambda a: np.rot90(a, axes=(-2, -1))]
)
def test_flips_and_quarter_turns_move_the_edges_with_the_image(turn):
    image, _, _ = polycrystal(noise=0.05)
    # rounding decides ties between neighbours, so a few pixels may differ
    assert (turn(fused_edges(image)) != fused_edges(turn(image))).mean() < 0.002


@pytest.mark.parametrize(("gain", "offset"), [(1, 7.0), (255, 0), (0.01, -3.0), (-1, 1)])
def test_brightness_offset_gain_and_inversion_change_nothing(gain, offset):
    image, _, _ = polycrystal(noise=0.05)
    assert (fused_edges(image) != fused_edges(gain * image + offset)).mean() < 0.001


def test_the_median_removes_specks_and_keeps_a_step_in_place():
    image = step(40)
    specked = image.copy()
    specked[20:23, 70:73] = 0.0
    assert np.array_equal(prepare(image), prepare(specked))


def test_noise_rule_gives_the_rayleigh_quantile_and_the_stated_rate():
    strength = np.random.default_rng(0).rayleigh(3, 200_000)
    for rate in (0.1, 0.01, 0.001):
        threshold = choose_threshold(strength, EdgeConfig(false_rate=rate))
        assert threshold == pytest.approx(3 * np.sqrt(-2 * np.log(rate)), rel=0.01)
        assert (strength > threshold).mean() == pytest.approx(rate, rel=0.2)


def test_a_floor_bounds_the_threshold():
    assert choose_threshold(np.zeros((8, 8)), floor=0.1) == 0.1


def test_pure_noise_has_few_edges_by_the_noise_rule_and_many_by_the_others():
    noise = np.random.default_rng(1).standard_normal((160, 160))
    density = fused_edges(noise, NO_MEDIAN).mean(axis=(1, 2))
    assert (density[:2] <= NO_MEDIAN.false_rate).all()  # thinned, so below the stated rate
    assert density[2] <= 0.06  # hysteresis follows weak crests from each strong one
    after_median = fused_edges(noise).mean(axis=(1, 2))
    assert (after_median <= 0.06).all()  # the median's plateaus have heavier tails than Rayleigh's
    for rule in ("otsu", "percentile"):
        other = fused_edges(noise, replace(NO_MEDIAN, rule=rule)).mean(axis=(1, 2))
        assert (other > 2 * density).all()


def test_agreement_counts_the_detectors():
    edges = np.zeros((3, 12, 12))
    edges[:, 2, 2] = 1  # all three, same pixel
    edges[0, 8, 3] = edges[1, 9, 3] = 1  # two, a pixel apart
    edges[2, 8, 9] = 1  # one alone
    near = agreement(edges)
    assert near.dtype == np.uint8
    assert [near[2, 2], near[8, 3], near[9, 3], near[8, 9]] == [3, 2, 2, 1]
    assert np.count_nonzero(near) == 4
    assert agreement(edges, tolerance=0)[8, 3] == 1
    assert np.array_equal(agreement(edges, tolerance=0), edges.sum(axis=0))


def test_where_two_agree_there_is_less_noise_and_about_the_same_boundary():
    image, _, boundary = polycrystal(noise=0.15)
    edges = fused_edges(image)
    alone = [boundary_f1(boundary, channel > 0, 2) for channel in edges]
    assert boundary_f1(boundary, agreement(edges) >= 2, 2) >= np.mean(alone)


def test_edge_probability_is_high_where_two_detectors_agree_and_low_where_only_one_responds():
    edges = np.zeros((3, 20, 20))
    edges[:2, 5] = 1
    edges[2, 14] = 1
    probability = edge_probability(edges)
    assert probability[5, 10] == pytest.approx(2 / 3)
    assert probability[14, 10] == pytest.approx(1 / 3)
    assert probability[6, 10] == pytest.approx(2 / 3 * np.exp(-0.5))
    assert not edge_probability(np.zeros((3, 20, 20))).any()


def test_edges_close_to_the_grains_of_a_polycrystal():
    for noise, max_error in ((0.0, 0.1), (0.05, 0.35)):  # greys closer than the noise merge: 0.28
        image, grains, _ = polycrystal(noise)
        labels = watershed_grains(edge_probability(fused_edges(image)))
        truth = label(grains + 1, connectivity=1)  # grains that the frame cuts in two count twice
        assert labels.dtype == np.int32
        assert labels.min() == 1
        assert adapted_rand_error(truth, labels) < max_error
        assert adapted_rand_error(truth, np.ones_like(labels)) > 0.7  # one grain everywhere, for comparison


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.random.default_rng(0).random((40, 40, 3)), "grey.*colour"),
        (np.random.default_rng(0).random(40), r"\(H, W\)"),
        (np.random.default_rng(0).random((16, 40)), "at least 17 px"),
        (np.full((40, 40), 0.4), "constant.*0.4"),
        (np.where(np.eye(40), np.nan, 0.5), "NaN"),
        (np.where(np.eye(40), np.inf, 0.5), "infinite"),
    ],
)
def test_an_unfit_image_is_refused_and_the_reason_named(image, words):
    with pytest.raises(ImageError, match=words):
        fused_edges(image)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low": 99, "high": 1}, "low < high"),
        ({"median": 6}, "odd"),
        ({"sigma": 0}, "sigma"),
        ({"rule": "eye"}, "rule"),
        ({"false_rate": 0}, "false_rate"),
        ({"strongest": 1}, "strongest"),
        ({"hysteresis": 2}, "hysteresis"),
        ({"least_step": -1}, "least_step"),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        EdgeConfig(**settings)


def test_wrong_channels_are_refused():
    for function in (agreement, edge_probability):
        with pytest.raises(ValueError, match=r"\(C, H, W\)"):
            function(np.zeros((8, 8)))
        with pytest.raises(ValueError, match="0 or 1"):
            function(np.full((3, 8, 8), 0.5))
    with pytest.raises(ValueError, match="tolerance"):
        agreement(np.zeros((3, 8, 8)), -1)
    with pytest.raises(ValueError, match="width"):
        edge_probability(np.zeros((3, 8, 8)), 0)
