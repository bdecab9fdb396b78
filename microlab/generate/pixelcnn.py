"""PixelCNN, plain and gated: how likely is each code, given all codes before it? (chapter 11)

    p(k) = prod_i p(k_i | k_1, ..., k_(i-1)),     i runs along rows, from the top left

A masked convolution sees only what comes before. Here it is written as its two parts: a convolution over the
rows above, and one over the same row up to here; the masked half of the kernel is never stored or computed.

Stacked as in the plain network (van den Oord, Kalchbrenner and Kavukcuoglu, ICML 2016, arXiv:1601.06759),
which paper B uses, such convolutions never reach a triangle above to the right: the blind spot. The gated
network (van den Oord et al., NeurIPS 2016, arXiv:1606.05328) keeps a stack of its own for the rows above.
"""

from __future__ import annotations

from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.data import weights


class Autoregressive(nn.Module):
    """What both networks share: a first causal convolution, blocks, a head, and their inputs.

    The probability of a map is eq. 2 of chapter 11 (dual-chain).

    `PixelCNN` and `GatedPixelCNN` say how the rows above enter (`above`, `remember`), the rest is here and
    in `microlab.generate.sampling`.

    Parameters
    ----------
    codes : int >= 2
        K, number of codes.
    channels : int >= 2, even
        Channels of the layers.
    layers : int >= 1
        Blocks after the first convolution.
    kernel, first_kernel : odd int >= 3
        Sides of the kernels of the blocks and of the first convolution.
    condition : int >= 0
        Length D of the vector that steers the network, phase fractions for example; 0 for none.
    seed : int
        Seed of the initial weights; the global generator of torch is left as it was.

    Raises
    ------
    ValueError
        If a size is too small, `channels` is odd or a kernel is even.
    """

    memory_format = torch.channels_last  # a training step is 7 to 12 % shorter on a CPU (measured)

    def __init__(
        self,
        codes: int = 10,
        channels: int = 64,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        condition: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("codes", codes, 2), ("layers", layers, 1), ("condition", condition, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be even and at least 2, got {channels}")
        for name, value in (("kernel", kernel), ("first_kernel", first_kernel)):
            if value < 3 or value % 2 == 0:
                raise ValueError(f"{name} must be odd and at least 3, got {value}")
        self.architecture = {
            "codes": codes,
            "channels": channels,
            "layers": layers,
            "kernel": kernel,
            "first_kernel": first_kernel,
            "condition": condition,
        }
        self.codes, self.condition = codes, condition
        self.pad, self.first_pad = kernel // 2, first_kernel // 2  # p and q below
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Type A: rows i-q..i-1 in full, and of row i the q codes to the left.
            self.first_above = nn.Conv2d(codes, channels, (self.first_pad, first_kernel))
            self.first_row = nn.Conv2d(codes, channels, (1, self.first_pad), bias=False)
            self.blocks = nn.ModuleList(self.block(channels, kernel, condition) for _ in range(layers))
            self.head = nn.Sequential(
                nn.ReLU(), Pointwise(channels, channels), nn.ReLU(), Pointwise(channels, codes)
            )

    @property
    def reach(self) -> int:
        """Rows up, and columns to either side, that the kernels could span, q + layers p."""
        return self.first_pad + len(self.blocks) * self.pad

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits of every code, given those before it.

        Parameters
        ----------
        codes : (N, H, W) int64 in 0..K-1
        condition : (N, D) float, or (D,) for all alike; None without conditioning

        Returns
        -------
        (N, K, H, W) float logits. Those at (r, s) depend on rows above r and, in row r, on columns before s.

        Raises
        ------
        ValueError
            If codes are out of range or `condition` has another length.
        """
        if codes.ndim != 3 or codes.numel() == 0:
            raise ValueError(f"codes must be (N, H, W) and not empty, got shape {tuple(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.codes:
            raise ValueError(
                f"codes must lie in 0..{self.codes - 1}, got {int(codes.min())} to {int(codes.max())}"
            )
        x = F.one_hot(codes, self.codes).permute(0, 3, 1, 2).to(self.first_row.weight.dtype)
        return self.from_one_hot(x, self.checked_condition(condition, len(codes)))

    def checked_condition(self, condition: Tensor | None, n: int) -> Tensor | None:
        """`condition` as (n, D), or a ValueError."""
        if condition is None and self.condition == 0:
            return None
        shape = None if condition is None else tuple(condition.shape)
        if shape not in ((self.condition,), (n, self.condition)) or self.condition == 0:
            wanted = f"({n}, {self.condition}) or ({self.condition},)" if self.condition else "None"
            raise ValueError(f"condition must be {wanted} for this network, got {shape or condition}")
        if not torch.isfinite(condition).all():
            raise ValueError("condition holds values that are not finite")
        return condition.to(self.first_row.weight.dtype).expand(n, -1)

    def memory(self, n: int, width: int) -> list[Tensor]:
        """Rows above the first one, all zeros: of the codes (q rows) and of every block (p rows)."""
        like = self.first_row.weight
        seen = [block.above.in_channels for block in self.blocks]
        return [
            like.new_zeros(n, self.codes, self.first_pad, width),
            *(like.new_zeros(n, channels, self.pad, width) for channels in seen),
        ]

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> Autoregressive:
        """A trained network by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


class Pointwise(nn.Conv2d):
    """1 x 1 convolution of a map (N, C, H, W), or of a single position (N, C)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.ndim == 4 else F.linear(x, self.weight.flatten(1), self.bias)


class ResidualBlock(nn.Module):
    """Bottleneck with a type-B convolution: h + W2 ReLU(conv(u) + V c), u = ReLU(W1 ReLU(h))."""

    def __init__(self, channels: int, kernel: int, condition: int) -> None:
        super().__init__()
        inner, pad = channels // 2, kernel // 2
        self.narrow, self.widen = Pointwise(channels, inner), Pointwise(inner, channels)
        self.above = nn.Conv2d(inner, inner, (pad, kernel))  # rows i-p..i-1
        self.row = nn.Conv2d(inner, inner, (1, pad + 1), bias=False)  # of row i, columns j-p..j
        self.steer = nn.Linear(condition, inner, bias=False) if condition else None

    def enter(self, h: Tensor) -> Tensor:
        return F.relu(self.narrow(F.relu(h)))

    def leave(self, h: Tensor, t: Tensor) -> Tensor:
        return h + self.widen(F.relu(t))


class PixelCNN(Autoregressive):
    """The plain network, with the blind spot. Parameters as in `Autoregressive`."""

    block = ResidualBlock

    def from_one_hot(self, x: Tensor, condition: Tensor | None) -> Tensor:
        q, p = self.first_pad, self.pad
        h = self.first_above(F.pad(x, (q, q, q, -1))) + self.first_row(F.pad(x, (q, -1)))
        for block in self.blocks:
            u = block.enter(h)
            t = block.above(F.pad(u, (p, p, p, -1))) + block.row(F.pad(u, (p, 0)))
            h = block.leave(h, _steered(t, block.steer, condition))
        return self.head(h)

    def above(self, memory: list[Tensor], condition: Tensor | None) -> list[Tensor]:
        """What the first layer and every block take from the rows above the next one, (N, C, 1, W) each."""
        q, p = self.first_pad, self.pad
        return [self.first_above(F.pad(memory[0], (q, q)))] + [
            _steered(block.above(F.pad(rows, (p, p))), block.steer, condition)
            for block, rows in zip(self.blocks, memory[1:], strict=True)
        ]

    def remember(self, memory: list[Tensor], rows: list[Tensor]) -> None:
        """A row is complete: its codes, and what entered each block, (N, C, 1, W), are above the next one."""
        memory[:] = [_pushed(past, row) for past, row in zip(memory, rows, strict=True)]


class GatedBlock(nn.Module):
    """Gates for a vertical stack, which sees rows above only, and for a horizontal one that listens to it.

    y = tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c): eq. 4 of van den Oord et al., NeurIPS 2016.
    """

    def __init__(self, channels: int, kernel: int, condition: int) -> None:
        super().__init__()
        pad = kernel // 2
        self.above = nn.Conv2d(channels, 2 * channels, (pad + 1, kernel))  # of the vertical stack
        self.across = Pointwise(2 * channels, 2 * channels)  # from the vertical to the horizontal stack
        self.row = nn.Conv2d(channels, 2 * channels, (1, pad + 1), bias=False)
        self.out = Pointwise(channels, channels)
        self.steer = nn.Linear(condition, 2 * channels, bias=False) if condition else None
        self.steer_above = nn.Linear(condition, 2 * channels, bias=False) if condition else None

    def enter(self, h: Tensor) -> Tensor:
        return h

    def leave(self, h: Tensor, t: Tensor) -> Tensor:
        return h + self.out(_gate(t))


class GatedPixelCNN(Autoregressive):
    """The gated network, without a blind spot. Parameters as in `Autoregressive`."""

    block = GatedBlock

    def from_one_hot(self, x: Tensor, condition: Tensor | None) -> Tensor:
        q, p = self.first_pad, self.pad
        memory = self.memory(len(x), x.shape[-1])
        memory[0] = torch.cat([memory[0], x[:, :, :-1]], 2)  # row i sees the rows before it
        first, *above = self.above(memory, condition)
        h = first + self.first_row(F.pad(x, (q, -1)))
        for block, t in zip(self.blocks, above, strict=True):
            h = block.leave(h, t + block.row(F.pad(block.enter(h), (p, 0))))
        return self.head(h)

    def above(self, memory: list[Tensor], condition: Tensor | None) -> list[Tensor]:
        """The vertical stack, over one row or all: what each layer takes from above, (N, C, rows, W) each.

        The blocks' memories are brought up to date on the way.
        """
        q, p = self.first_pad, self.pad
        v = self.first_above(F.pad(memory[0], (q, q)))
        taken = [v]
        for index, block in enumerate(self.blocks, start=1):
            rows = torch.cat([memory[index], v], 2)
            memory[index] = rows[:, :, -p:]
            t = block.above(F.pad(rows, (p, p)))
            taken.append(_steered(block.across(t), block.steer, condition))
            v = _gate(_steered(t, block.steer_above, condition))
        return taken

    def remember(self, memory: list[Tensor], rows: list[Tensor]) -> None:
        """A row is complete: its codes, ``rows[0]`` (N, K, 1, W), are above the next one."""
        memory[0] = _pushed(memory[0], rows[0])


NETWORKS: dict[str, type[Autoregressive]] = {"plain": PixelCNN, "gated": GatedPixelCNN}


def _gate(t: Tensor) -> Tensor:
    a, b = t.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def _steered(t: Tensor, steer: nn.Linear | None, condition: Tensor | None) -> Tensor:
    return t if steer is None else t + steer(condition)[:, :, None, None]


def _pushed(past: Tensor, row: Tensor) -> Tensor:
    """The last rows, with a new one below and the oldest dropped."""
    return torch.cat([past, row], 2)[:, :, 1:]
