"""Three classical baselines for grain boundaries: threshold, gradient watershed, ridge filter.

    p = r / (r + Otsu(r)),     so that p >= 0.5 is Otsu's choice on the filter's response r

Each returns a boundary probability in [0, 1], made to be cut at 0.5. Their one length, the scale `sigma` at
which boundary lines stand out from noise, is read from the image by :func:`line_scale` unless given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import disk
from skimage.segmentation import find_boundaries, watershed

from microlab.data.transforms import resize_by, resize_to
from microlab.segment.instances import deep_basins
from microlab.segment.segmenter import Segmenter

POLARITIES = ("dark", "bright", "auto")


def threshold(image: np.ndarray, sigma: float | None = None, polarity: str = "auto") -> np.ndarray:
    """Local threshold: pixels darker (or brighter) than their surroundings, cleaned.

    The image smoothed by ``sigma / 2`` is compared with its mean over a Gaussian window of ``4 sigma``, and
    Otsu's threshold cuts the difference. Specks and holes smaller than a square of ``4 sigma`` are cleaned
    away.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    sigma : float > 0, optional
        Scale of the boundary lines, px. Default: :func:`line_scale`.
    polarity : {'dark', 'bright', 'auto'}
        Whether boundaries are darker or brighter than the grains.

    Returns
    -------
    float32 (H, W), boundary probability in [0, 1]; cut it at 0.5.

    Raises
    ------
    ValueError
        If the image is not (H, W), holds NaN, or a parameter is out of range.
    """
    image, sigma, sign = _prepared(image, sigma, polarity)
    difference = sign * (
        ndimage.gaussian_filter(image, sigma / 2) - ndimage.gaussian_filter(image, 4 * sigma)
    )
    probability = _probability(np.maximum(difference, 0))
    line = probability >= 0.5
    smallest = (4 * sigma) ** 2
    probability[_small_regions(line, smallest, connectivity=2)] = 0
    if line.any():
        probability[_small_regions(~line, smallest, connectivity=1)] = 0.5
    return probability


def gradient_watershed(
    image: np.ndarray, sigma: float | None = None, polarity: str = "auto", depth: float = 0.4
) -> np.ndarray:
    """Watershed of the gradient, the classical region method (Beucher and Lantuejoul, 1979).

    The gradient magnitude at scale ``sigma / 2`` is closed with a disk of radius ``2 sigma``, which joins the
    two flanks of a boundary line into one crest and so serves lines of either polarity and plain steps
    between grains. Basins shallower than `depth` times Otsu's threshold of the gradient are flooded first.

    Parameters
    ----------
    image, sigma, polarity
        As for :func:`threshold`; `polarity` only guides the estimate of `sigma`.
    depth : float > 0
        Least depth of a basin relative to Otsu's threshold of the gradient.

    Returns
    -------
    float32 (H, W), boundary probability: 1 on the contours, 0.5 at the distance `sigma` from them.

    Raises
    ------
    ValueError
        As :func:`threshold`.
    """
    if depth <= 0:
        raise ValueError(f"depth must be positive, got {depth}")
    image, sigma, _ = _prepared(image, sigma, polarity)
    gradient = ndimage.gaussian_gradient_magnitude(image, sigma / 2)
    crest = ndimage.grey_closing(gradient, footprint=disk(max(1, round(2 * sigma))))
    crest = ndimage.gaussian_filter(crest, sigma / 4)
    if crest.max() - crest.min() < 1e-6:
        return np.zeros_like(image)
    labels = watershed(crest, deep_basins(crest, depth * threshold_otsu(crest)), connectivity=1)
    contours = find_boundaries(labels, connectivity=1, mode="thick")
    if not contours.any():
        return np.zeros_like(image)
    distance = ndimage.distance_transform_edt(~contours)
    return (0.5 ** ((distance / sigma) ** 2)).astype(np.float32)


def ridge(image: np.ndarray, sigma: float | None = None, polarity: str = "auto") -> np.ndarray:
    """Ridge filter: curvature across a line, from the Hessian at the line's scale.

    The larger eigenvalue of the Hessian of the Gaussian-smoothed image, where positive, times ``sigma**1.5``
    (Lindeberg, 1998, doi:10.1023/A:1008097225773); dark lines on bright grains curve upwards. Same
    parameters, returns and errors as :func:`threshold`.
    """
    image, sigma, sign = _prepared(image, sigma, polarity)
    larger, _ = _curvatures(-sign * image, sigma)
    return _probability(np.maximum(larger, 0))


BASELINES: dict[str, Callable[..., np.ndarray]] = {
    "threshold": threshold,
    "gradient watershed": gradient_watershed,
    "ridge": ridge,
}


class ClassicalSegmenter(Segmenter):
    """A baseline as a segmenter: its boundary probability, and grains by the common watershed."""

    baseline: ClassVar[str]  # name in `BASELINES`
    calibrated: ClassVar[bool] = False  # a filter's response over its threshold

    @property
    def name(self) -> str:
        return self.baseline.replace(" ", "-")

    @property
    def card(self) -> dict:
        return {"name": self.name, "trained_by": "nothing is trained; its one length is read from each image"}

    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        return resize_to(BASELINES[self.baseline](resize_by(image, zoom)), image.shape)


class Threshold(ClassicalSegmenter):
    """:func:`threshold` as a segmenter."""

    baseline = "threshold"


class GradientWatershed(ClassicalSegmenter):
    """:func:`gradient_watershed` as a segmenter."""

    baseline = "gradient watershed"


class Ridge(ClassicalSegmenter):
    """:func:`ridge` as a segmenter."""

    baseline = "ridge"


def line_scale(image: np.ndarray, polarity: str = "auto") -> tuple[float, str]:
    """Scale and polarity of the boundary lines of an image, from the image alone.

    On a line the image curves across and not along. The measure of a scale is the share of curvature that is
    so one-sided, ``sum (l1 - |l2|)+ / sum (l1)+`` over the Hessian's eigenvalues l1 >= l2: white noise has
    0.55 at every scale, and lines raise it, most at the scale that smooths the noise but not yet the lines.
    The noisier the image, the coarser that is.

    Parameters
    ----------
    image : (H, W) float
        At most the middle 1024 x 1024 pixels are used.
    polarity : {'dark', 'bright', 'auto'}
        ``auto`` takes the polarity whose lines are stronger (cubic mean).

    Returns
    -------
    sigma : float
        Standard deviation of the Gaussian, px, at least 1.
    polarity : {'dark', 'bright'}

    Raises
    ------
    ValueError
        If the image is not (H, W) or holds NaN, or the polarity is not known.
    """
    image = _checked(image)
    if polarity not in POLARITIES:
        raise ValueError(f"polarity must be one of {POLARITIES}, got {polarity!r}")
    image = image[tuple(slice(max(0, (n - 1024) // 2), max(0, (n - 1024) // 2) + 1024) for n in image.shape)]
    octave = max(0.0, np.log2(min(image.shape) / 8))  # no wider than an eighth of the image
    sigmas = 2.0 ** np.arange(0, min(octave, 4.5) + 0.25, 0.5)
    likeness = {"dark": np.zeros(sigmas.size), "bright": np.zeros(sigmas.size)}
    strength = {"dark": np.zeros(sigmas.size), "bright": np.zeros(sigmas.size)}
    for k, sigma in enumerate(sigmas):
        larger, smaller = _curvatures(image, sigma)
        for name, across, along in (("dark", larger, smaller), ("bright", -smaller, -larger)):
            line = np.maximum(across - np.abs(along), 0)
            likeness[name][k] = line.sum() / max(np.maximum(across, 0).sum(), 1e-12)
            strength[name][k] = np.mean(line**3)
    if polarity == "auto":
        polarity = max(likeness, key=lambda name: strength[name][likeness[name].argmax()])
    curve = likeness[polarity]
    best = int(curve.argmax())
    shift = 0.0
    if 0 < best < curve.size - 1:  # vertex of the parabola through the best scale and its neighbours
        below, here, above = curve[best - 1 : best + 2]
        shift = 0.5 * (above - below) / max(2 * here - above - below, 1e-12)
    return float(sigmas[best] * 2 ** (0.5 * np.clip(shift, -0.5, 0.5))), polarity


def _curvatures(image: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues l1 >= l2 of the Hessian at scale sigma, normalised by sigma**1.5."""
    yy, xx, yx = (ndimage.gaussian_filter(image, sigma, order=o) for o in ((2, 0), (0, 2), (1, 1)))
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, yx)
    return sigma**1.5 * (mean + spread), sigma**1.5 * (mean - spread)


def _probability(response: np.ndarray) -> np.ndarray:
    if response.max() < 1e-6:  # a flat image has no boundary; Otsu would find one in rounding errors
        return np.zeros(response.shape, np.float32)
    return (response / (response + threshold_otsu(response))).astype(np.float32)


def _small_regions(mask: np.ndarray, smallest: float, connectivity: int) -> np.ndarray:
    labels = label(mask, connectivity=connectivity)
    small = np.bincount(labels.ravel()) < smallest
    small[0] = False
    return small[labels]


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image must be (H, W) with at least one pixel, got {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite values")
    return image


def _prepared(image: np.ndarray, sigma: float | None, polarity: str) -> tuple[np.ndarray, float, int]:
    """Checked image, scale, and +1 for bright lines or -1 for dark ones."""
    image = _checked(image)
    if sigma is not None and not 0 < sigma < np.inf:
        raise ValueError(f"sigma must be a positive number of pixels, got {sigma}")
    if sigma is None or polarity not in ("dark", "bright"):
        found, polarity = line_scale(image, polarity)
        sigma = found if sigma is None else sigma
    return image, float(sigma), 1 if polarity == "bright" else -1
