"""Micrographs over given masks by denoising diffusion.

    x_t = alpha x_0 + sigma eps,   alpha = cos(pi t / 2),  sigma = sin(pi t / 2),   v = alpha eps - sigma x_0

A network learns v from x_t, t and the mask; running t from 1 to 0 turns noise into an image. Denoising
diffusion: Ho, Jain and Abbeel, NeurIPS 2020 (arXiv:2006.11239). The cosine schedule: Nichol and Dhariwal,
ICML 2021 (arXiv:2102.09672), without their offset. v stays well defined at t = 1, where eps carries no
information about the image: Salimans and Ho, ICLR 2022 (arXiv:2202.00512).

Each field is standardised as a whole, by its own mean and standard deviation. Brightness and contrast are
settings of the microscope; on the uhcs training fields this takes the spread of the matrix's grey between
fields from 0.32 to 0.06 of the spread within a field. A network that generated them would also have to keep
them constant over distances that it cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from microlab.data.micrograph import Micrograph
from microlab.data.pairs import check_classes
from microlab.training.crops import random_crops
from microlab.training.devices import autocast, pick_device, resolve_precision
from microlab.training.fit import FitConfig, History, fit


def alpha_sigma(t: Tensor | float) -> tuple[Tensor, Tensor]:
    """Shares of image and noise at the times `t` in [0, 1]: alpha^2 + sigma^2 = 1."""
    angle = torch.as_tensor(t, dtype=torch.float32) * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def diffuse(x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy image at a time, and the velocity that leads there.

    Parameters
    ----------
    x0 : (N, C, H, W) float
        Images of mean about 0 and variance about 1, as the schedule assumes.
    t : (N,) float in [0, 1]
    noise : (N, C, H, W) float
        Standard normal numbers.

    Returns
    -------
    x_t, v : (N, C, H, W) float
        ``v`` is dx_t/dt divided by pi/2.
    """
    alpha, sigma = (share.view(-1, 1, 1, 1) for share in alpha_sigma(t))
    return alpha * x0 + sigma * noise, alpha * noise - sigma * x0


def velocity_loss(network: nn.Module, x0: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity at random times: the training loss.

    Parameters
    ----------
    network : callable
        ``network(x_t, mask, t)`` as :class:`MaskDiffusion`, or one wrapped for several devices.
    x0 : (N, 1, H, W) float
        Standardised images.
    mask : (N, H, W) int

    Returns
    -------
    Scalar tensor; 1 for a network whose output is always 0, if the images have variance 1.
    """
    n = len(x0)
    # One time in each n-th of [0, 1]: the same mean as independent times with less variance.
    t = (torch.arange(n, device=x0.device) + torch.rand(n, device=x0.device)) / n
    x, v = diffuse(x0, t, torch.randn_like(x0))
    return F.mse_loss(network(x, mask, t).float(), v)


@torch.no_grad()
def sample(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    fresh: Callable[[], Tensor] | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Turn noise into images in a few steps from t = 1 to t = 0.

    Each step estimates the image and the noise in x_t and mixes them with the shares of the next time
    (DDIM: Song, Meng and Ermon, ICLR 2021, arXiv:2010.02502, eqs. 12 and 16).

    Parameters
    ----------
    velocity : callable
        ``velocity(x, t)``, the predicted v of x at the time t.
    noise : (N, C, H, W) float
        Standard normal numbers: x at t = 1.
    steps : int >= 1
    eta : float in [0, 1]
        Share of fresh noise: 0 none (DDIM), 1 all that the reversed process has (ancestral sampling).
    fresh : callable, optional
        ``fresh()`` is standard normal noise shaped as `noise`; needed if `eta` is not 0.
    limits : pair of float tensors, optional
        Least and largest value of an image; estimates are clipped to them.

    Returns
    -------
    (N, C, H, W) float
    """
    if steps < 1 or not 0 <= eta <= 1:
        raise ValueError(f"steps must be at least 1 and eta lie in [0, 1], got {steps} and {eta}")
    if eta > 0 and fresh is None:
        raise ValueError("eta above 0 needs fresh noise: give fresh")
    x = noise
    for step in range(steps, 0, -1):
        alpha, sigma = alpha_sigma(step / steps)
        next_alpha, next_sigma = alpha_sigma((step - 1) / steps)
        v = velocity(x, step / steps)
        x0 = alpha * x - sigma * v
        if limits is not None:
            x0 = torch.clamp(x0, *limits)
        # The noise that belongs to the estimate; sigma is never 0 here.
        eps = (x - alpha * x0) / sigma
        # next_sigma^2 (1 - alpha^2/next_alpha^2) / sigma^2 is the variance of x_s given x_t and x_0.
        spread = eta * next_sigma / sigma * torch.sqrt(1 - (alpha / next_alpha).square())
        x = next_alpha * x0 + torch.sqrt(next_sigma.square() - spread.square()) * eps
        if eta > 0:
            x = x + spread * fresh()
    return x


class MaskDiffusion(nn.Module):
    """U-Net that predicts the velocity of a noisy micrograph, given its mask and the time.

    The mask joins the image as one channel per class. The time scales and shifts the features of every
    block (Dhariwal and Nichol, NeurIPS 2021, arXiv:2105.05233).

    Parameters
    ----------
    classes : int >= 2
    width : int >= 8
        Channels of the first level, a multiple of 8; level k has ``width * 2**k``.
    depth : int >= 1
        Levels, counted with the bottom one.
    patch : int >= 1
        Pixels along each side that enter and leave the network together, as channels. 2 makes it about four
        times faster than 1 at the same width.
    fields : int >= 1
        Number of training fields; brightness and contrast of each are kept.
    seed : int
        Seed of the initial weights.

    Attributes
    ----------
    statistics : (fields, 2) float buffer
        Mean and standard deviation of each training field. The network knows standardised images alone;
        `paint` draws one of these rows for each image.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        *,
        classes: int = 4,
        width: int = 32,
        depth: int = 3,
        patch: int = 2,
        fields: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"classes": classes, "width": width, "depth": depth, "patch": patch, "fields": fields}
        for name, value in sizes.items():
            least = {"classes": 2, "width": GROUP}.get(name, 1)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if width % GROUP:
            raise ValueError(f"width must be a multiple of {GROUP}, got {width}")
        # What a card needs to build the same network again (microlab.data.weights).
        self.architecture = sizes
        self.classes, self.patch, self.width = classes, patch, width
        self.cell = patch * 2 ** (depth - 1)  # pixels that become one at the bottom
        widths = [width * 2**level for level in range(depth)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.time = nn.Sequential(
                nn.Linear(2 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
            )
            self.stem = nn.Conv2d((1 + classes) * patch**2, width, 3, padding=1)
            self.down = nn.ModuleList(
                Block(before, after, 4 * width)
                for before, after in zip([width, *widths], widths, strict=False)
            )
            self.middle = Block(widths[-1], widths[-1], 4 * width)
            self.up = nn.ModuleList(Block(3 * w, w, 4 * width) for w in reversed(widths[:-1]))
            self.head = nn.Sequential(
                nn.GroupNorm(width // GROUP, width), nn.SiLU(), nn.Conv2d(width, patch**2, 3, padding=1)
            )
            nn.init.zeros_(self.head[-1].weight)  # starts at v = 0, the mean
        self.register_buffer("statistics", torch.tensor([[0.5, 0.2]]).repeat(fields, 1))

    def forward(self, x: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        """Predicted velocity.

        Parameters
        ----------
        x : (N, 1, H, W) float
            Noisy standardised images; H, W multiples of ``patch * 2**(depth - 1)``.
        mask : (N, H, W) int in 0..classes-1
        t : (N,) float in [0, 1]

        Returns
        -------
        (N, 1, H, W) float
        """
        n, _, height, width = x.shape
        if tuple(mask.shape) != (n, height, width):
            raise ValueError(f"mask {tuple(mask.shape)} does not fit x {tuple(x.shape)}")
        if height % self.cell or width % self.cell:
            raise ValueError(f"H and W must be multiples of {self.cell}, got {height} x {width}")
        classes = torch.arange(self.classes, device=x.device).view(-1, 1, 1)
        x = F.pixel_unshuffle(torch.cat([x, (mask[:, None] == classes).to(x.dtype)], dim=1), self.patch)
        time = self.time(self._waves(t))
        x = self.stem(x.contiguous(memory_format=self.memory_format))
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, time)  # (N, width 2^level, h / 2^level, ...)
            skips.append(x)
        x = self.middle(skips.pop(), time)
        for block in self.up:
            x = block(torch.cat([skips.pop(), F.interpolate(x, scale_factor=2)], dim=1), time)
        return F.pixel_shuffle(self.head(x), self.patch)

    def _waves(self, t: Tensor) -> Tensor:
        """The time as cosines and sines of many periods, (N, 2 width)."""
        periods = torch.exp(torch.linspace(0, math.log(1000), self.width, device=t.device))
        angle = t[:, None] * periods
        return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)


GROUP = 8  # channels that are normalised together


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; the time scales and shifts the features between them."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(before // GROUP, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)
        )
        self.norm = nn.GroupNorm(after // GROUP, after)
        self.modulate = nn.Linear(time, 2 * after)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.around = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.second[-1].weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulate(time)[:, :, None, None].chunk(2, dim=1)
        return self.around(x) + self.second(self.norm(self.first(x)) * (1 + scale) + shift)


def paint(
    model: MaskDiffusion,
    masks: np.ndarray,
    *,
    steps: int = 25,
    eta: float = 0.0,
    statistics: np.ndarray | None = None,
    seed: int | np.random.Generator = 0,
    batch: int = 8,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Micrographs over given masks.

    Parameters
    ----------
    model : MaskDiffusion
        Trained.
    masks : (n, H, W) int in 0..classes-1
        Any H, W >= 1: they are padded by reflection inside.
    steps : int >= 1
    eta : float in [0, 1]
        0: DDIM; 1: ancestral sampling, which needs more steps.
    statistics : (n, 2) float, optional
        Mean and standard deviation of each image's field, of grey values in [0, 1]. By default those of a
        training field drawn for each image.
    seed : int or Generator
        An image depends on it and on its place in `masks`, not on `batch`.
    batch : int >= 1
        Images at once.
    device, progress
        As in `microlab.training.fit.fit`.

    Returns
    -------
    (n, H, W) float32 in [0, 1]

    Raises
    ------
    ValueError
        If `masks` has another shape, is empty, or holds a class the model does not know.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.size == 0:
        raise ValueError(f"masks must be (n, H, W) and not empty, got shape {masks.shape}")
    check_classes(masks.reshape(-1, masks.shape[2]), model.classes, "masks")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    n, height, width = masks.shape
    rng = np.random.default_rng(seed)
    if statistics is None:
        stored = model.statistics.cpu().numpy()
        statistics = stored[rng.integers(len(stored), size=n)]
    statistics = np.asarray(statistics, np.float32)
    if statistics.shape != (n, 2) or not (statistics[:, 1] > 0).all():
        raise ValueError(f"statistics must be ({n}, 2), deviations positive, got shape {statistics.shape}")
    sources = [np.random.default_rng(number) for number in rng.integers(2**63, size=n)]
    padded = np.pad(masks, ((0, 0), (0, -height % model.cell), (0, -width % model.cell)), "symmetric")
    place = pick_device(device)
    training = model.training
    model.to(place, memory_format=model.memory_format).eval()
    images = np.empty(masks.shape, np.float32)
    bar = tqdm(total=n * steps, unit="step", desc="paint", disable=not progress)
    with bar, torch.inference_mode(), autocast(place, resolve_precision("auto", place)):
        for start in range(0, n, batch):
            part = slice(start, start + batch)
            mask = torch.as_tensor(padded[part].astype(np.int64), device=place)
            mean, deviation = torch.as_tensor(statistics[part], device=place).view(-1, 2, 1, 1, 1).unbind(1)

            def noise() -> Tensor:
                drawn = [r.standard_normal((1, *mask.shape[1:]), np.float32) for r in sources[part]]  # noqa: B023
                return torch.as_tensor(np.stack(drawn), device=place)

            def velocity(x: Tensor, t: float) -> Tensor:
                bar.update(len(x))
                return model(x, mask, torch.full((len(x),), t, device=place)).float()  # noqa: B023

            limits = ((0 - mean) / deviation, (1 - mean) / deviation)
            x = sample(velocity, noise(), steps, eta=eta, fresh=noise, limits=limits)
            x = (mean + deviation * x).clamp(0, 1)
            images[part] = x[:, 0, :height, :width].cpu().numpy()
    model.train(training)
    return images


@dataclass(frozen=True)
class DiffusionConfig(FitConfig):
    """Everything that determines a trained diffusion model. The defaults take minutes on one CPU core."""

    width: int = 48
    depth: int = 3
    patch: int = 2
    crop: int = 64  # pixels
    batch: int = 16
    steps: int = 1500
    warmup: int = 50
    clip: float | None = 1.0
    ema: float | None = 0.995  # decay of the running mean of the weights, which `paint` uses
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        cell = self.patch * 2 ** (self.depth - 1)
        if self.crop < 1 or self.crop % cell:
            raise ValueError(f"crop must be a multiple of {cell} (patch and depth), got {self.crop}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


def train_diffusion(
    pairs: Sequence[Micrograph],
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
    pairs : sequence of Micrograph
        With `classes` in 0..classes-1; grey, no side smaller than a crop.
    config : DiffusionConfig, optional
    classes : int
    folder, device, progress, resume
        As in `microlab.training.fit.fit`.

    Returns
    -------
    model : MaskDiffusion
        With the running mean of the weights, and with mean and deviation of the fields in `statistics`.
    history : History

    Raises
    ------
    ValueError
        If there is no pair, or one is too small, differs in size, is flat or out of range.
    """
    config = config or DiffusionConfig()
    fields, statistics = _standardised(pairs, classes, config.crop)
    model = MaskDiffusion(
        classes=classes,
        width=config.width,
        depth=config.depth,
        patch=config.patch,
        fields=len(fields),
        seed=config.seed,
    )
    model.statistics.copy_(torch.tensor(statistics))
    history = fit(
        model,
        _crops(fields, config),
        lambda network, batch: velocity_loss(network, *batch),
        config,
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
    )
    return model, history


Fields = list[tuple[np.ndarray, np.ndarray]]


def _standardised(
    pairs: Sequence[Micrograph], classes: int, crop: int
) -> tuple[Fields, list[tuple[float, float]]]:
    """Fields of mean 0 and deviation 1 with their masks, and the mean and deviation they had."""
    if len(pairs) == 0:
        raise ValueError("there is no pair to train on")
    fields, statistics = [], []
    for index, pair in enumerate(pairs):
        image, mask = np.asarray(pair.image, np.float32), np.asarray(pair.classes)
        if image.ndim != 2 or mask.shape != image.shape:
            raise ValueError(f"pair {index}: mask {mask.shape} and image {image.shape} must both be (H, W)")
        if min(image.shape) < crop:
            raise ValueError(f"pair {index}: {image.shape} is smaller than a crop of {crop} px")
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"pair {index}: image must hold finite values from 0 to 1")
        check_classes(mask, classes, f"pair {index}: mask")
        mean, deviation = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
        if not deviation > 0:
            raise ValueError(f"pair {index}: every pixel of the image is {mean}; nothing to learn")
        fields.append(((image - mean) / deviation, mask.astype(np.int64)))
        statistics.append((mean, deviation))
    return fields, statistics


def _crops(fields: Fields, config: DiffusionConfig) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    images = [image for image, _ in fields]

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        crops = random_crops(images, config.crop, config.batch, [config.seed, step])
        cut = [(crop(fields[k][0]), crop(fields[k][1])) for k, crop in crops]
        return np.stack([image for image, _ in cut])[:, None], np.stack([mask for _, mask in cut])

    return batch
