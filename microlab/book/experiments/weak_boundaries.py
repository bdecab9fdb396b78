"""Scores of a boundary map on a synthetic TEM picture, separately for strong and weak boundaries.

    recall, weak    = share of the true weak boundary that has a predicted line within 2 px
    precision, weak = share of the predicted lines nearest to a weak boundary that lie within 2 px of it

A boundary is weak where the adjacent grains differ in brightness by less than the largest noise
(`microlab.render.tem.WEAK_CONTRAST`). Paper C states the accuracy of pixels only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from skimage.morphology import skeletonize
from torch import nn

from microlab.measure import instance
from microlab.measure.boundary import boundary_f1, distance_to
from microlab.measure.scores import MIN_GRAIN_AREA, mask_grains
from microlab.render.tem import WEAK_CONTRAST, TEMPicture

TOLERANCE = 2.0  # px
MEASURES = (
    "accuracy",
    "boundary F1, 2 px",
    "precision, strong",
    "recall, strong",
    "precision, weak",
    "recall, weak",
    "adapted Rand error",
    "count error",
    "count bias",
)
LOWER_IS_BETTER = ("adapted Rand error", "count error")
Answer = tuple[np.ndarray, np.ndarray]  # boundary (H, W) bool, grains (H, W) int


def score_answer(pair: TEMPicture, boundary: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of one answer.

    Parameters
    ----------
    pair : TEMPicture
    boundary : (H, W) bool
        True on boundaries; lines of any width are thinned before distances are taken.
    labels : (H, W) int
        Grains from 1; 0 on boundaries, if anywhere.

    Returns
    -------
    dict
        Of `MEASURES`. The count bias is the signed relative error of the number of grains, the count error
        its absolute value. Precision and recall are NaN where undefined.

    Raises
    ------
    ValueError
        If the sizes differ.
    """
    if boundary.shape != pair.boundary.shape or labels.shape != pair.boundary.shape:
        raise ValueError(
            f"boundary {boundary.shape} and labels {labels.shape} must have the size of the picture, "
            f"{pair.boundary.shape}"
        )
    truth = mask_grains(pair.boundary)
    areas = [np.bincount(part.ravel())[1:] for part in (truth, labels)]
    true_count, count = (int((part >= MIN_GRAIN_AREA).sum()) for part in areas)
    return {
        "accuracy": float((boundary == pair.boundary).mean()),
        "boundary F1, 2 px": boundary_f1(pair.boundary, boundary, TOLERANCE),
        **by_strength(pair, boundary),
        "adapted Rand error": instance.adapted_rand_error(truth, labels),
        "count error": instance.grain_count_error(truth, labels, min_area=MIN_GRAIN_AREA),
        "count bias": (count - true_count) / true_count if true_count else np.nan,
    }


def by_strength(
    pair: TEMPicture, boundary: np.ndarray, tolerance: float = TOLERANCE, threshold: float = WEAK_CONTRAST
) -> dict[str, float]:
    """Precision and recall of strong and of weak boundaries.

    A predicted pixel belongs to the kind of its nearest true boundary, so a false line inside a grain lowers
    the precision of that kind.

    Parameters
    ----------
    pair : TEMPicture
    boundary : (H, W) bool
    tolerance : float >= 0
        Pixels.
    threshold : float
        Contrast below which a boundary is weak.

    Returns
    -------
    dict
        ``precision, strong``, ``recall, strong``, ``precision, weak``, ``recall, weak``.
    """
    truth, prediction = skeletonize(pair.boundary), skeletonize(boundary)
    to_prediction, to_truth = distance_to(prediction), distance_to(truth)
    scores = {}
    for kind, of_kind in (("strong", pair.strength >= threshold), ("weak", pair.strength < threshold)):
        scores[f"precision, {kind}"] = _share(to_truth[prediction & of_kind] <= tolerance)
        scores[f"recall, {kind}"] = _share(to_prediction[truth & of_kind] <= tolerance)
    return scores


def score_answers(pairs: Sequence[TEMPicture], answers: Iterable[Answer]) -> pd.DataFrame:
    """:func:`score_answer` of many pictures, a row for each."""
    return pd.DataFrame([score_answer(pair, *answer) for pair, answer in zip(pairs, answers, strict=True)])


def visibility(pair: TEMPicture, reach: float = 6.0, least: int = 8) -> pd.DataFrame:
    """Detectability index d' of each boundary between two grains, given its position.

        d' = |mean on one side - mean on the other| / standard error of that difference

    The means are taken over the pixels within `reach` of the facet, except the adjacent one. The standard
    error assumes independent pixels; correlated noise and shading make the true one larger. So a small d'
    means that the boundary is undetectable, a large one does not mean that it is detectable.

    Parameters
    ----------
    pair : TEMPicture
    reach : float
        Width of the band on each side in pixels.
    least : int
        Facets with fewer pixels on a side are left out.

    Returns
    -------
    DataFrame
        A row for each facet: ``first``, ``second`` (grains), ``pixels`` (of the target nearest to it),
        ``contrast`` (of the brightness before imaging) and ``visibility`` d'.
    """
    from microlab.render.tem_grains import facets

    near = facets(pair.labels)
    low, high = np.minimum(pair.labels, near.neighbour), np.maximum(pair.labels, near.neighbour)
    n = int(pair.labels.max()) + 1
    key = low.astype(np.int64) * n + high
    beside = (near.distance > 1) & (near.distance <= reach)
    rows = []
    for facet in np.unique(key[pair.boundary]):
        first, second = divmod(int(facet), n)
        here = key == facet
        sides = [pair.image[here & beside & (pair.labels == grain)] for grain in (first, second)]
        if first == second or min(map(len, sides)) < least:
            continue
        error = np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
        rows.append(
            {
                "first": first,
                "second": second,
                "pixels": int((here & pair.boundary).sum()),
                "contrast": float(abs(pair.brightness[first] - pair.brightness[second])),
                "visibility": float(abs(np.subtract(*(side.mean() for side in sides))) / max(error, 1e-9)),
            }
        )
    return pd.DataFrame(rows, columns=["first", "second", "pixels", "contrast", "visibility"])


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def count_weights(*networks: nn.Module) -> int:
    """Number of weights of some networks together."""
    return sum(p.numel() for network in networks for p in network.parameters())
