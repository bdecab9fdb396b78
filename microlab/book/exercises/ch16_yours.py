"""Checks of chapter 16, your own micrographs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare


@check_for("yours-ex-pixel")
def size_of_pixel(answer: Callable) -> str:
    """Pixel size of an image that was shrunk after its scale bar was measured."""
    compare(
        answer,
        lambda b, n, shrink: b / n / shrink,
        [(10.0, 200, 0.5), (1.0, 80, 0.25), (5.0, 333, 2.0)],
        {
            "that is pixels per micrometre; one pixel's micrometres are wanted": lambda b, n, shrink: (
                n * shrink / b
            ),
            "a shrunk image has larger pixels, not smaller ones": lambda b, n, shrink: b / n * shrink,
            "that is the pixel before the image was shrunk": lambda b, n, shrink: b / n,
            "`shrink` is the share of the width, so it enters once, not squared": lambda b, n, shrink: (
                b / n / shrink**2
            ),
        },
    )
    return "whoever resamples an image has to change its pixel size with it"


@check_for("yours-ex-three")
def to_look_at(answer: Callable) -> str:
    """Boundaries that must be looked at, all right, to promise a share of faults at 95 %."""
    compare(
        answer,
        lambda q: np.ceil(np.log(0.05) / np.log1p(-q)),
        [(0.1,), (0.05,), (0.01,)],
        {
            "3 / q is the rule of three, a little too many; the exact number is wanted": lambda q: np.ceil(
                3 / q
            ),
            "a boundary cannot be looked at in part: round up": lambda q: np.log(0.05) / np.log(1 - q),
            "round up, or the promise is not kept": lambda q: np.floor(np.log(0.05) / np.log(1 - q)),
            "with 0.95 where 0.05 belongs you would promise next to nothing": lambda q: np.ceil(
                np.log(0.95) / np.log(1 - q)
            ),
        },
    )
    return "five percent wants 59 boundaries without a fault, one percent 299"


@check_for("yours-ex-corrections")
def area_factor(answer: Callable) -> str:
    """Mean grain area found over the true one, after missed and invented boundaries."""
    compare(
        answer,
        lambda n, missed, invented: n / (n - missed + invented),
        [(100, 5, 0), (100, 0, 8), (40, 6, 2), (300, 10, 10)],
        {
            "that is true over found": lambda n, missed, invented: (n - missed + invented) / n,
            "a missed boundary leaves fewer grains, an invented one makes more": lambda n, missed, invented: (
                n / (n + missed - invented)
            ),
            "that is the factor of the diameter; the area is its square": lambda n, missed, invented: np.sqrt(
                n / (n - missed + invented)
            ),
            "a missed boundary makes one grain of two, so one grain is lost, not two": (
                lambda n, missed, invented: n / (n - 2 * missed + 2 * invented)
            ),
            "a missed and an invented boundary cancel in the count; they do not add up": (
                lambda n, missed, invented: n / (n - missed - invented)
            ),
            "that is the error; the factor is wanted, 1 for none": lambda n, missed, invented: (
                n / (n - missed + invented) - 1
            ),
        },
    )
    return "as many missed as invented leave the mean right, and every grain concerned wrong"


@check_for("yours-ex-crossings")
def crossings(answer: Callable) -> str:
    """Changes of grain along a line of labels, 0 on boundaries."""

    def right(path: NDArray) -> int:
        return max(len([grain for grain, _ in groupby(grain for grain in path.tolist() if grain)]) - 1, 0)

    paths = [
        np.array([1, 1, 1, 0, 0, 2, 2, 0, 2, 2, 3, 3]),
        np.array([0, 0, 4, 4, 0, 7, 7, 7, 0, 4, 4, 0]),
        np.array([5, 5, 6, 6, 6, 0, 5, 5]),
        np.array([0, 0, 2, 2, 0, 2, 2, 2, 0, 9]),
    ]
    compare(
        answer,
        right,
        [(path,) for path in paths],
        {
            "into a boundary and out of it are two changes, and one crossing": lambda p: np.count_nonzero(
                p[1:] != p[:-1]
            ),
            "where two labels touch without a 0 between them there is a boundary, too": lambda p: sum(
                value == 0 for value, _ in groupby(p.tolist())
            ),
            "a line may leave a grain and come back later: count changes, not different grains": lambda p: (
                len(np.unique(p[p > 0])) - 1
            ),
            "these are the pieces of grain along the line; a crossing is between two": lambda p: right(p) + 1,
            "only neighbours that are both grain are compared, and most boundaries have a 0 between them": (
                lambda p: np.count_nonzero((p[1:] != p[:-1]) & (p[1:] > 0) & (p[:-1] > 0))
            ),
        },
        rtol=0,
    )
    return "every crossing is one boundary, however wide it is drawn"


@check_for("yours-ex-workers")
def seconds(answer: Callable) -> str:
    """Seconds until a number of images is done by some workers."""

    def right(n: int, t: float, s: float, w: int) -> float:
        free = np.full(w, float(s))
        for _ in range(n):  # each image goes to the worker that is free first
            free[free.argmin()] += t
        return float(free.max())

    compare(
        answer,
        right,
        [(12, 4.0, 6.0, 2), (7, 3.0, 10.0, 4), (1, 5.0, 6.0, 2), (100, 2.0, 8.0, 16)],
        {
            "an image is not divided among workers: round the images of one worker up": lambda n, t, s, w: (
                s + n * t / w
            ),
            "the last worker with an image counts: round up, not down": lambda n, t, s, w: s + t * (n // w),
            "workers start together, so the start counts once": lambda n, t, s, w: s * w + t * np.ceil(n / w),
            "the start is not shared: each worker needs all of it": lambda n, t, s, w: (
                s / w + t * np.ceil(n / w)
            ),
            "that is without the start of the workers": lambda n, t, s, w: t * np.ceil(n / w),
            "that is what one worker takes": lambda n, t, s, w: s + n * t,
        },
    )
    return "two workers pay once the saved half is longer than their start"


@check_for("yours-ex-bits")
def rounded(answer: Callable) -> str:
    """Weights rounded to multiples of a step of their own output channel."""

    def right(weights: NDArray, bits: int, axes: tuple[int, ...] | None = None, levels: int = -1) -> NDArray:
        inner = tuple(range(1, weights.ndim)) if axes is None else axes
        step = np.abs(weights).max(axis=inner, keepdims=True) / (2 ** (bits - 1) + levels)
        return np.round(weights / step) * step

    rng = np.random.default_rng(0)
    scale = np.array([1.0, 0.1, 3.0])[:, None, None, None]
    weights = scale * rng.standard_normal((3, 2, 3, 3))
    compare(
        answer,
        right,
        [(weights, 8), (weights, 4), (weights[:, :1, :1, :2], 3)],
        {
            "that is one step for all channels": lambda w, b: right(w, b, tuple(range(w.ndim))),
            "the first axis is the output channel, the second the input": lambda w, b: right(
                w, b, (0, *range(2, w.ndim))
            ),
            "those are the numbers of steps; times the step they are weights": lambda w, b: np.round(
                w / (np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True) / (2 ** (b - 1) - 1))
            ),
            "with 2^(b - 1) steps the largest weight does not fit into b bits; one less does": lambda w, b: (
                right(w, b, levels=0)
            ),
            "b bits are shared by both signs: the largest weight has 2^(b - 1) - 1 steps": lambda w, b: right(
                w, b + 1, levels=-1
            ),
            "round to the nearest step, not towards zero": lambda w, b: (
                np.trunc(
                    w
                    / (
                        step := np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True)
                        / (2 ** (b - 1) - 1)
                    )
                )
                * step
            ),
        },
    )
    return "a channel of small weights keeps them, whatever the largest of the layer is"
