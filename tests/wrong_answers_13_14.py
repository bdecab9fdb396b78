"""Typical wrong answers to the exercises of chapters 13 and 14."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation
from wrong_answers import Answers

SQUARE = np.ones((3, 3))


def near(edges, structure=SQUARE):
    return np.sum([binary_dilation(channel > 0, structure) for channel in edges], axis=0)


ANSWERS = {
    # ---- 14 ----
    "closed-ex-beyond": Answers(
        [
            (lambda accuracy, share: (1 - accuracy) / share, "what is left"),
            (lambda accuracy, share: accuracy + share - 1, "in points"),
            (lambda accuracy, share: 1 - (1 - accuracy) / (1 - share), "wrong on the boundary"),
            (lambda accuracy, share: (accuracy + share - 1) / (1 - share), "error of the empty predictor"),
        ]
    ),
    "closed-ex-threshold": Answers(
        [
            (lambda r, q: np.median(r) * np.sqrt(-np.log(q)), "base 2"),
            (lambda r, q: np.median(r) * -np.log2(q), "square root"),
            (lambda r, q: np.mean(r) * np.sqrt(-np.log2(q)), "take the median"),
            (lambda r, q: np.percentile(r, 100 * (1 - q)), "percentile"),
        ]
    ),
    "closed-ex-agree": Answers(
        [
            (lambda edges: edges.sum(0) >= 2, "a pixel apart"),
            (lambda edges: near(edges) >= 2, "an edge itself"),
            (lambda edges: (near(edges) == 3) & (edges.max(0) > 0), "all three are not needed"),
            (lambda edges: edges.max(0) > 0, "no agreement"),
            (lambda edges: (near(edges, None) >= 2) & (edges.max(0) > 0), "diagonal"),
        ]
    ),
    "closed-ex-toss": Answers(
        [
            (lambda x0, a: a * x0, "one half"),
            (lambda x0, a: a * x0 + 1 - a, "halve the second"),
            (lambda x0, a: (1 - a) * x0 + a / 2, "share that is kept"),
        ]
    ),
}
