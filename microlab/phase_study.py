"""Paper B's question: how much synthetic data helps a segmentation of phases, and where? (chapter 12)

    training set = real pairs of a base + share / 100 * (their number) pairs from a pool of synthetic ones

Every model has the same network, the same largest number of optimiser steps and the same test images. The
paper's epochs grow with the training set, so there a larger set also means more steps; here it does not. What
differs between two models of one seed is the training set alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab import training
from microlab.data.files import atomic
from microlab.generate.pairs import Pair
from microlab.measure import metrics
from microlab.phase_gain import Gain, beside_paper, gain, gains, summary
from microlab.phase_sets import (
    BASES,
    LAPTOP,
    PAPER,
    SHARES,
    SIZES,
    SMOKE,
    Base,
    Cell,
    Grid,
    PhaseData,
    check_pool,
    phase_data,
    real_pairs,
    synthetic_number,
    training_pairs,
)
from microlab.segment.phases import evaluate_phases, train_phases
from microlab.simulate.library import each_done
from microlab.training_sets import same_settings

__all__ = [
    "BASES",
    "LAPTOP",
    "PAPER",
    "SHARES",
    "SIZES",
    "SMOKE",
    "Base",
    "Cell",
    "Gain",
    "Grid",
    "PhaseData",
    "beside_paper",
    "finished",
    "gain",
    "gains",
    "phase_data",
    "real_pairs",
    "run",
    "summary",
    "synthetic_number",
    "training_pairs",
    "trivial",
]


def run(
    grid: Grid,
    data: PhaseData,
    pools: Mapping[str, Sequence[Pair]],
    folder: str | Path,
    *,
    jobs: int = -1,
    scheduler: str | None = None,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score every model of a grid, or those that are not there yet.

    Each score is written when it is there, as ``scores/<cell>.json``, and a training that was interrupted
    goes on from its checkpoint: after a kill, make the same call again.

    Parameters
    ----------
    grid : Grid
    data : PhaseData
    pools : mapping of name to sequence of Pair
        Synthetic pairs for each of ``grid.sources``, at least as many as the largest share needs. More make
        the seeds differ in what they draw.
    folder : path
        Receives the inputs, the trained weights and the scores.
    jobs : int
        Processes on this machine, each with one thread; -1 for one per core.
    scheduler : str, optional
        Address of a Dask scheduler whose workers train instead. They must see `folder` under the same path.
    device : str, optional
        Default: :func:`microlab.devices.device`.
    progress : bool

    Returns
    -------
    DataFrame
        A row per model, in the order of ``grid.cells()``: base, share, source, seed, augmented, real and
        synthetic (numbers of training pairs), steps, best_step, seconds (of the call that finished it), and
        the scores of `microlab.segment.phases.evaluate_phases` on the test images.

    Raises
    ------
    ValueError
        If the folder holds a study of other settings, data or pools, or a pool is missing or too small.
    """
    folder = Path(folder).absolute()
    place = training.device(device)
    cells = grid.cells()
    for cell in cells:
        if cell.source and cell.source not in pools:
            raise ValueError(f"pools must hold {cell.source!r}, got {sorted(pools)}")
        check_pool(data, pools.get(cell.source, ()), grid, cell)  # all of them, before anything is trained
    grid = _one_precision(grid, folder, place)
    _open(folder, grid, data, {source: pools[source] for source in grid.sources})
    todo = [cell for cell in cells if not _score_file(folder, cell).exists()]
    work = each_done(_train_cell, [(folder, grid, cell, str(place)) for cell in todo], jobs, scheduler)
    bar = {"desc": f"phase study, {data.name}", "total": len(cells), "initial": len(cells) - len(todo)}
    for _ in tqdm(work, disable=not progress, **bar):
        pass
    return pd.DataFrame([json.loads(_score_file(folder, cell).read_text()) for cell in cells])


def trivial(data: PhaseData) -> dict[str, float]:
    """Scores of answering everywhere the class that is commonest in training, named as in `run`."""
    commonest = np.bincount(np.concatenate([pair.mask.ravel() for pair in data.train])).argmax()
    truths = [pair.mask for pair in data.test]
    answers = [np.full_like(truth, commonest) for truth in truths]
    scores = {}
    for prefix, single in (("", True), ("pooled_", False)):
        for name, measure in (
            ("accuracy", metrics.pixel_accuracy),
            ("mIoU", metrics.mean_iou),
            ("missing_class_iou", metrics.missing_class_iou),
        ):
            values = measure(truths, answers, len(data.classes), per_image=single)
            scores[prefix + name] = float(np.mean(values))
        of_class = metrics.class_iou(truths, answers, len(data.classes), missing_class=True, per_image=single)
        of_class = np.ma.masked_invalid(np.atleast_2d(of_class)).mean(0).filled(np.nan)
        scores |= {f"{prefix}IoU_{c}": float(value) for c, value in enumerate(of_class)}
    return scores


def finished(folder: str | Path) -> pd.DataFrame:
    """Every score of a study's folder, as `run` returns them, whatever was asked for in the last call.

    Raises
    ------
    ValueError
        If nothing is finished there.
    """
    rows = [json.loads(path.read_text()) for path in sorted((Path(folder) / "scores").glob("*.json"))]
    if not rows:
        raise ValueError(f"{folder} holds no finished model: call `run` first")
    order = {base: index for index, base in enumerate(BASES)}
    key = {"base": lambda column: column.map(order)}
    return pd.DataFrame(rows).sort_values(
        ["base", "augmented", "source", "share", "seed"],
        key=lambda column: key.get(column.name, lambda same: same)(column),
        ignore_index=True,
    )


def _train_cell(folder: Path, grid: Grid, cell: Cell, device: str) -> str:
    """Train and score one model; runs in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores among themselves
    try:
        start = time.perf_counter()
        data, pool = _read(folder, cell.source)
        pairs = training_pairs(data, pool, grid, cell)
        augment = grid.training.augment
        if cell.augmented:
            augment = "photometric" if augment == "none" else f"{augment}+photometric"
        place = folder / "models" / cell.name
        model, history = train_phases(
            _arrays(pairs),
            _arrays(real_pairs(data, grid, cell.base, "validation")),
            replace(grid.training, seed=cell.seed, augment=augment),
            folder=place,
            device=device,
            progress=False,
        )
        scores = evaluate_phases(model, _arrays(data.test), grid.training.classes, device=device)
    finally:
        torch.set_num_threads(threads)
    synthetic = synthetic_number(data, grid, cell.base, cell.share)
    row = {
        **asdict(cell),
        "real": len(pairs) - synthetic,
        "synthetic": synthetic,
        "steps": int(history.rows[-1]["step"]),
        "best_step": history.best_step,
        "seconds": round(time.perf_counter() - start, 2),
        **scores,
    }
    with atomic(_score_file(folder, cell)) as partial:
        partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    (place / "state.safetensors").unlink(missing_ok=True)  # several times the weights, and never needed again
    return cell.name


def _score_file(folder: Path, cell: Cell) -> Path:
    return folder / "scores" / f"{cell.name}.json"


def _arrays(pairs: Sequence[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(pair.image, pair.mask) for pair in pairs]


def _one_precision(grid: Grid, folder: Path, device: torch.device) -> Grid:
    """One precision for all models: 'auto' is found by timing, so two workers might disagree."""
    if grid.training.precision != "auto":
        return grid
    path = folder / "settings.json"
    precision = (
        json.loads(path.read_text(encoding="utf-8"))["precision"]
        if path.exists()
        else training.fastest_precision(device)
    )
    return replace(grid, training=replace(grid.training, precision=precision))


# ---- inputs on disk, where every worker finds them ---------------------------------------------------------


def _open(folder: Path, grid: Grid, data: PhaseData, pools: Mapping[str, Sequence[Pair]]) -> None:
    """Write the inputs and settings, or refuse to mix results of different ones."""
    settings = {**asdict(grid.training), "few": grid.few, "few_validation": grid.few_validation}
    del settings["seed"]  # the cells have their own
    settings |= {f"poor {name}": value for name, value in asdict(grid.poor).items()}
    settings |= {"poor_seed": grid.poor_seed, "data": data.name, "names of classes": list(data.classes)}
    sets = {part: getattr(data, part) for part in ("train", "validation", "test")}
    settings |= {f"{part} images": _digest(pairs) for part, pairs in sets.items()}
    same_settings(folder / "settings.json", settings)
    for source, pool in pools.items():
        same_settings(folder / f"pool_{source}.json", {"pairs": len(pool), "images": _digest(pool)})
    for name, pairs in (sets | {f"pool_{source}": pool for source, pool in pools.items()}).items():
        path = folder / "inputs" / f"{name}.npz"
        if not path.exists():
            arrays = {f"image_{k}": pair.image for k, pair in enumerate(pairs)}
            arrays |= {f"mask_{k}": pair.mask for k, pair in enumerate(pairs)}
            with atomic(path) as partial:
                np.savez(partial, names=np.array([pair.name for pair in pairs]), **arrays)


def _read(folder: Path, source: str) -> tuple[PhaseData, list[Pair]]:
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    parts = {part: _read_pairs(folder, part) for part in ("train", "validation", "test")}
    data = PhaseData(settings["data"], tuple(settings["names of classes"]), **parts)
    return data, _read_pairs(folder, f"pool_{source}") if source else []


def _read_pairs(folder: Path, name: str) -> list[Pair]:
    with np.load(folder / "inputs" / f"{name}.npz", allow_pickle=False) as file:
        return [
            Pair(file[f"image_{k}"], file[f"mask_{k}"], str(label)) for k, label in enumerate(file["names"])
        ]


def _digest(pairs: Sequence[Pair]) -> str:
    """Checksum of all images and masks, in their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for array in (pair.image, pair.mask):
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
