"""Checks of chapter 13, concepts into pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare, number


@check_for("concepts-ex-swallowed")
def swallowed(answer: float) -> str:
    """Largest radius at which a circle does not own its centre, 30 px from one of radius 34."""
    number(
        answer,
        np.sqrt(34**2 - 30**2),
        {
            "that circle would touch the first centre, which decides nothing": 30.0,
            "the axis is where the powers are equal, not where the circles touch": 4.0,
            "the squares of radii and distance add up, not the lengths; take the root": 34**2 - 30**2,
            "the distance belongs on the other side: the second circle is the smaller one": (
                np.sqrt(34**2 + 30**2)
            ),
        },
        name="radius",
    )
    return "16 px: smaller circles own no point of the line between the centres"


@check_for("concepts-ex-brute")
def brute(answer: Callable) -> str:
    """Power diagram by brute force."""
    rng = np.random.default_rng(13)
    shape = (30, 41)
    cases = [(rng.uniform(0, shape, (n, 2)), rng.uniform(2, 14, n), shape) for n in (2, 7, 12)]

    def squares(centres: NDArray, points: NDArray) -> NDArray:
        return ((points[:, None] - centres[:, :, None, None].transpose(1, 0, 2, 3)) ** 2).sum(0)

    def cells(power: Callable) -> Callable:
        def diagram(centres: NDArray, radii: NDArray, shape: tuple[int, int]) -> NDArray:
            return power(squares(centres, np.indices(shape)), radii[:, None, None]).argmin(0)

        return diagram

    def swapped(centres: NDArray, radii: NDArray, shape: tuple[int, int]) -> NDArray:
        return cells(lambda d2, r: d2 - r**2)(centres[:, ::-1], radii, shape)

    compare(
        answer,
        cells(lambda d2, r: d2 - r**2),
        cases,
        {
            "without the radii this is the Voronoi diagram": cells(lambda d2, r: d2),
            "the square of the radius is subtracted, not the radius": cells(lambda d2, r: d2 - r),
            "that is the distance to the circle's rim, whose cells have curved sides; square both": cells(
                lambda d2, r: np.sqrt(d2) - r
            ),
            "the sign is wrong: a large circle must have an advantage": cells(lambda d2, r: d2 + r**2),
            "centres are (y, x)": swapped,
        },
    )
    return "every pixel asks every circle, and the least power wins"
