"""Large images: arrays that lie in files, and the blocks in which they are visited.

    resident memory = the blocks in hand, not the image

An array of `mapped_array` lies in a file without a name, which the system removes as soon as the array is
gone, even if the process is killed. Its pages count as memory of the process while they are in use;
`release` hands them back.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

LARGE = 16_000_000  # px; larger images are read, segmented, measured and written block by block
BAND = 4_000_000  # px; of a band of rows

Block = tuple[slice, slice]


def is_large(shape: Sequence[int]) -> bool:
    """Whether an image (H, W) or (H, W, C) has more than `LARGE` pixels."""
    return shape[0] * shape[1] > LARGE


def mapped_array(
    shape: tuple[int, ...], dtype: DTypeLike, folder: str | os.PathLike | None = None
) -> np.memmap:
    """An array of zeros in a file without a name.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    folder : path, optional
        Where the file lies; it is made if it is missing. By default the folder of temporary files, which some
        systems hold in memory.

    Raises
    ------
    OSError
        If the folder cannot be made or the disk has not enough room.
    """
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process where it writes
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "w+", shape=shape)


def converted(
    image: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], folder: str | os.PathLike
) -> np.memmap:
    """An image, (H, W) or (H, W, C), converted band by band to (H, W) float32 in a file without a name."""
    out = mapped_array(image.shape[:2], np.float32, folder)
    for rows in bands(image.shape):
        out[rows] = convert(image[rows])
        release(image, out)
    return out


def release(*arrays: np.ndarray | None) -> None:
    """Hand back the memory of arrays that lie in files; their contents stay in the files.

    Arrays that lie in memory, and None, are left as they are, and so are maps whose changes stay in memory
    (mode "c"), which would be lost.
    """
    for array in arrays:
        while isinstance(array, np.ndarray) and not isinstance(array.base, mmap.mmap):
            array = array.base
        if isinstance(array, np.memmap) and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            array.base.madvise(mmap.MADV_DONTNEED)


def block_slices(shape: tuple[int, int], side: int) -> list[list[Block]]:
    """Blocks that cover an image once, in rows of blocks: of about equal size, no side longer than `side`."""
    rows, columns = (_pieces(length, -(-length // side)) for length in shape)
    return [[(y, x) for x in columns] for y in rows]


def bands(shape: Sequence[int]) -> Iterator[slice]:
    """Rows of an image, (H, W) or (H, W, C), in bands of about `BAND` pixels."""
    rows = max(1, BAND // shape[1])
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def widened(block: Block, by: int, shape: tuple[int, int]) -> tuple[Block, Block]:
    """A block with up to `by` more pixels on every side, cut at the image's edge; the block inside of it."""
    outer = tuple(slice(max(s.start - by, 0), min(s.stop + by, n)) for s, n in zip(block, shape))
    inner = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(block, outer))
    return outer, inner


def reduction(shape: Sequence[int], side: int) -> int:
    """Whole number by which an image is reduced so that its longer side has at most `side` pixels."""
    return -(-max(shape[:2]) // side)


def reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of `factor` x `factor` pixels; rows and columns left over at the ends are dropped.

    Parameters
    ----------
    image : (H, W) float
    factor : int >= 1

    Returns
    -------
    (H // factor, W // factor) float32
    """
    height, width = (n // factor for n in image.shape)
    small = np.empty((height, width), np.float32)
    for rows in bands((height, width * factor**2)):
        part = np.asarray(image[rows.start * factor : rows.stop * factor, : width * factor], np.float32)
        small[rows] = part.reshape(-1, factor, width, factor).mean((1, 3))
        release(image)
    return small


def reduced_labels(labels: np.ndarray, factor: int) -> np.ndarray:
    """The label in the middle of every square that `reduced` averages."""
    height, width = (n // factor for n in labels.shape)
    middle = labels[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
    small = np.empty((height, width), labels.dtype)
    for rows in bands((height, width * factor**2)):
        small[rows] = middle[rows]
        release(labels)
    return small


def _pieces(length: int, number: int) -> list[slice]:
    edges = [round(k * length / number) for k in range(number + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
