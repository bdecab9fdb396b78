"""Typical wrong answers to the exercises of chapter 16."""

from __future__ import annotations

import itertools
import math

import numpy as np
from wrong_answers import Answers


def steps(weights, bits):
    return np.max(np.abs(weights), (1, 2, 3), keepdims=True) / (2 ** (bits - 1) - 1)


def grid(weights, step):
    return np.rint(weights / step) * step


ANSWERS = {
    "yours-ex-pixel": Answers(
        [
            (lambda b, n, shrink: n / b * shrink, "pixels per micrometre"),
            (lambda b, n, shrink: shrink * b / n, "larger pixels"),
            (lambda b, n, shrink: b * n**-1, "before the image was shrunk"),
            (lambda b, n, shrink: b / (n * shrink * shrink), "not squared"),
        ]
    ),
    "yours-ex-three": Answers(
        [
            (lambda q: math.ceil(3 / q), "rule of three"),
            (lambda q: math.log(0.05, 1 - q), "in part"),
            (lambda q: int(math.log(0.05) / math.log(1 - q)), "the promise is not kept"),
            (lambda q: math.ceil(math.log(0.95, 1 - q)), "0.95 where 0.05"),
        ]
    ),
    "yours-ex-corrections": Answers(
        [
            (lambda n, missed, invented: 1 + (invented - missed) / n, "true over found"),
            (lambda n, missed, invented: 1 / (1 + (missed - invented) / n), "leaves fewer grains"),
            (lambda n, missed, invented: (n / (n + invented - missed)) ** 0.5, "factor of the diameter"),
            (lambda n, missed, invented: n / (n + 2 * (invented - missed)), "not two"),
            (lambda n, missed, invented: 1 / (1 - (missed + invented) / n), "do not add up"),
            (lambda n, missed, invented: (missed - invented) / (n - missed + invented), "the error"),
        ]
    ),
    "yours-ex-crossings": Answers(
        [
            (lambda path: int((np.diff(path) != 0).sum()), "two changes, and one crossing"),
            (lambda path: len(set(path.tolist()) - {0}) - 1, "count changes"),
            (lambda path: int((np.diff(path[path > 0]) != 0).sum()) + 1, "pieces of grain"),
            (
                lambda path: sum(a != b for a, b in itertools.pairwise(path) if a and b),
                "0 between them",
            ),
            (
                lambda path: int((path == 0)[0]) + int((np.diff((path == 0).astype(int)) == 1).sum()),
                "without a 0 between",
            ),
        ]
    ),
    "yours-ex-bits": Answers(
        [
            (lambda w, b: grid(w, abs(w).max() / (2 ** (b - 1) - 1)), "one step for all channels"),
            (lambda w, b: grid(w, abs(w).max((0, 2, 3), keepdims=True) / (2 ** (b - 1) - 1)), "the input"),
            (lambda w, b: grid(w, steps(w, b)) / steps(w, b), "numbers of steps"),
            (
                lambda w, b: grid(w, steps(w, b) * (2 ** (b - 1) - 1) / 2 ** (b - 1)),
                "does not fit into b bits",
            ),
            (lambda w, b: grid(w, steps(w, b + 1)), "shared by both signs"),
            (lambda w, b: np.fix(w / steps(w, b)) * steps(w, b), "not towards zero"),
        ]
    ),
    "yours-ex-workers": Answers(
        [
            (lambda n, t, s, w: s + t * n / w, "not divided among workers"),
            (lambda n, t, s, w: s + t * math.floor(n / w), "not down"),
            (lambda n, t, s, w: w * s + t * math.ceil(n / w), "counts once"),
            (lambda n, t, s, w: t * math.ceil(n / w), "without the start"),
            (lambda n, t, s, w: s / w + math.ceil(n / w) * t, "needs all of it"),
        ]
    ),
}
