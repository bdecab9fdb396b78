"""The segmenter of paper C for TEM: edges, a first boundary map, its refinement to convergence, grains.

    image -> zoom -> edges -> y_0 = Net1(edges),  y_{k+1} = Net2(y_k, edges) until converged -> grains

Edges do not depend on brightness or contrast, so neither does the result. The parts are in
`microlab.segment.edges` and `microlab.segment.refine`. Reference: arXiv:2504.14782.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from skimage.segmentation import watershed
from torch import nn

from microlab.data import weights as stored
from microlab.data.errors import ImageError
from microlab.data.micrograph import Micrograph
from microlab.data.transforms import resize_by, resize_to, stretch
from microlab.segment import edges, refine
from microlab.segment.edges import DETECTORS, EdgeConfig
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.refine import EdgeNet, Refinement, RefineNet
from microlab.segment.segmenter import Segmentation, Segmenter, checked_zoom, pixels_of
from microlab.segment.uncertainty import estimate_uncertainty
from microlab.segment.zoom import matching_zoom
from microlab.training.devices import pick_device

CHANNELS = (*DETECTORS, "grey")
FINISHES = {"paper": refine.finish, "watershed": watershed_grains}
LENGTHS = {"radius": 1, "neck": 1, "smooth": 1, "min_area": 2}  # settings in pixels, and their power
CARD_DEFAULTS = {  # the paper's
    "inputs": list(DETECTORS),
    "grain_size_px": None,
    "tolerance": 0.003,
    "max_iterations": 50,
    "finish": {"method": "paper"},
}


@dataclass(frozen=True, eq=False, kw_only=True)
class EdgeSegmentation(Segmentation):
    """A segmentation with what led to it.

    Attributes
    ----------
    channels : (C, h, w) float32 in [0, 1]
        What the networks saw of the image, at their magnification.
    agreement : (H, W) uint8 in 0..3
        How many detectors have an edge here.
    first : (H, W) float32 in [0, 1]
        The map of Net1.
    refinement : Refinement
        Its maps are (iterations + 1, h, w), at the networks' magnification.
    """

    channels: np.ndarray
    agreement: np.ndarray
    first: np.ndarray
    refinement: Refinement


@dataclass(frozen=True, eq=False)
class EdgeSegmenter(Segmenter):
    """Two networks and what their card says about using them.

    Attributes
    ----------
    net1, net2 : Module
        As `microlab.segment.refine.first_guess` and `refine` take them.
    card : dict
        ``inputs``, names of `CHANNELS` that the networks take, in their order; ``grain_size_px``, the mean
        linear intercept of the training images, px, or None; ``finish``, the ``method`` "paper"
        (`microlab.segment.refine.finish`) or "watershed" (`watershed_grains`) with its keyword arguments;
        ``tolerance`` and ``max_iterations`` of the refinement. What is missing gets the value of
        `CARD_DEFAULTS`.
    device : str, optional
        Where the networks compute; the fastest there is by default.

    Raises
    ------
    ValueError
        If an entry is wrong, or the networks do not take that many channels.
    """

    net1: nn.Module
    net2: nn.Module
    card: dict
    device: str | None = None

    name: ClassVar[str] = "tem"

    def __post_init__(self) -> None:
        card = CARD_DEFAULTS | self.card
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

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike = "tem",
        device: str | None = None,
        *,
        tolerance: float | None = None,
        max_iterations: int | None = None,
    ) -> EdgeSegmenter:
        """The pair of networks, ready to use.

        Parameters
        ----------
        weights : str or path
            "tem", which ships with the package, or a folder that holds ``first.safetensors`` and
            ``refine.safetensors``, each with its card.
        device : str, optional
        tolerance, max_iterations
            As `microlab.segment.refine.refine`; the card's by default.

        Raises
        ------
        WeightsError
            If a file is missing or damaged, or the two do not fit each other.
        """
        pick_device(device)  # a wrong one fails here, not with the first image
        folder = Path(weights)
        shipped = os.fspath(weights) == "tem"
        if not shipped and not folder.is_dir():
            raise stored.WeightsError(
                f"{weights}: no such weights; give tem or a folder with first.safetensors and "
                "refine.safetensors"
            )
        paths = ["tem-first", "tem-refine"]
        if not shipped:
            paths = [folder / "first.safetensors", folder / "refine.safetensors"]
        net1, first = stored.load(paths[0], EdgeNet)
        net2, second = stored.load(paths[1], RefineNet)
        card = {"name": os.fspath(weights), **{key: first[key] for key in CARD_DEFAULTS if key in first}}
        overrides = {"tolerance": tolerance, "max_iterations": max_iterations}
        card |= {key: value for key, value in overrides.items() if value is not None}
        card["first"] = {key: value for key, value in first.items() if key not in CARD_DEFAULTS}
        try:
            return cls(net1, net2, card | {"refine": second}, device)
        except (TypeError, ValueError) as error:
            raise stored.WeightsError(f"{weights}: {error}") from None

    def check(self, image: Micrograph | np.ndarray) -> np.ndarray:
        """The image stretched to [0, 1], (H, W) float32, or an `ImageError`. No edge depends on the range."""
        image = edges.check_image(pixels_of(image))
        least = EdgeConfig().least_side
        if min(image.shape) < least:
            raise ImageError(
                f"image has {image.shape[1]} x {image.shape[0]} pixels, both sides need at least {least}; "
                "give a larger field"
            )
        return ((image - image.min()) / np.ptp(image)).astype(np.float32)

    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        channels = channels_of(_zoomed(image, zoom), self.card["inputs"])
        _, refinement = self._refined(channels, keep=False, progress=progress)
        return resize_to(refinement.result, image.shape)

    def grains(
        self, probability: np.ndarray, zoom: float = 1.0, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boundary mask and grains of a map by the card's ``finish``; see `finished`."""
        boundary, labels = finished(probability, self.card["finish"], zoom)
        return (boundary, labels) if valid is None else (boundary & valid, np.where(valid, labels, 0))

    def estimate_zoom(self, image: Micrograph | np.ndarray) -> float:
        """As `Segmenter.estimate_zoom`, on the grains that the watershed finds in Net1's map.

        The watershed closes the gaps that the refinement would close later.
        """
        size = self.card["grain_size_px"]
        if size is None:
            return 1.0

        def grains(part: np.ndarray) -> np.ndarray:
            if np.ptp(part) < 1e-6:  # a blank middle of an image that is not blank
                return np.ones(part.shape, np.int32)
            channels = channels_of(part, self.card["inputs"])
            return watershed_grains(refine.first_guess(self.net1, channels, device=self.device))

        return matching_zoom(self.check(image), grains, float(size))

    def segment(
        self,
        image: Micrograph | np.ndarray,
        *,
        zoom: float | None = None,
        uncertainty: bool = False,
        progress: bool = False,
        keep: bool = True,
    ) -> EdgeSegmentation:
        """Segment one micrograph into grains.

        Parameters
        ----------
        image, zoom, uncertainty, progress
            As `Segmenter.segment`.
        keep : bool
            Keep the map of every iteration; False keeps the first and the last, for large images.

        Raises
        ------
        InputError
            If the image is not grey, too small, constant or not finite, or `zoom` is out of range.

        Warns
        -----
        NotConverged
            If the refinement stopped at ``max_iterations``.
        """
        image = self.check(image)
        zoom = self.estimate_zoom(image) if zoom is None else checked_zoom(zoom)
        zoomed = _zoomed(image, zoom)
        detected = edges.fused_edges(zoomed)
        channels = select_channels(detected, zoomed, self.card["inputs"])
        first, refinement = self._refined(channels, keep=keep, progress=progress)
        probability = resize_to(refinement.result, image.shape)
        boundary, labels = self.grains(probability, zoom)
        n = refinement.iterations
        maps = {"boundary": probability}
        if keep:
            maps["iterations"] = np.stack([resize_to(map_, image.shape) for map_ in refinement.maps])
        changes = pd.DataFrame({"iteration": np.arange(1, n + 1), "mean_change": refinement.changes})
        record = {
            "iterations": n,
            "converged": refinement.converged,
            "last_mean_change": float(refinement.changes[-1]),
        }
        settings = ("tolerance", "max_iterations", "inputs", "finish")
        ending = "converged" if refinement.converged else "cap reached"
        return EdgeSegmentation(
            probability,
            boundary,
            labels,
            zoom,
            estimate_uncertainty(image, self, zoom) if uncertainty else None,
            status=f"{n} iteration{'' if n == 1 else 's'}, {ending}",
            maps=maps,
            tables={"changes": changes},
            record=record | {name: self.card[name] for name in settings},
            channels=channels,
            agreement=resize_to(edges.agreement(detected), image.shape),
            first=resize_to(first, image.shape),
            refinement=refinement,
        )

    def _refined(self, channels: np.ndarray, *, keep: bool, progress: bool) -> tuple[np.ndarray, Refinement]:
        """Net1's map of the channels, and its refinement."""
        first = refine.first_guess(self.net1, channels, device=self.device)
        rule = {name: self.card[name] for name in ("tolerance", "max_iterations")}
        options = {"keep": keep, "device": self.device, "progress": progress}
        return first, refine.refine(self.net2, first, channels, **rule, **options)


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
    return select_channels(edges.fused_edges(image), image, inputs)


def select_channels(detected: np.ndarray, image: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """Channels by name, out of the edges of all detectors (`fused_edges`) and the image they are from."""
    by_name = dict(zip(DETECTORS, detected, strict=True))
    if "grey" in inputs:
        by_name["grey"] = stretch(image, 1, 99).astype(np.float32)
    return np.stack([by_name[name] for name in inputs])


def finished(probability: np.ndarray, finish: dict, zoom: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Boundary mask and grains of a map by a card's ``finish``.

    Parameters
    ----------
    probability : (H, W) float32 in [0, 1]
    finish : dict
        As on the card of an `EdgeSegmenter`.
    zoom : float
        The card counts lengths in pixels of the networks, so they are divided by the zoom here.

    Returns
    -------
    boundary : (H, W) bool
    labels : (H, W) int32
        Grains 1..n that fill the image: between two grains they meet where a boundary is likeliest, so that
        a wide line takes no area from them. 0 everywhere if every pixel is boundary.
    """
    method, settings = finish_settings(finish)
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
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "gaps"}
    for name in settings:
        if name not in defaults:
            raise ValueError(f"card: finish {method} takes {', '.join(defaults)}, got {name!r}")
    return method, defaults | settings


def _checked_inputs(inputs: Sequence[str]) -> tuple[str, ...]:
    inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    unknown = [str(name) for name in inputs if name not in CHANNELS]
    if unknown or not inputs:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"inputs must be names out of {', '.join(CHANNELS)}, got {got}")
    return inputs


def _zoomed(image: np.ndarray, zoom: float) -> np.ndarray:
    least = EdgeConfig().least_side
    if min(image.shape) * checked_zoom(zoom) < least:
        raise ImageError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels; at zoom {zoom:g} its shorter side has "
            f"fewer than {least}; give a larger zoom or a larger field"
        )
    return resize_by(image, zoom)
