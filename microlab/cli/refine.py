"""The command that draws and refines boundaries from edges: `refine`.

Registered in `microlab.cli.main`. Libraries are imported inside the command, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli.errors import report_mistake
from microlab.cli.options import DataBar, Device, PixelSize, Scale, data_bar_rows, route_of, zoom_of
from microlab.data.errors import USER_ERRORS


def _tolerance(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"expected a number between 0 and 1, got {value}")
    return value


def refine(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", readable=False, help="Image files, or folders of them."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder with first.safetensors and refine.safetensors. [default: shipped]"
        ),
    ] = None,
    pixel_size: PixelSize = None,
    data_bar: DataBar = "auto",
    scale: Scale = "auto",
    max_iterations: Annotated[
        int | None, typer.Option(min=1, help="Cap of the refinement. [default: from the weights' card]")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            callback=_tolerance,
            metavar="X",
            help="It stops when a step's mean change is smaller. [default: from the weights' card]",
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Find boundaries in TEM images from their edges, and refine them until they stand still.

    Three edge detectors feed a network, and a second network mends its map again and again. For every image
    OUT gets a folder with boundary.tif (probability), mask.png (255 on boundaries), labels.tif, overlay.png,
    grains.csv, iterations.tif (the first map and every map after it, a stack for Fiji), changes.csv (mean
    change of each step) and uncertainty.tif (how far eight views of the image differ); run.json comes last.
    An image that fails is reported and the others are still done; the exit code is then 1. Nothing is
    uploaded.

    \b
    Examples:
      microlab refine foil.tif -o results
      microlab refine foils/ -o results --pixel-size 0.0005 --scale 1
      microlab refine foil.tif -o results --max-iterations 100 --tolerance 0.001
    """
    rows, zoom = data_bar_rows(data_bar), zoom_of(scale)  # a wrong call fails before anything is loaded

    from tqdm.auto import tqdm

    from microlab.pipelines import image_results

    options = image_results.Options(pixel_size, rows, zoom, device)
    files = image_results.find_images(images)
    route = route_of(weights, device)
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    pairs = list(zip(files, image_results.result_folders(files, out)))
    for file, folder in tqdm(pairs, unit="image", desc="refine", disable=None):
        try:
            refined = image_results.refine_file(
                file, folder, route, options, tolerance=tolerance, max_iterations=max_iterations
            )
        except USER_ERRORS as error:
            report_mistake(error)
            failed += 1
            continue
        for note in refined.segmented.notes:
            tqdm.write(f"microlab: {file}: {note}", file=sys.stderr)
        tqdm.write(f"{file} -> {folder}: {refined.one_line()}", file=sys.stdout)
    if failed:
        if len(files) > 1:
            typer.echo(f"microlab: {failed} of {len(files)} images failed", err=True)
        raise typer.Exit(1)
