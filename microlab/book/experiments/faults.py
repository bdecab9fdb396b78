"""Degrade a micrograph, and measure whether a warning computed without the truth detects the failure.

    error(strength) = ARE(truth, labels),     warning(strength): a statistic that needs no truth
    alarm if warning > x,                     balanced accuracy = 1 - (false alarms + misses) / 2

A warning that rises with the error is useful; one that stays low while the error is high leaves the network
confidently wrong. The threshold x is set on some polycrystals and evaluated on others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from skimage.transform import resize

from microlab.data.parallel import imap
from microlab.data.transforms import resize_by
from microlab.measure.scores import score
from microlab.render import sem
from microlab.render.specimen import carbon_film, scan_windows
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmentation, Segmenter
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
HALF_LINE = 2.0  # px; a thinner true line breaks where the scan jitters, and its grains merge
VIEWS = 4  # predictions of each picture for its warnings: the quarter turns
BAD = 0.2  # adapted Rand error beyond which we call a segmentation unusable


@dataclass(frozen=True)
class Fault:
    """One fault of a micrograph.

    Attributes
    ----------
    kind : str
        A key of `STRENGTHS`.
    strength : float >= 0
        In the units of `UNITS`; 0 is intact.

    Raises
    ------
    ValueError
        If the kind is unknown or the strength negative.
    """

    kind: str = "charging"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in STRENGTHS:
            raise ValueError(f"a fault must be one of {', '.join(STRENGTHS)}, got {self.kind!r}")
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength must be a number of 0 or more, got {self.strength}")

    @property
    def zoom(self) -> float:
        """Magnification by the fault, which gives the same field another number of pixels."""
        if not self.kind.startswith("zoomed"):
            return 1.0
        return 2.0 ** (self.strength if self.kind == "zoomed in" else -self.strength)


@dataclass(frozen=True)
class Picture:
    """A micrograph and its true boundaries, which may be on another pixel grid.

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


def render_faulty(
    grain_map: np.ndarray,
    fault: Fault | None = None,
    seed: int = 0,
    microscope: sem.Microscope | None = None,
) -> Picture:
    """A virtual micrograph with one fault, applied at its place in the imaging chain, before or after noise.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
    fault : Fault, optional
        None for an intact micrograph.
    seed : int
        Of the microscope (unless given), of its noise and of the fault.
    microscope : Microscope, optional
        Drawn at random by default. Charging and blur add to its own; variances of blurs add.
    """
    fault = fault or Fault()
    m = sem.draw_microscope(seed) if microscope is None else microscope
    film = None
    if fault.kind == "charging":
        m = replace(m, charging=m.charging + fault.strength)
    elif fault.kind == "defocus":
        m = replace(m, blur=float(np.hypot(m.blur, fault.strength)))
    elif fault.kind == "contamination":
        film = _film(grain_map.shape, fault, seed)
    image, distance = sem.render(grain_map, m, seed=seed, return_distance=True, film=film)
    return Picture(_zoomed(image, fault), distance <= max(m.boundary_half_width, HALF_LINE))


def degrade(image: np.ndarray, fault: Fault, seed: int = 0) -> np.ndarray:
    """The same faults applied to an existing micrograph, such as a real one; they also act on its noise.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    fault : Fault
    seed : int
        Of the fault.

    Returns
    -------
    (h, w) float32 in [0, 1]
    """
    if fault.kind == "charging" and fault.strength:
        image = sem.charging_streaks(image, amplitude=fault.strength, decay=30.0, seed=seed)
    elif fault.kind == "defocus":
        image = sem.point_spread(image, sigma=fault.strength)
    elif fault.kind == "contamination":
        image = carbon_film(image, _film(image.shape, fault, seed))
    return np.clip(_zoomed(image, fault), 0, 1).astype(np.float32)


def evaluate(
    picture: Picture, network: Segmenter, zoom: float | None = 1.0
) -> tuple[Segmentation, dict[str, float]]:
    """Segment a picture and compute its scores, which need the truth, and its warnings, which do not.

    Parameters
    ----------
    picture : Picture
    network : Segmenter
    zoom : float, optional
        Magnification before the network; None estimates it from the picture.

    Returns
    -------
    Segmentation
        On the grid of the truth.
    dict
        `SCORES`, `WARNINGS` and ``zoom``. The warning "largest grain" is its share of the picture. The
        disagreement, undefined for a single grain, is then set to 1.
    """
    segmentation = network.segment(picture.image, zoom=zoom)
    views = estimate_uncertainty(picture.image, network, segmentation.zoom, views=VIEWS)
    warnings = {
        "disagreement": 1.0 if np.isnan(views.disagreement) else views.disagreement,
        "deviation": views.deviation,
        "largest grain": float(np.bincount(segmentation.labels.ravel()).max() / segmentation.labels.size),
    }
    shape = picture.truth.shape
    if segmentation.labels.shape != shape:
        labels, boundary = (
            resize(part, shape, order=0, preserve_range=True, anti_aliasing=False).astype(part.dtype)
            for part in (segmentation.labels, segmentation.boundary)
        )
        probability = resize(segmentation.probability, shape, order=1).astype(np.float32)
        segmentation = Segmentation(probability, boundary, labels, segmentation.zoom)
    scores = score(picture.truth, segmentation.boundary, segmentation.labels)
    return segmentation, {name: scores[name] for name in SCORES} | warnings | {"zoom": segmentation.zoom}


def sweep(
    seeds: range,
    network: Segmenter | None = None,
    strengths: dict[str, tuple[float, ...]] | None = None,
    *,
    size: int = 256,
    number: int = 40,
    automatic: bool = False,
    jobs: int = 1,
) -> pd.DataFrame:
    """Evaluate a network on several polycrystals and microscopes, intact and with every fault.

    Parameters
    ----------
    seeds : range of int
        Each gives one polycrystal and one microscope.
    network : Segmenter, optional
        The shipped one by default.
    strengths : dict, optional
        As `STRENGTHS`.
    size, number : int
        Side of a picture in pixels, and its cells before growth.
    automatic : bool
        Evaluate the most zoomed pictures also at the zoom that is estimated from them.
    jobs : int
        Processes; -1 for one per core.

    Returns
    -------
    pandas.DataFrame
        One row per picture: fault, strength, seed, automatic, and what :func:`evaluate` measures.
    """
    network = network or load_segmenter("label-free")
    plan: list[tuple[str, Fault, bool]] = [("intact", Fault(), False)]
    for kind, values in (strengths or STRENGTHS).items():
        plan += [(kind, Fault(kind, strength), False) for strength in values]
        if automatic and kind.startswith("zoomed"):
            plan.append((kind, Fault(kind, max(values)), True))
    tasks = [(plan, network, seed, size, number) for seed in seeds]
    return pd.DataFrame([row for rows in imap(_evaluate_plan, tasks, jobs) for row in rows])


def _evaluate_plan(
    plan: list[tuple[str, Fault, bool]], network: Segmenter, seed: int, size: int, number: int
) -> list[dict[str, float]]:
    """Rows of one polycrystal; runs in a worker."""
    grain_map = grains(seed, size, number)
    rows = []
    for name, fault, automatic in plan:
        _, measured = evaluate(render_faulty(grain_map, fault, seed), network, None if automatic else 1.0)
        about = {"fault": name, "strength": fault.strength, "seed": seed, "automatic": automatic}
        rows.append(about | measured)
    return rows


def _film(shape: tuple[int, int], fault: Fault, seed: int) -> np.ndarray:
    return fault.strength * scan_windows(shape, number=2, side=0.8, seed=[seed, 15])


def _zoomed(image: np.ndarray, fault: Fault) -> np.ndarray:
    return image if fault.zoom == 1 else np.clip(resize_by(image, fault.zoom), 0, 1)


def split_by_seed(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures to set thresholds on, and to evaluate them on: of even and of odd polycrystals."""
    odd = table["seed"] % 2 == 1
    return table[~odd], table[odd]


def best_threshold(warning: np.ndarray, bad: np.ndarray) -> float:
    """The threshold x of the rule "inspect if the warning exceeds x" with the highest balanced accuracy.

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
        If all pictures are good, or all are bad.
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


def alarm_rates(alarm: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    """False-alarm rate, miss rate and balanced accuracy of alarms.

    Parameters
    ----------
    alarm, bad : (N,) bool

    Returns
    -------
    dict
        ``false alarms``: share of the good pictures with an alarm; ``misses``: share of the bad ones without;
        ``balanced accuracy``: one minus the mean of the two, 0.5 for a rule that always or never alarms.
    """
    alarm, bad = np.asarray(alarm, bool), np.asarray(bad, bool)
    false, missed = alarm[~bad].mean(), (~alarm[bad]).mean()
    return {
        "false alarms": float(false),
        "misses": float(missed),
        "balanced accuracy": float(1 - (false + missed) / 2),
    }


def evaluate_rules(setting: pd.DataFrame, testing: pd.DataFrame, limit: float = BAD) -> pd.DataFrame:
    """Rules whose thresholds are set on some pictures, evaluated on others.

    Parameters
    ----------
    setting, testing : DataFrame
        As :func:`sweep` gives them.
    limit : float
        Adapted Rand error beyond which a segmentation is bad.

    Returns
    -------
    DataFrame
        One row per rule: its threshold and its :func:`alarm_rates`. "either" raises the alarm if the
        disagreement or the largest grain does, at their own thresholds.
    """
    bad_setting, bad = (table["adapted Rand error"] > limit for table in (setting, testing))
    rows, alarms = {}, {}
    for name in WARNINGS:
        threshold = best_threshold(setting[name], bad_setting)
        alarms[name] = testing[name] > threshold
        rows[name] = {"threshold": threshold} | alarm_rates(alarms[name], bad)
    either = alarms["disagreement"] | alarms["largest grain"]
    rows["either"] = {"threshold": np.nan} | alarm_rates(either, bad)
    rows["always look"] = {"threshold": np.nan} | alarm_rates(np.ones(len(bad), bool), bad)
    return pd.DataFrame(rows).T.rename_axis("rule")
