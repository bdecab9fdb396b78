"""Alignment of an image with its mask: displaced, lost and invented boundaries.

    displacement of a boundary pixel = |offset along the boundary's normal at which the image is darkest|

After image translation a mask may no longer fit its image. The displacement is measured on grey-level
profiles across every true boundary, without a detector. Boundaries that vanished or were invented do not
show in it; :func:`agreement` counts them against boundaries detected in the image.
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
    """Offsets of the lines of an image from the boundaries of its mask."""

    y: NDArray[np.integer]  # (n,) boundary pixels with a profile
    x: NDArray[np.integer]
    offset: NDArray[np.float64]  # (n,) px, signed, of the darkest point along the normal
    median: float  # of |offset|, px; above half of the reach if the image shows no line
    share_far: float  # of the boundary pixels, displaced by more than 2 px


def boundary_displacement(
    truth: ArrayLike, image: ArrayLike, *, reach: float = 5.0, smooth: float = 1.0, polarity: str = "dark"
) -> Displacement:
    """Distance between the boundaries of a mask and the lines of an image, by grey profiles.

    Across every pixel of the mask's skeleton the smoothed image is sampled along the normal; the darkest
    point is the line. Junctions, where the normal is undefined, and the frame are left out.

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
    # of several equally dark points, as in flat images, the nearest counts
    nearest = np.argsort(np.abs(offsets), kind="stable")
    offset = offsets[nearest[profiles[:, nearest].argmin(axis=1)]]
    distance = np.abs(offset)
    return Displacement(y, x, offset, float(np.median(distance)), float((distance > 2).mean()))


@dataclass(frozen=True)
class Agreement:
    """Boundaries detected in an image against those of its mask."""

    lost: float  # share of the true boundary without a detected one within the tolerance
    invented: float  # share of the detected boundary without a true one within the tolerance
    lost_pixels: NDArray[np.bool_]  # (H, W), on the skeletons
    invented_pixels: NDArray[np.bool_]


def agreement(truth: ArrayLike, detection: ArrayLike, *, tolerance: float = 3.0) -> Agreement:
    """Boundaries lost and invented between a mask and those that a detector finds in its image.

    Parameters
    ----------
    truth, detection : (H, W) bool
        True on boundaries; both are thinned to lines. The detector has errors of its own: report the shares
        of an image that is known to fit its mask as well.
    tolerance : float >= 0
        Pixels.

    Raises
    ------
    ValueError
        If sizes differ, `tolerance` is negative, or one of them holds no boundary.
    """
    truth, detection = as_mask(truth, "truth"), as_mask(detection, "detection")
    if truth.shape != detection.shape:
        raise ValueError(f"truth {truth.shape} and detection {detection.shape} differ in size")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    if not (truth.any() and detection.any()):
        raise ValueError("truth and detection must both hold a boundary")
    lines = [skeletonize(mask) for mask in (truth, detection)]
    far = [distance_to(line) > tolerance for line in lines]
    lost, invented = lines[0] & far[1], lines[1] & far[0]
    return Agreement(
        float(lost.sum() / lines[0].sum()), float(invented.sum() / lines[1].sum()), lost, invented
    )


def half_width(image: ArrayLike, distance: ArrayLike, *, reach: float = 10.0) -> float:
    """Half width at half depth of the boundaries in an image, from its mean grey at each distance from them.

    A mask as thick as the visible line, without an expert: ``distance <= half_width(image, distance)``.

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
