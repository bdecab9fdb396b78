"""Micrographs in and out: PNG, JPEG and TIFF files, their pixel size and their data bar (chapter 00).

    grey level in [0, 1] = stored value / (2^bits - 1)

Every mistake a file can hold ends in an `ImageError` of one line: which file, what is wrong, how to mend it.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from microlab.data import scale
from microlab.data.databar import find_data_bar
from microlab.data.files import ImageError
from microlab.data.output import write_image, write_labels, write_mask, write_stack

__all__ = [
    "ImageError",
    "Micrograph",
    "find_data_bar",
    "read_image",
    "read_labels",
    "read_mask",
    "write_image",
    "write_labels",
    "write_mask",
    "write_stack",
]

LEAST_SIDE = 16  # px; nothing can be segmented on less


@dataclass(frozen=True)
class Micrograph:
    """One grey image and what its file said about it."""

    pixels: np.ndarray  # (H, W) float32 in [0, 1], data bar already cut off
    pixel_size: float | None  # micrometres per pixel, None if the file does not say
    path: Path
    bits: int  # significant bits per pixel in the file
    pixel_size_source: str | None = None  # "given", "FEI tag", "ImageJ", ...
    data_bar_height: int = 0  # px cut off at the bottom


def read_image(
    path: str | os.PathLike,
    *,
    pixel_size: float | None = None,
    data_bar: int | str = "auto",
    page: int | None = None,
    bits: int | None = None,
) -> Micrograph:
    """Read one micrograph as grey levels.

    Colour becomes luminance (Rec. 709), transparency is dropped, palettes and inverted TIFFs are resolved.
    Unsigned integers of 8 and 16 bits are divided by their white level. A 16-bit file with no value above
    4095 comes from a 12-bit camera and is divided by 4095. Floating point inside [0, 1] is kept. Signed and
    32-bit integers and other floating point have no white level and are stretched from least to largest.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF or anything else that Pillow opens; told by content, not by name.
    pixel_size : float, optional
        Micrometres per pixel. Overrides what the file says.
    data_bar : "auto" or int
        Find and cut the data bar at the bottom, or cut that many rows (0 keeps all).
    page : int, optional
        Which page of a file with several, from 0. Such files are refused without it.
    bits : int, optional
        Significant bits of an 8- or 16-bit file, if the rule above guesses wrong.

    Returns
    -------
    Micrograph

    Raises
    ------
    ImageError
        If the file is missing, empty, unreadable, truncated or no image; if it holds NaN, several pages
        or fewer than 16 pixels on a side; if an argument is out of range.
    """
    path = Path(path)
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"pixel size must be a positive number of micrometres, got {pixel_size}")
    stored, size, bar_height = _read(path, page)
    channels = stored.shape[2] if stored.ndim == 3 else 1
    if stored.ndim not in (2, 3) or channels > 4 or 0 in stored.shape:
        raise ImageError(f"{path}: has shape {stored.shape}; save one grey or colour plane of it alone")
    pixels, bits = _to_unit_range(stored, bits, path)
    del stored
    if pixels.ndim == 3:
        pixels = _luminance(pixels)
    if min(pixels.shape) < LEAST_SIDE:
        raise ImageError(
            f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} pixels; "
            f"a micrograph needs at least {LEAST_SIDE} x {LEAST_SIDE}"
        )

    if data_bar == "auto":
        if bar_height is None:
            row = find_data_bar(pixels)
            bar_height = 0 if row is None else pixels.shape[0] - row
    elif isinstance(data_bar, (int, np.integer)) and 0 <= data_bar <= pixels.shape[0] - LEAST_SIDE:
        bar_height = int(data_bar)
    else:
        raise ImageError(
            f"{path}: data bar height must be 'auto' or 0 to {pixels.shape[0] - LEAST_SIDE} rows, "
            f"got {data_bar!r}"
        )
    pixels = np.ascontiguousarray(pixels[: pixels.shape[0] - bar_height])

    if pixel_size is not None:
        size = (float(pixel_size), float(pixel_size), "given")
    elif size and abs(size[0] - size[1]) > 0.01 * size[0]:
        warnings.warn(
            f"{path}: pixels are {size[0]:.4g} x {size[1]:.4g} um, not square; the pixel size is left "
            f"unknown. Resample the image or give a pixel size.",
            stacklevel=2,
        )
        size = None
    return Micrograph(
        pixels=pixels,
        pixel_size=size[0] if size else None,
        path=path,
        bits=bits,
        pixel_size_source=size[2] if size else None,
        data_bar_height=bar_height,
    )


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask as (H, W) bool: True where the grey level is above one half.

    Raises
    ------
    ImageError
        As `read_image`.
    """
    return read_image(path, data_bar=0).pixels > 0.5


def read_labels(path: str | os.PathLike) -> tuple[np.ndarray, float | None]:
    """Read a label image of whole numbers, 0 for boundary and 1..n for grains.

    Returns
    -------
    labels : (H, W) int32
    pixel_size : float or None
        Micrometres per pixel.

    Raises
    ------
    ImageError
        If the file cannot be read, has several planes, or values that are no labels.
    """
    path = Path(path)
    stored, size, _ = _read(path, None)
    if stored.ndim != 2 or 0 in stored.shape:
        raise ImageError(f"{path}: has shape {stored.shape}; a label image has one plane of numbers")
    largest = np.iinfo(np.int32).max
    if not np.isfinite(stored).all() or stored.min() < 0 or stored.max() > largest:
        raise ImageError(f"{path}: labels must lie in 0..{largest}; 0 is boundary, grains count from 1")
    labels = stored.astype(np.int32)
    if not np.array_equal(labels, stored):
        raise ImageError(f"{path}: labels must be whole numbers; give labels.tif, not a probability")
    return labels, size[0] if size else None


def _read(path: Path, page: int | None) -> tuple[np.ndarray, scale.Size | None, int | None]:
    """Stored values (H, W) or (H, W, channels), pixel size, and data bar height if the file says it."""
    if not path.exists():
        raise ImageError(f"{path}: no such file; check the name and the folder")
    if path.is_dir():
        raise ImageError(f"{path}: is a folder; give an image file inside it")
    logger = logging.getLogger("tifffile")
    was_disabled = logger.disabled
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if not head:
            raise ImageError(f"{path}: is empty (0 bytes); copy or export it again")
        is_tiff = head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        logger.disabled = True  # what tifffile would log about a damaged file is raised below
        stored, size, bar_height = (_read_tiff if is_tiff else _read_pillow)(path, page)
        return stored, size or scale.from_sidecar(path), bar_height
    except ImageError:
        raise
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it; change its access rights or copy it") from None
    except MemoryError:
        raise ImageError(f"{path}: is too large for the memory of this machine; crop it") from None
    except Exception as error:  # decoders raise their own kinds: struct.error, zlib.error, SyntaxError, ...
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise ImageError(f"{path}: is damaged or cut short ({reason}); copy or export it again") from None
    finally:
        logger.disabled = was_disabled


def _read_tiff(path: Path, page_number: int | None) -> tuple[np.ndarray, scale.Size | None, int | None]:
    with tifffile.TiffFile(path) as tif:
        pages = [page for page in tif.pages if not page.is_reduced]  # thumbnails do not count
        if not pages:
            raise ValueError("no image in the file")
        planes = (tif.imagej_metadata or {}).get("images", 1)
        if planes > len(pages):  # ImageJ writes stacks over 4 GB with one directory for all planes
            raise ImageError(f"{path}: is a stack of {planes} images; save the one you need alone")
        page = pages[_page_index(path, len(pages), page_number)]
        size = scale.from_tiff(tif, page)
        bar_height = scale.fei_data_bar_height(tif, page.imagelength)
        try:
            stored = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            # LZW and JPEG inside TIFF need a package that we do not ask for; Pillow has them built in.
            return _read_pillow(path, page.index)[0], size, bar_height
        if page.planarconfig == 2 and stored.ndim == 3:
            stored = np.moveaxis(stored, 0, -1)
        if page.photometric == 3 and stored.ndim == 2:  # palette of 16-bit colours, [3, levels]
            palette = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap
            stored = np.moveaxis(palette.astype(np.uint8)[:, stored], 0, -1)
        elif page.photometric == 0 and stored.dtype.kind in "bu":  # zero is white
            stored = ~stored
        return stored, size, bar_height


def _read_pillow(path: Path, page_number: int | None) -> tuple[np.ndarray, scale.Size | None, None]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # large micrographs are no attack
    try:
        with Image.open(path) as image:
            image.seek(_page_index(path, getattr(image, "n_frames", 1), page_number))
            if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
                stored = np.asarray(image.convert("RGB"))
            else:
                stored = np.asarray(image)
            if image.mode == "I" and image.format == "PNG":  # how older Pillow holds 16 bits
                stored = stored.astype(np.uint16)
            return stored, scale.from_dots_per_inch(image.info.get("dpi")), None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image; give a PNG, JPEG or TIFF file") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _page_index(path: Path, count: int, page: int | None) -> int:
    if page is None and count > 1:
        raise ImageError(f"{path}: has {count} pages; choose one with page=0..{count - 1} or save it alone")
    if not 0 <= (page or 0) < count:
        raise ImageError(f"{path}: has no page {page}; pages run from 0 to {count - 1}")
    return page or 0


def _to_unit_range(stored: np.ndarray, bits: int | None, path: Path) -> tuple[np.ndarray, int]:
    """float32 in [0, 1] and the number of significant bits."""
    if stored.dtype == bool:
        return stored.astype(np.float32), 1
    if stored.dtype.kind not in "iuf":
        raise ImageError(f"{path}: holds {stored.dtype} values; save it as grey levels")
    width = 8 * stored.dtype.itemsize
    least, largest = stored.min(), stored.max()
    if not (np.isfinite(least) and np.isfinite(largest)):
        count = int((~np.isfinite(stored)).sum())
        raise ImageError(f"{path}: {count} values are NaN or infinite; replace them and save it again")
    if stored.dtype.kind == "u" and width <= 16:
        if bits is None:
            bits = 12 if width == 16 and largest <= 4095 else width
        if not (1 <= bits <= width and largest < 2**bits):
            raise ImageError(f"{path}: values up to {largest} do not fit into {bits} bits; give bits={width}")
        pixels = stored.astype(np.float32)
        pixels /= np.float32(2**bits - 1)  # in place: large micrographs fill memory once
        return pixels, bits
    if stored.dtype.kind == "f" and least >= 0 and largest <= 1:
        return stored.astype(np.float32), width
    span = float(largest) - float(least)
    return ((stored - float(least)) / (span or 1.0)).astype(np.float32), width


def _luminance(pixels: np.ndarray) -> np.ndarray:
    """(H, W, channels) to (H, W); 2 and 4 channels end in transparency, which is dropped."""
    colour = pixels[..., : {2: 1, 4: 3}.get(pixels.shape[2], pixels.shape[2])]
    if colour.shape[2] == 1:
        return colour[..., 0]
    if np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(colour[..., 0], colour[..., 2]):
        return colour[..., 0]  # grey stored as colour: keep the exact levels
    return np.clip(colour @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32), 0, 1)
