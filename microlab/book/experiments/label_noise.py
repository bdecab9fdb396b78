"""Poor masks, made from expert masks by a stated corruption.

    poor(x) = wrong_class(merge(expert(x + u(x)))),     u a smooth random shift

Three errors of careless manual annotation: displaced borders, closed gaps between neighbours, objects of the
wrong class. Each has its own setting; at zero it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.measure import label


@dataclass(frozen=True)
class PoorMask:
    """How a poor mask differs from the expert's. Defaults imitate careless annotation."""

    boundary: float = 1.0  # px, root mean square shift of a border along its normal
    correlation: float = 12.0  # px, distance over which the shift's autocorrelation falls to 1/e
    merge: float = 2.0  # px, gaps up to this width between neighbours of one class are closed (even width)
    wrong: float = 0.05  # share of objects that get another class
    wrong_area: float = 0.01  # objects over this share of the image never change their class

    def __post_init__(self) -> None:
        for name in ("boundary", "merge"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a number of pixels >= 0, got {getattr(self, name)}")
        if not self.correlation > 0:
            raise ValueError(f"correlation must be a positive number of pixels, got {self.correlation}")
        for name in ("wrong", "wrong_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def poor_mask(
    mask: np.ndarray, settings: PoorMask | None = None, seed: int | np.random.Generator = 0
) -> np.ndarray:
    """A poor version of an expert mask.

    The borders are shifted first, then gaps are closed, then objects change their class. The commonest class
    is the background: gaps are closed in it, and its own are not. Closing also fills notches of one object. A
    changed object (a connected region of one class, diagonals included) gets one of the other classes of
    the same mask, drawn uniformly.

    Parameters
    ----------
    mask : (H, W) int
        Class ids.
    settings : PoorMask, optional
    seed : int or Generator

    Returns
    -------
    (H, W) of the same type

    Raises
    ------
    ValueError
        If `mask` holds no whole numbers of shape (H, W), or negative ones.
    """
    return _stages(mask, settings or PoorMask(), seed)["wrong"]


def changed_pixels(
    mask: np.ndarray, settings: PoorMask | None = None, seed: int | np.random.Generator = 0
) -> dict[str, float]:
    """What each step of `poor_mask` changes, with the same arguments.

    Returns
    -------
    dict
        ``boundary``, ``merge``, ``wrong``: share of pixels that the step changed; ``all``: share of pixels
        in which the poor mask differs from the expert's.
    """
    expert = np.asarray(mask)
    stages = _stages(mask, settings or PoorMask(), seed)
    before = [expert, *stages.values()]
    shares = {
        name: float((after != previous).mean()) for (name, after), previous in zip(stages.items(), before)
    }
    return shares | {"all": float((stages["wrong"] != expert).mean())}


def _stages(mask: np.ndarray, settings: PoorMask, seed: int | np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iu" or mask.min() < 0:
        raise ValueError(f"mask must be class ids >= 0 of shape (H, W), got {mask.dtype} {mask.shape}")
    # One stream per step, so that a setting of one does not change the draws of the others.
    shift_rng, class_rng = np.random.default_rng(seed).spawn(2)
    shifted = _shift(mask, settings.boundary, settings.correlation, shift_rng)
    merged = _merge(shifted, settings.merge)
    return {
        "boundary": shifted,
        "merge": merged,
        "wrong": _change_classes(merged, settings.wrong, settings.wrong_area * mask.size, class_rng),
    }


def _shift(mask: np.ndarray, amplitude: float, correlation: float, rng: np.random.Generator) -> np.ndarray:
    if amplitude == 0:
        return mask.copy()
    places = []
    for axis, grid in enumerate(np.indices(mask.shape, dtype=np.float32)):
        # White noise smoothed with sigma has the autocorrelation exp(-d^2 / 4 sigma^2): 1/e at d = 2 sigma.
        field = gaussian_filter(rng.standard_normal(mask.shape), correlation / 2, mode="wrap")
        field *= amplitude / np.sqrt(np.mean(field**2))
        places.append(np.rint(grid + field).astype(int).clip(0, mask.shape[axis] - 1))
    return mask[tuple(places)]


def _merge(mask: np.ndarray, gap: float) -> np.ndarray:
    """Close gaps up to `gap` pixels wide, class by class, in the background only."""
    merged = mask.copy()
    if gap == 0:
        return merged
    background = np.bincount(mask.ravel()).argmax()
    # Pixels of a gap of g lie up to (g + 1) / 2 from a side, so an odd width closes the next even one too.
    radius = (gap + 1) / 2
    for c in np.unique(mask):
        if c == background:
            continue
        grown = distance_transform_edt(mask != c) <= radius
        if not grown.all():
            closed = distance_transform_edt(grown) > radius
            merged[closed & (merged == background)] = c
    return merged


def _change_classes(mask: np.ndarray, share: float, largest: float, rng: np.random.Generator) -> np.ndarray:
    labels = label(mask.astype(np.int64) + 1, background=0, connectivity=2)
    area = np.bincount(labels.ravel())[1:]
    of_object = np.zeros(len(area), mask.dtype)
    of_object[labels.ravel() - 1] = mask.ravel()
    present, index = np.unique(of_object, return_inverse=True)
    mistaken = np.flatnonzero((rng.random(len(area)) < share) & (area <= largest))
    if len(present) > 1 and len(mistaken):
        # a cyclic step of 1..C-1 through the classes present never returns the same class
        steps = rng.integers(1, len(present), len(mistaken))
        of_object[mistaken] = present[(index[mistaken] + steps) % len(present)]
    return of_object[labels - 1]
