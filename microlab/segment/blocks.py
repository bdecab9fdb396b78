"""Segmentation of images of any size, block by block, in bounded memory.

    grain = pieces in neighbouring blocks that cover one another by more than half where the blocks overlap

Every block is segmented with a halo, a margin of several grains, so that what its edge disturbs lies outside
of its core. Two neighbours have then segmented the strip along their seam alike, and the pieces of a grain
on both sides are found by it. All maps lie in unnamed files (`microlab.data.mapped`).
"""

from __future__ import annotations

import math
import os

import numpy as np
from scipy import ndimage, sparse
from tqdm.auto import tqdm

from microlab.data.mapped import Block, block_slices, mapped_array, release, widened
from microlab.data.micrograph import Micrograph
from microlab.measure.labels import boundaries
from microlab.segment.instances import watershed_grains
from microlab.segment.segmenter import Segmentation, Segmenter, checked_zoom, joint_field

BLOCK = 3072  # px, side of a block without its halo
HALO = 256  # px, where the size of the grains is unknown
HALO_INTERCEPTS = 6  # of the halo, where it is known
HALO_RANGE = (128, 768)  # px
LEAST_CUT = 3  # px of a seam; where fewer cut a grain, its boundary only runs along the seam


def segment_by_blocks(
    image: Micrograph | np.ndarray,
    segmenter: Segmenter,
    folder: str | os.PathLike,
    *,
    zoom: float | None = None,
    block: int | None = None,
    halo: int | None = None,
    progress: bool = False,
) -> Segmentation:
    """As `Segmenter.segment`, in bounded memory, with maps that lie in files.

    Away from the seams the grains are those of `Segmenter.segment`, with other numbers. Where two blocks
    disagree a grain may be cut at the seam; the notes say how often.

    Parameters
    ----------
    image : Micrograph or (H, W) array
        It may lie in a file.
    segmenter : Segmenter
        One that has ``by_blocks``.
    folder : path
        Where the files lie; they need about 13 bytes a pixel, 26 for a network that knows what is not the
        specimen, and 8 or 15 bytes more for each pixel of the magnified image.
    zoom : float, optional
        As `Segmenter.segment`.
    block, halo : int, optional
        Side of a block without its halo, and width of the halo, px. By default the halo is six mean
        intercepts of the grains for which the segmenter was made, at this zoom, and the block 3072 or four
        halos.
    progress : bool
        Show progress bars.

    Raises
    ------
    InputError
        As `Segmenter.segment`.
    OSError
        If the disk has not enough room.
    """
    known = image.valid if isinstance(image, Micrograph) else None
    image = segmenter.check(image)
    zoom = segmenter.estimate_zoom(image) if zoom is None else checked_zoom(zoom)
    release(image)
    probability, found = segmenter.maps(image, zoom, progress=progress, folder=folder)
    valid = joint_field(known, found)
    halo = default_halo(segmenter.card.get("grain_size_px"), zoom) if halo is None else halo
    block = max(BLOCK, 4 * halo) if block is None else block
    labels = mapped_array(image.shape, np.int32, folder)
    watershed = segmenter.card.get("watershed", {})
    how = {"block": block, "progress": progress, "valid": valid}
    cuts = watershed_by_blocks(probability, labels, halo=halo, **how, **watershed)
    boundary = mapped_array(image.shape, bool, folder)
    boundary_by_blocks(probability, labels, boundary, **how)
    blocks = block_slices(image.shape, block)
    note = (
        f"The image is large and was segmented in {len(blocks)} x {len(blocks[0])} blocks, "
        f"each with {halo} px of its surroundings. "
    )
    if cuts:
        note += f"At {cuts} places two blocks disagree, and a grain may end there in a straight line."
    else:
        note += "Neighbouring blocks agree about every grain on their seams."
    return Segmentation(probability, boundary, labels, zoom, valid=valid, notes=(note,))


def default_halo(grain_size_px: float | None, zoom: float) -> int:
    """Width of the halo, px, for grains of a mean intercept at a zoom, if that is known."""
    if grain_size_px is None:
        return HALO
    return int(np.clip(math.ceil(HALO_INTERCEPTS * grain_size_px / zoom), *HALO_RANGE))


def watershed_by_blocks(
    probability: np.ndarray,
    labels: np.ndarray,
    *,
    block: int = BLOCK,
    halo: int = HALO,
    progress: bool = False,
    valid: np.ndarray | None = None,
    **settings: object,
) -> int:
    """`watershed_grains` of a map of any size.

    Parameters
    ----------
    probability : (H, W) float32 in [0, 1]
        It may lie in a file.
    labels : (H, W) int32
        Gets the grains 1..n; it may lie in a file.
    block, halo : int
        Side of a block without its halo, px, and width of the halo, at most half as wide.
    progress : bool
        Show a progress bar.
    valid : (H, W) bool, optional
        As in `watershed_grains`; it may lie in a file.
    **settings
        Of `watershed_grains`.

    Returns
    -------
    int
        Pairs of grains that meet in a seam although one of the two blocks sees a single grain there.

    Raises
    ------
    ValueError
        If `halo` does not fit.
    """
    if not 2 <= halo <= block // 2:
        raise ValueError(f"halo must lie in 2..{block // 2}, half a block of {block}, got {halo}")
    shape, reach = probability.shape, halo // 2  # half of the overlap on each side of a seam is compared
    number = 0  # of the pieces found so far
    used, united, uncut = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
    above: list[np.ndarray] = []
    rows = block_slices(shape, block)
    with tqdm(total=len(rows) * len(rows[0]), unit="block", desc="watershed", disable=not progress) as bar:
        for row in rows:
            below, left = [], None
            for k, place in enumerate(row):
                outer, inner = widened(place, halo, shape)
                shown = None if valid is None else np.array(valid[outer])
                pieces = watershed_grains(np.array(probability[outer]), valid=shown, **settings)
                pieces[pieces > 0] += number
                number = max(number, int(pieces.max()))
                labels[place] = pieces[inner]
                used.append(np.unique(pieces[inner]))
                # Strips along the seams, as this block sees them; the next blocks see those at its ends too.
                (top, bottom), (start, stop) = ((s.start, s.stop) for s in inner)
                upper = pieces[max(top - reach, 0) : top + reach, start:stop]
                here = pieces[top:bottom, max(start - reach, 0) : start + reach].T
                for strip, before in ((here, left), (upper, above[k] if above else None)):
                    if before is not None:
                        same, seen = _compared(before[: len(strip)], strip[: len(before)], reach)
                        united.append(same)
                        uncut.append(seen)
                left = pieces[top:bottom, stop - reach : stop + reach].T.copy()
                below.append(pieces[bottom - reach : bottom + reach, start:stop].copy())
                release(probability, labels)
                bar.update()
            above = below
    one, other = np.concatenate(united).T
    graph = sparse.coo_matrix((np.ones(len(one)), (one, other)), (number + 1, number + 1))
    grain = sparse.csgraph.connected_components(graph, directed=False)[1]
    present, first = np.unique(grain[np.setdiff1d(np.concatenate(used), 0)], return_index=True)
    final = np.zeros(grain.max() + 1, np.int32)
    final[present[np.argsort(first)]] = np.arange(1, len(present) + 1)
    for row in rows:
        for place in row:
            labels[place] = np.where(labels[place] > 0, final[grain[labels[place]]], 0)
            release(labels)
    ends = np.sort(grain[np.concatenate(uncut)], axis=1)
    _, faces = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0, return_counts=True)
    return int((faces >= LEAST_CUT).sum())


def _compared(one: np.ndarray, other: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Two blocks' pieces in the strip along their seam, (h, w) int each; the seam runs above row `reach`.

    Returns
    -------
    same : (m, 2) int
        Pieces of the first and the second block that cover one another by more than half: one grain.
    seen : (k, 2) int
        The two pieces on both sides of the seam, once for each pixel edge where a block sees no boundary.
    """
    ids, index = np.unique(one, return_inverse=True)
    other_ids, other_index = np.unique(other, return_inverse=True)
    pairs, overlap = np.unique(index.ravel() * len(other_ids) + other_index.ravel(), return_counts=True)
    a, b = np.divmod(pairs, len(other_ids))
    area, other_area = np.bincount(index.ravel()), np.bincount(other_index.ravel())
    kept = (2 * overlap > np.maximum(area[a], other_area[b])) & (ids[a] > 0) & (other_ids[b] > 0)
    same = np.stack([ids[a[kept]], other_ids[b[kept]]], axis=1)
    before, after = one[reach - 1], other[reach]
    unseen = (one[reach - 1] == one[reach]) | (other[reach - 1] == other[reach])
    unseen &= (before > 0) & (after > 0)
    return same.astype(np.int64), np.stack([before[unseen], after[unseen]], axis=1).astype(np.int64)


def boundary_by_blocks(
    probability: np.ndarray,
    labels: np.ndarray,
    boundary: np.ndarray,
    threshold: float = 0.5,
    *,
    block: int = BLOCK,
    progress: bool = False,
    valid: np.ndarray | None = None,
) -> None:
    """`closed_boundary` of maps of any size, the same in every pixel.

    Likely boundary that is connected to a line only through other blocks is found by joining the connected
    parts of all blocks.

    Parameters
    ----------
    probability, labels : (H, W) float32 and int
    boundary : (H, W) bool
        Gets the result. All three may lie in files.
    threshold : float in (0, 1)
    block : int
        Side of a block, px.
    progress : bool
        Show a progress bar.
    valid : (H, W) bool, optional
        As in `closed_boundary`.
    """
    rows = block_slices(labels.shape, block)
    number = 0  # of the parts found so far
    links, reached, starts = [], [np.zeros(1, bool)], []
    above: np.ndarray | None = None
    with tqdm(total=2 * len(rows) * len(rows[0]), unit="block", desc="boundary", disable=not progress) as bar:
        for row in rows:
            first, last, left = [], [], None
            for place in row:
                parts, lines = _parts(probability, labels, place, threshold, valid)
                found = np.zeros(parts.max() + 1, bool)
                found[parts[lines]] = True
                reached.append(found[1:])
                starts.append(number)
                parts[parts > 0] += number
                number += len(found) - 1
                if left is not None:
                    links.append(_touching(left, parts[:, 0]))
                left = parts[:, -1]
                first.append(parts[0])
                last.append(parts[-1])
                release(probability, labels)
                bar.update()
            if above is not None:
                links.append(_touching(above, np.concatenate(first)))
            above = np.concatenate(last)
        one, other = np.concatenate([np.zeros((0, 2), np.int64), *links]).T
        graph = sparse.coo_matrix((np.ones(len(one)), (one, other)), (number + 1, number + 1))
        whole = sparse.csgraph.connected_components(graph, directed=False)[1]
        kept = np.bincount(whole, np.concatenate(reached))[whole] > 0
        for place, start in zip((place for row in rows for place in row), starts):
            parts, _ = _parts(probability, labels, place, threshold, valid)
            boundary[place] = (parts > 0) & kept[parts + start]
            release(probability, labels, boundary)
            bar.update()


def _parts(
    probability: np.ndarray, labels: np.ndarray, place: Block, threshold: float, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts of a block's lines and likely boundary, (h, w) int from 1, and its lines, bool."""
    outer, inner = widened(place, 1, labels.shape)
    lines = boundaries(labels[outer], None if valid is None else valid[outer])[inner]
    likely = probability[place] >= threshold
    if valid is not None:
        likely &= valid[place]
    return ndimage.label(lines | likely, np.ones((3, 3)))[0], lines


def _touching(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) of parts on both sides of a line between pixels, (n,) int each, at an edge or a corner."""
    pairs = [(one, other), (one[1:], other[:-1]), (one[:-1], other[1:])]
    found = np.concatenate([np.stack(pair, axis=1) for pair in pairs])
    return np.unique(found[(found > 0).all(1)], axis=0).astype(np.int64)
