"""Checks of chapter 15, when it breaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import check_for
from microlab.book.exercises.comparison import compare


@check_for("breaks-ex-film")
def film(answer: Callable) -> str:
    """Thickness at which a groove's contrast under a film has fallen to the noise."""
    compare(
        answer,
        lambda contrast, noise: np.log(contrast / noise),
        [(0.5, 0.05), (0.3, 0.02), (0.08, 0.04)],
        {
            "the film lets exp(-h) through: solve that, with the natural logarithm": (
                lambda contrast, noise: np.log10(contrast / noise)
            ),
            "the base of the exponential is e, not 2": lambda contrast, noise: np.log2(contrast / noise),
            "that is the share that must get through; which thickness lets so little through?": (
                lambda contrast, noise: noise / contrast
            ),
            "contrast falls exponentially, not in proportion": lambda contrast, noise: 1 - noise / contrast,
        },
    )
    return "a film twice as thick hides the square of the ratio of contrast to noise"


@check_for("breaks-ex-judge")
def judged(answer: Callable) -> str:
    """False alarms and misses of a threshold."""
    rng = np.random.default_rng(15)
    cases = []
    for share in (0.2, 0.5, 0.7):
        bad = rng.random(40) < share
        cases.append((rng.random(40) + 0.3 * bad, bad, 0.6))

    def ways(false: Callable, missed: Callable) -> Callable:
        def both(warning: NDArray, bad: NDArray, x: float) -> tuple[float, float]:
            alarm = warning > x
            return float(false(alarm, bad)), float(missed(alarm, bad))

        return both

    def right_false(alarm: NDArray, bad: NDArray) -> float:
        return alarm[~bad].mean()

    def right_missed(alarm: NDArray, bad: NDArray) -> float:
        return (~alarm[bad]).mean()

    compare(
        answer,
        ways(right_false, right_missed),
        cases,
        {
            "each is a share of its own kind: of the good pictures, and of the bad ones": ways(
                lambda alarm, bad: (alarm & ~bad).mean(), lambda alarm, bad: (~alarm & bad).mean()
            ),
            "these are shares of the alarms and of the silent pictures; divide by the number of good and of "
            "bad ones": ways(lambda alarm, bad: (~bad)[alarm].mean(), lambda alarm, bad: bad[~alarm].mean()),
            "the two are exchanged: false alarms come first": ways(right_missed, right_false),
            "the second is the share that is caught; a miss is a bad picture without an alarm": ways(
                right_false, lambda alarm, bad: alarm[bad].mean()
            ),
            "an alarm is a warning above the threshold": ways(
                lambda alarm, bad: (~alarm)[~bad].mean(), lambda alarm, bad: alarm[bad].mean()
            ),
        },
    )
    return "both are needed: whoever never looks has no false alarms, whoever always looks no misses"


@check_for("breaks-ex-lever")
def lever(answer: Callable) -> str:
    """Share of beta from a mean composition."""
    compare(
        answer,
        lambda mean, alpha, beta: (mean - alpha) / (beta - alpha),
        [(0.365, 0.05, 0.95), (0.3, 0.1, 0.6), (0.05, 0.05, 0.95)],
        {
            "that is the share of alpha": lambda mean, alpha, beta: (beta - mean) / (beta - alpha),
            "alpha holds some of the element too: subtract its composition from both": (
                lambda mean, alpha, beta: mean / beta
            ),
            "subtract alpha's composition below as well": lambda mean, alpha, beta: (mean - alpha) / beta,
            "subtract alpha's composition above as well": lambda mean, alpha, beta: mean / (beta - alpha),
        },
    )
    return "the lever rule: the nearer the mean is to beta, the more of it"
