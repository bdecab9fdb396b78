"""The networks of paper C's route with their cards: what they take, and how their maps end (chapter 14).

    channels = (Sobel, LoG, Canny[, grey]),    grains = finish(last map)

A card travels with the weights, so that a picture meets the networks as the training pictures did.
Reference: arXiv:2504.14782.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.segmentation import watershed
from torch import nn

from microlab.data import weights as stored
from microlab.pipeline import closed_boundary
from microlab.segment import edges, refine
from microlab.segment.edges import DETECTORS
from microlab.segment.instances import watershed_grains
from microlab.segment.refine import EdgeNet, RefineNet

DEFAULT_WEIGHTS = "tem"
CHANNELS = (*DETECTORS, "grey")
FINISHES = {"paper": refine.finish, "watershed": watershed_grains}
LENGTHS = {"radius": 1, "neck": 1, "smooth": 1, "min_area": 2}  # settings in pixels, and their power


@dataclass(frozen=True)
class TEMRoute:
    """The two networks and what their cards say about using them.

    Attributes
    ----------
    net1, net2 : Module
        As `microlab.segment.refine.first_guess` and `refine` take them.
    card : dict
        ``inputs``, names of `CHANNELS` that the networks take, in their order; ``grain_size_px``, the mean
        linear intercept of the training pictures, px, or None; ``finish``, the ``method`` "paper"
        (`microlab.segment.refine.finish`) or "watershed" (`watershed_grains`) with its keyword arguments;
        ``tolerance`` and ``max_iterations`` of the refinement. What is missing gets the paper's value.

    Raises
    ------
    ValueError
        If an entry is wrong, or the networks do not take that many channels.
    """

    net1: nn.Module
    net2: nn.Module
    card: dict

    def __post_init__(self) -> None:
        defaults = {"inputs": list(DETECTORS), "grain_size_px": None, "tolerance": 0.003}
        defaults |= {"max_iterations": 50, "finish": {"method": "paper"}}
        card = {**defaults, **self.card, "method": "tem"}
        inputs = _checked_inputs(card["inputs"])
        for name, network, more in (("net1", self.net1, 0), ("net2", self.net2, 1)):
            takes = getattr(network, "in_channels", len(inputs) + more)  # networks made by hand do not say
            if takes != len(inputs) + more:
                with_map = "a map and " if more else ""
                raise ValueError(
                    f"{name} takes {takes} channels, but the card's inputs ({', '.join(inputs)}) need "
                    f"{with_map}{len(inputs)}; choose weights that were trained together"
                )
        size = card["grain_size_px"]
        if size is not None and not 0 < size < np.inf:
            raise ValueError(f"card: grain_size_px must be a positive number of pixels, got {size}")
        method, settings = finish_settings(card["finish"])
        card |= {"inputs": list(inputs), "finish": {"method": method, **settings}}
        object.__setattr__(self, "card", card)


def load_route(weights: str | os.PathLike = DEFAULT_WEIGHTS) -> TEMRoute:
    """The pair of networks, ready to use.

    Parameters
    ----------
    weights : str or path
        "tem", which ships with the package, or a folder that holds ``first.safetensors`` and
        ``refine.safetensors``, each with its card.

    Raises
    ------
    ValueError
        If a file is missing or damaged, or the two do not fit each other.
    """
    folder = Path(weights)
    shipped = os.fspath(weights) == DEFAULT_WEIGHTS
    if not shipped and not folder.is_dir():
        raise stored.WeightsError(
            f"{weights}: no such weights; give {DEFAULT_WEIGHTS} or a folder with first.safetensors and "
            "refine.safetensors"
        )
    paths = [
        f"{DEFAULT_WEIGHTS}-{part}" if shipped else folder / f"{part}.safetensors"
        for part in ("first", "refine")
    ]
    net1, first = stored.load(paths[0], EdgeNet)
    net2, second = stored.load(paths[1], RefineNet)
    names = ("inputs", "grain_size_px", "finish", "tolerance", "max_iterations")
    card = {"name": os.fspath(weights), **{name: first[name] for name in names if name in first}}
    card["first"] = {key: value for key, value in first.items() if key not in names}
    try:
        return TEMRoute(net1, net2, card | {"refine": second})
    except (TypeError, ValueError) as error:
        raise stored.WeightsError(f"{weights}: {error}") from None


def channels_of(image: np.ndarray, inputs: Sequence[str] = DETECTORS) -> np.ndarray:
    """What the networks see of an image.

    Parameters
    ----------
    image : (H, W) float
        Grey micrograph in any units: brightness offset and gain change nothing.
    inputs : sequence of str
        Names of `CHANNELS`: the edge detectors of `fused_edges`, and "grey", the image after the contrast
        stretch.

    Returns
    -------
    float32 (C, H, W) in [0, 1], in the order of `inputs`.

    Raises
    ------
    ValueError
        If a name is unknown, or the image is no grey image, too small, constant or not finite.
    """
    inputs = _checked_inputs(inputs)
    return picked(edges.fused_edges(image), image, inputs)


def picked(found: np.ndarray, image: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """Channels by name, out of the edges of all detectors (`fused_edges`) and the image they are from."""
    by_name = dict(zip(DETECTORS, found, strict=True))
    if "grey" in inputs:
        by_name["grey"] = edges.stretch(image).astype(np.float32)
    return np.stack([by_name[name] for name in inputs])


def grains_of(probability: np.ndarray, card: dict, zoom: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Boundary mask and grains of a map by the card's ``finish``.

    Parameters
    ----------
    probability : (H, W) float32 in [0, 1]
    card : dict
        Of a `TEMRoute`.
    zoom : float
        The card counts lengths in pixels of the networks, so they are divided by the zoom here.

    Returns
    -------
    boundary : (H, W) bool
    labels : (H, W) int32
        Grains 1..n that fill the image: between two grains they meet where a boundary is likeliest, so that
        a wide line takes no area from them. 0 everywhere if every pixel is boundary.
    """
    method, settings = finish_settings(card["finish"])
    for name, power in LENGTHS.items():
        if name in settings:
            scaled = settings[name] / zoom**power
            settings[name] = round(scaled) if isinstance(settings[name], int) else scaled
    if method == "watershed":
        settings["min_area"] = max(settings["min_area"], 1)
        labels = watershed_grains(probability, **settings)
        return closed_boundary(probability, labels, settings["threshold"]), labels
    boundary, labels = refine.finish(probability, **settings)
    if labels.any():
        # In steps of 0.001: rounding errors must not decide where grains meet on a line of equal values.
        labels = watershed(np.rint(1000 * probability), labels, connectivity=1).astype(np.int32)
    return boundary, labels


def finish_settings(finish: dict) -> tuple[str, dict]:
    """Method and complete keyword arguments of a card's ``finish``; ValueError if one is unknown."""
    settings = dict(finish)
    method = settings.pop("method", "paper")
    if method not in FINISHES:
        raise ValueError(f"card: finish must have the method {' or '.join(FINISHES)}, got {method!r}")
    parameters = inspect.signature(FINISHES[method]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "gaps"}
    for name in settings:
        if name not in known:
            raise ValueError(f"card: finish {method} takes {', '.join(known)}, got {name!r}")
    return method, known | settings


def _checked_inputs(inputs: Sequence[str]) -> tuple[str, ...]:
    inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    unknown = [str(name) for name in inputs if name not in CHANNELS]
    if unknown or not inputs:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"inputs must be names out of {', '.join(CHANNELS)}, got {got}")
    return inputs
