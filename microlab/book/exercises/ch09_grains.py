"""Checks of chapter 09, sizes of grains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare, number


@check_for("grains-ex-line")
def line(answer: Callable) -> str:
    """Share of a round grain's area that its lines leave."""
    compare(
        answer,
        lambda d, w: ((d - w) / d) ** 2,
        [(70.0, 8.0), (40.0, 4.0), (100.0, 30.0)],
        {
            "half a line goes at either end, so the diameter shrinks by a whole width": (
                lambda d, w: ((d - w / 2) / d) ** 2
            ),
            "each line is shared by two grains: only half a width goes at either end": (
                lambda d, w: ((d - 2 * w) / d) ** 2
            ),
            "that is the share of the diameter; an area goes with its square": lambda d, w: (d - w) / d,
            "that is the share that is lost; the share that remains is wanted": (
                lambda d, w: 1 - ((d - w) / d) ** 2
            ),
            "that is the area itself; divide it by that of the whole grain": (
                lambda d, w: np.pi / 4 * (d - w) ** 2
            ),
            "the share is what remains over the whole, not the other way round": lambda d, w: (
                (d / (d - w)) ** 2
            ),
            "the small square of w belongs to it, too: (1 - w/d)^2 is more than 1 - 2 w/d": (
                lambda d, w: 1 - 2 * w / d
            ),
        },
    )
    return "an eighth of the diameter hides almost a quarter of the area"


@check_for("grains-ex-needed")
def needed(answer: int) -> str:
    """Fields of 60 whole grains for a mean area within 10 %."""
    z = stats.norm.ppf(0.975)
    grains = 2 * (z * 1.2 / 0.1) ** 2
    fields = int(np.ceil(grains / 60))
    number(
        answer,
        fields,
        {
            "f = 2 is missing: grains of one field depend on each other, so twice as many are needed": int(
                np.ceil(grains / 2 / 60)
            ),
            "that is the number of grains; a field shows 60": grains,
            "that is the number of grains without f; a field shows 60": grains / 2,
            "a part of a field is none: round up": fields - 1,
            "f multiplies the variance, so it is not squared": int(np.ceil(2 * grains / 60)),
            "95 of 100 cases lie within 1.96 standard errors, not within one": int(
                np.ceil(grains / z**2 / 60)
            ),
            "the precision enters squared: ten times as sharp, a hundred times as many": int(
                np.ceil(2 * z * 1.2 / 0.1 / 60)
            ),
        },
        rtol=0,
        atol=0.5,
        accept=lambda value: value == fields,
        name="my_fields",
    )
    return f"{grains:.0f} grains in {fields} fields"


def _leads(a: NDArray, b: NDArray) -> NDArray:
    """Lead of one cumulative distribution over the other at each sample, counted one by one."""
    at = np.concatenate([a, b])
    return np.array([(a <= x).mean() - (b <= x).mean() for x in at])


@check_for("grains-ex-kuiper")
def kuiper(answer: Callable) -> str:
    """Kuiper's statistic of two samples of angles."""
    rng = np.random.default_rng(5)
    cases = [
        (rng.uniform(0, 180, 40), rng.uniform(0, 120, 50)),
        (rng.uniform(30, 150, 25), rng.uniform(0, 180, 25)),
        (rng.uniform(0, 60, 11), rng.uniform(0, 180, 30)),
    ]

    def in_the_list(a: NDArray, b: NDArray) -> float:
        gap = [(a <= x).sum() / len(b) - (b <= x).sum() / len(a) for x in np.concatenate([a, b])]
        return max(gap) - min(gap)

    compare(
        answer,
        lambda a, b: max(_leads(a, b).max(), 0) - min(_leads(a, b).min(), 0),
        cases,
        {
            "that is the largest lead either way (Kolmogorov and Smirnov); add the largest of each way": (
                lambda a, b: np.abs(_leads(a, b)).max()
            ),
            "that is the lead of the first over the second only": lambda a, b: _leads(a, b).max(),
            "that is the lead of the second over the first only": lambda a, b: -_leads(a, b).min(),
            "the lead the other way is positive too: the two are added": (
                lambda a, b: _leads(a, b).max() + _leads(a, b).min()
            ),
            "each sample is divided by its own number": in_the_list,
            "both are looked at where a sample of either lies, not only of the first": (
                lambda a, b: np.ptp([(a <= x).mean() - (b <= x).mean() for x in a])
            ),
        },
        rtol=1e-9,
    )
    return "open the circle elsewhere, and the value stays"


@check_for("grains-ex-fields")
def fields(answer: float, *, from_grains: float) -> str:
    """Coverage of intervals from the scatter between six fields."""
    number(
        answer,
        0.95,
        {
            "that is what the scatter between grains gave": from_grains,
            "that is in percent; store a share": 95.0,
            "with six fields the factor is Student's, 2.57 with 5 degrees of freedom, and not 1.96": 0.89,
            "with six fields the spread is divided by the root of six, which you may have left out": 1.0,
        },
        rtol=0.005,
        accept=lambda share: 0.90 < share < 0.99,
        name="my_coverage",
    )
    return "six fields are few, so the interval is wide; that is the honest width"
