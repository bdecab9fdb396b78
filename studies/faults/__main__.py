"""When does the segmentation fail, and which warning detects it? The records `when_it_breaks`, `two_phases`.

    python -m studies.faults                    prints both tables; a quarter of an hour
    python -m studies.faults --part faults      only the faults (or: phases)
    python -m studies.faults --size smoke       a trial run of a minute
    python -m studies.faults --record           also stores them

Faults: the shipped network on virtual micrographs with one fault at rising strength; thresholds of the
warnings are set on half of the polycrystals and evaluated on the other half. Phases: the shipped network on
two-phase polycrystals, and the gain from fine-tuning on such images.
"""

from __future__ import annotations

import time

from microlab.book.experiments import faults, two_phases
from studies import common

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


def fault_record(size: str, jobs: int) -> dict:
    """The record of the rules, with one row per picture."""
    plan, start = SIZES[size], time.perf_counter()
    table = faults.sweep(
        range(plan["seeds"]),
        strengths=SMOKE_STRENGTHS if size == "smoke" else None,
        size=plan["side"],
        number=plan["cells"],
        automatic=size != "smoke",
        jobs=jobs,
    )
    seconds = time.perf_counter() - start
    calibration, test = faults.split_by_seed(table)
    rules = faults.evaluate_rules(calibration, test)
    bad = test["adapted Rand error"] > faults.BAD
    repeated = int(table["automatic"].sum())
    cells = common.every_row(rules)
    scores = {name: dict(zip(cells["columns"], row)) for name, row in zip(rules.index, cells["data"])}
    return {
        "title": "When it breaks: which warning to heed",
        "data": f"{plan['seeds']} polycrystals, each through a microscope of its own, {plan['side']} x "
        f"{plan['side']} px, intact and with each fault: {len(table) - repeated} pictures, {repeated} of "
        f"them segmented again with the zoom estimated: {len(table)} cases. Rules are set on "
        f"{len(calibration)} cases of one half of the polycrystals and evaluated on {len(test)} of the "
        f"other, of which {bad.sum()} are bad: adapted Rand error above {faults.BAD}.",
        "virtual": True,
        "sets": {
            "disagreement": "mean adapted Rand error of the grains of single views against their mean's",
            "deviation": "standard deviation of the boundary probability over the views, near the lines",
            "largest grain": "its share of the picture",
            "either": "an alarm of the disagreement or of the largest grain",
        },
        "scores": scores,
        "trivial": "always look",
        "rows": common.every_row(table),
        "settings": {name: str(values) for name, values in faults.STRENGTHS.items()}
        | {"views": faults.VIEWS},
        "seed": list(range(plan["seeds"])),
        "note": "An alarm asks a person to look at the picture. False alarms are a share of the good "
        "pictures, misses of the bad ones.",
    } | common.origin(command(size, "faults"), seconds)


def phase_record(size: str) -> dict:
    """The record of two phases."""
    plan, start = SIZES[size], time.perf_counter()
    table = two_phases.study(
        structures=plan["structures"],
        pictures=plan["pictures"],
        test=plan["test"],
        steps=plan["steps"],
        progress=True,
    )
    groove_names = table["groove"].map({0.0: ", flat borders", 1.0: ", grooved borders"})
    names = table["method"].where(table["method"] == two_phases.TRIVIAL, table["method"] + groove_names)
    measures = table.columns.drop(["method", "picture", "groove"])
    scores = {method: common.spread(rows, measures) for method, rows in table.groupby(names, sort=False)}
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
        "rows": common.every_row(table),
        "settings": {
            name: str(value) for name, value in plan.items() if name not in ("seeds", "side", "cells")
        },
        "seed": 0,
        "note": "Recall is the share of true boundary pixels with a found line within 3 px, on boundaries "
        "between two grains of one phase and on borders between the phases.",
    } | common.origin(command(size, "phases"), time.perf_counter() - start)


def command(size: str, part: str) -> str:
    """Command that reproduces the numbers."""
    return f"python -m studies.faults --size {size} --part {part} --record"


def main() -> None:
    """Print the tables, and store them with --record."""
    parser = common.parser(__doc__, folder=False)
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--part", choices=("faults", "phases", "both"), default="both")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1 takes every core")
    options = parser.parse_args()
    if options.part in ("faults", "both"):
        common.publish("when_it_breaks", fault_record(options.size, options.jobs), options.record)
    if options.part in ("phases", "both"):
        common.publish("two_phases", phase_record(options.size), options.record)


if __name__ == "__main__":
    main()
