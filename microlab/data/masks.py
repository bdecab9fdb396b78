"""Label images and masks from any program, read the same way wherever one is expected.

    two values: a mask, whose thin side is the boundary        more: labels, 0 on boundaries, grains 1..n

Which value means what differs between programs, so a mask is understood by its structure, and what was
understood is said. What cannot be told is refused with the remedy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.measure import label

from microlab.data.errors import ImageError
from microlab.data.formats import LARGEST, read_numbers
from microlab.data.images import whole_numbers
from microlab.data.pixel_size import Size
from microlab.measure.labels import boundaries, components

LEAST_SIDE = 3  # px, of a label image
LINES = ("auto", "bright", "dark")
WINDOW = 4096  # px, side of the middle of a large mask whose structure is looked at
CONVENTION = (0, 255)  # in a mask of these values the larger marks boundaries, unless its structure differs
LINE = 6.0  # length over width of half a side's pixels from which on its regions are pieces of lines
THINNER = 1.3  # ratio of the median depths of two sides from which on one counts as the thin one
MOST_PIECES = 3  # times the labels; a picture has far more
STRAY = 0.1  # of a grain's largest piece; smaller pieces are left out
SPECK = 10  # px; smaller regions of a mask may be specks


@dataclass(frozen=True, eq=False)
class LabelImage:
    """A label image or a mask as grains and boundaries.

    Attributes
    ----------
    labels : (H, W) int32
        0 on boundaries, grains from 1.
    boundary : (H, W) bool
        True on boundaries.
    size : Size or None
        Pixel size, if the file knows it.
    notes : tuple of str
        How the file was understood, and what may be wrong with it.
    """

    labels: np.ndarray
    boundary: np.ndarray
    size: Size | None = None
    notes: tuple[str, ...] = ()


def read_label_image(
    path: str | os.PathLike, *, lines: str = "auto", page: int | None = None, largest: int = LARGEST
) -> LabelImage:
    """Read a label image, or a mask of two values, as grains and boundaries.

    Of a mask, 0 and 255, 0 and 1, 1 bit, two colours or any two numbers, one value marks the boundaries: the
    one whose regions are thin and few (`boundary_vote`). The grains are the connected regions of the other,
    of any size. A label that lies in several pieces is split: pieces of a tenth of the largest or more become
    grains of their own, smaller ones are left out.

    Parameters
    ----------
    path : path
        PNG, TIFF, BMP, GIF or lossless WebP; of a palette file the indices count.
    lines : {"auto", "bright", "dark"}
        Which value of a mask marks boundaries: found, the larger one or the smaller one.
    page : int, optional
        As in `images.read_image`.
    largest : int
        Most pixels that are read.

    Raises
    ------
    ImageError
        If the file cannot be read, is a JPEG or a colour picture, holds one value only or values that are no
        labels, or is a mask whose boundaries cannot be told.
    """
    path = Path(path)
    values, size, notes = read_numbers(path, page, two_colours=True, largest=largest)
    if min(values.shape) < LEAST_SIDE:
        raise ImageError(
            f"{path}: has {values.shape[1]} x {values.shape[0]} pixels; a label image needs at least "
            f"{LEAST_SIDE} on each side"
        )
    found = np.unique(values)
    if found.size == 1:
        if values.dtype == bool or found[0] != 1:  # one grain over all of the image has number 1
            raise ImageError(f"{path}: has the value {found[0]:g} everywhere: no grain; check the export")
        labels = whole_numbers(values, path)
        return LabelImage(labels, boundaries(labels), size, notes)
    if found.size == 2 and not (
        found[0] > 0 and label(values == found[0]).max() == label(values == found[1]).max() == 1
    ):
        boundary, note = _boundary(values, found, lines, path)
        labels = components(boundary)
        if not labels.any():
            raise ImageError(f"{path}: holds no grain, only boundaries; check the export")
        specks = int((np.bincount(labels.ravel())[1:] < SPECK).sum())
        more = [note] if note else []
        if specks:
            more.append(
                f"{specks} of the {labels.max()} regions have fewer than {SPECK} pixels, and are counted"
            )
        return LabelImage(labels, boundary, size, (*notes, *more))
    labels, note = _in_one_piece(whole_numbers(values, path), path)
    return LabelImage(labels, boundaries(labels), size, (*notes, *([note] if note else [])))


def read_mask(
    path: str | os.PathLike, *, lines: str = "auto", largest: int = LARGEST
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The boundaries of a mask or a label image, (H, W) bool, and how it was understood.

    A mask of zeros has none.

    Raises
    ------
    ImageError
        As `read_label_image`.
    """
    values, _, notes = read_numbers(path, two_colours=True, largest=largest)
    if not values.any():
        return np.zeros(values.shape, bool), notes
    image = read_label_image(path, lines=lines, largest=largest)
    return image.boundary, image.notes


def boundary_vote(larger: np.ndarray) -> int:
    """How surely the larger value of a mask marks the boundaries, by the structure of its two sides.

    Grains are many regions apart from each other, and thick; boundaries are thin, and hang together. Regions
    of grains connect through edges of pixels, those of boundaries through corners as well.

    Parameters
    ----------
    larger : (H, W) bool
        True where the mask has its larger value.

    Returns
    -------
    int in -2..2
        2 if number and thickness of the regions say so, -2 if both say that the smaller value does, 0 if it
        cannot be told.
    """
    middle = tuple(slice(max(0, (n - WINDOW) // 2), (n + WINDOW) // 2) for n in larger.shape)
    if 0 < larger[middle].mean() < 1:
        larger = larger[middle]
    depths = [ndimage.distance_transform_edt(side) for side in (larger, ~larger)]
    median = [float(np.median(depth[depth > 0])) for depth in depths]
    by_depth = int(median[1] >= THINNER * median[0]) - int(median[0] >= THINNER * median[1])
    return by_depth + _more_grains(~larger, depths[1]) - _more_grains(larger, depths[0])


def _more_grains(grains: np.ndarray, depth: np.ndarray) -> int:
    """Whether one side has more regions as grains than the other has as lines, and they are no lines."""
    regions, number = label(grains, connectivity=1, return_num=True)
    if number <= label(~grains, connectivity=2).max():
        return 0
    area = np.bincount(regions.ravel())[1:]
    deepest = ndimage.maximum(depth, regions, np.arange(1, number + 1))
    spans = [np.hypot(y.stop - y.start, x.stop - x.start) for y, x in ndimage.find_objects(regions)]
    longest = np.asarray(spans) / (2 * deepest)
    order = np.argsort(longest)
    typical = longest[order][np.searchsorted(np.cumsum(area[order]), area.sum() / 2)]
    return int(typical < LINE)


def _boundary(values: np.ndarray, found: np.ndarray, lines: str, path: Path) -> tuple[np.ndarray, str]:
    """The boundaries of a mask, (H, W) bool, and what is to be said about them."""
    if lines not in LINES:
        raise ImageError(f"{path}: lines must be one of {', '.join(LINES)}, got {lines!r}")
    larger = values == found[1]
    small, large = (f"{float(value):g}" for value in found)
    what = f"is a mask of the values {small} and {large}"
    if lines != "auto":
        return larger == (lines == "bright"), ""
    vote = boundary_vote(larger)
    usual = tuple(found) == CONVENTION
    if usual and -2 < vote < 1:  # two signs are needed against the usual form
        which = f"{what}, and its structure does not show which is the boundary: {large} is taken as such"
        return larger, f"{which}; --lines dark takes the other"
    if vote == 0:
        raise ImageError(
            f"{path}: {what}, and which of them marks the boundaries cannot be told; say it, --lines bright "
            "(the larger) or dark"
        )
    side = vote > 0
    if side and usual:
        return larger, ""
    other = "dark" if side else "bright"
    name = large if side else small
    which = f"{what}: by its structure {name} is the boundary"
    return larger == side, f"{which}; --lines {other} takes the other"


def _as_lines(labels: np.ndarray) -> int | None:
    """The label of a label image without 0 that marks the boundaries, if one does."""
    areas = np.bincount(labels.ravel()) if labels.max() < labels.size else np.zeros(0, int)
    for name in np.argsort(-areas)[:3].tolist():
        if areas[name] and boundary_vote(labels == name) == 2:
            return name
    return None


def _in_one_piece(labels: np.ndarray, path: Path) -> tuple[np.ndarray, str]:
    """Labels of which each is one region, and what had to be done for it."""
    pieces, number = label(labels, connectivity=2, background=0, return_num=True)
    area = np.bincount(pieces.ravel(), minlength=number + 1)
    owner = np.zeros(number + 1, np.int64)
    owner[pieces] = labels
    owner[0] = 0
    names, index = np.unique(owner[1:], return_inverse=True)
    several = names[np.bincount(index) > 1]
    torn = number > MOST_PIECES * len(names) and number > len(names) + 20
    if torn or (len(several) > 0.3 * len(names) and np.median(area[1:]) < 4):  # noise, or a picture
        raise ImageError(
            f"{path}: its {len(names)} values lie in {number} pieces: it is a picture, a smoothed mask or a "
            "map of classes, not labels; give each grain its number, or a mask of two values, not smoothed"
        )
    if len(names) <= 3 and label(labels == 0, connectivity=2).max() > MOST_PIECES * number + 5:
        raise ImageError(
            f"{path}: its values {', '.join(map(str, names))} lie between many regions of 0, which seem to "
            "be the grains; give each grain its number, or a mask of two values"
        )
    if 0 not in labels and len(names) > 3 and (lines := _as_lines(labels)) is not None:
        raise ImageError(
            f"{path}: label {lines} forms the lines between the others; boundaries are 0, number them so"
        )
    if number == len(names):
        return labels, ""
    largest = np.zeros(len(names), np.int64)
    np.maximum.at(largest, index, area[1:])
    order = np.lexsort((-area[1:], index))  # the largest piece of each label first
    main = np.zeros(number, bool)
    main[order[np.r_[True, np.diff(index[order]) > 0]]] = True
    stray = ~main & (area[1:] < STRAY * largest[index])
    apart = ~main & ~stray
    value = np.where(stray, 0, owner[1:])
    value[apart] = names.max() + 1 + np.arange(apart.sum())
    shown = ", ".join(map(str, several[:5])) + (f" and {len(several) - 5} more" if len(several) > 5 else "")
    note = f"label{'s' if len(several) > 1 else ''} {shown} in several pieces: "
    parts = []
    if apart.any():
        parts.append(f"{apart.sum()} became grains of their own, numbered from {names.max() + 1}")
    if stray.any():
        parts.append(
            f"{stray.sum()} of fewer than a tenth of the grain's pixels ({area[1:][stray].sum()} px in all) "
            "were left out"
        )
    return np.r_[0, value].astype(np.int32)[pieces], note + ", ".join(parts)
