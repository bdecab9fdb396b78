"""Claims about microlab.measure.growth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from microlab.measure import growth
from microlab.measure.grain_size import astm_grain_size
from microlab.simulate import phasefield, voronoi

TIME = np.linspace(100, 1100, 11)


@pytest.fixture(scope="module")
def grown():
    """A periodic grown structure, and its mean area by counting."""
    shape = (192, 192)
    seeds = voronoi.random_seeds(150, shape, seed=1)
    grain_map = phasefield.grow(
        voronoi.tessellate(seeds, shape), 250, phasefield.Parameters(dt=0.2)
    ).grain_map()
    return grain_map, grain_map.size / len(np.unique(grain_map))


def windows(grain_map, side, n, seed):
    """Windows of a periodic map at random places, as label images."""
    rng = np.random.default_rng(seed)
    for y, x in rng.integers(0, grain_map.shape[0], (n, 2)):
        yield growth.grain_pieces(np.roll(grain_map, (-y, -x), (0, 1))[:side, :side])


def test_mean_area_of_small_windows_is_that_of_the_whole(grown):
    grain_map, truth = grown
    parts = list(windows(grain_map, 80, 400, seed=0))
    counts = np.array([growth.grain_weights(part, 1)[1].sum() for part in parts])
    # 3 standard errors, and the half pixel that decides whether a pixel's edge or its centre is the frame
    assert counts.mean() == pytest.approx(79.5**2 / truth, abs=0.15 * counts.std() + 0.1)
    as_whole = np.mean([len(growth.grain_weights(part, 1)[1]) for part in parts])
    assert as_whole > 1.3 * counts.mean()  # a cut grain does not count as a whole one


def test_the_count_is_that_of_the_standard(grown):
    for part in windows(grown[0], 150, 3, seed=2):
        size = growth.mean_size(part, min_area=1, resamples=10)
        standard = astm_grain_size(part, 1.0, "planimetric", fields=(1, 1))
        assert size.count == pytest.approx(standard.count)
        assert size.area == pytest.approx(standard.mean_area_um2)


def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(grown):
    grain_map, truth = grown
    sizes = [growth.mean_size(p, min_area=1, resamples=200) for p in windows(grain_map, 100, 60, seed=3)]
    covered = np.mean([size.area_low <= truth <= size.area_high for size in sizes])
    assert covered >= 0.88  # 0.95 less 2.5 standard errors of 60 windows
    assert all(size.area_low < size.area < size.area_high for size in sizes)


def test_four_times_the_field_halves_the_error(grown):
    small, large = (
        np.mean([growth.mean_size(p, resamples=300).error for p in windows(grown[0], side, 8, seed=4)])
        for side in (90, 180)
    )
    assert small / large == pytest.approx(2, rel=0.2)


def test_specks_are_not_counted_as_grains():
    labels = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((10, 10), int))
    speckled = labels.copy()
    speckled[22:24, 21:26] = 26  # 10 px
    assert growth.mean_size(labels).count == 16  # 9 inside, 16 cut, 4 of them corners
    assert growth.mean_size(speckled, min_area=11).count == 16
    assert growth.mean_size(speckled, min_area=10).count == 17


def test_blocks_add_up_to_the_count(grown):
    (part,) = windows(grown[0], 150, 1, seed=5)
    assert growth.block_counts(part, (4, 5)).shape == (20,)
    assert growth.block_counts(part, (4, 5)).sum() == pytest.approx(growth.mean_size(part).count)


def test_the_slope_of_an_exact_parabola_is_recovered():
    radius_squared = 120 + 0.35 * TIME
    fit = growth.fit_parabola(TIME, np.pi * radius_squared, np.full(11, 5.0))
    assert fit.k == pytest.approx(0.35)
    assert fit.r0_squared == pytest.approx(120)
    np.testing.assert_allclose(fit.radius(TIME) ** 2, radius_squared)


def test_frames_are_weighted_by_their_errors():
    rng = np.random.default_rng(0)
    truth, error = 400 + 1.1 * TIME, np.linspace(5, 120, 11)
    fits = [growth.fit_parabola(TIME, truth + error * rng.standard_normal(11), error) for _ in range(400)]
    k = np.array([fit.k for fit in fits])
    plain = [
        np.polyfit(TIME, truth + error * rng.standard_normal(11), 1)[0] / np.pi for _ in range(400)
    ]  # every frame alike
    assert k.std() < 0.75 * np.std(plain)
    covered = np.mean([fit.k_low <= 1.1 / np.pi <= fit.k_high for fit in fits])
    assert covered == pytest.approx(0.95, abs=0.035)  # 3 standard errors of 400 trials
    assert np.mean([fit.chi_squared for fit in fits]) == pytest.approx(1, abs=0.1)


def test_the_weighted_fit_is_numpys():
    rng = np.random.default_rng(1)
    error = rng.uniform(5, 50, 11)
    area = 400 + 1.1 * TIME + error * rng.standard_normal(11)
    slope, intercept = np.polyfit(TIME, area / np.pi, 1, w=1 / error)
    fit = growth.fit_parabola(TIME, area, error)
    assert (fit.k, fit.r0_squared) == pytest.approx((slope, intercept))
    assert growth.slopes(TIME, error, area[None]) == pytest.approx([slope])


@pytest.mark.parametrize("n", [2.0, 3.0, 4.0])
def test_the_exponent_is_recovered(n):
    radius = (10**n + (30**n - 10**n) * np.linspace(0, 1, 11)) ** (1 / n)
    rng = np.random.default_rng(2)
    area = np.pi * radius**2
    exponent, low, high = growth.fit_exponent(TIME, area * (1 + 0.005 * rng.standard_normal(11)), 0.01 * area)
    assert low < n < high
    assert exponent == pytest.approx(n, abs=0.25)


def test_a_constant_relative_bias_scales_k_and_keeps_the_exponent():
    area, error = 400 + 1.1 * TIME, 0.03 * (400 + 1.1 * TIME)
    plain, biased = (growth.fit_parabola(TIME, f**2 * area, f**2 * error).k for f in (1.0, 1.1))
    assert biased / plain == pytest.approx(1.21)
    assert growth.fit_exponent(TIME, 1.21 * area, error)[0] == pytest.approx(2, abs=1e-3)
    late = area * (1 + 0.2 * np.linspace(0, 1, 11))  # the larger the grains, the more of them are merged
    assert growth.fit_exponent(TIME, late, error)[0] < 1.8


def test_block_intervals_are_as_wide_as_slopes_scatter():
    """Frames share their grains: deviations persist in time, which only blocks take into account."""
    rng = np.random.default_rng(3)
    expected = 20 * 400 / (400 + 1.1 * TIME)[:, None]  # grains in each of 36 blocks
    field, error = 36 * 20 * 400.0, (400 + 1.1 * TIME) ** 1.5

    def fields():
        level, trend = rng.normal(0, 0.15, 36), rng.normal(0, 0.15, 36)
        return expected * (1 + level + trend * np.linspace(-1, 1, 11)[:, None])

    k = [growth.fit_parabola(TIME, field / fields().sum(1), error).k for _ in range(300)]
    spread = []
    for trial in range(20):
        curves = growth.resample_blocks(fields(), field, resamples=300, seed=trial)
        spread.append(growth.slopes(TIME, error, curves).std())
    assert np.mean(spread) == pytest.approx(np.std(k), rel=0.2)


def test_the_same_seed_resamples_the_same_blocks():
    counts = np.random.default_rng(4).uniform(5, 10, (11, 36))
    once, twice = (growth.resample_blocks(c, 1.0, resamples=50, seed=7) for c in (counts, 2 * counts))
    np.testing.assert_allclose(once, 2 * twice)


def test_hillerts_rate_follows_from_his_distribution():
    def f(u):
        return (2 * np.e) ** 2 * 2 * u / (2 - u) ** 4 * np.exp(-4 / (2 - u))

    norm, mean, square = (quad(lambda u, p=p: f(u) * u**p, 0, 2)[0] for p in (0, 1, 2))
    assert (norm, mean) == pytest.approx((1, 1), abs=1e-6)
    assert growth.hillert_rate(kappa=2, L=3) == pytest.approx(6 * square / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": TIME[:5]}, "of one length"),
        ({"time": np.zeros(11)}, "different times"),
        ({"error": np.zeros(11)}, "must be positive"),
    ],
)
def test_a_curve_that_cannot_be_fitted_is_refused(change, message):
    curve = {"time": TIME, "area": 400 + TIME, "error": np.ones(11)} | change
    with pytest.raises(ValueError, match=message):
        growth.fit_parabola(**curve)


def test_a_field_without_grains_is_refused():
    with pytest.raises(ValueError, match="nothing to average"):
        growth.mean_size(np.zeros((20, 20), int))
    with pytest.raises(ValueError, match="confidence"):
        growth.mean_size(np.ones((20, 20), int), confidence=1)
