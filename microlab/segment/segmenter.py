"""The labour-free road, stage by stage: a micrograph in, grains and numbers out.

    micrograph -> zoom -> boundary probability -> zoom back -> watershed -> grains -> numbers with units

Truth is only ever used to score (`score`, `compare`), never to segment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from microlab.data.transforms import standardise
from microlab.measure.labels import boundaries
from microlab.segment.instances import watershed_grains

DEFAULT_WEIGHTS = "labour-free"
SMALLEST_SIDE = 32  # px; a shorter image cannot show a grain and its boundaries

Network = tuple[object, dict]  # a model and its card


@dataclass(frozen=True)
class Segmentation:
    """What the network and the watershed made of one micrograph.

    Attributes
    ----------
    probability : (H, W) float32 in [0, 1]
        Probability of a grain boundary.
    boundary : (H, W) bool
        Boundary mask: closed lines, as thick as the network saw them.
    labels : (H, W) int32
        Grains 1..n, filling the image.
    zoom : float
        Magnification at which the network looked at the image.
    """

    probability: np.ndarray
    boundary: np.ndarray
    labels: np.ndarray
    zoom: float


def load_network(weights: str | os.PathLike | Network = DEFAULT_WEIGHTS) -> Network:
    """A network ready to predict, with its card.

    Parameters
    ----------
    weights : str or path
        Name of shipped weights, or a ``.safetensors`` file with its card (``.json``) beside it.
        A (model, card) pair is passed through.

    Raises
    ------
    ValueError
        If there are no such weights or they do not fit their card.
    """
    if isinstance(weights, tuple):
        return weights
    from microlab.data.weights import load
    from microlab.segment.unet import UNet

    pass

    model, card = load(weights, UNet)
    return model, {"name": os.fspath(weights), **card}


def segment_image(
    image: np.ndarray,
    weights: str | os.PathLike | Network = DEFAULT_WEIGHTS,
    *,
    scale: float | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Segmentation:
    """Segment one micrograph into grains.

    Parameters
    ----------
    image : (H, W) float32 in [0, 1]
    weights : str, path or (model, card)
        See `load_network`. Load once and pass the pair when there are many images.
    scale : float, optional
        Magnification before the network; estimated from the image by default (`estimate_zoom`).
    device : str, optional
    progress : bool

    Returns
    -------
    Segmentation

    Raises
    ------
    ValueError
        If the image is too small, not finite or blank, or `scale` is not positive.
    """
    image = checked_image(image)
    model, card = load_network(weights)
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale}")
    zoom = estimate_zoom(image, model, card, device=device) if scale is None else float(scale)
    probability = boundary_probability(image, model, zoom, device=device, progress=progress)
    labels = grains_of(probability, card)
    return Segmentation(probability, closed_boundary(probability, labels), labels, zoom)


def estimate_zoom(image: np.ndarray, model: object, card: dict, *, device: str | None = None) -> float:
    """Magnification that brings an image's grains to the size the network was trained on.

    Parameters
    ----------
    image : (H, W) float32
    model, card : network
        ``card["grain_size_px"]`` is the mean linear intercept of the training images; without it
        the zoom is 1.

    Returns
    -------
    float
    """
    from microlab.segment.zoom import matching_zoom

    design = card.get("grain_size_px")
    if design is None:
        return 1.0
    return matching_zoom(
        image, lambda part: grains_of(boundary_probability(part, model, device=device), card), float(design)
    )


def boundary_probability(
    image: np.ndarray, model: object, zoom: float = 1.0, *, device: str | None = None, progress: bool = False
) -> np.ndarray:
    """Boundary probability of an image, seen by the network at magnification `zoom`.

    Returns
    -------
    (H, W) float32 in [0, 1], of the image's own size.
    """
    from microlab.data.transforms import resize_by
    from microlab.segment.unet import predict

    pass

    # Training images are standardised too, so brightness and contrast do not matter.
    probability = predict(model, standardise(resize_by(image, zoom)), device=device, progress=progress)
    if probability.shape == image.shape:
        return probability
    return np.clip(resize(probability, image.shape, order=1, anti_aliasing=zoom > 1), 0, 1).astype(np.float32)


def grains_of(probability: np.ndarray, card: dict) -> np.ndarray:
    """Grains by watershed with the settings on the network's card, ``card["watershed"]``; int32 1..n."""
    return watershed_grains(probability, **card.get("watershed", {}))


def closed_boundary(probability: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Boundary mask that agrees with the grains: their lines, and the likely boundary connected to them.

    The network alone leaves gaps; the watershed's lines alone have no thickness. Likely boundary that touches
    no line between two grains is a scratch or a pore, and is left out.

    Returns
    -------
    (H, W) bool
    """
    lines = boundaries(labels)
    return ndimage.binary_propagation(
        lines, mask=lines | (probability >= threshold), structure=np.ones((3, 3))
    )


def checked_image(image: np.ndarray) -> np.ndarray:
    """The image as float32, or a ValueError that says why nothing can be segmented in it."""
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 2:
        raise ValueError(f"image must be grey, (H, W), got shape {image.shape}")
    if min(image.shape) < SMALLEST_SIDE:
        raise ValueError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels, "
            f"both sides need at least {SMALLEST_SIDE}; give a larger field"
        )
    if not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite values; replace them first")
    if image.max() == image.min():
        raise ValueError("image has the same grey everywhere, there is nothing to segment; check the export")
    return image
