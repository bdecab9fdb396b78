"""Boundary metrics: how far predicted boundaries lie from true ones.

    P = share of predicted boundary pixels within theta of a true one,   R the reverse,   F1 = 2PR / (P + R)

The tolerance theta decides the figure, so never print a boundary F1 without it.
One rule for empty sets: if neither image has a boundary there is no score (NaN); if only one has, F1 is 0 and
distances are infinite.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from microlab.measure.checks import as_mask, columns, evaluate, ratio
from microlab.measure.pixel import Images, Scores


class BoundaryScores(NamedTuple):
    """Boundary F1 with its two sides; floats, or (N,) arrays for ``per_image=True``."""

    f1: Scores
    precision: Scores
    recall: Scores


def default_tolerance(shape: tuple[int, int]) -> float:
    """0.75 % of the image diagonal in px: 5.4 px at 512 x 512, and MATLAB's default for ``bfscore``."""
    return 0.0075 * math.hypot(*shape)


def distance_to(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Euclidean distance, px, of every pixel to the nearest True one; infinite if there is none."""
    # without any True pixel scipy's transform measures to a place that does not exist
    return distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def boundary_f1(
    truth: Images,
    prediction: Images,
    tolerance: float,
    *,
    skeleton: bool = True,
    per_image: bool | None = None,
) -> Scores:
    """Boundary F1 of two boundary masks.

    It is eq. 2 of chapter 08 (metrics-f1).

    Parameters
    ----------
    truth, prediction : (H, W) bool, or a set of N such images
        True on boundaries. Of a region take its inner edge (``skimage.segmentation.find_boundaries``).
    tolerance : float >= 0
        Distance theta in px; a pixel counts as found if its exact Euclidean distance is ``<= tolerance``.
        :func:`default_tolerance` gives the customary value.
    skeleton : bool
        Thin both masks to one-pixel lines first, so that a thick line counts no more than a thin one and
        lies where its centre is. Set False for masks that are edge pixels already.
    per_image : bool, required for a set
        True: one score per image, (N,). False: pixels of all images counted together.

    Returns
    -------
    float in [0, 1] or (N,) of them. NaN if neither mask has a boundary, 0 if only one has.

    Raises
    ------
    ValueError
        If shapes differ, values are not a mask's, `tolerance` is negative, or a set lacks `per_image`.

    References
    ----------
    Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013.
    """
    return boundary_scores(truth, prediction, tolerance, skeleton=skeleton, per_image=per_image).f1


def boundary_scores(
    truth: Images,
    prediction: Images,
    tolerance: float,
    *,
    skeleton: bool = True,
    per_image: bool | None = None,
) -> BoundaryScores:
    """Boundary F1, precision and recall; parameters as :func:`boundary_f1`.

    Precision falls with invented boundaries and is NaN without any predicted one. Recall falls with missed
    boundaries and is NaN without any true one.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError(f"tolerance must be a number of pixels >= 0, got {tolerance}")

    def count(t: NDArray[np.bool_], p: NDArray[np.bool_]) -> NDArray[np.int64]:
        to_prediction, to_truth = _distances(t, p, skeleton)
        found, correct = (to_prediction <= tolerance).sum(), (to_truth <= tolerance).sum()
        return np.array([correct, to_truth.size, found, to_prediction.size])

    return BoundaryScores(*columns(evaluate(truth, prediction, per_image, as_mask, count, _boundary_scores)))


def hausdorff95(
    truth: Images,
    prediction: Images,
    *,
    percentile: float = 95,
    skeleton: bool = True,
    per_image: bool | None = None,
) -> Scores:
    """Hausdorff distance between boundaries, cut at the 95th percentile.

    The larger of the two directed percentiles, P95 of the distances from truth to prediction and P95 the
    other way (MONAI's convention; libraries that pool both directions give smaller numbers).

    Parameters
    ----------
    truth, prediction, skeleton, per_image
        As :func:`boundary_f1`. Pooling a set takes the percentile over the distances of all images.
    percentile : float in [0, 100]
        100 gives the Hausdorff distance itself.

    Returns
    -------
    float or (N,) of them, in px. NaN if neither mask has a boundary, infinite if only one has.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must lie in [0, 100], got {percentile}")

    def score(distances: tuple[NDArray, NDArray]) -> float:
        # a set without pixels has no percentile; the other one is then infinite, or empty as well
        return max((_percentile(d, percentile) for d in distances if d.size), default=float("nan"))

    return evaluate(
        truth,
        prediction,
        per_image,
        as_mask,
        lambda t, p: _distances(t, p, skeleton),
        score,
        pool=lambda parts: tuple(np.concatenate(direction) for direction in zip(*parts)),
    )


def _distances(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], skeleton: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each true boundary pixel to the prediction, and of each predicted one to the truth."""
    if skeleton:
        truth, prediction = skeletonize(truth), skeletonize(prediction)
    return distance_to(prediction)[truth], distance_to(truth)[prediction]


def _percentile(distances: NDArray[np.float64], percentile: float) -> float:
    # interpolating next to an infinite distance gives NaN, next to an absurdly large one it does not
    value = float(np.percentile(np.minimum(distances, 1e30), percentile))
    return value if value < 1e20 else math.inf


def _boundary_scores(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    correct, predicted, found, true = counts
    precision, recall = ratio(correct, predicted), ratio(found, true)
    if not (predicted and true):
        return (float("nan") if predicted == true else 0.0), precision, recall
    f1 = 2 * precision * recall / (precision + recall) if correct or found else 0.0
    return f1, precision, recall
