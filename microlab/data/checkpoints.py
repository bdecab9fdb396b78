"""Weights of networks in safetensors files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from microlab.data.files import atomic


def save_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write the weights of `model` to a safetensors file, atomically.

    Parameters
    ----------
    model : Module
    path : path
        Its folder is made if missing.
    metadata : dict of str, optional
        Stored in the file's header.
    half : bool
        Store floats as float16: half the file, and the boundary probability of a trained U-Net moves by
        about 0.01 at most.
    """
    tensors = dict(model.state_dict())
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    write_tensors(tensors, Path(path), metadata)


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, str]:
    """Load the weights of a safetensors file into `model` and return the file's metadata.

    Raises
    ------
    ValueError
        If the file is not there, is not safetensors, or holds the weights of another network.
    """
    tensors, metadata = read_tensors(Path(path))
    load_state(model, tensors, Path(path))
    return metadata


def load_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network: {error}") from None


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    # safetensors refuses tensors that are not contiguous (channels_last) or that share memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as partial:
        save_file(plain, partial, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"no weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
