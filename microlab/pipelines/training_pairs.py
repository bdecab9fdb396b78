"""Pairs of image and boundary mask to train on: simulated, translated, or labelled by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from joblib import Parallel, delayed
from skimage.transform import resize
from tqdm.auto import tqdm

from microlab.data.transforms import augment, resize_by
from microlab.generate.style import translate
from microlab.measure import alignment
from microlab.pipelines.samples import Target
from microlab.render.flat import untextured
from microlab.render.sem import MicroscopeRanges, draw_microscope, render
from microlab.render.specimen import boundary_geometry
from microlab.simulate.library import Structure

Pair = tuple[np.ndarray, np.ndarray]  # image (H, W) uint8, boundary mask (H, W) bool


def virtual_pair(grain_map: np.ndarray, seed: list[int], ranges: MicroscopeRanges | None = None) -> Pair:
    """One virtual micrograph of a grain map, with its boundary mask.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
    seed : list of int
        Seeds both the microscope's settings and its noise.
    ranges : MicroscopeRanges, optional

    Returns
    -------
    image : (H, W) uint8
    mask : (H, W) bool, True on boundaries, `Microscope.boundary_half_width` to each side
    """
    microscope = draw_microscope(np.random.default_rng([*seed, 0]), ranges or MicroscopeRanges())
    image, distance = render(
        grain_map, microscope, seed=np.random.default_rng([*seed, 1]), return_distance=True
    )
    return (image * 255).round().astype(np.uint8), distance <= microscope.boundary_half_width


def render_pairs(
    grain_maps: list[np.ndarray], n: int, seed: int, *, jobs: int = -1, progress: bool = True
) -> list[Pair]:
    """Render `n` virtual micrographs, going round the grain maps, each through a microscope of its own."""
    work = (delayed(virtual_pair)(grain_maps[k % len(grain_maps)], [seed, k]) for k in range(n))
    made = Parallel(n_jobs=jobs, return_as="generator")(work)
    return list(tqdm(made, desc="virtual micrographs", total=n, disable=not progress))


def simulated_pairs(
    structures: Sequence[Structure], n: int, generator: torch.nn.Module | None = None, *, seed: int = 0
) -> list[Pair]:
    """Simulations in flat greys, translated if there is a generator, with their masks.

    The mask of a flat image is the line drawn in it. The mask of a translated one is as wide as the lines
    that the generator paints, measured on its own images (`alignment.half_width`): no expert is asked.

    Parameters
    ----------
    structures : sequence of Structure
        Gone round until there are `n` images, with other greys each time.
    n : int
    generator : Generator, optional
    seed : int

    Returns
    -------
    list of (image (H, W) uint8, mask (H, W) bool)
    """
    distances = [boundary_geometry(s.grain_map).distance for s in structures]
    images, masks, widths = [], [], []
    for k in range(n):
        structure, distance = structures[k % len(structures)], distances[k % len(structures)]
        image = untextured(structure.grain_map, structure.boundary_mask, seed=[seed, k])
        if generator is not None:
            image = translate(generator, image, seed=seed * n + k)
            widths.append(alignment.half_width(image, distance))
        images.append((image * 255).round().astype(np.uint8))
        masks.append(structure.boundary_mask)
    if generator is not None:
        half_width = float(np.median(widths))
        masks = [distances[k % len(structures)] <= half_width for k in range(n)]
    return list(zip(images, masks))


def labelled_pairs(
    target: Target, zoom: float, n: int, *, patches: int | None, side: int, seed: int
) -> list[Pair]:
    """Augmented pairs of the target's labelled half, or of a few patches of it.

    Parameters
    ----------
    target : Target
    zoom : float
        Magnification of the network.
    n : int
        Pairs to make by augmentation (`render.prepare.augment`).
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
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The few patches themselves, as they were labelled: what `labelled_pairs` augments.

    Parameters
    ----------
    target, zoom, patches, side, seed
        As `labelled_pairs`: the same int seed gives the same patches.

    Returns
    -------
    list of (image (side, side) float32 in [0, 1], mask (side, side) bool)

    Raises
    ------
    ValueError
        If the half holds fewer such patches.
    """
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng([seed, 71])
    image, mask = _labelled_half(target, zoom)
    corners = [
        (y, x)
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ]
    if patches > len(corners):
        raise ValueError(
            f"{target.name} holds {len(corners)} patches of {side} pixels, {patches} were asked for"
        )
    chosen = rng.permutation(len(corners))[:patches]
    return [
        (image[y : y + side, x : x + side], mask[y : y + side, x : x + side])
        for y, x in (corners[c] for c in chosen)
    ]


def augmented_pairs(
    sources: Sequence[tuple[np.ndarray, np.ndarray]],
    n: int,
    *,
    seed: int | Sequence[int] | np.random.Generator,
) -> list[Pair]:
    """`n` random views of some pairs, gone round in their order (`microlab.data.transforms.augment`).

    Parameters
    ----------
    sources : sequence of (image (H, W) float in [0, 1], mask (H, W) bool)
    n : int
    seed : int, sequence of int or numpy.random.Generator

    Returns
    -------
    list of (image (H, W) uint8, mask (H, W) bool)
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for k in range(n):
        view, truth = augment(*sources[k % len(sources)], seed=rng)
        pairs.append(((view * 255).round().astype(np.uint8), truth))
    return pairs


def _labelled_half(target: Target, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Image and expert mask of the target's labelled half, at the network's magnification."""
    image = resize_by(target.style.image, zoom)
    mask = resize(target.style.boundary.astype(float), image.shape, order=1, anti_aliasing=zoom < 1) >= 0.5
    return image, mask
