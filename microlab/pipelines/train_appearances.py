"""Train the default segmenter: a U-Net that has seen every appearance, and no hand-drawn label.

    simulated grains -> a field of a random appearance, drawn anew for every step -> U-Net
    outputs: boundary of a grain, boundary of a twin, what is not the specimen

`microlab.pipelines.train_segmenter` trains the specialist for thin lines on one renderer and a fixed set of
images; here every image is drawn once and never seen again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import RunFolder
from microlab.data.transforms import standardise
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines.train_segmenter import STRUCTURES, check_crop, fitting
from microlab.pipelines.training_pairs import in_grey
from microlab.render import appearances
from microlab.render.appearances import SURFACES, draw_field
from microlab.segment.unet import OUTPUTS, UNet, boundary_loss
from microlab.simulate import library
from microlab.training.cards import model_card
from microlab.training.crops import orientations
from microlab.training.devices import from_first_process, join_processes, pick_device
from microlab.training.fit import STATE, fit

NAME = "appearances"  # of the weights


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines the trained network."""

    appearances: tuple[str, ...] = tuple(SURFACES)  # drawn uniformly
    structures: int = 80  # simulated polycrystals
    held_out: int = 8  # of them, kept for validation
    width: int = 16  # channels of the U-Net's first level
    depth: int = 5  # levels
    crop: int = 160  # side of a field, pixels
    batch: int = 4
    steps: int = 8000
    lr: float = 1e-3
    start: str | None = "labour-free"  # weights to start from, shipped or a file; None: random ones
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < self.structures:
            raise InputError(
                f"held_out must lie between 0 and structures={self.structures}, got {self.held_out}"
            )
        unknown = [name for name in self.appearances if name not in SURFACES]
        if unknown or not self.appearances:
            got = ", ".join(unknown) or "none"
            raise InputError(f"appearances must be of {', '.join(SURFACES)}, got {got}")


def train(
    folder: str | Path,
    config: TrainingConfig | None = None,
    *,
    structures: str | Path | None = None,
    device: str | None = None,
    jobs: int = -1,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train the default segmenter, from the first simulation to weights with a card.

    Structures that are complete are not simulated again, and training goes on from its last checkpoint.

    Parameters
    ----------
    folder : path
        Receives ``library/``, ``training/`` (checkpoint, history.csv) and ``appearances.safetensors`` with
        its card.
    config : TrainingConfig, optional
    structures : path, optional
        Folder of the simulated structures, for trainings that share them; by default ``library/``.
    device : str, optional
    jobs : int
        Processes for the simulation; -1 for one per core.
    resume : bool
        Go on from the last checkpoint; False trains anew, whatever settings the folder was begun with.
    progress : bool

    Returns
    -------
    Path of the weights.

    Raises
    ------
    InputError
        If a setting is wrong, or `folder` holds a training with other settings.
    """
    folder, config = Path(folder), config or TrainingConfig()
    place = folder / "library" if structures is None else Path(structures)
    pick_device(device)  # a wrong device fails before anything is made
    rank, world = join_processes(device)
    check_crop(config.crop, [STRUCTURES.shape])
    path = folder / f"{NAME}.safetensors"
    if config.start is not None and os.path.realpath(config.start) == os.path.realpath(path):
        raise InputError(f"start: {path} would be overwritten by the weights trained; choose another folder")
    model, started_from = initial_network(config), origin(config.start)  # what is wrong with them fails here
    if rank == 0:
        forget = () if resume else (f"training/{STATE}",)
        RunFolder(folder, asdict(config), forget=forget, anew="resume=False, --no-resume")
        same = {"seed": config.seed, "ranges": STRUCTURES}
        library.build(place, config.structures, **same, jobs=jobs, progress=progress)
    from_first_process(None, world)  # the others wait for it
    indices = range(config.structures)
    grain_maps = [library.load(place, index).grain_map for index in indices]
    history = fit(
        model,
        fresh_fields(grain_maps[: -config.held_out], config),
        fields_loss,
        fitting(config.steps, config.lr, config.seed, ema=0.999, workers=1, checkpoint_every=250),
        folder=folder / "training",
        device=device,
        resume=resume,
        progress=progress and rank == 0,
    )
    if rank > 0:
        return path
    card = model_card(
        model,
        history,
        trained_by="microlab.pipelines.train_appearances.train: fields of random appearance, drawn anew for "
        "every step",
        data=f"{config.steps * config.batch} virtual fields of {config.structures - config.held_out} "
        "simulated polycrystals; no label",
        scores={},
        seed=config.seed,
        outputs=list(OUTPUTS),
        grain_size_px=float(np.mean([mean_intercept(grain_map) for grain_map in grain_maps])),
        training=asdict(config),
        started_from=started_from,
    )
    return weights.save(path, model, card, half=True)


def initial_network(config: TrainingConfig) -> UNet:
    """A U-Net of three outputs that goes on from the weights in `config.start`, if there are any.

    Of weights with a single output only the first knows something, the boundary.

    Raises
    ------
    WeightsError
        If there are no such weights.
    InputError
        If they are of another width or depth.
    """
    model = UNet(width=config.width, depth=config.depth, out_channels=len(OUTPUTS), seed=config.seed)
    if config.start is None:
        return model
    start, card = weights.load(config.start, UNet)
    sizes = card["parameters"]["width"], card["parameters"]["depth"]
    if sizes != (config.width, config.depth):
        raise InputError(
            "start: weights {} are of width {} and depth {}, not {} and {}; give others, or none".format(
                config.start, *sizes, config.width, config.depth
            )
        )
    known, own = start.state_dict(), model.state_dict()
    if known["head.weight"].shape != own["head.weight"].shape:
        for name in ("head.weight", "head.bias"):
            own[name][:1], known[name] = known[name][:1], own[name]
    model.load_state_dict(known)
    return model


def origin(start: str | None) -> dict[str, Any]:
    """What a card says about the weights that a training started from; nothing of random ones."""
    earlier = weights.load(start, UNet)[1] if start is not None else {}
    return {key: earlier[key] for key in ("data", "training", "sha256") if key in earlier}


def fresh_fields(
    grain_maps: Sequence[np.ndarray], config: TrainingConfig
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Batches for `fit.fit`: fields that depend on the seed and the step alone.

    Returns
    -------
    callable
        ``batches(step)`` gives standardised images (N, 1, side, side) float32 and classes (N, side, side)
        uint8, as `microlab.render.appearances` numbers them.
    """

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        images, classes = [], []
        for k in range(config.batch):
            field, turn = draw_training_field(grain_maps, config, [config.seed, step, k])
            images.append(orientations(standardise(field.image))[turn])
            classes.append(orientations(field.classes)[turn])
        return np.stack(images)[:, None], np.stack(classes)

    return batches


def draw_training_field(
    grain_maps: Sequence[np.ndarray], config: TrainingConfig, seed: Sequence[int]
) -> tuple[Micrograph, int]:
    """A field of a random appearance in grey, and which of its eight orientations to take."""
    rng = np.random.default_rng(seed)
    while True:  # at high magnification a window may lie in a single grain
        try:
            field = draw_field(
                str(rng.choice(config.appearances)),
                grain_maps[rng.integers(len(grain_maps))],
                (config.crop, config.crop),
                seed=rng,
            )
            break
        except ValueError:
            continue
    return in_grey(field), int(rng.integers(8))


def fields_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Boundary loss of the grains, and binary cross-entropy of the other two outputs."""
    images, classes = batch
    logits = model(images).float()
    kinds = (appearances.BOUNDARY, appearances.TWIN_BOUNDARY, appearances.OUTSIDE)
    targets = torch.stack([classes == kind for kind in kinds], 1).float()
    others = F.binary_cross_entropy_with_logits(logits[:, 1:], targets[:, 1:])
    return boundary_loss(logits[:, :1], targets[:, :1]) + 2 * others
