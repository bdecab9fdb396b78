"""Neighbours and coalescence against brute force and graph theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microlab.measure.labels import neighbour_pairs
from microlab.simulate import voronoi
from microlab.simulate.topology import coalesce


def brute_force_pairs(grain_map: np.ndarray) -> list[list[int]]:
    """Every pair of different ids on pixels that share an edge, around the frame too."""
    height, width = grain_map.shape
    pairs = set()
    for (y, x), grain in np.ndenumerate(grain_map):
        for other in (grain_map[(y + 1) % height, x], grain_map[y, (x + 1) % width]):
            if other != grain:
                pairs.add((min(grain, other), max(grain, other)))
    return [list(pair) for pair in sorted(pairs)]


def pieces(grain_map: np.ndarray) -> int:
    """Number of connected regions of equal id in a periodic map, by flooding."""
    height, width = grain_map.shape
    visited, count = np.zeros(grain_map.shape, bool), 0
    for start in np.ndindex(grain_map.shape):
        if visited[start]:
            continue
        count += 1
        visited[start], stack = True, [start]
        while stack:
            y, x = stack.pop()
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                place = (v % height, u % width)
                if not visited[place] and grain_map[place] == grain_map[y, x]:
                    visited[place] = True
                    stack.append(place)
    return count


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(0, 999))
def test_neighbours_are_the_grains_that_share_an_edge(height, width, n, seed):
    grain_map = np.random.default_rng(seed).integers(0, n, (height, width))
    assert neighbour_pairs(grain_map, periodic=True)[0].tolist() == brute_force_pairs(grain_map)


def test_a_periodic_polycrystal_has_three_neighbour_pairs_per_grain():
    # Mean sides are exactly six and each side joins two grains. On pixels a very short side can be missed.
    grain_map = voronoi.tessellate(voronoi.lloyd_seeds(60, (256, 256), 20, 0), (256, 256))
    pairs, _ = neighbour_pairs(grain_map, periodic=True)
    assert len(pairs) == pytest.approx(3 * 60, abs=2)


MAP = voronoi.tessellate(voronoi.lloyd_seeds(80, (120, 120), 3, 1), (120, 120))


def joined_everywhere(before: np.ndarray, after: np.ndarray) -> dict[int, int]:
    """Grain before -> grain after; fails if a grain was cut."""
    table = np.unique(np.stack([before.ravel(), after.ravel()]), axis=1).T
    assert len(table) == len(np.unique(before))
    return dict(table.tolist())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_whole_grains_are_joined_with_neighbours_and_numbered_without_gaps(share, seed):
    after = coalesce(MAP, share, seed)
    assert after.dtype == np.int32
    assert after.shape == MAP.shape
    n = after.max() + 1
    assert np.unique(after).tolist() == list(range(n))
    joined_everywhere(MAP, after)
    assert pieces(MAP) == 80
    assert pieces(after) == n  # each is one region: only neighbours were joined


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_number_of_grains_falls_by_the_joints_less_the_cycles(share):
    # n grains and k joints leave n - k regions, and one more for every joint that closes a cycle.
    for seed in range(5):
        joints = round(share * 80)
        left = coalesce(MAP, share, seed).max() + 1
        assert 80 - joints <= left <= 80 - joints + joints // 2  # a cycle takes three of the joints


def test_k_joints_of_a_ring_of_grains_leave_all_but_k():
    # Five stripes around a torus make a ring: k joints of five close no cycle, so 5 - k grains are left.
    ring = np.tile(np.arange(5).repeat(3), (4, 1))
    for k in range(5):
        assert coalesce(ring, k / 5, seed=k).max() + 1 == 5 - k


def test_a_share_of_zero_only_renumbers():
    sparse_ids = MAP * 7 + 3
    np.testing.assert_array_equal(coalesce(sparse_ids, 0.0), MAP)


def test_joining_spreads_the_grain_sizes():
    def spread(grain_map):
        areas = np.bincount(grain_map.ravel())
        return areas.std() / areas.mean()

    assert np.mean([spread(coalesce(MAP, 0.4, seed)) for seed in range(5)]) > 1.5 * spread(MAP)


def test_the_seed_chooses_the_joints():
    np.testing.assert_array_equal(coalesce(MAP, 0.3, 4), coalesce(MAP, 0.3, np.random.default_rng(4)))
    assert (coalesce(MAP, 0.3, 4) != coalesce(MAP, 0.3, 5)).any()


def test_a_single_grain_has_no_neighbour_to_join():
    np.testing.assert_array_equal(coalesce(np.full((4, 6), 9), 0.9), np.zeros((4, 6)))
    assert neighbour_pairs(np.zeros((4, 6), int))[0].shape == (0, 2)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got"):
        coalesce(MAP, share)
