"""Comparisons of grain distributions, against scipy, known samples and simulations with known truth."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.ndimage import find_objects

from microlab.measure.distributions import compare_grains, match_grains, quantile_pairs
from microlab.measure.grains import grain_table, summarise
from microlab.measure.sampling import edge_bias, grains_needed, guard_frame, windows
from microlab.measure.two_sample import axial_mean, mean_permutation_test, two_sample_test
from microlab.simulate import voronoi


def table(diameter, orientation=None, um=None, weight=None):
    """A table of whole grains with these diameters."""
    d = np.asarray(diameter, dtype=float)
    scale = math.nan if um is None else um
    n = len(d)
    return pd.DataFrame(
        {
            "area_px": np.pi * d**2 / 4,
            "area_um2": np.pi * d**2 / 4 * scale**2,
            "diameter_px": d,
            "diameter_um": d * scale,
            "circularity": 0.8,
            "aspect_ratio": 1.2,
            "orientation_deg": np.linspace(0, 179, n) if orientation is None else orientation,
            "touches_edge": False,
            "edge_weight": np.ones(n) if weight is None else weight,
        }
    )


def axial(mu, kappa, n, seed):
    """Axial angles in degrees: half the angles of a von Mises distribution."""
    return np.degrees(np.random.default_rng(seed).vonmises(math.radians(2 * mu), kappa, n) / 2) % 180


@pytest.fixture(scope="module")
def random_cells():
    """2500 random cells of mean area 250 px, periodic."""
    shape = (790, 790)
    return voronoi.tessellate(voronoi.random_seeds(2500, shape, seed=3), shape)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- tests of two samples


def kuiper_p(v, n, m):
    """Kuiper's asymptotic p-value with Stephens' correction for small samples (1970)."""
    root = math.sqrt(n * m / (n + m))
    x, j = (root + 0.155 + 0.24 / root) * v, np.arange(1, 100)
    return float(2 * ((4 * j**2 * x**2 - 1) * np.exp(-2 * j**2 * x**2)).sum())


@pytest.mark.parametrize("turn", [0, 8, 14])
def test_kuiper_by_permutation_agrees_with_the_asymptotic_formula(turn):
    a, b = axial(30, 1.5, 80, 1), axial(30 + turn, 1.5, 60, 2)
    result = two_sample_test(a, b, axial=True, resamples=4000)
    assert result.test == "Kuiper"
    expected = kuiper_p(result.statistic, 80, 60)
    assert 0.001 < expected < 0.999  # so that the comparison is meaningful
    # 4000 permutations err by 0.008 at p = 0.5; Stephens' p is a few percent off at this size
    assert result.p_value == pytest.approx(expected, rel=0.15, abs=0.03)


def test_kuiper_is_independent_of_the_origin_of_the_angles_and_kolmogorov_is_not():
    a, b = axial(0, 2, 60, 1), axial(15, 2, 60, 2)
    v = [two_sample_test(a + turn, b + turn, axial=True, resamples=1).statistic for turn in (0, 40, 117)]
    assert v == pytest.approx([v[0]] * 3)
    d = [two_sample_test((a + turn) % 180, (b + turn) % 180).statistic for turn in (0, 40, 117)]
    assert np.ptp(d) > 0.05


def test_kuiper_statistic_is_the_sum_of_scipys_one_sided_distances():
    a, b = axial(0, 1, 40, 1).round(), axial(20, 1, 50, 2).round()  # rounded: equal values within and between
    sides = [stats.ks_2samp(a, b, alternative=side).statistic for side in ("less", "greater")]
    assert two_sample_test(a, b, axial=True, resamples=1).statistic == pytest.approx(sum(sides))


def test_five_percent_of_equal_samples_are_rejected_at_the_five_percent_level(rng):
    p = [
        two_sample_test(*rng.uniform(0, 180, (2, 30)), axial=True, resamples=199, seed=rng).p_value
        for _ in range(300)
    ]
    assert stats.binomtest(int(np.sum(np.array(p) <= 0.05)), 300, 0.05).pvalue > 0.01


def test_permutation_of_the_mean_agrees_with_scipys(rng):
    a, b = rng.lognormal(size=40), 1.4 * rng.lognormal(size=30)
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x) - np.mean(y), n_resamples=4000)
    ours = mean_permutation_test(a, np.ones(40), b, np.ones(30), 4000)
    assert ours == pytest.approx(theirs.pvalue, abs=0.04)
    assert mean_permutation_test(a, np.full(40, 7.0), b, np.full(30, 7.0), 4000) == ours


def test_axial_mean_is_scipys_circular_mean_of_period_180():
    angles = axial(172, 3, 200, 5)
    mean = axial_mean(angles)
    assert mean.direction == pytest.approx(stats.circmean(angles, high=180))
    assert abs(mean.direction - 172) < 5
    assert mean.p_uniform < 1e-6
    # I1(3) / I0(3), the strength of a von Mises distribution with kappa = 3; its error here is 0.02
    assert mean.strength == pytest.approx(0.810, abs=0.05)


def test_rayleighs_p_value_is_uniform_where_no_direction_is_preferred(rng):
    p = [axial_mean(rng.uniform(0, 180, 40)).p_uniform for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


# --- the comparison


def test_the_row_agrees_with_scipy_for_known_samples(rng):
    a, b = rng.lognormal(3, 0.4, 80), rng.lognormal(3.1, 0.4, 120)
    row = compare_grains(table(a), table(b), interval="t").loc["diameter_px"]
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (row.difference_low, row.difference_high) == pytest.approx((welch.low, welch.high))
    low, high = stats.t.interval(0.95, 79, loc=a.mean(), scale=stats.sem(a))
    assert (row.mean_ours_low, row.mean_ours_high) == pytest.approx((low, high))
    assert row.difference == pytest.approx(a.mean() - b.mean())
    assert row.relative_difference == pytest.approx(a.mean() / b.mean() - 1)
    ks = stats.ks_2samp(a, b)
    assert (row.statistic, row.p_value) == pytest.approx((ks.statistic, ks.pvalue))


def test_bootstrap_interval_of_the_difference_agrees_with_scipys(rng):
    a, b = rng.lognormal(3, 0.4, 80), rng.lognormal(3.1, 0.4, 60)
    row = compare_grains(table(a), table(b), ["diameter"], resamples=4000).loc["diameter_px"]
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=4000, method="percentile"
    ).confidence_interval
    width = theirs.high - theirs.low
    assert row.difference_low == pytest.approx(theirs.low, abs=0.06 * width)
    assert row.difference_high == pytest.approx(theirs.high, abs=0.06 * width)


def test_interval_of_the_difference_contains_the_true_one_in_95_of_100_cases(rng):
    held = []
    for _ in range(100):
        tables = table(rng.gamma(6, 2, 60)), table(rng.gamma(6, 1.5, 60))  # means 12 and 9
        row = compare_grains(*tables, ["diameter"], resamples=100, seed=rng).loc["diameter_px"]
        held.append(row.difference_low < 3 < row.difference_high)
    assert stats.binomtest(sum(held), 100, 0.95).pvalue > 0.005


def test_a_rotation_is_found_across_the_end_of_the_half_circle():
    ours, truth = (table(np.ones(300), axial(mu, 4, 300, seed)) for mu, seed in ((5, 1), (175, 2)))
    row = compare_grains(ours, truth).loc["orientation_deg"]
    assert row.difference == pytest.approx(10, abs=4)  # not -170
    assert row.difference_low < 10 < row.difference_high
    assert row.difference_high - row.difference_low < 15
    assert row.test == "Kuiper"
    assert row.p_value < 0.01
    assert math.isnan(row.p_mean)


def test_weights_enter_the_means_as_repetition_would():
    d = np.arange(5.0, 25)
    weight = np.tile([1.0, 2.0], 10)
    weighted = compare_grains(table(d, weight=weight), table(d)).loc["diameter_px"]
    assert weighted.mean_ours == pytest.approx(np.repeat(d, weight.astype(int)).mean())
    excluded = compare_grains(table(d, weight=weight), table(d), edge="exclude").loc["diameter_px"]
    assert excluded.difference == pytest.approx(0, abs=1e-12)
    assert excluded.p_mean > 0.9


def test_units_are_in_the_name_of_the_quantity_and_scale_the_lengths(rng):
    a, b = rng.lognormal(3, 0.4, (2, 40))
    px, um = (compare_grains(table(a, um=u), table(b, um=u)) for u in (None, 0.5))
    assert list(px.index) == ["area_px", "diameter_px", "circularity", "aspect_ratio", "orientation_deg"]
    assert list(um.index) == ["area_um2", "diameter_um", *px.index[2:]]
    assert um.loc["area_um2", "mean_ours"] == pytest.approx(px.loc["area_px", "mean_ours"] / 4)
    assert um.loc["diameter_um", "p_value"] == px.loc["diameter_px", "p_value"]


@pytest.mark.slow
def test_means_are_those_of_summarise_and_the_seed_repeats_everything(random_cells):
    ours, truth = (grain_table(view, 0.5) for view in windows(random_cells, (390, 390))[:2])
    comparison = compare_grains(ours, truth, seed=4)
    pd.testing.assert_frame_equal(comparison, compare_grains(ours, truth, seed=4))
    expected = summarise(ours, ["area_um2", "circularity"])["mean"]
    assert comparison.mean_ours[expected.index].tolist() == pytest.approx(expected.tolist())


# --- quantiles


def test_quantiles_of_scaled_grains_lie_on_a_line_of_that_slope(rng):
    a, b = 1.2 * rng.lognormal(3, 0.3, 4000), rng.lognormal(3, 0.3, 4000)
    pairs = quantile_pairs(
        table(a), table(b), "diameter", probabilities=[0.1, 0.3, 0.5, 0.7, 0.9], resamples=50
    )
    exact = stats.lognorm(0.3, scale=math.exp(3)).ppf(pairs.probability)
    assert pairs.truth.tolist() == pytest.approx(exact.tolist(), rel=0.03)  # 0.8 % standard error at 10 %
    assert pairs.ours.tolist() == pytest.approx((1.2 * exact).tolist(), rel=0.03)
    assert (pairs.low <= pairs.ours).all()
    assert (pairs.high >= pairs.ours).all()
    assert len(quantile_pairs(table(a[:50]), table(b[:40]), "diameter", resamples=5)) == 40


# --- pairs of grains


def test_each_grain_finds_its_partner_and_a_merged_pair_only_its_larger_half():
    truth = np.kron(np.array([[1, 2], [3, 4]]), np.ones((10, 10), int))
    truth[:, 4:10] = 0
    shifted = np.roll(truth, 1, axis=0)
    shifted[shifted == 4] = 3
    pairs = match_grains(shifted, truth).set_index("label_truth")
    assert pairs.loc[1, "label_ours"] == 1
    assert pairs.loc[1, "iou"] == pytest.approx(9 / 11)
    assert pairs.loc[2, "label_ours"] == 2
    assert set(pairs.index) == {1, 2, 4}  # 3 + 4 shares 90 of 150 pixels with 4


# --- the frame


@pytest.mark.slow
def test_weights_remove_the_edge_bias_that_whole_and_cut_grains_have(random_cells):
    result = edge_bias(random_cells, (98, 98), "area_px", guard=30)
    assert result.attrs["truth"] == pytest.approx(790**2 / 2500)
    assert result.bias["keep"] < -0.2
    assert result.bias["exclude"] < -3 * result.bias_error["exclude"]
    for method in ("weighted", "guard"):
        assert abs(result.bias[method]) < 3 * result.bias_error[method]
        assert result.bias_error[method] < 0.06


@pytest.mark.slow
def test_bias_of_whole_grains_is_what_their_boxes_predict(random_cells):
    """Miles and Lantuejoul: each grain of the periodic map is whole in a window with a known probability."""
    areas = np.bincount(random_cells.ravel())
    diameter = 2 * np.sqrt(areas[areas > 0] / np.pi)
    # rolling by half the map joins grains that its edge cuts
    boxes = [find_objects(m) for m in (random_cells + 1, np.roll(random_cells, (395, 395), (0, 1)) + 1)]
    chance = [
        np.prod([98 - min(s.stop - s.start, t.stop - t.start) - 1 for s, t in zip(*both)])
        for both in zip(*boxes)
        if both[0] is not None
    ]
    predicted = np.average(diameter, weights=chance) / np.mean(diameter) - 1
    measured = edge_bias(random_cells, (98, 98)).loc["exclude"]
    assert predicted < -0.03
    assert measured.bias == pytest.approx(predicted, abs=3 * measured.bias_error)


def test_guard_frame_counts_as_many_grains_as_there_are_per_area(random_cells):
    inside = [
        guard_frame(grain_table(view, reach=0), (200, 200), 30) for view in windows(random_cells, (200, 200))
    ]
    density = sum(map(len, inside)) / (len(inside) * 140**2)
    assert density == pytest.approx(2500 / 790**2, rel=0.1)  # 700 grains: 4 % standard error


def test_a_guard_frame_too_narrow_for_its_grains_warns(random_cells):
    view = windows(random_cells, (98, 98))[0]
    rows = grain_table(view, reach=0)
    with pytest.warns(UserWarning, match="cut by the image; widen the margin"):
        guard_frame(rows, (98, 98), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard_frame(rows, (98, 98), 30)


def test_windows_lie_side_by_side_and_show_the_map():
    grains = np.kron(np.arange(16).reshape(4, 4), np.ones((5, 5), int))
    views = windows(grains, (10, 5))
    assert len(views) == 8
    assert sum(view.size for view in views) == grains.size
    assert {view.min() for view in views} == {1}


def test_a_splinter_of_diagonal_pixels_is_one_grain_not_many():
    # Rolled: the diagonal in at most 2 parts, the rest in 3.
    (view,) = windows(np.eye(20, dtype=int), (20, 20))
    assert view.max() <= 5


# --- how many


def test_the_required_number_of_grains_gives_a_five_percent_error_in_19_of_20_cases(rng):
    n = grains_needed(spread=0.5)
    assert n == 385  # (1.95996 * 0.5 / 0.05)^2 = 384.15
    means = rng.gamma(4, 1, (3000, n)).mean(axis=1) / 4  # spread 1/2
    assert stats.binomtest(int((np.abs(means - 1) > 0.05).sum()), 3000, 0.05).pvalue > 0.01
    assert grains_needed(0.5, dependence=2) == pytest.approx(2 * n, abs=1)


@pytest.mark.slow
def test_random_cells_need_more_grains_than_their_spread_says(random_cells):
    """Their number in a field is Poisson, so the mean area errs by 1 / sqrt(N), not by 0.529 / sqrt(N)."""
    counts = [
        len(guard_frame(grain_table(view, reach=0), (131, 131), 25))
        for view in windows(random_cells, (131, 131))
    ]
    fano = np.var(counts, ddof=1) / np.mean(counts)
    assert fano > 2 * 0.28  # 0.28, Gilbert's variance of areas, is what independent grains would give


# --- wrong input


def test_wrong_tables_are_refused_by_name(rng):
    good = table(rng.lognormal(3, 0.3, 30))
    for call in (compare_grains, lambda a, b: quantile_pairs(a, b, "diameter")):
        with pytest.raises(ValueError, match="truth is an empty table"):
            call(good, good[:0])
        with pytest.raises(ValueError, match=r"ours has 5 grains with .* at least 10 are needed"):
            call(good[:5], good)
        with pytest.raises(
            ValueError, match=r"mixed units: .*_um2? is known for 100% of ours and 0% of truth"
        ):
            call(table(good.diameter_px, um=0.2), good)
        with pytest.raises(ValueError, match=r"truth lacks the columns \['diameter_px'"):
            call(good, good.drop(columns="diameter_px"))
    half = pd.concat([good, table(good.diameter_px, um=0.2)])
    with pytest.raises(ValueError, match="known for 50% of ours"):
        compare_grains(half, half)
    with pytest.raises(ValueError, match="ours has 0 grains with area_px that the frame does not cut"):
        compare_grains(good.assign(touches_edge=True), good)
    with pytest.raises(ValueError, match='edge must be "weighted"'):
        compare_grains(good, good, edge="drop")
    with pytest.raises(ValueError, match="confidence must lie in"):
        compare_grains(good, good, confidence=95)
    with pytest.raises(ValueError, match="least must be 2"):
        compare_grains(good, good, least=1)
    with pytest.raises(ValueError, match="orientations lie on a circle"):
        quantile_pairs(good, good, "orientation")
    with pytest.raises(ValueError, match="probabilities must be"):
        quantile_pairs(good, good, "area", probabilities=[0, 1])


def test_wrong_samples_maps_and_numbers_are_refused_by_name():
    with pytest.raises(ValueError, match="b must hold at least 2 numbers, all finite"):
        two_sample_test([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="angles and weights must be as many"):
        axial_mean([1, 2], [1])
    with pytest.raises(ValueError, match=r"must be .* images of one size"):
        match_grains(np.ones((3, 3), int), np.ones((3, 4), int))
    with pytest.raises(ValueError, match="grain_map must be"):
        windows(np.zeros((5, 5)), (2, 2))
    with pytest.raises(ValueError, match=r"window \(9, 9\) must be"):
        windows(np.zeros((5, 5), int), (9, 9))
    with pytest.raises(ValueError, match="only 1 window"):
        edge_bias(np.zeros((5, 5), int), (4, 4))
    with pytest.raises(ValueError, match="quantity must be"):
        edge_bias(np.zeros((5, 5), int), (2, 2), "sides")
    with pytest.raises(ValueError, match="margin must lie in"):
        guard_frame(grain_table(np.ones((9, 9), int)), (9, 9), 5)
    with pytest.raises(ValueError, match="spread must be a positive number"):
        grains_needed(0)
    with pytest.raises(ValueError, match="confidence must lie"):
        grains_needed(1, confidence=1)
