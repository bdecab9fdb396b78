"""The labour-free recipe: train a U-Net that has never seen a hand-drawn mask.

    simulated grains -> virtual SEM, settings drawn at random -> (image, mask) pairs -> U-Net

The truth of every pair is the simulation itself. No real image and no expert mask enters anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from microlab.data import weights
from microlab.data.transforms import standardise
from microlab.measure.grain_size import mean_intercept
from microlab.measure.scores import score
from microlab.pipelines.training_pairs import Pair, render_pairs, virtual_pair
from microlab.segment import segmenter
from microlab.segment.unet import UNet, boundary_loss, predict
from microlab.simulate import library
from microlab.training.cards import model_card
from microlab.training.crops import random_crops
from microlab.training.devices import from_first_process, join_processes
from microlab.training.fit import FitConfig, History, fit


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the trained network."""

    structures: int = 80  # simulated polycrystals
    held_out: int = 8  # of them, kept for validation
    images: int = 480  # virtual micrographs rendered of the others
    width: int = 16  # channels of the U-Net's first level
    depth: int = 5  # levels
    crop: int = 224  # side of a training crop, pixels
    batch: int = 8
    steps: int = 2400
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < self.structures:
            raise ValueError(
                f"held_out must lie between 0 and structures={self.structures}, got {self.held_out}"
            )


# Grains of about 30 to 60 pixels, from random to regular, freshly tessellated to well grown. Neighbours are
# joined at random before growth, which spreads the sizes as in a real alloy.
STRUCTURES = library.Ranges(
    shape=(512, 512), grains=(70, 260), alpha=(0.0, 0.65), steps=(100, 1500), coalesced=(0.0, 0.5)
)


def crops(pairs: list[Pair], side: int, batch: int, seed: int) -> Callable[[int], Pair]:
    """Batches for `fit.fit`: random crops, flipped and turned, each standardised.

    Returns
    -------
    callable
        ``batches(step)`` gives images (N, 1, side, side) float32 and masks of the same shape.

    Raises
    ------
    ValueError
        If an image is smaller than a crop.
    """
    smallest = min(min(image.shape) for image, _ in pairs)
    if not 1 <= side <= smallest:
        raise ValueError(f"crop side must lie in 1..{smallest}, the smallest image's, got {side}")

    def batches(step: int) -> Pair:
        images, masks = [], []
        for index, crop in random_crops([image for image, _ in pairs], side, batch, [seed, step]):
            image, mask = pairs[index]
            images.append(standardise(crop(image) / np.float32(255)))
            masks.append(crop(mask))
        return np.stack(images)[:, None], np.stack(masks)[:, None].astype(np.float32)

    return batches


def pair_loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Boundary loss of one batch of pairs."""
    images, masks = batch
    return boundary_loss(model(images), masks)


def fit_unet(
    model: torch.nn.Module,
    pairs: list[Pair],
    *,
    steps: int,
    lr: float,
    crop: int,
    batch: int,
    seed: int,
    ema: float = 0.99,
    checkpoint_every: int = 250,
    folder: Path | None = None,
    device: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> History:
    """Train a U-Net on pairs, in place: the settings that every training of a segmenter shares.

    Parameters
    ----------
    model : UNet
    pairs : list of (image (H, W) uint8, mask (H, W) bool)
    steps, lr, seed, ema, checkpoint_every
        As in `microlab.training.fit.FitConfig`; the learning rate warms up over at most 100 steps.
    crop, batch : int
        As in `crops`.
    folder, device, resume, progress
        As in `microlab.training.fit.fit`.

    Returns
    -------
    History
    """
    config = FitConfig(
        steps=steps,
        lr=lr,
        warmup=min(100, steps // 10),
        weight_decay=1e-4,
        clip=1.0,
        ema=ema,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    return fit(
        model,
        crops(pairs, crop, batch, seed),
        pair_loss,
        config,
        folder=folder,
        device=device,
        resume=resume,
        progress=progress,
    )


def train(
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    library_folder: str | Path | None = None,
    device: str | None = None,
    jobs: int = -1,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train the labour-free U-Net, from the first simulation to weights with a card.

    Every stage resumes: structures that are complete are not simulated again, and training goes on from its
    last checkpoint. Started by ``torchrun``, the first process makes the library and the card, and all train
    together (`microlab.training.fit.fit`).

    Parameters
    ----------
    folder : path
        Receives ``library/`` (unless `library_folder`), ``training/`` (checkpoint, history.csv) and
        ``labour-free.safetensors`` with its card.
    recipe : Recipe, optional
    library_folder : path, optional
        A library of structures to use (:func:`microlab.simulate.library.build`). By default one with the
        ranges `STRUCTURES` is made in ``folder/library``.
    device : str, optional
    jobs : int
        Processes for simulation and rendering; -1 for one per core.
    resume : bool
        Go on from the last checkpoint; False trains anew.
    progress : bool

    Returns
    -------
    Path of the weights.

    Raises
    ------
    ValueError
        If `library_folder` holds fewer structures than the recipe needs.
    """
    folder, recipe = Path(folder), recipe or Recipe()
    rank, world = join_processes(device)
    progress = progress and rank == 0
    if library_folder is None:
        library_folder = folder / "library"
        if rank == 0:  # a library is built from one place at a time
            same = {"seed": recipe.seed, "ranges": STRUCTURES}
            library.build(library_folder, recipe.structures, **same, jobs=jobs, progress=progress)
        from_first_process(None, world)  # the others wait for it
    found = library.read_manifest(library_folder)["index"]
    if len(found) < recipe.structures:
        raise ValueError(
            f"library {library_folder} holds {len(found)} structures, the recipe needs {recipe.structures}: "
            "extend it or ask for fewer"
        )
    grain_maps = [library.load(library_folder, index).grain_map for index in found[: recipe.structures]]
    known, unseen = grain_maps[: -recipe.held_out], grain_maps[-recipe.held_out :]
    pairs = render_pairs(known, recipe.images, recipe.seed, jobs=jobs, progress=progress)
    model = UNet(width=recipe.width, depth=recipe.depth, seed=recipe.seed)
    history = fit_unet(
        model,
        pairs,
        steps=recipe.steps,
        lr=recipe.lr,
        crop=recipe.crop,
        batch=recipe.batch,
        seed=recipe.seed,
        folder=folder / "training",
        device=device,
        resume=resume,
        progress=progress,
    )
    path = folder / "labour-free.safetensors"
    if rank > 0:
        return path
    virtual = [virtual_pair(grain_map, [recipe.seed + 1, k]) for k, grain_map in enumerate(unseen)]
    scores = validate(model, virtual, device=device)
    card = model_card(
        model,
        history,
        trained_by="microlab.pipelines.train_segmenter.train: simulated grains under a virtual SEM, "
        "settings drawn at random",
        data=f"{recipe.images} virtual micrographs of {len(known)} simulated polycrystals; no label",
        scores={f"held-out virtual: {name}": value for name, value in scores.items()},
        seed=recipe.seed,
        grain_size_px=float(np.mean([mean_intercept(grain_map) for grain_map in grain_maps])),
        recipe=asdict(recipe),
    )
    return weights.save(path, model, card, half=True)


def validate(model: torch.nn.Module, pairs: list[Pair], *, device: str | None = None) -> dict[str, float]:
    """Mean scores over held-out virtual micrographs, whose truth is the simulation.

    Returns
    -------
    dict
        As `microlab.measure.scores.score`.
    """
    rows = []
    for image, mask in pairs:
        field = predict(model, standardise(image / np.float32(255)), device=device)
        labels = segmenter.grains_of(field, {})
        rows.append(score(mask, segmenter.closed_boundary(field, labels), labels))
    return {
        name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0] if name != "grains"
    }
