"""An image and its mask as one array of channels, and apart again.

    class c of C -> grey level c / (C - 1), or C channels of zeros and ones

Paper B (arXiv:2408.00707) stacks the grey mask on the image, so that one model makes both.
"""

from __future__ import annotations

import numpy as np

from microlab.data.errors import InputError
from microlab.data.pairs import check_classes

CODINGS = ("grey", "one-hot")


def channel_count(classes: int, image_channels: int, coding: str) -> int:
    """Channels of an image stacked with its mask: one for a grey mask, one per class for one-hot."""
    if coding not in CODINGS:
        raise InputError(f"coding must be one of {', '.join(CODINGS)}, got {coding!r}")
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if image_channels not in (1, 3):
        raise ValueError(f"image_channels must be 1 or 3, got {image_channels}")
    return image_channels + (1 if coding == "grey" else classes)


def pack(
    image: np.ndarray, mask: np.ndarray, *, classes: int, coding: str = "grey", image_channels: int = 3
) -> np.ndarray:
    """Stack an image with its mask, as the VQ-VAE reads it.

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
    InputError
        If sizes differ, values are out of range, or a colour image is to fit into one channel.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    channel_count(classes, image_channels, coding)  # refuses impossible settings
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be (H, W) or (H, W, 3), got shape {image.shape}")
    if mask.shape != image.shape[:2]:
        raise InputError(f"mask {mask.shape} and image {image.shape[:2]} differ in size")
    if image.ndim == 3 and image_channels == 1:
        raise InputError("a colour image does not fit into image_channels=1: make it grey or use 3")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise InputError(f"image must hold finite values from 0 to 1, got {image.min()} to {image.max()}")
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
    """Separate the image from the raw mask: the inverse of `pack`.

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
    count = channel_count(classes, image_channels, coding)
    if channels.ndim != 3 or len(channels) != count:
        raise ValueError(f"channels must be ({count}, H, W) for coding={coding!r}, got {channels.shape}")
    image = np.moveaxis(channels[:image_channels], 0, 2).clip(0, 1)
    coded = channels[image_channels:]
    raw = coded[0].clip(0, 1) if coding == "grey" else coded.argmax(0).astype(np.uint8)
    return np.ascontiguousarray(image[..., 0] if image_channels == 1 else image), raw
