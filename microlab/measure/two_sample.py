"""Two-sample tests for grains: distributions, means, and directions without a sense.

    D = max |F_a - F_b|  (Kolmogorov, Smirnov),     V = max (F_a - F_b) + max (F_b - F_a)  (Kuiper)

Areas, diameters and shapes lie on a line and are compared by D. An orientation is axial: 179 degrees lies
beside 1 degree, so that D would depend on where the circle is cut open. V does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class TwoSample:
    """Outcome of a two-sample test: small `p_value`, unlikely to come from one distribution."""

    test: str
    statistic: float
    p_value: float


@dataclass(frozen=True)
class AxialMean:
    """Preferred direction of axial data."""

    direction: float  # degrees in [0, 180)
    strength: float  # 0: no direction is preferred, 1: all the same
    p_uniform: float  # Rayleigh's test: small where a direction is preferred


def two_sample_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    axial: bool = False,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> TwoSample:
    """Test whether two samples come from one distribution.

    Parameters
    ----------
    a, b : (n,), (m,) float
        Independent of one another and within.
    axial : bool
        Degrees with period 180. Then Kuiper's test, its p-value by permutation; else Kolmogorov-Smirnov as
        in `scipy.stats.ks_2samp`.
    resamples : int
        Permutations; the smallest p-value is 1 / (resamples + 1).
    seed : int or Generator

    Returns
    -------
    TwoSample

    References
    ----------
    Kuiper, "Tests concerning random points on a circle", Indagationes Mathematicae 63, 1960.
    """
    a, b = (np.asarray(x, dtype=float).ravel() for x in (a, b))
    for name, x in (("a", a), ("b", b)):
        if len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"{name} must hold at least 2 numbers, all finite, got {len(x)} values")
    if not axial:
        from scipy.stats import ks_2samp  # here: a worker starts in half a second less without scipy.stats

        result = ks_2samp(a, b)
        return TwoSample("Kolmogorov-Smirnov", float(result.statistic), float(result.pvalue))
    pooled = np.concatenate([a, b]) % 180
    order = np.argsort(pooled)
    ends = np.flatnonzero(np.append(np.diff(pooled[order]) > 0, True))  # equal values step together
    step = np.where(np.arange(len(pooled)) < len(a), 1 / len(a), -1 / len(b))[order]

    def kuiper(steps: NDArray) -> NDArray:
        gap = np.cumsum(steps, axis=-1)[..., ends]  # F_a - F_b; ends in 0
        return gap.max(axis=-1) - gap.min(axis=-1)

    observed = float(kuiper(step))
    p_value = _permuted(lambda t: kuiper(step[t]), observed, len(step), resamples, seed)
    return TwoSample("Kuiper", observed, p_value)


def axial_mean(angles: ArrayLike, weights: ArrayLike | None = None) -> AxialMean:
    """Preferred direction of axial angles, by doubling them.

    Parameters
    ----------
    angles : (n,) float
        Degrees; 0 and 180 are the same.
    weights : (n,) float, optional

    Returns
    -------
    AxialMean

    References
    ----------
    Fisher, "Statistical Analysis of Circular Data", Cambridge 1993: doubled angles, Rayleigh's test.
    """
    angles = np.asarray(angles, dtype=float).ravel()
    w = np.ones_like(angles) if weights is None else np.asarray(weights, dtype=float).ravel()
    if not len(angles) or w.shape != angles.shape:
        raise ValueError(f"angles and weights must be as many, at least one: {len(angles)} and {len(w)}")
    resultant = np.average(np.exp(2j * np.radians(angles)), weights=w)
    strength, n = abs(resultant), effective_number(w)
    z = np.sqrt(1 + 4 * n + 4 * n**2 * (1 - min(strength, 1) ** 2)) - (1 + 2 * n)
    return AxialMean(float(np.degrees(np.angle(resultant)) / 2 % 180), float(strength), float(np.exp(z)))


def mean_permutation_test(
    a: NDArray,
    weights_a: NDArray,
    b: NDArray,
    weights_b: NDArray,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> float:
    """Two-sided p-value of a difference of weighted means, by exchanging grains between the samples.

    Parameters
    ----------
    a, weights_a : (n,) float
    b, weights_b : (m,) float
        A grain keeps its weight.
    resamples : int
        Permutations.
    seed : int or Generator

    Returns
    -------
    float in [1 / (resamples + 1), 1]
    """
    x, w, n = np.concatenate([a, b]), np.concatenate([weights_a, weights_b]), len(a)

    def distance(order: NDArray) -> NDArray:
        x_, w_ = x[order], w[order]
        ours = (x_ * w_)[..., :n].sum(-1) / w_[..., :n].sum(-1)
        return np.abs(ours - (x_ * w_)[..., n:].sum(-1) / w_[..., n:].sum(-1))

    return _permuted(distance, float(distance(np.arange(len(x)))), len(x), resamples, seed)


def bootstrap_indices(n: int, resamples: int, seed: int | np.random.Generator = 0) -> Iterator[NDArray]:
    """Indices of `resamples` bootstrap samples of n values, in blocks (k, n) that bound the memory."""
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=(count, n)) for count in _blocks(resamples, n))


def resampled_means(
    x: NDArray, weights: NDArray, resamples: int, seed: int | np.random.Generator = 0
) -> NDArray:
    """Weighted means of `resamples` bootstrap samples of `x`, which may be complex."""
    samples = bootstrap_indices(len(x), resamples, seed)
    return np.concatenate([(x * weights)[pick].sum(1) / weights[pick].sum(1) for pick in samples])


def percentile_interval(values: NDArray, confidence: float, axis: int | None = None) -> NDArray[np.float64]:
    """Interval between the two quantiles of `values` that leave out equal shares at both ends, (2,)."""
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=axis)


def weighted_quantiles(x: NDArray, weights: NDArray, probabilities: ArrayLike) -> NDArray[np.float64]:
    """Quantiles of `x`; interpolated only where all weights are equal, as numpy does it."""
    if np.all(weights == weights[0]):
        return np.quantile(x, probabilities)
    return np.quantile(x, probabilities, weights=weights, method="inverted_cdf")


def effective_number(weights: NDArray) -> float:
    """Kish's effective number of values with these weights, ``(sum w)^2 / sum w^2``."""
    return weights.sum() ** 2 / (weights**2).sum()


def _blocks(resamples: int, n: int) -> list[int]:
    """Resamples at once, to bound the memory."""
    block = max(1, 1_000_000 // n)
    return [min(block, resamples - start) for start in range(0, resamples, block)]


def _permuted(
    statistic: Callable[[NDArray], NDArray],
    observed: float,
    n: int,
    resamples: int,
    seed: int | np.random.Generator,
) -> float:
    """Share of permutations whose statistic is at least `observed`, which counts as one of them."""
    rng = np.random.default_rng(seed)
    beyond = 0
    for count in _blocks(resamples, n):
        orders = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
        beyond += int((statistic(orders) >= observed * (1 - 1e-9)).sum())  # ties count, rounding aside
    return (beyond + 1) / (resamples + 1)
