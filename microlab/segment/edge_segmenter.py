"""The networks of paper C's route with their cards: what they take, and how their maps end.

    channels = (Sobel, LoG, Canny[, grey]),    grains = finish(last map)

A card travels with the weights, so that a picture meets the networks as the training pictures did.
Reference: arXiv:2504.14782.

Paper C's route for a user's image: edges, a first map, its refinement, grains.

    image -> zoom -> edges -> x_0 = Net1(edges),  x_{k+1} = Net2(x_k, edges) until it stands still -> grains

Edges do not depend on brightness or contrast, so neither does the result. The parts are
`microlab.segment.edges` and `refine`; this module wires them. Reference: arXiv:2504.14782.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.segmentation import watershed
from skimage.transform import resize
from torch import nn

from microlab.data import weights as stored
from microlab.data.transforms import resize_by
from microlab.segment import edges, refine
from microlab.segment.edges import DETECTORS, EdgeConfig
from microlab.segment.instances import watershed_grains
from microlab.segment.refine import CapReached, EdgeNet, Refinement, RefineNet
from microlab.segment.segmenter import Segmentation, closed_boundary
from microlab.segment.uncertainty import VIEWS, Uncertainty, compare_views
from microlab.segment.zoom import matching_zoom

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


@dataclass(frozen=True)
class TEMResult:
    """What the route made of one image."""

    channels: np.ndarray  # (C, h, w) float32 in [0, 1], at the networks' scale
    agreement: np.ndarray  # (H, W) uint8, 0..3: how many detectors see an edge here
    first: np.ndarray  # (H, W) float32 in [0, 1], the map of Net1
    refinement: Refinement  # its maps are (iterations + 1, h, w), at the networks' scale
    probability: np.ndarray  # (H, W) float32 in [0, 1], the last map
    boundary: np.ndarray  # (H, W) bool
    labels: np.ndarray  # (H, W) int32: grains 1..n that fill the image; 0 everywhere if there is none
    zoom: float  # magnification before the edges


def run_route(
    image: np.ndarray,
    route: TEMRoute,
    *,
    zoom: float | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    keep: bool = True,
    device: str | None = None,
    progress: bool = False,
) -> TEMResult:
    """Send one image down the whole route.

    Parameters
    ----------
    image : (H, W) float
        Grey micrograph in any units.
    route : TEMRoute
        From `load_route`.
    zoom : float, optional
        Magnification before the edges; estimated by default (`estimate_zoom`).
    tolerance, max_iterations, keep
        As `microlab.segment.refine.refine`; the card's by default.
    device : str, optional
    progress : bool

    Returns
    -------
    TEMResult

    Raises
    ------
    ValueError
        If the image is not grey, too small, constant or not finite, or a setting is out of range.

    Warns
    -----
    CapReached
        If the map did not stand still.
    """
    image = _checked(image)
    zoom = estimate_zoom(image, route, device=device) if zoom is None else float(zoom)
    seen = _zoomed(image, zoom)
    found = edges.fused_edges(seen)
    channels = picked(found, seen, route.card["inputs"])
    settings = _settings(route, tolerance, max_iterations) | {"keep": keep, "device": device}
    first = refine.first_guess(route.net1, channels, device=device)
    refinement = refine.refine(route.net2, first, channels, progress=progress, **settings)
    probability = at_size(refinement.result, image.shape)
    boundary, labels = grains_of(probability, route.card, zoom)
    agreement = at_size(edges.agreement(found), image.shape)
    return TEMResult(
        channels, agreement, at_size(first, image.shape), refinement, probability, boundary, labels, zoom
    )


def segment_tem(
    image: np.ndarray,
    route: TEMRoute,
    *,
    scale: float | None = None,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Segmentation:
    """Segment one micrograph into grains, as `microlab.segment.segmenter.segment_image` does, by this route.

    Parameters and warnings as `run_route`, with `scale` for its `zoom`.

    Raises
    ------
    ValueError
        As `run_route`, and if no grain is found.
    """
    result = run_route(
        image,
        route,
        zoom=scale,
        tolerance=tolerance,
        max_iterations=max_iterations,
        keep=False,
        device=device,
        progress=progress,
    )
    return segmentation_of(result)


def segmentation_of(result: TEMResult) -> Segmentation:
    """The part of a result that the report and the measurements read; ValueError if it holds no grain."""
    if not result.labels.any():
        raise ValueError(
            "the networks call every pixel a boundary and leave no grain; check the image, or give a scale"
        )
    return Segmentation(result.probability, result.boundary, result.labels, result.zoom)


def route_uncertainty(
    image: np.ndarray,
    route: TEMRoute,
    zoom: float = 1.0,
    *,
    views: int = VIEWS,
    tolerance: float | None = None,
    max_iterations: int | None = None,
    device: str | None = None,
) -> Uncertainty:
    """How far the route's results for the views of an image differ (`microlab.segment.uncertainty`).

    Every view goes the whole way, refinement included, at magnification `zoom`. Whether each stands still at
    the end is not told.

    Parameters
    ----------
    image, route, zoom, tolerance, max_iterations, device
        As `run_route`.
    views : int in 2..8
        How many of the eight symmetries of the square.

    Raises
    ------
    ValueError
        As `run_route`, and if `views` is out of range.
    """
    image = _checked(image)
    settings = _settings(route, tolerance, max_iterations) | {"keep": False, "device": device}

    def last_map(seen: np.ndarray) -> np.ndarray:
        channels = channels_of(seen, route.card["inputs"])
        first = refine.first_guess(route.net1, channels, device=device)
        return refine.refine(route.net2, first, channels, **settings).result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapReached)
        return compare_views(
            _zoomed(image, zoom),
            last_map,
            lambda probability: grains_of(probability, route.card)[1],
            views=views,
            shape=image.shape,
        )


def estimate_zoom(image: np.ndarray, route: TEMRoute, *, device: str | None = None) -> float:
    """Magnification that brings an image's grains to the size the networks were trained on.

    As `segmenter.estimate_zoom`, on the grains that the watershed finds in Net1's map: it closes the
    gaps that the refinement would close later. 1 without a ``grain_size_px`` on the card.
    """
    design = route.card["grain_size_px"]
    if design is None:
        return 1.0

    def grains(part: np.ndarray) -> np.ndarray:
        if np.ptp(part) < 1e-6:  # a blank middle of an image that is not blank
            return np.ones(part.shape, np.int32)
        return watershed_grains(
            refine.first_guess(route.net1, channels_of(part, route.card["inputs"]), device=device)
        )

    return matching_zoom(_checked(image), grains, float(design))


def at_size(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A map at the size of its image: float linearly, integers by the nearest pixel."""
    if values.shape == tuple(shape):
        return values
    if values.dtype.kind in "iub":
        return resize(values, shape, order=0, preserve_range=True, anti_aliasing=False).astype(values.dtype)
    shrinks = values.shape[0] > shape[0]
    return np.clip(resize(values, shape, order=1, anti_aliasing=shrinks), 0, 1).astype(np.float32)


def _checked(image: np.ndarray) -> np.ndarray:
    """The image with greys in [0, 1], float32, or a ValueError. No edge depends on the range of the greys."""
    image = edges.check_image(image)
    least = EdgeConfig().least_side
    if min(image.shape) < least:
        raise ValueError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels, both sides need at least {least}; "
            "give a larger field"
        )
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def _zoomed(image: np.ndarray, zoom: float) -> np.ndarray:
    if not 0 < zoom < np.inf:
        raise ValueError(f"zoom must be a positive number, got {zoom}")
    least = EdgeConfig().least_side
    if min(image.shape) * zoom < least:
        raise ValueError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels; at scale {zoom:g} its shorter side has "
            f"fewer than {least}; give a larger scale or a larger field"
        )
    return resize_by(image, zoom)


def _settings(route: TEMRoute, tolerance: float | None, max_iterations: int | None) -> dict:
    """Rule that stops the refinement, the card's where none is given."""
    return {
        "tolerance": route.card["tolerance"] if tolerance is None else tolerance,
        "max_iterations": route.card["max_iterations"] if max_iterations is None else max_iterations,
    }
