"""The size of a pixel, read from what the microscope or a program wrote into the file.

    micrometres per pixel = field width / image width

Every maker stores it elsewhere. The sources are tried in order of trust, `SOURCES`:

========================  ==============================================================================
FEI, Thermo Fisher        TIFF tags 34680 and 34682, ``[Scan] PixelWidth`` in metres (1) (2)
Phenom, FEI Titan         TIFF tag 34683, also in the bytes of a JPEG: XML, ``pixelWidth`` with its unit
Zeiss SmartSEM            TIFF tag 34118, ``AP_IMAGE_PIXEL_SIZE``; older files only have a header whose
                          fourth number is the pixel size in metres on a display 1024 wide (1) (2)
Tescan                    TIFF tag 50431, or ``<image>.hdr`` beside the image: ``PixelSizeX`` in metres
Gatan                     TIFF tags 65003 and 65004 (units), 65009 and 65010 (size of a pixel) (2)
Olympus SIS               TIFF tag 33560 (1)
JEOL SightX               XML in the description: the magnification, by which the camera's pixel in the
                          resolution tags is divided (2)
JEOL                      ``<image>.txt`` beside the image: ``$$SM_MICRON_BAR`` pixels are
                          ``$$SM_MICRON_MARKER`` long (5)
Hitachi                   ``<image>.txt`` beside the image: ``PixelSize=`` in nanometres (5)
OME-TIFF                  ``PhysicalSizeX`` of the OME-XML, micrometres unless said (3)
ImageJ, Fiji              ``unit=`` in the description with the TIFF resolution in pixels per unit (4)
any TIFF, PNG             resolution tags in pixels per inch, centimetre or metre
========================  ==============================================================================

A print resolution (72, 96, 300 dots per inch) is never a pixel size.

References
----------
1. tifffile, C. Gohlke, https://github.com/cgohlke/tifffile (layout of the private tags).
2. HyperSpy and RosettaSciIO, https://hyperspy.org/rosettasciio (which entry is the scale, issue 2056).
3. OME data model, https://docs.openmicroscopy.org/ome-model.
4. ImageJ, ``ij.io.TiffEncoder`` and ``ij.io.FileInfo``, https://imagej.net/ij.
5. Gwyddion, modules ``jeol`` and ``hitachi-sem``, http://gwyddion.net.
"""

from __future__ import annotations

import codecs
import functools
import html
import math
import re
import struct
import unicodedata
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import tifffile

from microlab.data.errors import ImageError

# Resolution tags that claim more than this many micrometres per pixel, or fewer than 2540 dots per inch, are
# taken for a print resolution and ignored.
LARGEST_FROM_RESOLUTION = 10.0
PRINT_RESOLUTIONS = (72, 75, 96, 100, 150, 200, 300, 400, 600, 1200)  # dots per inch, in whatever unit
CAMERA_PITCH = 1.0  # um; a plain resolution tag that says more may speak of the camera's own pixels
LARGEST_JPEG = 64_000_000  # bytes; larger ones are not searched for XML

LENGTH = re.compile(r"(p|pico|n|nano|u|μ|âμ|micro|m|milli|c|centi|)(m|met(?:er|re)s?)")
PREFIX = {"p": 1e-6, "n": 1e-3, "u": 1.0, "μ": 1.0, "âμ": 1.0, "m": 1e3, "c": 1e4, "": 1e6}
PREFIX |= {"pico": 1e-6, "nano": 1e-3, "micro": 1.0, "milli": 1e3, "centi": 1e4}
OTHER_LENGTHS = {"micron": 1.0, "microns": 1.0, "å": 1e-4, "ångström": 1e-4, "angstrom": 1e-4}
OTHER_LENGTHS |= {"angstroms": 1e-4, "ångströms": 1e-4, "in": 25400.0, "inch": 25400.0, "inches": 25400.0}
OTHER_LENGTHS['"'] = 25400.0
SAME_PRINT = 1e-4  # relative difference of a resolution from one of them
NOT_SQUARE_BY = 0.01  # relative difference of height and width, from which on pixels are not square
RESIZED = (0.98, 1.2)  # rows by the columns, of the maker's: a data bar adds some, a crop takes them
PRINTED = (1e4, 25400.0)  # centimetre and inch, the units of a print resolution


NOT_SQUARE = (
    "pixels are {0:.4g} x {1:.4g} um, not square; the pixel size is left unknown. Resample the image or give "
    "a pixel size."
)


class Size(NamedTuple):
    """Width and height of a pixel in micrometres, where they stood, and what is to be said about them."""

    width: float
    height: float
    source: str
    note: str = ""


def square(size: Size) -> bool:
    """Whether the pixels are as wide as high, to 1 %."""
    return abs(size.width - size.height) <= NOT_SQUARE_BY * size.width


def micrometres(unit: object) -> float | None:
    """Micrometres in a unit of length, in any of its spellings; None if it is none.

    >>> micrometres("nm"), micrometres("micrometers"), micrometres("µm"), micrometres("pixel")
    (0.001, 1.0, 1.0, None)
    """
    text = unicodedata.normalize("NFKC", str(unit)).strip(" \0\t\r\n").lower()
    text = re.sub(r"\\u(?:00b5|03bc)", "μ", text)  # as ImageJ escapes it
    if match := LENGTH.fullmatch(text):
        return PREFIX[match[1]]
    return OTHER_LENGTHS.get(text)


def from_tiff(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    """Pixel size of one page of an open TIFF file, by the most trusted of `SOURCES` that knows it.

    Parameters
    ----------
    tif : tifffile.TiffFile
        The open file.
    page : tifffile.TiffPage
        The page that is read.
    path : Path
        Of the file; others may lie beside it.

    Raises
    ------
    ImageError
        If what stands in a file beside it is no number.
    """
    for source in SOURCES:
        try:
            size = source(tif, page, path)
        except ImageError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError, struct.error):
            continue  # a damaged entry is no entry
        if size := _valid(size):
            return size
    return None


def from_picture(path: Path, shape: tuple[int, int], dpi: object, xml: bytes = b"") -> Size | None:
    """Pixel size of a PNG, JPEG, BMP, GIF or WebP file of the shape (H, W).

    Parameters
    ----------
    path : Path
    shape : (int, int)
    dpi : (float, float) or None
        Dots per inch that the file names.
    xml : bytes
        Bytes of the file in which a Phenom microscope may have left its description.

    Raises
    ------
    ImageError
        As `from_tiff`.
    """
    start, end = xml.find(b"<FeiImage"), xml.rfind(b"</FeiImage>")
    if 0 <= start < end and (size := _valid(_fei_image(_text(xml[start : end + 11])))):
        return size
    if size := from_sidecar(path, shape):
        return size
    try:
        across, down = (float(value) for value in dpi)
        return _valid(_plain(25400.0 / across, 25400.0 / down, "dots per inch"))
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def from_sidecar(path: Path, shape: tuple[int, int]) -> Size | None:
    """Pixel size from the text file that JEOL, Hitachi and Tescan microscopes write beside the image.

    Its name may be in capitals, its text in UTF-8, UTF-16 or Latin-1. Where it names another image size in
    pixels than `shape`, (H, W), the image has been resized, and the pixel size with it.

    Raises
    ------
    ImageError
        If what stands there for the size is no number.
    """
    if (sidecar := _beside(path, ".txt")) is not None:
        text = _text(sidecar.read_bytes())
        bar = re.search(r"^\$\$SM_MICRON_BAR\s+(\S+)", text, re.MULTILINE)
        marker = re.search(r"^\$\$SM_MICRON_MARKER\s+([\d.]+)\s*(\S+)", text, re.MULTILINE)
        if bar and marker and (factor := micrometres(marker[2])) and _number(bar[1], sidecar) > 0:
            size = _number(marker[1], sidecar) * factor / _number(bar[1], sidecar)
            whole = re.search(r"^\$CM_FULL_SIZE\s+(\d+)\s+(\d+)", text, re.MULTILINE)
            return _valid(_rescaled(Size(size, size, f"JEOL {sidecar.name}"), whole, shape))
        if hitachi := re.search(r"^PixelSize\s*=\s*(\S+)", text, re.MULTILINE):
            size = _number(hitachi[1], sidecar) * 1e-3
            whole = re.search(r"^DataSize\s*=\s*(\d+)\s*x\s*(\d+)", text, re.MULTILINE)
            return _valid(_rescaled(Size(size, size, f"Hitachi {sidecar.name}"), whole, shape))
    sidecar = _beside(path, ".hdr") or _beside(path, f"-{path.suffix[1:]}.hdr")
    return sidecar and _valid(_tescan_text(_text(sidecar.read_bytes()), f"Tescan {sidecar.name}"))


def named_data_bar(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> int | None:
    """Height of the data bar that the maker's metadata name, in pixels.

    FEI: file height minus ``[Image] ResolutionY``. Phenom: ``databarHeight``.
    """
    rows = page.imagelength
    scanned = (tif.fei_metadata or {}).get("Image", {}).get("ResolutionY")
    if isinstance(scanned, int) and rows / 2 < scanned < rows:
        return rows - scanned
    root = _xml(_text(page.tags.valueof(34683)))
    height = None if root is None else next((e.text for e in root.iter() if e.tag == "databarHeight"), None)
    if height and height.strip().isdecimal() and 0 < int(height) < rows / 2:
        return int(height)
    return None


def _fei(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    entries = tif.fei_metadata or {}
    image, scan, beam = (entries.get(name, {}) for name in ("Image", "Scan", "EBeam"))
    columns, rows = image.get("ResolutionX"), image.get("ResolutionY")
    if "PixelWidth" in scan:
        width, height = float(scan["PixelWidth"]), float(scan["PixelHeight"])
    elif "HFW" in beam:
        width, height = float(beam["HFW"]) / columns, float(beam["VFW"]) / rows
    else:
        return None
    size = Size(width * 1e6, height * 1e6, "FEI tag")
    if not (isinstance(columns, int) and isinstance(rows, int)):
        return size
    return _rescaled(size, (None, columns, rows), (page.imagelength, page.imagewidth))


def _phenom(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    return _fei_image(_text(page.tags.valueof(34683)))


def _fei_image(text: str) -> Size | None:
    root = _xml(text)
    if root is None:
        return None
    sizes = {e.tag: e for e in root.iter() if e.tag in ("pixelWidth", "pixelHeight") and e.text}
    if "pixelWidth" not in sizes:
        return None
    width, height = sizes["pixelWidth"], sizes.get("pixelHeight", sizes["pixelWidth"])
    return Size(
        *(float(e.text) * (micrometres(e.get("unit")) or math.nan) for e in (width, height)), "Phenom tag"
    )


def _zeiss(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    entries = tif.sem_metadata or {}
    named = entries.get("ap_image_pixel_size", ())  # ("Image Pixel Size", 3.166, "nm")
    if len(named) == 3 and (factor := micrometres(named[2])):
        size = float(named[1]) * factor
        return Size(size, size, "Zeiss tag")
    header = entries.get("", ())
    if len(header) > 3 and isinstance(header[3], float):
        size = header[3] * 1e6 * 1024 / page.imagewidth
        return Size(size, size, "Zeiss tag")
    return None


def _tescan(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    return _tescan_text(_text(page.tags.valueof(50431)), "Tescan tag")


def _tescan_text(text: str, source: str) -> Size | None:
    sizes = [re.search(rf"PixelSize{axis}\s*=\s*([\d.,eE+-]+)", text) for axis in "XY"]
    if not all(sizes):
        return None
    return Size(*(float(size[1].replace(",", ".")) * 1e6 for size in sizes), source)


def _gatan(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    units = [micrometres(_text(page.tags.valueof(code))) for code in (65003, 65004)]
    sizes = [page.tags.valueof(code) for code in (65009, 65010)]
    if None in units or None in sizes:  # of a diffraction pattern the unit is 1/nm
        return None
    return Size(float(sizes[0]) * units[0], float(sizes[1]) * units[1], "Gatan tag")


def _olympus(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    entries = tif.sis_metadata or {}
    if "pixelsizex" not in entries:
        return None
    return Size(float(entries["pixelsizex"]) * 1e6, float(entries["pixelsizey"]) * 1e6, "Olympus SIS tag")


def _sightx(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    root, pitch = _sightx_xml(page), _tagged_resolution(page)
    if root is None or pitch is None:
        return None
    entry = {e.tag: (e.text or "").strip() for e in root.iter()}
    if entry.get("EosMode") != "eosTEM" or entry.get("ModeString") != "MAG":
        return None  # a diffraction pattern, or a scan whose size stands elsewhere
    magnification = float(entry["SelectorValue"])
    return Size(pitch[0] / magnification, pitch[1] / magnification, "JEOL SightX description")


def _sidecar(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    return from_sidecar(path, (page.imagelength, page.imagewidth))


def _ome(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    root = _xml(tif.ome_metadata or "")
    elements = [] if root is None else root.iter()
    pixels = next((e for e in elements if e.tag.rpartition("}")[2] == "Pixels"), None)  # of any namespace
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        value, factor = (
            pixels.get(f"PhysicalSize{axis}"),
            micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm")),
        )
        if not value or not factor:
            return None
        sizes.append(float(value) * factor)
    return Size(*sizes, "OME-XML")


def _imagej(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    factor, per_unit = micrometres((tif.imagej_metadata or {}).get("unit", "")), _pixels_per_unit(page)
    if factor is None or per_unit is None:
        return None
    size = Size(factor / per_unit[0], factor / per_unit[1], "ImageJ")
    # Fiji gives a picture of 300 dots per inch the unit "inch", or "cm", and saves that.
    dots = 25400 / size.width
    printed = factor in PRINTED and max(size[:2]) > LARGEST_FROM_RESOLUTION
    return None if printed or any(abs(dots / dpi - 1) < SAME_PRINT for dpi in PRINT_RESOLUTIONS) else size


def _resolution(tif: tifffile.TiffFile, page: tifffile.TiffPage, path: Path) -> Size | None:
    if (size := _tagged_resolution(page)) is None or _sightx_xml(page) is not None:
        return None
    return _plain(*size, "resolution tags")


SOURCES = (
    _fei,
    _phenom,
    _zeiss,
    _tescan,
    _gatan,
    _olympus,
    _sightx,
    _sidecar,
    _ome,
    _imagej,
    _resolution,
)


def _plain(width: float, height: float, source: str) -> Size | None:
    """A size from tags that know nothing of a microscope."""
    if max(width, height) > LARGEST_FROM_RESOLUTION:
        return None
    note = (
        f"the pixel size of {width:.4g} um is from the {source}, where some programs put the size of the "
        "camera's own pixels; check it, or give --pixel-size"
    )
    return Size(width, height, source, note if max(width, height) > CAMERA_PITCH else "")


def _tagged_resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Micrometres per pixel by the resolution tags, if they have a unit."""
    per_unit = _pixels_per_unit(page)
    unit = {2: 25400.0, 3: 10000.0}.get(page.tags.valueof("ResolutionUnit"))  # inch, centimetre
    return (unit / per_unit[0], unit / per_unit[1]) if per_unit and unit else None


def _pixels_per_unit(page: tifffile.TiffPage) -> tuple[float, float] | None:
    fractions = [page.tags.valueof(name) for name in ("XResolution", "YResolution")]
    if any(not isinstance(fraction, tuple) or 0 in fraction for fraction in fractions):
        return None
    return tuple(numerator / denominator for numerator, denominator in fractions)


def _sightx_xml(page: tifffile.TiffPage) -> ElementTree.Element | None:
    if not str(page.tags.valueof("Make") or "").startswith("JEOL"):
        return None
    root = _xml(page.description)
    return root if root is not None and root.tag == "TemReporter" else None


def _rescaled(size: Size, whole: re.Match | tuple | None, shape: tuple[int, int]) -> Size:
    """The size for an image of `shape` (H, W), where `whole` has the columns and rows by the maker."""
    if whole is None:
        return size
    columns, rows = int(whole[1]), int(whole[2])
    if columns == shape[1] or 0 in (columns, rows):
        return size
    factor = columns / shape[1]
    # A data bar adds rows; a file that lost more rows than columns was cropped, not resized.
    if RESIZED[0] <= shape[0] * factor / rows <= RESIZED[1]:
        note = (
            f"the image is {shape[1]} pixels wide and its {size.source} speaks of {columns}: it was resized, "
            "and the pixel size scaled with it"
        )
        return Size(size.width * factor, size.height * factor, size.source, note)
    note = (
        f"the image has {shape[1]} x {shape[0]} pixels and its {size.source} speaks of {columns} x {rows}; "
        "if it was resized and not cropped, give --pixel-size"
    )
    return size._replace(note=note)


def _beside(path: Path, ending: str) -> Path | None:
    """The file beside an image that has its stem and this ending, in small or capital letters."""
    folder = path.parent
    try:
        names = _names(folder, folder.stat().st_mtime_ns)
    except OSError:
        return None
    name = names.get((path.stem + ending).lower())
    place = None if name is None else folder / name
    return place if place is not None and place.is_file() and name != path.name else None


@functools.lru_cache(maxsize=8)
def _names(folder: Path, stamp: int) -> dict[str, str]:
    """Names of a folder's text files by their small letters; `stamp` changes with the folder."""
    return {
        name.lower(): name
        for name in (file.name for file in folder.iterdir())
        if name.lower().endswith((".txt", ".hdr"))
    }


def _text(value: object) -> str:
    """The text of a tag or a file, whatever its encoding."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        value = bytes(value)
    if not isinstance(value, (bytes, bytearray)):
        return ""
    data = bytes(value)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if data[1:40:2].count(0) > 15:
        return data.decode("utf-16-le", "replace")
    if data[0:40:2].count(0) > 15:
        return data.decode("utf-16-be", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _xml(text: str) -> ElementTree.Element | None:
    """The root of an XML text; None if it is none, or has entities of its own, which can fill the memory."""
    text = text.strip("\0\x01 \t\r\n")
    if not text.startswith("<") or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    text = re.sub(
        r"&(?!(?:amp|lt|gt|quot|apos);)\w+;", lambda name: html.unescape(name[0]), text
    )  # as &micro;
    try:
        return ElementTree.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, ValueError):
        return None


def _number(text: str, sidecar: Path) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ImageError(f"{sidecar}: {text!r} is no number; correct it or move the file") from None


def _valid(size: Size | None) -> Size | None:
    return size if size and all(math.isfinite(s) and s > 0 for s in size[:2]) else None
