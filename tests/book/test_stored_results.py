"""Stored results of studies: how they are read and printed."""

from __future__ import annotations

import json

import pytest

from microlab.book import records

RECORD = {
    "title": "Training sets: toy",
    "data": "A toy.",
    "scores": {
        "oracle": {"grain IoU": [0.91, 0.004], "count error": [0.05, 0.01]},
        "trivial": {"grain IoU": 0.8},
    },
    "paper": {"paper's method": {"grain IoU": 0.88, "count error": "0.90 (tolerance not stated)"}},
    "trivial": "trivial",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    (tmp_path / "toy.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_a_record_is_found_by_its_name_and_a_missing_one_is_named(folder):
    assert records.available() == ["toy"]
    assert records.load("toy") == RECORD
    with pytest.raises(ValueError, match="no record 'other'; there are toy"):
        records.load("other")


def test_a_record_is_stored_only_if_it_is_complete(folder):
    origin = {"command": "x", "hardware": "x", "seconds": 1.5, "date": "2026-01-01", "versions": {}}
    whole = RECORD | {"virtual": False, "sets": {}, "settings": {}, "seed": 0, **origin}
    records.write("whole", whole)
    assert records.load("whole") == whole
    with pytest.raises(ValueError, match="bad: field 'seed'"):
        records.write("bad", {**whole, "seed": None})
    with pytest.raises(ValueError, match="JSON"):
        records.write("bad", {**whole, "scores": {"trivial": {"grain IoU": float("nan")}}})
    assert records.available() == ["toy", "whole"]


def test_a_score_carries_its_spread():
    assert records.cell([0.91, 0.004]) == "0.910 ± 0.004"
    assert records.cell(130) == "130"
    assert records.cell(None) == ""
    assert records.cell("none") == "none"


def test_the_paper_comes_first_and_the_trivial_predictor_is_marked():
    assert [name for name, _ in records.rows(RECORD)] == [
        "paper's method",
        "oracle",
        "trivial (trivial baseline)",
    ]


def test_the_table_is_aligned_and_explains_the_star():
    lines = records.table_text(RECORD).splitlines()
    table = lines[3:7]
    assert len({len(line) for line in table}) == 1
    assert "0.910 ± 0.004" in table[2]
    assert lines[-1] == "* tolerance not stated"
