"""Checks of chapter 14, from edges to closed boundaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare

SQUARE = np.ones((3, 3), bool)


@check_for("closed-ex-beyond")
def beyond_nothing(answer: Callable) -> str:
    """Share of the empty predictor's error that a method removes."""
    compare(
        answer,
        lambda accuracy, share: 1 - (1 - accuracy) / share,
        [(0.9723, 0.05), (0.96, 0.062), (0.5, 0.5), (0.9, 0.06)],
        {
            "that is what is left of the error, not what was removed": lambda accuracy, share: (
                (1 - accuracy) / share
            ),
            "that is the gain in points; divide it by the error that there was": lambda accuracy, share: (
                accuracy - (1 - share)
            ),
            "the empty predictor is wrong on the boundary's share of the pixels, not on the rest": (
                lambda accuracy, share: 1 - (1 - accuracy) / (1 - share)
            ),
            "divide by the error of the empty predictor, not by its accuracy": lambda accuracy, share: (
                (accuracy - (1 - share)) / (1 - share)
            ),
        },
    )
    return "the paper removes 45 % of an error of 5 %, if that is what its boundaries cover"


@check_for("closed-ex-threshold")
def noise_threshold(answer: Callable) -> str:
    """Threshold that pure noise exceeds at a stated rate."""
    rng = np.random.default_rng(14)
    fields = [np.hypot(*rng.standard_normal((2, 60, 50))) * scale for scale in (0.01, 1.0, 7.0)]

    def right(strength: NDArray, rate: float) -> float:
        return float(np.median(strength) * np.sqrt(np.log2(1 / rate)))

    compare(
        answer,
        right,
        list(zip(fields, (0.01, 0.05, 0.001), strict=True)),
        {
            "the logarithm is to base 2, because half of the pixels exceed the median": (
                lambda r, q: np.median(r) * np.sqrt(np.log(1 / q))
            ),
            "the square root is missing": lambda r, q: np.median(r) * np.log2(1 / q),
            "the mean is moved by strong edges; take the median": (
                lambda r, q: r.mean() * np.sqrt(np.log2(1 / q))
            ),
            "that is a percentile of this picture: edges count in it as well as noise": (
                lambda r, q: np.quantile(r, 1 - q)
            ),
            "the median stands for the half of the pixels: it is not squared": (
                lambda r, q: np.median(r) ** 2 * np.sqrt(np.log2(1 / q))
            ),
        },
    )
    return "and it needs no knob but the rate"


@check_for("closed-ex-agree")
def two_agree(answer: Callable) -> str:
    """Edges that a second detector sees in the same pixel or in one of its eight neighbours."""
    rng = np.random.default_rng(15)
    cases = [((rng.random((3, 24, 30)) < share).astype(np.float32),) for share in (0.03, 0.1, 0.2)]

    def grown(edges: NDArray) -> NDArray:
        return np.stack([binary_dilation(channel > 0, SQUARE) for channel in edges])

    def right(edges: NDArray) -> NDArray[np.bool_]:
        return (grown(edges).sum(0) >= 2) & (edges > 0).any(0)

    compare(
        answer,
        right,
        cases,
        {
            "detectors place a line a pixel apart: let a neighbour count as well": (
                lambda edges: (edges > 0).sum(0) >= 2
            ),
            "only pixels where some detector has an edge itself should stay": (
                lambda edges: grown(edges).sum(0) >= 2
            ),
            "two of three are enough, all three are not needed": (
                lambda edges: (grown(edges).sum(0) >= 3) & (edges > 0).any(0)
            ),
            "one detector alone is no agreement": lambda edges: (edges > 0).any(0),
            "diagonal neighbours count too": lambda edges: (
                (np.stack([binary_dilation(c > 0) for c in edges]).sum(0) >= 2) & (edges > 0).any(0)
            ),
        },
    )
    return "the paper's rule of thumb for which edges to believe"


@check_for("closed-ex-toss")
def tossed(answer: Callable) -> str:
    """Mean of Bernoulli diffusion at a time."""
    x0 = np.random.default_rng(16).integers(0, 2, (6, 7)).astype(float)
    compare(
        answer,
        lambda x, a: a * x + (1 - a) / 2,
        [(x0, 1.0), (x0, 0.0), (x0, 0.3), (1 - x0, 0.8)],
        {
            "at the end the mean must be one half: a tossed pixel is 1 half of the time": lambda x, a: a * x,
            "a fair coin shows 1 half of the time: halve the second summand": lambda x, a: a * x + (1 - a),
            "`a` is the share that is kept; you toss it": lambda x, a: (1 - a) * x + a / 2,
            "a kept pixel keeps its value, a tossed one has the mean 1/2; weigh them with `a` and `1 - a`": (
                lambda x, a: x * (1 - a / 2)
            ),
        },
    )
    return "0.5 everywhere at `a = 0`, which is the test that finds the dead summand"
