"""Random square crops of images in the eight orientations of the square.

A crop is drawn once and cuts an image and every map that belongs to it. With ``seed=[seed, step]`` the crops
of a training step depend on its number alone, as :func:`microlab.training.fit.fit` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """A window and its orientation. Called with an array (..., H, W) it gives a view (..., side, side)."""

    rows: slice
    columns: slice
    turns: int = 0  # quarter turns
    mirrored: bool = False  # left to right, after the turns

    def __call__(self, array: np.ndarray) -> np.ndarray:
        part = np.rot90(array[..., self.rows, self.columns], self.turns, (-2, -1))
        return part[..., ::-1] if self.mirrored else part


def random_crops(
    arrays: Sequence[np.ndarray],
    side: int,
    count: int,
    seed: int | Sequence[int] | np.random.Generator,
    *,
    shares: np.ndarray | None = None,
    orient: bool = True,
) -> Iterator[tuple[int, Crop]]:
    """Draw crops, each from a random array, at a random place and in a random orientation.

    Parameters
    ----------
    arrays : sequence of (..., H, W) array
        Sides may differ; none may be smaller than `side`.
    side, count : int
        Pixels of a crop's side, and number of crops.
    seed : int, sequence of int or numpy.random.Generator
    shares : (len(arrays),) float, optional
        Probability of each array; by default all are equally probable, whatever their size.
    orient : bool
        Draw one of the eight orientations; False leaves the crops upright.

    Yields
    ------
    index : int
        Of the array.
    crop : Crop
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        index = int(rng.choice(len(arrays), p=shares))
        y, x = (int(rng.integers(size - side + 1)) for size in arrays[index].shape[-2:])
        orientation = (int(rng.integers(4)), bool(rng.integers(2))) if orient else ()
        yield index, Crop(slice(y, y + side), slice(x, x + side), *orientation)


def orientations(image: np.ndarray) -> list[np.ndarray]:
    """The eight symmetries of an image (..., H, W): four quarter turns, then the same mirrored."""
    turned = [np.rot90(image, turns, (-2, -1)) for turns in range(4)]
    return turned + [t[..., ::-1] for t in turned]
