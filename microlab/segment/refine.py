"""From fused edges to closed boundaries: a first map, refined by a second network until it has converged.

    x_0 = Net1(edges),    x_{k+1} = Net2(x_k, edges)    until    mean |x_{k+1} - x_k| < 0.003

Paper C (arXiv:2504.14782) gives the roles of its two networks: Net1 an encoder-decoder with a bridge and
extra depth, Net2 a smaller one that is applied again and again. The layers here are ours, of about the size
of the networks that the paper released (0.3 million and 20 thousand weights). They are trained in
`microlab.segment.refine_training`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import disk
from torch import Tensor, nn
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.measure.labels import components
from microlab.segment.unet import pad_reflect, predict


class EncoderDecoder(nn.Module):
    """Encoder-decoder with a skip connection at every level and, at the bottom, a bridge.

    Parameters
    ----------
    in_channels : int >= 1
    widths : sequence of int >= 1
        Channels of each level, counted from the top. Every level halves height and width.
    bridge : sequence of int >= 1
        One residual 3 x 3 convolution at the bottom for each number, which is its dilation. They add depth,
        and they let a pixel see far along a line.
    seed : int
        Seed of the initial weights; the global generator of torch is left as it was.
    """

    memory_format = torch.channels_last  # see microlab.segment.unet.UNet

    def __init__(self, in_channels: int, widths: Sequence[int], bridge: Sequence[int], seed: int) -> None:
        super().__init__()
        widths, bridge = [int(w) for w in widths], [int(d) for d in bridge]
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must hold numbers of at least 1, got {widths}")
        if bridge and min(bridge) < 1:
            raise ValueError(f"bridge must hold dilations of at least 1, got {bridge}")
        # What a card needs to build the same network again (microlab.data.weights).
        self.architecture = {"in_channels": in_channels, "widths": widths, "bridge": bridge}
        self.in_channels = in_channels
        above, below = widths[:-1][::-1], widths[1:][::-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(
                nn.Sequential(_layer(before, after), _layer(after, after))
                for before, after in zip([in_channels, *widths], widths, strict=False)
            )
            self.bridge = nn.ModuleList(_layer(widths[-1], widths[-1], dilation) for dilation in bridge)
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(above, below, strict=True)
            )
            self.merge = nn.ModuleList(nn.Sequential(_layer(2 * a, a), _layer(a, a)) for a in above)
            self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the boundary, (N, 1, H, W), of (N, in_channels, H, W) float; any H, W >= 1."""
        if x.shape[1] != self.in_channels:
            raise ValueError(f"the network takes {self.in_channels} channels, got {x.shape[1]}")
        height, width = x.shape[-2:]
        cell = 2 ** (len(self.down) - 1)  # pixels that become one at the bottom
        x = pad_reflect(x, cell, least=2 * cell)  # one pixel alone cannot be normalised
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)  # (N, widths[level], H / 2^level, W / 2^level)
            skips.append(x)
        x = skips.pop()
        for block in self.bridge:
            x = x + block(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)[..., :height, :width]


def _layer(before: int, after: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class EdgeNet(EncoderDecoder):
    """Net1: fused edges to the logits of a first boundary map. About 0.3 million weights.

    Parameters
    ----------
    in_channels : int >= 1
        3 for the edges of :func:`microlab.segment.edges.fused_edges`, 4 with the grey image behind them.
    widths, bridge, seed
        As :class:`EncoderDecoder`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        bridge: Sequence[int] = (1, 2, 4, 2, 1),
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, widths, bridge, seed)

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> EdgeNet:
        """A trained network by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


class RefineNet(EncoderDecoder):
    """Net2: a boundary map and the edges to the logits of a better map. About 20 thousand weights, no bridge.

    Parameters
    ----------
    in_channels : int >= 2
        The map, which comes first, and the channels that Net1 saw: 4 for three edges.
    widths, bridge, seed
        As :class:`EncoderDecoder`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        widths: Sequence[int] = (8, 14, 22),
        bridge: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, widths, bridge, seed)

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> RefineNet:
        """A trained network by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


class NotConverged(UserWarning):
    """The refinement was stopped at its cap before its map had converged."""


def first_guess(
    net1: nn.Module, channels: np.ndarray, *, device: str | torch.device | None = None
) -> np.ndarray:
    """The boundary map that Net1 makes of the edges.

    Parameters
    ----------
    net1 : Module
        :class:`.EdgeNet`, or any network from (N, C, H, W) to (N, 1, H, W) logits.
    channels : (C, H, W) float in [0, 1]
    device
        Default: `microlab.training.devices.pick_device`.

    Returns
    -------
    (H, W) float32, probability of a boundary.
    """
    channels = check_channels(channels)
    return predict(net1, np.moveaxis(channels, 0, -1), device=device, precision="float32")


@dataclass(frozen=True)
class Refinement:
    """What :func:`refine` did."""

    maps: np.ndarray  # (iterations + 1, H, W) float32: the first guess and every map after it
    changes: np.ndarray  # (iterations,) float: mean absolute change of each step, a share of the range
    converged: bool  # the last change is below the tolerance

    @property
    def iterations(self) -> int:
        """Applications of Net2."""
        return len(self.changes)

    @property
    def result(self) -> np.ndarray:
        """The last map, (H, W) float32 in [0, 1]."""
        return self.maps[-1]


def refine(
    net2: nn.Module,
    first: np.ndarray,
    channels: np.ndarray,
    *,
    tolerance: float = 0.003,
    max_iterations: int = 50,
    keep: bool = True,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Refinement:
    """Apply Net2 to its own result until the map has converged.

    The iteration is eq. 2 of chapter 14 (closed-iterate).

    Parameters
    ----------
    net2 : Module
        :class:`.RefineNet`, or any network from (N, 1 + C, H, W), the map first, to (N, 1, H, W) logits.
    first : (H, W) float in [0, 1]
        First boundary map, as :func:`first_guess` makes it.
    channels : (C, H, W) float in [0, 1]
        What Net1 saw of the image.
    tolerance : float > 0
        It stops when the mean absolute change of a step, as a share of the range of a map (which is 1), is
        smaller. 0.003 is the paper's.
    max_iterations : int >= 1
        The cap. The paper counts 7 to 28 iterations.
    keep : bool
        Keep every map. False keeps the first and the last, for large images.
    device
        Default: `microlab.training.devices.pick_device`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Refinement

    Raises
    ------
    ValueError
        If a shape, a range or a setting is wrong.

    Warns
    -----
    NotConverged
        If the cap is reached before the map has converged.
    """
    channels = check_channels(channels)
    current = check_map(first, channels.shape[1:], "first")
    if not tolerance > 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    if max_iterations < 1:
        raise InputError(f"max_iterations must be at least 1, got {max_iterations}")
    maps, changes = [current], []
    bar = tqdm(total=max_iterations, unit="iteration", desc="refine", disable=not progress)
    with bar:
        while len(changes) < max_iterations:
            stack = np.moveaxis(np.concatenate([current[None], channels]), 0, -1)
            # In half precision rounding alone would change a map by about the tolerance.
            after = predict(net2, stack, device=device, precision="float32")
            changes.append(float(np.abs(after - current).mean(dtype=np.float64)))
            current = after
            maps = [*maps, current] if keep else [maps[0], current]
            bar.update()
            if changes[-1] < tolerance:
                return Refinement(np.stack(maps), np.array(changes), True)
    warnings.warn(
        f"refine reached its cap of {max_iterations} iterations: the last mean change was "
        f"{changes[-1]:.4f}, the tolerance is {tolerance}",
        NotConverged,
        stacklevel=2,
    )
    return Refinement(np.stack(maps), np.array(changes), False)


def finish(
    probability: np.ndarray, *, threshold: float = 0.2, radius: int = 2, min_area: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Boundary mask and grains of a refined map: threshold, closing, filling.

    Closing with a disc bridges what the disc cannot slip through. A disc of radius 2 px bridges a gap of up
    to 4 px in a line 5 px wide and of up to 2 px in a line 3 px wide, and none in a line of one pixel: the
    low threshold, which leaves lines wide, is part of the method.

    The paper fills without saying what. Here it is holes in the boundary: places too small to be a grain,
    between lines that nearly touch.

    Parameters
    ----------
    probability : (H, W) float in [0, 1]
        Probability of a boundary.
    threshold : float in (0, 1)
        Boundary where ``probability >= threshold``.
    radius : int >= 0
        Radius, px, of the closing disc; 0 leaves closing out.
    min_area : int >= 0
        Regions of interior smaller than this, px, become boundary.

    Returns
    -------
    boundary : (H, W) bool
    grains : (H, W) int32
        Grains 1..n, connected through edges of pixels; 0 on boundaries.

    Raises
    ------
    ValueError
        If a shape, a range or a setting is wrong.
    """
    probability = check_map(probability, None, "probability")
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie in (0, 1), got {threshold}")
    if radius < 0 or min_area < 0:
        raise InputError(f"radius and min_area must not be negative, got {radius} and {min_area}")
    boundary = probability >= threshold
    if radius:
        # Lines that leave the image go on behind its edge, as their mirror image, where closing needs them.
        padded = np.pad(boundary, 2 * radius, mode="symmetric")
        inner = np.s_[2 * radius : -2 * radius]
        boundary = ndimage.binary_closing(padded, disk(radius))[inner, inner]
    regions = label(~boundary, connectivity=1)
    small = np.bincount(regions.ravel()) < min_area
    small[0] = True  # the boundary itself
    boundary = small[regions]
    return boundary, components(boundary)


def check_channels(channels: np.ndarray, name: str = "channels") -> np.ndarray:
    """Edge channels as (C, H, W) float32, or a ValueError that names them and says what is wrong."""
    channels = np.asarray(channels)
    if channels.ndim != 3 or channels.size == 0:
        raise ValueError(f"{name} must be (C, H, W) with at least one pixel, got shape {channels.shape}")
    if channels.shape[2] in (3, 4) and channels.shape[0] > 4:
        raise ValueError(f"{name} must be (C, H, W), channels first, got shape {channels.shape}")
    return _in_range(channels, name)


def check_map(values: np.ndarray, shape: tuple[int, ...] | None, name: str) -> np.ndarray:
    """A boundary map as (H, W) float32, or a ValueError that names it and says what is wrong."""
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must be (H, W) with at least one pixel, got shape {values.shape}")
    if shape is not None and values.shape != tuple(shape):
        raise ValueError(f"{name} {values.shape} and the image's channels {tuple(shape)} differ in size")
    return _in_range(values, name)


def _in_range(values: np.ndarray, name: str) -> np.ndarray:
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ValueError(f"{name} must hold finite values in [0, 1], its range is {low} to {high}")
    return values
