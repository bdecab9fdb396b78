"""Checks of chapter 05, translation by a CycleGAN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import number, run


@check_for("cyclegan-ex-width")
def width(answer: float, *, ratio: float) -> str:
    """How many times wider the painted lines are than the drawn ones, within a quarter."""
    mistakes = {
        "upside down: divide the width in the translation by the width in the flat picture": 1 / ratio,
        "that is in percent; say how many times": 100 * ratio,
    }
    number(answer, ratio, mistakes, rtol=0.25, name="my_guess")
    return f"{ratio:.2f} times"


@check_for("cyclegan-ex-shift")
def shift(my_F: Callable, my_G: Callable) -> str:
    """A translator that shifts and one that shifts back."""
    rng = np.random.default_rng(0)
    for picture in (rng.random((24, 32)), rng.random((16, 16))):
        shifted = np.asarray(run(my_F, picture, like=picture))
        restored = np.asarray(run(my_G, shifted, like=picture))
        if np.array_equal(shifted, picture):
            raise NotYet("F shifts nothing yet")
        if not np.allclose(np.sort(shifted, axis=None), np.sort(picture, axis=None)):
            raise Mistake(
                "F loses pixels at one side and invents some at the other: let them come in again (`np.roll`)"
            )
        if np.array_equal(restored, shifted):
            raise Mistake("G changes nothing, so F's shift stays: the cycle loss is not zero")
        if not np.allclose(restored, picture):
            same = np.allclose(restored, np.asarray(run(my_F, shifted, like=picture)))
            raise Mistake(
                "G shifts further in F's direction; it must go back"
                if same
                else "G(F(y)) is not y: G must undo F's shift along the same axis, by as many pixels"
            )
        if not np.allclose(np.asarray(run(my_F, np.asarray(run(my_G, picture, like=picture)))), picture):
            raise Mistake("F(G(x)) is not x: both cycles count")
    return "both cycle losses are zero, and only the identity loss sees the shift"


@check_for("cyclegan-ex-noise")
def noise(answer: float, *, made: NDArray) -> str:
    """Number of greys that a generator without noise makes of a flat picture."""
    number(
        answer,
        len(np.unique(made.round(4))),
        {
            "every pixel has the same neighbourhood, so nothing can tell them apart": made.size,
            "the frame is no exception: reflection repeats the same grey": 2,
            "a convolution of a constant is a constant, whatever its weights, and so is what follows": 256,
            "one grey is there: that of the whole picture": 0,
        },
        rtol=0,
        atol=0.5,
        name="my_greys",
    )
    return "a function of a constant picture has no other choice: the seeded noise has to be an input"
