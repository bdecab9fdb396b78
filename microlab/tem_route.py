"""Paper C's route for a user's image: edges, a first map, its refinement, grains (chapter 14).

    image -> zoom -> edges -> x_0 = Net1(edges),  x_{k+1} = Net2(x_k, edges) until it stands still -> grains

Edges do not depend on brightness or contrast, so neither does the result. The parts are
microlab.segment.edges, edge_networks and refine; this module wires them as `microlab.pipeline` wires the
labour-free road. Reference: arXiv:2504.14782.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from skimage.transform import resize

from microlab.pipeline import Segmentation
from microlab.segment import edges, refine
from microlab.segment.edges import EdgeConfig
from microlab.segment.instances import watershed_grains
from microlab.segment.refine import CapReached, Refinement
from microlab.segment.scale import matching_zoom, resize_by
from microlab.tem_networks import TEMRoute, channels_of, grains_of, load_route, picked
from microlab.uncertainty import VIEWS, Uncertainty, compare_views

__all__ = [
    "TEMResult",
    "TEMRoute",
    "channels_of",
    "estimate_zoom",
    "load_route",
    "route_uncertainty",
    "run_route",
    "segment_tem",
]


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
    """Segment one micrograph into grains, as `microlab.pipeline.segment_image` does, by this route.

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
    """How far the route's results for the views of an image differ (`microlab.uncertainty`).

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

    As `microlab.pipeline.estimate_zoom`, on the grains that the watershed finds in Net1's map: it closes the
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
