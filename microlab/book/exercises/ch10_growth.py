"""Checks of chapter 10, growth curves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, number
from microlab.measure import growth


@check_for("growth-ex-constant")
def constant(by_area: float, by_radius: float) -> str:
    """Factors of k when areas, and when radii, are 8 % too large."""
    number(
        by_area,
        1.08,
        {
            "R squared is in proportion to the area: the factor of the area is that of k": 1.08**2,
            "R is the root of the area, but k belongs to R squared": 1.08**0.5,
            "k is a slope, and every point is lifted in proportion to its height: so is the slope": 1.0,
        },
        rtol=1e-3,
        name="factor_area",
    )
    number(
        by_radius,
        1.08**2,
        {
            "radii enter squared": 1.08,
            "radii enter squared, not their roots": 1.08**0.5,
            "squared, not doubled: 1.08 times 1.08": 1.16,
            "k is a slope, and every point is lifted in proportion to its height: so is the slope": 1.0,
        },
        rtol=1e-3,
        name="factor_radius",
    )
    return "no fit can see such an error: the curve is a parabola all the same"


def _slope(t: NDArray, y: NDArray) -> float:
    return float(((t - t.mean()) * (y - y.mean())).sum() / ((t - t.mean()) ** 2).sum())


@check_for("growth-ex-rate")
def rate(answer: Callable) -> str:
    """The k of R^2 = R0^2 + k t from mean areas, by least squares."""
    rng = np.random.default_rng(3)
    cases = []
    for n, k in ((12, 0.8), (8, 2.5), (20, 0.3)):
        t = np.sort(rng.uniform(100, 900, n))
        cases.append((t, np.pi * (150 + k * t) + rng.normal(0, 20, n)))
    compare(
        answer,
        lambda t, areas: _slope(t, areas / np.pi),
        cases,
        {
            "that is the slope of the area; R squared is the area over pi": _slope,
            "the law is about R squared, and that is the slope of R": (
                lambda t, areas: _slope(t, np.sqrt(areas / np.pi))
            ),
            "the line need not go through the origin: R0 is not zero": (
                lambda t, areas: (t * areas / np.pi).sum() / (t**2).sum()
            ),
            "use all points, not only the first and the last": (
                lambda t, areas: (areas[-1] - areas[0]) / np.pi / (t[-1] - t[0])
            ),
            "time is the abscissa; you fitted it against the size": lambda t, areas: _slope(areas / np.pi, t),
            "`np.polyfit` gives the slope first and the offset second": (
                lambda t, areas: float(np.polyfit(t, areas / np.pi, 1)[1])
            ),
            "that is the exponent of a power law, not the rate": lambda t, areas: _slope(
                np.log(t), np.log(areas)
            ),
        },
        rtol=1e-5,
    )
    return "`growth.fit_parabola` does the same with a weight for each point"


@check_for("growth-ex-grains")
def grains(answer: float, *, error: ArrayLike, count: ArrayLike, target: float = 0.02) -> str:
    """Grains for a relative standard error; `error` is that of frames with `count` grains."""
    error, count = np.asarray(error, float), np.asarray(count, float)
    needed = float(np.mean(count * (error / target) ** 2))
    number(
        answer,
        needed,
        {
            "the error falls with the root of the number: half the error takes four times the grains": float(
                np.mean(count * error / target)
            ),
            "2 % is 0.02: you took percent for a share": needed * 1e-4,
            "a standard error is wanted, not the half of a 95 % interval": needed * 1.96**2,
            "that is how many frames' worth of grains; give the grains": float(
                np.mean((error / target) ** 2)
            ),
        },
        rtol=0.2,
        name="needed",
    )
    return f"about {needed:.0f} grains"


@check_for("growth-ex-whole")
def whole(answer: float, *, time: ArrayLike, areas: ArrayLike, error: ArrayLike, k: float) -> str:
    """k from the whole grains only, over that of the simulation."""
    ratio = growth.fit_parabola(time, areas, error).k / k
    number(
        answer,
        ratio,
        {
            "upside down: the k of the whole grains over that of the simulation": 1 / ratio,
            "that is the k itself; divide it by `law.exact.k`": ratio * k,
            "that is the relative error; the quotient is wanted": ratio - 1,
        },
        rtol=0,
        atol=0.01,
        name="whole_ratio",
    )
    way = "slow" if ratio < 1 else "fast"
    return f"growth seems too {way}: the larger the grains, the more of the large ones the frame cuts"


@check_for("growth-ex-scale")
def scale(answer: object, *, before: object) -> str:
    """Kinetics measured at half the scale."""
    if answer is None or answer is Ellipsis:
        raise NotYet("mine is empty")
    if not hasattr(answer, "ratio"):
        raise Mistake(f"mine is a {type(answer).__name__}; store what `growth.kinetics` returns")
    if answer.ratio == before.ratio:
        raise Mistake("that is the old scale: observe again with `scale=0.5`, then measure")
    if not np.isclose(answer.exact.k, before.exact.k, rtol=0.05):
        raise Mistake("that is another simulation: observe the same `grown`, or nothing can be compared")
    return f"k is {answer.ratio:.2f} of the true one, {before.ratio:.2f} before"
