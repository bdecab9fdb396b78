"""Concept-oriented synthetic TEM: pictures of polycrystals with their boundaries, for training.

    image = blur((paint * contours * shading) overlapped by a second layer) + noise

Seven concepts, each with a switch, functions (in :mod:`microlab.render.tem_grains` and
:mod:`microlab.render.tem_foil`) and a stream of random numbers of its own, so that switching one off changes
what it claims and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from microlab.data.parallel import imap
from microlab.measure.labels import neighbour_pairs
from microlab.render import tem_foil, tem_grains

Range = tuple[float, float]
Seed = int | np.random.Generator | np.random.SeedSequence
CONCEPTS = ("packing", "target", "orientation", "similar", "bending", "overlap", "noise")
"""The switches of :class:`TEMConfig`, in the order of the chain."""
STREAMS = ("packing", "orientation", "similar", "contours", "shading", "inclined", "second layer", "noise")
WEAK_CONTRAST = 0.1
"""Boundaries of less contrast are weak. It is the standard deviation of the paper's strongest noise."""


@dataclass(frozen=True)
class TEMConfig:
    """Switches and ranges of the synthetic TEM pictures. A range (low, high) is drawn from for each picture.

    The paper states the size of the pictures and the largest variance of the noise. All else is by eye from
    its one public strip (154 x 1166 pixels), seen at 96 rows, unless a source is named; lengths in pixels.
    The strip also has slightly curved boundaries, dark particles and scratches: they are left out.
    """

    shape: tuple[int, int] = (96, 496)  # paper

    packing: bool = True  # 1: off, cells of random points
    grain_area: Range = (1500.0, 6000.0)  # mean, even in its logarithm; about 17 grains in the strip: 4100
    radius_cv: Range = (0.15, 0.45)  # of the packed circles; grains in metals have diameters with 0.3 to 0.5

    target: bool = True  # 2: off, a bare edge of one pixel
    line_width: float = 2.0  # thinnest symmetric line; boundaries then hold 4 to 8 % of the pixels

    orientation: bool = True  # 3: off, all grains have the grey `plain`
    plain: float = 0.6  # mean of the strip

    similar: bool = True  # 4: off, brightness stays as the orientation made it
    similar_share: Range = (0.03, 0.15)  # of the pairs of neighbours; no grain is in two, so 1/6 is the most
    similar_difference: float = 0.03  # the noise of the strip, 0.02, and a little more
    faint_line: float = 0.12  # largest brightness of the line at such a boundary

    bending: bool = True  # 5: off, neither contours nor shading
    contours: bool = True  # and each of the two alone
    shading: bool = True
    contour_depth: Range = (0.15, 0.6)
    bend: Range = (2.0, 6.0)  # tilt of the foil in half-widths of a reflection
    bend_length: Range = (40.0, 100.0)
    thickness: Range = (0.75, 2.5)  # extinction distances: a foil of 20 to 60 nm of copper
    shading_slope: Range = (0.0, 0.45)  # the strip: 0.71 at its upper edge, 0.465 at its lower
    waviness: Range = (0.0, 0.06)

    overlap: bool = True  # 6: off, vertical boundaries and one layer
    ramp: Range = (0.0, 10.0)  # largest width of an inclined boundary on each side
    layer_share: Range = (0.0, 0.2)  # grains of the second layer that are there
    layer_weight: Range = (0.1, 0.4)  # how much they show at most

    noise: bool = True  # 7: off, image is clean
    blur: Range = (0.5, 1.2)
    noise_variance: Range = (2e-4, 0.01)  # even in its logarithm; half of the strip's to the paper's most
    noise_correlation: Range = (0.0, 0.9)  # the strip at 96 rows: neighbours correlate by 0.7

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or min(self.shape) < 16:
            raise ValueError(f"shape must be two sizes of at least 16 px, got {self.shape}")
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            if field.name != "shape" and not 0 <= low <= high < np.inf:
                raise ValueError(f"{field.name} must be at least 0, and rise if a range, got {value}")
            if field.name in {"similar_share", "contour_depth", "layer_share", "layer_weight"} and high > 1:
                raise ValueError(f"{field.name} is a share and must lie in [0, 1], got {value}")
        if self.noise_variance[0] <= 0:
            raise ValueError(f"noise_variance must start above 0, got {self.noise_variance}")
        if self.grain_area[0] < 50:
            raise ValueError(
                f"grain_area must be at least 50 px for a line of 2 px to fit, got {self.grain_area}"
            )
        if self.line_width < 1:
            raise ValueError(f"line_width must be at least 1 px, got {self.line_width}")


@dataclass(frozen=True)
class TEMPicture:
    """One synthetic picture with everything that is known about it.

    Attributes
    ----------
    image : (H, W) float32 in [0, 1]
    boundary : (H, W) bool
        True on grain boundaries.
    clean : (H, W) float32
        The image before blur and noise; may exceed 1.
    labels : (H, W) int32
        Ids 0..n-1. Grains are convex. Of some the frame leaves a corner no wider than the boundary's line:
        count the grains that a method could find as components of ``~boundary``.
    brightness : (n,) float64
        Of each grain, before contours, shading and overlap.
    beam : (n, 3) float64
        Orientation: direction of the electron beam in each grain's crystal axes, unit vectors.
    strength : (H, W) float32
        Contrast of the nearest boundary: difference of brightness between the grains it separates.
    contours : (H, W) bool
        Where a bend contour changes the picture.
    overlapped : (H, W) bool
        Where an inclined boundary or a second layer changes it.
    """

    image: np.ndarray
    boundary: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    brightness: np.ndarray
    beam: np.ndarray
    strength: np.ndarray
    contours: np.ndarray
    overlapped: np.ndarray


def tem_picture(seed: Seed, config: TEMConfig = TEMConfig()) -> TEMPicture:
    """Draw one picture and its boundaries.

    Parameters
    ----------
    seed : int, numpy.random.Generator or numpy.random.SeedSequence
        The same seed gives the same picture, whatever was drawn before. Picture k of :func:`tem_pictures` is
        that of ``numpy.random.SeedSequence(seed).spawn(n)[k]``.
    config : TEMConfig

    Returns
    -------
    TEMPicture
    """
    return _draw(_sequence(seed), config)


def tem_pictures(
    n: int, seed: int | np.random.Generator = 0, config: TEMConfig = TEMConfig(), jobs: int = 1
) -> Iterator[TEMPicture]:
    """Draw many pictures, in order. The first ones do not depend on `n`, nor any on `jobs`.

    Parameters
    ----------
    n : int
        Number of pictures, at least 1; the paper has 3000.
    seed : int or numpy.random.Generator
    config : TEMConfig
    jobs : int
        Processes; -1 for one per core.

    Yields
    ------
    TEMPicture

    Raises
    ------
    ValueError
        If `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    sequences = _sequence(seed).spawn(n)
    return imap(_draw, [(sequence, config) for sequence in sequences], jobs)


def weak_boundaries(picture: TEMPicture, threshold: float = WEAK_CONTRAST) -> np.ndarray:
    """Boundary pixels of less contrast than `threshold`, (H, W) bool; the rest is strong."""
    return picture.boundary & (picture.strength < threshold)


def _draw(sequence: np.random.SeedSequence, config: TEMConfig) -> TEMPicture:
    """The chain. Every step draws from its own stream, whichever steps before it were switched on."""
    c = config
    rng = _stream(sequence, "packing")
    labels = tem_grains.tessellation(
        c.shape,
        area=_even_in_logarithm(c.grain_area, rng),
        cv=rng.uniform(*c.radius_cv),
        packing=c.packing,
        rng=rng,
    )
    n, near = int(labels.max()) + 1, tem_grains.facets(labels)
    boundary = tem_grains.boundary_target(labels, near.distance, width=c.line_width, drawn=c.target)

    beam = tem_grains.random_directions(n, _stream(sequence, "orientation"))
    brightness = tem_grains.orientation_brightness(beam) if c.orientation else np.full(n, c.plain)
    lines = np.zeros((n, n))
    if c.similar:
        rng = _stream(sequence, "similar")
        brightness, lines = tem_grains.similar_neighbours(
            brightness,
            neighbour_pairs(labels)[0],
            share=rng.uniform(*c.similar_share),
            difference=c.similar_difference,
            line=c.faint_line,
            rng=rng,
        )
    clean = brightness[labels] + tem_grains.faint_lines(lines, labels, near)

    contours = np.zeros(c.shape, bool)
    if c.bending and c.contours:
        rng = _stream(sequence, "contours")
        factor = tem_foil.bend_contours(
            labels,
            depth=rng.uniform(*c.contour_depth),
            bending=rng.uniform(*c.bend),
            length=rng.uniform(*c.bend_length),
            thickness=rng.uniform(*c.thickness),
            rng=rng,
        )
        clean, contours = clean * factor, factor < 1
    if c.bending and c.shading:
        rng = _stream(sequence, "shading")
        clean = clean * tem_foil.thickness_shading(
            c.shape,
            slope=rng.uniform(*c.shading_slope),
            waviness=rng.uniform(*c.waviness),
            length=rng.uniform(*c.bend_length),
            rng=rng,
        )

    overlapped = np.zeros(c.shape, bool)
    if c.overlap:
        rng = _stream(sequence, "inclined")
        ramp = tem_foil.inclined_boundaries(brightness, labels, near, width=rng.uniform(*c.ramp), rng=rng)
        rng = _stream(sequence, "second layer")
        cells = tem_grains.tessellation(
            c.shape,
            area=_even_in_logarithm(c.grain_area, rng),
            cv=rng.uniform(*c.radius_cv),
            packing=c.packing,
            rng=rng,
        )
        weight, layer = tem_foil.second_layer(
            cells,
            tem_grains.random_directions(int(cells.max()) + 1, rng),
            share=rng.uniform(*c.layer_share),
            weight=rng.uniform(*c.layer_weight),
            rng=rng,
        )
        overlapped = (ramp != 1) | (weight > 0)
        clean = (1 - weight) * clean * ramp + weight * layer

    clean = clean.astype(np.float32)
    image = np.clip(clean, 0, 1)
    if c.noise:
        rng = _stream(sequence, "noise")
        image = tem_foil.blur_and_noise(
            clean,
            blur=rng.uniform(*c.blur),
            variance=_even_in_logarithm(c.noise_variance, rng),
            correlation=rng.uniform(*c.noise_correlation),
            rng=rng,
        )
    strength = np.abs(brightness[labels] - brightness[near.neighbour]).astype(np.float32)
    return TEMPicture(image, boundary, clean, labels, brightness, beam, strength, contours, overlapped)


def _even_in_logarithm(bounds: Range, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _sequence(seed: Seed) -> np.random.SeedSequence:
    if isinstance(seed, np.random.SeedSequence):
        return seed
    if isinstance(seed, np.random.Generator):
        seed = int(seed.integers(2**63))
    return np.random.SeedSequence(seed)


def _stream(sequence: np.random.SeedSequence, name: str) -> np.random.Generator:
    """A stream of random numbers that belongs to this picture and this step of the chain alone."""
    key = (*sequence.spawn_key, STREAMS.index(name))
    return np.random.default_rng(np.random.SeedSequence(sequence.entropy, spawn_key=key))
