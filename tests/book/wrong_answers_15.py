"""Typical wrong answers to the exercises of chapter 15."""

from __future__ import annotations

import math

import numpy as np
from wrong_answers import Answers


def counted(false, missed):
    """An answer that counts pictures one by one."""

    def both(warning, bad, x):
        pictures = [(w > x, b) for w, b in zip(warning, bad)]
        return false(pictures), missed(pictures)

    return both


def share(pictures, which, among=lambda alarm, bad: True):
    chosen = [which(alarm, bad) for alarm, bad in pictures if among(alarm, bad)]
    return float(np.mean(chosen))


ANSWERS = {
    "breaks-ex-film": Answers(
        [
            (lambda c, n: math.log10(c / n), "natural logarithm"),
            (lambda c, n: math.log2(c / n), "not 2"),
            (lambda c, n: n / c, "share that must get through"),
            (lambda c, n: (c - n) / c, "not in proportion"),
            (lambda c, n: math.log(n / c), "sign"),
        ]
    ),
    "breaks-ex-judge": Answers(
        [
            (
                counted(
                    lambda p: share(p, lambda a, b: a and not b), lambda p: share(p, lambda a, b: b and not a)
                ),
                "share of its own kind",
            ),
            (
                counted(
                    lambda p: share(p, lambda a, b: not b, lambda a, b: a),
                    lambda p: share(p, lambda a, b: b, lambda a, b: not a),
                ),
                "shares of the alarms",
            ),
            (
                counted(
                    lambda p: share(p, lambda a, b: a, lambda a, b: not b),
                    lambda p: share(p, lambda a, b: a, lambda a, b: b),
                ),
                "caught",
            ),
            (
                counted(
                    lambda p: share(p, lambda a, b: not a, lambda a, b: b),
                    lambda p: share(p, lambda a, b: a, lambda a, b: not b),
                ),
                "exchanged",
            ),
        ]
    ),
    "breaks-ex-lever": Answers(
        [
            (lambda c, a, b: (b - c) / (b - a), "share of alpha"),
            (lambda c, a, b: c / b, "from both"),
            (lambda c, a, b: (c - a) / b, "below"),
            (lambda c, a, b: c / (b - a), "above"),
        ]
    ),
}
