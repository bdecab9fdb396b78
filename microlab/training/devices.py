"""Where a network computes: device, precision, and the processes that share a run."""

from __future__ import annotations

import atexit
import contextlib
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from microlab.data.errors import InputError
from microlab.data.parallel import cores

# Torch counts the cores of the machine, also where a container may use two of them only.
torch.set_num_threads(min(torch.get_num_threads(), cores()))

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The device to compute on: `name` if given, else CUDA, then MPS, then CPU.

    Under ``torchrun`` each process takes its own GPU.

    Raises
    ------
    InputError
        If `name` is not a device of this machine.
    """
    if name is not None:
        try:
            chosen = torch.device(name)
            torch.zeros(1, device=chosen).item()  # "meta" computes nothing
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {str(name)!r} is not available here: {error}") from None
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def hardware(device: str | torch.device | None = None) -> str:
    """What a run computed on, for a card: the GPU's name, or the number of CPU threads."""
    device = pick_device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context in which convolutions and products run in `precision`; weights stay float32."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {precision!r}")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def resolve_precision(precision: str, device: torch.device) -> str:
    """`precision` itself, or for ``auto`` the one that the processor computes fast and safely.

    CUDA: bfloat16 from compute capability 8, below that float16. CPU: bfloat16 where it has instructions for
    it (AVX512-BF16, which every processor with AMX has too); others emulate it, several times slower than
    float32. MPS: float32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # bool() is False: torch < 2.6 cannot say
    return "bfloat16" if device.type == "cpu" and native() else "float32"


def join_processes(device: str | torch.device | None) -> tuple[int, int]:
    """(rank, number of processes), from the environment that torchrun sets; (0, 1) without."""
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
            return 0, 1
        cuda = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(dist.destroy_process_group)  # one group serves all fits of a program
    return dist.get_rank(), dist.get_world_size()


def from_first_process(value: Any, world: int) -> Any:
    if world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def mean_over_processes(parts: dict[str, Tensor], world: int) -> dict[str, float]:
    values = torch.stack([part.detach().float().reshape(()) for part in parts.values()])
    if world > 1:
        dist.all_reduce(values)
        values /= world
    return dict(zip(parts, values.tolist()))
