"""Train a U-Net without a hand-drawn label.

    simulated grains -> virtual SEM, settings drawn at random -> micrographs with boundary -> U-Net

The boundary of every micrograph is that of the simulation. No real image and no expert label enters anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import RunFolder
from microlab.data.transforms import standardise
from microlab.measure.grain_size import mean_intercept
from microlab.measure.scores import score
from microlab.pipelines.training_pairs import render_pair, render_pairs
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.unet import UNet, boundary_loss, predict
from microlab.simulate import library
from microlab.training.cards import model_card
from microlab.training.crops import random_crops
from microlab.training.devices import from_first_process, join_processes, pick_device
from microlab.training.fit import STATE, FitConfig, History, fit


@dataclass(frozen=True)
class TrainingConfig:
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
            raise InputError(
                f"held_out must lie between 0 and structures={self.structures}, got {self.held_out}"
            )


# Grains of about 30 to 60 pixels, from random to regular, freshly tessellated to well grown. Neighbours are
# joined at random before growth, which spreads the sizes as in a real alloy.
STRUCTURES = library.Ranges(
    shape=(512, 512), grains=(70, 260), alpha=(0.0, 0.65), steps=(100, 1500), coalesced=(0.0, 0.5)
)


def check_crop(side: int, shapes: Iterable[tuple[int, int]]) -> None:
    """Refuse a crop that does not fit into every image.

    Parameters
    ----------
    side : int
        Of a crop, in pixels.
    shapes : iterable of (int, int)
        Of the images.

    Raises
    ------
    InputError
        Names both sides.
    """
    smallest = min(min(shape) for shape in shapes)
    if not 1 <= side <= smallest:
        raise InputError(f"crop side must lie in 1..{smallest}, the smallest image's, got {side}")


def crops(
    pairs: Sequence[Micrograph], side: int, batch: int, seed: int
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Batches for `fit.fit`: random crops, flipped and turned, each standardised.

    Returns
    -------
    callable
        ``batches(step)`` gives images (N, 1, side, side) float32 and boundaries of the same shape.

    Raises
    ------
    InputError
        If an image is smaller than a crop.
    """
    check_crop(side, (pair.shape for pair in pairs))

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        images, boundaries = [], []
        for index, crop in random_crops([pair.image for pair in pairs], side, batch, [seed, step]):
            images.append(standardise(crop(pairs[index].image)))
            boundaries.append(crop(pairs[index].boundary))
        return np.stack(images)[:, None], np.stack(boundaries)[:, None].astype(np.float32)

    return batches


def pair_loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Boundary loss of one batch of `crops`."""
    images, boundaries = batch
    return boundary_loss(model(images), boundaries)


def fitting(steps: int, lr: float, seed: int, **others: Any) -> FitConfig:
    """The settings that every training of a segmenter's U-Net shares; warm-up takes at most 100 steps."""
    return FitConfig(
        steps=steps, lr=lr, warmup=min(100, steps // 10), weight_decay=1e-4, clip=1.0, seed=seed, **others
    )


def fit_unet(
    model: torch.nn.Module,
    pairs: Sequence[Micrograph],
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
    pairs : sequence of Micrograph
        With their boundary.
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
    return fit(
        model,
        crops(pairs, crop, batch, seed),
        pair_loss,
        fitting(steps, lr, seed, ema=ema, checkpoint_every=checkpoint_every),
        folder=folder,
        device=device,
        resume=resume,
        progress=progress,
    )


def train(
    folder: str | Path,
    config: TrainingConfig | None = None,
    *,
    library_folder: str | Path | None = None,
    device: str | None = None,
    jobs: int = -1,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train the label-free U-Net, from the first simulation to weights with a card.

    Every stage resumes: structures that are complete are not simulated again, and training goes on from its
    last checkpoint. Started by ``torchrun``, the first process makes the library and the card, and all train
    together (`microlab.training.fit.fit`).

    Parameters
    ----------
    folder : path
        Receives ``library/`` (unless `library_folder`), ``training/`` (checkpoint, history.csv) and
        ``labour-free.safetensors`` with its card.
    config : TrainingConfig, optional
    library_folder : path, optional
        A library of structures to use (:func:`microlab.simulate.library.build`). By default one with the
        ranges `STRUCTURES` is made in ``folder/library``.
    device : str, optional
    jobs : int
        Processes for simulation and rendering; -1 for one per core.
    resume : bool
        Go on from the last checkpoint; False trains anew, whatever settings the folder was begun with.
    progress : bool

    Returns
    -------
    Path of the weights.

    Raises
    ------
    InputError
        If `library_folder` holds fewer structures than the training needs, or smaller ones than a crop, or
        `folder` a training with other settings or structures. Nothing is made then.
    """
    folder, config = Path(folder), config or TrainingConfig()
    pick_device(device)  # a wrong device fails before anything is made
    rank, world = join_processes(device)
    progress = progress and rank == 0
    own = library_folder is None
    if own:
        library_folder = folder / "library"
        check_crop(config.crop, [STRUCTURES.shape])
        if rank == 0:  # a library is built from one place at a time
            _open_run(folder, config, None, resume)
            same = {"seed": config.seed, "ranges": STRUCTURES}
            library.build(library_folder, config.structures, **same, jobs=jobs, progress=progress)
        from_first_process(None, world)  # the others wait for it
    indices = library.read_manifest(library_folder)["index"]
    if len(indices) < config.structures:
        raise InputError(
            f"library {library_folder} holds {len(indices)} structures, the training needs "
            f"{config.structures}: extend it or ask for fewer"
        )
    grain_maps = [library.load(library_folder, index).grain_map for index in indices[: config.structures]]
    try:
        check_crop(config.crop, (grain_map.shape for grain_map in grain_maps))  # before anything is rendered
    except InputError as error:
        raise InputError(f"library {library_folder}: {error}; simulate larger structures") from None
    if rank == 0 and not own:
        _open_run(folder, config, grain_maps, resume)
    training, held_out = grain_maps[: -config.held_out], grain_maps[-config.held_out :]
    pairs = render_pairs(training, config.images, config.seed, jobs=jobs, progress=progress)
    model = UNet(width=config.width, depth=config.depth, seed=config.seed)
    history = fit_unet(
        model,
        pairs,
        steps=config.steps,
        lr=config.lr,
        crop=config.crop,
        batch=config.batch,
        seed=config.seed,
        folder=folder / "training",
        device=device,
        resume=resume,
        progress=progress,
    )
    path = folder / "labour-free.safetensors"
    if rank > 0:
        return path
    virtual = [render_pair(grain_map, [config.seed + 1, k]) for k, grain_map in enumerate(held_out)]
    scores = validate(model, virtual, device=device)
    card = model_card(
        model,
        history,
        trained_by="microlab.pipelines.train_segmenter.train: simulated grains under a virtual SEM, "
        "settings drawn at random",
        data=f"{config.images} virtual micrographs of {len(training)} simulated polycrystals; no label",
        scores={f"held-out virtual: {name}": value for name, value in scores.items()},
        seed=config.seed,
        grain_size_px=float(np.mean([mean_intercept(grain_map) for grain_map in grain_maps])),
        training=asdict(config),
    )
    return weights.save(path, model, card, half=True)


def _open_run(
    folder: Path, config: TrainingConfig, structures: Sequence[np.ndarray] | None, resume: bool
) -> None:
    """Refuse a folder that holds a training with other settings: it would go on with other images.

    `structures` are those of the user's own library; None stands for the one that the settings determine.
    """
    digest = None
    if structures is not None:
        digest = hashlib.sha256(b"".join(f"{s.shape}".encode() + s.tobytes() for s in structures)).hexdigest()
    forget = () if resume else (f"training/{STATE}",)
    settings = {**asdict(config), "library": digest}
    RunFolder(folder, settings, forget=forget, anew="resume=False, --no-resume")


def validate(
    model: torch.nn.Module, pairs: Sequence[Micrograph], *, device: str | None = None
) -> dict[str, float]:
    """Mean scores over held-out virtual micrographs, whose boundary is that of the simulation.

    Returns
    -------
    dict
        As `microlab.measure.scores.score`.
    """
    rows = []
    for pair in pairs:
        field = predict(model, standardise(pair.image), device=device)
        labels = watershed_grains(field)
        rows.append(score(pair.boundary, closed_boundary(field, labels), labels))
    return {
        name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0] if name != "grains"
    }
