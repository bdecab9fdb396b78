"""Paper A's question: which training set makes a U-Net segment a real micrograph?

    same U-Net, same steps, same crops; only the training pairs differ

Every set is scored on the held-out half of a real micrograph. Only the oracle uses the expert's mask of the
other half; the sets named so use four small patches of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab.data.files import atomic
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import RunFolder
from microlab.data.transforms import resize_by
from microlab.measure.labels import components
from microlab.measure.scores import MIN_GRAIN_AREA, score, trivial_prediction
from microlab.pipelines.samples import Target
from microlab.pipelines.train_segmenter import fit_unet
from microlab.pipelines.training_pairs import labelled_pairs, render_pairs, simulated_pairs
from microlab.segment.adabn import adapt_batch_norm
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.unet import UNet, boundary_probability
from microlab.simulate.library import Structure

# name -> description, in the order of the table
SETS = {
    "few labelled": "four labelled patches of the target, augmented (the paper's first baseline)",
    "untextured": "simulations in flat greys (the paper's second baseline)",
    "CycleGAN": "simulations translated by a CycleGAN (the paper's method)",
    "CUT": "simulations translated by CUT",
    "virtual SEM": "simulations under the virtual microscope, settings drawn at random",
    "mixed": "half CycleGAN, half virtual SEM",
    "CycleGAN, then few labelled": "trained on CycleGAN, then fine-tuned on the four patches",
    "oracle": "the expert's mask of the whole training half",
}
LABELLED = ("few labelled", "CycleGAN, then few labelled", "oracle")  # the others use no label
ADABN = ", AdaBN"  # ending of a set whose batch-norm statistics were re-estimated on the target


@dataclass(frozen=True)
class Study:
    """Settings shared by all training sets."""

    images: int = 240  # pairs in a set
    patches: int = 4  # labelled patches of the few; the paper says 4 and, elsewhere, 6
    patch: int = 128  # their side in pixels, at the network's magnification
    width: int = 16  # of the U-Net; the paper's has 64
    depth: int = 4
    crop: int = 128
    batch: int = 8
    steps: int = 500
    fine_tune: int = 125  # further steps of the fine-tuned set
    lr: float = 3e-3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


def train_unet(
    pairs: Sequence[Micrograph],
    study: Study,
    seed: int,
    *,
    start: UNet | None = None,
    steps: int | None = None,
    folder: Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> UNet:
    """Train the study's U-Net, or fine-tune `start` at a tenth of the learning rate."""
    model = start if start is not None else UNet(width=study.width, depth=study.depth, seed=seed)
    steps = steps or study.steps
    fit_unet(
        model,
        pairs,
        steps=steps,
        lr=study.lr if start is None else study.lr / 10,
        crop=min(study.crop, *(min(pair.shape) for pair in pairs)),
        batch=study.batch,
        seed=seed,
        ema=0.98,
        checkpoint_every=500,
        folder=folder,
        device=device,
        progress=progress,
    )
    return model


def evaluate(model: UNet, target: Target, zoom: float, *, device: str | None = None) -> dict[str, float]:
    """Scores on the target's test half, as `scores.score`, after the common watershed."""
    probability = boundary_probability(target.test.image, model, zoom, device=device)
    labels = watershed_grains(probability)
    return score(target.test.boundary, closed_boundary(probability, labels), labels)


def run(
    target: Target,
    zoom: float,
    structures: Sequence[Structure],
    generators: dict[str, torch.nn.Module],
    folder: str | Path,
    study: Study | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    sets: Sequence[str] = tuple(SETS),
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score the U-Net on every set with every seed.

    Each result is written at once, so a run that was killed resumes; weights and checkpoints stay in the
    folder.

    Parameters
    ----------
    target : Target
    zoom : float
        Magnification that brings the target's grains to the size of the library's.
    structures : sequence of Structure
        The simulated library.
    generators : dict
        ``"CycleGAN"`` and ``"CUT"``: generators that translate simulations to the target.
    folder : path
    study : Study, optional
    seeds : sequence of int
        Of the initial weights, the crops and the labelled patches; the simulated images stay the same.
    sets : sequence of str
        Keys of `SETS`.
    device : str, optional
    progress : bool

    Returns
    -------
    DataFrame
        One row per set and seed (with batch-norm adaptation as a set of its own): set, seed, scores.

    Raises
    ------
    ValueError
        If a set is not known or its generator is missing, or the folder holds a run with other settings.
    """
    study, folder = study or Study(), Path(folder)
    for name in sets:
        if name not in SETS:
            raise ValueError(f"sets must be of {', '.join(SETS)}, got {name!r}")
    RunFolder(folder, {"target": target.name, "zoom": round(zoom, 4), **asdict(study)})
    path = folder / "scores.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {(row["set"], row["seed"]) for row in rows}
    todo = [(name, seed) for seed in seeds for name in sets if (name, seed) not in done]
    style = [resize_by(target.style.image, zoom)]
    pairs = _Pairs(target, zoom, structures, generators, study)
    for name, seed in tqdm(todo, desc=f"training sets, {target.name}", disable=not progress):
        place = folder / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
        options = {"device": device, "progress": progress}
        if name == "CycleGAN, then few labelled":
            begin = train_unet(
                pairs.of("CycleGAN", seed), study, seed, folder=folder / f"CycleGAN_{seed}", **options
            )
            options |= {"start": begin, "steps": study.fine_tune}
        model = train_unet(pairs.of(name, seed), study, seed, folder=place, **options)
        rows.append({"set": name, "seed": seed, **evaluate(model, target, zoom, device=device)})
        if name not in LABELLED:
            adapted = adapt_batch_norm(model, style, seed=seed)
            rows.append({"set": name + ADABN, "seed": seed, **evaluate(adapted, target, zoom, device=device)})
        with atomic(path) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
    return pd.DataFrame(rows)


class _Pairs:
    """The pairs of every set. Simulated pairs are made once and shared by all seeds."""

    def __init__(
        self,
        target: Target,
        zoom: float,
        structures: Sequence[Structure],
        generators: dict[str, torch.nn.Module],
        study: Study,
    ) -> None:
        self.target, self.zoom, self.study = target, zoom, study
        self.structures, self.generators = structures, generators
        self.sets: dict[str, list[Micrograph]] = {}

    def of(self, name: str, seed: int) -> list[Micrograph]:
        half = self.study.images // 2
        if name == "mixed":
            return self.simulated("CycleGAN")[:half] + self.simulated("virtual SEM")[:half]
        if name in LABELLED:
            patches = None if name == "oracle" else self.study.patches
            return labelled_pairs(
                self.target,
                self.zoom,
                self.study.images,
                patches=patches,
                side=self.study.patch,
                seed=seed,
            )
        return self.simulated(name)

    def simulated(self, name: str) -> list[Micrograph]:
        n = self.study.images
        if name not in self.sets:
            if name == "virtual SEM":
                grain_maps = [s.grain_map for s in self.structures]
                self.sets[name] = render_pairs(grain_maps, n, seed=0, jobs=1, progress=False)
            elif name == "untextured":
                self.sets[name] = simulated_pairs(self.structures, n)
            elif name in self.generators:
                self.sets[name] = simulated_pairs(self.structures, n, self.generators[name])
            else:
                raise ValueError(f"{name!r} needs a generator of that name, got {sorted(self.generators)}")
        return self.sets[name]


def without_training(target: Target) -> dict[str, dict[str, float]]:
    """Scores of the methods without training: the classical baselines and the trivial baseline."""
    from microlab.segment.classical import BASELINES

    rows = {}
    for name, baseline in BASELINES.items():
        probability = np.asarray(baseline(target.test.image), np.float32)
        mask = probability >= 0.5
        rows[name] = score(target.test.boundary, mask, components(mask, min_area=MIN_GRAIN_AREA))
        labels = watershed_grains(probability)
        rows[f"{name}, our watershed"] = score(
            target.test.boundary, closed_boundary(probability, labels), labels
        )
    rows["trivial"] = score(target.test.boundary, *trivial_prediction(target.test.shape))
    return rows


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds: one row per set, columns (measure, 'mean' | 'sd')."""
    measures = [column for column in scores.columns if column not in ("set", "seed")]
    return scores.groupby("set", sort=False)[measures].agg(["mean", "std"]).rename(columns={"std": "sd"})
