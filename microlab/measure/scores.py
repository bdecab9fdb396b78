"""Scores of one segmentation against a true boundary mask, all of them in one row."""

from __future__ import annotations

import numpy as np

from microlab.measure import instance, pixel
from microlab.measure.boundary import boundary_f1
from microlab.measure.labels import components

TOLERANCES = (2.0, 3.0, 5.4)  # px, of the boundary F1; 5.4 is 0.75 % of the diagonal of 512 x 512
MIN_GRAIN_AREA = 30  # px; smaller specks count as grains neither in a truth nor in a prediction


def mask_grains(truth: np.ndarray) -> np.ndarray:
    """Grains of a boundary mask: connected regions of its interior, int32, 0 on boundaries."""
    return components(truth, min_area=MIN_GRAIN_AREA)


def trivial_prediction(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The trivial baseline of a field: no boundary (bool) and one grain over all of it (int32 ones)."""
    return np.zeros(shape, bool), np.ones(shape, np.int32)


def score(
    truth: np.ndarray, boundary: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
) -> dict[str, float]:
    """Scores of one segmentation against a true boundary mask.

    Parameters
    ----------
    truth, boundary : (H, W) bool
        True on boundaries.
    labels : (H, W) int
        Predicted grains, 0 on boundaries or nowhere.
    valid : (H, W) bool, optional
        Field of view: what lies outside of it is not scored.

    Returns
    -------
    dict
        Grain IoU, boundary F1 at each of `TOLERANCES` (skeletons), number of grains of at least
        `MIN_GRAIN_AREA` pixels and its relative error, adapted Rand error, and variation of information
        (split and merge, in bits).
    """
    if valid is not None:
        truth, boundary, labels = truth | ~valid, boundary & valid, np.where(valid, labels, 0)
    true_labels = mask_grains(truth)
    if valid is not None:
        truth = truth & valid
    split, merge = instance.variation_of_information(true_labels, labels)
    areas = np.bincount(labels.ravel())[1:]
    return {
        "grain IoU": pixel.iou(~truth, ~boundary),
        **{f"boundary F1, {t:g} px": boundary_f1(truth, boundary, t) for t in TOLERANCES},
        "grains": int((areas >= MIN_GRAIN_AREA).sum()),
        "count error": instance.grain_count_error(true_labels, labels, min_area=MIN_GRAIN_AREA),
        "adapted Rand error": instance.adapted_rand_error(true_labels, labels),
        "split, bits": split,
        "merge, bits": merge,
    }
