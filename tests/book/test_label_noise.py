"""Poor masks: each kind of error alone, and the quality of the default masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from microlab.book.experiments.label_noise import PoorMask, changed_pixels, poor_mask
from microlab.data.datasets import available, load
from microlab.measure.pixel import missing_class_iou, pixel_accuracy

NONE = PoorMask(boundary=0, merge=0, wrong=0)


def squares(size: int = 96, side: int = 8, pitch: int = 16) -> np.ndarray:
    """Squares of alternating classes 1 and 2 on class 0."""
    rows, columns = np.indices((size, size))
    inside = (rows % pitch >= pitch - side) & (columns % pitch >= pitch - side)
    return np.where(inside, 1 + (rows // pitch + columns // pitch) % 2, 0).astype(np.uint8)


def test_nothing_changes_when_every_switch_is_zero() -> None:
    mask = squares()
    np.testing.assert_array_equal(poor_mask(mask, NONE), mask)
    assert set(changed_pixels(mask, NONE).values()) == {0.0}


@pytest.mark.parametrize("switch", [{"boundary": 2.0}, {"merge": 9.0}, {"wrong": 0.5}])
def test_each_switch_alone_changes_the_mask_and_is_reported(switch: dict[str, float]) -> None:
    settings = replace(NONE, wrong_area=0.1, **switch)
    mask = squares()
    mask[:, :40] = np.where(mask[:, :40] > 0, 1, 0)  # neighbours of one class, so that something can merge
    (name,) = switch
    shares = changed_pixels(mask, settings, 3)
    different = np.mean(poor_mask(mask, settings, 3) != mask)
    assert different > 0
    assert shares == {"boundary": 0.0, "merge": 0.0, "wrong": 0.0} | {name: different, "all": different}


def test_the_same_seed_gives_the_same_mask_and_the_expert_s_is_unchanged() -> None:
    mask = squares()
    kept = mask.copy()
    first, again, other = (poor_mask(mask, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, poor_mask(mask, seed=np.random.default_rng(5)))
    assert (first != other).any()
    assert first.dtype == mask.dtype
    np.testing.assert_array_equal(mask, kept)


def test_a_straight_border_shifts_by_the_amplitude_and_over_the_correlation_length() -> None:
    length, amplitude, correlation = 4000, 3.0, 20.0
    mask = np.zeros((length, 60), np.uint8)
    mask[:, 30:] = 1
    settings = replace(NONE, boundary=amplitude, correlation=correlation)
    shift = 30 - (poor_mask(mask, settings, 1) == 1).sum(1).astype(float)
    # About 200 independent stretches: such a root mean square scatters by 1 / sqrt(400) = 5 %.
    assert np.sqrt(np.mean(shift**2)) == pytest.approx(amplitude, rel=0.15)
    shift -= shift.mean()
    lags = [np.mean(shift[lag:] * shift[: length - lag]) / shift.var() for lag in (0, 20, 60)]
    assert lags[1] == pytest.approx(np.exp(-1), abs=0.15)
    assert abs(lags[2]) < 0.2  # exp(-9), plus what 200 stretches leave


def test_gaps_up_to_the_merge_distance_close_and_wider_ones_stay() -> None:
    mask = np.zeros((40, 80), np.uint8)
    for left in (2, 19, 38, 59):  # squares 15 wide: gaps of 2, 4 and 6
        mask[10:25, left : left + 15] = 2

    def number(distance: float) -> int:
        merged = poor_mask(mask, replace(NONE, merge=distance))
        assert set(np.unique(merged)) == {0, 2}
        assert (merged[mask == 2] == 2).all()  # objects only grow
        return ndimage.label(merged == 2)[1]

    assert [number(distance) for distance in (0, 2, 4, 6)] == [4, 3, 2, 1]


def test_neighbours_of_different_classes_do_not_merge() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:25, 5:19] = 1
    mask[5:25, 21:35] = 2
    np.testing.assert_array_equal(poor_mask(mask, replace(NONE, merge=3)), mask)


def test_wrong_classes_take_whole_objects_in_the_stated_share() -> None:
    mask = squares(640)
    poor = poor_mask(mask, replace(NONE, wrong=0.2), 2)
    labels, count = ndimage.label(mask)
    for index, place in enumerate(ndimage.find_objects(labels), 1):
        assert len(np.unique(poor[place][labels[place] == index])) == 1
    changed = np.unique(labels[poor != mask])
    assert 0 not in changed  # the background is larger than wrong_area
    assert count == 1600
    assert len(changed) / count == pytest.approx(0.2, abs=0.03)  # three standard deviations of 1600 draws
    assert set(np.unique(poor[mask == 1])) == {0, 1, 2}
    only = np.full((8, 8), 3, np.uint8)
    np.testing.assert_array_equal(poor_mask(only, replace(NONE, wrong=1, wrong_area=1)), only)


def test_every_small_object_is_mistaken_at_share_one_and_none_keeps_its_class() -> None:
    mask = squares()
    poor = poor_mask(mask, replace(NONE, wrong=1))
    assert (poor[mask > 0] != mask[mask > 0]).all()
    np.testing.assert_array_equal(poor[mask == 0], 0)


def test_switches_draw_independent_random_numbers() -> None:
    mask = squares()
    both = poor_mask(mask, replace(NONE, merge=1, wrong=0.3), 4)
    np.testing.assert_array_equal(both, poor_mask(mask, replace(NONE, wrong=0.3), 4))  # nothing to merge here


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"boundary": -1}, "boundary"),
        ({"merge": np.nan}, "merge"),
        ({"correlation": 0}, "correlation"),
        ({"wrong": 1.5}, "wrong"),
        ({"wrong_area": -0.1}, "wrong_area"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^{named} "):
        PoorMask(**settings)


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4)), np.zeros((4, 4, 3), int), np.array([[-1, 0]]), np.zeros((0, 4), int)]
)
def test_invalid_masks_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mask must be class ids"):
        poor_mask(mask)


@pytest.mark.skipif(not available("uhcs"), reason="uhcs is not on this machine")
def test_the_defaults_agree_with_the_expert_like_a_hasty_annotator() -> None:
    masks = [sample.classes for sample in load("uhcs", "train")][::3]
    poor = [poor_mask(mask, seed=k) for k, mask in enumerate(masks)]
    accuracy = np.mean(pixel_accuracy(masks, poor, 4, per_image=True))
    assert 0.88 < accuracy < 0.95
    assert 0.65 < missing_class_iou(masks, poor, 4, per_image=False) < 0.85
