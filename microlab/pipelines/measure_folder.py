"""Label images from anywhere, measured: `microlab measure` in Python.

Label images, masks, or a folder of results: the grains of each, tables of all, and outlines of the grains for
Fiji and QuPath. One image can be corrected first, by edits that were drawn on the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from microlab.data.errors import USER_ERRORS, ImageError, InputError, one_line
from microlab.data.files import (
    accept,
    claim,
    end_claim,
    missing,
    other_content,
    read_mark,
    retire,
    safe_name,
    unclaim,
)
from microlab.data.formats import LARGEST, each_page, find_images
from microlab.data.masks import read_mask
from microlab.data.tables import write_csv
from microlab.measure.scores import score
from microlab.pipelines import corrections
from microlab.pipelines.image_results import (
    TABLES,
    MeasuredImage,
    Options,
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
    page: int | None = None  # that was asked for
    image: MeasuredImage | None = None  # for the callback alone, so that memory holds one image at a time
    summary: dict[str, Any] = field(default_factory=dict)  # means and scores
    scores: pd.Series | None = None  # against the truth
    notes: tuple[str, ...] = ()  # how the files were understood, each with its file's name in front
    error: Exception | None = None

    @property
    def title(self) -> str:
        """The file, and the page of it."""
        return str(self.file) if self.page is None else f"{self.file}, page {self.page}"

    @property
    def row(self) -> dict:
        """The row of ``summary.csv``."""
        row = {"image": self.name, "file": self.title}
        if self.error is not None:
            return row | {"error": one_line(self.error)}
        return row | self.summary | {"notes": " ".join(self.notes)}


def measure_folder(
    paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    truth: Path | str | None = None,
    edits: Path | str | None = None,
    pixel_size: float | None = None,
    lines: str = "auto",
    page: int | str | None = None,
    recursive: bool = False,
    largest: int = LARGEST,
    rois: bool = False,
    geojson: bool = False,
    overwrite: bool = False,
    callback: Callable[[MeasuredFile], None] = lambda measured: None,
    log: Callable[[str], None] = lambda line: None,
) -> list[MeasuredFile]:
    """Measure the grains of label images.

    Parameters
    ----------
    paths : sequence of path
        Label images, masks, folders of them, or a folder of results of `segment_folder`.
    out : path, optional
        A table ending in ``.csv`` for the grains of all images; or a folder, new, empty or of an earlier
        call, for ``grains.csv``, ``summary.csv``, the outlines, and of `edits` the corrected ``labels.tif``
        and ``edits.json``.
    truth : path, optional
        True boundaries to score a single image against.
    edits : path, optional
        Edits that are made to a single image first, as the page saved them.
    pixel_size : float, optional
        Micrometres; overrides what the files say.
    lines : {"auto", "bright", "dark"}
        Which value of a mask marks boundaries.
    page : int or "all", optional
        Of files with several, from 0.
    recursive : bool
        Take the folders inside of folders as well.
    largest : int
        Most pixels of an image; larger ones are refused.
    rois, geojson : bool
        Write the outlines of the grains for ImageJ or QuPath; `out` must be a folder.
    overwrite : bool
        Replace a table that is there, or files in the folder that were changed.
    callback : callable
        Gets every result as it comes.
    log : callable
        Gets what is left out of folders, a line for each.

    Returns
    -------
    list of MeasuredFile
        In the order of the files, without their images.

    Raises
    ------
    InputError, OSError
        If there is no image, or `out` would replace an input or what microlab did not write. A file that
        fails raises nothing: its result holds the error.
    """
    files, left_out = find_labels([Path(path) for path in paths], recursive=recursive)
    for note in left_out:
        log(note)
    files, pages = each_page(files, page)
    for option, file, what in (("--truth", truth, "score"), ("--edits", edits, "correct")):
        if file is not None and len(files) > 1:
            raise InputError(f"{option} takes one image to {what}, got {len(files)}; {what} them one by one")
    inputs = [Path(file) for file in (*files, truth, edits) if file is not None]
    outlines = rois or geojson
    if out is None and outlines:
        raise InputError("outlines of grains need a folder: name one for the output (-o FOLDER)")
    table = out if out is not None and _is_table(Path(out), inputs, outlines, overwrite) else None
    folder = Path(out) if out is not None and table is None else None
    made, is_new = (missing(folder), read_mark(folder) is None) if folder else ([], False)
    if folder:
        _claim(folder, inputs, (*TABLES, *(corrections.FILES if edits is not None else ())), overwrite)
    options = Options(rois=rois, geojson=geojson)
    how = {"lines": lines, "largest": largest}
    measured: list[MeasuredFile] = []
    tables: dict[str, pd.DataFrame] = {}
    for file, number, name in zip(files, pages, _names(files, pages)):
        result = _measure(MeasuredFile(file, name, number), truth, edits, pixel_size, how)
        if result.image is not None and folder:
            try:
                place = folder / name
                if outlines or (place.is_dir() and read_mark(place) is not None):
                    _write_outlines(result, options, place, overwrite)
                if edits is not None:
                    corrections.write_corrected(result.image, folder)
            except USER_ERRORS as error:
                result = replace(result, image=None, error=error)
        if result.image is not None:
            tables[name] = result.image.table
        callback(result)
        measured.append(replace(result, image=None))
    if not tables and is_new and folder and other_content(folder) is None:
        unclaim(folder, made)
    elif tables and table is not None:
        write_csv(table, joined(tables))
    elif folder:
        retire(folder, keep=(*TABLES, *(corrections.FILES if edits is not None else ())))
        write_tables(folder, [result.row for result in measured], joined(tables))
    return measured


def find_labels(paths: Sequence[Path], *, recursive: bool = False) -> tuple[list[Path], list[str]]:
    """Label images, and what is left out of folders, a sentence for each.

    Files, those in folders (`microlab.data.formats.find_images`), and of folders of results the
    ``labels.tif`` of every image.
    """
    files: dict[str, Path] = {}
    notes: list[str] = []
    for path in paths:
        places = [path, *sorted(path.iterdir())] if path.is_dir() and read_mark(path) is not None else []
        found = [place / "labels.tif" for place in places if is_result(place)]
        for place in places[1:]:
            mark = read_mark(place) if place.is_dir() else None
            is_image = mark["made_by"] == "image" if mark else (place / "run.json").exists()
            if is_image and not is_result(place):
                notes.append(
                    f"{place}: is left out, it holds no whole result of an image (a file is missing or was "
                    "changed); segment it again"
                )
        if not found:
            found, left_out = find_images([path], recursive=recursive)
            notes += left_out
        for file in found:
            files.setdefault(os.path.realpath(file), file)
    return list(files.values()), notes


def _measure(
    of: MeasuredFile,
    truth: Path | str | None,
    edits: Path | str | None,
    pixel_size: float | None,
    how: dict[str, Any],
) -> MeasuredFile:
    try:
        if edits is None:
            image, notes = measure_file(of.file, pixel_size, page=of.page, **how)
        else:
            where = {"page": of.page, "largest": how["largest"]}
            image = corrections.measure_corrected(of.file, Path(edits), pixel_size, **where)
            notes = [image.doubt] if image.doubt else []
        notes, scores, summary = [f"{of.title}: {note}" for note in notes], None, means(image)
        if truth is not None:
            boundary, more = read_mask(truth, **how)
            if boundary.shape != image.labels.shape:
                raise ImageError(
                    f"{truth} {boundary.shape} and {of.file} {image.labels.shape} differ in size"
                )
            notes += [f"{truth}: {note}" for note in more]
            scores = pd.Series(score(boundary, image.boundary, image.labels))
            summary |= scores.to_dict()
        return replace(of, image=image, summary=summary, scores=scores, notes=tuple(notes))
    except USER_ERRORS as error:
        return replace(of, error=error)


def _write_outlines(of: MeasuredFile, options: Options, folder: Path, overwrite: bool) -> None:
    """Write the outlines of an image into its folder, and remove those of an earlier call."""
    claim(folder, "image", source=os.path.realpath(of.file))
    try:
        if overwrite:
            accept(folder)
        retire(folder, keep=write_outlines(of.image, options, folder))
    finally:
        end_claim(folder)


def _is_table(path: Path, inputs: Sequence[Path], outlines: bool, overwrite: bool) -> bool:
    """Whether the output is a table, not a folder; refuses one that would replace something."""
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise InputError(f"{path}: is an input; name another file, as grains.csv")
    node = path.exists() and not (path.is_file() or path.is_dir())  # a pipe or a device
    if path.is_dir() or not (node or path.suffix.lower() == ".csv" or path.is_file()):
        return False
    if not node and path.suffix.lower() != ".csv":
        raise InputError(f"{path}: is a file, and no table; name a folder, or a table as grains.csv")
    if outlines:
        raise InputError(f"{path}: is a table, and outlines of grains need a folder; name one (-o FOLDER)")
    if path.is_file() and not overwrite:
        raise InputError(f"{path}: is there already; choose another name, or replace it (--overwrite)")
    return True


def _claim(folder: Path, inputs: Sequence[Path], names: Sequence[str], overwrite: bool) -> None:
    """Make the output folder ours, unless files of these names in it are inputs."""
    replaced = {os.path.realpath(folder / name): folder / name for name in names}
    for file in inputs:
        if (path := replaced.get(os.path.realpath(file))) is not None:
            raise InputError(f"{path}: is an input; name another folder for the results")
    claim(folder, "measure")
    if overwrite:
        accept(folder)


def _names(files: Sequence[Path], pages: Sequence[int | None]) -> list[str]:
    """A name for every file: its stem, or the image's of which it is the result, with a number if need be.

    Of a page that was asked for it is ``STEM-pageN``.
    """
    names: list[str] = []
    taken = {*TABLES, *corrections.FILES}
    for file, page in zip(files, pages):
        own = file.name == "labels.tif" and is_result(file.parent)
        stem = file.parent.name if own else file.stem
        stem = safe_name(stem if page is None else f"{stem}-page{page}")
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
