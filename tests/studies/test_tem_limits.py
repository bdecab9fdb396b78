"""Limits of the segmenter, with hand-set networks, and the tables of the study, with made-up scores."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import run_records
from edge_nets import save_edge_segmenter
from scipy import ndimage, stats
from skimage.morphology import skeletonize

from microlab.book import records
from microlab.book.experiments import weak_boundaries
from microlab.book.experiments.weak_boundaries import MEASURES
from microlab.render.tem import TEMConfig, tem_picture
from microlab.segment import classical
from microlab.segment.edge_segmenter import EdgeSegmenter
from studies.tem import limits, tables
from studies.tem import study as tem_study
from studies.tem.limits import (
    NOTHING,
    UNTRAINED,
    classical_answers,
    easier,
    failure_threshold,
    iterations_and_error,
)
from studies.tem.study import FINISH, FINISHES, TEMStudy

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"shape": (48, 64), "grain_area": (200.0, 400.0)}
STUDY = TEMStudy(seeds=(0, 1), variances=(0.01, 0.08), stressed=2, test=2)
CAPS = {0: 2, 1: 5}  # of the two seeds' segmenters, so that one stops before the other


@pytest.fixture(scope="module", autouse=True)
def small_study(tmp_path_factory):
    """Small pictures, and hand-set networks in place of trained ones."""
    hand_set = EdgeSegmenter.load(save_edge_segmenter(tmp_path_factory.mktemp("segmenter")))

    def trained_segmenter(study, folder, seed, refiner="Net2"):
        card = {"inputs": hand_set.card["inputs"], "finish": FINISHES[FINISH], "tolerance": 1e-9}
        return EdgeSegmenter(hand_set.net1, hand_set.net2, card | {"max_iterations": CAPS[seed]})

    with pytest.MonkeyPatch.context() as patch:
        for module in (tem_study, limits):
            patch.setattr(module, "TEMConfig", partial(TEMConfig, **SMALL))
            patch.setattr(module, "trained_segmenter", trained_segmenter)
        yield


# ---- noise -----------------------------------------------------------------------------------------------


def test_a_curve_linear_in_the_logarithm_fails_where_it_crosses_the_level():
    variances = np.array([0.01, 0.1, 1.0])
    curve = -np.log10(variances)  # 2, 1, 0
    for level in (1.75, 1.0 + 1e-9, 0.3):
        assert failure_threshold(variances, curve, level) == pytest.approx(10**-level)


def test_the_first_fall_counts_even_if_the_score_recovers():
    threshold = failure_threshold([0.01, 0.1, 1.0, 10.0], [1, -1, 1, -1], 0)
    assert threshold == pytest.approx(np.sqrt(0.01 * 0.1))


def test_a_score_that_never_falls_has_an_infinite_threshold_and_one_below_the_first_variance():
    # A score equal to the level is not below it.
    assert failure_threshold([0.1, 0.2], [0.9, 0.8], 0.8) == np.inf
    assert failure_threshold([0.1, 0.2], [0.7, 0.9], 0.8) == 0.1


def test_more_noise_changes_the_image_but_neither_grains_nor_boundaries():
    low, high = (
        tem_study.held_out_pictures(STUDY, 2, TEMConfig(**SMALL, noise_variance=(v, v))) for v in (0.01, 0.08)
    )
    for a, b in zip(low, high, strict=True):
        np.testing.assert_array_equal(a.boundary, b.boundary)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.clean, b.clean)
        assert np.abs(b.image - b.clean).mean() > 1.5 * np.abs(a.image - a.clean).mean()


def test_the_stress_scores_every_method_at_every_variance():
    table = limits.noise_stress(STUDY, "nowhere")
    counted = table.groupby(["variance", "method"])["seed"].agg(list).to_dict()
    expected = {"Net1 and Net2": [0, 1], "Net1": [0], UNTRAINED: [-1], NOTHING: [-1]}
    assert counted == {(v, method): seeds for v in STUDY.variances for method, seeds in expected.items()}
    background = table[table["method"] == NOTHING]["accuracy"]
    assert background.nunique() == 1  # the same grains at every variance
    truth = np.mean([pair.boundary.mean() for pair in tem_study.held_out_pictures(STUDY, 2)])
    assert background.iloc[0] == pytest.approx(1 - truth)
    rows, sentence = tables.noise(table)
    assert len(rows) == 8
    assert "Failure, by seed" in sentence


# ---- iterations ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves(small_study) -> pd.DataFrame:
    return limits.iteration_scores(STUDY, "nowhere", 2)


def test_a_converged_map_keeps_its_scores_up_to_the_last_iteration(curves):
    longest = max(CAPS.values())
    for (seed, _), part in curves.groupby(["seed", "picture"]):
        assert part["iteration"].tolist() == list(range(longest + 1))
        assert set(part["iterations"]) == {CAPS[seed]}
        part = part.set_index("iteration")
        for k in range(CAPS[seed] + 1, longest + 1):
            pd.testing.assert_series_equal(
                part.loc[k, list(MEASURES)], part.loc[CAPS[seed], list(MEASURES)], check_names=False
            )
        moved = part["change"].notna()
        assert moved[moved].index.tolist() == list(range(1, CAPS[seed] + 1))
    assert len(curves) == 2 * 2 * (longest + 1)


def test_the_final_scores_are_those_of_the_last_iteration(curves):
    pictures = tem_study.held_out_pictures(STUDY, 2)
    segmenter = tem_study.trained_segmenter(STUDY, "nowhere", 0)
    for k, pair in enumerate(pictures):
        first, refinement = limits.run_maps(segmenter, pair.image)
        part = curves[(curves["seed"] == 0) & (curves["picture"] == k)].set_index("iteration")
        for iteration, probability in ((0, first), (2, refinement.result), (5, refinement.result)):
            boundary, labels = segmenter.grains(probability)
            expected = weak_boundaries.score_answer(pair, boundary, labels)
            np.testing.assert_allclose(
                part.loc[iteration, list(MEASURES)].astype(float), list(expected.values()), atol=1e-3
            )


def test_the_correlation_is_that_of_the_means_over_seeds():
    rng = np.random.default_rng(0)
    rows = [
        {"seed": s, "picture": p, "iteration": k, "iterations": p + 3 * s, "adapted Rand error": rng.random()}
        for s in range(2)
        for p in range(5)
        for k in range(3)
    ]
    table = pd.DataFrame(rows)
    last = table[table["iteration"] == 2]["adapted Rand error"].to_numpy().reshape(2, 5).mean(0)
    expected = stats.spearmanr(np.arange(5), last)
    assert iterations_and_error(table) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize(
    ("iterations", "errors"), [([4, 4, 4], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([1], [2])]
)
def test_constant_values_have_no_correlation_and_no_warning(iterations, errors):
    table = pd.DataFrame(
        {"picture": range(len(errors)), "iterations": iterations, "adapted Rand error": errors}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        correlation = iterations_and_error(table.assign(iteration=1, seed=0))
    assert np.isnan(correlation).all()


# ---- visibility ------------------------------------------------------------------------------------------


def test_classical_answers_are_grains_that_fill_the_image():
    pair = tem_picture(0, TEMConfig(**SMALL))
    answers = classical_answers(pair.image)
    assert set(answers) == {*classical.BASELINES, UNTRAINED}
    for boundary, labels in answers.values():
        assert boundary.dtype == bool
        assert boundary.shape == labels.shape == pair.image.shape
        assert labels.min() == 1
        for grain in range(1, labels.max() + 1):
            assert ndimage.label(labels == grain)[1] == 1


def test_methods_without_training_are_scored_beside_the_trivial_baseline():
    pictures = tem_study.held_out_pictures(STUDY)
    table = limits.without_training(pictures)
    assert list(table.index) == [*classical.BASELINES, UNTRAINED, NOTHING]
    background = 1 - np.mean([pair.boundary.mean() for pair in pictures])
    assert table.loc[NOTHING, "accuracy"] == pytest.approx(background)
    assert table.loc[NOTHING, "recall, strong"] == 0
    assert (table.drop(index=NOTHING)["recall, strong"] > 0).all()


def test_recall_of_facets_adds_up_to_the_recall_of_the_map():
    pair = tem_study.held_out_pictures(STUDY)[0]
    segmenter = tem_study.trained_segmenter(STUDY, "nowhere", 0)
    table = limits.recall_by_visibility(segmenter, [pair, pair])
    half = len(table) // 2
    pd.testing.assert_frame_equal(table[:half], table[half:].reset_index(drop=True))
    assert table["recall"].between(0, 1).all()
    boundary, _ = segmenter.grains(limits.run_maps(segmenter, pair.image)[1].result)
    near = ndimage.distance_transform_edt(~skeletonize(boundary)) <= 2
    share = table["pixels"].sum() / 2 / pair.boundary.sum()
    weighted = np.average(table["recall"], weights=table["pixels"])
    # The few pixels of facets too short to be measured count in the map's recall only.
    assert weighted == pytest.approx(near[pair.boundary].mean(), abs=1 - share + 1e-9)


def test_easier_pictures_lack_what_their_name_says():
    kinds, whole = easier(), TEMConfig(**SMALL)
    for name, config in kinds.items():
        assert config.similar == ("similar" not in name)
        assert config.overlap == ("overlap" not in name)
        assert config.bending == ("bending" not in name)
        quiet = config.noise_variance[1] <= 1e-3
        assert quiet == ("noise of the real strip" in name)
    assert kinds["all concepts"] == whole


# ---- tables ----------------------------------------------------------------------------------------------


def made_up_scores(seeds: int = 2) -> pd.DataFrame:
    """Scores of every cell of a study; a single seed has no precision of weak boundaries anywhere."""
    rng, rows = np.random.default_rng(0), []
    for kind, name, seed in TEMStudy(seeds=tuple(range(seeds))).cells():
        finishes = FINISHES if kind == "refiner" else (FINISH,)
        bernoulli = name == "Bernoulli diffusion"
        stages = ("from the guess", "from coin tosses") if bernoulli else ("once", "until it stands still")
        for stage in ("Net1", *stages):
            for finish in finishes:
                scores = dict(zip(MEASURES, rng.random(len(MEASURES)), strict=True))
                if seeds == 1:
                    scores["precision, weak"] = np.nan
                about = {"kind": kind, "name": name, "seed": seed, "stage": stage, "finish": finish}
                rows.append({**about, "minutes": 0.5, "iterations": 3.0, "weights": 100, **scores})
    return pd.DataFrame(rows)


def made_up_classical() -> pd.DataFrame:
    names = [*classical.BASELINES, UNTRAINED, NOTHING]
    table = pd.DataFrame(np.random.default_rng(1).random((len(names), len(MEASURES))), names, MEASURES)
    table.loc[NOTHING, ["precision, strong", "precision, weak"]] = np.nan
    return table


def made_up_stress(crossings: dict[int, float]) -> pd.DataFrame:
    """Accuracy that falls below that of background, 0.9, at given variances; F1 halves at ten times 0.01."""
    rows = []
    for variance in (0.001, 0.01, 0.1, 1.0):
        rows.append({"method": NOTHING, "seed": -1, "variance": variance, "accuracy": 0.9})
        for seed, crossing in crossings.items():
            margin = 0.01 * (np.log10(crossing) - np.log10(variance))
            f1 = 0.8 - 0.4 * np.log10(variance / 0.01)
            about = {"method": "Net1 and Net2", "seed": seed, "variance": variance, "iterations": 5.0}
            rows.append({**about, "accuracy": 0.9 + margin, "boundary F1, 2 px": min(f1, 0.8)})
    return pd.DataFrame(rows)


def checked(rows: tables.Rows, **options) -> dict:
    """The rows as a record, checked against the results page and JSON."""
    if not any(name.endswith(NOTHING) for name in rows):
        rows = {**rows, NOTHING: {"accuracy": 0.9}}
    record = tables.record("A toy", "made-up pictures", rows, STUDY, "python toy.py", 1.25, **options)
    record = json.loads(json.dumps(record, allow_nan=False))
    pages = run_records
    records.check(record, "toy")
    assert "nan" not in pages.markdown(record).lower()
    assert "nan" not in records.table_text(record).lower()
    first, *others = record["scores"].values()
    for row in others:
        assert set(row) <= set(first)  # the first row's measures are the columns of the table
    assert record["scores"][record["trivial"]]["accuracy"] is not None
    return record


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_table_of_methods_is_a_record(seeds):
    scores = made_up_scores(seeds)
    record = checked(tables.methods(scores, made_up_classical()), paper=tables.PAPER, note="A note.")
    assert record["trivial"] == NOTHING
    row = record["scores"][f"Net1, conditional GAN once, {FINISH}"]
    selected = scores[(scores["name"] == "conditional GAN") & (scores["stage"] == "once")]
    selected = selected[(selected["kind"] == "refiner") & (selected["finish"] == FINISH)]["accuracy"]
    if seeds == 1:
        assert row["accuracy"] == pytest.approx(selected.item(), abs=1e-4)
        assert "precision, weak" not in row
    else:
        assert row["accuracy"] == pytest.approx(
            [selected.mean(), abs(selected.diff().iloc[1]) / 2**0.5], abs=1e-4
        )
    names = [name for name in record["scores"] if "diffusion" in name]
    assert names == [f"Net1, Bernoulli diffusion from {x}, {FINISH}" for x in ("the guess", "coin tosses")]


@pytest.mark.parametrize("names", [tables.detector_names(), tables.concept_names()])
def test_the_tables_of_ablations_are_records_that_begin_with_the_full_model(names):
    scores = made_up_scores()
    record = checked(tables.ablation(scores, names, "all concepts"))
    whole, *others, trivial = record["scores"]
    assert whole == "all concepts"
    assert others == names[1:]
    assert trivial == NOTHING
    selected = scores[(scores["kind"] == "ablation") & (scores["name"] == names[1])]
    for stage, column in (("Net1", ""), (tables.ITERATED, ", after Net2")):
        mean = selected[selected["stage"] == stage]["boundary F1, 2 px"].mean()
        assert record["scores"][names[1]][f"boundary F1, 2 px{column}"][0] == pytest.approx(mean, abs=1e-4)
    assert tables.ablation(scores[scores["kind"] == "refiner"], names, "all concepts") == {}


def test_the_table_of_noise_is_a_record_that_states_where_the_segmenter_fails():
    rows, sentence = tables.noise(made_up_stress({0: 0.02, 1: 0.05}))
    record = checked(rows, note=sentence)
    assert record["trivial"] == f"variance 0.001: {NOTHING}"
    assert "at a variance of 0.02 to 0.05" in sentence
    assert sentence.endswith("of the training, at 0.1.")


def test_failures_are_found_between_the_measured_variances():
    failures = tables.failures(made_up_stress({0: 0.02, 1: 0.05, 2: 30.0}))
    assert failures["accuracy"].tolist() == pytest.approx([0.02, 0.05, np.inf])
    assert failures["boundary F1"].tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("crossings", "words"),
    [({0: 0.02}, "of 0.02;"), ({0: 30, 1: 40}, "of above 1;"), ({0: 0.02, 1: 30}, "of 0.02 to above 1;")],
)
def test_seeds_that_never_fail_do_not_hide_those_that_do(crossings, words):
    assert words in tables.failure_sentence(made_up_stress(crossings))


def test_the_table_of_iterations_is_a_record_whose_changes_are_shown(curves):
    rows, sentence = tables.iterations(curves)
    record = checked(rows, note=sentence)
    assert list(record["scores"]) == ["Net1's map", *(f"iteration {k}" for k in range(1, 6)), NOTHING]
    assert "change" in records.table_text(record)
    assert "median 3.5, 2 to 5" in sentence  # the caps of both seeds on both pictures
    assert sentence.count("undefined") == 2  # because both pictures have the same number of iterations
    rng = np.random.default_rng(0)
    varied = pd.concat([curves.assign(picture=p, iterations=rng.integers(9)) for p in range(5)])
    for measure in ("adapted Rand error", "boundary F1, 2 px"):
        varied[measure] = varied["picture"] * 0.1
        assert f"{iterations_and_error(varied, measure)[0]:+.2f} (p = " in tables.iterations(varied)[1]
    last = curves[curves["iteration"] == 5].groupby("seed")["accuracy"].mean()
    assert record["scores"]["iteration 5"]["accuracy"][0] == pytest.approx(last.mean(), abs=1e-4)


def test_the_tables_of_limits_are_records():
    rows = [
        {
            "pictures": name,
            "refiner": refiner,
            "seed": seed,
            **dict.fromkeys(MEASURES, 0.5),
            "accuracy of all background": 0.95,
        }
        for refiner in ("Net2", "one more Net1")
        for name in easier()
        for seed in (0, 1)
    ]
    record = checked(tables.what_limits(pd.DataFrame(rows)))
    names = [f"{name}; {refiner}" for refiner in ("Net2", "one more Net1") for name in easier()]
    assert list(record["scores"])[:-1] == names
    assert record["scores"]["no overlap; Net2"]["accuracy of all background"] == [0.95, 0.0]


def test_the_table_by_visibility_covers_the_whole_boundary_and_keeps_the_recall():
    rng = np.random.default_rng(0)
    visible = pd.DataFrame(
        {
            "visibility": [0.0, *rng.uniform(0, 40, 50)],  # an invisible boundary counts too
            "pixels": rng.integers(1, 100, 51),
            "contrast": rng.random(51),
            "recall": rng.random(51),
        }
    )
    rows = tables.by_visibility(visible)
    shares = np.array([row["share of the boundary"] for row in rows.values()])
    recalls = np.array([row["recall"] for row in rows.values()])
    assert shares.sum() == pytest.approx(1, abs=1e-3)
    expected = (visible["recall"] * visible["pixels"]).sum() / visible["pixels"].sum()
    assert (recalls * shares).sum() == pytest.approx(expected, abs=1e-3)
    assert list(rows)[:: len(rows) - 1] == ["visibility 0 to 3", "visibility above 24"]


def test_the_table_of_real_images_is_a_record_without_undefined_scores():
    rows = [
        {"method": method, "seed": seed, "accuracy": 0.9, "precision": np.nan}
        for method in ("trained", NOTHING)
        for seed in (0, 1)
    ]
    record = checked(tables.real(pd.DataFrame(rows)), virtual=False)
    assert record["scores"] == {name: {"accuracy": [0.9, 0.0]} for name in ("trained", NOTHING)}
    assert record["virtual"] is False


def test_a_table_is_computed_once_and_read_back(tmp_path):
    calls = []

    def make() -> pd.DataFrame:
        calls.append(1)
        return pd.DataFrame({"method": ["a"], "accuracy": [0.1 + 0.2]})

    path = tmp_path / "tables" / "toy.csv"
    for _ in range(2):
        assert tables.read_or_make(path, make)["accuracy"].item() == 0.1 + 0.2
    assert calls == [1]


def test_the_time_of_a_kind_is_that_of_its_cells():
    scores = made_up_scores(2)
    assert tables.folder_seconds(scores, "refiner") == 60 * 0.5 * 2 * len(tem_study.REFINERS)
    assert tables.folder_seconds(scores, "ablation") == 60 * 0.5 * 2 * len(tem_study.VARIANTS)
