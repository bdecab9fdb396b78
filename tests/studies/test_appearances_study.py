"""The study of appearances: its fields, its rivals, and a whole trial run."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from microlab.book import records
from microlab.book.experiments import appearances
from microlab.book.experiments.appearances import CLASSICAL, FOREST, TRIVIAL, ZOO, zoo_field
from microlab.data.micrograph import Micrograph
from microlab.measure.grains import close_boundaries
from microlab.measure.scores import mask_grains
from microlab.render.appearances import SURFACES, TWIN_BOUNDARY
from microlab.segment.classical import Ridge

study = importlib.import_module("studies.appearances.__main__")


@pytest.fixture(scope="module")
def etched():
    return zoo_field("etched", 0, side=192)


def test_the_zoo_has_every_appearance_and_what_its_entries_promise():
    assert set(SURFACES) <= set(ZOO)
    assert len(ZOO) >= 10
    fields = {name: zoo_field(name, 1, side=96) for name in ZOO}
    assert all(field.image.ndim == 2 for field in fields.values())
    assert (~fields["contrast, legend"].valid).any()
    assert (fields["etched, twinned"].classes == TWIN_BOUNDARY).any()
    assert all(field.valid.all() for name, field in fields.items() if "legend" not in name)


def test_a_field_is_the_same_every_time_and_unlike_the_others(etched):
    assert np.array_equal(zoo_field("etched", 0, side=192).image, etched.image)
    assert not np.array_equal(zoo_field("etched", 1, side=192).image, etched.image)


def test_scores_of_the_truth_are_perfect(etched):
    labels = close_boundaries(mask_grains(etched.boundary))
    row = appearances.all_scores(etched, etched.boundary, labels)
    assert row["boundary F1, 3 px"] == 1
    for name in ("adapted Rand error", "count error", "diameter error", "grain size number error"):
        assert row[name] == pytest.approx(0, abs=0.01), name
    assert row["adjusted Rand index"] == pytest.approx(1, abs=1e-6)
    truth = mask_grains(etched.boundary)
    random = np.random.default_rng(0).integers(1, 9, truth.shape)
    row = appearances.all_scores(etched, etched.boundary, random)
    assert row["adjusted Rand index"] == adjusted_rand_score(truth[truth > 0], random[truth > 0])


def test_the_best_classical_baseline_is_the_best_and_the_forest_learns(etched):
    rows = appearances.compare(etched, {"ridge": Ridge()})
    each = {
        name: appearances.all_scores(etched, *answer)
        for name, answer in appearances.classical_answers(etched.image).items()
    }
    assert len(each) == 6
    assert rows[CLASSICAL]["adapted Rand error"] == min(row["adapted Rand error"] for row in each.values())
    assert rows[FOREST]["boundary F1, 3 px"] > 0.5 > rows[TRIVIAL]["boundary F1, 3 px"]


def test_nobody_tells_a_segmenter_what_is_the_specimen():
    field = zoo_field("contrast, legend", 1, side=128)
    seen = []

    class Watcher(Ridge):
        def segment(self, image, **how):
            seen.append(image.valid)
            return super().segment(image, **how)

    appearances.compare(field, {"ridge": Watcher()})
    appearances.scores(field, Watcher())
    appearances.evidence_rows(field, {"ridge": Watcher()})
    assert (~field.valid).any()
    assert seen
    assert all(valid is None for valid in seen)


def test_contrast_to_noise_is_that_of_drawn_grains_and_recall_what_was_found():
    rng = np.random.default_rng(0)
    columns = np.arange(180) // 60  # three grains side by side, two boundaries
    grey = np.array([0.2, 0.5, 0.55])[columns] + 0.05 * rng.standard_normal((120, 180))
    truth = np.zeros((120, 180), bool)
    truth[:, [59, 60, 119, 120]] = True
    found = truth.copy()
    found[:, 100:] = False
    found[:30, 119] = True
    table = appearances.recall_by_contrast(Micrograph(grey, boundary=truth), found)
    assert table["contrast to noise"].tolist() == pytest.approx([6, 1], rel=0.1)
    assert table["recall"].tolist() == pytest.approx([1, 33 / 120], abs=0.02)  # 30 rows and 3 px beyond
    grey[:, [119, 120]] = 0.1  # now the second one has a line
    table = appearances.recall_by_contrast(Micrograph(grey, boundary=truth), found)
    assert table["contrast to noise"].tolist() == pytest.approx([6, 8.5], rel=0.1)


@pytest.mark.slow
def test_a_trial_run_stores_records_and_resumes(tmp_path, monkeypatch, capsys):
    few = ["etched", "contrast, legend"]
    monkeypatch.setattr(study, "ZOO", {name: ZOO[name] for name in few})
    monkeypatch.setattr(study, "SURFACES", {name: SURFACES[name] for name in ("etched", "contrast")})
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    (tmp_path / "records").mkdir()
    for _ in range(2):
        records.write("appearances_zoo", study.compare_record(tmp_path / "run", "zoo", "smoke"))
        records.write("appearances_left_out", study.left_out_record(tmp_path / "run", "smoke"))
        monkeypatch.setattr(appearances, "compare", None)  # nothing is compared a second time
        monkeypatch.setattr(appearances, "scores", None)
    zoo = records.load("appearances_zoo")
    (tmp_path / "run" / "zoo" / "fields" / "etched 0.json").unlink()
    so_far = study.compare_record(tmp_path / "run", "zoo", "smoke", so_far=True)
    assert f"etched: {study.OURS}" not in so_far["scores"]
    assert so_far["data"].startswith(f"1 of {len(few)} kinds")
    assert {f"etched: {name}" for name in (study.OURS, CLASSICAL, FOREST)} <= set(zoo["scores"])
    table = pd.DataFrame(zoo["rows"]["data"], columns=zoo["rows"]["columns"])
    assert set(table["appearance"]) == set(few)
    left = records.load("appearances_left_out")
    for training in (study.LEFT_OUT, study.CONTROL):
        names = {f"etched, {training}", f"contrast, {training}", f"median over the appearances, {training}"}
        assert names <= set(left["scores"])
    assert left["scores"]["etched, left out"] != left["scores"]["etched, trained on all"]


@pytest.mark.slow
def test_contrasts_are_counted_of_real_fields_and_of_virtual_ones(monkeypatch):
    known = [("bright", appearances.zoo_field("bright lines", 0, side=128))]
    monkeypatch.setattr(study, "real_fields", lambda size: known)
    record = study.contrast_record(None, "smoke")
    kinds = ("bright", "virtual, contrast", "virtual, contrast, legend")
    assert set(record["sets"]) == set(kinds)
    for name in (*kinds, "all"):
        shares = [
            s["share of the boundary"] for k, s in record["scores"].items() if k.startswith(f"{name}: ")
        ]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
