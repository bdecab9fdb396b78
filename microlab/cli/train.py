"""Commands that simulate structures and train networks: `simulate`, `train`, `adapt`.

Registered in `microlab.cli.main`. Libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli.options import (
    Crop,
    DataBar,
    Device,
    Jobs,
    Page,
    PixelSize,
    Profile,
    Recursive,
    Scheduler,
    Seed,
    Zoom,
    say_too_many,
)
from microlab.data.errors import printable
from microlab.generate.registry import STYLES


def simulate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the library; made if it is missing.")
    ],
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, metavar="N", help="Number of structures.")
    ] = 300,
    size: Annotated[int, typer.Option(min=16, metavar="PX", help="Side of a structure in pixels.")] = 512,
    grains: Annotated[
        tuple[int, int],
        typer.Option(metavar="MIN MAX", help="Least and largest number of grains to begin with."),
    ] = (80, 150),
    steps: Annotated[
        tuple[int, int],
        typer.Option(metavar="MIN MAX", help="Least and largest number of time steps of grain growth."),
    ] = (200, 1500),
    seed: Seed = 0,
    jobs: Jobs = -1,
    scheduler: Scheduler = None,
) -> None:
    """Build a library of simulated structures.

    Every structure comes with its exact boundary mask, as TIFF files that Fiji opens.
    Killed and called again, it goes on where it was.

    \b
    Examples:
      microlab simulate library
      microlab simulate small -n 20 --size 256 --grains 20 40
    """
    from microlab.simulate.library import Ranges, build

    if scheduler is not None and jobs != -1:
        raise typer.BadParameter(
            "--jobs and --scheduler exclude each other: the scheduler has its own workers"
        )
    say_too_many(jobs)
    ranges = Ranges(shape=(size, size), grains=grains, steps=steps)
    manifest = build(folder, number, seed=seed, ranges=ranges, jobs=jobs, scheduler=scheduler)
    typer.echo(f"{number} structures, manifest: {manifest}")


def train(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for checkpoints, history and weights.")
    ],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="appearances|lines",
            help="What to learn from: fields of every appearance, drawn anew for each step (appearances), or "
            "a fixed set with thin dark boundaries (lines).",
        ),
    ] = "appearances",
    appearance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Learn this appearance only; can be given several times. [default: all appearances]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of training steps. [default: 8000; 2400 with lines]"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|none",
            help="Weights to start from; none: random ones. Not with lines. [default: labour-free]",
        ),
    ] = None,
    width: Annotated[
        int, typer.Option(min=1, metavar="N", help="Channels of the first level of the U-Net: its size.")
    ] = 16,
    structures: Annotated[int, typer.Option(min=2, metavar="N", help="Polycrystals to simulate.")] = 80,
    images: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="With lines: virtual micrographs to render of them. [default: 480]"
        ),
    ] = None,
    seed: Seed = 0,
    library: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With lines: structures that microlab simulate made. [default: made in FOLDER]",
        ),
    ] = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last checkpoint in FOLDER, or begin again.")
    ] = True,
) -> None:
    """Train a U-Net without a hand-drawn mask.

    It learns from simulated structures under a virtual microscope. Stopped and called again, it goes on.
    Under torchrun, several processes (one for each GPU) share every batch.

    \b
    Examples:
      microlab train run
      torchrun --nproc-per-node 2 -m microlab train run
      microlab train etched --appearance etched --appearance over-etched --steps 2000
      microlab train longer --start run/appearances.safetensors --steps 2000
      microlab train quick --recipe lines --structures 10 --images 40 --steps 300
      microlab segment field.tif -o results --weights run/appearances.safetensors
    """
    from microlab.pipelines import train_appearances, train_segmenter

    if recipe not in ("appearances", "lines"):
        raise typer.BadParameter(f"--recipe must be appearances or lines, got {recipe!r}")
    lines = recipe == "lines"
    refused = {"--appearance": lines and appearance, "--images": not lines and images}
    refused |= {"--library": not lines and library, "--start": lines and start}
    if wrong := [name for name, given in refused.items() if given]:
        raise typer.BadParameter(f"{', '.join(wrong)} does not belong to --recipe {recipe}; leave it out")
    shared = {"structures": structures, "held_out": max(structures // 10, 1), "width": width, "seed": seed}
    shared |= {} if steps is None else {"steps": steps}
    if lines:
        config = train_segmenter.TrainingConfig(**shared, **({} if images is None else {"images": images}))
        weights = train_segmenter.train(folder, config, library_folder=library, device=device, resume=resume)
    else:
        shared |= {"appearances": tuple(appearance)} if appearance else {}
        if start is not None or width != train_appearances.TrainingConfig.width:
            shared["start"] = None if start in (None, "none") else start
        config = train_appearances.TrainingConfig(**shared)
        weights = train_appearances.train(folder, config, device=device, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the one that wrote them
        typer.echo(f"weights: {weights}")


def adapt(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", readable=False, help="Folders of images, or image files."),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the results; made if it is missing."),
    ],
    style: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(("render", *STYLES, "mixed")),
            help="What the training images are: fields of the nearest appearances (render), translations "
            "into a style learnt from the images, or half of each. [default: mixed]",
        ),
    ] = None,
    profile: Profile = None,
    batch_norm: Annotated[
        bool,
        typer.Option(
            "--batch-norm",
            help="Also fit the means and variances inside the network (batch normalisation) to the images; "
            "may harm.",
        ),
    ] = False,
    pixel_size: PixelSize = None,
    data_bar: DataBar = "auto",
    page: Page = None,
    crop: Crop = None,
    recursive: Recursive = False,
    zoom: Zoom = "auto",
    device: Device = None,
    seed: Seed = 0,
    jobs: Jobs = -1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget an earlier adaptation in OUT and begin again.")
    ] = False,
) -> None:
    """Adapt the network to your own images, without a label.

    Simulates structures with the grain size of the images, gives them the images' style and trains the
    default network further on them. Only if it then proves better does it segment the images; otherwise the
    default does. The report says which, how like the images the training images are, and how sure the result
    is. Stopped and called again, it goes on where it was.
    The images should show one material at one magnification.

    \b
    Examples:
      microlab adapt fields/ -o results
      microlab adapt fields/ -o results --style mixed --pixel-size 0.05
    """
    from dataclasses import replace

    from tqdm.auto import tqdm

    from microlab.pipelines.adapt.settings import DEFAULT_STYLE, profile_settings
    from microlab.pipelines.adapt.stages import adapt
    from microlab.pipelines.image_results import Options
    from microlab.training import profiles

    settings = profile_settings(profile or profiles.profile(), style or DEFAULT_STYLE, seed)
    settings = replace(settings, batch_norm=batch_norm)
    if page == "all":
        raise typer.BadParameter("--page takes one number here; save the pages as images to take each")
    options = Options(pixel_size, data_bar, zoom, device, page=page, crop=crop)
    say_too_many(jobs)
    how = {
        "jobs": jobs,
        "fresh": fresh,
        "recursive": recursive,
        "log": lambda line: tqdm.write(printable(line)),
    }
    result = adapt(images, out, settings, options, **how)
    for row in result.uncertainty.itertuples():
        typer.echo(f"{row.Index}: disagreement between views {row.disagreement:.3f}")
    typer.echo(f"weights: {result.weights}\nreport: {result.report}")
