"""PixelCNN, plain and gated: the probability of each code, given all codes before it.

    p(k) = prod_i p(k_i | k_1, ..., k_(i-1)),     i runs along rows, from the top left
    bits per code = -mean_i log2 p(k_i | k_1, ..., k_(i-1))

A masked convolution sees only what comes before. Here it is written as its two parts: a convolution over the
rows above, and one over the same row up to here; the masked half of the kernel is never stored or computed.

Stacked as in the plain network (van den Oord, Kalchbrenner and Kavukcuoglu, ICML 2016, arXiv:1601.06759),
which paper B uses, such convolutions never reach a triangle above to the right: the blind spot. The gated
network (van den Oord et al., NeurIPS 2016, arXiv:1606.05328) keeps a separate stack for the rows above.

The bits per code of unseen maps are never below the entropy rate, and below the entropy of the single codes
as soon as the network has learnt anything about their arrangement.
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

from microlab.training.crops import random_crops
from microlab.training.fit import FitConfig, History, fit


class Autoregressive(nn.Module):
    """What both networks share: a first causal convolution, blocks and a head.

    The probability of a map is eq. 2 of chapter 11 (dual-chain). `PixelCNN` and `GatedPixelCNN` define how
    the rows above enter (`above`, `remember`); `microlab.generate.sampling` draws maps from both.

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
        Length D of the vector that conditions the network, class fractions for example; 0 for none.
    seed : int
        Of the initial weights.

    Raises
    ------
    ValueError
        If a size is too small, `channels` is odd or a kernel is even.
    """

    memory_format = torch.channels_last  # a training step is 7 to 12 % shorter on a CPU (measured)

    def __init__(
        self,
        *,
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
        """How many rows up and columns to either side the kernels span, q + layers p."""
        return self.first_pad + len(self.blocks) * self.pad

    def forward(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits of every code, given those before it.

        Parameters
        ----------
        codes : (N, H, W) int64 in 0..K-1
        condition : (N, D) float, or (D,) for all; None without conditioning

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
            expected = f"({n}, {self.condition}) or ({self.condition},)" if self.condition else "None"
            raise ValueError(f"condition must be {expected} for this network, got {shape or condition}")
        if not torch.isfinite(condition).all():
            raise ValueError("condition holds values that are not finite")
        return condition.to(self.first_row.weight.dtype).expand(n, -1)

    def memory(self, n: int, width: int) -> list[Tensor]:
        """Rows above the first one, all zeros: of the codes (q rows) and of every block (p rows)."""
        like = self.first_row.weight
        inputs = [block.above.in_channels for block in self.blocks]
        return [
            like.new_zeros(n, self.codes, self.first_pad, width),
            *(like.new_zeros(n, channels, self.pad, width) for channels in inputs),
        ]


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
            h = block.leave(h, _conditioned(t, block.steer, condition))
        return self.head(h)

    def above(self, memory: list[Tensor], condition: Tensor | None) -> list[Tensor]:
        """What the first layer and every block take from the rows above the next one, (N, C, 1, W) each."""
        q, p = self.first_pad, self.pad
        return [self.first_above(F.pad(memory[0], (q, q)))] + [
            _conditioned(block.above(F.pad(rows, (p, p))), block.steer, condition)
            for block, rows in zip(self.blocks, memory[1:], strict=True)
        ]

    def remember(self, memory: list[Tensor], rows: list[Tensor]) -> None:
        """A row is complete: its codes, and what entered each block, (N, C, 1, W), are above the next one."""
        memory[:] = [_pushed(past, row) for past, row in zip(memory, rows, strict=True)]


class GatedBlock(nn.Module):
    """Gates for a vertical stack, which sees rows above only, and for a horizontal one that reads from it.

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
            taken.append(_conditioned(block.across(t), block.steer, condition))
            v = _gate(_conditioned(t, block.steer_above, condition))
        return taken

    def remember(self, memory: list[Tensor], rows: list[Tensor]) -> None:
        """A row is complete: its codes, ``rows[0]`` (N, K, 1, W), are above the next one."""
        memory[0] = _pushed(memory[0], rows[0])


NETWORKS: dict[str, type[Autoregressive]] = {"plain": PixelCNN, "gated": GatedPixelCNN}


def _gate(t: Tensor) -> Tensor:
    a, b = t.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


def _conditioned(t: Tensor, steer: nn.Linear | None, condition: Tensor | None) -> Tensor:
    return t if steer is None else t + steer(condition)[:, :, None, None]


def _pushed(past: Tensor, row: Tensor) -> Tensor:
    """The last rows, with a new one below and the oldest dropped."""
    return torch.cat([past, row], 2)[:, :, 1:]


Conditions = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PriorConfig(FitConfig):
    """Everything that determines a trained prior. The defaults take minutes on two CPU cores."""

    kind: str = "gated"  # or 'plain', as in paper B
    channels: int = 64
    layers: int = 8
    kernel: int = 3
    first_kernel: int = 7
    crop: int = 32  # codes along each side
    batch: int = 16
    augment: bool = False  # turn and flip the crops: only for codes that mean the same in every orientation
    steps: int = 600
    clip: float | None = 1.0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in NETWORKS:
            raise ValueError(f"kind must be one of {', '.join(NETWORKS)}, got {self.kind!r}")
        for name in ("crop", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def train_prior(
    codes: np.ndarray | Sequence[np.ndarray],
    config: PriorConfig | None = None,
    *,
    codes_in_book: int,
    conditions: Conditions | None = None,
    held_out: np.ndarray | Sequence[np.ndarray] | None = None,
    held_out_conditions: np.ndarray | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
) -> tuple[Autoregressive, History]:
    """Train a PixelCNN on random crops of code maps.

    A crop has nothing before its top and left rim, as at the corner of a map that is sampled.

    Parameters
    ----------
    codes : (M, H, W) int64, or sequence of (H, W) int64
        Maps of codes in 0..K-1, no side smaller than a crop.
    config : PriorConfig, optional
    codes_in_book : int
        K.
    conditions : (M, D) float, or callable, optional
        What conditions the network: a vector for each map, or ``conditions(crop)``, the vector (D,) of a crop
        (crop, crop) of codes.
    held_out : as `codes`, optional
        Maps that do not train. The weights kept are those that predict them best.
    held_out_conditions : (M', D) float, optional
        Of the held-out maps; not needed where `conditions` is a callable.
    folder, device, progress, resume
        As in `microlab.training.fit.fit`.

    Returns
    -------
    model : PixelCNN or GatedPixelCNN
    history : History
        Columns loss and, with `held_out`, validation_loss: bits per code.

    Raises
    ------
    ValueError
        If there is no map, one is smaller than a crop or holds codes out of range, or conditions do not fit.
    """
    config = config or PriorConfig()
    maps = _checked(codes, codes_in_book, config.crop, "codes")
    if conditions is not None and not callable(conditions):
        conditions = _checked_conditions(conditions, len(maps), "conditions")
    batches = _crops(maps, conditions, config)
    condition = batches(0).get("condition")
    model = NETWORKS[config.kind](
        codes=codes_in_book,
        channels=config.channels,
        layers=config.layers,
        kernel=config.kernel,
        first_kernel=config.first_kernel,
        condition=0 if condition is None else condition.shape[1],
        seed=config.seed,
    )
    validate = None
    if held_out is not None:
        held_out = _checked(held_out, codes_in_book, 1, "held_out")
        if callable(conditions):
            held_out_conditions = np.stack([conditions(one) for one in held_out])
        if (held_out_conditions is None) != (conditions is None):
            raise ValueError("conditions and held_out_conditions must be given both or neither")
        if held_out_conditions is not None:
            held_out_conditions = _checked_conditions(
                held_out_conditions, len(held_out), "held_out_conditions"
            )

        def validate(network: nn.Module) -> float:
            return held_out_bits(network, held_out, held_out_conditions)

    history = fit(
        model,
        batches,
        lambda network, batch: bits_per_code(network(batch["codes"], batch.get("condition")), batch["codes"]),
        config,
        folder=folder,
        validate=validate,
        progress=progress,
        device=device,
        resume=resume,
    )
    return model, history


def bits_per_code(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean of -log2 p over codes (N, H, W), from logits (N, K, H, W): eq. 3 of chapter 11 (dual-bits)."""
    return F.cross_entropy(logits.float(), codes) / math.log(2)


@torch.inference_mode()
def held_out_bits(
    model: Autoregressive,
    codes: np.ndarray | Sequence[np.ndarray],
    conditions: np.ndarray | None = None,
) -> float:
    """Bits per code of maps that did not train, on average over all codes.

    Parameters
    ----------
    model : PixelCNN or GatedPixelCNN
    codes : (M, H, W) int64, or sequence of (H, W) int64
    conditions : (M, D) float, optional

    Returns
    -------
    float, at least 0. The uniform distribution needs ``log2(K)``.

    Raises
    ------
    ValueError
        If there is no map, codes are out of range or conditions do not fit.
    """
    maps = _checked(codes, model.codes, 1, "codes")
    if conditions is not None:
        conditions = _checked_conditions(conditions, len(maps), "conditions")
    place = next(model.parameters()).device
    bits = 0.0
    for index, one in enumerate(maps):
        x = torch.from_numpy(one)[None].to(place)
        condition = None if conditions is None else torch.from_numpy(conditions[index]).to(place)
        bits += float(bits_per_code(model(x, condition), x)) * one.size
    return bits / sum(one.size for one in maps)


def unigram_entropy(codes: np.ndarray | Sequence[np.ndarray]) -> float:
    """Bits per code if only the frequency of each code is known."""
    counts = np.bincount(np.concatenate([np.ravel(one) for one in codes]))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _crops(
    maps: list[np.ndarray], conditions: Conditions | None, config: PriorConfig
) -> Callable[[int], dict[str, np.ndarray]]:
    """``batches(step)``: codes (N, crop, crop) int64 and, if conditioned, condition (N, D) float32."""
    places = np.array([(m.shape[0] - config.crop + 1) * (m.shape[1] - config.crop + 1) for m in maps])
    share = places / places.sum()  # crops are drawn uniformly from all places of all maps

    def batches(step: int) -> dict[str, np.ndarray]:
        seed, crops, vectors = [config.seed, step], [], []
        for index, crop in random_crops(
            maps, config.crop, config.batch, seed, shares=share, orient=config.augment
        ):
            crops.append(crop(maps[index]))
            if conditions is not None:
                vectors.append(conditions(crops[-1]) if callable(conditions) else conditions[index])
        if conditions is None:
            return {"codes": np.stack(crops)}
        condition = np.stack([np.atleast_1d(vector) for vector in vectors])
        return {
            "codes": np.stack(crops),
            "condition": _checked_conditions(condition, len(crops), "conditions"),
        }

    return batches


def _checked(
    codes: np.ndarray | Sequence[np.ndarray], codes_in_book: int, least: int, name: str
) -> list[np.ndarray]:
    maps = [np.asarray(one) for one in codes]
    if not maps:
        raise ValueError(f"{name} must hold at least one map, got none")
    for index, one in enumerate(maps):
        if one.ndim != 2 or one.dtype.kind not in "iu" or min(one.shape) < least:
            raise ValueError(
                f"{name}[{index}] must be a map (H, W) of integers with sides of at least {least}, "
                f"got {one.dtype} of shape {one.shape}"
            )
        if one.min() < 0 or one.max() >= codes_in_book:
            raise ValueError(
                f"{name}[{index}] must hold codes in 0..{codes_in_book - 1}, got {one.min()} to {one.max()}"
            )
    return [one.astype(np.int64) for one in maps]


def _checked_conditions(conditions: np.ndarray, n: int, name: str) -> np.ndarray:
    conditions = np.asarray(conditions, np.float32)
    if conditions.ndim != 2 or len(conditions) != n or conditions.shape[1] < 1:
        raise ValueError(f"{name} must be ({n}, D), one vector for each map, got shape {conditions.shape}")
    if not np.isfinite(conditions).all():
        raise ValueError(f"{name} holds values that are not finite")
    return conditions
