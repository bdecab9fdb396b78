"""The command line: `microlab segment`, `demo`, `measure` and the others.

Results go to stdout, messages and progress to stderr. Exit codes: 0 success, 1 an input error or one of the
system (no room, no memory), reported on one line, 2 a usage error, 70 a bug, 130 stopped by Ctrl-C, 141 the
output was closed. Libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli import errors, pairs, train
from microlab.cli.app import App, say
from microlab.cli.doctor import doctor
from microlab.cli.errors import print_error, print_line
from microlab.cli.options import (
    AsJson,
    Crop,
    DataBar,
    Device,
    GeoJson,
    Jobs,
    Lines,
    MaxIterations,
    MaxMegapixels,
    Method,
    Overwrite,
    Page,
    PixelSize,
    Recursive,
    Rois,
    Scheduler,
    Tolerance,
    Twins,
    Views,
    Weights,
    Zoom,
    print_json,
    say_too_many,
)
from microlab.data.errors import printable
from microlab.segment.registry import DEFAULT_METHOD, REGISTRY

main = App(
    name="microlab",
    help="Segment micrographs into grains without drawing a single label, and measure them.",
    epilog="Start with: microlab demo\n\n"
    "Exit codes: 0 done; 1 an input that cannot be used, or the system (no room, no memory); 2 wrong usage; "
    "70 a bug in microlab; 130 stopped by Ctrl-C; 141 the output was closed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
datasets_app = App(
    help="List or fetch public micrographs with masks.", no_args_is_help=True, rich_markup_mode=None
)
main.add_typer(datasets_app, name="datasets")


def _print_version(requested: bool) -> None:
    if requested:
        from microlab import __version__

        typer.echo(f"microlab {__version__}")
        raise typer.Exit


@main.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the program an error arose, for a bug report.")
    ] = False,
) -> None:
    errors.show_traceback = show_traceback


@main.command()
def segment(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", readable=False, help="Image files, or folders of them."),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the results; made if it is missing."),
    ],
    method: Method = DEFAULT_METHOD,
    weights: Weights = None,
    pixel_size: PixelSize = None,
    data_bar: DataBar = "auto",
    page: Page = None,
    crop: Crop = None,
    recursive: Recursive = False,
    max_megapixels: MaxMegapixels = 500,
    zoom: Zoom = "auto",
    views: Views = None,
    twins: Twins = False,
    max_iterations: MaxIterations = None,
    tolerance: Tolerance = None,
    device: Device = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Keep whole results of the same image and settings, and do the rest."
        ),
    ] = False,
    rois: Rois = False,
    geojson: GeoJson = False,
    as_json: AsJson = False,
) -> None:
    """Segment micrographs and measure their grains.

    OUT is new, empty, or the folder of an earlier call: nothing is replaced that microlab did not write. For
    every image it gets a folder with mask.png (255 on boundaries), labels.tif, grains.csv, overlay.png and
    run.json. OUT/summary.csv has a row for each image, OUT/grains.csv a row for each grain of all images, and
    OUT/report.html shows them all. What may be wrong is said in the terminal, in summary.csv, in run.json and
    in red in the report. --method tem adds boundary.tif (probability), iterations.tif (the first map and
    every map after it, a stack for Fiji), changes.csv (mean change of each step) and uncertainty.tif (how far
    eight views of the image differ). An image that fails is reported and the others are still done; the exit
    code is then 1. Images above 16 megapixels are segmented in blocks, so that their size needs disk in OUT
    (26 bytes a pixel or more, only meanwhile) and little memory; mask.tif and labels.tif are then tiled for
    Fiji and QuPath, and overlay.png is reduced. Nothing is uploaded. With --scheduler the workers of a Dask
    cluster segment the images; they must see images, weights and OUT under the same paths.

    Which constituent each pixel belongs to (several phases in one image) is out of scope of this command:
    chapter 12 of the book trains a network for that, with microlab.segment.constituents.

    \b
    Examples:
      microlab segment field.tif -o results
      microlab segment fields/ -o results --pixel-size 0.05
      microlab segment a.png b.png -o results --data-bar 64 --scale 2
      microlab segment stack.tif -o results --page 1
      microlab segment foil.tif -o results --method tem --max-iterations 100
      microlab segment fields/ -o results --skip-existing --rois --json
      microlab segment fields/ -o results --scheduler tcp://192.168.0.7:8786
    """
    from tqdm.auto import tqdm

    from microlab.pipelines.image_results import Options
    from microlab.pipelines.segment_folder import ImageResult, row_of, segment_folder

    overrides = {"tolerance": tolerance, "max_iterations": max_iterations, "twins": twins or None}
    settings = {name: value for name, value in overrides.items() if value is not None}
    views = REGISTRY[method].views if views is None else views
    largest = int(max_megapixels * 1e6)
    about = pixel_size, data_bar, zoom, device, views, settings, page, crop, largest, rois, geojson
    say_too_many(jobs)
    bar = tqdm(unit="image", desc="segment", disable=None)

    def show(image: ImageResult, number: int) -> None:
        bar.total = number
        bar.update()
        if image.error is not None:
            print_error(image.error)
            return
        for note in image.notes:
            say(f"{image.file}: {note}")
        for warning in image.warnings:
            print_line(f"WARNING: {image.file}: {warning}")
        if not as_json:
            tqdm.write(printable(f"{image.file} -> {image.folder}: {image.line}"), file=sys.stdout)

    how = {"method": method, "weights": weights, "jobs": jobs, "scheduler": scheduler, "recursive": recursive}
    how |= {"overwrite": overwrite, "skip_existing": skip_existing}
    with bar:
        result = segment_folder(images, out, options=Options(*about), callback=show, **how)
    for note in result.left_out:
        say(note)
    if as_json:
        print_json([row_of(image) for image in result.images], result.report)
    elif result.report is not None:
        typer.echo(f"report: {printable(result.report)}")
    if result.failed:
        if len(result.images) > 1:
            print_line(f"{len(result.failed)} of {len(result.images)} images failed")
        raise typer.Exit(1)


@main.command()
def demo(
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the results; made if it is missing."),
    ] = Path("demo"),
    real: Annotated[
        bool,
        typer.Option(
            "--real", help="Segment real micrographs (perovskite, steel) instead; downloads 3 MB once."
        ),
    ] = False,
    weights: Weights = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number that the virtual micrograph is drawn from; the same number, the same micrograph.",
        ),
    ] = 7,
    device: Device = None,
) -> None:
    """Segment an example and score it.

    The truth of the example is known, so the scores stand beside those of classical methods.
    Without options it makes a virtual micrograph: a simulated structure under a simulated microscope.

    \b
    Examples:
      microlab demo
      microlab demo --real -o demo-real
    """
    from microlab.data.files import claim
    from microlab.data.images import write_image, write_mask
    from microlab.pipelines import report
    from microlab.pipelines.image_results import segment_micrograph
    from microlab.pipelines.samples import compare, real_samples, virtual_sample
    from microlab.segment.registry import load_segmenter

    segmenter = load_segmenter(weights=weights, device=device)
    claim(out, "demo")
    sections = []
    for sample in real_samples() if real else [virtual_sample(seed)]:
        result = segment_micrograph(sample, out / sample.name, segmenter)
        write_image(result.folder / "micrograph.png", sample.image)
        write_mask(result.folder / "truth.png", sample.boundary)
        scores = compare(sample, result.segmentation)
        kind = "virtual" if sample.virtual else "real"
        sections.append(report.section(result, kind=kind, scores=scores))
        typer.echo(f"{sample.name}: {sample.about}\n")
        typer.echo(report.table_text(result))
        typer.echo("\n" + report.scores_text(scores) + "\n")
    title = "microlab demo: " + ("real micrographs" if real else "a virtual micrograph")
    typer.echo(f"report: {report.write(out / 'report.html', sections, segmenter, title=title)}")


@main.command()
def measure(
    labels: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS...",
            readable=False,
            help="Label images, masks of two values, folders of them, or a folder of results.",
        ),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK",
            help="True boundaries, a mask or a label image, to score one LABELS image against. "
            "[default: no scores]",
        ),
    ] = None,
    edits: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="Corrections of one LABELS image, as report.html saved them. [default: none]"
        ),
    ] = None,
    pixel_size: PixelSize = None,
    lines: Lines = "auto",
    page: Page = None,
    recursive: Recursive = False,
    max_megapixels: MaxMegapixels = 500,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Folder for grains.csv and summary.csv of all images, with --edits also for the corrected "
            "labels.tif and edits.json; a name that ends in .csv is a FILE for the grains alone. "
            "[default: no files]",
        ),
    ] = None,
    overwrite: Overwrite = False,
    rois: Rois = False,
    geojson: GeoJson = False,
    as_json: AsJson = False,
) -> None:
    """Measure the grains of label images.

    The images may come from microlab or from any other program. In a label image 0 is boundary and every
    grain has a number. In a mask of two values, whatever they are, the thin side is the boundary; how a file
    was understood is said. Of a folder of results, the labels of every image are measured. --edits makes the
    corrections that were drawn on the page report.html, exactly as they were shown there, and measures what
    comes out. Tables of an earlier call in the folder are replaced, anything else only with --overwrite.

    \b
    Examples:
      microlab measure results/field/labels.tif
      microlab measure results/ -o all --rois
      microlab measure labels.tif --pixel-size 0.05 -o grains.csv
      microlab measure labels.tif --truth expert_mask.png
      microlab measure results/field/labels.tif --edits edits.json -o corrected
    """
    import pandas as pd

    from microlab.pipelines import report
    from microlab.pipelines.measure_folder import MeasuredFile, measure_folder

    def show(result: MeasuredFile) -> None:
        for note in result.notes:
            say(note)
        if result.error is not None:
            print_error(result.error)
        elif not as_json:
            typer.echo(f"{printable(result.title)}\n{report.table_text(result.image)}")
            if result.scores is not None:
                scores = pd.DataFrame({printable(result.file.name): result.scores}).T
                typer.echo("\n" + report.scores_text(scores))

    how = {"truth": truth, "edits": edits, "pixel_size": pixel_size, "lines": lines, "page": page}
    how |= {"recursive": recursive, "largest": int(max_megapixels * 1e6), "rois": rois, "geojson": geojson}
    results = measure_folder(labels, out, **how, overwrite=overwrite, callback=show, log=say)
    if as_json:
        print_json([result.row for result in results])
    elif out is not None and any(result.error is None for result in results):
        typer.echo(f"table: {printable(out / 'grains.csv' if out.is_dir() else out)}")
        if edits is not None and out.is_dir():
            typer.echo(f"corrected labels: {printable(out / 'labels.tif')}")
    if any(result.error is not None for result in results):
        raise typer.Exit(1)


for _command in (
    train.simulate,
    train.train,
    train.adapt,
    pairs.sample_pairs,
    pairs.train_pairs,
    doctor,
):
    main.command()(_command)


@datasets_app.command("list")
def list_datasets() -> None:
    """List the data sets, their licences, and whether they are here."""
    from microlab.data import datasets

    for name, dataset in datasets.DATASETS.items():
        place = "on this machine" if datasets.available(name) else "not fetched"
        typer.echo(f"{name:13} {dataset.title}\n{'':13} masks: {dataset.mask}")
        typer.echo(f"{'':13} licence: {dataset.licence}; {dataset.url}; {place}")


@datasets_app.command("fetch")
def fetch_datasets(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from the list.")],
) -> None:
    """Download data sets and check them against their checksums.

    \b
    Example:
      microlab datasets fetch perovskite steel
    """
    from microlab.data import datasets

    for name in names:
        files = list(datasets.fetch(name).values())
        size = sum(file.stat().st_size for file in files) / 1e6
        typer.echo(f"{name}: {len(files)} files, {size:.1f} MB, {files[0].parent}")


if __name__ == "__main__":
    main()
