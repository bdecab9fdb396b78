"""How sure is a segmentation when nobody knows the truth? Ask the network again.

    u(x) = std_k p_k(x),     D = mean_k ARE(grains of mean_k p_k, grains of p_k)

p_k is the boundary probability of view k of an image: turned and mirrored, predicted, turned back. A network
that has understood an image says the same of all eight. Agreement is necessary, not sufficient: what all
views get wrong in the same way, no disagreement shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from microlab.data.transforms import resize_by, standardise
from microlab.measure import instance
from microlab.measure.labels import boundaries
from microlab.segment import segmenter
from microlab.segment.segmenter import Network
from microlab.segment.unet import predict

VIEWS = 8  # symmetries of the square
NEAR = 3  # px from a line between grains that count as near it


@dataclass(frozen=True)
class Uncertainty:
    """How far several looks at one image differ.

    Attributes
    ----------
    deviation_map : (H, W) float32 in [0, 0.5]
        Standard deviation of the boundary probability over the views.
    deviation : float
        Its mean near the lines between grains.
    disagreement : float in [0, 1]
        Mean adapted Rand error of the grains of single views against those of their mean. NaN where the mean
        shows one grain only: nothing was found that could be compared.
    models : float in [0, 1]
        Adapted Rand error of another network's grains against the same; NaN without one.
    """

    deviation_map: np.ndarray
    deviation: float
    disagreement: float
    models: float


def estimate_uncertainty(
    image: np.ndarray,
    network: Network,
    zoom: float = 1.0,
    *,
    views: int = VIEWS,
    other: Network | None = None,
    device: str | None = None,
) -> Uncertainty:
    """Disagreement between views of an image, and with another network; no truth is needed.

    Everything is computed at the network's scale; the map is brought back to the image's size.

    Parameters
    ----------
    image : (H, W) float32 in [0, 1]
    network, other : (model, card)
    zoom : float
        Magnification before the network, as in `microlab.segment.segmenter.segment_image`.
    views : int in 2..8
        How many of the eight symmetries of the square; the first one is the image as it is.
    device : str, optional

    Returns
    -------
    Uncertainty

    Raises
    ------
    ValueError
        If `views` is out of range, or the image cannot be segmented.

    References
    ----------
    Wang et al., Neurocomputing 338, 34 (2019): test-time augmentation as a measure of uncertainty.
    """
    image = segmenter.checked_image(image)
    model, card = network

    def grains_of_other(seen: np.ndarray) -> np.ndarray:
        return segmenter.grains_of(predict(other[0], seen, device=device), other[1])

    return compare_views(
        standardise(resize_by(image, zoom)),
        lambda seen: predict(model, seen, device=device),
        lambda probability: segmenter.grains_of(probability, card),
        views=views,
        shape=image.shape,
        other=grains_of_other if other else None,
    )


def compare_views(
    seen: np.ndarray,
    boundary_map: Callable[[np.ndarray], np.ndarray],
    grains: Callable[[np.ndarray], np.ndarray],
    *,
    views: int = VIEWS,
    shape: tuple[int, int] | None = None,
    other: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Uncertainty:
    """Disagreement of any method between views of an image: what :func:`estimate_uncertainty` rests on.

    Parameters
    ----------
    seen : (h, w) float
        The image as the method takes it.
    boundary_map : callable
        From an image to the probability of a boundary, float32 of the image's shape.
    grains : callable
        From that probability to labels, int of the same shape.
    views : int in 2..8
    shape : (H, W), optional
        Size of the map that is handed back; that of `seen` by default.
    other : callable, optional
        From an image to the labels of another method, for `Uncertainty.models`.

    Returns
    -------
    Uncertainty

    Raises
    ------
    ValueError
        If `views` is out of range.
    """
    if not 2 <= views <= VIEWS:
        raise ValueError(f"views must lie in 2..{VIEWS}, got {views}")
    shape = seen.shape if shape is None else tuple(shape)
    probabilities = np.stack(
        [view_back(boundary_map(view(seen, k)), k) for k in range(views)]
    )  # (views, h, w)
    labels = grains(probabilities.mean(0))
    found = labels.max() > 1

    def error(predicted: np.ndarray) -> float:
        return float(instance.adapted_rand_error(labels, predicted))

    disagreement = np.mean([error(grains(p)) for p in probabilities]) if found else np.nan
    models = error(other(seen)) if other and found else np.nan
    spread = probabilities.std(0)
    near = (
        ndimage.binary_dilation(boundaries(labels), iterations=NEAR) if found else np.ones_like(labels, bool)
    )
    deviation_map = resize(spread, shape, order=1) if spread.shape != shape else spread
    return Uncertainty(
        deviation_map.astype(np.float32), float(spread[near].mean()), float(disagreement), float(models)
    )


def view(image: np.ndarray, k: int) -> np.ndarray:
    """View `k` in 0..7 of an image: `k` quarter turns, mirrored as well from 4 on."""
    turned = np.rot90(image, k % 4)
    return np.ascontiguousarray(turned[:, ::-1] if k >= 4 else turned)


def view_back(image: np.ndarray, k: int) -> np.ndarray:
    """Undo :func:`view`."""
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if k >= 4 else image, -(k % 4)))
