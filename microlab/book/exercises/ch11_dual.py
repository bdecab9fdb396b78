"""Checks of chapter 11, sampled pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare, number


def _perplexity(share: NDArray) -> float:
    return float(np.prod([1 / p**p for p in share if p > 0]))


@check_for("dual-ex-perplexity")
def perplexity(my_perplexity: float, function: Callable) -> str:
    """Perplexity of eight codes, and of any shares."""
    shares = np.array([1 / 4] * 2 + [1 / 8] * 4 + [0.0] * 2)
    number(
        my_perplexity,
        _perplexity(shares),
        {
            "that is the entropy in bits; the perplexity is 2 to its power": 2.5,
            "six codes are in use, but not equally often": 6.0,
            "two of the eight codes are never chosen": 8.0,
            "2.5 bits are an entropy to the base 2, so the power is of 2 and not of e": float(np.exp(2.5)),
        },
        rtol=0.01,
        name="my_perplexity",
    )
    rng = np.random.default_rng(0)
    cases = [(shares[shares > 0],), (np.full(5, 0.2),), (rng.dirichlet(np.ones(7)),), (shares,)]

    def entropy(share: NDArray, log: Callable) -> float:
        used = share[share > 0]
        return float(-(used * log(used)).sum())

    compare(
        function,
        _perplexity,
        cases,
        {
            "that is the entropy; the perplexity is 2 to its power": lambda p: entropy(p, np.log2),
            "that is the entropy; the perplexity is e to its power": lambda p: entropy(p, np.log),
            "the base of the power must be that of the logarithm: 2 with `log2`, e with `log`": (
                lambda p: np.exp(entropy(p, np.log2))
            ),
            "the base of the power must be that of the logarithm: e with `log`, 2 with `log2`": (
                lambda p: 2 ** entropy(p, np.log)
            ),
            "the minus of the entropy is missing": lambda p: 1 / _perplexity(p),
            "that is the number of codes in use, however seldom": lambda p: float((p > 0).sum()),
            "that is one over the sum of squares; the perplexity comes from the entropy": (
                lambda p: 1 / (p**2).sum()
            ),
            "each logarithm is weighted by its share: a sum, not a mean": (
                lambda p: 2 ** -(np.log2(p[p > 0]).mean())
            ),
        },
    )
    return "fewer than the six codes in use, because they are not used alike"


@check_for("dual-ex-gradient")
def gradient(answer: float) -> str:
    """Straight-through gradient at z = 0.3 with code 0, target 0.4 and beta 0.25."""
    z, code, target, beta = 0.3, 0.0, 0.4, 0.25
    number(
        answer,
        2 * (code - target) + 2 * beta * (z - code),
        {
            "the commitment is missing: it pulls z to its code": 2 * (code - target),
            "the decoder gets the code and not z: x' is 0": 2 * (z - target) + 2 * beta * (z - code),
            "the decoder gets the code and not z, and the commitment is missing": 2 * (z - target),
            "that is the commitment alone: straight-through hands the decoder's gradient on to z": (
                2 * beta * (z - code)
            ),
            "the sign is wrong": -(2 * (code - target) + 2 * beta * (z - code)),
            "beta weighs the commitment": 2 * (code - target) + 2 * (z - code),
            "the derivative of a square has a 2": (code - target) + beta * (z - code),
            "the staircase has no slope, and therefore one pretends that it is not there": 0.0,
        },
        rtol=0,
        atol=0.01,
        name="my_gradient",
    )
    return "the two parts pull against each other"


def _mask(side: int, kind: str) -> NDArray:
    order = np.arange(side**2).reshape(side, side)  # when each place is drawn
    now = order[side // 2, side // 2]
    return (order < now if kind == "A" else order <= now).astype(float)


@check_for("dual-ex-mask")
def mask(answer: Callable) -> str:
    """Mask of a PixelCNN kernel."""
    rows = {side: (np.indices((side, side))[0] < side // 2).astype(float) for side in (3, 5, 7)}
    compare(
        answer,
        _mask,
        [(side, kind) for side in (3, 5, 7) for kind in "AB"],
        {
            "A and B are exchanged: B sees its own middle": lambda s, k: _mask(s, "B" if k == "A" else "A"),
            "type A is without its middle: in the first layer it would see the answer": lambda s, k: _mask(
                s, "B"
            ),
            "type B has its middle": lambda s, k: _mask(s, "A"),
            "that looks at what is still to be drawn": lambda s, k: _mask(s, k)[::-1, ::-1],
            "those are the hidden places; 1 stands where the kernel may look": lambda s, k: 1 - _mask(s, k),
            "the middle row counts too, as far as its middle": lambda s, k: rows[s],
            "the rows above are seen from end to end": (lambda s, k: _mask(s, k) * (np.arange(s) <= s // 2)),
            "the whole middle row is too much: what lies right of the middle is not drawn yet": (
                lambda s, k: np.maximum(rows[s], (np.indices((s, s))[0] == s // 2).astype(float))
            ),
        },
        reveal=False,
    )
    return "the library never stores the zeros"


@check_for("dual-ex-area")
def area(answer: Callable) -> str:
    """Largest area such that all objects under it hold at most a share of the class."""
    rng = np.random.default_rng(4)

    def least(areas: NDArray, share: float) -> float:
        return max(a for a in areas if areas[areas < a].sum() <= share * areas.sum())

    def kept(areas: NDArray, share: float) -> NDArray:
        areas = np.sort(areas)
        return areas[np.cumsum(areas) <= share * areas.sum()]

    cases = [
        (rng.permutation(np.unique(rng.gamma(0.6, 300, n).astype(int) + 1)), share)
        for n, share in ((60, 0.1), (150, 0.3), (200, 0.02))
    ]
    compare(
        answer,
        least,
        cases,
        {
            "that is a share of the number of objects; the share of their area is meant": (
                lambda a, s: np.sort(a)[int(s * len(a))]
            ),
            "a quantile is a share of the number of objects; the share of their area is meant": np.quantile,
            "that object lies within the share and may go: the next larger one is the least that stays": (
                lambda a, s: kept(a, s)[-1] if len(kept(a, s)) else 0
            ),
            "that is a share of the largest object": lambda a, s: s * a.max(),
            "that is how many objects go; their area is wanted": lambda a, s: len(kept(a, s)),
            "begin with the smallest object, not with the largest": (
                lambda a, s: np.sort(a)[::-1][np.cumsum(np.sort(a)[::-1]) > s * a.sum()][0]
            ),
            "the areas come in any order: sort them first": lambda a, s: a[np.cumsum(a) > s * a.sum()][0],
        },
    )
    return "by number instead of area far smaller objects would stay"


@check_for("dual-ex-segment")
def segment(answer: float, *, without: float) -> str:
    """Share of the network that is painted when the mask is withheld."""
    number(
        answer,
        without,
        {
            "that is in percent; give a share": 100 * without if without > 0.02 else 100.0,
            "it cannot see the network in the mask, and never had to look for it in the image": 1.0,
        },
        rtol=0,
        atol=0.1,
        name="my_share",
    )
    return f"it is {without:.2f}: to copy the mask was easier than to understand the image"
