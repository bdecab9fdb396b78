"""Typical wrong answers to the exercises of chapters 00 to 04."""

from __future__ import annotations

import numpy as np
from wrong_answers import Answers

from microlab.simulate import voronoi

# ---- 00 ----


def squares(size: int = 240, step: int = 40) -> np.ndarray:
    """A boundary mask of square grains."""
    mask = np.zeros((size, size), bool)
    mask[::step] = mask[:, ::step] = True
    return mask


def rows(every: int) -> np.ndarray:
    mask = np.zeros((240, 240), bool)
    mask[5::every] = True
    return mask


def grains_left(share: float) -> int:
    return round(100 * (1 - share) ** 2)


# ---- 01 ----

SEEDS = voronoi.regular_seeds(40, (100, 120), 0.6, seed=3)


def not_periodic(n, shape, ratio, seed=0):
    tall = (shape[0] * ratio * 2, shape[1])
    seeds = voronoi.random_seeds(2 * n, tall, seed)
    return voronoi.tessellate(seeds, tall)[: shape[0] * ratio : ratio]


def along_y(n, shape, ratio, seed=0):
    wide = (shape[0], shape[1] * ratio)
    return voronoi.tessellate(voronoi.random_seeds(n, wide, seed), wide)[:, ::ratio]


def still_tall(n, shape, ratio, seed=0):
    tall = (shape[0] * ratio, shape[1])
    return voronoi.tessellate(voronoi.random_seeds(n, tall, seed), tall)


def seed_forgotten(n, shape, ratio, seed=0):
    tall = (shape[0] * ratio, shape[1])
    return voronoi.tessellate(voronoi.random_seeds(n, tall, 7), tall)[::ratio]


# ---- 02 ----


def no_twelfth(eta):
    def at(distance):
        return sum(np.roll(eta, s, axis) for s in (-distance, distance) for axis in (1, 2))

    return 16 * at(1) - at(2) - 60 * eta


def middle_once(eta):
    return (no_twelfth(eta) + 30 * eta) / 12


def padded(eta):
    wide = np.pad(eta, ((0, 0), (2, 2), (2, 2)), mode="edge")
    return no_twelfth(wide)[:, 2:-2, 2:-2] / 12


def wrong_axes(eta):
    return no_twelfth(eta.transpose(2, 0, 1)).transpose(1, 2, 0) / 12


ANSWERS = {
    "start-ex-pixel": Answers(
        solution=lambda: (6.25, 2.5),
        wrong=[
            ((2.5, 2.5), "square of the pixel"),
            ((6.25, 6.25), "you gave the factor of an area"),
            ((0.16, 0.4), "upside down"),
        ],
    ),
    "start-ex-cheat": Answers(
        given=lambda: {"truth": squares()},
        solution=lambda: (rows(11),),
        stub=lambda: (rows(256),),
        wrong=[
            (squares(), "seen the truth"),
            (rows(11).astype(float), "float64; it must be True"),
            (rows(11)[:100], "shape"),
            (rows(120), "more lines"),
        ],
    ),
    "start-ex-gap": Answers(
        given=lambda: {"grains_left": grains_left},
        solution=lambda: (0.3,),
        wrong=[(30, "percent"), (-0.3, "between 0 and 1"), (0.01, "erase more"), (0.9, "erase less")],
    ),
    "voronoi-ex-alpha": Answers(
        given=lambda: {"seeds": SEEDS, "shape": (100, 120)},
        solution=lambda: (
            voronoi.nearest_neighbour_distances(SEEDS, (100, 120)).min() / voronoi.d0(40, (100, 120)),
        ),
        wrong=[
            (voronoi.nearest_neighbour_distances(SEEDS, (100, 120)).min(), "pixels"),
            (
                voronoi.nearest_neighbour_distances(SEEDS, (100, 120)).mean() / voronoi.d0(40, (100, 120)),
                "the least one counts",
            ),
            (0.3, "too small"),
        ],
    ),
    "voronoi-ex-needle": Answers(
        wrong=[
            (lambda areas: np.mean(areas) / np.mean(areas), "large one more often"),
            (lambda areas: np.average(areas, weights=areas), "divide it by the mean"),
            (lambda areas: 1 + np.std(areas) / np.mean(areas), "squared"),
            (lambda areas: 1 + np.var(areas, ddof=1) / np.mean(areas) ** 2, "not by n - 1"),
            (lambda areas: 2 + 2 * np.var(areas) / np.mean(areas) ** 2, "constant factor.* 2 times"),
        ]
    ),
    "voronoi-ex-chessboard": Answers(
        wrong=[((6, 6), "four meet"), ((4, 4), "three bricks meet"), ((8, 6), "corner only")]
    ),
    "voronoi-ex-rolled": Answers(
        wrong=[
            (along_y, "along y"),
            (still_tall, "too tall"),
            (not_periodic, "not periodic"),
            (seed_forgotten, "another seed gives the same"),
        ]
    ),
    "phase-ex-lifetime": Answers(
        given=lambda: {"measured": 74.0},
        solution=lambda: (72.0,),
        wrong=[(144, "the 2 is missing"), (36, "one of the two"), (72 * np.pi, "pi cancels")],
    ),
    "phase-ex-ring": Answers(
        given=lambda: {"measured": (0.02, 0.96)},
        wrong=[((1, 1), "outer outline alone"), ((2, 1), "do not add"), ((0, 0), "discs shrink")],
    ),
    "phase-ex-three": Answers(
        wrong=[
            (lambda kappa, L, dx: dx**2 / (6 * kappa * L), "local term"),
            (lambda kappa, L, dx: 0.5 / (L + 6 * kappa * L / dx**2), "fall to -1"),
            (lambda kappa, L, dx: 1 / (L * (6 * kappa / dx + 1)), "dx enters squared"),
        ]
    ),
    "phase-ex-fourth": Answers(
        wrong=[
            (no_twelfth, "divided by 12"),
            (middle_once, "-60 / 12"),
            (padded, "not the frame"),
            (wrong_axes, "axis 0 counts the grains"),
        ]
    ),
}
