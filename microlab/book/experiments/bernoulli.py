"""Boundary maps by Bernoulli diffusion, given the edges.

    q(x_t = 1 | x_0) = a_t x_0 + (1 - a_t) / 2,     a_0 = 1,  a_T = 0

Every pixel of a map keeps its value with probability a_t and is otherwise resampled, 0 or 1 with probability
1/2. A network learns p(x_0 | x_t, edges); the reverse steps turn random bits, or a noised first guess, into a
map. Sohl-Dickstein et al., ICML 2015 (arXiv:1503.03585); with the network in place of x_0
inside the posterior: Hoogeboom et al., NeurIPS 2021 (arXiv:2102.05379) and Austin et al., NeurIPS 2021
(arXiv:2107.03006). For masks of medical images: Chen et al., MICCAI 2023 (arXiv:2304.04429).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.segment.refine import EncoderDecoder, check_channels, check_map
from microlab.segment.refine_training import FirstConfig, Pair, checked_pairs, crop_batches
from microlab.training.devices import pick_device
from microlab.training.fit import FitConfig, History, fit


def kept_shares(steps: int) -> Tensor:
    """a_t for t = 0..steps, the share of pixels not yet resampled: 1 at t = 0, exactly 0 at the end.

    The cosine schedule of Nichol and Dhariwal, ICML 2021 (arXiv:2102.09672), without its offset.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    shares = torch.cos(torch.linspace(0, math.pi / 2, steps + 1, dtype=torch.float64)).square()
    shares[-1] = 0.0  # not the 4e-33 of a rounded pi
    return shares


def noised_mean(x0: Tensor, kept: Tensor | float) -> Tensor:
    """Probability that a pixel of x_t is 1.

    It is eq. 3 of chapter 14 (closed-bernoulli).

    Parameters
    ----------
    x0 : float tensor in [0, 1]
        Pixels, or probabilities of them.
    kept : float or tensor in [0, 1]
        a_t. At 0 the answer is 1/2 everywhere.
    """
    return kept * x0 + (1 - kept) / 2


def posterior_mean(x_t: Tensor, x0: Tensor, kept_t: float, kept_s: float) -> Tensor:
    """Probability that a pixel of x_s is 1, given x_t and what is known of x_0, for s before t.

    By Bayes' rule ``q(x_s | x_t, x_0) ~ q(x_t | x_s) q(x_s | x_0)``, averaged over x_0.

    Parameters
    ----------
    x_t : float tensor of 0 and 1
    x0 : float tensor in [0, 1]
        Probability that x_0 is 1 (given x_t); 0 or 1 where it is known.
    kept_t, kept_s : float
        a_t and a_s, ``0 <= a_t <= a_s``, a_s > 0.

    Returns
    -------
    Tensor shaped as `x_t`.
    """
    between = kept_t / kept_s  # share kept from s to t
    ones = noised_mean(torch.ones_like(x_t), between)  # q(x_t = 1 | x_s = 1)
    from_one = torch.where(x_t > 0.5, ones, 1 - ones)  # q(x_t | x_s = 1)
    from_zero = 1 - from_one  # by symmetry: q(x_t | x_s = 0) = q(1 - x_t | x_s = 1)
    total = torch.zeros_like(x_t)
    for value, probability in ((0.0, 1 - x0), (1.0, x0)):
        prior = noised_mean(torch.full_like(x_t, value), kept_s)  # q(x_s = 1 | x_0 = value)
        both = from_one * prior + from_zero * (1 - prior)
        # `both` is 0 only for an x_t that this x_0 cannot give; that x_0 has no weight then.
        total += probability * from_one * prior / both.clamp_min(torch.finfo(both.dtype).tiny)
    return total


def ancestral(
    denoise: Callable[[Tensor, int], Tensor],
    x: Tensor,
    times: Sequence[int],
    kept: Tensor,
    uniform: Callable[[], Tensor],
) -> Tensor:
    """Reverse process: from x at ``times[0]`` to the probabilities of x_0.

    Parameters
    ----------
    denoise : callable
        ``denoise(x_t, t)``: probability that each pixel of x_0 is 1.
    x : float tensor of 0 and 1
    times : sequence of int
        Falling, all at least 1. Few of them make large steps; each is exact for pixels that are independent
        given x_t.
    kept : (T + 1,) tensor
        As :func:`kept_shares`.
    uniform : callable
        ``uniform()``: random numbers in [0, 1), shaped as `x`.

    Returns
    -------
    Tensor shaped as `x`: p(x_0 = 1 | x_t) at the last of the times. Its mean over many draws is the mean of
    the samples of x_0, with less noise.
    """
    for t, s in pairwise(times):
        mean = posterior_mean(x, denoise(x, t), float(kept[t]), float(kept[s]))
        x = (uniform() < mean).to(x.dtype)
    return denoise(x, times[-1])


class BernoulliNet(nn.Module):
    """p(x_0 | x_t, edges) as a network of the size of Net2.

    Parameters
    ----------
    channels : int >= 1
        Channels of the image: 3 for fused edges, 4 with the grey image.
    steps : int >= 1
        Diffusion steps T.
    widths, bridge, seed
        As :class:`microlab.segment.refine.RefineNet`.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        channels: int = 3,
        steps: int = 20,
        widths: Sequence[int] = (8, 14, 22),
        bridge: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.kept = kept_shares(steps)
        self.channels, self.steps = channels, steps
        self.network = EncoderDecoder(2 + channels, widths, bridge, seed)
        # Constructor arguments for the weights' card (microlab.data.weights).
        sizes = self.network.architecture
        self.architecture = {
            "channels": channels,
            "steps": steps,
            "widths": sizes["widths"],
            "bridge": sizes["bridge"],
        }

    def forward(self, x: Tensor, channels: Tensor, t: Tensor) -> Tensor:
        """Logits of x_0.

        Parameters
        ----------
        x : (N, 1, H, W) float of 0 and 1
        channels : (N, C, H, W) float
        t : (N,) int in 0..steps

        Returns
        -------
        (N, 1, H, W) float
        """
        kept = self.kept.to(t.device)[t].to(channels.dtype).view(-1, 1, 1, 1)
        return self.network(
            torch.cat([x, channels, kept.expand_as(x)], dim=1)
        )  # the time as one more channel

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> BernoulliNet:
        """A trained network by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


def bernoulli_loss(network: nn.Module, kept: Tensor, target: Tensor, channels: Tensor) -> Tensor:
    """Cross-entropy of the predicted x_0 at random times, the training loss.

    Cross-entropy alone, without the Dice term of the other networks: it is smallest at the true
    probabilities, which the posterior needs.

    Parameters
    ----------
    network : callable
        ``network(x_t, channels, t)`` as :class:`BernoulliNet`.
    kept : (T + 1,) tensor
        As :func:`kept_shares`.
    target : (N, 1, H, W) float of 0 and 1
    channels : (N, C, H, W) float

    Returns
    -------
    Scalar tensor, nats per pixel.
    """
    t = torch.randint(1, len(kept), (len(target),), device=target.device)
    mean = noised_mean(target, kept.to(target.device)[t].to(target.dtype).view(-1, 1, 1, 1))
    return F.binary_cross_entropy_with_logits(network(torch.bernoulli(mean), channels, t).float(), target)


def draw(
    model: BernoulliNet,
    channels: np.ndarray,
    *,
    draws: int = 8,
    steps: int | None = None,
    first: np.ndarray | None = None,
    start: float = 0.5,
    seed: int | np.random.Generator = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Sample boundary maps of one image.

    Parameters
    ----------
    model : BernoulliNet
        Trained.
    channels : (C, H, W) float in [0, 1]
    draws : int >= 1
        Number of maps. Their mean estimates the probability of a boundary, their spread its uncertainty.
    steps : int >= 1, optional
        Reverse steps, evenly spread over the model's; by default all of them.
    first : (H, W) float in [0, 1], optional
        A first guess, as Net1's, to start from; by default from random bits.
    start : float in (0, 1]
        With `first`: the time, as a share of the steps, to which the guess is noised; 1 is pure noise.
    seed : int or Generator
        A draw depends on it and on its place among the draws.
    device, progress
        As in `microlab.training.fit.fit`.

    Returns
    -------
    (draws, H, W) float32 in [0, 1]
        Of each draw the probability of a boundary at its last step.

    Raises
    ------
    ValueError
        If a shape, a range or a setting is wrong.
    """
    channels = check_channels(channels)
    if len(channels) != model.channels:
        raise ValueError(
            f"channels must be {model.channels}, as the model was trained on, got {len(channels)}"
        )
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not 0 < start <= 1:
        raise ValueError(f"start must lie in (0, 1], got {start}")
    begin = model.steps if first is None else max(round(start * model.steps), 1)
    steps = begin if steps is None else steps
    if not 1 <= steps <= begin:
        raise ValueError(f"steps must lie in [1, {begin}], the time to start from, got {steps}")
    place, shape = pick_device(device), (1, 1, *channels.shape[1:])
    guess = np.full(shape[2:], 0.5) if first is None else check_map(first, shape[2:], "first")
    mean = noised_mean(torch.as_tensor(guess, dtype=torch.float32).view(shape), float(model.kept[begin]))
    edges = torch.as_tensor(channels, device=place)[None]
    times = [round(begin * k / steps) for k in range(steps, 0, -1)]
    maps = np.empty((draws, *shape[2:]), np.float32)
    training = model.training
    model.to(place, memory_format=model.memory_format).eval()
    bar = tqdm(total=draws * steps, unit="step", desc="draw", disable=not progress)
    with bar, torch.inference_mode():
        for k, rng in enumerate(np.random.default_rng(seed).spawn(draws)):

            def uniform() -> Tensor:
                return torch.as_tensor(rng.random(shape, np.float32), device=place)  # noqa: B023

            def denoise(x: Tensor, t: int) -> Tensor:
                bar.update()
                return torch.sigmoid(model(x, edges, torch.full((1,), t, device=place)))

            x = (uniform() < mean.to(place)).float()
            maps[k] = ancestral(denoise, x, times, model.kept, uniform)[0, 0].cpu().numpy()
    model.train(training)
    return maps


@dataclass(frozen=True)
class BernoulliConfig(FirstConfig):
    """Settings of :func:`train_bernoulli`."""

    diffusion_steps: int = 20


def train_bernoulli(
    pairs: Sequence[Pair], config: BernoulliConfig | None = None, **options: Any
) -> tuple[BernoulliNet, History]:
    """Train the Bernoulli diffusion on the crops that Net1 and Net2 see.

    Parameters
    ----------
    pairs, **options
        As `microlab.segment.refine_training.train_first`.
    config : BernoulliConfig, optional

    Returns
    -------
    model : BernoulliNet
    history : History

    Raises
    ------
    ValueError
        As `microlab.segment.refine_training.train_first`.
    """
    config = config or BernoulliConfig()
    pairs = checked_pairs(pairs, config.crop)
    model = BernoulliNet(len(pairs[0][0]), config.diffusion_steps, seed=config.seed)
    kept = model.kept

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return bernoulli_loss(network, kept, batch[1], batch[0])

    return model, fit(model, crop_batches(pairs, config), loss, FitConfig.of(config, clip=1.0), **options)
