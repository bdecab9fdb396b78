"""Ancestral sampling of code maps from a PixelCNN, with cached activations.

    k_i = F^-1(u_i),     F the cumulative distribution of p(k_i | k_1, ..., k_(i-1)),     u_i uniform

The naive loop runs the network over the whole map for every code and uses one position of the result. Here
the contribution of the rows above to a layer is computed once per row, and within the row the last few inputs
of each layer are cached. Per code there remains one small product per layer (Ramachandran et al., 2017,
arXiv:1704.06001).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from microlab.data.errors import InputError
from microlab.data.parallel import torch_threads
from microlab.generate.pixelcnn import Autoregressive


def sample(
    model: Autoregressive,
    n: int,
    shape: tuple[int, int],
    *,
    condition: np.ndarray | Tensor | None = None,
    temperature: float = 1.0,
    batch: int = 16,
    seed: int | np.random.Generator = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Code maps drawn from a network by eq. 2 of chapter 11 (dual-chain), with cached activations.

    The uniform numbers of all maps are drawn first, so the same seed gives the same maps whatever the
    batch, and the first maps of a longer run are those of a shorter one. The one exception is a uniform
    number that lies within the rounding of a bound between two codes: there another batch, device or order
    of summation may choose the neighbouring code, and what follows differs too.

    Parameters
    ----------
    model : PixelCNN or GatedPixelCNN
    n : int >= 1
        Number of maps.
    shape : (int, int)
        Rows and columns; need not be those of training.
    condition : (n, D) or (D,) float, optional
        Condition of each map, or of all; required if the network is conditional.
    temperature : float > 0
        The logits are divided by it: below 1 likely codes become likelier.
    batch : int >= 1
        Maps sampled in parallel; larger batches are faster per map, especially on a GPU.
    seed : int or numpy.random.Generator
    device : str or torch.device, optional
        By default that of the model.
    progress : bool
        Show a progress bar over rows.

    Returns
    -------
    (n, H, W) int64 in 0..K-1

    Raises
    ------
    ValueError
        If a number is out of range or `condition` does not fit the network.
    """
    return _in_batches(_cached, model, n, shape, condition, temperature, batch, seed, device, progress)


def sample_naive(
    model: Autoregressive,
    n: int,
    shape: tuple[int, int],
    *,
    condition: np.ndarray | Tensor | None = None,
    temperature: float = 1.0,
    batch: int = 16,
    seed: int | np.random.Generator = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> np.ndarray:
    """The same maps as `sample`, by the naive loop: the whole network for every code.

    Parameters, returns and errors as in `sample`.
    """
    return _in_batches(_naive, model, n, shape, condition, temperature, batch, seed, device, progress)


def draw(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Codes (N,) int64 from logits (N, K) and uniform numbers (N,) in [0, 1).

    Code j is drawn where F(j-1) <= u < F(j), so codes of probability zero never are.
    """
    cumulative = torch.softmax(logits / temperature, 1).cumsum(1)
    # the last bound is one only up to rounding
    return (cumulative <= uniform[:, None]).sum(1).clamp(max=logits.shape[1] - 1)


def _naive(
    model: Autoregressive, uniform: Tensor, condition: Tensor | None, temperature: float, bar: tqdm
) -> Tensor:
    codes = torch.zeros(uniform.shape, dtype=torch.int64, device=uniform.device)
    _, height, width = uniform.shape
    for r in range(height):
        for s in range(width):
            logits = model(codes, condition)[:, :, r, s]
            codes[:, r, s] = draw(logits, uniform[:, r, s], temperature)
        bar.update()
    return codes


def _cached(
    model: Autoregressive, uniform: Tensor, condition: Tensor | None, temperature: float, bar: tqdm
) -> Tensor:
    n, height, width = uniform.shape
    k, q, p = model.codes, model.first_pad, model.pad
    first = _as_matrix(model.first_row)  # (q K, C)
    matrices = [_as_matrix(block.row) for block in model.blocks]  # ((p + 1) C, C')
    memory = model.memory(n, width)
    # Inputs of each layer along the current row, padded with zeros in front, so that the last inputs of a
    # layer are one slice. Line 0 holds the codes, one-hot.
    lines = [uniform.new_zeros(n, (q + width) * k)]
    lines += [uniform.new_zeros(n, (p + width) * block.row.in_channels) for block in model.blocks]
    codes = torch.empty(uniform.shape, dtype=torch.int64, device=uniform.device)
    for r in range(height):
        # Contribution of the rows above to each layer, at every position of this row: (W, n, C)
        from_above, *above = (
            taken[:, :, 0].permute(2, 0, 1).contiguous() for taken in model.above(memory, condition)
        )
        lines[0].zero_()
        for s in range(width):
            h = torch.addmm(from_above[s], lines[0][:, s * k : (s + q) * k], first)  # (n, C)
            for block, matrix, line, taken in zip(model.blocks, matrices, lines[1:], above, strict=True):
                c = block.row.in_channels
                line[:, (p + s) * c : (p + s + 1) * c] = block.enter(h)
                h = block.leave(h, torch.addmm(taken[s], line[:, s * c : (s + p + 1) * c], matrix))
            codes[:, r, s] = draw(model.head(h), uniform[:, r, s], temperature)
            lines[0].scatter_(1, codes[:, r, s, None] + (q + s) * k, 1)
        model.remember(memory, [_as_row(line, width, past.shape[1]) for line, past in zip(lines, memory)])
        bar.update()
    return codes


def _as_matrix(convolution: torch.nn.Conv2d) -> Tensor:
    """Weights (C', C, 1, taps) of a convolution along a row, as a matrix (taps C, C')."""
    return convolution.weight.permute(3, 1, 2, 0).flatten(0, 2).contiguous()


def _as_row(line: Tensor, width: int, channels: int) -> Tensor:
    """A complete line without its leading zeros, as a row (N, C, 1, W)."""
    return line[:, -width * channels :].reshape(len(line), width, channels).permute(0, 2, 1)[:, :, None]


@torch.inference_mode()
def _in_batches(
    method: Callable[..., Tensor],
    model: Autoregressive,
    n: int,
    shape: tuple[int, int],
    condition: np.ndarray | Tensor | None,
    temperature: float,
    batch: int,
    seed: int | np.random.Generator,
    device: str | torch.device | None,
    progress: bool,
) -> np.ndarray:
    if n < 1 or batch < 1:
        raise InputError(f"n and batch must be at least 1, got {n} and {batch}")
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"shape must be two numbers, rows and columns of at least 1, got {shape}")
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature must be a positive number, got {temperature}")
    if device is not None:
        model.to(device)
    like = model.first_row.weight
    if condition is not None:
        condition = torch.as_tensor(condition, dtype=like.dtype).to(like.device)
    condition = model.checked_condition(condition, n)
    uniform = torch.from_numpy(np.random.default_rng(seed).random((n, *shape))).to(like.dtype)
    starts = range(0, n, batch)
    maps = []
    bar = tqdm(total=len(starts) * shape[0], unit="row", desc="sample", disable=not progress)
    # A code takes some thirty small products: threads would wait for each other longer than they compute.
    with bar, torch_threads(1):
        for start in starts:
            part = slice(start, start + batch)
            conditions = None if condition is None else condition[part]
            maps.append(method(model, uniform[part].to(like.device), conditions, temperature, bar))
    return torch.cat(maps).cpu().numpy()
