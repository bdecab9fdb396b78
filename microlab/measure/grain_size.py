"""ASTM E112 grain size numbers from label images.

    G = 3.321928 log10(N_A) - 2.954,  N_A grains per mm^2
    G = -6.643856 log10(l) - 3.288,   l mean intercept in mm

Both stand in the table of grain size equations of ASTM E112-13; the first restates the definition of G,
2^(G-1) grains per square inch at magnification 100. Boundaries are closed first: in the standard they have no
width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import stdtrit
from skimage.measure import euler_number
from skimage.segmentation import expand_labels

from microlab.measure.checks import as_labels

# a and b of G = a log10(density) - b, for grains per mm^2 and for intersections per mm
PLANIMETRIC, INTERCEPT = (3.321928, 2.954), (6.643856, 3.288)
CIRCLES = (0.7958, 0.5305, 0.2653)  # diameters of E112's three circles over the side of its square field
BAND = 2_000_000  # px of a field that are looked at together
FLICKER = 2.0  # px; shorter excursions into a neighbour and back do not count, see _crossings


@dataclass(frozen=True)
class GrainSize:
    """ASTM grain size of a sample.

    `number` is NaN if the image holds less than one grain, and the interval is NaN for a single field.
    """

    method: str
    number: float  # ASTM grain size number G, larger for finer grains
    number_low: float  # confidence interval from the spread between fields (Student's t)
    number_high: float
    relative_accuracy: float  # half width of the interval of `density` over `density`: E112's %RA / 100
    density: float  # grains per mm^2 (planimetric), intersections per mm (intercept)
    mean_area_um2: float  # 1 / grains per area; NaN for intercepts
    mean_intercept_um: float  # 1 / intersections per length; NaN for planimetric counts
    count: float  # equivalent whole grains, or intersections (scaled to equal length per direction)
    extent: float  # test area in mm^2, or test length in mm
    fields: int


def astm_grain_size(
    labels: ArrayLike | Sequence[ArrayLike],
    pixel_size: float,
    method: str = "planimetric",
    *,
    fields: tuple[int, int] = (2, 2),
    reach: float = 8.0,
    confidence: float = 0.95,
    valid: ArrayLike | None = None,
) -> GrainSize:
    """ASTM E112 grain size number G.

    It is eq. 1 of chapter 09 (grains-number).

    Parameters
    ----------
    labels : (H, W) int, or a sequence of such images
        0 on boundaries, grains above 0, not periodic. Several images are several views of one sample.
    pixel_size : float
        Micrometres per pixel.
    method : {"planimetric", "jeffries", "intercept", "circles"}
        "planimetric": Jeffries' count of grains inside plus half of those cut, over the rectangle of the
        field. Of the cut grains the four in the corners count a quarter each, so N = inside + cut / 2 - 1,
        which is without bias for convex grains.
        "jeffries": the same over the largest circle in the field, N = inside + cut / 2, as the standard has
        it. That counts one grain too many per field on average (Li and Xing 2011), so it wants large fields.
        "intercept": Heyn's straight lines. Every row, column and pixel diagonal is a test line, and the four
        directions weigh the same. Boundaries of all directions are met as often as by random lines; those
        of a single direction 5 % too rarely to 3 % too often.
        "circles": Hilliard's and Abrams' three concentric circles, centred in each field. They meet all
        directions equally, with far less test length.
    fields : (rows, columns)
        Each image is cut into this many fields. Counts are added over fields; their spread gives the
        interval. (1, 1) measures whole images.
    reach : float
        Boundary pixels within this many px of a grain are given to it. What remains unlabelled is area
        without grains: intercepts pass over it, planimetric counts keep it in the test area.
    confidence : float in (0, 1)
    valid : (H, W) bool, optional
        Field of view of a single image: True where it shows the specimen. What lies outside is no test area,
        and a grain that it cuts is cut. Only for "planimetric" and "intercept".

    Returns
    -------
    GrainSize

    Raises
    ------
    ValueError
        If a field has no pixel, `pixel_size` is not positive, `method` is unknown, or `valid` does not fit.

    Notes
    -----
    An intersection is a change of grain along a line. E112 counts a triple point as 1.5; here the line passes
    through the pixels on one side of it and counts what it meets there, which agrees on average.

    References
    ----------
    ASTM E112-13, "Standard Test Methods for Determining Average Grain Size": planimetric and intercept
    procedures, grain size equations, statistical analysis (t interval over fields, relative accuracy).
    Li and Xing, "Bias in the planimetric procedure according to ASTM E112 and corrected method", J. ASTM
    Int. 8(5), 2011.
    """
    measures = {
        "planimetric": _rectangle,
        "jeffries": _jeffries_circle,
        "intercept": _lines,
        "circles": _circles,
    }
    if method not in measures:
        raise ValueError(f"method must be one of {list(measures)}, got {method!r}")
    if pixel_size is None or not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size must be a positive number of micrometres per pixel, got {pixel_size}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    several = isinstance(labels, (list, tuple)) and len(labels) and np.ndim(labels[0]) == 2
    images = [as_labels(image, "labels") for image in (labels if several else [labels])]
    if valid is not None:
        if method not in ("planimetric", "intercept"):
            raise ValueError(f"method {method!r} needs a whole field; take 'planimetric' or 'intercept'")
        if len(images) > 1 or np.shape(valid) != images[0].shape:
            raise ValueError(f"valid must have the shape of one label image, got {np.shape(valid)}")
    counts, extents = [], []
    for image in images:
        if image.ndim != 2 or min(image.shape) < 2 * max(fields) or min(fields) < 1:
            raise ValueError(f"labels of shape {image.shape} cannot be cut into {fields} fields")
        closed = image if image.all() else expand_labels(image, distance=reach)
        if valid is not None:
            closed = np.where(valid, closed, -1)
        for band in np.array_split(closed, fields[0], axis=0):
            for field in np.array_split(band, fields[1], axis=1):
                count, extent = measures[method](field)
                if extent > 0:  # the field of view may leave nothing of a field
                    counts.append(count)
                    extents.append(extent)
    return _grain_size(method, np.array(counts), np.array(extents), pixel_size / 1000, confidence)


def _grain_size(method: str, counts: NDArray, extents: NDArray, mm: float, confidence: float) -> GrainSize:
    """Grain size from counts and extents (px or px^2) of fields, with `mm` millimetres per pixel."""
    planar = method in ("planimetric", "jeffries")
    extents = extents * (mm**2 if planar else mm)
    extent, nan = float(extents.sum()), float("nan")
    density = float(counts.sum() / extent) if extent > 0 and counts.sum() > 0 else nan
    half = nan
    if len(counts) > 1 and (extents > 0).all():
        error = (counts / extents).std(ddof=1) / np.sqrt(len(counts))
        half = stdtrit(len(counts) - 1, (1 + confidence) / 2) * error
    a, b = PLANIMETRIC if planar else INTERCEPT

    def number(density: float) -> float:
        return float(a * np.log10(density) - b) if density > 0 else (nan if np.isnan(density) else -np.inf)

    return GrainSize(
        method=method,
        number=number(density),
        number_low=number(density - half),
        number_high=number(density + half),
        relative_accuracy=float(half / density),
        density=density,
        mean_area_um2=1e6 / density if planar else nan,
        mean_intercept_um=nan if planar else 1e3 / density,
        count=float(counts.sum()),
        extent=extent,
        fields=len(counts),
    )


def _rectangle(field: NDArray) -> tuple[float, float]:
    """Equivalent whole grains in the field, and its area in px^2; -1 is outside of the field of view.

    The line that cuts runs through the centres of the outermost pixels. Along any closed line half of the
    grains that it cuts is one too many; where the field of view has holes, or falls into parts, that holds
    for every line, and Euler's number counts them.
    """
    rim = (field[0], field[-1], field[:, 0], field[:, -1])
    if field.min() >= 0:
        cut = _grains(*rim)
        return len(_grains(field)) - len(cut) / 2 - 1, (field.shape[0] - 1) * (field.shape[1] - 1)
    valid = field >= 0
    inner = ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=0)
    cut = _grains(field[valid & ~inner])
    squares = valid[1:, 1:] & valid[1:, :-1] & valid[:-1, 1:] & valid[:-1, :-1]
    return len(_grains(field)) - len(cut) / 2 - euler_number(valid, connectivity=1), int(squares.sum())


def _jeffries_circle(field: NDArray) -> tuple[float, float]:
    radius = min(field.shape) / 2
    y, x = (np.arange(n) - (n - 1) / 2 for n in field.shape)
    circle = y[:, None] ** 2 + x**2 <= radius**2
    within, without = _grains(field[circle]), _grains(field[~circle])
    cut = np.intersect1d(within, without)
    return len(within) - len(cut) / 2, np.pi * radius**2


def _grains(*pixels: NDArray) -> NDArray:
    found = []
    for part in pixels:
        for band in _bands(np.atleast_2d(part)):
            run = band.ravel()
            found.append(np.unique(run[np.append(True, run[1:] != run[:-1])][: run.size]))
    ids = np.unique(np.concatenate(found))
    return ids[ids > 0]


def _lines(field: NDArray) -> tuple[float, float]:
    """Intersections and length in px of all test lines, directions weighing the same."""
    paths = [
        (_bands(field), 1.0),
        (_bands(field.T), 1.0),
        (_diagonals(field), 2**0.5),
        (_diagonals(field[:, ::-1]), 2**0.5),
    ]
    crossings, lengths = 0.0, 0.0
    for bands, step in paths:
        count, length = 0, 0.0
        for lines in bands:
            path = np.pad(lines, ((0, 0), (0, 1))).ravel()  # a zero ends each line
            more = _crossings(path, step)
            count, length = count + more[0], length + more[1]
        scale = field.size / length if length else 0.0  # to equal lengths for the four directions
        crossings, lengths = crossings + count * scale, lengths + length * scale
    return crossings, lengths


def _bands(lines: NDArray) -> Iterator[NDArray]:
    """The rows of a field, some at a time: a large one must not be copied whole."""
    rows = max(1, BAND // lines.shape[1])
    for start in range(0, len(lines), rows):
        yield lines[start : start + rows]


def _diagonals(field: NDArray) -> Iterator[NDArray]:
    """The field's H + W - 1 diagonals down to the right, some at a time, as rows padded with 0."""
    height, width = field.shape
    longest = min(height, width)
    rows = max(1, BAND // longest)
    for start in range(0, height + width - 1, rows):
        line = np.arange(start, min(start + rows, height + width - 1)) - height + 1  # column minus row
        along = np.arange(longest)
        y, x = np.maximum(-line, 0)[:, None] + along, np.maximum(line, 0)[:, None] + along
        within = (y < height) & (x < width)
        yield np.where(within, field[np.where(within, y, 0), np.where(within, x, 0)], 0)


def _circles(field: NDArray) -> tuple[float, float]:
    """Intersections and length in px of the three circles."""
    circles = [_circle(field, diameter * min(field.shape) / 2) for diameter in CIRCLES]
    return sum(count for count, _ in circles), sum(length for _, length in circles)


def _circle(field: NDArray, radius: float, step: float = 0.5) -> tuple[int, float]:
    n = max(int(np.ceil(2 * np.pi * radius / step)), 8)
    angle = np.arange(n) * 2 * np.pi / n
    y, x = (
        (field.shape[0] - 1) / 2 + radius * np.sin(angle),
        (field.shape[1] - 1) / 2 + radius * np.cos(angle),
    )
    path = field[np.rint(y).astype(int), np.rint(x).astype(int)]
    # close the circle within its longest run, so that no short run is cut in two
    starts = np.flatnonzero(path != np.roll(path, 1))
    if len(starts):
        longest = starts[np.argmax(np.diff(starts, append=starts[0] + n))]
        path = np.roll(path, -longest)
    return _crossings(np.append(path, path[0]), 2 * np.pi * radius / n)


def _crossings(path: NDArray, step: float) -> tuple[int, float]:
    """Changes of grain along a path of labels `step` px apart, and the length over grains; 0 ends a line.

    A boundary nearly parallel to the path is a staircase of pixels, which the path crosses several times
    where the boundary itself is crossed once: a return to the same grain within FLICKER px is no crossing.
    """
    starts = np.flatnonzero(np.append(True, path[1:] != path[:-1]))
    grain, run = path[starts], np.diff(starts, append=len(path)) * step
    length = float(np.count_nonzero((path[1:] > 0) & (path[:-1] > 0)) * step)
    flicker = np.zeros(len(grain), dtype=bool)
    flicker[1:-1] = (grain[2:] == grain[:-2]) & (grain[1:-1] > 0) & (grain[2:] > 0) & (run[1:-1] < FLICKER)
    grain = grain[~flicker]
    return int(np.count_nonzero((grain[1:] != grain[:-1]) & (grain[1:] > 0) & (grain[:-1] > 0))), length


def mean_intercept(labels: np.ndarray) -> float:
    """Mean linear intercept of a label image along its rows and columns, in pixels.

    Parameters
    ----------
    labels : (H, W) int
        Grains; a change of label along a line is one crossing.

    Returns
    -------
    float
        Length of all lines over the number of crossings; infinity if there is none.

    References
    ----------
    ASTM E112, Heyn's linear intercept procedure.
    """
    labels = np.asarray(labels)
    crossings = np.count_nonzero(np.diff(labels, axis=0)) + np.count_nonzero(np.diff(labels, axis=1))
    return 2 * labels.size / crossings if crossings else float("inf")
