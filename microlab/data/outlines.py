"""Outlines of grains along the edges of their pixels, as ImageJ's ROI Manager and QuPath open them.

An outline follows the sides of pixels, so its area is that of the grain, to the pixel. The origin is the
upper left corner of the image, x runs to the right and y down, both in pixels, as in both programs.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import pandas as pd
from roifile import ROI_TYPE, ImagejRoi
from scipy.ndimage import find_objects

from microlab.data.errors import InputError
from microlab.data.files import atomic

LARGEST_ROI = 32767  # the coordinates of ImageJ's format
Ring = np.ndarray  # (n, 2) int: corners x, y; closed from the last to the first
MEASURED = (
    "area_um2",
    "diameter_um",
    "perimeter_um",
    "area_px",
    "diameter_px",
    "circularity",
    "aspect_ratio",
)


def outlines(labels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> Iterator[tuple[int, list[Ring]]]:
    """Label and rings of each grain of a label image, in the order of the labels.

    Parameters
    ----------
    labels : (H, W) int
        0 on boundaries, grains above 0.
    origin : (int, int)
        x and y of the upper left corner.

    Yields
    ------
    label : int
    rings : list of (n, 2) int
        Corners of the grain, x and y, the largest ring first. The grain lies on the right hand: a ring runs
        clockwise on the screen around a piece, the other way around a hole. Pixels that touch at a corner
        only belong to two pieces.
    """
    for label, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            offset = np.array([box[1].start, box[0].start]) + origin
            yield label, [ring + offset for ring in _rings(labels[box] == label)]


def check_rois(name: str | os.PathLike, shape: tuple[int, ...]) -> None:
    """Raise an InputError if an image has more pixels on a side than ImageJ's outlines can tell apart."""
    if max(shape) > LARGEST_ROI:
        raise InputError(
            f"{name}: outlines for ImageJ hold coordinates up to {LARGEST_ROI}, not {max(shape)}; "
            "write them for QuPath (--geojson)"
        )


def write_rois(path: str | os.PathLike, labels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> None:
    """Write the outlines of grains as a zip of ImageJ ROIs, named after the labels (``0001.roi``).

    Parameters
    ----------
    path : path
        ``.zip``; ImageJ and Fiji open it by dragging, or in the ROI Manager (More > Open).
    labels : (H, W) int
        0 on boundaries, grains above 0.
    origin : (int, int)
        Where the upper left corner of `labels` lies, x and y, in the image that the outlines are drawn on.

    Raises
    ------
    InputError
        If a side has more pixels than ImageJ's format can hold.
    OSError
        If the file cannot be written.
    """
    check_rois(path, tuple(np.array(labels.shape) + origin[::-1]))
    digits = max(4, len(str(labels.max())))
    with atomic(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for label, rings in outlines(labels, origin):
            name = f"{label:0{digits}d}"
            if len(rings) == 1:
                roi = ImagejRoi.frompoints(rings[0], name=name)
            else:  # several pieces or holes are a path: 0 moves to a point, 1 draws to one, 4 closes
                corners = np.concatenate(rings)
                (left, top), (right, bottom) = corners.min(0), corners.max(0)
                steps = []
                for ring in rings:
                    kinds = np.ones(len(ring))
                    kinds[0] = 0
                    steps += [np.column_stack([kinds, ring]).ravel(), [4]]
                steps = np.concatenate(steps).astype(np.float32)
                box = {"left": left, "top": top, "right": right, "bottom": bottom}
                roi = ImagejRoi(roitype=ROI_TYPE.RECT, name=name, **{k: int(v) for k, v in box.items()})
                roi.multi_coordinates, roi.shape_roi_size = steps, len(steps)
            archive.writestr(zipfile.ZipInfo(f"{name}.roi"), roi.tobytes())  # without the time of day


def write_geojson(
    path: str | os.PathLike,
    labels: np.ndarray,
    table: pd.DataFrame | None = None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write the outlines of grains as GeoJSON that QuPath imports as detections (dragged onto the image).

    Parameters
    ----------
    path : path
        ``.geojson``.
    labels : (H, W) int
        0 on boundaries, grains above 0.
    table : DataFrame, optional
        From `microlab.measure.grains.grain_table`; its sizes become measurements.
    origin : (int, int)
        Where the upper left corner of `labels` lies, x and y, in the image that the outlines are drawn on.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    rows = {} if table is None else table.set_index("label")[list(MEASURED)].to_dict("index")
    with atomic(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for k, (label, rings) in enumerate(outlines(labels, origin)):
            polygons = _polygons(rings)
            single = len(polygons) == 1
            values = {name: value for name, value in rows.get(label, {}).items() if math.isfinite(value)}
            feature = {
                "type": "Feature",
                "id": str(uuid5(NAMESPACE_OID, f"microlab grain {label}")),
                "geometry": {
                    "type": "Polygon" if single else "MultiPolygon",
                    "coordinates": polygons[0] if single else polygons,
                },
                "properties": {
                    "objectType": "detection",
                    "name": str(label),
                    "classification": {"name": "grain", "color": [200, 110, 0]},
                    "measurements": values,
                },
            }
            file.write(",\n" * (k > 0) + json.dumps(feature))
        file.write("]}\n")


def _rings(mask: np.ndarray) -> list[Ring]:
    """Closed outlines of the True pixels, which lie on the right hand of each."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = []  # from each corner where a side begins to the one where it ends, x and y
    for dy, dx, begin, end in (
        (-1, 0, (0, 0), (1, 0)),  # upper side, to the right
        (0, 1, (1, 0), (1, 1)),  # right side, down
        (1, 0, (1, 1), (0, 1)),  # lower side, to the left
        (0, -1, (0, 1), (0, 0)),  # left side, up
    ):
        height, width = mask.shape
        neighbour = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        y, x = np.nonzero(inside & ~neighbour)
        corner = np.column_stack([x, y])
        sides.append(np.hstack([corner + begin, corner + end]))
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for x, y, to_x, to_y in np.concatenate(sides).tolist():
        following.setdefault((x, y), []).append((to_x, to_y))
    rings = []
    while following:
        path = [next(iter(following))]
        place = {path[0]: 0}  # of each corner in the path
        while path[-1] in following:
            ways = following[path[-1]]
            there = ways.pop()
            if not ways:
                del following[path[-1]]
            if there not in place:
                place[there] = len(path)
                path.append(there)
                continue
            rings.append(_corners(path[place[there] :]))  # where two pixels meet at a corner there are two
            for corner in path[place[there] + 1 :]:
                del place[corner]
            del path[place[there] + 1 :]
    return sorted(rings, key=_area, reverse=True)


def _corners(path: list[tuple[int, int]]) -> Ring:
    """The points of a closed path at which it turns."""
    points = np.array(path)
    turns = (np.roll(points, -1, axis=0) - points != points - np.roll(points, 1, axis=0)).any(1)
    return points[turns]


def _area(ring: Ring) -> float:
    """Area within a ring, negative around a hole."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _polygons(rings: list[Ring]) -> list[list[list[list[int]]]]:
    """Rings as GeoJSON has them: of each piece its outline, then its holes, each closed."""
    closed = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
    pieces = [k for k, ring in enumerate(rings) if _area(ring) > 0]
    polygons = {k: [closed[k]] for k in pieces}
    for k, ring in enumerate(rings):
        if k not in polygons:
            dx, dy = np.sign(ring[1] - ring[0])
            pixel = ring[0] + 0.5 * np.array([dx + dy, dy - dx])  # in the hole: to the left of the first side
            around = [p for p in pieces if _contains(rings[p], *pixel)]
            polygons[min(around, key=lambda p: _area(rings[p]))].append(closed[k])
    return list(polygons.values())


def _contains(ring: Ring, x: float, y: float) -> bool:
    """Whether the middle of a pixel lies in a ring."""
    ends = np.roll(ring, -1, axis=0)
    crossed = ((ring[:, 1] > y) != (ends[:, 1] > y)) & (ring[:, 0] < x)  # sides are upright or level
    return bool(crossed.sum() % 2)
