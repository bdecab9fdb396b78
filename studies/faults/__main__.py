"""When does the segmentation break, and does anything warn? Chapter 15 in full.

    python -m studies.faults                    prints both tables
    python -m studies.faults --part faults      only the faults (or: phases)
    python -m studies.faults --size smoke       shows in a minute that it runs
    python -m studies.faults --record           also stores them in microlab/book/results

Faults: the shipped network on virtual micrographs with one fault at rising strength; rules of warning are set
on half of the polycrystals and judged on the other half. Phases: the shipped network on two-phase
polycrystals, and what training on such pictures mends.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date

import numpy as np
import pandas as pd
import torch

import microlab
from microlab.book import records
from microlab.book.experiments import faults as experiments_faults
from microlab.book.experiments import two_phases
from microlab.data.files import atomic
from microlab.training.devices import hardware

SIZES = {
    "smoke": {"seeds": 4, "side": 128, "cells": 12, "structures": 3, "pictures": 6, "test": 2, "steps": 20},
    "laptop": {
        "seeds": 8,
        "side": 192,
        "cells": 24,
        "structures": 10,
        "pictures": 40,
        "test": 6,
        "steps": 150,
    },
}
SMOKE_STRENGTHS = {"charging": (1.2,), "defocus": (9.0,), "zoomed out": (1.5,)}


def faults(size: str, jobs: int) -> dict:
    """The record of the rules, with every single picture."""
    plan, start = SIZES[size], time.perf_counter()
    table = experiments_faults.sweep(
        range(plan["seeds"]),
        strengths=SMOKE_STRENGTHS if size == "smoke" else None,
        size=plan["side"],
        number=plan["cells"],
        automatic=size != "smoke",
        jobs=jobs,
    )
    seconds = time.perf_counter() - start
    setting, testing = experiments_faults.halves(table)
    rules = experiments_faults.rules(setting, testing)
    bad = testing["adapted Rand error"] > experiments_faults.BAD
    again = int(table["automatic"].sum())
    scores = {
        name: {measure: rounded(value) for measure, value in row.items()} for name, row in rules.iterrows()
    }
    return {
        "title": "When it breaks: which warning to heed",
        "data": f"{plan['seeds']} polycrystals, each through a microscope of its own, {plan['side']} x "
        f"{plan['side']} px, intact and with each fault: {len(table) - again} pictures, {again} of them "
        f"looked at twice, the second time with the zoom estimated: {len(table)} cases. Rules are set on "
        f"{len(setting)} cases of one half of the polycrystals and judged on {len(testing)} of the other, "
        f"of which {bad.sum()} are bad: adapted Rand error above {experiments_faults.BAD}.",
        "virtual": True,
        "sets": {
            "disagreement": "mean adapted Rand error of the grains of single views against their mean's",
            "deviation": "standard deviation of the boundary probability over the views, near the lines",
            "largest grain": "its share of the picture",
            "either": "an alarm of the disagreement or of the largest grain",
        },
        "scores": scores,
        "trivial": "always look",
        "rows": {
            "columns": list(table.columns),
            "data": [[rounded(v) for v in row] for row in table.to_numpy()],
        },
        "settings": {name: str(values) for name, values in experiments_faults.STRENGTHS.items()}
        | {"views": experiments_faults.VIEWS},
        "seed": list(range(plan["seeds"])),
        "note": "An alarm asks a person to look at the picture. False alarms are a share of the good "
        "pictures, misses of the bad ones.",
    } | origin(size, "faults", seconds)


def phases(size: str) -> dict:
    """The record of two phases."""
    plan, start = SIZES[size], time.perf_counter()
    table = two_phases.study(
        structures=plan["structures"],
        pictures=plan["pictures"],
        test=plan["test"],
        steps=plan["steps"],
        progress=True,
    )
    scores = {}
    looks = table["groove"].map({0.0: ", flat borders", 1.0: ", grooved borders"})
    names = table["method"].where(table["method"] == two_phases.TRIVIAL, table["method"] + looks)
    for method, rows in table.groupby(names, sort=False):
        numbers = rows.drop(columns=["method", "picture", "groove"])
        scores[method] = {
            name: [rounded(numbers[name].mean()), rounded(numbers[name].std())] for name in numbers
        }
    return {
        "title": "Two phases: a network that knows one, and what training mends",
        "data": f"{plan['test']} two-phase polycrystals that no training has seen, 192 x 192 px, seen "
        "with and without grooves on the borders between the phases; mean and standard deviation over the "
        "pictures.",
        "virtual": True,
        "sets": {
            "shipped": "the labour-free network, which has met one phase only",
            "trained on two phases": f"the same network, {plan['steps']} more steps on "
            f"{plan['pictures']} such pictures",
            "control, trained on one": "the same network, as many steps on the same grains without phases",
        },
        "scores": scores,
        "trivial": two_phases.TRIVIAL,
        "rows": {
            "columns": list(table.columns),
            "data": [[rounded(v) for v in row] for row in table.to_numpy()],
        },
        "settings": {
            name: str(value) for name, value in plan.items() if name not in ("seeds", "side", "cells")
        },
        "seed": 0,
        "note": "Recall is the share of true boundary pixels with a found line within 3 px, on boundaries "
        "between two grains of one phase and on borders between the phases.",
    } | origin(size, "phases", time.perf_counter() - start)


def origin(size: str, part: str, seconds: float) -> dict:
    """Where the numbers come from."""
    return {
        "command": f"python -m studies.faults --size {size} --part {part} --record",
        "hardware": hardware(),
        "seconds": round(seconds, 1),
        "date": date.today().isoformat(),
        "versions": {"microlab": microlab.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def rounded(value: object) -> object:
    """Numbers of four digits, without NaN, which JSON does not know."""
    if isinstance(value, str | bool | np.bool_):
        return bool(value) if isinstance(value, np.bool_) else value
    return None if pd.isna(value) else round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--part", choices=("faults", "phases", "both"), default="both")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1 takes every core")
    parser.add_argument("--record", action="store_true", help="store the tables in the package")
    options = parser.parse_args()
    made = {}
    if options.part in ("faults", "both"):
        made["when_it_breaks"] = faults(options.size, options.jobs)
    if options.part in ("phases", "both"):
        made["two_phases"] = phases(options.size)
    for name, record in made.items():
        print(records.table_text(record) + "\n" + record["note"] + "\n", flush=True)
        if options.record:
            with atomic(records.FOLDER / f"{name}.json") as partial:
                partial.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
