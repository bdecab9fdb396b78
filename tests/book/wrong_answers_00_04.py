"""Typical wrong answers to the exercises of chapters 00 to 04."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from wrong_answers import Answers

from microlab.render import sem
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


# ---- 03 ----

X = np.linspace(-8, 8, 641)
PHI = 1 - 0.364 / np.cosh(X / 2) ** 2


def one_column(pairs, n):
    colours = np.full(n, -1)
    for grain in range(n):
        used_colours = set(colours[pairs[pairs[:, 1] == grain, 0]])
        colours[grain] = next(c for c in range(n) if c not in used_colours)
    return colours


def from_behind(pairs, n):
    colours = np.full(n, -1)
    for grain in reversed(range(n)):
        used_colours = set(colours[pairs[(pairs == grain).any(1)].ravel()])
        colours[grain] = next(c for c in range(n) if c not in used_colours)
    return colours


# ---- 04 ----

FLAT = np.full((64, 64), 0.6, np.float32)
SHARP = sem.shot_noise(FLAT, electrons=50, seed=1)
SMOOTH = sem.point_spread(sem.shot_noise(FLAT, electrons=4, seed=1), sigma=1.0)
QUIET = sem.MicroscopeRanges(electrons=(1e6, 1e6), detector_noise=(1e-4, 1e-4), charging=(0.0, 0.0))


def astigmatic(image, along, across, angle, margin=20, mode="reflect"):
    """A Gaussian along the axes of the ellipse, by the spectrum."""
    padded = np.pad(image, margin, mode=mode)
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in padded.shape), indexing="ij")
    u, v = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    passed = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
    blurred = np.fft.ifft2(np.fft.fft2(padded) * passed).real
    return blurred[margin : blurred.shape[0] - margin, margin : blurred.shape[1] - margin]


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
        context=lambda: {"truth": squares()},
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
        context=lambda: {"grains_left": grains_left},
        solution=lambda: (0.3,),
        wrong=[(30, "percent"), (-0.3, "between 0 and 1"), (0.01, "erase more"), (0.9, "erase less")],
    ),
    "voronoi-ex-alpha": Answers(
        context=lambda: {"seeds": SEEDS, "shape": (100, 120)},
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
        context=lambda: {"measured": 74.0},
        solution=lambda: (72.0,),
        wrong=[(144, "the 2 is missing"), (36, "one of the two"), (72 * np.pi, "pi cancels")],
    ),
    "phase-ex-ring": Answers(
        context=lambda: {"measured": (0.02, 0.96)},
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
    "grain-growth-ex-half": Answers(
        wrong=[
            (lambda pixels, grains, k: pixels / k, "area of the sample"),
            (lambda pixels, grains, k: (pixels / (grains / 2) - pixels / grains) / k / 2, "not by half"),
            (lambda pixels, grains, k: np.log(2) / k, "exponential"),
        ]
    ),
    "grain-growth-ex-threshold": Answers(
        context=lambda: {"x": X, "phi": PHI},
        solution=lambda: (np.interp(1.5, X, PHI),),
        wrong=[
            (np.interp(3.0, X, PHI), "line of 6 px"),
            (PHI.min(), "infinitely thin"),
            (0.75, "too small"),
            (PHI, "a number is wanted"),
        ],
    ),
    "grain-growth-ex-colour": Answers(
        wrong=[
            (lambda pairs, n: np.arange(n), "colour of its own"),
            (one_column, "either column"),
            (lambda pairs, n: from_behind(pairs, n), "in order"),
            (lambda pairs, n: np.zeros(n + 1, int), "shape"),
        ]
    ),
    "grain-growth-ex-sharper": Answers(
        context=lambda: {"ours": 1.045},
        solution=lambda: (1.01,),
        wrong=[(1.045, "own slope"), (np.pi / 3, "not divided"), (1.2, "too large")],
    ),
    "microscope-ex-dose": Answers(
        wrong=[
            (lambda ratio, grey: ratio**2 + 0 * grey, "at full scale"),
            (lambda ratio, grey: grey * ratio**2, "divide by the grey"),
            (lambda ratio, grey: ratio / grey, "sqrt"),
        ]
    ),
    "microscope-ex-order": Answers(
        context=lambda: {"A": SHARP, "B": SMOOTH},
        solution=lambda: ("A",),
        wrong=[("B", "neighbouring pixels of B are alike"), ("C", '"A" or "B"'), (SHARP, "a letter")],
    ),
    "microscope-ex-pair": Answers(
        wrong=[
            (lambda a, b: (a.mean() + b.mean()) / 2 / np.var(a - b), "variances of two pictures add"),
            (lambda a, b: np.mean(a) / np.std(a) ** 2, "mostly the scene"),
            (lambda a, b: a.mean() / np.std(a - b), "not the standard deviation"),
        ]
    ),
    "microscope-ex-astigmatism": Answers(
        wrong=[
            (lambda image, along, across, angle: astigmatic(image, across, along, angle), "exchanged"),
            (lambda image, along, across, angle: astigmatic(image, along, across, -angle), "other way"),
            (lambda image, along, across, angle: astigmatic(image, along, across, angle, 0), "leaks"),
            (
                lambda image, along, across, angle: astigmatic(image, along, across, np.radians(angle)),
                "radians",
            ),
            (
                lambda image, along, across, angle: astigmatic(image, along, across, angle, mode="constant"),
                "dark at the frame",
            ),
            (lambda image, along, across, angle: 2 * astigmatic(image, along, across, angle), "makes none"),
        ]
    ),
    "microscope-ex-ablation": Answers(
        stub=lambda: (sem.MicroscopeRanges(),),
        solution=lambda: (QUIET,),
        wrong=[
            (replace(QUIET, electrons=(1.0, 10.0)), "few electrons"),
            (replace(QUIET, detector_noise=(0.002, 0.08)), "`detector_noise` still"),
            (replace(QUIET, charging=(0.0, 0.08)), "`charging` still"),
            (sem.Microscope(), "must be a `sem.MicroscopeRanges`"),
        ],
    ),
}
