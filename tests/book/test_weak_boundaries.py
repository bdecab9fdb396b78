"""Scores of answers whose score is known in advance, and of others against independent code."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.metrics import adapted_rand_error
from sklearn.metrics import accuracy_score

from microlab.book.experiments.weak_boundaries import (
    MEASURES,
    TOLERANCE,
    by_strength,
    score_answer,
    score_answers,
    visibility,
)
from microlab.measure.boundary import boundary_scores
from microlab.measure.scores import MIN_GRAIN_AREA, mask_grains, trivial_prediction
from microlab.render.tem import TEMConfig, TEMPicture, tem_picture
from microlab.render.tem_grains import facets

WIDTH = 20  # px, of a band
SHARES = [name for name in MEASURES if name.startswith(("precision", "recall"))]


def bands(brightness: list[float], noise: list[float] | None = None, height: int = 40) -> TEMPicture:
    """Vertical grains side by side; the boundary between bands k and k + 1 covers two columns."""
    grey = np.array(brightness)
    grains = np.tile(np.repeat(np.arange(len(grey), dtype=np.int32), WIDTH), (height, 1))
    near = facets(grains)
    clean = grey[grains].astype(np.float32)
    deviation = np.array(noise or [0.0] * len(grey))[grains]
    image = (clean + deviation * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    strength = np.abs(grey[grains] - grey[near.neighbour]).astype(np.float32)
    empty = np.zeros(grains.shape, bool)
    beam = np.tile([0.0, 0.0, 1.0], (len(grey), 1))
    return TEMPicture(image, near.distance <= 1, clean, grains, grey, beam, strength, empty, empty)


WEAK_FIRST = [0.2, 0.25, 0.6, 0.65, 0.2]  # boundaries at 20, 40, 60, 80 px: weak, strong, weak, strong
PLACES = {"weak": (20, 60), "strong": (40, 80)}


def answer(boundary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boundary, mask_grains(boundary)


@pytest.fixture(scope="module")
def picture() -> TEMPicture:
    return tem_picture(3, TEMConfig(shape=(64, 96), grain_area=(300.0, 500.0)))


@pytest.fixture(scope="module")
def rough(picture) -> np.ndarray:
    """The true boundary, shifted by two pixels, with holes and specks."""
    rng = np.random.default_rng(0)
    moved = np.roll(picture.boundary, 2, axis=1)
    return (moved & (rng.random(moved.shape) < 0.9)) | (rng.random(moved.shape) < 0.01)


def test_the_truth_itself_scores_one_and_has_no_errors():
    scores = score_answer(bands(WEAK_FIRST), *answer(bands(WEAK_FIRST).boundary))
    assert tuple(scores) == MEASURES
    errors = ("adapted Rand error", "count error", "count bias")
    assert scores == {name: 0.0 if name in errors else 1.0 for name in MEASURES}


def test_no_boundary_has_the_accuracy_of_the_background_and_finds_nothing():
    pair = bands(WEAK_FIRST)
    scores = score_answer(pair, *trivial_prediction(pair.boundary.shape))
    assert scores["accuracy"] == pytest.approx(1 - pair.boundary.mean())
    assert scores["accuracy"] == pytest.approx(1 - 4 * 2 / (5 * WIDTH))  # four lines of two columns
    assert scores["boundary F1, 2 px"] == scores["recall, strong"] == scores["recall, weak"] == 0
    assert np.isnan([scores["precision, strong"], scores["precision, weak"]]).all()
    assert scores["count bias"] == -0.8  # one grain of five
    assert scores["count error"] == 0.8


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("dropped", [1, 2])
def test_dropping_boundaries_of_a_kind_lowers_only_its_recall(kind, dropped):
    pair = bands(WEAK_FIRST)
    boundary = pair.boundary.copy()
    for place in PLACES[kind][:dropped]:
        boundary[:, place - 1 : place + 1] = False
    scores = by_strength(pair, boundary)
    assert scores.pop(f"recall, {kind}") == 1 - dropped / 2
    if dropped == 2:  # nothing is left to score
        assert np.isnan(scores.pop(f"precision, {kind}"))
    assert set(scores.values()) == {1.0}


def test_in_a_real_network_of_boundaries_only_the_recall_of_the_dropped_kind_falls(picture):
    weak = picture.strength < 0.1
    assert 0.1 < weak[picture.boundary].mean() < 0.9
    for kind, dropped_pixels in (("weak", weak), ("strong", ~weak)):
        scores = by_strength(picture, picture.boundary & ~dropped_pixels)
        other = {"weak": "strong", "strong": "weak"}[kind]
        # At junctions a thinned line ends a little earlier without the others, and the end of what is
        # left may find a line of the other kind within the tolerance.
        assert scores[f"recall, {kind}"] < 0.3
        assert scores[f"recall, {other}"] > 0.95
        assert scores[f"precision, {other}"] > 0.95


@pytest.mark.parametrize(("kind", "column"), [("weak", 25), ("strong", 33)])
def test_an_invented_line_lowers_only_the_precision_of_the_kind_it_is_nearest_to(kind, column):
    pair = bands(WEAK_FIRST)
    boundary = pair.boundary.copy()
    boundary[:, column : column + 2] = True
    scores = by_strength(pair, boundary)
    assert scores.pop(f"precision, {kind}") == pytest.approx(2 / 3)  # one line of three is invented
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize(("threshold", "kind"), [(0.0, "strong"), (np.inf, "weak")])
def test_boundaries_of_one_kind_score_as_the_boundary_metrics(picture, rough, threshold, kind):
    expected = boundary_scores(picture.boundary, rough, TOLERANCE)
    assert expected.precision < 1
    scores = by_strength(picture, rough, threshold=threshold)
    assert scores.pop(f"precision, {kind}") == pytest.approx(expected.precision)
    assert scores.pop(f"recall, {kind}") == pytest.approx(expected.recall)
    assert np.isnan(list(scores.values())).all()


def test_accuracy_rand_error_and_count_agree_with_independent_code(picture, rough):
    boundary, labels = answer(rough)
    scores = score_answer(picture, boundary, labels)
    true_labels = ndimage.label(~picture.boundary)[0]
    areas = np.bincount(true_labels.ravel())
    true_labels[(areas < MIN_GRAIN_AREA)[true_labels]] = 0
    number = (areas[1:] >= MIN_GRAIN_AREA).sum()
    grain_count = (np.bincount(labels.ravel())[1:] >= MIN_GRAIN_AREA).sum()
    assert number > 3
    assert scores["accuracy"] == pytest.approx(accuracy_score(picture.boundary.ravel(), boundary.ravel()))
    assert scores["adapted Rand error"] == pytest.approx(adapted_rand_error(true_labels, labels)[0])
    assert scores["count bias"] == pytest.approx((grain_count - number) / number)
    assert scores["count error"] == pytest.approx(abs(grain_count - number) / number)
    assert scores["boundary F1, 2 px"] == boundary_scores(picture.boundary, boundary, TOLERANCE).f1


def test_many_answers_are_a_row_each_and_none_may_be_missing():
    pairs = [bands(WEAK_FIRST), bands([0.2, 0.7])]
    table = score_answers(pairs, [trivial_prediction(pair.boundary.shape) for pair in pairs])
    assert table["count bias"].tolist() == [-0.8, -0.5]
    with pytest.raises(ValueError):
        score_answers(pairs, [trivial_prediction(pairs[0].boundary.shape)])


def test_a_picture_without_boundaries_gives_nan_quietly():
    pair = bands([0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_answer(pair, *trivial_prediction(pair.boundary.shape))
    assert scores["accuracy"] == 1
    assert np.isnan([scores[name] for name in SHARES]).all()
    assert visibility(pair).empty


def test_another_size_is_refused_with_both_sizes():
    pair = bands([0.2, 0.7])
    boundary, labels = trivial_prediction(pair.boundary.shape)
    for wrong in ((boundary[:-1], labels), (boundary, labels[:, :-1])):
        with pytest.raises(ValueError, match=r"size of the picture, \(40, 40\)"):
            score_answer(pair, *wrong)


def test_visibility_is_the_statistic_of_welch_s_test_on_both_sides():
    pair = bands([0.4, 0.5], noise=[0.05, 0.1])
    table = visibility(pair)
    assert len(table) == 1
    # Beside the boundary at 20 px; columns 19 and 20 touch it, those within 6 px begin at 14 and end at 25.
    left, right = (pair.image[:, part].astype(float).ravel() for part in (np.s_[14:19], np.s_[21:26]))
    expected = stats.ttest_ind(left, right, equal_var=False).statistic
    assert table["visibility"][0] == pytest.approx(abs(expected), rel=1e-4)  # the picture is in float32
    assert table["contrast"][0] == pytest.approx(0.1)
    assert table["pixels"][0] == pair.boundary.sum()


def test_boundaries_with_too_few_pixels_beside_them_are_left_out():
    pair = bands([0.4, 0.5, 0.6])
    assert visibility(pair, least=5 * 40)["first"].tolist() == [0, 1]
    empty = visibility(pair, least=5 * 40 + 1)
    assert empty.empty
    assert list(empty.columns) == ["first", "second", "pixels", "contrast", "visibility"]


def test_visibility_counts_every_boundary_pixel_between_two_grains_once(picture):
    table = visibility(picture, least=1)
    assert len(table) == len(table[["first", "second"]].drop_duplicates())
    assert (table["first"] < table["second"]).all()
    assert 0.9 * picture.boundary.sum() < table["pixels"].sum() <= picture.boundary.sum()
    louder = replace(picture, image=2 * picture.image + 0.5)  # offset and gain change nothing
    np.testing.assert_allclose(visibility(louder, least=1)["visibility"], table["visibility"], rtol=1e-3)
