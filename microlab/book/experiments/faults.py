"""Break a micrograph on purpose, and see whether anything warns.

    error(strength) = ARE(truth, grains found),     warning(strength) = what one can compute without the truth

A warning that rises with the error is worth having; one that stays low while the error is high leaves the
network confidently wrong. Rules made of warnings are in `microlab.book.experiments.faults`.

When to look at a picture oneself: rules made of warnings, and what they cost.

    alarm if warning > x,     balanced accuracy = 1 - (false alarms + misses) / 2

x is set on some pictures and judged on others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from skimage.transform import resize

from microlab.data.transforms import resize_by
from microlab.measure.scores import score
from microlab.render import sem
from microlab.render.specimen import carbon_film, scan_windows
from microlab.segment import segmenter
from microlab.segment.segmenter import Network, Segmentation
from microlab.segment.uncertainty import estimate_uncertainty
from microlab.simulate import phasefield, voronoi

STRENGTHS = {  # 0 is intact for all
    "charging": (0.15, 0.3, 0.6, 1.2),  # brightness of the strongest streaks, in units of full scale
    "contamination": (0.5, 1.0, 2.0, 4.0),  # thickness of carbon films, in escape depths
    "defocus": (2.0, 4.0, 6.0, 9.0),  # standard deviation of the blur, px
    "zoomed out": (1.0, 1.5),  # octaves: 1 is half the pixels across a grain
    "zoomed in": (1.0, 1.5),  # octaves: 1 is twice the pixels
}
UNITS = {
    "charging": "streaks, full scale",
    "contamination": "film, escape depths",
    "defocus": "blur, px",
    "zoomed out": "octaves",
    "zoomed in": "octaves",
}
WARNINGS = ("disagreement", "deviation", "largest grain")
SCORES = ("boundary F1, 3 px", "adapted Rand error", "count error")
HALF_LINE = 2.0  # px; a thinner true line breaks where the scan jitters, and its grains run together
VIEWS = 4  # looks at each picture for its warnings: the quarter turns
BAD = 0.2  # adapted Rand error beyond which we call a segmentation unusable


@dataclass(frozen=True)
class Picture:
    """A micrograph and the boundaries that it should show, perhaps on another grid of pixels.

    Attributes
    ----------
    image : (h, w) float32 in [0, 1]
    truth : (H, W) bool
        True on boundaries, on the grid of the intact picture.
    """

    image: np.ndarray
    truth: np.ndarray


def grains(seed: int, size: int = 256, number: int = 40, steps: int = 300) -> np.ndarray:
    """A grown polycrystal, (size, size) int32, periodic."""
    cells = voronoi.tessellate(voronoi.random_seeds(number, (size, size), seed), (size, size))
    return phasefield.grow(cells, steps).grain_map()


def photograph(
    grain_map: np.ndarray,
    fault: str = "charging",
    strength: float = 0.0,
    seed: int = 0,
    microscope: sem.Microscope | None = None,
) -> Picture:
    """A virtual micrograph with one fault, which acts where it does in a microscope, before or after noise.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
    fault : str
        A key of `STRENGTHS`.
    strength : float >= 0
        In the units of `UNITS`; 0 is intact.
    seed : int
        Of the microscope (unless given), of its noise and of the fault.
    microscope : Microscope, optional
        Drawn at random by default. Charging and blur add to its own; variances of blurs add.

    Returns
    -------
    Picture

    Raises
    ------
    ValueError
        If the fault is unknown or the strength negative.
    """
    _check(fault, strength)
    m = sem.draw_microscope(seed) if microscope is None else microscope
    film = None
    if fault == "charging":
        m = replace(m, charging=m.charging + strength)
    elif fault == "defocus":
        m = replace(m, blur=float(np.hypot(m.blur, strength)))
    elif fault == "contamination":
        film = strength * scan_windows(grain_map.shape, number=2, side=0.8, seed=[seed, 15])
    image, distance = sem.render(grain_map, m, seed=seed, return_distance=True, film=film)
    return Picture(_zoomed(image, fault, strength), distance <= max(m.boundary_half_width, HALF_LINE))


def spoil(image: np.ndarray, fault: str, strength: float, seed: int = 0) -> np.ndarray:
    """The same faults on a finished micrograph, such as a real one. Its own noise is blurred or covered too.

    Parameters and errors as :func:`photograph`.

    Returns
    -------
    (h, w) float32 in [0, 1]
    """
    _check(fault, strength)
    if fault == "charging" and strength:
        image = sem.charging_streaks(image, amplitude=strength, decay=30.0, seed=seed)
    elif fault == "defocus":
        image = sem.point_spread(image, sigma=strength)
    elif fault == "contamination":
        film = strength * scan_windows(image.shape, number=2, side=0.8, seed=[seed, 15])
        image = carbon_film(image, film)
    return np.clip(_zoomed(image, fault, strength), 0, 1).astype(np.float32)


def examine(
    picture: Picture, network: Network, zoom: float | None = 1.0, *, device: str | None = None
) -> tuple[Segmentation, dict[str, float]]:
    """Segment a picture; its scores, which need the truth, and its warnings, which do not.

    Parameters
    ----------
    picture : Picture
    network : (model, card)
    zoom : float, optional
        Magnification before the network; None estimates it from the picture.

    Returns
    -------
    Segmentation
        On the grid of the truth.
    dict
        `SCORES`, `WARNINGS` and ``zoom``. The warning "largest grain" is its share of the picture; the
        disagreement of a picture in which a single grain was found, which has none, is 1.
    """
    found = segmenter.segment_image(picture.image, network, scale=zoom, device=device)
    views = estimate_uncertainty(picture.image, network, found.zoom, views=VIEWS)
    warnings = {
        "disagreement": 1.0 if np.isnan(views.disagreement) else views.disagreement,
        "deviation": views.deviation,
        "largest grain": float(np.bincount(found.labels.ravel()).max() / found.labels.size),
    }
    shape = picture.truth.shape
    if found.labels.shape != shape:
        labels, boundary = (
            resize(part, shape, order=0, preserve_range=True, anti_aliasing=False).astype(part.dtype)
            for part in (found.labels, found.boundary)
        )
        probability = resize(found.probability, shape, order=1).astype(np.float32)
        found = Segmentation(probability, boundary, labels, found.zoom)
    scores = score(picture.truth, found.boundary, found.labels)
    return found, {name: scores[name] for name in SCORES} | warnings | {"zoom": found.zoom}


def sweep(
    seeds: range,
    network: Network | None = None,
    strengths: dict[str, tuple[float, ...]] | None = None,
    *,
    size: int = 256,
    number: int = 40,
    automatic: bool = False,
    jobs: int = 1,
) -> pd.DataFrame:
    """Examine pictures of several polycrystals and microscopes, intact and with every fault.

    Parameters
    ----------
    seeds : range of int
        Each gives one polycrystal and one microscope.
    network : (model, card), optional
        The shipped one by default.
    strengths : dict, optional
        As `STRENGTHS`.
    size, number : int
        Side of a picture in pixels, and its cells before growth.
    automatic : bool
        Examine the most zoomed pictures also at the zoom that is estimated from them.
    jobs : int
        Processes; -1 for one per core.

    Returns
    -------
    pandas.DataFrame
        One row per picture: fault, strength, seed, automatic, and what :func:`examine` measures.
    """
    network = network or segmenter.load_network()
    work = (
        delayed(_sweep_one)(seed, network, strengths or STRENGTHS, size, number, automatic) for seed in seeds
    )
    return pd.DataFrame([row for rows in Parallel(n_jobs=jobs)(work) for row in rows])


def _sweep_one(seed, network, strengths, size, number, automatic) -> list[dict]:
    grain_map = grains(seed, size, number)
    plan = [("intact", 0.0, False)]
    for fault, values in strengths.items():
        plan += [(fault, strength, False) for strength in values]
        if automatic and fault.startswith("zoomed"):
            plan.append((fault, max(values), True))
    rows = []
    for fault, strength, auto in plan:
        picture = photograph(grain_map, "charging" if fault == "intact" else fault, strength, seed)
        _, measured = examine(picture, network, None if auto else 1.0)
        rows.append({"fault": fault, "strength": strength, "seed": seed, "automatic": auto} | measured)
    return rows


def _check(fault: str, strength: float) -> None:
    if fault not in STRENGTHS:
        raise ValueError(f"fault must be one of {', '.join(STRENGTHS)}, got {fault!r}")
    if not (np.isfinite(strength) and strength >= 0):
        raise ValueError(f"strength must be a number of 0 or more, got {strength}")


def _zoomed(image: np.ndarray, fault: str, strength: float) -> np.ndarray:
    """The picture that other magnifications give: other pixels for the same field."""
    if not (fault.startswith("zoomed") and strength):
        return image
    zoom = 2.0 ** (strength if fault == "zoomed in" else -strength)
    return np.clip(resize_by(image, zoom), 0, 1)


def halves(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures to set a rule on, and to judge it on: of even and of odd polycrystals, never of the same."""
    odd = table["seed"] % 2 == 1
    return table[~odd], table[odd]


def best_threshold(warning: np.ndarray, bad: np.ndarray) -> float:
    """The x of "look yourself if the warning exceeds x" that errs least on given pictures.

    Parameters
    ----------
    warning : (N,) float
    bad : (N,) bool
        Whether the segmentation is unusable.

    Returns
    -------
    float
        Halfway between two warnings; the highest that maximises the mean of the share of bad pictures
        caught and the share of good ones let through.

    Raises
    ------
    ValueError
        If all pictures are good, or all are bad: nothing could be set.
    """
    warning, bad = np.asarray(warning, float), np.asarray(bad, bool)
    if bad.all() or not bad.any():
        raise ValueError(f"a rule needs good and bad pictures, got {bad.sum()} bad of {bad.size}")
    values = np.unique(warning)
    candidates = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1]]])
    caught = (warning[bad] > candidates[:, None]).mean(1)
    let_through = (warning[~bad] <= candidates[:, None]).mean(1)
    balance = caught + let_through
    return float(candidates[np.flatnonzero(balance >= balance.max() - 1e-12)[-1]])


def judge(alarm: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    """How good alarms were: false alarms, misses, and their balance.

    Parameters
    ----------
    alarm, bad : (N,) bool

    Returns
    -------
    dict
        ``false alarms``: share of the good pictures with an alarm; ``misses``: share of the bad ones without;
        ``balanced accuracy``: one minus the mean of the two, 0.5 for whoever always or never looks.
    """
    alarm, bad = np.asarray(alarm, bool), np.asarray(bad, bool)
    false, missed = alarm[~bad].mean(), (~alarm[bad]).mean()
    return {
        "false alarms": float(false),
        "misses": float(missed),
        "balanced accuracy": float(1 - (false + missed) / 2),
    }


def rules(setting: pd.DataFrame, testing: pd.DataFrame, limit: float = BAD) -> pd.DataFrame:
    """Rules set on some pictures and judged on others.

    Parameters
    ----------
    setting, testing : DataFrame
        As :func:`microlab.book.experiments.faults.sweep` gives them.
    limit : float
        Adapted Rand error beyond which a segmentation is bad.

    Returns
    -------
    DataFrame
        One row per rule: its threshold and what :func:`judge` says. "either" raises the alarm if the
        disagreement or the largest grain does, at their own thresholds.
    """
    bad_then, bad = (table["adapted Rand error"] > limit for table in (setting, testing))
    found, alarms = {}, {}
    for name in WARNINGS:
        threshold = best_threshold(setting[name], bad_then)
        alarms[name] = testing[name] > threshold
        found[name] = {"threshold": threshold} | judge(alarms[name], bad)
    either = alarms["disagreement"] | alarms["largest grain"]
    found["either"] = {"threshold": np.nan} | judge(either, bad)
    found["always look"] = {"threshold": np.nan} | judge(np.ones(len(bad), bool), bad)
    return pd.DataFrame(found).T.rename_axis("rule")
