"""Images, masks and labels written so that any viewer, Fiji and `read_image` open them.

stored value = round(grey level * (2^bits - 1))
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from microlab.data.files import ImageError, atomic

LEAST_PNG_PIXEL = 1e6 / (2**32 - 2)  # um; PNG counts pixels per metre in 32 bits


def write_image(
    path: str | os.PathLike, image: np.ndarray, *, pixel_size: float | None = None, bits: int = 8
) -> Path:
    """Write an image of grey levels or colours; the suffix chooses the format.

    Parameters
    ----------
    path : path
        ``.png`` (8 bits; 16 if grey), ``.jpg`` (8) or ``.tif`` (8, 16 or 32, the last as floating point).
        Written whole or not at all.
    image : (H, W) or (H, W, 3) float in [0, 1]
    pixel_size : float, optional
        Micrometres per pixel, stored so that Fiji and `read_image` find it.
    bits : int
        Bits per channel.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        If shape, values, suffix or bits do not fit, or the file cannot be written.
    """
    path, image = Path(path), np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise ImageError(f"{path}: image must have shape (H, W) or (H, W, 3), got {image.shape}")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ImageError(f"{path}: image must lie in [0, 1] without NaN")
    suffix = path.suffix.lower()
    allowed = {".png": (8, 16) if image.ndim == 2 else (8,), ".jpg": (8,), ".jpeg": (8,)}
    allowed |= {".tif": (8, 16, 32), ".tiff": (8, 16, 32)}
    if bits not in allowed.get(suffix, ()):
        raise ImageError(f"{path}: write .png, .jpg or .tif with {allowed.get(suffix, 8)} bits, got {bits}")
    if bits == 32:
        return _write(path, image.astype(np.float32), pixel_size)
    levels = np.rint(image.astype(np.float64) * (2**bits - 1))
    return _write(path, levels.astype(np.uint8 if bits == 8 else np.uint16), pixel_size)


def write_mask(path: str | os.PathLike, mask: np.ndarray) -> Path:
    """Write a mask as an 8-bit image, 255 where True; the suffix has to be ``.png`` or ``.tif``.

    Raises
    ------
    ImageError
        If `mask` is not (H, W) bool, or the file cannot be written.
    """
    path, mask = Path(path), np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ImageError(f"{path}: mask must be bool of shape (H, W), got {mask.dtype} {mask.shape}")
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        raise ImageError(f"{path}: a mask needs .png or .tif, {path.suffix or 'no suffix'} would blur it")
    return _write(path, mask.astype(np.uint8) * 255, None)


def write_labels(path: str | os.PathLike, labels: np.ndarray, *, pixel_size: float | None = None) -> Path:
    """Write a label image as TIFF that Fiji opens: 16-bit, or 32-bit integers above 65535 labels.

    Parameters
    ----------
    path : path
        Has to end in ``.tif`` or ``.tiff``.
    labels : (H, W) int
        0 on boundaries, grains 1..n.
    pixel_size : float, optional
        Micrometres per pixel.

    Raises
    ------
    ImageError
        If `labels` are no labels, or the file cannot be written.
    """
    path, labels = Path(path), np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ImageError(
            f"{path}: labels must be whole numbers >= 0 of shape (H, W), got {labels.dtype} {labels.shape}"
        )
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ImageError(f"{path}: labels need .tif, other formats cannot hold them")
    return _write(path, labels.astype(np.uint16 if labels.max() <= 65535 else np.int32), pixel_size)


def write_stack(path: str | os.PathLike, stack: np.ndarray, *, pixel_size: float | None = None) -> Path:
    """Write grey maps of one size as the frames of one TIFF of float32, which Fiji opens as a stack.

    Parameters
    ----------
    path : path
        Has to end in ``.tif`` or ``.tiff``.
    stack : (N, H, W) float in [0, 1]
    pixel_size : float, optional
        Micrometres per pixel.

    Raises
    ------
    ImageError
        If shape, values or suffix do not fit, or the file cannot be written.
    """
    path, stack = Path(path), np.asarray(stack)
    if stack.ndim != 3 or stack.size == 0:
        raise ImageError(f"{path}: stack must have shape (N, H, W), got {stack.shape}")
    if not (np.isfinite(stack).all() and stack.min() >= 0 and stack.max() <= 1):
        raise ImageError(f"{path}: stack must lie in [0, 1] without NaN")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ImageError(f"{path}: a stack needs .tif, other formats hold one image")
    return _write(path, stack.astype(np.float32), pixel_size, frames=True)


def _write(path: Path, stored: np.ndarray, pixel_size: float | None, *, frames: bool = False) -> Path:
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"{path}: pixel size must be a positive number of micrometres, got {pixel_size}")
    if pixel_size and path.suffix.lower() == ".png" and pixel_size < LEAST_PNG_PIXEL:
        raise ImageError(
            f"{path}: PNG holds no pixel size below {LEAST_PNG_PIXEL:.3g} um, got {pixel_size}; write .tif"
        )
    try:
        with atomic(path) as partial:
            if path.suffix.lower() in (".tif", ".tiff"):
                _write_tiff(partial, stored, pixel_size, frames)
            else:
                options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
                if pixel_size and not options:  # JPEG counts dots in 16 bits, too few for a microscope
                    options["dpi"] = (25400.0 / pixel_size,) * 2
                Image.fromarray(stored).save(partial, **options)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be written ({error.strerror or error}); choose another folder"
        ) from None
    return path


def _write_tiff(path: Path, stored: np.ndarray, pixel_size: float | None, frames: bool) -> None:
    if frames or (stored.ndim == 2 and stored.dtype != np.int32):
        # ImageJ's dialect keeps the unit. It knows 8 and 16 bits and float32, grey.
        options = {"imagej": True, "photometric": "minisblack", "metadata": {"axes": "TYX"} if frames else {}}
        if pixel_size:
            options["resolution"] = (1 / pixel_size,) * 2
            options["metadata"]["unit"] = "um"
    else:
        options = {"photometric": "minisblack" if stored.ndim == 2 else "rgb", "metadata": None}
        if pixel_size:
            options |= {"resolution": (1e4 / pixel_size,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, stored, **options)
