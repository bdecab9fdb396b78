"""Zoom estimation: magnify an image to the grain size that a network was trained on.

    zoom * intercept(zoom) = design intercept

A network segments grains of the size of its training. The mean linear intercept (the mean distance between
boundaries along straight lines) is measured on the image's own prediction at a ladder of zooms, and the zoom
at which the magnified intercept equals the design is selected. No grain is measured by hand.

    confidence(zoom) = mean probability on the network's own closed lines

A network that knows grains of many sizes has no single design. Where it sees the boundaries its lines run
along them; where it does not, the watershed draws lines where there is little probability, or one grain
dominates. The zoom of highest confidence is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from microlab.data.errors import InputError
from microlab.data.transforms import resize_by
from microlab.measure.grain_size import mean_intercept
from microlab.measure.labels import boundaries

LADDER = tuple(2.0 ** np.arange(-3, 1.6, 0.5))  # 1/8 to 2.8, in steps of sqrt 2


CONFIDENCE_LADDER = tuple(2.0 ** np.arange(-2, 1.1, 0.5))  # 1/4 to 2, in steps of sqrt 2
AS_GOOD = 0.03  # of the highest confidence; less of a difference means nothing
LARGEST_SHARE = 0.3  # of a window; a larger grain dominates it
LEAST_TRIED, LEAST_MATCHED = 64, 32  # px, shorter side of an image at a zoom of a ladder
LONGEST_INTERCEPT = 1e6  # px; that of a window without a crossing


@dataclass(frozen=True)
class ZoomTrial:
    """What a network makes of an image at one magnification.

    Attributes
    ----------
    zoom : float
    confidence : float in [0, 1]
        Mean probability on the lines between grains; 0 without any.
    largest : float in [0, 1]
        Share of the largest grain.
    grains : int
    """

    zoom: float
    confidence: float
    largest: float
    grains: int


def zoom_trials(
    image: np.ndarray,
    segment: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    *,
    window: int = 384,
    ladder: tuple[float, ...] = CONFIDENCE_LADDER,
) -> list[ZoomTrial]:
    """Segment the middle of an image at every magnification of a ladder.

    Parameters
    ----------
    image : (H, W) float
    segment : callable
        Takes an image and returns its probability, labels and field of view (or None).
    window : int
        Side of the central window, in pixels after zooming.
    ladder : tuple of float
        Zooms at which the image has fewer than `LEAST_TRIED` pixels a side are left out.
    """
    trials = []
    for zoom in [z for z in ladder if min(image.shape) * z >= LEAST_TRIED] or [max(ladder)]:
        probability, labels, valid = segment(resize_by(middle(image, window / zoom), zoom))
        areas = np.bincount(labels.ravel())[1:]
        lines = boundaries(labels, valid)
        trials.append(
            ZoomTrial(
                float(zoom),
                float(probability[lines].mean()) if lines.any() else 0.0,
                float(areas.max() / areas.sum()) if areas.size else 1.0,
                int(areas.size),
            )
        )
    return trials


def most_confident(trials: Sequence[ZoomTrial]) -> ZoomTrial:
    """The trial of highest confidence among those that no grain dominates, if there are any.

    Of several as good as that, within `AS_GOOD`, the one nearest to the image as it is.
    """
    sound = [trial for trial in trials if trial.largest <= LARGEST_SHARE] or trials
    best = max(trial.confidence for trial in sound)
    as_good = [trial for trial in sound if trial.confidence >= (1 - AS_GOOD) * best]
    return min(as_good, key=lambda trial: abs(np.log(trial.zoom)))


def matching_zoom(
    image: np.ndarray,
    grains: Callable[[np.ndarray], np.ndarray],
    design_intercept: float,
    *,
    window: int = 512,
    ladder: tuple[float, ...] = LADDER,
) -> float:
    """The zoom at which an image's grains have the network's training size.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    grains : callable
        Takes an image and returns its (H, W) int labels: the network and the watershed.
    design_intercept : float
        Mean linear intercept of the training images in pixels.
    window : int
        Side of the central window, in pixels after zooming, to which the measurement is limited.
    ladder : tuple of float
        Candidate zooms, rising.

    Returns
    -------
    float
        Zoom in the range of `ladder`, interpolated. At the right zoom the magnified intercept rises in
        proportion to the zoom; where noise or blur is segmented as grains it does not. Of several crossings
        of the design the one nearest to proportionality is selected; without any, the nearest candidate.

    Raises
    ------
    ValueError
        If `design_intercept` is not positive.
    """
    if not design_intercept > 0:
        raise InputError(f"design_intercept must be positive, got {design_intercept}")
    zooms = [z for z in ladder if min(image.shape) * z >= LEAST_MATCHED] or [max(ladder)]
    excess = []  # log of the magnified intercept over the design: rises with the zoom, zero at the match
    for zoom in zooms:
        intercept = mean_intercept(grains(resize_by(middle(image, window / zoom), zoom)))
        excess.append(np.log(min(intercept, LONGEST_INTERCEPT) / design_intercept))
    return float(np.exp(_zero_crossing(np.log(zooms), np.array(excess))))


def middle(image: np.ndarray, side: float) -> np.ndarray:
    """The central window of an image, about `side` pixels a side, or all of it."""
    half = max(int(side / 2), 1)
    cy, cx = image.shape[0] // 2, image.shape[1] // 2
    return image[max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half]


def _zero_crossing(log_zoom: np.ndarray, excess: np.ndarray) -> float:
    """Rising zero crossing of `excess` with the slope nearest 1, or the candidate nearest zero."""
    rising = [i for i in range(len(excess) - 1) if excess[i] < 0 <= excess[i + 1]]
    if not rising:
        return log_zoom[np.abs(excess).argmin()]
    slope = np.diff(excess) / np.diff(log_zoom)
    i = min(rising, key=lambda i: abs(slope[i] - 1))
    return log_zoom[i] - excess[i] / slope[i]
