"""Grains corrected by hand: what a page needs for it, and the measurement of what comes out.

    page: labels + picture  ->  edits.json  ->  measure_corrected: the same labels, the same numbers

The page runs one JavaScript module, `script`: the rules of the edits, which mirror `microlab.data.edits`, and
the tools. The report (`microlab.pipelines.report`) and the widget of JupyterLab hold the same module.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microlab import __version__
from microlab.data import images
from microlab.data.edits import Edits, labels_sha256, read_edits, write_edits
from microlab.data.errors import ImageError, InputError
from microlab.data.formats import LARGEST, read_numbers
from microlab.measure.grains import grain_table
from microlab.measure.labels import boundaries
from microlab.pipelines.image_results import MeasuredImage, own_run, size_of

FILES = ("labels.tif", "edits.json")  # of the corrected image
MOST_PIXELS = 4_000_000  # of an image that a page can hold and redraw at every click
CONTRAST = (0.5, 99.5)  # percentiles of the grey levels that become black and white in the picture


@dataclass(frozen=True, eq=False)
class CorrectedImage(MeasuredImage):
    """A label image with edits made to it, measured."""

    edits: Edits


def measure_corrected(
    labels: Path,
    edits: Path,
    pixel_size: float | None = None,
    *,
    page: int | None = None,
    largest: int = LARGEST,
) -> CorrectedImage:
    """Read a label image, make the edits of a file to it, and measure its grains.

    Parameters
    ----------
    labels : Path
        The label image that the edits were made on.
    edits : Path
        ``edits.json``, as the page saved it.
    pixel_size : float, optional
        Micrometres; overrides what the label image says.
    page, largest
        As `images.read_image` takes them.

    Raises
    ------
    InputError, OSError
        With the name of the file and what is wrong: a file that holds no edits, or those of another image.
    """
    stored = read_edits(edits)
    values, own_size, _ = read_numbers(labels, page, largest=largest)
    before = images.whole_numbers(values, labels)
    try:
        after = stored.apply(before, str(labels))
    except InputError as error:
        raise InputError(f"{edits}: {error}") from None
    if not after.any():
        raise ImageError(f"{edits}: no grain of {labels} is left; undo some edits")
    size, source = size_of(own_size, pixel_size, own_run(labels))
    valid = before > 0 if stored.field_of_view else None
    table = grain_table(after, size, valid=valid)
    return CorrectedImage(after, boundaries(after, valid), size, source, valid, table, stored)


def write_corrected(result: CorrectedImage, folder: Path) -> None:
    """Write the corrected labels and the edits, the `FILES`, into a folder.

    Raises
    ------
    InputError, OSError
        As `microlab.data.files.atomic`.
    """
    labels, edits = (folder / name for name in FILES)
    images.write_labels(labels, result.labels, pixel_size=result.pixel_size)
    write_edits(edits, result.edits)


def script() -> str:
    """The correction as one ES module: `Grains` (the rules of edits), `mount`, and anywidget's `render`."""
    places = (("microlab.data", "edits.js"), ("microlab.pipelines", "templates/corrections.js"))
    return "\n".join((files(package) / name).read_text(encoding="utf-8") for package, name in places)


def page_data(
    labels: NDArray[np.integer],
    image: NDArray[np.floating],
    pixel_size: float | None = None,
    *,
    name: str = "",
    valid: NDArray[np.bool_] | None = None,
    file: str = "edits.json",
    command: str = "",
) -> dict[str, Any] | None:
    """What the page needs to know of one image, as plain values.

    Parameters
    ----------
    labels : (H, W) int
    image : (H, W) or (H, W, 3) float in [0, 1]
    pixel_size : float, optional
        Micrometres.
    name : str
        The image's, for people.
    valid : (H, W) bool, optional
        Field of view. The page knows it only where it is the same as ``labels > 0``.
    file : str
        Name of the file in which the page saves the edits.
    command : str
        How to make the edits outside of the page, shown to the reader.

    Returns
    -------
    dict or None
        For `mount` of the script; ``labels`` as text, which `unpack` of the script reads. None if the image
        has more than `MOST_PIXELS`.
    """
    height, width = labels.shape
    if height * width > MOST_PIXELS:
        return None
    return {
        "name": name,
        "width": width,
        "labels": pack_labels(labels),
        "picture": _picture(image),
        "unit": "µm" if pixel_size else "px",
        "pixel": pixel_size or 1.0,
        "sha256": labels_sha256(labels),
        "fieldOfView": valid is not None and np.array_equal(labels > 0, valid),
        "file": file,
        "command": command,
        "version": __version__,
    }


def pack_labels(labels: NDArray[np.integer]) -> str:
    """Labels as text: base64 of deflated int32, every row as its exclusive or with the one above.

    Most of these are 0, so that the text is short.
    """
    rows = np.ascontiguousarray(labels, "<i4")
    rows = np.concatenate([rows[:1], rows[1:] ^ rows[:-1]])
    return base64.b64encode(zlib.compress(rows.tobytes(), 9)).decode()


def _picture(image: NDArray[np.floating]) -> str:
    """The image as a grey JPEG in an address; a few extreme pixels do not decide its contrast."""
    grey = np.asarray(image, np.float32)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    low, high = np.percentile(grey, CONTRAST)
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((scaled * 255 + 0.5).astype(np.uint8)).save(buffer, "jpeg", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
