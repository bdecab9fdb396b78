"""Pairs of micrograph and mask: as one array, and dreamed from codes.

    class c of C -> grey level c / (C - 1), or C channels of zeros and ones

Paper B (arXiv:2408.00707) stacks the grey mask on the image, so that one model makes both. What belongs to
pairs can be imported from here: their cleaning, their files and the checks against real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from microlab.data.pairs import Pair, check_classes
from microlab.generate.masks import clean_mask
from microlab.generate.sampling import sample
from microlab.generate.vqvae import DOWNSAMPLING, VQVAE, channel_count
from microlab.training.devices import pick_device


def pack(
    image: np.ndarray, mask: np.ndarray, *, classes: int, coding: str = "grey", image_channels: int = 3
) -> np.ndarray:
    """Stack an image with its mask, as the VQ-VAE takes it.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) float in [0, 1]
        Grey is repeated to three channels if `image_channels` is 3.
    mask : (H, W) int in 0..classes-1
    classes : int >= 2
    coding : {'grey', 'one-hot'}
        Class c as the grey level c / (classes - 1) in one channel (paper B), or as channel c of `classes`.
    image_channels : {1, 3}

    Returns
    -------
    (C, H, W) float32 in [0, 1], C = image_channels + 1 or image_channels + classes

    Raises
    ------
    ValueError
        If sizes differ, values are out of range, or a colour image is to fit into one channel.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    _check_coding(classes, coding, image_channels)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be (H, W) or (H, W, 3), got shape {image.shape}")
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask {mask.shape} and image {image.shape[:2]} differ in size")
    if image.ndim == 3 and image_channels == 1:
        raise ValueError("a colour image does not fit into image_channels=1: make it grey or use 3")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image must hold finite values from 0 to 1, got {image.min()} to {image.max()}")
    check_classes(mask, classes, "mask")
    planes = np.moveaxis(np.atleast_3d(image), 2, 0).astype(np.float32)
    if len(planes) < image_channels:
        planes = np.repeat(planes, image_channels, axis=0)
    if coding == "grey":
        coded = (mask / np.float32(classes - 1))[None]
    else:
        coded = mask[None] == np.arange(classes)[:, None, None]
    return np.concatenate([planes, coded.astype(np.float32)])


def unpack(
    channels: np.ndarray, *, classes: int, coding: str = "grey", image_channels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Part the image from the raw mask: the inverse of `pack`.

    Parameters
    ----------
    channels : (C, H, W) float
        As decoded: values may lie outside [0, 1] and between the classes.
    classes, coding, image_channels
        As in `pack`.

    Returns
    -------
    image : (H, W) float32 in [0, 1] if `image_channels` is 1, else (H, W, 3)
    raw : (H, W) float32 in [0, 1], grey levels for `clean_mask`, if `coding` is 'grey';
        (H, W) uint8, the class of the largest channel, if it is 'one-hot'

    Raises
    ------
    ValueError
        If the number of channels does not fit.
    """
    channels = np.asarray(channels, np.float32)
    _check_coding(classes, coding, image_channels)
    wanted = channel_count(classes, image_channels, coding)
    if channels.ndim != 3 or len(channels) != wanted:
        raise ValueError(f"channels must be ({wanted}, H, W) for coding={coding!r}, got {channels.shape}")
    image = np.moveaxis(channels[:image_channels], 0, 2).clip(0, 1)
    coded = channels[image_channels:]
    raw = coded[0].clip(0, 1) if coding == "grey" else coded.argmax(0).astype(np.uint8)
    return np.ascontiguousarray(image[..., 0] if image_channels == 1 else image), raw


def dream(
    vqvae: VQVAE,
    prior: torch.nn.Module,
    n: int,
    *,
    shape: tuple[int, int] = (256, 256),
    condition: np.ndarray | Sequence[float] | None = None,
    temperature: float = 1.0,
    min_area: int | Sequence[int] = 200,
    grey: bool = True,
    batch: int = 16,
    seed: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool = False,
) -> list[Pair]:
    """Sample pairs of image and mask: codes from the prior, decoded, parted and cleaned.

    Parameters
    ----------
    vqvae : VQVAE
    prior : PixelCNN or GatedPixelCNN
        Trained on codes of that VQ-VAE.
    n : int >= 1
    shape : (int, int)
        Height and width in pixels, multiples of 4.
    condition : (D,) or (n, D) float, optional
        What a conditional prior is steered by, such as the phase fractions.
    temperature : float > 0
    min_area : int or one per class
        As in `clean_mask`.
    grey : bool
        Average the three channels of images that were trained as grey repeated. False keeps the colours.
    batch : int
        Pairs sampled at a time.
    seed : int or Generator
    device : str, optional
    progress : bool

    Returns
    -------
    list of Pair, named ``dream_0000`` and on: image (H, W) or (H, W, 3) float32 in [0, 1], mask (H, W) uint8

    Raises
    ------
    ValueError
        If `n` or `shape` do not fit, or the prior knows other codes than the VQ-VAE.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(shape) != 2 or min(shape) < DOWNSAMPLING or any(side % DOWNSAMPLING for side in shape):
        raise ValueError(f"shape must be two multiples of {DOWNSAMPLING}, got {tuple(shape)}")
    if prior.codes != vqvae.codes:
        raise ValueError(
            f"the prior knows {prior.codes} codes and the VQ-VAE {vqvae.codes}: not made together"
        )
    place = pick_device(device)
    codes = sample(
        prior,
        n,
        (shape[0] // DOWNSAMPLING, shape[1] // DOWNSAMPLING),
        condition=condition,
        temperature=temperature,
        batch=batch,
        seed=seed,
        device=place,
        progress=progress,
    )
    vqvae = vqvae.to(place).eval()
    coding = {name: getattr(vqvae, name) for name in ("classes", "coding", "image_channels")}
    pairs = []
    for start in range(0, n, batch):
        with torch.inference_mode():
            some = torch.as_tensor(codes[start : start + batch], device=place)
            decoded = vqvae.decode(some).float().cpu().numpy()
        for channels in decoded:
            image, raw = unpack(channels, **coding)
            if grey and image.ndim == 3:
                image = image.mean(2)
            mask = clean_mask(raw, vqvae.classes, min_area=min_area)
            pairs.append(Pair(image, mask, f"dream_{len(pairs):04d}"))
    return pairs


def _check_coding(classes: int, coding: str, image_channels: int) -> None:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if image_channels not in (1, 3):
        raise ValueError(f"image_channels must be 1 or 3, got {image_channels}")
    channel_count(classes, image_channels, coding)
