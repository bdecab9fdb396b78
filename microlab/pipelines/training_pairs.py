"""Micrographs with their boundary to train on: simulated, translated, or labelled by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from skimage.transform import resize
from tqdm.auto import tqdm

from microlab.data.micrograph import Micrograph
from microlab.data.parallel import imap
from microlab.data.transforms import augment, grey_of, grey_weights, resize_by
from microlab.generate.style import translate
from microlab.measure import alignment
from microlab.pipelines.samples import Target
from microlab.render.appearances import SURFACES, Ranges, draw_field
from microlab.render.flat import untextured
from microlab.render.sem import MicroscopeRanges, draw_microscope, render
from microlab.render.specimen import boundary_geometry
from microlab.simulate.library import Structure

AS_SIMULATED = Ranges(zoom=(1.0, 1.0), twinned=0, legend=0, rotated=0, mounted=0)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """An image rounded to the 256 grey levels of an image file, (H, W) float32 in [0, 1]."""
    return (image * 255).round().astype(np.uint8) / np.float32(255)


def render_pair(grain_map: np.ndarray, seed: list[int], ranges: MicroscopeRanges | None = None) -> Micrograph:
    """One virtual micrograph of a grain map, with its boundary.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
    seed : list of int
        Seeds both the microscope's settings and its noise.
    ranges : MicroscopeRanges, optional

    Returns
    -------
    Micrograph
        Its boundary reaches `Microscope.boundary_half_width` to each side of the lines between grains.
    """
    microscope = draw_microscope(np.random.default_rng([*seed, 0]), ranges or MicroscopeRanges())
    image, distance = render(
        grain_map, microscope, seed=np.random.default_rng([*seed, 1]), return_distance=True
    )
    return Micrograph(eight_bits(image), boundary=distance <= microscope.boundary_half_width, virtual=True)


def draw_pair(grain_map: np.ndarray, seed: list[int]) -> Micrograph:
    """One virtual field of a grain map in a random appearance, in grey, with its boundary.

    Its grains are as large as those of the map, it has no twins, and the specimen fills it.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
    seed : list of int
    """
    rng = np.random.default_rng(seed)
    field = draw_field(
        str(rng.choice(list(SURFACES))), grain_map, grain_map.shape, seed=rng, ranges=AS_SIMULATED
    )
    field = in_grey(field)
    return replace(field, image=eight_bits(field.image))


def in_grey(field: Micrograph) -> Micrograph:
    """The field as a grey image, by the rule of `microlab.data.images.read_image`."""
    if field.image.ndim == 2:
        return field
    return replace(field, image=grey_of(field.image, grey_weights(field.image)))


def render_pairs(
    grain_maps: list[np.ndarray],
    n: int | Sequence[int],
    seed: int,
    *,
    make: Callable[[np.ndarray, list[int]], Micrograph] = render_pair,
    jobs: int = -1,
    progress: bool = True,
) -> list[Micrograph]:
    """Make virtual micrographs, each through a microscope of its own.

    Parameters
    ----------
    grain_maps : list of (H, W) int
        Micrograph k shows map ``k % len(grain_maps)``.
    n : int or sequence of int
        Number of micrographs, or their numbers: micrograph k is ``make(grain_map, [seed, k])``.
    seed : int
    make : callable
        `render_pair` or `draw_pair`.
    jobs : int
        Processes; -1 for one per core.
    """
    numbers = range(n) if isinstance(n, int) else n
    tasks = [(grain_maps[k % len(grain_maps)], [seed, k]) for k in numbers]
    pairs = imap(make, tasks, jobs)
    return list(tqdm(pairs, desc="virtual micrographs", total=len(tasks), disable=not progress))


def simulated_pairs(
    structures: Sequence[Structure], n: int, generator: torch.nn.Module | None = None, *, seed: int = 0
) -> list[Micrograph]:
    """Simulations in flat greys, translated if there is a generator, with their boundary.

    The boundary of a flat image is the line drawn in it. That of a translated one is as wide as the lines
    that the generator paints, measured on its own images (`alignment.half_width`); no label is needed.

    Parameters
    ----------
    structures : sequence of Structure
        Used in turn until there are `n` images, with other greys each time.
    n : int
    generator : Generator, optional
    seed : int
    """
    distances = [boundary_geometry(s.grain_map).distance for s in structures]
    images, widths = [], []
    for k in range(n):
        structure, distance = structures[k % len(structures)], distances[k % len(structures)]
        image = untextured(structure.grain_map, structure.boundary_mask, seed=[seed, k])
        if generator is not None:
            image = translate(generator, image, seed=seed * n + k)
            widths.append(alignment.half_width(image, distance))
        images.append(eight_bits(image))
    if generator is None:
        boundaries = [s.boundary_mask for s in structures]
    else:
        boundaries = [distance <= float(np.median(widths)) for distance in distances]
    return [
        Micrograph(image, boundary=boundaries[k % len(structures)], virtual=True)
        for k, image in enumerate(images)
    ]


def labelled_pairs(
    target: Target, zoom: float, n: int, *, patches: int | None, side: int, seed: int
) -> list[Micrograph]:
    """Augmented views of the target's labelled half, or of a few patches of it.

    Parameters
    ----------
    target : Target
    zoom : float
        Magnification of the network.
    n : int
        Views to make (`microlab.data.transforms.augment`).
    patches : int or None
        Number of patches that do not overlap, drawn at random; None takes the whole half.
    side : int
        Of a patch, in pixels after zooming.
    seed : int

    Raises
    ------
    ValueError
        If the half holds fewer such patches.
    """
    rng = np.random.default_rng([seed, 71])
    if patches is not None:
        sources = labelled_patches(target, zoom, patches, side=side, seed=rng)
    else:
        sources = [_labelled_half(target, zoom)]
    return augmented_pairs(sources, n, seed=rng)


def labelled_patches(
    target: Target, zoom: float, patches: int, *, side: int, seed: int | np.random.Generator
) -> list[Micrograph]:
    """The few patches themselves, as they were labelled: what `labelled_pairs` augments.

    Parameters
    ----------
    target, zoom, patches, side, seed
        As `labelled_pairs`: the same int seed gives the same patches.

    Raises
    ------
    ValueError
        If the half holds fewer such patches.
    """
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng([seed, 71])
    half = _labelled_half(target, zoom)
    corners = [
        np.s_[y : y + side, x : x + side]
        for y in range(0, half.shape[0] - side + 1, side)
        for x in range(0, half.shape[1] - side + 1, side)
    ]
    if patches > len(corners):
        raise ValueError(
            f"{target.name} holds {len(corners)} patches of {side} pixels, {patches} were asked for"
        )
    chosen = [corners[k] for k in rng.permutation(len(corners))[:patches]]
    return [Micrograph(half.image[c], boundary=half.boundary[c]) for c in chosen]


def augmented_pairs(
    sources: Sequence[Micrograph], n: int, *, seed: int | Sequence[int] | np.random.Generator
) -> list[Micrograph]:
    """`n` random views of some micrographs, used in turn (`microlab.data.transforms.augment`).

    Parameters
    ----------
    sources : sequence of Micrograph
        With their boundary.
    n : int
    seed : int, sequence of int or numpy.random.Generator
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for k in range(n):
        source = sources[k % len(sources)]
        image, boundary = augment(source.image, source.boundary, seed=rng)
        pairs.append(Micrograph(eight_bits(image), boundary=boundary))
    return pairs


def _labelled_half(target: Target, zoom: float) -> Micrograph:
    """Image and expert boundary of the target's labelled half, at the network's magnification."""
    image = resize_by(target.style.image, zoom)
    boundary = resize(target.style.boundary.astype(float), image.shape, order=1, anti_aliasing=zoom < 1)
    return Micrograph(image, boundary=boundary >= 0.5)
