"""Voronoi polycrystals against brute force, lattice limits and known statistics of random tessellations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import cKDTree

from microlab.simulate import voronoi

BOX = (512, 512)


def brute_force_distances(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Squared periodic distance of every pixel from every seed, (H, W, n)."""
    y, x = np.indices(shape)[..., None]
    dy, dx = (np.abs(u - s % size) for u, s, size in zip((y, x), seeds.T, shape))
    return np.minimum(dy, shape[0] - dy) ** 2 + np.minimum(dx, shape[1] - dx) ** 2


def brute_force_sides(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sides of each cell: clip the bisector with every image by all other images; the rest is a side."""
    shifts = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)]) * shape
    count = []
    for seed in seeds:
        others = (seeds + shifts[:, None]).reshape(-1, 2) - seed
        others = others[(others**2).sum(1) > 0]
        middle, along = others / 2, others[:, ::-1] * [1, -1]
        count.append(0)
        for m, a in zip(middle, along):
            # nearer to the seed than to q:  (m + t a) . q <= q . q / 2
            slope, room = others @ a, (others**2).sum(1) / 2 - others @ m
            flat = np.abs(slope) < 1e-12
            if (room[flat] < -1e-9).any():
                continue
            t = room[~flat] / slope[~flat]
            low, high = t[slope[~flat] < 0].max(initial=-np.inf), t[slope[~flat] > 0].min(initial=np.inf)
            count[-1] += high - low > 1e-9
    return np.array(count)


def hexagonal_lattice(rows: int, columns: int, spacing: float) -> tuple[np.ndarray, tuple[float, float]]:
    """A lattice of nearest distance `spacing` with an even number of rows, and its periodic box."""
    row, column = np.indices((rows, columns)).reshape(2, -1)
    height = spacing * np.sqrt(3) / 2
    return np.stack([row * height, (column + row % 2 / 2) * spacing], axis=1), (
        rows * height,
        columns * spacing,
    )


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    clustered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_pixel_belongs_to_its_nearest_seed(n, height, width, clustered, seed):
    shape = (height, width)
    seeds = voronoi.random_seeds(n, shape, seed) * (0.1 if clustered else 1)
    grain_map = voronoi.tessellate(seeds, shape)
    squared = brute_force_distances(seeds, shape)
    chosen = np.take_along_axis(squared, grain_map[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, squared.min(-1), rtol=0, atol=1e-9)
    assert grain_map.dtype == np.int32
    assert grain_map.shape == shape


def test_paper_size_matches_a_periodic_tree_queried_at_every_pixel():
    seeds = voronoi.random_seeds(112, BOX, seed=5)
    nearest = cKDTree(seeds, boxsize=BOX).query(np.indices(BOX).reshape(2, -1).T)[1]
    np.testing.assert_array_equal(voronoi.tessellate(seeds, BOX).ravel(), nearest)


def test_shifting_the_seeds_rolls_the_grain_map():
    seeds, shape = voronoi.random_seeds(30, (96, 130), seed=1), (96, 130)
    moved = voronoi.tessellate(seeds + [17, -40], shape)
    np.testing.assert_array_equal(moved, np.roll(voronoi.tessellate(seeds, shape), (17, -40), axis=(0, 1)))


def test_cell_areas_count_every_pixel_and_keep_empty_grains():
    grain_map = voronoi.tessellate(voronoi.random_seeds(50, (64, 80)), (64, 80))
    areas = voronoi.cell_areas(grain_map, n=53)
    assert areas.sum() == 64 * 80
    assert len(areas) == 53
    assert not areas[50:].any()


def test_random_cells_have_the_area_variance_of_a_poisson_tessellation():
    # Gilbert (1962): the variance is 0.28018 of the squared mean. 4000 cells: standard error 0.009.
    shape = (1024, 1024)
    areas = voronoi.cell_areas(voronoi.tessellate(voronoi.random_seeds(4000, shape, seed=2), shape))
    assert areas.var() / areas.mean() ** 2 == pytest.approx(0.28018, abs=0.03)


def test_random_sides_have_the_variance_of_a_poisson_tessellation():
    sides = voronoi.sides(voronoi.random_seeds(20_000, (2000, 1500), seed=3), (2000, 1500))
    assert sides.mean() == 6
    assert sides.var() == pytest.approx(1.7808, abs=0.06)  # Brakke (1986); standard error about 0.02


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 200), height=st.integers(20, 400), width=st.integers(20, 400), seed=st.integers(0, 99)
)
def test_mean_number_of_sides_is_exactly_six(n, height, width, seed):
    assert voronoi.sides(voronoi.random_seeds(n, (height, width), seed), (height, width)).sum() == 6 * n


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize("shape", [(100, 100), (60, 100)])
def test_sides_are_the_bisectors_that_survive_clipping(n, shape):
    seeds = voronoi.random_seeds(n, shape, seed=n)
    np.testing.assert_array_equal(voronoi.sides(seeds, shape), brute_force_sides(seeds, shape))


def test_hexagonal_lattice_has_six_sides_and_alpha_one():
    seeds, shape = hexagonal_lattice(8, 10, spacing=20.0)
    integer_shape = tuple(round(size) for size in shape)  # (139, 200): the box is 0.3 % off the ideal lattice
    seeds = seeds * np.array(integer_shape) / shape
    assert (voronoi.sides(seeds, integer_shape) == 6).all()
    alpha = voronoi.nearest_neighbour_distances(seeds, integer_shape) / voronoi.d0(80, integer_shape)
    np.testing.assert_allclose(alpha, 1, atol=0.005)


def test_random_neighbour_distances_follow_the_rayleigh_law():
    # In a Poisson process the nearest neighbour is at r with density 2 pi rho r exp(-pi rho r^2).
    # Distances of mutual neighbours come in pairs, so every fifth seed is tested.
    shape, n = (1000, 1000), 5000
    distances = voronoi.nearest_neighbour_distances(voronoi.random_seeds(n, shape, seed=4), shape)
    rayleigh = stats.rayleigh(scale=np.sqrt(shape[0] * shape[1] / (2 * np.pi * n)))
    assert stats.kstest(distances[::5], rayleigh.cdf).pvalue > 0.01
    assert distances.mean() == pytest.approx(rayleigh.mean(), rel=0.03)  # Clark and Evans


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.7, voronoi.MAX_ALPHA])
def test_regular_seeds_keep_their_distance_across_the_edges(alpha):
    seeds = voronoi.regular_seeds(112, BOX, alpha, seed=6)
    offsets = np.abs(seeds[:, None] - seeds)
    distances = np.hypot(*np.minimum(offsets, BOX - offsets).transpose(2, 0, 1))
    least = distances[~np.eye(112, dtype=bool)].min()
    assert alpha * voronoi.d0(112, BOX) <= least < (alpha + 0.05) * voronoi.d0(112, BOX)


def test_every_alpha_up_to_the_limit_is_placed_for_any_number_of_grains():
    for n in (1, 2, 3, 5, 10, 20, 40, 150):
        for seed in range(10):
            assert len(voronoi.regular_seeds(n, BOX, voronoi.MAX_ALPHA, seed)) == n


def test_cells_become_more_uniform_as_alpha_grows():
    def variation(alpha):
        maps = [voronoi.tessellate(voronoi.regular_seeds(112, BOX, alpha, s), BOX) for s in range(4)]
        return np.concatenate([voronoi.cell_areas(m, 112) for m in maps]).std() / (512 * 512 / 112)

    variations = [variation(alpha) for alpha in (0.0, 0.3, 0.5, 0.7)]
    # Between neighbouring alphas the drop is 0.09 or more, the standard error of each about 0.02.
    assert all(a - b > 0.04 for a, b in pairwise(variations))


def test_alpha_zero_is_the_random_tessellation():
    np.testing.assert_array_equal(
        voronoi.regular_seeds(112, BOX, 0.0, seed=7), voronoi.random_seeds(112, BOX, seed=7)
    )


def test_lloyd_lowers_the_moment_at_every_sweep_towards_the_hexagonal_bound():
    # Fejes Toth: no n points have a mean squared distance below that of the hexagonal lattice,
    # 5 / (18 sqrt(3)) of the cell area. A sum over pixels differs from the integral by much less than 1 %.
    shape, n = (128, 128), 40
    moment = [
        brute_force_distances(voronoi.lloyd_seeds(n, shape, sweeps, seed=8), shape).min(-1).mean()
        for sweeps in (0, 1, 2, 3, 5, 10, 30)
    ]
    bound = 5 / (18 * np.sqrt(3)) * shape[0] * shape[1] / n
    assert all(a > b for a, b in pairwise(moment))
    assert 0.99 * bound < moment[-1] < 1.06 * bound
    assert moment[0] > 1.3 * bound


def test_lloyd_without_sweeps_is_the_random_tessellation():
    np.testing.assert_array_equal(
        voronoi.lloyd_seeds(9, BOX, 0, seed=3), voronoi.random_seeds(9, BOX, seed=3)
    )


@pytest.mark.parametrize(
    "place",
    [
        lambda seed: voronoi.random_seeds(20, (64, 64), seed),
        lambda seed: voronoi.regular_seeds(20, (64, 64), 0.7, seed),
        lambda seed: voronoi.lloyd_seeds(20, (64, 64), 3, seed),
    ],
    ids=["random", "regular", "lloyd"],
)
def test_same_seed_same_positions_inside_the_box(place):
    seeds = place(11)
    np.testing.assert_array_equal(seeds, place(np.random.default_rng(11)))
    assert (seeds != place(12)).any()
    assert ((seeds >= 0) & (seeds < 64)).all()


@pytest.mark.parametrize("alpha", [-0.1, 0.76, 1.0, float("nan")])
def test_alpha_beyond_the_limit_is_refused_with_the_limit(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 0.75\]"):
        voronoi.regular_seeds(112, BOX, alpha)


def test_a_jammed_box_is_refused_not_returned_half_full():
    with pytest.raises(ValueError, match=r"leaves no room for n = 500 seeds .* at most \d{3} were placed"):
        voronoi.regular_seeds(500, BOX, voronoi.MAX_ALPHA, max_tries=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voronoi.random_seeds(0, BOX), "n must be at least 1"),
        (lambda: voronoi.random_seeds(3, (0, 5)), "shape must be two positive sizes"),
        (lambda: voronoi.lloyd_seeds(3, BOX, -1), "sweeps must be 0 or more"),
        (lambda: voronoi.tessellate(np.zeros((0, 2)), BOX), "seeds must be finite positions"),
        (lambda: voronoi.tessellate(np.zeros((4, 3)), BOX), r"got an array of shape \(4, 3\)"),
        (lambda: voronoi.tessellate(np.array([[1.0, np.nan]]), BOX), "finite"),
        (lambda: voronoi.nearest_neighbour_distances(np.zeros((1, 2)), BOX), "at least 2"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
