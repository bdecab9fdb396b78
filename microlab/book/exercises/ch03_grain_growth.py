"""Checks of chapter 03, grain growth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, number, run


@check_for("grain-growth-ex-half")
def half(answer: Callable) -> str:
    """Time until half of the grains are left, from area, grains and k."""
    compare(
        answer,
        lambda pixels, grains, k: pixels / grains / k,
        [(512.0 * 512, 112, 1.0), (1e6, 300, 0.4), (4e4, 25, 2.5)],
        {
            "the mean area grows by k, not the area of the sample: divide by the number of grains": (
                lambda pixels, grains, k: pixels / k
            ),
            "half as many grains have twice the mean area, so it grows by one, not by half of one": (
                lambda pixels, grains, k: pixels / grains / k / 2
            ),
            "it grows by one mean area, from one to two: not by two": (
                lambda pixels, grains, k: 2 * pixels / grains / k
            ),
            "a faster growth takes a shorter time: divide by k": lambda pixels, grains, k: (
                pixels / grains * k
            ),
            "the mean area grows by a constant amount per time; a half-life belongs to exponential decay": (
                lambda pixels, grains, k: np.log(2) / k
            ),
            "that counts grains where an area is wanted": lambda pixels, grains, k: grains / 2 / k,
        },
    )
    return "the next halving takes twice as long"


@check_for("grain-growth-ex-threshold")
def threshold(answer: float, *, x: NDArray, phi: NDArray) -> str:
    """Threshold at which a flat boundary is 3 px thick."""
    number(
        answer,
        np.interp(1.5, x, phi),
        {
            "3 px to each side make a line of 6 px: the line is centred on 0": np.interp(3.0, x, phi),
            "that is the lowest phi on a flat boundary, where the line is infinitely thin": phi.min(),
            "that is phi inside a grain: everything below it is boundary": 1.0,
        },
        rtol=0,
        atol=0.003,
        accept=lambda level: abs(np.count_nonzero(phi < level) * (x[1] - x[0]) - 3) < 0.1,
        name="my_threshold",
    )
    return "the threshold is phi at the edge of the line"


def _lowest_free(pairs: NDArray, n: int) -> NDArray[np.int64]:
    colours = np.full(n, -1)
    for grain in range(n):
        taken = {
            colours[b if a == grain else a] for a, b in pairs if grain in (a, b)
        }  # -1 for neighbours without a colour
        colours[grain] = min(set(range(n)) - taken)
    return colours


@check_for("grain-growth-ex-colour")
def colour(answer: Callable) -> str:
    """Greedy colouring: the lowest colour that no neighbour has, grain after grain."""
    rng = np.random.default_rng(0)
    ring = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]])
    star = np.array([[5, 0], [1, 5], [5, 2], [3, 5], [5, 4]])
    upper = np.argwhere(np.triu(rng.random((14, 14)) < 0.4, 1))
    mixed = np.where(rng.random((len(upper), 1)) < 0.5, upper, upper[:, ::-1])
    for pairs, n in ((ring, 5), (star, 6), (upper, 14), (mixed, 14)):
        expected = _lowest_free(pairs, n)
        colours = np.asarray(run(answer, pairs, n, like=expected))
        if not np.array_equal(colours, np.round(colours)) or colours.min() < 0:
            raise Mistake("colours are whole numbers from 0 on, and every grain has one")
        if np.array_equal(colours, expected + 1):
            raise Mistake("the lowest colour is 0; yours begin with 1")
        clash = pairs[colours[pairs[:, 0]] == colours[pairs[:, 1]]]
        if len(clash) and not colours.any():
            raise NotYet("all grains have colour 0")
        if len(clash):
            a, b = clash[0]
            raise Mistake(
                f"grains {a} and {b} touch and both have colour {colours[a]:.0f}. "
                "A grain may stand in either column of `pairs`"
            )
        if np.array_equal(colours, np.arange(n)):
            raise Mistake("every grain has a colour of its own: take the lowest that no neighbour has")
        if not np.array_equal(colours, expected):
            grain = int(np.argmax(colours != expected))
            raise Mistake(
                f"nothing clashes, but grain {grain} could have the lower colour {expected[grain]}: "
                "go through the grains in order"
                if colours[grain] > expected[grain]
                else "nothing clashes, but the grains were not taken in order"
            )
    return "the order of the grains matters: DSATUR takes the most hemmed-in grain first"


@check_for("grain-growth-ex-sharper")
def sharper(answer: float, *, ours: float) -> str:
    """Slope of the von Neumann-Mullins law, over pi/3, nearer to 1 than the chapter's."""
    number(
        answer,
        1.0,
        {
            "that is the chapter's own slope: measure with larger grains": ours,
            "give the slope as a multiple of pi/3: yours is not divided by it": np.pi / 3,
            "the fit is upside down: rate against number of sides": 3 / np.pi,
        },
        rtol=0,
        atol=1e-6,
        accept=lambda slope: abs(slope - 1) < abs(ours - 1) - 1e-6,
        name="my_slope",
    )
    return f"{answer:.3f} is nearer to 1 than {ours:.3f}: the size of the grains was the cause"
