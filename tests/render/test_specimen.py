"""The specimen's surface against brute force, analytic profiles and its stated statistics."""

from __future__ import annotations

import colorsys
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from microlab.render import specimen
from microlab.render.specimen import boundary_geometry
from microlab.simulate import voronoi


def stripes(height: int, width: int, period: int) -> np.ndarray:
    """Upright stripes: boundaries at every multiple of `period`."""
    return np.tile(np.arange(width) // period, (height, 1))


def brute_force(grain_map: np.ndarray, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (H, W, m) to the m pixels beside a boundary, and where those are (m, 2)."""
    height, width = grain_map.shape
    beside = np.zeros(grain_map.shape, bool)
    for y, x in product(range(height), range(width)):
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if periodic or (0 <= v < height and 0 <= u < width):
                beside[y, x] |= grain_map[v % height, u % width] != grain_map[y, x]
    points = np.argwhere(beside)
    offset = np.abs(np.stack(np.indices(grain_map.shape), -1)[:, :, None] - points)  # (H, W, m, 2)
    if periodic:
        offset = np.minimum(offset, np.array(grain_map.shape) - offset)
    return (offset**2).sum(-1), points


def across(grain_map: np.ndarray, y: int, x: int) -> set[tuple[int, int]]:
    """The pairs of grains that meet beside a pixel."""
    height, width = grain_map.shape
    near = [grain_map[v % height, u % width] for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))]
    own = int(grain_map[y, x])
    return {(min(own, int(g)), max(own, int(g))) for g in near if g != own}


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", [(24, 24), (9, 40), (31, 17)])
def test_boundary_distance_equals_a_search_over_all_pixels(shape, periodic):
    grain_map = voronoi.tessellate(voronoi.random_seeds(5, shape, 2), shape)
    squared, _ = brute_force(grain_map, periodic)
    geometry = boundary_geometry(grain_map, periodic=periodic)
    np.testing.assert_allclose(geometry.distance, np.sqrt(squared.min(-1)) + 0.5, rtol=1e-6)
    assert geometry.distance.dtype == np.float32


def test_in_an_oblong_map_boundaries_farther_than_its_short_side_are_found():
    # Two stripes of 50 pixels, 6 high: the middle of each lies 24 pixels from the pixel beside the boundary.
    assert boundary_geometry(stripes(6, 100, 50)).distance.max() == 24.5


def test_a_facet_separates_two_grains():
    grain_map = voronoi.tessellate(voronoi.random_seeds(6, (20, 20), 3), (20, 20))
    squared, points = brute_force(grain_map, True)
    facet = boundary_geometry(grain_map).facet
    pair_of = {}  # every facet number must stand for one pair
    for y, x in np.ndindex(facet.shape):
        nearest = points[squared[y, x] == squared[y, x].min()]
        pairs = set().union(*(across(grain_map, *point) for point in nearest))
        pair_of[facet[y, x]] = pair_of.get(facet[y, x], pairs) & pairs
    assert all(len(pairs) == 1 for pairs in pair_of.values())
    assert len(set().union(*pair_of.values())) == len(pair_of) == facet.max() + 1


def test_boundary_distance_moves_with_a_periodic_map():
    grain_map = voronoi.tessellate(voronoi.random_seeds(12, (48, 64), 4), (48, 64))
    moved = boundary_geometry(np.roll(grain_map, (13, 29), (0, 1))).distance
    np.testing.assert_array_equal(moved, np.roll(boundary_geometry(grain_map).distance, (13, 29), (0, 1)))


def test_the_frame_is_not_a_boundary_unless_the_map_is_periodic():
    grain_map = stripes(8, 40, 20)
    assert boundary_geometry(grain_map).distance[0, 0] == 0.5
    assert boundary_geometry(grain_map, periodic=False).distance[0, 0] == 19.5


@pytest.mark.parametrize(
    ("grain_map", "reason"),
    [
        (np.zeros((4, 4), int), "single grain"),
        (np.arange(4), "two-dimensional"),
        (np.zeros((0, 4), int), "not empty"),
        (np.eye(4), "integer ids"),
        (np.eye(4, dtype=int) - 1, "from 0, got int64 from -1"),
    ],
)
def test_a_map_without_grains_is_refused(grain_map, reason):
    with pytest.raises(ValueError, match=f"grain_map.*{reason}"):
        boundary_geometry(grain_map)


def test_smooth_noise_has_the_autocorrelation_of_a_gaussian_kernel():
    # White noise under a Gaussian of deviation L correlates as exp(-r^2 / 4 L^2). Eight fields of 256 x 256
    # hold about 2600 independent patches, so the estimate has a standard error of 0.02.
    length, lags = 4.0, np.array([0, 2, 4, 8, 16])
    fields = [specimen.smooth_noise((256, 256), length, seed) for seed in range(8)]
    for axis in (0, 1):
        measured = [np.mean([np.mean(f * np.roll(f, r, axis)) for f in fields]) for r in lags]
        np.testing.assert_allclose(measured, np.exp(-(lags**2) / (4 * length**2)), atol=0.06)


def test_smooth_noise_has_zero_mean_and_unit_variance():
    field = specimen.smooth_noise((64, 96), 3.0, 0)
    assert field.shape == (64, 96)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-5
    assert field.std() == pytest.approx(1, abs=1e-5)


def test_smooth_noise_wraps_around():
    # Across the frame neighbours are as alike as inside: the step of a random unit field is 1.41, here 0.18.
    field = specimen.smooth_noise((512, 512), 4.0, 1)
    for axis in (0, 1):
        seam = np.take(field, 0, axis) - np.take(field, -1, axis)
        assert seam.std() == pytest.approx(np.diff(field, axis=axis).std(), rel=0.25)


def test_noise_without_correlation_is_white():
    field = specimen.smooth_noise((256, 256), 0, 0)
    assert abs(np.mean(field[:, 1:] * field[:, :-1])) < 5 / 256  # five standard errors
    assert field.std() == pytest.approx(1, abs=5 / np.sqrt(2 * field.size))


def test_every_grain_has_one_grey_level_of_the_stated_mean_and_spread():
    grain_map = np.arange(64 * 64).reshape(64, 64).repeat(2, 0)
    image = specimen.grain_contrast(grain_map, mean=0.6, spread=0.05, seed=3)
    np.testing.assert_array_equal(image[::2], image[1::2])  # both pixels of a grain
    assert image.mean() == pytest.approx(0.6, abs=5 * 0.05 / 64)
    assert image.std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * 4096))


def test_tilt_changes_brightness_by_its_slope_over_one_grain_diameter():
    side = 16
    y, x = np.indices((512, 512)) // side
    grain_map = y * 32 + x
    change = specimen.facet_tilt(np.zeros((512, 512)), grain_map, slope=0.1, seed=0)
    middle = np.s_[side // 2 :: side, side // 2 :: side]
    diameter = 2 * side / np.sqrt(np.pi)  # of the circle of equal area
    steps = [np.diff(change, axis=axis, prepend=0)[middle] * diameter for axis in (0, 1)]
    assert np.std(steps) == pytest.approx(0.1, rel=5 / np.sqrt(2 * 2 * 1024))
    np.testing.assert_allclose(ndimage.mean(change, grain_map, np.arange(1024)), 0, atol=2e-3)
    assert np.abs(change).max() <= 0.2 + 1e-6


def test_terraces_do_not_change_the_boundary_and_other_grains():
    grain_map = voronoi.tessellate(voronoi.random_seeds(10, (128, 128), 0), (128, 128))
    distance = boundary_geometry(grain_map).distance
    change = specimen.terraces(np.zeros((128, 128)), grain_map, distance, amplitude=0.2, spacing=12.0, seed=0)
    assert np.abs(change).max() <= 0.2
    assert np.abs(change[distance == 0.5]).max() <= 0.2 * (1 - np.exp(-((0.5 / 12) ** 2)))
    strongest = np.sort(ndimage.maximum(np.abs(change), grain_map, np.arange(10)))
    assert strongest[0] < 0.2 * strongest[-1]  # the share varies from grain to grain


def test_growth_steps_are_straight_bands_of_one_brightness_in_a_share_of_the_grains():
    side, n = 32, 16 * 16
    y, x = np.indices((512, 512)) // side
    grain_map = y * 16 + x
    change = specimen.growth_steps(np.zeros((512, 512)), grain_map, amplitude=0.1, share=0.3, seed=0)
    cells = change.reshape(16, side, 16, side).swapaxes(1, 2).reshape(n, side, side)
    banded = [cell for cell in cells if np.abs(cell).max() > 0]
    assert len(banded) == pytest.approx(0.3 * n, abs=4 * np.sqrt(0.3 * 0.7 * n))
    # A band narrower than its edges stays a little below its brightness.
    heights = np.array([cell.flat[np.abs(cell).argmax()] for cell in banded])
    assert heights.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * len(banded)))
    for cell, height in zip(banded, heights):
        full = np.abs(cell) > 0.99 * abs(height)
        assert (cell * height >= 0).all()  # of the same sign
        # Straight edges: pixels between pixels of a band belong to the band.
        points = np.argwhere(full)
        middle = (points[:1] + points) // 2
        even = ((points[:1] + points) % 2 == 0).all(1)
        assert full[tuple(middle[even].T)].all()


def test_a_groove_is_as_deep_as_stated_and_half_as_deep_at_1_18_widths():
    width = 4 / np.sqrt(2 * np.log(2))  # half the depth 4 pixels from the bottom
    geometry = boundary_geometry(stripes(8, 128, 64))
    image = specimen.groove(np.full((8, 128), 0.8), geometry, depth=0.6, width=width)
    np.testing.assert_allclose(image[:, [63, 64, 0, 127]], 0.8 * (1 - 0.6), rtol=1e-6)  # both sides
    np.testing.assert_allclose(image[:, [59, 68]], 0.8 * (1 - 0.3), rtol=1e-6)
    np.testing.assert_allclose(image[:, 32], 0.8, rtol=1e-6)


def test_grooves_vary_from_facet_to_facet_and_never_exceed_the_depth():
    grain_map = voronoi.tessellate(voronoi.random_seeds(40, (256, 256), 0), (256, 256))
    geometry = boundary_geometry(grain_map)
    ones = np.ones(grain_map.shape)

    def loss(variation):
        image = specimen.groove(ones, geometry, depth=0.6, width=2.0, variation=variation, seed=1)
        bottom = geometry.distance == 0.5
        return ndimage.mean((1 - image)[bottom], geometry.facet[bottom], np.unique(geometry.facet[bottom]))

    np.testing.assert_allclose(loss(0.0), 0.6, rtol=1e-6)
    assert loss(0.9).max() <= 0.6
    assert loss(0.9).std() > 0.1


def test_the_rim_is_brightest_at_its_offset():
    distance = np.arange(0.5, 40)[None]
    image = specimen.edge_brightening(np.ones((1, 40)), distance, gain=0.25, offset=6.5, width=2.0)
    assert image.argmax() == 6
    assert image.max() == pytest.approx(1.25)
    assert image[0, 6 + 4] == pytest.approx(1 + 0.25 * np.exp(-2))  # two deviations away
    assert image[0, -1] == pytest.approx(1)


def test_texture_adds_its_amplitude():
    image = specimen.surface_texture(np.full((128, 128), 0.5), amplitude=0.03, correlation_length=2.0, seed=0)
    assert image.mean() == pytest.approx(0.5, abs=1e-4)
    assert image.std() == pytest.approx(0.03, rel=1e-3)


def test_the_number_of_spots_is_poisson():
    # 60 images of 20 spots on average: the mean has a standard error of 0.58, variance over mean of 0.18.
    counts = []
    for seed in range(60):
        image = specimen.spots(np.zeros((256, 256)), number=80, radius=2.0, contrast=1.0, seed=seed)
        counts.append(ndimage.label(image > 0.15)[1])  # a few touch and count as one
    assert np.mean(counts) == pytest.approx(20, abs=3 * 0.58)
    assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=3 * 0.18)


def test_spots_have_the_requested_sign_and_size():
    small, large = (
        specimen.spots(np.zeros((256, 256)), number=200, radius=r, contrast=-0.5, seed=0) for r in (1.5, 6.0)
    )
    assert small.max() <= 0
    assert large.max() <= 0
    assert large.min() < -0.3
    assert (large < -0.1).mean() > 6 * (small < -0.1).mean()  # 16 times the area, less where they overlap


def test_scratches_are_thin_dark_lines_of_about_their_length_and_depth():
    image = specimen.scratches(np.ones((512, 512)), number=12, length=60.0, depth=0.4, seed=0)
    dark = image < 0.95
    assert image.max() <= 1
    assert image.min() > 1 - 2 * 0.4  # crossings at most
    assert ndimage.distance_transform_edt(dark).max() < 3.5  # nowhere wider than a few pixels
    names, n = ndimage.label(dark, np.ones((3, 3)))
    extent = [max(s.stop - s.start for s in slices) for slices in ndimage.find_objects(names)]
    assert 4 <= n <= 25
    assert 15 < np.median(extent) < 100


def test_contamination_darkens_part_of_the_field_by_at_most_its_depth():
    image = specimen.contamination(np.full((256, 256), 0.5), depth=0.3, correlation_length=10.0, seed=0)
    assert image.max() == pytest.approx(0.5)
    assert image.min() == pytest.approx(0.5 * 0.7, abs=0.01)
    # The film lies where a unit Gaussian field exceeds 0.8: on 21 % of the surface.
    assert (image < 0.5 - 1e-6).mean() == pytest.approx(0.212, abs=0.06)


MAP = voronoi.tessellate(voronoi.random_seeds(12, (64, 64), 0), (64, 64))
GEOMETRY = boundary_geometry(MAP)
EFFECTS = {  # name -> effect with its amplitude as first argument, random number seed as second
    "tilt": lambda i, a, s: specimen.facet_tilt(i, MAP, slope=a, seed=s),
    "terraces": lambda i, a, s: specimen.terraces(
        i, MAP, GEOMETRY.distance, amplitude=a, spacing=6.0, seed=s
    ),
    "growth steps": lambda i, a, s: specimen.growth_steps(i, MAP, amplitude=a, share=1.0, seed=s),
    "groove": lambda i, a, s: specimen.groove(i, GEOMETRY, depth=a, width=2.0, variation=0.5, seed=s),
    "texture": lambda i, a, s: specimen.surface_texture(i, amplitude=a, correlation_length=2.0, seed=s),
    "spots": lambda i, a, s: specimen.spots(i, number=3000 * a, radius=2.0, contrast=0.5, seed=s),
    "scratches": lambda i, a, s: specimen.scratches(i, number=3000 * a, length=20.0, depth=0.5, seed=s),
    "contamination": lambda i, a, s: specimen.contamination(i, depth=a, correlation_length=5.0, seed=s),
}


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_an_effect_acts_alone_repeats_with_its_seed_and_vanishes_with_its_amplitude(effect):
    image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    before = image.copy()
    once = effect(image, 0.2, 1)
    assert once.dtype == np.float32
    assert np.abs(once - image).max() > 0.01
    np.testing.assert_array_equal(once, effect(image, 0.2, 1))
    assert (once != effect(image, 0.2, 2)).any()
    np.testing.assert_allclose(effect(image, 0.0, 1), image, atol=1e-6)
    np.testing.assert_array_equal(image, before)  # the input is not modified


def test_a_length_of_zero_is_refused_by_name():
    image = np.ones((64, 64))
    with pytest.raises(ValueError, match=r"width must be positive, got 0"):
        specimen.groove(image, GEOMETRY, depth=0.5, width=0)
    with pytest.raises(ValueError, match=r"width must be positive, got 0"):
        specimen.edge_brightening(image, GEOMETRY.distance, gain=0.1, offset=2.0, width=0)
    with pytest.raises(ValueError, match=r"spacing must be positive, got 0"):
        specimen.terraces(image, MAP, GEOMETRY.distance, amplitude=0.1, spacing=0, seed=0)


CELLS = voronoi.tessellate(voronoi.regular_seeds(40, (160, 160), 0.5), (160, 160))


def test_relief_brightens_the_slope_that_faces_the_detector_and_darkens_the_other():
    two = stripes(40, 100, 50)  # upright boundary at x = 50, and x = 0 beyond the frame
    flat, distance = np.full(two.shape, 0.5, np.float32), boundary_geometry(two, periodic=False).distance
    lit = specimen.relief(flat, distance, gain=0.4, width=2.0, direction=0.0)
    assert lit[:, 51].min() > 0.55 > 0.45 > lit[:, 48].max()
    assert np.allclose(lit[:, 40:60], 1 - lit[:, 59:39:-1], atol=1e-5)  # as bright as dark
    along = specimen.relief(flat, distance, gain=0.4, width=2.0, direction=np.pi / 2)
    assert np.allclose(along, flat, atol=1e-6)  # the boundary points at the detector


@pytest.mark.parametrize("half_width", [2.0, 6.0])
def test_an_etched_band_has_its_width_and_depth(half_width):
    two = stripes(200, 100, 50)
    geometry = boundary_geometry(two, periodic=False)
    flat = np.full(two.shape, 0.8, np.float32)
    etched = specimen.etched_bands(flat, geometry, half_width=half_width, depth=0.5, raggedness=0.2, seed=0)
    assert etched[:, 49:51].max() == pytest.approx(0.4)
    lost = (0.8 - etched).sum(1) / 0.4  # width of the band in each row
    assert lost.mean() == pytest.approx(2 * half_width, rel=0.2)
    assert lost.std() > 0.03 * half_width  # ragged
    assert np.array_equal(etched[:, :20], flat[:, :20])


def test_gaps_spare_their_share_of_the_boundary_and_a_negative_depth_is_bright():
    geometry = boundary_geometry(CELLS)
    flat = np.full(CELLS.shape, 0.5, np.float32)
    broken = specimen.etched_bands(flat, geometry, half_width=1.5, depth=-0.6, gaps=0.3, seed=1)
    on_boundary = geometry.distance == 0.5
    assert (broken[on_boundary] == 0.5).mean() == pytest.approx(0.3, abs=0.12)
    assert broken.max() == pytest.approx(0.8)


@pytest.mark.parametrize("direction", [0.0, 0.5, 2.0])
def test_marks_are_constant_along_their_direction(direction):
    flat = np.zeros((120, 120), np.float32)
    marks = specimen.parallel_marks(flat, amplitude=0.1, width=1.5, direction=direction, seed=3)
    down, right = (axis[10:-10, 10:-10] for axis in np.gradient(marks))
    along = np.sin(direction) * down + np.cos(direction) * right
    across = np.cos(direction) * down - np.sin(direction) * right
    assert along.std() < 0.08 * across.std()  # of central differences
    assert marks.std() == pytest.approx(0.1, rel=0.35)


def test_slip_lines_run_in_each_grain_s_own_direction():
    directions = np.where(stripes(80, 80, 40) == 0, 0.0, np.pi / 2)
    lines = specimen.parallel_marks(
        np.zeros((80, 80)), amplitude=0.1, width=1.0, direction=directions, seed=4
    )
    assert np.abs(np.diff(lines[:, :40], axis=1)).max() < 1e-6 < np.abs(np.diff(lines[:, :40], axis=0)).max()
    assert np.abs(np.diff(lines[:, 40:], axis=0)).max() < 1e-6 < np.abs(np.diff(lines[:, 40:], axis=1)).max()


@pytest.mark.parametrize(
    ("effect", "wrong"),
    [
        ("relief", {"width": 0}),
        ("relief", {"gain": 2}),
        ("etched_bands", {"half_width": 0}),
        ("etched_bands", {"depth": 2}),
        ("etched_bands", {"raggedness": -1}),
        ("etched_bands", {"gaps": 1}),
        ("parallel_marks", {"width": 0}),
    ],
)
def test_numbers_of_new_effects_out_of_range_are_named(effect, wrong):
    geometry, image = boundary_geometry(CELLS), np.zeros(CELLS.shape, np.float32)
    right = {
        "relief": {"distance": geometry.distance, "gain": 0.1, "width": 1.0, "direction": 0.0},
        "etched_bands": {"geometry": geometry, "half_width": 2.0, "depth": 0.5},
        "parallel_marks": {"amplitude": 0.1, "width": 1.0, "direction": 0.0, "seed": 0},
    }[effect]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        getattr(specimen, effect)(image, **{**right, **wrong})


def test_colours_are_those_of_the_hue_and_differ_between_grains():
    red = specimen.colour_contrast(CELLS, hue=0, spread=0, saturation=1, brightness=0.8, seed=0)
    assert red.shape == (160, 160, 3)
    assert np.allclose(red, [0.8, 0, 0])
    many = specimen.colour_contrast(CELLS, hue=0.6, spread=0.5, saturation=0.5, brightness=0.8, seed=0)
    assert len(np.unique(many.reshape(-1, 3), axis=0)) == 40
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in many[::8, ::8].reshape(-1, 3)])
    assert 0.35 <= hues.min() < 0.45 < 0.75 < hues.max() <= 0.85
    assert np.allclose(many.max(-1), 0.8)  # the brightness of a colour is its largest channel
