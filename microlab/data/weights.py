"""Trained weights, each with a card that says where they come from.

    weights accepted  <=>  sha256(<name>.safetensors) = sha256 in <name>.json

Weights are safetensors files: tensors and nothing that runs. The card lies beside them with the same name.
This module knows no network; the caller hands it the class to build.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

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


class WeightsError(ValueError):
    """Weights that are missing, damaged or of another network, with one line on how to mend it."""


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
        known = ", ".join(available()) or "none"
        raise WeightsError(
            f"{name}: no such weights; give a .safetensors file or one of the shipped: {known}"
        )
    path = weights.with_suffix(".json")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{weights}: has no card {path.name} beside it; write both with weights.save"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: is no readable card ({error}); write it anew with weights.save"
        ) from None
    wanted = [*CARD_FIELDS, "sha256"]
    if not isinstance(contents, dict) or not all(field in contents for field in wanted):
        lacking = [field for field in wanted if not isinstance(contents, dict) or field not in contents]
        raise WeightsError(f"{path}: card lacks {', '.join(lacking)}; write it anew with weights.save")
    return contents


def load_state(name: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and card of some weights, after the checksum was verified.

    Parameters
    ----------
    name : str or path
        As `card`.

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
    contents, weights = card(name), _path(name)
    try:
        if sha256(weights) != contents["sha256"]:
            raise WeightsError(
                f"{weights}: differs from the checksum on its card, damaged or changed; copy both again"
            )
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights}: is no readable safetensors file ({error}); copy it again") from None
    return {
        key: tensor.float() if tensor.dtype == torch.float16 else tensor for key, tensor in state.items()
    }, contents


def load(
    name: str | os.PathLike,
    network: Callable[..., torch.nn.Module],
    device: str | torch.device | None = None,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build a network from its card and fill it with its weights.

    Parameters
    ----------
    name : str or path
        As `card`.
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
        model = network(**contents["parameters"])
        model.load_state_dict(state)
    except (TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{name}: does not fit the {network.__name__} on its card ({reason})") from None
    return model.to(device or "cpu").eval(), contents


def save(
    name: str | os.PathLike,
    model: torch.nn.Module | Mapping[str, torch.Tensor],
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
        All of `CARD_FIELDS`; checksum, size and precision are added here.
    half : bool
        Store floating point with 16 bits, half the size.

    Returns
    -------
    Path
        The safetensors file.

    Raises
    ------
    WeightsError
        If the card lacks a field, or a file cannot be written.
    """
    path = _path(name)
    lacking = [field for field in CARD_FIELDS if field not in card]
    if lacking:
        raise WeightsError(f"{path}: card lacks {', '.join(lacking)}")
    state = model.state_dict() if isinstance(model, torch.nn.Module) else dict(model)
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    if half:
        state = {
            key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()
        }
    try:
        with atomic(path) as partial:
            save_file(state, partial)
            facts = {"precision": "float16" if half else "float32"}
            facts |= {"bytes": partial.stat().st_size, "sha256": sha256(partial)}
        with atomic(path.with_suffix(".json")) as partial:
            text = json.dumps({**card, **facts}, indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written ({error}); choose another folder") from None
    return path


def _path(name: str | os.PathLike) -> Path:
    """A bare name means the package's folder; anything with a suffix or a folder is a path."""
    path = Path(name)
    is_path = path.suffix == ".safetensors" or len(path.parts) > 1 or isinstance(name, os.PathLike)
    return path if is_path else FOLDER / f"{path.name}.safetensors"
