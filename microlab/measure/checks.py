"""Input checks of the metrics, and their evaluation on one image, on a pooled set or image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = Any  # whatever a metric needs to remember of one image; sums unless the metric says otherwise


def as_mask(image: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Bool mask from a bool image or an integer one of zeros and ones; anything else is an error."""
    mask = np.asarray(image)
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a bool mask, got {mask.dtype}: compare it with a threshold first")
    if mask.size and not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(
            f"{name} must be bool or 0 and 1, got values {mask.min()}..{mask.max()}: pass {name} > 0"
        )
    return mask.astype(bool)


def as_classes(image: ArrayLike, name: str, classes: int) -> NDArray[np.integer]:
    """Integer class mask with values 0..classes-1."""
    mask = np.asarray(image)
    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    if mask.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer class ids, got {mask.dtype}: take the argmax first")
    if mask.size and not (mask.min() >= 0 and mask.max() < classes):
        raise ValueError(
            f"{name} must hold class ids 0..{classes - 1}, got values {mask.min()}..{mask.max()}"
        )
    return mask


def as_labels(image: ArrayLike, name: str) -> NDArray[np.integer]:
    """Integer label image: 0 on boundaries, grains above 0."""
    labels = np.asarray(image)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name} must be an integer label image, got {labels.dtype}: label its grains first")
    if labels.size and labels.min() < 0:
        raise ValueError(f"{name} must hold labels >= 0, got {labels.min()}")
    return labels


def add(parts: list[Counts]) -> Counts:
    """Pool counts of several images by adding them."""
    return np.sum(parts, axis=0)


def evaluate(
    truth: ArrayLike | Sequence[ArrayLike],
    prediction: ArrayLike | Sequence[ArrayLike],
    per_image: bool | None,
    check: Callable[[ArrayLike, str], NDArray],
    count: Callable[[NDArray, NDArray], Counts],
    score: Callable[[Counts], Any],
    pool: Callable[[list[Counts]], Counts] = add,
) -> Any:
    """Score one image, a pooled set of images, or every image of a set.

    Parameters
    ----------
    truth, prediction : (H, W) array, or (N, H, W) array or sequence of N images (H_i, W_i)
    per_image : bool or None
        Of a set, True gives one score per image, shape (N, ...), and False one score from the counts of all
        images together. The two differ and neither is the natural one: a set without the choice is an error.
    check : callable (image, name) -> image
    count : callable (truth, prediction) -> counts of one image
    score : callable counts -> float or array
    pool : callable list of counts -> counts
    """
    true_images, is_set = _images(truth)
    predicted_images, predicted_is_set = _images(prediction)
    if is_set != predicted_is_set or len(true_images) != len(predicted_images):
        raise ValueError(
            f"truth and prediction must be the same number of images, got {_describe(true_images, is_set)} "
            f"and {_describe(predicted_images, predicted_is_set)}"
        )
    if is_set and per_image is None:
        raise ValueError(
            "say per_image=True (one score per image) or per_image=False (one for the whole set)"
        )
    counts = []
    for i, (t, p) in enumerate(zip(true_images, predicted_images)):
        where = f" of image {i}" if is_set else ""
        t, p = check(t, f"truth{where}"), check(p, f"prediction{where}")
        if t.ndim != 2 or t.shape != p.shape or t.size == 0:
            raise ValueError(
                f"truth {t.shape} and prediction {p.shape}{where} must be non-empty (H, W) images of one size"
            )
        counts.append(count(t, p))
    if not is_set:
        return score(counts[0])
    if per_image:
        return np.array([score(c) for c in counts])
    return score(pool(counts))


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Any:
    """numerator / denominator where 0 / 0 is NaN (nothing to find, nothing found) and x / 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.true_divide(numerator, denominator)
    return float(quotient) if np.ndim(quotient) == 0 else quotient


def mean_defined(values: NDArray[np.floating]) -> float:
    """Mean over the values that are not NaN, NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def columns(scores: ArrayLike) -> tuple[Any, ...]:
    """Scores with several parts, (k,) or (N, k), as k floats or k arrays (N,)."""
    parts = np.moveaxis(np.asarray(scores, dtype=float), -1, 0)
    return tuple(parts) if parts.ndim == 2 else tuple(parts.tolist())


def _images(images: ArrayLike | Sequence[ArrayLike]) -> tuple[list[ArrayLike], bool]:
    if isinstance(images, (list, tuple)) and len(images) and np.ndim(images[0]) == 2:
        return list(images), True
    array = np.asarray(images)
    if array.ndim == 3 and len(array):
        return list(array), True
    return [array], False


def _describe(images: list[ArrayLike], is_set: bool) -> str:
    return f"a set of {len(images)}" if is_set else f"one of shape {np.shape(images[0])}"
