"""Many image files at once: here, in processes of this machine, or on a Dask cluster.

    files  ->  one folder of results each, by any worker and in any order  ->  tables and one report, in the
               files' order

Images are independent: a failing file is reported and the rest continue. Every worker loads the segmenter by
name and writes through `image_results`, so that all write the same.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock

from microlab.data.errors import USER_ERRORS, ImageError, InputError, one_line, out_of_memory
from microlab.data.files import (
    accept,
    check,
    claim,
    missing,
    other_content,
    read_json,
    read_mark,
    sha256,
    unclaim,
)
from microlab.data.formats import each_page, find_images
from microlab.data.parallel import check_jobs, imap_unordered
from microlab.data.tables import write_csv
from microlab.measure import grain_size
from microlab.measure.grains import summarise
from microlab.pipelines import image_results, report
from microlab.pipelines.image_results import TABLES, Options
from microlab.segment.registry import DEFAULT_METHOD, load_segmenter
from microlab.segment.segmenter import Segmenter


@dataclass(frozen=True)
class ImageResult:
    """One image file after segmentation.

    Attributes
    ----------
    file, folder : Path
        The image, and where its results lie.
    line : str
        The result in half a sentence, or what is wrong with the file.
    section : dict or None
        From `report.section`. None if the image failed.
    notes, warnings : list of str
    summary : dict
        The row of ``summary.csv``.
    error : Exception or None
    """

    file: Path
    folder: Path
    line: str
    section: dict | None = None
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    summary: dict = field(default_factory=dict)
    error: Exception | None = None
    kept: bool = False  # a whole result of the same settings was there already


@dataclass(frozen=True)
class FolderResult:
    """All image files after segmentation, in their order.

    Attributes
    ----------
    images : list of ImageResult
    report : Path or None
        None if every file failed.
    left_out : list of str
        What the folders hold besides, a sentence for each.
    """

    images: list[ImageResult]
    report: Path | None
    left_out: list[str] = field(default_factory=list)

    @property
    def segmented(self) -> list[ImageResult]:
        return [image for image in self.images if image.error is None]

    @property
    def failed(self) -> list[ImageResult]:
        return [image for image in self.images if image.error is not None]

    @property
    def grains(self) -> pd.DataFrame:
        """One row for each grain, as in ``grains.csv``, with the image's name in front."""
        return joined(
            {image.folder.name: pd.read_csv(image.folder / "grains.csv") for image in self.segmented}
        )


def segment_folder(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    method: str = DEFAULT_METHOD,
    weights: str | os.PathLike | None = None,
    options: Options | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    recursive: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
    callback: Callable[[ImageResult, int], None] = lambda image, number: None,
) -> FolderResult:
    """Segment image files, or folders of them, and write one report: `microlab segment` in Python.

    Parameters
    ----------
    paths : sequence of path
        Image files, or folders of them.
    out : path
        New, empty, or the folder of an earlier call. Gets a folder for every image, as
        `image_results.segment_micrograph` writes it; ``grains.csv``, a row for each grain of all images;
        ``summary.csv``, a row for each image; and ``report.html``.
    method, weights
        As `microlab.segment.registry.load_segmenter`.
    options : Options, optional
    jobs : int
        Processes on this machine, at most one for each image and core; -1 for as many. They share the cores.
    scheduler : str, optional
        Address of a Dask scheduler (``"tcp://host:8786"``) whose workers segment the images instead. They
        must see images, weights and `out` under the same paths.
    recursive : bool
        Take the folders inside of folders as well.
    overwrite : bool
        Replace files of an earlier call that were changed since. By default they are refused.
    skip_existing : bool
        Keep the results of images that have whole ones of the same settings, and segment the others.
    callback : callable
        Gets every result as it comes, and the number of files.

    Raises
    ------
    InputError, OSError
        If there is no image, the method, the device or the weights are wrong, `out` cannot be made or holds
        what microlab did not write, or the scheduler does not answer. A file that fails raises nothing: its
        result holds the error.
    """
    options, out = replace(options or Options(), overwrite=overwrite), Path(out)
    if scheduler is not None and jobs != 1:
        raise InputError(f"scheduler and jobs={jobs} exclude each other: the scheduler has its own workers")
    if overwrite and skip_existing:
        raise InputError("overwrite and skip_existing exclude each other")
    check_jobs(jobs, scheduler)
    files, left_out = find_images([Path(path) for path in paths], recursive=recursive)
    files, pages = each_page(files, options.page)
    segmenter = cached_segmenter(method, weights, options)  # what is wrong for all images fails here
    made, is_new = missing(out), read_mark(out) is None
    claim(out, "segment")
    folders = image_results.result_folders(files, out, pages)
    for name in () if overwrite else image_results.BATCH_FILES:  # before the work, not after it
        check(out / name, "move it away to keep it, or choose another folder, or replace it (--overwrite)")
    # A worker may stand in another folder.
    place = Path if jobs == 1 and scheduler is None else Path.absolute
    if weights and Path(weights).exists():
        weights = str(place(Path(weights)))
    results: dict[int, ImageResult] = {}

    def keep(k: int, result: ImageResult) -> None:
        results[k] = replace(result, file=files[k], folder=folders[k])
        callback(results[k], len(files))

    tasks = []
    for k, (file, folder, page) in enumerate(zip(files, folders, pages)):
        own = replace(options, page=page)
        before = _existing(file, folder, segmenter, own) if skip_existing else None
        if before is not None:
            keep(k, before)
        else:
            tasks.append((k, place(file), place(folder), method, weights, own))
    for k, result in imap_unordered(_segment_one, tasks, jobs, scheduler, lost=_lost):
        keep(k, result)
    folder = FolderResult([results[k] for k in range(len(files))], None, left_out)
    sections = [image.section for image in folder.segmented]
    failed = [image.line for image in folder.failed]
    if not sections and is_new:
        if other_content(out) is None:
            unclaim(out, made)
        return folder
    with FileLock(out / ".lock"):
        if overwrite:
            accept(out)
        write_tables(out, [row_of(image) for image in folder.images], folder.grains)
        path = report.write(out / "report.html", sections, segmenter, failed=failed)
    return replace(folder, report=path)


def write_tables(out: Path, rows: list[dict], grains: pd.DataFrame) -> None:
    """``summary.csv``, a row for each image, and ``grains.csv``, a row for each grain of all images."""
    for name, table in zip(TABLES, (pd.DataFrame(rows), grains)):
        write_csv(out / name, table)


def joined(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of grains as one, with the image's name in front."""
    if not tables:
        return pd.DataFrame(columns=["image"])
    return pd.concat(tables, names=["image"]).reset_index("image").reset_index(drop=True)


def row_of(image: ImageResult) -> dict:
    """The row of an image in ``summary.csv``; of one that failed the error alone."""
    row = {"image": image.folder.name, "file": str(image.file)}
    return row | (image.summary if image.error is None else {"error": one_line(image.error)})


def summary(result: image_results.SegmentedImage) -> dict:
    """What a table of many images needs of one: how it was segmented, its means and its warnings."""
    segmentation = result.segmentation
    how = {"method": segmentation.record["method"], "zoom": segmentation.zoom}
    return how | means(result) | {"warnings": " ".join(segmentation.warnings)}


def means(result: image_results.MeasuredImage) -> dict:
    """The numbers of one image for a table of many: pixel size, grains, means with intervals, ASTM number."""
    size, source = result.pixel_size, result.pixel_size_source
    unit, square = ("um", "um2") if size else ("px", "px")
    of = summarise(result.table, [f"diameter_{unit}", f"area_{square}", "aspect_ratio"])
    row = {
        "pixel_size_um": size,
        "pixel_size_source": source,
        "grains": len(result.table),
        "whole_grains": int((~result.table["touches_edge"]).sum()),
    }
    for quantity, column in (("diameter", unit), ("area", square)):
        numbers = of.loc[f"{quantity}_{column}"]
        row |= {f"mean_{quantity}{end}_{column}": numbers[f"mean{end}"] for end in ("", "_low", "_high")}
    row["mean_aspect_ratio"] = of.loc["aspect_ratio", "mean"]
    if size:
        number = grain_size.astm_grain_size(result.labels, size, valid=result.valid).number
        row["astm_grain_size_number"] = number
    return row


def cached_segmenter(method: str, weights: str | os.PathLike | None, options: Options) -> Segmenter:
    """`load_segmenter`, once in a process as long as the files of the weights stay the same."""
    path = Path(weights or "")
    files = sorted(path.glob("*")) if weights and path.is_dir() else [path] if path.is_file() else []
    stamp = tuple((f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    name = os.fspath(weights) if weights else None
    return _loaded(method, name, options.device, tuple(options.settings.items()), stamp)


@functools.lru_cache(maxsize=1)
def _loaded(method: str, weights: str | None, device: str | None, settings: tuple, stamp: tuple) -> Segmenter:
    return load_segmenter(method, weights, device, **dict(settings))


def _segment_one(
    k: int, file: Path, folder: Path, method: str, weights: str | None, options: Options
) -> tuple[int, ImageResult]:
    """Segment file number `k`; runs in a worker, where a wrong file must not stop the others."""
    try:
        segmenter = cached_segmenter(method, weights, options)
        result = image_results.segment_file(file, folder, segmenter, options)
        section = report.section(result)
        warnings = result.segmentation.warnings
        return k, ImageResult(file, folder, section["line"], section, result.notes, warnings, summary(result))
    except Exception as error:
        if out_of_memory(error):
            error = ImageError(f"{file}: {one_line(error)}")
        elif not isinstance(error, USER_ERRORS):
            raise
        return k, ImageResult(file, folder, one_line(error), error=error)


def _existing(file: Path, folder: Path, segmenter: Segmenter, options: Options) -> ImageResult | None:
    """The whole result that a folder holds already, of the same image and settings; or why it is refused."""
    try:
        if not image_results.is_complete(folder):
            return None
        run = read_json(folder / "run.json")
        asked = image_results.asked_for(segmenter, options)
        if run["asked"] != asked or run["sha256"] != sha256(file):
            return None
        with image_results.warnings_as_notes():
            micrograph = image_results.read_micrograph(file, options, folder.parent)
        result = image_results.read_result(micrograph, folder)
    except USER_ERRORS as error:
        return ImageResult(file, folder, one_line(error), error=error)
    section = report.section(result)
    line = f"kept, {section['line']}"
    warnings = result.segmentation.warnings
    return ImageResult(file, folder, line, section, (), warnings, summary(result), kept=True)


def _lost(k: int, file: Path, folder: Path, *_: object) -> tuple[int, ImageResult]:
    """The result of an image whose worker died."""
    error = OSError(
        f"{file}: its worker died, perhaps for lack of memory; take fewer --jobs, or cut the image"
    )
    return k, ImageResult(file, folder, str(error), error=error)
