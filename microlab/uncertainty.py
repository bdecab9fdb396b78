"""How sure is a segmentation when nobody knows the truth? Ask the network again (chapter 07).

    u(x) = std_k p_k(x),     D = mean_k ARE(grains of mean_k p_k, grains of p_k)

p_k is the boundary probability of view k of an image: turned and mirrored, predicted, turned back. A network
that has understood an image says the same of all eight. Agreement is necessary, not sufficient: what all
views get wrong in the same way, no disagreement shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from microlab import pipeline
from microlab.measure import metrics
from microlab.pipeline import Network
from microlab.render.prepare import standardise
from microlab.segment.instances import boundaries
from microlab.segment.scale import resize_by
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
        Magnification before the network, as in `microlab.pipeline.segment_image`.
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
    if not 2 <= views <= VIEWS:
        raise ValueError(f"views must lie in 2..{VIEWS}, got {views}")
    image = pipeline.checked_image(image)
    model, card = network
    seen = standardise(resize_by(image, zoom))
    probabilities = np.stack(
        [view_back(predict(model, view(seen, k), device=device), k) for k in range(views)]
    )  # (views, h, w)
    mean = probabilities.mean(0)
    labels = pipeline.grains_of(mean, card)
    found = labels.max() > 1

    def error(probability: np.ndarray, card: dict) -> float:
        return float(metrics.adapted_rand_error(labels, pipeline.grains_of(probability, card)))

    disagreement = np.mean([error(p, card) for p in probabilities]) if found else np.nan
    models = error(predict(other[0], seen, device=device), other[1]) if other and found else np.nan
    spread = probabilities.std(0)
    near = (
        ndimage.binary_dilation(boundaries(labels), iterations=NEAR) if found else np.ones_like(labels, bool)
    )
    deviation_map = resize(spread, image.shape, order=1) if spread.shape != image.shape else spread
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
