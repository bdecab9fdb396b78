"""Grain metrics: agreement of two label images.

    ARE = 1 - 2PR / (P + R) over pairs of pixels,   VOI = H(P|T) + H(T|P),   PQ = SQ x RQ over matched grains

Label images hold 0 on boundaries and grains above 0; how the grains are numbered does not matter.
Pooled over a set, equal labels in different images are different grains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.metrics import contingency_table
from skimage.segmentation import relabel_sequential

from microlab.measure.checks import as_labels, columns, evaluate, ratio
from microlab.measure.pixel import Images, Scores


class Variation(NamedTuple):
    """Variation of information in bits, the sum of its two parts."""

    split: Scores
    merge: Scores


class PanopticQuality(NamedTuple):
    """Panoptic quality and its factors: `pq` = `segmentation` (mean IoU of matches) x `recognition` (F1)."""

    pq: Scores
    segmentation: Scores
    recognition: Scores


def adapted_rand_error(truth: Images, prediction: Images, *, per_image: bool | None = None) -> Scores:
    """Adapted Rand error: one minus the F1 of pixel pairs that belong together.

    It is eq. 3 of chapter 08 (metrics-rand).

    A pair is two different pixels, n (n - 1) / 2 of them in a segment of n. Pixels with true label 0 are
    ignored; predicted 0 counts as one more segment, so a wide predicted boundary costs what it covers. On
    one image this is ``skimage.metrics.adapted_rand_error``. The SNEMI3D challenge's script, and CREMI's
    after it, count n^2, a pixel paired with itself too, and take every pixel of predicted 0 for a segment of
    its own: a wide predicted boundary costs less there.

    Parameters
    ----------
    truth, prediction : (H, W) int >= 0, or a set of N such images
        Label images, 0 on boundaries.
    per_image : bool, required for a set
        True: one score per image, (N,). False: pairs of all images counted together.

    Returns
    -------
    float in [0, 1] or (N,) of them, 0 for the same grains. NaN if no pair belongs together in either.

    Raises
    ------
    ValueError
        If shapes differ, values are not labels, or `per_image` is missing for a set.

    References
    ----------
    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
    Frontiers in Neuroanatomy 9:142, 2015.
    """

    def count(t: NDArray, p: NDArray) -> NDArray[np.float64]:
        return np.array([(n * (n - 1)).sum() for n in _segment_sizes(t, p)])

    # 2PR/(P+R) with P = both/predicted and R = both/true
    return evaluate(
        truth, prediction, per_image, as_labels, count, lambda c: 1 - ratio(2 * c[0], c[1] + c[2])
    )


def variation_of_information(
    truth: Images, prediction: Images, *, per_image: bool | None = None
) -> Variation:
    """Variation of information: entropy of each segmentation given the other, in bits.

    ``split = H(prediction | truth)`` grows when true grains are cut, ``merge = H(truth | prediction)`` when
    they run together. Pixels with true label 0 are ignored; predicted 0 counts as one more segment.
    Parameters as :func:`adapted_rand_error`; pooling a set weighs its images by their pixels.

    Returns
    -------
    Variation(split, merge), floats >= 0 in bits or (N,) arrays. NaN if the truth has no grain.

    References
    ----------
    Meila, "Comparing clusterings: an information based distance", J. Multivariate Analysis 98:873, 2007.
    """

    def count(t: NDArray, p: NDArray) -> NDArray[np.float64]:
        sizes = _segment_sizes(t, p)
        # n log2 n summed over a partition; H(P|T) = (sum over truth - sum over overlaps) / pixels
        overlap, true, predicted = ((n * np.log2(n)).sum() for n in sizes)
        return np.array([true - overlap, predicted - overlap, sizes[0].sum()])

    scores = evaluate(
        truth, prediction, per_image, as_labels, count, lambda c: np.maximum(ratio(c[:2], c[2]), 0.0)
    )
    return Variation(*columns(scores))


def panoptic_quality(truth: Images, prediction: Images, *, per_image: bool | None = None) -> PanopticQuality:
    """Panoptic quality: a true and a predicted grain match when their IoU is above 1/2.

    It is eq. 4 of chapter 08 (metrics-panoptic).

    At most one match is possible. ``recognition = TP / (TP + FP/2 + FN/2)`` and ``segmentation`` is the mean
    IoU of the matches. Label 0 is background: it is no grain, and its pixels count in the union.
    Parameters as :func:`adapted_rand_error`; pooling a set counts the grains of all images together.

    Returns
    -------
    PanopticQuality(pq, segmentation, recognition), floats in [0, 1] or (N,) arrays. Without a match
    `segmentation` is NaN and `pq` 0; without any grain in truth and prediction all are NaN.

    References
    ----------
    Kirillov et al., "Panoptic segmentation", CVPR 2019.
    """

    def count(t: NDArray, p: NDArray) -> NDArray[np.float64]:
        iou = matches(t, p).iou.to_numpy()
        return np.array([iou.sum(), len(iou), *(np.count_nonzero(np.unique(x)) for x in (t, p))])

    def score(c: NDArray[np.float64]) -> tuple[float, float, float]:
        grains = (c[2] + c[3]) / 2  # TP + FP/2 + FN/2
        return ratio(c[0], grains), ratio(c[0], c[1]), ratio(c[1], grains)

    return PanopticQuality(*columns(evaluate(truth, prediction, per_image, as_labels, count, score)))


def grain_count_error(
    truth: Images, prediction: Images, *, min_area: int = 1, per_image: bool | None = None
) -> Scores:
    """Relative error of the number of grains, ``|n_predicted - n_true| / n_true``.

    A grain is a label above 0 with at least `min_area` pixels, the same rule in both images. Grains cut by
    the frame count. Parameters as :func:`adapted_rand_error`; pooling a set adds the numbers first, so that
    surplus grains in one image cancel missing ones in another; ``per_image=True`` avoids that.

    Parameters
    ----------
    min_area : int >= 1
        Smallest grain counted, in px.

    Returns
    -------
    float >= 0 or (N,) of them. NaN if neither image has a grain, infinite if only the prediction has.
    """
    if min_area < 1:
        raise ValueError(f"min_area must be at least 1 px, got {min_area}")

    def number(labels: NDArray) -> int:
        ids, areas = np.unique(labels, return_counts=True)
        return int(((ids > 0) & (areas >= min_area)).sum())

    return evaluate(
        truth,
        prediction,
        per_image,
        as_labels,
        lambda t, p: np.array([number(t), number(p)]),
        lambda c: ratio(abs(c[1] - c[0]), c[0]),
    )


def overlaps(truth: NDArray, prediction: NDArray) -> pd.DataFrame:
    """Contingency table of two label images, a row for each pair of labels that share pixels.

    Parameters
    ----------
    truth, prediction : (H, W) int >= 0

    Returns
    -------
    DataFrame with columns ``true`` and ``predicted``, the labels, sorted, and ``pixels``, shared (float)
    """
    # renumbered first, since the table is as long as the largest label
    (truth, _, true_ids), (prediction, _, predicted_ids) = map(relabel_sequential, (truth, prediction))
    table = contingency_table(truth, prediction).tocoo()
    return pd.DataFrame(
        {"true": true_ids[table.row], "predicted": predicted_ids[table.col], "pixels": table.data}
    )


def matches(truth: NDArray, prediction: NDArray) -> pd.DataFrame:
    """Pairs of grains with an ``iou`` above 1/2, rows of :func:`overlaps`: a grain is in one at most."""
    pairs = overlaps(truth, prediction)
    true_area, predicted_area = (pairs.groupby(c).pixels.transform("sum") for c in ("true", "predicted"))
    pairs["iou"] = pairs.pixels / (true_area + predicted_area - pairs.pixels)
    return pairs[(pairs.true > 0) & (pairs.predicted > 0) & (pairs.iou > 0.5)]


def _segment_sizes(truth: NDArray, prediction: NDArray) -> list[NDArray[np.float64]]:
    """Pixels of the overlaps, of the true and of the predicted segments, where the true label is above 0."""
    pairs = overlaps(truth, prediction)
    pairs = pairs[pairs.true > 0]
    sizes = pairs.pixels, pairs.groupby("true").pixels.sum(), pairs.groupby("predicted").pixels.sum()
    return [n.to_numpy() for n in sizes]
