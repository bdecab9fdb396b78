"""Edits of a label image by hand: two grains merged, one split, deleted or added; and their file.

    corrected labels = apply_edits(labels, edits)

An edit names pixels, (row, column), and what to do there. The rules use whole numbers only, so that edits
give the same labels everywhere. ``edits.js`` beside this module is their mirror for a page in the browser; a
test compares the two pixel by pixel.

The new boundary of a split or added grain is drawn as the image draws its others. Where no two grains touch,
boundaries are lines of label 0, and so is the new one. Otherwise grains fill the image, and the new boundary
has no width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import label

from microlab import __version__
from microlab.data.errors import InputError
from microlab.data.files import atomic
from microlab.measure.checks import as_labels

REACH = 8  # px; a boundary line that a merge fills is at most as wide
LEAST_PIECE = 10  # px; what a drawn line cuts off must be as large to become a grain
LARGEST = int(np.iinfo(np.int32).max)
LARGEST_FILE = 20_000_000  # bytes; edits are a few kB
FORMAT = "microlab edits 1"

Pixel = tuple[int, int]
Window = tuple[slice, slice]
Mask = NDArray[np.bool_]


class Edit(NamedTuple):
    """One edit.

    Attributes
    ----------
    do : {"merge", "split", "delete", "add"}
    at : tuple of (row, column)
        Merge: a pixel of each of two grains. Split: two or more corners of a line. Delete: a pixel of the
        grain. Add: three or more corners of an outline, which closes by itself.
    """

    do: str
    at: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Edits:
    """Edits and the label image they belong to: what a file of edits holds.

    Attributes
    ----------
    sha256 : str
        `labels_sha256` of the label image before the edits.
    shape : (int, int)
        Its height and width.
    edits : tuple of Edit
        In the order in which they were made.
    field_of_view : bool
        Whether its pixels of label 0 are no boundary but lie outside of the field of view.
    """

    sha256: str
    shape: tuple[int, int]
    edits: tuple[Edit, ...] = ()
    field_of_view: bool = False

    def apply(self, labels: NDArray[np.integer], name: str = "the label image") -> NDArray[np.int32]:
        """The corrected labels, (H, W) int32.

        Raises
        ------
        InputError
            If the edits belong to another label image than this, which the message calls `name`, or if one
            of them cannot be made.
        """
        own = labels_sha256(labels)
        if own != self.sha256:
            theirs, ours = (f"{w} x {h} px" for h, w in (self.shape, labels.shape))
            raise InputError(
                f"these edits belong to another label image ({theirs}, sha256 {self.sha256[:12]}...) than "
                f"{name} ({ours}, sha256 {own[:12]}...); give the labels.tif that they were made on"
            )
        return apply_edits(labels, self.edits, field_of_view=self.field_of_view)


def labels_sha256(labels: NDArray[np.integer]) -> str:
    """Hexadecimal SHA-256 of a label image: of the line ``height width`` and its pixels as int32.

    It depends on the labels alone, not on the file that holds them.
    """
    height, width = labels.shape
    digest = hashlib.sha256(f"{height} {width}\n".encode())
    digest.update(np.ascontiguousarray(labels, "<i4").data)
    return digest.hexdigest()


def apply_edits(
    labels: ArrayLike, edits: Sequence[Edit], *, field_of_view: bool = False
) -> NDArray[np.int32]:
    """Make edits to a label image, one after the other.

    merge
        Both grains get the number of the first. If they are not connected (through edges of pixels), the
        line of label 0 between them is filled: the pixels that both grains come within `REACH` px of
        (chessboard distance), and no other grain as near (city block) as the farther of the two. They must
        be connected then.
    split
        Of the grains that the line meets, the one with the most pixels of it is cut. Its pieces are the
        regions, connected through edges of pixels, that the line leaves. The largest keeps the number, the
        others get new ones, larger first. The line, and pieces of less than `LEAST_PIECE` px, become 0
        where boundaries are lines; otherwise they go to the pieces beside them.
    delete
        The grain's pixels become 0.
    add
        What the outline encloses becomes a grain, whatever was there, the outline itself included unless
        boundaries are lines: then it becomes 0. Grains that are cut in pieces by it are numbered as by a
        split, and pieces of less than `LEAST_PIECE` px go to the new grain (where boundaries are lines: 0).

    A line from pixel to pixel is one pixel wide and connects through corners. New numbers count up from the
    largest label of the image; no number is used twice.

    Parameters
    ----------
    labels : (H, W) int
        0 on boundaries or nowhere, grains above 0. It is not changed.
    edits : sequence of Edit
    field_of_view : bool
        Whether pixels of label 0 lie outside of the field of view. Then they stay 0.

    Returns
    -------
    (H, W) int32

    Raises
    ------
    ValueError
        If `labels` is no label image.
    InputError
        If an edit cannot be made; its number in the sequence is named, the first being 1.
    """
    labels = as_labels(labels, "labels")
    if labels.ndim != 2 or labels.size == 0 or labels.max() > LARGEST:
        raise ValueError(f"labels must be (H, W) with numbers up to {LARGEST}, got shape {labels.shape}")
    image = _Image(
        labels.astype(np.int32),  # a copy
        labels > 0 if field_of_view else np.ones(labels.shape, bool),
        not _grains_touch(labels),
        int(labels.max()),
    )
    for number, edit in enumerate(edits, start=1):
        try:
            _check(edit, labels.shape)
            RULES[edit.do](image, edit.at)
        except InputError as error:
            raise InputError(f"edit {number}: {error}") from None
    return image.labels


def read_edits(path: str | os.PathLike) -> Edits:
    """Read a file of edits, as the report's page saves it.

    Raises
    ------
    InputError, OSError
        With the name of the file and what is wrong.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file of edits; give the edits.json that the report saved")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path}: has {path.stat().st_size:,} bytes; a file of edits has a few thousand")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is no file of edits; give the edits.json that the report saved") from None
    try:
        return _parsed(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}; save the edits again") from None


def write_edits(path: str | os.PathLike, edits: Edits, *, name: str = "") -> Path:
    """Write a file of edits, one edit on a line; `name` is that of the image, for people.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    head = {"format": FORMAT, "microlab": __version__, "image": name, "sha256": edits.sha256}
    head |= {"shape": list(edits.shape), "field_of_view": edits.field_of_view}
    rows = [json.dumps({"do": edit.do, "at": [list(p) for p in edit.at]}) for edit in edits.edits]
    body = "[\n  " + ",\n  ".join(rows) + "\n ]" if rows else "[]"
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    with atomic(path) as partial:
        text = "{\n" + ",\n".join([*lines, f' "edits": {body}']) + "\n}\n"
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def _parsed(stored: Any) -> Edits:
    """The content of a file of edits, checked."""
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise InputError(f"is no file of edits with the format {FORMAT!r}")
    sha, shape, field = stored.get("sha256"), stored.get("shape"), stored.get("field_of_view")
    if not (isinstance(sha, str) and len(sha) == 64):
        raise InputError("sha256 must be 64 hexadecimal digits")
    if not (_is_whole(shape, 2) and min(shape) > 0):
        raise InputError("shape must be two whole numbers")
    if not isinstance(field, bool):
        raise InputError("field_of_view must be true or false")
    rows = stored.get("edits")
    if not isinstance(rows, list):
        raise InputError("edits must be a list")
    edits = []
    for number, row in enumerate(rows, start=1):
        at = row.get("at") if isinstance(row, dict) else None
        if not (isinstance(at, list) and all(_is_whole(pixel, 2) for pixel in at)):
            raise InputError(f"edit {number}: at must be a list of pixels, [row, column]")
        edit = Edit(str(row.get("do")), tuple((p[0], p[1]) for p in at))
        try:
            _check(edit, (shape[0], shape[1]))
        except InputError as error:
            raise InputError(f"edit {number}: {error}") from None
        edits.append(edit)
    return Edits(sha, (shape[0], shape[1]), tuple(edits), field)


def _is_whole(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(v) is int for v in value)


@dataclass
class _Image:
    """A label image while it is edited."""

    labels: NDArray[np.int32]
    field: Mask  # outside of it nothing changes
    lines: bool  # boundaries are lines of label 0
    largest: int  # the largest number that was ever used

    def new_number(self) -> int:
        if self.largest == LARGEST:
            raise InputError(f"no number is left above label {LARGEST}; renumber the grains first")
        self.largest += 1
        return self.largest

    def grain(self, pixel: Pixel) -> int:
        number = int(self.labels[pixel])
        if number == 0:
            raise InputError("there is no grain at row {}, column {}".format(*pixel))
        return number


def _check(edit: Edit, shape: tuple[int, int]) -> None:
    counts = {"merge": (2, 2), "split": (2, None), "delete": (1, 1), "add": (3, None)}
    if edit.do not in counts:
        raise InputError(f"{edit.do!r} is none of {', '.join(counts)}")
    least, most = counts[edit.do]
    if len(edit.at) < least or (most and len(edit.at) > most):
        raise InputError(f"{edit.do} takes {least}{'' if most else ' or more'} pixels, got {len(edit.at)}")
    for y, x in edit.at:
        if not (0 <= y < shape[0] and 0 <= x < shape[1]):
            raise InputError(f"row {y}, column {x} lies outside of the image")


def _merge(image: _Image, at: Sequence[Pixel]) -> None:
    first, second = (image.grain(pixel) for pixel in at)
    if first == second:
        raise InputError(f"both pixels lie in grain {first}; a merge needs two grains")
    window = _window((image.labels == first) | (image.labels == second), 2 * REACH)
    labels = image.labels[window]
    one, two = labels == first, labels == second
    merged = one | two
    places = [(y - window[0].start, x - window[1].start) for y, x in at]
    if not _connected(merged, places):
        farther = np.maximum(_distance(one, "chessboard"), _distance(two, "chessboard"))
        others = _distance((labels > 0) & ~merged, "taxicab")
        merged |= (labels == 0) & image.field[window] & (farther <= REACH) & (farther < others)
        if not _connected(merged, places):
            raise InputError(f"grains {first} and {second} share no boundary")
    labels[merged] = first


def _split(image: _Image, at: Sequence[Pixel]) -> None:
    line = _path(at)
    numbers, counts = np.unique(image.labels[line], return_counts=True)
    numbers, counts = numbers[numbers > 0], counts[numbers > 0]
    if not len(numbers):
        raise InputError("the line meets no grain")
    grain = int(numbers[counts.argmax()])  # the smaller number of several
    window = _window(image.labels == grain)
    labels = image.labels[window]
    whole = labels == grain
    cut = np.zeros(image.labels.shape, bool)
    cut[line] = True
    pieces = _pieces(whole & ~cut[window])
    if len(pieces) < 2:
        raise InputError(f"the line does not cut grain {grain} in two; draw it from boundary to boundary")
    for piece in pieces[1:]:
        labels[piece] = image.new_number()
    kept = np.logical_or.reduce(pieces)
    if image.lines:
        labels[whole & ~kept] = 0
    else:
        _spread(labels, whole & ~kept, kept)


def _delete(image: _Image, at: Sequence[Pixel]) -> None:
    image.labels[image.labels == image.grain(at[0])] = 0


def _add(image: _Image, at: Sequence[Pixel]) -> None:
    outline = np.zeros(image.labels.shape, bool)
    outline[_path([*at, at[0]])] = True
    window = _window(outline)
    edge, field = outline[window], image.field[window]
    inside = _inside(at, window)
    pieces = _pieces((inside & ~edge if image.lines else inside | edge) & field)
    if not pieces:
        raise InputError(f"the outline encloses less than {LEAST_PIECE} pixels")
    labels = image.labels[window]
    taken = pieces[0] | (edge & field) if image.lines else pieces[0]
    cut = [int(number) for number in np.unique(labels[taken]) if number > 0]
    labels[taken] = 0
    new = image.new_number()
    labels[pieces[0]] = new
    for grain in cut:
        whole = image.labels == grain
        if not whole.any():
            continue
        window = _window(whole, 1)
        labels, whole = image.labels[window], whole[window]
        pieces = _pieces(whole)
        for piece in pieces[1:]:
            labels[piece] = image.new_number()
        slivers = whole & ~np.logical_or.reduce([*pieces, np.zeros_like(whole)])
        if image.lines:
            labels[slivers] = 0
        else:
            _spread(labels, slivers, labels == new)


RULES: dict[str, Callable[[_Image, Sequence[Pixel]], None]] = {
    "merge": _merge,
    "split": _split,
    "delete": _delete,
    "add": _add,
}


def _grains_touch(labels: NDArray[np.integer]) -> bool:
    """Whether two grains anywhere share an edge of a pixel, without a line of label 0 between them."""
    return any(
        ((one != other) & (one > 0) & (other > 0)).any()
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    )


def _window(mask: Mask, margin: int = 0) -> Window:
    """The smallest window that holds all of `mask`, wider by `margin` where the image allows."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, mask.shape))


def _connected(mask: Mask, places: Sequence[Pixel]) -> bool:
    """Whether two pixels of `mask` are connected through edges of pixels."""
    regions = label(mask, connectivity=1)
    return regions[places[0]] == regions[places[1]]


def _distance(mask: Mask, metric: str) -> NDArray[np.integer]:
    """Pixels from the nearest one of `mask`; very far if it has none."""
    if not mask.any():
        return np.full(mask.shape, LARGEST)
    return ndimage.distance_transform_cdt(~mask, metric)


def _path(at: Sequence[Pixel]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels on the straight lines from each corner to the next, each pixel once.

    Step k of n goes to ``start + k (end - start) / n``, halves rounded away from the start.
    """
    pixels = {at[0]}
    for (y0, x0), (y1, x1) in pairwise(at):
        steps = max(abs(y1 - y0), abs(x1 - x0))
        for k in range(steps + 1 if steps else 0):
            pixels.add((y0 + _part(k, y1 - y0, steps), x0 + _part(k, x1 - x0, steps)))
    rows, columns = np.array(sorted(pixels), np.intp).T
    return rows, columns


def _part(k: int, length: int, steps: int) -> int:
    """``k length / steps``, rounded to the nearest whole number, halves away from 0."""
    part = (2 * k * abs(length) + steps) // (2 * steps)
    return part if length > 0 else -part


def _inside(at: Sequence[Pixel], window: Window) -> Mask:
    """Pixels of the window whose centre lies inside of the closed outline, by the even-odd rule."""
    y, x = np.ogrid[window]
    inside = np.zeros((y.size, x.size), bool)
    for (y0, x0), (y1, x1) in zip(at, [*at[1:], at[0]]):
        if y0 > y1:
            y0, x0, y1, x1 = y1, x1, y0, x0
        inside ^= (y0 <= y) & (y < y1) & ((x - x0) * (y1 - y0) < (y - y0) * (x1 - x0))
    return inside


def _pieces(mask: Mask) -> list[Mask]:
    """Regions of at least `LEAST_PIECE` px, connected through edges of pixels, the largest first.

    Of equal ones the one whose first pixel comes first, row by row.
    """
    regions = label(mask, connectivity=1)
    numbers, first, sizes = np.unique(regions, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    return [regions == numbers[k] for k in order if numbers[k] and sizes[k] >= LEAST_PIECE]


def _spread(labels: NDArray[np.int32], todo: Mask, sources: Mask) -> None:
    """Give the pixels of `todo` to the grains of `sources` beside them, round by round.

    In a round, every pixel that shares an edge with a source, or with a pixel given before, gets the smallest
    number beside it. What is reached in no round keeps its own.
    """
    none = np.iinfo(np.int64).max
    known = np.where(sources, labels.astype(np.int64), none)
    todo = todo.copy()
    while True:
        wide = np.pad(known, 1, constant_values=none)
        beside = np.minimum.reduce([wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]])
        reached = todo & (beside < none)
        if not reached.any():
            return
        known[reached] = beside[reached]
        labels[reached] = beside[reached]
        todo &= ~reached
