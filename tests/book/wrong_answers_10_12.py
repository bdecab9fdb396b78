"""Typical wrong answers to the exercises of chapters 10 to 12."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy.ndimage import distance_transform_edt
from wrong_answers import Answers

# ---- 10 ----

COUNT = np.array([200.0, 120.0, 60.0])
ERROR = 0.6 / np.sqrt(COUNT)  # so 900 grains for 2 %
TIME = np.linspace(100, 800, 8)
AREAS = 500 + 2.0 * TIME


def kinetics(ratio: float, exact: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(ratio=ratio, exact=SimpleNamespace(k=exact))


# ---- 11 ----


def bits(share):
    return -sum(p * np.log2(p) for p in share if p > 0)


def zero_times_minus_infinity(share):
    with np.errstate(all="ignore"):
        return 2 ** -(share * np.log2(share)).sum()


def raster(side, kind):
    """The mask, position by position."""
    mask = np.zeros((side, side))
    for place in range(side**2 // 2 + (kind == "B")):
        mask[place // side, place % side] = 1
    return mask


def stays(areas, share):
    """The right rule, applied object by object."""
    gone, areas = 0, sorted(areas)
    for area in areas:
        gone += area
        if gone > share * sum(areas):
            return area


def largest_first(areas, share):
    areas = np.sort(areas)[::-1]
    return areas[np.argmax(np.cumsum(areas) > share * areas.sum())]


# ---- 12 ----


def masks() -> list[np.ndarray]:
    """Two maps of matrix with a network of class 1 and some spots of class 2."""
    y, x = np.indices((96, 96))
    network = np.where(np.abs((x + y) % 48 - 24) < 3, 1, 0)
    spots = np.where(np.hypot(y % 32 - 8, x % 32 - 8) < 3, 2, network)
    return [network, spots]


def pen(width, of=1):
    return lambda mask: np.where(distance_transform_edt(mask != of) <= width, of, mask)


def at_random(mask, state=np.random.default_rng(0)):  # noqa: B008
    return np.where(state.random(mask.shape) < 0.1, 1 - (mask == 1), mask)


def without_absent(matrix, absent_counts=0.0):
    scores = []
    for c in range(4):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        if union:
            scores.append(matrix[c, c] / union)
        else:
            scores.append(absent_counts)
    return np.mean(scores)


def seen_only(matrix):
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return np.mean(np.diag(matrix)[union > 0] / union[union > 0])


ANSWERS = {
    "growth-ex-constant": Answers(
        solution=lambda: (1.08, 1.08**2),
        wrong=[
            ((1.1664, 1.08), "factor of the area is that of k"),
            ((1.08, 1.08), "radii enter squared"),
            ((1.0, 1.0), "lifted in proportion"),
        ],
    ),
    "growth-ex-rate": Answers(
        wrong=[
            (lambda t, areas: np.polyfit(t, areas, 1)[0], "over pi"),
            (lambda t, areas: np.polyfit(t, np.sqrt(areas / np.pi), 1)[0], "slope of R"),
            (lambda t, areas: np.linalg.lstsq(t[:, None], areas / np.pi)[0][0], "origin"),
            (lambda t, areas: np.polyfit(t, areas / np.pi, 1)[1], "slope first"),
        ]
    ),
    "growth-ex-grains": Answers(
        context=lambda: {"error": ERROR, "count": COUNT},
        solution=lambda: (900,),
        wrong=[
            (np.mean(COUNT * ERROR / 0.02), "root of the number"),
            (0.09, "percent"),
            (900 * 1.96**2, "half of a 95 % interval"),
        ],
    ),
    "growth-ex-whole": Answers(
        context=lambda: {"time": TIME, "areas": AREAS, "error": np.ones(8), "k": 0.8},
        solution=lambda: (2.0 / np.pi / 0.8,),
        wrong=[
            (0.8 * np.pi / 2, "upside down"),
            (2 / np.pi, "divide it by `law.exact.k`"),
            (2.0 / np.pi / 0.8 - 1, "relative error"),
        ],
    ),
    "growth-ex-scale": Answers(
        context=lambda: {"before": kinetics(0.97)},
        solution=lambda: (kinetics(0.6),),
        wrong=[
            (kinetics(0.97), "old scale"),
            (0.6, "is a float"),
            (kinetics(0.6, exact=2.0), "another simulation"),
        ],
    ),
    "dual-ex-perplexity": Answers(
        wrong=[
            ((2.5, lambda share: 2 ** bits(share)), "2 to its power"),
            ((6, lambda share: 2 ** bits(share)), "not equally often"),
            ((5.66, bits), "that is the entropy"),
            ((5.66, lambda share: np.exp(bits(share))), "base of the power"),
            ((5.66, zero_times_minus_infinity), "NaN"),
        ]
    ),
    "dual-ex-gradient": Answers(
        solution=lambda: (-0.65,),
        wrong=[
            (-0.8, "commitment is missing"),
            (-0.05, "gets the code and not z"),
            (0.15, "commitment alone"),
            (0.65, "sign"),
        ],
    ),
    "dual-ex-mask": Answers(
        wrong=[
            (lambda side, kind: raster(side, "B" if kind == "A" else "A"), "exchanged"),
            (lambda side, kind: raster(side, kind)[::-1, ::-1], "still to be drawn"),
            (lambda side, kind: np.tril(np.ones((side, side))), "is not right"),
            (lambda side, kind: 1 - raster(side, kind), "hidden places"),
        ]
    ),
    "dual-ex-area": Answers(
        wrong=[
            (lambda areas, share: np.quantile(areas, share), "number of objects"),
            (lambda areas, share: sorted(a for a in areas if a < stays(areas, share))[-1], "next larger one"),
            (largest_first, "not with the largest"),
            (lambda areas, share: areas[np.flatnonzero(np.cumsum(areas) > share * sum(areas))[0]], "sort"),
        ]
    ),
    "dual-ex-segment": Answers(
        context=lambda: {"without": 0.04},
        solution=lambda: (0.05,),
        wrong=[(4, "percent"), (0.95, "cannot see"), (0.5, "too large")],
    ),
    "dose-ex-metric": Answers(
        wrong=[
            (without_absent, "not counted as 0"),
            (seen_only, "that is mean IoU"),
            (lambda m: np.mean([m[c, c] / m[c].sum() for c in range(4) if m[c].any()]), "recall"),
            (lambda m: np.diag(m).sum() / m.sum(), "pixel accuracy"),
        ]
    ),
    "dose-ex-bin": Answers(
        wrong=[
            (lambda iou: 0.5 + 0 * iou, "one half"),
            (lambda iou: iou, "union smaller"),
            (lambda iou: 1 / (1 + iou), "share of wrong pixels"),
        ]
    ),
    "dose-ex-many": Answers(
        wrong=[
            (lambda doses: 0.05 / doses, "1 minus it"),
            (lambda doses: 0.99, "does not depend"),
            (lambda doses: 0.95**doses, "not fall"),
            (lambda doses: 1 - 0.05 / doses**2, "too wide"),
        ]
    ),
    "dose-ex-corrupt": Answers(
        context=lambda: {"masks": masks(), "limit": 0.7},
        solution=lambda: (pen(1.5),),
        wrong=[
            (pen(8), "too many pixels are changed"),
            (at_random, "is not random"),
            (pen(4, of=2), "spares the carbide"),
            (lambda mask: np.where(mask == 0, 7, mask), "no true mask has"),
        ],
    ),
}
