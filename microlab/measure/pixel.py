"""Pixel metrics: how many pixels have the right class.

    IoU_c = |T_c and P_c| / |T_c or P_c|,     Dice_c = 2 |T_c and P_c| / (|T_c| + |P_c|)

One rule for empty classes: a class in neither truth nor prediction has no score (NaN), and means skip it.
A class in only one of them scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microlab.measure.checks import as_classes, as_mask, evaluate, mean_defined, ratio

Images = ArrayLike | Sequence[ArrayLike]
Scores = float | NDArray[np.float64]


class Confusion:
    """Confusion matrix of a whole test set, filled image by image.

    Parameters
    ----------
    classes : int >= 2
        Number of classes; masks hold ids 0..classes-1.

    Attributes
    ----------
    matrix : (C, C) int64
        ``matrix[t, p]`` counts the pixels of true class t predicted as p.

    Examples
    --------
    >>> confusion = Confusion(2)
    >>> confusion.update([[0, 1], [1, 1]], [[0, 1], [0, 1]]).accuracy()
    0.75
    """

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        self.classes = classes
        self.matrix = np.zeros((classes, classes), dtype=np.int64)

    def update(self, truth: ArrayLike, prediction: ArrayLike) -> Confusion:
        """Add the pixels of one image, or of a set of images: class ids of equal shape."""
        truth = as_classes(truth, "truth", self.classes)
        prediction = as_classes(prediction, "prediction", self.classes)
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        self.matrix += _confusion_matrix(truth, prediction, self.classes)
        return self

    def iou(self, *, missing_class: bool = False) -> NDArray[np.float64]:
        """IoU of each class, (C,); NaN where :func:`class_iou` says so."""
        return _class_iou(self.matrix, missing_class)

    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient of each class, (C,); NaN for a class in neither truth nor prediction."""
        return ratio(2 * np.diag(self.matrix), self.matrix.sum(0) + self.matrix.sum(1))

    def miou(self) -> float:
        """Mean IoU, as :func:`mean_iou`."""
        return mean_defined(self.iou())

    def missing_class_iou(self) -> float:
        """Missing Class IoU, as :func:`missing_class_iou`, with the whole set as one image."""
        return mean_defined(self.iou(missing_class=True))

    def accuracy(self) -> float:
        """Pixel accuracy, as :func:`pixel_accuracy`."""
        return ratio(np.trace(self.matrix), self.matrix.sum())

    def majority_accuracy(self) -> float:
        """Pixel accuracy of the trivial predictor that always answers the commonest true class."""
        return ratio(self.matrix.sum(1).max(), self.matrix.sum())


def iou(truth: Images, prediction: Images, *, per_image: bool | None = None) -> Scores:
    """Intersection over union of a mask (Jaccard index).

    It is eq. 1 of chapter 08 (metrics-iou).

    Parameters
    ----------
    truth, prediction : (H, W) bool, or a set of N such images
        True on the class that is scored. Integer masks of zeros and ones are accepted.
    per_image : bool, required for a set
        True: one score per image, (N,). False: one score from the pixels of all images together.

    Returns
    -------
    float in [0, 1] or (N,) of them. NaN if both masks are empty.

    Raises
    ------
    ValueError
        If shapes differ, values are not a mask's, or `per_image` is missing for a set.
    """
    return evaluate(
        truth, prediction, per_image, as_mask, _overlap, lambda c: ratio(c[0], c[1] + c[2] - c[0])
    )


def dice(truth: Images, prediction: Images, *, per_image: bool | None = None) -> Scores:
    """Dice coefficient of a mask, which is the F1 of its pixels; parameters as :func:`iou`.

    It is part of eq. 1 of chapter 08 (metrics-iou).

    NaN if both masks are empty. Dice = 2 IoU / (1 + IoU).
    """
    return evaluate(truth, prediction, per_image, as_mask, _overlap, lambda c: ratio(2 * c[0], c[1] + c[2]))


def class_iou(
    truth: Images,
    prediction: Images,
    classes: int,
    *,
    missing_class: bool = False,
    per_image: bool | None = None,
) -> NDArray[np.float64]:
    """IoU of each class.

    Parameters
    ----------
    truth, prediction : (H, W) int in 0..classes-1, or a set of N such images
    classes : int
    missing_class : bool
        False: a class in neither truth nor prediction is NaN. True: every class absent from the truth is NaN,
        predicted or not, as the Missing Class IoU wants.
    per_image : bool, required for a set

    Returns
    -------
    (C,) float in [0, 1] or NaN; (N, C) if `per_image`.
    """
    return _evaluate_classes(truth, prediction, classes, per_image, lambda m: _class_iou(m, missing_class))


def mean_iou(truth: Images, prediction: Images, classes: int, *, per_image: bool | None = None) -> Scores:
    """Mean IoU over the classes found in truth or prediction; parameters as :func:`class_iou`.

    A class in neither is left out (the rule of torchmetrics; scikit-learn would count it 0). A class that is
    predicted but absent from the truth counts 0, however few pixels it has.
    """
    return _evaluate_classes(
        truth, prediction, classes, per_image, lambda m: mean_defined(_class_iou(m, missing_class=False))
    )


def missing_class_iou(
    truth: Images, prediction: Images, classes: int, *, per_image: bool | None = None
) -> Scores:
    """Missing Class IoU: mean IoU over the classes present in the truth; parameters as :func:`class_iou`.

    It is eq. 5 of chapter 08 (metrics-missing).

    A few stray pixels of an absent class then cost only what they take from the true classes. In return the
    score hardly falls with invented classes, so report :func:`mean_iou` too. "Present" refers to each image
    with ``per_image=True`` and to the whole set with False; the source explains it on single images and does
    not say how it averages them.

    References
    ----------
    Equation 1 and figure 14 of arXiv:2408.00707, "Synthetic dual image generation for reduction of labeling
    efforts in semantic segmentation of micrographs with a customized metric function".
    """
    return _evaluate_classes(
        truth, prediction, classes, per_image, lambda m: mean_defined(_class_iou(m, missing_class=True))
    )


def pixel_accuracy(
    truth: Images, prediction: Images, classes: int = 2, *, per_image: bool | None = None
) -> Scores:
    """Share of pixels with the right class; parameters as :func:`class_iou`.

    Misleading when one class fills the image: see :meth:`Confusion.majority_accuracy`.
    """
    return _evaluate_classes(truth, prediction, classes, per_image, lambda m: ratio(np.trace(m), m.sum()))


def _evaluate_classes(
    truth: Images, prediction: Images, classes: int, per_image: bool | None, score: Any
) -> Any:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    return evaluate(
        truth,
        prediction,
        per_image,
        lambda image, name: as_classes(image, name, classes),
        lambda t, p: _confusion_matrix(t, p, classes),
        score,
    )


def _overlap(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> NDArray[np.int64]:
    both = np.count_nonzero(truth & prediction)
    return np.array([both, np.count_nonzero(truth), np.count_nonzero(prediction)])


def _confusion_matrix(truth: NDArray, prediction: NDArray, classes: int) -> NDArray[np.int64]:
    pairs = truth.astype(np.int64).ravel() * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _class_iou(matrix: NDArray[np.int64], missing_class: bool) -> NDArray[np.float64]:
    true, predicted, both = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    scores = ratio(both, true + predicted - both)
    return np.where(true > 0, scores, np.nan) if missing_class else scores
