"""Every common appearance of a single-phase grain structure, drawn at random with its truth.

    structure -> surface of one of `SURFACES` -> instrument -> what is no specimen -> file

A network that has seen one appearance fails on the others without a word. Here the structure (size,
elongation, raggedness, twins), the way its grains or boundaries show, the instrument and what lies over the
field are each drawn from wide ranges: domain randomisation (Tobin et al., IROS 2017) over appearances. The
truth is the middle line of the boundaries, `HALF_WIDTH` to each side, however wide they are etched, and it
tells the sides of twins from the boundaries of grains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from microlab.data.micrograph import Micrograph
from microlab.render import field_of_view, recording, sem, specimen, structures
from microlab.render.sem import Microscope
from microlab.render.specimen import BoundaryGeometry, Seed

HALF_WIDTH = 1.5  # px, from a boundary to the side of its line in the mask
GRAIN, BOUNDARY, TWIN_BOUNDARY, OUTSIDE = range(4)  # classes of a field's pixels
LIGHT_OPTICAL = ("etched", "over-etched", "colour etched", "polarised")  # no scan, no charging


@dataclass(frozen=True)
class Section:
    """A section through a specimen, before it is etched or polished.

    Attributes
    ----------
    grains : (H, W) int32
        Ids of what has a grey of its own: grains, and the twins in them.
    lines : BoundaryGeometry
        Of the boundaries that are etched or grooved: of grains, and of twins in some specimens.
    """

    grains: np.ndarray
    lines: BoundaryGeometry


def _grooves(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Thermal grooves on a polished surface: thin dark lines, faint contrast."""
    image = specimen.grain_contrast(s.grains, mean=m.grain_mean, spread=m.grain_spread, seed=rng)
    image = specimen.facet_tilt(image, s.grains, slope=m.tilt, seed=rng)
    how = {"depth": m.groove_depth, "width": min(m.groove_width, 2.5), "variation": m.groove_variation}
    return specimen.groove(image, s.lines, **how, seed=rng)


def _contrast(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Channelling contrast alone, as backscattered electrons give it: no line at all."""
    spread = rng.uniform(0.04, 0.25)
    image = specimen.grain_contrast(s.grains, mean=rng.uniform(0.35, 0.65), spread=spread, seed=rng)
    return specimen.facet_tilt(image, s.grains, slope=rng.uniform(0, 0.4) * spread, seed=rng)


def _contrast_and_grooves(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Channelling contrast, and faint lines, dark or bright, on some boundaries."""
    image = _contrast(s, m, rng)
    how = {"half_width": rng.uniform(0.6, 1.6), "depth": rng.choice([-1, 1]) * rng.uniform(0.1, 0.4)}
    return specimen.etched_bands(image, s.lines, **how, gaps=rng.uniform(0, 0.6), raggedness=0.3, seed=rng)


def _bright_lines(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Bright boundaries: edge brightening, or a second phase along them."""
    image = specimen.grain_contrast(
        s.grains, mean=rng.uniform(0.2, 0.5), spread=rng.uniform(0, 0.06), seed=rng
    )
    how = {"half_width": np.exp(rng.uniform(np.log(0.7), np.log(4))), "depth": -rng.uniform(0.3, 1)}
    rough = {"raggedness": rng.uniform(0, 0.6), "gaps": rng.uniform(0, 0.15), "texture": rng.uniform(0, 0.2)}
    return specimen.etched_bands(image, s.lines, **how, **rough, seed=rng)


def _two_sided(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Relief: one slope of every groove bright, the other dark."""
    image = specimen.grain_contrast(
        s.grains, mean=rng.uniform(0.35, 0.65), spread=rng.uniform(0, 0.06), seed=rng
    )
    how = {"gain": rng.uniform(0.25, 0.8), "width": rng.uniform(0.8, 3)}
    image = specimen.relief(image, s.lines.distance, **how, direction=rng.uniform(0, 2 * np.pi))
    # A boundary that points at the detector shows by the groove alone.
    return specimen.groove(image, s.lines, depth=rng.uniform(0.1, 0.4), width=1.0, seed=rng)


def _etched(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Etched for the light microscope: bright grains, dark lines of 1 to 4 px, some of them faint."""
    image = specimen.grain_contrast(
        s.grains, mean=rng.uniform(0.6, 0.9), spread=rng.uniform(0, 0.1), seed=rng
    )
    how = {"depth": rng.uniform(0.3, 0.9), "width": np.exp(rng.uniform(np.log(0.6), np.log(2.5)))}
    return specimen.groove(image, s.lines, **how, variation=rng.uniform(0.2, 1), seed=rng)


def _over_etched(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Wide ragged bands of 2 to 20 px half-width, but narrower than the grains."""
    image = specimen.grain_contrast(
        s.grains, mean=rng.uniform(0.6, 0.9), spread=rng.uniform(0, 0.08), seed=rng
    )
    widest = np.clip(0.5 * np.percentile(s.lines.distance, 95), 2.1, 20)
    half_width = np.exp(rng.uniform(np.log(2), np.log(widest)))
    how = {"half_width": half_width, "depth": rng.uniform(0.3, 0.9), "raggedness": rng.uniform(0.1, 0.6)}
    rough = {"gaps": rng.uniform(0, 0.1), "texture": rng.uniform(0, 0.4)}
    return specimen.etched_bands(image, s.lines, **how, **rough, seed=rng)


def _colour_etched(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Tint etching: hues differ, brightness hardly, and some boundaries are dark lines."""
    how = {"hue": rng.random(), "spread": rng.uniform(0.3, 0.8), "saturation": rng.uniform(0.3, 0.8)}
    colours = specimen.colour_contrast(s.grains, **how, brightness=rng.uniform(0.6, 0.9), seed=rng)
    grey = specimen.grain_contrast(s.grains, mean=1.0, spread=rng.uniform(0, 0.08), seed=rng)
    how = {"depth": rng.uniform(0, 0.6), "width": rng.uniform(0.7, 1.8), "variation": rng.uniform(0.3, 1)}
    return colours * specimen.groove(grey, s.lines, **how, seed=rng)[..., None]


def _polarised(s: Section, m: Microscope, rng: np.random.Generator) -> np.ndarray:
    """Crossed polarisers on a metal that is not cubic: grains from black to bright, in grey."""
    n = int(s.grains.max()) + 1
    bright = (
        rng.uniform(0.5, 0.9) * np.sin(2 * rng.uniform(0, np.pi, n)) ** 2
    )  # of the angle to the polariser
    return specimen.facet_tilt(0.08 + bright[s.grains], s.grains, slope=rng.uniform(0, 0.05), seed=rng)


SURFACES: dict[str, Callable[[Section, Microscope, np.random.Generator], np.ndarray]] = {
    "grooves": _grooves,
    "contrast": _contrast,
    "contrast and lines": _contrast_and_grooves,
    "bright lines": _bright_lines,
    "two-sided": _two_sided,
    "etched": _etched,
    "over-etched": _over_etched,
    "colour etched": _colour_etched,
    "polarised": _polarised,
}


@dataclass(frozen=True)
class Ranges:
    """Ranges (low, high) of what all appearances share, and how often something optional is there."""

    zoom: tuple[float, float] = (0.4, 2.5)  # of the simulated grains, drawn log-uniformly
    elongation: tuple[float, float] = (1.3, 6.0)
    elongated: float = 0.25
    raggedness: tuple[float, float] = (0.05, 0.4)
    ragged_length: tuple[float, float] = (2.0, 8.0)  # px
    ragged: float = 0.6
    twin_share: tuple[float, float] = (0.1, 0.6)
    twinned: float = 0.25
    twins_etched: float = 0.5  # of the fields with twins; in the others they differ in grey alone
    marks: float = 0.4  # grinding marks or slip lines
    inverted: float = 0.15
    legend: float = 0.1
    rotated: float = 0.05
    mounted: float = 0.05
    clean: float = 0.15  # smooth grains and no noise, as good optical micrographs and drawings
    overexposed: float = 0.2
    sharpened: float = 0.15
    compressed: float = 0.25


def draw_field(
    appearance: str,
    grain_map: np.ndarray,
    shape: tuple[int, int],
    *,
    seed: Seed,
    ranges: Ranges = Ranges(),
    twins_are_boundaries: bool = False,
) -> Micrograph:
    """A virtual field of one appearance, with its boundaries and its field of view.

    Parameters
    ----------
    appearance : str
        One of `SURFACES`.
    grain_map : (H, W) int
        Simulated, periodic.
    shape : (int, int)
        Of the field, at least 64 x 64.
    seed : int or numpy.random.Generator
    ranges : Ranges
    twins_are_boundaries : bool
        Whether the sides of twins belong to the mask.

    Returns
    -------
    Micrograph
        Image (H, W) or, if colour etched, (H, W, 3). Its `classes` are `GRAIN`, `BOUNDARY`, `TWIN_BOUNDARY`
        and, where `valid` is False, `OUTSIDE`.

    Raises
    ------
    ValueError
        If there is no such appearance, or the window shows a single grain.
    """
    if appearance not in SURFACES:
        raise ValueError(f"appearance must be one of {', '.join(SURFACES)}, got {appearance!r}")
    rng, r = np.random.default_rng(seed), ranges
    recorder = rng.spawn(1)[0]  # its draws leave those of the field as they are
    microscope = sem.draw_microscope(rng)
    if recorder.random() < r.clean:
        microscope = _clean(microscope, recorder)
    if appearance in LIGHT_OPTICAL:
        microscope = replace(microscope, charging=0.0, line_jitter=0.0, drift=0.0)
    grains = structures.window(
        grain_map,
        shape,
        zoom=np.exp(rng.uniform(*np.log(r.zoom))),
        elongation=rng.uniform(*r.elongation) if rng.random() < r.elongated else 1.0,
        direction=rng.uniform(0, np.pi),
        raggedness=rng.uniform(*r.raggedness) if rng.random() < r.ragged else 0.0,
        ragged_length=rng.uniform(*r.ragged_length),
        seed=rng,
    )
    share = rng.uniform(*r.twin_share) if rng.random() < r.twinned else 0.0
    twinned, _ = structures.with_twins(grains, share=share, seed=rng)
    of_grains = specimen.boundary_geometry(grains, periodic=False)
    of_all = specimen.boundary_geometry(twinned, periodic=False) if share else of_grains
    etched = of_all if rng.random() < r.twins_etched else of_grains
    surface = SURFACES[appearance](Section(twinned, etched), microscope, rng)
    surface = _blemished(surface, grains, microscope, r, rng)
    image, path = _exposed(surface, microscope, rng)
    if rng.random() < r.inverted:
        image = 1 - image
    image, valid = _covered(image, r, rng)
    image = _recorded(image, r, recorder)
    classes = np.full(shape, GRAIN, np.uint8)
    for lines, kind in ((of_all, TWIN_BOUNDARY), (of_grains, BOUNDARY)):
        classes[sem.follow_path(lines.distance, path) <= HALF_WIDTH] = kind
    classes[~valid] = OUTSIDE
    boundary = np.isin(classes, [BOUNDARY, TWIN_BOUNDARY] if twins_are_boundaries else [BOUNDARY])
    about = "virtual field"
    return Micrograph(
        image, name=appearance, boundary=boundary, classes=classes, valid=valid, virtual=True, about=about
    )


def _blemished(
    surface: np.ndarray, grains: np.ndarray, m: Microscope, r: Ranges, rng: np.random.Generator
) -> np.ndarray:
    """Marks, scratches, pits, particles and stains: features that are no boundaries."""
    factor = np.ones(grains.shape, np.float32)
    if rng.random() < r.marks:
        slip = rng.random() < 0.4
        direction = rng.uniform(0, np.pi, int(grains.max()) + 1)[grains] if slip else rng.uniform(0, np.pi)
        how = {"amplitude": rng.uniform(0.01, 0.06), "width": rng.uniform(0.5, 2.5)}
        factor = specimen.parallel_marks(factor, **how, direction=direction, seed=rng)
    how = {"amplitude": m.texture_amplitude, "correlation_length": m.texture_length}
    factor = specimen.surface_texture(factor, **how, seed=rng)
    how = {"number": m.scratches, "length": rng.uniform(20, 120), "depth": m.scratch_depth}
    factor = specimen.scratches(factor, **how, seed=rng)
    for number, radius, contrast in ((4 * m.pits, m.pit_radius, -0.6), (m.particles, m.particle_radius, 0.4)):
        factor = specimen.spots(factor, number=number, radius=radius, contrast=contrast, seed=rng)
    factor = specimen.contamination(factor, depth=m.contamination, correlation_length=25.0, seed=rng)
    return surface * (factor if surface.ndim == 2 else factor[..., None])


def _exposed(
    surface: np.ndarray, microscope: Microscope, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if surface.ndim == 2:
        return sem.expose(surface, microscope, seed=rng)
    channels, paths = zip(*(sem.expose(surface[..., k], microscope, seed=rng) for k in range(3)), strict=True)
    return np.stack(channels, -1), paths[0]  # a light microscope does not scan: all paths are zero


def _clean(m: Microscope, rng: np.random.Generator) -> Microscope:
    """A microscope without noise, that sees a specimen without blemishes."""
    specimen_off = ("tilt", "texture_amplitude", "pits", "particles", "scratches", "contamination")
    off = dict.fromkeys((*specimen_off, "detector_noise", "charging", "line_jitter", "drift"), 0.0)
    blur = max(0.0, rng.uniform(-0.5, 1.2))  # from drawings without any to the usual
    return replace(m, **off, electrons=1e6, blur=blur)


def _recorded(image: np.ndarray, r: Ranges, rng: np.random.Generator) -> np.ndarray:
    """The image as its file has it."""
    if rng.random() < r.sharpened:
        image = recording.sharpened(image, sigma=rng.uniform(0.7, 2.0), amount=rng.uniform(0.3, 1.5))
    if rng.random() < r.overexposed:
        image = recording.clipped(image, dark=rng.uniform(0, 0.05), bright=rng.uniform(0, 0.35))
    if rng.random() < r.compressed:
        image = recording.compressed(image, quality=int(rng.integers(25, 91)))
    return image


def _covered(image: np.ndarray, r: Ranges, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with what lies over it, and its field of view."""
    valid = np.ones(image.shape[:2], bool)
    covers: list[Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = []
    if rng.random() < r.mounted:
        how = {"share": rng.uniform(0.05, 0.3), "angle": rng.uniform(0, 2 * np.pi), "grey": rng.uniform(0, 1)}
        seed = int(rng.integers(2**32))
        covers.append(lambda one: field_of_view.mount(one, **how, seed=seed))
    if rng.random() < r.rotated:
        angle, fill = rng.uniform(-0.5, 0.5), float(rng.choice([0, 1]))
        covers.append(lambda one: field_of_view.rotated_field(one, angle=angle, fill=fill))
    if rng.random() < r.legend:
        legend, boxed = int(rng.integers(2**32)), rng.random() < 0.75
        covers.append(lambda one: field_of_view.scale_bar(one, boxed=boxed, seed=legend))
    for cover in covers:
        channels = [image] if image.ndim == 2 else [image[..., k] for k in range(3)]
        covered = [cover(channel) for channel in channels]
        image = covered[0][0] if image.ndim == 2 else np.stack([one for one, _ in covered], -1)
        valid &= covered[0][1]
    return image, valid
