"""Train Net1 and Net2 on images with known boundaries.

    Net1: edges -> boundary        Net2: damaged boundary, edges -> boundary

Both see the same random crops in the eight orientations. Net2 is a denoiser: it sees the true boundary
damaged at several strengths, which take the part of diffusion steps, or what Net1 made of the image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from microlab.segment.corruption import Damage, corrupt
from microlab.segment.refine import EdgeNet, RefineNet, check_channels, check_map
from microlab.segment.unet import boundary_loss
from microlab.training.crops import random_crops
from microlab.training.fit import FitConfig, History, fit

Pair = tuple[np.ndarray, np.ndarray]  # channels (C, H, W) float in [0, 1], boundary (H, W) bool


@dataclass(frozen=True)
class FirstConfig:
    """Settings of :func:`train_first`. The defaults take minutes on one CPU core."""

    crop: int = 96  # px, side; the height of the paper's strips
    batch: int = 8
    steps: int = 1000
    lr: float = 2e-3  # lowered to zero along a cosine, after a rise over the first steps
    warmup: int = 20
    ema: float | None = 0.99  # decay of the running mean of the weights
    precision: str = "auto"
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("crop", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class SecondConfig(FirstConfig):
    """Settings of :func:`train_second`."""

    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the damage, drawn uniformly
    damage: Damage = field(default_factory=Damage)
    soften: float = 1.0  # px, largest blur of a damaged map: a network's maps are not black and white
    guessed: float = 0.5  # share of samples that start from a guess of Net1, if there are any
    applications: int = 2  # in a row; each enters the loss, so Net2 also learns from its own maps

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or not all(0 <= s <= 1 for s in self.strengths):
            raise ValueError(f"strengths must hold numbers in [0, 1], got {self.strengths}")
        if not self.soften >= 0:
            raise ValueError(f"soften must not be negative, got {self.soften}")
        if not 0 <= self.guessed <= 1:
            raise ValueError(f"guessed is a share and must lie in [0, 1], got {self.guessed}")
        if self.applications < 1:
            raise ValueError(f"applications must be at least 1, got {self.applications}")


def train_first(
    pairs: Sequence[Pair],
    config: FirstConfig | None = None,
    *,
    model: nn.Module | None = None,
    **options: Any,
) -> tuple[nn.Module, History]:
    """Train Net1 to draw boundaries from edges.

    Parameters
    ----------
    pairs : sequence of (channels, boundary)
        channels (C, H, W) float in [0, 1], as :func:`microlab.segment.edges.fused_edges` makes them, with or
        without the grey image as one more; boundary (H, W) bool. No side smaller than a crop.
    config : FirstConfig, optional
    model : Module, optional
        A network to start from, which stays as it is: one to fine-tune, or another kind for comparison. It
        maps (N, C, H, W) to (N, 1, H, W) logits. By default a new :class:`.EdgeNet`.
    **options
        ``folder``, ``validate``, ``device``, ``progress``, ``resume`` and ``callback`` of
        `microlab.training.fit.fit`.

    Returns
    -------
    model : Module
    history : History

    Raises
    ------
    ValueError
        If there is no pair, or one is too small, differs in size or is out of range.
    """
    config = config or FirstConfig()
    pairs = checked_pairs(pairs, config.crop)
    network = copy.deepcopy(model) if model is not None else EdgeNet(len(pairs[0][0]), seed=config.seed)
    history = fit(
        network,
        crop_batches(pairs, config),
        lambda net, batch: boundary_loss(net(batch[0]), batch[1]),
        FitConfig.of(config, clip=1.0),
        **options,
    )
    return network, history


def train_second(
    pairs: Sequence[Pair],
    config: SecondConfig | None = None,
    *,
    guesses: Sequence[np.ndarray] | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> tuple[nn.Module, History]:
    """Train Net2 to refine boundary maps.

    Parameters
    ----------
    pairs : sequence of (channels, boundary)
        As :func:`train_first`.
    config : SecondConfig, optional
    guesses : sequence of (H, W) float in [0, 1], optional
        Net1's map of each pair, on images that Net1 was not trained on: its errors are the ones to correct.
    model : Module, optional
        As :func:`train_first`, from (N, 1 + C, H, W), the map first. By default a new :class:`.RefineNet`.
    **options
        As :func:`train_first`.

    Returns
    -------
    model : Module
    history : History

    Raises
    ------
    ValueError
        As :func:`train_first`, and if the guesses do not fit the pairs.
    """
    config = config or SecondConfig()
    batches = refinement_batches(pairs, config, guesses)
    channels = len(pairs[0][0])
    network = copy.deepcopy(model) if model is not None else RefineNet(1 + channels, seed=config.seed)
    history = fit(
        network,
        batches,
        lambda net, batch: refinement_loss(net, *batch, config.applications),
        FitConfig.of(config, clip=1.0),
        **options,
    )
    return network, history


def refinement_batches(
    pairs: Sequence[Pair], config: SecondConfig, guesses: Sequence[np.ndarray] | None = None
) -> Callable[[int], Pair]:
    """Training data of a network that refines maps: the batch of each step, for `microlab.training.fit.fit`.

    Parameters
    ----------
    pairs, config, guesses
        As :func:`train_second`.

    Returns
    -------
    callable
        ``batches(step)`` is (N, 1 + C, H, W) float, the damaged map first, and (N, 1, H, W) float of 0 and 1.

    Raises
    ------
    ValueError
        As :func:`train_second`.
    """
    pairs = checked_pairs(pairs, config.crop)
    if guesses is not None:
        if len(guesses) != len(pairs):
            raise ValueError(f"guesses must hold one map for each pair: {len(guesses)} for {len(pairs)}")
        guesses = [
            check_map(guess, target.shape, f"guesses[{k}]")
            for k, (guess, (_, target)) in enumerate(zip(guesses, pairs, strict=True))
        ]

    def batches(step: int) -> Pair:
        rng = np.random.default_rng([config.seed, step, 1])  # not the numbers that chose the crops
        samples = []
        for channels, target, guess in _crops(pairs, guesses, config, step):
            if guess is None or rng.random() >= config.guessed:
                guess = corrupt(target, rng.choice(config.strengths), damage=config.damage, seed=rng)
                guess = ndimage.gaussian_filter(guess.astype(np.float32), rng.uniform(0, config.soften))
            samples.append((np.concatenate([guess[None], channels]), target))
        return _stacked(samples)

    return batches


def refinement_loss(network: nn.Module, x: Tensor, target: Tensor, applications: int) -> Tensor:
    """Mean :func:`~microlab.segment.unet.boundary_loss` over applications in a row.

    Each application starts from the result of the one before, which counts as given: no gradient flows back
    through it.

    Parameters
    ----------
    network : callable
        As :class:`.RefineNet`.
    x : (N, 1 + C, H, W) float
        The damaged map and the image's channels.
    target : (N, 1, H, W) float of 0 and 1
    applications : int >= 1
    """
    current, channels = x[:, :1], x[:, 1:]
    losses = []
    for _ in range(applications):
        logits = network(torch.cat([current, channels], dim=1)).float()
        losses.append(boundary_loss(logits, target))
        current = torch.sigmoid(logits.detach())
    return torch.stack(losses).mean()


def crop_batches(pairs: list[Pair], config: FirstConfig) -> Callable[[int], Pair]:
    """Random crops for `fit`: channels (N, C, crop, crop) and boundary (N, 1, crop, crop), float32."""

    def batches(step: int) -> Pair:
        return _stacked([(channels, boundary) for channels, boundary, _ in _crops(pairs, None, config, step)])

    return batches


def checked_pairs(pairs: Sequence[Pair], crop: int) -> list[Pair]:
    """The pairs, or a ValueError if there is none, one is too small, differs in size or is out of range."""
    if len(pairs) == 0:
        raise ValueError("pairs must hold at least one (channels, boundary), got none")
    checked = []
    for k, (channels, target) in enumerate(pairs):
        channels, target = check_channels(channels, f"pairs[{k}]: channels"), np.asarray(target)
        if target.dtype != bool or target.shape != channels.shape[1:]:
            raise ValueError(
                f"pairs[{k}]: boundary must be bool of shape {channels.shape[1:]} as its channels, "
                f"got {target.dtype} of shape {target.shape}"
            )
        if min(target.shape) < crop:
            raise ValueError(f"pairs[{k}]: {target.shape} is smaller than a crop of {crop} px")
        if checked and len(channels) != len(checked[0][0]):
            raise ValueError(f"pairs[{k}] has {len(channels)} channels, pairs[0] has {len(checked[0][0])}")
        checked.append((channels, target))
    return checked


def _crops(
    pairs: list[Pair], guesses: Sequence[np.ndarray] | None, config: FirstConfig, step: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Channels, boundary and guess of a step's crops, each in one of eight orientations."""
    crops = random_crops([target for _, target in pairs], config.crop, config.batch, [config.seed, step])
    return [
        (crop(pairs[k][0]), crop(pairs[k][1]), crop(guesses[k]) if guesses else None) for k, crop in crops
    ]


def _stacked(samples: Sequence[Pair]) -> Pair:
    inputs, targets = zip(*samples, strict=True)
    return np.stack(inputs), np.stack(targets)[:, None].astype(np.float32)
