"""Segmenters on every appearance. Records `appearances_zoo`, `_real`, `_contrast`, `_alarms`, `_left_out`.

    python -m studies.appearances FOLDER --part zoo        15 kinds of virtual fields, 8 each; half an hour
    python -m studies.appearances FOLDER --part real       perovskite, steel and titanium; ten minutes
    python -m studies.appearances FOLDER --part contrast   how faint their boundaries are; four minutes
    python -m studies.appearances FOLDER --part alarms     what rings on good and on bad ones; half an hour
    python -m studies.appearances FOLDER --part left-out   train without one appearance, test on it; an hour
    python -m studies.appearances FOLDER --size smoke      a trial run of all
    python -m studies.appearances FOLDER --record          also stores them
    python -m studies.appearances FOLDER --part zoo --so-far   of the zoo the kinds whose fields are done

Beside ours stand the best of six classical baselines, chosen for each field with the truth in hand, and a
random forest that was given 3 000 labelled pixels of the field. Every field's rows are kept in FOLDER, where
an interrupted call resumes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from microlab.book.experiments import appearances
from microlab.book.experiments.appearances import CLASSICAL, FOREST, TRIVIAL, ZOO
from microlab.data.datasets import load
from microlab.data.files import sha256
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import RunFolder
from microlab.measure.scores import trivial_prediction
from microlab.pipelines import train_appearances
from microlab.pipelines.train_appearances import TrainingConfig
from microlab.render.appearances import SURFACES
from microlab.segment.choice import LIMITS
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmenter
from studies import common

OURS = "ours"
CALIBRATION = 100  # first field of each kind that sets the limits of the alarms
LEFT_OUT, CONTROL = "left out", "trained on all"
FAINTEST = ("contrast", "contrast, legend")  # of the zoo: no boundary is a line
CONTRASTS = (0, 0.5, 1, 2, np.inf)
ABOVE = 664  # rows of titanium-bse above its legend
MEASURES = [
    "boundary F1, 3 px",
    "adapted Rand error",
    "adjusted Rand index",
    "count error",
    "diameter error",
    "grain size number error",
    "grain IoU",
]
SIZES = {
    "smoke": {"fields": 1, "side": 96, "training": {"steps": 2, "structures": 2, "held_out": 1, "crop": 64}},
    "laptop": {
        "fields": appearances.FIELDS,
        "side": appearances.SIDE,
        "training": {"steps": 400, "crop": 128},
    },
}
HINDSIGHT = (
    "The classical baselines and the forest have seen the truth: the first is the best of six for each "
    "field, the second learnt from 3 000 of its pixels. Grain IoU ranks nothing on thin lines, as one "
    "grain shows. Errors of the grain size number are predicted less true."
)


def segmenters() -> dict[str, Segmenter]:
    """Ours as the command uses it, and what it chooses from, each alone, and the method for TEM."""
    auto = load_segmenter("auto")
    return {OURS: auto, **{one.name: one for one in auto.methods()}, "tem": load_segmenter("tem")}


def settings(methods: dict[str, Segmenter]) -> dict[str, str]:
    """What the rows depend on: the weights of every method."""
    files = {name: one.card.get("sha256", "") for name, one in methods.items()}
    return {name: digest[:12] for name, digest in files.items() if digest}


def fields_of(size: dict) -> dict[str, int]:
    """What the virtual fields of a size depend on."""
    return {name: size[name] for name in ("fields", "side")}


def compare_all(
    run: RunFolder, fields: Sequence[tuple[str, Micrograph]], methods: dict[str, Segmenter]
) -> pd.DataFrame:
    """One row for each method and field; a field that is done is read from the folder."""
    rows = []
    for group, field in tqdm(fields, unit="field"):
        result = run.once(f"fields/{field.name}.json", appearances.compare, field, methods)
        rows += [
            {"appearance": group, "field": field.name, "row": name, **row} for name, row in result.items()
        ]
    return pd.DataFrame(rows)


def scores_by_group(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean scores of every method over all fields and over each group of fields."""
    scores = {}
    for name, rows in table.groupby("row", sort=False):
        scores[name] = common.spread(rows, MEASURES)
    for group, rows in table.groupby("appearance", sort=False):
        for name in (OURS, CLASSICAL, FOREST, TRIVIAL):
            scores[f"{group}: {name}"] = common.spread(rows[rows["row"] == name], MEASURES)
    return scores


def zoo_fields(size: dict) -> list[tuple[str, Micrograph]]:
    return [
        (name, appearances.zoo_field(name, k, side=size["side"]))
        for name in ZOO
        for k in range(size["fields"])
    ]


def real_fields(size: dict) -> list[tuple[str, Micrograph]]:
    """The real fields with a truth, whole, and titanium above its legend."""
    perovskite, steel, bse, sem = (
        load(name, "test")[0] for name in ("perovskite", "steel", "titanium-bse", "titanium-sem")
    )
    top = replace(bse, image=bse.image[:ABOVE], boundary=bse.boundary[:ABOVE], valid=None)
    named = {"perovskite": perovskite, "steel": steel, "titanium-bse, above its legend": top}
    named |= {"titanium-bse, whole": bse, "titanium-sem": sem}
    return [(name, replace(field, name=name)) for name, field in named.items()]


def record(title: str, data: str, virtual: bool, table: pd.DataFrame, about: dict) -> dict:
    return {
        "title": title,
        "data": data,
        "virtual": virtual,
        "sets": {
            OURS: "`microlab segment` as it comes: the default, others where an alarm rings",
            CLASSICAL: "threshold, gradient watershed and ridge filter, for dark and for bright lines",
            FOREST: "on scikit-image's multi-scale features, 3 000 labelled pixels of each field",
        },
        "scores": scores_by_group(table),
        "trivial": TRIVIAL,
        "rows": common.every_row(table),
        "note": HINDSIGHT,
    } | about


def compare_record(folder: Path, part: str, size_name: str, *, so_far: bool = False) -> dict:
    """The record of the zoo or of the real fields; with `so_far` of the kinds whose fields are all done."""
    size, start, methods = SIZES[size_name], time.perf_counter(), segmenters()
    fields = zoo_fields(size) if part == "zoo" else real_fields(size)
    run = RunFolder(folder / part, {"part": part, "size": fields_of(size), "weights": settings(methods)})
    if so_far:
        missing = {name for name, field in fields if not (run / f"fields/{field.name}.json").is_file()}
        fields = [(name, field) for name, field in fields if name not in missing]
    earlier = sum((run / f"fields/{field.name}.json").is_file() for _, field in fields)
    table = compare_all(run, fields, methods)
    about = {"settings": settings(methods) | {"side": str(size["side"])}, "seed": appearances.HELD_OUT}
    about |= common.origin(command(part, size_name), time.perf_counter() - start)
    if part == "zoo":
        kinds = table["appearance"].nunique()
        data = (
            f"{kinds} of {len(ZOO)} kinds of virtual fields, {size['fields']} of each, {size['side']} px a "
            "side, grains "
        )
        data += (
            "of simulated structures that no training has seen; mean and standard deviation over the fields."
        )
        if earlier:
            about["note"] = (
                f"{HINDSIGHT} {earlier} fields are from earlier calls: the time is that of the others."
            )
        return record("Every appearance: a virtual zoo", data, True, table, about)
    data = (
        "The test half of perovskite, steel, and two fields of titanium; titanium-sem has open lines, so its "
    )
    data += "boundary F1 alone means something. No mask trained anything."
    return record("Every appearance: real fields", data, False, table, about)


def alarm_record(folder: Path, size_name: str) -> dict:
    """How often the alarms of `microlab.segment.choice` ring, by the true error."""
    size, start, methods = SIZES[size_name], time.perf_counter(), segmenters()
    del methods[OURS]
    run = RunFolder(folder / "alarms", {"size": fields_of(size), "weights": settings(methods)})
    rows = []
    for name in tqdm(ZOO, unit="kind"):
        for k in range(CALIBRATION, CALIBRATION + max(size["fields"] // 4, 1)):
            field = appearances.zoo_field(name, k, side=size["side"])
            rows += run.once(f"{field.name}.json", appearances.evidence_rows, field, methods)
    table = pd.DataFrame(rows)
    bad = int((table["adapted Rand error"] > appearances.BAD).sum())
    return {
        "title": "Every appearance: when an alarm rings",
        "data": f"{table['field'].nunique()} virtual fields, none of them in the zoo's table, each segmented "
        f"by {len(methods)} methods at three zooms, two of them wrong: {len(table)} segmentations, {bad} of "
        f"them bad (adapted Rand error above {appearances.BAD:g}; good: at most {appearances.GOOD:g}).",
        "virtual": True,
        "sets": {
            name: f"alarm {'above' if name in ('disagreement', 'largest') else 'below'} {limit:g}"
            for name, (limit, _) in LIMITS.items()
        },
        "scores": appearances.alarm_scores(table),
        "trivial": "always",
        "rows": common.every_row(table),
        "settings": settings(methods) | {"side": str(size["side"])},
        "seed": appearances.HELD_OUT,
        "note": "The limits were chosen with these fields in view.",
    } | common.origin(command("alarms", size_name), time.perf_counter() - start)


def left_out_record(folder: Path, size_name: str) -> dict:
    """Train without one appearance and test on it; beside it the same training with all of them."""
    size, start = SIZES[size_name], time.perf_counter()
    rows = []
    for left_out in (None, *SURFACES):
        names = tuple(name for name in SURFACES if name != left_out)
        place = folder / "left-out" / (left_out or CONTROL).replace(" ", "-")
        config = TrainingConfig(names, **size["training"])
        path = train_appearances.train(place, config, structures=folder / "left-out" / "structures", jobs=1)
        network = load_segmenter("appearances", weights=path)
        run = RunFolder(place / "scores", {"weights": sha256(path), "size": size})
        for name in SURFACES if left_out is None else (left_out,):
            for k in range(size["fields"]):
                field = appearances.zoo_field(name, k, side=size["side"])
                row = run.once(f"{field.name}.json", appearances.scores, field, network)
                training = CONTROL if left_out is None else LEFT_OUT
                rows.append({"appearance": name, "field": field.name, "training": training, **row})
    table = pd.DataFrame(rows)
    means = table.groupby(["training", "appearance"])[MEASURES].mean(numeric_only=True)
    medians = means.groupby("training").median()
    scores = {
        f"median over the appearances, {training}": {
            m: round(float(v), 4) for m, v in medians.loc[training].dropna().items()
        }
        for training in (LEFT_OUT, CONTROL)
    }
    for (name, training), part in table.groupby(["appearance", "training"], sort=False):
        scores[f"{name}, {training}"] = common.spread(part, MEASURES)
    trivial = pd.DataFrame(
        [
            appearances.all_scores(field, *trivial_prediction(field.shape))
            for _, field in zoo_fields(size | {"fields": 1})
        ]
    )
    scores[TRIVIAL] = common.spread(trivial, MEASURES)
    config = TrainingConfig(**size["training"])
    return {
        "title": "Every appearance: one left out of the training",
        "data": f"For each appearance a U-Net that was trained on the other {len(SURFACES) - 1}, tested on "
        f"{size['fields']} fields of the one left out; beside it one that was trained on all. Both had "
        f"{config.steps} steps of {config.batch} fields, {config.crop} px a side.",
        "virtual": True,
        "sets": {LEFT_OUT: "trained on the other appearances", CONTROL: "the same training, on all of them"},
        "scores": scores,
        "trivial": TRIVIAL,
        "rows": common.every_row(table),
        "settings": {k: str(v) for k, v in asdict(config).items()},
        "seed": 0,
        "note": "What a stranger's micrograph meets whose appearance is none of ours. Both trainings start "
        f"from the weights {config.start}, which know thin dark lines: for grooves nothing was left out.",
    } | common.origin(command("left-out", size_name), time.perf_counter() - start)


def contrast_record(folder: Path, size_name: str) -> dict:
    """Which boundaries of the real fields are faint, and how much of them was found."""
    start, ours = time.perf_counter(), load_segmenter("auto")
    rows = []
    size = SIZES[size_name]
    fields = real_fields(size)[:3]  # those whose truth is closed
    fields += [
        (f"virtual, {name}", appearances.zoo_field(name, k, side=size["side"]))
        for name in FAINTEST
        for k in range(size["fields"])
    ]
    for name, field in fields:
        found = ours.segment(appearances.as_a_file(field)).boundary
        rows.append(appearances.recall_by_contrast(field, found).assign(field=name))
    table, scores = pd.concat(rows, ignore_index=True), {}
    for name, one in [*table.groupby("field", sort=False), ("all", table)]:
        for low, high in pairwise(CONTRASTS):
            part = one[one["contrast to noise"].between(low, high, inclusive="left")]
            if len(part):
                scores[f"{name}: {low} to {high}" if np.isfinite(high) else f"{name}: above {low}"] = {
                    "recall, 3 px": round(float(np.average(part["recall"], weights=part["pixels"])), 4),
                    "share of the boundary": round(float(part["pixels"].sum() / one["pixels"].sum()), 4),
                }
    scores[TRIVIAL] = {"recall, 3 px": 0.0, "share of the boundary": 1.0}
    return {
        "title": "Every appearance: how faint boundaries limit real and virtual fields",
        "data": "Every boundary between two grains of the experts' masks, and of the zoo's fields that show "
        "grains by their contrast alone, by its contrast-to-noise ratio: "
        "the step of grey across it or the depth of its line, whichever is larger, over the standard "
        "deviation beside it.",
        "virtual": False,
        "sets": {name: f"{len(part)} boundaries" for name, part in table.groupby("field", sort=False)},
        "scores": scores,
        "trivial": TRIVIAL,
        "rows": common.every_row(table),
        "settings": {"method": "auto"},
        "seed": 0,
        "note": "A boundary that is not found joins two grains, so a few faint ones cost many counts.",
    } | common.origin(command("contrast", size_name), time.perf_counter() - start)


def command(part: str, size: str) -> str:
    """Command that reproduces the numbers."""
    return f"python -m studies.appearances FOLDER --part {part} --size {size} --record"


def main() -> None:
    """Print the tables, and store them with --record."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument(
        "--part", choices=("zoo", "real", "contrast", "alarms", "left-out", "all"), default="all"
    )
    parser.add_argument("--so-far", action="store_true", help="record what is done instead of doing the rest")
    options = parser.parse_args()
    for part in ("zoo", "real"):
        if options.part in (part, "all"):
            result = compare_record(options.folder, part, options.size, so_far=options.so_far)
            common.publish(f"appearances_{part}", result, options.record)
    if options.part in ("contrast", "all"):
        common.publish("appearances_contrast", contrast_record(options.folder, options.size), options.record)
    if options.part in ("alarms", "all"):
        common.publish("appearances_alarms", alarm_record(options.folder, options.size), options.record)
    if options.part in ("left-out", "all"):
        result = left_out_record(options.folder, options.size)
        common.publish("appearances_left_out", result, options.record)


if __name__ == "__main__":
    main()
