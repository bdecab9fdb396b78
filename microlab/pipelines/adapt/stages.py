"""The stages of an adaptation, each of which resumes.

Everything made on the way lies in ``OUT/adaptation``; a stage whose files are complete is not repeated, and
the library, the style and the training go on in their middle. The same call after a kill gives the same
weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from microlab.data import weights
from microlab.data.files import sha256
from microlab.data.micrograph import Micrograph
from microlab.generate.style import learn_style
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines import image_results, train_segmenter, training_pairs
from microlab.pipelines.adapt import microscopes, results
from microlab.pipelines.adapt.estimate import Estimate, check_space, estimate, shares_done, starting_network
from microlab.pipelines.adapt.record import WORKSHOP, Record, duration, read_pairs, write_pairs
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.adapt.sources import at_network_scale, grain_scale, grain_size, read_images
from microlab.pipelines.image_results import Options
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import simulated_pairs
from microlab.segment.adabn import adapt_batch_norm
from microlab.segment.registry import load_segmenter
from microlab.simulate import library
from microlab.simulate.library import Structure
from microlab.training import devices
from microlab.training.cards import model_card


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation made and what it says about itself.

    Attributes
    ----------
    weights, report : Path
    zoom : float
        Magnification at which the adapted network looks at the images.
    expected : Estimate
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
    expected: Estimate
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
    tell: Callable[[str], None] = lambda line: None,
) -> AdaptResult:
    """Adapt a segmentation network to unlabelled images, and segment them.

    Parameters
    ----------
    paths : list of path
        Image files, or folders of them, of one material at one magnification.
    out : path
        Receives ``adapted.safetensors`` with its card, a folder for every image as `microlab segment` makes
        it with ``uncertainty.tif`` and ``.png`` besides, ``uncertainty.csv`` and ``report.html``.
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
    tell : callable
        Receives lines of text: what is found, how long it will take, how long each stage took.

    Returns
    -------
    AdaptResult

    Raises
    ------
    ValueError
        If there is no image, one cannot be used (its file is named), or `out` holds an adaptation with other
        settings or images.
    OSError
        If something cannot be written. What is complete is kept.
    """
    settings, options, out = settings or AdaptSettings(), options or Options(), Path(out)
    devices.pick_device(options.device)  # a wrong device fails before anything is made
    shipped = load_segmenter(device=options.device)
    micrographs = read_images(image_results.find_images(paths), options)
    asked = {
        "settings": asdict(settings),
        "data_bar": {"data_bar": options.data_bar},
        "scale": {"scale": options.zoom},
        "images": {name: sha256(micrograph.path) for name, micrograph in micrographs.items()},
    }
    record = Record(out / WORKSHOP, asked, fresh=fresh, tell=tell)
    check_space(record.folder, settings)
    with record.stage("grain scale"):
        zooms = record.once("scale.json", lambda: grain_scale(micrographs, shipped, options))
    zoom = float(np.median(list(zooms.values())))
    tell(f"grain scale: {len(micrographs)} images, {grain_size(shipped[1], zoom)}, network's zoom {zoom:.2f}")
    if max(zooms.values()) > 2 * min(zooms.values()):
        far = max(zooms, key=lambda name: abs(np.log(zooms[name] / zoom)))
        tell(f"grain scale: {far} differs most, zoom {zooms[far]:.2f}; adapt to one magnification at a time")
    real = at_network_scale(micrographs, zoom, settings)

    def probe() -> dict:
        return asdict(estimate(settings, real, zoom, jobs=jobs, device=options.device))

    expected = Estimate(**record.once("expected.json", probe))
    shares = shares_done(record.folder, settings, len(micrographs))
    tell(_plan(expected, shares))

    def stage(name: str) -> AbstractContextManager:
        return record.stage(name, expected.seconds[name] if not shares[name] else None)

    with stage("library"):
        structures = simulate(record, settings, jobs if expected.share["library"] else 1, progress)
    maps = [structure.grain_map for structure in structures]
    intercept = float(np.mean([mean_intercept(grain_map) for grain_map in maps]))
    # The adapted network is to see the grain size of its own library.
    zoom *= intercept / shipped[1].get("grain_size_px", intercept)
    real = at_network_scale(micrographs, zoom, settings)
    known, unseen = structures[: -settings.held_out], structures[-settings.held_out :]
    generator = None
    if settings.learns:
        with stage("style"):
            generator = learn(record, settings, known, real, options.device, progress)
    with stage("pairs"):
        file = record.folder / "pairs.npz"
        if not file.is_file():
            workers = jobs if expected.share["pairs"] else 1
            made = make_pairs(settings, known, real, generator, workers, progress)
            write_pairs(file, made)
        training = read_pairs(file)
    path = out / "adapted.safetensors"
    with stage("training"):
        train(path, record, settings, training, real, intercept, options.device, progress)
    network = load_segmenter(weights=path, device=options.device)
    with stage("realism"):
        realism = record.once("realism.json", lambda: results.realism(real, training, known, settings))
        results.montage(real, training, settings, record.folder / results.MONTAGE)
    with stage("held out"):
        held_out = record.once(
            "held_out.json", lambda: results.held_out(network, unseen, settings, options.device)
        )
    with stage("segment"):
        sections = results.segment(
            record, out, micrographs, network, shipped, replace(options, zoom=zoom), settings, progress
        )
    tables = pd.DataFrame(**realism), pd.DataFrame(held_out), results.uncertainty_table(sections)
    seconds = record.seconds
    report = results.write(out, sections, network, *tables, expected.seconds, seconds, zoom)
    return AdaptResult(path, report, zoom, expected, seconds, *tables)


def simulate(record: Record, settings: AdaptSettings, jobs: int, progress: bool) -> list[Structure]:
    """The library, built or completed, and read."""
    folder = record.folder / "library"
    library.build(
        folder, settings.structures, seed=settings.seed, ranges=settings.ranges, jobs=jobs, progress=progress
    )
    return [library.load(folder, index) for index in range(settings.structures)]


def learn(
    record: Record,
    settings: AdaptSettings,
    structures: list[Structure],
    real: dict[str, np.ndarray],
    device: str | None,
    progress: bool,
) -> torch.nn.Module:
    """The generator that gives simulations the look of the images."""
    simulated = flat_images(structures, seed=settings.seed)
    model, _ = learn_style(
        simulated, real, settings.learnt, folder=record.folder / "style", device=device, progress=progress
    )
    return model.F.eval()


def make_pairs(
    settings: AdaptSettings,
    structures: list[Structure],
    real: dict[str, np.ndarray],
    generator: torch.nn.Module | None,
    jobs: int,
    progress: bool,
) -> list[Micrograph]:
    """Training images with their masks, in the style asked for."""
    made = []
    if settings.translated:
        made += simulated_pairs(structures, settings.translated, generator, seed=settings.seed)
    if n := settings.images - settings.translated:
        maps, seed = [structure.grain_map for structure in structures], settings.seed
        chosen = microscopes.nearest_microscopes(
            maps, list(real.values()), n, settings.candidates, seed, jobs=jobs, progress=progress
        )
        made += training_pairs.render_pairs(maps, chosen, seed, jobs=jobs, progress=progress)
    return made


def train(
    path: Path,
    record: Record,
    settings: AdaptSettings,
    training: list[Micrograph],
    real: dict[str, np.ndarray],
    intercept: float,
    device: str | None,
    progress: bool,
) -> None:
    """Train the U-Net and write its weights and card, unless this adaptation has done so."""
    if path.is_file() and record.read("trained.json") == sha256(path):
        return
    model = starting_network(settings)
    history = train_segmenter.fit_unet(
        model,
        training,
        steps=settings.steps,
        lr=settings.lr,
        crop=settings.crop,
        batch=settings.batch,
        seed=settings.seed,
        checkpoint_every=100,
        folder=record.folder / "training",
        device=device,
        progress=progress,
    )
    if settings.batch_norm:
        model = adapt_batch_norm(model, list(real.values()), seed=settings.seed)
    looks = {"render": "under a virtual SEM", "mixed": "half translated, half under a virtual SEM"}
    look = looks.get(settings.style, f"translated by {settings.style}")
    card = model_card(
        model,
        history,
        trained_by=f"microlab adapt, style {settings.style}, from {settings.start or 'random weights'}",
        data=f"{settings.images} images of simulated polycrystals, {look}; no label. "
        f"The style was matched to {len(record.read('run.json')['asked']['images'])} unlabelled images"
        + (", batch-norm statistics re-estimated on them" if settings.batch_norm else ""),
        scores={},
        seed=settings.seed,
        licence="yours",
        grain_size_px=intercept,
        recipe=asdict(settings),
    )
    weights.save(path, model, card, half=True)
    record.write("trained.json", sha256(path))


def _plan(expected: Estimate, shares: dict[str, float]) -> str:
    """How long it is likely to take, and what is already done."""
    done = [
        stage if shares[stage] == 1 else f"{shares[stage]:.0%} of {stage}"
        for stage in expected.seconds
        if shares[stage] > 0
    ]
    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in expected.seconds.items())
    if not done:
        return f"expected to take about {duration(expected.left(shares))} on this machine ({parts})"
    return f"already done: {', '.join(done)}; about {duration(expected.left(shares))} left on this machine"
