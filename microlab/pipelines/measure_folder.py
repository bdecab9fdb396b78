"""Label images from anywhere, measured: `microlab measure` in Python.

Label images, boundary masks, or a folder of results: the grains of each, tables of all, and outlines of the
grains for Fiji and QuPath.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from microlab.data.errors import USER_ERRORS, ImageError, InputError, one_line
from microlab.data.files import accept, claim, read_mark, safe_name
from microlab.data.images import read_mask
from microlab.data.tables import write_csv
from microlab.measure.scores import score
from microlab.pipelines.image_results import (
    MeasuredImage,
    Options,
    find_images,
    is_result,
    measure_file,
    write_outlines,
)
from microlab.pipelines.segment_folder import joined, means, write_tables


@dataclass(frozen=True)
class MeasuredFile:
    """One file after measuring: the grains, or the error."""

    file: Path
    name: str  # in tables; unlike that of any other file
    image: MeasuredImage | None = None
    scores: pd.Series | None = None  # against the truth
    error: Exception | None = None

    @property
    def row(self) -> dict:
        """The row of ``summary.csv``."""
        row = {"image": self.name, "file": str(self.file)}
        if self.image is None:
            return row | {"error": one_line(self.error)}
        return row | means(self.image) | ({} if self.scores is None else self.scores.to_dict())


def measure_folder(
    paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    truth: Path | str | None = None,
    pixel_size: float | None = None,
    rois: bool = False,
    geojson: bool = False,
    overwrite: bool = False,
    callback: Callable[[MeasuredFile], None] = lambda measured: None,
) -> list[MeasuredFile]:
    """Measure the grains of label images.

    Parameters
    ----------
    paths : sequence of path
        Label images, boundary masks, folders of them, or a folder of results of `segment_folder`.
    out : path, optional
        A table ending in ``.csv`` for the grains of all images; or a folder, new, empty or of an earlier
        call, for ``grains.csv``, ``summary.csv`` and the outlines.
    truth : path, optional
        True boundaries to score a single image against.
    pixel_size : float, optional
        Micrometres; overrides what the files say.
    rois, geojson : bool
        Write the outlines of the grains for ImageJ or QuPath; `out` must be a folder.
    overwrite : bool
        Replace a table that is there, or files in the folder that were changed.
    callback : callable
        Gets every result as it comes.

    Raises
    ------
    InputError, OSError
        If there is no image, or `out` would replace an input or what microlab did not write. A file that
        fails raises nothing: its result holds the error.
    """
    files = find_labels([Path(path) for path in paths])
    if truth is not None and len(files) > 1:
        raise InputError(f"--truth takes one image to score, got {len(files)}; score them one by one")
    table = _checked_output(out, files, truth, rois or geojson, overwrite)
    options, measured = Options(rois=rois, geojson=geojson), []
    for file, name in zip(files, _names(files)):
        result = _measure(file, name, truth, pixel_size)
        if result.image is not None and out is not None and not table and (rois or geojson):
            claim(Path(out) / name, "image", source=os.path.realpath(file))
            write_outlines(result.image, options, Path(out) / name)
        measured.append(result)
        callback(result)
    grains = joined({result.name: result.image.table for result in measured if result.image is not None})
    if out is not None and not grains.empty:
        if table:
            write_csv(out, grains)
        else:
            write_tables(Path(out), [result.row for result in measured], grains)
    return measured


def find_labels(paths: Sequence[Path]) -> list[Path]:
    """Label images: files, those in folders, and of folders of results the ``labels.tif`` of every image."""
    files: dict[str, Path] = {}
    for path in paths:
        found = [path]
        if path.is_dir():
            places = [path, *sorted(path.iterdir())] if read_mark(path) is not None else []
            found = [place / "labels.tif" for place in places if is_result(place)]
        for file in found or find_images([path]):
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def _measure(file: Path, name: str, truth: Path | str | None, pixel_size: float | None) -> MeasuredFile:
    try:
        image, scores = measure_file(file, pixel_size), None
        if truth is not None:
            boundary = read_mask(truth)
            if boundary.shape != image.labels.shape:
                raise ImageError(f"{truth} {boundary.shape} and {file} {image.labels.shape} differ in size")
            scores = pd.Series(score(boundary, image.boundary, image.labels))
        return MeasuredFile(file, name, image, scores)
    except USER_ERRORS as error:
        return MeasuredFile(file, name, error=error)


def _checked_output(
    out: Path | str | None, files: Sequence[Path], truth: Path | str | None, outlines: bool, overwrite: bool
) -> bool:
    """Whether the output is a table; refuses one that would replace something, and makes a folder ours."""
    if out is None:
        if outlines:
            raise InputError("outlines of grains need a folder: name one for the output (-o FOLDER)")
        return False
    path = Path(out)
    if os.path.realpath(path) in {os.path.realpath(file) for file in (*files, truth) if file is not None}:
        raise InputError(f"{path}: is an input; name another file, as grains.csv")
    node = path.exists() and not (path.is_file() or path.is_dir())  # a pipe or a device
    if not node and (path.is_dir() or path.suffix.lower() != ".csv"):
        if path.is_file() or path.suffix:
            raise InputError(f"{path}: is no name of a table or a folder; name one, as grains.csv or results")
        claim(path, "measure")
        if overwrite:
            accept(path)
        return False
    if outlines:
        raise InputError(f"{path}: is a table, and outlines of grains need a folder; name one (-o FOLDER)")
    if path.is_file() and not overwrite:
        raise InputError(f"{path}: is there already; choose another name, or replace it (--overwrite)")
    return True


def _names(files: Sequence[Path]) -> list[str]:
    """A name for every file: its stem, or the image's of which it is the result, with a number if need be."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = safe_name(file.parent.name if is_result(file.parent) else file.stem)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
