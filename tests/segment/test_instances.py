"""Claims of microlab.segment.instances, against brute force and known polycrystals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import adapted_rand_error
from skimage.segmentation import watershed

from microlab.measure.labels import boundaries, components, touching_edge
from microlab.segment.instances import _refilled, closed_boundary, deep_basins, watershed_grains


def polycrystal(n: int = 160, grains: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Label image 1..grains and the distance, px, to the nearest boundary."""
    points = np.random.default_rng(seed).random((grains, 2)) * n
    y, x = np.mgrid[:n, :n]
    labels = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1) + 1
    line = np.zeros((n, n), bool)
    line[:-1] |= labels[:-1] != labels[1:]
    line[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return labels, ndimage.distance_transform_edt(~line)


def noisy_probability(distance: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    clean = np.exp(-((distance / 2) ** 2))
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(distance.shape), 2)
    return np.clip(clean + noise * rough / rough.std(), 0, 1)


def test_grains_of_a_clean_polycrystal_are_recovered():
    truth, distance = polycrystal()
    labels = watershed_grains(np.exp(-((distance / 2) ** 2)))
    assert labels.dtype == np.int32
    assert labels.max() == len(np.unique(truth))
    # The boundary line itself belongs to neither side: two pixels away from it every pixel must agree.
    inner = np.where(distance >= 2, truth, 0)
    assert adapted_rand_error(inner, labels, ignore_labels=(0,))[0] < 1e-9


def test_noise_of_a_tenth_leaves_the_count_within_five_percent():
    truth, distance = polycrystal(n=256, grains=60)
    labels = watershed_grains(noisy_probability(distance, 0.1))
    assert abs(labels.max() - len(np.unique(truth))) <= 3


def test_a_gap_joins_components_but_not_basins():
    probability = np.zeros((60, 61))
    probability[:, 28:33] = 0.9
    probability[28:32, 28:33] = 0.3  # a gap in the boundary, still darker than the grains
    assert components(probability).max() == 1
    labels = watershed_grains(probability)
    assert labels.max() == 2
    assert len(np.unique(labels[:, :28])) == len(np.unique(labels[:, 33:])) == 1


def boundary_with_gap(gap: int) -> np.ndarray:
    """Two grains of 40 x 40 px, the boundary between them open over `gap` of its 40 px."""
    probability = np.zeros((40, 84))
    probability[:, 40:44] = 0.9
    start = 20 - gap // 2
    probability[start : start + gap, 40:44] = 0.0
    return probability


def test_a_boundary_is_kept_across_a_gap_without_signal():
    probability = boundary_with_gap(12)
    assert components(probability).max() == 1
    labels = watershed_grains(probability)
    assert labels.max() == 2
    assert (labels[:, :40] == labels[0, 0]).mean() > 0.99
    assert watershed_grains(probability, open_share=0.2).max() == 1  # 12 of 40 px are open


def test_a_waist_that_is_more_than_half_open_is_not_a_boundary():
    assert watershed_grains(boundary_with_gap(30), neck=1.0).max() == 1
    assert watershed_grains(boundary_with_gap(30), neck=1.0, open_share=1.0).max() == 2


def test_the_excess_of_the_radius_over_the_neck_makes_a_seed():
    # An hourglass of interior: inscribed radii 15 and 10, half width of the waist 5.
    y, x = np.mgrid[:41, :70]
    inside = ((x - 18) ** 2 + (y - 20) ** 2 <= 15**2) | ((x - 45) ** 2 + (y - 20) ** 2 <= 10**2)
    inside |= (np.abs(y - 20) <= 5) & (x > 18) & (x < 45)
    probability = np.where(inside, 0.0, 0.9)
    grains = {
        neck: watershed_grains(probability, neck=neck, open_share=1.0, smooth=0).max() for neck in (3, 8)
    }
    assert grains == {3: 2, 8: 1}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rough=st.floats(0.5, 4), cut=st.floats(0.3, 0.7), neck=st.floats(0.5, 4))
def test_no_region_that_the_threshold_shows_is_lost(seed, rough, cut, neck):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((48, 40)), rough)
    field = (field - field.min()) / np.ptp(field)
    labels = watershed_grains(field, threshold=cut, neck=neck, faint=0.9, open_share=0.0, min_area=12)
    regions, n = ndimage.label(field < cut)
    large = [k for k in range(1, n + 1) if (regions == k).sum() >= 12]
    # One grain per region: the grain that covers most of one region covers most of no other.
    owners = [np.bincount(labels[regions == k]).argmax() for k in large]
    assert len(set(owners)) == len(owners)
    assert set(np.unique(labels)) == set(range(1, labels.max() + 1))
    assert np.bincount(labels.ravel())[1:].min() >= 12


def test_grains_fill_the_image_unless_gaps_are_requested():
    _, distance = polycrystal()
    probability = noisy_probability(distance, 0.05)
    assert watershed_grains(probability).min() == 1
    with_gaps = watershed_grains(probability, gaps=True)
    assert np.array_equal(with_gaps == 0, probability >= 0.5)


def test_grains_smaller_than_min_area_go_to_their_neighbours():
    probability = np.zeros((40, 40))
    probability[10:19, 10:19] = 0.9
    probability[12:17, 12:17] = 0.0  # a grain of 25 px within a ring
    assert watershed_grains(probability, min_area=20).max() == 2
    merged = watershed_grains(probability, min_area=90)
    assert merged.max() == 1
    assert merged.min() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (3, 4)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_tiny_and_uniform_images_are_one_grain(shape, value):
    labels = watershed_grains(np.full(shape, value))
    assert labels.shape == shape
    assert (labels == 1).all()


def test_components_agree_with_scipy_and_do_not_leak_over_corners():
    mask = np.random.default_rng(3).random((50, 60)) < 0.4
    labels, n = ndimage.label(~mask)  # scipy's default is connectivity through edges
    ours = components(mask)
    assert ours.max() == n
    assert len(np.unique(np.stack([labels.ravel(), ours.ravel()]), axis=1).T) == n + 1
    diagonal = np.eye(20, dtype=bool)
    assert components(diagonal).max() == 2


def test_components_cut_a_probability_and_drop_small_regions():
    probability = np.full((12, 12), 0.1)
    probability[:, 6] = 0.5  # at the threshold counts as boundary
    probability[2, :3] = probability[0:3, 2] = 0.8  # closes off 2 x 2 pixels in the corner
    assert components(probability).max() == 3
    assert components(probability, min_area=5).max() == 2
    assert components(probability, threshold=0.6).max() == 2
    filled = components(probability, min_area=5, fill=True)
    assert filled.min() == 1
    assert (filled[:, :6] == filled[5, 0]).all()


def test_boundaries_are_the_pixels_beside_another_grain():
    labels, _ = polycrystal(n=40, grains=9)
    labels[5:8, 5:8] = 0
    expected = labels == 0
    for axis in (0, 1):
        for shift in (1, -1):
            other = np.roll(labels, shift, axis)
            differs = (other != labels) & (other > 0) & (labels > 0)  # label 0 is a line as it is drawn
            rim = [slice(None)] * 2
            rim[axis] = 0 if shift == 1 else -1
            differs[tuple(rim)] = False  # no wrapping round
            expected |= differs
    assert np.array_equal(boundaries(labels), expected)


def test_edge_grains_are_kept_and_named():
    truth, distance = polycrystal()
    labels = watershed_grains(np.exp(-((distance / 2) ** 2)))
    edge = touching_edge(labels)
    inner = np.unique(labels[1:-1, 1:-1])
    expected = [k for k in inner if (labels == k)[[0, -1]].any() or (labels == k)[:, [0, -1]].any()]
    assert edge.tolist() == expected
    assert 0 < len(edge) < labels.max()
    assert touching_edge(np.pad(truth, 1)).size == 0  # a frame of boundary: no grain touches


def test_deep_basins_follow_their_definition_in_one_row():
    surface = np.array([[0.0, 1.0, 0.4, 1.2, 0.9, 1.3]])  # depths: the lowest, 0.6, 0.3
    assert deep_basins(surface, 0.25).max() == 3
    assert deep_basins(surface, 0.5).max() == 2
    assert deep_basins(surface, 0.7).max() == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: watershed_grains(np.zeros((2, 2, 2))), r"\(H, W\)"),
        (lambda: watershed_grains(np.zeros((0, 4))), "at least one pixel"),
        (lambda: watershed_grains(np.full((4, 4), np.nan)), r"\[0, 1\]"),
        (lambda: watershed_grains(np.full((4, 4), 255.0)), r"\[0, 1\].*255"),
        (lambda: watershed_grains(np.zeros((4, 4)), threshold=1.0), "threshold"),
        (lambda: watershed_grains(np.zeros((4, 4)), neck=0.0), "neck"),
        (lambda: watershed_grains(np.zeros((4, 4)), faint=1.0), "faint"),
        (lambda: watershed_grains(np.zeros((4, 4)), open_share=2.0), "open_share"),
        (lambda: watershed_grains(np.zeros((4, 4)), min_area=0), "min_area"),
        (lambda: components(np.zeros((4, 4)), threshold=0.0), "threshold"),
    ],
)
def test_a_wrong_argument_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("levels", [8, None])  # few levels: many seeds of equal probability
def test_reflooding_small_basins_equals_reflooding_everything(levels):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        probability = ndimage.gaussian_filter(rng.random((40, 40)), 1.0)
        if levels:
            probability = np.round(probability * levels) / levels
        seeds = np.zeros((40, 40), int)
        seeds[tuple(rng.integers(0, 40, (2, 12)))] = np.arange(1, 13)
        labels = watershed(probability, seeds, connectivity=1)
        small = np.isin(labels, rng.choice(12, 3, replace=False) + 1)
        everything = watershed(probability, np.where(small, 0, labels), connectivity=1)
        np.testing.assert_array_equal(_refilled(probability, labels, small), everything)


def covered(shape: tuple[int, int]) -> np.ndarray:
    valid = np.ones(shape, bool)
    valid[-50:, 30:90] = False
    y, x = np.indices(shape)
    return valid & (x + y > 60)


def test_no_grain_lies_outside_of_the_field_of_view_and_those_inside_are_found():
    truth, distance = polycrystal()
    valid = covered(truth.shape)
    probability = np.where(
        valid, np.exp(-((distance / 2) ** 2)), np.random.default_rng(0).random(truth.shape)
    )
    labels = watershed_grains(probability, valid=valid)
    assert (labels[~valid] == 0).all()
    assert (labels[valid] > 0).all()
    inner = np.where((distance >= 2) & valid, truth, 0)
    assert (
        adapted_rand_error(inner, labels, ignore_labels=(0,))[0] < 0.002
    )  # slivers at the edge of the field
    lines = closed_boundary(probability, labels, valid=valid)
    assert not lines[~valid].any()
    assert not lines[(distance > 6) & valid].any()  # none along the edge of the field either


def test_grains_are_not_joined_across_what_is_not_the_specimen():
    valid = np.ones((40, 80), bool)
    valid[:, 35:45] = False
    labels = watershed_grains(np.zeros((40, 80)), valid=valid)
    assert labels.max() == 2
    assert not watershed_grains(np.zeros((40, 80)), valid=np.zeros((40, 80), bool)).any()


def test_small_pieces_at_the_edge_of_the_field_do_not_flow_out_of_it():
    rng = np.random.default_rng(1)
    probability = rng.random((60, 60)) * 0.4
    probability[20], probability[:, 20], probability[24] = 0.9, 0.9, 0.9
    valid = np.ones((60, 60), bool)
    valid[:22, :22] = False
    labels = watershed_grains(probability, valid=valid, min_area=120)
    assert (labels[~valid] == 0).all()
    assert (labels[valid] > 0).all()


def test_a_gap_in_the_field_of_view_smaller_than_a_grain_stays_empty():
    valid = np.ones((50, 50), bool)
    valid[20:24, 20:25] = False  # 20 px, less than min_area
    probability = 0.1 * np.random.default_rng(0).random((50, 50))  # no two alike
    labels = watershed_grains(probability, valid=valid, min_area=30)
    assert (labels[~valid] == 0).all()
