"""Many image files at once: here, in processes of this machine, or on a Dask cluster.

    files  ->  one folder of results each, by any worker and in any order  ->  one report, in the files' order

Images are independent: a failing file is reported and the rest continue. Every worker loads the segmenter by
name and writes through `image_results`, so that all write the same.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from microlab.data.errors import USER_ERRORS, one_line
from microlab.data.files import atomic
from microlab.data.formats import each_page, find_images
from microlab.data.parallel import imap_unordered
from microlab.measure import grain_size
from microlab.measure.grains import summarise
from microlab.pipelines import image_results, report
from microlab.pipelines.image_results import Options
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
        tables = {image.folder.name: pd.read_csv(image.folder / "grains.csv") for image in self.segmented}
        if not tables:
            return pd.DataFrame(columns=["image"])
        return pd.concat(tables, names=["image"]).reset_index("image").reset_index(drop=True)


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
    callback: Callable[[ImageResult, int], None] = lambda image, number: None,
) -> FolderResult:
    """Segment image files, or folders of them, and write one report: `microlab segment` in Python.

    Parameters
    ----------
    paths : sequence of path
        Image files, or folders of them.
    out : path
        Gets a folder for every image, as `image_results.segment_micrograph` writes it, ``summary.csv``, a row
        for each image, and ``report.html``.
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
    callback : callable
        Gets every result as it comes, and the number of files.

    Raises
    ------
    InputError, OSError
        If there is no image, the method, the device or the weights are wrong, `out` cannot be made, or the
        scheduler does not answer. A file that fails raises nothing: its result holds the error.
    """
    options, out = options or Options(), Path(out)
    files, left_out = find_images([Path(path) for path in paths], recursive=recursive)
    files, pages = each_page(files, options.page)
    segmenter = cached_segmenter(method, weights, options)  # what is wrong for all images fails here
    out.mkdir(parents=True, exist_ok=True)
    folders = image_results.result_folders(files, out, pages)
    # A worker may stand in another folder.
    place = Path if jobs == 1 and scheduler is None else Path.absolute
    if weights and Path(weights).exists():
        weights = str(place(Path(weights)))
    tasks = [
        (k, place(file), place(folder), method, weights, replace(options, page=page))
        for k, (file, folder, page) in enumerate(zip(files, folders, pages))
    ]
    results: dict[int, ImageResult] = {}

    def keep(k: int, result: ImageResult) -> None:
        results[k] = replace(result, file=files[k], folder=folders[k])
        callback(results[k], len(files))

    try:
        for k, result in imap_unordered(_segment_one, tasks, jobs, scheduler, lost=_lost):
            keep(k, result)
    except BrokenProcessPool:  # joblib gives up all that was not finished, whichever process died
        for task in tasks:
            if task[0] not in results:
                keep(*_lost(*task))
    folder = FolderResult([results[k] for k in range(len(files))], None, left_out)
    sections = [image.section for image in folder.segmented]
    if not sections:
        return folder
    with atomic(out / "summary.csv") as partial:
        pd.DataFrame([row_of(image) for image in folder.images]).to_csv(
            partial, index=False, float_format="%.6g"
        )
    failed = [image.line for image in folder.failed]
    return replace(folder, report=report.write(out / "report.html", sections, segmenter, failed=failed))


def row_of(image: ImageResult) -> dict:
    """The row of an image in ``summary.csv``; of one that failed the error alone."""
    row = {"image": image.folder.name, "file": str(image.file)}
    return row | (image.summary if image.error is None else {"error": one_line(image.error)})


def summary(result: image_results.SegmentedImage) -> dict:
    """What a table of many images needs of one: how it was segmented, its means and its warnings."""
    unit, column = ("um", "diameter_um") if result.pixel_size else ("px", "diameter_px")
    diameter = summarise(result.table, [column]).loc[column]
    row = {
        "method": result.segmentation.record["method"],
        "zoom": result.segmentation.zoom,
        "grains": len(result.table),
        "whole_grains": int((~result.table["touches_edge"]).sum()),
        f"mean_diameter_{unit}": diameter["mean"],
        f"mean_diameter_low_{unit}": diameter["mean_low"],
        f"mean_diameter_high_{unit}": diameter["mean_high"],
    }
    if result.pixel_size:
        number = grain_size.astm_grain_size(result.labels, result.pixel_size, valid=result.valid).number
        row["astm_grain_size_number"] = number
    return row | {"warnings": " ".join(result.segmentation.warnings)}


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
    except USER_ERRORS as error:
        return k, ImageResult(file, folder, one_line(error), error=error)


def _lost(k: int, file: Path, folder: Path, *_: object) -> tuple[int, ImageResult]:
    """The result of an image whose worker died."""
    error = OSError(f"{file}: its worker died, perhaps for lack of memory; try it alone or with fewer")
    return k, ImageResult(file, folder, str(error), error=error)
