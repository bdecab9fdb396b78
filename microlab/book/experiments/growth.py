"""Grain growth imaged by a microscope: frames, their segmentation, and the growth rate of both.

    phase field -> frames -> micrograph of each -> segmentation of each -> mean size against time -> k

The parts are elsewhere: the physics in :mod:`microlab.simulate.phasefield`, the network in
:mod:`microlab.segment.segmenter`, size and law in :mod:`microlab.measure.growth`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from microlab.data.run_folder import RunFolder
from microlab.measure import growth
from microlab.measure.two_sample import percentile_interval
from microlab.render.flat import untextured
from microlab.render.sem import Microscope, render
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmentation, Segmenter
from microlab.simulate import voronoi
from microlab.simulate.phasefield import GrainGrowth, Parameters

# (grain map (H, W) int, boundary mask (H, W) bool, seed) -> micrograph (H, W) float32 in [0, 1]
Image = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """A growing polycrystal and the times of its frames.

    The defaults start with 20 px from grain to grain, so that the first frame, after the initial transient of
    the tessellation, has grains that a network trained on larger ones still resolves.

    Raises
    ------
    ValueError
        If there are fewer than two grains or frames, or the times do not rise.
    """

    shape: tuple[int, int] = (768, 768)  # px
    grains: int = 1474  # at time 0: one for each 400 px^2
    start: float = 250.0  # time of the first frame; the transient before it is not fitted
    end: float = 2000.0  # time of the last frame
    frames: int = 12
    dt: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.grains < 2 or self.frames < 2:
            raise ValueError(
                f"grains and frames must be at least 2, got grains = {self.grains}, frames = {self.frames}"
            )
        if not 0 <= self.start < self.end:
            raise ValueError(f"times must rise from start >= 0 to end, got {self.start} and {self.end}")

    @property
    def steps(self) -> list[int]:
        """Step of each frame."""
        return [round(t / self.dt) for t in np.linspace(self.start, self.end, self.frames)]


@dataclass(frozen=True)
class Grown:
    """The simulated structure at one time.

    Attributes
    ----------
    time : float
    grain_map : (H, W) int32
        Periodic. A grain keeps its id in all frames, and the largest id is that of a large grain of the first
        frame, so that a grey assigned by id stays the same in every frame.
    boundary : (H, W) bool
    """

    time: float
    grain_map: np.ndarray
    boundary: np.ndarray


@dataclass(frozen=True)
class Frame:
    """One time, simulated, imaged and segmented."""

    grown: Grown
    micrograph: np.ndarray  # (H, W) float32 in [0, 1]
    segmentation: Segmentation

    @property
    def truth(self) -> np.ndarray:
        """Label image of the true grains, cut by the frame, (H, W) int, 1..n."""
        return growth.grain_pieces(self.grown.grain_map)


def virtual_sem(microscope: Microscope | None = None) -> Image:
    """The virtual SEM as an `image` callable: one microscope for the whole sequence.

    Grains keep grey, tilt and texture from frame to frame; grooves and noise are new.
    """
    chosen = microscope or Microscope()
    return lambda grain_map, boundary, seed: render(grain_map, chosen, seed=seed)


def translated(generator: object, *, device: str | None = None) -> Image:
    """A learnt style as an `image` callable: the flat rendering of each frame, translated.

    Parameters
    ----------
    generator : microlab.generate.networks.Generator
        F: simulation to micrograph.
    device : str, optional
    """
    from microlab.generate.style import translate

    def image(grain_map: np.ndarray, boundary: np.ndarray, seed: int) -> np.ndarray:
        return translate(generator, untextured(grain_map, boundary, seed=seed), seed=seed, device=device)

    return image


def grow(
    settings: Settings = Settings(), *, folder: str | os.PathLike | None = None, progress: bool = True
) -> Iterator[Grown]:
    """Grow grains and yield the frames as they come.

    Parameters
    ----------
    settings : Settings
    folder : path, optional
        Receives the frames, each written atomically, and the state of the simulation. The next call with the
        same settings yields the stored frames and resumes with the same numbers. To cancel, stop iterating.
    progress : bool

    Raises
    ------
    ValueError
        If `folder` was made with other settings.
    """
    run = _run_folder(folder, "growth", asdict(settings))
    state = run and run / "simulation.safetensors"
    simulation, largest = None, None

    def make(step: int) -> dict[str, object]:
        nonlocal simulation, largest
        if simulation is None:
            simulation = _resume(settings, state, step)
        simulation.run(step - simulation.step_count)
        if state is not None:
            simulation.save(state)
        grain_map = simulation.grain_map()
        if largest is None:
            largest = int(np.bincount(grain_map.ravel()).argmax())
        return {
            "time": simulation.time,
            "grain_map": _swapped(grain_map, largest, settings.grains - 1),
            "boundary": simulation.boundary_mask(),
            "swap": largest,
        }

    for k, step in enumerate(tqdm(settings.steps, desc="grain growth", disable=not progress)):
        frame = _once(run, k, make, step)
        largest = int(frame["swap"])
        yield Grown(float(frame["time"]), frame["grain_map"], frame["boundary"])


def observe(
    frames: Iterable[Grown],
    image: Image | None = None,
    *,
    network: Segmenter | None = None,
    scale: float | None = 1.0,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    name: str = "virtual-sem",
) -> Iterator[Frame]:
    """Image and segment every frame.

    Parameters
    ----------
    frames : iterable of Grown
    image : callable, optional
        Makes a micrograph of a frame; `virtual_sem` by default.
    network : Segmenter, optional
        By default the shipped one, loaded with the first frame that is not stored.
    scale : float or None
        Magnification before the network, one for the whole sequence. None estimates it anew in every frame,
        as for single images; its error then changes from frame to frame.
    seed : int
        The same for every frame, so that a grain keeps its grey.
    folder, name
        Frames are written to ``folder/name`` and read by the next call. Use one name for one `image` and
        network: neither is checked against the stored frames.

    Raises
    ------
    ValueError
        If the folder was made with another scale or seed, or a micrograph differs in size from its frame.
    """
    image = image or virtual_sem()
    run = _run_folder(folder, name, {"scale": scale, "seed": seed})

    def make(grown: Grown) -> dict[str, object]:
        nonlocal network
        network = network or load_segmenter("label-free")
        micrograph = np.asarray(image(grown.grain_map, grown.boundary, seed), np.float32)
        if micrograph.shape != grown.grain_map.shape:
            raise ValueError(f"image gave {micrograph.shape} for a frame of {grown.grain_map.shape}")
        segmentation = network.segment(micrograph, zoom=scale)
        return {
            "micrograph": micrograph,
            "probability": segmentation.probability,
            "boundary": segmentation.boundary,
            "labels": segmentation.labels,
            "zoom": segmentation.zoom,
        }

    for k, grown in enumerate(frames):
        arrays = _once(run, k, make, grown)
        parts = (arrays[part] for part in ("probability", "boundary", "labels"))
        yield Frame(grown, arrays["micrograph"], Segmentation(*parts, float(arrays["zoom"])))


def sequence(
    settings: Settings = Settings(),
    image: Image | None = None,
    *,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
    **options,
) -> Iterator[Frame]:
    """Grow, image and segment: `grow` and `observe` in one; `options` are those of `observe`."""
    return observe(grow(settings, folder=folder, progress=progress), image, folder=folder, **options)


@dataclass(frozen=True)
class Measured:
    """Growth curves of one sequence.

    Attributes
    ----------
    table : DataFrame
        One row per frame: ``time``; ``exact``, mean area by the periodic simulation's own count, px^2; and of
        the true grains in the frame (``true``) and the segmented ones (``found``) the mean area, its interval
        (``_low``, ``_high``) and standard error (``_error``), all by `measure.growth.mean_size`.
    true_counts, found_counts : (T, B) float
        Grains per block of the field.
    field_area : float
        px^2.
    """

    table: pd.DataFrame
    true_counts: np.ndarray
    found_counts: np.ndarray
    field_area: float


@dataclass(frozen=True)
class Kinetics:
    """The parabolic law in the truth and in the segmented frames.

    `ratio` is k of the segmented frames over k of the true ones by the same estimator, with an interval from
    resampling blocks of the field; `ratio_exact` is over k of the simulation's own count.
    """

    exact: growth.ParabolicFit
    true: growth.ParabolicFit
    found: growth.ParabolicFit
    ratio: float
    ratio_low: float
    ratio_high: float
    ratio_exact: float


def measure(
    frames: Iterable[Frame],
    *,
    min_area: int = growth.MIN_AREA,
    blocks: tuple[int, int] = (6, 6),
    seed: int = 0,
) -> Measured:
    """Mean grain size in every frame, true and segmented by the same estimator."""
    rows, counts = [], {"true": [], "found": []}
    for frame in frames:
        row = {"time": frame.grown.time, "zoom": frame.segmentation.zoom}
        row["exact"] = frame.grown.grain_map.size / len(np.unique(frame.grown.grain_map))
        for name, labels in (("true", frame.truth), ("found", frame.segmentation.labels)):
            size = growth.mean_size(labels, min_area=min_area, seed=seed)
            row |= {name: size.area, f"{name}_low": size.area_low, f"{name}_high": size.area_high}
            row |= {f"{name}_error": size.error, f"{name}_count": size.count}
            counts[name].append(growth.block_counts(labels, blocks, min_area=min_area))
        rows.append(row)
        height, width = frame.truth.shape
    return Measured(
        pd.DataFrame(rows),
        np.array(counts["true"]),
        np.array(counts["found"]),
        float((height - 1) * (width - 1)),
    )


def kinetics(
    measured: Measured, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Kinetics:
    """Fit the parabolic law to the truth and to the segmented frames and compare the slopes.

    All fits weight the frames by the errors of the true sizes, so that they are comparable.
    """
    table = measured.table
    error = table["true_error"]
    curves = {
        name: growth.resample_blocks(counts, measured.field_area, resamples=resamples, seed=seed)
        for name, counts in (("true", measured.true_counts), ("found", measured.found_counts))
    }
    fits = {
        name: growth.fit_parabola(
            table["time"],
            table[name],
            error,
            resampled=curves.get(name, curves["true"]),
            confidence=confidence,
        )
        for name in ("exact", "true", "found")
    }
    ratios = growth.slopes(table["time"], error, curves["found"]) / growth.slopes(
        table["time"], error, curves["true"]
    )
    low, high = percentile_interval(ratios, confidence)
    return Kinetics(
        **fits,
        ratio=fits["found"].k / fits["true"].k,
        ratio_low=float(low),
        ratio_high=float(high),
        ratio_exact=fits["found"].k / fits["exact"].k,
    )


def _resume(settings: Settings, state: Path | None, step: int) -> GrainGrowth:
    """The stored simulation if it has not passed `step`, else a new one."""
    if state is not None and state.exists():
        simulation = GrainGrowth.load(state)
        if simulation.step_count <= step:
            return simulation
    seeds = voronoi.random_seeds(settings.grains, settings.shape, seed=settings.seed)
    return GrainGrowth(voronoi.tessellate(seeds, settings.shape), Parameters(dt=settings.dt))


def _swapped(grain_map: np.ndarray, a: int, b: int) -> np.ndarray:
    """The grain map with ids a and b exchanged."""
    return np.where(grain_map == a, b, np.where(grain_map == b, a, grain_map)).astype(np.int32)


def _run_folder(folder: str | os.PathLike | None, name: str, settings: dict[str, object]) -> RunFolder | None:
    return None if folder is None else RunFolder(Path(folder) / name, settings)


def _once(
    run: RunFolder | None, k: int, make: Callable[..., dict[str, object]], *arguments: object
) -> dict[str, object]:
    """Arrays of frame `k`: from its file if it exists, else computed, and written if there is a folder."""
    return make(*arguments) if run is None else run.arrays(f"{k:04d}.npz", make, *arguments)
