"""Label images of random polygons, and random edits of them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from microlab.data.edits import Edit


def voronoi_labels(shape: tuple[int, int], grains: int, *, lines: int = 0, seed: int = 0) -> np.ndarray:
    """Polygons 1..grains as int32 that fill the image, or have lines of label 0, about `lines` px wide."""
    points = np.random.default_rng(seed).random((grains, 2)) * shape
    pixels = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1)
    labels = cKDTree(points).query(pixels)[1].astype(np.int32) + 1
    if not lines:
        return labels
    between = np.zeros(shape, bool)
    between[1:] |= labels[1:] != labels[:-1]
    between[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    if lines > 1:
        between = ndimage.binary_dilation(between, iterations=lines // 2)
    return np.where(between, 0, labels)


def random_edit(labels: np.ndarray, rng: np.random.Generator) -> Edit:
    """An edit near a random place, about as long as a grain; every second or third can be made."""
    reach = round(np.sqrt(labels.size / len(np.unique(labels))))
    most = np.array(labels.shape) - 1
    do = str(rng.choice(["merge", "split", "delete", "add"], p=[0.35, 0.35, 0.1, 0.2]))
    corners = {"merge": 2, "split": rng.integers(2, 5), "delete": 1, "add": rng.integers(3, 7)}[do]
    centre = rng.integers(0, most + 1)
    at = np.clip(centre + rng.integers(-reach, reach + 1, (corners, 2)), 0, most)
    return Edit(do, tuple((int(y), int(x)) for y, x in at))
