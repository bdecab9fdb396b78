"""The networks that turn fused edges into boundary maps and mend those maps (chapter 14).

    Net1: edges -> map,    Net2: map, edges -> better map

Paper C (arXiv:2504.14782) gives the roles of its two networks: Net1 an encoder-decoder with a bridge and
extra depth, Net2 a smaller one that is applied again and again. The layers here are ours, of about the size
of the networks that the paper released (0.3 million and 20 thousand weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.data import weights
from microlab.segment.unet import pad_reflect


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
