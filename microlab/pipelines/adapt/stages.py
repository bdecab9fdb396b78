"""The stages of an adaptation, each of which resumes.

    read -> zoom -> library -> style -> pairs -> train -> segment -> report

Everything made on the way lies in ``OUT/work`` as numbers and arrays; a stage whose files are complete is not
repeated, and the library, the style and the training go on in their middle. The same call after a kill gives
the same weights, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab.data import images, weights
from microlab.data.errors import ImageError, InputError
from microlab.data.files import sha256
from microlab.data.micrograph import Micrograph
from microlab.data.parallel import check_jobs
from microlab.data.run_folder import RunFolder
from microlab.data.transforms import resize_by, stretch
from microlab.generate.style import learn_style
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines import image_results, report, train_segmenter
from microlab.pipelines.adapt import results
from microlab.pipelines.adapt.microscopes import nearest_microscopes
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.image_results import Options
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import render_pairs, simulated_pairs
from microlab.segment.adabn import adapt_batch_norm
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmenter
from microlab.segment.unet import UNet
from microlab.simulate import library
from microlab.simulate.library import Structure
from microlab.training.cards import model_card

WORK_DIR = "work"  # folder below the results
ZOOM_IMAGES = 5  # images on which the zoom is measured
LEAST_SIDE = 48  # px at the network's zoom: a patch to compare, and a few grains
PARALLEL_FROM = 20  # structures or images; for fewer, processes take longer to start than to work
RESERVE = 1.2  # of the disk space that the files take


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation made and what it says about itself.

    Attributes
    ----------
    weights, report : Path
    zoom : float
        Magnification of the images before the adapted network.
    seconds : dict of str to float
        Measured time of every stage, over all calls.
    realism : pandas.DataFrame
        From `microlab.measure.realism.realism_report`.
    held_out : pandas.DataFrame
        Disagreement and true error on held-out virtual micrographs.
    uncertainty : pandas.DataFrame
        One row for each image.
    """

    weights: Path
    report: Path
    zoom: float
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
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> AdaptResult:
    """Adapt a segmentation network to unlabelled images, and segment them.

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
        How the images are read. ``zoom`` is the magnification for the shipped network; estimated by default.
    jobs : int
        Processes; -1 for one per core.
    fresh : bool
        Forget an earlier adaptation in `out`.
    progress : bool
        Show progress bars.
    log : callable
        Receives lines of text: the grain size, how long each stage took, the result of each image.

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
    shipped = load_segmenter("label-free", device=options.device)
    micrographs, notes = read(image_results.find_images(paths), options, shipped)
    request = {
        "settings": asdict(settings),
        "data_bar": options.data_bar,
        "zoom": options.zoom,
        "images": {name: sha256(micrograph.path) for name, micrograph in micrographs.items()},
    }
    run = RunFolder(out / WORK_DIR, request, fresh=fresh, anew="fresh=True, --fresh", log=log)
    run.write("run.json", {"source": "microlab adapt"})  # so that no image's results take this folder
    folders = image_results.result_folders([m.path for m in micrographs.values()], out)
    with run.lock():
        check_space(run.path, settings)

        with run.stage("zoom"):
            zooms = run.once("zoom.json", measure_zooms, micrographs, shipped, options.zoom)
            zoom = float(np.median(list(zooms.values())))
        log(f"zoom: {len(micrographs)} images, {grain_size(shipped.card, zoom)}, zoom {zoom:.2f}")
        if max(zooms.values()) > 2 * min(zooms.values()):
            far = max(zooms, key=lambda name: abs(np.log(zooms[name] / zoom)))
            log(f"zoom: {far} differs most, zoom {zooms[far]:.2f}; adapt to one magnification at a time")
        check_sizes(micrographs, zoom, settings)

        with run.stage("library"):
            structures = simulate(run, settings, jobs, progress)
        training, held_out = structures[: -settings.held_out], structures[-settings.held_out :]
        maps = [structure.grain_map for structure in training]
        intercept = float(np.mean([mean_intercept(structure.grain_map) for structure in structures]))
        # The adapted network is to see the grain size of its own library.
        zoom *= intercept / shipped.card.get("grain_size_px", intercept)
        check_sizes(micrographs, zoom, settings)
        zoomed = {name: stretch(resize_by(m.image, zoom)) for name, m in micrographs.items()}

        generator = None
        if settings.learns:
            with run.stage("style"):
                simulated = flat_images(training, seed=settings.seed)
                place = {"folder": run / "style", "device": options.device, "progress": progress}
                generator = learn_style(simulated, zoomed, settings.learnt, **place)[0].F.eval()

        with run.stage("pairs"):
            rendered = settings.images - settings.translated
            workers = jobs if rendered >= PARALLEL_FROM else 1
            candidates = (maps, list(zoomed.values()), rendered, settings.candidates, settings.seed)
            chosen = run.once("microscopes.json", nearest_microscopes, *candidates, workers, progress)
            pairs = read_pairs(
                run.arrays("pairs.npz", make_pairs, settings, training, generator, chosen, workers, progress)
            )

        path = out / "adapted.safetensors"
        with run.stage("training"):
            if not path.is_file() or run.read("trained.json") != sha256(path):
                model, card = train(run, settings, pairs, intercept, options.device, progress)
                if settings.batch_norm:
                    model = adapt_batch_norm(model, list(zoomed.values()), seed=settings.seed)
                weights.save(path, model, card, half=True)
                run.write("trained.json", sha256(path))
            network = load_segmenter(weights=path, device=options.device)

        with run.stage("realism"):
            realism = run.once("realism.json", results.realism, zoomed, pairs, training, settings)
            patches = run.arrays("patches.npz", results.sample_patches, zoomed, pairs, settings)

        with run.stage("held out"):
            trust = run.once("held_out.json", results.held_out, network, held_out, settings)

        with run.stage("segment"):
            options = replace(options, zoom=zoom, views=settings.views)
            numbers = segment(run, micrographs, notes, folders, network, shipped, options, progress)

        with run.stage("report"):
            segmented = [
                (m, folder, numbers[folder.name]) for m, folder in zip(micrographs.values(), folders)
            ]
            tables = pd.DataFrame(**realism), pd.DataFrame(trust), results.uncertainty_table(numbers)
            page = results.write(out, segmented, network, patches, *tables, run.seconds, zoom)
    return AdaptResult(path, page, zoom, run.seconds, *tables)


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
                image = images.read_image(file, pixel_size=options.pixel_size, data_bar=options.data_bar)
            grey = segmenter.check(image)
            if np.ptp(np.percentile(grey, (0.5, 99.5))) == 0:
                raise ImageError("shows one grey but for a few pixels; check the export")
        except InputError as error:
            text = str(error)
            errors.append(text if str(file) in text else f"{file}: {text}")
            continue
        name = file.name if file.name not in micrographs else str(file.resolve())
        micrographs[name], notes[name] = image, warnings
    if errors:
        raise InputError(f"{len(errors)} of {len(files)} images cannot be used: {'; '.join(errors)}")
    return micrographs, notes


def measure_zooms(
    micrographs: dict[str, Micrograph], segmenter: Segmenter, zoom: float | None
) -> dict[str, float]:
    """Magnification for the shipped network, measured on a few of the images unless it is given."""
    names = list(micrographs)
    some = np.unique(np.linspace(0, len(names) - 1, ZOOM_IMAGES).round().astype(int))
    return {names[k]: zoom or segmenter.estimate_zoom(micrographs[names[k]]) for k in some}


def grain_size(card: dict, zoom: float) -> str:
    """The grain size in the images, in words."""
    size = card.get("grain_size_px")
    return f"boundaries {size / zoom:.0f} px apart (mean intercept)" if size else "grain size unknown"


def check_sizes(micrographs: dict[str, Micrograph], zoom: float, settings: AdaptSettings) -> None:
    """Refuse an image that is too small to learn from when its grains are as large as the simulated ones.

    Raises
    ------
    ImageError
        Names the file.
    """
    least = max(LEAST_SIDE, settings.learnt.crop if settings.learns else 0)
    for micrograph in micrographs.values():
        height, width = micrograph.shape
        if min(max(1, round(side * zoom)) for side in (height, width)) < least:
            raise ImageError(
                f"{micrograph.path}: image has {width} x {height} pixels; at the zoom of its grains, "
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
    workers = jobs if settings.structures >= PARALLEL_FROM else 1
    sizes = {"seed": settings.seed, "ranges": settings.ranges}
    library.build(run / "library", settings.structures, **sizes, jobs=workers, progress=progress)
    return [library.load(run / "library", index) for index in range(settings.structures)]


def make_pairs(
    settings: AdaptSettings,
    structures: list[Structure],
    generator: torch.nn.Module | None,
    microscopes: list[int],
    jobs: int,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Training images as 8-bit greys and their boundaries: the translations, then the renderings."""
    pairs = []
    if settings.translated:
        pairs += simulated_pairs(structures, settings.translated, generator, seed=settings.seed)
    maps = [structure.grain_map for structure in structures]
    pairs += render_pairs(maps, microscopes, settings.seed, jobs=jobs, progress=progress)
    greys = (255 * np.stack([pair.image for pair in pairs])).round().astype(np.uint8)
    return {"images": greys, "boundaries": np.stack([pair.boundary for pair in pairs])}


def read_pairs(arrays: dict[str, np.ndarray]) -> list[Micrograph]:
    """Training images from the arrays of `make_pairs`."""
    images = arrays["images"] / np.float32(255)
    return [Micrograph(image, boundary=b, virtual=True) for image, b in zip(images, arrays["boundaries"])]


def train(
    run: RunFolder,
    settings: AdaptSettings,
    pairs: list[Micrograph],
    intercept: float,
    device: str | None,
    progress: bool,
) -> tuple[torch.nn.Module, dict]:
    """The trained U-Net and its card."""
    if settings.start is None:
        model = UNet(width=settings.width, depth=settings.depth, seed=settings.seed)
    else:
        model = load_segmenter(weights=settings.start, device=device).model
    history = train_segmenter.fit_unet(
        model,
        pairs,
        steps=settings.steps,
        lr=settings.lr,
        crop=settings.crop,
        batch=settings.batch,
        seed=settings.seed,
        checkpoint_every=100,
        folder=run / "training",
        device=device,
        progress=progress,
    )
    styles = {"render": "under a virtual SEM", "mixed": "half translated, half under a virtual SEM"}
    style = styles.get(settings.style, f"translated by {settings.style}")
    card = model_card(
        model,
        history,
        trained_by=f"microlab adapt, style {settings.style}, from {settings.start or 'random weights'}",
        data=f"{settings.images} images of simulated polycrystals, {style}; no label. "
        f"The style was matched to {len(run.settings['images'])} unlabelled images"
        + (", batch-norm statistics re-estimated on them" if settings.batch_norm else ""),
        scores={},
        seed=settings.seed,
        licence="yours",
        grain_size_px=intercept,
        training=asdict(settings),
    )
    return model, card


def segment(
    run: RunFolder,
    micrographs: dict[str, Micrograph],
    notes: dict[str, list[str]],
    folders: list[Path],
    network: Segmenter,
    shipped: Segmenter,
    options: Options,
    progress: bool,
) -> dict[str, dict]:
    """Segment every image, with its uncertainty; a finished one leaves its numbers in the run's folder."""
    numbers = {}
    work = list(zip(micrographs.items(), folders))
    for (name, micrograph), folder in tqdm(work, unit="image", desc="segment", disable=not progress):
        file = f"segmented/{folder.name}.json"
        source = {"weights": network.card["sha256"], "pixel_size": micrograph.pixel_size}
        before = run.read(file)
        if before is None or before["source"] != source or not (folder / "run.json").is_file():
            result = image_results.segment_micrograph(
                micrograph, folder, network, options, other=shipped, notes=notes[name]
            )
            before = {"source": source, **results.numbers_of(result)}
            run.write(file, before)
            run.log(f"{name} -> {folder}: {report.one_line(result)}")
        numbers[folder.name] = before
    return numbers
