"""Typical wrong answers to the exercises of chapters 13 and 14."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation
from wrong_answers import Answers

SQUARE = np.ones((3, 3))


def near(edges, structure=SQUARE):
    return np.sum([binary_dilation(channel > 0, structure) for channel in edges], axis=0)


def cells(power, order=slice(None)):
    def diagram(centres, radii, shape):
        y, x = np.indices(shape)
        c = centres[:, order]
        d2 = (y - c[:, 0, None, None]) ** 2 + (x - c[:, 1, None, None]) ** 2
        return power(d2, radii[:, None, None]).argmin(0)

    return diagram


ANSWERS = {
    # ---- 13 ----
    "concepts-ex-swallowed": Answers(
        [
            (30.0, "touch the first centre"),
            (4.0, "not where the circles touch"),
            (256.0, "take the root"),
            (np.hypot(34, 30), "other side"),
        ],
        solution=lambda: (16.0,),
    ),
    "concepts-ex-brute": Answers(
        [
            (cells(lambda d2, r: d2), "Voronoi"),
            (cells(lambda d2, r: d2 - r), "not the radius"),
            (cells(lambda d2, r: np.sqrt(d2) - r), "curved"),
            (cells(lambda d2, r: d2 + r**2), "sign"),
            (cells(lambda d2, r: d2 - r**2, slice(None, None, -1)), "y, x"),
        ]
    ),
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
