"""Effects of the foil and the microscope on a bright-field TEM picture: concepts 5 to 7.

    bright field near a Bragg condition:  I = 1 - sin^2(pi tau sqrt(1 + p^2)) / (1 + p^2)

with p the deviation from the Bragg condition times the extinction distance and tau the thickness over the
extinction distance (two beams, no absorption). The chain is put together in :mod:`microlab.render.tem`.
Lengths are in pixels, brightness in units of full scale.

References
----------
Saleh, Croes, Ceric, De Wolf and Zahedmanesh, arXiv:2504.14782 (2025): the concepts.
Hirsch, Howie, Nicholson, Pashley and Whelan, Electron Microscopy of Thin Crystals (1965): two beams.
Williams and Carter, Transmission Electron Microscopy, 2nd ed. (2009), ch. 23-24: thickness and bending.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from microlab.render.specimen import smooth_noise
from microlab.render.tem_grains import Facets, facets, orientation_brightness


def bend_contours(
    labels: np.ndarray,
    *,
    depth: float,
    bending: float,
    length: float,
    thickness: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Concept 5, first half: a dark band where a bent foil passes through a Bragg condition.

    The foil's tilt varies smoothly. Each grain has one reflecting plane, with its own azimuth and deviation
    from the Bragg condition, so a band with its fringes ends at the grain's boundary.

    Parameters
    ----------
    labels : (H, W) int
    depth : float in [0, 1]
        Largest share of the brightness lost.
    bending : float
        Standard deviation of the tilt in half-widths of the reflection.
    length : float
        Correlation length of the tilt.
    thickness : float
        Thickness of the foil in extinction distances, tau.

    Returns
    -------
    (H, W) float32 in [1 - depth, 1]
        Factor on the brightness, exactly 1 beyond 4 half-widths of a contour.
    """
    n = int(labels.max()) + 1
    azimuth = rng.uniform(0, 2 * np.pi, n)
    # Three times the bending: most grains never reach their Bragg condition, as in the strip.
    offset = 3 * bending * rng.standard_normal(n)
    tilt_y, tilt_x = (bending * smooth_field(labels.shape, length, rng) for _ in range(2))
    p = np.sin(azimuth)[labels] * tilt_y + np.cos(azimuth)[labels] * tilt_x - offset[labels]
    end = np.clip(4 - np.abs(p), 0, 1)  # the tails, under 10 % of the beam, are cut off smoothly
    return (1 - depth * diffracted(p, thickness) * end).astype(np.float32)


def diffracted(p: np.ndarray, thickness: float) -> np.ndarray:
    """Share of the beam in the reflection, two beams without absorption (Hirsch et al. 1965).

    It is eq. 3 of chapter 13 (concepts-two-beams).

    Parameters
    ----------
    p : float array
        Deviation from the Bragg condition times the extinction distance.
    thickness : float
        In extinction distances.
    """
    return np.sin(np.pi * thickness * np.sqrt(1 + p**2)) ** 2 / (1 + p**2)


def thickness_shading(
    shape: tuple[int, int], *, slope: float, waviness: float, length: float, rng: np.random.Generator
) -> np.ndarray:
    """Concept 5, second half: a foil of uneven thickness absorbs unevenly.

    Returns
    -------
    (H, W) float32
        Factor on the brightness, ``exp`` of a wedge in a random direction, of total change `slope` if along
        an axis, plus smooth waves of standard deviation `waviness`.
    """
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])
    wedge = slope * (np.sin(angle) * y + np.cos(angle) * x)
    return np.exp(wedge + waviness * smooth_field(shape, length, rng)).astype(np.float32)


def inclined_boundaries(
    brightness: np.ndarray, labels: np.ndarray, near: Facets, *, width: float, rng: np.random.Generator
) -> np.ndarray:
    """Concept 6, first half: a boundary inclined to the foil is a ramp of brightness from grain to grain.

    Parameters
    ----------
    brightness : (n,) float
    labels : (H, W) int
    near : Facets
    width : float
        Largest width of a ramp on each side of the boundary. Each facet has its own width, mostly small.

    Returns
    -------
    (H, W) float32
        Factor on the brightness, exactly 1 beyond the ramps.
    """
    n = len(brightness)
    widths = np.triu(width * rng.random((n, n)) ** 3, 1)
    reach = np.maximum((widths + widths.T)[labels, near.neighbour], 1e-6)
    mix = 0.5 * np.clip(1 - (near.distance - 0.5) / reach, 0, 1)
    return (1 + mix * (brightness[near.neighbour] / brightness[labels] - 1)).astype(np.float32)


def second_layer(
    cells: np.ndarray,
    beam: np.ndarray,
    *,
    share: float,
    weight: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Concept 6, second half: overlapping grains of another layer, above or below.

    Their outlines are not in the target.

    Parameters
    ----------
    cells : (H, W) int
        Grain map of the other layer.
    beam : (m, 3) float
        Directions of the beam in its grains.
    share : float in [0, 1]
        Probability that a grain of the other layer is present.
    weight : float in [0, 1]
        Largest share of such a grain in the brightness; a thinner grain has less.

    Returns
    -------
    weight, layer : (H, W) float32
        The picture becomes ``(1 - weight) picture + weight layer``. The weight rises over 4 pixels from a
        grain's rim, where a lens-shaped section of a grain is thin.
    """
    m = len(beam)
    weights = weight * rng.random(m) * (rng.random(m) < share)
    rim = np.clip(facets(cells).distance / 4, 0, 1)
    return (weights[cells] * rim).astype(np.float32), orientation_brightness(beam)[cells].astype(np.float32)


def blur_and_noise(
    image: np.ndarray, *, blur: float, variance: float, correlation: float, rng: np.random.Generator
) -> np.ndarray:
    """Concept 7: blur of the microscope, and noise.

    Parameters
    ----------
    image : (H, W) float
    blur : float
        Standard deviation of the Gaussian blur, before the noise.
    variance : float
        Variance of the Gaussian noise.
    correlation : float
        Standard deviation of the kernel that smooths the noise (a camera's spread) at constant variance.

    Returns
    -------
    (H, W) float32, clipped to [0, 1].
    """
    noise = np.sqrt(variance) * smooth_noise(image.shape, correlation, rng)
    return np.clip(ndimage.gaussian_filter(image, blur) + noise, 0, 1).astype(np.float32)


def smooth_field(shape: tuple[int, int], length: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field, mean 0, standard deviation 1, covariance ``exp(-d^2 / (2 length^2))``, (H, W).

    A sum of 32 plane waves (random Fourier features, Rahimi and Recht 2007). It does not wrap around, so a
    field smoother than the strip is high still varies in all directions.
    """
    wave_y, wave_x = rng.standard_normal((2, 32)) / length
    phase = rng.uniform(0, 2 * np.pi, 32)
    rows = np.exp(1j * (np.arange(shape[0])[:, None] * wave_y + phase))
    columns = np.exp(1j * wave_x[:, None] * np.arange(shape[1]))
    return np.sqrt(2 / 32) * (rows @ columns).real
