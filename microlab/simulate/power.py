"""Packed circles and their power (Laguerre) diagram: convex grains of prescribed sizes.

    cell_i = { x : |x - c_i|^2 - r_i^2 <= |x - c_j|^2 - r_j^2 for every circle j }

Two cells meet on the radical axis of their circles, the line from whose points the tangents to both are
equally long. So cells are convex, large circles own large cells, and equal radii give the Voronoi diagram.
If the circles do not overlap, each lies wholly in its own cell. Coordinates are those of
:mod:`microlab.simulate.voronoi`: (y, x) in pixels, pixel [i, j] at the point (i, j).

References
----------
Aurenhammer (1987), SIAM J. Comput. 16, 78-96: power diagrams.
Fan, Wu, Zhao and Lu (2004), Comput. Mater. Sci. 29, 301-308: polycrystals from packings.
O'Hern, Silbert, Liu and Nagel (2003), Phys. Rev. E 68, 011306: packing by descent of the overlap energy.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from microlab.simulate.voronoi import (
    _check_count,
    _check_seeds,
    _check_shape,
    _periodic_images,
    _shortest,
    _wrap,
    nearest_owner,
)

LARGEST = 3.0
"""Largest radius of :func:`radii_of` over the mean of the distribution.

A lognormal distribution has a long tail, and its largest circles might not fit into the box.
"""
MAX_CV = 0.5
"""Largest coefficient of variation of :func:`radii_of`. The cut at ``LARGEST`` lowers it to 0.49 (gamma) and
0.47 (lognormal), and that of wider distributions by much more.
"""
TOLERANCE = 0.05
"""Deepest overlap left by :func:`pack_circles` without a warning, over the mean radius."""


def radii_of(
    n: int,
    area: float,
    *,
    cv: float = 0.35,
    kind: Literal["lognormal", "gamma", "equal"] = "lognormal",
    fill: float = 0.8,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    """Radii from a given distribution, scaled so that the circles cover a given share of an area.

    Parameters
    ----------
    n : int
        Number of circles, at least 1.
    area : float
        Area of the box in px^2, ``H * W``.
    cv : float in [0, 0.5]
        Coefficient of variation of the radii, standard deviation over mean. Radii beyond 3 times the mean are
        redrawn.
    kind : {'lognormal', 'gamma', 'equal'}
        'equal' gives all circles one radius and ignores `cv`.
    fill : float in (0, 1)
        Share of `area` covered by the circles. Random packings of circles jam between 0.84 and 0.87.
    seed : int or numpy.random.Generator
        Same seed, same radii.

    Returns
    -------
    (n,) float64, px

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    n, rng = _check_count(n), np.random.default_rng(seed)
    if not (area > 0 and math.isfinite(area)):
        raise ValueError(f"area must be positive and finite, got {area}")
    if not 0 <= cv <= MAX_CV:
        raise ValueError(f"cv must lie in [0, {MAX_CV}], got {cv}")
    if not 0 < fill < 1:
        raise ValueError(f"fill must lie in (0, 1), got {fill}")
    sigma = math.sqrt(math.log1p(cv**2))  # of the logarithm; the mean of all three laws is 1
    if kind not in ("lognormal", "gamma", "equal"):
        raise ValueError(f"kind must be 'lognormal', 'gamma' or 'equal', got {kind!r}")

    def draw(m: int) -> np.ndarray:
        if kind == "equal" or cv == 0:
            return np.ones(m)
        if kind == "gamma":
            return rng.gamma(cv**-2, cv**2, m)
        return rng.lognormal(-(sigma**2) / 2, sigma, m)

    radii = draw(n)
    while (large := radii > LARGEST).any():
        radii[large] = draw(int(large.sum()))
    return radii * math.sqrt(fill * area / (math.pi * (radii**2).sum()))


def pack_circles(
    shape: tuple[int, int],
    radii: np.ndarray,
    *,
    seed: int | np.random.Generator = 0,
    periodic: bool = True,
    tries: int = 30,
    max_iterations: int = 200,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack circles of given radii at random with little or no overlap.

    Monte Carlo insertion, the largest first: of `tries` random positions a circle takes the first that is
    free, or the one with the shallowest overlap. Then L-BFGS minimises the overlap energy, half the sum of
    the squared overlap depths, until nothing overlaps or for `max_iterations`.

    Parameters
    ----------
    shape : (H, W)
        Size of the box in pixels.
    radii : (n,) float
        Positive radii in px, for example from :func:`radii_of`.
    seed : int or numpy.random.Generator
        Same seed, same packing.
    periodic : bool
        Circles leave the box on one side and enter on the other; otherwise the box has walls, half a pixel
        outside the outermost pixels' centres, and every circle lies inside.
    tries : int
        Positions proposed per circle.
    max_iterations : int
        Maximum number of L-BFGS iterations; 0 skips the minimisation.

    Returns
    -------
    centres : (n, 2) float64
        Positions (y, x), in the order of `radii`.
    radii : (n,) float64
        The radii as given, for ``power_diagram(*pack_circles(shape, radii), shape)``.

    Raises
    ------
    ValueError
        If a radius is not positive and finite, a circle does not fit into the box, the circles' area exceeds
        that of the box, or `tries` or `max_iterations` is too small.

    Warns
    -----
    UserWarning
        If overlaps deeper than 5 % of the mean radius remain: the box is too full.
    """
    shape, radii = _check_shape(shape), _check_radii(radii)
    if tries < 1 or max_iterations < 0:
        raise ValueError(
            f"tries must be 1 or more and max_iterations 0 or more, got {tries} and {max_iterations}"
        )
    if 2 * radii.max() > min(shape):
        raise ValueError(
            f"radii must be at most half of the shorter side of the box {shape}, got {radii.max():.4g}"
        )
    if (covered := math.pi * (radii**2).sum() / math.prod(shape)) > 1:
        raise ValueError(f"radii must cover less than the box {shape}, got {covered:.3g} times it")

    low = np.full((len(radii), 2), -0.5) + radii[:, None]
    high = np.array(shape) - 0.5 - radii[:, None]
    if periodic:
        low, high = np.zeros_like(low), np.broadcast_to(np.array(shape, float), low.shape)
    centres = _insert(radii, low, high, shape if periodic else None, tries, np.random.default_rng(seed))
    if not max_iterations:
        return centres, radii

    box = shape if periodic else None
    result = minimize(
        _overlap_energy,
        centres.ravel(),
        args=(radii, box),
        jac=True,
        method="L-BFGS-B",
        bounds=None if periodic else np.stack([low.ravel(), high.ravel()], axis=1),
        options={"maxiter": max_iterations, "ftol": 0, "gtol": 1e-3},  # forces in px: a thousandth of one
    )
    centres = result.x.reshape(-1, 2)
    if periodic:
        centres = _wrap(centres, shape)
    deepest = _overlaps(centres, radii, box)[2].max(initial=0)
    if deepest > TOLERANCE * radii.mean():
        warnings.warn(
            f"circles still overlap by up to {deepest:.3g} px after {result.nit} iterations: they cover "
            f"{covered:.3g} of the box. Use smaller radii, or a larger max_iterations",
            stacklevel=2,
        )
    return centres, radii


def power_diagram(
    centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int], *, periodic: bool = True
) -> np.ndarray:
    """Grain map of the power diagram: every pixel belongs to the circle of least power, exactly.

    The power is eq. 1 of chapter 13 (concepts-power), a straight boundary lies at eq. 2 of chapter 13
    (concepts-axis).

    Give each centre the height ``z_i = sqrt(max(r)^2 - r_i^2)`` above the image. Its squared distance from a
    pixel is then the power plus the same constant for all circles. So the diagram is the slice of a
    three-dimensional Voronoi diagram, and :func:`microlab.simulate.voronoi.nearest_owner` finds it.

    Parameters
    ----------
    centres : (n, 2) float
        Positions (y, x) in pixels. In a periodic box those outside are wrapped into it.
    radii : (n,) float
        Positive radii in px. Circles may overlap. The same number added to all
        squared radii changes nothing.
    shape : (H, W)
        Size of the image, and of the box if `periodic`.
    periodic : bool
        Distances in the periodic box; otherwise in the plane, and cells end at the image's edge.

    Returns
    -------
    (H, W) int32, each pixel's id the index of its circle, 0..n-1. A circle covered by others may own no
    pixel; its id then does not occur. ``np.unique(grain_map, return_inverse=True)[1]`` relabels without gaps.

    Raises
    ------
    ValueError
        If `centres` is not a non-empty (n, 2) array of finite numbers, `radii` is not one positive finite
        number per centre, or `shape` is not positive.
    """
    shape, radii, centres = _check_shape(shape), _check_radii(radii), np.asarray(centres, np.float64)
    wrapped = _check_seeds(centres, shape, "centres")
    if len(radii) != len(centres):
        raise ValueError(f"radii must be one per centre, got {len(radii)} radii and {len(centres)} centres")
    owner = np.arange(len(centres), dtype=np.int32)
    if periodic:
        centres, owner = _periodic_images(wrapped, shape, reach=np.array(shape) / 2)
    # Not max**2 - r**2: two roundings of one square can differ, and make the largest circle's height NaN.
    height = np.sqrt((radii.max() - radii) * (radii.max() + radii))[owner]
    return nearest_owner(np.column_stack([centres, height]), owner, shape)


def _insert(
    radii: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    box: tuple[int, int] | None,
    tries: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Centres (n, 2) between `low` and `high`, inserted sequentially, the largest circle first."""
    centres, order = np.empty_like(low), np.argsort(-radii, kind="stable")
    for rank, i in enumerate(order):
        placed = order[:rank]
        proposed = rng.uniform(low[i], high[i], (tries, 2))
        offset = proposed[:, None] - centres[placed]  # (tries, rank, 2)
        if box is not None:
            offset = _shortest(offset, box)
        gap = np.hypot(offset[..., 0], offset[..., 1]) - (radii[i] + radii[placed])
        overlap = np.minimum(gap.min(axis=1, initial=np.inf), 0)  # 0 where free
        centres[i] = proposed[np.argmax(overlap)]  # the first of the best
    return centres


def _overlaps(
    centres: np.ndarray, radii: np.ndarray, box: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping pairs (m, 2), unit vectors (m, 2) from the second to the first, and depths (m,) in px."""
    if box is not None:
        centres = _wrap(centres, box)
    pairs = cKDTree(centres, boxsize=box).query_pairs(2 * radii.max(), output_type="ndarray")
    offset = centres[pairs[:, 0]] - centres[pairs[:, 1]]
    if box is not None:
        offset = _shortest(offset, box)
    distance = np.hypot(*offset.T)
    depth = radii[pairs].sum(axis=1) - distance
    touch = depth > 0
    return pairs[touch], offset[touch] / np.maximum(distance[touch, None], 1e-12), depth[touch]


def _overlap_energy(
    flat: np.ndarray, radii: np.ndarray, box: tuple[int, int] | None
) -> tuple[float, np.ndarray]:
    """Half the sum of squared depths, px^2, and its gradient with respect to the flattened centres."""
    pairs, direction, depth = _overlaps(flat.reshape(-1, 2), radii, box)
    force = depth[:, None] * direction
    gradient = np.stack(
        [
            np.bincount(pairs[:, 1], force[:, k], len(radii))
            - np.bincount(pairs[:, 0], force[:, k], len(radii))
            for k in (0, 1)
        ],
        axis=1,
    )
    return 0.5 * float((depth**2).sum()), gradient.ravel()


def _check_radii(radii: np.ndarray) -> np.ndarray:
    radii = np.asarray(radii, np.float64)
    if radii.ndim != 1 or not len(radii) or not np.isfinite(radii).all() or radii.min() <= 0:
        raise ValueError(f"radii must be positive finite numbers of shape (n,), got {radii!r:.80}")
    return radii
