"""Checks of chapter 01, Voronoi polycrystals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, number, run
from microlab.simulate import voronoi


@check_for("voronoi-ex-alpha")
def alpha(answer: float, *, seeds: NDArray, shape: tuple[int, int]) -> str:
    """Regularity of unknown seeds, to within 0.03."""
    distances = voronoi.nearest_neighbour_distances(seeds, shape)
    d0 = voronoi.d0(len(seeds), shape)
    number(
        answer,
        distances.min() / d0,
        {
            "that is a distance in pixels; divide it by `voronoi.d0`": distances.min(),
            "that is the mean distance between neighbours; the least one counts": distances.mean() / d0,
            "the least distance across the box counts too: the box is periodic": pdist(seeds).min() / d0,
            "that is upside down: the distance over `d0`": d0 / distances.min(),
        },
        rtol=0,
        atol=0.03 if abs(pdist(seeds).min() - distances.min()) < 0.03 * d0 else 0.01,
        name="my_alpha",
    )
    return "with few seeds it would be too large: the least distance found can only exceed the one asked for"


@check_for("voronoi-ex-needle")
def needle(answer: Callable) -> str:
    """Mean area under a needle over the mean area."""
    rng = np.random.default_rng(0)
    cases = [(np.array([1.0, 3.0]),), (rng.gamma(3.6, 70, 200),), (np.full(5, 8.0),)]
    compare(
        answer,
        lambda a: len(a) * (a**2).sum() / a.sum() ** 2,
        cases,
        {
            "every grain is equally likely in your answer, but a needle hits a large one more often": (
                lambda a: 1.0
            ),
            "that is the mean area under the needle; divide it by the mean area": (
                lambda a: (a**2).sum() / a.sum()
            ),
            "the spread, standard deviation over mean, enters squared": lambda a: 1 + a.std() / a.mean(),
            "these are all the grains and no sample of them: divide by n, not by n - 1": (
                lambda a: 1 + (a.std(ddof=1) / a.mean()) ** 2
            ),
            "the mean of the squares is not yet a mean over needles: divide by the square of the mean": (
                lambda a: (a**2).mean() / a.mean()
            ),
            "that is upside down: the grain under the needle over the mean grain": (
                lambda a: a.sum() ** 2 / (len(a) * (a**2).sum())
            ),
            "the 1 is missing: equal grains must give 1": lambda a: (a.std() / a.mean()) ** 2,
        },
    )
    return "so a mean over pixels and a mean over grains differ: say which one you report"


def _mean_sides(grain_map: NDArray) -> float:
    """Mean number of neighbours across an edge of a pixel, periodic."""
    pairs = {
        pair
        for axis in (0, 1)
        for one, other in [(grain_map.ravel(), np.roll(grain_map, 1, axis).ravel())]
        for pair in [*zip(one, other, strict=True), *zip(other, one, strict=True)]
        if pair[0] != pair[1]
    }
    return len(pairs) / (grain_map.max() + 1)


@check_for("voronoi-ex-chessboard")
def chessboard(chessboard: float, bricks: float) -> str:
    """Mean number of sides on a chessboard and in a brick wall."""
    row, column = np.indices((60, 80)) // 10
    board = row * 8 + column
    wall = row * 4 + (np.indices((60, 80))[1] + row % 2 * 10) % 80 // 20
    number(
        chessboard,
        _mean_sides(board),
        {
            "six needs three cells at each corner; on a chessboard four meet": 6,
            "squares that touch in a corner only have no side in common": 8,
            "at a corner 4 edges end, and each edge has 2 ends: 4 V = 2 E": 3,
        },
        rtol=1e-9,
        name="chessboard",
    )
    number(
        bricks,
        _mean_sides(wall),
        {
            "look at a joint: three bricks meet at a corner, not four": 4,
            "a brick has two neighbours above, two below and one at each end": 5,
            "bricks that touch in a corner only have no side in common": 8,
        },
        rtol=1e-9,
        name="bricks",
    )
    return "nature builds walls: the least push splits a fourfold corner into two triple junctions"


@check_for("voronoi-ex-rolled")
def rolled(answer: Callable) -> str:
    """A periodic grain map with grains `ratio` times as long along x."""
    for n, shape, ratio in ((300, (150, 300), 3), (300, (240, 240), 2)):
        grain_map = run(answer, n, shape, ratio)
        grain_map = np.asarray(grain_map)
        if grain_map.shape == (shape[0] * ratio, shape[1]):
            raise Mistake(
                f"your map {grain_map.shape} is still {ratio} times too tall: keep one row in {ratio}"
            )
        if grain_map.shape != shape:
            raise Mistake(f"the map has shape {grain_map.shape}, and {shape} was asked for")
        if grain_map.dtype.kind not in "iu":
            raise Mistake(f"a grain map holds whole numbers; yours holds {grain_map.dtype}")
        down = grain_map != np.roll(grain_map, 1, 0)
        across = grain_map != np.roll(grain_map, 1, 1)
        if max(down[0].mean() / down[1:].mean(), across[:, 0].mean() / across[:, 1:].mean()) > 3:
            raise Mistake("the map is not periodic: grains are cut where its opposite edges meet")
        count = len(np.unique(grain_map))
        if count < 0.9 * n:
            raise Mistake(f"only {count} grains of {n} are in the map: nothing may be cut off")
        elongation = down.mean() / across.mean()
        if abs(elongation * ratio - 1) < 0.15:
            raise Mistake("the grains are stretched along y; a row must have fewer boundaries than a column")
        if abs(elongation - 1) < 0.15:
            raise NotYet("these grains are as long as high")
        if abs(elongation / ratio**2 - 1) < 0.15:
            raise Mistake(
                f"{elongation:.1f} times as long as high: stretch one direction, not squeeze the other too"
            )
        if abs(elongation / ratio - 1) > 0.12:
            raise NotYet(f"the grains are {elongation:.2f} times as long as high, and {ratio} was asked for")
        if not np.array_equal(grain_map, answer(n, shape, ratio)):
            raise Mistake("the same seed gives two different maps: hand `seed` on to `random_seeds`")
        if np.array_equal(grain_map, np.asarray(answer(n, shape, ratio, 1))):
            raise Mistake("another seed gives the same map: hand `seed` on to `random_seeds`")
    return "stretching keeps ratios of areas, and who touches whom: spread and sides stay as they are"
