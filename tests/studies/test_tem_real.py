"""Which labelled tiles are used for training and which for scoring, with virtual tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from edge_nets import save_edge_segmenter

from microlab.data.micrograph import Micrograph
from microlab.measure.scores import TOLERANCES, mask_grains, trivial_prediction
from microlab.render.tem import TEMConfig, tem_picture
from microlab.segment.edge_segmenter import EdgeSegmenter
from studies.tem import real
from studies.tem.limits import NOTHING, UNTRAINED
from studies.tem.real import (
    ALONE,
    SYNTHETIC,
    TILES,
    TUNED,
    fine_tuning,
    membrane_scores,
    one_image_scores,
    score_real,
    split,
    stand_in,
    tuned,
)


@pytest.fixture(scope="module")
def tiles() -> list[Micrograph]:
    """Eight tiles just large enough for a crop."""
    config = TEMConfig(shape=(96, 96), grain_area=(600.0, 900.0))
    pairs = [tem_picture(seed, config) for seed in range(8)]
    return [Micrograph(pair.image, name=f"tile {k}", boundary=pair.boundary) for k, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> EdgeSegmenter:
    hand_set = EdgeSegmenter.load(save_edge_segmenter(tmp_path_factory.mktemp("segmenter")))
    return EdgeSegmenter(
        hand_set.net1, hand_set.net2, {"finish": {"method": "watershed"}, "grain_size_px": 25.0}
    )


# ---- tiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_split_uses_every_tile_once(tiles, seed):
    train, test = split(tiles, seed)
    assert len(train) == TILES
    names = [tile.name for tile in train + test]
    assert sorted(names) == [tile.name for tile in tiles]
    assert not {tile.name for tile in train} & {tile.name for tile in test}


def test_the_same_seed_draws_the_same_tiles_and_seeds_draw_different_ones(tiles):
    drawn = [tuple(tile.name for tile in split(tiles, seed)[0]) for seed in range(6)]
    assert drawn == [tuple(tile.name for tile in split(tiles, seed)[0]) for seed in range(6)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("number", [1, 8, 9])
def test_a_split_that_leaves_nothing_to_train_or_test_is_refused(tiles, number):
    with pytest.raises(ValueError, match=rf"2..7, got {number}"):
        split(tiles, 0, number)


def test_the_stand_in_is_virtual_tiles_with_masks_large_enough_to_train():
    samples = stand_in(2, seed=3)
    again = stand_in(3, seed=3)
    for a, b in zip(samples, again[:2], strict=True):
        assert a.name == b.name
        assert a.name.startswith("virtual")
        np.testing.assert_array_equal(a.image, b.image)
        assert a.boundary.dtype == bool
        assert a.image.shape == a.boundary.shape == (192, 192)
        assert 0.02 < a.boundary.mean() < 0.2
    assert len({sample.image.tobytes() for sample in again}) == 3
    assert min(again[0].boundary.shape) >= fine_tuning(0).first.crop


# ---- scores ----------------------------------------------------------------------------------------------


def test_a_perfect_answer_has_no_error_and_no_boundary_the_accuracy_of_the_background(tiles):
    truth = tiles[0].boundary
    scores = score_real(truth, (truth, mask_grains(truth)))
    right = {"accuracy", "grain IoU", *(f"boundary F1, {t:g} px" for t in TOLERANCES)}
    assert {name for name, value in scores.items() if value == 1} >= right
    for name in ("count error", "adapted Rand error", "split, bits", "merge, bits"):
        assert scores[name] == pytest.approx(0, abs=1e-9)
    none = score_real(truth, (np.zeros_like(truth), np.ones(truth.shape, np.int32)))
    assert none["accuracy"] == pytest.approx(1 - truth.mean())
    assert none["boundary F1, 2 px"] == 0
    pair = tem_picture(0, TEMConfig(shape=(96, 96), grain_area=(600.0, 900.0)))
    assert none == score_real(truth, trivial_prediction(pair.boundary.shape))


def test_one_image_is_scored_for_each_seed_and_each_method_without_training(tiles, segmenter):
    table = one_image_scores(tiles[0], {0: segmenter, 4: segmenter})
    assert table[table["method"] == SYNTHETIC]["seed"].tolist() == [0, 4]
    others = table[table["method"] != SYNTHETIC]
    assert set(others["seed"]) == {-1}
    assert {UNTRAINED, NOTHING} < set(others["method"])
    background = others.set_index("method").loc[NOTHING, "accuracy"]
    assert background == pytest.approx(1 - tiles[0].boundary.mean())


# ---- training and test tiles -----------------------------------------------------------------------------


def test_no_training_tile_is_scored(tiles, segmenter, tmp_path, monkeypatch):
    trained, scored, trained_folders = {}, {}, []

    def tuned(train, recipe, folder, start, device):
        trained_folders.append(folder.name)
        trained[folder.name] = {tile.name for tile in train}
        assert (start is None) == folder.name.startswith("5-tiles")
        return EdgeSegmenter(segmenter.net1, segmenter.net2, {"name": folder.name})

    def segment_real(tile, network, zoom=None):
        method = network.card.get("name", SYNTHETIC)
        scored.setdefault(method, []).append(tile.name)
        if method != SYNTHETIC:
            assert network.card["finish"] == segmenter.card["finish"]
        # Invert k rows of the boundary in tile k, so that a mean shows which tiles it contains.
        boundary = tile.boundary.copy()
        boundary[: int(tile.name[-1])] ^= True
        return boundary, mask_grains(boundary)

    monkeypatch.setattr(real, "tuned", tuned)
    monkeypatch.setattr(real, "segment_real", segment_real)
    monkeypatch.setattr(real, "classical_answers", lambda image: {})
    table = membrane_scores(tiles, segmenter, tmp_path, seeds=(0, 1), steps=1)
    assert sorted(scored.pop(SYNTHETIC)) == [tile.name for tile in tiles]
    assert set(scored) == set(trained)
    for name, tested in scored.items():
        assert not set(tested) & trained[name]
        assert set(tested) | trained[name] == {tile.name for tile in tiles}
    assert trained["then-fine-tuned-on-5-tiles_1"] == trained["5-tiles-alone_1"]

    rows = table.set_index(["method", "seed"])["accuracy"]
    for seed in (0, 1):
        test = split(tiles, seed)[1]
        expected = 1 - np.mean([int(tile.name[-1]) / 96 for tile in test])
        for method in (SYNTHETIC, TUNED, ALONE):  # all on the same tiles
            assert rows[method, seed] == pytest.approx(expected)
        assert rows[NOTHING, seed] == pytest.approx(1 - np.mean([tile.boundary.mean() for tile in test]))
    assert table["method"].drop_duplicates().tolist() == [TUNED, ALONE, SYNTHETIC, NOTHING]

    again = membrane_scores(tiles, segmenter, tmp_path, seeds=(0, 1), steps=1)
    assert len(trained_folders) == 4  # finished results are read
    assert again.equals(table)
    with pytest.raises(ValueError, match="other settings"):
        membrane_scores(tiles, segmenter, tmp_path, seeds=(0, 1), steps=2)
    for path in tmp_path.rglob("scores.json"):
        assert json.loads(path.read_text())["accuracy"] <= 1


def test_tuning_starts_from_the_segmenter_and_does_not_change_it(tiles, segmenter, tmp_path):
    before = [p.clone() for p in segmenter.net1.parameters()]
    recipe = fine_tuning(3, steps=1)
    assert recipe.first.seed == recipe.second.seed == 3
    tuned_segmenter = tuned(tiles[:5], recipe, tmp_path, segmenter, "cpu")
    assert tuned_segmenter.card["inputs"] == segmenter.card["inputs"]
    assert [p.shape for p in tuned_segmenter.net1.parameters()] == [p.shape for p in before]
    for p, old in zip(segmenter.net1.parameters(), before, strict=True):
        assert torch.equal(p, old)
    largest_change = max(
        float((p - old).abs().max()) for p, old in zip(tuned_segmenter.net1.parameters(), before, strict=True)
    )
    assert 0 < largest_change <= 2e-3  # one step of Adam at a rate of at most 1e-3
