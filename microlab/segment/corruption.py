"""Boundary maps damaged on purpose, for a network that learns to restore them.

    damaged = (boundary without gaps) or (what a dilation adds in places) or (stray segments)

Paper C (arXiv:2504.14782) refines a first boundary map step by step, as a diffusion model goes back from a
noisy picture to a clean one. Here the noise is what goes wrong in such maps: lines that break, lines that are
too thick and lines that are not there. The strength of the damage takes the part of the diffusion time, as in
Cold Diffusion (Bansal et al., NeurIPS 2023, arXiv:2208.09392).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import disk


@dataclass(frozen=True)
class Damage:
    """What :func:`corrupt` does at strength 1. A share of 0 switches its kind of damage off.

    The paper does not describe its damage; these values are ours.
    """

    broken: float = 0.3  # share of the boundary's pixels that are lost
    gap: float = 3.0  # px, smoothing of the field that places the gaps; they are about three times as long
    thickened: float = 0.3  # share of the possible thickening that happens
    reach: int = 2  # px by which a line may grow on each side
    spurious: float = 0.5  # stray segments per 1000 px of image
    length: tuple[float, float] = (5.0, 25.0)  # px, shortest and longest stray segment
    width: int = 2  # px, of a stray segment

    def __post_init__(self) -> None:
        for name in ("broken", "thickened"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie in [0, 1], got {getattr(self, name)}")
        if not self.gap > 0:
            raise ValueError(f"gap must be positive, got {self.gap}")
        if not 0 <= self.spurious < np.inf:
            raise ValueError(f"spurious must be at least 0 and finite, got {self.spurious}")
        for name in ("reach", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.length[0] <= self.length[1]:
            raise ValueError(f"length must be (shortest, longest) and positive, got {self.length}")


def corrupt(
    boundary: np.ndarray,
    strength: float,
    *,
    damage: Damage | None = None,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    """Break, thicken and invent boundaries.

    Each kind of damage has its own random numbers, so switching one off leaves the places of the others as
    they were. With the same seed, what a weak damage breaks or invents, a stronger one breaks or invents too.

    Parameters
    ----------
    boundary : (H, W) bool
        True on boundaries.
    strength : float in [0, 1]
        0 changes nothing; 1 does what `damage` says.
    damage : Damage, optional
    seed : int or Generator

    Returns
    -------
    (H, W) bool

    Raises
    ------
    ValueError
        If `boundary` is not a mask or `strength` is out of range.
    """
    boundary = np.asarray(boundary)
    if boundary.ndim != 2 or boundary.size == 0 or boundary.dtype != bool:
        raise ValueError(
            f"boundary must be (H, W) bool and not empty, got {boundary.dtype} of shape {boundary.shape}"
        )
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    damage = damage or Damage()
    breaking, thickening, inventing = np.random.default_rng(seed).spawn(3)

    gaps = _chosen(boundary, strength * damage.broken, damage.gap, breaking)
    kept = boundary & ~gaps
    ring = ndimage.binary_dilation(kept, disk(damage.reach)) & ~kept
    grown = _chosen(ring, strength * damage.thickened, damage.gap, thickening)
    return kept | grown | _segments(boundary.shape, strength, damage, inventing)


def _chosen(among: np.ndarray, share: float, smooth: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the True pixels, in patches: those where a smooth random field is lowest."""
    field = ndimage.gaussian_filter(rng.standard_normal(among.shape, np.float32), smooth, mode="reflect")
    inside = np.flatnonzero(among)
    lowest = inside[np.argsort(field.ravel()[inside], kind="stable")[: round(share * len(inside))]]
    chosen = np.zeros(among.shape, bool)
    chosen.ravel()[lowest] = True
    return chosen


def _segments(
    shape: tuple[int, int], strength: float, damage: Damage, rng: np.random.Generator
) -> np.ndarray:
    """Straight segments at random places, in random directions."""
    most = damage.spurious * shape[0] * shape[1] / 1000  # at strength 1
    count = int(strength * most + rng.random())  # rounded up or down so that the mean is right
    total = int(most) + 1  # always drawn, so that a weak damage has the first segments of a strong one
    centres = rng.uniform(0, shape, (total, 2))
    angles = rng.uniform(0, np.pi, total)
    halves = rng.uniform(*damage.length, total) / 2
    drawn = np.zeros(shape, bool)
    for centre, angle, half in zip(centres[:count], angles, halves, strict=False):
        direction = np.array([np.sin(angle), np.cos(angle)])
        steps = int(np.ceil(2 * half * np.abs(direction).max()))  # at most one row or column each
        along = np.linspace(-half, half, steps + 1)[:, None]
        points = np.floor(centre + along * direction).astype(int)
        inside = ((points >= 0) & (points < shape)).all(1)
        drawn[tuple(points[inside].T)] = True
    if damage.width > 1:
        drawn = ndimage.binary_dilation(drawn, np.ones((damage.width, damage.width)))
    return drawn
