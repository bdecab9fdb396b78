"""Virtual micrographs of ultrahigh-carbon steel with exact masks of its four constituents.

    network = { x : distance of x from the grain boundaries < w(x) },   w a smooth random half-width

What stands where is drawn first and is the mask; the picture is painted from it, then blurred and given the
noise of few electrons. It stands in for the real images where they are missing; it is no model of the steel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from microlab.data.micrograph import Micrograph
from microlab.simulate.voronoi import regular_seeds, tessellate

MATRIX, NETWORK, SPHEROIDITE, WIDMANSTATTEN = range(4)


@dataclass(frozen=True)
class SteelConfig:
    """Sizes in px and grey levels of the virtual fields; ranges are (lowest, highest) of a field."""

    grain: float = 360.0  # square root of the mean grain area
    half_width: tuple[float, float] = (8.0, 15.0)  # of the network
    unevenness: float = 0.55  # standard deviation of the half-width over its mean; gaps where it falls to 0
    particles: tuple[float, float] = (14e-3, 26e-3)  # spheroidite particles tried per px
    particle_radius: tuple[float, float] = (1.0, 1.6)  # median
    radius_spread: float = 0.5  # standard deviation of the logarithm
    denuded: float = 3.0  # no particle centre nearer than this to the network or to a needle
    groups: float = 2.2e-5  # groups of needles per px, on average
    needles: tuple[int, int] = (2, 8)  # per group, the last not included
    needle_length: tuple[float, float] = (50.0, 240.0)
    needle_half_width: tuple[float, float] = (1.2, 3.0)
    needle_gap: tuple[float, float] = (4.0, 9.0)  # between neighbours in a group
    matrix: tuple[float, float] = (0.34, 0.48)  # grey level of the matrix
    network_offset: tuple[float, float] = (-0.12, -0.02)  # of the network from the matrix
    rim: tuple[float, float] = (0.35, 0.55)  # brightness of rims above the matrix
    blur: tuple[float, float] = (0.45, 0.8)
    noise: tuple[float, float] = (0.02, 0.05)  # standard deviation at grey level 0.5


def steel_fields(
    n: int,
    shape: tuple[int, int] = (256, 256),
    seed: int | np.random.Generator = 0,
    config: SteelConfig | None = None,
) -> list[Micrograph]:
    """Virtual fields that resemble ultrahigh-carbon steel, with exact masks of its four classes.

    Class 1 is a thick, uneven carbide network on the boundaries of a Voronoi tessellation, 2 round particles
    inside the grains, 3 needles in parallel groups that grow from the network into a grain, absent from some
    fields, 0 the matrix between them.

    Parameters
    ----------
    n : int
        Number of fields, at least 1.
    shape : (H, W)
    seed : int or numpy.random.Generator
        Same seed, same fields; the first fields do not depend on `n`.
    config : SteelConfig, optional

    Returns
    -------
    list of Micrograph
        Images (H, W) float32 in [0, 1], masks (H, W) uint8; names ``virtual_000`` and so on.

    Raises
    ------
    ValueError
        If `n` or `shape` is not positive.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive sizes (H, W), got {shape}")
    rng, config = np.random.default_rng(seed), config or SteelConfig()
    fields = [_field(shape, config, rng) for _ in range(n)]
    return [
        Micrograph(image, name=f"virtual_{k:03d}", classes=classes, virtual=True)
        for k, (image, classes) in enumerate(fields)
    ]


def _field(
    shape: tuple[int, int], config: SteelConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask. Signed distances (px, negative inside) carry the shapes from one to the other."""
    grains, network = _network(shape, config, rng)
    needles = np.maximum(_needles(grains, network, config, rng), -network)  # the network covers them
    particles = _particles(np.minimum(network, needles) > config.denuded, config, rng)
    mask = np.zeros(shape, np.uint8)
    for constituent, distance in ((SPHEROIDITE, particles), (WIDMANSTATTEN, needles), (NETWORK, network)):
        mask[distance < 0] = constituent
    return _paint(mask, network, needles, particles, config, rng), mask


def _network(
    shape: tuple[int, int], config: SteelConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Grain map and signed distance from the rim of the network."""
    margin = int(config.grain)  # the tessellation is periodic, the field must not be
    box = (shape[0] + margin, shape[1] + margin)
    grains = tessellate(regular_seeds(max(2, round(box[0] * box[1] / config.grain**2)), box, 0.4, rng), box)
    y, x = np.indices(shape)
    y, x = (  # boundaries are curved
        np.clip(axis + 12 * coarse_noise(shape, 40, rng) + margin / 2, 0, length - 1).astype(int)
        for axis, length in ((y, box[0]), (x, box[1]))
    )
    grains = grains[y, x]
    inside = np.ones(shape, bool)
    for axis in (0, 1):
        other = np.roll(grains, 1, axis)
        other.swapaxes(0, axis)[0] = grains.swapaxes(0, axis)[0]
        inside &= grains == other
    distance = distance_transform_edt(inside) if not inside.all() else np.full(shape, np.inf)
    width = 1 + config.unevenness * coarse_noise(shape, 45, rng) + 0.12 * coarse_noise(shape, 7, rng)
    return grains, (distance - rng.uniform(*config.half_width) * width).astype(np.float32)


def _needles(
    grains: np.ndarray, network: np.ndarray, config: SteelConfig, rng: np.random.Generator
) -> np.ndarray:
    """Signed distance from the rims of the needles."""
    distance = np.full(grains.shape, np.inf, np.float32)
    rims = np.argwhere(np.abs(network) < 1)
    if not len(rims):
        return distance
    for _ in range(rng.poisson(config.groups * grains.size)):
        origin = rims[rng.integers(len(rims))]
        grain = grains == grains[tuple(origin)]
        middle = np.argwhere(grain).mean(axis=0) - origin
        angle = np.arctan2(*middle) + rng.normal(0, 0.4)  # into the grain, more or less
        y, x = (np.arange(size, dtype=np.float32) - at for size, at in zip(grains.shape, origin, strict=True))
        along = np.sin(angle) * y[:, None] + np.cos(angle) * x
        across = np.cos(angle) * y[:, None] - np.sin(angle) * x
        place = 0.0
        for _ in range(rng.integers(*config.needles)):
            length, half_width = rng.uniform(*config.needle_length), rng.uniform(*config.needle_half_width)
            bend = across - place - rng.uniform(-0.015, 0.015) * along
            tapered = half_width * np.sqrt(np.clip(1 - along / length, 0.0, 1))
            needle = np.where((along > -25) & (along < length) & grain, np.abs(bend) - tapered, np.inf)
            np.minimum(distance, needle, out=distance)
            place += 2 * half_width + rng.uniform(*config.needle_gap)
    return distance


def _particles(free: np.ndarray, config: SteelConfig, rng: np.random.Generator) -> np.ndarray:
    """Signed distance from the rims of elliptic particles, exact only near them (inf elsewhere)."""
    shape = free.shape
    count = rng.poisson(rng.uniform(*config.particles) * free.size)
    centre = rng.random((count, 2)) * shape
    crowd = coarse_noise(shape, 60, rng)  # crowded here, sparse there
    row, column = centre.astype(int).T
    kept = free[row, column] & (rng.random(count) < 0.75 + 0.25 * crowd[row, column])
    centre = centre[kept]
    radius = rng.uniform(*config.particle_radius) * np.exp(
        config.radius_spread * rng.standard_normal(len(centre))
    )
    radius = np.clip(radius, 0.6, 9)
    angle, ratio = rng.uniform(0, np.pi, len(centre)), rng.uniform(0.5, 1, len(centre))
    distance = np.full(shape, np.inf, np.float32)
    for some, reach in ((radius < 2.5, 5), (radius >= 2.5, 14)):  # most are small and need few pixels
        steps = np.arange(-reach, reach + 1)
        pixel = centre[some].astype(int)[:, None] + np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
        dy, dx = np.moveaxis((pixel + 0.5 - centre[some][:, None]).astype(np.float32), 2, 0)
        sine, cosine, axes = np.sin(angle[some]), np.cos(angle[some]), np.sqrt(ratio[some])
        along = ((sine * dy.T + cosine * dx.T) * axes).T  # (particles, pixels)
        across = ((cosine * dy.T - sine * dx.T) / axes).T
        away = np.hypot(along, across) - radius[some][:, None]
        near = (away < 2) & (pixel >= 0).all(2) & (pixel < shape).all(2)
        np.minimum.at(distance, tuple(pixel[near].T), away[near].astype(np.float32))
    return distance


def _paint(
    mask: np.ndarray,
    network: np.ndarray,
    needles: np.ndarray,
    particles: np.ndarray,
    config: SteelConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """The picture: a rough matrix, a smooth network, bright rims, then blur and noise."""
    shape, matrix, rim = mask.shape, rng.uniform(*config.matrix), rng.uniform(*config.rim)
    rough = gaussian_filter(rng.standard_normal(shape, np.float32), 1.0)
    rough *= 0.05 / rough.std()
    image = matrix + rough + 0.02 * coarse_noise(shape, 12, rng)
    inside = mask == NETWORK
    image[inside] = matrix + rng.uniform(*config.network_offset) + 0.3 * rough[inside]
    lit = np.clip(0.6 + 0.3 * coarse_noise(shape, 30, rng), 0.1, 1)  # rims are not lit alike everywhere
    image += lit * rim * np.exp(-((network / 1.1) ** 2))
    for distance, core in ((needles, 0.7), (particles, 0.5)):  # bright, with a greyer core where wide enough
        image += rim * (np.clip(0.5 - distance, 0, 1) - core * np.clip(-(distance + 1) / 2, 0, 1))
    image += 0.03 * coarse_noise(shape, 150, rng)  # uneven illumination
    pits = coarse_noise(shape, 9, rng) + coarse_noise(shape, 4, rng)
    image -= 0.3 * np.clip(pits - 4.0, 0, 1) * ~inside  # etched out
    image = gaussian_filter(image, rng.uniform(*config.blur))
    noise = rng.uniform(*config.noise) * np.sqrt(np.clip(image, 0.02, None) / 0.5)  # shot noise
    return np.clip(image + noise * rng.standard_normal(shape), 0, 1).astype(np.float32)


def coarse_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field of mean 0 and standard deviation 1, smooth over about `scale` px, (H, W) float.

    Random heights on a coarse grid, joined by Gaussian weights: two products of small matrices, so the cost
    does not grow with the scale.
    """
    weights = []
    for size in shape:
        nodes = np.arange(-2 * scale, size + 2 * scale + 1, scale)
        weight = np.exp(-0.5 * ((np.arange(size)[:, None] - nodes) / (0.7 * scale)) ** 2)
        weights.append(weight / np.sqrt((weight**2).sum(1, keepdims=True)))
    rows, columns = weights
    return rows @ rng.standard_normal((rows.shape[1], columns.shape[1])) @ columns.T
