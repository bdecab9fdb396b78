"""Kernel distance of two sets of features, unbiased and with an error.

KID(X, Y) = mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j),
k(x, y) = (x . y / d + 1)^3
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class KernelDistance(NamedTuple):
    """Kernel distance and its standard error."""

    value: float
    error: float


def mmd2(x: ArrayLike, y: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel of KID.

    It is eq. 2 of chapter 06 (realism-kid).

    Parameters
    ----------
    x : (m, d) float, m >= 2
    y : (n, d) float, n >= 2

    Returns
    -------
    float. Its expectation is 0 if both come from one distribution, so single values may be negative.

    References
    ----------
    Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, ICLR 2018.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"x and y must be (m, d) and (n, d) with m, n >= 2, got {x.shape} and {y.shape}")

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: NDArray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(among(x) + among(y) - 2 * kernel(x, y).mean())


def kernel_distance(
    x: ArrayLike, y: ArrayLike, *, subset: int = 50, seed: int | np.random.Generator = 0
) -> KernelDistance:
    """Kernel (inception) distance of two sets of features, with a standard error.

    Both sets are shuffled and cut into subsets that do not overlap. The distance is the mean of `mmd2` over
    the pairs of subsets, and the error their standard deviation over the root of their number. The usual
    KID draws its subsets with replacement from the same samples; their spread is no error, because drawing
    more of them makes it arbitrarily small. Patches that overlap in the image are not independent, so
    the error is then too small; the distance of real from real shows by how much.

    Parameters
    ----------
    x, y : (m, d) and (n, d) float
    subset : int >= 2
        Features in a subset. The expectation of the result does not depend on it.
    seed : int or numpy.random.Generator

    Returns
    -------
    KernelDistance (value, error)

    Raises
    ------
    ValueError
        If a set does not fill two subsets.
    """
    x, y = np.asarray(x), np.asarray(y)
    number = min(len(x), len(y)) // max(subset, 1)
    if subset < 2 or number < 2:
        raise ValueError(
            f"subset={subset} needs two subsets of at least 2, that is {2 * max(subset, 2)} patches in each "
            f"set, got {len(x)} and {len(y)}: cut more patches or take a smaller subset"
        )
    rng = np.random.default_rng(seed)
    x, y = (np.split(rng.permutation(a)[: number * subset], number) for a in (x, y))
    values = np.array([mmd2(a, b) for a, b in zip(x, y)])
    return KernelDistance(float(values.mean()), float(values.std(ddof=1) / np.sqrt(number)))


def standardised(features: ArrayLike, reference: ArrayLike, limit: float = 3.0) -> NDArray[np.float64]:
    """Features in units of the reference's spread, outliers compressed.

        z = (f - mean) / deviation,     limit * tanh(z / limit)

    Some features hardly vary over real patches. Without a limit the cubic kernel lets one such feature of one
    outlying patch dominate the distance.

    Parameters
    ----------
    features : (n, d) float
    reference : (m, d) float
        Gives mean and deviation. A feature that never varies in it is only shifted.
    limit : float > 0
        Largest distance from the reference's mean, in deviations.

    Returns
    -------
    (n, d) float64 in (-limit, limit)

    Raises
    ------
    ValueError
        If the reference does not vary at all.
    """
    features, reference = np.asarray(features, float), np.asarray(reference, float)
    mean, deviation = reference.mean(0), reference.std(0)
    varies = deviation > 1e-6
    if not varies.any():
        raise ValueError("the real patches are all alike, for example of one grey: nothing to compare with")
    return limit * np.tanh((features - mean) / np.where(varies, deviation, 1.0) / limit)
