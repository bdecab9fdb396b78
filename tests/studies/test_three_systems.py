"""The comparison of the three systems: same image, same scores, complete costs."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import run_records
from edge_nets import save_edge_segmenter

from microlab.book import records
from microlab.data import weights
from microlab.data.micrograph import Micrograph
from microlab.pipelines.samples import Target, virtual_sample
from microlab.pipelines.training_pairs import labelled_pairs, labelled_patches
from microlab.segment.edge_segmenter import EdgeSegmenter
from microlab.segment.registry import load_segmenter
from studies.three_systems import compare
from studies.three_systems.compare import BOTH, NOTHING, ORACLE, REAL, SAMPLED, SIZES, TEM, TRAINED

SMOKE = replace(SIZES["smoke"], study=replace(SIZES["smoke"].study, patch=32, images=6))
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def target() -> Target:
    field = virtual_sample(3, size=128, grains=16, steps=40)
    left, right = (
        replace(field, image=field.image[:, part].copy(), boundary=field.boundary[:, part].copy())
        for part in (slice(64), slice(64, None))
    )
    return Target("stand-in", left, right, virtual=True)


def unscored(name: str, *_) -> compare.Row:
    return compare.Row(name, None, {}, 0, 0, 0)


@pytest.fixture(scope="module")
def finished(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return folder, compare.run(target, 1.0, folder, SMOKE, seeds=(0,), **QUIET)


def test_every_trained_row_carries_scores_and_costs(finished) -> None:
    _, table = finished
    assert list(table["name"]) == list(TRAINED)
    rows = table.set_index("name")
    assert rows["accuracy"].between(0, 1).all()
    assert (rows["minutes"] > 0).all()
    assert (rows["seconds"] > 0).all()
    # Only the rows that need the pair models include their costs.
    assert rows.loc[[BOTH, SAMPLED], "minutes"].min() > rows.loc[[REAL, ORACLE], "minutes"].max()
    assert rows["megabytes"].nunique() == 1  # the same U-Net everywhere


def test_a_finished_row_is_read_and_other_settings_are_refused(finished, target, monkeypatch) -> None:
    folder, table = finished
    monkeypatch.setattr(compare, "train_unet", lambda *a, **k: pytest.fail("trained again"))
    again = compare.run(target, 1.0, folder, SMOKE, seeds=(0,), **QUIET)
    assert again.equals(table)
    with pytest.raises(ValueError, match=r"other settings \(sampled 2 -> 3\)"):
        compare.run(target, 1.0, folder, replace(SMOKE, sampled=3), seeds=(0,), **QUIET)


def test_sampled_pairs_are_read_back_with_the_minutes_they_took(finished, target) -> None:
    folder, _ = finished
    patches = labelled_patches(target, 1.0, 4, side=32, seed=0)
    pairs, minutes = compare.sample_patches(patches, folder / "pair_model_0", SMOKE, 0, device="cpu")
    about = json.loads((folder / "pair_model_0" / "pairs" / "manifest.json").read_text())["about"]
    assert minutes == about["minutes"] > 0
    assert [pair.shape for pair in pairs] == [(32, 32)] * SMOKE.sampled
    assert all(pair.boundary.dtype == bool for pair in pairs)


def test_rows_with_few_patches_use_only_the_mask_inside_the_patches(target, tmp_path, monkeypatch) -> None:
    recorded: dict[str, list] = {}
    monkeypatch.setattr(compare, "train_unet", lambda pairs, *_, **__: recorded.update(pairs=pairs))
    monkeypatch.setattr(compare, "megabytes", lambda *_: 0.0)
    monkeypatch.setattr(compare, "_row", unscored)
    patches = labelled_patches(target, 1.0, 4, side=32, seed=5)
    visible_mask = np.zeros_like(target.style.boundary)
    for patch in patches:  # keep the mask where a patch lies, and nowhere else
        for y in range(0, 128, 32):
            for x in range(0, 64, 32):
                if np.array_equal(target.style.image[y : y + 32, x : x + 32], patch.image):
                    visible_mask[y : y + 32, x : x + 32] = patch.boundary
    masked_target = replace(target, style=replace(target.style, boundary=visible_mask))
    pairs_made = []
    for kind, folder in ((target, tmp_path / "whole"), (masked_target, tmp_path / "patches")):
        recorded.clear()
        compare.run(kind, 1.0, folder, SMOKE, seeds=(5,), names=[BOTH], **QUIET)
        pairs_made.append(recorded["pairs"])
    assert len(pairs_made[0]) == SMOKE.study.images
    assert all(np.array_equal(a.boundary, b.boundary) for a, b in zip(*pairs_made, strict=True))


def test_the_scored_half_is_never_trained_on(target, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(compare, "_row", unscored)
    unreadable = replace(target, test=Micrograph(None))  # reading it would raise
    table = compare.run(unreadable, 1.0, tmp_path, SMOKE, seeds=(0,), **QUIET)
    assert list(table["name"]) == list(TRAINED)


def test_the_patches_are_those_of_the_study_of_training_sets(target, monkeypatch) -> None:
    monkeypatch.setattr("microlab.pipelines.training_pairs.augment", lambda image, mask, seed: (image, mask))
    patches = labelled_patches(target, 1.0, 3, side=32, seed=4)
    plain = labelled_pairs(target, 1.0, 3, patches=3, side=32, seed=4)
    for patch, pair in zip(patches, plain, strict=True):
        assert np.abs(patch.image - pair.image).max() <= 0.5 / 255 + 1e-6
        assert np.array_equal(patch.boundary, pair.boundary)


@pytest.mark.slow
def test_untrained_methods_are_scored_beside_the_trivial_baseline(target, tmp_path) -> None:
    rows = {row.name: row for row in compare.untrained(target, device="cpu")}
    assert TEM not in rows  # without its networks
    rows = {
        row.name: row
        for row in compare.untrained(target, EdgeSegmenter.load(save_edge_segmenter(tmp_path)), device="cpu")
    }
    assert rows[NOTHING].scores["accuracy"] == pytest.approx(1 - target.test.boundary.mean())
    assert rows[NOTHING].scores["boundary F1, 3 px"] == 0
    assert all(row.seconds > 0 and row.seed is None for row in rows.values())
    assert rows[TEM].megabytes < rows[compare.SHIPPED].megabytes
    assert rows[compare.RIDGE].scores["boundary F1, 3 px"] > 0.5


def test_megabytes_are_those_of_the_shipped_file() -> None:
    network = load_segmenter("label-free")
    assert compare.megabytes(network.model) == pytest.approx(network.card["bytes"] / 1e6, rel=0.01)
    assert network.card["bytes"] == (weights.FOLDER / "labour-free.safetensors").stat().st_size


def test_the_cost_clock_does_not_count_idle_time() -> None:
    code = """
import time
from studies.three_systems import compare
now = compare.clock("cpu")
start = now()
time.sleep(1)
print(now() - start)
"""  # in a process of its own: the clock counts every thread, and other tests leave some behind
    idle = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert float(idle.stdout) < 0.5


def test_an_unknown_row_is_named(target, tmp_path) -> None:
    with pytest.raises(ValueError, match="names must be of"):
        compare.run(target, 1.0, tmp_path, SMOKE, names=["D"], **QUIET)


def test_the_results_page_accepts_the_record_and_every_row_is_read_back(finished, target) -> None:
    benchmark = importlib.import_module("studies.three_systems.__main__")
    folder, one = finished
    other = one.assign(seed=1, **{benchmark.COMPARED: one[benchmark.COMPARED] + 0.1 * (one["name"] == BOTH)})
    table = pd.concat([one, other], ignore_index=True)
    options = argparse.Namespace(size="smoke", image="perovskite", seeds=[0, 1], tem="tem", note="A toy.")
    rows = compare.untrained(target, device="cpu")
    record = json.loads(json.dumps(benchmark.record(table, rows, target, 1.0, folder, options)))
    records.check(record, "toy")
    page = run_records.markdown(record)
    assert f"{NOTHING} (trivial baseline)" in page
    assert "System C's weights were not there" in page
    assert "--size smoke --seeds 0 1 --record" in page
    assert set(record["sets"]) == set(record["scores"]) == {*TRAINED, *(row.name for row in rows)}
    again = pd.DataFrame(record["rows"]["data"], columns=record["rows"]["columns"])
    assert again["grain IoU"].to_numpy() == pytest.approx(table["grain IoU"].to_numpy(), abs=1e-4)
    # Two seeds whose gains differ by 0.1: the t interval reaches 12.7 standard errors of 0.05 to each side.
    base = one.set_index("name")[benchmark.COMPARED]
    middle = base[BOTH] - base[REAL] + 0.05
    expected = f"{middle:+.3f} ({middle - 0.6353:+.3f} to {middle + 0.6353:+.3f})"
    assert record["scores"][BOTH][benchmark.GAIN] == expected
    assert record["scores"][REAL][benchmark.GAIN] == ""


def test_rows_of_the_stored_study_are_taken_from_it_and_say_so() -> None:
    benchmark = importlib.import_module("studies.three_systems.__main__")
    stored = records.load("training_sets_perovskite")["scores"]
    rows = benchmark.stored_rows("perovskite")
    assert rows["oracle, stored"]["grain IoU"] == stored["oracle"]["grain IoU"]
    assert "accuracy" not in rows["oracle, stored"]  # it was not stored
    assert all("stored" in name for name in rows)
