"""Checks of chapter 12, how much synthetic data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, run
from microlab.measure import pixel


def _ious(matrix: NDArray) -> NDArray:
    """IoU of each class, NaN where a class is neither there nor predicted."""
    ious = []
    for c in range(len(matrix)):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        ious.append(matrix[c, c] / union if union else np.nan)
    return np.array(ious)


@check_for("dose-ex-metric")
def metric(answer: Callable) -> str:
    """Missing Class IoU from a confusion matrix."""
    rng = np.random.default_rng(0)
    cases = []
    for absent, unpredicted in ((3, None), (1, 1), (None, None), (0, None)):
        matrix = rng.integers(1, 50, (4, 4)) + 100 * np.eye(4, dtype=int)
        if absent is not None:
            matrix[absent] = 0  # not in the truth, though some pixels were given to it
        if unpredicted is not None:
            matrix[:, unpredicted] = 0
        cases.append((matrix,))

    def in_truth(matrix: NDArray) -> NDArray:
        return matrix.sum(1) > 0

    def diagonal_over(axis: int) -> Callable:
        return lambda m: np.mean((np.diag(m) / np.maximum(m.sum(axis), 1))[in_truth(m)])

    compare(
        answer,
        lambda m: np.mean(_ious(m)[in_truth(m)]),
        cases,
        {
            "a class that the truth lacks is left out of the mean, not counted as 0": (
                lambda m: np.nan_to_num(_ious(m)).mean()
            ),
            "that is mean IoU: a class that was only predicted counts in it and must not here": (
                lambda m: np.nanmean(_ious(m))
            ),
            "the union counts the overlap once: row plus column minus the diagonal": (
                lambda m: np.mean((np.diag(m) / np.maximum(m.sum(0) + m.sum(1), 1))[in_truth(m)])
            ),
            "that is recall: pixels given to a class wrongly (its column) are missing in the union": (
                diagonal_over(1)
            ),
            "that is precision: pixels of a class given to others (its row) are missing in the union": (
                diagonal_over(0)
            ),
            "that is pixel accuracy; each class counts alike, however large": (
                lambda m: np.trace(m) / m.sum()
            ),
            "true classes are the rows: a class is missing when its row is empty, not its column": (
                lambda m: np.nan_to_num(_ious(m))[m.sum(0) > 0].mean()
            ),
        },
    )
    return "only the empty row makes the difference from mean IoU"


@check_for("dose-ex-bin")
def bin_pays(answer: Callable) -> str:
    """Share of right pixels below which throwing them away raises the IoU."""
    compare(
        answer,
        lambda iou: 1 / (1 + 1 / iou),
        [(0.3,), (0.6,), (0.9,)],
        {
            "one half would leave the overlap out: a right pixel costs overlap, a wrong one only union": (
                lambda iou: 0.5
            ),
            "a wrong pixel thrown away makes the union smaller, too": lambda iou: iou,
            "that is the share of wrong pixels; q is the share of right ones": lambda iou: 1 / (1 + iou),
            "throwing away a right pixel leaves the union as it is: (I - q m) / (U - (1 - q) m)": (
                lambda iou: iou / 2
            ),
            "that is Dice; the inequality gives half of it": lambda iou: 2 * iou / (1 + iou),
            "q and 1 - q are exchanged": lambda iou: 1 - iou,
        },
    )
    return "never more than one half, and less for a poor class"


def _fooled(level: float, doses: int, seeds: int = 5, studies: int = 20_000) -> float:
    """Share of studies of useless doses in which an interval lies above 0."""
    draws = np.random.default_rng(1).normal(size=(studies, doses + 1, seeds))
    d = draws[:, 1:] - draws[:, :1]
    half = stats.t.ppf((1 + level) / 2, seeds - 1) * d.std(-1, ddof=1) / np.sqrt(seeds)
    return float((d.mean(-1) > half).any(1).mean())


@check_for("dose-ex-many")
def many(answer: Callable) -> str:
    """Level of each interval so that at most one study in forty is fooled."""
    levels = [float(run(answer, doses, like=0.95)) for doses in (7, 3, 20)]
    guesses = {
        "that is one interval's level, whatever the number of doses": [0.95] * 3,
        "that is the error that may be left; the level is 1 minus it": [0.05 / 7, 0.05 / 3, 0.05 / 20],
        "the probabilities of independent successes multiply: the level must rise, not fall": [
            0.95**7,
            0.95**3,
            0.95**20,
        ],
        "the level is a share, not in percent": [100 - 5 / 7, 100 - 5 / 3, 100 - 5 / 20],
        "the error is divided by the number of doses, not by its root": [
            1 - 0.05 / n**0.5 for n in (7, 3, 20)
        ],
    }
    for hint, guess in guesses.items():
        if np.allclose(levels, guess, atol=1e-4):
            raise Mistake(hint)
    if not all(0 < level < 1 for level in levels):
        raise Mistake(f"a level lies between 0 and 1; yours for 7 doses is {levels[0]:.4g}")
    if len(set(levels)) == 1:
        raise Mistake("more doses need a higher level each; yours does not depend on their number")
    for doses, level in zip((7, 3, 20), levels, strict=True):
        fooled = _fooled(level, doses)
        summary = f"with {doses} doses and a level of {level:.4f}, {fooled:.1%} of all studies are fooled"
        if fooled > 0.0275:  # 2.5 % and the noise of so many studies
            raise NotYet(f"{summary}: more than 2.5 %")
        if fooled < 0.005:
            raise NotYet(f"{summary}: safe, but far too wide, and a true gain would be missed")
    now, before = _fooled(levels[0], 7), _fooled(0.95, 7)
    return f"{now:.1%} of all studies of seven useless doses are fooled, {before:.1%} before"


@check_for("dose-ex-corrupt")
def corrupt(answer: Callable, *, masks: Sequence[NDArray], limit: float) -> str:
    """Systematic label noise: 85 to 95 % agreement, and class 1 worse than with random noise (`limit`)."""
    corrupted = []
    for mask in masks:
        result = np.asarray(run(answer, mask, like=mask))
        if not np.isin(result, np.unique(np.concatenate([np.ravel(m) for m in masks]))).all():
            raise Mistake("your masks hold classes that no true mask has")
        if not np.array_equal(result, np.asarray(answer(mask.copy()))):
            raise Mistake("the same mask is changed differently each time: a systematic error is not random")
        corrupted.append(result)
    agreement = float(np.mean([np.mean(a == b) for a, b in zip(masks, corrupted, strict=True)]))
    iou = pixel.class_iou(list(masks), corrupted, 4, per_image=False)[1]
    summary = (
        f"{agreement:.1%} of the pixels agree, IoU of class 1 {iou:.2f}, with random mistakes {limit:.2f}"
    )
    if agreement == 1:
        raise NotYet("no pixel is changed")
    if agreement < 0.85:
        raise Mistake(f"{summary}: too many pixels are changed")
    if agreement > 0.95:
        raise NotYet(f"{summary}: too few pixels are changed")
    if not iou < limit:
        raise Mistake(f"{summary}: the mistake spares the carbide network, class 1")
    return f"{summary}. No number of images averages this away"
