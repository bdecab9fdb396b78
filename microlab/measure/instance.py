"""Grain metrics: are the grains cut apart as in the truth.

    ARE = 1 - 2PR / (P + R) over pairs of pixels,   VOI = H(P|T) + H(T|P),   PQ = SQ x RQ over matched grains

Label images hold 0 on boundaries and grains above 0. Labels are names only: their order carries no meaning.
Pooled over a set, equal labels in different images are different grains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from microlab.measure.images import as_labels, columns, evaluate, ratio
from microlab.measure.pixel import Images, Scores


class Variation(NamedTuple):
    """Variation of information in bits, in its two parts; their sum is the whole."""

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

    Pairs are unordered pairs of different pixels. Pixels with true label 0 are ignored; predicted 0 counts
    as one more segment, so a wide predicted boundary costs what it covers.

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
        _, overlap, true, predicted = _contingency(t, p, ignore_zero=True)
        # float: pairs of a few billion pixels overflow 64-bit integers
        return np.array([(n * (n - 1.0)).sum() for n in (overlap, true, predicted)])

    # 2PR/(P+R) with P = both/predicted and R = both/true
    return evaluate(
        truth, prediction, per_image, as_labels, count, lambda c: 1 - ratio(2 * c[0], c[1] + c[2])
    )


def variation_of_information(
    truth: Images, prediction: Images, *, per_image: bool | None = None
) -> Variation:
    """Variation of information: bits by which each segmentation is unknown when the other is given.

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
        _, *sizes = _contingency(t, p, ignore_zero=True)
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
        (i, j), overlap, true, predicted = _contingency(t, p, ignore_zero=False)
        true_ids, predicted_ids = _unique(t.ravel())[0], _unique(p.ravel())[0]
        union = true[i] + predicted[j] - overlap
        matched = (true_ids[i] > 0) & (predicted_ids[j] > 0) & (2 * overlap > union)
        iou_sum = (overlap[matched] / union[matched]).sum()
        return np.array([iou_sum, matched.sum(), (true_ids > 0).sum(), (predicted_ids > 0).sum()])

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
    a grain too many in one image makes up for one too few in another: ``per_image=True`` does not forgive.

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
        ids, _, areas = _unique(labels.ravel())
        return int(((ids > 0) & (areas >= min_area)).sum())

    return evaluate(
        truth,
        prediction,
        per_image,
        as_labels,
        lambda t, p: np.array([number(t), number(p)]),
        lambda c: ratio(abs(c[1] - c[0]), c[0]),
    )


def _contingency(
    truth: NDArray, prediction: NDArray, *, ignore_zero: bool
) -> tuple[tuple[NDArray, NDArray], NDArray, NDArray, NDArray]:
    """Overlaps of two label images: indices (i, j) and sizes of the pairs that meet, and both sets of areas.

    Indices count the sorted labels that occur, so large or sparse label values cost nothing.
    """
    if ignore_zero:
        keep = truth > 0
        truth, prediction = truth[keep], prediction[keep]
    _, i, true = _unique(truth.ravel())
    _, j, predicted = _unique(prediction.ravel())
    pairs, _, overlap = _unique(i * len(predicted) + j)
    return np.divmod(pairs, max(len(predicted), 1)), overlap, true, predicted


def _unique(values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Sorted values that occur, the index of each pixel's value among them, and their numbers of pixels."""
    if values.size == 0 or values.max() > 4 * values.size:
        return np.unique(values, return_inverse=True, return_counts=True)
    counts = np.bincount(values.astype(np.int64))  # some ten times faster than sorting
    occurs = counts > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[values], counts[occurs]
