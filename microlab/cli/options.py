"""Options and checks that several commands share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from microlab.data.errors import InputError, printable
from microlab.segment.registry import REGISTRY, method_name


def _data_bar(value: str) -> int | str:
    if value == "auto":
        return "auto"
    if value == "none":
        return 0
    if value.isdecimal():
        return int(value)
    raise typer.BadParameter(f"expected auto, none or a number of rows, got {value!r}")


def _zoom(value: str) -> float | None:
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


def _views(value: int | None) -> int | None:
    if value == 1:
        raise typer.BadParameter("expected 0 or a number from 2 to 8: one view has nothing to differ from")
    return value


def _tolerance(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"expected a number between 0 and 1, got {value}")
    return value


def _method(value: str) -> str:
    try:
        return method_name(value)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


PixelSize = Annotated[
    float | None,
    typer.Option(callback=_pixel_size, metavar="UM", help="Micrometres per pixel; overrides the file's own."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Shipped weights, or a .safetensors file with its .json card beside it (tem: a folder of two).",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda or mps. [default: the fastest there is]"),
]
DataBar = Annotated[  # "auto" or a number of rows
    Any,
    typer.Option(
        parser=_data_bar,
        metavar="auto|none|PX",
        help="Data bar under the image: find it, keep it, or its rows.",
    ),
]
Zoom = Annotated[  # None or a number
    Any,
    typer.Option(
        "--scale",
        parser=_zoom,
        metavar="auto|X",
        help="Magnification before the segmenter. auto: estimated from the image.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        callback=_method,
        metavar="NAME",
        help="; ".join(f"{name}: {method.about}" for name, method in REGISTRY.items()),
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=8,
        callback=_views,
        help="Views of each image, turned and mirrored, that are compared for uncertainty.tif. "
        "[default: 8 with tem, else 0]",
    ),
]
Twins = Annotated[
    bool,
    typer.Option("--twins", help="auto, appearances: the sides of annealing twins are boundaries, too."),
]
MaxIterations = Annotated[
    int | None, typer.Option(min=1, help="tem: cap of the refinement. [default: from the weights' card]")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        callback=_tolerance,
        metavar="X",
        help="tem: the refinement has converged when a step's mean change is smaller. "
        "[default: from the weights' card]",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Dask scheduler, as tcp://host:8786."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results that were changed since microlab wrote them.")
]
Rois = Annotated[
    bool, typer.Option("--rois", help="Write rois.zip, the outlines of the grains for ImageJ and Fiji.")
]
GeoJson = Annotated[
    bool, typer.Option("--geojson", help="Write grains.geojson, the outlines of the grains for QuPath.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON, for scripts, and nothing else.")
]


def say_too_many(jobs: int) -> None:
    """Say it if there are fewer cores than `jobs`."""
    from microlab.data.parallel import too_many

    if line := too_many(jobs):
        typer.echo(f"microlab: {line}", err=True)


def print_json(rows: list[dict[str, Any]], report: Path | None = None) -> None:
    """Print a row for each image, as in summary.csv, as JSON; null for what is not known."""
    plain = {"images": [{name: _plain(value) for name, value in row.items()} for row in rows]}
    if report is not None:
        plain["report"] = printable(report)
    typer.echo(json.dumps(plain, indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
