"""The command line: `microlab demo`, `segment`, `refine`, `measure` and the others.

Results go to stdout, messages and progress to stderr. Exit codes: 0 done, 1 a mistake in the input (one line
says which), 2 a wrong call. Libraries are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli import errors, pairs, refine, train
from microlab.cli.errors import plain_errors, report_mistake
from microlab.cli.options import (
    DataBar,
    Device,
    Method,
    PixelSize,
    Scale,
    Scheduler,
    Weights,
    data_bar_rows,
    network_of,
    zoom_of,
)
from microlab.data.errors import USER_ERRORS

main = typer.Typer(
    name="microlab",
    help="Segment micrographs into grains without drawing a single label, and measure them.",
    epilog="Start with: microlab demo",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
datasets_app = typer.Typer(
    help="List or fetch public micrographs with masks.", no_args_is_help=True, rich_markup_mode=None
)
main.add_typer(datasets_app, name="datasets")


def _print_version(wanted: bool) -> None:
    if wanted:
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
@plain_errors
def segment(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", readable=False, help="Image files, or folders of them."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")],
    method: Method = "labour-free",
    weights: Weights = None,
    pixel_size: PixelSize = None,
    data_bar: DataBar = "auto",
    scale: Scale = "auto",
    device: Device = None,
    jobs: Annotated[int, typer.Option(help="Processes, with one thread each; -1 takes every core.")] = 1,
    scheduler: Scheduler = None,
) -> None:
    """Segment micrographs and measure their grains.

    For every image OUT gets a folder with mask.png (255 on boundaries), labels.tif, grains.csv and
    overlay.png, and OUT/report.html shows them all. An image that fails is reported and the others are still
    done; the exit code is then 1. Nothing is uploaded. With --method tem, --weights takes the folder of both
    networks; `microlab refine` also keeps every map of the refinement. With --scheduler the workers of a Dask
    cluster segment the images; they must see images, weights and OUT under the same paths.

    \b
    Examples:
      microlab segment field.tif -o results
      microlab segment fields/ -o results --pixel-size 0.05
      microlab segment a.png b.png -o results --data-bar 64 --scale 2
      microlab segment foil.tif -o results --method tem
      microlab segment fields/ -o results --scheduler tcp://192.168.0.7:8786
    """
    rows, zoom = data_bar_rows(data_bar), zoom_of(scale)  # a wrong call fails before anything is loaded

    from tqdm.auto import tqdm

    from microlab.pipelines import image_results, segment_folder

    options = image_results.Options(pixel_size, rows, zoom, device)
    bar = tqdm(unit="image", desc="segment", disable=None)

    def tell(outcome: segment_folder.Outcome, number: int) -> None:
        bar.total = number
        bar.update()
        if outcome.error is not None:
            report_mistake(outcome.error)
            return
        for note in outcome.notes:
            tqdm.write(f"microlab: {outcome.file}: {note}", file=sys.stderr)
        tqdm.write(f"{outcome.file} -> {outcome.folder}: {outcome.line}", file=sys.stdout)

    with bar:
        found = segment_folder.segment(
            images,
            out,
            method=method,
            weights=weights,
            options=options,
            jobs=jobs,
            scheduler=scheduler,
            tell=tell,
        )
    if found.report is not None:
        typer.echo(f"report: {found.report}")
    if found.failures:
        if len(found.outcomes) > 1:
            typer.echo(f"microlab: {len(found.failures)} of {len(found.outcomes)} images failed", err=True)
        raise typer.Exit(1)


@main.command()
@plain_errors
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")] = Path("demo"),
    real: Annotated[
        bool, typer.Option("--real", help="Real micrographs (perovskite, steel) instead; downloads 3 MB.")
    ] = False,
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the virtual micrograph.")] = 7,
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
    from microlab.pipelines import image_results, report
    from microlab.pipelines.samples import compare, real_samples, virtual_sample

    network = network_of(weights, device)
    out.mkdir(parents=True, exist_ok=True)
    samples = real_samples() if real else [virtual_sample(seed)]
    sections = []
    for sample in samples:
        result = image_results.segment_sample(sample, out, network, device=device)
        scores = compare(sample, result.segmentation)
        kind = "virtual" if sample.virtual else "real"
        sections.append(report.section(result, kind=kind, about=sample.about, scores=scores))
        typer.echo(f"{sample.name}: {sample.about}\n")
        typer.echo(report.table_text(result))
        typer.echo("\n" + report.scores_text(scores) + "\n")
    title = "microlab demo: " + ("real micrographs" if real else "a virtual micrograph")
    typer.echo(f"report: {report.write(out / 'report.html', sections, network[1], title=title)}")


@main.command()
@plain_errors
def measure(
    labels: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS...",
            readable=False,
            help="Label images, boundary masks (lines 255), or folders of them.",
        ),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(metavar="MASK", help="True boundaries (lines 255) to score one LABELS image against."),
    ] = None,
    pixel_size: PixelSize = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="CSV", help="Write the grains of all images to this table."),
    ] = None,
) -> None:
    """Measure the grains of label images.

    The images may come from microlab or from any other program.

    \b
    Examples:
      microlab measure results/field/labels.tif
      microlab measure labels.tif --pixel-size 0.05 -o grains.csv
      microlab measure labels.tif --truth expert_mask.png
    """
    import pandas as pd

    from microlab.data.files import atomic
    from microlab.data.images import read_mask
    from microlab.measure.scores import score
    from microlab.pipelines import image_results, report

    pass
    pass

    files = image_results.find_images(labels)
    if truth is not None and len(files) > 1:
        raise typer.BadParameter("--truth takes one LABELS image")
    tables, failed = [], 0
    for file in files:
        try:
            found = image_results.measure_file(file, pixel_size)
            typer.echo(f"{file}\n{report.table_text(found)}")
            if truth is not None:
                scores = score(read_mask(truth), found.boundary, found.labels)
                typer.echo("\n" + report.scores_text(pd.DataFrame({file.name: scores}).T))
        except USER_ERRORS as error:
            report_mistake(error)
            failed += 1
            continue
        tables.append(found.table.assign(image=str(file)))
    if out is not None and tables:
        with atomic(out) as partial:
            pd.concat(tables).to_csv(partial, index=False, float_format="%.6g")
        typer.echo(f"table: {out}")
    if failed:
        raise typer.Exit(1)


for _command in (
    refine.refine,
    train.simulate,
    train.train,
    train.adapt,
    pairs.dream,
    pairs.train_pairs,
):
    main.command()(plain_errors(_command))


@datasets_app.command("list")
@plain_errors
def list_datasets() -> None:
    """List the data sets, their licences, and whether they are here."""
    from microlab.data import datasets

    for name, dataset in datasets.DATASETS.items():
        place = "on this machine" if datasets.available(name) else "not fetched"
        typer.echo(f"{name:13} {dataset.title}\n{'':13} masks: {dataset.mask}")
        typer.echo(f"{'':13} licence: {dataset.licence}; {dataset.url}; {place}")


@datasets_app.command("fetch")
@plain_errors
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
