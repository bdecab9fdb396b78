"""Comparison of synthetic pairs with real ones: mask statistics, and detection of memorised images.

    distance(patch) = 1 - max over real images, shifts and rotations of the correlation of coarse grey levels

A copied patch has a distance near 0; held-out real patches set the scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import uniform_filter
from skimage.measure import block_reduce

from microlab.data.micrograph import Micrograph
from microlab.generate.masks import object_areas


def pair_statistics(
    pairs: Sequence[Micrograph], real_pairs: Sequence[Micrograph], classes: int
) -> pd.DataFrame:
    """Class fractions, object counts and object sizes of synthetic and real masks.

    Objects are 8-connected regions of one class. The edge of an image cuts objects, so compare images of
    similar size.

    Parameters
    ----------
    pairs, real_pairs : sequence of Micrograph
    classes : int

    Returns
    -------
    DataFrame
        One row for each class and set ('real', 'synthetic'). Columns, each a mean over the images and, with
        ``_sd``, the standard deviation between them: ``fraction`` of the pixels; ``objects`` per megapixel;
        ``median_area`` of an object in pixels, over the images that have the class. NaN where there is none.

    Raises
    ------
    ValueError
        If a set is empty or class ids are out of range.
    """
    rows = []
    for name, group in (("real", real_pairs), ("synthetic", pairs)):
        if len(group) == 0:
            raise ValueError(f"there are no {name} pairs to compare")
        for pair in group:
            for c, areas in enumerate(object_areas(pair.classes, classes)):
                rows.append(
                    {
                        "class": c,
                        "set": name,
                        "fraction": areas.sum() / pair.classes.size,
                        "objects": len(areas) / pair.classes.size * 1e6,
                        "median_area": np.median(areas) if len(areas) else np.nan,
                    }
                )
    groups = pd.DataFrame(rows).groupby(["class", "set"])
    mean, spread = groups.mean(), groups.std().add_suffix("_sd")
    return mean.join(spread)[[name + end for name in mean.columns for end in ("", "_sd")]]


def nearest_real(
    images: Sequence[np.ndarray],
    real_images: Sequence[np.ndarray],
    *,
    patch: int = 128,
    scale: int = 8,
    step: int = 4,
    turns: bool = True,
) -> pd.DataFrame:
    """The window of the real images nearest to each patch of some images.

    Both are averaged over blocks of `scale` pixels. A patch is compared with every window of the real images
    by the correlation coefficient of their grey levels, which is independent of brightness and contrast.
    Held-out real images in place of the synthetic ones give the distances of new images of the same material;
    synthetic patches at smaller distances are copies.

    Parameters
    ----------
    images, real_images : sequence of (H, W) or (H, W, 3) float in [0, 1]
        Colours are averaged.
    patch : int
        Side of a patch in pixels. Images are cut into as many adjacent patches as fit.
    scale : int
        Side of a block in pixels.
    step : int
        Step of the shifts in pixels, a divisor of `scale`. A copy half a step off the grid has a larger
        distance; with steps of a whole block it can equal that of new images.
    turns : bool
        Compare all eight orientations of each patch, for models trained with flips and rotations.

    Returns
    -------
    DataFrame
        One row for each patch: ``image``, ``y``, ``x`` (number of its image and its corner in pixels),
        ``distance`` in [0, 2], ``real``, ``real_y``, ``real_x`` (nearest window), ``turn`` (0..7: quarter
        turns of the patch, from 4 on also mirrored). A constant patch has the distance NaN.

    Raises
    ------
    ValueError
        If `patch` is not 2 or more blocks, `step` does not divide them, or an image is smaller than a patch.
    """
    if scale < 1 or patch < 2 * scale or patch % scale:
        raise ValueError(f"patch must be a multiple of scale, 2 blocks or more, got {patch} and {scale}")
    if step < 1 or scale % step:
        raise ValueError(f"step must divide scale, got {step} and {scale}")
    if len(images) == 0 or len(real_images) == 0:
        raise ValueError(
            f"got {len(images)} images and {len(real_images)} real ones; give one or more of each"
        )
    coarse = [_blocks(_grey(image, patch, f"image {i}"), scale) for i, image in enumerate(images)]
    side = patch // scale
    corners = [
        (i, y, x)
        for i, image in enumerate(coarse)
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ]
    patches = np.stack([coarse[i][y : y + side, x : x + side] for i, y, x in corners])
    reals = [_grey(image, patch, f"real image {i}") for i, image in enumerate(real_images)]
    offsets = range(0, scale, step)
    best = np.full(len(patches), -np.inf)
    where = np.zeros((len(patches), 4), np.int64)  # real image, y, x, turn
    for turn in range(8 if turns else 1):
        turned = np.rot90(patches, turn % 4, (1, 2))
        turned = _unit(turned[:, :, ::-1] if turn >= 4 else turned)
        for number, dy, dx in itertools.product(range(len(reals)), offsets, offsets):
            if min(reals[number].shape[0] - dy, reals[number].shape[1] - dx) < patch:
                continue
            score = _correlations(turned, _blocks(reals[number][dy:, dx:], scale))
            by_patch = score.reshape(len(score), -1)
            place, top = by_patch.argmax(1), by_patch.max(1)
            better = top > best
            best[better] = top[better]
            y, x = np.unravel_index(place[better], score.shape[1:])
            y, x = y * scale + dy, x * scale + dx
            where[better] = np.stack([np.full_like(y, number), y, x, np.full_like(y, turn)], axis=1)
    flat = np.ptp(patches, axis=(1, 2)) == 0
    table = pd.DataFrame(corners, columns=["image", "y", "x"])
    table["distance"] = np.where(flat, np.nan, 1 - best)
    table[["real", "real_y", "real_x", "turn"]] = where
    table[["y", "x"]] *= scale
    return table


def _grey(image: np.ndarray, patch: int, name: str) -> np.ndarray:
    image = np.asarray(image, np.float32)
    grey = image.mean(2) if image.ndim == 3 else image
    if grey.ndim != 2 or min(grey.shape) < patch or not np.isfinite(grey).all():
        raise ValueError(
            f"{name} must be finite and have sides of at least {patch} pixels, got {image.shape}"
        )
    return grey - grey.mean()  # the squares below then lose fewer digits in single precision


def _blocks(grey: np.ndarray, scale: int) -> np.ndarray:
    """Means over blocks of `scale` x `scale` pixels; the rest at the far edges is dropped."""
    height, width = (side // scale * scale for side in grey.shape)
    return block_reduce(grey[:height, :width], scale, np.mean)


def _unit(patches: np.ndarray) -> np.ndarray:
    """Patches (N, h, w) with mean 0 and sum of squares 1."""
    patches = patches - patches.mean((1, 2), keepdims=True)
    return patches / np.maximum(np.sqrt((patches**2).sum((1, 2), keepdims=True)), 1e-12)


def _correlations(patches: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Correlation coefficient of each unit patch (N, h, h) with each window of a real image, (N, y, x)."""
    side = patches.shape[1]
    places = tuple(length - side + 1 for length in real.shape)
    # A window's mean drops out, because the patch has the mean 0; its norm does not.
    corner = (slice(side // 2, side // 2 + places[0]), slice(side // 2, side // 2 + places[1]))
    mean, square = (uniform_filter(values, side, mode="constant")[corner] for values in (real, real**2))
    # A window that varies by less than 1/1000 of the grey scale is flat and has no correlation.
    norm = np.sqrt(np.maximum(square - mean**2, 1e-6)) * side
    shape = [fft.next_fast_len(length, real=True) for length in real.shape]
    # Correlation theorem. Windows inside the image do not wrap round, so no padding is needed.
    spectra = np.conj(fft.rfft2(patches, shape)) * fft.rfft2(real, shape)
    return fft.irfft2(spectra, shape)[:, : places[0], : places[1]] / norm
