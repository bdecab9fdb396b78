"""Micrographs in and out: PNG, JPEG and TIFF files, their pixel size and their data bar.

    grey level in [0, 1] = stored value / (2^bits - 1)

What is written here, any viewer, Fiji and `read_image` open. Whatever is wrong with a file ends in an
`ImageError` of one line: which file, what is wrong, and the remedy.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5
from zlib import crc32

import numpy as np
import tifffile
from numpy.typing import DTypeLike
from PIL import Image

from microlab.data.contrast import LEAST_SHARE, Range, fill, find_range
from microlab.data.errors import ImageError
from microlab.data.files import atomic
from microlab.data.formats import LARGEST, read_numbers, read_stored
from microlab.data.mapped import converted, is_large, release
from microlab.data.micrograph import Micrograph
from microlab.data.pixel_size import NOT_SQUARE, Size, square
from microlab.data.transforms import grey_of, grey_weights

SAMPLED = 10**6  # px of a colour image that determine how it becomes grey
LEAST_SIDE = 16  # px; nothing can be segmented on less
CAMERA_BITS = 12  # of a 16-bit file whose values need no more
LEAST_PNG_PIXEL = 1e6 / (2**32 - 2)  # um; PNG counts pixels per metre in 32 bits
TIFF = (".tif", ".tiff")
TILE = 512  # px, of a large TIFF
SMALLEST_LEVEL = 1024  # px, longer side of the smallest reduced copy in it

# Of a data bar:
LEAST_HEIGHT = 12  # px; a frame of one or two dark rows is no data bar
LARGEST_SHARE = 0.4  # of the image height
TOLERANCE = 10 / 255  # how far the background may stray: compression artefacts, not image noise
NEAR_BLACK, NEAR_WHITE = 0.1, 0.9  # its background lies outside of them
BACKGROUND = 0.35  # share of a row with text
UNIFORM = 0.95  # share of a row of one grey level: a frame or a rule
ABRUPT = 0.5  # share of the background in the rows above, relative to the bar, at most
ABOVE = 5  # px, these rows


def read_image(
    path: str | os.PathLike,
    *,
    pixel_size: float | None = None,
    data_bar: int | str = "auto",
    page: int | None = None,
    bits: int | None = None,
    folder: str | os.PathLike | None = None,
    crop: tuple[int, int, int, int] | None = None,
    largest: int = LARGEST,
) -> Micrograph:
    """Read one micrograph as grey levels.

    What a container does to the values is undone by `microlab.data.formats`. Colour becomes its first
    principal component (`grey_weights`). Unsigned integers of 8 and 16 bits are divided by their white level;
    a 16-bit file with no value above 4095 comes from a 12-bit camera and is divided by 4095. Floating point
    inside [0, 1] is kept. Signed and 32-bit integers and other floating point have no white level and are
    stretched from least to largest; so is a picture of more than 8 bits that takes less than a quarter of its
    range. Hot pixels and numbers that stand for no value (`microlab.data.contrast`) do not count and are said
    in a warning; the latter, like transparent pixels, lie outside of the field of view.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF, BMP, WebP or GIF, recognised by content, not by name; others by their suffix with the
        extra ``formats``.
    pixel_size : float, optional
        Micrometres per pixel. Overrides what the file says.
    data_bar : "auto", "bottom", "top", int or "top:ROWS"
        Detect and cut off the data bar, at the bottom or the top or only there, or cut off that many rows at
        the bottom (0 keeps all) or at the top.
    page : int, optional
        Which page of a file with several, from 0. By default the first, if the others are smaller or other
        channels of it; a stack is refused.
    bits : int, optional
        Significant bits of an 8- or 16-bit file, if the rule above guesses wrong.
    folder : path, optional
        The grey levels of a large image lie in an unnamed file there (`microlab.data.mapped`), and besides
        them the memory holds no more than the stored values. By default all images are held in memory.
    crop : (left, top, width, height), optional
        The part to read, in pixels of the image as viewers show it.
    largest : int
        Most pixels that are read.

    Returns
    -------
    Micrograph

    Raises
    ------
    ImageError
        If the file is missing, empty, unreadable, truncated, too large or no image; if no pixel has a value;
        if it is a stack or has fewer than 16 pixels on a side; if an argument is out of range.
    """
    path = Path(path)
    _check_pixel_size(pixel_size, path)
    stored = read_stored(path, page, largest=largest)
    notes = list(stored.notes)
    values, opaque, bar_rows = stored.values, stored.opaque, stored.bar_rows
    stored = replace(stored, values=np.empty(0))  # of a large image no copy is kept
    if values.ndim == 3 and _is_grey(values):  # grey stored as colour keeps its exact levels
        values = values[..., 0]
    if crop is not None:
        place, below = _crop(crop, values.shape, path)
        values, opaque = values[place], None if opaque is None else opaque[place]
        bar_rows = None if bar_rows is None else max(bar_rows - below, 0)
    if min(values.shape[:2]) < LEAST_SIDE:
        raise ImageError(
            f"{path}: is {values.shape[0]} x {values.shape[1]} pixels; a micrograph needs at least "
            f"{LEAST_SIDE} x {LEAST_SIDE}"
        )
    if values.dtype.kind not in "biuf":
        raise ImageError(f"{path}: holds {values.dtype} values; save it as grey levels")
    found = find_range(values, nodata=stored.nodata, opaque=opaque)
    if found is None:
        raise ImageError(f"{path}: no pixel has a value (all are NaN or transparent); export it again")
    if found.note:
        notes.append(found.note)
    to_unit, bits = _to_unit_range(values, bits, found, path)
    weights = None
    if values.ndim == 3:
        step = max(1, int(np.sqrt(values.shape[0] * values.shape[1] / SAMPLED)))
        weights = grey_weights(to_unit(values[::step, ::step]))

    def to_grey(part: np.ndarray) -> np.ndarray:
        unit = to_unit(part)
        return unit if weights is None else grey_of(unit, weights)

    if folder is not None and is_large(values.shape):
        image = converted(values, to_grey, folder)
    else:
        image = to_grey(values)
    del values
    top, bottom = _bar_heights(image, data_bar, bar_rows, found.missing, path)
    height = image.shape[0]
    shown = np.s_[top : height - bottom]
    image = np.ascontiguousarray(image[shown])
    found = replace(
        found,
        missing=None if found.missing is None else found.missing[shown],
        hot=None if found.hot is None else found.hot[shown],
    )
    fill(image, found)
    valid = None if found.missing is None or not found.missing.any() else ~found.missing

    size = stored.size
    if pixel_size is not None:
        size = Size(float(pixel_size), float(pixel_size), "given")
    elif size and size.note:
        notes.append(size.note)
    if size and not square(size):
        notes.append(NOT_SQUARE.format(*size))
        size = None
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return Micrograph(
        image=image,
        pixel_size=size.width if size else None,
        valid=valid,
        path=path,
        bits=bits,
        pixel_size_source=size.source if size else None,
        data_bar_height=bottom,
        data_bar_top=top,
    )


def read_labels(path: str | os.PathLike) -> tuple[np.ndarray, float | None]:
    """The whole numbers of an image as they stand: labels, 0 for boundary and 1..n for grains, or class ids.

    Returns
    -------
    labels : (H, W) int32
    pixel_size : float or None
        Micrometres per pixel.

    Raises
    ------
    ImageError
        If the file cannot be read, is a JPEG or a colour picture, or has values that are no labels.
    """
    values, size, _ = read_numbers(path)
    return whole_numbers(values, Path(path)), size.width if size else None


def whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Values of a file as labels, (H, W) int32, or an `ImageError` that says why they are none."""
    largest = np.iinfo(np.int32).max
    if values.min() < 0 or values.max() > largest:
        raise ImageError(f"{path}: labels must lie in 0..{largest}; 0 is boundary, grains count from 1")
    labels = values.astype(np.int32)
    if not np.array_equal(labels, values):
        raise ImageError(f"{path}: labels must be whole numbers; give labels.tif, not a probability")
    return labels


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
    allowed |= dict.fromkeys(TIFF, (8, 16, 32))
    if bits not in allowed.get(suffix, ()):
        raise ImageError(f"{path}: write .png, .jpg or .tif with {allowed.get(suffix, 8)} bits, got {bits}")
    if bits == 32:
        return _write(path, image.astype(np.float32, copy=False), pixel_size)
    levels = np.rint(image.astype(np.float64) * (2**bits - 1))
    return _write(path, levels.astype(np.uint8 if bits == 8 else np.uint16), pixel_size)


def write_mask(path: str | os.PathLike, mask: np.ndarray, *, pixel_size: float | None = None) -> Path:
    """Write a mask as an 8-bit image, 255 where True; the suffix has to be ``.png`` or ``.tif``.

    Parameters
    ----------
    path : path
    mask : (H, W) bool
        A large one is written to ``.tif`` as `write_labels` does.
    pixel_size : float, optional
        Micrometres per pixel.

    Raises
    ------
    ImageError
        If `mask` is not (H, W) bool, or the file cannot be written.
    """
    path, mask = Path(path), np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ImageError(f"{path}: mask must be bool of shape (H, W), got {mask.dtype} {mask.shape}")
    if path.suffix.lower() not in (".png", *TIFF):
        raise ImageError(f"{path}: a mask needs .png or .tif, {path.suffix or 'no suffix'} would blur it")
    if is_large(mask.shape) and path.suffix.lower() in TIFF:
        return _write(path, mask.view(np.uint8), pixel_size, white=255)
    return _write(path, mask.astype(np.uint8) * 255, pixel_size)


def write_labels(path: str | os.PathLike, labels: np.ndarray, *, pixel_size: float | None = None) -> Path:
    """Write a label image as TIFF that Fiji opens: 16-bit, or 32-bit integers above 65535 labels.

    A large one (`microlab.data.mapped.LARGE`) becomes a BigTIFF of compressed tiles with reduced copies, a
    pyramid as OME-TIFF has it, which is read tile by tile (Bio-Formats in Fiji, QuPath).

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
    if path.suffix.lower() not in TIFF:
        raise ImageError(f"{path}: labels need .tif, other formats cannot hold them")
    dtype = np.uint16 if labels.max() <= 65535 else np.int32
    return _write(path, labels if is_large(labels.shape) else labels.astype(dtype), pixel_size, dtype=dtype)


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
    if path.suffix.lower() not in TIFF:
        raise ImageError(f"{path}: a stack needs .tif, other formats hold one image")
    return _write(path, stack.astype(np.float32), pixel_size, frames=True)


def find_data_bar(image: np.ndarray) -> int | None:
    """First row of the data bar that a scanning electron microscope prints under its image.

    It is a band across the full width, with text and a scale bar on a background of one exact black or white.
    Grains measured through it would be wrong.

    The background level is the commonest grey value of the lowest rows; it has to be near black or white.
    From the bottom upwards a row belongs to the bar while at least 35 % of its pixels have that level, or
    while nearly all of its pixels agree (the frame and the rules between fields). The bar has to end
    abruptly: the rows above it hold less than half as much of the level. A dark frame, a noisy dark image
    and a bright etched surface all fail one of these.

    Parameters
    ----------
    image : (H, W) float in [0, 1]

    Returns
    -------
    int or None
        Row where the bar begins, so that ``image[:row]`` is the micrograph. None if there is no bar,
        also when the bar has a grey background or is drawn over the image: give its height instead.
    """
    height, width = image.shape
    searched = int(LARGEST_SHARE * height)
    if searched <= LEAST_HEIGHT:
        return None
    some = max(1, width // 2000)  # every column of a very wide image would only cost memory
    bottom = np.asarray(image[height - searched - ABOVE :, ::some], dtype=np.float32)
    lowest = bottom[-max(LEAST_HEIGHT, height // 50) :]
    level = np.bincount(np.rint(lowest.ravel() * 255).astype(np.intp), minlength=256).argmax() / 255
    if NEAR_BLACK < level < NEAR_WHITE:
        return None

    background = (np.abs(bottom - level) <= TOLERANCE).mean(axis=1)  # share of each row
    row_level = np.median(bottom, axis=1, keepdims=True)
    uniform = (np.abs(bottom - row_level) <= TOLERANCE).mean(axis=1) >= UNIFORM
    in_bar = (background >= BACKGROUND) | uniform
    first = len(in_bar) - int(np.argmin(in_bar[::-1])) if not in_bar.all() else 0
    if first < ABOVE or len(in_bar) - first < LEAST_HEIGHT:
        return None
    if background[first - ABOVE : first].mean() >= ABRUPT * np.median(background[first:]):
        return None
    return height - len(in_bar) + first


def _check_pixel_size(pixel_size: float | None, path: Path) -> None:
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"{path}: pixel size must be a positive number of micrometres, got {pixel_size}")


def _crop(
    crop: tuple[int, int, int, int], shape: tuple[int, ...], path: Path
) -> tuple[tuple[slice, slice], int]:
    """Where the part lies that is read, and how many rows below it are not."""
    left, top, width, height = crop
    if min(crop) < 0 or left + width > shape[1] or top + height > shape[0]:
        raise ImageError(
            f"{path}: has {shape[1]} x {shape[0]} pixels; a crop of {width} x {height} from {left},{top} "
            "does not lie in it"
        )
    return np.s_[top : top + height, left : left + width], shape[0] - top - height


def _bar_heights(
    image: np.ndarray, data_bar: int | str, named: int | None, missing: np.ndarray | None, path: Path
) -> tuple[int, int]:
    """Rows of the data bars at the top and at the bottom of an image, (H, W) in [0, 1].

    Rows without any value, (H, W) bool, are no data bar: one has letters.
    """
    height = image.shape[0]
    text = str(data_bar)
    side, _, rows = text.rpartition(":")
    if (side in ("", "top", "bottom") and rows.isdecimal()) and int(rows) <= height - LEAST_SIDE:
        return (int(rows), 0) if side == "top" else (0, int(rows))
    if data_bar not in ("auto", "top", "bottom"):
        raise ImageError(
            f"{path}: data bar must be auto, bottom, top or 0 to {height - LEAST_SIDE} rows, got {data_bar!r}"
        )
    top = bottom = 0
    if data_bar != "top":
        row = find_data_bar(image) if named is None else height - named
        bottom = 0 if row is None or (missing is not None and missing[row:].all()) else height - row
        release(image)
    if data_bar != "bottom" and not bottom:
        row = find_data_bar(image[::-1])
        top = 0 if row is None or (missing is not None and missing[: height - row].all()) else height - row
    if data_bar != "auto" and not top + bottom:
        raise ImageError(f"{path}: no data bar was found at the {data_bar}; give its rows, as {data_bar}:64")
    return top, bottom


def _to_unit_range(
    stored: np.ndarray, bits: int | None, found: Range, path: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """What turns stored values, or a part of them, into float32 in [0, 1]; the number of significant bits."""
    if stored.dtype == bool:
        return lambda part: part.astype(np.float32), 1
    width = 8 * stored.dtype.itemsize
    black, white = 0.0, None
    if stored.dtype.kind == "u" and width <= 16:
        given, largest = bits, found.high
        if bits is None:
            bits = CAMERA_BITS if width == 16 and largest < 2**CAMERA_BITS else width
        if not (1 <= bits <= width and largest < 2**bits):
            raise ImageError(
                f"{path}: values up to {largest:g} do not fit into {bits} bits; give bits={width}"
            )
        if given is not None or width == 8 or found.high - found.low >= LEAST_SHARE * (2**bits - 1):
            white = float(2**bits - 1)
    elif stored.dtype.kind == "f" and found.low >= 0 and found.high <= 1:
        share = found.high - found.low
        white = 1.0 if share >= LEAST_SHARE or share == 0 else None
    if white is None:
        black, white = found.low, found.high if found.high > found.low else found.low + 1
    # Sixteen bits are exact in single precision, and a picture that is kept needs no arithmetic.
    single = (stored.dtype.kind == "u" and width <= 16) or (black, white) == (0, 1)
    exact = np.float32 if single else np.float64

    def to_unit(part: np.ndarray) -> np.ndarray:
        image = part.astype(exact)
        if (black, white) != (0, 1):
            image -= exact(black)
            image /= exact(white - black)  # in place: large micrographs fill memory once
        if found.clipped:
            np.nan_to_num(image, copy=False, nan=0.0)
            np.clip(image, 0, 1, out=image)
        return image.astype(np.float32, copy=False)

    return to_unit, bits if bits is not None else width


def _is_grey(image: np.ndarray) -> bool:
    """Whether the colours of an image (H, W, channels) are all grey."""
    return image.shape[2] < 3 or (
        np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
    )


def _write(
    path: Path,
    stored: np.ndarray,
    pixel_size: float | None,
    *,
    frames: bool = False,
    white: int = 1,
    dtype: DTypeLike = None,
) -> Path:
    """Write values as they are; those of a large TIFF times `white`, as `dtype`."""
    _check_pixel_size(pixel_size, path)
    if pixel_size and path.suffix.lower() == ".png" and pixel_size < LEAST_PNG_PIXEL:
        raise ImageError(
            f"{path}: PNG holds no pixel size below {LEAST_PNG_PIXEL:.3g} um, got {pixel_size}; write .tif"
        )
    try:
        with atomic(path) as partial:
            if path.suffix.lower() in TIFF and stored.ndim == 2 and is_large(stored.shape):
                _write_tiles(partial, stored, pixel_size, white, np.dtype(dtype or stored.dtype))
            elif path.suffix.lower() in TIFF:
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


def _write_tiles(
    path: Path, stored: np.ndarray, pixel_size: float | None, white: int, dtype: np.dtype
) -> None:
    """A pyramidal OME-TIFF of tiles, compressed without loss; a reduced copy has every second pixel."""
    levels = [1]
    while max(stored.shape) // levels[-1] > SMALLEST_LEVEL:
        levels.append(2 * levels[-1])

    def tiles(step: int) -> Iterator[np.ndarray]:
        height, width = (-(-n // step) for n in stored.shape)
        for y in range(0, height, TILE):
            band = np.array(stored[y * step : (y + TILE) * step : step, ::step], dtype)
            release(stored)
            band = np.pad(band, ((0, TILE - len(band)), (0, -width % TILE)))
            band *= dtype.type(white)
            yield from (np.ascontiguousarray(band[:, x : x + TILE]) for x in range(0, width, TILE))

    common = {
        "dtype": dtype,
        "tile": (TILE, TILE),
        "photometric": "minisblack",
        "compression": "zlib",
        "compressionargs": {"level": 3},
        "maxworkers": 1,  # others hold many tiles at once
    }
    smallest = np.ascontiguousarray(stored[:: levels[-1], :: levels[-1]])
    # The same values get the same bytes: by default the name in the metadata is drawn anew each time.
    metadata = {"axes": "YX", "UUID": str(uuid5(NAMESPACE_OID, f"{stored.shape} {crc32(smallest)}"))}
    if pixel_size:
        metadata |= {
            f"PhysicalSize{axis}{end}": value
            for axis in "XY"
            for end, value in (("", pixel_size), ("Unit", "µm"))
        }
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tif:
        for step in levels:
            options = {"shape": tuple(-(-n // step) for n in stored.shape), **common}
            if pixel_size:
                options |= {"resolution": (1e4 / pixel_size / step,) * 2, "resolutionunit": "CENTIMETER"}
            if step == 1:
                options |= {"subifds": len(levels) - 1, "metadata": metadata}
            else:
                options |= {"subfiletype": 1, "metadata": None}
            tif.write(tiles(step), **options)
