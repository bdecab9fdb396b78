"""Checks of chapter 02, the phase field of two grains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import NotYet, check_for
from microlab.book.exercises.comparison import agree, compare, number


@check_for("phase-ex-lifetime")
def lifetime(answer: float, *, measured: float) -> str:
    """Lifetime of a circle of radius 12 with kappa = 2 and L = 1/2."""
    number(
        answer,
        72.0,
        {
            "the rate is 2 pi kappa L and the area pi R^2: the 2 is missing": 144.0,
            "kappa L is 1 here; one of the two is missing, or stands on the wrong side": 36.0,
            "R enters squared: the area is pi R^2": 6.0,
            "pi cancels: both the area and the rate have it": 72.0 * np.pi,
            "pi cancels, both the area and the rate have it; and mind the 2": 72.0 / np.pi,
        },
        rtol=0.06,
        name="my_time",
    )
    return f"the law says 72, and the simulation {measured:.0f}: a little longer, as on every lattice"


@check_for("phase-ex-ring")
def ring(while_inner_lives: float, afterwards: float, *, measured: tuple[float, float]) -> str:
    """Rates of a ring's area, in units of -2 pi kappa L."""
    number(
        while_inner_lives,
        0.0,
        {
            "you counted the outer outline alone; the inner grain gives its area to the ring": 1.0,
            "the inner grain shrinks, and what it loses the ring gets: the two do not add": 2.0,
            "the ring grows at its inner outline, but it also loses at its outer one": -1.0,
        },
        atol=0.1,
        name="while_inner_lives",
    )
    number(
        afterwards,
        1.0,
        {
            "once the inner grain is gone a disc is left, and discs shrink": 0.0,
            "a disc has one outline": 2.0,
            "it shrinks, and the unit already has the minus sign": -1.0,
        },
        rtol=0.1,
        name="afterwards",
    )
    return f"the simulation says {measured[0]:.2f} and {measured[1]:.2f}: outlines count, sizes do not"


@check_for("phase-ex-three")
def three(answer: Callable) -> str:
    """Largest stable explicit step in three dimensions."""
    compare(
        answer,
        lambda kappa, L, dx: 1 / (L * (6 * kappa / dx**2 + 1)),
        [(1.0, 1.0, 1.0), (2.0, 0.5, 0.7), (1.0, 2.0, 2.0)],
        {
            "that is the plane: in space a point has six neighbours, all of the other sign": (
                lambda kappa, L, dx: 1 / (L * (4 * kappa / dx**2 + 1))
            ),
            "the local term is missing: near 1 the derivative of eta - eta^3 is -2": (
                lambda kappa, L, dx: 1 / (6 * kappa * L / dx**2)
            ),
            "the chequerboard may change its sign without growing: the bracket may fall to -1": (
                lambda kappa, L, dx: 1 / (2 * L * (6 * kappa / dx**2 + 1))
            ),
            "near 1 the derivative of eta - eta^3 is -2, not -1": (
                lambda kappa, L, dx: 2 / (L * (12 * kappa / dx**2 + 1))
            ),
            "dx enters squared, as in every second derivative": (
                lambda kappa, L, dx: 1 / (L * (6 * kappa / dx + 1))
            ),
            "L multiplies both terms": lambda kappa, L, dx: 1 / (6 * kappa * L / dx**2 + 1),
        },
    )
    return "a third dimension makes the step a little shorter"


def _along(eta: NDArray, axis: int) -> NDArray:
    """Second derivative of fourth order along an axis, periodic."""
    taps = zip((-2, -1, 0, 1, 2), (-1, 16, -30, 16, -1), strict=True)
    return sum(weight * np.roll(eta, shift, axis) for shift, weight in taps) / 12


def _five_points(eta: NDArray) -> NDArray:
    around = (np.roll(eta, shift, axis) for shift in (-1, 1) for axis in (1, 2))
    return sum(around) - 4 * eta


def share_of_the_law(laplacian: Callable, radius: int = 18, dt: float = 0.15) -> float:
    """Measured over lawful rate at which a circle loses area, for any Laplacian of (2, H, W) fields."""
    y, x = np.indices((52, 52)) - 25.5
    inside = y**2 + x**2 < radius**2
    eta, areas = np.stack([inside, ~inside]).astype(float), []
    for _ in range(800):
        squares = eta**2
        phi = squares.sum(axis=0)
        areas.append((squares[0] / phi).sum())
        eta = eta + dt * (eta * (1 + squares - 2 * phi) + laplacian(eta))
    return float(np.polyfit(dt * np.arange(150, 800), areas[150:], 1)[0] / (-2 * np.pi))


@check_for("phase-ex-fourth")
def fourth(answer: Callable) -> str:
    """A Laplacian of fourth order."""
    field = np.random.default_rng(0).normal(size=(2, 12, 14))
    kinds = {
        "this is still the old Laplacian of five points": _five_points,
        "along one axis the sum is divided by 12": lambda e: 12 * (_along(e, 1) + _along(e, 2)),
        "a Laplacian has both axes; you took one": lambda e: _along(e, 2),
        "a Laplacian has both axes; you took one: y": lambda e: _along(e, 1),
        "axis 0 counts the grains; the plane has axes 1 and 2": lambda e: _along(e, 0) + _along(e, 1),
        "the middle is counted once for each axis: -60 / 12 in all": (
            lambda e: _along(e, 1) + _along(e, 2) + 30 / 12 * e
        ),
        "the far neighbours enter with a minus sign": (
            lambda e: (
                _along(e, 1)
                + _along(e, 2)
                + sum(np.roll(e, shift, axis) for shift in (-2, 2) for axis in (1, 2)) / 6
            )
        ),
    }

    def right(eta: NDArray) -> NDArray:
        return _along(eta, 1) + _along(eta, 2)

    try:
        compare(answer, right, [(field,)], kinds, reveal=False)
    except NotYet:
        if agree(np.asarray(answer(field.copy()))[:, 3:-3, 3:-3], right(field)[:, 3:-3, 3:-3]):
            raise NotYet(
                "the inside is right, but not the frame: the box is periodic, as `np.roll` is"
            ) from None
        with np.errstate(all="ignore"):  # a wrong Laplacian may blow up
            share = share_of_the_law(answer)
        if not 0.99 < share < 1.01:
            raise NotYet(f"with this Laplacian a circle shrinks at {share:.3f} of the law") from None
        return f"not our stencil, but {share:.3f} of the law"
    return f"{share_of_the_law(answer):.3f} of the law"
