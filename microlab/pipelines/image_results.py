"""One micrograph in, one folder of results out, by any segmenter.

Every file of a result is written whole or not at all, and ``run.json`` comes last: a folder that holds it is
complete.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from skimage.segmentation import find_boundaries

from microlab import __version__
from microlab.data import images
from microlab.data.errors import ImageError, InputError
from microlab.data.files import atomic, sha256
from microlab.data.formats import LARGEST
from microlab.data.mapped import is_large, reduced, reduced_labels, reduction, release
from microlab.data.masks import read_label_image
from microlab.data.micrograph import Micrograph
from microlab.measure import grain_size
from microlab.measure.grains import grain_table, summarise
from microlab.plotting import COLOURS
from microlab.segment.blocks import segment_by_blocks
from microlab.segment.choice import choose, with_choice
from microlab.segment.registry import DEFAULT_METHOD
from microlab.segment.segmenter import Segmentation, Segmenter
from microlab.segment.uncertainty import estimate_uncertainty

OVERLAY_SIDE = 2000  # px, of a large image's overlay
LARGEST_GRAIN, SMALLEST_GRAIN = 1000.0, 0.001  # um, beyond which a pixel size is doubted
MEASURED_BLOCK = 2048  # px, side of the blocks in which the grains of a large image are measured
MOST_WHOLE = 64_000_000  # px of an image that is held whole; about 100 bytes each


@dataclass(frozen=True)
class Options:
    """How the images of one run are read and segmented."""

    pixel_size: float | None = None  # micrometres; overrides what the files say
    data_bar: int | str = "auto"  # as `images.read_image` takes it
    zoom: float | None = None  # magnification before the segmenter; estimated when None
    device: str | None = None
    views: int = 0  # of each image, compared to say how sure its segmentation is; 0 or 2..8
    settings: dict[str, Any] = field(default_factory=dict)  # of the method, as `load_segmenter` takes them
    page: int | str | None = None  # of files with several, from 0, or "all"; stacks are refused without it
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height of the part that is read, px
    largest: int = LARGEST  # px; larger images are refused


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """A label image from anywhere, measured."""

    labels: np.ndarray  # (H, W) int32
    boundary: np.ndarray  # (H, W) bool
    pixel_size: float | None  # micrometres
    table: pd.DataFrame  # one row per grain
    pixel_size_source: str | None = field(default=None, kw_only=True)  # who said it: "given", "FEI tag", ...

    @property
    def valid(self) -> np.ndarray | None:
        """Field of view, (H, W) bool; None for the whole image."""
        return None

    @cached_property
    def summary(self) -> list[tuple[str, str]]:
        """Numbers of the image as (quantity, value with unit) pairs.

        Means and quantiles are over whole grains, weighted because the frame cuts large grains more often
        (`grains.summarise`). ASTM numbers need a pixel size.
        """
        size = self.pixel_size
        unit, diameter, area = ("µm", "diameter_um", "area_um2") if size else ("px", "diameter_px", "area_px")
        of = summarise(self.table, [diameter, area, "aspect_ratio"])
        low, high = of.loc[diameter, "mean_low"], of.loc[diameter, "mean_high"]
        rows = [
            ("grains", str(len(self.table))),
            ("mean diameter", f"{number(of.loc[diameter, 'mean'])} {unit}"),
            ("median diameter", f"{number(of.loc[diameter, 'median'])} {unit}"),
            ("95 % interval of the mean diameter", f"{number(low)} to {number(high)} {unit}"),
            ("mean area", f"{number(of.loc[area, 'mean'])} {unit}²"),
            ("mean aspect ratio", number(of.loc["aspect_ratio", "mean"])),
            (
                "cut by the image's edge" if self.valid is None else "cut by the field's edge",
                f"{int(self.table['touches_edge'].sum())} grains",
            ),
        ]
        if size:
            for method in ("planimetric", "intercept"):
                astm = grain_size.astm_grain_size(self.labels, size, method, valid=self.valid).number
                rows.append((f"ASTM E112 grain size number, {method}", number(astm)))
            rows.append(("pixel size", self.size_text))
        return rows

    @property
    def size_text(self) -> str:
        """The pixel size with its unit and source; empty if it is unknown."""
        return f"{self.pixel_size:.4g} µm ({self.pixel_size_source or 'given'})" if self.pixel_size else ""

    @property
    def doubt(self) -> str | None:
        """A sentence about the pixel size, if it makes the grains larger or smaller than grains are."""
        diameter = self.table["diameter_um"].median() if self.pixel_size and len(self.table) else np.nan
        if not (diameter > LARGEST_GRAIN or diameter < SMALLEST_GRAIN):
            return None
        what = "over 1 mm" if diameter > LARGEST_GRAIN else "under 1 nm"
        return (
            f"With the pixel size of {self.size_text} the grains are {what}: is it right? "
            "Next: give --pixel-size."
        )


@dataclass(frozen=True, eq=False)
class SegmentedImage(MeasuredImage):
    """One micrograph, segmented and measured."""

    micrograph: Micrograph
    segmentation: Segmentation
    notes: list[str]
    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixel_size_source", self.micrograph.pixel_size_source)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def valid(self) -> np.ndarray | None:
        return self.segmentation.valid


def result_folders(files: Sequence[Path], out: Path, pages: Sequence[int | None] | None = None) -> list[Path]:
    """A folder of its own under `out` for every image: its stem, with a number where two share one.

    Of a page that was asked for, one for each file in `pages`, it is ``STEM-pageN``, so that the pages of a
    file lie side by side. A folder that holds one of the images themselves, or another image's result from
    this run or an earlier one, is never taken. Names that differ in case only count as the same, as they do
    on macOS and Windows.
    """
    folders, taken = [], set()
    sources = {os.path.dirname(os.path.realpath(file)) for file in files}
    for file, page in zip(files, pages or [None] * len(files)):
        stem = file.stem if page is None else f"{file.stem}-page{page}"
        name, number = stem, 1
        while (
            name.casefold() in taken
            or os.path.realpath(out / name) in sources
            or _source(out / name) not in (None, os.path.realpath(file))
        ):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        folders.append(out / name)
    return folders


def read_micrograph(path: Path, options: Options, folder: Path | None = None) -> Micrograph:
    """An image file as `options` say; a large one has its grey levels in an unnamed file in `folder`."""
    return images.read_image(
        path,
        pixel_size=options.pixel_size,
        data_bar=options.data_bar,
        page=options.page,
        crop=options.crop,
        largest=options.largest,
        folder=folder,
    )


def segment_file(
    path: Path, folder: Path, segmenter: Segmenter, options: Options = Options()
) -> SegmentedImage:
    """Segment one image file and write its results.

    Parameters
    ----------
    path : Path
    folder, segmenter, options
        As `segment_micrograph`.

    Raises
    ------
    InputError, OSError
        With the name of the file and what is wrong.
    """
    with warnings_as_notes() as notes:
        # A folder of results is made only for an image that can be read.
        micrograph = read_micrograph(path, options, folder.parent)
    notes = [note.removeprefix(f"{path}: ") for note in notes]  # they are shown beside its name
    return segment_micrograph(micrograph, folder, segmenter, options, notes=notes)


def segment_micrograph(
    micrograph: Micrograph,
    folder: Path,
    segmenter: Segmenter,
    options: Options = Options(),
    *,
    other: Segmenter | None = None,
    notes: Sequence[str] = (),
) -> SegmentedImage:
    """Segment one micrograph, measure its grains and write the results.

    A large one (`microlab.data.mapped.LARGE`) is worked on block by block, with its maps in unnamed files
    beside `folder`, if the segmenter can do that and no views are compared.

    Parameters
    ----------
    micrograph : Micrograph
    folder : Path
        Gets ``mask.png`` (255 on boundaries), ``labels.tif``, ``grains.csv``, ``overlay.png``, the maps and
        tables of the segmenter (.tif and .csv), ``uncertainty.tif`` unless ``options.views`` is 0, and
        ``run.json``. Of a large micrograph the mask is ``mask.tif``, the TIFF files are tiled, and the
        overlay is reduced.
    segmenter : Segmenter
    options : Options
        Only ``zoom`` and ``views`` are read.
    other : Segmenter, optional
        Another segmenter to compare with, for `Uncertainty.models`.
    notes : sequence of str
        What is to be said about the micrograph already.

    Raises
    ------
    InputError, OSError
        With the name of the micrograph and what is wrong.
    """
    name = micrograph.path or micrograph.name
    large = is_large(micrograph.shape)
    by_blocks = large and segmenter.by_blocks and not options.views and other is None
    if not by_blocks:
        _check_whole(micrograph, segmenter, options)
    with warnings_as_notes() as more:
        try:
            methods = [one for one in segmenter.methods() if one.by_blocks or not by_blocks]
            choice = choose(micrograph, methods, zoom=options.zoom)
            segmenter, zoom = choice.trial.segmenter, choice.trial.zoom
            release(micrograph.image)
            if by_blocks:
                progress = sys.stderr.isatty()
                segmentation = segment_by_blocks(
                    micrograph, segmenter, folder.parent, zoom=zoom, progress=progress
                )
            else:
                segmentation = segmenter.segment(micrograph, zoom=zoom)
            whole = None if by_blocks else segmenter.check(micrograph)
            segmentation = with_choice(segmentation, choice, whole)
            if options.views:
                how = {"views": options.views, "other": other, "valid": segmentation.valid}
                uncertainty = estimate_uncertainty(micrograph, segmenter, segmentation.zoom, **how)
                segmentation = replace(segmentation, uncertainty=uncertainty)
        except InputError as error:
            raise ImageError(f"{name}: {error}") from error
        if not segmentation.labels.any():
            raise ImageError(
                f"{name}: no grain was found, every pixel is boundary; check the image or the zoom"
            )
        table = grain_table(
            segmentation.labels,
            micrograph.pixel_size,
            block=MEASURED_BLOCK if by_blocks else None,
            valid=segmentation.valid,
        )
        release(segmentation.labels)
    if large:
        factor = reduction(micrograph.shape, OVERLAY_SIDE)
        more.append(
            f"overlay.png is reduced {factor} times; mask.tif and labels.tif have every pixel, in tiles for "
            "Fiji (File > Import > Bio-Formats) and QuPath."
        )
    if segmentation.valid is not None:
        more.append(
            f"{1 - segmentation.valid.mean():.1%} of the image is not the specimen (a legend, a mount, an "
            "empty corner) and was left out; a grain that it cuts counts as cut."
        )
    if micrograph.data_bar_height:
        more.append(f"The lowest {micrograph.data_bar_height} rows are a data bar and were cut off first.")
    if micrograph.data_bar_top:
        more.append(f"The uppermost {micrograph.data_bar_top} rows are a data bar and were cut off first.")
    result = SegmentedImage(
        segmentation.labels,
        segmentation.boundary,
        micrograph.pixel_size,
        table,
        micrograph,
        segmentation,
        [*notes, *more, *segmentation.notes],
        folder,
    )
    if result.doubt:
        warned = replace(segmentation, warnings=(*segmentation.warnings, result.doubt))
        result = replace(result, segmentation=warned)
    write_result(result, segmenter, options)
    return result


@contextmanager
def warnings_as_notes() -> Iterator[list[str]]:
    """A list that holds the messages of all UserWarnings as soon as the block has ended."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes.extend(str(w.message) for w in caught if issubclass(w.category, UserWarning))


def _check_whole(micrograph: Micrograph, segmenter: Segmenter, options: Options) -> None:
    """Raise an ImageError where an image that has to be held whole, in many arrays, is too large for that."""
    height, width = micrograph.shape
    if height * width <= MOST_WHOLE:
        return
    what, mend = f"method {segmenter.name}", f"take method {DEFAULT_METHOD}"
    if segmenter.by_blocks:
        what, mend = "the comparison of views", "leave it out (--views 0)"
    raise ImageError(
        f"{micrograph.path or micrograph.name}: has {width} x {height} pixels, more than the "
        f"{MOST_WHOLE // 10**6} million that {what} can hold in memory; {mend} or cut the image"
    )


def measure_file(
    path: Path,
    pixel_size: float | None = None,
    *,
    lines: str = "auto",
    page: int | None = None,
    largest: int = LARGEST,
) -> tuple[MeasuredImage, list[str]]:
    """Read a label image or a mask and measure its grains.

    Parameters
    ----------
    path : Path
        A label image (0 on boundaries, grains 1..n), or a mask of two values (`masks.read_label_image`).
    pixel_size : float, optional
        Micrometres; overrides what the file says.
    lines : {"auto", "bright", "dark"}
        Which value of a mask marks boundaries.
    page : int, optional
        Of a file with several, from 0.
    largest : int
        Most pixels that are read.

    Returns
    -------
    image : MeasuredImage
    notes : list of str
        How the file was understood, and what may be wrong.

    Raises
    ------
    InputError, OSError
        With the name of the file and what is wrong.
    """
    image = read_label_image(path, lines=lines, page=page, largest=largest)
    if not image.labels.any():
        raise ImageError(f"{path}: holds no grain; grains are numbered from 1, boundaries are 0")
    size = pixel_size or (image.size.width if image.size else None)
    source = "given" if pixel_size else image.size.source if image.size else None
    table = grain_table(image.labels, size)
    measured = MeasuredImage(image.labels, image.boundary, size, table, pixel_size_source=source)
    return measured, [*image.notes, *([measured.doubt] if measured.doubt else [])]


def write_result(result: SegmentedImage, segmenter: Segmenter, options: Options = Options()) -> None:
    """Write the files of one result into its folder, each whole or not at all."""
    folder, segmentation, size = result.folder, result.segmentation, result.pixel_size
    # What an earlier run left would make a run that is killed now look complete.
    for name in ("run.json", "mask.png", "mask.tif"):  # a mask has one of two names
        (folder / name).unlink(missing_ok=True)
    maps, tables, record = segmentation.maps, segmentation.tables, segmentation.record
    if uncertainty := segmentation.uncertainty:
        maps = maps | {"uncertainty": uncertainty.deviation_map}
        record = record | {
            "disagreement": None if np.isnan(uncertainty.disagreement) else uncertainty.disagreement,
            "deviation": uncertainty.deviation,
        }
    for name, values in maps.items():
        if values.ndim == 3:
            images.write_stack(folder / f"{name}.tif", values, pixel_size=size)
        else:
            images.write_image(folder / f"{name}.tif", values, pixel_size=size, bits=32)
    if is_large(segmentation.labels.shape):
        factor = reduction(segmentation.labels.shape, OVERLAY_SIDE)
        image, labels = reduced(result.micrograph.image, factor), reduced_labels(segmentation.labels, factor)
        valid = None if result.valid is None else reduced_labels(result.valid, factor)
        images.write_mask(folder / "mask.tif", segmentation.boundary, pixel_size=size)
    else:
        image, labels, valid = result.micrograph.image, segmentation.labels, result.valid
        images.write_mask(folder / "mask.png", segmentation.boundary)
    images.write_labels(folder / "labels.tif", segmentation.labels, pixel_size=size)
    images.write_image(folder / "overlay.png", overlay(image, labels, valid))
    for name, table in {**tables, "grains": result.table}.items():
        with atomic(folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False, float_format="%.6g")
    path = result.micrograph.path
    run = {
        "source": str(path.resolve()) if path else result.micrograph.about,
        "sha256": sha256(path) if path else None,
        "microlab": __version__,
        "method": segmenter.name,
        "weights": segmenter.card.get("name"),
        "weights_sha256": weights_sha256(segmenter.card),
        "pixel_size_um": size,
        "pixel_size_source": result.pixel_size_source,
        "zoom": segmentation.zoom,
        "grains": int(segmentation.labels.max()),
        "options": asdict(options),
        **record,
        "warnings": list(segmentation.warnings),
        "notes": result.notes,
    }
    with atomic(folder / "run.json") as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def weights_sha256(card: dict) -> str | dict[str, str] | None:
    """Checksum of the weights; of each network by its part where a card holds the cards of several."""
    parts = {
        name: part["sha256"] for name, part in card.items() if isinstance(part, dict) and "sha256" in part
    }
    return card.get("sha256") or parts or None


def overlay(image: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The micrograph with the lines between grains drawn in colour, (H, W, 3) float32 in [0, 1].

    What is outside of the field of view `valid` is darkened.
    """
    picture = np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2).astype(np.float32)
    if valid is not None:
        picture[~valid] *= 0.4
    picture[find_boundaries(labels, connectivity=1, mode="thick")] = to_rgb(COLOURS["prediction"])
    return picture


def number(value: float) -> str:
    """Three significant digits without an exponent; a dash for what is not known."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _source(folder: Path) -> str | None:
    """The image whose result a folder holds, None if it holds none."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
