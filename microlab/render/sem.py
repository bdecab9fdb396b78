"""A virtual scanning electron microscope: from a grain map to a micrograph whose truth is known.

    signal = surface (contrast, grooves, texture) * illumination, blurred by the probe, counted line by line

The specimen's contrast is in :mod:`microlab.render.specimen`; here are the instrument's artefacts, the
imaging chain (:func:`render`), and the ranges from which microscopes are drawn (domain randomisation).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from microlab.render import specimen
from microlab.render.specimen import Phases, Seed, boundary_geometry, carbon_film, phase_contrast


def illumination(image: np.ndarray, *, slope: float, angle: float, vignetting: float) -> np.ndarray:
    """Uneven signal collection: linear shading across the field, and vignetting.

    Parameters
    ----------
    slope : float
        Relative brightness change from one side of the field to the other.
    angle : float
        Direction of the shading in radians.
    vignetting : float in [0, 1]
        Share of the signal lost in the corners.

    References
    ----------
    Phenomenological: a plane and a parabola, the lowest orders of any smooth fall-off.
    """
    height, width = image.shape
    y, x = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)[None]
    field = (1 + slope * (x * np.cos(angle) + y * np.sin(angle))) * (1 - 2 * vignetting * (x**2 + y**2))
    return (image * field).astype(np.float32)


def point_spread(image: np.ndarray, *, sigma: float) -> np.ndarray:
    """Finite probe size: a Gaussian blur of standard deviation `sigma` pixels.

    Its transfer function is eq. 3 of chapter 04 (microscope-probe).

    References
    ----------
    Reimer, Scanning Electron Microscopy, 2nd ed. (1998), ch. 2: probe diameter.
    """
    return ndimage.gaussian_filter(image, sigma).astype(np.float32) if sigma > 0 else image.astype(np.float32)


def shot_noise(image: np.ndarray, *, electrons: float, seed: Seed) -> np.ndarray:
    """Shot noise: Poisson counts of electrons.

    With the amplifier's noise the variance is eq. 2 of chapter 04 (microscope-transfer).

    Parameters
    ----------
    electrons : float
        Detected electrons per pixel at full scale; the relative noise there is ``electrons ** -0.5``.

    Raises
    ------
    ValueError
        If `electrons` is not positive.

    References
    ----------
    Cizmar, Vladar, Ming and Postek, Scanning 30, 381 (2008): simulated SEM images with Poisson noise.
    """
    if not electrons > 0:
        raise ValueError(f"electrons must be positive, got {electrons}")
    counts = np.random.default_rng(seed).poisson(np.clip(image, 0, None) * electrons)
    return (counts / electrons).astype(np.float32)


def detector_noise(image: np.ndarray, *, sigma: float, seed: Seed) -> np.ndarray:
    """Additive Gaussian noise of the amplifier, `sigma` in units of full scale (Cizmar et al. 2008).

    It is the constant part of eq. 2 of chapter 04 (microscope-transfer).
    """
    return (image + sigma * np.random.default_rng(seed).standard_normal(image.shape)).astype(np.float32)


def charging_streaks(image: np.ndarray, *, amplitude: float, decay: float, seed: Seed) -> np.ndarray:
    """Charging of a poor conductor: bright streaks along the scan line, and offsets between lines.

    Parameters
    ----------
    amplitude : float
        Brightness of the strongest streaks in units of full scale.
    decay : float
        Decay length (1/e) of a streak in pixels.

    References
    ----------
    Cazaux, J. Appl. Phys. 95, 731 (2004): charging in scanning electron microscopy.
    """
    if amplitude == 0:
        return image.astype(np.float32)
    rng = np.random.default_rng(seed)
    height, width = image.shape
    source = rng.exponential(1.0, image.shape) * (rng.random(image.shape) < 2.0 / width)
    tail = np.exp(-np.arange(int(4 * decay) + 1) / max(decay, 1e-6))
    streaks = ndimage.convolve1d(source, tail, axis=1, origin=-(len(tail) // 2), mode="constant")
    lines = rng.standard_normal((height, 1)) * 0.2
    return (image + amplitude * (np.clip(streaks, 0, 3) / 3 + lines)).astype(np.float32)


def scan_path(shape: tuple[int, int], *, jitter: float, drift: float, seed: Seed) -> np.ndarray:
    """Displacement of the beam on each line: vibration shifts single lines, drift shears the field.

    Parameters
    ----------
    shape : (H, W)
    jitter : float
        Standard deviation of a line's horizontal shift in pixels.
    drift : float
        Displacement by drift in pixels, smooth over the frame: 0 on the first line, at most 1.11 `drift` on
        any.

    Returns
    -------
    (2, H) float32
        Displacement (dy, dx) of every line in pixels.

    References
    ----------
    Jones and Nellist, Microsc. Microanal. 19, 1050 (2013): scan noise and drift.
    """
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, shape[0])
    path = np.zeros((2, shape[0]), np.float32)
    for k in range(2):
        course = rng.uniform(-1, 1) * time + 0.5 * rng.uniform(-1, 1) * np.sin(np.pi * time)
        path[k] = drift * course
    path[1] += jitter * rng.standard_normal(shape[0])
    return path


def follow_path(image: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Resample an image along a displaced scan (linear interpolation, reflecting edges).

    Parameters
    ----------
    image : (H, W) float
    path : (2, H) float
        Displacement (dy, dx) of every line in pixels, from :func:`scan_path`.
    """
    y, x = np.indices(image.shape, dtype=np.float32)
    coordinates = np.stack([y + path[0][:, None], x + path[1][:, None]])
    return ndimage.map_coordinates(image, coordinates, order=1, mode="reflect").astype(np.float32)


def tone(image: np.ndarray, *, contrast: float, brightness: float, gamma: float) -> np.ndarray:
    """Contrast, brightness and gamma: ``clip(contrast (image - 0.5) + brightness) ** gamma``.

    References
    ----------
    Phenomenological: the contrast, brightness and gamma controls of an instrument.
    """
    return (np.clip(contrast * (image - 0.5) + brightness, 0, 1) ** gamma).astype(np.float32)


def quantise(image: np.ndarray, *, bits: int = 8) -> np.ndarray:
    """Quantise to `bits` per pixel: clip to [0, 1] and round to 2**bits levels.

    Raises
    ------
    ValueError
        If `bits` is outside 1..16.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must lie in 1..16, got {bits}")
    top = 2**bits - 1
    return (np.round(np.clip(image, 0, 1) * top) / top).astype(np.float32)


@dataclass(frozen=True)
class Microscope:
    """Every setting of one virtual micrograph. Lengths are in pixels, brightness in units of full scale."""

    grain_mean: float = 0.6  # mean grey level of the grains
    grain_spread: float = 0.04  # channelling contrast between grains
    tilt: float = 0.04  # brightness change across a grain
    terrace_amplitude: float = 0.06
    terrace_spacing: float = 10.0
    step_amplitude: float = 0.03  # growth steps across some grains
    step_share: float = 0.2  # of the grains
    groove_depth: float = 0.6  # share of the signal lost on a boundary
    groove_width: float = 2.0  # standard deviation of the groove
    groove_variation: float = 0.5  # between facets and along them
    rim_gain: float = 0.05  # bright rim beside the groove
    rim_width: float = 3.0
    texture_amplitude: float = 0.02
    texture_length: float = 2.0
    pits: float = 5.0  # dark spots per 512 x 512
    pit_radius: float = 1.5
    particles: float = 2.0  # bright spots per 512 x 512
    particle_radius: float = 4.0
    scratches: float = 1.0  # per 512 x 512
    scratch_depth: float = 0.2
    contamination: float = 0.1  # share of the signal lost in stains
    shading: float = 0.1  # brightness change across the field
    shading_angle: float = 0.0  # radians
    vignetting: float = 0.05
    blur: float = 0.8  # standard deviation of the probe
    electrons: float = 60.0  # detected per pixel at full scale
    detector_noise: float = 0.02
    charging: float = 0.02
    charging_decay: float = 30.0
    line_jitter: float = 0.1
    drift: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.5
    gamma: float = 1.0

    @property
    def boundary_half_width(self) -> float:
        """Half the width of a boundary in this microscope's masks, in pixels.

        The boundary is the groove, to about one standard deviation of its mean profile on each side (up to
        half a pixel less; single facets differ), clipped to 1..4 pixels. Blur widens the image of the groove,
        not the mask.
        """
        return min(max(self.groove_width, 1.0), 4.0)


@dataclass(frozen=True)
class MicroscopeRanges:
    """Ranges (low, high) from which each setting is drawn: domain randomisation (Tobin et al., IROS 2017).

    They are wide so that real micrographs lie within the distribution. Settings that span decades are drawn
    log-uniformly (`LOGARITHMIC`). Each optional effect (`OPTIONAL`) is off in a share `absent` of the images,
    so that the network also sees clean ones.
    """

    grain_mean: tuple[float, float] = (0.4, 0.85)
    grain_spread: tuple[float, float] = (0.0, 0.08)
    tilt: tuple[float, float] = (0.0, 0.12)
    terrace_amplitude: tuple[float, float] = (0.0, 0.15)
    terrace_spacing: tuple[float, float] = (5.0, 16.0)
    step_amplitude: tuple[float, float] = (0.0, 0.12)
    step_share: tuple[float, float] = (0.0, 0.6)
    groove_depth: tuple[float, float] = (0.25, 0.8)
    groove_width: tuple[float, float] = (0.7, 4.5)
    groove_variation: tuple[float, float] = (0.1, 0.7)
    rim_gain: tuple[float, float] = (0.0, 0.25)
    rim_width: tuple[float, float] = (1.0, 4.0)
    texture_amplitude: tuple[float, float] = (0.0, 0.05)
    texture_length: tuple[float, float] = (0.5, 8.0)
    pits: tuple[float, float] = (0.0, 60.0)
    pit_radius: tuple[float, float] = (0.7, 3.0)
    particles: tuple[float, float] = (0.0, 15.0)
    particle_radius: tuple[float, float] = (1.5, 6.0)
    scratches: tuple[float, float] = (0.0, 12.0)
    scratch_depth: tuple[float, float] = (0.05, 0.4)
    contamination: tuple[float, float] = (0.0, 0.3)
    shading: tuple[float, float] = (0.0, 0.4)
    shading_angle: tuple[float, float] = (0.0, 2 * np.pi)
    vignetting: tuple[float, float] = (0.0, 0.3)
    blur: tuple[float, float] = (0.3, 1.6)
    electrons: tuple[float, float] = (20.0, 2000.0)
    detector_noise: tuple[float, float] = (0.002, 0.08)
    charging: tuple[float, float] = (0.0, 0.08)
    charging_decay: tuple[float, float] = (5.0, 60.0)
    line_jitter: tuple[float, float] = (0.0, 0.5)
    drift: tuple[float, float] = (0.0, 3.0)
    contrast: tuple[float, float] = (0.7, 1.8)
    brightness: tuple[float, float] = (0.4, 0.65)
    gamma: tuple[float, float] = (0.7, 1.5)
    absent: float = 0.35


LOGARITHMIC = frozenset({"groove_width", "texture_length", "electrons", "detector_noise", "pit_radius"})
OPTIONAL = frozenset(
    {
        "grain_spread",
        "tilt",
        "terrace_amplitude",
        "rim_gain",
        "texture_amplitude",
        "pits",
        "particles",
        "scratches",
    }
    | {"contamination", "shading", "vignetting", "charging", "line_jitter", "drift"}
)


def draw_microscope(seed: Seed, ranges: MicroscopeRanges = MicroscopeRanges()) -> Microscope:
    """Draw one microscope from the ranges.

    Parameters
    ----------
    seed : int or numpy.random.Generator
    ranges : MicroscopeRanges

    Raises
    ------
    ValueError
        If a range is reversed, or starts at or below 0 though the setting is drawn log-uniformly.
    """
    rng = np.random.default_rng(seed)
    settings = {}
    for field in fields(Microscope):
        low, high = getattr(ranges, field.name)
        if low > high or (field.name in LOGARITHMIC and low <= 0):
            raise ValueError(
                f"range {field.name}=({low}, {high}) must rise, and start above 0 if logarithmic"
            )
        value = (
            np.exp(rng.uniform(np.log(low), np.log(high)))
            if field.name in LOGARITHMIC
            else rng.uniform(low, high)
        )
        off = rng.random() < ranges.absent and field.name in OPTIONAL
        settings[field.name] = 0.0 if off else float(value)
    return Microscope(**settings)


def expose(signal: np.ndarray, microscope: Microscope, *, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """What the instrument makes of the specimen's signal: light, probe, scan, noise, tone and 8 bits.

    Parameters
    ----------
    signal : (H, W) float
        In units of full scale.
    microscope : Microscope
    seed : int or numpy.random.Generator

    Returns
    -------
    image : (H, W) float32 in [0, 1], 8-bit levels
    path : (2, H) float32
        Displacement of every line, by which :func:`follow_path` displaces the truth too.
    """
    m, rng = microscope, np.random.default_rng(seed)
    image = illumination(signal, slope=m.shading, angle=m.shading_angle, vignetting=m.vignetting)
    image = point_spread(image, sigma=m.blur)
    path = scan_path(image.shape, jitter=m.line_jitter, drift=m.drift, seed=rng)
    image = follow_path(image, path)
    image = shot_noise(image, electrons=m.electrons, seed=rng)
    image = charging_streaks(image, amplitude=m.charging, decay=m.charging_decay, seed=rng)
    image = detector_noise(image, sigma=m.detector_noise, seed=rng)
    return quantise(tone(image, contrast=m.contrast, brightness=m.brightness, gamma=m.gamma)), path


def render(
    grain_map: np.ndarray,
    microscope: Microscope = Microscope(),
    *,
    seed: Seed = 0,
    periodic: bool = True,
    return_distance: bool = False,
    phases: Phases | None = None,
    film: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Image a grain map with a virtual scanning electron microscope.

    The chain is eq. 1 of chapter 04 (microscope-chain).

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1.
    microscope : Microscope
        Settings; :func:`draw_microscope` draws random ones.
    seed : int or numpy.random.Generator
        The same seed gives the same image.
    periodic : bool
        Whether the grain map wraps around.
    return_distance : bool
        Also return the truth, displaced by the same jitter and drift as the image.
    phases : Phases, optional
        A second phase: its grains, brightness and border grooves.
    film : (H, W) float, optional
        Thickness of a carbon film on the specimen, in escape depths.

    Returns
    -------
    image : (H, W) float32 in [0, 1], 8-bit levels
    distance : (H, W) float32, only if `return_distance`
        Distance to the nearest boundary in pixels; ``distance <= t`` is a mask about 2 t pixels wide.

    Raises
    ------
    ValueError
        If `grain_map` holds no boundary, or a setting of the microscope is outside its effect's range.
    """
    m, rng = microscope, np.random.default_rng(seed)
    geometry = boundary_geometry(grain_map, periodic=periodic)
    distance = geometry.distance
    image = specimen.grain_contrast(grain_map, mean=m.grain_mean, spread=m.grain_spread, seed=rng)
    if phases is not None:
        image = phase_contrast(image, phases.phase_map, step=phases.step)
    image = specimen.facet_tilt(image, grain_map, slope=m.tilt, seed=rng)
    image = specimen.terraces(
        image, grain_map, distance, amplitude=m.terrace_amplitude, spacing=m.terrace_spacing, seed=rng
    )
    image = specimen.growth_steps(image, grain_map, amplitude=m.step_amplitude, share=m.step_share, seed=rng)
    image = specimen.surface_texture(
        image, amplitude=m.texture_amplitude, correlation_length=m.texture_length, seed=rng
    )
    image = specimen.scratches(image, number=m.scratches, length=40.0, depth=m.scratch_depth, seed=rng)
    image = specimen.edge_brightening(
        image, distance, gain=m.rim_gain, offset=2.5 * m.groove_width, width=m.rim_width
    )
    grooved = specimen.groove(
        image, geometry, depth=m.groove_depth, width=m.groove_width, variation=m.groove_variation, seed=rng
    )
    if phases is None:
        image = grooved
    else:  # a phase border has its own groove depth
        border = boundary_geometry(phases.phase_map.astype(np.int32), periodic=periodic).distance <= distance
        image = np.where(border, image + phases.groove * (grooved - image), grooved)
    image = specimen.spots(image, number=m.pits, radius=m.pit_radius, contrast=-0.5, seed=rng)
    image = specimen.spots(image, number=m.particles, radius=m.particle_radius, contrast=0.3, seed=rng)
    image = specimen.contamination(image, depth=m.contamination, correlation_length=25.0, seed=rng)
    if film is not None:
        image = carbon_film(image, film)
    image, path = expose(image, m, seed=rng)
    return (image, follow_path(distance, path)) if return_distance else image
