"""Synthetic TEM: each concept against its formula, and that each switch changes nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.linalg import expm
from skimage.measure import label
from skimage.morphology import convex_hull_image
from skimage.segmentation import find_boundaries

from microlab.measure.labels import neighbour_pairs
from microlab.render import tem, tem_foil, tem_grains
from microlab.render.tem import CONCEPTS, TEMConfig, TEMPicture, tem_picture, tem_pictures, weak_boundaries

ALL = TEMConfig()
SEEDS = range(3)
PAIRS = [tem_picture(seed) for seed in SEEDS]


def without(*switches: str) -> TEMConfig:
    return replace(ALL, **dict.fromkeys(switches, False))


def assert_same(a: TEMPicture, b: TEMPicture, names: set[str]) -> None:
    for name in names:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


EVERYTHING = {field.name for field in fields(TEMPicture)}


# --- the switches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_without_noise_everything_but_the_image_is_the_same_bit_for_bit(seed):
    quiet = tem_picture(seed, without("noise"))
    assert_same(PAIRS[seed], quiet, EVERYTHING - {"image"})
    np.testing.assert_array_equal(quiet.image, np.clip(quiet.clean, 0, 1))
    assert (PAIRS[seed].image != quiet.image).mean() > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_without_the_drawn_line_only_the_target_changes(seed):
    bare = tem_picture(seed, without("target"))
    assert_same(PAIRS[seed], bare, EVERYTHING - {"boundary"})
    assert not (bare.boundary & ~PAIRS[seed].boundary).any()  # the edge lies within the line
    assert bare.boundary.sum() < 0.8 * PAIRS[seed].boundary.sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_without_contours_the_picture_is_the_same_where_no_contour_is(seed):
    straight = tem_picture(seed, without("contours"))
    assert_same(PAIRS[seed], straight, EVERYTHING - {"image", "clean", "contours"})
    contours = PAIRS[seed].contours
    assert 0 < contours.mean() < 0.9
    assert not straight.contours.any()
    np.testing.assert_array_equal(PAIRS[seed].clean[~contours], straight.clean[~contours])
    assert (PAIRS[seed].clean[contours] <= straight.clean[contours]).all()  # contours are dark
    assert (PAIRS[seed].clean[contours] < straight.clean[contours]).mean() > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_without_shading_the_picture_differs_by_a_smooth_factor_that_ignores_grains(seed):
    shaded, even = (tem_picture(seed, without("overlap", *off)) for off in ((), ("shading",)))
    assert_same(shaded, even, EVERYTHING - {"image", "clean"})
    factor = np.log(shaded.clean / even.clean)
    assert np.ptp(factor) > 0.02
    # A wedge of 0.45 over 96 rows and waves of 0.06 over 40 px, four standard deviations of them.
    assert max(np.abs(np.diff(factor, axis=k)).max() for k in (0, 1)) < 0.45 / 95 + 4 * 0.06 / 40


@pytest.mark.parametrize("seed", SEEDS)
def test_the_switch_of_concept_five_is_both_of_its_halves(seed):
    assert_same(
        tem_picture(seed, without("bending")), tem_picture(seed, without("contours", "shading")), EVERYTHING
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_without_overlap_the_picture_is_the_same_where_nothing_overlaps(seed):
    flat = tem_picture(seed, without("overlap"))
    assert_same(PAIRS[seed], flat, EVERYTHING - {"image", "clean", "overlapped"})
    overlapped = PAIRS[seed].overlapped
    assert 0 < overlapped.mean() < 0.9
    assert not flat.overlapped.any()
    np.testing.assert_array_equal(PAIRS[seed].clean[~overlapped], flat.clean[~overlapped])
    assert (PAIRS[seed].clean[overlapped] != flat.clean[overlapped]).mean() > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_without_similar_neighbours_some_grains_have_other_greys_and_nothing_else(seed):
    varied = tem_picture(seed, without("similar"))
    assert_same(PAIRS[seed], varied, {"labels", "boundary", "beam", "contours"})
    changed = PAIRS[seed].brightness != varied.brightness
    assert 0 < changed.mean() <= 0.5  # one grain of a pair, and no grain is in two pairs
    np.testing.assert_array_equal(varied.brightness, tem_grains.orientation_brightness(varied.beam))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_orientation_all_grains_have_one_grey(seed):
    plain = tem_picture(seed, without("orientation", "similar"))
    assert_same(PAIRS[seed], plain, {"labels", "boundary", "beam", "contours"})
    assert (plain.brightness == ALL.plain).all()
    assert not plain.strength.any()


def test_without_packing_the_noise_contours_shading_and_target_rule_stay_as_they_are():
    # With one grey and no contour or second layer the grains are invisible: everything else must be equal.
    one_grey = ("orientation", "similar", "contours", "overlap")
    packed, random = (tem_picture(4, without(*one_grey, *off)) for off in ((), ("packing",)))
    assert packed.labels.shape == random.labels.shape
    assert (packed.boundary != random.boundary).any()
    assert_same(packed, random, {"image", "clean"})
    np.testing.assert_array_equal(random.boundary, find_boundaries(random.labels, mode="thick"))


def test_every_step_of_every_picture_has_random_numbers_of_its_own():
    sequences = [np.random.SeedSequence(0), *np.random.SeedSequence(0).spawn(20)]
    draws = {tem._stream(sequence, name).random() for sequence in sequences for name in tem.STREAMS}
    assert len(draws) == 21 * len(tem.STREAMS)


def test_every_concept_has_a_switch_that_changes_something():
    for name in CONCEPTS:
        other = tem_picture(0, without(name))
        assert (other.image != PAIRS[0].image).any() or (other.boundary != PAIRS[0].boundary).any(), name


# --- concepts 1 to 4: grains ------------------------------------------------------------------------------


def test_grains_are_convex_and_numbered_without_gaps():
    for pair in PAIRS:
        assert pair.labels.dtype == np.int32
        np.testing.assert_array_equal(np.unique(pair.labels), np.arange(len(pair.brightness)))
        for grain in range(len(pair.brightness)):
            inside = pair.labels == grain
            if inside.sum() < 20:  # a corner that the frame cut off
                continue
            # A polygon drawn on pixels may miss its hull by part of a pixel all around.
            missing = convex_hull_image(inside, offset_coordinates=False).sum() - inside.sum()
            assert missing <= 0.3 * (find_boundaries(inside, mode="inner").sum() + 4)


def test_packing_sets_mean_and_spread_of_the_grain_areas():
    def areas(**options):
        maps = (
            tem_grains.tessellation((400, 400), area=900.0, rng=np.random.default_rng(seed), **options)
            for seed in range(4)
        )
        whole = []
        for grains in maps:
            rim = np.unique(np.concatenate([grains[0], grains[-1], grains[:, 0], grains[:, -1]]))
            whole.append(np.delete(np.bincount(grains.ravel()), rim))
        return np.concatenate(whole)

    alike, spread, chance = (
        areas(cv=0.1, packing=True),
        areas(cv=0.4, packing=True),
        areas(cv=0.1, packing=False),
    )
    # Large grains touch the frame more often and are left out, so the mean is some per cent too small.
    assert alike.mean() == pytest.approx(900, rel=0.08)
    variation = [a.std() / a.mean() for a in (alike, chance, spread)]
    assert variation[0] < 0.3 < variation[1] < variation[2]
    assert variation[1] == pytest.approx(0.53, abs=0.08)  # cells of random points, known value


def test_distance_and_neighbour_agree_with_a_search_through_all_pixels():
    grains = tem_grains.tessellation((30, 40), area=120, cv=0.3, packing=True, rng=np.random.default_rng(1))
    near = tem_grains.facets(grains)
    padded = np.pad(grains, 1, mode="edge")
    sides = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    touching = np.argwhere(np.any([side != grains for side in sides], axis=0))
    pairs = {tuple(pair) for pair in neighbour_pairs(grains)[0]}
    for pixel in np.ndindex(grains.shape):
        distance = np.hypot(*(touching - pixel).T).min() + 0.5
        assert near.distance[pixel] == pytest.approx(distance, abs=1e-5)
        assert tuple(sorted((grains[pixel], near.neighbour[pixel]))) in pairs


def test_a_map_of_one_grain_has_no_boundary():
    near = tem_grains.facets(np.zeros((20, 20), np.int32))
    assert np.isinf(near.distance).all()
    assert not near.neighbour.any()
    assert not tem_grains.boundary_target(np.zeros((20, 20), int), near.distance, width=2.0, drawn=True).any()


def test_the_target_is_closed_two_pixels_thin_and_a_small_share_of_the_picture():
    for pair in PAIRS:
        np.testing.assert_array_equal(
            pair.boundary, find_boundaries(pair.labels, connectivity=1, mode="thick")
        )
        for mask in (pair.boundary, tem_grains.boundary_target(pair.labels, None, width=1, drawn=False)):
            parts = label(~mask, connectivity=1)
            grains_of_part = {
                (part, g) for part, g in zip(parts.ravel(), pair.labels.ravel(), strict=True) if part
            }
            assert len(grains_of_part) == parts.max()  # no part reaches into two grains
    share = [pair.boundary.mean() for pair in tem_pictures(10, 1)]
    assert min(share) > 0.03
    assert max(share) < 0.13


def test_a_wider_line_covers_the_pixels_within_half_its_width():
    pair = tem_picture(0, replace(ALL, line_width=5.0))
    assert (pair.boundary & PAIRS[0].boundary == PAIRS[0].boundary).all()
    assert 2 < pair.boundary.sum() / PAIRS[0].boundary.sum() < 3


def test_brightness_has_the_symmetry_of_the_cube():
    beam = tem_grains.random_directions(50, np.random.default_rng(0))
    expected = tem_grains.orientation_brightness(beam)
    for turn in ([1, 2, 0], [1, 0, 2], [2, 1, 0]):
        np.testing.assert_allclose(tem_grains.orientation_brightness(beam[:, turn]), expected)
    np.testing.assert_allclose(tem_grains.orientation_brightness(-beam * [1, -1, 1]), expected)


def test_grains_on_a_zone_axis_are_darkest():
    # Along [110] five of the thirteen planes stand edge-on; no random direction has that.
    beam = tem_grains.random_directions(2000, np.random.default_rng(0))
    axis = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]]) / np.sqrt([[2], [1], [3]])
    brightness = tem_grains.orientation_brightness(beam)
    assert tem_grains.orientation_brightness(axis).max() < np.quantile(brightness, 0.02)
    assert tem_grains.orientation_brightness(axis).min() >= tem_grains.DIFFUSE


def test_random_orientations_have_the_greys_that_the_docstring_states():
    beam = tem_grains.random_directions(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(beam, axis=1), 1)
    quantiles = np.quantile(tem_grains.orientation_brightness(beam), [0.05, 0.5, 0.95])
    np.testing.assert_allclose(quantiles, [0.35, 0.62, 0.85], atol=0.01)


def test_similar_pairs_are_alike_disjoint_and_as_many_as_requested():
    grains = tem_grains.tessellation((200, 200), area=400, cv=0.3, packing=True, rng=np.random.default_rng(0))
    pairs, _ = neighbour_pairs(grains)
    before = np.linspace(0.2, 1.0, grains.max() + 1)
    after, lines = tem_grains.similar_neighbours(
        before, pairs, share=0.1, difference=0.02, line=0.1, rng=np.random.default_rng(0)
    )
    similar_pairs = np.argwhere(np.triu(lines))
    assert len(similar_pairs) == round(0.1 * len(pairs))
    assert {tuple(m) for m in similar_pairs} <= {tuple(p) for p in pairs}
    assert len(np.unique(similar_pairs)) == similar_pairs.size  # no grain in two pairs
    assert (np.abs(np.diff(after[similar_pairs], axis=1)) <= 0.02).all()
    assert np.abs(lines).max() <= 0.1
    assert (lines == lines.T).all()
    untouched = np.setdiff1d(np.arange(len(before)), similar_pairs)
    np.testing.assert_array_equal(after[untouched], before[untouched])


def test_strength_is_the_contrast_of_the_two_grains_that_meet():
    for pair in PAIRS:
        left, right = pair.labels[:, :-1], pair.labels[:, 1:]
        contrast = np.abs(pair.brightness[left] - pair.brightness[right])
        # Where only these two grains are near, the strength must be theirs.
        alone = np.array([len(np.unique(pair.labels[1:4, x : x + 4])) == 2 for x in range(490)])
        places = np.flatnonzero(alone & (left != right)[2, 1:491])
        assert len(places) > 3
        for x in places:
            assert pair.strength[2, x + 1] == pytest.approx(contrast[2, x + 1], abs=1e-6)


def test_weak_and_strong_boundaries_are_both_common_and_make_up_the_target():
    pairs = list(tem_pictures(10, 3))
    weak = sum(weak_boundaries(pair).sum() for pair in pairs) / sum(pair.boundary.sum() for pair in pairs)
    assert 0.25 < weak < 0.6
    np.testing.assert_array_equal(weak_boundaries(pairs[0], np.inf), pairs[0].boundary)
    assert not weak_boundaries(pairs[0], 0.0).any()


# --- concepts 5 to 7: foil and microscope -----------------------------------------------------------------


@pytest.mark.parametrize("thickness", [0.3, 1.0, 2.2])
def test_contours_follow_the_howie_whelan_equations(thickness):
    for p in (0.0, 0.4, -1.5, 3.0):
        both_beams = expm(1j * np.pi * thickness * np.array([[0, 1], [1, 2 * p]]))
        assert tem_foil.diffracted(np.array(p), thickness) == pytest.approx(
            abs(both_beams[1, 0]) ** 2, abs=1e-12
        )


def test_a_contour_stays_in_its_grain_and_takes_no_more_than_its_depth():
    grains = np.zeros((96, 200), np.int32)
    grains[:, 100:] = 1
    jumps = []
    for seed in range(40):
        factor = tem_foil.bend_contours(
            grains, depth=0.4, bending=3.0, length=60.0, thickness=1.5, rng=np.random.default_rng(seed)
        )
        assert factor.min() >= 0.6 - 1e-6
        assert factor.max() <= 1
        jumps.append(
            np.abs(factor[:, 100] - factor[:, 99]).max() / np.abs(np.diff(factor[:, :100])).max(initial=0.02)
        )
    assert max(jumps) > 3  # the band ends at the boundary


def test_a_wedge_changes_the_brightness_by_its_slope():
    factor = tem_foil.thickness_shading(
        (40, 60), slope=0.3, waviness=0.0, length=50.0, rng=np.random.default_rng(0)
    )
    down, along = np.log(factor[-1] / factor[0]), np.log(factor[:, -1] / factor[:, 0])
    assert np.ptp(down) == pytest.approx(0, abs=1e-5)
    assert np.ptp(along) == pytest.approx(0, abs=1e-5)
    assert np.hypot(down[0], along[0]) == pytest.approx(0.3, abs=1e-5)


def test_a_smooth_field_has_unit_variance_and_the_stated_covariance():
    fields_ = np.array(
        [tem_foil.smooth_field((21, 21), 10.0, np.random.default_rng(seed)) for seed in range(2000)]
    )
    error = 4 * np.sqrt(2 / 2000)  # four standard errors of a product of unit normals, at most
    for dy, dx in ((0, 0), (10, 0), (0, 20), (10, 10)):
        covariance = (fields_[:, 0, 0] * fields_[:, dy, dx]).mean()
        assert covariance == pytest.approx(np.exp(-(dy**2 + dx**2) / 200), abs=error)


def test_an_inclined_boundary_is_a_ramp_that_meets_in_the_middle():
    grains = np.zeros((10, 80), np.int32)
    grains[:, 40:] = 1
    brightness, near = np.array([0.4, 0.8]), tem_grains.facets(grains)
    ramps = [
        brightness[grains]
        * tem_foil.inclined_boundaries(brightness, grains, near, width=12.0, rng=np.random.default_rng(seed))
        for seed in range(8)
    ]
    for ramp in ramps:
        np.testing.assert_allclose(ramp[:, [39, 40]], 0.6, atol=1e-6)
        np.testing.assert_allclose(ramp + ramp[:, ::-1], 1.2, atol=1e-6)
        assert (np.diff(ramp) >= -1e-6).all()
        assert (ramp[:, :27] == 0.4).all()
    assert np.ptp([(ramp != ramp[0, 0]).sum() for ramp in ramps]) > 0  # widths differ


def test_a_second_layer_covers_grains_completely_or_not_at_all():
    cells = tem_grains.tessellation((96, 300), area=600, cv=0.3, packing=True, rng=np.random.default_rng(0))
    beam = tem_grains.random_directions(cells.max() + 1, np.random.default_rng(1))

    def layer(share):
        return tem_foil.second_layer(cells, beam, share=share, weight=0.3, rng=np.random.default_rng(2))

    assert not layer(0.0)[0].any()
    weight, grey = layer(0.4)
    assert 0 < weight.max() <= 0.3
    coverage = np.array([(weight[cells == cell] > 0).mean() for cell in range(cells.max() + 1)])
    assert set(coverage) == {0.0, 1.0}
    assert 0.2 < coverage.mean() < 0.6
    np.testing.assert_allclose(grey, tem_grains.orientation_brightness(beam)[cells], rtol=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_has_the_stated_variance_whatever_its_correlation(correlation):
    image = tem_foil.blur_and_noise(
        np.full((200, 200), 0.5),
        blur=1.0,
        variance=0.01,
        correlation=correlation,
        rng=np.random.default_rng(0),
    )
    assert image.mean() == pytest.approx(0.5, abs=0.001)
    assert image.var() == pytest.approx(0.01, rel=0.01)
    neighbours = np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]
    # White noise smoothed with a Gaussian of deviation s correlates by exp(-1 / (4 s^2)) with its neighbour.
    expected = np.exp(-1 / (4 * correlation**2)) if correlation else 0.0
    assert neighbours == pytest.approx(expected, abs=0.04)


def test_the_blur_has_its_width():
    step = np.zeros((20, 60))
    step[:, 30:] = 1
    image = tem_foil.blur_and_noise(
        step, blur=1.5, variance=0.0, correlation=0.0, rng=np.random.default_rng(0)
    )
    profile = np.diff(image[10].astype(float))
    x = np.arange(59) - 29
    assert (profile * x).sum() == pytest.approx(0, abs=1e-4)
    assert (profile * x**2).sum() == pytest.approx(1.5**2, rel=0.02)


# --- pairs ------------------------------------------------------------------------------------------------


def test_shapes_types_and_ranges():
    for pair in PAIRS:
        for name in ("image", "boundary", "clean", "labels", "strength", "contours", "overlapped"):
            assert getattr(pair, name).shape == (96, 496), name
        assert pair.image.dtype == pair.clean.dtype == pair.strength.dtype == np.float32
        assert pair.boundary.dtype == bool
        assert pair.image.min() >= 0
        assert pair.image.max() <= 1
        assert pair.brightness.shape == (pair.labels.max() + 1,)
        assert pair.beam.shape == (
            len(pair.brightness),
            3,
        )


def test_the_same_seed_gives_the_same_pair_and_another_seed_another():
    assert_same(tem_picture(0), PAIRS[0], EVERYTHING)
    assert_same(tem_picture(np.random.default_rng(7)), tem_picture(np.random.default_rng(7)), EVERYTHING)
    assert (PAIRS[0].image != PAIRS[1].image).any()


@pytest.mark.slow
def test_many_pairs_depend_neither_on_their_number_nor_on_the_processes():
    small = replace(ALL, shape=(32, 48), grain_area=(100.0, 200.0))
    two_pairs, four_pairs = list(tem_pictures(2, 5, small)), list(tem_pictures(4, 5, small, jobs=2))
    for a, b in zip(two_pairs, four_pairs, strict=False):
        assert_same(a, b, EVERYTHING)
    assert (four_pairs[2].image != four_pairs[3].image).any()


def test_a_pair_of_many_is_that_of_its_own_seed_sequence():
    config = TEMConfig(shape=(32, 48), grain_area=(200.0, 400.0))
    sequences = np.random.SeedSequence(5).spawn(3)
    for sequence, pair in zip(sequences, tem_pictures(3, 5, config), strict=True):
        alone = tem_picture(sequence, config)
        sequence.spawn(2)  # children spawned elsewhere change nothing
        for drawn in (alone, tem_picture(sequence, config)):
            np.testing.assert_array_equal(drawn.image, pair.image)
            np.testing.assert_array_equal(drawn.boundary, pair.boundary)
    whole = tem_picture(np.random.SeedSequence(5), config)
    np.testing.assert_array_equal(whole.image, tem_picture(5, config).image)
    assert not np.array_equal(whole.image, tem_picture(sequences[0], config).image)


def test_other_sizes_work_down_to_large_grains_in_a_small_frame():
    for shape in ((16, 16), (17, 300), (64, 64)):
        assert tem_picture(0, replace(ALL, shape=shape)).image.shape == shape


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shape": (8, 496)}, r"shape must be two sizes of at least 16 px, got \(8, 496\)"),
        ({"grain_area": (10.0, 100.0)}, "grain_area must be at least 50 px"),
        ({"blur": (2.0, 1.0)}, r"blur must be at least 0, and rise if a range, got \(2.0, 1.0\)"),
        ({"noise_variance": (0.0, 0.01)}, "noise_variance must start above 0"),
        ({"layer_share": (0.0, 1.5)}, "layer_share is a share"),
        ({"line_width": 0.5}, "line_width must be at least 1 px, got 0.5"),
        ({"faint_line": float("nan")}, "faint_line must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        TEMConfig(**setting)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        tem_pictures(0)
