"""The three systems on the same real image: scores and costs.

    python -m studies.three_systems FOLDER                perovskite, laptop size, three seeds; ten minutes
    python -m studies.three_systems FOLDER --image steel  the second material
    python -m studies.three_systems FOLDER --record       also stores it: `three_systems_perovskite`

FOLDER keeps the sampled pairs and the scores of all networks trained here: an interrupted call resumes.
Shipped weights and methods without training are scored again every time, in seconds. Needs the data
set (downloaded by checksum, or found in MICROLAB_DATA); the smoke size also runs on a virtual stand-in.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from scipy import stats

from microlab.book import records
from microlab.book.experiments import training_sets
from microlab.data import weights
from microlab.pipelines import samples
from microlab.segment.edge_segmenter import EdgeSegmenter
from microlab.segment.registry import REGISTRY, load_segmenter
from microlab.segment.unet import UNet
from microlab.training.devices import hardware
from studies import common
from studies.three_systems import compare
from studies.three_systems.compare import (
    BOTH,
    EDGES,
    NOTHING,
    ORACLE,
    REAL,
    RIDGE,
    SAMPLED,
    SHIPPED,
    TEM,
    Row,
    Size,
)

MEASURES = (
    "accuracy",
    "grain IoU",
    "boundary F1, 2 px",
    "boundary F1, 3 px",
    "boundary F1, 5.4 px",
    "count error",
    "adapted Rand error",
)
SEEDS = [0, 1, 2]
COMPARED = "boundary F1, 3 px"
GAIN = f"{COMPARED}: gain over the four patches"
STORED = {  # row -> set of chapter 07's study
    "A: CycleGAN, stored": "CycleGAN",
    "A: half CycleGAN, half virtual SEM, stored": "mixed",
    "oracle, stored": "oracle",
}
WITHOUT_TRAINING = {
    RIDGE: "Hessian ridge filter and our watershed",
    EDGES: "agreement of Sobel, LoG and Canny, and our watershed",
    NOTHING: "one grain, no boundary",
}
NOTE = (
    "What is trained here is timed by the processor time of its training, sampling included; figures from "
    "cards are minutes on the wall of the hardware that they name. The seconds of an image are processor "
    "time from pixels to grains, with the estimate of the magnification where a system makes one (A and "
    "C). Megabytes are those of the weights that segment, at 16 bits. Labelled pixels are pixels of the "
    "original image. Gains are mean differences at the same seed, so with the same patches, with a 95 % t "
    "interval. The settings of the watershed were chosen with the scores on this image in view, which is "
    "a little kind to every row that uses it. "
)


def load_edge_segmenter(name: str) -> EdgeSegmenter | None:
    """System C, or None if its weights are not available."""
    try:
        return EdgeSegmenter.load(name)
    except weights.WeightsError as error:
        print(f"no row for system C: {error}", file=sys.stderr)
        return None


def costs(row: pd.Series, labels: str, labelled: float, source: str) -> dict[str, float | str]:
    """The cells of a row other than scores."""
    cells: dict[str, float | str] = {"labels": labels, "labelled, 1000 px": round(labelled / 1000, 1)}
    cells |= {"training, min": round(float(row["minutes"]), 2), "training timed": source}
    return cells | {
        "image, s": round(float(row["seconds"]), 2),
        "weights, MB": round(float(row["megabytes"]), 2),
    }


def gain(table: pd.DataFrame, name: str) -> str:
    """Paired difference to the four patches alone in `COMPARED`, with its 95 % t interval over the seeds."""
    by_seed = table.pivot(index="seed", columns="name", values=COMPARED)
    if name == REAL or REAL not in by_seed:
        return ""
    difference = (by_seed[name] - by_seed[REAL]).dropna()
    mean, n = difference.mean(), len(difference)
    if n < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def stored_rows(image: str) -> dict[str, dict]:
    """Rows of chapter 07's stored study: longer trainings of a wider U-Net."""
    record, translator = records.load(f"training_sets_{image}"), weights.card(f"style-{image}")
    study = training_sets.Study()
    unet = compare.megabytes(UNet(width=study.width, depth=study.depth))
    rows = {}
    for name, key in STORED.items():
        rows[name] = {m: v for m, v in record["scores"][key].items() if m in MEASURES}
        if key == "oracle":
            rows[name] |= {"labels": "the whole half", "training timed": "stored, not timed apart"}
        else:
            rows[name] |= {"labels": "none", "labelled, 1000 px": 0.0, "training, min": translator["minutes"]}
            rows[name] |= {"training timed": f"card, {translator['hardware']}, translator alone"}
        rows[name]["weights, MB"] = round(unet, 2)
    return rows


def scores(
    table: pd.DataFrame, rows: list[Row], target: samples.Target, zoom: float, size: Size, tem_hardware: str
) -> dict[str, dict]:
    """Every row of the record's table."""
    device_name = hardware()
    on_card = {SHIPPED: weights.card(REGISTRY["label-free"].weights)["hardware"], TEM: tem_hardware}
    untrained_table = compare.table(rows).set_index("name")
    few = size.study.patches * (size.study.patch / zoom) ** 2
    untrained = {}
    for name in untrained_table.index:
        source = f"card, {on_card[name]}" if name in on_card else "needs none"
        measured = {m: round(float(untrained_table.loc[name, m]), 4) for m in MEASURES}
        untrained[name] = measured | costs(untrained_table.loc[name], "none", 0, source)
    trained = {}
    for name, group in table.groupby("name", sort=False):
        labels, labelled = (
            ("the whole half", target.style.boundary.size)
            if name == ORACLE
            else (f"{size.study.patches} patches", few)
        )
        means = group[["minutes", "seconds", "megabytes"]].mean()
        trained[name] = common.spread(group, MEASURES) | costs(
            means, labels, labelled, f"processor time, {device_name}"
        )
        trained[name][GAIN] = gain(table, name)
    stored = {} if target.virtual else stored_rows(target.name)
    systems = {SHIPPED: untrained.pop(SHIPPED), **{n: r for n, r in stored.items() if n.startswith("A")}}
    systems |= {name: trained[name] for name in (BOTH, SAMPLED) if name in trained}
    systems |= {TEM: untrained.pop(TEM)} if TEM in untrained else {}
    controls = {name: row for name, row in trained.items() if name not in systems}
    return {**systems, **controls, **{n: r for n, r in stored.items() if n not in systems}, **untrained}


def record(
    table: pd.DataFrame,
    rows: list[Row],
    target: samples.Target,
    zoom: float,
    folder: Path,
    options: argparse.Namespace,
    tem_hardware: str = "",
) -> dict:
    """The record of the comparison (`microlab.book.records`)."""
    size = compare.SIZES[options.size]
    rows_by_name = scores(table, rows, target, zoom, size, tem_hardware)
    columns = [*MEASURES, GAIN, *costs(table.iloc[0], "", 0, "")]
    rows_by_name = {name: {c: row[c] for c in columns if c in row} for name, row in rows_by_name.items()}
    first = next(iter(rows_by_name))
    rows_by_name[first] = {
        c: rows_by_name[first].get(c, "") for c in columns
    }  # the first row names the columns
    about = {
        SHIPPED: "the weights in the package, on 480 virtual micrographs",
        TEM: "paper C's networks as they ship, trained on synthetic TEM only; magnification estimated",
        **{
            name: f"{training_sets.SETS[key]}; the stored study of chapter 07" for name, key in STORED.items()
        },
        **compare.TRAINED,
        **WITHOUT_TRAINING,
    }
    study, vqvae, prior = size.study, size.pair_model.vqvae, size.pair_model.prior
    manifests = folder.glob("pair_model_*/pairs/manifest.json")
    minutes = [json.loads(path.read_text())["about"]["minutes"] for path in manifests]
    counted_twice = sum(minutes) if {BOTH, SAMPLED} <= set(table["name"]) else 0
    missing = "" if TEM in rows_by_name else "System C's weights were not there, so its row is missing. "
    return {
        "title": f"Three systems on one image: {target.name}, {options.size} size",
        "data": f"{'Right half of the real micrograph ' if not target.virtual else ''}{target.name}; what is "
        f"trained here: mean and standard deviation over {table['seed'].nunique()} seeds.",
        "virtual": target.virtual,
        "sets": {name: about[name] for name in rows_by_name},
        "scores": rows_by_name,
        "note": NOTE + missing + options.note,
        "trivial": NOTHING,
        "settings": {
            "U-Net": f"width {study.width}, depth {study.depth}",
            "steps": study.steps,
            "batch": study.batch,
            "crop": study.crop,
            "images": study.images,
            "patches": f"{study.patches} of {study.patch} px after zooming",
            "zoom, estimated": round(zoom, 3),
            "VQ-VAE": f"{vqvae.steps} steps, crop {vqvae.crop}",
            "PixelCNN": f"width {prior.channels}, {prior.steps} steps, crop {prior.crop}",
            "sampled pairs": size.sampled,
        },
        "seed": sorted(int(seed) for seed in table["seed"].unique()),
        "rows": common.every_row(table),
    } | common.origin(command(options), 60 * (table["minutes"].sum() - counted_twice))


def command(options: argparse.Namespace) -> str:
    """Command that reproduces the numbers."""
    words = f"python -m studies.three_systems FOLDER --image {options.image} --size {options.size}"
    if options.seeds != SEEDS:
        words += " --seeds " + " ".join(map(str, options.seeds))
    return words + (f" --tem {options.tem}" if options.tem != REGISTRY["tem"].weights else "") + " --record"


def main() -> None:
    """Run the comparison, print its record, and store it with --record."""
    parser = common.parser(__doc__)
    parser.add_argument("--image", choices=tuple(samples.REAL_SAMPLES), default="perovskite")
    parser.add_argument("--size", choices=tuple(compare.SIZES), default="laptop")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument(
        "--tem", default=REGISTRY["tem"].weights, help="weights of system C: shipped, or a folder"
    )
    parser.add_argument("--note", default="", help="sentences for the record")
    options = parser.parse_args()
    if options.record and options.size == "smoke":
        parser.error("the smoke size only tests that the command runs: record another")
    load = samples.target_or_stand_in if options.size == "smoke" else samples.target
    target = load(options.image)
    zoom = load_segmenter("label-free").estimate_zoom(target.style.image)  # of the unlabelled half
    folder = options.folder / f"{options.image}_{options.size}"
    table = compare.run(target, zoom, folder, compare.SIZES[options.size], seeds=options.seeds)
    edge_segmenter = load_edge_segmenter(options.tem)
    rows = compare.untrained(target, edge_segmenter)
    tem_hardware = edge_segmenter.card["first"]["hardware"] if edge_segmenter else ""
    comparison = record(table, rows, target, zoom, folder, options, tem_hardware)
    common.publish(f"three_systems_{options.image}", comparison, options.record)


if __name__ == "__main__":
    main()
