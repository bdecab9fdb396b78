"""Checks of chapter 00, the first micrograph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import number
from microlab.measure.boundary import boundary_f1


@check_for("start-ex-pixel")
def pixel(area_factor: float, diameter_factor: float) -> str:
    """Factors of mean area and mean diameter when a pixel is 50 nm wide and not 20."""
    number(
        area_factor,
        6.25,
        {
            "an area scales with the square of the pixel's width; you gave the factor of a length": 2.5,
            "upside down: larger pixels make larger grains": 0.16,
            "an area has two dimensions, not three": 2.5**3,
        },
        name="area_factor",
    )
    number(
        diameter_factor,
        2.5,
        {
            "a diameter is a length, so it scales as the pixel's width; you gave the factor of an area": 6.25,
            "upside down: larger pixels make larger grains": 0.4,
            "a diameter is a length, so no root is taken: the pixel's width is one, too": 2.5**0.5,
        },
        name="diameter_factor",
    )
    return "lengths scale with the pixel, areas with its square"


@check_for("start-ex-cheat")
def cheat(mask: NDArray, *, truth: NDArray[np.bool_]) -> str:
    """A mask drawn blindly: boundary F1 of 0.4 within 5.4 px, and less within 1 px."""
    if mask is None or mask is Ellipsis:
        raise NotYet("there is no mask yet")
    mask = np.asarray(mask)
    if mask.shape != truth.shape:
        raise Mistake(f"the mask has shape {mask.shape}, and the micrograph {truth.shape}")
    if mask.dtype != bool:
        raise Mistake(f"the mask holds {mask.dtype}; it must be True on a boundary and False elsewhere")
    if not mask.any():
        raise NotYet("the mask is empty: nothing drawn, nothing found, and F1 is 0")
    wide, narrow = (boundary_f1(truth, mask, t, skeleton=False) for t in (5.4, 1.0))
    summary = f"boundary F1 is {wide:.2f} within 5.4 px and {narrow:.2f} within 1 px"
    if narrow >= 0.4:
        raise Mistake(f"{summary}: this mask has seen the truth. Draw without looking")
    if wide < 0.4:
        spare = mask.mean() < 0.08
        raise NotYet(f"{summary}. " + ("Draw more lines" if spare else "Draw lines, not areas"))
    return f"{summary}. Within a pixel the trick fails: name the tolerance, and keep it below half a grain"


@check_for("start-ex-gap")
def gap(share: float, *, grains_left: Callable[[float], int]) -> str:
    """Share of boundary pixels to erase until half of the grains are left."""
    if share is None or share is Ellipsis:
        raise NotYet("there is no share yet")
    if 1 < share <= 100:
        raise Mistake(f"a share lies between 0 and 1; {share} looks like percent")
    if not 0 <= share <= 1:
        raise Mistake(f"a share lies between 0 and 1, and yours is {share}")
    whole, left = grains_left(0.0), grains_left(share)
    summary = f"{left} of {whole} grains are left"
    if left >= 0.65 * whole:
        raise NotYet(f"{summary}: erase more")
    if left <= 0.35 * whole:
        raise NotYet(f"{summary}: erase less")
    return f"{summary}, and most of the mask is still there"
