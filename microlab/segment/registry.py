"""The methods of segmentation by name: a new one is a class that follows `Segmenter`, and one line here.

Nothing heavy is imported before a method is loaded, so that the command line can list the names at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from microlab.data.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from microlab.data.micrograph import Micrograph
    from microlab.segment.segmenter import Segmentation, Segmenter

DEFAULT_METHOD = "auto"
ALIASES = {"labour-free": "label-free"}  # the name up to version 0.1


@dataclass(frozen=True)
class Method:
    """Where a segmenter is, and what a user has to know about it."""

    place: str  # "module:class"
    about: str  # what it is, in half a sentence
    weights: str | None = None  # the shipped ones; None for a method that takes no weights
    settings: tuple[str, ...] = ()  # further keyword arguments of the class's `load`
    views: int = 0  # of each image that the command line compares unless told otherwise


REGISTRY: dict[str, Method] = {
    "auto": Method(
        "microlab.segment.choice:AutoSegmenter",
        "a U-Net that knows every appearance; where an alarm rings, the best of it and label-free, also on "
        "the negative of the image",
        settings=("twins",),
    ),
    "appearances": Method(
        "microlab.segment.unet:UNetSegmenter",
        "a U-Net trained without a drawn label on simulated grains of every appearance",
        weights="appearances",
        settings=("twins",),
    ),
    "label-free": Method(
        "microlab.segment.unet:UNetSegmenter",
        "a U-Net trained without a drawn label on simulated grains with thin dark boundaries",
        weights="labour-free",
    ),
    "tem": Method(
        "microlab.segment.edge_segmenter:EdgeSegmenter",
        "for TEM: one network draws boundaries from detected edges, a second refines its map to convergence",
        weights="tem",
        settings=("tolerance", "max_iterations"),
        views=8,
    ),
    "threshold": Method("microlab.segment.classical:Threshold", "a classical baseline: local threshold"),
    "gradient-watershed": Method(
        "microlab.segment.classical:GradientWatershed", "a classical baseline: watershed of the gradient"
    ),
    "ridge": Method("microlab.segment.classical:Ridge", "a classical baseline: ridge filter and watershed"),
}


def method_name(name: str) -> str:
    """The name of a method as in `REGISTRY`; InputError if there is none."""
    name = ALIASES.get(name, name)
    if name not in REGISTRY:
        raise InputError(f"method must be one of {', '.join(REGISTRY)}, got {name!r}")
    return name


def load_segmenter(
    method: str = DEFAULT_METHOD,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    **settings: Any,
) -> Segmenter:
    """A segmenter, ready to use.

    Parameters
    ----------
    method : str
        One of `REGISTRY`.
    weights : str or path, optional
        Name of shipped weights, or a ``.safetensors`` file with its card beside it; for "tem" a folder of
        two. With "auto" they are those of a U-Net, which is then the method.
    device : str, optional
        Where its networks compute; the fastest there is by default.
    **settings
        Those of the method, as `Method.settings` names them; None leaves one at its default.

    Raises
    ------
    InputError
        If the method, the device or a setting is unknown, or the weights are missing, damaged or of another
        method.
    """
    name = method_name(method)
    if name == "auto" and weights is not None:
        name = "appearances"
    entry = REGISTRY[name]
    settings = {key: value for key, value in settings.items() if value is not None}
    if unknown := [key for key in settings if key not in entry.settings]:
        raise InputError(f"method {name} has no setting {', '.join(unknown)}; leave it out")
    if weights is not None and entry.weights is None:
        raise InputError(f"method {name} takes no weights, got {os.fspath(weights)}; leave them out")
    module, target = entry.place.split(":")
    segmenter = getattr(import_module(module), target)
    return segmenter.load(weights or entry.weights, device, **settings)


def segment_image(
    image: Micrograph | np.ndarray, method: str = DEFAULT_METHOD, *, zoom: float | None = None, **options: Any
) -> Segmentation:
    """Segment one micrograph into grains; load a segmenter once where there are many.

    Parameters
    ----------
    image, zoom
        As `microlab.segment.segmenter.Segmenter.segment`.
    method, **options
        As `load_segmenter`.
    """
    return load_segmenter(method, **options).segment(image, zoom=zoom)
