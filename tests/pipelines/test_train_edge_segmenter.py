"""Trainings of a few steps on pictures of 48 x 64 pixels: their data, what is kept, what is written."""

from __future__ import annotations

from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch

from microlab.measure.grain_size import mean_intercept
from microlab.pipelines import train_edge_segmenter
from microlab.pipelines.train_edge_segmenter import (
    EdgeTrainingConfig,
    edge_pairs,
    grain_size,
    save_networks,
    train_networks,
)
from microlab.render.tem import TEMConfig, tem_pictures
from microlab.segment import refine_training
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of
from microlab.segment.refine import EdgeNet, first_guess, refine
from microlab.segment.refine_training import FirstConfig, SecondConfig

SMALL = TEMConfig(shape=(48, 64), grain_area=(200.0, 400.0))
SHORT = {"crop": 32, "batch": 2, "steps": 3, "warmup": 1, "precision": "float32"}
CONFIG = EdgeTrainingConfig(
    pictures=4,
    held_back=0.5,
    inputs=("sobel", "grey"),
    concepts=SMALL,
    first=FirstConfig(**SHORT),
    second=SecondConfig(**SHORT),
)
QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def pairs():
    return edge_pairs(4, 0, SMALL, CONFIG.inputs)


@pytest.fixture(scope="module")
def segmenter(pairs):
    return train_networks(CONFIG, pairs=pairs, **QUIET)


def weights(segmenter) -> list[torch.Tensor]:
    """The state of the two networks."""
    return [v.clone() for net in (segmenter.net1, segmenter.net2) for v in net.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_edge_pairs_are_the_synthetic_pictures_through_the_detectors(jobs):
    with joblib.parallel_config("threading"):
        pairs = edge_pairs(3, 7, SMALL, ("canny", "grey"), jobs=jobs)
    drawn = list(tem_pictures(3, 7, SMALL))
    assert len({picture.image.tobytes() for picture in drawn}) == 3
    for (channels, target), picture in zip(pairs, drawn, strict=True):
        np.testing.assert_array_equal(channels, channels_of(picture.image, ("canny", "grey")))
        np.testing.assert_array_equal(target, picture.boundary)


def test_the_grain_size_is_the_mean_linear_intercept_of_the_true_grains():
    config = replace(SMALL, shape=(96, 96))
    expected = np.mean([mean_intercept(picture.labels) for picture in tem_pictures(4, 0, config)])
    measured = grain_size(edge_pairs(4, 0, config, ("sobel",)))
    # Corners of grains narrower than the drawn line are lost with their two crossings, so it is not smaller.
    assert expected * 0.99 < measured < expected * 1.1


def test_pictures_of_one_grain_do_not_affect_the_grain_size():
    split, whole = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    split[:, 20] = True
    channels = np.zeros((1, 20, 40), np.float32)
    assert grain_size([(channels, split), (channels, whole)]) == 2 * 800 / 20  # one crossing in each row
    with pytest.raises(ValueError, match="between two grains"):
        grain_size([(channels, whole)])


# ---- training data ---------------------------------------------------------------------------------------


def test_net2_learns_from_pictures_that_net1_has_not_seen_and_from_its_guesses_on_them(pairs, monkeypatch):
    recorded = {}

    def first(known, *args, **options):
        recorded["first"] = known
        recorded["net1"], history = refine_training.train_first(known, *args, **options)
        return recorded["net1"], history

    def second(unknown, *args, guesses, **options):
        recorded["second"], recorded["guesses"] = unknown, guesses
        return refine_training.train_second(unknown, *args, guesses=guesses, **options)

    monkeypatch.setattr(train_edge_segmenter, "train_first", first)
    monkeypatch.setattr(train_edge_segmenter, "train_second", second)
    train_networks(replace(CONFIG, held_back=0.25), pairs=pairs, **QUIET)
    assert len(recorded["first"]) == 3
    assert [id(pair) for pair in recorded["first"] + recorded["second"]] == [id(pair) for pair in pairs]
    guess = first_guess(recorded["net1"], recorded["second"][0][0], device="cpu")
    np.testing.assert_array_equal(recorded["guesses"][0], guess)


@pytest.mark.parametrize(
    ("pictures", "share", "expected"),
    [(2, 0.01, 1), (2, 0.99, 1), (10, 0.3, 3), (10, 0.99, 9), (10, 0.01, 1)],
)
def test_both_networks_have_a_picture_whatever_the_share(pictures, share, expected):
    assert EdgeTrainingConfig(pictures=pictures, held_back=share).for_second == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"pictures": 1}, "pictures"), ({"held_back": 0}, "held_back"), ({"held_back": 1}, "1")],
)
def test_settings_that_leave_a_network_without_pictures_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        EdgeTrainingConfig(**setting)


def test_pairs_of_another_number_than_the_settings_are_refused(pairs):
    with pytest.raises(ValueError, match="settings' pictures, 4, got 3"):
        train_networks(CONFIG, pairs=pairs[:3], **QUIET)


# ---- what comes out --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(segmenter):
    again = train_networks(CONFIG, **QUIET)  # draws the pictures itself
    assert equal(weights(segmenter), weights(again))
    assert again.card["inputs"] == ["sobel", "grey"]
    other = replace(CONFIG, first=replace(CONFIG.first, seed=1), second=replace(CONFIG.second, seed=1))
    assert not equal(weights(segmenter), weights(train_networks(other, **QUIET)))


def test_a_training_killed_between_the_networks_resumes_with_net2(segmenter, pairs, tmp_path, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_edge_segmenter, "train_second", killed)
        with pytest.raises(KeyboardInterrupt):
            train_networks(CONFIG, tmp_path, pairs=pairs, **QUIET)
    steps = []
    crops = refine_training._crops
    monkeypatch.setattr(
        refine_training,
        "_crops",
        lambda pairs, guesses, config, step: (
            steps.append(type(config)) or crops(pairs, guesses, config, step)
        ),
    )
    assert equal(weights(train_networks(CONFIG, tmp_path, pairs=pairs, **QUIET)), weights(segmenter))
    assert steps == [SecondConfig] * CONFIG.second.steps
    train_networks(CONFIG, tmp_path, pairs=pairs, **QUIET)
    assert len(steps) == CONFIG.second.steps  # what is finished is not trained again


def test_fine_tuning_does_not_change_the_initial_networks(segmenter, pairs):
    before = weights(segmenter)
    further = train_networks(CONFIG, pairs=pairs, start=segmenter, **QUIET)
    assert equal(before, weights(segmenter))
    assert not equal(before, weights(further))  # which are also those of the same training from nothing


def test_saved_networks_are_restored_with_their_card_and_the_same_maps(segmenter, pairs, tmp_path):
    scores = {"held-out virtual TEM: accuracy": 0.5}
    paths = save_networks(tmp_path, segmenter, CONFIG, scores, minutes=1.26)
    assert [path.name for path in paths] == ["first.safetensors", "refine.safetensors"]
    again = EdgeSegmenter.load(tmp_path)
    for name in ("inputs", "grain_size_px", "finish", "tolerance", "max_iterations"):
        assert again.card[name] == segmenter.card[name]
    assert again.card["grain_size_px"] == pytest.approx(grain_size(pairs), abs=0.01)
    for card in (again.card["first"], again.card["refine"]):
        assert card["scores"] == scores
        assert (card["steps"], card["crop"], card["seed"], card["minutes"]) == (3, 32, 0, 1.3)
        assert card["data"].startswith("4 synthetic TEM pictures")
        assert "2 of them for Net2" in card["data"]
    channels = pairs[-1][0]
    first = first_guess(segmenter.net1, channels, device="cpu")
    second = refine(segmenter.net2, first, channels, tolerance=1, device="cpu").result
    # The weights are kept in half precision: each is off by up to 5e-4 of itself; a map keeps its contrast.
    maps = (
        (first, first_guess(again.net1, channels, device="cpu")),
        (second, refine(again.net2, first, channels, tolerance=1, device="cpu").result),
    )
    for before, after in maps:
        assert 0 < np.abs(after - before).max() < 0.1 * np.ptp(before)
    other = first_guess(EdgeNet(2, seed=9), channels, device="cpu")
    assert np.abs(other - first).max() > np.ptp(first)
