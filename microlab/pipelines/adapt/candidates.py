"""Virtual fields that resemble a user's images.

    of every `candidates` fields of random appearance, keep the one that is nearest to a real image

This is rejection sampling with summary statistics (approximate Bayesian computation; Pritchard et al., Mol.
Biol. Evol. 16, 1791, 1999): all appearances in their wide ranges are the prior, texture descriptors what is
compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from microlab.data.parallel import imap
from microlab.data.transforms import stretch
from microlab.measure.features import texture
from microlab.measure.realism import patches
from microlab.pipelines.training_pairs import draw_pair

PATCHES = 12  # of each field that are compared
PATCH = 64  # px, side of such a patch


def nearest_fields(
    grain_maps: list[np.ndarray],
    images: Sequence[np.ndarray],
    n: int,
    candidates: int,
    seed: int,
    jobs: int = 1,
    progress: bool = True,
) -> list[int]:
    """Numbers of the `n` virtual fields, of ``candidates * n``, that resemble the images most.

    Field k is ``draw_pair(grain_map, [seed, k])``. Each image chooses in turn the nearest one that is left,
    so a folder of different images keeps different appearances.

    Parameters
    ----------
    grain_maps : list of (H, W) int
    images : sequence of (H, W) float in [0, 1]
        Zoomed so that their grains are as large as those of the maps.
    n, candidates : int
    seed : int
    jobs : int
        Processes.

    Returns
    -------
    list of int, rising
    """
    total = n * candidates
    if candidates == 1 or n == 0:
        return list(range(n))
    side = min(PATCH, *(min(image.shape) for image in images))
    tasks = [(grain_maps[k % len(grain_maps)], seed, k, side) for k in range(total)]
    work = imap(_describe_candidate, tasks, jobs)
    virtual = np.stack(list(tqdm(work, desc="candidate fields", total=total, disable=not progress)))
    real = np.stack([_describe(image, side) for image in images])
    scale = virtual.std(0)
    scale[scale == 0] = np.inf  # the same for every candidate
    distance = np.linalg.norm((virtual[None] - real[:, None]) / scale, axis=2)  # (images, candidates)
    orders = [iter(np.argsort(row, kind="stable")) for row in distance]
    kept: set[int] = set()
    while len(kept) < n:
        order = orders[len(kept) % len(orders)]
        kept.add(next(int(k) for k in order if int(k) not in kept))
    return sorted(kept)


def _describe_candidate(grain_map: np.ndarray, seed: int, k: int, side: int) -> np.ndarray:
    return _describe(draw_pair(grain_map, [seed, k]).image, side)


def _describe(image: np.ndarray, side: int) -> np.ndarray:
    """Mean texture descriptors of an image; brightness and contrast are taken out, as the network does."""
    return texture(patches([stretch(image)], side, PATCHES, 0)).mean(0)
