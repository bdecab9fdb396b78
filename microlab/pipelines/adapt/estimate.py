"""How long an adaptation will take on this machine: a few steps of each stage are timed.

seconds(stage) = number of steps * seconds of a step measured now,     over the processes that share them
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs
from safetensors import safe_open

from microlab.data import transforms
from microlab.generate.style import learn_style
from microlab.measure.features import texture
from microlab.pipelines import train_segmenter, training_pairs
from microlab.pipelines.adapt import microscopes, record
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import simulated_pairs
from microlab.segment import segmenter
from microlab.segment.unet import UNet, predict
from microlab.simulate import library
from microlab.simulate.library import StructureParameters
from microlab.training.fit import FitConfig, fit

STAGES = ("library", "style", "pairs", "training", "realism", "held out", "segment")
WORKER_START = 6.0  # s that processes take to load torch, none of it work; a guess for two cores
WORTH_WORKERS = 20.0  # s of work below which one process is quicker than several
HELD_OUT_VIEWS = 3  # virtual micrographs of each held-out structure
RESERVE = 1.2  # of the disk space that the files take


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of each stage from nothing, and whether several processes are worth their start."""

    seconds: dict[str, float]
    share: dict[str, bool]

    def left(self, shares: dict[str, float]) -> float:
        """Seconds that remain when a share of each stage is done."""
        return sum(seconds * (1 - shares.get(stage, 0.0)) for stage, seconds in self.seconds.items())


def estimate(
    settings: AdaptSettings,
    real: dict[str, np.ndarray],
    zoom: float,
    *,
    jobs: int = -1,
    device: str | None = None,
) -> Estimate:
    """Try a little of every stage and multiply.

    Parameters
    ----------
    settings : AdaptSettings
    real : dict of str to (H, W) float32 in [0, 1]
        The images at the network's scale.
    zoom : float
        Their magnification.
    jobs : int
        Processes; -1 for one per core.
    device : str, optional

    Returns
    -------
    Estimate
    """
    rng = np.random.default_rng(settings.seed)
    structure, growth = _growth_seconds(settings, int(np.mean(settings.ranges.grains)))
    grain_map = structure.grain_map
    render, pair = timed(lambda: training_pairs.render_pair(grain_map, [settings.seed]))
    image, look = next(iter(real.values())), pair.image
    serial = {"library": growth * settings.structures}
    rendered = settings.images - settings.translated
    serial["pairs"] = rendered * render
    if rendered and settings.candidates > 1:
        part = grain_map[: microscopes.LOOK, : microscopes.LOOK]
        candidate = (
            timed(lambda: microscopes.nearest_microscopes([part], [image], 1, 2, 0, progress=False))[0] / 3
        )
        serial["pairs"] += rendered * settings.candidates * candidate
    processes = effective_n_jobs(jobs)
    share = {stage: processes > 1 and s > WORTH_WORKERS for stage, s in serial.items()}
    seconds = {stage: s / processes + WORKER_START if share[stage] else s for stage, s in serial.items()}
    if settings.learns:
        clean = flat_images([structure])[0]

        def learn(steps: int):
            brief = replace(settings.learnt, steps=steps)
            return learn_style({"probe": clean}, real, brief, device=device, progress=False)

        seconds["style"] = settings.learnt.steps * per_step(learn)
        model = learn(1)[0]
        once = timed(lambda: simulated_pairs([structure], 1, model.F))[0]
        seconds["pairs"] += settings.translated * once
    network = starting_network(settings)
    batches = train_segmenter.crops([pair], settings.crop, settings.batch, 0)

    def train(steps: int) -> None:
        brief = FitConfig(steps=steps, checkpoint_every=10**9)
        fit(copy.deepcopy(network), batches, train_segmenter.pair_loss, brief, device=device, progress=False)

    seconds["training"] = settings.steps * per_step(train)
    noise = rng.random((8, 64, 64))
    seconds["realism"] = 4 * settings.patches * timed(lambda: texture(noise))[0] / len(noise)
    seen, labelled, _ = _look_seconds(network, look, device)
    looks = settings.views + 2  # the views, the shipped network, and the segmentation itself
    n = settings.held_out * HELD_OUT_VIEWS
    seconds["held out"] = n * (looks * (seen + labelled) + render)
    seen, labelled, size = _look_seconds(network, image, device)
    shares = sum(other.size for other in real.values()) / size
    seconds["segment"] = shares * (looks * (seen + labelled) + labelled / zoom**2) + 0.7 * len(real)
    return Estimate({stage: seconds[stage] for stage in STAGES if stage in seconds}, share)


def shares_done(folder: Path, settings: AdaptSettings, images: int) -> dict[str, float]:
    """Share of each stage that lies complete in the working folder."""
    made = len(list(folder.glob("library/structures/[0-9]*[0-9]/structure.json")))
    shares = {
        "library": min(made / settings.structures, 1.0),
        "style": _steps_done(folder / "style") / settings.learnt.steps if settings.learns else 1.0,
        "pairs": float((folder / "pairs.npz").is_file()),
        "training": _steps_done(folder / "training") / settings.steps,
        "realism": float((folder / "realism.json").is_file()),
        "held out": float((folder / "held_out.json").is_file()),
        "segment": len(list(folder.glob("sections/*.json"))) / images,
    }
    return {stage: min(share, 1.0) for stage, share in shares.items()}


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


def starting_network(settings: AdaptSettings) -> UNet:
    """The network before training: the weights to go on from, or a new one."""
    if settings.start is None:
        return UNet(width=settings.width, depth=settings.depth, seed=settings.seed)
    return segmenter.load_network(settings.start)[0]


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of a piece of work, and what it returned."""
    start = record.clock()
    result = work()
    return record.clock() - start, result


def per_step(run: Callable[[int], object], steps: int = 5) -> float:
    """Seconds of one step of ``run(steps)``."""
    run(1)  # what is done once per process
    return timed(lambda: run(steps))[0] / steps


def _growth_seconds(settings: AdaptSettings, grains: int) -> tuple[library.Structure, float]:
    """A structure grown for a moment, and the seconds that a whole one takes."""
    ranges = settings.ranges
    few, many = 2, 52

    def grow(steps: int) -> library.Structure:
        return library.simulate_structure(
            StructureParameters(
                0, settings.seed, grains, float(np.mean(ranges.alpha)), steps, ranges.threshold,
                ranges.kappa, ranges.dt, tuple(ranges.shape), 0.0,
            )
        )  # fmt: skip

    grow(few)
    start, _ = timed(lambda: grow(few))
    longer, structure = timed(lambda: grow(many))
    step = max(longer - start, 1e-5) / (many - few)
    return structure, start + step * float(np.mean(ranges.steps))


def _look_seconds(network: UNet, image: np.ndarray, device: str | None) -> tuple[float, float, int]:
    """Seconds of one prediction and of its watershed on a window of the image, and the window's pixels."""
    window = image[:512, :512]
    seen = transforms.standardise(window)
    predict(network, seen, device=device)
    one, probability = timed(lambda: predict(network, seen, device=device))
    two, _ = timed(lambda: segmenter.grains_of(probability, {}))
    return one, two, window.size


def _steps_done(folder: Path) -> int:
    """The step of a training's checkpoint, 0 without one."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["run"])["step"])
