"""The study of synthetic data: training data of each model, resuming after a kill, claims about gains."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import run_records
from scipy import stats

from microlab.book import figures, records
from microlab.book.experiments import synthetic_share
from microlab.book.experiments.label_noise import PoorMask
from microlab.book.experiments.synthetic_share import (
    BASES,
    Cell,
    Grid,
    PhaseData,
    real_pairs,
    run,
    training_pairs,
)
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import write_pairs
from microlab.pipelines.samples import LabelledFields
from microlab.segment import constituents
from microlab.segment.constituents import ConstituentConfig

ROOT = Path(__file__).resolve().parents[2]


def blobs(seed: int, field: str, side: int = 32) -> Micrograph:
    """Three classes in vertical bands at random positions, each with its own grey."""
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.integers(4, side - 4, 2))
    mask = np.tile(np.digitize(np.arange(side), edges), (side, 1)).astype(np.uint8)
    image = (mask / 2 + rng.normal(0, 0.1, mask.shape)).clip(0, 1).astype(np.float32)
    return Micrograph(image, name=f"{field}_y0_x{seed}", classes=mask)


def tiny_data() -> PhaseData:
    return PhaseData(
        "toy",
        ("left", "middle", "right"),
        train=[blobs(k, "a") for k in range(8)],
        validation=[blobs(20 + k, "b") for k in range(4)],
        test=[blobs(40 + k, "c") for k in range(3)],
    )


def tiny_pool() -> list[Micrograph]:
    return [blobs(100 + k, "pool") for k in range(30)]


TINY = Grid(
    bases=("few good", "synthetic only"),
    shares=(0, 100),
    seeds=(0,),
    control=False,
    few=3,
    few_validation=2,
    poor=PoorMask(wrong=0.5, wrong_area=1.0),
    training=ConstituentConfig(
        classes=3,
        width=4,
        depth=1,
        crop=16,
        batch=2,
        steps=10,
        validate_every=5,
        lr=3e-3,
        precision="float32",
    ),
)
QUIET = {"jobs": 1, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def data() -> PhaseData:
    return tiny_data()


@pytest.fixture(scope="module")
def pool() -> list[Micrograph]:
    return tiny_pool()


# ---- the grid --------------------------------------------------------------------------------------------


def test_the_paper_size_has_the_papers_46_models_and_the_control():
    cells = [cell for cell in synthetic_share.PAPER.cells() if cell.seed == 0]
    assert len([cell for cell in cells if not cell.augmented]) == 46  # 4 x 8 + 2 x 7: its tables 5 and 6
    assert [cell for cell in cells if cell.augmented] == [Cell("many mixed", 0, "", 0, augmented=True)]
    assert len(synthetic_share.PAPER.cells()) == 47 * len(synthetic_share.PAPER.seeds)
    assert {BASES[cell.base].paper for cell in cells} == {"SHQ", "SLQ", "BLQ", "BMQ", "SyntMQ", "SyntLQ"}


def test_the_issues_five_training_sets_are_39_models_and_the_control():
    assert len(Grid(seeds=(0,)).cells()) == 40


def test_a_base_without_synthetic_data_is_trained_once_for_all_sources():
    cells = Grid(sources=("vqvae", "diffusion"), seeds=(0,)).cells()
    assert len({cell.name for cell in cells}) == len(cells) == 5 * 7 * 2 + 4 + 1
    assert [c.source for c in cells if c.share == 0] == [""] * 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bases": ("some good",)}, "bases must be of few good, .* got 'some good'"),
        ({"sources": ("../pool",)}, "sources must be names"),
        ({"shares": (-50,)}, "must hold numbers >= 0"),
        ({"seeds": ()}, "must hold numbers >= 0"),
        ({"few": 0}, "few and few_validation must be at least 1"),
        ({"training": ConstituentConfig(augment="photometric")}, "photometric already"),
    ],
)
def test_meaningless_grids_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Grid(**wrong)


# ---- the training sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "train", "validation"),
    [
        ("few good", "ggg", "gg"),
        ("few poor", "ppp", "pp"),
        ("many poor", "pppppppp", "pppp"),
        ("many mixed", "gggppppp", "ggpp"),
        ("synthetic only", "", "ggpp"),
        ("synthetic only, poor validation", "", "pppp"),
    ],
)
def test_poor_masks_are_where_they_should_be_and_nowhere_else(data, base, train, validation):
    for part, expected in (("train", train), ("validation", validation)):
        pairs = real_pairs(data, TINY, base, part)
        expert = getattr(data, part)
        kinds = ["g" if np.array_equal(m.classes, e.classes) else "p" for m, e in zip(pairs, expert)]
        assert "".join(kinds) == expected
        assert all(np.array_equal(m.image, e.image) for m, e in zip(pairs, expert))


def test_a_patch_has_the_same_poor_mask_in_every_base(data):
    few_pairs, many_pairs = (real_pairs(data, TINY, base, "train") for base in ("few poor", "many poor"))
    assert all(np.array_equal(a.classes, b.classes) for a, b in zip(few_pairs, many_pairs))


@pytest.mark.parametrize(
    ("base", "share", "number"),
    [("few good", 50, 2), ("few good", 300, 9), ("many mixed", 75, 6), ("synthetic only", 300, 24)],
)
def test_a_share_counts_from_the_bases_own_length(data, pool, base, share, number):
    pairs = training_pairs(data, pool, TINY, Cell(base, share, "vqvae", 0))
    names = {pair.name for pair in pool}
    drawn = [pair.name for pair in pairs if pair.name in names]
    assert len(drawn) == len(set(drawn)) == number  # 50 % of 3 is 1.5, rounded to the even 2
    assert len(pairs) - number == len(real_pairs(data, TINY, base, "train"))


def test_the_seed_selects_from_the_pool_and_a_larger_share_contains_the_smaller(data, pool):
    def drawn(share: int, seed: int) -> list[str]:
        return [p.name for p in training_pairs(data, pool, TINY, Cell("few good", share, "vqvae", seed))[3:]]

    assert drawn(300, 0)[:3] == drawn(100, 0)
    assert set(drawn(300, 0)) != set(drawn(300, 1))


def test_no_field_is_both_trained_on_and_tested(data):
    fields = [
        Micrograph(np.zeros((40, 60), np.float32), name=name, classes=np.zeros((40, 60), np.uint8))
        for name in "abcde"
    ]
    target = LabelledFields("toy", fields[:3], fields[3:4], fields[4:], ("one", "two"), True, "")
    phase_data = synthetic_share.phase_data(target, replace(TINY, few=4), side=20, test_per_field=6)
    assert (len(phase_data.train), len(phase_data.validation), len(phase_data.test)) == (9, 3, 6)
    assert {pair.name[0] for pair in phase_data.test} == {"e"}
    assert len({pair.name for pair in phase_data.train}) == 9
    assert {pair.name[0] for pair in phase_data.train[:4]} == {"a", "c"}  # few patches from few fields
    leak = replace(data.train[0], name=f"{data.test[0].name[0]}_y7_x7")
    with pytest.raises(ValueError, match="test holds patches of c, which training has seen"):
        replace(data, train=[*data.train, leak])


# ---- running it ------------------------------------------------------------------------------------------

SCRIPT = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from dataclasses import replace
    from test_synthetic_share import QUIET, TINY, long, tiny_data, tiny_pool
    from microlab.book.experiments.synthetic_share import run
    run(long(TINY), tiny_data(), {"vqvae": tiny_pool()}, sys.argv[1], **QUIET)
"""


def long(grid: Grid) -> Grid:
    """Enough steps to be killed in the middle of a training."""
    return replace(grid, training=replace(grid.training, steps=25, patience=None))


@pytest.mark.slow
def test_a_run_killed_during_a_training_resumes_and_equals_an_unbroken_run(data, pool, tmp_path, monkeypatch):
    """SIGKILL in the second of three trainings, after its first checkpoint."""
    broken = tmp_path / "broken"
    first, second, _ = long(TINY).cells()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), broken, Path(__file__).parent],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        while not (broken / "models" / second.name / "state.safetensors").exists():
            assert process.poll() is None, "finished before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [path.stem for path in (broken / "scores").iterdir()] == [first.name]
    written = (broken / "scores" / f"{first.name}.json").stat().st_mtime_ns

    steps = []
    loss = constituents.focal_dice_loss
    monkeypatch.setattr(constituents, "focal_dice_loss", lambda *a, **k: (steps.append(1), loss(*a, **k))[1])
    resumed = run(long(TINY), data, {"vqvae": pool}, broken, **QUIET)
    assert (broken / "scores" / f"{first.name}.json").stat().st_mtime_ns == written  # not trained again
    # The killed training resumed from a checkpoint, the third ran completely.
    assert 25 <= len(steps) <= 50 - 5
    steps.clear()
    whole = run(long(TINY), data, {"vqvae": pool}, tmp_path / "whole", **QUIET)
    assert len(steps) == 75
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )


@pytest.fixture(scope="module")
def finished(data, pool, tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("study")
    grid = replace(TINY, control=True, bases=("few good", "many mixed", "synthetic only"))
    return folder, run(grid, data, {"vqvae": pool}, folder, **QUIET)


def test_every_model_has_a_row_with_its_numbers_of_pairs(finished):
    _, table = finished
    rows = {(r.base, r.share, r.augmented): (r.real, r.synthetic) for r in table.itertuples()}
    assert rows == {
        ("few good", 0, False): (3, 0),
        ("few good", 100, False): (3, 3),
        ("many mixed", 0, False): (8, 0),
        ("many mixed", 100, False): (8, 8),
        ("synthetic only", 100, False): (0, 8),
        ("many mixed", 0, True): (8, 0),
    }
    assert (table["steps"] <= TINY.training.steps).all()  # a larger set does not get more steps
    plain, control = (
        table[(table.base == "many mixed") & (table.share == 0)].sort_values("augmented").missing_class_iou
    )
    assert plain != control


def test_scores_are_of_the_test_images_and_poor_masks_never_score(finished, data, monkeypatch):
    folder, table = finished
    row = table[(table.base == "many mixed") & (table.share == 100)].iloc[0]
    cell = Cell("many mixed", 100, "vqvae", 0)
    model = constituents.build_network(replace(TINY.training, seed=0))
    from microlab.data.weights import fill

    fill(model, folder / "models" / cell.name / "model.safetensors")
    predict = constituents.predict_constituents
    right = [(predict(model.eval(), p.image, device="cpu") == p.classes).mean() for p in data.test]
    assert row.accuracy == pytest.approx(np.mean(right), abs=1e-9)


def test_the_trivial_scores_are_those_of_a_constant_network(data):
    class Constant(constituents.nn.Module):
        def forward(self, image):
            return constituents.torch.stack(
                [constituents.torch.full_like(image[:, 0], c == common) for c in range(3)], 1
            )

    common = np.bincount(np.concatenate([p.classes.ravel() for p in data.train])).argmax()
    expected = constituents.evaluate_constituents(Constant(), data.test, 3, device="cpu")
    scores = synthetic_share.trivial(data)
    assert scores == pytest.approx({name: expected[name] for name in scores}, nan_ok=True)
    assert set(expected) - set(scores) == {"majority_accuracy"}


def test_more_seeds_shares_and_sources_extend_a_study(finished, data, pool, monkeypatch):
    folder, _ = finished
    trained = []
    original = constituents.train_constituents
    monkeypatch.setattr(
        synthetic_share,
        "train_constituents",
        lambda *a, **k: (trained.append(k["folder"].name), original(*a, **k))[1],
    )
    grid = replace(TINY, bases=("few good",), shares=(0, 50, 100), sources=("vqvae", "few"))
    run(grid, data, {"vqvae": pool, "few": pool[:5]}, folder, **QUIET)
    assert sorted(trained) == ["few-good_few_100_0", "few-good_few_50_0", "few-good_vqvae_50_0"]


def test_other_settings_data_or_pools_are_refused(finished, data, pool):
    folder, _ = finished
    grid = replace(TINY, bases=("few good",))
    other = replace(grid, training=replace(grid.training, steps=11))
    with pytest.raises(ValueError, match=r"other settings \(steps 10 -> 11\)"):
        run(other, data, {"vqvae": pool}, folder, **QUIET)
    with pytest.raises(ValueError, match=r"other settings \(poor wrong 0.5 -> 0.1"):
        run(replace(grid, poor=PoorMask(wrong=0.1, wrong_area=1.0)), data, {"vqvae": pool}, folder, **QUIET)
    with pytest.raises(ValueError, match=r"other settings \(train images"):
        run(grid, replace(data, train=data.train[::-1]), {"vqvae": pool}, folder, **QUIET)
    with pytest.raises(ValueError, match=r"other settings \(images"):
        run(grid, data, {"vqvae": pool[::-1]}, folder, **QUIET)


def test_a_pool_that_is_missing_or_too_small_is_named_before_anything_is_trained(data, pool, tmp_path):
    with pytest.raises(ValueError, match=r"pools must hold 'vqvae', got \[\]"):
        run(TINY, data, {}, tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"synthetic only with 100 % needs 8 .* pool 'vqvae' has 7"):
        run(TINY, data, {"vqvae": pool[:7]}, tmp_path, **QUIET)
    with pytest.raises(ValueError, match="train holds 8 pairs, the few are 9"):
        run(replace(TINY, few=9), data, {"vqvae": pool}, tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dask_scheduler_makes_the_same_table(finished, cluster, data, pool, tmp_path):
    _, table = finished
    grid = replace(TINY, bases=("few good",))
    dask_table = run(grid, data, {"vqvae": pool}, tmp_path, scheduler=cluster.scheduler_address, **QUIET)
    known = table[table.base == "few good"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        dask_table.drop(columns="seconds"), known.drop(columns="seconds"), check_exact=True
    )


# ---- claims ----------------------------------------------------------------------------------------------


def made_up(seeds: int = 6) -> pd.DataFrame:
    """Scores with a strong common effect of the seed, and a gain of 0.02 that it would hide."""
    rng = np.random.default_rng(3)
    rows = []
    for seed in range(seeds):
        common = rng.normal(0, 0.05)
        for base, share, source, augmented, shift in (
            ("few good", 0, "", False, 0.0),
            ("few good", 100, "vqvae", False, 0.02),
            ("many mixed", 0, "", False, 0.05),
            ("many mixed", 0, "", True, 0.04),
            ("many mixed", 100, "vqvae", False, 0.05),
            ("synthetic only", 100, "vqvae", False, -0.1),
        ):
            value = 0.7 + common + shift + rng.normal(0, 0.005)
            rows.append(
                {"base": base, "share": share, "source": source, "seed": seed, "augmented": augmented}
                | {"accuracy": value, "mIoU": value - 0.05, "missing_class_iou": value}
                | {"IoU_0": value, "IoU_1": value - 0.1, "majority_accuracy": 0.6}
            )
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # rows in any order are still paired by seed


def test_the_interval_is_that_of_a_paired_t_test():
    scores = made_up()
    ours = synthetic_share.gain(scores, "few good", 100, "vqvae")
    sets = [
        scores[(scores.base == "few good") & (scores.share == share)].sort_values("seed").missing_class_iou
        for share in (100, 0)
    ]
    test = stats.ttest_rel(*sets)
    interval = test.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.mean == pytest.approx(sets[0].mean() - sets[1].mean())
    assert ours.excludes_zero == (test.pvalue < 0.05)
    unpaired = stats.ttest_ind(*sets).confidence_interval(0.95)
    assert unpaired.low < 0 < ours.low  # pairing reveals what the spread over seeds hides
    assert ours.low < ours.bootstrap[0] < ours.mean < ours.bootstrap[1] < ours.high


def test_95_of_100_intervals_contain_a_true_gain_of_zero():
    rng = np.random.default_rng(0)
    misses = 0
    scores = made_up(5)
    for _ in range(200):
        scores["missing_class_iou"] = rng.normal(0.7, 0.02, len(scores))
        misses += synthetic_share.gain(scores, "few good", 100, "vqvae", resamples=2).excludes_zero
    assert 1 <= misses <= 20  # 10 expected, standard deviation 3.1


def test_seeds_without_a_partner_are_left_out_and_one_seed_has_no_interval():
    scores = made_up()
    short = scores[~((scores.share == 100) & (scores.seed > 2))]
    assert synthetic_share.gain(short, "few good", 100, "vqvae").n == 3
    one = synthetic_share.gain(scores[scores.seed == 0], "few good", 100, "vqvae")
    assert np.isnan(one.low)
    assert not one.excludes_zero
    with pytest.raises(ValueError, match="no seed has both 'few poor' with 100 %"):
        synthetic_share.gain(scores, "few poor", 100, "vqvae")


def test_purely_synthetic_sets_are_compared_with_the_base_whose_validation_they_share():
    scores = made_up()
    assert synthetic_share.gain(scores, "synthetic only", 100, "vqvae").mean == pytest.approx(-0.15, abs=0.01)
    table = synthetic_share.gains(scores)
    assert len(table) == 4
    assert table.set_index(["base", "augmented"]).loc[("many mixed", True), "gain"].item() < 0


def test_the_summary_is_the_mean_and_sample_deviation_over_seeds():
    scores = made_up()
    row = synthetic_share.summary(scores).loc[("few good", 100, "vqvae", False)]
    values = scores[(scores.base == "few good") & (scores.share == 100)].mIoU
    assert row["mIoU", "mean"] == pytest.approx(np.mean(values))
    assert row["mIoU", "sd"] == pytest.approx(np.std(values, ddof=1))


def test_our_scores_are_listed_with_those_of_the_paper():
    table = synthetic_share.beside_paper(made_up(), "vqvae")
    best = table[(table.base == "many mixed") & (table.share == 100) & (table.measure == "missing_class_iou")]
    assert best.paper.item() == 0.910
    assert best["mean"].item() == pytest.approx(0.75, abs=0.05)
    assert np.isnan(table[table.base == "many poor"]["mean"]).all()  # not in these scores


def test_the_results_page_accepts_the_record_and_every_row_is_read_back(finished, data, pool, tmp_path):
    benchmark = importlib.import_module("studies.synthetic_share.__main__")
    _, table = finished
    write_pairs(tmp_path / "pools" / "vqvae", pool, classes=3, about={"generator": "toy"})
    options = argparse.Namespace(
        size="smoke", target="uhcs", sources=None, bases=["few good"], shares=None, seeds=None, few=None
    )
    options = argparse.Namespace(
        **vars(options), steps=None, encoder=None, device="cpu", note="A toy.", suffix="", no_control=False
    )
    record = benchmark.record(table, data, TINY, options, {"vqvae": pool}, tmp_path)
    record = json.loads(json.dumps(record))
    records.check(record, "toy")
    page = run_records.markdown(record)
    assert '--bases "few good" --record' in page
    assert "| paper, BMQ + 100 % |" in page
    assert "one class everywhere (trivial baseline)" in page
    assert "- vqvae: pool of 30 synthetic pairs (generator toy)" in page
    value = table[(table.base == "few good") & (table.share == 100)].missing_class_iou.item()
    assert record["scores"]["few good + 100 % vqvae"]["Missing Class IoU"] == pytest.approx(value, abs=1e-4)
    again = pd.DataFrame(record["rows"]["data"], columns=record["rows"]["columns"])
    assert synthetic_share.gain(again, "few good", 100, "vqvae").mean == pytest.approx(
        synthetic_share.gain(table, "few good", 100, "vqvae").mean, abs=2e-4
    )


def test_a_pool_of_another_size_is_refused(data, pool, tmp_path):
    benchmark = importlib.import_module("studies.synthetic_share.__main__")
    about = {"generator": "paper", "trained on": "few good", "few": 3, "size": "smoke"}
    write_pairs(tmp_path / "pools" / "vqvae-few", pool, classes=3, about=about)
    laptop, smoke = (
        argparse.Namespace(size=size, target="uhcs", device="cpu") for size in ("laptop", "smoke")
    )
    assert len(benchmark.pool(tmp_path, "vqvae-few", data, TINY, 30, smoke)) == 30
    with pytest.raises(SystemExit, match="was made with size smoke, few 3, not size laptop, few 3"):
        benchmark.pool(tmp_path, "vqvae-few", data, TINY, 30, laptop)
    with pytest.raises(SystemExit, match="not size smoke, few 2"):
        benchmark.pool(tmp_path, "vqvae-few", data, replace(TINY, few=2), 30, smoke)
    with pytest.raises(SystemExit, match="holds 30 pairs, the largest share needs 50"):
        benchmark.pool(tmp_path, "vqvae-few", data, TINY, 100, smoke)


# ---- figures ---------------------------------------------------------------------------------------------


def test_bars_are_the_means_and_lines_the_bases_alone():
    scores = made_up()
    ax = figures.share_plot(scores, "missing_class_iou", source="vqvae")
    means = synthetic_share.summary(scores)["missing_class_iou"]["mean"]
    heights = sorted(bar.get_height() for bar in ax.patches)
    expected = sorted(100 * means[key] for key in means.index if key[1] == 100)
    assert heights == pytest.approx(expected)
    levels = {
        round(float(np.ravel(line.get_ydata())[0]), 6)
        for line in ax.lines
        if len(np.unique(line.get_ydata())) == 1
    }
    for key in means.index:
        if key[1] == 0:
            assert round(100 * means[key], 6) in levels
    plt.close("all")


def test_there_is_a_panel_for_each_class_and_gains_have_a_zero_line():
    scores = made_up()
    figure = figures.class_plots(scores, ("matrix", "carbide"), source="vqvae")
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["matrix", "carbide"]
    ax = figures.gain_plot(scores)
    assert any(np.all(np.ravel(line.get_xdata()) == 0) for line in ax.lines)
    plt.close("all")


def test_the_text_states_the_gains_and_their_intervals():
    scores = made_up()
    text = figures.describe_shares(scores)
    gain = synthetic_share.gain(scores, "few good", 100, "vqvae")
    interval = f"interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}, excludes 0"
    assert f"few good with 100 % vqvae: gain {100 * gain.mean:+.1f} points, {interval}" in text
    assert text.startswith("Missing Class IoU, mean over 6 seeds.")
    text_of_one_seed = figures.describe_shares(scores[scores.seed == 0])
    assert "interval" not in text_of_one_seed  # one seed says nothing about its spread
