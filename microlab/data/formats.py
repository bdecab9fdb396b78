"""Image files of every kind as an array of stored values: what a container does to them is undone here.

    file  ->  regular, named decoder, header within limits  ->  values (H, W) or (H, W, 3), bright is large

Photometric kinds, palettes, CMYK, transparency and orientation are resolved, so that two containers of the
same picture give the same values. Decoders are named: PNG, JPEG, TIFF, BMP, WebP and GIF, and nothing else
that an image library would start by itself. Files of electron microscopes (`OTHERS`) are read by
RosettaSciIO, an optional package.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from microlab.data.errors import ImageError, InputError
from microlab.data.files import MARK
from microlab.data.pixel_size import (
    LARGEST_JPEG,
    NOT_SQUARE,
    Size,
    from_picture,
    from_tiff,
    micrometres,
    named_data_bar,
    square,
)

PILLOW = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
OTHERS = (".dm3", ".dm4", ".emd", ".ser", ".emi", ".mrc", ".blo", ".tvips", ".hspy", ".bcf")
SUFFIXES = (*PICTURES, *OTHERS)
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST = 500_000_000  # px; more are refused unless the caller raises the limit
# Bytes that a decoder makes of one, at most: uncompressed, LZW, deflate (two numbers), PackBits.
EXPANSION = {1: 1, 5: 3000, 8: 1100, 32946: 1100, 32773: 128}
EXTRA = "pip install 'microlab[formats]'"

# TIFF's photometric kinds
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIELAB, ICCLAB, ITULAB = (
    0,
    1,
    2,
    3,
    5,
    6,
    8,
    9,
    10,
)
COLOURS = {RGB: 3, SEPARATED: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3, ITULAB: 3}  # samples; else 1
LOSSY = (6, 7, 34892, 33007, 50001)  # compressions of TIFF: JPEG and WebP


@dataclass(frozen=True, eq=False)
class Stored:
    """The values of an image file.

    Attributes
    ----------
    values : (H, W) or (H, W, 3)
        As stored, bright is large; of palettes the colours, unless numbers were asked for.
    opaque : (H, W) bool or None
        False where a pixel is fully transparent. None: nowhere.
    size : Size or None
        Pixel size that the file or one beside it names.
    bar_rows : int or None
        Height of the data bar at the bottom, where the maker's metadata name it.
    nodata : float or None
        The number that stands for no value, where the file names it.
    lossy : bool
        Compressed so that values are not kept exactly.
    notes : tuple of str
        What is to be said about the file.
    """

    values: np.ndarray
    opaque: np.ndarray | None = None
    size: Size | None = None
    bar_rows: int | None = None
    nodata: float | None = None
    lossy: bool = False
    notes: tuple[str, ...] = ()


def read_stored(
    path: str | os.PathLike, page: int | None = None, *, numbers: bool = False, largest: int = LARGEST
) -> Stored:
    """Read the values of an image file.

    Parameters
    ----------
    path : path
    page : int, optional
        Which page of a file with several, from 0. By default the first, if the others are smaller (a
        thumbnail) or other channels of it; a stack is refused.
    numbers : bool
        The values are numbers of labels or classes: those of a palette are its indices, and white is not
        turned into a large number.
    largest : int
        Most pixels that are read; more are refused by the header, before memory is taken.

    Raises
    ------
    ImageError
        If the file is missing, no regular file, empty, unreadable, cut short, too large or no image of a
        kind that is read; if it has several pages and `page` does not choose one.
    """
    path = Path(path)
    check_regular(path)
    logger = logging.getLogger("tifffile")
    was_disabled = logger.disabled
    try:
        head = _head(path)
        logger.disabled = True  # what tifffile would log about a damaged file is raised below
        if head in TIFF_HEADS:
            return _read_tiff(path, page, numbers, largest)
        if path.suffix.lower() in OTHERS:
            return _read_other(path, page, largest)
        return _read_picture(path, page, numbers, largest)
    except InputError:
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


def read_numbers(
    path: str | os.PathLike, page: int | None = None, *, two_colours: bool = False, largest: int = LARGEST
) -> tuple[np.ndarray, Size | None, tuple[str, ...]]:
    """The numbers of a label image, a mask or a map of classes as they stand, of a palette the indices.

    Parameters
    ----------
    path, page, largest
        As `read_stored`.
    two_colours : bool
        Of a picture of exactly two colours return which pixels have the brighter one, as bool; else it is
        refused.

    Returns
    -------
    values : (H, W)
    size : Size or None
        Pixel size; None where pixels are not square.
    notes : tuple of str

    Raises
    ------
    ImageError
        As `read_stored`, and if the file is a JPEG, a colour picture or holds values that are not finite.
    """
    path = Path(path)
    stored = read_stored(path, page, numbers=True, largest=largest)
    values = stored.values
    if stored.lossy:
        raise ImageError(f"{path}: JPEG blurs the numbers of masks and labels; save them as PNG or TIFF")
    if values.ndim == 3 and all(np.array_equal(values[..., 0], values[..., k]) for k in (1, 2)):
        values = values[..., 0]
    if values.ndim == 3:
        codes = values.astype(np.int64) @ np.array([1, 1 << 16, 1 << 32])
        found = np.unique(codes) if two_colours else ()
        if len(found) != 2:
            raise ImageError(
                f"{path}: is a colour picture; masks and labels are one plane of numbers. Give each colour "
                "its number, ids[(picture == colour).all(-1)] = number, and save the ids as 8-bit grey"
            )
        light = [values[codes == code][0].sum(dtype=np.int64) for code in found]
        values = codes == found[int(np.argmax(light))]
    if (
        values.size == 0
        or values.dtype.kind not in "biuf"
        or not np.isfinite([values.min(), values.max()]).all()
    ):
        raise ImageError(f"{path}: holds NaN, infinite or complex values; masks and labels are whole numbers")
    notes, size = list(stored.notes), stored.size
    if size and size.note:
        notes.append(size.note)
    if size and not square(size):
        notes.append(NOT_SQUARE.format(*size))
        size = None
    return values, size, tuple(notes)


def count_pages(path: str | os.PathLike) -> int:
    """Number of pages of an image file, thumbnails left out.

    Raises
    ------
    ImageError
        As `read_stored`.
    """
    path = Path(path)
    check_regular(path)
    try:
        if _head(path) in TIFF_HEADS:
            _check_directories(path)
            with tifffile.TiffFile(path) as tif:
                return len(_pages(tif))
        if path.suffix.lower() in OTHERS:
            return sum(len(planes) for planes, _ in _planes(path))
        with _opened(path) as image:
            return getattr(image, "n_frames", 1)
    except InputError:
        raise
    except Exception as error:  # as in `read_stored`
        raise ImageError(f"{path}: is damaged or cut short ({error}); copy or export it again") from None


def each_page(files: Sequence[Path], page: int | str | None) -> tuple[list[Path], list[int | None]]:
    """The files, one as often as pages of it are taken, and which page each time.

    `page` is a number, for all files; "all"; or None, which leaves it to the reader. A file that cannot be
    read is kept: it fails by itself.
    """
    if page != "all":
        return list(files), [page] * len(files)
    places: list[tuple[Path, int | None]] = []
    for file in files:
        try:
            count = count_pages(file)
        except InputError:
            count = 1
        places += [(file, None)] if count == 1 else [(file, k) for k in range(count)]
    return [file for file, _ in places], [k for _, k in places]


def find_images(paths: Sequence[Path], *, recursive: bool = False) -> tuple[list[Path], list[str]]:
    """Image files named directly or lying in a named folder, each once, in a stable order.

    Parameters
    ----------
    paths : sequence of Path
        A missing file is kept: it fails by itself when it is read.
    recursive : bool
        Take the folders inside of folders as well, except results of microlab and links.

    Returns
    -------
    files : list of Path
    notes : list of str
        What was left out, a sentence for each folder.

    Raises
    ------
    InputError
        If a folder holds no image.
    """
    files: dict[str, Path] = {}
    notes: list[str] = []
    for path in paths:
        candidates = [path]
        if path.is_dir():
            candidates, left_out = _inside(path, recursive)
            if not candidates:
                raise InputError(
                    f"{path}: the folder holds no image; give one with {', '.join(PICTURES)} files"
                    + "".join(f" ({note})" for note in left_out)
                )
            notes += [f"{path}: {note}" for note in left_out]
        for file in candidates:
            files.setdefault(os.path.realpath(file), file)
    return list(files.values()), notes


def check_regular(path: Path) -> None:
    """Raise an `ImageError` unless the path leads to a regular file with contents."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        mend = (
            "the file that this link leads to is gone"
            if path.is_symlink()
            else "check the name and the folder"
        )
        raise ImageError(f"{path}: no such file; {mend}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ImageError(f"{path}: is a link that leads back to itself; give the image file") from None
        raise ImageError(f"{path}: cannot be opened ({error.strerror}); give an image file") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path}: is a folder; give an image file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: is no regular file but a pipe, socket or device; give an image file")
    if status.st_size == 0:
        raise ImageError(f"{path}: is empty (0 bytes); copy or export it again")


def _is_result(folder: Path) -> bool:
    """Whether a folder holds what microlab wrote, today's or that of a version before the mark."""
    return (folder / MARK).exists() or (folder / "run.json").exists()


def _inside(folder: Path, recursive: bool) -> tuple[list[Path], list[str]]:
    """Images of a folder, and what is left out of it."""
    images: list[Path] = []
    others: list[str] = []
    folders = 0
    for place, inner, names in os.walk(folder):  # links to folders are not followed
        inner[:] = sorted(d for d in inner if not d.startswith(".") and not _is_result(Path(place, d)))
        if not recursive:
            folders, inner[:] = len(inner), []
        names = sorted(name for name in names if not name.startswith("."))
        stems = {Path(name).stem for name in names if Path(name).suffix.lower() in SUFFIXES}
        for name in names:
            file = Path(place, name)
            if file.suffix.lower() in SUFFIXES:
                images.append(file)
            elif not (file.suffix.lower() in (".txt", ".hdr") and file.stem in stems):  # of a microscope
                others.append(str(file.relative_to(folder)))
    notes = []
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        notes.append(f"not read, since they are no image files by their names: {', '.join(others[:5])}{more}")
    if folders:
        notes.append(
            f"{folders} folder{'' if folders == 1 else 's'} inside left out; --recursive takes them too"
        )
    return images, notes


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def _check_size(path: Path, height: int, width: int, largest: int) -> None:
    if height * width > largest:
        raise ImageError(
            f"{path}: has {width} x {height} pixels by its header, more than {largest / 1e6:g} million; crop "
            "it, or raise the limit (--max-megapixels)"
        )


def _choose(
    path: Path, shapes: Sequence[tuple[int, int]], channels: bool, page: int | None
) -> tuple[int, str]:
    """Which of several pages is read, by their heights and widths; what is to be said about it."""
    count = len(shapes)
    if page is not None:
        if not 0 <= page < count:
            raise ImageError(f"{path}: has no page {page}; pages run from 0 to {count - 1}")
        return page, ""
    if count == 1:
        return 0, ""
    first = max(range(count), key=lambda k: shapes[k][0] * shapes[k][1])
    if all(s[0] < shapes[first][0] and s[1] < shapes[first][1] for k, s in enumerate(shapes) if k != first):
        return first, f"page {first} of {count} was read, the others are smaller; --page takes another"
    if channels:
        return 0, f"the first of {count} channels was read; --page takes another, from 0 to {count - 1}"
    raise ImageError(
        f"{path}: has {count} pages; choose one with --page 0 to {count - 1}, take each with --page all, or "
        "save the one you need alone"
    )


def _oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """An image as viewers show it, by the orientation of EXIF and of TIFF tag 274."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _turned(stored: Stored, orientation: int) -> Stored:
    """All of an image as viewers show it."""
    if orientation not in range(2, 9):
        return stored
    size = stored.size
    if size and orientation >= 5:
        size = size._replace(width=size.height, height=size.width)
    opaque = None if stored.opaque is None else _oriented(stored.opaque, orientation)
    note = f"was turned or mirrored as its orientation tag ({orientation}) says, as viewers show it"
    values = np.ascontiguousarray(_oriented(stored.values, orientation))
    return replace(
        stored, values=values, opaque=opaque, size=size, bar_rows=None, notes=(*stored.notes, note)
    )


# --- TIFF ------------------------------------------------------------------------------------------------


def _check_directories(path: Path) -> None:
    """Raise an `ImageError` where the chain of directories leads back to itself: readers never end in it."""
    with open(path, "rb") as file:
        head = file.read(16)
        order = "<" if head.startswith(b"II") else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count, entry, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
        (place,) = struct.unpack_from(order + offset, head, 8 if big else 4)
        seen = set()
        while place:
            if place in seen:
                raise ImageError(
                    f"{path}: is damaged (its list of pages leads back to itself); export it again"
                )
            seen.add(place)
            file.seek(place)
            number = file.read(struct.calcsize(count))
            if len(number) < struct.calcsize(count):
                return  # outside of the file: the reader says so
            file.seek(struct.unpack(order + count, number)[0] * entry, os.SEEK_CUR)
            following = file.read(struct.calcsize(offset))
            if len(following) < struct.calcsize(offset):
                return
            (place,) = struct.unpack(order + offset, following)


def _pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Pages that are images of their own: no thumbnails and no transparency masks."""
    return [page for page in tif.pages if not page.is_reduced and not page.subfiletype & 4]


def _read_tiff(path: Path, number: int | None, numbers: bool, largest: int) -> Stored:
    _check_directories(path)
    with tifffile.TiffFile(path) as tif:
        pages = _pages(tif)
        if not pages:
            raise ValueError("no image in the file")
        planes = (tif.imagej_metadata or {}).get("images", 1)
        if planes > len(pages):  # ImageJ writes stacks over 4 GB with one directory for all planes
            raise ImageError(f"{path}: is a stack of {planes} images; save the one you need alone")
        shapes = [(page.imagelength, page.imagewidth) for page in pages]
        index, note = _choose(path, shapes, _are_channels(tif, len(pages)), number)
        page = pages[index]
        _check_size(path, *shapes[index], largest)
        _check_segments(page, tif.filehandle.size)
        stored = Stored(
            np.empty(0),
            size=from_tiff(tif, page, path),
            bar_rows=named_data_bar(tif, page),
            nodata=_nodata(page),
            lossy=page.compression in LOSSY,
            notes=(note,) if note else (),
        )
        try:
            values = page.asarray()
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error) and "subsampling" not in str(error):
                raise
            # LZW and JPEG inside TIFF need a package that we do not ask for; Pillow has them built in, and
            # turns the image by its orientation.
            values, opaque = _tiff_by_pillow(path, page, numbers)
            orientation = page.tags.valueof("Orientation", 1)
            turned = _turned(replace(stored, values=np.empty((1, 1))), orientation)
            return replace(turned, values=values, opaque=opaque)
        if values.ndim == 3 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        values, opaque, more = _resolved(path, page, values, numbers)
        stored = replace(stored, values=values, opaque=opaque, notes=(*stored.notes, *more))
        return _turned(stored, page.tags.valueof("Orientation", 1))


def _are_channels(tif: tifffile.TiffFile, count: int) -> bool:
    """Whether the pages of a file are the channels of one image."""
    if tif.is_imagej:
        return int((tif.imagej_metadata or {}).get("channels", 1)) == count
    return tif.is_ome and tif.series[0].axes in ("CYX", "SYX") and len(tif.series) == 1


def _check_segments(page: tifffile.TiffPage, file_size: int) -> None:
    """Raise a ValueError where strips or tiles are missing, which decoders fill with black."""
    kind = "tiles" if page.is_tiled else "strips"
    offsets, counts = page.dataoffsets, page.databytecounts
    needed = int(np.prod(page.chunked, dtype=np.int64))
    held = sum(o > 0 and n > 0 and o + n <= file_size for o, n in zip(offsets, counts))
    if held < needed:
        raise ValueError(f"{needed - held} of {needed} {kind} of the image are missing")
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    row = (
        -(-width * samples * page.bitspersample // 8)
        if page.planarconfig == 1
        else width * page.bitspersample // 8
    )
    bytes_needed = height * row * (samples if page.planarconfig == 2 else 1)
    most = EXPANSION.get(int(page.compression), np.inf) if page.photometric != YCBCR else np.inf
    if sum(counts) * most < bytes_needed:
        raise ValueError(f"its {kind} hold {sum(counts)} bytes, too few for {width} x {height} pixels")


def _nodata(page: tifffile.TiffPage) -> float | None:
    """The number of GDAL's tag 42113 that stands for no value."""
    try:
        return float(str(page.tags.valueof(42113)).strip("\0 "))
    except ValueError:
        return None


def _resolved(
    path: Path, page: tifffile.TiffPage, values: np.ndarray, numbers: bool
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Values of a page as grey or colours, which pixels are opaque, and notes."""
    kind = int(page.photometric)
    if kind > ITULAB or kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE, *COLOURS):
        name = getattr(page.photometric, "name", kind)
        raise ImageError(f"{path}: holds {name} values, which need developing; save it as grey levels or RGB")
    colours, opaque, notes = COLOURS.get(kind, 1), None, ()
    if values.ndim == 3 and values.shape[2] > colours:
        extras = tuple(int(e) for e in page.extrasamples)
        meaning = extras[0] if extras else 2 if values.shape[2] == colours + 1 else 0
        if meaning in (1, 2):
            alpha = values[..., colours]
            opaque = alpha > 0
            values = _unmultiplied(values[..., :colours], alpha) if meaning == 1 else values[..., :colours]
        else:
            if colours == 1:
                notes = (f"the first of {values.shape[2]} channels of each pixel was read",)
            values = values[..., :colours]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != colours):
        raise ImageError(f"{path}: has shape {values.shape}; save one grey or colour plane of it alone")
    if kind == PALETTE and not numbers:  # of 16-bit colours, (3, levels)
        palette = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap
        values = np.moveaxis(palette.astype(np.uint8)[:, values], 0, -1)
    elif kind == WHITE_IS_ZERO and not numbers:
        values = _negative(values, page.bitspersample)
    elif kind == SEPARATED:
        if page.tags.valueof("InkSet", 1) != 1:
            raise ImageError(f"{path}: holds inks other than cyan, magenta, yellow and black; save it as RGB")
        values = _from_cmyk(values)
    elif kind == YCBCR and page.compression not in (6, 7):  # of JPEG the decoder makes RGB
        values = np.asarray(Image.fromarray(np.ascontiguousarray(values), "YCbCr").convert("RGB"))
    elif kind in (CIELAB, ICCLAB, ITULAB) and values.ndim == 3:
        values = values[..., 0]  # the lightness
    return values, opaque, notes


def _negative(values: np.ndarray, bits: int) -> np.ndarray:
    """Stored values of which zero is white, the other way round."""
    if values.dtype.kind == "f":
        return 1 - values
    if values.dtype.kind == "u" and bits < 8 * values.dtype.itemsize:
        return (2**bits - 1) - values
    return ~values


def _from_cmyk(values: np.ndarray) -> np.ndarray:
    """Red, green and blue of unsigned cyan, magenta, yellow and black, (H, W, 4)."""
    white = np.iinfo(values.dtype).max
    light = white - values.astype(np.uint32 if values.dtype.itemsize < 4 else np.uint64)
    return np.rint(light[..., :3] * (light[..., 3:] / white)).astype(values.dtype)


def _unmultiplied(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that were stored multiplied by their opacity."""
    white = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    colours = np.minimum(values * (white / np.maximum(alpha, 1e-9))[..., None], white)
    return np.where(alpha[..., None] > 0, np.rint(colours) if white > 1 else colours, 0).astype(values.dtype)


def _tiff_by_pillow(
    path: Path, page: tifffile.TiffPage, numbers: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with _opened(path) as image:
            image.seek(page.index)
            values, opaque = _pillow_values(image, numbers)
            mode = image.mode
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OSError) and "unknown" not in str(error) and "identify" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise ImageError(
            f"{path}: is compressed in a kind ({name}, {page.bitspersample} bits) that needs another "
            f"package; {EXTRA}, or save it without compression"
        ) from None
    if int(page.photometric) == WHITE_IS_ZERO and (mode in ("1", "L")) == numbers:
        values = _negative(values, 8 * values.dtype.itemsize)  # Pillow turns those of up to 8 bits, no others
    return values, opaque


# --- other pictures, by Pillow ---------------------------------------------------------------------------


def _opened(path: Path) -> Image.Image:
    """An image opened by one of the named decoders; only its header is read."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # we have a limit of our own
    try:
        return Image.open(path, formats=PILLOW)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image; give a PNG, JPEG or TIFF file") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_picture(path: Path, number: int | None, numbers: bool, largest: int) -> Stored:
    with _opened(path) as image:
        _check_size(path, image.height, image.width, largest)
        index, note = _choose(
            path, [(image.height, image.width)] * getattr(image, "n_frames", 1), False, number
        )
        image.seek(index)
        kind, dpi, orientation = image.format, image.info.get("dpi"), image.getexif().get(274, 1)
        shape = (image.height, image.width)
        values, opaque = _pillow_values(image, numbers)
    head = path.read_bytes() if kind in ("JPEG", "MPO") and path.stat().st_size <= LARGEST_JPEG else b""
    stored = Stored(
        values,
        opaque,
        size=from_picture(path, shape, dpi, head),
        lossy=kind in ("JPEG", "MPO") or (kind == "WEBP" and b"VP8L" not in path.read_bytes()[:256]),
        notes=(note,) if note else (),
    )
    return _turned(stored, orientation)


def _pillow_values(image: Image.Image, numbers: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of an open image, (H, W) or (H, W, 3), and which pixels are opaque."""
    if image.mode in ("P", "PA") and numbers:
        return np.asarray(image.getchannel(0) if image.mode == "PA" else image), None
    if image.mode == "LAB":
        return np.asarray(image)[..., 0], None
    if image.mode == "CMYK":
        return _from_cmyk(np.asarray(image)), None
    if image.mode in ("P", "PA", "L", "RGB") and (image.mode == "PA" or "transparency" in image.info):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    elif image.mode in ("P", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "I" and image.format == "PNG":  # how older Pillow holds 16 bits
        values = values.astype(np.uint16)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if image.mode in ("LA", "RGBA"):
        return (values[..., 0] if image.mode == "LA" else values[..., :3]), values[..., -1] > 0
    return values, None


# --- files of electron microscopes, by RosettaSciIO ------------------------------------------------------


def _planes(path: Path) -> list[tuple[np.ndarray, dict]]:
    """Images of a file, each as (N, H, W) or (N, H, W, 3), and the last axes' sizes and units."""
    try:
        from rsciio import IO_PLUGINS
    except ImportError:
        raise ImageError(f"{path}: {path.suffix} files need the package RosettaSciIO; {EXTRA}") from None
    suffix = path.suffix.lower().removeprefix(".")
    readers = [p for p in IO_PLUGINS if suffix in (e.lower() for e in p["file_extensions"])]
    errors = []
    for reader in readers:
        try:
            signals = importlib.import_module(reader["api"]).file_reader(str(path), lazy=False)
        except Exception as error:  # of several readers for one suffix all but one fail
            errors.append(error)
            continue
        images = [plane for signal in signals if (plane := _as_images(signal)) is not None]
        if images:
            return images
    if errors:
        raise errors[0]
    raise ImageError(f"{path}: holds no image, perhaps a spectrum; export the image alone as TIFF")


def _as_images(signal: dict) -> tuple[np.ndarray, dict] | None:
    """One signal of RosettaSciIO as images, and its axes; None if it is a spectrum."""
    data, axes = np.asarray(signal["data"]), signal["axes"]
    if data.dtype.names:  # red, green and blue as a structure
        data = np.stack([data[name] for name in data.dtype.names[:3]], axis=-1)
    colours = 1 if data.ndim > len(axes) else 0
    shown = [k for k, axis in enumerate(axes) if not axis.get("navigate", False)]
    shown = shown if len(shown) == 2 else list(range(len(axes)))[-2:]  # maps of single values have no signal
    if len(axes) < 2 or data.ndim - colours != len(axes) or min(data.shape[k] for k in shown) < 2:
        return None
    others = [k for k in range(len(axes)) if k not in shown]
    data = data.transpose(*others, *shown, *range(len(axes), data.ndim))
    return data.reshape(-1, *data.shape[len(others) :]), {"y": axes[shown[0]], "x": axes[shown[1]]}


def _read_other(path: Path, number: int | None, largest: int) -> Stored:
    signals = _planes(path)
    places = [(signal, k) for signal, (images, _) in enumerate(signals) for k in range(len(images))]
    index, note = _choose(path, [signals[s][0].shape[1:3] for s, _ in places], False, number)
    signal, plane = places[index]
    values, axes = signals[signal][0][plane], signals[signal][1]
    _check_size(path, *values.shape[:2], largest)
    factors = [micrometres(axes[axis].get("units") or "") for axis in "xy"]
    size = None
    if None not in factors:  # of a diffraction pattern the unit is 1/nm
        scales = [float(axes[axis].get("scale", 0)) * factor for axis, factor in zip("xy", factors)]
        if all(np.isfinite(scales)) and min(scales) > 0:
            size = Size(*scales, f"{path.suffix[1:]} file")
    return Stored(values, size=size, notes=(note,) if note else ())
