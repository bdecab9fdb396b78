"""Do the boundaries of an image lie where its mask says?

    displacement of a boundary pixel = |offset along the boundary's normal at which the image is darkest|

A translated image is only worth its mask if the mask still fits. The displacement is read off grey profiles
across every true boundary; no detector stands between. What it cannot see, lines that vanished or were
invented, is counted against boundaries found in the image (`agreement`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.feature import hessian_matrix
from skimage.morphology import skeletonize

from microlab.measure.boundary import distance_to
from microlab.measure.checks import as_mask

STEP = 0.125  # px, along a profile; splines between the pixels


@dataclass(frozen=True)
class Displacement:
    """How far the lines of an image lie from the boundaries of its mask.

    Attributes
    ----------
    y, x : (n,) int
        Boundary pixels that were looked at.
    offset : (n,) float
        Signed offset of the darkest point along the normal, pixels.
    median : float
        Median of ``|offset|``. Without any line in the image it passes half of the reach.
    share_far : float
        Share of boundary pixels displaced by more than 2 pixels.
    """

    y: NDArray[np.integer]
    x: NDArray[np.integer]
    offset: NDArray[np.float64]
    median: float
    share_far: float


def boundary_displacement(
    truth: ArrayLike, image: ArrayLike, *, reach: float = 5.0, smooth: float = 1.0, polarity: str = "dark"
) -> Displacement:
    """Distance between the boundaries of a mask and the lines of an image, by grey profiles.

    Across every pixel of the mask's skeleton the image, smoothed a little, is read along the normal; the
    darkest point is the line. Junctions, where the normal has no meaning, and the frame are left out.

    Parameters
    ----------
    truth : (H, W) bool
        True on boundaries.
    image : (H, W) float
    reach : float > 0
        Half length of a profile in pixels; keep it below half of the smallest grain.
    smooth : float >= 0
        Standard deviation of the smoothing in pixels, against noise.
    polarity : {'dark', 'bright'}
        Grey of the lines.

    Returns
    -------
    Displacement

    Raises
    ------
    ValueError
        If sizes differ, an argument is out of range, or the mask holds no boundary away from junctions.
    """
    truth, image = as_mask(truth, "truth"), np.asarray(image, float)
    if truth.shape != image.shape:
        raise ValueError(f"truth {truth.shape} and image {image.shape} differ in size")
    if not reach > 0 or not smooth >= 0:
        raise ValueError(f"need reach > 0 and smooth >= 0, got {reach} and {smooth}")
    if polarity not in ("dark", "bright"):
        raise ValueError(f"polarity must be 'dark' or 'bright', got {polarity!r}")
    y, x = np.nonzero(_flat_parts(truth, reach))
    if not len(y):
        raise ValueError("truth holds no boundary away from junctions and from the frame")
    ny, nx = (component[y, x] for component in _normals(truth))
    offsets = np.arange(-reach, reach + STEP / 2, STEP)
    grey = ndimage.gaussian_filter(image if polarity == "dark" else -image, smooth)
    profiles = ndimage.map_coordinates(
        grey,
        [y[:, None] + ny[:, None] * offsets, x[:, None] + nx[:, None] * offsets],
        order=3,
        mode="nearest",
    )  # (n, offsets)
    # Where a grey is shared, as in flat images, the nearest point counts.
    nearest = np.argsort(np.abs(offsets), kind="stable")
    offset = offsets[nearest[profiles[:, nearest].argmin(axis=1)]]
    away = np.abs(offset)
    return Displacement(y, x, offset, float(np.median(away)), float((away > 2).mean()))


@dataclass(frozen=True)
class Agreement:
    """Lines of an image against the boundaries of its mask.

    Attributes
    ----------
    lost : float
        Share of the true boundary without a found one within the tolerance.
    invented : float
        Share of the found boundary without a true one within the tolerance.
    lost_pixels, invented_pixels : (H, W) bool
        Where they are, on the skeletons.
    """

    lost: float
    invented: float
    lost_pixels: NDArray[np.bool_]
    invented_pixels: NDArray[np.bool_]


def agreement(truth: ArrayLike, found: ArrayLike, *, tolerance: float = 3.0) -> Agreement:
    """Boundaries lost and invented between a mask and what a detector finds in its image.

    Parameters
    ----------
    truth, found : (H, W) bool
        True on boundaries; both are thinned to lines. A detector has errors of its own: give beside these
        shares those of an image that is known to be right.
    tolerance : float >= 0
        Pixels.

    Raises
    ------
    ValueError
        If sizes differ, `tolerance` is negative, or one of them holds no boundary.
    """
    truth, found = as_mask(truth, "truth"), as_mask(found, "found")
    if truth.shape != found.shape:
        raise ValueError(f"truth {truth.shape} and found {found.shape} differ in size")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    if not (truth.any() and found.any()):
        raise ValueError("truth and found must both hold a boundary")
    lines = [skeletonize(mask) for mask in (truth, found)]
    far = [distance_to(line) > tolerance for line in lines]
    lost, invented = lines[0] & far[1], lines[1] & far[0]
    return Agreement(
        float(lost.sum() / lines[0].sum()), float(invented.sum() / lines[1].sum()), lost, invented
    )


def half_width(image: ArrayLike, distance: ArrayLike, *, reach: float = 10.0) -> float:
    """Half the width of the boundaries in an image, from its mean grey at each distance from them.

    The width is that at half of the depth between the boundary's grey and the grains'. It gives a mask as
    thick as the line that is seen, without an expert: ``distance <= half_width(image, distance)``.

    Parameters
    ----------
    image : (H, W) float
    distance : (H, W) float
        Distance to the nearest boundary in pixels.
    reach : float
        Distance at which the grains' grey is read.

    Returns
    -------
    float, in pixels, at least 0.5.

    Raises
    ------
    ValueError
        If sizes differ, or boundaries do not differ in grey from grains.
    """
    image, distance = np.asarray(image, float), np.asarray(distance, float)
    if image.shape != distance.shape:
        raise ValueError(f"image {image.shape} and distance {distance.shape} differ in size")
    near = distance < reach
    bins = (2 * distance[near]).astype(int)  # of half a pixel
    count = np.bincount(bins)
    at, grey = (np.bincount(bins, field[near])[count > 0] / count[count > 0] for field in (distance, image))
    if grey.min() == grey.max():
        raise ValueError("boundaries do not differ in grey from the grains around them")
    depth = (grey - grey[0]) / (np.median(grey[len(grey) // 2 :]) - grey[0])  # 0 on the line, 1 in grains
    beyond = np.flatnonzero(depth >= 0.5)
    if not len(beyond) or beyond[0] == 0:
        raise ValueError("boundaries do not differ in grey from the grains around them")
    last = beyond[0]
    return float(max(np.interp(0.5, depth[last - 1 : last + 1], at[last - 1 : last + 1]), 0.5))


def _flat_parts(truth: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Skeleton without its junctions, ends and the frame."""
    line = skeletonize(truth)
    neighbours = ndimage.convolve(line.astype(int), np.ones((3, 3), int), mode="constant") - 1
    knots = line & (neighbours != 2)
    size = 2 * int(np.ceil(reach)) + 1
    away = ~ndimage.binary_dilation(knots, np.ones((size, size), bool))
    margin = int(np.ceil(reach))
    away[:margin] = away[-margin:] = False
    away[:, :margin] = away[:, -margin:] = False
    return line & away


def _normals(truth: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """Unit normals (y, x) of the lines: the direction in which the smoothed line curves most."""
    yy, yx, xx = hessian_matrix(
        skeletonize(truth).astype(float), sigma=2.0, order="rc", use_gaussian_derivatives=False
    )
    # On a line the second derivative across is strongly negative; its axis has this angle from y.
    angle = 0.5 * np.arctan2(2 * yx, yy - xx) + np.pi / 2
    return np.cos(angle), np.sin(angle)
