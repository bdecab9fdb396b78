"""Magnified, elongated, ragged and twinned grain maps have the sizes and the shapes that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label

from microlab.measure.grain_size import mean_intercept
from microlab.measure.labels import touching_edge
from microlab.render import structures
from microlab.simulate import voronoi

CELLS = voronoi.tessellate(voronoi.regular_seeds(60, (192, 192), 0.5), (192, 192))
FIELD = structures.window(CELLS, (192, 192), seed=0)  # of grains that the frame cuts instead of wrapping


def intercepts(labels: np.ndarray) -> tuple[float, float]:
    """Mean distance between boundaries along rows and along columns."""
    return tuple(labels.size / (np.diff(labels, axis=axis) != 0).sum() for axis in (1, 0))


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.5])
def test_grains_are_magnified_by_the_zoom(zoom):
    seen = structures.window(CELLS, (320, 320), zoom=zoom, seed=1)
    assert mean_intercept(seen) / mean_intercept(CELLS) == pytest.approx(zoom, rel=0.12)


@pytest.mark.parametrize(("direction", "ratio"), [(0.0, 3.0), (np.pi / 2, 1 / 3), (np.pi / 4, 1.0)])
def test_grains_are_elongated_in_the_direction_and_keep_their_area(direction, ratio):
    seen = structures.window(CELLS, (400, 400), elongation=3.0, direction=direction, seed=2)
    along_rows, along_columns = intercepts(seen)
    assert along_rows / along_columns == pytest.approx(ratio, rel=0.2)
    number = seen.max() + 1 - len(touching_edge(seen)) / 2  # as ASTM E112 counts cut grains
    assert seen.size / number == pytest.approx(CELLS.size / 60, rel=0.1)


@pytest.mark.parametrize("direction", [0.3, np.pi / 2, 2.0])
def test_without_elongation_the_direction_turns_nothing(direction):
    upright = np.tile(np.arange(64) // 16, (64, 1))  # periodic stripes
    seen = structures.window(upright, (48, 48), direction=direction, seed=1)
    assert np.array_equal(seen, structures.window(upright, (48, 48), seed=1))


def test_every_id_is_one_connected_grain():
    seen = structures.window(CELLS, (300, 260), zoom=0.6, raggedness=0.3, ragged_length=4, seed=3)
    assert seen.dtype == np.int32
    assert np.array_equal(np.unique(seen), np.arange(seen.max() + 1))
    assert label(seen + 1, connectivity=1).max() == seen.max() + 1


def test_ragged_boundaries_are_longer_and_enclose_the_same_grains():
    smooth = structures.window(CELLS, (192, 192), seed=4)
    rng = np.random.default_rng(4)
    ragged = structures.window(CELLS, (192, 192), raggedness=0.4, ragged_length=8, seed=rng)
    length = [sum((np.diff(m, axis=axis) != 0).sum() for axis in (0, 1)) for m in (smooth, ragged)]
    assert length[1] > 1.05 * length[0]
    assert ragged.max() < 1.6 * smooth.max()  # hardly any piece is torn off


def test_the_same_seed_shows_the_same_window():
    one, two, other = (structures.window(CELLS, (64, 64), raggedness=0.2, seed=s) for s in (5, 5, 6))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_the_parents_of_twins_are_the_grains():
    twinned, parent = structures.with_twins(FIELD, share=0.5, seed=0)
    assert np.array_equal(parent[twinned], FIELD)
    assert np.array_equal(np.unique(twinned), np.arange(len(parent)))
    grains = FIELD.max() + 1
    assert (
        abs(len(parent) - grains - 0.5 * grains) < 3 * np.sqrt(0.25 * grains) + 4
    )  # binomial, a few too thin


def test_no_share_has_no_twins_and_a_whole_one_has_them_in_nearly_all_grains():
    assert np.array_equal(structures.with_twins(FIELD, share=0)[0], FIELD)
    _, parent = structures.with_twins(FIELD, share=1, seed=1)
    assert len(parent) > 1.85 * (FIELD.max() + 1)


def test_the_sides_of_a_twin_are_straight_and_parallel():
    square = np.zeros((101, 101), int)
    twinned, _ = structures.with_twins(square, share=1, width=0.2, seed=7)
    y, x = np.nonzero(twinned == 1)
    variances = np.linalg.eigvalsh(np.cov(np.stack([y, x])))
    width = np.sqrt(12 * variances[0])  # of a band of uniform width
    assert len(y) == pytest.approx(width * np.sqrt(12 * variances[1]), rel=0.15)


@pytest.mark.parametrize(
    "wrong", [{"zoom": 0}, {"elongation": 0.5}, {"raggedness": 0.5}, {"ragged_length": 0}, {"zoom": np.nan}]
)
def test_numbers_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        structures.window(CELLS, (32, 32), **wrong)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": 0.5, "width": 0}])
def test_twins_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        structures.with_twins(FIELD, **wrong)
