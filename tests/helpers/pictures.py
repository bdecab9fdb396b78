"""Small pictures and masks of known truth, and the kinds of files that people make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree


def polycrystal(size: int = 320, spacing: int = 46, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (size, size) in [0, 1], of about round grains with dark lines 3 px wide, and these lines."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 2 + size // spacing * 1.2, -1 : 2 + size / spacing]
    seeds = np.stack([rows * spacing * 0.866, (columns + rows % 2 / 2) * spacing], -1).reshape(-1, 2)
    seeds += rng.normal(0, spacing / 9, seeds.shape)
    distance, who = cKDTree(seeds).query(np.indices((size, size)).reshape(2, -1).T, k=2)
    lines = (distance[:, 1] - distance[:, 0] < 3).reshape(size, size)
    grey = rng.uniform(0.5, 0.8, len(seeds))[who[:, 0]].reshape(size, size)
    grey[lines] = 0.12
    return np.clip(ndimage.gaussian_filter(grey, 1) + rng.normal(0, 0.02, grey.shape), 0, 1), lines


def squares(count: int = 12, side: int = 20, line: int = 2) -> np.ndarray:
    """Labels uint16 of `count` x `count` squares between lines of 0."""
    labels = np.zeros((count * (side + line) + line,) * 2, np.uint16)
    for k in range(count * count):
        y, x = (line + place * (side + line) for place in divmod(k, count))
        labels[y : y + side, x : x + side] = k + 1
    return labels


def save(path: Path, values: np.ndarray, mode: str | None = None, **options) -> Path:
    """Save values by Pillow, in a mode of its own."""
    image = Image.fromarray(values)
    if mode is not None and image.mode != mode:
        image = Image.frombytes(mode, values.shape[1::-1], np.ascontiguousarray(values).tobytes())
    image.save(path, **options)
    return path


def tagged(path: Path, values: np.ndarray, tags: list[tuple], **options) -> Path:
    """A TIFF with private tags, (code, type, count, value)."""
    tifffile.imwrite(path, values, metadata=None, extratags=[(*tag, True) for tag in tags], **options)
    return path


def text_tag(code: int, text: str | bytes) -> tuple:
    """A tag that holds a text."""
    data = text if isinstance(text, bytes) else text.encode()
    return (code, 2, len(data) + 1, data + b"\0")
