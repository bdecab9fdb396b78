"""The stored scores of the shipped weights keep what the project promises."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict
from pathlib import Path

import pytest

from microlab.data import weights
from microlab.recipe import Recipe

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"
BASELINES = ("threshold", "gradient watershed", "ridge")
COMPARED = ("grain IoU", "boundary F1, 3 px", "boundary F1, 5.4 px")


@pytest.fixture(params=["perovskite", "steel"])
def record(request):
    return json.loads((RESULTS / f"labour_free_{request.param}.json").read_text())


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


def test_the_recipe_as_it_stands_is_the_one_of_the_shipped_weights():
    assert asdict(Recipe()) == weights.card("labour-free")["recipe"]
