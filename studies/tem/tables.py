"""The tables of the TEM study, as stored records (chapters 13 and 14).

One record per question; `microlab.book.records` reads and prints them, the results page shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlab.book.experiments.weak_boundaries import MEASURES
from microlab.data.files import atomic
from studies import common
from studies.tem import limits
from studies.tem.limits import NOTHING
from studies.tem.study import BASE, CONCEPT_VARIANTS, DETECTOR_VARIANTS, FINISH, FINISHES, TEMStudy

Rows = dict[str, dict[str, Any]]
PAPER = {"paper C, on its own synthetic pictures (about 95 % for all background)": {"accuracy": 0.9723}}
ITERATED = "until it stands still"
AFTER = ("boundary F1, 2 px", "adapted Rand error")  # the scores after Net2 in the tables of ablations
TEST = "pictures of the virtual TEM with all concepts that no training has seen"


def methods(scores: pd.DataFrame, classical: pd.DataFrame) -> Rows:
    """Baselines for Net2, both finishes, and the methods without training.

    Parameters
    ----------
    scores : DataFrame
        `studies.tem.study.finished`.
    classical : DataFrame
        `studies.tem.limits.without_training`.
    """
    refiners = scores[scores["kind"] == "refiner"]
    rows: Rows = {}
    net1 = refiners[refiners["stage"] == "Net1"].drop_duplicates("finish")  # one Net1 for all
    for finish in FINISHES:
        rows[f"Net1, {finish}"] = _row(net1[net1["finish"] == finish])
    for name in dict.fromkeys(refiners["name"]):
        rows_of_name = refiners[(refiners["name"] == name) & (refiners["stage"] != "Net1")]
        finishes = FINISHES if name == "Net2" else (FINISH,)
        for stage in dict.fromkeys(rows_of_name["stage"]):
            for finish in finishes:
                row = _row(
                    rows_of_name[(rows_of_name["stage"] == stage) & (rows_of_name["finish"] == finish)]
                )
                rows[f"Net1, {name} {stage}, {finish}"] = row
    for name, values in classical.iterrows():
        method = name if name == NOTHING else f"{name}, {FINISH}"
        rows[method] = {m: round(float(values[m]), 4) for m in MEASURES if not np.isnan(values[m])}
    return rows


def ablation(scores: pd.DataFrame, variants: Sequence[str], whole: str) -> Rows:
    """Scores of Net1 by ablation; the first row, named `whole`, is the full model.

    The last two columns are scores after Net2.
    """
    ablated = scores[(scores["kind"] == "ablation") & (scores["finish"] == FINISH)]
    rows: Rows = {}
    for name in variants:
        table = ablated[ablated["name"] == name]
        if table.empty:
            continue
        refined = common.spread(table[table["stage"] == ITERATED], AFTER)
        rows[whole if name == BASE else name] = {
            **common.spread(table[table["stage"] == "Net1"], MEASURES),
            **{f"{measure}, after Net2": value for measure, value in refined.items()},
        }
    return rows


def noise(stress: pd.DataFrame) -> tuple[Rows, str]:
    """Scores at noise beyond the training's, and a sentence with the variance at failure.

    Parameters
    ----------
    stress : DataFrame
        `studies.tem.limits.noise_stress`.
    """
    rows: Rows = {}
    shown = (*MEASURES, "iterations")
    for variance, part in stress.groupby("variance"):
        for method in ("Net1 and Net2", "Net1", limits.UNTRAINED, NOTHING):
            rows[f"variance {variance:g}: {method}"] = common.spread(part[part["method"] == method], shown)
    return rows, failure_sentence(stress)


def failures(stress: pd.DataFrame) -> pd.DataFrame:
    """Variance of the noise at failure, a row for each seed.

    Columns ``accuracy`` (falls below that of all background) and ``boundary F1`` (falls below half of that at
    the training's largest variance, 0.01).
    """
    networks, background = (
        stress[stress["method"] == method].sort_values("variance") for method in ("Net1 and Net2", NOTHING)
    )
    level = background.set_index("variance")["accuracy"]
    rows = {}
    for seed, part in networks.groupby("seed"):
        part = part.set_index("variance")
        margin = part["accuracy"] - level
        half = part.loc[0.01, "boundary F1, 2 px"] / 2
        rows[seed] = {
            "accuracy": limits.failure_threshold(margin.index, margin, 0.0),
            "boundary F1": limits.failure_threshold(part.index, part["boundary F1, 2 px"], half),
        }
    return pd.DataFrame(rows).T.rename_axis("seed")


def failure_sentence(stress: pd.DataFrame) -> str:
    """:func:`failures` in words."""
    thresholds = failures(stress)

    def between(values: pd.Series) -> str:
        low, high = (
            f"above {stress['variance'].max():g}" if np.isinf(value) else f"{value:.3g}"
            for value in (values.min(), values.max())
        )
        return low if low == high else f"{low} to {high}"

    return (
        "Failure, by seed: the accuracy falls below that of answering no boundary at a variance of "
        f"{between(thresholds['accuracy'])}; boundary F1 is half of what it is at 0.01, the largest of the "
        f"training, at {between(thresholds['boundary F1'])}."
    )


def iterations(curves: pd.DataFrame) -> tuple[Rows, str]:
    """Scores after each iteration, and a sentence about the number of iterations and the error."""
    rows: Rows = {}
    longest = int(curves["iteration"].max())
    for k in [*range(min(longest, 8) + 1), *range(12, longest + 1, 8)]:
        by_seed = curves[curves["iteration"] == k].groupby("seed").mean(numeric_only=True)
        rows["Net1's map" if k == 0 else f"iteration {k}"] = common.spread(by_seed, (*MEASURES, "change"))
    counts = curves[curves["iteration"] == 0].groupby(["seed", "picture"])["iterations"].first()

    def correlation(measure: str) -> str:
        value, p = limits.iterations_and_error(curves, measure)
        return "undefined, as one of them does not vary" if np.isnan(value) else f"{value:+.2f} (p = {p:.2g})"

    sentence = (
        f"Iterations to convergence: median {counts.median():g}, {counts.min():g} to "
        f"{counts.max():g}; the paper: 7 to 28. Spearman's correlation over pictures of the number of "
        f"iterations with the adapted Rand error: {correlation('adapted Rand error')}; with boundary F1: "
        f"{correlation('boundary F1, 2 px')}."
    )
    return rows, sentence


def what_limits(easier: pd.DataFrame) -> Rows:
    """Scores on easier pictures (`studies.tem.limits.easier_scores`)."""
    return {
        f"{pictures}; {refiner}": common.spread(part, (*MEASURES, "accuracy of all background"))
        for (refiner, pictures), part in easier.groupby(["refiner", "pictures"], sort=False)
    }


def by_visibility(visible: pd.DataFrame) -> Rows:
    """Recall by visibility (`studies.tem.limits.recall_by_visibility`)."""
    rows: Rows = {}
    for low, high in pairwise((0, 3, 6, 12, 24, np.inf)):
        in_range = visible["visibility"].between(low, high, inclusive="right" if low else "both")
        part = visible[in_range]
        if len(part):
            rows[f"visibility {low} to {high}" if np.isfinite(high) else f"visibility above {low}"] = {
                "recall": round(float(np.average(part["recall"], weights=part["pixels"])), 4),
                "share of the boundary": round(float(part["pixels"].sum() / visible["pixels"].sum()), 4),
                "mean contrast": round(float(part["contrast"].mean()), 4),
            }
    return rows


def real(scores: pd.DataFrame) -> Rows:
    """Methods on real images: mean over tiles, spread over the draws of training tiles."""
    columns = [c for c in scores.columns if c not in ("method", "seed")]
    return {name: common.spread(part, columns) for name, part in scores.groupby("method", sort=False)}


def record(
    title: str,
    data: str,
    rows: Rows,
    study: TEMStudy,
    command: str,
    seconds: float,
    *,
    virtual: bool = True,
    note: str = "",
    sets: dict[str, str] | None = None,
    paper: dict[str, Any] | None = None,
    bar: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Rows as a record of `microlab.book.records`; one of them must be the trivial baseline."""
    trivial = next(name for name in rows if name.endswith(NOTHING))
    first = next(iter(rows))  # its measures are the columns of the printed table
    measures = dict.fromkeys(measure for row in rows.values() for measure in row)
    rows = {**rows, first: {measure: rows[first].get(measure) for measure in measures}}
    recipe = study.recipe
    result = {
        "title": title,
        "data": data,
        "virtual": virtual,
        "sets": sets or {},
        "scores": rows,
        "trivial": trivial,
        "settings": {
            "pictures": recipe.pictures,
            "Net1 steps": recipe.first.steps,
            "refiner steps": study.refiner_steps,
            "ablations": f"{study.pictures} pictures, {study.first.steps} and {study.second.steps} steps",
            "test pictures": study.test,
            "tolerance": 0.003,
        },
        "seed": list(study.seeds),
    } | common.origin(command, seconds)
    optional = {"note": note, "paper": paper, "bar": bar}
    return result | {name: value for name, value in optional.items() if value}


def detector_names() -> list[str]:
    """Rows of the ablation of detectors."""
    return list(DETECTOR_VARIANTS)


def concept_names() -> list[str]:
    """Rows of the ablation of concepts."""
    return list(CONCEPT_VARIANTS)


def folder_seconds(scores: pd.DataFrame, kind: str) -> float:
    """Training and scoring time of the cells of a kind."""
    return float(60 * scores[scores["kind"] == kind].drop_duplicates(["name", "seed"])["minutes"].sum())


def read_or_make(path: Path, make: Any) -> pd.DataFrame:
    """A table from its CSV file, computed and written if it is missing."""
    if not path.exists():
        table = make()
        with atomic(path) as partial:
            table.to_csv(partial, index=False)
    return pd.read_csv(path)


def _row(table: pd.DataFrame) -> dict[str, Any]:
    return {
        **common.spread(table, (*MEASURES, "iterations")),
        "weights": int(table["weights"].iloc[0]),
    }
