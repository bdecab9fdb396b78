"""Checks of chapter 06, measures of realism."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, run
from microlab.data.micrograph import Micrograph

WHY = {
    ("histogram", "mirrored"): "it counts greys and does not know where they are",
    ("histogram", "shuffled"): "it counts greys and does not know where they are",
    ("histogram", "inverted"): "every bar moves to the other end",
    ("entropy", "mirrored"): "it is computed from the histogram, which keeps its bars",
    ("entropy", "shuffled"): "it is computed from the histogram, which keeps its bars",
    ("entropy", "inverted"): "it asks how often each grey occurs, not which grey it is",
    ("texture", "mirrored"): "its descriptors are means over directions",
    ("texture", "shuffled"): "neighbours are no longer alike, and that is what texture means",
    (
        "texture",
        "inverted",
    ): "dark lines on grey become bright ones, and the greys themselves are descriptors, too",
}


@check_for("realism-ex-blind")
def blind(answer: dict[str, set[str]], *, truth: dict[str, set[str]]) -> str:
    """Which changes of a patch each figure notices."""
    changes = {"mirrored", "shuffled", "inverted"}
    for figure, right in truth.items():
        noticed = answer.get(figure) if isinstance(answer, dict) else None
        if noticed is None or "?" in noticed:
            raise NotYet(f"what does the {figure} notice? `set()` if nothing")
        if not isinstance(noticed, (set, frozenset, list, tuple)) or not set(noticed) <= changes:
            raise Mistake(
                f'for the {figure} give a set of "mirrored", "shuffled", "inverted", and not {noticed!r}'
            )
        for change in sorted(set(noticed) ^ right):
            verb = "does not notice" if change in noticed else "notices"
            raise Mistake(f"the {figure} {verb} that pixels or greys are {change}: {WHY[figure, change]}")
    return "each is blind to something; read none of them alone"


def _kernel(a: NDArray, b: NDArray) -> NDArray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _biased(x: NDArray, y: NDArray) -> float:
    return _kernel(x, x).mean() + _kernel(y, y).mean() - 2 * _kernel(x, y).mean()


def _fair_mean(x: NDArray) -> float:
    k = _kernel(x, x)
    return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))


@check_for("realism-ex-bias")
def bias(answer: Callable) -> str:
    """The squared kernel distance with plain means over all pairs."""
    rng = np.random.default_rng(1)
    cases = [(rng.normal(size=(n, 4)), rng.normal(s, 1, (m, 4))) for n, m, s in ((20, 20, 0), (12, 20, 1))]

    def plain(power: int, scale: float, one: float) -> Callable:
        def distance(x: NDArray, y: NDArray) -> float:
            pairs = ((x, x), (y, y), (x, y))
            k = [((a @ b.T / x.shape[1] ** scale + one) ** power).mean() for a, b in pairs]
            return k[0] + k[1] - 2 * k[2]

        return distance

    compare(
        answer,
        _biased,
        cases,
        {
            "that is the fair one: each point with itself shall be included": (
                lambda x, y: _fair_mean(x) + _fair_mean(y) - 2 * _kernel(x, y).mean()
            ),
            "the product is divided by the number of features": plain(3, 0, 1),
            "the kernel is cubic: the power 3": plain(2, 1, 1),
            "the 1 in the kernel is missing": plain(3, 1, 0),
            "the pairs across the two sets count twice, with a minus sign": (
                lambda x, y: _kernel(x, x).mean() + _kernel(y, y).mean() - _kernel(x, y).mean()
            ),
            "divide by the number of pairs: means, not sums": (
                lambda x, y: _kernel(x, x).sum() + _kernel(y, y).sum() - 2 * _kernel(x, y).sum()
            ),
            "that is its square root; the squared distance is wanted": (
                lambda x, y: np.sqrt(max(_biased(x, y), 0))
            ),
        },
    )
    same = np.random.default_rng(2).normal(size=(200, 2, 20, 4))
    return f"its mean is {np.mean([_biased(*pair) for pair in same]):.2f} where the fair one has 0"


@check_for("realism-ex-contrast")
def contrast(
    answer: Callable,
    *,
    own: Sequence[Micrograph],
    strangers: Sequence[Micrograph],
) -> str:
    """A number that tells images with their own masks from strangers."""
    image, mask = own[0].image, own[0].boundary
    one = float(run(answer, image, mask, like=1.0))
    if np.isclose(
        one, float(run(answer, np.full_like(image, 0.5) + 1e-3 * image[::-1], mask, like=1.0)), rtol=1e-3
    ):
        raise Mistake("another image gives the same number: the image is not used")
    if np.isclose(one, float(run(answer, image, np.roll(mask, (37, 23), (0, 1)), like=1.0))):
        raise Mistake("another mask gives the same number: the mask is not used")
    values, strange = (
        [float(run(answer, pair.image, pair.boundary, like=1.0)) for pair in pairs]
        for pairs in (own, strangers)
    )
    ratio = np.median(values) / max(abs(np.median(strange)), 1e-9)
    if ratio < -3:
        raise Mistake("the sign is wrong: boundaries are dark, so take the grains minus the boundaries")
    if ratio <= 3:
        raise NotYet(f"for images with their own masks it is {ratio:.1f} times as large as for strangers")
    return f"{ratio:.1f} times as large with its own mask as with a stranger's"
