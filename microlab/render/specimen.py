"""The specimen's surface, before the microscope adds its faults: grains, boundaries, texture, films, phases.

    I = I_0 exp(-h) + level (1 - exp(-h)),     under a carbon film of thickness h, in escape depths

Every function takes an image (or makes the first one) and returns an image, float32, nominally in [0, 1], and
can be used alone; the chain is in :mod:`microlab.render.sem`. In order: where the boundaries are, contrast of
grains, grooves and rims along boundaries, features that are no boundaries, contamination, a second phase.
Under a film the first term is eq. 1 of chapter 15 (breaks-film); the second is what the film emits itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import hsv_to_rgb
from scipy import ndimage

Seed = int | np.random.Generator


@dataclass(frozen=True)
class BoundaryGeometry:
    """Where the nearest grain boundary is, for every pixel.

    Attributes
    ----------
    distance : (H, W) float32
        Distance to the nearest boundary in pixels. It runs between pixels, so the least value is 0.5:
        half a pixel more than to the centre of the nearest pixel that touches another grain.
    facet : (H, W) int32
        Number 0..m-1 of the nearest boundary facet, that is of the pair of grains that meet there.
    """

    distance: np.ndarray
    facet: np.ndarray


def boundary_geometry(grain_map: np.ndarray, *, periodic: bool = True) -> BoundaryGeometry:
    """Distance to the nearest grain boundary, and which facet it belongs to.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids, 0 or more.
    periodic : bool
        Whether the grain map wraps around, as simulated ones do.

    Raises
    ------
    ValueError
        If `grain_map` is not two-dimensional, holds anything but ids, or holds a single grain.
    """
    grain_map = np.asarray(grain_map)
    if grain_map.ndim != 2 or grain_map.size == 0:
        raise ValueError(f"grain_map must be two-dimensional and not empty, got shape {grain_map.shape}")
    if not np.issubdtype(grain_map.dtype, np.integer) or grain_map.min() < 0:
        raise ValueError(
            f"grain_map must hold integer ids from 0, got {grain_map.dtype} from {grain_map.min()}"
        )
    if grain_map.min() == grain_map.max():
        raise ValueError("grain_map holds a single grain: there is no boundary to render")
    height, width = grain_map.shape
    ids, other = grain_map.astype(np.int64), grain_across(grain_map, periodic=periodic)
    # Of a periodic map half a period more on each side is enough to see the nearest image of everything.
    margin = (height // 2, width // 2) if periodic else (0, 0)
    ids, other = (np.pad(part, [(m, m) for m in margin], mode="wrap") for part in (ids, other))
    distance, nearest = ndimage.distance_transform_edt(other < 0, return_indices=True)
    pair = np.minimum(ids, other) * (int(ids.max()) + 1) + np.maximum(ids, other)
    inner = np.s_[margin[0] : margin[0] + height, margin[1] : margin[1] + width]
    facet = np.unique(pair[tuple(nearest)][inner], return_inverse=True)[1].reshape(height, width)
    return BoundaryGeometry((distance[inner] + 0.5).astype(np.float32), facet.astype(np.int32))


def grain_across(grain_map: np.ndarray, *, periodic: bool) -> np.ndarray:
    """On each pixel beside a boundary the grain across it, -1 elsewhere, (H, W) int64."""
    ids = np.asarray(grain_map, np.int64)
    across = np.full(ids.shape, -1, np.int64)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        other = np.roll(ids, step, axis)
        if not periodic:  # nothing lies beyond the frame
            edge = [slice(None), slice(None)]
            edge[axis] = 0 if step == 1 else -1
            other[tuple(edge)] = ids[tuple(edge)]
        across = np.where((across < 0) & (other != ids), other, across)
    return across


def smooth_noise(shape: tuple[int, int], correlation_length: float, seed: Seed) -> np.ndarray:
    """Gaussian random field of zero mean and unit variance, periodic.

    Parameters
    ----------
    shape : (H, W)
    correlation_length : float
        Standard deviation of the smoothing kernel in pixels; 0 gives white noise.
    seed : int or numpy.random.Generator
    """
    white = np.random.default_rng(seed).standard_normal(shape)
    if correlation_length <= 0:
        return white.astype(np.float32)
    spectrum = np.fft.rfft2(white)
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    field = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * correlation_length) ** 2 * (fy**2 + fx**2)), shape)
    field -= field.mean()
    return (field / max(field.std(), 1e-12)).astype(np.float32)


def grain_contrast(grain_map: np.ndarray, *, mean: float, spread: float, seed: Seed) -> np.ndarray:
    """Channelling contrast: every grain has its own grey level, set by how the beam meets its lattice.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1.
    mean, spread : float
        Mean and standard deviation over the grains, in units of full scale.
    seed : int or numpy.random.Generator

    References
    ----------
    Joy, Newbury and Davidson, J. Appl. Phys. 53, R81 (1982): electron channelling contrast.
    """
    level = np.random.default_rng(seed).normal(mean, spread, int(grain_map.max()) + 1)
    return level[grain_map].astype(np.float32)


def colour_contrast(
    grain_map: np.ndarray, *, hue: float, spread: float, saturation: float, brightness: float, seed: Seed
) -> np.ndarray:
    """Colours of grains: tint etching, or polarised light with a sensitive tint plate.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1.
    hue : float
        Mean hue in turns: 0 red, 1/3 green, 2/3 blue.
    spread : float in [0, 1]
        Range of the hues in turns; each grain's is drawn uniformly.
    saturation, brightness : float in [0, 1]
        Of all grains. Equal brightness leaves little contrast to a grey image: what a luminance loses.
    seed : int or numpy.random.Generator

    Returns
    -------
    (H, W, 3) float32 in [0, 1]

    References
    ----------
    Vander Voort, Metallography: Principles and Practice (1984): tint etching and polarised light. The colours
    are phenomenological.
    """
    hues = (hue + spread * (np.random.default_rng(seed).random(int(grain_map.max()) + 1) - 0.5)) % 1
    hsv = np.stack([hues, np.full_like(hues, saturation), np.full_like(hues, brightness)], -1)
    return hsv_to_rgb(hsv)[grain_map].astype(np.float32)


def facet_tilt(image: np.ndarray, grain_map: np.ndarray, *, slope: float, seed: Seed) -> np.ndarray:
    """Each grain's surface is tilted a little, so its brightness runs linearly across it.

    Parameters
    ----------
    slope : float
        Standard deviation of the brightness change over one mean grain diameter, in units of full scale.

    References
    ----------
    Goldstein et al., Scanning Electron Microscopy and X-Ray Microanalysis, 4th ed. (2018), ch. 5: tilt.
    """
    rng = np.random.default_rng(seed)
    n = int(grain_map.max()) + 1
    diameter = np.sqrt(4 * grain_map.size / (np.pi * n))
    gradient = rng.normal(0, slope / diameter, (2, n))
    y, x = np.indices(grain_map.shape)
    # Zero-mean inside each grain. A grain that wraps around the frame gets a short seam; its slope is small.
    area = np.maximum(np.bincount(grain_map.ravel(), minlength=n), 1)
    cy = np.bincount(grain_map.ravel(), y.ravel(), n) / area
    cx = np.bincount(grain_map.ravel(), x.ravel(), n) / area
    ramp = gradient[0][grain_map] * (y - cy[grain_map]) + gradient[1][grain_map] * (x - cx[grain_map])
    return (image + np.clip(ramp, -2 * slope, 2 * slope)).astype(np.float32)


def terraces(
    image: np.ndarray,
    grain_map: np.ndarray,
    distance: np.ndarray,
    *,
    amplitude: float,
    spacing: float,
    seed: Seed,
) -> np.ndarray:
    """Growth terraces: faint rings inside some grains that follow their outline. They are not boundaries.

    Parameters
    ----------
    distance : (H, W) float
        Distance to the nearest boundary in pixels.
    amplitude : float
        Largest brightness of a ring in units of full scale; each grain draws its own share.
    spacing : float
        Mean distance between rings in pixels.

    Raises
    ------
    ValueError
        If `spacing` is not positive.

    References
    ----------
    Phenomenological: drawn after the rings seen on perovskite films, without a model of growth.
    """
    if not spacing > 0:
        raise ValueError(f"spacing must be positive, got {spacing}")
    rng = np.random.default_rng(seed)
    n = int(grain_map.max()) + 1
    strength = amplitude * rng.random(n) ** 3  # most grains have hardly any
    period = spacing * rng.uniform(0.6, 1.6, n)
    phase = rng.uniform(0, 2 * np.pi, n)
    wobble = smooth_noise(image.shape, spacing / 2, rng)
    wave = np.sin(2 * np.pi * distance / period[grain_map] + phase[grain_map] + wobble)
    inside = 1 - np.exp(-((distance / spacing) ** 2))
    return (image + strength[grain_map] * wave * inside).astype(np.float32)


def growth_steps(
    image: np.ndarray, grain_map: np.ndarray, *, amplitude: float, share: float, seed: Seed
) -> np.ndarray:
    """Straight bands across some grains, brighter or darker: growth steps and lamellae, not boundaries.

    Parameters
    ----------
    amplitude : float
        Standard deviation of a band's brightness in units of full scale.
    share : float in [0, 1]
        Share of the grains that have a band.

    References
    ----------
    Phenomenological: drawn after the bands seen on perovskite films, without a model of growth.
    """
    rng = np.random.default_rng(seed)
    n = int(grain_map.max()) + 1
    radius = np.sqrt(grain_map.size / (np.pi * n))
    strength = rng.normal(0, amplitude, n) * (rng.random(n) < share)
    angle = rng.uniform(0, 2 * np.pi, n)
    start = rng.uniform(-0.6, 0.6, n) * radius
    width = rng.uniform(0.15, 1.5, n) * radius
    area = np.maximum(np.bincount(grain_map.ravel(), minlength=n), 1)
    y, x = np.indices(grain_map.shape)
    cy = np.bincount(grain_map.ravel(), y.ravel(), n) / area
    cx = np.bincount(grain_map.ravel(), x.ravel(), n) / area
    across = np.sin(angle)[grain_map] * (y - cy[grain_map]) + np.cos(angle)[grain_map] * (x - cx[grain_map])
    across -= start[grain_map]
    before_end = width[grain_map] - across
    band = np.clip(across + 0.5, 0, 1) * np.clip(before_end + 0.5, 0, 1)  # edges one pixel wide
    return (image + strength[grain_map] * band).astype(np.float32)


def groove(
    image: np.ndarray,
    geometry: BoundaryGeometry,
    *,
    depth: float,
    width: float,
    variation: float = 0.0,
    seed: Seed = 0,
) -> np.ndarray:
    """Boundary grooves: fewer electrons leave the trench that etching or annealing digs along a boundary.

    The darkening is ``depth * exp(-(d / width)^2 / 2)`` with d the distance to the nearest pixel beside the
    boundary, so it has fallen to one half 1.18 `width` from there. Each facet has its own depth and width;
    the depth varies along it.

    Parameters
    ----------
    depth : float in [0, 1]
        Share of the signal lost at the bottom.
    width : float
        Standard deviation of the groove's profile in pixels.
    variation : float in [0, 1]
        Relative spread of depth and width between facets and along them; 0 makes all alike.

    References
    ----------
    Mullins, J. Appl. Phys. 28, 333 (1957): thermal grooving.

    Raises
    ------
    ValueError
        If `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    rng = np.random.default_rng(seed)
    n = int(geometry.facet.max()) + 1
    share = 1 - variation * rng.random(n) ** 1.5
    along = 1 - 0.5 * variation * np.clip(smooth_noise(image.shape, 12.0, rng), 0, 2)
    broad = np.exp(0.5 * variation * rng.standard_normal(n))
    profile = np.exp(-((geometry.distance - 0.5) ** 2) / (2 * (width * broad[geometry.facet]) ** 2))
    return (image * (1 - depth * share[geometry.facet] * along * profile)).astype(np.float32)


def edge_brightening(
    image: np.ndarray, distance: np.ndarray, *, gain: float, offset: float, width: float
) -> np.ndarray:
    """Bright rims: more secondary electrons escape beside an edge than from the flat surface.

    Parameters
    ----------
    gain : float
        Relative brightening at the top of the rim.
    offset, width : float
        Distance of the rim from the boundary and its standard deviation, in pixels.

    References
    ----------
    Reimer, Scanning Electron Microscopy, 2nd ed. (1998), ch. 6: edge effect.

    Raises
    ------
    ValueError
        If `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    return (image * (1 + gain * np.exp(-((distance - offset) ** 2) / (2 * width**2)))).astype(np.float32)


def relief(
    image: np.ndarray, distance: np.ndarray, *, gain: float, width: float, direction: float
) -> np.ndarray:
    """Two-sided boundaries: a groove's slope that faces the detector is bright, the other one dark.

    The relative change is ``gain cos(t) exp(-(d / width)^2 / 2)`` with d the distance to the nearest pixel
    beside the boundary and t the angle between the slope and the detector. So a boundary that points at the
    detector does not show.

    Parameters
    ----------
    distance : (H, W) float
        Distance to the nearest boundary in pixels.
    gain : float in [0, 1]
        Largest relative change.
    width : float > 0
        Standard deviation of the slopes' profile in pixels.
    direction : float
        From the specimen to the detector, in radians from the rows.

    References
    ----------
    Goldstein et al., Scanning Electron Microscopy and X-Ray Microanalysis, 4th ed. (2018), ch. 5: topographic
    contrast; Mullins, J. Appl. Phys. 28, 333 (1957): the groove's slopes.

    Raises
    ------
    ValueError
        If `width` is not positive or `gain` is outside [0, 1].
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    if not 0 <= gain <= 1:
        raise ValueError(f"gain must lie in [0, 1], got {gain}")
    down, right = np.gradient(ndimage.gaussian_filter(distance, 0.7))  # one pixel apart, so of length 1
    facing = np.cos(direction) * right + np.sin(direction) * down
    profile = np.exp(-((distance - 0.5) ** 2) / (2 * width**2))
    return (image * (1 + gain * facing * profile)).astype(np.float32)


def etched_bands(
    image: np.ndarray,
    geometry: BoundaryGeometry,
    *,
    half_width: float,
    depth: float,
    raggedness: float = 0.0,
    gaps: float = 0.0,
    texture: float = 0.0,
    seed: Seed = 0,
) -> np.ndarray:
    """Wide etched boundaries: the etchant has eaten a band along them, with ragged sides and a rough floor.

    Parameters
    ----------
    half_width : float
        From the boundary to the band's side, mean over the facets, in pixels: 1 to 20.
    depth : float in [-1, 1]
        Share of the signal lost in the band; negative where the band is bright, as a second phase along the
        boundaries may be.
    raggedness : float in [0, 1]
        Relative standard deviation of the half-width, half of it between facets and half along them.
    gaps : float in [0, 1)
        Share of the boundary that the etchant spared, in stretches.
    texture : float
        Standard deviation of the floor's roughness, as a share of the depth.

    References
    ----------
    Vander Voort, Metallography: Principles and Practice (1984): attack of grain boundaries by etchants,
    under- and over-etching. The band's shape is phenomenological.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    if not half_width > 0:
        raise ValueError(f"half_width must be positive, got {half_width}")
    for name, value, low in (("depth", depth, -1), ("raggedness", raggedness, 0)):
        if not low <= value <= 1:
            raise ValueError(f"{name} must lie in [{low}, 1], got {value}")
    if not 0 <= gaps < 1:
        raise ValueError(f"gaps must lie in [0, 1), got {gaps}")
    rng = np.random.default_rng(seed)
    between = rng.standard_normal(int(geometry.facet.max()) + 1)[geometry.facet]
    along = smooth_noise(image.shape, 3.0, rng)
    reach = half_width * np.clip(1 + raggedness * (between + along) / np.sqrt(2), 0.2, None)
    band = np.clip(reach - geometry.distance + 0.5, 0, 1)  # sides one pixel wide
    course = smooth_noise(image.shape, 12.0, rng)
    band *= course >= (np.quantile(course, gaps) if gaps else -np.inf)
    floor = depth * (1 + texture * smooth_noise(image.shape, 1.5, rng))
    return (image * (1 - np.clip(floor, -1, 1) * band)).astype(np.float32)


def parallel_marks(
    image: np.ndarray,
    *,
    amplitude: float,
    width: float,
    direction: float | np.ndarray,
    seed: Seed,
) -> np.ndarray:
    """Marks in one direction: of grinding, across the whole field, or slip lines, each grain in its own.

    Parameters
    ----------
    amplitude : float
        Standard deviation of the brightness in units of full scale.
    width : float > 0
        Standard deviation of the kernel that smooths the marks across their direction, in pixels.
    direction : float or (H, W) float
        Along the marks, in radians from the rows; for slip lines an array, constant over each grain.

    References
    ----------
    Vander Voort, Metallography: Principles and Practice (1984): damage by grinding; slip lines of strained
    grains. The spectrum of the marks is phenomenological.

    Raises
    ------
    ValueError
        If `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    y, x = np.indices(image.shape)
    across = np.cos(direction) * y - np.sin(direction) * x
    places = np.arange(np.floor(across.min()), np.ceil(across.max()) + 1)
    profile = ndimage.gaussian_filter1d(np.random.default_rng(seed).standard_normal(places.size), width)
    profile *= amplitude / max(profile.std(), 1e-12)
    return (image + np.interp(across, places, profile)).astype(np.float32)


def surface_texture(
    image: np.ndarray, *, amplitude: float, correlation_length: float, seed: Seed
) -> np.ndarray:
    """Roughness of the surface: a correlated random field is added.

    Parameters
    ----------
    amplitude : float
        Standard deviation in units of full scale.
    correlation_length : float
        In pixels.

    References
    ----------
    Cizmar, Vladar, Ming and Postek, Scanning 30, 381 (2008): surface texture of simulated images.
    """
    return (image + amplitude * smooth_noise(image.shape, correlation_length, seed)).astype(np.float32)


def spots(image: np.ndarray, *, number: float, radius: float, contrast: float, seed: Seed) -> np.ndarray:
    """Small particles (`contrast` > 0) or etch pits and inclusions (`contrast` < 0) on the surface.

    Parameters
    ----------
    number : float
        Mean number of spots per 512 x 512 pixels (Poisson).
    radius : float
        Mean radius in pixels.
    contrast : float
        Brightness at the centre relative to the surroundings, in units of full scale.

    References
    ----------
    Phenomenological: Lorentz-like profiles of random size and direction.
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape
    out = image.astype(np.float32).copy()
    for _ in range(rng.poisson(number * image.size / 512**2)):
        a, b = np.maximum(radius * rng.lognormal(0, 0.4, 2), 0.4)
        angle, cy, cx = rng.uniform(0, np.pi), rng.uniform(0, height), rng.uniform(0, width)
        reach = int(np.ceil(2.5 * max(a, b)))
        y0, y1 = max(int(cy) - reach, 0), min(int(cy) + reach + 1, height)
        x0, x1 = max(int(cx) - reach, 0), min(int(cx) + reach + 1, width)
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        out[y0:y1, x0:x1] += contrast * rng.uniform(0.4, 1) / (1 + ((u / a) ** 2 + (v / b) ** 2) ** 3)
    return out


def scratches(image: np.ndarray, *, number: float, length: float, depth: float, seed: Seed) -> np.ndarray:
    """Thin, bent, faint lines that end anywhere: polishing scratches and cracks. They are not boundaries.

    Parameters
    ----------
    number : float
        Mean number per 512 x 512 pixels (Poisson).
    length : float
        Mean length in pixels.
    depth : float
        Mean share of the signal lost on the line.

    References
    ----------
    Phenomenological: parabolic lines of random length, direction and depth.
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape
    lines = np.zeros(image.shape, np.float32)
    for _ in range(rng.poisson(number * image.size / 512**2)):
        size, angle, bend = length * rng.uniform(0.4, 1.6), rng.uniform(0, 2 * np.pi), rng.normal(0, 0.5)
        t = np.linspace(-0.5, 0.5, max(int(2 * size), 2))
        y = rng.uniform(0, height) + size * (t * np.sin(angle) + bend * t**2 * np.cos(angle))
        x = rng.uniform(0, width) + size * (t * np.cos(angle) - bend * t**2 * np.sin(angle))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        yi, xi = y[inside].astype(int), x[inside].astype(int)
        lines[yi, xi] = np.maximum(lines[yi, xi], depth * rng.uniform(0.3, 1))
    return (image * (1 - 2 * np.clip(ndimage.gaussian_filter(lines, 0.8), 0, 0.5))).astype(np.float32)


def contamination(image: np.ndarray, *, depth: float, correlation_length: float, seed: Seed) -> np.ndarray:
    """Stains and hydrocarbon films: broad patches darken the surface.

    Parameters
    ----------
    depth : float
        Share of the signal lost under the thickest film.
    correlation_length : float
        Size of the patches in pixels.

    References
    ----------
    Reimer, Scanning Electron Microscopy, 2nd ed. (1998): contamination under the beam.
    """
    film = np.clip(smooth_noise(image.shape, correlation_length, seed) - 0.8, 0, 1.5) / 1.5
    return (image * (1 - depth * film)).astype(np.float32)


def scan_windows(shape: tuple[int, int], *, number: int, side: float, seed: Seed) -> np.ndarray:
    """Windows of earlier scans: rectangles in which the beam has cracked hydrocarbons into a carbon film.

    Parameters
    ----------
    shape : (H, W)
    number : int
        Earlier scans.
    side : float in (0, 1]
        Largest side of a window over that of the field; sides are drawn from half of it to the whole.

    Returns
    -------
    (H, W) float32 in [0, 1]
        1 under a film, 0 beside it, with edges about two pixels wide; windows may overlap.

    Raises
    ------
    ValueError
        If `side` is outside (0, 1].

    References
    ----------
    Hettler et al., Micron 96, 38 (2017): carbon contamination grows where the beam dwells.
    """
    if not 0 < side <= 1:
        raise ValueError(f"side must lie in (0, 1], got {side}")
    rng = np.random.default_rng(seed)
    film = np.zeros(shape, np.float32)
    for _ in range(number):
        size = [max(int(length * rng.uniform(side / 2, side)), 1) for length in shape]
        y, x = (rng.integers(0, length - s + 1) for length, s in zip(shape, size))
        film[y : y + size[0], x : x + size[1]] = 1
    return ndimage.gaussian_filter(film, 1.0).astype(np.float32)


def carbon_film(image: np.ndarray, thickness: np.ndarray | float, *, level: float = 0.3) -> np.ndarray:
    """A film of carbon over the surface: it hides what lies under it and emits a little itself.

    The share ``exp(-thickness)`` of the electrons from below gets through, and the film gives `level` of full
    scale where it is thick.

    Parameters
    ----------
    thickness : (H, W) float or float >= 0
        In escape depths of secondary electrons, some nanometres.
    level : float
        Grey of a thick film: carbon yields few secondary electrons.

    Raises
    ------
    ValueError
        If a thickness is negative.

    References
    ----------
    Reimer, Scanning Electron Microscopy, 2nd ed. (1998): exponential escape of secondary electrons;
    contamination under the beam.
    """
    if np.min(thickness) < 0:
        raise ValueError(f"thickness must be 0 or more, got {np.min(thickness)}")
    through = np.exp(-np.asarray(thickness, np.float32))
    return (image * through + level * (1 - through)).astype(np.float32)


@dataclass(frozen=True)
class Phases:
    """A second phase in a virtual micrograph.

    Attributes
    ----------
    phase_map : (H, W) int
        0 or 1 for each pixel, constant over a grain.
    step : float
        Brightness of phase 1 above phase 0, in units of full scale.
    groove : float
        Depth of the groove between two phases over that between two grains. An etchant that attacks grain
        boundaries may leave phase borders flat (0): they show by their contrast alone.
    """

    phase_map: np.ndarray
    step: float = 0.25
    groove: float = 0.0


def phase_contrast(image: np.ndarray, phase_map: np.ndarray, *, step: float) -> np.ndarray:
    """Compositional contrast: the heavier phase scatters more electrons back and is brighter by `step`.

    Parameters
    ----------
    phase_map : (H, W) int, 0 for the lighter phase and 1 for the heavier
    step : float
        Brightness of the second phase above the first, in units of full scale; the mean stays where it was.

    References
    ----------
    Goldstein et al., Scanning Electron Microscopy and X-Ray Microanalysis, 4th ed. (2018): backscattering
    rises with the atomic number.
    """
    heavy = np.asarray(phase_map, np.float32)
    return (image + step * (heavy - heavy.mean())).astype(np.float32)
