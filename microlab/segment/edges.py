"""Edges of a grey image by three detectors, fused into channels, without training.

    t = median(r) sqrt(log2(1 / alpha)),     exceeded by pure noise in a share alpha of pixels

Contrast stretch and median filter, then Sobel, Laplacian of Gaussian and Canny, each with a threshold that a
rule estimates from the image. An edge that two of the three detect is probably true.

The three channels, the stretch, the 7 x 7 median and the agreement of detectors are paper C's
(arXiv:2504.14782). It states no threshold, so the rules here are ours.

References
----------
Sobel and Feldman (1968), talk at the Stanford Artificial Intelligence Project.
Otsu (1979), IEEE Trans. Systems, Man, Cybernetics 9, 62-66, doi:10.1109/TSMC.1979.4310076.
Marr and Hildreth (1980), Proc. R. Soc. Lond. B 207, 187-217, doi:10.1098/rspb.1980.0020.
Canny (1986), IEEE Trans. PAMI 8, 679-698, doi:10.1109/TPAMI.1986.4767851.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage import feature
from skimage.filters import gaussian, threshold_otsu

from microlab.data.errors import ImageError
from microlab.data.transforms import stretch
from microlab.measure.boundary import distance_to

DETECTORS = ("sobel", "log", "canny")
"""Names of the channels of :func:`fused_edges`, in their order (red, green and blue as a colour image)."""

RULES = ("noise", "otsu", "percentile")


@dataclass(frozen=True)
class EdgeConfig:
    """Settings of the detectors.

    The rule and its rate are a compromise between boundary F1 and Rand error on virtual TEM at noise of
    variance 0.001 and 0.01 (``studies.tem.edge_rules``): a lower rate merges grains at weak boundaries, a
    higher one adds false grains. On the real strip of paper C the rule keeps weak boundaries that Otsu's
    loses.
    """

    low: float = 1.0  # percentile of the image that becomes black
    high: float = 99.0  # percentile that becomes white
    median: int = 7  # side of the median's window, px, odd; 1 leaves the median out (paper C: 7)
    sigma: float = 2.0  # scale of the Gaussian in LoG and Canny, px
    rule: str = "noise"  # threshold rule: one of RULES
    false_rate: float = 0.01  # 'noise': share of pixels of pure noise above the threshold
    strongest: float = 0.1  # 'percentile': share of pixels above the threshold
    least_step: float = 0.04  # no edge for a sharp step lower than this share of the stretched range
    hysteresis: float = 0.5  # Canny: low threshold over high threshold

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"need 0 <= low < high <= 100 percent, got {self.low} and {self.high}")
        if self.median < 1 or self.median % 2 == 0:
            raise ValueError(f"median must be an odd number of pixels, got {self.median}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be a positive number of pixels, got {self.sigma}")
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {self.rule!r}")
        for name in ("false_rate", "strongest", "hysteresis"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        if not 0 <= self.least_step < 1:
            raise ValueError(f"least_step must lie in [0, 1), got {self.least_step}")

    @property
    def least_side(self) -> int:
        """Smallest side of an image in px. The largest filter's window must fit into it."""
        return max(self.median, 2 * math.ceil(4 * self.sigma) + 1)


def fused_edges(image: np.ndarray, config: EdgeConfig | None = None) -> np.ndarray:
    """Edges of the prepared image by Sobel, LoG and Canny, one channel each.

    Parameters
    ----------
    image : (H, W) float
        Grey micrograph in any units; the result is invariant to offset and gain.
    config : EdgeConfig, optional

    Returns
    -------
    float32 (3, H, W), 1 on edges and 0 elsewhere, channels in the order of `DETECTORS`. Lines are one or two
    pixels wide. Noise alone gives edges on at most 6 % of the pixels in each channel (tested at the
    defaults, with and without the median, which makes noise smoother than the rule assumes).

    Raises
    ------
    ValueError
        If the image is not (H, W), is smaller than ``config.least_side``, constant, or holds NaN.
    """
    config = config or EdgeConfig()
    prepared = prepare(image, config)
    channels = (detector(prepared, config) for detector in (sobel, laplacian_of_gaussian, canny))
    return np.stack([channel.astype(np.float32) for channel in channels])


def prepare(image: np.ndarray, config: EdgeConfig | None = None) -> np.ndarray:
    """Contrast stretch, then median filter: float64 (H, W) in [0, 1]. Parameters as :func:`fused_edges`."""
    config = config or EdgeConfig()
    stretched = stretch(check_image(image), config.low, config.high)
    if min(stretched.shape) < config.least_side:
        raise ImageError(
            f"image must be at least {config.least_side} px high and wide for a median of {config.median} px "
            f"and sigma {config.sigma:g}, got {stretched.shape}"
        )
    return ndimage.median_filter(stretched, size=config.median) if config.median > 1 else stretched


def sobel(prepared: np.ndarray, config: EdgeConfig | None = None) -> np.ndarray:
    """Sobel edges: local maxima of the gradient's magnitude above the threshold.

    A maximum is no lower than both neighbours along the axis nearer to the gradient, and higher than one.

    Parameters
    ----------
    prepared : (H, W) float in [0, 1]
        From :func:`prepare`.
    config : EdgeConfig, optional

    Returns
    -------
    bool (H, W)
    """
    config = config or EdgeConfig()
    gradient = _gradient(prepared)
    strength = np.hypot(*gradient)
    threshold = choose_threshold(strength, config, floor=config.least_step / 2)
    edges = np.zeros(prepared.shape, bool)
    for axis in (0, 1):
        before, after = _neighbours(strength, axis)
        crest = (strength >= np.maximum(before, after)) & (strength > np.minimum(before, after) + 1e-6)
        edges |= crest & (np.abs(gradient[axis]) >= np.abs(gradient[1 - axis]))
    return edges & (strength > threshold)


def laplacian_of_gaussian(prepared: np.ndarray, config: EdgeConfig | None = None) -> np.ndarray:
    """Zero crossings of the Laplacian of Gaussian with a steep enough slope (Marr and Hildreth, 1980).

    Between two neighbours of opposite sign the pixel nearer to zero is marked. The strength of a crossing is
    the gradient of the filtered image there. Parameters and returns as :func:`sobel`.
    """
    config = config or EdgeConfig()
    response = ndimage.gaussian_laplace(prepared, config.sigma)
    strength = np.hypot(*_gradient(response))
    floor = config.least_step / (math.sqrt(2 * math.pi) * config.sigma**3)
    crossing = np.zeros(prepared.shape, bool)
    for axis in (0, 1):
        for neighbour in _neighbours(response, axis):
            crossing |= (response * neighbour < 0) & (np.abs(response) <= np.abs(neighbour))
        before, after = _neighbours(response, axis)
        crossing |= (response == 0) & (before * after < 0)
    return crossing & (strength > choose_threshold(strength, config, floor))


def canny(prepared: np.ndarray, config: EdgeConfig | None = None) -> np.ndarray:
    """Canny edges (Canny, 1986) by scikit-image: maxima of the smoothed gradient, with hysteresis.

    The rule gives the high threshold; the low one is ``config.hysteresis`` of it. The outermost pixels are
    never edges. Parameters and returns as :func:`sobel`.
    """
    config = config or EdgeConfig()
    smooth = gaussian(prepared, config.sigma, mode="reflect")
    floor = config.least_step / (math.sqrt(2 * math.pi) * config.sigma)
    high = choose_threshold(np.hypot(*_gradient(smooth)), config, floor)
    # scikit-image compares with Sobel's unnormalised sums, 8 times the gradient
    return feature.canny(prepared, config.sigma, 8 * config.hysteresis * high, 8 * high, mode="reflect")


def choose_threshold(strength: np.ndarray, config: EdgeConfig | None = None, floor: float = 0.0) -> float:
    """Threshold of a detector's strength by the rule of the configuration, at least `floor`.

    The rule ``noise`` is eq. 1 of chapter 14 (closed-threshold).

    ``noise``
        The gradient of Gaussian noise has the Rayleigh distribution, ``P(r > t) = exp(-t**2 / (2 s**2))``,
        with the median ``s sqrt(2 ln 2)``. So ``t = median sqrt(log2(1 / false_rate))``. The median is robust
        to edges that cover less than half of the image.
    ``otsu``
        The threshold of minimum within-class variance (Otsu, 1979).
    ``percentile``
        The threshold that the share ``strongest`` of the pixels exceeds.

    Parameters
    ----------
    strength : (H, W) float >= 0
    config : EdgeConfig, optional
    floor : float >= 0
        In units of `strength`: the response to a sharp step of ``config.least_step``. It suppresses rounding
        errors of images without noise.

    Returns
    -------
    float
    """
    config = config or EdgeConfig()
    if config.rule == "noise":
        threshold = np.median(strength) * math.sqrt(math.log2(1 / config.false_rate))
    elif config.rule == "otsu":
        threshold = threshold_otsu(strength)
    else:
        threshold = np.percentile(strength, 100 * (1 - config.strongest))
    return max(float(threshold), floor)


def agreement(edges: np.ndarray, tolerance: float = 1.0) -> np.ndarray:
    """Number of detectors with an edge at each edge pixel, within a tolerance.

    Parameters
    ----------
    edges : (C, H, W)
        Channels, 1 on edges and 0 elsewhere, as from :func:`fused_edges`.
    tolerance : float >= 0
        Distance in px at which edges of two detectors still agree; detectors localise a line to a pixel.

    Returns
    -------
    uint8 (H, W): 0 where no detector has an edge, else the number of channels, 1..C, that have one within
    `tolerance`.

    Raises
    ------
    ValueError
        If `edges` is not (C, H, W) of zeros and ones, or `tolerance` is negative.
    """
    edges = _checked_edges(edges)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be a number of pixels >= 0, got {tolerance}")
    count = sum((distance_to(channel) <= tolerance).astype(np.uint8) for channel in edges)
    return np.where(edges.any(axis=0), count, 0).astype(np.uint8)


def edge_probability(edges: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Boundary probability from edges: the mean over detectors of ``exp(-d**2 / (2 width**2))``.

    Here d is the distance, px, to the detector's nearest edge. So a line of two of three detectors exceeds
    0.5, and one of a single detector has 1/3.

    Parameters
    ----------
    edges : (C, H, W)
        As for :func:`agreement`.
    width : float > 0
        Localisation uncertainty of an edge, px.

    Returns
    -------
    float32 (H, W) in [0, 1].

    Raises
    ------
    ValueError
        If `edges` is not (C, H, W) of zeros and ones, or `width` is not positive.
    """
    edges = _checked_edges(edges)
    if not 0 < width < math.inf:
        raise ValueError(f"width must be a positive number of pixels, got {width}")
    near = [np.exp(-0.5 * (distance_to(channel) / width) ** 2) for channel in edges]
    return np.mean(near, axis=0).astype(np.float32)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image as (H, W) float64; raise an `ImageError` if no edge can be detected in it."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        raise ImageError(
            f"image must be grey, (H, W), got {image.shape}, which looks like colour; average it"
        )
    if image.ndim != 2 or image.size == 0:
        raise ImageError(f"image must be grey, (H, W), with at least one pixel, got {image.shape}")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise ImageError("image holds NaN or infinite values; replace them first")
    if np.ptp(image) <= 1e-9 * np.abs(image).max():
        raise ImageError(f"image is constant ({image[0, 0]:g}): it has no edges to find; check the export")
    return image


def _gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's derivatives along rows and columns, grey per pixel."""
    return ndimage.sobel(image, axis=0) / 8, ndimage.sobel(image, axis=1) / 8


def _neighbours(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Values one pixel before and after along an axis; edge pixels are repeated."""
    padded = np.pad(values, [(1, 1) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
    n = values.shape[axis]
    return padded.take(range(n), axis), padded.take(range(2, n + 2), axis)


def _checked_edges(edges: np.ndarray) -> np.ndarray:
    edges = np.asarray(edges)
    if edges.ndim != 3 or edges.size == 0:
        raise ValueError(f"edges must be (C, H, W), got {edges.shape}")
    if not np.isin(edges, (0, 1)).all():
        raise ValueError("edges must be 0 or 1 everywhere")
    return edges.astype(bool)
