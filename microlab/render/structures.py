"""Grain maps as real metals have them: at any magnification, elongated, with ragged boundaries and twins.

    id'(x) = id(A x + b + u(x)),     A magnification and elongation, u a smooth random displacement

Simulated grains are equiaxed and of one size, with smooth boundaries. Every function here takes a grain map
and returns one, and what it returns is the truth of whatever is rendered from it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import label

from microlab.render.specimen import Seed, smooth_noise

SPECK = 9  # px


def window(
    grain_map: np.ndarray,
    shape: tuple[int, int],
    *,
    zoom: float = 1.0,
    elongation: float = 1.0,
    direction: float = 0.0,
    raggedness: float = 0.0,
    ragged_length: float = 5.0,
    seed: Seed = 0,
) -> np.ndarray:
    """A window somewhere in the plane that a periodic grain map tiles, seen at another magnification.

    Each pixel takes the grain that has most weight among the four around its place (bilinear weights), so
    that magnified boundaries run smoothly.

    Parameters
    ----------
    grain_map : (H, W) int
        Periodic, as simulated ones are.
    shape : (int, int)
        Of the window.
    zoom : float > 0
        Magnification.
    elongation : float >= 1
        Length of a grain over its width, as after rolling; areas stay.
    direction : float
        Of the elongation, in radians from the rows.
    raggedness : float in [0, 0.4]
        Standard deviation of the boundaries' random displacement over `ragged_length`. Larger ones would tear
        grains into pieces.
    ragged_length : float > 0
        Correlation length of the displacement in pixels of the window.
    seed : int or numpy.random.Generator
        Of the place and of the displacement.

    Returns
    -------
    (H, W) int32
        Ids 0..n-1 of connected grains, of at least `SPECK` pixels; not periodic.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Rolling to a thickness strain makes elongated grains of equal area in the longitudinal section: Humphreys
    and Hatherly, Recrystallization and Related Annealing Phenomena, 2nd ed. (2004), ch. 2. The raggedness is
    phenomenological.
    """
    for name, value in (("zoom", zoom), ("ragged_length", ragged_length)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")
    if not (np.isfinite(elongation) and elongation >= 1):
        raise ValueError(f"elongation must be at least 1, got {elongation}")
    if not 0 <= raggedness <= 0.4:
        raise ValueError(f"raggedness must lie in [0, 0.4], got {raggedness}")
    rng = np.random.default_rng(seed)
    grain_map = np.asarray(grain_map)
    y, x = np.indices(shape, dtype=np.float64)
    if raggedness:
        y += raggedness * ragged_length * smooth_noise(shape, ragged_length, rng)
        x += raggedness * ragged_length * smooth_noise(shape, ragged_length, rng)
    sine, cosine = np.sin(direction), np.cos(direction)
    along = (cosine * x + sine * y) / (zoom * np.sqrt(elongation))
    across = (cosine * y - sine * x) / (zoom / np.sqrt(elongation))
    y, x = sine * along + cosine * across, cosine * along - sine * across
    start = rng.uniform(0, grain_map.shape)
    ids = _most_weight(grain_map, y + start[0], x + start[1])
    return _connected(ids)


def with_twins(
    grain_map: np.ndarray, *, share: float, width: float = 0.25, seed: Seed = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Annealing twins: bands with parallel, straight sides across some grains.

    Whether a twin's sides are boundaries is a choice that a standard or a reader makes: render from the map
    with twins, and take either map as the truth.

    Parameters
    ----------
    grain_map : (H, W) int
        Ids 0..n-1 of connected grains, not periodic, as `window` returns.
    share : float in [0, 1]
        Share of the grains that have a twin.
    width : float in (0, 1)
        Mean width of a twin over its grain's equivalent circle diameter; each is 0.3 to 1.7 times as wide.
    seed : int or numpy.random.Generator

    Returns
    -------
    twinned : (H, W) int32
        Twins have ids of their own, n and up; the two sides of a twinned grain keep theirs.
    parent : (m,) int32
        Grain of every id, so that ``parent[twinned]`` is the grain map.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Mahajan, Pande, Imam and Rath, Acta Mater. 45, 2633 (1997): annealing twins in face-centred cubic metals.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    if not 0 < width < 1:
        raise ValueError(f"width must lie in (0, 1), got {width}")
    rng = np.random.default_rng(seed)
    grain_map = np.asarray(grain_map)
    twinned, parent = grain_map.astype(np.int32), list(range(int(grain_map.max()) + 1))
    for grain, box in enumerate(ndimage.find_objects(grain_map + 1)):
        if box is None or rng.random() >= share:
            continue
        inside = grain_map[box] == grain
        y, x = (axis - axis[inside].mean() for axis in np.indices(inside.shape))
        angle, diameter = rng.uniform(0, np.pi), np.sqrt(4 * inside.sum() / np.pi)
        place = np.cos(angle) * y + np.sin(angle) * x - rng.uniform(-0.3, 0.3) * diameter
        twin = inside & (np.abs(place) < width * diameter * rng.uniform(0.3, 1.7) / 2)
        if twin.any() and not np.array_equal(twin, inside):
            twinned[box][twin] = len(parent)
            parent.append(grain)
    return twinned, np.array(parent, np.int32)


def _connected(ids: np.ndarray) -> np.ndarray:
    """Ids 0..n-1 of connected pieces; those smaller than `SPECK`, torn off at a tip, join what is nearest."""
    pieces = label(ids, background=-1, connectivity=1)
    specks = np.bincount(pieces.ravel())[pieces] < SPECK
    if specks.any() and not specks.all():
        nearest = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
        pieces = label(pieces[tuple(nearest)], connectivity=1)
    return (pieces - 1).astype(np.int32)


def _most_weight(grain_map: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The id with the largest sum of bilinear weights around places (y, x) of the periodic map."""
    height, width = grain_map.shape
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    ids = np.stack([grain_map[(top + dy) % height, (left + dx) % width] for dy in (0, 1) for dx in (0, 1)])
    weights = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    votes = np.stack([(weights * (ids == one)).sum(0) for one in ids])
    return np.take_along_axis(ids, votes.argmax(0)[None], 0)[0]
