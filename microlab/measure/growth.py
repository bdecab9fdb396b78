"""Grain growth: mean grain size with error bars, and fits of the parabolic law.

    R(t)^2 = R(0)^2 + k t,     pi R^2 = mean grain area = area of the field / number of grains

The number of grains is planimetric: a grain that the frame cuts counts one half, a corner takes off another
quarter. No grain is left out and none is counted as if it were whole, so a periodic simulation cut open at
its frame and a segmented micrograph are measured alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import curve_fit
from scipy.stats import norm
from skimage.measure import label

from microlab.measure.checks import as_labels
from microlab.measure.two_sample import bootstrap_indices, percentile_interval

MIN_AREA = 30  # px; a smaller speck is no grain, neither in a truth nor in a segmentation

# d R^2 / dt in units of kappa L by Hillert's mean-field theory in the plane; see `hillert_rate`.
HILLERT_MEAN_RADIUS = 0.25


@dataclass(frozen=True)
class MeanSize:
    """Mean grain size of one field, in pixels, with a bootstrap over its grains."""

    area: float  # mean grain area, px^2
    area_low: float  # its confidence interval
    area_high: float
    error: float  # its standard error
    count: float  # planimetric number of grains

    @property
    def radius(self) -> float:
        """Radius of the circle that has the mean area, px."""
        return float(np.sqrt(self.area / np.pi))


def grain_pieces(grain_map: ArrayLike) -> NDArray[np.int64]:
    """Label image of a periodic grain map as a microscope would see it: pieces cut apart by the frame.

    Parameters
    ----------
    grain_map : (H, W) int
        Ids from 0; a grain that leaves at one side and enters at the other has one id.

    Returns
    -------
    (H, W) int, labels 1..n, one for each connected piece.
    """
    return label(np.asarray(grain_map), connectivity=2, background=-1)


def grain_weights(
    labels: ArrayLike, min_area: int = MIN_AREA
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Area of every grain in the field, and its weight in the planimetric count.

    Parameters
    ----------
    labels : (H, W) int
        Grains that fill the field, 1..n; 0 is nothing. Not periodic, see :func:`grain_pieces`.
    min_area : int
        Pieces smaller than this, px, are left out.

    Returns
    -------
    area : (m,) float
        px^2.
    weight : (m,) float
        1 inside, 1/2 for a grain cut by the frame, less 1/4 for each corner of the frame that lies in it. The
        sum is the planimetric count, inside + cut / 2 - 1.
    label : (m,) int

    Raises
    ------
    ValueError
        If `labels` is no label image of at least 2 x 2 pixels.
    """
    labels = as_labels(labels, "labels")
    if labels.ndim != 2 or min(labels.shape) < 2:
        raise ValueError(f"labels must be (H, W) with at least 2 x 2 pixels, got shape {labels.shape}")
    area = np.bincount(labels.ravel()).astype(float)
    weight = np.ones(len(area))
    weight[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = 0.5
    np.subtract.at(weight, labels[[0, 0, -1, -1], [0, -1, 0, -1]], 0.25)
    kept = np.flatnonzero(area >= max(min_area, 1))
    kept = kept[kept > 0]
    return area[kept], weight[kept], kept


def mean_size(
    labels: ArrayLike,
    *,
    min_area: int = MIN_AREA,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int | np.random.Generator = 0,
) -> MeanSize:
    """Mean grain area of a field with an interval.

    It is eq. 1 of chapter 10 (growth-size).

    Parameters
    ----------
    labels, min_area
        As in :func:`grain_weights`.
    confidence : float in (0, 1)
    resamples : int
        Bootstrap resamples of the grains.
    seed : int or Generator

    Returns
    -------
    MeanSize

    Raises
    ------
    ValueError
        If there is no grain, or `confidence` is out of range.

    Notes
    -----
    Resampling takes grains as independent. In fact they fill the field together: next to a large grain the
    others are small. The interval is therefore somewhat too wide.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    area, weight, _ = grain_weights(labels, min_area)
    count = weight.sum()
    if not count > 0:
        raise ValueError(f"labels hold {len(area)} grains of at least {min_area} px: nothing to average")
    samples = bootstrap_indices(len(area), resamples, seed)
    means = np.concatenate([area[k].sum(1) / np.maximum(weight[k].sum(1), 0.25) for k in samples])
    whole = _field_area(labels) / count
    means *= whole / (area.sum() / count)
    low, high = percentile_interval(means, confidence)
    return MeanSize(float(whole), float(low), float(high), float(means.std(ddof=1)), float(count))


def block_counts(
    labels: ArrayLike, blocks: tuple[int, int] = (6, 6), *, min_area: int = MIN_AREA
) -> NDArray[np.float64]:
    """Number of grains in each block of the field, fractions included.

    A grain's count is spread evenly over its pixels, so the blocks add up to the planimetric count.

    Parameters
    ----------
    labels, min_area
        As in :func:`grain_weights`.
    blocks : (rows, columns)

    Returns
    -------
    (rows * columns,) float
    """
    area, weight, kept = grain_weights(labels, min_area)
    labels = np.asarray(labels)
    density = np.zeros(int(labels.max()) + 1)
    density[kept] = weight / area
    parts = [
        part
        for band in np.array_split(density[labels], blocks[0])
        for part in np.array_split(band, blocks[1], 1)
    ]
    return np.array([part.sum() for part in parts])


@dataclass(frozen=True)
class ParabolicFit:
    """R^2 = R0^2 + k t, fitted by weighted least squares."""

    k: float  # slope, px^2 per time
    k_low: float  # its confidence interval
    k_high: float
    r0_squared: float  # R^2 at time 0, px^2
    chi_squared: float  # reduced: squared residuals in units of the errors, over the degrees of freedom

    def radius(self, time: ArrayLike) -> NDArray[np.float64]:
        """The fitted R, px, at times of the fit's range."""
        return np.sqrt(self.r0_squared + self.k * np.asarray(time, dtype=float))


def fit_parabola(
    time: ArrayLike,
    area: ArrayLike,
    error: ArrayLike,
    *,
    resampled: ArrayLike | None = None,
    confidence: float = 0.95,
) -> ParabolicFit:
    """Fit the parabolic law to mean grain areas.

    The law is eq. 2 of chapter 10 (growth-parabola), for areas eq. 2 of chapter 03 (grain-growth-parabola).

    Parameters
    ----------
    time : (T,) float
    area : (T,) float
        Mean grain area, px^2; R^2 is ``area / pi``.
    error : (T,) float
        Standard error of `area`. A late frame has fewer grains and a larger error, so it weighs less.
    resampled : (B, T) float, optional
        Bootstrap curves from :func:`resample_blocks`. The interval is then that between quantiles of their
        slopes. Without them it follows from `error`, as if the frames were independent; they are not, since
        they show the same grains.
    confidence : float in (0, 1)

    Returns
    -------
    ParabolicFit

    Raises
    ------
    ValueError
        If there are fewer than three frames, the times do not differ or an error is not positive.
    """
    time, r_squared, error = _checked_curve(time, area, error)
    (k, r0_squared), covariance = np.polyfit(time, r_squared, 1, w=1 / error, cov="unscaled")
    residuals = (r_squared - r0_squared - k * time) / error
    if resampled is None:
        low, high = norm.interval(confidence, k, np.sqrt(covariance[0, 0]))
    else:
        low, high = percentile_interval(slopes(time, error, resampled), confidence)
    chi_squared = (residuals**2).sum() / (len(time) - 2)
    return ParabolicFit(*map(float, (k, low, high, r0_squared, chi_squared)))


def fit_exponent(
    time: ArrayLike, area: ArrayLike, error: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Exponent n of ``R^n = R(0)^n + k t``, fitted to R itself, with an interval.

    Parameters
    ----------
    time, area, error
        As in :func:`fit_parabola`.

    Returns
    -------
    n, low, high : float
        The interval takes the frames as independent. 2 is the parabolic law.

    Raises
    ------
    ValueError
        As in :func:`fit_parabola`; or if the fit does not converge.
    """
    time, r_squared, error = _checked_curve(time, area, error)
    radius = np.sqrt(r_squared)
    first, last, span = radius[0], radius[-1], time[-1] - time[0]

    def law(t: NDArray, start: float, end: float, n: float) -> NDArray:
        # the radii at both ends and the curvature between them: weakly correlated parameters
        return (start**n + (end**n - start**n) * (t - time[0]) / span) ** (1 / n)

    try:
        best, covariance = curve_fit(
            law,
            time,
            radius,
            p0=(first, last, 2.0),
            sigma=error / (2 * radius),
            absolute_sigma=True,
            bounds=([first / 3, first / 3, 0.2], [3 * last, 3 * last, 12]),
        )
    except RuntimeError as problem:
        raise ValueError(f"the exponent cannot be fitted to radii {radius.round(1)} px: {problem}") from None
    low, high = norm.interval(confidence, best[2], np.sqrt(covariance[2, 2]))
    return float(best[2]), float(low), float(high)


def resample_blocks(
    counts: ArrayLike, field_area: float, *, resamples: int = 1000, seed: int | np.random.Generator = 0
) -> NDArray[np.float64]:
    """Block bootstrap of a growth curve: fields assembled from random blocks, each with all its frames.

    A block keeps its history, so the correlation between frames is preserved. The same seed picks the same
    blocks, so the curves of two methods on one field can be compared one by one.

    Parameters
    ----------
    counts : (T, B) float
        Grains in each block at each time, from :func:`block_counts`.
    field_area : float
        Area of the whole field, px^2.
    resamples : int
    seed : int or Generator

    Returns
    -------
    (resamples, T) float, mean grain areas in px^2.
    """
    counts = np.asarray(counts, dtype=float)
    rng = np.random.default_rng(seed)
    pick = rng.integers(counts.shape[1], size=(resamples, counts.shape[1]))
    return field_area / counts.T[pick].sum(1)


def slopes(time: ArrayLike, error: ArrayLike, areas: ArrayLike) -> NDArray[np.float64]:
    """k of many growth curves at once, (B,): the slope of :func:`fit_parabola` with one set of errors.

    Parameters
    ----------
    time, error : (T,) float
        As in :func:`fit_parabola`. Only the relative errors matter.
    areas : (B, T) float
        Mean grain areas, px^2.
    """
    return np.polyfit(time, np.asarray(areas, float).T / np.pi, 1, w=1 / np.asarray(error, float))[0]


def hillert_rate(kappa: float = 1.0, L: float = 1.0) -> float:
    """k of ``R^2 = R(0)^2 + k t`` by Hillert's mean-field theory in two dimensions.

    Hillert's mean radius obeys ``d<r>^2/dt = kappa L / 4`` (reduced mobility ``kappa L``, his factor 1/2 for
    the plane). R is the radius of the mean area, so ``R^2 = <r^2>``, larger by ``<u^2>`` of his distribution
    of ``u = r / <r>``: ``f(u) = (2 e)^2 2 u / (2 - u)^4 exp(-4 / (2 - u))`` on 0..2.

    References
    ----------
    Hillert, Acta Metallurgica 13, 227 (1965).
    """
    u = np.linspace(0, 2, 20_001)[:-1]
    f = (2 * np.e) ** 2 * 2 * u / (2 - u) ** 4 * np.exp(-4 / (2 - u))
    return float(HILLERT_MEAN_RADIUS * kappa * L * (f * u**2).sum() / f.sum())


def _field_area(labels: ArrayLike) -> float:
    """Area in px^2 of the frame that cuts, whose lines run through the centres of the outermost pixels."""
    height, width = np.shape(labels)
    return float((height - 1) * (width - 1))


def _checked_curve(time: ArrayLike, area: ArrayLike, error: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Times, R^2 and its errors, as float arrays of one length."""
    time, area, error = (np.asarray(values, dtype=float) for values in (time, area, error))
    if time.ndim != 1 or time.shape != area.shape or time.shape != error.shape:
        raise ValueError(
            f"time, area, error must be of one length, got shapes {time.shape}, {area.shape}, {error.shape}"
        )
    if len(time) < 3 or not np.ptp(time) > 0:
        raise ValueError(f"a fit needs three frames at different times, got {len(time)}")
    if not (error > 0).all() or not (area > 0).all():
        raise ValueError("areas and their errors must be positive in every frame")
    return time, area / np.pi, error / np.pi
