"""Paint a micrograph over a given mask by denoising diffusion.

    x_t = alpha x_0 + sigma eps,   alpha = cos(pi t / 2),  sigma = sin(pi t / 2),   v = alpha eps - sigma x_0

A network learns v from x_t, t and the mask; running t from 1 to 0 turns noise into a picture. Denoising
diffusion: Ho, Jain and Abbeel, NeurIPS 2020 (arXiv:2006.11239). The cosine schedule: Nichol and Dhariwal,
ICML 2021 (arXiv:2102.09672), without their offset. v, which stays well defined at t = 1, where eps says
nothing of the picture: Salimans and Ho, ICLR 2022 (arXiv:2202.00512).

Train a mask-conditional diffusion model on a few labelled micrographs.

    crops of standardised image and mask -> MaskDiffusion -> mean squared error of the velocity

Each field is standardised as a whole, by its own mean and standard deviation. Brightness and contrast are
settings of the microscope; on the uhcs training fields this takes the spread of the matrix's grey between
fields from 0.32 to 0.06 of the spread within a field. A network that had to invent them would also have to
agree with itself over distances that it cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.training.crops import random_crops
from microlab.training.devices import autocast, pick_device, resolve_precision
from microlab.training.fit import FitConfig, History, fit


def alpha_sigma(t: Tensor | float) -> tuple[Tensor, Tensor]:
    """Shares of picture and noise at the times `t` in [0, 1]: alpha^2 + sigma^2 = 1."""
    angle = torch.as_tensor(t, dtype=torch.float32) * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def diffuse(x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy picture at a time, and the velocity that leads there.

    Parameters
    ----------
    x0 : (N, C, H, W) float
        Pictures of mean about 0 and variance about 1; the schedule supposes it.
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
    """Mean squared error of the predicted velocity at random times: what training lowers.

    Parameters
    ----------
    network : callable
        ``network(x_t, mask, t)`` as :class:`MaskDiffusion`, or one wrapped for several devices.
    x0 : (N, 1, H, W) float
        Standardised pictures.
    mask : (N, H, W) int

    Returns
    -------
    Scalar tensor; 1 for a network that always says 0, if the pictures have variance 1.
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
    """Turn noise into pictures in a few steps from t = 1 to t = 0.

    Each step estimates the picture and the noise in x_t and mixes them anew with the shares of the next
    time (DDIM: Song, Meng and Ermon, ICLR 2021, arXiv:2010.02502, eqs. 12 and 16).

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
        Least and largest value of a picture; estimates are clipped to them.

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
    looks : int >= 1
        Fields it is trained on; brightness and contrast of each are kept.
    seed : int
        Seed of the initial weights.

    Attributes
    ----------
    looks : (looks, 2) float buffer
        Mean and standard deviation of each training field. The network knows standardised pictures alone;
        `paint` draws a look for each.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        classes: int = 4,
        width: int = 32,
        depth: int = 3,
        patch: int = 2,
        looks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"classes": classes, "width": width, "depth": depth, "patch": patch, "looks": looks}
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
            nn.init.zeros_(self.head[-1].weight)  # a start at v = 0, the mean of all
        self.register_buffer("looks", torch.tensor([[0.5, 0.2]]).repeat(looks, 1))

    def forward(self, x: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        """Predicted velocity.

        Parameters
        ----------
        x : (N, 1, H, W) float
            Noisy standardised pictures; H, W multiples of ``patch * 2**(depth - 1)``.
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

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> MaskDiffusion:
        """A trained network by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


GROUP = 8  # channels that are normalised together


class Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them; the time scales and shifts what is between."""

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
    looks: np.ndarray | None = None,
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
        0: DDIM; 1: ancestral sampling, which wants more steps.
    looks : (n, 2) float, optional
        Mean and standard deviation of each picture's field, of grey values in [0, 1]. By default those of a
        training field drawn for each picture.
    seed : int or Generator
        A picture depends on it and on its place in `masks`, not on `batch`.
    batch : int >= 1
        Pictures at once.
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
    if masks.dtype.kind not in "iu" or masks.min() < 0 or masks.max() >= model.classes:
        raise ValueError(
            f"masks must hold integers in 0..{model.classes - 1}, "
            f"got {masks.dtype} from {masks.min()} to {masks.max()}"
        )
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    n, height, width = masks.shape
    rng = np.random.default_rng(seed)
    known = model.looks.cpu().numpy()
    looks = known[rng.integers(len(known), size=n)] if looks is None else np.asarray(looks, np.float32)
    if looks.shape != (n, 2) or not (looks[:, 1] > 0).all():
        raise ValueError(f"looks must be ({n}, 2) with positive deviations, got shape {looks.shape}")
    sources = [np.random.default_rng(number) for number in rng.integers(2**63, size=n)]
    padded = np.pad(masks, ((0, 0), (0, -height % model.cell), (0, -width % model.cell)), "symmetric")
    place = pick_device(device)
    training = model.training
    model.to(place, memory_format=model.memory_format).eval()
    pictures = np.empty(masks.shape, np.float32)
    bar = tqdm(total=n * steps, unit="step", desc="paint", disable=not progress)
    with bar, torch.inference_mode(), autocast(place, resolve_precision("auto", place)):
        for start in range(0, n, batch):
            part = slice(start, start + batch)
            mask = torch.as_tensor(padded[part].astype(np.int64), device=place)
            look = torch.as_tensor(looks[part], dtype=torch.float32, device=place)
            mean, deviation = (number.view(-1, 1, 1, 1) for number in look.unbind(1))

            def noise() -> Tensor:
                drawn = [r.standard_normal((1, *mask.shape[1:]), np.float32) for r in sources[part]]  # noqa: B023
                return torch.as_tensor(np.stack(drawn), device=place)

            def velocity(x: Tensor, t: float) -> Tensor:
                bar.update(len(x))
                return model(x, mask, torch.full((len(x),), t, device=place)).float()  # noqa: B023

            limits = ((0 - mean) / deviation, (1 - mean) / deviation)
            x = sample(velocity, noise(), steps, eta=eta, fresh=noise, limits=limits)
            x = (mean + deviation * x).clamp(0, 1)
            pictures[part] = x[:, 0, :height, :width].cpu().numpy()
    model.train(training)
    return pictures


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
        As in `microlab.training.fit.fit`.

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
        FitConfig.of(config, clip=1.0),
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
        crops = random_crops([image for image, _ in fields], config.crop, config.batch, [config.seed, step])
        images, masks = zip(*((crop(fields[k][0]), crop(fields[k][1])) for k, crop in crops), strict=True)
        return np.stack(images)[:, None], np.stack(masks)

    return batch
