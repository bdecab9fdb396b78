"""Uncertainty of a segmentation without a truth: the disagreement between views of one image.

    u(x) = std_k p_k(x),     D = mean_k ARE(grains of mean_k p_k, grains of p_k)

p_k is the boundary probability of view k of an image: turned and mirrored, segmented, turned back. A good
segmenter says the same of all eight. Agreement is necessary, not sufficient: an error that all views share
shows in no disagreement.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from microlab.data.micrograph import Micrograph
from microlab.data.transforms import resize_by, resize_to
from microlab.measure import instance
from microlab.measure.labels import boundaries

if TYPE_CHECKING:
    from microlab.segment.segmenter import Segmenter

VIEWS = 8  # symmetries of the square
NEAR = 3  # px from a line between grains that count as near it


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Disagreement between several segmentations of one image.

    Attributes
    ----------
    deviation_map : (H, W) float32 in [0, 0.5]
        Standard deviation of the boundary probability over the views.
    deviation : float
        Its mean near the lines between grains.
    disagreement : float in [0, 1]
        Mean adapted Rand error of the grains of single views against those of their mean. NaN where the mean
        shows one grain only: there is nothing to compare.
    models : float in [0, 1]
        Adapted Rand error of another segmenter's grains against the same; NaN without one.
    """

    deviation_map: np.ndarray
    deviation: float
    disagreement: float
    models: float


def estimate_uncertainty(
    image: Micrograph | np.ndarray,
    segmenter: Segmenter,
    zoom: float = 1.0,
    *,
    views: int = VIEWS,
    other: Segmenter | None = None,
    valid: np.ndarray | None = None,
) -> Uncertainty:
    """Disagreement between views of an image, and with another segmenter; no truth is needed.

    Everything is computed on the magnified image; the map is brought back to the image's size. Warnings of
    the single views are not shown.

    Parameters
    ----------
    image : Micrograph or (H, W) array
    segmenter, other : Segmenter
    zoom : float
        Magnification before the segmenter.
    views : int in 2..8
        How many of the eight symmetries of the square; the first one is the image as it is.
    valid : (H, W) bool, optional
        Field of view; only grains in it are compared.

    Raises
    ------
    ValueError
        If `views` is out of range.
    InputError
        If the image cannot be segmented.

    References
    ----------
    Wang et al., Neurocomputing 338, 34 (2019): test-time augmentation as a measure of uncertainty.
    """
    if not 2 <= views <= VIEWS:
        raise ValueError(f"views must lie in 2..{VIEWS}, got {views}")
    image = segmenter.check(image)
    zoomed = resize_by(image, zoom)
    shown = None if valid is None else resize_to(valid, zoomed.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities = np.stack(
            [view_back(segmenter.probability(view(zoomed, k)), k) for k in range(views)]
        )  # (views, h, w)
        _, labels = segmenter.grains(probabilities.mean(0), valid=shown)
        several = labels.max() > 1

        def error(predicted: np.ndarray) -> float:
            return float(instance.adapted_rand_error(labels, predicted)) if several else np.nan

        disagreement = np.mean([error(segmenter.grains(p, valid=shown)[1]) for p in probabilities])
        models = error(other.grains(other.probability(zoomed), valid=shown)[1]) if other else np.nan
    near = ndimage.binary_dilation(boundaries(labels, shown), iterations=NEAR) if several else np.s_[:]
    spread = probabilities.std(0)
    deviation_map = spread if zoomed.shape == image.shape else resize(spread, image.shape, order=1)
    return Uncertainty(
        deviation_map.astype(np.float32), float(spread[near].mean()), float(disagreement), float(models)
    )


def view(image: np.ndarray, k: int) -> np.ndarray:
    """View `k` in 0..7 of an image: `k` quarter turns, mirrored as well from 4 on."""
    turned = np.rot90(image, k % 4)
    return np.ascontiguousarray(turned[:, ::-1] if k >= 4 else turned)


def view_back(image: np.ndarray, k: int) -> np.ndarray:
    """Undo :func:`view`."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if k >= 4 else image, -(k % 4)))
