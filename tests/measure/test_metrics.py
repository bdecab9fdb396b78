"""Metrics against scikit-learn, scikit-image, torchmetrics and a KD-tree on random images."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import skimage
import sklearn.metrics
import torch
import torchmetrics.functional as tm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from microlab.measure import boundary, instance, pixel

many = settings(max_examples=50, deadline=None, derandomize=True)


def images_of(low: int, high: int, n: int = 2, smallest: int = 1, largest: int = 12):
    """n integer images of one random shape with values low..high."""
    shapes = st.tuples(st.integers(smallest, largest), st.integers(smallest, largest))
    return shapes.flatmap(
        lambda s: st.tuples(*[hnp.arrays(np.int64, s, elements=st.integers(low, high))] * n)
    )


masks = images_of(0, 1).map(lambda pair: tuple(image.astype(bool) for image in pair))


def equal(a, b, tolerance=1e-12):
    return np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


# --- pixels


def test_missing_class_iou_of_the_papers_6_by_6_example():
    background, yellow, blue, green = 0, 1, 2, 3
    truth = np.full((6, 6), background)
    truth[0, 5], truth[3, 2] = yellow, blue
    prediction = truth.copy()
    prediction[3, 3], prediction[5, 0] = blue, green  # two background pixels taken for blue and green
    expected = (1 + 1 / 2 + 32 / 34) / 3  # equation 1 and figure 14 of arXiv:2408.00707
    assert round(expected, 4) == 0.8137
    assert pixel.missing_class_iou(truth, prediction, 4) == pytest.approx(expected, abs=1e-15)
    assert pixel.mean_iou(truth, prediction, 4) == pytest.approx(expected * 3 / 4, abs=1e-15)
    per_class = pixel.class_iou(truth, prediction, 4, missing_class=True)
    assert equal(per_class, [32 / 34, 1, 1 / 2, np.nan])


@many
@given(images_of(0, 3))
def test_missing_class_iou_is_the_macro_jaccard_of_the_true_labels(pair):
    truth, prediction = pair
    expected = sklearn.metrics.jaccard_score(
        truth.ravel(), prediction.ravel(), labels=np.unique(truth), average="macro"
    )
    assert equal(pixel.missing_class_iou(truth, prediction, 4), expected)


@many
@given(images_of(0, 3))
def test_mean_and_class_iou_agree_with_sklearn_where_a_class_occurs(pair):
    truth, prediction = pair
    present = np.union1d(truth, prediction)
    per_class = pixel.class_iou(truth, prediction, 4)
    expected = sklearn.metrics.jaccard_score(truth.ravel(), prediction.ravel(), labels=present, average=None)
    assert equal(per_class[present], expected)
    assert np.isnan(np.delete(per_class, present)).all()
    assert equal(pixel.mean_iou(truth, prediction, 4), expected.mean())


@many
@given(images_of(0, 2))
def test_mean_iou_and_accuracy_agree_with_torchmetrics(pair):
    t, p = map(torch.from_numpy, pair)
    confusion = pixel.Confusion(3).update(*pair)
    expected = tm.jaccard_index(p, t, task="multiclass", num_classes=3, average="macro").item()
    assert equal(confusion.miou(), expected, 1e-6)
    accuracy = tm.accuracy(p, t, task="multiclass", num_classes=3, average="micro").item()
    assert equal(confusion.accuracy(), accuracy, 1e-6)
    assert confusion.accuracy() == pixel.pixel_accuracy(*pair, classes=3)
    matrix = tm.confusion_matrix(p, t, task="multiclass", num_classes=3).numpy()
    assert (confusion.matrix == matrix).all()


@many
@given(masks)
def test_mask_iou_and_dice_agree_with_sklearn(pair):
    t, p = (mask.ravel() for mask in pair)
    if not (t | p).any():
        assert math.isnan(pixel.iou(*pair))
        assert math.isnan(pixel.dice(*pair))
        return
    assert equal(pixel.iou(*pair), sklearn.metrics.jaccard_score(t, p))
    assert equal(pixel.dice(*pair), sklearn.metrics.f1_score(t, p))
    assert equal(pixel.dice(*pair), pixel.Confusion(2).update(*pair).dice()[1])
    assert equal(pixel.iou(*pair), pixel.Confusion(2).update(*pair).iou()[1])


def test_six_wrong_pixels_of_an_absent_class_move_mean_iou_but_not_missing_class_iou():
    truth = np.zeros((128, 128), dtype=np.uint8)
    truth[64:] = 1
    prediction = truth.copy()
    prediction[0, :6] = 2
    assert pixel.mean_iou(truth, prediction, 3) < 0.67
    assert pixel.missing_class_iou(truth, prediction, 3) > 0.999


def test_majority_accuracy_is_that_of_always_predicting_the_commonest_class():
    truth = np.random.default_rng(0).choice(3, size=(40, 40), p=[0.7, 0.2, 0.1])
    confusion = pixel.Confusion(3).update(truth, np.random.default_rng(1).integers(0, 3, truth.shape))
    assert confusion.majority_accuracy() == pixel.pixel_accuracy(truth, np.zeros_like(truth), classes=3)


# --- boundaries


def kd_tree_distances(t, p):
    """Nearest distances both ways without any distance transform."""
    a, b = np.argwhere(t), np.argwhere(p)
    return cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]


@many
@given(masks, st.sampled_from([0, 1, 1.36, 2, math.sqrt(5), 3.5]))
def test_boundary_f1_agrees_with_a_kd_tree(pair, tolerance):
    t, p = pair
    assume(t.any() and p.any())
    to_prediction, to_truth = kd_tree_distances(t, p)
    # rounding in the tree must not decide the case of equality
    recall, precision = (to_prediction <= tolerance + 1e-9).mean(), (to_truth <= tolerance + 1e-9).mean()
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    scores = boundary.boundary_scores(t, p, tolerance, skeleton=False)
    assert equal(scores, (expected, precision, recall))
    assert boundary.boundary_f1(t, p, tolerance, skeleton=False) == scores.f1


@many
@given(masks)
def test_hausdorff_agrees_with_a_kd_tree_and_with_skimage(pair):
    t, p = pair
    assume(t.any() and p.any())
    expected = max(np.percentile(d, 95) for d in kd_tree_distances(t, p))
    assert equal(boundary.hausdorff95(t, p, skeleton=False), expected, 1e-9)
    whole = boundary.hausdorff95(t, p, percentile=100, skeleton=False)
    assert equal(whole, skimage.metrics.hausdorff_distance(t, p), 1e-9)


def test_a_line_moved_by_three_pixels_is_found_at_three_and_lost_below():
    truth, moved = np.zeros((2, 40, 40), dtype=bool)
    truth[:, 10], moved[:, 13] = True, True
    assert boundary.boundary_f1(truth, moved, 3) == 1
    assert boundary.boundary_f1(truth, moved, 2.99) == 0
    assert boundary.hausdorff95(truth, moved) == 3


def test_skeletons_make_the_thickness_of_a_line_irrelevant():
    truth, thick = np.zeros((2, 60, 60), dtype=bool)
    truth[30], thick[26:35] = True, True
    assert boundary.boundary_f1(truth, thick, 1) > 0.95
    assert boundary.boundary_f1(truth, thick, 1, skeleton=False) < 0.6


def test_default_tolerance_is_5_4_pixels_at_512():
    assert boundary.default_tolerance((512, 512)) == pytest.approx(5.43, abs=0.005)


# --- grains


labels = images_of(0, 4)


@many
@given(labels)
def test_adapted_rand_error_agrees_with_skimage(pair):
    with np.errstate(all="ignore"):
        expected = skimage.metrics.adapted_rand_error(*pair)[0] if (pair[0] > 0).any() else np.nan
    assert equal(instance.adapted_rand_error(*pair), expected)


def test_snemi3d_pairs_pixels_with_themselves_and_takes_predicted_zeros_for_single_pixels():
    truth = np.kron([[1, 2, 3, 4]], np.ones((6, 6), dtype=int))
    prediction = truth.copy()
    prediction[:, ::6] = 0  # a line through each grain's first column
    within, true, line = 4 * 30, 4 * 36, 24  # pixels: predicted grains, true grains, predicted 0
    ours = 1 - 2 * 4 * (30 * 29 + 6 * 5) / (4 * 36 * 35 + 4 * 30 * 29 + line * (line - 1))
    snemi3d = 1 - 2 * (30 * within + line) / (36 * true + 30 * within + line)
    assert instance.adapted_rand_error(truth, prediction) == pytest.approx(ours, abs=1e-12)
    assert skimage.metrics.adapted_rand_error(truth, prediction)[0] == pytest.approx(ours, abs=1e-12)
    assert snemi3d < ours


@many
@given(labels)
def test_variation_of_information_agrees_with_skimage(pair):
    truth, prediction = pair
    if not (truth > 0).any():
        assert np.isnan(instance.variation_of_information(truth, prediction)).all()
        return
    expected = skimage.metrics.variation_of_information(truth, prediction, ignore_labels=(0,))
    assert equal(instance.variation_of_information(truth, prediction), expected)


@many
@given(images_of(0, 4, smallest=2))
def test_panoptic_quality_agrees_with_torchmetrics(pair):
    truth, prediction = pair
    stacks = [
        torch.from_numpy(np.stack([x == 0, x], axis=-1).astype(np.int64))[None] for x in (prediction, truth)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = tm.detection.panoptic_quality(
            *stacks, things={0}, stuffs={1}, return_sq_and_rq=True, return_per_class=True
        )[0]
    if not ((truth > 0).any() or (prediction > 0).any()):
        assert np.isnan(instance.panoptic_quality(truth, prediction)).all()
        return
    ours = np.nan_to_num(
        instance.panoptic_quality(truth, prediction)
    )  # torchmetrics calls SQ without matches 0
    assert equal(ours, expected.numpy(), 1e-6)


@many
@given(labels, st.permutations([1, 2, 3, 4]))
def test_grain_metrics_do_not_depend_on_the_numbering(pair, order):
    truth, prediction = pair
    renamed = np.array([0, *order])[prediction] * 1_000_003
    renamed[prediction == 0] = 0
    for metric in (
        instance.adapted_rand_error,
        instance.variation_of_information,
        instance.panoptic_quality,
        instance.grain_count_error,
    ):
        assert equal(metric(truth, prediction), metric(truth, renamed), 1e-12)


def test_cutting_grains_is_split_and_joining_them_is_merge():
    quarters = np.kron([[1, 2], [3, 4]], np.ones((8, 8), dtype=int))
    halves = (quarters + 1) // 2
    assert equal(
        instance.variation_of_information(halves, quarters), (1, 0)
    )  # one bit: which half of the half
    assert equal(instance.variation_of_information(quarters, halves), (0, 1))
    assert instance.grain_count_error(quarters, halves) == 0.5
    assert instance.grain_count_error(halves, quarters) == 1


def test_grain_count_ignores_grains_below_the_smallest_area_in_both():
    truth, prediction = np.zeros((2, 10, 10), dtype=int)
    truth[:4, :4], truth[6:, :] = 1, 2
    prediction[:4, :4], prediction[6:, :], prediction[5, 5] = 1, 2, 3
    assert instance.grain_count_error(truth, prediction) == 0.5
    assert instance.grain_count_error(truth, prediction, min_area=2) == 0


# --- whole set or per image

BINARY = {
    "iou": pixel.iou,
    "dice": pixel.dice,
    "boundary_f1": lambda t, p, **kw: boundary.boundary_f1(t, p, 1, **kw),
    "hausdorff95": boundary.hausdorff95,
}
INTEGER = {
    "mean_iou": lambda t, p, **kw: pixel.mean_iou(t, p, 5, **kw),
    "missing_class_iou": lambda t, p, **kw: pixel.missing_class_iou(t, p, 5, **kw),
    "pixel_accuracy": lambda t, p, **kw: pixel.pixel_accuracy(t, p, 5, **kw),
    "adapted_rand_error": instance.adapted_rand_error,
    "variation_of_information": instance.variation_of_information,
    "panoptic_quality": instance.panoptic_quality,
    "grain_count_error": instance.grain_count_error,
}
ALL = BINARY | INTEGER


def example(name, seed, shape=(3, 9, 11)):
    t, p = np.random.default_rng(seed).integers(0, 5, (2, *shape))
    return (t > 2, p > 2) if name in BINARY else (t, p)


@pytest.mark.parametrize("name", ALL)
def test_a_set_of_images_needs_an_explicit_choice(name):
    truth, prediction = example(name, 0)
    with pytest.raises(ValueError, match="per_image"):
        ALL[name](truth, prediction)


@pytest.mark.parametrize("name", ALL)
def test_per_image_scores_are_those_of_the_single_images(name):
    truth, prediction = example(name, 1)
    together = np.asarray(ALL[name](truth, prediction, per_image=True))
    alone = [ALL[name](t, p) for t, p in zip(truth, prediction)]
    assert equal(together, np.moveaxis(np.asarray(alone), 0, -1))
    as_list = ALL[name](list(truth), list(prediction), per_image=True)
    assert equal(as_list, together)


@pytest.mark.parametrize("name", ["iou", "dice", *list(INTEGER)])
def test_pooled_scores_are_those_of_the_images_side_by_side(name):
    truth, prediction = example(name, 2)
    pooled = ALL[name](truth, prediction, per_image=False)
    if name in ("adapted_rand_error", "variation_of_information", "panoptic_quality", "grain_count_error"):
        # grains of different images are different grains, except label 0 of the prediction, absent here
        prediction = prediction + 1
        pooled = ALL[name](truth, prediction, per_image=False)
        offset = 10 * np.arange(len(truth))[:, None, None]
        truth, prediction = np.where(truth > 0, truth + offset, 0), prediction + offset
    beside = [np.concatenate(list(images), axis=1) for images in (truth, prediction)]
    assert equal(pooled, ALL[name](*beside))


def test_pooled_boundary_scores_count_the_pixels_of_all_images():
    truth, prediction = example("boundary_f1", 3)
    apart = np.zeros((2, 9, 3 * 11 + 2 * 40), dtype=bool)  # far enough apart not to affect each other
    for i in range(3):
        apart[:, :, i * 51 : i * 51 + 11] = truth[i], prediction[i]
    pooled = boundary.boundary_scores(truth, prediction, 2, skeleton=False, per_image=False)
    assert equal(pooled, boundary.boundary_scores(*apart, 2, skeleton=False))
    pooled = boundary.hausdorff95(truth, prediction, skeleton=False, per_image=False)
    assert equal(pooled, boundary.hausdorff95(*apart, skeleton=False))


def test_confusion_over_images_equals_the_pooled_functions():
    truth, prediction = example("mean_iou", 4)
    confusion = pixel.Confusion(5)
    for t, p in zip(truth, prediction):
        confusion.update(t, p)
    assert confusion.miou() == pixel.mean_iou(truth, prediction, 5, per_image=False)
    assert confusion.missing_class_iou() == pixel.missing_class_iou(truth, prediction, 5, per_image=False)
    assert equal(confusion.iou(), pixel.class_iou(truth, prediction, 5, per_image=False))


# --- empty images and wrong input


@pytest.mark.parametrize("name", ["iou", "dice", "boundary_f1", "hausdorff95"])
def test_nothing_to_find_and_nothing_found_has_no_score(name):
    empty, full = np.zeros((2, 8, 8), dtype=bool)
    full[2:5, 2:5] = True
    assert math.isnan(ALL[name](empty, empty))
    worst = math.inf if name == "hausdorff95" else 0
    assert ALL[name](empty, full) == worst
    assert ALL[name](full, empty) == worst
    assert ALL[name](full, full) == (0 if name == "hausdorff95" else 1)


def test_one_missing_boundary_of_a_hundred_images_leaves_the_pooled_percentile_finite():
    line = np.zeros((8, 8), dtype=bool)
    line[4] = True
    truth, prediction = np.stack([line] * 100), np.stack([line] * 99 + [np.zeros_like(line)])
    assert boundary.hausdorff95(truth, prediction, per_image=False) == 0
    assert boundary.hausdorff95(truth, prediction, percentile=100, per_image=False) == math.inf


def test_images_without_grains():
    empty, one = np.zeros((2, 8, 8), dtype=int)
    one[:] = 1
    assert math.isnan(instance.adapted_rand_error(empty, one))
    assert math.isnan(instance.grain_count_error(empty, empty))
    assert instance.grain_count_error(empty, one) == math.inf
    assert instance.grain_count_error(one, empty) == 1
    assert instance.panoptic_quality(one, empty)[0] == 0


@pytest.mark.parametrize("name", ALL)
def test_unequal_shapes_are_refused_with_both_shapes(name):
    truth, prediction = example(name, 5)
    with pytest.raises(ValueError, match=r"\(9, 11\).*\(9, 10\)"):
        ALL[name](truth[0], prediction[0][:, 1:])
    with pytest.raises(ValueError, match=r"set of 3.*set of 2"):
        ALL[name](truth, prediction[:2], per_image=True)


@pytest.mark.parametrize("name", BINARY)
def test_a_mask_of_0_and_255_is_refused_with_advice(name):
    truth, prediction = example(name, 6, (9, 11))
    with pytest.raises(ValueError, match=r"prediction must be bool.*0\.\.255: pass prediction > 0"):
        ALL[name](truth, prediction.astype(np.uint8) * 255)
    with pytest.raises(ValueError, match=r"truth must be a bool mask, got float64"):
        ALL[name](truth.astype(float), prediction)


@pytest.mark.parametrize("name", INTEGER)
def test_values_that_are_no_ids_are_refused(name):
    truth, prediction = example(name, 7, (9, 11))
    with pytest.raises(ValueError, match=r"prediction must .*float64"):
        ALL[name](truth, prediction.astype(float))
    with pytest.raises(ValueError, match=r"truth must hold .*-1"):
        ALL[name](truth - 1, prediction)


def test_class_ids_beyond_the_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"class ids 0\.\.1, got values 0\.\.2"):
        pixel.mean_iou(np.array([[0, 2]]), np.array([[0, 1]]), 2)
    with pytest.raises(ValueError, match="classes must be at least 2"):
        pixel.Confusion(1)


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
def test_an_impossible_tolerance_is_refused(tolerance):
    mask = np.eye(4, dtype=bool)
    with pytest.raises(ValueError, match="tolerance"):
        boundary.boundary_f1(mask, mask, tolerance)


# --- real data

PEROVSKITE = Path(os.environ.get("MICROLAB_DATA", "")) / "perovskite/example_images"


@pytest.mark.skipif(not (PEROVSKITE / "ground_truth2.png").exists(), reason="MICROLAB_DATA has no perovskite")
def test_a_ridge_filter_on_perovskite_gives_the_figures_measured_before():
    """A plain Sato filter on the test half; the tolerance alone moves its boundary F1 by 0.3."""
    image = skimage.io.imread(PEROVSKITE / "example2.png")[..., :3].mean(-1)[:, 534:] / 255
    truth = skimage.io.imread(PEROVSKITE / "ground_truth2.png")[:, 534:, 0] > 127
    ridges = skimage.filters.sato(image, sigmas=[3], black_ridges=True)
    prediction = ridges > skimage.filters.threshold_otsu(ridges)
    f1 = [boundary.boundary_f1(truth, prediction, theta) for theta in (2, 3, 4, 5.4)]
    assert np.allclose(f1, [0.60, 0.77, 0.86, 0.94], atol=0.025)
    assert pixel.iou(~truth, ~prediction) > 0.8
