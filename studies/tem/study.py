"""Experiments missing in paper C: baselines for its refinement, ablations, iterations, noise (chapter 14).

    segmenter:  Net1 and Net2, trained by the recipe
    rivals:     other networks in Net2's place, on the same guesses of the same Net1
    ablations:  a detector or a concept removed from the training, everything else equal

All are scored on the same held-out synthetic pictures with all concepts. A cell is one training with one
seed; its scores are written at once, so an interrupted study resumes.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab.book.experiments import bernoulli, weak_boundaries
from microlab.book.experiments.bernoulli import BernoulliConfig, train_bernoulli
from microlab.book.experiments.weak_boundaries import score_answers
from microlab.data.files import atomic
from microlab.data.parallel import imap_unordered
from microlab.data.run_folder import RunFolder
from microlab.data.weights import fill
from microlab.pipelines.train_edge_segmenter import EdgeTrainingConfig, edge_pairs, train_networks
from microlab.render.tem import TEMConfig, TEMPicture, tem_pictures
from microlab.segment import edge_segmenter
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of
from microlab.segment.edges import DETECTORS
from microlab.segment.refine import EdgeNet, NotConverged, RefineNet, first_guess, refine
from microlab.segment.refine_training import (
    FirstConfig,
    Pair,
    SecondConfig,
    train_second,
)
from studies.tem import rivals

FINISHES = {"paper's finish": {"method": "paper"}, "watershed": {"method": "watershed"}}
FINISH = "watershed"  # the finish of tables that show only one
GREY = "grey"


@dataclass(frozen=True)
class Variant:
    """Changes of one ablation to the training."""

    inputs: tuple[str, ...] = DETECTORS
    off: str = ""  # concept removed from the training pictures

    def concepts(self) -> TEMConfig:
        """The concepts of the training pictures."""
        return replace(TEMConfig(), **{self.off: False}) if self.off else TEMConfig()


NAMES = {"sobel": "Sobel", "log": "LoG", "canny": "Canny", GREY: "grey picture"}
BASE = "all"
DETECTOR_VARIANTS = {
    BASE: Variant(),
    **{f"{NAMES[d]} alone": Variant((d,)) for d in DETECTORS},
    **{f"without {NAMES[d]}": Variant(tuple(x for x in DETECTORS if x != d)) for d in DETECTORS},
    "and the grey picture": Variant((*DETECTORS, GREY)),
    "grey picture alone": Variant((GREY,)),
}
CONCEPT_VARIANTS = {
    BASE: Variant(),
    **{
        f"without {name}": Variant(off=name)
        for name in ("packing", "target", "orientation", "similar", "bending", "overlap", "noise")
    },
}
VARIANTS = DETECTOR_VARIANTS | CONCEPT_VARIANTS
REFINERS = (
    "Net2",
    "Net2 taught by Net1's mistakes",
    "one more Net1",
    "conditional GAN",
    "plain U-Net",
    "Bernoulli diffusion",
)


@dataclass(frozen=True)
class TEMStudy:
    """Settings of the whole study."""

    recipe: EdgeTrainingConfig = field(default_factory=EdgeTrainingConfig)
    refiner_steps: int = 800  # of Net2 and each of its rivals
    pictures: int = 160  # training pictures of an ablation
    first: FirstConfig = field(default_factory=lambda: FirstConfig(steps=400, batch=4, lr=3e-3))
    second: SecondConfig = field(
        default_factory=lambda: replace(EdgeTrainingConfig().second, steps=200, batch=4)
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    test: int = 60  # held-out pictures
    ablation_test: int = 30  # the first of them, on which ablations are scored
    draws: int = 4  # of the Bernoulli diffusion, averaged
    draw_steps: int = 10
    max_iterations: int = 50
    # Of the noise; the training has up to 0.01.
    variances: tuple[float, ...] = (0.0025, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
    stressed: int = 20  # pictures per variance

    def cells(self) -> list[tuple[str, str, int]]:
        """(kind, name, seed) of every training after Net1's: Net2 first."""
        refiners = [("refiner", name, seed) for name in REFINERS for seed in self.seeds]
        ablations = [("ablation", name, seed) for seed in self.seeds for name in VARIANTS]
        return refiners + ablations


def held_out_pictures(
    study: TEMStudy, n: int | None = None, concepts: TEMConfig | None = None
) -> list[TEMPicture]:
    """Pictures that no training uses: their seed is far from the recipe's."""
    return list(tem_pictures(n or study.test, study.recipe.seed + 10**6, concepts or TEMConfig()))


def run(
    study: TEMStudy,
    folder: str | Path,
    *,
    cells: Sequence[tuple[str, str, int]] | None = None,
    jobs: int = -1,
    scheduler: str | None = None,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score every cell of the study that is not finished yet.

    Parameters
    ----------
    study : TEMStudy
    folder : path
        Receives networks and scores.
    cells : sequence, optional
        Some of ``study.cells()``.
    jobs : int
        Processes on this machine, each with one thread; -1 for one per core.
    scheduler : str, optional
        Address of a Dask scheduler whose workers train instead, on the same files.
    device : str, optional
    progress : bool

    Returns
    -------
    DataFrame
        As :func:`finished`.

    Raises
    ------
    ValueError
        If the folder holds a study of other settings.
    """
    folder = Path(folder).absolute()
    RunFolder(folder, _comparable(study))
    prepare_first(study, folder, jobs=jobs, device=device, progress=progress)
    cells = list(study.cells() if cells is None else cells)
    todo = [cell for cell in cells if not score_file(folder, *cell).exists()]
    work = imap_unordered(_run_cell, [(study, folder, *cell, device) for cell in todo], jobs, scheduler)
    bar = {"desc": "TEM study", "unit": "training", "total": len(cells), "initial": len(cells) - len(todo)}
    for _ in tqdm(work, disable=not progress, **bar):
        pass
    return finished(folder)


def finished(folder: str | Path) -> pd.DataFrame:
    """Scores of all finished cells.

    Returns
    -------
    DataFrame
        Columns kind, name, seed, stage (what was scored, with its finish), iterations, weights, minutes, and
        the mean over the test pictures of each of `microlab.book.experiments.weak_boundaries.MEASURES`.

    Raises
    ------
    ValueError
        If nothing is finished there.
    """
    files = sorted((Path(folder) / "scores").glob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no finished training: call `run` first")
    return pd.DataFrame([row for path in files for row in json.loads(path.read_text(encoding="utf-8"))])


def score_file(folder: Path, kind: str, name: str, seed: int) -> Path:
    """Path of the scores of a cell."""
    return folder / "scores" / f"{kind}_{_file(name)}_{seed}.json"


def prepare_first(
    study: TEMStudy, folder: Path, *, jobs: int = 1, device: str | None = None, progress: bool = True
) -> tuple[EdgeNet, list[Pair], list[np.ndarray]]:
    """Train the recipe's Net1 once, and store its guesses on the pictures held back from it.

    Returns
    -------
    net1 : EdgeNet
    held_back : list of Pair
    guesses : list of (H, W) float32
    """
    from microlab.segment.refine_training import train_first

    recipe, path = study.recipe, folder / "held_back.npz"
    if not path.exists():
        pairs = edge_pairs(
            recipe.pictures, recipe.seed, recipe.concepts, recipe.inputs, jobs=jobs, progress=progress
        )
        training, held_back = pairs[: -recipe.for_second], pairs[-recipe.for_second :]
        net1, _ = train_first(
            training, recipe.first, folder=folder / "first", device=device, progress=progress
        )
        guesses = [first_guess(net1, channels, device=device) for channels, _ in held_back]
        with atomic(path) as partial:
            np.savez_compressed(
                partial,
                channels=np.array([c for c, _ in held_back]),
                targets=np.array([t for _, t in held_back]),
                guesses=np.array(guesses, np.float32),
            )
    with np.load(path, allow_pickle=False) as file:
        held_back = list(zip(file["channels"], file["targets"], strict=True))
        return _trained_first(study, folder), held_back, list(file["guesses"])


def train_refiner(
    name: str,
    study: TEMStudy,
    pairs: list[Pair],
    guesses: list[np.ndarray],
    seed: int,
    **options: Any,
) -> torch.nn.Module:
    """Train one of `REFINERS`, on damaged boundaries or, for half of the crops, on Net1's guesses."""
    config = replace(study.recipe.second, steps=study.refiner_steps, seed=seed)
    if name == "Net2 taught by Net1's mistakes":
        config = replace(config, guessed=0.5)
    channels = len(pairs[0][0])
    if name == "Bernoulli diffusion":
        same = {f: getattr(config, f) for f in ("crop", "batch", "steps", "lr", "warmup", "ema", "seed")}
        return train_bernoulli(pairs, BernoulliConfig(**same), **options)[0]
    if name == "conditional GAN":
        return rivals.train_gan(pairs, config, guesses=guesses, **options)[0]
    size = weak_boundaries.count_weights(RefineNet(1 + channels))
    models: dict[str, Callable[[], torch.nn.Module]] = {
        "one more Net1": lambda: EdgeNet(1 + channels, seed=seed),
        "plain U-Net": lambda: rivals.unet_of_size(size, 1 + channels, seed=seed),
    }
    model = models[name]() if name in models else RefineNet(1 + channels, seed=seed)
    return train_second(pairs, config, guesses=guesses, model=model, **options)[0]


def refined_maps(
    network: torch.nn.Module, first: np.ndarray, channels: np.ndarray, study: TEMStudy, seed: int = 0
) -> dict[str, tuple[np.ndarray, int]]:
    """Refined maps of a first guess: name of the stage -> (map, number of iterations)."""
    if isinstance(network, bernoulli.BernoulliNet):
        options = {"draws": study.draws, "steps": study.draw_steps, "seed": seed}
        return {
            "from the guess": (
                bernoulli.draw(network, channels, first=first, **options).mean(0),
                study.draw_steps,
            ),
            "from coin tosses": (bernoulli.draw(network, channels, **options).mean(0), study.draw_steps),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # the number of iterations shows it
        refinement = refine(network, first, channels, max_iterations=study.max_iterations)
    return {
        "once": (refinement.maps[1], 1),
        "until it stands still": (refinement.result, refinement.iterations),
    }


def _run_cell(study: TEMStudy, folder: Path, kind: str, name: str, seed: int, device: str | None) -> None:
    """Train and score one cell; called in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores among themselves
    try:
        start = time.perf_counter()
        train = _refiner_cell if kind == "refiner" else _ablation_cell
        rows = train(study, folder, name, seed, device)
    finally:
        torch.set_num_threads(threads)
    about = {"kind": kind, "name": name, "seed": seed, "minutes": (time.perf_counter() - start) / 60}
    with atomic(score_file(folder, kind, name, seed)) as partial:
        partial.write_text(json.dumps([about | row for row in rows], indent=1) + "\n", encoding="utf-8")


def _refiner_cell(
    study: TEMStudy, folder: Path, name: str, seed: int, device: str | None
) -> list[dict[str, Any]]:
    net1, pairs, guesses = prepare_first(study, folder)
    place = folder / "refiners" / f"{_file(name)}_{seed}"
    network = train_refiner(name, study, pairs, guesses, seed, folder=place, device=device, progress=False)
    pictures = held_out_pictures(study)
    return _scored(study, net1, network, study.recipe.inputs, pictures, tuple(FINISHES))


def _ablation_cell(
    study: TEMStudy, folder: Path, name: str, seed: int, device: str | None
) -> list[dict[str, Any]]:
    variant = VARIANTS[name]
    recipe = EdgeTrainingConfig(
        pictures=study.pictures,
        inputs=variant.inputs,
        first=replace(study.first, seed=seed),
        second=replace(study.second, seed=seed),
    )
    pairs = edge_pairs(study.pictures, study.recipe.seed + 1, variant.concepts(), variant.inputs)
    place = folder / "ablations" / f"{_file(name)}_{seed}"
    segmenter = train_networks(recipe, place, pairs=pairs, device=device, progress=False)
    pictures = held_out_pictures(study, study.ablation_test)
    return _scored(study, segmenter.net1, segmenter.net2, variant.inputs, pictures, (FINISH,))


def _scored(
    study: TEMStudy,
    net1: EdgeNet,
    refiner: torch.nn.Module,
    inputs: tuple[str, ...],
    pictures: list[TEMPicture],
    finishes: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Scores of Net1's maps and of their refinement, with each finish."""
    answers: dict[tuple[str, str], list] = {}
    iterations: dict[str, list[int]] = {}
    for k, pair in enumerate(pictures):
        channels = channels_of(pair.image, inputs)
        first = first_guess(net1, channels)
        maps = {"Net1": (first, 0)} | refined_maps(refiner, first, channels, study, seed=k)
        for stage, (probability, count) in maps.items():
            iterations.setdefault(stage, []).append(count)
            for finish in finishes:
                results = edge_segmenter.finished(probability, FINISHES[finish])
                answers.setdefault((stage, finish), []).append(results)
    sizes = {"Net1": weak_boundaries.count_weights(net1)}
    return [
        {
            "stage": stage,
            "finish": finish,
            "iterations": float(np.mean(iterations[stage])),
            "most iterations": int(np.max(iterations[stage])),
            "weights": sizes.get(stage, weak_boundaries.count_weights(refiner)),
            **score_answers(pictures, results).mean().to_dict(),
        }
        for (stage, finish), results in answers.items()
    ]


def trained_segmenter(
    study: TEMStudy, folder: str | Path, seed: int, refiner: str = REFINERS[0]
) -> EdgeSegmenter:
    """The recipe's Net1 with the trained Net2 of a seed, or "one more Net1" in its place."""
    folder, inputs = Path(folder), study.recipe.inputs
    network = {"Net2": RefineNet, "one more Net1": EdgeNet}[refiner](1 + len(inputs), seed=seed)
    fill(network, folder / "refiners" / f"{_file(refiner)}_{seed}" / "model.safetensors")
    card = {"inputs": list(inputs), "finish": FINISHES[FINISH], "max_iterations": study.max_iterations}
    return EdgeSegmenter(_trained_first(study, folder), network.eval(), card)


def _trained_first(study: TEMStudy, folder: Path) -> EdgeNet:
    """The recipe's trained Net1."""
    net1 = EdgeNet(len(study.recipe.inputs), seed=study.recipe.first.seed)
    fill(net1, folder / "first" / "model.safetensors")
    return net1.eval()


def _file(name: str) -> str:
    return name.replace(" ", "-").replace("'", "")


def _comparable(study: TEMStudy) -> dict[str, Any]:
    """The settings that decide the scores."""
    settings = asdict(study)
    for name in ("seeds", "variances", "stressed"):  # more of these only add cells
        del settings[name]
    return settings
