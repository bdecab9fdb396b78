"""Grain sizes and shapes from a label image, in pixels and micrometres.

    d = 2 sqrt(A / pi),     circularity = 4 pi A / P^2,     weight = W H / ((W - w - 1) (H - h - 1))

A grain is its labelled pixels: boundary pixels (label 0) belong to no grain, so a boundary w px wide makes
every grain about w px smaller across. :func:`close_boundaries` hands them to the nearest grain first.
Grains cut by the frame are only parts, and large grains are cut more often than small ones. The default of
:func:`summarise` leaves them out and weighs the others by the inverse of their chance of being whole.
ASTM E112 grain size numbers are in :mod:`microlab.measure.grain_size` and available from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects
from scipy.special import stdtrit
from skimage.measure import regionprops_table
from skimage.segmentation import expand_labels

from microlab.measure.checks import as_labels
from microlab.measure.labels import neighbour_pairs
from microlab.measure.two_sample import (
    effective_number,
    percentile_interval,
    resampled_means,
    weighted_quantiles,
)

OUTSIDE = -1  # in a closed label image: not in the field of view

# Weights of Crofton's formula in four directions, by the pixels of a window of 2 x 2 that a grain holds
# (skimage.measure.perimeter_crofton).
_A, _B = np.pi / 4, np.pi / (4 * np.sqrt(2))
CROFTON = np.array([0, _A + _B, _B, 2 * _B, 0, _A + _B, 0, _B, _A, 2 * _A, _B, _B, _A, 2 * _A, 0, 0])


def grain_table(
    labels: ArrayLike,
    pixel_size: float | None = None,
    *,
    reach: float = 8.0,
    min_contact: int = 2,
    block: int | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """One row per grain: size, shape, neighbours and whether the frame cuts it.

    The weight is eq. 2 of chapter 09 (grains-weight).

    Parameters
    ----------
    labels : (H, W) int
        0 on boundaries, grains above 0. Not periodic: a grain that leaves at one side and enters at the other
        must carry two labels (``skimage.measure.label`` gives them).
    pixel_size : float or None
        Micrometres per pixel. None leaves the columns in micrometres NaN.
    reach, min_contact
        How `sides` are counted, see :func:`close_boundaries` and :func:`neighbours`.
    block : int, optional
        Side, px, of blocks over which the pixels are summed, for label images larger than the memory. The
        numbers are the same up to rounding. By default the image is measured whole.
    valid : (H, W) bool, optional
        Field of view: True where the image shows the specimen. Its edge cuts grains as the frame does. By
        default it is the whole image.

    Returns
    -------
    DataFrame with columns

    ``label``
        The grain's value in `labels`.
    ``area_px``, ``area_um2``
        Number of pixels, and the area they cover.
    ``diameter_px``, ``diameter_um``
        Equivalent circle diameter, of the circle with the same area.
    ``perimeter_px``, ``perimeter_um``
        Crofton's formula in four directions. On digital discs, squares and hexagons of radius 10 px or more
        its mean over orientations is right within 2.1 %; following the outline's pixels errs by up to 4.4 %.
        Straight outlines along rows, columns or diagonals come out up to 5 % short.
    ``circularity``
        ``4 pi A / P^2``: 1 for a circle, 0.785 for a square. Grains of a few pixels may exceed 1.
    ``aspect_ratio``
        Major over minor axis of the ellipse with the same second moments, >= 1; a pixel counts as a unit
        square, so that a line of n pixels has aspect ratio n.
    ``orientation_deg``
        Direction of the major axis in [0, 180), counterclockwise from the image's x axis.
    ``sides``
        Number of neighbouring grains. Too small for grains that touch the frame.
    ``touches_edge``
        True if the grain, or the boundary pixels nearest to it, lie on the frame or at the edge of the field
        of view: a grain is known to be whole only if its outer boundary is visible.
    ``edge_weight``
        Miles-Lantuejoul weight, 0 for grains that touch the frame: see :func:`summarise`.
    ``centroid_y_px``, ``centroid_x_px``

    Raises
    ------
    ValueError
        If `labels` is not a 2-D label image, `pixel_size` is not positive, or `valid` has another shape.
    """
    labels = _label_image(labels)
    if valid is not None and np.shape(valid) != labels.shape:
        raise ValueError(f"valid must have the shape of labels, {labels.shape}, got {np.shape(valid)}")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size must be a positive number of micrometres per pixel, got {pixel_size}")
    um = float("nan") if pixel_size is None else float(pixel_size)
    height, width = labels.shape
    region = _whole(labels, reach, valid) if block is None else _summed(labels, reach, block, valid)
    area, perimeter = region["area"].astype(float), region["perimeter_crofton"]
    # skimage's moments take pixels for points; a unit square adds 1/12 to each, 16/12 to a squared axis
    major, minor = (np.sqrt(region[f"axis_{a}_length"] ** 2 + 4 / 3) for a in ("major", "minor"))
    top, left, bottom, right = region["box"]
    touches_edge = (top == 0) | (left == 0) | (bottom == height) | (right == width)
    pairs, contact = region["contacts"]
    touches_edge |= np.isin(region["label"], pairs[pairs[:, 0] == OUTSIDE, 1])
    with np.errstate(divide="ignore"):  # a grain from frame to frame touches it
        if valid is None or np.all(valid):
            placements = (width - (right - left) - 1.0) * (height - (bottom - top) - 1.0)
            weight = np.where(touches_edge, 0.0, width * height / placements)
        else:
            weight = _weights_in(valid, bottom - top, right - left, touches_edge)
    pairs = pairs[(pairs[:, 0] > 0) & (contact >= min_contact)]
    sides = pd.Series(pairs.ravel()).value_counts().reindex(region["label"], fill_value=0)
    return pd.DataFrame(
        {
            "label": region["label"],
            "area_px": area,
            "area_um2": area * um**2,
            "diameter_px": 2 * np.sqrt(area / np.pi),
            "diameter_um": 2 * np.sqrt(area / np.pi) * um,
            "perimeter_px": perimeter,
            "perimeter_um": perimeter * um,
            "circularity": 4 * np.pi * area / perimeter**2,
            "aspect_ratio": major / minor,
            "orientation_deg": (np.degrees(region["orientation"]) + 90) % 180,
            "sides": sides.to_numpy(),
            "touches_edge": touches_edge,
            "edge_weight": weight,
            "centroid_y_px": region["centroid-0"],
            "centroid_x_px": region["centroid-1"],
        }
    )


def close_boundaries(labels: ArrayLike, reach: float = 8.0) -> NDArray[np.integer]:
    """Label image in which boundary pixels within `reach` px of a grain belong to the nearest grain.

    This bridges boundaries up to about ``2 reach`` wide. Pixels farther off stay 0: they are no boundary but
    an area without grains.
    """
    if not reach >= 0:
        raise ValueError(f"reach must be a number of pixels >= 0, got {reach}")
    return expand_labels(_label_image(labels), distance=reach)


def neighbours(
    closed: NDArray[np.integer], min_contact: int = 2
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Pairs of grains that share a boundary of at least `min_contact` pixel edges.

    Shorter contacts are below what pixels resolve: with 1 every quadruple point becomes a contact (a grid of
    squares gets 5 to 6 sides each), with 3 it stays a point (4 sides) and the shortest true sides are lost.

    Parameters
    ----------
    closed : (H, W) int >= 0
        Label image from :func:`close_boundaries`; 0 is no grain.
    min_contact : int

    Returns
    -------
    pairs : (M, 2) int, labels of neighbours, the smaller first
    contact : (M,) int, number of pixel edges they share
    """
    pairs, contact = neighbour_pairs(closed)
    kept = (pairs[:, 0] > 0) & (contact >= min_contact)
    return pairs[kept], contact[kept]


def counted_grains(table: pd.DataFrame, edge: str) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Rows of a grain table that count, and their weights, by the rules of :func:`summarise` for `edge`."""
    if edge not in ("weighted", "exclude", "keep"):
        raise ValueError(f'edge must be "weighted", "exclude" or "keep", got {edge!r}')
    table = table if edge == "keep" else table[~table["touches_edge"].astype(bool)]
    return table, table["edge_weight"].to_numpy(float) if edge == "weighted" else np.ones(len(table))


def summarise(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    edge: str = "weighted",
    interval: str = "bootstrap",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Distribution summaries of a grain table, with a confidence interval of the mean.

    Parameters
    ----------
    table : DataFrame from :func:`grain_table`; rows of several images may be concatenated
    columns : sequence of str or None
        Quantities to summarise. None: areas, diameters, perimeters and shapes, in micrometres if known.
    edge : {"weighted", "exclude", "keep"}
        Grains cut by the frame. "weighted" leaves them out and weighs each whole grain by the inverse of
        the chance that a grain with its bounding box w x h lies whole in a W x H image (Miles-Lantuejoul),
        which corrects for large grains being cut more often. "exclude" leaves them out without weights,
        which favours small grains. "keep" counts the parts as if they were grains.
    interval : {"bootstrap", "t"}
        Percentile bootstrap over grains, or Student's t with Kish's effective number of grains. Both take
        grains as independent.
    confidence : float in (0, 1)
    resamples : int
        Bootstrap resamples.
    seed : int or Generator

    Returns
    -------
    DataFrame indexed by quantity, with ``count`` (grains used), ``mean``, ``mean_low``, ``mean_high``,
    ``std`` (n - 1), ``p10``, ``p25``, ``median``, ``p75``, ``p90`` and ``area_weighted_mean`` (the mean seen
    by a random point of the sample). Values that are NaN are left out. Without grains all are
    NaN; with one grain the spread and the interval are.

    References
    ----------
    Serra, "Image Analysis and Mathematical Morphology", 1982, on the correction by Miles and Lantuejoul.
    """
    if interval not in ("bootstrap", "t"):
        raise ValueError(f'interval must be "bootstrap" or "t", got {interval!r}')
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if columns is None:
        unit = ("um", "um2") if table["area_um2"].notna().any() else ("px", "px")
        columns = [f"area_{unit[1]}", f"diameter_{unit[0]}", f"perimeter_{unit[0]}"]
        columns += ["circularity", "aspect_ratio", "sides"]
    unknown = [c for c in columns if c not in table]
    if unknown:
        raise ValueError(f"columns {unknown} are not in the table, which has {list(table.columns)}")
    rng = np.random.default_rng(seed)
    used, weights = counted_grains(table, edge)
    rows = {}
    for column in columns:
        values = used[column].to_numpy(dtype=float)
        finite = ~np.isnan(values)
        x, w, area = values[finite], weights[finite], used["area_px"].to_numpy()[finite]
        rows[column] = _summary(x, w, area, interval, confidence, resamples, rng)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")


def _summary(
    x: NDArray[np.float64],
    w: NDArray[np.float64],
    area: NDArray[np.float64],
    interval: str,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    nan = float("nan")
    names = ("count", "mean", "mean_low", "mean_high", "std", "p10", "p25", "median", "p75", "p90")
    row = dict.fromkeys((*names, "area_weighted_mean"), nan) | {"count": len(x)}
    if not len(x):
        return row
    mean = float(np.average(x, weights=w))
    quantiles = weighted_quantiles(x, w, (0.1, 0.25, 0.5, 0.75, 0.9))
    row |= dict(zip(("p10", "p25", "median", "p75", "p90"), quantiles.tolist()))
    row |= {"mean": mean, "area_weighted_mean": float(np.average(x, weights=w * area))}
    if len(x) == 1:
        return row
    effective = effective_number(w)
    row["std"] = float(np.sqrt(np.average((x - mean) ** 2, weights=w) * effective / (effective - 1)))
    if interval == "t":
        half = stdtrit(effective - 1, (1 + confidence) / 2) * row["std"] / np.sqrt(effective)
        low, high = mean - half, mean + half
    else:
        low, high = percentile_interval(resampled_means(x, w, resamples, rng), confidence)
    return row | {"mean_low": float(low), "mean_high": float(high)}


def _weights_in(
    valid: NDArray[np.bool_],
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    cut: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Miles-Lantuejoul weights in a field of view: its area over that of the places where a box fits whole.

    Where a grain is whole but its box fits nowhere the weight is that of a single place. Large fields are
    looked at in steps of several pixels.
    """
    step = max(1, round(max(valid.shape) / 512))
    sums = np.pad(~valid[::step, ::step], ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    area = float(np.count_nonzero(valid[::step, ::step]))
    weights = np.zeros(len(cut))
    for k in np.flatnonzero(~cut):
        h, w = -(-(heights[k] + 2) // step), -(-(widths[k] + 2) // step)
        outside = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
        weights[k] = area / max(np.count_nonzero(outside == 0), 1)
    return weights


def _whole(labels: NDArray[np.integer], reach: float, valid: NDArray[np.bool_] | None) -> dict[str, Any]:
    """What `grain_table` derives its columns from, by regionprops.

    Returns
    -------
    dict
        Properties as regionprops names them; ``box``, (4, n) int, the first and past the last row and column
        of the closed grain; ``contacts``, pairs of touching labels of the closed image, `OUTSIDE` for what is
        not in the field of view, and their pixel edges.
    """
    properties = (
        "label",
        "area",
        "perimeter_crofton",
        "axis_major_length",
        "axis_minor_length",
        "orientation",
    )
    region = regionprops_table(labels, properties=(*properties, "centroid"))
    closed = close_boundaries(labels, reach)
    if valid is not None:
        closed = np.where(valid, closed, OUTSIDE)
    box = find_objects(np.maximum(closed, 0))
    ends = [[(s.start, s.stop) for s in box[i - 1]] for i in region["label"]]
    (top, bottom), (left, right) = np.array(ends, dtype=int).reshape(-1, 2, 2).transpose(1, 2, 0)
    return region | {"box": np.array([top, left, bottom, right]), "contacts": neighbour_pairs(closed)}


def _summed(
    labels: NDArray[np.integer], reach: float, block: int, valid: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """As `_whole`, by sums over the pixels of blocks, and by the least and the largest place."""
    height, width = labels.shape
    n = int(labels.max()) + 1
    sums = np.zeros((6, n))  # of 1, y, x, y y, x x, x y: whole numbers below 2^53, so they are exact
    squares = np.zeros((n, 16), np.int64)  # windows of 2 x 2 pixels by which of their pixels the grain holds
    box = np.array([[height], [width], [0], [0]]).repeat(n, 1)
    keys, edges = [], []
    margin = int(np.ceil(reach)) + 1
    for y0 in range(0, height, block):
        for x0 in range(0, width, block):
            y1, x1 = min(y0 + block, height), min(x0 + block, width)
            # One pixel more at the ends, where the image has one: contacts and windows across the block's
            # sides.
            wide = (slice(max(y0 - margin, 0), y1 + margin), slice(max(x0 - margin, 0), x1 + margin))
            outer = np.array(labels[wide])
            inner = (
                slice(y0 - wide[0].start, y1 - wide[0].start),
                slice(x0 - wide[1].start, x1 - wide[1].start),
            )
            ids, index = _ranks(outer[inner], n)
            y, x = (a.ravel().astype(float) for a in np.mgrid[y0:y1, x0:x1])
            for row, weights in zip(sums, (None, y, x, y * y, x * x, x * y)):
                row[ids] += np.bincount(index.ravel(), weights, len(ids))
            _add_squares(squares, outer, inner, y1 == height, x1 == width)
            closed = outer if outer.all() else expand_labels(outer, distance=reach)
            if valid is not None:
                closed = np.where(valid[wide], closed, OUTSIDE)
            ids, index = _ranks(np.maximum(closed[inner], 0), n)
            for k, (rows, columns) in enumerate(find_objects(index + 1)):
                low = np.minimum(box[:2, ids[k]], (y0 + rows.start, x0 + columns.start))
                high = np.maximum(box[2:, ids[k]], (y0 + rows.stop, x0 + columns.stop))
                box[:, ids[k]] = (*low, *high)
            across, down = (slice(s.start, s.stop + 1) for s in inner[::-1])
            for faces in (closed[inner[0], across], closed[down, inner[1]].T):
                one, other = faces[:, :-1], faces[:, 1:]
                differ = one != other
                pair = np.sort(np.stack([one[differ], other[differ]]).astype(np.int64), axis=0)
                found, counts = np.unique((pair[0] - OUTSIDE) * n + pair[1], return_counts=True)
                keys.append(found)
                edges.append(counts)
    grains = np.flatnonzero(sums[0])
    grains = grains[grains > 0]
    area, y, x, yy, xx, xy = sums[:, grains]
    yy, xx, xy = yy / area - (y / area) ** 2, xx / area - (x / area) ** 2, xy / area - x * y / area**2
    half, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    return {
        "label": grains,
        "area": area,
        "perimeter_crofton": squares[grains] @ CROFTON,
        "axis_major_length": 4 * np.sqrt(half + spread),
        "axis_minor_length": 4 * np.sqrt(np.maximum(half - spread, 0)),
        "orientation": 0.5 * np.arctan2(2 * xy, yy - xx),
        "centroid-0": y / area,
        "centroid-1": x / area,
        "box": box[:, grains],
        "contacts": (
            np.stack(np.divmod(key, n), axis=1) + [OUTSIDE, 0],
            np.bincount(where, np.concatenate(edges), len(key)),
        ),
    }


def _ranks(labels: NDArray[np.integer], n: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The labels that occur, all below `n`, sorted, and the place of every pixel's label among them."""
    present = np.zeros(n, bool)
    present[labels] = True
    ids = np.flatnonzero(present)
    rank = np.zeros(n, np.int32)
    rank[ids] = np.arange(len(ids))
    return ids, rank[labels]


def _add_squares(
    squares: NDArray[np.integer],
    outer: NDArray[np.integer],
    inner: tuple[slice, slice],
    last_row: bool,
    last_column: bool,
) -> None:
    """Count windows of 2 x 2 pixels for Crofton's formula, those that end in the block and beyond the last
    edge.

    Parameters
    ----------
    squares : (n, 16) int
        Gets the counts; bits 8, 2, 4, 1 are the window's pixels in reading order.
    outer : (h, w) int
        The block with its surroundings.
    inner : (slice, slice)
        The block in it.
    last_row, last_column : bool
        Whether the block ends at the image's edge.
    """
    part = np.pad(outer, 1)[
        inner[0].start : inner[0].stop + 1 + last_row, inner[1].start : inner[1].stop + 1 + last_column
    ]
    corners = np.stack([part[:-1, :-1], part[:-1, 1:], part[1:, :-1], part[1:, 1:]])
    mixed = (corners != corners[0]).any(0)  # the others lie inside of one grain and count nothing
    corners = corners[:, mixed]
    for k, label in enumerate(corners):
        same = corners == label
        code = np.array([8, 2, 4, 1]) @ same
        first = ~same[:k].any(0)  # a grain counts once in a window
        squares += np.bincount(
            label[first].astype(np.int64) * 16 + code[first], minlength=squares.size
        ).reshape(squares.shape)


def _label_image(labels: ArrayLike) -> NDArray[np.integer]:
    labels = as_labels(labels, "labels")
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels must be a non-empty (H, W) image, got shape {labels.shape}")
    return labels
