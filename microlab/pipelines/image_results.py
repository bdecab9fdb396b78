"""One micrograph in, one folder of results out, by any segmenter.

Every file of a result is written whole or not at all, and ``run.json`` comes last, with the names of the
others: a folder that holds it is complete. The folder carries the mark of `microlab.data.files`, so that only
what was written here before is replaced, and nothing of another method stays.
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
import tifffile
from matplotlib.colors import to_rgb
from PIL import Image
from skimage.segmentation import find_boundaries

from microlab import __version__
from microlab.data import images
from microlab.data.errors import ImageError, InputError
from microlab.data.files import (
    accept,
    atomic,
    changed,
    claim,
    end_claim,
    is_ours,
    other_content,
    read_json,
    read_mark,
    remove,
    retire,
    safe_name,
    sha256,
)
from microlab.data.formats import LARGEST, read_numbers
from microlab.data.mapped import is_large, reduced, reduced_labels, reduction, release
from microlab.data.masks import LabelImage, read_label_image
from microlab.data.micrograph import Micrograph
from microlab.data.outlines import check_rois, write_geojson, write_rois
from microlab.data.pixel_size import Size
from microlab.data.tables import write_csv
from microlab.measure import grain_size
from microlab.measure.grains import grain_table, summarise
from microlab.measure.labels import boundaries
from microlab.plotting import COLOURS
from microlab.segment.blocks import segment_by_blocks
from microlab.segment.choice import choose, with_choice
from microlab.segment.registry import DEFAULT_METHOD
from microlab.segment.segmenter import Segmentation, Segmenter
from microlab.segment.uncertainty import Uncertainty, estimate_uncertainty

OVERLAY_SIDE = 2000  # px, of a large image's overlay
LARGEST_GRAIN, SMALLEST_GRAIN = 1000.0, 0.001  # um, beyond which a pixel size is doubted
MEASURED_BLOCK = 2048  # px, side of the blocks in which the grains of a large image are measured
MOST_WHOLE = 64_000_000  # px of an image that is held whole, after magnification; about 100 bytes each
MOST_IN_BLOCKS = 2_000_000_000  # px of an image that is worked on by blocks, after magnification; many hours
# Of the whole batch, beside the folders of the images.
TABLES = ("summary.csv", "grains.csv")
BATCH_FILES = ("report.html", *TABLES)
ADAPT_FILES = ("uncertainty.csv", "adapted.safetensors", "adapted.json", "work")


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
    rois: bool = False  # write the outlines of the grains for ImageJ
    geojson: bool = False  # write them for QuPath
    overwrite: bool = False  # replace files of an earlier result that were changed since


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """A label image from anywhere, measured."""

    labels: np.ndarray  # (H, W) int32
    boundary: np.ndarray  # (H, W) bool
    pixel_size: float | None  # micrometres
    pixel_size_source: str | None  # who said it: "given", "FEI tag", ...
    valid: np.ndarray | None  # (H, W) bool, field of view; None for the whole image
    table: pd.DataFrame  # one row per grain

    @cached_property
    def unit(self) -> tuple[str, float]:
        """The unit in which the grains are best read, and how many of it are one in the table's columns."""
        return length_unit(self.table["diameter_um"].median()) if self.pixel_size else ("px", 1.0)

    @cached_property
    def summary(self) -> list[tuple[str, str]]:
        """Numbers of the image as (quantity, value with unit) pairs.

        Means and quantiles are over whole grains, weighted because the frame cuts large grains more often
        (`grains.summarise`). ASTM numbers need a pixel size.
        """
        size, (unit, factor) = self.pixel_size, self.unit
        diameter, area = ("diameter_um", "area_um2") if size else ("diameter_px", "area_px")
        of = summarise(self.table, [diameter, area, "aspect_ratio"])
        mean, median, low, high = factor * of.loc[diameter, ["mean", "median", "mean_low", "mean_high"]]
        rows = [
            ("grains", str(len(self.table))),
            ("mean diameter", f"{number(mean)} {unit}"),
            ("median diameter", f"{number(median)} {unit}"),
            ("95 % interval of the mean diameter", f"{number(low)} to {number(high)} {unit}"),
            ("mean area", f"{number(factor**2 * of.loc[area, 'mean'])} {unit}²"),
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
        return (
            f"{length(self.pixel_size, 4)} ({self.pixel_size_source or 'given'})" if self.pixel_size else ""
        )

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

    @property
    def name(self) -> str:
        return self.folder.name


def result_folders(files: Sequence[Path], out: Path, pages: Sequence[int | None] | None = None) -> list[Path]:
    """A folder of its own under `out` for every image: its stem, with a number where two share one.

    The stem is changed where a system would not take it for a name (`safe_name`). Of a page that was asked
    for, one for each file in `pages`, it is ``STEM-pageN``, so that the pages of a file lie side by side. A
    folder that holds one of the images themselves, another image's result from this run or an earlier one, or
    anything else that microlab did not write, is never taken, nor is the name of a file of the whole batch.
    Names that differ in case only count as the same, as they do on macOS and Windows.
    """
    folders, taken = [], {*BATCH_FILES, *ADAPT_FILES}
    sources = {os.path.dirname(os.path.realpath(file)) for file in files}
    for file, page in zip(files, pages or [None] * len(files)):
        stem = safe_name(file.stem if page is None else f"{file.stem}-page{page}")
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
        With the name of the file and what is wrong; also of a file in `folder` that was changed.
    """
    edited = changed(folder)
    if edited and not options.overwrite:  # before the work, not after it
        raise InputError(
            f"{edited[0]}: was changed after microlab wrote it; move it away to keep it, or choose another "
            "folder, or replace it (--overwrite)"
        )
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
        tables of the segmenter (.tif and .csv), ``uncertainty.tif`` unless ``options.views`` is 0,
        ``rois.zip`` and ``grains.geojson`` if they are asked for, and ``run.json``. Of a large micrograph the
        mask is ``mask.tif``, the TIFF files are tiled, and the overlay is reduced.
    segmenter : Segmenter
    options : Options
        Of ``page`` and the like only ``crop`` is read: where the outlines lie in the file.
    other : Segmenter, optional
        Another segmenter to compare with, for `Uncertainty.models`.
    notes : sequence of str
        What is to be said about the micrograph already.

    Raises
    ------
    InputError, OSError
        With the name of the micrograph and what is wrong.
    """
    name, asked = micrograph.path or micrograph.name, segmenter
    large = is_large(micrograph.shape)
    by_blocks = large and segmenter.by_blocks and not options.views and other is None
    if not by_blocks:
        _check_whole(micrograph, segmenter, options)
    _check_zoom(micrograph, options.zoom, MOST_IN_BLOCKS if by_blocks else MOST_WHOLE)
    if options.rois:
        check_rois(name, micrograph.shape)
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
        micrograph.pixel_size_source,
        segmentation.valid,
        table,
        micrograph,
        segmentation,
        [*notes, *more, *segmentation.notes],
        folder,
    )
    if result.doubt:
        warned = replace(segmentation, warnings=(*segmentation.warnings, result.doubt))
        result = replace(result, segmentation=warned)
    write_result(result, segmenter, options, asked)
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


def _check_zoom(micrograph: Micrograph, zoom: float | None, most: int) -> None:
    """Raise an ImageError where a magnification would make more pixels than can be worked on."""
    height, width = micrograph.shape
    if zoom is not None and zoom > 1 and zoom**2 * height * width > most:
        raise ImageError(
            f"{micrograph.path or micrograph.name}: magnified {zoom:g} times it has "
            f"{round(zoom * width)} x {round(zoom * height)} pixels, more than {most // 10**6} million; give "
            f"at most {int(10 * np.sqrt(most / (height * width))) / 10:g} (--scale)"
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
        Of a result of microlab its field of view and the source of its pixel size are known.
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
    if (run := own_run(path)) is None:
        image, valid = read_label_image(path, lines=lines, page=page, largest=largest), None
        if path.name == "labels.tif" and is_result(path.parent):
            edited = "was changed after it was segmented: the whole image is measured, not its field of view"
            image = replace(image, notes=[*image.notes, edited])
    else:  # its labels stand as they are
        values, size, notes = read_numbers(path, page, largest=largest)
        labels = images.whole_numbers(values, path)
        valid = None if run["field_of_view"] is None else labels > 0
        image = LabelImage(labels, boundaries(labels, valid), size, notes)
    if not image.labels.any():
        raise ImageError(f"{path}: holds no grain; grains are numbered from 1, boundaries are 0")
    size, source = size_of(image.size, pixel_size, run)
    table = grain_table(image.labels, size, valid=valid)
    measured = MeasuredImage(image.labels, image.boundary, size, source, valid, table)
    return measured, [*image.notes, *([measured.doubt] if measured.doubt else [])]


def own_run(labels: Path) -> dict[str, Any] | None:
    """The ``run.json`` beside a ``labels.tif`` that `write_result` wrote with it; None of any other file."""
    if labels.name == "labels.tif" and is_result(labels.parent):
        run = read_json(labels.with_name("run.json"))
        if run["files"].get(labels.name) == sha256(labels):
            return run
    return None


def size_of(
    size: Size | None, given: float | None, run: dict[str, Any] | None = None
) -> tuple[float | None, str | None]:
    """Pixel size of a label image in micrometres and who said it: the caller, else its run, else its file."""
    if given:
        return given, "given"
    if size is None:
        return None, None
    return size.width, run["pixel_size_source"] if run else size.source


def write_result(
    result: SegmentedImage, segmenter: Segmenter, options: Options = Options(), asked: Segmenter | None = None
) -> None:
    """Write the files of one result into its folder, each whole or not at all.

    `segmenter` segmented the image; the user `asked` for it, or for one that chose it.
    """
    folder, path = result.folder, result.micrograph.path
    source = os.path.realpath(path) if path else result.micrograph.about
    claim(folder, "image", source=source)
    try:
        if options.overwrite:
            accept(folder)
        remove(folder / "run.json")  # a run that is killed now must not look complete
        _write_files(result, segmenter, options, asked or segmenter, source)
    finally:
        end_claim(folder)


def _write_files(
    result: SegmentedImage, segmenter: Segmenter, options: Options, asked: Segmenter, source: str
) -> None:
    folder, segmentation, size = result.folder, result.segmentation, result.pixel_size
    path, valid = result.micrograph.path, result.valid
    maps, tables, record = segmentation.maps, segmentation.tables, segmentation.record
    if uncertainty := segmentation.uncertainty:
        maps = maps | {"uncertainty": uncertainty.deviation_map}
        numbers = {name: getattr(uncertainty, name) for name in ("disagreement", "deviation", "models")}
        record = record | {name: None if np.isnan(value) else value for name, value in numbers.items()}
    for name, values in maps.items():
        if values.ndim == 3:
            images.write_stack(folder / f"{name}.tif", values, pixel_size=size)
        else:
            images.write_image(folder / f"{name}.tif", values, pixel_size=size, bits=32)
    image, labels, shown = result.micrograph.image, segmentation.labels, valid
    mask = "mask.png"
    if is_large(labels.shape):
        factor = reduction(labels.shape, OVERLAY_SIDE)
        image, labels = reduced(image, factor), reduced_labels(labels, factor)
        shown = None if valid is None else reduced_labels(valid, factor)
        mask = "mask.tif"
    images.write_mask(folder / mask, segmentation.boundary, pixel_size=size if mask == "mask.tif" else None)
    images.write_labels(folder / "labels.tif", segmentation.labels, pixel_size=size)
    images.write_image(folder / "overlay.png", overlay(image, labels, shown))
    tables = {**tables, "grains": result.table}
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
    files = [mask, "labels.tif", "overlay.png", *(f"{name}.tif" for name in maps)]
    files += [f"{name}.csv" for name in tables]
    left, top = options.crop[:2] if options.crop else (0, 0)
    files += write_outlines(result, options, folder, (left, top + result.micrograph.data_bar_top))
    retire(folder, keep=files)  # what another method wrote
    run = {
        "source": source,
        "sha256": sha256(path) if path else None,
        "microlab": __version__,
        "asked": asked_for(asked, options),
        "method": segmenter.name,
        "weights": segmenter.card.get("name"),
        "weights_sha256": weights_sha256(segmenter.card),
        "pixel_size_um": size,
        "pixel_size_source": result.pixel_size_source,
        "zoom": segmentation.zoom,
        "grains": int(segmentation.labels.max()),
        "field_of_view": None if valid is None else float(valid.mean()),
        "options": {name: value for name, value in asdict(options).items() if name != "overwrite"},
        **record,
        "status": segmentation.status,
        "warnings": list(segmentation.warnings),
        "notes": result.notes,
        "files": {name: sha256(folder / name) for name in sorted(files)},
    }
    with atomic(folder / "run.json") as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def write_outlines(
    image: MeasuredImage, options: Options, folder: Path, origin: tuple[int, int] = (0, 0)
) -> list[str]:
    """Write the outlines of the grains that `options` ask for; the names of the files.

    The image's upper left corner lies at `origin` (x, y) of the picture to which the outlines belong.
    """
    files = []
    if options.rois:
        write_rois(folder / "rois.zip", image.labels, origin)
        files.append("rois.zip")
    if options.geojson:
        write_geojson(folder / "grains.geojson", image.labels, image.table, origin)
        files.append("grains.geojson")
    return files


def asked_for(segmenter: Segmenter, options: Options) -> dict[str, Any]:
    """What determines the results of an image, as plain values."""
    plain = json.loads(json.dumps(asdict(options)))
    del plain["device"], plain["largest"], plain["overwrite"]
    return {"method": segmenter.name, "weights_sha256": weights_sha256(segmenter.card), **plain}


def is_result(folder: Path) -> bool:
    """Whether a folder holds the result of an image."""
    mark = read_mark(folder) if folder.is_dir() else None
    return mark is not None and mark["made_by"] == "image" and is_ours(folder / "run.json")


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a whole result.

    Raises
    ------
    InputError
        If one of its files was changed.
    """
    if not (folder / "run.json").is_file():
        return False
    if edited := changed(folder):
        raise InputError(
            f"{edited[0]}: was changed after microlab wrote it; move it away and run again, or choose "
            "another folder"
        )
    if not is_result(folder):
        return False
    files = {folder / name: digest for name, digest in read_json(folder / "run.json")["files"].items()}
    return all(path.is_file() and sha256(path) == digest for path, digest in files.items())


def read_result(micrograph: Micrograph, folder: Path) -> SegmentedImage:
    """The result of a micrograph from its folder, as `write_result` wrote it (`is_complete`).

    The probability is that of the mask, 0 or 1.
    """
    run = read_json(folder / "run.json")
    labels = tifffile.imread(folder / "labels.tif").astype(np.int32)
    if "mask.tif" in run["files"]:
        boundary = tifffile.imread(folder / "mask.tif") > 0
    else:
        with Image.open(folder / "mask.png", formats=("PNG",)) as mask:
            boundary = np.asarray(mask) > 0
    valid = None if run["field_of_view"] is None else labels > 0
    uncertainty = None
    if "uncertainty.tif" in run["files"]:
        numbers = {n: np.nan if run[n] is None else run[n] for n in ("deviation", "disagreement", "models")}
        uncertainty = Uncertainty(tifffile.imread(folder / "uncertainty.tif"), **numbers)
    segmentation = Segmentation(
        boundary.astype(np.float32),
        boundary,
        labels,
        run["zoom"],
        uncertainty,
        valid,
        warnings=tuple(run["warnings"]),
        status=run["status"],
        record={"method": run["method"]},
    )
    size, source = run["pixel_size_um"], run["pixel_size_source"]
    micrograph = replace(micrograph, pixel_size=size, pixel_size_source=source)
    block = MEASURED_BLOCK if is_large(labels.shape) else None
    table = grain_table(labels, size, block=block, valid=valid)
    about = micrograph, segmentation, run["notes"], folder
    return SegmentedImage(labels, boundary, size, source, valid, table, *about)


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


def number(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent; a dash for what is not known."""
    if not np.isfinite(value):
        return "–"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(rounded, trim="-")


def length_unit(micrometres: float) -> tuple[str, float]:
    """The unit in which a length is best read, and how many of it are a micrometre."""
    if 0 < micrometres < 0.1:
        return "nm", 1000.0
    return ("mm", 0.001) if micrometres >= 1000 else ("µm", 1.0)


def length(micrometres: float, digits: int = 3) -> str:
    """A length with its unit, without an exponent."""
    unit, factor = length_unit(micrometres)
    return f"{number(factor * micrometres, digits)} {unit}"


def _source(folder: Path) -> str | None:
    """The image whose result a folder holds; None if it is free, "" if it holds something else."""
    if not folder.is_dir():
        return "" if os.path.lexists(folder) else None
    mark = read_mark(folder)
    if mark is not None:
        return mark.get("source", "")
    return None if other_content(folder) is None else ""
