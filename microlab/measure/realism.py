"""Distances between sets of micrographs: grey levels, entropy, SSIM, kernel distance.

    W = sum_k |F(k) - G(k)| / 255,     H = -sum_k p_k log2 p_k     (earth mover's distance, entropy)

All distances are measured on patches against the same reference, patches of real micrographs. They are
meaningful only relative to the distance of real from real, so :func:`realism_report` always measures that
floor.
The kernel distance is in :mod:`microlab.measure.kernel`, the spaces in which it is taken in
:mod:`microlab.measure.features`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from skimage.metrics import structural_similarity

from microlab.measure.features import texture
from microlab.measure.kernel import kernel_distance, standardised

Features = Callable[[NDArray], NDArray]  # (n, side, side) in [0, 1] -> (n, d)

FLOOR = "real, other half"  # the row of the report with the distance of real from real


def patches(images: Sequence[ArrayLike], side: int, n: int, seed: int | np.random.Generator = 0) -> NDArray:
    """Square patches at random places of a set of images.

    Positions are drawn uniformly over all images, so a large image gives more patches than a small one. They
    depend only on the seed and the image sizes: two calls with the same seed, one for images and one for
    their masks, return matching patches.

    Parameters
    ----------
    images : sequence of (H_i, W_i) arrays
    side : int
        Side of a patch in pixels.
    n : int
        Number of patches. They may overlap.
    seed : int or numpy.random.Generator

    Returns
    -------
    (n, side, side) array of the images' type

    Raises
    ------
    ValueError
        If there is no image, one is smaller than a patch or not 2-D, or `n` or `side` is below 1.
    """
    images = [np.asarray(image) for image in images]
    if not images or n < 1 or side < 1:
        raise ValueError(f"images, side and n must be at least 1, got {len(images)}, {side} and {n}")
    for i, image in enumerate(images):
        if image.ndim != 2 or min(image.shape) < side:
            raise ValueError(f"image {i} has shape {image.shape}, a patch needs (H, W) of at least {side}")
    rng = np.random.default_rng(seed)
    places = np.array([np.prod(np.array(image.shape) - side + 1) for image in images])
    cut = []
    for i in rng.choice(len(images), n, p=places / places.sum()):
        y, x = rng.integers(0, np.array(images[i].shape) - side + 1)
        cut.append(images[i][y : y + side, x : x + side])
    return np.stack(cut)


def halves(images: Sequence[ArrayLike]) -> tuple[list[NDArray], list[NDArray]]:
    """Cut every image across its longer side into two halves that share no pixel."""
    cut = []
    for image in map(np.asarray, images):
        tall = image if image.shape[0] >= image.shape[1] else image.T
        parts = tall[: len(tall) // 2], tall[len(tall) // 2 :]
        cut.append(parts if tall is image else tuple(part.T for part in parts))
    return [first for first, _ in cut], [second for _, second in cut]


def intensity_histogram(images: ArrayLike | Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Share of the pixels at each of 256 grey levels.

    Parameters
    ----------
    images : array or sequence of arrays
        Float in [0, 1], rounded to 8 bits, or uint8.

    Returns
    -------
    (256,) float64, sum 1
    """
    parts = list(images) if isinstance(images, (list, tuple)) else [images]
    counts = sum(np.bincount(_levels(part).ravel(), minlength=256) for part in parts)
    return counts / counts.sum()


def histogram_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Earth mover's (Wasserstein-1) distance of two intensity histograms.

        W = sum_k |F(k) - G(k)| / 255,     F, G cumulative sums

    Parameters
    ----------
    first, second : (256,) float
        From `intensity_histogram`.

    Returns
    -------
    float in [0, 1]: the mean change of grey that turns one into the other, as a share of the full range.

    Raises
    ------
    ValueError
        If an argument is no histogram of 256 shares.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    for name, histogram in (("first", first), ("second", second)):
        if histogram.shape != (256,) or not np.isclose(histogram.sum(), 1):
            raise ValueError(f"{name} must hold 256 shares of sum 1, got shape {histogram.shape}")
    return float(np.abs(np.cumsum(first - second)).sum() / 255)


def shannon_entropy(image: ArrayLike) -> float:
    """Shannon entropy of the grey levels, -sum p log2 p over 256 levels, in bits.

    It is eq. 1 of chapter 06 (realism-entropy).

    Floats are rounded to 8 bits first. Counting the distinct values of a float image instead, as
    ``skimage.measure.shannon_entropy`` does, gives the logarithm of the number of pixels for any noisy image.

    Parameters
    ----------
    image : array
        Float in [0, 1] or uint8.

    Returns
    -------
    float in [0, 8]; 0 for an image of one grey level.
    """
    shares = intensity_histogram(np.asarray(image))
    return float(stats.entropy(shares, base=2))


def entropies(patches: ArrayLike) -> NDArray[np.float64]:
    """`shannon_entropy` of every patch, (n,) bits. A patch of s x s pixels cannot exceed log2(s^2)."""
    return np.array([shannon_entropy(patch) for patch in np.asarray(patches)])


def ssim(first: ArrayLike, second: ArrayLike) -> float:
    """Structural similarity of two images of the same scene, pixel by pixel.

    Gaussian window of 11 x 11 pixels and standard deviation 1.5, K1 = 0.01, K2 = 0.03, biased covariances,
    mean over the pixels whose window lies inside.

    SSIM compares corresponding pixels, so it needs pairs: here an untextured simulation and its translation.
    A synthetic and a real image show different grains, and their SSIM is low however realistic the synthetic
    one is. The paper reports 0.89 for "these pairs" of a figure that shows real and synthetic images, without
    stating how they were paired. An unchanged image scores 1, so a high value shows that the structure is
    preserved, not that the image is realistic.

    Parameters
    ----------
    first, second : (H, W) float in [0, 1]
        At least 11 pixels to each side.

    Returns
    -------
    float in [-1, 1]

    Raises
    ------
    ValueError
        If the images differ in size, are smaller than the window or leave [0, 1].

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13, 600 (2004).
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim != 2 or min(first.shape) < 11:
        raise ValueError(f"ssim needs two (H, W) images of one size >= 11, got {first.shape}, {second.shape}")
    for image in (first, second):
        _levels(image)
    return float(
        structural_similarity(
            first, second, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def realism_report(
    real: Sequence[ArrayLike],
    sets: Mapping[str, Sequence[ArrayLike]],
    *,
    inputs: Mapping[str, Sequence[ArrayLike]] | None = None,
    spaces: Mapping[str, Features] | None = None,
    side: int = 64,
    n: int = 400,
    subset: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Distance of each set of images from the real one, with the distance of real from real as the floor.

    The first row, `FLOOR`, compares patches of one half of every real image with patches of the other half;
    the others compare a set with patches of all real images. Distances below the floor are not significant.

    None of these measures uses the masks: they do not predict whether a network trained on the images and
    their masks will segment well (chapter 06).

    Parameters
    ----------
    real : sequence of (H, W) float in [0, 1]
    sets : mapping of name to sequence of (H, W) float in [0, 1]
        Synthetic, untextured, ...; grains should be as large as in `real`.
    inputs : mapping of name to sequence of (H, W), optional
        For translated sets: the images before translation, for `ssim`.
    spaces : mapping of name to callable, optional
        Feature spaces of the kernel distance; by default ``{"texture": texture}``. Features are standardised
        over the real patches.
    side, n : int
        Side of a patch, and patches cut from each set.
    subset : int
        As in `kernel_distance`.
    seed : int

    Returns
    -------
    DataFrame, one row per set, with columns ``histogram`` (earth mover's distance, share of the grey range),
    ``entropy`` (mean, bits), ``entropy distance`` (earth mover's, bits), ``KID <space>`` and
    ``KID <space> error``, and ``SSIM`` (mean over pairs; NaN without `inputs`).

    Raises
    ------
    ValueError
        If images are smaller than a patch, leave [0, 1] or do not vary, if there are fewer patches than two
        subsets, or `inputs` does not fit `sets`.
    """
    spaces = {"texture": texture} if spaces is None else spaces
    inputs = inputs or {}
    for name, images in inputs.items():
        if name not in sets or len(images) != len(sets[name]):
            raise ValueError(f"inputs[{name!r}] must hold one image for each of sets[{name!r}]")

    def describe(images: Sequence[ArrayLike]) -> tuple[NDArray, NDArray, dict[str, NDArray]]:
        cut = patches(images, side, n, seed)
        vectors = {name: features(cut) for name, features in spaces.items()}
        return intensity_histogram(cut), entropies(cut), vectors

    first, second = halves(real)
    whole = describe(real)
    comparisons = {FLOOR: (describe(first), describe(second))}
    comparisons |= {name: (whole, describe(images)) for name, images in sets.items()}
    rows = {}
    for name, (reference, sample) in comparisons.items():
        row = {
            "histogram": histogram_distance(reference[0], sample[0]),
            "entropy": float(sample[1].mean()),
            "entropy distance": float(stats.wasserstein_distance(reference[1], sample[1])),
        }
        for space in spaces:
            x, y = reference[2][space], sample[2][space]
            distance = kernel_distance(standardised(x, x), standardised(y, x), subset=subset, seed=seed)
            row[f"KID {space}"], row[f"KID {space} error"] = distance
        scores = [ssim(a, b) for a, b in zip(inputs.get(name, ()), sets.get(name, ()))]
        row["SSIM"] = float(np.mean(scores)) if scores else float("nan")
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _levels(image: ArrayLike) -> NDArray[np.uint8]:
    """The image in 8 bits, or a ValueError."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    if image.size == 0 or not (image.min() >= 0 and image.max() <= 1):  # NaN fails both
        raise ValueError(
            f"image must be uint8, or float in [0, 1]; it is {image.dtype} of shape {image.shape}"
            + (f" from {image.min()} to {image.max()}" if image.size else "")
        )
    return np.rint(image.astype(np.float64) * 255).astype(np.uint8)
