"""What an image itself says about a segmentation of it; no truth is needed.

    coverage = share of the strongest edges of the image near a line,    support = share of the lines near one

A segmentation can be wrong in ways that its own probability does not show. Four signs are independent of
each other: views of the image disagree, the network is unsure on its own lines, one grain takes the field,
and the image has edges where the segmentation has no lines.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from microlab.data.transforms import resize_by, resize_to
from microlab.measure import instance
from microlab.measure.labels import boundaries
from microlab.segment.segmenter import joint_field
from microlab.segment.uncertainty import view, view_back
from microlab.segment.zoom import middle

if TYPE_CHECKING:
    from microlab.segment.segmenter import Segmentation, Segmenter

WINDOW = 384  # px after magnification; views of the middle of the image are compared
NEAR = 4.0  # px, from an edge of the image to a line that explains it
EDGE_SCALE = 1.5  # px, of the Gaussian at which edges are sought
STRONG = 0.9  # quantile of the gradient above which an edge is strong


@dataclass(frozen=True)
class Evidence:
    """Signs of a good or a bad segmentation.

    Attributes
    ----------
    disagreement : float in [0, 1]
        Mean adapted Rand error of the grains in single views against those of the mean of the views; 1 if the
        mean shows a single grain.
    confidence : float in [0, 1]
        Mean probability on the lines between grains; NaN for a method whose probability does not say how
        sure it is.
    largest : float in [0, 1]
        Share of the largest grain.
    coverage : float in [0, 1]
        Share of the image's strong edges that have a line within `NEAR`.
    support : float in [0, 1]
        Share of the lines that have a strong edge within `NEAR`.
    explained : float in [0, 1]
        Share of the variance of the smoothed grey that lies between grains.
    grains : int
    """

    disagreement: float
    confidence: float
    largest: float
    coverage: float
    support: float
    explained: float
    grains: int


def gather(
    image: np.ndarray,
    segmenter: Segmenter,
    zoom: float = 1.0,
    *,
    views: int = 4,
    window: int = WINDOW,
    valid: np.ndarray | None = None,
) -> Evidence:
    """Evidence about a segmenter on the middle of an image.

    Parameters
    ----------
    image : (H, W) float32
        As `Segmenter.check` returns it.
    segmenter : Segmenter
    zoom : float
        Magnification before the segmenter.
    views : int in 1..8
        How many of the eight symmetries of the square are compared; with one there is no disagreement.
    window : int
        Side of the part that is looked at, in magnified pixels.
    valid : (H, W) bool, optional
        Field of view, as far as it is known already.
    """
    part = resize_by(middle(image, window / zoom), zoom)
    known = None if valid is None else resize_to(middle(valid, window / zoom), part.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a method says of a view is not for the user
        maps = [segmenter.maps(view(part, k)) for k in range(views)]
    probabilities = [view_back(probability, k) for k, (probability, _) in enumerate(maps)]
    shown = joint_field(known, maps[0][1])
    mean = np.mean(probabilities, axis=0)
    labels = segmenter.grains(mean, valid=shown)[1]
    disagreement = 0.0
    if labels.max() < 2:
        disagreement = 1.0
    elif views > 1:
        several = (segmenter.grains(p, valid=shown)[1] for p in probabilities)
        disagreement = float(np.mean([instance.adapted_rand_error(labels, one) for one in several]))
    return look(part, mean, labels, shown, calibrated=segmenter.calibrated, disagreement=disagreement)


def look(
    image: np.ndarray,
    probability: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    calibrated: bool = True,
    disagreement: float = 0.0,
) -> Evidence:
    """Evidence about one segmentation, without further views.

    Parameters
    ----------
    image : (H, W) float
        At the magnification that the segmenter saw.
    probability : (H, W) float in [0, 1]
        Of a boundary.
    labels : (H, W) int
        Grains 1..n.
    valid : (H, W) bool, optional
        Field of view.
    calibrated : bool
        Whether the probability says how sure the segmenter is.
    disagreement : float in [0, 1]
        That of views, measured elsewhere.
    """
    areas = np.bincount(labels.ravel())[1:]
    lines = boundaries(labels, valid)
    shown = np.ones(image.shape, bool) if valid is None else valid
    smooth = ndimage.gaussian_filter(image, EDGE_SCALE)
    gradient = ndimage.gaussian_gradient_magnitude(image, EDGE_SCALE)
    strong = shown & (gradient >= np.quantile(gradient[shown], STRONG)) if shown.any() else shown
    return Evidence(
        disagreement=disagreement,
        confidence=_confidence(probability, lines) if calibrated else np.nan,
        largest=float(areas.max() / areas.sum()) if areas.size else 1.0,
        coverage=_near(strong, lines),
        support=_near(lines, strong),
        explained=_between(smooth, labels),
        grains=int(areas.size),
    )


def look_at_all(image: np.ndarray, result: Segmentation, seen: Evidence, calibrated: bool = True) -> Evidence:
    """Evidence about the segmentation of a whole image, of which `gather` saw the middle.

    The disagreement remains that of the middle.

    Parameters
    ----------
    image : (H, W) float32
    result : Segmentation
    seen : Evidence
        About the middle of the image; returned as it is where that was the whole image.
    calibrated : bool
        As in `look`.
    """
    if max(image.shape) * result.zoom <= WINDOW:
        return seen
    zoomed = resize_by(image, result.zoom)
    return look(
        zoomed,
        resize_to(result.probability, zoomed.shape),
        resize_to(result.labels, zoomed.shape),
        None if result.valid is None else resize_to(result.valid, zoomed.shape),
        calibrated=calibrated,
        disagreement=seen.disagreement,
    )


def _confidence(probability: np.ndarray, lines: np.ndarray) -> float:
    return float(probability[lines].mean()) if lines.any() else 0.0


def _near(pixels: np.ndarray, others: np.ndarray) -> float:
    """Share of `pixels` within `NEAR` of one of `others`."""
    if not pixels.any() or not others.any():
        return 0.0
    return float((ndimage.distance_transform_edt(~others)[pixels] <= NEAR).mean())


def _between(grey: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of the grey that lies between the labels above 0."""
    inside = labels > 0
    total = float(grey[inside].var()) if inside.any() else 0.0
    if total == 0:
        return 0.0
    counts = np.bincount(labels[inside])
    sums = np.bincount(labels[inside], grey[inside].astype(np.float64))
    means = sums / np.maximum(counts, 1)
    return float(np.clip((counts * (means - grey[inside].mean()) ** 2).sum() / counts.sum() / total, 0, 1))
