"""Grains as a bright-field TEM shows them: concepts 1 to 4 of the synthetic pictures.

    brightness = diffuse + direct exp(-sum_g 1 / (1 + p_g^2)),   p_g = angle from plane g to beam / its width

The chain is put together in :mod:`microlab.render.tem`; what the foil and the microscope do is in
:mod:`microlab.render.tem_foil`. Lengths are in pixels, brightness in units of full scale.

References
----------
Saleh, Croes, Ceric, De Wolf and Zahedmanesh, arXiv:2504.14782 (2025): the concepts.
Hirsch, Howie, Nicholson, Pashley and Whelan, Electron Microscopy of Thin Crystals (1965): contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from microlab.render.specimen import grain_across
from microlab.simulate.power import pack_circles, power_diagram, radii_of
from microlab.simulate.voronoi import random_seeds

# Reflecting planes of copper and their angular half-width d / xi at 100 kV: spacing over extinction distance,
# both in nm (Hirsch et al. 1965).
COPPER = (
    (((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)), 0.2087 / 24.2),
    (((1, 0, 0), (0, 1, 0), (0, 0, 1)), 0.1808 / 28.1),
    (((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)), 0.1278 / 41.6),
)
# How much wider the reflections are taken than they are, so that the spread of grain greys is the strip's.
# It stands for what is left out: many weaker reflections, bending within the thickness, a wide beam.
BROADENING = 8.0
DIFFUSE, DIRECT = 0.2, 0.9  # grey of a fully diffracting grain, and what the direct beam can add to it
FILL = 0.75  # share of the box covered by the packed circles; random packings jam at 0.84
LINE_WIDTH = 0.8  # standard deviation of the faint line at a boundary of similar grains


@dataclass(frozen=True)
class Facets:
    """Where the nearest grain boundary is, for every pixel, and what lies across it.

    Attributes
    ----------
    distance : (H, W) float32
        Distance to the nearest boundary. It runs between pixels, so the least value is 0.5.
    neighbour : (H, W) int32
        The grain across that boundary.
    """

    distance: np.ndarray
    neighbour: np.ndarray


def facets(labels: np.ndarray) -> Facets:
    """Distance to the nearest boundary and the grain across it, in a map that does not wrap around.

    Parameters
    ----------
    labels : (H, W) int
        Ids from 0. A map of a single grain has distance inf, and the grain itself as neighbour.
    """
    across = grain_across(labels, periodic=False)
    if (across < 0).all():
        return Facets(np.full(labels.shape, np.inf, np.float32), labels.astype(np.int32))
    distance, (y, x) = ndimage.distance_transform_edt(across < 0, return_indices=True)
    # Near a junction the nearest touching pixel may lie across the boundary already.
    neighbour = np.where(labels[y, x] == labels, across[y, x], labels[y, x])
    return Facets((distance + 0.5).astype(np.float32), neighbour.astype(np.int32))


def tessellation(
    shape: tuple[int, int], *, area: float, cv: float, packing: bool, rng: np.random.Generator
) -> np.ndarray:
    """Concept 1: grains are convex polygons of a certain size distribution.

    Circles are packed in a periodic box a few grains larger than the picture. Their power diagram is drawn in
    the middle of it, so that grains are cut by the frame and not shaped by it.

    Parameters
    ----------
    shape : (H, W)
    area : float
        Mean area of a grain in square pixels.
    cv : float
        Standard deviation of the circles' radii over their mean.
    packing : bool
        If False the sizes are left to chance: Voronoi cells of random points.
    rng : numpy.random.Generator

    Returns
    -------
    (H, W) int32, ids 0..n-1 without gaps, each grain in one piece.
    """
    # The largest circle of `radii_of` is three mean radii, so 3 sqrt(area) across: it must fit into the box.
    margin = np.sqrt(area) * max(2.0, 3.1 - min(shape) / np.sqrt(area))
    box = tuple(int(np.ceil(size + margin)) for size in shape)
    n = max(2, round(box[0] * box[1] / area))
    if packing:
        radii = radii_of(n, box[0] * box[1], cv=cv, kind="lognormal", fill=FILL, seed=rng)
        centres, radii = pack_circles(box, radii, seed=rng)
    else:
        centres, radii = random_seeds(n, box, rng), np.ones(n)
    cells = power_diagram(centres - margin / 2, radii, shape, periodic=False)
    inside = np.bincount(cells.ravel(), minlength=n) > 0
    return (np.cumsum(inside) - 1)[cells].astype(np.int32)


def boundary_target(labels: np.ndarray, distance: np.ndarray, *, width: float, drawn: bool) -> np.ndarray:
    """Concept 2: the target is the boundary, a thin closed line between grains.

    Parameters
    ----------
    labels : (H, W) int
    distance : (H, W) float
        From :func:`facets`.
    width : float
        Width of the drawn line; pixels within ``width / 2`` of the boundary. Below 3 it is 2 pixels wide,
        the thinnest line that lies evenly on both sides.
    drawn : bool
        If False no line is drawn: only the pixels whose right or lower neighbour is another grain.

    Returns
    -------
    (H, W) bool
    """
    if drawn:
        return distance <= width / 2
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge


def orientation_brightness(beam: np.ndarray) -> np.ndarray:
    """Concept 3: a grain is dark when one of its lattice planes is near the Bragg condition.

    Each family of planes takes its share of the direct beam, ``1 / (1 + p^2)`` with p the angle between
    plane and beam over the width of the reflection; the Bragg angle itself, under 1 degree, is neglected.

    Parameters
    ----------
    beam : (n, 3) float
        Unit vectors: direction of the beam in the crystal axes of each grain.

    Returns
    -------
    (n,) float in [0.2, 1.1]
        With uniformly random orientations the median is 0.62 and 9 of 10 lie in 0.35..0.85; the pixels of the
        real strip have 0.56 and 0.39..0.92.
    """
    diffracted = np.zeros(len(beam))
    for planes, half_width in COPPER:
        normal = np.array(planes) / np.linalg.norm(planes, axis=1, keepdims=True)
        diffracted += (1 / (1 + (beam @ normal.T / (BROADENING * half_width)) ** 2)).sum(axis=1)
    return DIFFUSE + DIRECT * np.exp(-diffracted)


def similar_neighbours(
    brightness: np.ndarray,
    pairs: np.ndarray,
    *,
    share: float,
    difference: float,
    line: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Concept 4: a boundary may lie between grains of nearly the same brightness.

    Some pairs of neighbours, no grain in two of them, are made alike: the second takes the brightness of the
    first but for a small difference. The boundary itself remains as a faint line, brighter or darker.

    Parameters
    ----------
    brightness : (n,) float
    pairs : (m, 2) int
        Neighbouring grains.
    share : float in [0, 1]
        Share of all pairs to make alike, as far as no grain is in two.
    difference : float
        Largest difference of brightness that is left.
    line : float
        Largest brightness of the line, either sign.

    Returns
    -------
    brightness : (n,) float
    lines : (n, n) float, symmetric
        Brightness of the line between two grains, 0 where there is none.
    """
    brightness, lines = brightness.copy(), np.zeros((len(brightness),) * 2)
    free, remaining = np.ones(len(brightness), bool), round(share * len(pairs))
    for first, second in rng.permutation(pairs):
        if not remaining:
            break
        if free[first] and free[second]:
            free[first] = free[second] = False
            remaining -= 1
            brightness[second] = brightness[first] + rng.uniform(-difference, difference)
            lines[first, second] = lines[second, first] = rng.uniform(-line, line)
    return brightness, lines


def faint_lines(lines: np.ndarray, labels: np.ndarray, near: Facets) -> np.ndarray:
    """Brightness of the lines of :func:`similar_neighbours`, to be added to the picture, (H, W) float.

    Parameters
    ----------
    lines : (n, n) float
    labels : (H, W) int
    near : Facets
    """
    profile = np.exp(-(near.distance**2) / (2 * LINE_WIDTH**2))
    return lines[labels, near.neighbour] * profile


def random_directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors, uniform on the sphere, (n, 3): the beam in the axes of randomly oriented crystals."""
    vectors = rng.standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
