"""Outlines of grains: to the pixel, whatever their shape, and as ImageJ and QuPath read them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from microlab.data.outlines import outlines, write_geojson, write_rois
from microlab.measure.grains import grain_table


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose middle lies in an odd number of rings."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    middles = np.column_stack([x.ravel() + 0.5, y.ravel() + 0.5])
    inside = [Polygon(np.vstack([ring, ring[:1]])).contains_points(middles) for ring in rings]
    return (np.sum(inside, axis=0) % 2 == 1).reshape(shape)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    ring = np.ones((9, 9), int)
    ring[2:7, 2:7], ring[4, 4] = 0, 1  # a piece in a hole
    corners = np.zeros((6, 6), int)
    corners[1:3, 1:3] = corners[3:5, 3:5] = 1  # two pieces that meet at a corner
    noise = [ndimage.zoom(rng.integers(0, 4, (8, 9)), 2, order=0) for _ in range(3)]
    return [ring, corners, 1 - corners, np.eye(5, dtype=int), rng.integers(0, 3, (20, 23)), *noise]


@pytest.mark.parametrize("labels", images(), ids=lambda labels: str(labels.shape))
def test_rings_enclose_exactly_the_pixels_of_each_grain(labels):
    found = dict(outlines(labels))
    assert list(found) == [label for label in np.unique(labels) if label]
    for label, rings in found.items():
        np.testing.assert_array_equal(filled(rings, labels.shape), labels == label)
        for points in rings:
            assert len(np.unique(points, axis=0)) == len(points)  # simple: no corner twice
            sides = np.roll(points, -1, axis=0) - points
            assert ((sides == 0).sum(1) == 1).all()  # along the edges of pixels, a corner only at a turn


@pytest.mark.parametrize("labels", images(), ids=lambda labels: str(labels.shape))
def test_imagej_reads_the_rois(tmp_path, labels):
    roifile = pytest.importorskip("roifile")
    write_rois(tmp_path / "rois.zip", labels)
    rois = roifile.roiread(tmp_path / "rois.zip")
    assert [int(roi.name) for roi in rois] == [label for label in np.unique(labels) if label]
    for roi in rois:
        rings = [np.round(ring).astype(int) for ring in roi.coordinates(multi=True)]
        np.testing.assert_array_equal(filled(rings, labels.shape), labels == int(roi.name))
        y, x = np.nonzero(labels == int(roi.name))
        assert (roi.left, roi.top) == (x.min(), y.min())
    first = (tmp_path / "rois.zip").read_bytes()
    write_rois(tmp_path / "rois.zip", labels)
    assert (tmp_path / "rois.zip").read_bytes() == first


@pytest.mark.parametrize("labels", images(), ids=lambda labels: str(labels.shape))
def test_geojson_has_pieces_with_their_holes_and_the_sizes(tmp_path, labels):
    table = grain_table(labels, 0.5)
    write_geojson(tmp_path / "grains.geojson", labels, table)
    collection = json.loads((tmp_path / "grains.geojson").read_text(), parse_constant=pytest.fail)
    assert collection["type"] == "FeatureCollection"
    for feature in collection["features"]:
        label = int(feature["properties"]["name"])
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["measurements"]["area_px"] == (labels == label).sum()
        shape = feature["geometry"]
        polygons = shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]
        pieces = np.zeros(labels.shape, int)
        for polygon in polygons:
            rings = [np.array(ring) for ring in polygon]
            assert all((ring[0] == ring[-1]).all() for ring in rings)
            around, *holes = (filled([ring[:-1]], labels.shape) for ring in rings)
            for hole in holes:
                assert (around & hole).sum() == hole.sum()
                around = around & ~hole
            pieces += around
        np.testing.assert_array_equal(pieces, labels == label)


def test_a_thousand_grains_take_less_than_a_second(tmp_path):
    import time

    labels = np.kron(np.arange(1, 1025).reshape(32, 32), np.ones((24, 24), int))
    start = time.process_time()
    assert sum(1 for _ in outlines(labels)) == 1024
    assert time.process_time() - start < 3  # measured 0.4 s
