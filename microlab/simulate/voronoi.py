"""Periodic Voronoi polycrystals: seeds, tessellation and statistics.

    cell_i = { x : |x - s_i| <= |x - s_j| for every seed j },   distances in the periodic box.

Three kinds of seeds: uniformly random (Poisson), regularity-controlled by the least distance between seeds
(alpha = delta / d0), and relaxed by Lloyd's sweeps. Coordinates are (y, x) in pixels; the centre of pixel
[i, j] is the point (i, j), and a box of shape (H, W) repeats with periods H and W.

References
----------
Zhu, Thorpe and Windle (2001), Phil. Mag. A 81, 2765-2783: regularity alpha = delta / d0.
Du, Faber and Gunzburger (1999), SIAM Review 41, 637-676: Lloyd's method and centroidal tessellations.
Widom (1966), J. Chem. Phys. 44, 3888-3894: random sequential addition and its jamming.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from microlab.data.errors import InputError

MAX_ALPHA = 0.75
"""Largest regularity that :func:`regular_seeds` accepts.

Seeds placed one after another jam when discs of diameter delta cover 0.547 of the plane. The hexagonal
packing (alpha = 1) covers pi / (2 sqrt(3)) = 0.907, so the ceiling is alpha = sqrt(0.547 / 0.907) = 0.777.
Small boxes jam by chance a little before it.
"""


def random_seeds(n: int, shape: tuple[int, int], seed: int | np.random.Generator = 0) -> np.ndarray:
    """Seeds placed independently and uniformly (a Poisson-Voronoi polycrystal).

    Parameters
    ----------
    n : int
        Number of grains, at least 1.
    shape : (H, W)
        Size of the periodic box in pixels.
    seed : int or numpy.random.Generator
        Same seed, same positions.

    Returns
    -------
    (n, 2) float64, positions (y, x) with 0 <= y < H and 0 <= x < W.

    Raises
    ------
    ValueError
        If `n` or `shape` is not positive.
    """
    n, shape = _check_count(n), _check_shape(shape)
    return np.random.default_rng(seed).random((n, 2)) * shape


def regular_seeds(
    n: int,
    shape: tuple[int, int],
    alpha: float,
    seed: int | np.random.Generator = 0,
    max_tries: int = 1000,
) -> np.ndarray:
    """Seeds no two of which are closer than ``alpha * d0(n, shape)``, by sequential inhibition.

    Regularity is eq. 1 of chapter 01 (voronoi-alpha).

    Random positions are proposed one after another, and one is kept when it is far enough from all kept
    before it (Zhu, Thorpe and Windle 2001). alpha = 0 gives :func:`random_seeds`; the cells become more alike
    as alpha grows. Near the limit a small box sometimes jams before it is full; it is then emptied and filled
    again, up to 20 times.

    Parameters
    ----------
    n : int
        Number of grains, at least 1.
    shape : (H, W)
        Size of the periodic box in pixels.
    alpha : float in [0, 0.75]
        Regularity, the least distance over that of the hexagonal lattice.
    seed : int or numpy.random.Generator
        Same seed, same positions.
    max_tries : int
        Positions proposed per seed before a box counts as jammed.

    Returns
    -------
    (n, 2) float64, positions (y, x).

    Raises
    ------
    ValueError
        If `alpha` is outside [0, ``MAX_ALPHA``], or if every attempt jams.
    """
    n, shape = _check_count(n), _check_shape(shape)
    if not 0 <= alpha <= MAX_ALPHA:
        raise ValueError(
            f"alpha must lie in [0, {MAX_ALPHA}], got {alpha}: seeds placed one after another jam at 0.777. "
            "For more regular cells use lloyd_seeds"
        )
    rng, most = np.random.default_rng(seed), 0
    for _ in range(20):
        seeds = _inhibit(n, shape, alpha * d0(n, shape), rng, max_tries * n)
        if len(seeds) == n:
            return seeds
        most = max(most, len(seeds))
    raise InputError(
        f"alpha = {alpha} leaves no room for n = {n} seeds in a box of {shape}: at most {most} were placed. "
        "Use a smaller alpha or lloyd_seeds"
    )


def lloyd_seeds(
    n: int, shape: tuple[int, int], sweeps: int, seed: int | np.random.Generator = 0
) -> np.ndarray:
    """Random seeds relaxed by Lloyd's sweeps: each moves to the centroid of its cell.

    The cells become rounder and more hexagonal with every sweep. At equal area variation they are more
    hexagonal than those of :func:`regular_seeds`, so neither replaces the other.

    Parameters
    ----------
    n : int
        Number of grains, at least 1.
    shape : (H, W)
        Size of the periodic box in pixels.
    sweeps : int
        Number of relaxations; 0 gives :func:`random_seeds`.
    seed : int or numpy.random.Generator
        Same seed, same positions.

    Returns
    -------
    (n, 2) float64, positions (y, x).

    Raises
    ------
    ValueError
        If `n` or `shape` is not positive or `sweeps` is negative.
    """
    if sweeps < 0:
        raise ValueError(f"sweeps must be 0 or more, got {sweeps}")
    seeds = random_seeds(n, shape, seed)
    pixels = np.indices(shape).reshape(2, -1).T  # (H*W, 2)
    for _ in range(sweeps):
        grain = tessellate(seeds, shape).ravel()
        offset = _shortest(
            pixels - seeds[grain], shape
        )  # from the seed, across the edge where that is nearer
        area = np.maximum(np.bincount(grain, minlength=n), 1)  # a cell without a pixel stays where it is
        centroid = np.stack([np.bincount(grain, offset[:, k], n) / area for k in (0, 1)], axis=1)
        seeds = _wrap(seeds + centroid, shape)
    return seeds


def d0(n: int, shape: tuple[int, int]) -> float:
    """Distance in px between neighbours of a hexagonal lattice of `n` seeds, ``sqrt(2 H W / (n sqrt(3)))``.

    It is part of eq. 1 of chapter 01 (voronoi-alpha).

    Parameters
    ----------
    n : int
        Number of seeds.
    shape : (H, W)
        Size of the box in pixels.

    Raises
    ------
    ValueError
        If `n` or `shape` is not positive.
    """
    n, (height, width) = _check_count(n), _check_shape(shape)
    return math.sqrt(2 * height * width / (n * math.sqrt(3)))


def tessellate(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Grain map of the periodic Voronoi tessellation: every pixel belongs to its nearest seed, exactly.

    Parameters
    ----------
    seeds : (n, 2) float
        Positions (y, x) in pixels; those outside the box are wrapped into it.
    shape : (H, W)
        Size of the image, which is also the periodic box.

    Returns
    -------
    (H, W) int32, ids 0..n-1 in the order of the seeds. A seed crowded by others may own no pixel.

    Raises
    ------
    ValueError
        If `seeds` is not a non-empty (n, 2) array of finite numbers, or `shape` is not positive.
    """
    seeds, shape = _check_seeds(seeds, shape), _check_shape(shape)
    images, owner = _periodic_images(seeds, shape, reach=np.array(shape) / 2)
    return nearest_owner(images, owner, shape)


def nearest_owner(points: np.ndarray, owner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Owner of the point nearest to every pixel, exactly: the search behind every tessellation.

    Cells are convex: a square block whose four corners lie in one cell lies in it wholly. So a kd-tree
    answers for the corners of blocks, and for single pixels only in blocks that a boundary crosses.

    Parameters
    ----------
    points : (m, 2) or (m, 3) float
        Positions (y, x) in pixels, and the height above the image plane where there is a third coordinate.
    owner : (m,) int32
        Id 0..n-1 that each point writes into the pixels nearest to it.
    shape : (H, W)
        Size of the image.

    Returns
    -------
    (H, W) int32
    """
    tree, in_plane, block = cKDTree(points), (0.0,) * (points.shape[1] - 2), 4  # px: near the fastest

    def nearest(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return tree.query(np.stack(np.broadcast_arrays(y, x, *in_plane), axis=-1))[1]

    rows, columns = (np.arange(-(-size // block) + 1) * block for size in shape)
    corner = nearest(rows[:, None], columns[None])
    corners = np.stack([corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]])
    blocks = np.where((corners == corners[0]).all(axis=0), corners[0], -1)
    point = blocks.repeat(block, axis=0).repeat(block, axis=1)[: shape[0], : shape[1]]
    y, x = np.nonzero(point < 0)
    point[y, x] = nearest(y, x)
    return owner[point]


def cell_areas(grain_map: np.ndarray, n: int | None = None) -> np.ndarray:
    """Area of every grain.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids from 0.
    n : int, optional
        Number of grains; by default the largest id plus one.

    Returns
    -------
    (n,) int64, pixels per grain, 0 for a grain without any.
    """
    return np.bincount(np.asarray(grain_map).ravel(), minlength=n or 0)


def sides(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Number of sides of every cell, from the periodic Delaunay triangulation.

    Their mean is eq. 2 of chapter 01 (voronoi-six).

    Three cells meet at a vertex, so by Euler's theorem on the torus the mean is exactly 6. With very few
    seeds a cell may share two sides with one neighbour, or with itself across the box; each side counts.

    Parameters
    ----------
    seeds : (n, 2) float
        Positions (y, x) in pixels, in general position (no four on one circle, as on a square lattice).
    shape : (H, W)
        Size of the periodic box in pixels.

    Returns
    -------
    (n,) int64
    """
    seeds = _check_seeds(seeds, shape)
    # The empty circle around a Voronoi vertex is no larger than the largest hole between the seeds, and two
    # neighbours lie on one such circle. So images further from the box than its diameter are no neighbours.
    step = np.asarray(shape) / 64
    holes = cKDTree(seeds, boxsize=shape).query(np.indices((64, 64)).reshape(2, -1).T * step)[0]
    radius = min(holes.max() + np.hypot(*step) / 2, math.hypot(*shape) / 2)
    images, _ = _periodic_images(seeds, shape, reach=2 * radius + 1)
    n = len(seeds)  # the first n images are the seeds themselves
    indptr, _ = Delaunay(images).vertex_neighbor_vertices
    return np.diff(indptr)[:n].astype(np.int64)


def nearest_neighbour_distances(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Distance from every seed to the nearest other seed in the periodic box.

    Their least over :func:`d0` is the regularity alpha reached. For random seeds the mean is half of
    ``sqrt(H W / n)`` (Clark and Evans 1954).

    Returns
    -------
    (n,) float64, px

    Raises
    ------
    ValueError
        If there are fewer than two seeds.
    """
    seeds = _check_seeds(seeds, shape)
    if len(seeds) < 2:
        raise ValueError(f"seeds must be at least 2 to have neighbours, got {len(seeds)}")
    return cKDTree(seeds, boxsize=shape).query(seeds, k=2)[0][:, 1]


def _inhibit(
    n: int, shape: tuple[int, int], delta: float, rng: np.random.Generator, max_tries: int
) -> np.ndarray:
    """Up to `n` seeds at least `delta` px apart, (m, 2); fewer than `n` when `max_tries` run out."""
    placed, count, batch = np.empty((n, 2)), 0, max(n, 1000)
    for _ in range(0, max_tries, batch):
        proposed = random_seeds(batch, shape, rng)
        if count:  # most proposals fail against the seeds of earlier batches: test those with a tree
            proposed = proposed[cKDTree(placed[:count], boxsize=shape).query(proposed)[0] >= delta]
        before = count
        for position in proposed:
            distances = np.hypot(*_shortest(placed[before:count] - position, shape).T)
            if (distances >= delta).all():
                placed[count], count = position, count + 1
                if count == n:
                    return placed
    return placed[:count]


def _periodic_images(
    seeds: np.ndarray, shape: tuple[int, int], reach: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Seeds and their copies within `reach` px of the box, and the seed each copies; the seeds come first."""
    copies = np.ceil(np.broadcast_to(reach, 2) / shape).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-c, c + 1) for c in copies)), axis=-1).reshape(-1, 2)
    shifts = shifts[np.argsort(np.abs(shifts).sum(axis=1), kind="stable")]  # (0, 0) first
    images = (seeds + (shifts * shape)[:, None]).reshape(-1, 2)
    owner = np.tile(np.arange(len(seeds), dtype=np.int32), len(shifts))
    near = ((images >= -np.asarray(reach)) & (images <= np.asarray(shape) + reach)).all(axis=1)
    return images[near], owner[near]


def _shortest(offset: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The shortest of the periodic copies of offsets (..., 2)."""
    return offset - np.round(offset / shape) * shape


def _wrap(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    wrapped = seeds % shape
    return np.where(wrapped < shape, wrapped, 0.0)  # -1e-20 % 512 rounds to 512, outside the box


def _check_count(n: int) -> int:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return int(n)


def _check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive sizes (H, W), got {shape}")
    return int(shape[0]), int(shape[1])


def _check_seeds(seeds: np.ndarray, shape: tuple[int, int], name: str = "seeds") -> np.ndarray:
    seeds = np.asarray(seeds, np.float64)
    if seeds.ndim != 2 or seeds.shape[1] != 2 or not len(seeds) or not np.isfinite(seeds).all():
        raise ValueError(
            f"{name} must be finite positions of shape (n, 2), got an array of shape {seeds.shape}"
        )
    return _wrap(seeds, _check_shape(shape))
