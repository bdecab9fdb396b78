"""Checks of chapter 04, the virtual microscope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, run
from microlab.render import sem


@check_for("microscope-ex-dose")
def dose(answer: Callable) -> str:
    """Electrons at full scale for a signal-to-noise ratio at a grey."""
    compare(
        answer,
        lambda ratio, grey: ratio**2 / grey,
        [(10.0, 0.6), (10.0, 0.25), (3.0, 0.6), (30.0, 1.0)],
        {
            "that many are needed in the pixel; at full scale, where grey is 1, it is more": (
                lambda ratio, grey: ratio**2
            ),
            "a pixel of grey 0.6 gets 0.6 of the electrons at full scale, so divide by the grey": (
                lambda ratio, grey: ratio**2 * grey
            ),
            "N electrons have the noise sqrt(N), so the ratio is sqrt(N) and not N": (
                lambda ratio, grey: ratio / grey
            ),
            "the grey is no part of the ratio: only the ratio is squared": (
                lambda ratio, grey: (ratio / grey) ** 2
            ),
            "the noise is sqrt(N), so N is the square of the ratio, not its root": (
                lambda ratio, grey: ratio**0.5 / grey
            ),
        },
    )
    return "twice the ratio costs four times the dose"


def _neighbours(image: NDArray) -> float:
    """Correlation of each pixel with the one to its right."""
    return float(np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1])


@check_for("microscope-ex-order")
def order(counted_last: str, *, A: NDArray, B: NDArray) -> str:
    """Which of two pictures was counted after it was blurred."""
    if counted_last is None or counted_last is Ellipsis:
        raise NotYet("counted_last is empty")
    if not isinstance(counted_last, str) or counted_last not in ("A", "B"):
        raise Mistake('counted_last must be "A" or "B", a letter between quotation marks')
    correlation = {"A": _neighbours(A), "B": _neighbours(B)}
    if abs(correlation[counted_last]) > 0.2:
        raise Mistake(
            f"neighbouring pixels of {counted_last} are alike (correlation {correlation[counted_last]:.2f}), "
            "and counting makes each pixel's error its own"
        )
    return f"correlations of neighbours: A {correlation['A']:.2f}, B {correlation['B']:.2f}"


@check_for("microscope-ex-pair")
def pair(answer: Callable) -> str:
    """Electrons at full scale from two pictures of one field."""
    rng = np.random.default_rng(4)
    grain = np.repeat(np.repeat(rng.uniform(0.3, 0.9, (8, 8)), 32, 0), 32, 1)
    true = (25.0, 60.0, 150.0)
    shots = [tuple(sem.shot_noise(grain, electrons=n, seed=s).astype(float) for s in (1, 2)) for n in true]
    mistakes = {
        "the variances of two pictures add, so the difference has twice the noise of one": (
            lambda a, b: a.mean() / np.var(a - b)
        ),
        "the variance of one picture is mostly the scene; look at the difference of the two": (
            lambda a, b: a.mean() / np.var(a)
        ),
        "a count of N varies by N: take the variance, not the standard deviation": (
            lambda a, b: a.mean() / np.std(a - b)
        ),
        "the mean of two pictures still holds the scene; their difference does not": (
            lambda a, b: a.mean() / np.var((a + b) / 2)
        ),
        "divide the mean grey by the variance, not 1: the noise grows with the signal": (
            lambda a, b: 1 / (np.var(a - b) / 2)
        ),
        "that is upside down: much noise means few electrons": lambda a, b: np.var(a - b) / 2 / a.mean(),
    }
    compare(answer, true, shots, mistakes, rtol=0.05)
    return "with a drifting stage it would fail: the scene must cancel"


def _spread(image: NDArray) -> NDArray:
    """Covariance of an image taken as a density; (2, 2) in (x, y)."""
    y, x = np.indices(image.shape)
    weight = image / image.sum()
    dy, dx = y - (weight * y).sum(), x - (weight * x).sum()
    off = (weight * dx * dy).sum()
    return np.array([[(weight * dx**2).sum(), off], [off, (weight * dy**2).sum()]])


def _ellipse(along: float, across: float, angle: float) -> NDArray:
    """Covariance of a Gaussian of `along` in the direction `angle` from the rows."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    return turn @ np.diag([along**2, across**2]) @ turn.T


@check_for("microscope-ex-astigmatism")
def astigmatism(answer: Callable) -> str:
    """Blur by an elliptical Gaussian."""
    point = np.zeros((81, 81))
    point[40, 40] = 1
    settings = [(3.0, 1.5, 0.0), (3.0, 1.5, np.pi / 2), (4.0, 2.0, np.pi / 6), (2.5, 2.5, 1.0)]
    images = [np.asarray(run(answer, point, *setting, like=point), float) for setting in settings]
    if np.allclose(images[0], point):
        raise NotYet("the picture comes out as it went in")
    sums = [blurred.sum() for blurred in images]
    if not np.allclose(sums, 1, atol=0.01):
        raise Mistake(f"blur moves light and makes none: the sum of a point of 1 becomes {sums[0]:.3g}")
    spreads = [_spread(blurred) for blurred in images]
    guesses = {
        "": lambda a, b, t: _ellipse(a, b, t),
        "along and across are exchanged, or the angle is taken from the columns": lambda a, b, t: _ellipse(
            b, a, t
        ),
        "the ellipse turns the other way: rows count downwards": lambda a, b, t: _ellipse(a, b, -t),
        "the angle comes in radians": lambda a, b, t: _ellipse(a, b, np.radians(t)),
        "the angle is not used": lambda a, b, t: _ellipse(a, b, 0.0),
        "along and across are standard deviations, not variances": lambda a, b, t: _ellipse(
            a**0.5, b**0.5, t
        ),
        "this blur is round: across is not used": lambda a, b, t: _ellipse(a, a, t),
        "the Gaussian's exponent is -x^2 / (2 sigma^2): the 2 is missing": (
            lambda a, b, t: _ellipse(a, b, t) / 2
        ),
    }
    for hint, guess in guesses.items():
        if all(
            np.allclose(s, guess(*w), rtol=0.04, atol=0.1) for s, w in zip(spreads, settings, strict=True)
        ):
            if hint:
                raise Mistake(hint)
            break
    else:
        a, b = np.sqrt(np.linalg.eigvalsh(spreads[0])[::-1])
        raise NotYet(f"with 3 along and 1.5 across the point is spread by {a:.2f} and {b:.2f}")
    flat = np.asarray(run(answer, np.full((40, 50), 0.7), 3.0, 1.5, 0.4), float)
    if not np.allclose(flat, 0.7, atol=1e-3):
        raise Mistake("an even picture gets dark at the frame: pad it before you blur, and not with zeros")
    edge = np.zeros((40, 50))
    edge[:, :3] = 1
    if np.asarray(run(answer, edge, 3.0, 1.5, 0.4), float)[:, -3:].max() > 0.02:
        raise Mistake(
            "light leaks over to the opposite side: a spectrum takes the picture for periodic, so pad it"
        )
    return "standard deviations add in squares, so an edge at 45 degrees sees the root of the mean square"


@check_for("microscope-ex-ablation")
def ablation(answer: sem.MicroscopeRanges, *, draws: int = 20) -> str:
    """Ranges of microscopes without visible noise."""
    if answer is None or answer is Ellipsis:
        raise NotYet("quiet_ranges is empty")
    if not isinstance(answer, sem.MicroscopeRanges):
        raise Mistake(f"quiet_ranges is a {type(answer).__name__}; it must be a `sem.MicroscopeRanges`")
    if answer == sem.MicroscopeRanges():
        raise NotYet("these are the ranges as they were")
    if min(answer.electrons) < 1e4:
        raise Mistake(f"electrons from {min(answer.electrons):g} on: few electrons are noisy, so take more")
    drawn = [sem.draw_microscope(k, answer) for k in range(draws)]
    noise = {
        "electrons": max(m.electrons**-0.5 for m in drawn),
        "detector_noise": max(m.detector_noise for m in drawn),
        "charging": max(m.charging for m in drawn),
    }
    loudest = max(noise, key=noise.get)
    if noise[loudest] >= 0.01:
        raise Mistake(f"`{loudest}` still brings noise of {noise[loudest]:.3f} of full scale")
    return f"noise up to {max(np.hypot(m.electrons**-0.5, m.detector_noise) + m.charging for m in drawn):.4f}"
