"""Experiments missing in paper C, in nine tables: the records `tem_*`.

    python -m studies.tem FOLDER                 trains what is missing, prints all tables; four hours
    python -m studies.tem FOLDER --size smoke    the same in minutes, with barely trained networks
    python -m studies.tem FOLDER --size paper    the paper's 3000 pictures, longer training; one GPU
    python -m studies.tem FOLDER --record        also stores them
    python -m studies.tem FOLDER --ship          also writes the weights that the package ships

FOLDER keeps every network and score: an interrupted call resumes. Tables: baselines for Net2 and
methods without training; ablation of each detector; of each concept; noise beyond the training; iterations;
limits (two tables); real images with masks (membrane, steel), if available.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from microlab.book.experiments.weak_boundaries import MEASURES, score_answers
from microlab.data import datasets
from microlab.data.files import atomic
from microlab.measure.scores import trivial_prediction
from microlab.pipelines import train_edge_segmenter
from microlab.pipelines.train_edge_segmenter import EdgeTrainingConfig
from microlab.render.tem import tem_pictures
from microlab.segment.edge_segmenter import EdgeSegmenter
from microlab.segment.refine_training import FirstConfig, SecondConfig
from studies import common
from studies.tem import limits, real
from studies.tem import tables as tem_tables
from studies.tem.study import (
    FINISH,
    TEMStudy,
    finished,
    held_out_pictures,
    run,
    score_file,
    trained_segmenter,
)

SMOKE = TEMStudy(
    recipe=EdgeTrainingConfig(
        pictures=12, first=FirstConfig(steps=30, lr=3e-3), second=SecondConfig(steps=20, lr=3e-3, guessed=0.0)
    ),
    refiner_steps=20,
    pictures=8,
    first=FirstConfig(steps=20, batch=2, lr=3e-3),
    second=SecondConfig(steps=15, batch=2, lr=3e-3, guessed=0.0),
    seeds=(0, 1),
    test=3,
    ablation_test=2,
    draws=2,
    draw_steps=4,
    max_iterations=5,
    variances=(0.01, 0.08),
    stressed=3,
)
LAPTOP = TEMStudy()
PAPER = replace(
    LAPTOP,
    recipe=EdgeTrainingConfig(
        first=FirstConfig(steps=50_000, batch=16), second=replace(LAPTOP.recipe.second, steps=10_000)
    ),
    refiner_steps=10_000,
    pictures=1000,
    first=FirstConfig(steps=6000, batch=16),
    second=replace(LAPTOP.second, steps=3000, batch=16),
    seeds=(0, 1, 2, 3, 4),
    test=200,
    ablation_test=100,
    stressed=60,
)
SIZES = {"smoke": SMOKE, "laptop": LAPTOP, "paper": PAPER}
Record = tuple[str, dict[str, Any]]


def synthetic_records(study: TEMStudy, folder: Path, options: argparse.Namespace) -> list[Record]:
    """The six tables on synthetic pictures."""
    kinds = [cell for cell in study.cells() if not options.kinds or cell[0] in options.kinds]
    scores = run(study, folder, cells=kinds, jobs=options.jobs, device=options.device)
    if any(not score_file(folder, "refiner", "Net2", seed).exists() for seed in study.seeds):
        raise SystemExit("The tables need Net2 of every seed: call again without --kinds, or with refiner.")
    makers = {
        "nothing": lambda: trivial_scores(study),
        "classical": lambda: (
            limits.without_training(held_out_pictures(study), options.jobs)
            .rename_axis("method")
            .reset_index()
        ),
        "stress": lambda: limits.noise_stress(study, folder, options.jobs),
        "iterations": lambda: limits.iteration_scores(study, folder, study.stressed, options.jobs),
        "easier": lambda: limits.easier_scores(study, folder, options.jobs),
        "visible": lambda: limits.recall_by_visibility(
            trained_segmenter(study, folder, study.seeds[0]), held_out_pictures(study)
        ),
    }
    remove_outdated(study, folder / "tables")
    tables, seconds = {}, {}
    for name, make in makers.items():
        tables[name], seconds[name] = timed_table(folder, name, make)
    classical = tables["classical"].set_index("method")
    number = dict.fromkeys(("detectors", "concepts"), study.ablation_test)
    number |= dict.fromkeys(("noise", "iterations", "limits"), study.stressed)

    def record(name: str, title: str, rows: tem_tables.Rows, spent: float, **more: Any) -> Record:
        n = number.get(name, study.test)
        about = f"{n} {tem_tables.TEST}; {more.pop('what')}"
        if not any(row.endswith(limits.NOTHING) for row in rows):
            same = tables["nothing"][tables["nothing"]["pictures"] == n]
            rows[limits.NOTHING] = common.spread(same, MEASURES) if name != "visibility" else {"recall": 0.0}
        made_by = command(options)
        result = tem_tables.record(title, about, rows, study, made_by, spent, **more)
        if name in ("detectors", "concepts"):  # the finished seeds
            ablated = scores[scores["kind"] == "ablation"]
            result["seed"] = sorted(int(seed) for seed in ablated["seed"].unique())
        return f"tem_{name}", result

    per_variant = scores[scores["kind"] == "ablation"].groupby("name")["seed"].nunique()
    ablated = f"mean and standard deviation over {per_variant.min() if len(per_variant) else 0} seeds or more"
    brief = (
        "The scores are Net1's; the last two columns are those of its maps after Net2, which in "
        f"{study.second.steps} steps learns too little to be relied on. Compare rows with each other, not "
        "with other tables. Spread is missing where one seed is finished."
    )
    stress_rows, failure = tem_tables.noise(tables["stress"])
    iteration_rows, relation = tem_tables.iterations(tables["iterations"])
    refiners = tem_tables.folder_seconds(scores, "refiner")
    ablations = tem_tables.folder_seconds(scores, "ablation")
    seeds = f"mean and standard deviation over {len(study.seeds)} seeds of the training"
    records = [
        record(
            "methods",
            "TEM: Net1, Net2 and its rivals",
            tem_tables.methods(scores, classical),
            refiners,
            what=f"one Net1, the rest refine its maps; {seeds}.",
            paper=tem_tables.PAPER,
            bar={
                "accuracy": ">= 0.975",
                "boundary F1, 2 px": ">= 0.93",
                "count error": "<= 0.05",
            },
            note=(
                "All refiners see the same guesses and the same damage for the same number of steps. "
                "Precision and recall of strong and weak boundaries (contrast under 0.1) are those of lines "
                "thinned to one pixel, within 2 px. The paper's finish: threshold 0.2, closing, filling."
            ),
        ),
        record(
            "detectors",
            "TEM: each edge detector taken out, or alone",
            tem_tables.ablation(scores, tem_tables.detector_names(), "all three detectors"),
            ablations,
            what=f"Net1 and Net2 trained briefly on {study.pictures} pictures; {ablated}.",
            note=brief,
        ),
        record(
            "concepts",
            "TEM: each concept taken out of the training pictures",
            tem_tables.ablation(scores, tem_tables.concept_names(), "all concepts"),
            ablations,
            what=f"Net1 and Net2 trained briefly on {study.pictures} pictures without it; {ablated}.",
            note=brief,
        ),
        record(
            "noise",
            "TEM: noise beyond the training",
            stress_rows,
            seconds["stress"],
            what=f"noise of one variance in all of them; {seeds} of Net2.",
            note=failure,
        ),
        record(
            "iterations",
            "TEM: iteration by iteration",
            iteration_rows,
            seconds["iterations"],
            what=f"{seeds} of Net2.",
            note=relation,
        ),
        record(
            "limits",
            "TEM: pictures without what hides boundaries",
            tem_tables.what_limits(tables["easier"]),
            seconds["easier"],
            what=f"in the other rows as many without what the row says; {seeds} of Net2.",
        ),
        record(
            "visibility",
            "TEM: how plainly a boundary shows, and whether it is found",
            tem_tables.by_visibility(tables["visible"]),
            seconds["visible"],
            what="every boundary between two grains in them; the first seed.",
            note=(
                "Visibility is the difference of the mean greys on both sides of a boundary over its "
                "standard error, computed where the boundary is known to lie. What it leaves near 0, no "
                "method can find."
            ),
        ),
    ]
    missing = {"detectors", "concepts"} if scores[scores["kind"] == "ablation"].empty else set()
    return [(name, fields) for name, fields in records if name.removeprefix("tem_") not in missing]


def trivial_scores(study: TEMStudy) -> pd.DataFrame:
    """Mean scores of "all background" on the first of the held-out pictures, by their number."""
    pictures = held_out_pictures(study, max(study.test, study.ablation_test, study.stressed))
    each = score_answers(pictures, [trivial_prediction(picture.image.shape) for picture in pictures])
    numbers = sorted({study.test, study.ablation_test, study.stressed})
    return pd.DataFrame([{"pictures": n, **each[:n].mean()} for n in numbers])


def real_records(study: TEMStudy, folder: Path, options: argparse.Namespace) -> list[Record]:
    """The tables on real images with masks, or on a virtual stand-in at smoke size."""
    segmenters = {seed: sized(trained_segmenter(study, folder, seed), study) for seed in study.seeds}
    first, records = segmenters[study.seeds[0]], []
    is_smoke = options.size == "smoke"
    note = "Tolerances count pixels of the image. The synthetic training saw no real image."
    if is_smoke or datasets.available("membrane"):
        tiles = real.stand_in() if is_smoke else datasets.load("membrane")
        table, seconds = timed_table(
            folder,
            "membrane",
            lambda: real.membrane_scores(
                tiles,
                first,
                folder / "membrane",
                study.seeds,
                steps=10 if is_smoke else options.tile_steps,
                jobs=options.jobs,
            ),
        )
        records.append(
            (
                "tem_membrane",
                tem_tables.record(
                    "TEM: membranes, an electron micrograph with masks",
                    f"{len(tiles)} tiles; each seed draws {real.TILES} to train on and scores the "
                    "others; mean and standard deviation over the seeds.",
                    tem_tables.real(table),
                    study,
                    command(options),
                    seconds,
                    virtual=is_smoke,
                    note=note,
                ),
            )
        )
    if not is_smoke and datasets.available("steel"):
        (steel,) = datasets.load("steel")
        table, seconds = timed_table(folder, "steel", lambda: real.one_image_scores(steel, segmenters))
        records.append(
            (
                "tem_steel",
                tem_tables.record(
                    "TEM: etched steel, the optical case",
                    "One field of 600 x 800 pixels with its mask; mean and standard deviation over the seeds "
                    "of Net2.",
                    tem_tables.real(table),
                    study,
                    command(options),
                    seconds,
                    virtual=False,
                    note=note,
                ),
            )
        )
    return records


def sized(segmenter: EdgeSegmenter, study: TEMStudy) -> EdgeSegmenter:
    """The segmenter with its training grain size on the card, to which real images are scaled."""
    pairs = train_edge_segmenter.edge_pairs(min(100, study.recipe.pictures), study.recipe.seed)
    size = round(train_edge_segmenter.grain_size(pairs), 2)
    return EdgeSegmenter(segmenter.net1, segmenter.net2, {**segmenter.card, "grain_size_px": size})


def ship(study: TEMStudy, folder: Path) -> None:
    """Write Net1 and the best Net2 into the package.

    The seed is selected on pictures that neither training nor tables use, so that the scores on the card are
    not biased by the selection.
    """
    selection_pictures = list(tem_pictures(study.stressed, study.recipe.seed + 2 * 10**6))
    errors = {}
    for seed in study.seeds:
        segmenter = trained_segmenter(study, folder, seed)
        answers = [
            segmenter.grains(limits.run_maps(segmenter, pair.image)[1].result) for pair in selection_pictures
        ]
        errors[seed] = score_answers(selection_pictures, answers)["adapted Rand error"].mean()
    best = min(errors, key=errors.get)
    print("adapted Rand error on the selection pictures:", errors)
    segmenter = sized(trained_segmenter(study, folder, best), study)
    scores = finished(folder)
    best_scores = scores[(scores["name"] == "Net2") & (scores["seed"] == best) & (scores["finish"] == FINISH)]
    best_scores = best_scores[best_scores["stage"] == tem_tables.ITERATED].iloc[0]
    held_out = {
        f"held-out virtual TEM: {m}": round(float(best_scores[m]), 4)
        for m in ("accuracy", "boundary F1, 2 px", "adapted Rand error", "count error")
    }
    history = pd.read_csv(folder / "first" / "history.csv")
    minutes = history["seconds"].max() / 60 + float(best_scores["minutes"])
    second = replace(study.recipe.second, steps=study.refiner_steps, seed=int(best))
    recipe = replace(study.recipe, second=second)
    paths = train_edge_segmenter.save_networks(None, segmenter, recipe, held_out, minutes)
    print("shipped:", ", ".join(path.name for path in paths))


def remove_outdated(study: TEMStudy, tables: Path) -> None:
    """Remove tables of other seeds or pictures; they are recomputed from the networks, which are kept."""
    path = tables / "settings.json"
    settings = {"seeds": [*study.seeds], "variances": [*study.variances], "stressed": study.stressed}
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        for outdated_file in (*tables.glob("*.csv"), *tables.glob("*.seconds")):
            outdated_file.unlink()
    with atomic(path) as partial:
        partial.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def timed_table(folder: Path, name: str, make: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, float]:
    """A table kept in FOLDER, and the seconds of its computation."""
    table_file, seconds_file = folder / "tables" / f"{name}.csv", folder / "tables" / f"{name}.seconds"
    start = time.perf_counter()
    table = tem_tables.read_or_make(table_file, make)
    if not seconds_file.exists():
        with atomic(seconds_file) as partial:
            partial.write_text(f"{time.perf_counter() - start:.1f}\n", encoding="utf-8")
    return table, float(seconds_file.read_text(encoding="utf-8"))


def command(options: argparse.Namespace) -> str:
    """Command that prints these tables again."""
    return f"python -m studies.tem FOLDER --size {options.size}"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--kinds", nargs="*", choices=("refiner", "ablation"), help="only these trainings")
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 takes every core")
    parser.add_argument("--tile-steps", type=int, default=400, help="of each training on membrane tiles")
    parser.add_argument("--device")
    parser.add_argument("--ship", action="store_true", help="write the weights into the package")
    options = parser.parse_args()
    study = SIZES[options.size]
    records = dict(synthetic_records(study, options.folder, options))
    records |= dict(real_records(study, options.folder, options))
    for name, record in records.items():
        common.publish(name, record, options.record)
    if options.ship:
        ship(study, options.folder)


if __name__ == "__main__":
    main()
