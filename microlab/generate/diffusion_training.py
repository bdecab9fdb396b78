"""Train a mask-conditional diffusion model on a few labelled micrographs (chapter 12).

    crops of standardised image and mask -> MaskDiffusion -> mean squared error of the velocity

Each field is standardised as a whole, by its own mean and standard deviation. Brightness and contrast are
settings of the microscope; on the uhcs training fields this takes the spread of the matrix's grey between
fields from 0.32 to 0.06 of the spread within a field. A network that had to invent them would also have to
agree with itself over distances that it cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from microlab.generate.diffusion import MaskDiffusion, velocity_loss
from microlab.generate.vqvae_training import orientations
from microlab.training import FitConfig, History, fit


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that determines a trained diffusion model. The defaults take minutes on one CPU core."""

    width: int = 48
    depth: int = 3
    patch: int = 2
    crop: int = 64  # pixels
    batch: int = 16
    steps: int = 1500
    lr: float = 1e-3  # lowered to zero along a cosine, after a rise over the first steps
    warmup: int = 50
    ema: float = 0.995  # decay of the running mean of the weights, which paints
    precision: str = "auto"
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        cell = self.patch * 2 ** (self.depth - 1)
        if self.crop < 1 or self.crop % cell:
            raise ValueError(f"crop must be a multiple of {cell} (patch and depth), got {self.crop}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


def train_diffusion(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    config: DiffusionConfig | None = None,
    *,
    classes: int,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
) -> tuple[MaskDiffusion, History]:
    """Train a diffusion model on random crops in random orientation.

    Parameters
    ----------
    pairs : sequence of (image, mask)
        image (H, W) float in [0, 1], mask (H, W) int in 0..classes-1; no side smaller than a crop.
    config : DiffusionConfig, optional
    classes : int
    folder, device, progress, resume
        As in `microlab.training.fit`.

    Returns
    -------
    model : MaskDiffusion
        With the running mean of the weights, and with mean and deviation of the fields in `looks`.
    history : History

    Raises
    ------
    ValueError
        If there is no pair, or one is too small, differs in size, is flat or out of range.
    """
    config = config or DiffusionConfig()
    fields, looks = _standardised(pairs, classes, config.crop)
    model = MaskDiffusion(classes, config.width, config.depth, config.patch, len(fields), config.seed)
    model.looks.copy_(torch.tensor(looks))
    history = fit(
        model,
        _crops(fields, config),
        lambda network, batch: velocity_loss(network, *batch),
        FitConfig(
            steps=config.steps,
            lr=config.lr,
            warmup=config.warmup,
            clip=1.0,
            ema=config.ema,
            precision=config.precision,
            checkpoint_every=config.checkpoint_every,
            seed=config.seed,
        ),
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
    )
    return model, history


Fields = list[tuple[np.ndarray, np.ndarray]]


def _standardised(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], classes: int, crop: int
) -> tuple[Fields, list[tuple[float, float]]]:
    """Fields of mean 0 and deviation 1 with their masks, and the mean and deviation they had."""
    if len(pairs) == 0:
        raise ValueError("there is no pair to train on")
    fields, looks = [], []
    for index, (image, mask) in enumerate(pairs):
        image, mask = np.asarray(image, np.float32), np.asarray(mask)
        if image.ndim != 2 or mask.shape != image.shape:
            raise ValueError(f"pair {index}: mask {mask.shape} and image {image.shape} must both be (H, W)")
        if min(image.shape) < crop:
            raise ValueError(f"pair {index}: {image.shape} is smaller than a crop of {crop} px")
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"pair {index}: image must hold finite values from 0 to 1")
        if mask.dtype.kind not in "iu" or mask.min() < 0 or mask.max() >= classes:
            raise ValueError(
                f"pair {index}: mask must hold integers in 0..{classes - 1}, "
                f"got {mask.dtype} from {mask.min()} to {mask.max()}"
            )
        mean, deviation = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
        if not deviation > 0:
            raise ValueError(f"pair {index}: every pixel of the image is {mean}; nothing to learn")
        fields.append(((image - mean) / deviation, mask.astype(np.int64)))
        looks.append((mean, deviation))
    return fields, looks


def _crops(fields: Fields, config: DiffusionConfig) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([config.seed, step])
        images, masks = [], []
        for _ in range(config.batch):
            image, mask = fields[rng.integers(len(fields))]
            y, x = (rng.integers(side - config.crop + 1) for side in image.shape)
            part = (..., slice(y, y + config.crop), slice(x, x + config.crop))
            turn = rng.integers(8)
            images.append(orientations(image[part])[turn])
            masks.append(orientations(mask[part])[turn])
        return np.stack(images)[:, None], np.stack(masks)

    return batch
