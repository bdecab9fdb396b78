"""Objects of masks, and the cleaning of raw masks as in paper B (arXiv:2408.00707).

grey levels -> k-means started at the class levels -> objects under 200 px removed -> filled from the nearest
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from sklearn.cluster import KMeans

from microlab.data.errors import InputError
from microlab.data.pairs import check_classes


def clean_mask(
    raw: np.ndarray,
    classes: int,
    *,
    min_area: int | Sequence[int] = 200,
    levels: Sequence[float] | None = None,
) -> np.ndarray:
    """Turn a raw mask into classes and remove its small objects, as paper B does.

    Grey levels are grouped by k-means. The clusters start at the class levels, so they are ordered by level
    from the start. A class without a pixel within half a step of its level gets no cluster, and each cluster
    takes the class whose level is nearest its centre: an absent class is not invented.

    Then objects (connected regions of one class, diagonals included) under `min_area` are removed, and each
    of their pixels takes the class of the nearest pixel that stays: a speck on the border of two classes is
    then divided between them where the border passes, and the order of the objects does not matter. The
    largest object stays, however small.

    A grey border between class 0 and class 3 passes through the levels of 1 and 2, so k-means gives it a rim
    of classes that are not there. Short rims are smaller than `min_area` and vanish; a rim around a large
    object stays. The coding 'one-hot' has no such rims.

    Parameters
    ----------
    raw : (H, W) float in [0, 1] or (H, W) int in 0..classes-1
        Class ids skip the k-means.
    classes : int >= 2
    min_area : int or one per class
        Least area of an object in pixels; 0 or 1 keeps all. The paper's 200 px removes classes of small
        objects: 96 % of the spheroidite of uhcs. See `least_areas`.
    levels : sequence of float, optional
        Grey level of each class, rising; by default c / (classes - 1).

    Returns
    -------
    (H, W) uint8

    Raises
    ------
    ValueError
        If values, levels or areas do not fit.
    """
    raw = np.asarray(raw)
    if raw.ndim != 2 or raw.size == 0:
        raise ValueError(f"raw mask must be (H, W), got shape {raw.shape}")
    if raw.dtype.kind in "iu":
        check_classes(raw, classes, "raw mask")
        return _drop_small(raw.astype(np.uint8), _areas(min_area, classes))
    return _drop_small(_cluster(raw, classes, levels), _areas(min_area, classes))


def least_areas(
    masks: Sequence[np.ndarray], classes: int, *, share: float = 0.02, at_most: int = 200
) -> tuple[int, ...]:
    """Least area of an object for `clean_mask`, class by class, from real masks.

    Parameters
    ----------
    masks : sequence of (H, W) int in 0..classes-1
    classes : int
    share : float in [0, 1)
        Real objects under the area hold at most this share of their class.
    at_most : int
        Paper B's 200 px.

    Returns
    -------
    tuple of `classes` int. `at_most` for a class that no mask has.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    areas_by_mask = [object_areas(mask, classes) for mask in masks]
    least = []
    for c in range(classes):
        areas = np.sort(np.concatenate([areas[c] for areas in areas_by_mask]))
        too_much = np.cumsum(areas) > share * areas.sum()  # the class would lose more than `share`
        least.append(min(at_most, int(areas[too_much][0])) if len(areas) else at_most)
    return tuple(least)


def objects(mask: np.ndarray) -> np.ndarray:
    """Objects of all classes at once: connected regions of one class, (H, W) int, numbered from 1.

    Pixels that touch at a corner are connected, or a thin oblique lath would fall to pieces.
    """
    return label(np.asarray(mask).astype(np.int64) + 1, background=0, connectivity=2)


def object_areas(mask: np.ndarray, classes: int) -> list[np.ndarray]:
    """Areas in pixels of the objects of each class."""
    check_classes(mask, classes, "mask")
    area, of_class = _measure(objects(mask), mask)
    return [area[of_class == c] for c in range(classes)]


def _cluster(raw: np.ndarray, classes: int, levels: Sequence[float] | None) -> np.ndarray:
    levels = np.linspace(0, 1, classes) if levels is None else np.asarray(levels, float)
    if levels.shape != (classes,) or not (np.diff(levels) > 0).all():
        raise ValueError(f"levels must be {classes} rising numbers, got {levels.tolist()}")
    if not np.isfinite(raw).all():
        raise ValueError("raw mask holds values that are not finite")
    # Weighted k-means of at most 1024 greys equals that of the pixels, rounded to 1/1023, and is faster.
    greys, index, counts = np.unique(np.rint(raw * 1023), return_inverse=True, return_counts=True)
    greys = greys[:, None] / 1023
    halfway = (levels[1:] + levels[:-1]) / 2
    present = np.unique(np.digitize(greys[:, 0], halfway))
    start = levels[present, None]
    fit = KMeans(len(present), init=start, n_init=1).fit(greys, sample_weight=counts)
    of_cluster = np.digitize(fit.cluster_centers_[:, 0], halfway)
    return of_cluster[fit.labels_][index].reshape(raw.shape).astype(np.uint8)


def _areas(min_area: int | Sequence[int], classes: int) -> np.ndarray:
    areas = np.asarray(min_area)
    if areas.shape not in ((), (classes,)) or areas.dtype.kind not in "iu" or (areas < 0).any():
        raise InputError(f"min_area must be a number of pixels >= 0, or one for each of {classes} classes")
    return np.broadcast_to(areas, classes)


def _drop_small(mask: np.ndarray, min_area: np.ndarray) -> np.ndarray:
    mask = mask.copy()
    while True:
        labels = objects(mask)
        area, of_class = _measure(labels, mask)
        stays = area >= min_area[of_class]
        if not stays.any():
            stays[area.argmax()] = True
        if stays.all():
            return mask
        # A filled region need not be connected and may leave a new speck of a pixel or two. The region that
        # stays only grows, so the loop ends.
        rows, columns = distance_transform_edt(
            ~stays[labels - 1], return_distances=False, return_indices=True
        )
        mask = mask[rows, columns]


def _measure(labels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area and class of each object, in the order of their numbers."""
    area = np.bincount(labels.ravel())[1:]
    of_class = np.zeros(len(area), np.int64)
    of_class[labels.ravel() - 1] = np.asarray(mask).ravel()
    return area, of_class
