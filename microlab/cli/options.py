"""Options and checks that several commands share."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from microlab.cli.app import say
from microlab.data.errors import InputError
from microlab.segment.registry import REGISTRY, method_name


def _data_bar(value: str) -> int | str:
    if value == "none":
        return 0
    if value.isdecimal():
        return int(value)
    if re.fullmatch(r"auto|top|bottom|(top|bottom):\d+", value):
        return value
    raise typer.BadParameter(
        f"expected auto, top, bottom, none, a number of rows or top and a number, as top:64, got {value!r}"
    )


def _page(value: str) -> int | str:
    if value == "all":
        return "all"
    if value.isdecimal():
        return int(value)
    raise typer.BadParameter(f"expected a number from 0 or all, got {value!r}")


def _crop(value: str) -> tuple[int, int, int, int]:
    numbers = value.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise typer.BadParameter(f"expected left,top,width,height in pixels, as 0,0,1024,768, got {value!r}")
    return tuple(int(number) for number in numbers)


def _megapixels(value: float) -> float:
    if not 0 < value < 1e6:
        raise typer.BadParameter(f"expected a positive number of million pixels, got {value}")
    return value


def _lines(value: str) -> str:
    if value not in ("auto", "bright", "dark"):
        raise typer.BadParameter(f"expected auto, bright or dark, got {value!r}")
    return value


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


def _jobs(value: int) -> int:
    from microlab.data.parallel import check_jobs

    try:
        check_jobs(value)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
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
    typer.Option(
        callback=_pixel_size,
        metavar="UM",
        help="Micrometres per pixel; comes before what the file says. [default: what the file says]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Weights of the networks: a shipped name, or a .safetensors file with its .json card beside it "
        "(tem: a folder of two). [default: those of the method]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Where the networks compute: cpu, cuda or mps. [default: the fastest there is]"
    ),
]
DataBar = Annotated[  # "auto" or a number of rows
    Any,
    typer.Option(
        parser=_data_bar,
        metavar="auto|top|bottom|none|ROWS|top:ROWS",
        help="Strip with scale and text beside the image: auto finds it and cuts it off, top or bottom only "
        "there, none keeps the whole image, a number cuts off that many rows.",
    ),
]
Page = Annotated[  # None, a number or "all"
    Any,
    typer.Option(
        parser=_page,
        metavar="N|all",
        help="Page of files with several, from 0, or each as an image of its own. [default: the first if the "
        "others are smaller or other channels, else refuse such files]",
    ),
]
Crop = Annotated[  # None or four numbers
    Any,
    typer.Option(
        parser=_crop,
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="Take only this part of every image, in pixels from its upper left corner. "
        "[default: the whole image]",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Take the images in the folders inside of folders, too.")
]
Lines = Annotated[
    str,
    typer.Option(
        callback=_lines,
        metavar="auto|bright|dark",
        help="Which of a mask's two values marks the boundaries. auto: the thin ones.",
    ),
]
MaxMegapixels = Annotated[
    float,
    typer.Option(
        callback=_megapixels,
        metavar="MP",
        help="Refuse images of more million pixels, before memory is taken.",
    ),
]
Zoom = Annotated[  # None or a number
    Any,
    typer.Option(
        "--scale",
        parser=_zoom,
        metavar="auto|X",
        help="Factor that enlarges or reduces the image before it is segmented; auto estimates it from the "
        "image.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        callback=_method,
        autocompletion=lambda: list(REGISTRY),
        metavar="NAME",
        help="How the boundaries are found. "
        + "; ".join(f"{name}: {method.about}" for name, method in REGISTRY.items())
        + ".",
    ),
]
Views = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=8,
        callback=_views,
        help="Turned and mirrored views of each image that are segmented and compared, for uncertainty.tif. "
        "[default: 8 with tem, else 0]",
    ),
]
Twins = Annotated[
    bool,
    typer.Option(
        "--twins", help="With auto or appearances: the sides of annealing twins are boundaries, too."
    ),
]
MaxIterations = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With tem: stop the refinement after N steps at the latest. [default: from the weights' card]",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        callback=_tolerance,
        metavar="X",
        help="With tem: stop the refinement when a step changes the map by less than X in the mean. "
        "[default: from the weights' card]",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Let the workers of this Dask scheduler do the work, as tcp://host:8786. "
        "[default: this machine alone]",
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        callback=_jobs,
        metavar="N",
        help="Processes that work at once, never more than cores or pieces of work; -1: one for each core.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Number that all random choices follow from: the same number, the same result.",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="smoke|laptop|paper",
        help="Size of the run: smoke only tries it, laptop takes minutes, paper wants a GPU. "
        "[default: MICROLAB_PROFILE, else laptop]",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace results that were changed since microlab wrote them, and a table of measure.",
    ),
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
        say(line)


def print_json(rows: list[dict[str, Any]], report: Path | None = None) -> None:
    """Print a row for each image, as in summary.csv, as JSON; null for what is not known."""
    plain = {"images": [{name: _plain(value) for name, value in row.items()} for row in rows]}
    if report is not None:
        plain["report"] = str(report)
    typer.echo(json.dumps(plain, indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
