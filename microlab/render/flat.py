"""Flat images of grain maps: one grey for each grain and dark lines between them."""

from __future__ import annotations

import numpy as np


def untextured(
    grain_map: np.ndarray,
    boundary: np.ndarray | None = None,
    *,
    grey: tuple[float, float] = (0.45, 0.85),
    boundary_grey: float = 0.1,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    """Paper A's clean rendering: every grain one uniform grey, boundaries dark, no texture and no noise.

    It is the source domain of the style transfer and the training set of the paper's second baseline. The
    paper names the idea, not the grey levels; the defaults give the bimodal histogram that it shows.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1.
    boundary : (H, W) bool, optional
        Boundary pixels, painted in `boundary_grey`.
    grey : (low, high) in [0, 1]
        Range of the grains' greys, spread evenly so that no two grains share one, in random order.
    boundary_grey : float in [0, 1]
    seed : int or numpy.random.Generator

    Returns
    -------
    (H, W) float32 in [0, 1].

    Raises
    ------
    ValueError
        If the grain map holds negative ids or `boundary` differs in size.
    """
    grain_map = np.asarray(grain_map)
    if grain_map.min() < 0:
        raise ValueError(f"grain_map must hold ids from 0 upwards, got {grain_map.min()}")
    greys = np.linspace(*grey, int(grain_map.max()) + 1, dtype=np.float32)
    image = np.random.default_rng(seed).permutation(greys)[grain_map]
    if boundary is not None:
        if boundary.shape != grain_map.shape:
            raise ValueError(f"boundary {boundary.shape} and grain_map {grain_map.shape} differ in size")
        image[boundary] = boundary_grey
    return image
