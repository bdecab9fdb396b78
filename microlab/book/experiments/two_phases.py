"""Two-phase polycrystals: what a network trained on one phase misses, and the gain from two-phase data.

    two-phase phase field -> grain map, phase map -> virtual SEM with phase contrast -> (image, mask) pairs

The truth holds all boundaries: between two grains of a phase, and between the phases.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from skimage.morphology import skeletonize

from microlab.data.micrograph import Micrograph
from microlab.measure.boundary import distance_to
from microlab.measure.scores import score, trivial_prediction
from microlab.pipelines import train_segmenter
from microlab.pipelines.training_pairs import eight_bits
from microlab.render import sem
from microlab.render.specimen import Phases, boundary_geometry
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmenter
from microlab.segment.unet import UNetSegmenter
from microlab.simulate import multiphase, voronoi

TOLERANCE = 3.0  # px, of the recalls
TRIVIAL = "one grain"


@dataclass(frozen=True)
class Structure:
    """A two-phase polycrystal, periodic.

    Attributes
    ----------
    grain_map : (H, W) int32
    phase_map : (H, W) uint8
        `multiphase.ALPHA` or `multiphase.BETA`.
    """

    grain_map: np.ndarray
    phase_map: np.ndarray


@dataclass(frozen=True)
class PhasePicture:
    """A virtual micrograph of two phases.

    Attributes
    ----------
    image : (H, W) float32 in [0, 1]
    truth : (H, W) bool
        True on boundaries, of grains and of phases.
    border : (H, W) bool
        True where the nearest boundary lies between the phases.
    """

    image: np.ndarray
    truth: np.ndarray
    border: np.ndarray


def grow(seed: int, size: int = 192, number: int = 24, steps: int = 200, fraction: float = 0.35) -> Structure:
    """Grow a two-phase polycrystal from random cells.

    Parameters
    ----------
    seed : int
    size, number : int
        Side in pixels, and cells before growth.
    steps : int
    fraction : float in [0, 1]
        Share of beta.
    """
    cells = voronoi.tessellate(voronoi.random_seeds(number, (size, size), seed), (size, size))
    grown = multiphase.TwoPhaseGrowth(cells, multiphase.assign_phases(cells, fraction, seed)).run(steps)
    return Structure(grown.grain_map(), grown.phase_map())


def render(
    solid: Structure,
    seed: int,
    *,
    step: float | None = None,
    groove: float | None = None,
    microscope: sem.Microscope | None = None,
) -> PhasePicture:
    """A virtual micrograph of a two-phase polycrystal.

    Parameters
    ----------
    solid : Structure
    seed : int
        Of the microscope, its noise, and the settings left to chance.
    step : float, optional
        Brightness of beta above alpha; drawn from 0.1 to 0.35, of either sign, by default.
    groove : float, optional
        Depth of grooves on phase borders over that on grain boundaries; by default 0 in half of the pictures,
        and drawn from 0 to 1 in the others.
    microscope : Microscope, optional
        Drawn at random by default, without drift and jitter, so that the maps lie on the picture.
    """
    rng = np.random.default_rng([seed, 2])
    drawn_step, drawn_groove = rng.choice([-1, 1]) * rng.uniform(0.1, 0.35), rng.integers(2) * rng.random()
    m = sem.draw_microscope(seed) if microscope is None else microscope
    m = replace(m, drift=0.0, line_jitter=0.0)
    phases = Phases(
        solid.phase_map,
        float(drawn_step) if step is None else step,
        float(drawn_groove) if groove is None else groove,
    )
    image, distance = sem.render(solid.grain_map, m, seed=seed, return_distance=True, phases=phases)
    to_border = boundary_geometry(solid.phase_map.astype(np.int32)).distance
    return PhasePicture(image, distance <= m.boundary_half_width, to_border <= distance + 0.5)


def recalls(picture: PhasePicture, prediction: np.ndarray, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Recall of the true boundary by kind.

    Parameters
    ----------
    picture : PhasePicture
    prediction : (H, W) bool
        Predicted boundary mask.
    tolerance : float
        In px, between thinned lines.

    Returns
    -------
    dict
        ``recall, grain boundaries`` and ``recall, phase borders``; NaN where there are none.
    """
    lines, thin = skeletonize(picture.truth), skeletonize(prediction)
    near = distance_to(thin) <= tolerance
    kinds = {
        "recall, grain boundaries": lines & ~picture.border,
        "recall, phase borders": lines & picture.border,
    }
    return {name: float(near[kind].mean()) if kind.any() else float("nan") for name, kind in kinds.items()}


def evaluate(picture: PhasePicture, network: Segmenter) -> dict[str, float]:
    """Scores of a network on a two-phase picture, at zoom 1."""
    segmentation = network.segment(picture.image, zoom=1.0)
    return _scores(picture, segmentation.boundary, segmentation.labels)


def fine_tune(
    network: UNetSegmenter,
    pictures: list[PhasePicture],
    steps: int,
    *,
    seed: int = 0,
    crop: int = 128,
    batch: int = 4,
    lr: float = 1e-3,
    device: str | None = None,
    progress: bool = False,
) -> UNetSegmenter:
    """Fine-tune a copy of a network on pictures whose truth is known; `network` is unchanged."""
    model = copy.deepcopy(network.model)
    pairs = [Micrograph(eight_bits(p.image), boundary=p.truth) for p in pictures]
    train_segmenter.fit_unet(
        model,
        pairs,
        steps=steps,
        lr=lr,
        crop=crop,
        batch=batch,
        seed=seed,
        ema=0.98,
        device=device,
        progress=progress,
    )
    return replace(network, model=model.eval())


def study(
    network: UNetSegmenter | None = None,
    *,
    structures: int,
    pictures: int,
    test: int,
    steps: int,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """A network, one fine-tuned on two phases and a control on one, scored on unseen polycrystals.

    Parameters
    ----------
    network : UNetSegmenter, optional
    structures, pictures : int
        Two-phase polycrystals for training, and micrographs of them.
    test : int
        Polycrystals to score on, each with flat and with grooved phase borders, phases 0.15 apart.
    steps : int
        Of training; the control trains on as many pictures of the same grains without phases.

    Returns
    -------
    pandas.DataFrame
        One row per method, picture and groove, with the trivial baseline's.
    """
    network = network or load_segmenter("label-free")
    solids = [grow(seed + k) for k in range(structures)]
    training = [render(solids[k % structures], seed + 1000 + k) for k in range(pictures)]
    control = [
        replace(p, image=_without_phases(solids[k % structures], seed + 1000 + k))
        for k, p in enumerate(training)
    ]
    methods = {
        "shipped": network,
        "trained on two phases": fine_tune(network, training, steps, seed=seed, progress=progress),
        "control, trained on one": fine_tune(network, control, steps, seed=seed, progress=progress),
    }
    rows = []
    for k in range(test):
        solid = grow(seed + 500 + k)
        for groove in (0.0, 1.0):
            picture = render(solid, seed + 5000 + k, step=0.15, groove=groove)
            about = {"picture": k, "groove": groove}
            rows += [
                {"method": name} | about | evaluate(picture, segmenter) for name, segmenter in methods.items()
            ]
            prediction = trivial_prediction(picture.truth.shape)
            rows.append({"method": TRIVIAL} | about | _scores(picture, *prediction))
    return pd.DataFrame(rows)


def _without_phases(solid: Structure, seed: int) -> np.ndarray:
    """The picture that `render` makes of the same grains when all are of one phase."""
    m = replace(sem.draw_microscope(seed), drift=0.0, line_jitter=0.0)
    return sem.render(solid.grain_map, m, seed=seed)


def _scores(picture: PhasePicture, boundary: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    scores = score(picture.truth, boundary, labels)
    kept = {name: scores[name] for name in ("boundary F1, 3 px", "adapted Rand error", "count error")}
    return kept | recalls(picture, boundary)
