"""How large are the grains? The zoom at which a network meets the grain size it was trained on.

    zoom * intercept(zoom) = design intercept

A network knows boundaries of the size it met in training. The mean linear intercept (the mean distance
between boundaries along straight lines) is measured on the image's own prediction at a ladder of zooms, and
the zoom is kept at which the magnified intercept agrees with the design. No one measures a grain by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from microlab.data.errors import InputError
from microlab.data.transforms import resize_by
from microlab.measure.grain_size import mean_intercept

LADDER = tuple(2.0 ** np.arange(-3, 1.6, 0.5))  # 1/8 to 2.8, in steps of sqrt 2


def matching_zoom(
    image: np.ndarray,
    grains: Callable[[np.ndarray], np.ndarray],
    design_intercept: float,
    *,
    window: int = 512,
    ladder: tuple[float, ...] = LADDER,
) -> float:
    """The zoom at which an image's grains have the size that a network was trained on.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    grains : callable
        Takes an image and returns its (H, W) int labels: the network and the step to instances.
    design_intercept : float
        Mean linear intercept of the training images in pixels.
    window : int
        Only the central window of this many pixels (after zooming) is looked at, to bound the cost.
    ladder : tuple of float
        Zooms to try, rising.

    Returns
    -------
    float
        Zoom in the range of `ladder`, interpolated between rungs. At the right zoom the magnified intercept
        rises in proportion to the zoom; where noise or blur is taken for grains it does not. Of several
        crossings of the design the one nearest to proportion is kept; without any, the rung that comes
        nearest.

    Raises
    ------
    ValueError
        If `design_intercept` is not positive.
    """
    if not design_intercept > 0:
        raise InputError(f"design_intercept must be positive, got {design_intercept}")
    zooms = [z for z in ladder if min(image.shape) * z >= 32] or [max(ladder)]
    excess = []  # log of the magnified intercept over the design: rises with the zoom, zero where it fits
    for zoom in zooms:
        half = max(int(window / zoom / 2), 1)
        cy, cx = image.shape[0] // 2, image.shape[1] // 2
        part = image[max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half]
        intercept = mean_intercept(grains(resize_by(part, zoom)))
        excess.append(np.log(min(intercept, 1e6) / design_intercept))
    return float(np.exp(_zero_crossing(np.log(zooms), np.array(excess))))


def _zero_crossing(log_zoom: np.ndarray, excess: np.ndarray) -> float:
    """Where `excess` rises through zero in proportion to `log_zoom` (slope 1), or the rung nearest zero."""
    rising = [i for i in range(len(excess) - 1) if excess[i] < 0 <= excess[i + 1]]
    if not rising:
        return log_zoom[np.abs(excess).argmin()]
    slope = np.diff(excess) / np.diff(log_zoom)
    i = min(rising, key=lambda i: abs(slope[i] - 1))
    return log_zoom[i] - excess[i] / slope[i]
