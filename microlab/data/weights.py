"""Weights of networks in safetensors files, and the card beside them that says where they come from.

    weights accepted  <=>  sha256(<name>.safetensors) = sha256 in <name>.json

A safetensors file holds tensors and no code. This module knows no network: the caller passes the class.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from microlab.data.errors import WeightsError
from microlab.data.files import atomic, sha256

FOLDER = Path(__file__).parent / "trained"

CARD_FIELDS = {
    "architecture": "name of the network's class",
    "parameters": "keyword arguments of that class",
    "trained_by": "the command or function that trained it, with its settings",
    "data": "what it was trained on, virtual or real",
    "licence": "licence of the weights",
    "scores": "name of a measure -> figure, with the test set in the name",
    "hardware": "what it was trained on",
    "minutes": "training time",
    "date": "ISO date of training",
    "seed": "seed of training",
}

# Entries that are used in computing, if a card has them: what they must be.
CARD_KINDS = {
    "architecture": str,
    "parameters": dict,
    "scores": dict,
    "sha256": str,
    "watershed": dict,
    "classes": list,
    "fractions": list,
    "min_area": list,
}
CARD_RANGES = {"grain_size_px": (1.0, 1e4), "zoom": (1e-3, 1e3), "temperature": (1e-6, 1e6)}


def available() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str | os.PathLike) -> dict[str, Any]:
    """The card of some weights.

    Parameters
    ----------
    name : str or path
        A name from `available`, or the path of a ``.safetensors`` file with its card beside it.

    Returns
    -------
    dict
        The fields of `CARD_FIELDS`, and ``sha256``, ``bytes`` and ``precision``, which `save` added.

    Raises
    ------
    WeightsError
        If there are no such weights, or their card is missing, no JSON or incomplete.
    """
    weights = _path(name)
    if not weights.is_file():
        names = ", ".join(available()) or "none"
        raise WeightsError(
            f"{name}: no such weights; give a .safetensors file or one of the shipped: {names}"
        )
    path = weights.with_suffix(".json")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{weights}: has no card {path.name} beside it; write both with weights.save"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no readable card ({error}); write it anew with weights.save"
        ) from None
    fields = contents if isinstance(contents, dict) else {}
    _check(path, fields, [*CARD_FIELDS, "sha256"], "copy the card again, or write it anew with weights.save")
    return contents


def load_state(name: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and card of some weights, after the checksum was verified.

    Parameters
    ----------
    name : str or path
        As in `card`.

    Returns
    -------
    state : dict of str to Tensor
        On the CPU; half precision is turned into float32.
    card : dict

    Raises
    ------
    WeightsError
        As `card`, and if the file differs from its checksum or is no safetensors file.
    """
    contents, path = card(name), _path(name)
    if sha256(path) != contents["sha256"]:
        raise WeightsError(
            f"{path}: differs from the checksum on its card, damaged or changed; copy both again"
        )
    tensors, _ = read_tensors(path)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: {key} holds NaN or infinite numbers, its training diverged; take others"
            )
    return {
        key: tensor.float() if tensor.dtype == torch.float16 else tensor for key, tensor in tensors.items()
    }, contents


def load(
    name: str | os.PathLike, network: Callable[..., nn.Module], device: str | torch.device | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network from its card and fill it with its weights.

    Parameters
    ----------
    name : str or path
        As in `card`.
    network : class
        The class that the card's ``architecture`` names, called with the card's ``parameters``.
    device : str or torch.device, optional
        Where the network goes; the CPU by default.

    Returns
    -------
    model : torch.nn.Module
        In evaluation mode.
    card : dict

    Raises
    ------
    WeightsError
        As `load_state`, and if the weights belong to another network.
    """
    state, contents = load_state(name)
    if contents["architecture"] != network.__name__:
        raise WeightsError(
            f"{name}: holds a {contents['architecture']}, not a {network.__name__}; choose other weights"
        )
    try:
        with torch.device("meta"):  # shapes without memory: a wrong number on the card must not fill it
            expected = network(**contents["parameters"]).state_dict()
        wrong = [key for key in {*state, *expected} if _shape(state, key) != _shape(expected, key)]
        if wrong:
            key = min(wrong)
            raise ValueError(f"{key} has shape {_shape(state, key)}, not {_shape(expected, key)}")
        model = network(**contents["parameters"])
        model.load_state_dict(state)
    except (TypeError, RuntimeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{name}: does not fit the {network.__name__} on its card ({reason})") from None
    return model.to(device or "cpu").eval(), contents


def save(
    name: str | os.PathLike,
    model: nn.Module | Mapping[str, Tensor],
    card: Mapping[str, Any],
    *,
    half: bool = False,
) -> Path:
    """Write weights and their card.

    Parameters
    ----------
    name : str or path
        A path ending in ``.safetensors``, or a bare name for weights that ship with the package.
    model : torch.nn.Module or mapping of str to Tensor
        The network or its state.
    card : mapping
        All of `CARD_FIELDS`; checksum, size and precision of the file are added here.
    half : bool
        Store floating point with 16 bits, half the size. The boundary probability of a trained U-Net changes
        by about 0.01 at most.

    Returns
    -------
    Path
        The safetensors file.

    Raises
    ------
    WeightsError
        If the card lacks a field or holds a wrong value, or a file cannot be written.
    """
    path = _path(name)
    _check(path, card, CARD_FIELDS, "correct the card")
    state = model.state_dict() if isinstance(model, nn.Module) else model
    if half:
        state = {
            key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()
        }
    try:
        write_tensors(path, state)
        facts = {"precision": "float16" if half else "float32"}
        facts |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
        with atomic(path.with_suffix(".json")) as partial:
            text = json.dumps({**card, **facts}, indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        error = error.strerror or error
        raise WeightsError(f"{path}: cannot be written ({error}); choose another folder") from None
    return path


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all; `metadata` goes into its header.

    Raises
    ------
    InputError, OSError
        As `microlab.data.files.atomic`.
    """
    # safetensors refuses tensors that are not contiguous (channels_last) or that share memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as partial:
        try:
            save_file(plain, partial, metadata)
        except SafetensorError as error:  # of the disk: full, or gone
            code = re.search(r"os error (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None
        partial.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read


def _check(path: Path, card: Mapping[str, Any], required: Iterable[str], mend: str) -> None:
    """Raise a WeightsError if a card lacks a field or holds a value that cannot be."""
    if missing := [field for field in required if field not in card]:
        raise WeightsError(f"{path}: card lacks {', '.join(missing)}; {mend}")
    for field, value in card.items():
        if expected := _expected(field, value):
            raise WeightsError(f"{path}: {field} must be {expected}, got {value!s:.40}; {mend}")


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    """Shape of a tensor; None if there is none."""
    return tuple(tensors[key].shape) if key in tensors else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises
    ------
    WeightsError
        If the file is missing or is no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights; check the name and the folder")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: is no readable safetensors file ({error}); copy it again") from None


def fill(model: nn.Module, path: str | os.PathLike, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Fill a network with the tensors of a safetensors file, without a card (`load` checks one).

    Parameters
    ----------
    model : torch.nn.Module
    path : path
        The file; named in the error.
    tensors : mapping, optional
        What was read from it, if that has been done.

    Raises
    ------
    WeightsError
        As `read_tensors`, and if the tensors belong to another network.
    """
    try:
        model.load_state_dict(read_tensors(path)[0] if tensors is None else tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path}: holds the weights of another network ({error})") from None


def _expected(field: str, value: Any) -> str:
    """What an entry of a card must be; empty if it is."""
    kind = CARD_KINDS.get(field, object)
    if not isinstance(value, kind):
        return {str: "a text", dict: "an object", list: "a list"}[kind]
    if field in CARD_RANGES and value is not None:
        low, high = CARD_RANGES[field]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            return f"a number from {low:g} to {high:g}"
    return ""


def _path(name: str | os.PathLike) -> Path:
    """A bare name means the package's folder; anything with a suffix or a folder is a path."""
    path = Path(name)
    is_path = path.suffix == ".safetensors" or len(path.parts) > 1 or isinstance(name, os.PathLike)
    return path if is_path else FOLDER / f"{path.name}.safetensors"
