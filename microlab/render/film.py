"""Carbon films on the specimen: what the beam leaves where it has dwelt (chapter 15).

    I = I_0 exp(-h) + level (1 - exp(-h)),     h the thickness in escape depths

The first term is eq. 1 of chapter 15 (breaks-film); the second is what the film shines itself.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from microlab.render.specimen import Seed


def scan_windows(shape: tuple[int, int], *, number: int, side: float, seed: Seed) -> np.ndarray:
    """Where the beam has dwelt before: rectangles in which it has cracked hydrocarbons into a carbon film.

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
    """A film of carbon over the surface: it hides what lies under it and shines a little itself.

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
