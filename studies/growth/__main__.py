"""Grain growth imaged by a microscope: do segmented frames give the parabolic law of the true ones?

    python -m studies.growth FOLDER            prints the record `growth`; six minutes
    python -m studies.growth FOLDER --record   also stores it

FOLDER keeps the frames and their measurements: an interrupted call resumes. Three seeds. Each frame
is imaged in several ways: translated by the learnt style of perovskite if its weights are shipped, and
rendered by one virtual SEM, both at zoom 1; for the first seed also at a zoom estimated in each frame.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd

from microlab.book.experiments.growth import (
    Image,
    Settings,
    grow,
    kinetics,
    measure,
    observe,
    translated,
    virtual_sem,
)
from microlab.data import weights
from microlab.measure.growth import fit_exponent, hillert_rate
from microlab.segment.registry import load_segmenter
from studies import common

SEEDS = (0, 1, 2)
SETTINGS = {"shape": (512, 512), "grains": 655, "start": 250.0, "end": 1500.0, "frames": 11}
STYLE = "style-perovskite"
TRIVIAL = "the same size in every frame"
BAR = 0.10


def sources(seed: int) -> dict[str, tuple[Image, float | None]]:
    """Renderer of the micrographs and magnification before the network, by the source's name.

    Estimating the zoom takes ten segmentations of each frame, so that source is used for the first seed only.
    """
    micrograph_sources = {}
    if STYLE in weights.available():
        from microlab.generate.networks import Generator

        micrograph_sources["translated by F"] = (translated(Generator.from_weights(STYLE)), 1.0)
    micrograph_sources["virtual SEM"] = (virtual_sem(), 1.0)
    if seed == SEEDS[0]:
        micrograph_sources["virtual SEM, zoom estimated in each frame"] = (virtual_sem(), None)
    return micrograph_sources


def run(folder: Path) -> pd.DataFrame:
    """One row for each seed and source; frames are kept in `folder`."""
    rows, network = [], load_segmenter("label-free")
    for seed in SEEDS:
        seed_folder = folder / f"seed{seed}"
        frames = list(grow(Settings(**SETTINGS, seed=seed), folder=seed_folder))
        for source, (image, scale) in sources(seed).items():
            name = source.replace(",", "").replace(" ", "-")
            observed = observe(
                frames, image, network=network, scale=scale, seed=seed, folder=seed_folder, name=name
            )
            measured = measure(observed, seed=seed)
            table, law = measured.table, kinetics(measured, seed=seed)
            print(f"\nseed {seed}, {source}")
            print(table.round(1).to_string(index=False))
            curve = (table["time"], table["found"], table["true_error"])
            row = {"seed": seed, "source": source, "true": law.true, "exact": law.exact, "found": law.found}
            row |= {"ratio": law.ratio, "low": law.ratio_low, "high": law.ratio_high}
            row |= {"ratio_exact": law.ratio_exact, "n": fit_exponent(*curve)[0]}
            row |= {"n_true": fit_exponent(table["time"], table["true"], table["true_error"])[0]}
            errors = (table["found"] / table["true"] - 1).to_numpy()
            row |= {"first": errors[0], "last": errors[-1]}
            rows.append(row)
    return pd.DataFrame(rows)


def scores(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Means over the seeds for each source, with the truth, theory and the trivial baseline."""
    table = {}
    for position, (source, group) in enumerate(runs.groupby("source", sort=False)):
        ratios = group["ratio"]
        table["ours" if position == 0 else source] = {
            "k, px² per time": np.mean([fit.k for fit in group["found"]]),
            "k / true k": ratios.mean(),
            "largest deviation of k": np.abs(ratios - 1).max(),
            "largest deviation, exact count": np.abs(group["ratio_exact"] - 1).max(),
            "size error, first frame": group["first"].mean(),
            "size error, last frame": group["last"].mean(),
            "exponent": group["n"].mean(),
        }
    by_seed = runs.drop_duplicates("seed")
    table["true frames, same count"] = {
        "k, px² per time": np.mean([fit.k for fit in by_seed["true"]]),
        "exponent": by_seed["n_true"].mean(),
    }
    table["simulation, all grains"] = {"k, px² per time": np.mean([fit.k for fit in by_seed["exact"]])}
    table["Hillert's theory"] = {"k, px² per time": hillert_rate(), "exponent": 2.0}
    table[TRIVIAL] = {"k, px² per time": 0.0, "k / true k": 0.0, "largest deviation of k": 1.0}
    return {
        method: {name: round(float(value), 4) for name, value in row.items()} for method, row in table.items()
    }


def record(runs: pd.DataFrame, seconds: float, resumed: bool) -> dict:
    """The record of the run for the results page (book/_ext/run_records.py)."""
    source = runs["source"].iloc[0]
    main = runs[runs["source"] == source]
    by_seed = {
        f"k / true k, seed {row.seed}": f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        for row in main.itertuples()
    }
    true_k = {
        f"true k, seed {row.seed}": f"{row.true.k:.3f} ({row.true.k_low:.3f} to {row.true.k_high:.3f})"
        for row in main.itertuples()
    }
    kept = {"time": "without the frames kept from an earlier call"} if resumed else {}
    return {
        "title": "Growing grains: the parabolic law in segmented frames",
        "data": f"Phase-field sequences of {SETTINGS['frames']} frames, 512 x 512 px, {len(SEEDS)} seeds. "
        f"Ours: {source}, segmented by the labour-free U-Net, all frames at scale 1.",
        "virtual": True,
        "scores": scores(runs),
        "trivial": TRIVIAL,
        "bar": {"largest deviation of k": f"<= {BAR:g}"},
        "settings": {name: str(value) for name, value in SETTINGS.items()} | by_seed | true_k | kept,
        "seed": SEEDS[0],
        "note": "k is the slope of R² against time, R the radius of the circle of the mean grain area. In "
        "brackets 95 % intervals from resampling blocks of the field. Errors are of the mean area.",
    } | common.origin("python -m studies.growth FOLDER --record", seconds)


def main() -> None:
    """Print the record, and store it with --record."""
    options = common.parser(__doc__).parse_args()
    start, resumed = time.perf_counter(), options.folder.exists()
    runs = run(options.folder)
    growth = record(runs, time.perf_counter() - start, resumed)
    print("\n".join(f"{name}: {value}" for name, value in growth["settings"].items()))
    common.publish("growth", growth, options.record)


if __name__ == "__main__":
    main()
