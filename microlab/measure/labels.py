"""Label images: connected components, the lines between labels, labels at the edge."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import relabel_sequential


def components(
    boundary: np.ndarray, threshold: float = 0.5, *, min_area: int = 1, fill: bool = False
) -> np.ndarray:
    """Grains as connected regions of interior, paper A's way (section III D).

    Regions connect through edges of pixels, not corners, so that a boundary one pixel wide and diagonal
    still separates. One gap in a boundary joins two grains.

    Parameters
    ----------
    boundary : (H, W) bool, or float in [0, 1]
        Boundary mask, or probability, cut at `threshold`.
    threshold : float in (0, 1)
        Interior where a probability is below it.
    min_area : int >= 1
        Regions smaller than this, px, become background.
    fill : bool
        Give boundary pixels to the nearest grain.

    Returns
    -------
    int32 (H, W), grains 1..n, 0 on boundaries (unless `fill`).
    """
    interior = _checked(boundary, threshold) < threshold
    labels = label(interior, connectivity=1)
    labels[(np.bincount(labels.ravel()) < min_area)[labels]] = 0
    if fill and labels.any():
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    return relabel_sequential(labels)[0].astype(np.int32)


def boundaries(labels: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Pixels on a boundary between grains: label 0, and those beside another grain.

    Parameters
    ----------
    labels : (H, W) int
    valid : (H, W) bool, optional
        Field of view. Outside of it and along its edge there is no boundary.

    Returns
    -------
    bool (H, W). Between grains that touch the line is two pixels wide, one in each grain; a line of label 0
    is as wide as it is drawn.
    """
    labels = np.asarray(labels)
    lines = labels == 0 if valid is None else (labels == 0) & valid
    for axis in (0, 1):
        on, by_axis = lines.swapaxes(0, axis), labels.swapaxes(0, axis)
        differ = (by_axis[1:] != by_axis[:-1]) & (by_axis[1:] != 0) & (by_axis[:-1] != 0)
        if valid is not None:
            shown = np.asarray(valid).swapaxes(0, axis)
            differ &= shown[1:] & shown[:-1]
        on[1:] |= differ
        on[:-1] |= differ
    return lines


def facing_pixels(labels: np.ndarray, *, periodic: bool = False) -> np.ndarray:
    """Pixels that face one another across an edge between two labels.

    Parameters
    ----------
    labels : (H, W) int
    periodic : bool
        Whether the image wraps around.

    Returns
    -------
    (k, 2) int
        Flat indices of the two pixels, one row for every pixel edge.
    """
    index = np.arange(labels.size).reshape(labels.shape)
    faces = []
    for axis in (0, 1):
        here, there = index, np.roll(index, -1, axis)
        if not periodic:
            here, there = (part.swapaxes(0, axis)[:-1] for part in (here, there))
        differ = labels.ravel()[here] != labels.ravel()[there]
        faces.append(np.stack([here[differ], there[differ]], axis=1))
    return np.concatenate(faces)


def neighbour_pairs(labels: np.ndarray, *, periodic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of labels that touch, and how long their contact is.

    Parameters
    ----------
    labels : (H, W) int
        Every label counts, 0 too.
    periodic : bool
        Whether the image wraps around, as grain maps of simulations do.

    Returns
    -------
    pairs : (m, 2) int
        The smaller label first, sorted, each pair once.
    contact : (m,) int
        Pixel edges that the two share.
    """
    labels = np.asarray(labels)
    touching = np.sort(labels.ravel()[facing_pixels(labels, periodic=periodic)], axis=1)
    return np.unique(touching, axis=0, return_counts=True)


def touching_edge(labels: np.ndarray) -> np.ndarray:
    """Labels of the grains cut by the image's edge, sorted; 0 is left out.

    A grain separated from the edge only by boundary pixels (label 0) does not touch it.
    """
    labels = np.asarray(labels)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.unique(rim[rim > 0])


def _checked(boundary: np.ndarray, threshold: float) -> np.ndarray:
    boundary = np.asarray(boundary)
    if boundary.ndim != 2 or boundary.size == 0:
        raise ValueError(f"boundary probability must be (H, W) with at least one pixel, got {boundary.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1), got {threshold}")
    boundary = boundary.astype(np.float32)
    if not (np.isfinite(boundary).all() and boundary.min() >= 0 and boundary.max() <= 1):
        raise ValueError(f"boundary probability must lie in [0, 1], got {boundary.min()} to {boundary.max()}")
    return boundary
