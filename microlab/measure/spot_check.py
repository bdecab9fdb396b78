"""Manual check of a segmentation without a mask: boundaries counted along a few test lines.

    crossings of a line = changes of grain along it,     length / crossings = mean intercept

Count the boundaries that a line crosses in the bare micrograph by eye, then those on the same line of the
label image: both counts concern the same boundaries, so a difference is an error and no sampling noise. What
n boundaries without an error guarantee is eq. 1 of chapter 16 (yours-three).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlab.measure.grain_size import _crossings
from microlab.measure.grains import close_boundaries

STEP = 0.5  # px between two points of a line


def spot_lines(
    shape: tuple[int, int], n: int = 3, seed: int | np.random.Generator = 0, *, length: float | None = None
) -> NDArray[np.float64]:
    """Straight test lines inside an image, in random places and directions.

    Parameters
    ----------
    shape : (H, W)
        Of the image, pixels.
    n : int
        Number of lines.
    seed : int or Generator
        Draw the lines before you look at the result, or their choice biases the count.
    length : float, optional
        Pixels; by default 0.8 of the shorter side.

    Returns
    -------
    (n, 2, 2) float
        Both ends of each line as (y, x) in pixels.

    Raises
    ------
    ValueError
        If no line of that length fits in every direction.
    """
    length = 0.8 * min(shape) if length is None else float(length)
    if not 0 < length <= min(shape) - 1:
        raise ValueError(f"length must lie in (0, {min(shape) - 1}], the shorter side, got {length:g}")
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, n)
    half = length / 2 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    room = np.array(shape) - 1 - 2 * np.abs(half)
    middle = np.abs(half) + room * rng.random((n, 2))
    return np.stack([middle - half, middle + half], axis=1)


def count_crossings(labels: ArrayLike, line: ArrayLike, *, reach: float = 8.0) -> int:
    """Boundaries that a straight line crosses in a label image.

    Parameters
    ----------
    labels : (H, W) int
        0 on boundaries, grains above 0.
    line : (2, 2) float
        Ends (y, x) in pixels, as from :func:`spot_lines`.
    reach : float
        Boundary pixels within this many px of a grain are given to it, so that a line as drawn counts once.

    Raises
    ------
    ValueError
        If an end lies outside of the image.
    """
    closed, line = close_boundaries(labels, reach), np.asarray(line, dtype=float)
    last = np.array(closed.shape) - 1
    if line.shape != (2, 2) or not ((line >= -0.5) & (line <= last + 0.5)).all():
        raise ValueError(f"line must have two ends (y, x) within {closed.shape}, got {line.tolist()}")
    length = float(np.linalg.norm(line[1] - line[0]))
    share = np.linspace(0, 1, max(int(np.ceil(length / STEP)), 1) + 1)[:, None]
    points = np.rint(line[0] + share * (line[1] - line[0])).astype(int).clip(0, last)
    return _crossings(closed[points[:, 0], points[:, 1]], STEP)[0]
