"""Objects of masks, and the cleaning of raw masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops
from sklearn.cluster import KMeans

from microlab.data.datasets import available, load
from microlab.generate.masks import clean_mask, least_areas, object_areas, objects
from microlab.generate.pairs import unpack

STEP = 1 / 3  # between the grey levels of four classes


def discs(size: int = 128, classes: tuple[int, ...] = (1, 2, 3), radius: int = 14) -> np.ndarray:
    """Discs of the classes, far apart on class 0; each has 613 pixels."""
    mask = np.zeros((size, size), np.uint8)
    rows, columns = np.indices(mask.shape)
    for k, c in enumerate(classes):
        y, x = 32 + 64 * (k // 2), 32 + 64 * (k % 2)
        mask[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = c
    return mask


def test_grey_noise_salt_and_small_objects_are_cleaned_exactly() -> None:
    truth = discs()
    rng = np.random.default_rng(0)
    raw = truth * STEP + 0.03 * rng.standard_normal(truth.shape)  # 5.5 standard deviations to halfway levels
    # Salt and pepper away from the rims: on a rim both sides are equally near, so the right one is ambiguous.
    rim = ndimage.binary_dilation(truth > 0, iterations=2) & ~ndimage.binary_erosion(truth > 0, iterations=2)
    salt = (rng.random(truth.shape) < 0.01) & ~rim
    raw[salt] = rng.integers(0, 4, salt.sum()) * STEP
    raw[60:70, 5:20] = STEP * 3  # an object of 150 px, alone on the background
    raw[28:36, 28:36] = 0  # a hole of 64 px inside a disc
    raw[88:92, 88:92] = 1.5 * STEP  # a grey halfway between two classes
    assert (clean_mask(raw.clip(0, 1), 4, min_area=0) != truth).sum() > 300
    cleaned = clean_mask(raw.clip(0, 1), 4)
    np.testing.assert_array_equal(cleaned, truth)
    assert cleaned.dtype == np.uint8


@pytest.mark.parametrize("present", [(), (1,), (3,), (1, 3), (2, 3)])
def test_an_absent_class_is_not_invented(present: tuple[int, ...]) -> None:
    truth = discs(classes=present)
    rng = np.random.default_rng(1)
    raw = truth * STEP + 0.03 * rng.standard_normal(truth.shape)  # 5.5 standard deviations to halfway levels
    np.testing.assert_array_equal(clean_mask(raw.clip(0, 1), 4, min_area=0), truth)


def test_k_means_on_the_histogram_is_k_means_on_the_pixels() -> None:
    raw = np.random.default_rng(2).random((64, 64)) ** 2
    levels = np.linspace(0, 1, 4)[:, None]
    pixels = KMeans(4, init=levels, n_init=1).fit(raw.reshape(-1, 1)).labels_.reshape(raw.shape)
    # 1023 levels: the few pixels within half a level of a bound may be assigned to its other side
    assert (clean_mask(raw, 4, min_area=0) != pixels).mean() < 0.003


def test_k_means_follows_levels_shifted_by_a_decoder_where_rounding_does_not() -> None:
    truth = discs()
    shifted = np.array([0.0, 0.25, 0.53, 0.85])[truth]  # class 2 is 0.03 from the midpoint to class 1
    raw = (shifted + 0.05 * np.random.default_rng(3).standard_normal(truth.shape)).clip(0, 1)
    rounded = np.rint(raw * 3).astype(int)
    cleaned = clean_mask(raw, 4, min_area=0)
    assert (cleaned != truth).mean() < 0.5 * (rounded != truth).mean()


def test_a_grey_border_between_far_classes_gets_a_rim_of_false_ones() -> None:
    truth = discs(classes=(3,))
    blurred = ndimage.gaussian_filter(truth * STEP, 1.5)
    rim = clean_mask(blurred, 4, min_area=0)
    false = np.isin(rim, (1, 2))
    assert false.sum() > 100
    distance = ndimage.distance_transform_edt(truth == 3) + ndimage.distance_transform_edt(truth == 0)
    assert distance[false].max() < 5  # all of it lies along the border
    # Each rim is shorter than 200 px: removing small objects corrects it.
    cleaned = clean_mask(blurred, 4)
    assert set(np.unique(cleaned)) == {0, 3}
    assert (cleaned != truth).mean() < 0.002
    # One-hot channels have no levels to pass through.
    channels = np.stack(
        [np.zeros_like(blurred), *(ndimage.gaussian_filter(1.0 * (truth == c), 1.5) for c in range(4))]
    )
    _, raw = unpack(channels, classes=4, coding="one-hot", image_channels=1)
    assert set(np.unique(raw)) == {0, 3}
    assert (raw != truth).mean() < 0.002


def test_the_rim_of_a_large_object_is_too_large_to_be_removed() -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 128:] = 3
    blurred = ndimage.gaussian_filter(truth * STEP, 1.5)
    assert set(np.unique(clean_mask(blurred, 4))) == {0, 1, 2, 3}  # a limitation stated in the docstring


def test_no_object_below_the_minimum_area_is_left_and_larger_ones_are_kept() -> None:
    raw = ndimage.gaussian_filter(np.random.default_rng(4).random((3, 120, 120)), (0, 2, 2)).argmax(0)
    cleaned = clean_mask(raw, 3, min_area=60)
    for c in range(3):
        labels, _ = ndimage.label(cleaned == c, structure=np.ones((3, 3)))
        assert np.bincount(labels.ravel())[1:].min() >= 60
        before, _ = ndimage.label(raw == c, structure=np.ones((3, 3)))
        large = np.flatnonzero(np.bincount(before.ravel())[1:] >= 60) + 1
        assert (cleaned[np.isin(before, large)] == c).all()
    np.testing.assert_array_equal(clean_mask(cleaned, 3, min_area=60), cleaned)


def test_a_removed_object_is_divided_along_the_border() -> None:
    raw = np.zeros((40, 40), np.uint8)
    raw[:, 20:] = 1
    truth = raw.copy()
    raw[15:25, 15:25] = 2  # 100 px across the border
    np.testing.assert_array_equal(clean_mask(raw, 3), truth)


def test_each_class_can_have_its_own_minimum_area() -> None:
    raw = np.zeros((60, 60), np.uint8)
    raw[5:15, 5:15] = 1
    raw[30:40, 30:40] = 2
    cleaned = clean_mask(raw, 3, min_area=(200, 200, 50))
    assert set(np.unique(cleaned)) == {0, 2}


def test_the_largest_object_stays_when_all_are_small() -> None:
    raw = np.zeros((10, 10), np.uint8)
    raw[:, 7:] = 1
    np.testing.assert_array_equal(clean_mask(raw, 2), np.zeros((10, 10)))


def test_objects_and_areas_agree_with_scipy_and_skimage() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(5).random((4, 90, 90)), (0, 1.5, 1.5)).argmax(0)
    areas = object_areas(mask, 5)
    assert len(areas[4]) == 0
    for c in range(4):
        labels, count = ndimage.label(mask == c, structure=np.ones((3, 3)))
        expected = sorted(region.area for region in regionprops(labels))
        assert len(areas[c]) == count
        assert sorted(areas[c]) == expected
    assert objects(mask).min() == 1


def test_minimum_areas_lose_no_more_than_the_share() -> None:
    mask = np.zeros((100, 100), np.uint8)
    for k in range(10):  # 10 specks of 4 px beside one object of 400 px: 9 % of class 1
        mask[2:4, 4 + 8 * k : 6 + 8 * k] = 1
    mask[40:60, 40:60] = 1
    mask[80:83, 80:83] = 2
    assert least_areas([mask], 4, share=0.08) == (200, 4, 9, 200)
    assert least_areas([mask], 4, share=0.1) == (200, 200, 9, 200)
    kept = clean_mask(mask, 4, min_area=least_areas([mask], 4, share=0.08))
    np.testing.assert_array_equal(kept, mask)


@pytest.mark.skipif(not available("uhcs"), reason="uhcs is not on this machine")
def test_the_paper_s_200_px_erase_the_spheroidite_of_uhcs_and_learnt_areas_do_not() -> None:
    masks = [sample.classes for sample in load("uhcs", "train")]

    def left(min_area: int | tuple[int, ...]) -> float:
        cleaned = [clean_mask(mask, 4, min_area=min_area) for mask in masks]
        kept = sum(((m == 2) & (truth == 2)).sum() for m, truth in zip(cleaned, masks))
        return kept / sum((m == 2).sum() for m in masks)

    assert left(200) < 0.1
    assert left(least_areas(masks, 4)) > 0.95


@pytest.mark.parametrize(
    ("raw", "given", "message"),
    [
        (np.zeros((4, 4, 1)), {}, r"raw mask must be \(H, W\)"),
        (np.full((4, 4), np.nan), {}, "not finite"),
        (np.full((4, 4), 7), {}, "holds the values 7"),
        (np.zeros((4, 4)), {"levels": (0, 1, 0.5)}, "levels must be 3 rising"),
        (np.zeros((4, 4)), {"min_area": -1}, "min_area"),
        (np.zeros((4, 4)), {"min_area": (1, 2)}, "min_area"),
    ],
)
def test_masks_that_cannot_be_cleaned_are_refused(raw: np.ndarray, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_mask(raw, 3, **given)
