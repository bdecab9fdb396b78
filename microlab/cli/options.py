"""Options and checks that several commands of the command line share."""

from __future__ import annotations

from typing import Annotated

import typer

METHODS = ("labour-free", "tem")


def data_bar_rows(value: str) -> int | str:
    if value == "auto":
        return "auto"
    if value == "none":
        return 0
    if value.isdecimal():
        return int(value)
    raise typer.BadParameter(f"expected auto, none or a number of rows, got {value!r}")


def zoom_of(value: str) -> float | None:
    if value == "auto":
        return None
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 100:  # also false for NaN
        raise typer.BadParameter(f"expected auto or a number from 0.01 to 100, got {value!r}")
    return number


def _pixel_size(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"expected a positive number of micrometres, got {value}")
    return value


def network_of(weights: str | None, device: str | None) -> tuple:
    """Model and card; a wrong device or wrong weights fail here, once, and not with every image."""
    from microlab.segment import segmenter
    from microlab.training import devices

    devices.pick_device(device)
    return segmenter.load_network(weights or segmenter.DEFAULT_WEIGHTS)


def route_of(weights: str | None, device: str | None) -> object:
    """The TEM route, as :func:`network_of` gives the network of the labour-free road."""
    from microlab.segment import edge_segmenter
    from microlab.training import devices

    devices.pick_device(device)
    return edge_segmenter.load_route(weights or edge_segmenter.DEFAULT_WEIGHTS)


def _method(value: str) -> str:
    if value not in METHODS:
        raise typer.BadParameter(f"expected {' or '.join(METHODS)}, got {value!r}")
    return value


PixelSize = Annotated[
    float | None,
    typer.Option(callback=_pixel_size, metavar="UM", help="Micrometres per pixel; overrides the file's own."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Shipped weights, or a .safetensors file with its .json card beside it."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda or mps. [default: the fastest there is]"),
]
DataBar = Annotated[
    str,
    typer.Option(metavar="auto|none|PX", help="Data bar under the image: find it, keep it, or its rows."),
]
Scale = Annotated[
    str,
    typer.Option(metavar="auto|X", help="Magnification before the network. auto: from the grain size."),
]
Method = Annotated[
    str,
    typer.Option(
        callback=_method,
        metavar="|".join(METHODS),
        help="labour-free: one network, trained on virtual SEM. tem: refined edges, for TEM images.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Dask scheduler, as tcp://host:8786."),
]
