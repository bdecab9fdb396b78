"""Checks of chapter 08, scores of a segmentation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, number, run
from microlab.measure import boundary, pixel
from microlab.measure.labels import boundaries, components


@check_for("metrics-ex-dice")
def dice(answer: Callable) -> str:
    """Dice from IoU."""
    compare(
        answer,
        lambda iou: 2 / (1 / iou + 1),
        [(0.5,), (0.88,), (1.0,), (0.1,)],
        {
            "that is the other way, from Dice to IoU": lambda iou: iou / (2 - iou),
            "the overlap counts twice in Dice: the factor 2 above is missing": lambda iou: iou / (1 + iou),
            "Dice is not twice the IoU: it must be 1 where the IoU is 1": lambda iou: 2 * iou,
            "the IoU is not a square of Dice; write both with the overlap and the two areas": (
                lambda iou: iou**0.5
            ),
            "that leaves Dice and IoU equal": lambda iou: iou,
        },
    )
    return "an IoU of 0.88 is a Dice of 0.94"


@check_for("metrics-ex-worse")
def worse(answer: int, *, truth: NDArray[np.bool_]) -> str:
    """Least shift at which the right lines have a lower grain IoU than an empty mask."""

    def score(pixels: int) -> float:
        moved = np.pad(truth, ((0, 0), (pixels, 0)), mode="edge")[:, : truth.shape[1]]
        return pixel.iou(~truth, ~moved)

    empty_iou = pixel.iou(~truth, np.ones_like(truth))
    if answer is None or answer is Ellipsis:
        raise NotYet("there is no shift yet")
    number(answer, answer, name="shift")
    if answer != int(answer):
        raise Mistake("a shift here is a whole number of pixels")
    if not 0 <= answer < truth.shape[1]:
        raise Mistake(f"shift to the right by 0 to {truth.shape[1] - 1} px")
    shifted_iou = score(int(answer))
    summary = f"grain IoU {shifted_iou:.3f}, of the empty mask {empty_iou:.3f}"
    if shifted_iou >= empty_iou:
        raise NotYet(f"{summary}: still better than nothing")
    if score(int(answer) - 1) < empty_iou:
        raise NotYet(f"{summary}, but a smaller shift does it too")
    return f"{summary}: all grains are there, with their right sizes, a little to one side"


@check_for("metrics-ex-sabotage")
def sabotage(answer: NDArray, *, truth: NDArray[np.bool_], count: Callable[[NDArray], int]) -> str:
    """Erase less than 4 % of the boundary so that half of the grains are joined to others."""
    if answer is None or answer is Ellipsis:
        raise NotYet("there is no mask yet")
    mask = np.asarray(answer)
    if mask.shape != truth.shape or mask.dtype != bool:
        raise Mistake(f"the mask must be bool with shape {truth.shape}; yours is {mask.dtype} {mask.shape}")
    if (mask & ~truth).any():
        raise Mistake("only erase: your mask draws boundary where there is none")
    n, left = count(truth), count(mask)
    erased, f1 = 1 - mask.sum() / truth.sum(), boundary.boundary_f1(truth, mask, 2)
    summary = f"{left} of {n} grains left, {erased:.1%} erased, boundary F1 {f1:.3f}"
    if erased == 0:
        raise NotYet("nothing is erased")
    if erased >= 0.04:
        raise Mistake(
            f"{summary}: too much is erased. A small hole joins two grains as well as no line at all"
        )
    if f1 < 0.98:
        raise Mistake(f"{summary}: boundary F1 notices. Holes no longer than the tolerance go unseen")
    if left > n / 2:
        raise NotYet(f"{summary}: cut where two grains are not joined yet, and right through the line")
    return f"{summary}"


def _rand(true_labels: NDArray, labels: NDArray, ordered: bool = True) -> tuple[float, float, float]:
    """Pairs together in both, in the truth, in the answer; by counting every pair."""
    t, f = true_labels.ravel(), labels.ravel()
    same_t, same_f = t[:, None] == t, f[:, None] == f
    off = ~np.eye(len(t), dtype=bool) if ordered else np.ones((len(t), len(t)), bool)
    return tuple(float((pairs & off).sum()) for pairs in (same_t & same_f, same_t, same_f))


@check_for("metrics-ex-rand")
def rand(answer: Callable) -> str:
    """Adapted Rand error."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(np.arange(1, 7).reshape(2, 3), 8, 0), 8, 1)
    merged, split = np.where(truth == 2, 1, truth), truth + 10 * (np.indices(truth.shape)[0] % 8 > 4)
    cases = [(truth, merged), (truth, split), (truth, truth), (truth, rng.integers(1, 5, truth.shape))]

    def error(true_labels: NDArray, labels: NDArray) -> float:
        both, in_truth, in_found = _rand(true_labels, labels)
        return 1 - 2 * both / (in_truth + in_found)

    def with_itself(true_labels: NDArray, labels: NDArray) -> float:
        both, in_truth, in_found = _rand(true_labels, labels, ordered=False)
        return 1 - 2 * both / (in_truth + in_found)

    def rand_index(true_labels: NDArray, labels: NDArray) -> float:
        both, in_truth, in_found = _rand(true_labels, labels)
        return (in_truth + in_found - 2 * both) / (truth.size * (truth.size - 1))

    compare(
        answer,
        error,
        cases,
        {
            "that is the score; the error is 1 minus it": lambda t, f: 1 - error(t, f),
            "a pixel makes no pair with itself: k (k - 1), not k squared": with_itself,
            "that is only the share of found pairs that are right, which no split hurts": (
                lambda t, f: 1 - _rand(t, f)[0] / _rand(t, f)[2]
            ),
            "that is only the share of true pairs that are found, which no merger hurts": (
                lambda t, f: 1 - _rand(t, f)[0] / _rand(t, f)[1]
            ),
            "the plain Rand error takes all pairs; here only those within a grain count": rand_index,
        },
        rtol=1e-6,
    )
    return "scikit-learn's `pair_confusion_matrix` counts the same pairs"


def _squares() -> tuple[NDArray, list[tuple[slice, slice]]]:
    """Four by four grains of 40 px, and a slice across the middle of each of their 24 lines."""
    labels = np.arange(1, 17).reshape(4, 4).repeat(40, 0).repeat(40, 1)
    lines = []
    for row in range(4):
        for column in range(1, 4):
            middle, at = 40 * row + 20, 40 * column
            lines.append((slice(middle - 3, middle + 3), slice(at - 6, at + 6)))
            lines.append((slice(at - 6, at + 6), slice(middle - 3, middle + 3)))
    return labels, lines


@check_for("metrics-ex-open")
def open_lines(answer: Callable) -> str:
    """A score that counts open boundaries."""
    labels, lines = _squares()
    away = distance_transform_edt(~boundaries(labels))

    def with_gaps(k: int) -> NDArray[np.bool_]:
        mask = away <= 1.5
        for line in lines[:k]:
            mask[line] = False
        return mask

    moved = np.pad(away <= 1.5, ((0, 0), (2, 0)), mode="edge")[:, :160]
    cases = {
        "the true lines": (away <= 1.5, 0.0, "closed lines are not open"),
        "thin lines": (away <= 0.5, 0.0, "a thin line closes as well as a thick one"),
        "thick lines": (away <= 3.5, 0.0, "a thick line closes as well as a thin one"),
        "lines shifted by 2 px": (moved, 0.0, "a shift within the tolerance must not count"),
        "no line at all": (np.zeros_like(moved), 1.0, "every line is open"),
        "3 gaps in 24 lines": (with_gaps(3), 3 / 24, "count lines, not pixels and not grains"),
        "9 gaps in 24 lines": (
            with_gaps(9),
            9 / 24,
            "each open line counts once, also where it joins grains that are joined already",
        ),
    }
    for name, (mask, expected, reason) in cases.items():
        value = float(run(answer, labels, mask, like=1.0))
        merged = 1 - components(mask, min_area=30, fill=True).max() / 16
        if abs(value - expected) < 0.005:
            continue
        if 0 < expected < 1 and abs(value - merged) < 0.005:
            raise Mistake(f"for {name} you count the grains that are gone; {reason}")
        if abs(value - (1 - expected)) < 0.005:
            raise Mistake(f"for {name} it says {value:.3f}: that is the closed share, the open one is wanted")
        raise Mistake(f"for {name} it says {value:.3f}, and {expected:.3f} is right: {reason}")
    return "what fools it? Invented lines, and grains that moved: it is half a score, and wants a partner"
