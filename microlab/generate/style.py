"""Learn the style of unlabelled micrographs and give it to simulations.

    simulations Y, micrographs X  ->  crops  ->  CycleGAN or CUT  ->  F, which translates whole images Y -> X

The two sets are not paired, but the size of their grains in pixels must agree, or the discriminator will tell
them apart by that alone: zoom the micrographs first (`microlab.segment.zoom`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from microlab.data.errors import InputError
from microlab.data.images import write_image
from microlab.generate.registry import STYLES, translator
from microlab.training.crops import random_crops
from microlab.training.devices import pick_device
from microlab.training.fit import FitConfig, History, fit

Images = Mapping[str, np.ndarray] | Sequence[np.ndarray]


@dataclass(frozen=True)
class StyleConfig(FitConfig):
    """Everything that determines a learnt style. The defaults take minutes on two CPU cores."""

    method: str = "cyclegan"  # a name of STYLES
    width: int = 16  # channels of the first level
    blocks: int = 4  # residual blocks
    layers: int = 2  # halvings of the discriminators: patches of 34 pixels, about one grain
    noise: float = 0.3  # of F's noise channel
    lambda_cycle: float = 10.0  # CycleGAN only
    lambda_identity: float = 0.1  # CycleGAN only; without it the grey levels may drift
    lambda_nce: float = 1.0  # CUT only
    crop: int = 96  # pixels
    batch: int = 2
    steps: int = 1200
    lr: float = 4e-4
    schedule: str = "late"
    betas: tuple[float, float] = (0.5, 0.999)
    ema: float | None = 0.99
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in STYLES:
            raise InputError(f"a learnt style must be one of {', '.join(STYLES)}, got {self.method!r}")
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")
        if self.crop < 32:
            raise InputError(
                f"crop must be at least 32 pixels, a patch of the discriminator, got {self.crop}"
            )


# Paper A names the method and no settings; these are those of the network it takes.
PAPER = StyleConfig(
    width=64,
    blocks=9,
    layers=3,
    noise=0.0,
    lambda_identity=0.5,
    crop=256,
    batch=1,
    steps=36_000,
    lr=2e-4,
    ema=None,
)


def learn_style(
    simulated: Images,
    real: Images,
    config: StyleConfig | None = None,
    *,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
    on_sample: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    sample_every: int = 100,
) -> tuple[nn.Module, History]:
    """Train a translator between simulations and micrographs that are not paired.

    Parameters
    ----------
    simulated, real : dict of str to array, or sequence of arrays
        Images (H, W) or (H, W, C), float in [0, 1]; the keys of a dict (file names, say) appear in errors.
    config : StyleConfig, optional
    folder : path, optional
        Receives the checkpoint, ``history.csv`` with the losses, and ``samples/step_000100.png``: a
        simulation beside its translation at that step.
    device, progress, resume
        As in `microlab.training.fit.fit`.
    on_sample : callable, optional
        ``on_sample(step, simulation, translation)`` with images (H, W) or (H, W, C), every `sample_every`
        steps.
    sample_every : int

    Returns
    -------
    model : Module
        An instance of a `translator`; its ``F`` translates simulations.
    history : History

    Raises
    ------
    InputError
        If a set is empty, an image is smaller than a crop, constant or not finite, or channels differ.
    """
    config = config or StyleConfig()
    domains = [checked_domain(simulated, "simulated", config.crop), checked_domain(real, "real", config.crop)]
    y_channels, x_channels = (len(images[0]) for images in domains)
    model = translator(config.method).from_config(config, y_channels, x_channels)
    if pick_device(device).type == "cuda":  # on CPUs this layout slows instance normalisation down
        model.memory_format = torch.channels_last
    show = domains[0][0][:, : 4 * config.crop, : 4 * config.crop].transpose(1, 2, 0).squeeze()

    def sample(model: nn.Module, step: int) -> None:
        if step % sample_every and step != config.steps:
            return
        translation = translate(model.F, show)
        if folder is not None and show.ndim == translation.ndim:
            beside = np.concatenate([show, translation], axis=1)
            write_image(Path(folder) / "samples" / f"step_{step:06d}.png", beside)
        if on_sample is not None:
            on_sample(step, show, translation)

    history = fit(
        model,
        _unpaired_crops(domains, config),
        lambda network, batch: network(*batch),
        replace(config, log_every=math.gcd(config.log_every, sample_every)),  # samples fall on logged steps
        folder=folder,
        progress=progress,
        device=device,
        resume=resume,
        callback=sample if folder is not None or on_sample is not None else None,
    )
    return model, history


@torch.inference_mode()
def translate(
    generator: nn.Module, image: np.ndarray, *, seed: int = 0, device: str | torch.device | None = None
) -> np.ndarray:
    """Translate one whole image. The same seed gives the same texture.

    Parameters
    ----------
    generator : Generator
        ``model.F`` of `learn_style`, or `Generator.from_weights`.
    image : (H, W) or (H, W, C) float in [0, 1]
        At least 8 x 8 pixels. Not a tile: instance normalisation would make seams.
    seed : int
        Of the noise channel.
    device : str, optional
        By default where the generator is.

    Returns
    -------
    (H, W) or (H, W, C) float32 in [0, 1]

    Raises
    ------
    ValueError
        If the image is too small or not finite.
    """
    planes = _planes(image, "image")
    if min(planes.shape[1:]) < 8:
        raise InputError(f"image must have at least 8 x 8 pixels, got {planes.shape[1:]}")
    place = torch.device(device) if device is not None else next(generator.parameters()).device
    generator.to(place)
    y = torch.from_numpy(2 * planes - 1)[None].to(place)
    noise = torch.randn((1, 1, *y.shape[-2:]), generator=torch.Generator().manual_seed(seed)).to(place)
    x = generator(y, noise)[0].cpu().numpy()
    return np.ascontiguousarray(((x + 1) / 2).transpose(1, 2, 0).squeeze(), dtype=np.float32)


def checked_domain(images: Images, what: str, crop: int) -> list[np.ndarray]:
    """Images as (C, H, W) float32, or an InputError that names the one which cannot be learnt from."""
    named = images.items() if isinstance(images, Mapping) else enumerate(images)
    domain = {f"{what} image {name}": _planes(image, f"{what} image {name}") for name, image in named}
    if not domain:
        raise InputError(f"there are no {what} images; give at least one")
    first = next(iter(domain))
    for label, planes in domain.items():
        if min(planes.shape[1:]) < crop:
            raise InputError(
                f"{label} has {planes.shape[2]} x {planes.shape[1]} pixels, smaller than the crop of {crop}: "
                "leave it out or lower crop"
            )
        if planes.max() == planes.min():
            raise InputError(f"{label} has the same grey everywhere, there is no style in it: leave it out")
        if len(planes) != len(domain[first]):
            raise InputError(
                f"{label} has {len(planes)} channels and {first} has {len(domain[first])}: "
                "convert them to the same"
            )
    return list(domain.values())


def _planes(image: np.ndarray, label: str) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim not in (2, 3):
        raise InputError(f"{label} must be (H, W) or (H, W, C), got shape {image.shape}")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise InputError(f"{label} must hold finite values from 0 to 1, got {image.min()} to {image.max()}")
    return np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))


def _unpaired_crops(domains: list[list[np.ndarray]], config: StyleConfig) -> Callable[[int], tuple]:
    """``batches(step)``: crops of both domains, flipped and turned, (N, C, crop, crop) in [-1, 1]."""
    # A large image holds more crops than a small one.
    shares = [np.array([i.shape[1] * i.shape[2] for i in images], float) for images in domains]
    shares = [share / share.sum() for share in shares]

    def batches(step: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([config.seed, step])
        drawn = []
        for images, share in zip(domains, shares):
            crops = random_crops(images, config.crop, config.batch, rng, shares=share)
            drawn.append(2 * np.stack([crop(images[index]) for index, crop in crops]) - 1)
        return tuple(drawn)

    return batches
