"""How long an adaptation will take, from short measurements on this machine.

    time of a stage = how often it does something x how long that takes, measured on a middling structure

The first step of a training is slow and does not count. Measuring takes some ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from microlab.data.parallel import torch_threads, workers
from microlab.data.run_folder import duration
from microlab.generate.style import learn_style
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines.adapt.candidates import nearest_fields
from microlab.pipelines.adapt.settings import HELD_OUT_VIEWS, AdaptSettings
from microlab.pipelines.adapt.training import fit_network
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import draw_pair, simulated_pairs
from microlab.segment.evidence import WINDOW
from microlab.segment.segmenter import Segmenter
from microlab.simulate import library
from microlab.training.fit import History

STEPS = 3  # of each training, of which all but the first are timed
VIEWS_TO_JUDGE = 4  # windows of each image that are seen before the adapted network is compared
LOOKS = 15  # the same of both networks: seven zooms and four views for the default
PARALLEL_FROM = 20  # structures or images; for fewer, processes take longer to start than to work
TIMED = {  # stages of the run that a part of the estimate stands for
    "library": ("library",),
    "style": ("style",),
    "pairs": ("pairs",),
    "training": ("training",),
    "images": ("realism", "held out", "accept", "segment"),
}


def processes(jobs: int, tasks: int) -> int:
    """Processes for a number of structures or images, `jobs` as in `microlab.data.parallel.workers`."""
    return workers(jobs, tasks) if tasks >= PARALLEL_FROM else 1


def estimate(
    settings: AdaptSettings,
    areas: Sequence[float],
    look: float,
    default: Segmenter,
    jobs: int,
    device: str | None = None,
) -> dict[str, float]:
    """Seconds of an adaptation on this machine, by the parts in `TIMED`.

    Parameters
    ----------
    settings : AdaptSettings
    areas : sequence of float
        Of the images, in squared mean intercepts of their grains.
    look : float
        Seconds in which the default chose method and zoom for one of the images.
    default : Segmenter
    jobs : int
        Processes; -1 for one per core.
    device : str, optional
    """
    steps, grains = (round(sum(pair) / 2) for pair in (settings.ranges.steps, settings.ranges.grains))
    middling = replace(settings.ranges, steps=(steps, steps), grains=(grains, grains))
    first = replace(middling, steps=(1, 1))
    with torch_threads(1):  # as in the library's processes
        _seconds(library.simulate_structure, library.draw_parameters(0, settings.seed, first))  # compiles
        parameters = library.draw_parameters(0, settings.seed, middling)
        one_structure, structure = _timed(library.simulate_structure, parameters)
    grain_map = structure.grain_map
    one_rendering, pair = _timed(draw_pair, grain_map, [settings.seed, 0])
    rendered = settings.images - settings.translated
    several = (settings.candidates, settings.seed, 1, False)
    one_choice = _seconds(nearest_fields, [grain_map], [pair.image], 1, *several)
    pairs = rendered * (one_rendering + one_choice) / processes(jobs, rendered)

    style = 0.0
    if settings.learns:
        how = replace(settings.learnt, steps=STEPS, log_every=1)
        flat = flat_images([structure])
        translator, history = learn_style(flat, [pair.image], how, device=device, progress=False)
        style = settings.learnt.steps * _per_step(history)
        pairs += settings.translated * _seconds(simulated_pairs, [structure], 1, translator.F.eval())
    few = replace(settings, steps=STEPS)
    _, history = fit_network([pair], [grain_map], few, device=device, log_every=1)
    training = settings.steps * _per_step(history)
    window = pair.image[:WINDOW, :WINDOW]
    network = default.methods()[0]
    per_pixel = _seconds(network.segment, window, zoom=1.0) / window.size
    own = [(area * mean_intercept(grain_map) ** 2, VIEWS_TO_JUDGE) for area in areas]
    virtual = [(grain_map.size, LOOKS)] * (HELD_OUT_VIEWS * settings.held_out)
    looked_at = sum((settings.views + 2) * area + n * min(area, WINDOW**2) for area, n in own + virtual)
    return {
        "library": settings.structures * one_structure / processes(jobs, settings.structures),
        "style": style,
        "pairs": pairs,
        "training": training,
        # The default chooses twice: to be compared, and to segment where it is kept.
        "images": float(per_pixel * looked_at + 2 * look * len(areas)),
    }


def in_words(seconds: dict[str, float]) -> str:
    """An estimate in one line: ``about 14 min: library 2 min, style 6 min, ...``."""
    parts = ", ".join(f"{name} {duration(spent)}" for name, spent in seconds.items() if spent)
    return f"about {duration(sum(seconds.values()))}: {parts}"


def compared(estimated: dict[str, float], spent: dict[str, float]) -> str:
    """The estimate beside the time that the stages took, in one sentence."""
    took = sum(spent.get(stage, 0.0) for stages in TIMED.values() for stage in stages)
    total = sum(estimated.values())
    return (
        f"Before the long stages began, {duration(total)} were estimated for them; they took "
        f"{duration(took)}, {took / total:.2f} times as long."
    )


def _timed(work: Callable, *arguments: object, **keywords: object) -> tuple[float, object]:
    start = time.perf_counter()
    result = work(*arguments, **keywords)
    return time.perf_counter() - start, result


def _seconds(work: Callable, *arguments: object, **keywords: object) -> float:
    return _timed(work, *arguments, **keywords)[0]


def _per_step(history: History) -> float:
    """Seconds of a step that is not the first, which is slow."""
    seconds = [row["seconds"] for row in history.rows]
    return (seconds[-1] - seconds[0]) / (len(seconds) - 1)
