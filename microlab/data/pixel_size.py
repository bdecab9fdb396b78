"""The size of a pixel, read from what the microscope wrote into the file.

    micrometres per pixel = field width / image width

Every maker stores it elsewhere. The readers below are tried in this order, the most specific first:

========================  ==============================================================================
FEI, Thermo Fisher        TIFF tags 34680 and 34682, ``[Scan] PixelWidth`` in metres (1) (2)
Zeiss SmartSEM            TIFF tag 34118, ``AP_IMAGE_PIXEL_SIZE``; older files only have a header whose
                          fourth number is the pixel size in metres on a display 1024 wide (1) (2)
OME-TIFF                  ``PhysicalSizeX`` of the OME-XML, micrometres unless said (3)
ImageJ, Fiji              ``unit=`` in the description with the TIFF resolution in pixels per unit (4)
any TIFF, PNG             resolution tags in pixels per inch, centimetre or metre
JEOL                      ``<image>.txt`` beside the image: ``$$SM_MICRON_BAR`` pixels are
                          ``$$SM_MICRON_MARKER`` long (5)
Hitachi                   ``<image>.txt`` beside the image: ``PixelSize=`` in nanometres (5)
========================  ==============================================================================

References
----------
1. tifffile, C. Gohlke, https://github.com/cgohlke/tifffile (layout of the private tags).
2. HyperSpy and RosettaSciIO, https://hyperspy.org/rosettasciio (which entry is the scale, issue 2056).
3. OME data model, https://docs.openmicroscopy.org/ome-model.
4. ImageJ, ``ij.io.TiffEncoder`` and ``ij.io.FileInfo``, https://imagej.net/ij.
5. Gwyddion, modules ``jeol`` and ``hitachi-sem``, http://gwyddion.net.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import tifffile

from microlab.data.errors import ImageError

# A print resolution (72, 96, 300 dots per inch) is no pixel size. Resolution tags that claim more than
# this many micrometres per pixel, or fewer than 2540 dots per inch, are taken for one and ignored.
LARGEST_FROM_RESOLUTION = 10.0

MICROMETRES = {
    "pm": 1e-6,
    "å": 1e-4,
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "inch": 25400.0,
}

Size = tuple[float, float, str]  # width and height of a pixel in micrometres, and where they stood


def from_tiff(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    """Pixel size of one page of an open TIFF file.

    Parameters
    ----------
    tif : tifffile.TiffFile
        The open file.
    page : tifffile.TiffPage
        The page that is read.

    Returns
    -------
    (width, height, source) in micrometres, or None
    """
    for reader in (_fei, _zeiss, _ome, _imagej, _resolution):
        size = _valid(reader(tif, page))
        if size:
            return size
    return None


def from_dots_per_inch(dpi: tuple[float, float] | None) -> Size | None:
    """Pixel size of a PNG or JPEG file from its dots per inch, unless they are a print resolution."""
    if not dpi or min(dpi) <= 0:
        return None
    return _not_for_print(25400.0 / float(dpi[0]), 25400.0 / float(dpi[1]), "dots per inch")


def from_sidecar(path: Path) -> Size | None:
    """Pixel size from the text file that JEOL and Hitachi microscopes write beside the image.

    Raises
    ------
    ImageError
        If what stands there for the size is no number.
    """
    sidecar = path.with_suffix(".txt")
    if not sidecar.is_file() or sidecar == path:
        return None
    text = sidecar.read_text(encoding="latin-1")
    bar = re.search(r"^\$\$SM_MICRON_BAR\s+([\d.]+)", text, re.MULTILINE)
    marker = re.search(r"^\$\$SM_MICRON_MARKER\s+([\d.]+)\s*(\w+)", text, re.MULTILINE)
    if bar and marker and marker[2].lower() in MICROMETRES and (pixels := _number(bar[1], sidecar)) > 0:
        size = _number(marker[1], sidecar) * MICROMETRES[marker[2].lower()] / pixels
        return _valid((size, size, f"JEOL {sidecar.name}"))
    hitachi = re.search(r"^PixelSize\s*=\s*([\d.]+)", text, re.MULTILINE)
    if hitachi:
        size = _number(hitachi[1], sidecar) * MICROMETRES["nm"]
        return _valid((size, size, f"Hitachi {sidecar.name}"))
    return None


def fei_data_bar_height(tif: tifffile.TiffFile, rows: int) -> int | None:
    """Height of the data bar of an FEI image: file height minus ``[Image] ResolutionY``, in pixels."""
    scanned = (tif.fei_metadata or {}).get("Image", {}).get("ResolutionY")
    return rows - scanned if isinstance(scanned, int) and rows / 2 < scanned < rows else None


def _fei(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    scan = (tif.fei_metadata or {}).get("Scan", {})
    width, height = scan.get("PixelWidth"), scan.get("PixelHeight")
    if isinstance(width, float) and isinstance(height, float):
        return width * 1e6, height * 1e6, "FEI tag"
    return None


def _zeiss(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    entries = tif.sem_metadata or {}
    named = entries.get("ap_image_pixel_size", ())  # ("Image Pixel Size", 3.166, "nm")
    if len(named) == 3 and str(named[2]).lower() in MICROMETRES:
        size = float(named[1]) * MICROMETRES[str(named[2]).lower()]
        return size, size, "Zeiss tag"
    header = entries.get("", ())
    if len(header) > 3 and isinstance(header[3], float):
        size = header[3] * 1e6 * 1024 / page.imagewidth
        return size, size, "Zeiss tag"
    return None


def _ome(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    # Two attributes are all we need of the XML: a search is simpler than a parser, and safer.
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata or "")
    if not pixels:
        return None
    sizes = []
    for axis in "XY":
        value = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', pixels[0])
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels[0])
        factor = MICROMETRES.get(unit[1].lower() if unit else "µm")
        if not value or not factor:
            return None
        sizes.append(float(value[1]) * factor)
    return sizes[0], sizes[1], "OME-XML"


def _imagej(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    unit = str((tif.imagej_metadata or {}).get("unit", "")).lower()
    per_unit = _pixels_per_unit(page)
    if unit not in MICROMETRES or not per_unit:
        return None
    return MICROMETRES[unit] / per_unit[0], MICROMETRES[unit] / per_unit[1], "ImageJ"


def _resolution(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Size | None:
    per_unit = _pixels_per_unit(page)
    unit = {2: 25400.0, 3: 10000.0}.get(page.tags.valueof("ResolutionUnit"))  # inch, centimetre
    if not per_unit or not unit:
        return None
    return _not_for_print(unit / per_unit[0], unit / per_unit[1], "resolution tags")


def _pixels_per_unit(page: tifffile.TiffPage) -> tuple[float, float] | None:
    fractions = [page.tags.valueof(name) for name in ("XResolution", "YResolution")]
    if any(not fraction or 0 in fraction for fraction in fractions):
        return None
    return tuple(numerator / denominator for numerator, denominator in fractions)


def _not_for_print(width: float, height: float, source: str) -> Size | None:
    return (width, height, source) if max(width, height) <= LARGEST_FROM_RESOLUTION else None


def _number(text: str, sidecar: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise ImageError(f"{sidecar}: {text!r} is no number; correct it or move the file") from None


def _valid(size: Size | None) -> Size | None:
    return size if size and all(math.isfinite(s) and s > 0 for s in size[:2]) else None
