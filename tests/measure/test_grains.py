"""Grain tables, grain size numbers and summaries against geometry that is known."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats
from scipy.spatial import cKDTree
from skimage.io import imread
from skimage.measure import label
from skimage.segmentation import find_boundaries

from microlab.measure import grain_size
from microlab.measure.grain_size import astm_grain_size
from microlab.measure.grains import close_boundaries, grain_table, neighbours, summarise


def cells(seeds, shape):
    """Nearest-seed label image, 1..n; not periodic."""
    y, x = np.indices(shape)
    nearest = cKDTree(seeds).query(np.column_stack([y.ravel(), x.ravel()]))[1]
    return nearest.reshape(shape) + 1


def hexagons(pitch, shape, angle=17):
    """Regular hexagons with centres `pitch` apart, turned away from the frame, and their area."""
    reach = int(2 * max(shape) / pitch)
    j, i = np.mgrid[-reach:reach, -reach:reach].reshape(2, -1)
    a = math.radians(angle)
    x, y = pitch * (i + j / 2), pitch * j * math.sqrt(3) / 2
    seeds = np.column_stack([x * math.sin(a) + y * math.cos(a), x * math.cos(a) - y * math.sin(a)]) + 0.3
    near = ((seeds > -2 * pitch) & (seeds < np.array(shape) + 2 * pitch)).all(1)
    return cells(seeds[near], shape), pitch**2 * math.sqrt(3) / 2


def with_boundaries(labels, width):
    """Erase a boundary about `width` px wide."""
    if width == 0:
        return labels
    lines = find_boundaries(labels, mode="thick" if width > 1 else "inner")
    distance = cKDTree(np.argwhere(lines)).query(np.argwhere(np.ones_like(lines)))[0].reshape(lines.shape)
    return np.where(distance <= max(0, width / 2 - 1), 0, labels)


def disc(radius, shape=(101, 101)):
    y, x = np.indices(shape)
    return ((y - 50) ** 2 + (x - 50) ** 2 <= radius**2).astype(int)


@pytest.fixture(scope="module")
def random_cells():
    """2000 random cells in 1000 x 1000 px, of known statistics; there are seeds outside the image too."""
    seeds = np.random.default_rng(1).uniform(-100, 1100, (2880, 2))  # density 0.002 per px^2
    return cells(seeds, (1000, 1000)), 0.002


# --- the table


def test_disc_of_radius_30_um_has_its_known_size_and_shape():
    row = grain_table(disc(40), pixel_size=0.75).iloc[0]
    assert row.diameter_um == pytest.approx(60, rel=0.005)
    assert row.area_um2 == pytest.approx(math.pi * 30**2, rel=0.01)
    assert row.perimeter_um == pytest.approx(2 * math.pi * 30, rel=0.01)
    assert row.circularity == pytest.approx(1, abs=0.02)
    assert row.aspect_ratio == pytest.approx(1, abs=0.01)
    assert (row.centroid_y_px, row.centroid_x_px) == (50, 50)
    assert not row.touches_edge
    assert row.sides == 0


@pytest.mark.parametrize("angle", [0, 30, 90, 145])
def test_ellipse_keeps_its_aspect_ratio_and_points_where_it_was_turned(angle):
    y, x = np.indices((201, 201)) - 100
    a = math.radians(angle)
    along, across = x * math.cos(a) - y * math.sin(a), x * math.sin(a) + y * math.cos(a)  # y points down
    row = grain_table(((along / 60) ** 2 + (across / 20) ** 2 <= 1).astype(int)).iloc[0]
    assert row.aspect_ratio == pytest.approx(3, rel=0.02)
    assert (row.orientation_deg - angle + 90) % 180 - 90 == pytest.approx(0, abs=0.5)


def test_rectangle_has_the_circularity_of_a_rectangle_and_a_line_its_length_as_aspect_ratio():
    labels = np.zeros((120, 120), dtype=int)
    labels[10:110, 10:60], labels[5, 20:80] = 1, 2
    table = grain_table(labels)
    # four directions see an upright rectangle's perimeter 5 % too short
    assert table.circularity[0] == pytest.approx(4 * math.pi * 5000 / (0.95 * 300) ** 2, rel=0.03)
    assert table.aspect_ratio[0] == pytest.approx(2)
    assert table.aspect_ratio[1] == pytest.approx(60)


def test_without_a_pixel_size_micrometres_are_unknown_not_guessed():
    table = grain_table(disc(10))
    assert table.filter(like="_um").isna().all(axis=None)
    assert table.area_px[0] == disc(10).sum()


def test_an_image_without_grains_gives_an_empty_table_with_all_columns():
    table = grain_table(np.zeros((20, 20), dtype=int), 1.0)
    assert len(table) == 0
    assert list(table) == list(grain_table(disc(10), 1.0))
    assert summarise(table)["mean"].isna().all()


@pytest.mark.parametrize("width", [0, 1, 3, 6, 10])
def test_hexagons_have_six_sides_however_wide_their_boundaries(width):
    labels = with_boundaries(hexagons(40, (300, 300))[0], width)
    table = grain_table(labels)
    whole = ~table.touches_edge
    assert whole.sum() > 25
    # next to a grain cut by the frame, a whole grain still has all its six neighbours
    assert (table.sides[whole] == 6).all()
    assert (table.sides[~whole] < 6).any()


@pytest.mark.parametrize("width", range(8))
def test_squares_have_four_sides_because_corners_are_no_contact(width):
    index = np.where(np.arange(200) % 25 < width, 0, np.arange(200) // 25 + 1)
    labels = np.where(np.minimum.outer(index, index) > 0, 10 * index[:, None] + index, 0)
    sides = np.bincount(neighbours(close_boundaries(labels))[0].ravel(), minlength=100)
    assert set(sides[[10 * i + j for i in range(2, 8) for j in range(2, 8)]]) == {4}
    assert set(sides[[11, 18, 81, 88]]) == {2}


def test_contacts_of_a_pixel_or_two_at_turned_corners_count_only_on_request():
    y, x = np.indices((300, 300))
    a = math.radians(15)
    row, column = (
        np.floor((y * math.cos(a) - x * math.sin(a)) / 30),
        np.floor((x * math.cos(a) + y * math.sin(a)) / 30),
    )
    squares = (100 * (row - row.min()) + column - column.min() + 1).astype(int)
    middle = np.unique(squares[60:240, 60:240])
    inner = [i for i in middle if (squares == i).sum() > 850]  # whole ones, 900 px
    sides = {least: grain_table(squares, min_contact=least).set_index("label").sides for least in (1, 3)}
    assert (sides[3][inner] == 4).all()
    assert sides[1][inner].mean() > 4.5


def test_grains_across_a_wide_gap_are_no_neighbours():
    labels = np.zeros((40, 80), dtype=int)
    labels[:, :20], labels[:, 60:] = 1, 2
    assert len(neighbours(close_boundaries(labels))[0]) == 0
    pairs, contact = neighbours(close_boundaries(labels, 20))
    assert pairs.tolist() == [[1, 2]]
    assert contact.tolist() == [40]
    assert (close_boundaries(labels)[0] == 0).sum() == 40 - 2 * 8


def test_random_cells_have_nearly_six_sides_on_average(random_cells):
    """Six exactly for an infinite tessellation; sides shorter than two pixels are lost."""
    table = grain_table(random_cells[0][:500, :500])
    assert summarise(table, ["sides"]).loc["sides", "mean"] == pytest.approx(6, abs=0.25)


def test_frame_is_touched_by_exactly_the_labels_on_it():
    labels = np.random.default_rng(0).permutation(hexagons(30, (120, 150))[0].max() + 1)[
        hexagons(30, (120, 150))[0]
    ]
    frame = np.ones(labels.shape, dtype=bool)
    frame[1:-1, 1:-1] = False
    table = grain_table(labels)
    assert set(table.label[table.touches_edge]) == set(labels[frame]) - {0}


# --- ASTM E112


@pytest.mark.parametrize(("number", "per_mm2", "intercept_um"), [(0, 7.75, 320), (4, 124, 80), (8, 1984, 20)])
def test_formulas_give_the_rows_of_e112s_table(number, per_mm2, intercept_um):
    one = np.array([1.0])
    counted = grain_size._grain_size("planimetric", per_mm2 * one, one, 1.0, 0.95)
    crossed = grain_size._grain_size("intercept", 1000 / intercept_um * one, one, 1.0, 0.95)
    assert counted.number == pytest.approx(number, abs=0.005)
    assert crossed.number == pytest.approx(number, abs=0.005)
    # the definition: 2^(G - 1) grains per square inch at magnification 100
    assert counted.number == pytest.approx(1 + math.log2(per_mm2 * 25.4**2 / 100**2), abs=0.001)


@pytest.mark.parametrize("width", [0, 2, 4])
@pytest.mark.parametrize("method", ["planimetric", "jeffries", "intercept", "circles"])
def test_regular_hexagons_have_their_grain_size_number_by_every_method(method, width):
    labels, area = hexagons(24.3, (600, 600))
    size = astm_grain_size(with_boundaries(labels, width), 0.5, method, fields=(1, 1))
    if method in ("planimetric", "jeffries"):
        assert size.mean_area_um2 == pytest.approx(area / 4, rel=0.015)  # slivers at the frame vanish
    else:
        perimeter = 6 * 24.3 / math.sqrt(3)
        # Crofton: random lines through convex cells cut chords of mean length pi A / P
        assert size.mean_intercept_um / 0.5 == pytest.approx(
            math.pi * area / perimeter, rel=0.05 if method == "circles" else 0.015
        )  # 150 crossings or thousands


def test_squares_along_the_axes_give_the_count_of_whole_squares():
    index = (np.arange(400) + 10) // 20  # half squares at the frame, quarters in the corners
    labels = 100 * index[:, None] + index + 1
    size = astm_grain_size(labels, 1.0, "planimetric", fields=(1, 1))
    assert size.count == 20 * 20
    lines = astm_grain_size(labels, 1.0, "intercept", fields=(1, 1))
    assert lines.mean_intercept_um == pytest.approx(20 / ((1 + math.sqrt(2)) / 2), rel=0.02)


def test_random_cells_give_their_known_density_and_mean_intercept(random_cells):
    labels, density = random_cells
    labels = np.where(find_boundaries(labels, mode="inner"), 0, labels)
    planimetric = astm_grain_size(labels, 1.0, "planimetric")
    assert planimetric.density == pytest.approx(density * 1e6, rel=0.03)
    expected = (
        math.pi / 4 / math.sqrt(density)
    )  # boundary length per area of Poisson-Voronoi cells is 2 sqrt(n)
    assert astm_grain_size(labels, 1.0, "intercept").mean_intercept_um == pytest.approx(expected, rel=0.03)
    circles = astm_grain_size(labels, 1.0, "circles", fields=(5, 5))
    assert circles.mean_intercept_um == pytest.approx(expected, rel=0.05)


def test_jeffries_circle_counts_one_grain_too_many_and_the_rectangle_none(random_cells):
    labels, density = random_cells
    rng = np.random.default_rng(3)
    excess = {"planimetric": [], "jeffries": []}
    for _ in range(250):
        y, x = rng.integers(0, 1000 - 120, 2)
        field = labels[y : y + 120, x : x + 120]
        for method, differences in excess.items():
            size = astm_grain_size(field, 1000.0, method, fields=(1, 1), reach=0)
            differences.append(size.count - density * size.extent)
    assert np.mean(excess["jeffries"]) == pytest.approx(1, abs=0.4)
    assert np.mean(excess["planimetric"]) == pytest.approx(0, abs=0.4)


def test_interval_comes_from_the_fields_by_students_t(random_cells):
    labels = random_cells[0]
    whole = astm_grain_size(labels, 0.5, fields=(2, 3))
    per_field = [
        astm_grain_size(field, 0.5, fields=(1, 1)).density
        for band in np.array_split(labels, 2, axis=0)
        for field in np.array_split(band, 3, axis=1)
    ]
    low, high = stats.t.interval(0.95, 5, loc=whole.density, scale=stats.sem(per_field))
    assert whole.fields == 6
    assert whole.number_low == pytest.approx(3.321928 * math.log10(low) - 2.954)
    assert whole.number_high == pytest.approx(3.321928 * math.log10(high) - 2.954)
    assert whole.relative_accuracy == pytest.approx((high - low) / 2 / whole.density)
    as_images = astm_grain_size([labels[:500], labels[500:]], 0.5, fields=(1, 3))
    assert dataclasses.replace(as_images, mean_intercept_um=0) == dataclasses.replace(
        whole, mean_intercept_um=0
    )
    assert math.isnan(astm_grain_size(labels, 0.5, fields=(1, 1)).number_low)


def test_a_single_grain_has_no_grain_size_number():
    size = astm_grain_size(np.ones((50, 50), dtype=int), 1.0, fields=(1, 1))
    assert math.isnan(size.number)
    assert math.isnan(astm_grain_size(np.zeros((50, 50), dtype=int), 1.0, "intercept").number)


def test_circle_path_crosses_a_straight_boundary_twice_at_every_angle():
    y, x = np.indices((300, 300)) - 149.5
    for angle in np.linspace(0, math.pi, 37):
        halves = (x * math.cos(angle) + y * math.sin(angle) > 7.3).astype(int) + 1
        assert grain_size._circles(halves)[0] == 6  # three circles, in and out


def test_all_test_lines_together_cross_a_straight_boundary_once_each():
    halves = np.ones((90, 60), dtype=int)
    halves[:, 25:] = 2
    rows, diagonals = 90, 90 - 1  # a diagonal from the last row of column 24 would cross below the image
    row_length, diagonal_length = 90 * 59, 89 * 59 * math.sqrt(2)
    expected = 5400 * (rows / row_length + 0 + 2 * diagonals / diagonal_length)
    assert grain_size._lines(halves)[0] == pytest.approx(expected)


STEEL = Path(os.environ.get("MICROLAB_DATA", "")) / "steel/ex_segmentation/optical_etched"


@pytest.mark.skipif(not STEEL.exists(), reason="MICROLAB_DATA has no steel")
def test_steel_agrees_with_the_counts_nist_published_for_it():
    """NIST's own grain size tools found 31, 20 and 18 segments longer than 2 px on the three circles."""
    boundary = imread(STEEL / "grains_steel_highlighted_segmented.tif") > 0
    labels = label(~boundary, connectivity=1)
    square = close_boundaries(labels[:, 100:700])
    for diameter, published in zip(grain_size.CIRCLES, (31, 20, 18)):
        assert published <= grain_size._circle(square, diameter * 300)[0] <= published + 4
    numbers = [astm_grain_size(labels, 0.2252, m).number for m in ("planimetric", "intercept", "circles")]
    assert np.ptp(numbers) < 0.5  # E112 expects its methods to agree within half a number


# --- summaries


@pytest.mark.slow
def test_edge_weights_undo_the_loss_of_large_grains_at_the_frame(random_cells):
    """In small windows the whole grains are too few and too small; the weights correct both."""
    labels, density = random_cells
    rng = np.random.default_rng(5)
    areas, weights = [], []
    for _ in range(60):
        y, x = rng.integers(0, 1000 - 100, 2)
        table = grain_table(labels[y : y + 100, x : x + 100], reach=0)
        whole = table[~table.touches_edge]
        areas.append(whole.area_px)
        weights.append(whole.edge_weight)
    areas, weights = np.concatenate(areas), np.concatenate(weights)
    assert weights.sum() / (60 * 100**2) == pytest.approx(density, rel=0.05)
    assert np.average(areas, weights=weights) == pytest.approx(1 / density, rel=0.05)
    assert areas.mean() < 0.93 / density


def test_equal_weights_give_the_textbook_statistics_and_the_t_interval_of_scipy():
    table = grain_table(hexagons(20, (200, 200))[0])
    x = np.random.default_rng(0).lognormal(size=len(table))
    table["x"] = x
    row = summarise(table, ["x"], edge="keep", interval="t", confidence=0.9).loc["x"]
    low, high = stats.t.interval(0.9, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    assert (row.mean_low, row.mean_high) == pytest.approx((low, high))
    assert row["mean"] == pytest.approx(x.mean())
    assert row["std"] == pytest.approx(x.std(ddof=1))
    assert row["median"] == pytest.approx(np.median(x))
    assert row.p90 == pytest.approx(np.percentile(x, 90))
    assert row.area_weighted_mean == pytest.approx((x * table.area_px).sum() / table.area_px.sum())


def test_bootstrap_interval_agrees_with_scipys():
    table = grain_table(hexagons(20, (200, 200))[0])
    x = np.random.default_rng(1).lognormal(size=len(table))
    table["x"] = x
    row = summarise(table, ["x"], edge="keep", resamples=5000).loc["x"]
    theirs = stats.bootstrap((x,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    width = theirs.high - theirs.low
    assert row.mean_low == pytest.approx(theirs.low, abs=0.05 * width)
    assert row.mean_high == pytest.approx(theirs.high, abs=0.05 * width)


def test_weights_act_like_repeated_grains():
    table = pd.DataFrame(
        {"area_px": [1.0, 2.0, 5.0, 9.0], "edge_weight": [1.0, 2.0, 3.0, 1.0], "touches_edge": False}
    )
    row = summarise(table, ["area_px"]).loc["area_px"]
    repeated = np.repeat(table.area_px, [1, 2, 3, 1])
    assert row["mean"] == pytest.approx(repeated.mean())
    assert row["median"] == np.median(repeated)
    assert row.mean_low < row["mean"] < row.mean_high


def test_summaries_are_the_same_for_the_same_seed_and_default_to_micrometres():
    table = grain_table(hexagons(20, (150, 150))[0], 0.1)
    assert summarise(table, seed=3).equals(summarise(table, seed=3))
    assert list(summarise(table).index[:3]) == ["area_um2", "diameter_um", "perimeter_um"]
    assert list(summarise(grain_table(disc(20))).index[:3]) == ["area_px", "diameter_px", "perimeter_px"]


def test_one_grain_has_a_mean_but_no_interval():
    row = summarise(grain_table(disc(20)), ["area_px"]).loc["area_px"]
    assert row["count"] == 1
    assert row["mean"] == disc(20).sum()
    assert np.isnan([row["std"], row.mean_low, row.mean_high]).all()


# --- wrong input


def test_wrong_input_is_refused_by_name():
    table = grain_table(disc(10))
    with pytest.raises(ValueError, match="labels must be an integer label image, got float64"):
        grain_table(disc(10) * 1.0)
    with pytest.raises(ValueError, match=r"labels must be a non-empty \(H, W\) image, got shape \(3, 4, 5\)"):
        grain_table(np.zeros((3, 4, 5), dtype=int))
    for pixel_size in (0, -1, math.nan):
        with pytest.raises(ValueError, match="pixel_size must be a positive number"):
            grain_table(disc(10), pixel_size)
        with pytest.raises(ValueError, match="pixel_size must be a positive number"):
            astm_grain_size(disc(10), pixel_size)
    with pytest.raises(ValueError, match="method must be one of"):
        astm_grain_size(disc(10), 1.0, "comparison")
    with pytest.raises(ValueError, match=r"cannot be cut into \(60, 2\) fields"):
        astm_grain_size(disc(10), 1.0, fields=(60, 2))
    with pytest.raises(ValueError, match="reach"):
        close_boundaries(disc(10), -1)
    with pytest.raises(ValueError, match=r"columns \['size'\] are not in the table"):
        summarise(table, ["size"])
    with pytest.raises(ValueError, match="edge must be"):
        summarise(table, edge="drop")
    with pytest.raises(ValueError, match="interval must be"):
        summarise(table, interval="normal")
    with pytest.raises(ValueError, match="confidence"):
        summarise(table, confidence=95)


@pytest.mark.parametrize("block", [37, 100, 1000])
@pytest.mark.parametrize("width", [0, 3])
def test_blocks_give_the_table_of_the_whole_image(block, width):
    seeds = np.random.default_rng(4).random((60, 2)) * (200, 260)
    labels = with_boundaries(cells(seeds, (200, 260)), width)
    labels[20:25, 40:90] = labels[22, 60]  # a tail across blocks
    labels[labels == labels[150, 150]] = 900  # a gap in the numbers
    whole, by_blocks = grain_table(labels, 0.05), grain_table(labels, 0.05, block=block)
    assert list(whole["label"]) == list(by_blocks["label"])
    # Sums in another order, and squares of coordinates up to 260 in 16 digits.
    pd.testing.assert_frame_equal(by_blocks, whole, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize("method", ["planimetric", "jeffries", "intercept", "circles"])
def test_bands_give_the_grain_size_of_the_whole_field(monkeypatch, method):
    labels = cells(np.random.default_rng(5).random((80, 2)) * (150, 230), (150, 230))
    whole = astm_grain_size(labels, 0.1, method)
    monkeypatch.setattr(grain_size, "BAND", 1000)
    by_bands = astm_grain_size(labels, 0.1, method)
    assert by_bands.count == pytest.approx(whole.count, rel=1e-12)
    assert by_bands.number == pytest.approx(whole.number, rel=1e-12)


# --- field of view ---------------------------------------------------------------------------------------


def covered_field(shape, seed):
    """Random cells, and a field of view with an empty corner, a legend at the rim and a hole."""
    rng = np.random.default_rng(seed)
    labels = cells(rng.random((shape[0] * shape[1] // 600, 2)) * shape, shape)
    valid = np.ones(shape, bool)
    y, x = np.indices(shape)
    valid &= x + y > shape[0] // 2
    valid[-shape[0] // 5 :, shape[1] // 6 : shape[1] // 2] = False
    valid[shape[0] // 3 : shape[0] // 2, shape[1] // 2 : 2 * shape[1] // 3] = False
    return labels, valid


def test_a_field_of_view_of_the_whole_image_changes_nothing(random_cells):
    labels = random_cells[0] if isinstance(random_cells, tuple) else random_cells
    everywhere = np.ones(labels.shape, bool)
    pd.testing.assert_frame_equal(grain_table(labels, valid=everywhere), grain_table(labels))
    for method in ("planimetric", "intercept"):
        plain = astm_grain_size(labels, 0.5, method)
        assert dataclasses.asdict(astm_grain_size(labels, 0.5, method, valid=everywhere)) == pytest.approx(
            dataclasses.asdict(plain), nan_ok=True
        )


def test_grains_at_the_edge_of_the_field_of_view_are_cut_and_no_others():
    labels, valid = covered_field((300, 400), 0)
    inside = np.where(valid, labels, 0)
    table = grain_table(inside, valid=valid).set_index("label")
    beside = valid & ndimage.binary_dilation(~valid)  # shares a pixel edge with what is outside
    cut = np.union1d(inside[beside], [*inside[0], *inside[-1], *inside[:, 0], *inside[:, -1]])
    assert set(table.index[table.touches_edge]) == set(cut) - {0}
    assert (table.edge_weight[table.touches_edge] == 0).all()
    assert (table.edge_weight[~table.touches_edge] >= 1).all()
    blocks = grain_table(inside, valid=valid, block=97).set_index("label")
    same = [c for c in table if c != "orientation_deg"]  # of a round grain it is arbitrary
    pd.testing.assert_frame_equal(table[same], blocks[same], check_dtype=False)


def test_a_covered_field_has_the_mean_area_and_the_grain_size_of_the_whole():
    """Over many fields: what the field of view hides makes neither the mean nor the number wrong."""
    whole, covered, naive, density = [], [], [], []
    for seed in range(12):
        labels, valid = covered_field((300, 400), seed)
        inside = np.where(valid, labels, 0)
        whole.append(grain_table(labels))
        covered.append(grain_table(inside, valid=valid))
        naive.append(grain_table(inside, reach=0))
        for method in ("planimetric", "intercept"):
            density.append(
                [
                    astm_grain_size(inside, 1000, method, valid=valid).density,
                    astm_grain_size(labels, 1000, method).density,
                ]
            )
    true = 600.0
    mean = {
        name: summarise(pd.concat(tables), ["area_px"], interval="t")["mean"].iloc[0]
        for name, tables in (("whole", whole), ("covered", covered), ("naive", naive))
    }
    assert mean["whole"] == pytest.approx(true, rel=0.03)
    assert mean["covered"] == pytest.approx(true, rel=0.03)
    assert mean["naive"] < 0.95 * true  # parts counted as grains
    measured, expected = np.array(density).reshape(12, 2, 2).mean(0).T
    np.testing.assert_allclose(measured, expected, rtol=0.03)


def test_a_field_of_view_of_another_size_is_refused():
    labels = np.ones((20, 30), int)
    with pytest.raises(ValueError, match="valid must have the shape"):
        grain_table(labels, valid=np.ones((30, 20), bool))
    with pytest.raises(ValueError, match="valid must have the shape"):
        astm_grain_size(labels, 1.0, valid=np.ones((30, 20), bool))
    with pytest.raises(ValueError, match="needs a whole field"):
        astm_grain_size(labels, 1.0, "circles", valid=np.ones((20, 30), bool))


def test_a_hole_in_the_field_of_view_does_not_change_the_number_of_grains_per_area():
    """The correction of the frame, one grain, and that of the hole cancel: Euler's number is 0."""
    valid = np.ones((120, 120), bool)
    valid[45:75, 40:80] = False
    densities = []
    for seed in range(80):
        points = np.random.default_rng(seed).uniform(-60, 180, (96, 2))  # one in 600 px^2
        inside = np.where(valid, cells(points, valid.shape), 0)
        densities.append(astm_grain_size(inside, 1000, fields=(1, 1), valid=valid).density)
    assert np.mean(densities) * 600 == pytest.approx(1, rel=0.025)
