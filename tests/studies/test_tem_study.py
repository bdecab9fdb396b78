"""The study at a tiny size: training data, what is kept, what is refused."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import run_records
import torch

from microlab.book import records
from microlab.book.experiments.bernoulli import BernoulliNet
from microlab.book.experiments.weak_boundaries import MEASURES, count_weights, score_answers
from microlab.pipelines.train_edge_segmenter import EdgeTrainingConfig, edge_pairs
from microlab.render.tem import CONCEPTS, TEMConfig
from microlab.segment import refine, refine_training
from microlab.segment.edges import DETECTORS
from microlab.segment.refine import EdgeNet, RefineNet
from microlab.segment.refine_training import FirstConfig, SecondConfig
from microlab.segment.unet import UNet
from studies.tem import limits, rivals
from studies.tem import study as tem_study
from studies.tem.limits import NOTHING, run_maps
from studies.tem.study import REFINERS, VARIANTS, TEMStudy

SMALL = {"shape": (48, 64), "grain_area": (200.0, 400.0)}
SHORT = {"crop": 32, "batch": 2, "steps": 2, "warmup": 1, "precision": "float32"}
STUDY = TEMStudy(
    recipe=EdgeTrainingConfig(
        pictures=4,
        held_back=0.5,
        inputs=("sobel", "grey"),
        concepts=TEMConfig(**SMALL),
        first=FirstConfig(**SHORT),
        second=SecondConfig(**SHORT, guessed=0.0),
    ),
    refiner_steps=2,
    pictures=2,
    first=FirstConfig(**SHORT),
    second=SecondConfig(**SHORT, guessed=0.0),
    seeds=(0,),
    test=2,
    ablation_test=1,
    draws=1,
    draw_steps=2,
    max_iterations=2,
)
CELLS = [("refiner", "Net2", 0), ("refiner", "one more Net1", 0), ("ablation", "Sobel alone", 0)]
QUIET = {"jobs": 1, "device": "cpu", "progress": False}


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Pictures that the study draws by its defaults are as small as the recipe's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tem_study, "TEMConfig", partial(TEMConfig, **SMALL))
        yield


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory):
    """A study killed in its second cell and called again: folder, table, cells run, files before."""
    folder, one_cell, cells_run = tmp_path_factory.mktemp("study"), tem_study._run_cell, []

    def recorded_cell(study, folder, *cell_and_device):
        cells_run.append(cell_and_device[:3])
        one_cell(study, folder, *cell_and_device)

    def killed_cell(study, folder, *cell_and_device):
        if cell_and_device[1] == "one more Net1":
            raise RuntimeError("killed")
        one_cell(study, folder, *cell_and_device)

    def forbidden(*args, **options):
        raise AssertionError("Net1 is there and must not be trained again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tem_study, "_run_cell", killed_cell)
        with pytest.raises(RuntimeError, match="killed"):
            tem_study.run(STUDY, folder, cells=CELLS, **QUIET)
        written = {path.name: path.read_text() for path in (folder / "scores").iterdir()}
        patch.setattr(tem_study, "_run_cell", recorded_cell)
        patch.setattr(refine_training, "train_first", forbidden)
        table = tem_study.run(STUDY, folder, cells=CELLS, **QUIET)
    return folder, table, cells_run, written


# ---- the run ---------------------------------------------------------------------------------------------


def test_a_killed_study_resumes_with_the_missing_cells(killed_and_finished):
    folder, _, cells_run, written = killed_and_finished
    assert list(written) == ["refiner_Net2_0.json"]
    assert cells_run == CELLS[1:]
    assert (folder / "scores" / "refiner_Net2_0.json").read_text() == written["refiner_Net2_0.json"]
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    tem_study.run(STUDY, folder, cells=CELLS, **QUIET)
    # There is nothing left to do.
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_every_stage_is_scored_with_every_finish(killed_and_finished):
    _, table, _, _ = killed_and_finished
    stages = ["Net1", "once", "until it stands still"]
    for _, name, _ in CELLS:
        part = table[table["name"] == name]
        finishes = list(tem_study.FINISHES) if name != "Sobel alone" else [tem_study.FINISH]
        expected = {(stage, finish) for stage in stages for finish in finishes}
        assert set(zip(part["stage"], part["finish"], strict=True)) == expected
        assert len(part) == len(expected)
    assert set(MEASURES) <= set(table.columns)
    assert table["accuracy"].between(0, 1).all()
    assert (table["minutes"] > 0).all()
    net1 = table[(table["stage"] == "Net1") & (table["kind"] == "refiner")]
    assert len(net1[list(MEASURES)].drop_duplicates()) == len(tem_study.FINISHES)  # one Net1 for all
    assert set(net1["weights"]) == {count_weights(EdgeNet(2))}
    converged = table[table["stage"] == "until it stands still"]
    assert (converged["most iterations"] <= STUDY.max_iterations).all()
    assert (table.loc[table["stage"] == "once", "iterations"] == 1).all()


def test_the_stored_networks_give_the_stored_scores(killed_and_finished):
    folder, table, _, _ = killed_and_finished
    segmenter = tem_study.trained_segmenter(STUDY, folder, 0)
    assert segmenter.card["max_iterations"] == STUDY.max_iterations
    assert segmenter.card["finish"]["method"] == tem_study.FINISH
    pictures = tem_study.held_out_pictures(STUDY)
    answers = [segmenter.grains(run_maps(segmenter, pair.image)[1].result) for pair in pictures]
    expected = score_answers(pictures, answers).mean()
    row = table[(table["name"] == "Net2") & (table["stage"] == "until it stands still")]
    row = row[row["finish"] == tem_study.FINISH].iloc[0]
    # The number of threads may change the last digit of a map, and with it a pixel.
    np.testing.assert_allclose(row[list(MEASURES)].astype(float), expected[list(MEASURES)], atol=2e-3)


def test_other_settings_are_refused_but_more_seeds_are_accepted(killed_and_finished):
    folder, table, _, _ = killed_and_finished
    extended = replace(STUDY, seeds=(0, 1, 2), variances=(0.01,), stressed=1)
    assert len(tem_study.run(extended, folder, cells=[], **QUIET)) == len(table)
    assert set(STUDY.cells()) < set(extended.cells())
    for other in (
        replace(STUDY, refiner_steps=3),
        replace(STUDY, max_iterations=3),
        replace(STUDY, recipe=replace(STUDY.recipe, seed=1)),
        replace(STUDY, second=replace(STUDY.second, soften=0.5)),
    ):
        with pytest.raises(ValueError, match="other settings"):
            tem_study.run(other, folder, cells=[], **QUIET)


def test_a_folder_without_scores_is_no_study(tmp_path):
    with pytest.raises(ValueError, match="no finished training"):
        tem_study.finished(tmp_path)


def test_net1_and_its_guesses_are_those_of_the_recipe_on_pictures_that_it_has_not_seen(killed_and_finished):
    folder, *_ = killed_and_finished
    net1, unknown, guesses = tem_study.prepare_first(STUDY, folder)
    pairs = edge_pairs(4, 0, TEMConfig(**SMALL), STUDY.recipe.inputs)
    for (channels, target), (stored, boundary) in zip(pairs[2:], unknown, strict=True):
        np.testing.assert_array_equal(channels, stored)
        np.testing.assert_array_equal(target, boundary)
    again, _ = refine_training.train_first(pairs[:2], STUDY.recipe.first, device="cpu", progress=False)
    for a, b in zip(net1.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for (channels, _), guess in zip(unknown, guesses, strict=True):
        expected = refine.first_guess(net1, channels, device="cpu")
        np.testing.assert_allclose(guess, expected, atol=1e-5)


def test_test_pictures_are_in_no_training_and_the_first_ones_do_not_depend_on_their_number():
    pictures = tem_study.held_out_pictures(STUDY)
    assert len(pictures) == STUDY.test
    np.testing.assert_array_equal(tem_study.held_out_pictures(STUDY, 1)[0].image, pictures[0].image)
    tested = {pair.boundary.tobytes() for pair in pictures}
    for seed in (STUDY.recipe.seed, STUDY.recipe.seed + 1):  # of the recipe, and of the ablations
        trained = edge_pairs(4, seed, TEMConfig(**SMALL), ("sobel",))
        assert not tested & {target.tobytes() for _, target in trained}


# ---- ablations -------------------------------------------------------------------------------------------

WORDS = {"Sobel": "sobel", "LoG": "log", "Canny": "canny", "grey picture": "grey"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_trained_as_its_name_says(name):
    variant, whole = VARIANTS[name], TEMConfig(**SMALL)
    inputs, off = DETECTORS, None
    if name.endswith(" alone"):
        inputs = (WORDS[name.removesuffix(" alone")],)
    elif name == "and the grey picture":
        inputs = (*DETECTORS, "grey")
    elif name.startswith("without "):
        missing = name.removeprefix("without ")
        off = missing if missing in CONCEPTS else None
        inputs = tuple(d for d in DETECTORS if d != WORDS.get(missing))
        assert off or len(inputs) == len(DETECTORS) - 1
    else:
        assert name == "all"
    assert variant.inputs == inputs
    concepts = variant.concepts()
    changed = {f.name: getattr(concepts, f.name) for f in fields(whole)}
    changed = {key: value for key, value in changed.items() if value != asdict(whole)[key]}
    assert changed == ({off: False} if off else {})


def test_every_detector_and_every_concept_is_removed_once():
    assert {v.off for v in VARIANTS.values()} == {"", *CONCEPTS}
    for detector in DETECTORS:
        without = [v for v in VARIANTS.values() if set(DETECTORS) - set(v.inputs) == {detector}]
        alone = [v for v in VARIANTS.values() if v.inputs == (detector,)]
        assert len(without) == len(alone) == 1


# ---- refiners ---------------------------------------------------------------------------------------------

KINDS = {"one more Net1": EdgeNet, "plain U-Net": UNet, "Bernoulli diffusion": BernoulliNet}


@pytest.fixture(scope="module")
def training_data():
    pairs = edge_pairs(2, 3, TEMConfig(**SMALL), STUDY.recipe.inputs)
    return pairs, [np.full(target.shape, 0.25, np.float32) for _, target in pairs]


@pytest.mark.parametrize("name", REFINERS)
def test_every_refiner_trains_and_makes_maps_within_the_cap(name, training_data):
    pairs, guesses = training_data
    network = tem_study.train_refiner(name, STUDY, pairs, guesses, 1, device="cpu", progress=False)
    assert type(network) is KINDS.get(name, RefineNet)
    channels, target = pairs[0]
    stages = tem_study.refined_maps(network.eval(), guesses[0], channels, STUDY)
    steps = STUDY.draw_steps if name == "Bernoulli diffusion" else STUDY.max_iterations
    assert len(stages) == 2
    for probability, count in stages.values():
        assert probability.shape == target.shape
        assert 0 <= probability.min() <= probability.max() <= 1
        assert 1 <= count <= steps


def test_the_plain_unet_has_the_size_of_net2():
    net2 = count_weights(RefineNet(3))
    assert abs(count_weights(rivals.unet_of_size(net2, 3)) / net2 - 1) < 0.2


def test_only_one_refiner_is_trained_on_net1_s_mistakes(training_data, monkeypatch):
    configs = {}
    for trainer in ("train_second", "train_bernoulli"):
        monkeypatch.setattr(tem_study, trainer, lambda pairs, config, **options: (config, None))
    monkeypatch.setattr(rivals, "train_gan", lambda pairs, config, **options: (config, None))
    for name in REFINERS:
        configs[name] = tem_study.train_refiner(name, STUDY, *training_data, 7)
    assert {config.steps for config in configs.values()} == {STUDY.refiner_steps}
    assert {config.seed for config in configs.values()} == {7}
    assert {(config.crop, config.batch, config.lr) for config in configs.values()} == {
        (STUDY.recipe.second.crop, STUDY.recipe.second.batch, STUDY.recipe.second.lr)
    }
    shares = {name: config.guessed for name, config in configs.items() if isinstance(config, SecondConfig)}
    assert shares.pop("Net2 taught by Net1's mistakes") == 0.5
    assert set(shares.values()) == {0.0}
    assert len(shares) == 4


# ---- the benchmark ---------------------------------------------------------------------------------------


@pytest.fixture
def options() -> argparse.Namespace:
    return argparse.Namespace(kinds=["refiner"], jobs=1, device="cpu", size="smoke")


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    monkeypatch.setattr(limits, "TEMConfig", partial(TEMConfig, **SMALL))
    return importlib.import_module("studies.tem.__main__")


@pytest.mark.slow
def test_the_benchmark_makes_records_of_every_table_from_one_folder(killed_and_finished, benchmark, options):
    folder, *_ = killed_and_finished
    study = replace(STUDY, variances=(0.01, 0.08), stressed=1)
    records_made = dict(benchmark.synthetic_records(study, folder, options))
    names = ("methods", "detectors", "concepts", "noise", "iterations", "limits", "visibility")
    assert list(records_made) == [f"tem_{name}" for name in names]
    pages = run_records
    for name, record in records_made.items():
        record = json.loads(json.dumps(record, allow_nan=False))
        records.check(record, name)
        assert "nan" not in pages.markdown(record).lower()
    # The trivial baseline is scored on the pictures of its table: the first one of the two here.
    pictures = tem_study.held_out_pictures(STUDY)
    shares = [1 - pair.boundary.mean() for pair in pictures]
    for name, expected in (("methods", np.mean(shares)), ("detectors", shares[0]), ("iterations", shares[0])):
        assert records_made[f"tem_{name}"]["scores"][NOTHING]["accuracy"] == pytest.approx(expected, abs=1e-4)
        assert records_made[f"tem_{name}"]["data"].startswith("2 " if name == "methods" else "1 ")

    def stamps() -> dict[Path, int]:
        files = (*folder.rglob("*.csv"), *folder.rglob("*.safetensors"))  # tables, histories, networks
        return {path: path.stat().st_mtime_ns for path in files}

    before = stamps()
    assert len(before) > len(names)
    assert list(dict(benchmark.synthetic_records(study, folder, options))) == list(records_made)
    assert stamps() == before
    fewer = replace(study, variances=(0.01,))
    noise = dict(benchmark.synthetic_records(fewer, folder, options))["tem_noise"]
    assert {name.split(":")[0] for name in noise["scores"]} == {"variance 0.01"}


def test_tables_without_net2_are_not_started(benchmark, options, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "run", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit, match="need Net2 of every seed"):
        benchmark.synthetic_records(STUDY, tmp_path, options)


def test_the_sizes_of_the_benchmark_differ_in_size_alone(benchmark):
    sizes = benchmark.SIZES
    assert sizes["laptop"] == TEMStudy()
    assert {len(study.recipe.inputs) for study in sizes.values()} == {len(DETECTORS)}
    assert {study.recipe.concepts for study in sizes.values()} == {TEMConfig()}
    for study in sizes.values():
        assert study.second.guessed == study.recipe.second.guessed == 0
        assert study.ablation_test <= study.test
        assert 0.01 in study.variances  # the training's largest, to which the stress is compared
