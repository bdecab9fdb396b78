"""Grain growth on a CPU: the loops that take the time, compiled by Numba.

They compute what :mod:`microlab.simulate.phasefield`, :mod:`microlab.simulate.multiphase` and
:mod:`microlab.simulate.sharing` write with torch, which stays the reference and serves GPUs. Written with
arrays a step takes many passes over all fields, and memory, not arithmetic, sets its time. Here several
steps are taken together, each a row behind the one before, so that a row is read once and written once for
all of them (time skewing: Wonnacott, Int. J. Parallel Program. 30, 181, 2002). Threads share the rows and
wait for each other once for those steps. They are Python's threads, which sleep while they wait: spinning
ones, as those of OpenMP, take many times as long on a machine that does anything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import numba
import numpy as np
import torch
from torch import Tensor

from microlab.data.parallel import cores
from microlab.simulate.sharing import SUPPORT

T = TypeVar("T")

_SMALL = 2**17  # values of all fields below which one thread is faster than several that wait for each other
_BANDS = 4  # parts of the rows for each thread
STEPS = 10  # taken together, while the rows are in the cache

_compiled = numba.njit(nogil=True, fastmath=True, error_model="numpy", cache=True)


def advance(
    eta: Tensor, new: Tensor, steps: int, rate: float, coupling: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """Steps of :mod:`microlab.simulate.phasefield`; rate = dt L, coupling = dt L kappa / dx^2.

    Parameters
    ----------
    eta, new : (C, H, W) float32 or float64 Tensor
        State and room for the next one, both overwritten; contiguous, on the CPU. As many threads as torch
        has (`torch.get_num_threads`) share the rows.

    Returns
    -------
    The two in the order (state, other). The steps are taken to the end even if the user interrupts.
    """
    numbers = np.array([1 + rate - 4 * coupling, -2 * gamma * rate, (2 * gamma - 1) * rate, coupling])
    numbers = numbers.astype(eta.numpy().dtype)

    def take() -> tuple[Tensor, Tensor]:
        state, other = eta, new
        for done in range(0, steps, STEPS):
            values = state.numpy()
            together = min(STEPS, steps - done)
            _share(_advance_rows, _bands(values), values, other.numpy(), together, numbers)
            state, other = other, state
        return state, other

    return _lead(take)


def step_two_phases(
    eta: Tensor, new: Tensor, beta: Tensor, pull: Tensor, eps: float, rate: float, coupling: float
) -> Tensor:
    """The order parameters' step of :mod:`microlab.simulate.multiphase` into `new`.

    Parameters
    ----------
    eta, new : (C, H, W) float32 or float64 Tensor
        Contiguous, on the CPU.
    beta : (C, H, W) Tensor
        1 where a value belongs to a grain of the phase beta, else 0.
    pull : (2, H, W) Tensor
        gamma (c - c_other)^2 for alpha grains and for beta grains.
    eps, rate, coupling : float
        The model's eps, dt L, and dt L kappa / dx^2.
    """
    values = eta.numpy()
    constants = np.array([rate, coupling, eps], values.dtype)
    arrays = values, new.numpy(), beta.numpy(), pull.numpy()
    _lead(_share, _step_two_phases_rows, _bands(values), *arrays, constants)
    return new


def follow(eta: Tensor, owner: Tensor, n: int, reach: int) -> tuple[Tensor, bool]:
    """The same as :func:`microlab.simulate.sharing.follow`, for tensors on the CPU."""
    values, owners = eta.numpy(), owner.numpy()
    new = np.empty_like(owners)
    fields = [(c,) for c in range(len(owners))]
    support = values.dtype.type(SUPPORT)
    clashes = _lead(_share, _follow_field, fields, values, owners, new, n, reach, support)
    return torch.from_numpy(new), any(clashes)


def _bands(values: np.ndarray) -> list[tuple[int, int]]:
    """First row of each part, and the row after its last."""
    height = values.shape[1]
    bands = 1 if values.size < _SMALL or _threads() == 1 else min(_BANDS * _threads(), height)
    return [(height * i // bands, height * (i + 1) // bands) for i in range(bands)]


def _lead(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a thread of the pool, and wait for it even if the user interrupts."""
    leader = _pool(_threads(), os.getpid()).submit(function, *arguments)
    try:
        return leader.result()
    finally:
        wait([leader])


def _share(function: Callable[..., T], parts: Sequence[tuple], *arguments: object) -> list[T]:
    """Call a function on all parts, in this thread and in others that are free.

    Whoever is ready takes the next part. A thread that the system has not woken in time, because the machine
    is busy, finds nothing left to do, and nobody waits for it.
    """
    todo, results = iter(parts), []

    def take() -> None:
        for part in todo:
            results.append(function(*part, *arguments))

    others = min(_threads(), len(parts)) - 1
    helpers = [_pool(_threads(), os.getpid()).submit(take) for _ in range(others)]
    take()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    return results


def _threads() -> int:
    return min(torch.get_num_threads(), cores())


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Far from its grains a field decays to denormal numbers, which some processors compute a hundred times
    # slower: these threads take them as zero.
    return ThreadPoolExecutor(threads, initializer=torch.set_flush_denormal, initargs=(True,))


@_compiled
def _advance_rows(first, last, eta, new, steps, numbers):
    """Rows `first` to `last` of `new`: the state some steps after `eta`.

    Step s of row y needs step s - 1 of the rows y - 1 to y + 1, so it follows one row behind. Three rows of
    each step are kept; those around the band are computed by its neighbours once more.
    """
    fields, height, width = eta.shape
    kept = np.empty((steps - 1, fields, 3, width), eta.dtype)
    common = np.empty(width, eta.dtype)
    for front in range(first - steps + 1, last + steps - 1):
        for s in range(steps):
            y, margin = front - s, steps - 1 - s
            if first - margin <= y < last + margin:
                source, rows = (eta, height) if s == 0 else (kept[s - 1], 3)
                target, row = (new, y) if margin == 0 else (kept[s], y % 3)
                _step_row(source, (y - 1) % rows, y % rows, (y + 1) % rows, target, row, common, numbers)


@_compiled
def _step_row(source, above, here, below, target, row, common, numbers):
    """One step of one row of all fields; `common` is room for what every field is multiplied by."""
    linear, common_square, own_square, coupling = numbers
    fields, width = source.shape[0], source.shape[2]
    common[:] = linear
    for c in range(fields):
        eta = source[c, here]
        for x in range(width):
            common[x] += common_square * eta[x] * eta[x]
    for c in range(fields):
        eta, up, down, out = source[c, here], source[c, above], source[c, below], target[c, row]
        for x in range(1, width - 1):
            around = (eta[x - 1] + eta[x + 1]) + (up[x] + down[x])
            out[x] = eta[x] * (common[x] + own_square * eta[x] * eta[x]) + coupling * around
        for x in (0, width - 1):  # their neighbours are at the other end
            around = (eta[x - 1] + eta[(x + 1) % width]) + (up[x] + down[x])
            out[x] = eta[x] * (common[x] + own_square * eta[x] * eta[x]) + coupling * around


@_compiled
def _step_two_phases_rows(first, last, eta, new, beta, pull, constants):
    fields, height, width = eta.shape
    rate, coupling, eps = constants
    one, two, four = eta.dtype.type(1), eta.dtype.type(2), eta.dtype.type(4)
    common, factor = np.empty(width, eta.dtype), np.empty(width, eta.dtype)
    for y in range(first, last):
        common[:] = 0
        for c in range(fields):
            row = eta[c, y]
            for x in range(width):
                common[x] -= two * eps * row[x] * row[x]
        alpha_pull, beta_pull = pull[0, y], pull[1, y]
        for c in range(fields):
            row, above, below, out = eta[c, y], eta[c, y - 1], eta[c, (y + 1) % height], new[c, y]
            is_beta = beta[c, y]
            for x in range(width):
                growth = alpha_pull[x] + is_beta[x] * (beta_pull[x] - alpha_pull[x])
                growth += common[x] + (two * eps - one) * row[x] * row[x]
                factor[x] = one + rate * growth - four * coupling
            for x in range(1, width - 1):
                around = (row[x - 1] + row[x + 1]) + (above[x] + below[x])
                out[x] = row[x] * factor[x] + coupling * around
            for x in (0, width - 1):
                around = (row[x - 1] + row[(x + 1) % width]) + (above[x] + below[x])
                out[x] = row[x] * factor[x] + coupling * around


@_compiled
def _follow_field(c, eta, owner, new, n, reach, support):
    """New owners of field `c`; true if two grains are within reach of one pixel."""
    height, width = owner.shape[1:]
    r, s = min(reach, height // 2), min(reach, width // 2)  # this much already sees the whole axis
    # The largest id + 1 around each pixel, and n - the smallest id: along rows first, then along columns.
    around = np.empty((2, height + 2 * r, width), np.int32)
    line, shifted = np.empty((2, width + 2 * s), np.int32), np.empty(width + 2 * s, np.int32)
    none, one, most = np.int32(0), np.int32(1), np.int32(n + 1)
    for y in range(height):
        values, ids, high, low = eta[c, y], owner[c, y], line[0, s : s + width], line[1, s : s + width]
        for x in range(width):
            name = np.int32(ids[x] + one) if values[x] > support else none
            high[x] = name
            low[x] = np.int32(most - name) if name > none else none
        for k in range(2):
            line[k, :s], line[k, s + width :] = line[k, width : width + s], line[k, s : 2 * s]
            have = 1  # each value is the largest of this many
            while have < 2 * s + 1:
                shift = min(have, 2 * s + 1 - have)
                seen, beyond = line[k, : width + 2 * s - shift], line[k, shift:]
                for x in range(seen.size):  # a copy, or the loop would not know that the two may overlap
                    shifted[x] = beyond[x]
                for x in range(seen.size):
                    seen[x] = max(seen[x], shifted[x])
                have += shift
            around[k, r + y] = line[k, :width]
    for k in range(2):
        around[k, :r], around[k, r + height :] = around[k, height : height + r], around[k, r : 2 * r]
        have = 1
        while have < 2 * r + 1:
            shift = min(have, 2 * r + 1 - have)
            for y in range(height + 2 * r - shift):
                _raise_to(around[k, y], around[k, y + shift])
            have += shift
    widest = none
    for y in range(height):
        high, low, ids = around[0, y], around[1, y], new[c, y]
        for x in range(width):
            ids[x] = high[x] - one
            widest = max(widest, np.int32(high[x] + low[x]))
    return widest > most


@_compiled
def _raise_to(row, other):
    for x in range(row.size):
        row[x] = max(row[x], other[x])
