"""t-SNE map of features in two dimensions, with images linked to their masks.

t-SNE: neighbours in d dimensions become neighbours in the plane; distances between groups mean little
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE


def tsne(
    features: Mapping[str, ArrayLike], *, perplexity: float = 30.0, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Project several groups of features into one plane, together.

    Every feature is standardised over all groups first.

    Parameters
    ----------
    features : mapping of name to (n_i, d) float
    perplexity : float
        Number of neighbours that count, about; less than the number of all points.
    seed : int

    Returns
    -------
    dict of name to (n_i, 2) float64, row by row as in `features`

    Raises
    ------
    ValueError
        If the groups differ in d, or there are not more points than `perplexity`.

    References
    ----------
    van der Maaten and Hinton, J. Mach. Learn. Res. 9, 2579 (2008).
    """
    groups = {name: np.asarray(group, float) for name, group in features.items()}
    if len({group.shape[1:] for group in groups.values()}) != 1:
        shapes = {name: group.shape for name, group in groups.items()}
        raise ValueError(f"features must be groups (n_i, d) of one d, got {shapes}")
    together = np.concatenate(list(groups.values()))
    if not 0 < perplexity < len(together):
        raise ValueError(f"perplexity must lie between 0 and the {len(together)} points, got {perplexity}")
    deviation = together.std(0)
    together = (together - together.mean(0)) / np.where(deviation > 1e-9, deviation, 1.0)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(together)
    ends = np.cumsum([len(group) for group in groups.values()])[:-1]
    return dict(zip(groups, np.split(points.astype(np.float64), ends)))


def links(images: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Line segments from every image to its own mask, which has the same row.

    Parameters
    ----------
    images, masks : (n, 2) float
        Two groups of `tsne`.

    Returns
    -------
    (n, 2, 2) float64: for each pair its two ends, as matplotlib's ``LineCollection`` takes them.

    Raises
    ------
    ValueError
        If there is not one mask for each image.
    """
    images, masks = np.asarray(images, float), np.asarray(masks, float)
    if images.shape != masks.shape or images.ndim != 2:
        raise ValueError(f"images {images.shape} and masks {masks.shape} must both be (n, 2)")
    return np.stack([images, masks], axis=1)
