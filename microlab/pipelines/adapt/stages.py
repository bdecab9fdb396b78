"""The stages of an adaptation, each of which resumes.

    read -> grain size -> library -> style -> pairs -> training -> accept -> segment -> report

Everything made on the way lies in ``OUT/work`` as numbers and arrays; a stage whose files are complete is not
repeated, and the library, the style and the training go on in their middle. The same call after a kill gives
the same weights, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.data.errors import ImageError, InputError
from microlab.data.files import sha256
from microlab.data.formats import find_images
from microlab.data.micrograph import Micrograph
from microlab.data.parallel import check_jobs
from microlab.data.run_folder import RunFolder
from microlab.data.transforms import resize_by, stretch
from microlab.generate.style import learn_style
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines import image_results, report
from microlab.pipelines.adapt import accept, results
from microlab.pipelines.adapt.accept import Acceptance
from microlab.pipelines.adapt.candidates import nearest_fields
from microlab.pipelines.adapt.estimate import estimate, in_words, processes
from microlab.pipelines.adapt.settings import HELD_OUT_VIEWS, AdaptSettings
from microlab.pipelines.adapt.training import card_of, fit_network
from microlab.pipelines.image_results import Options
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import draw_pair, render_pairs, simulated_pairs
from microlab.segment.adabn import adapt_batch_norm
from microlab.segment.choice import choose
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmenter
from microlab.segment.zoom import middle
from microlab.simulate import library
from microlab.simulate.library import Structure

WORK_DIR = "work"  # folder below the results
SIZED_IMAGES = 5  # images on which the grain size is measured
SIZED_WINDOW = 512  # px after magnification, in which it is measured
LIBRARY_SEED = 1000  # added to the seed: structures of its own, on which no shipped network was trained
LEAST_SIDE = 48  # px at the network's zoom: a patch to compare, and a few grains
RESERVE = 1.2  # of the disk space that the files take


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation made and what it says about itself.

    Attributes
    ----------
    weights, report : Path
        Of the adapted network, taken or not; and the page.
    zoom : float
        Magnification of the images before the adapted network, as on its card.
    acceptance : Acceptance
        Whether the adapted network was taken to segment the images, and why not.
    seconds : dict of str to float
        Measured time of every stage, over all calls.
    realism : pandas.DataFrame
        From `microlab.measure.realism.realism_report`.
    held_out : pandas.DataFrame
        Disagreement and true errors on held-out virtual micrographs.
    uncertainty : pandas.DataFrame
        One row for each image.
    """

    weights: Path
    report: Path
    zoom: float
    acceptance: Acceptance
    seconds: dict[str, float]
    realism: pd.DataFrame
    held_out: pd.DataFrame
    uncertainty: pd.DataFrame


def adapt(
    paths: list[Path],
    out: Path,
    settings: AdaptSettings | None = None,
    options: Options | None = None,
    *,
    jobs: int = -1,
    fresh: bool = False,
    recursive: bool = False,
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> AdaptResult:
    """Adapt a segmentation network to unlabelled images, and segment them.

    The default network goes on learning from simulations that look like the images. It has to prove itself
    better (`microlab.pipelines.adapt.accept`); otherwise the images are segmented by the default.

    Parameters
    ----------
    paths : list of path
        Image files, or folders of them, of one material at one magnification.
    out : path
        Receives ``adapted.safetensors`` with its card, a folder for every image as `microlab segment` makes
        it with ``uncertainty.png`` besides, ``uncertainty.csv`` and ``report.html``.
    settings : AdaptSettings, optional
        By default those of the laptop profile; see `microlab.pipelines.adapt.settings.profile_settings`.
    options : microlab.pipelines.image_results.Options, optional
        How the images are read. ``zoom`` is the magnification for the default; estimated if not given.
    jobs : int
        Processes; -1 for one per core.
    fresh : bool
        Forget an earlier adaptation in `out`.
    recursive : bool
        Take the folders inside of folders as well.
    progress : bool
        Show progress bars.
    log : callable
        Receives lines of text: the grain size, how long it will take, how long each stage took, whether the
        adapted network was taken, the result of each image.

    Returns
    -------
    AdaptResult

    Raises
    ------
    InputError
        If there is no image, one cannot be used (its file is named), or `out` holds an adaptation with other
        settings or images.
    OSError
        If something cannot be written. What is complete is kept.
    """
    settings, options, out = settings or AdaptSettings(), options or Options(), Path(out)
    check_jobs(jobs)  # a small run would never start them, and never notice
    default = load_segmenter(device=options.device)
    files, left_out = find_images(paths, recursive=recursive)
    for note in left_out:
        log(note)
    micrographs, notes = read(files, options, default)
    request = {
        "settings": asdict(settings),
        "data_bar": options.data_bar,
        **{name: value for name in ("page", "crop") if (value := getattr(options, name)) is not None},
        "zoom": options.zoom,
        "images": {name: sha256(micrograph.path) for name, micrograph in micrographs.items()},
    }
    run = RunFolder(out / WORK_DIR, request, fresh=fresh, anew="fresh=True, --fresh", log=log)
    run.write("run.json", {"source": "microlab adapt"})  # so that no image's results take this folder
    folders = image_results.result_folders([m.path for m in micrographs.values()], out)
    with run.lock():
        check_space(run.path, settings)
        if options.zoom is not None:
            check_sizes(micrographs, options.zoom, LEAST_SIDE)

        with run.stage("zoom"):
            sizes = run.once("grain_sizes.json", measure_sizes, micrographs, default, options.zoom)
            size = float(np.median(list(sizes.values())))
        log(f"zoom: {len(micrographs)} images, boundaries {size:.0f} px apart (mean intercept)")
        if max(sizes.values()) > 2 * min(sizes.values()):
            far = max(sizes, key=lambda name: abs(np.log(sizes[name] / size)))
            log(f"zoom: {far} differs most, {sizes[far]:.0f} px; adapt to one magnification at a time")

        with run.stage("estimate"):
            areas = [np.prod(micrograph.shape) / size**2 for micrograph in micrographs.values()]
            look = run.seconds["zoom"] / len(sizes)  # of the default at an image, alarms and all
            measured = (settings, areas, look, default, jobs, options.device)
            estimated = run.once("estimate.json", estimate, *measured)
        log(in_words(estimated))

        with run.stage("library"):
            structures = simulate(run, settings, jobs, progress)
        training, held_out = structures[: -settings.held_out], structures[-settings.held_out :]
        maps = [structure.grain_map for structure in training]
        intercept = float(np.mean([mean_intercept(structure.grain_map) for structure in structures]))
        zoom = intercept / size  # the adapted network is to see grains as large as those of the library
        check_sizes(micrographs, zoom, max(LEAST_SIDE, settings.learnt.crop if settings.learns else 0))
        zoomed = {name: stretch(resize_by(m.image, zoom)) for name, m in micrographs.items()}

        generator = None
        if settings.learns:
            with run.stage("style"):
                simulated = flat_images(training, seed=settings.seed)
                place = {"folder": run / "style", "device": options.device, "progress": progress}
                generator = learn_style(simulated, zoomed, settings.learnt, **place)[0].F.eval()

        with run.stage("pairs"):
            rendered = settings.images - settings.translated
            workers = processes(jobs, rendered)
            candidates = (maps, list(zoomed.values()), rendered, settings.candidates, settings.seed)
            chosen = run.once("candidates.json", nearest_fields, *candidates, workers, progress)
            made = {
                "pairs.npz": (settings, training, chosen),
                "held_out.npz": for_judging(settings, held_out, chosen),
            }
            pairs, tests = (
                read_pairs(run.arrays(name, make_pairs, *of, generator, workers, progress))
                for name, of in made.items()
            )

        path = out / "adapted.safetensors"
        with run.stage("training"):
            if not path.is_file() or run.read("trained.json") != sha256(path):
                place = {"folder": run / "training", "device": options.device, "progress": progress}
                model, history = fit_network(pairs, maps, settings, **place)
                if settings.batch_norm:
                    model = adapt_batch_norm(model, list(zoomed.values()), seed=settings.seed)
                card = card_of(model, history, settings, len(micrographs), intercept, zoom)
                weights.save(path, model, card, half=True)
                run.write("trained.json", sha256(path))
            network = load_segmenter(weights=path, device=options.device)

        with run.stage("realism"):
            realism = run.once("realism.json", results.realism, zoomed, pairs, training, settings)
            patches = run.arrays("patches.npz", results.sample_patches, zoomed, pairs, settings)

        with run.stage("held out"):
            trust = run.once("held_out.json", results.held_out, network, default, tests, settings)

        with run.stage("accept"):
            looks = {"adapted": (network, None), "default": (default, options.zoom)}
            seen = {
                name: run.once(f"accept-{name}.json", accept.look, micrographs, *how)
                for name, how in looks.items()
            }
            acceptance = accept.judge(**seen, errors=trust)
        log(f"accept: {acceptance.line}")

        with run.stage("segment"):
            options = replace(options, views=settings.views)
            if acceptance.taken:
                by, other, options = network, default, replace(options, zoom=zoom)
            else:  # the adapted network is no measure for it
                by, other = default, None
            numbers = segment(run, micrographs, notes, folders, by, other, options, progress)

        with run.stage("report"):
            segmented = [
                (m, folder, numbers[folder.name]) for m, folder in zip(micrographs.values(), folders)
            ]
            tables = pd.DataFrame(**realism), pd.DataFrame(trust), results.uncertainty_table(numbers)
            times = run.seconds, estimated
            page = results.write(out, segmented, by, patches, *tables, acceptance, *times, zoom)
    return AdaptResult(path, page, zoom, acceptance, run.seconds, *tables)


def read(
    files: list[Path], options: Options, segmenter: Segmenter
) -> tuple[dict[str, Micrograph], dict[str, list[str]]]:
    """All images by name, and what is to be said about each.

    Raises
    ------
    InputError
        If an image cannot be used; every one of them is named.
    """
    micrographs, notes, errors = {}, {}, []
    for file in files:
        try:
            with image_results.warnings_as_notes() as warnings:
                image = image_results.read_micrograph(file, options)
            grey = segmenter.check(image)
            if np.ptp(np.percentile(grey, (0.5, 99.5))) == 0:
                raise ImageError("shows one grey but for a few pixels; check the export")
        except InputError as error:
            text = str(error)
            errors.append(text if str(file) in text else f"{file}: {text}")
            continue
        name = file.name if file.name not in micrographs else str(file.resolve())
        micrographs[name] = image
        notes[name] = [note.removeprefix(f"{file}: ") for note in warnings]
    if errors:
        raise InputError(f"{len(errors)} of {len(files)} images cannot be used: {'; '.join(errors)}")
    return micrographs, notes


def measure_sizes(
    micrographs: dict[str, Micrograph], segmenter: Segmenter, zoom: float | None
) -> dict[str, float]:
    """Mean intercept in pixels of a few of the images, by a segmenter, in the middle of each.

    Raises
    ------
    ImageError
        If there are no grains in any.
    """
    names = list(micrographs)
    some = np.unique(np.linspace(0, len(names) - 1, SIZED_IMAGES).round().astype(int))
    sizes = {}
    for name in (names[k] for k in some):
        image = segmenter.check(micrographs[name])
        trial = choose(image, segmenter.methods(), zoom=zoom).trial
        with suppress(ImageError):  # a pore may fill the middle
            part = middle(image, max(SIZED_WINDOW / trial.zoom, LEAST_SIDE))
            result = trial.segmenter.segment(part, zoom=trial.zoom)
            share = 1.0 if result.valid is None else float(result.valid.mean())  # where lines cross grains
            sizes[name] = share * mean_intercept(result.labels)
    sizes = {name: size for name, size in sizes.items() if np.isfinite(size)}
    if not sizes:
        raise ImageError(
            f"{', '.join(names[k] for k in some)}: the default network finds no boundary, so the grain size "
            "is unknown; give the magnification at which it does (zoom=, --scale)"
        )
    return sizes


def check_sizes(micrographs: dict[str, Micrograph], zoom: float, least: int) -> None:
    """Refuse an image that has fewer than `least` pixels a side at a zoom: too few to learn from.

    Raises
    ------
    ImageError
        Names the file.
    """
    for micrograph in micrographs.values():
        height, width = micrograph.shape
        if min(max(1, round(side * zoom)) for side in (height, width)) < least:
            raise ImageError(
                f"{micrograph.path}: image has {width} x {height} pixels; at its zoom, "
                f"{zoom:.2f}, both sides need at least {int(np.ceil(least / zoom))}; "
                "leave it out or give a larger field"
            )


def check_space(folder: Path, settings: AdaptSettings) -> None:
    """Refuse to start what cannot be written.

    Raises
    ------
    OSError
        If the disk has less room than the library and the training images take.
    """
    area = np.prod(settings.ranges.shape)
    needed = RESERVE * area * (7 * settings.structures + 2 * settings.images) + 1e8
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: needs about {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left; "
            "free some space or choose another output folder"
        )


def simulate(run: RunFolder, settings: AdaptSettings, jobs: int, progress: bool) -> list[Structure]:
    """The library, built or completed, and read."""
    workers = processes(jobs, settings.structures)
    sizes = {"seed": LIBRARY_SEED + settings.seed, "ranges": settings.ranges}
    library.build(run / "library", settings.structures, **sizes, jobs=workers, progress=progress)
    return [library.load(run / "library", index) for index in range(settings.structures)]


def for_judging(
    settings: AdaptSettings, held_out: list[Structure], fields: list[int]
) -> tuple[AdaptSettings, list[Structure], list[int]]:
    """What `make_pairs` takes to make held-out images as the training images are made, only fewer."""
    few = replace(settings, images=HELD_OUT_VIEWS * settings.held_out)
    rendered = min(few.images - few.translated, len(fields))
    some = np.linspace(0, len(fields) - 1, rendered).round().astype(int)
    return few, held_out, [fields[k] for k in some]


def make_pairs(
    settings: AdaptSettings,
    structures: list[Structure],
    fields: list[int],
    generator: torch.nn.Module | None,
    jobs: int,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Training images as 8-bit greys and their boundaries: the translations, then the renderings."""
    pairs = []
    if settings.translated:
        pairs += simulated_pairs(structures, settings.translated, generator, seed=settings.seed)
    maps = [structure.grain_map for structure in structures]
    pairs += render_pairs(maps, fields, settings.seed, make=draw_pair, jobs=jobs, progress=progress)
    greys = (255 * np.stack([pair.image for pair in pairs])).round().astype(np.uint8)
    return {"images": greys, "boundaries": np.stack([pair.boundary for pair in pairs])}


def read_pairs(arrays: dict[str, np.ndarray]) -> list[Micrograph]:
    """Training images from the arrays of `make_pairs`."""
    images = arrays["images"] / np.float32(255)
    return [Micrograph(image, boundary=b, virtual=True) for image, b in zip(images, arrays["boundaries"])]


def segment(
    run: RunFolder,
    micrographs: dict[str, Micrograph],
    notes: dict[str, list[str]],
    folders: list[Path],
    segmenter: Segmenter,
    other: Segmenter | None,
    options: Options,
    progress: bool,
) -> dict[str, dict]:
    """Segment every image, with its uncertainty; a finished one leaves its numbers in the run's folder."""
    numbers = {}
    work = list(zip(micrographs.items(), folders))
    for (name, micrograph), folder in tqdm(work, unit="image", desc="segment", disable=not progress):
        file = f"segmented/{folder.name}.json"
        source = {"weights": segmenter.card["sha256"], "pixel_size": micrograph.pixel_size}
        before = run.read(file)
        if before is None or before["source"] != source or not (folder / "run.json").is_file():
            result = image_results.segment_micrograph(
                micrograph, folder, segmenter, options, other=other, notes=notes[name]
            )
            before = {"source": source, **results.numbers_of(result)}
            run.write(file, before)
            run.log(f"{name} -> {folder}: {report.one_line(result)}")
        numbers[folder.name] = before
    return numbers
