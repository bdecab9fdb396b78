"""Micrographs in and out: PNG, JPEG and TIFF files, their pixel size and their data bar.

    grey level in [0, 1] = stored value / (2^bits - 1)

What is written here, any viewer, Fiji and `read_image` open. Whatever is wrong with a file ends in an
`ImageError` of one line: which file, what is wrong, and the remedy.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5
from zlib import crc32

import numpy as np
import tifffile
from numpy.typing import DTypeLike
from PIL import Image

from microlab.data.errors import ImageError
from microlab.data.files import atomic
from microlab.data.mapped import converted, is_large, release
from microlab.data.micrograph import Micrograph
from microlab.data.pixel_size import Size, fei_data_bar_height, from_dots_per_inch, from_sidecar, from_tiff
from microlab.data.transforms import grey_of, grey_weights

SAMPLED = 10**6  # px of a colour image that determine how it becomes grey
LEAST_SIDE = 16  # px; nothing can be segmented on less
LEAST_PNG_PIXEL = 1e6 / (2**32 - 2)  # um; PNG counts pixels per metre in 32 bits
TIFF = (".tif", ".tiff")
TILE = 512  # px, of a large TIFF
SMALLEST_LEVEL = 1024  # px, longer side of the smallest reduced copy in it

# Of a data bar:
LEAST_HEIGHT = 12  # px; a frame of one or two dark rows is no data bar
LARGEST_SHARE = 0.4  # of the image height
TOLERANCE = 10 / 255  # how far the background may stray: compression artefacts, not image noise


def read_image(
    path: str | os.PathLike,
    *,
    pixel_size: float | None = None,
    data_bar: int | str = "auto",
    page: int | None = None,
    bits: int | None = None,
    folder: str | os.PathLike | None = None,
) -> Micrograph:
    """Read one micrograph as grey levels.

    Colour becomes its first principal component (`grey_weights`), transparency is dropped, palettes and
    inverted TIFFs are resolved. Unsigned integers of 8 and 16 bits are divided by their white level. A 16-bit
    file with no value above 4095 comes from a 12-bit camera and is divided by 4095. Floating point inside
    [0, 1] is kept. Signed and 32-bit integers and other floating point have no white level and are stretched
    from least to largest.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF or any other format of Pillow, recognised by content, not by name.
    pixel_size : float, optional
        Micrometres per pixel. Overrides what the file says.
    data_bar : "auto" or int
        Detect and cut off the data bar at the bottom, or cut off that many rows (0 keeps all).
    page : int, optional
        Which page of a file with several, from 0. Such files are refused without it.
    bits : int, optional
        Significant bits of an 8- or 16-bit file, if the rule above guesses wrong.
    folder : path, optional
        The grey levels of a large image lie in an unnamed file there (`microlab.data.mapped`), and besides
        them the memory holds no more than the stored values. By default all images are held in memory.

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
    _check_pixel_size(pixel_size, path)
    stored, size, bar_height = _read(path, page)
    channels = stored.shape[2] if stored.ndim == 3 else 1
    if stored.ndim not in (2, 3) or channels > 4 or 0 in stored.shape:
        raise ImageError(f"{path}: has shape {stored.shape}; save one grey or colour plane of it alone")
    if stored.ndim == 3:  # 2 and 4 channels end in transparency; grey stored as colour keeps its exact levels
        stored = stored[..., 0] if _is_grey(stored) else stored[..., :3]
    to_unit, bits = _to_unit_range(stored, bits, path)
    weights = None
    if stored.ndim == 3:
        step = max(1, int(np.sqrt(stored.shape[0] * stored.shape[1] / SAMPLED)))
        weights = grey_weights(to_unit(stored[::step, ::step]))

    def to_grey(part: np.ndarray) -> np.ndarray:
        values = to_unit(part)
        return values if weights is None else grey_of(values, weights)

    if folder is not None and is_large(stored.shape):
        image = converted(stored, to_grey, folder)
    else:
        image = to_grey(stored)
    del stored
    height, width = image.shape
    if min(height, width) < LEAST_SIDE:
        raise ImageError(
            f"{path}: is {height} x {width} pixels; a micrograph needs at least {LEAST_SIDE} x {LEAST_SIDE}"
        )

    if data_bar == "auto":
        if bar_height is None:
            row = find_data_bar(image)
            bar_height = 0 if row is None else height - row
    elif isinstance(data_bar, (int, np.integer)) and 0 <= data_bar <= height - LEAST_SIDE:
        bar_height = int(data_bar)
    else:
        raise ImageError(
            f"{path}: data bar height must be 'auto' or 0 to {height - LEAST_SIDE} rows, got {data_bar!r}"
        )
    image = np.ascontiguousarray(image[: height - bar_height])

    size = size or from_sidecar(path)
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
        image=image,
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
    return read_image(path, data_bar=0).image > 0.5


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
    bottom = np.asarray(image[height - searched - 5 :, ::some], dtype=np.float32)  # 5 rows to compare with
    lowest = bottom[-max(LEAST_HEIGHT, height // 50) :]
    level = np.bincount(np.rint(lowest.ravel() * 255).astype(np.intp), minlength=256).argmax() / 255
    if 0.1 < level < 0.9:
        return None

    background = (np.abs(bottom - level) <= TOLERANCE).mean(axis=1)  # share of each row
    row_level = np.median(bottom, axis=1, keepdims=True)
    uniform = (np.abs(bottom - row_level) <= TOLERANCE).mean(axis=1) >= 0.95
    in_bar = (background >= 0.35) | uniform
    first = len(in_bar) - int(np.argmin(in_bar[::-1])) if not in_bar.all() else 0
    if first < 5 or len(in_bar) - first < LEAST_HEIGHT:
        return None
    if background[first - 5 : first].mean() >= 0.5 * np.median(background[first:]):
        return None
    return height - len(in_bar) + first


def _check_pixel_size(pixel_size: float | None, path: Path) -> None:
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ImageError(f"{path}: pixel size must be a positive number of micrometres, got {pixel_size}")


def _read(path: Path, page: int | None) -> tuple[np.ndarray, Size | None, int | None]:
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
        return stored, size, bar_height
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


def _read_tiff(path: Path, page_number: int | None) -> tuple[np.ndarray, Size | None, int | None]:
    with tifffile.TiffFile(path) as tif:
        pages = [page for page in tif.pages if not page.is_reduced]  # thumbnails do not count
        if not pages:
            raise ValueError("no image in the file")
        planes = (tif.imagej_metadata or {}).get("images", 1)
        if planes > len(pages):  # ImageJ writes stacks over 4 GB with one directory for all planes
            raise ImageError(f"{path}: is a stack of {planes} images; save the one you need alone")
        page = pages[_page_index(path, len(pages), page_number)]
        size = from_tiff(tif, page)
        bar_height = fei_data_bar_height(tif, page.imagelength)
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


def _read_pillow(path: Path, page_number: int | None) -> tuple[np.ndarray, Size | None, None]:
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
            return stored, from_dots_per_inch(image.info.get("dpi")), None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image; give a PNG, JPEG or TIFF file") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _page_index(path: Path, count: int, page: int | None) -> int:
    if page is None and count > 1:
        raise ImageError(
            f"{path}: has {count} pages; save the one you need alone, or choose it: "
            f"segment --page 0 to {count - 1} (in Python, page=0..{count - 1} of read_image)"
        )
    if not 0 <= (page or 0) < count:
        raise ImageError(f"{path}: has no page {page}; pages run from 0 to {count - 1}")
    return page or 0


def _to_unit_range(
    stored: np.ndarray, bits: int | None, path: Path
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """What turns stored values, or a part of them, into float32 in [0, 1]; the number of significant bits."""
    if stored.dtype == bool:
        return lambda part: part.astype(np.float32), 1
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
        white = np.float32(2**bits - 1)

        def divided(part: np.ndarray) -> np.ndarray:
            image = part.astype(np.float32)
            image /= white  # in place: large micrographs fill memory once
            return image

        return divided, bits
    if stored.dtype.kind == "f" and least >= 0 and largest <= 1:
        return lambda part: part.astype(np.float32), width
    span = (float(largest) - float(least)) or 1.0
    return lambda part: ((part - float(least)) / span).astype(np.float32), width


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
