"""Train a VQ-VAE on a few labelled micrographs, and report what its codes keep (chapter 11).

    crops of image and mask -> VQ-VAE -> error of each channel in units of its variance

The example that paper B adapts has no weights between channels; with grey repeated three times the image
counts three quarters and the mask one, which is the default of `image_weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from microlab.data.output import write_image
from microlab.generate.vqvae import DOWNSAMPLING, VQVAE, code_use
from microlab.training import FitConfig, History, fit


@dataclass(frozen=True)
class VQVAEConfig:
    """Everything that determines a trained VQ-VAE. The defaults take minutes on two CPU cores."""

    coding: str = "grey"  # of the mask: 'grey' or 'one-hot'
    image_channels: int = 3
    hidden: int = 64
    residual: int = 32
    dim: int = 64  # D
    codes: int = 10  # K
    beta: float = 0.25
    decay: float | None = 0.99  # of the codebook's moving average; None: gradients
    revive: bool = True
    image_weight: float = 0.75  # share of the image in the loss; the mask has the rest
    crop: int = 128  # pixels
    batch: int = 8
    steps: int = 1700
    lr: float = 1e-3
    symmetries: bool = True  # turn and flip the crops
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.image_weight < 1:
            raise ValueError(f"image_weight must lie in (0, 1), got {self.image_weight}")
        if self.crop < 16 or self.crop % DOWNSAMPLING:
            raise ValueError(f"crop must be a multiple of {DOWNSAMPLING}, at least 16, got {self.crop}")
        for name in ("batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


# Table 4 of paper B; learning rate, decay and layers are those of the example it adapts.
PAPER = VQVAEConfig(hidden=128, crop=256, batch=8, steps=50_000, lr=3e-4, revive=False, symmetries=False)


def train_vqvae(
    channels: Sequence[np.ndarray],
    config: VQVAEConfig | None = None,
    *,
    classes: int,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
    on_sample: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    sample_every: int = 500,
) -> tuple[VQVAE, History]:
    """Train a VQ-VAE on images stacked with their masks.

    Parameters
    ----------
    channels : sequence of (C, H, W) float32
        As made by `microlab.generate.pairs.pack`; sides may differ, none smaller than a crop.
    config : VQVAEConfig, optional
    classes : int
        Classes of the masks.
    folder : path, optional
        Receives the checkpoint, ``history.csv`` and ``samples/step_000500.png``: the first image and its
        mask, and below them their reconstruction, as in paper B's figure 7. A killed run goes on from there.
    device, progress, resume
        As in `microlab.training.fit`.
    on_sample : callable, optional
        ``on_sample(step, original, reconstruction)`` with arrays (C, H, W), every `sample_every` steps.
    sample_every : int

    Returns
    -------
    model : VQVAE
    history : History
        Among its columns: image, mask (errors in units of the variance), perplexity.

    Raises
    ------
    ValueError
        If there is no image, one is smaller than a crop, has other channels or is not finite.
    """
    config = config or VQVAEConfig()
    model = VQVAE(
        classes,
        config.image_channels,
        config.coding,
        config.hidden,
        config.residual,
        config.dim,
        config.codes,
        config.beta,
        config.decay,
        config.revive,
        config.seed,
    )
    images = _checked(channels, model.channels, config.crop)
    model.mean.copy_(torch.from_numpy(_over_pixels(images, np.mean)))
    spread = _over_pixels(images, np.var) + _variance_of_means(images)
    # A class that never occurs has no variance; one pixel in ten thousand keeps its scale finite.
    model.scale.copy_(torch.from_numpy(np.sqrt(np.maximum(spread, 1e-4))))
    show = images[0][:, : images[0].shape[1] // 4 * 4, : images[0].shape[2] // 4 * 4]

    def sample(network: torch.nn.Module, step: int) -> None:
        if step % sample_every and step != config.steps:
            return
        after = reconstruct(network, show)
        if folder is not None:
            (Path(folder) / "samples").mkdir(exist_ok=True, parents=True)
            write_image(Path(folder) / "samples" / f"step_{step:06d}.png", _picture(model, show, after))
        if on_sample is not None:
            on_sample(step, show, after)

    history = fit(
        model,
        _crops(images, config),
        lambda network, batch: loss(network, batch, config.image_weight),
        FitConfig(
            steps=config.steps,
            lr=config.lr,
            clip=1.0,
            seed=config.seed,
            checkpoint_every=config.checkpoint_every,
        ),
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
        callback=sample if folder is not None or on_sample is not None else None,
    )
    return model, history


def loss(network: torch.nn.Module, x: torch.Tensor, image_weight: float) -> dict[str, torch.Tensor]:
    """Reconstruction error plus commitment loss of a batch (N, C, H, W), with the parts to log."""
    output, quantised = network(x)
    model = network.module if hasattr(network, "module") else network  # DistributedDataParallel wraps it
    errors = model.channel_errors(x, output)
    image, mask = errors[: model.image_channels].mean(), errors[model.image_channels :].mean()
    share = torch.bincount(quantised.codes.flatten(), minlength=model.codes) / quantised.codes.numel()
    return {
        "loss": image_weight * image + (1 - image_weight) * mask + quantised.loss,
        "image": image,
        "mask": mask,
        "commitment": quantised.loss,
        "perplexity": torch.exp(-torch.special.xlogy(share, share).sum()),
    }


@torch.inference_mode()
def reconstruct(model: VQVAE, channels: np.ndarray, *, device: str | None = None) -> np.ndarray:
    """What a VQ-VAE keeps of one image stacked with its mask.

    Parameters
    ----------
    model : VQVAE
    channels : (C, H, W) float32, H and W multiples of 4

    Returns
    -------
    (C, H, W) float32
    """
    place = next(model.parameters()).device if device is None else torch.device(device)
    model = model.to(place).eval()
    return model(torch.as_tensor(channels, device=place)[None])[0][0].float().cpu().numpy()


@torch.inference_mode()
def encode_all(model: VQVAE, channels: Sequence[np.ndarray], *, symmetries: bool = False) -> list[np.ndarray]:
    """Code maps of images stacked with their masks.

    Parameters
    ----------
    model : VQVAE
    channels : sequence of (C, H, W) float32
        Sides are cut to a multiple of 4.
    symmetries : bool
        Encode each image in its eight orientations. A code map cannot be turned itself: the encoder was not
        built to turn with its input.

    Returns
    -------
    list of (H/4, W/4) int64
    """
    place = next(model.parameters()).device
    model.eval()
    maps = []
    for image in channels:
        height, width = (side // DOWNSAMPLING * DOWNSAMPLING for side in image.shape[-2:])
        for turned in orientations(image[:, :height, :width]) if symmetries else [image[:, :height, :width]]:
            x = torch.as_tensor(np.ascontiguousarray(turned), device=place)
            maps.append(model.encode(x[None])[0].cpu().numpy())
    return maps


def orientations(image: np.ndarray) -> list[np.ndarray]:
    """The eight symmetries of an image (..., H, W): four quarter turns, each also mirrored."""
    turned = [np.rot90(image, turns, (-2, -1)) for turns in range(4)]
    return turned + [t[..., ::-1] for t in turned]


def reconstruction_report(model: VQVAE, channels: Sequence[np.ndarray]) -> dict[str, object]:
    """What is lost, channel by channel, and how the codebook is used.

    Returns
    -------
    dict
        ``error``: (C,) float, mean squared error in units of the training variance of each channel (0 is
        perfect, 1 is no better than the mean grey); ``use``: CodeUse.
    """
    errors = []
    for image in channels:
        height, width = (side // DOWNSAMPLING * DOWNSAMPLING for side in image.shape[-2:])
        x = image[:, :height, :width]
        after = reconstruct(model, x)
        before, after = (torch.as_tensor(a, device=model.scale.device)[None] for a in (x, after))
        errors.append(model.channel_errors(before, after).cpu().numpy())
    codes = np.concatenate([codes.ravel() for codes in encode_all(model, channels)])
    return {"error": np.mean(errors, axis=0), "use": code_use(codes, model.codes)}


def _crops(images: list[np.ndarray], config: VQVAEConfig) -> Callable[[int], np.ndarray]:
    def batch(step: int) -> np.ndarray:
        rng = np.random.default_rng([config.seed, step])
        parts = []
        for _ in range(config.batch):
            image = images[rng.integers(len(images))]
            y, x = (rng.integers(side - config.crop + 1) for side in image.shape[1:])
            part = image[:, y : y + config.crop, x : x + config.crop]
            parts.append(orientations(part)[rng.integers(8)] if config.symmetries else part)
        return np.stack(parts)

    return batch


def _checked(channels: Sequence[np.ndarray], count: int, crop: int) -> list[np.ndarray]:
    if len(channels) == 0:
        raise ValueError("there is no image to train on")
    images = [np.asarray(image, np.float32) for image in channels]
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != count or min(image.shape[1:]) < crop:
            raise ValueError(
                f"image {index}: expected ({count}, H, W) with sides of at least {crop} px, got {image.shape}"
            )
        if not np.isfinite(image).all():
            raise ValueError(f"image {index} holds values that are not finite")
    return images


def _over_pixels(images: list[np.ndarray], measure: Callable) -> np.ndarray:
    return np.mean([measure(image, axis=(1, 2), dtype=np.float64) for image in images], axis=0)


def _variance_of_means(images: list[np.ndarray]) -> np.ndarray:
    return np.var([image.mean(axis=(1, 2), dtype=np.float64) for image in images], axis=0)


def _picture(model: VQVAE, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Original above reconstruction, image beside mask, grey."""

    def row(channels: np.ndarray) -> np.ndarray:
        image = channels[: model.image_channels].mean(0)
        mask = channels[model.image_channels :]
        grey = mask[0] if len(mask) == 1 else mask.argmax(0) / (model.classes - 1)
        return np.concatenate([image, grey], axis=1)

    return np.concatenate([row(before), row(after)]).clip(0, 1)
