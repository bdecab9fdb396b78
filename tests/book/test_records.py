"""The stored scores of the shipped weights meet the project's stated bars."""

from __future__ import annotations

import operator
from dataclasses import asdict

import pytest

from microlab.book import records
from microlab.book.experiments.training_sets import ADABN, LABELLED
from microlab.data import weights
from microlab.pipelines.train_segmenter import TrainingConfig

BASELINES = ("threshold", "gradient watershed", "ridge")
COMPARED = ("grain IoU", "boundary F1, 3 px", "boundary F1, 5.4 px")


@pytest.fixture(params=["perovskite", "steel"])
def record(request):
    return records.load(f"labour_free_{request.param}")


def test_the_stored_scores_meet_the_bars(record):
    assert record["bar"]
    for measure, bar in record["bar"].items():
        relation, limit = bar.split()
        compare = {">=": operator.ge, "<=": operator.le}[relation]
        assert compare(record["scores"]["ours"][measure], float(limit)), measure


def test_no_classical_baseline_counts_better_or_is_clearly_better_elsewhere(record):
    ours = record["scores"]["ours"]
    for name in BASELINES:
        theirs = record["scores"][name]
        assert ours["count error"] < theirs["count error"], name
        for measure in COMPARED:
            assert ours[measure] >= theirs[measure] - 0.01, (name, measure)


def test_the_records_belong_to_the_shipped_weights(record):
    card = weights.card("labour-free")
    assert record["settings"]["sha256"] == card["sha256"][:12]
    assert card["bytes"] < 8 * 2**20
    name = record["title"].split()[-1]
    for measure in COMPARED:
        assert card["scores"][f"{name}, mask not in training: {measure}"] == record["scores"]["ours"][measure]


def test_the_current_training_recipe_is_that_of_the_shipped_weights():
    assert asdict(TrainingConfig()) == weights.card("labour-free")["recipe"]


# ---- studies of the first system -------------------------------------------------------------------------


def mean(value):
    return value[0] if isinstance(value, list) else value


def labour_free(record):
    """Rows of training sets without labels."""
    return {
        name: row
        for name, row in record["scores"].items()
        if name.removesuffix(ADABN) in set(record["sets"]) - set(LABELLED)
    }


@pytest.fixture(params=["perovskite", "steel"])
def study(request):
    return records.load(f"training_sets_{request.param}")


def test_every_set_was_trained_with_three_seeds_and_no_spread_is_hidden(study):
    assert len(study["seed"]) >= 3
    for name in study["sets"]:
        if name in study["scores"]:
            assert isinstance(study["scores"][name]["grain IoU"], list), name
    assert set(LABELLED) <= set(study["scores"])


def test_a_labour_free_set_comes_within_two_hundredths_of_the_oracle():
    record = records.load("training_sets_perovskite")
    oracle = record["scores"]["oracle"]
    good = [
        name
        for name, row in labour_free(record).items()
        if all(mean(row[m]) >= mean(oracle[m]) - 0.02 for m in ("grain IoU", "boundary F1, 3 px"))
        and mean(row["count error"]) <= 0.08
    ]
    assert good


def test_translation_keeps_boundaries_and_is_nearer_to_real_than_its_input():
    scores = records.load("translation_perovskite")["scores"]
    assert scores["ours"]["displacement, px"] <= 1
    for measure in ("entropy distance", "KID texture"):
        assert scores["ours"][measure] < scores["untextured"][measure]


def test_the_shipped_translators_are_those_of_the_record():
    record = records.load("translation_perovskite")["scores"]["ours"]
    scores = weights.card("style-perovskite")["scores"]
    assert scores["held-out simulations: displacement, px"] == pytest.approx(
        record["displacement, px"], abs=0.1
    )
    for name in weights.available():
        assert weights.card(name)["bytes"] < 16 * 2**20, name


def test_segmented_frames_recover_the_growth_law():
    record = records.load("growth")
    assert sum(name.startswith("k / true k, seed") for name in record["settings"]) >= 3
    assert record["scores"]["ours"]["largest deviation of k"] <= 0.1
