"""Polycrystals whose neighbouring grains have joined."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from microlab.measure.labels import neighbour_pairs


def coalesce(grain_map: np.ndarray, share: float, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Join neighbouring grains at random, as grains of similar orientation do.

    Sizes spread and outlines stop being convex, as in real metals, where a tessellation alone
    is too tidy.

    Parameters
    ----------
    grain_map : (H, W) int, periodic
        Grain ids.
    share : float in [0, 1)
        Number of joints over the number of grains. One grain may be part of several.
    seed : int or numpy.random.Generator

    Returns
    -------
    int32 (H, W), ids 0..m-1 without gaps.

    Raises
    ------
    ValueError
        If `share` is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    ids, dense = np.unique(grain_map, return_inverse=True)
    dense = dense.reshape(np.shape(grain_map))
    pairs, _ = neighbour_pairs(dense, periodic=True)
    joints = min(round(share * ids.size), len(pairs))
    chosen = pairs[np.random.default_rng(seed).choice(len(pairs), joints, replace=False)]
    graph = sparse.coo_matrix((np.ones(joints), (chosen[:, 0], chosen[:, 1])), (ids.size, ids.size))
    return sparse.csgraph.connected_components(graph, directed=False)[1][dense].astype(np.int32)
