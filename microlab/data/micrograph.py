"""The one type for an image of a microscope, real or virtual, with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Micrograph:
    """An image with its pixel size, its origin and, where it is known, its truth.

    Attributes
    ----------
    image : (H, W) or (H, W, 3) float32 in [0, 1]
        Grey levels or colours, data bar already cut off.
    pixel_size : float or None
        Micrometres per pixel; None if unknown.
    name : str
        Short name, used for files and tables.
    boundary : (H, W) bool or None
        True on grain boundaries.
    classes : (H, W) uint8 or None
        Class ids 0..C-1 of the constituents.
    valid : (H, W) bool or None
        Field of view: True where a pixel shows the specimen. None: everywhere.
    virtual : bool
        Rendered or generated, not taken by a microscope.
    about : str
        What it shows and where its truth comes from, in one sentence.
    path : Path or None
        The file that it was read from.
    bits : int or None
        Significant bits per pixel in the file.
    pixel_size_source : str or None
        Who said the pixel size: "given", "FEI tag", "ImageJ", ...
    data_bar_height, data_bar_top : int
        Rows cut off at the bottom and at the top of the file's image.
    """

    image: np.ndarray
    pixel_size: float | None = None
    name: str = ""
    boundary: np.ndarray | None = None
    classes: np.ndarray | None = None
    valid: np.ndarray | None = None
    virtual: bool = False
    about: str = ""
    path: Path | None = None
    bits: int | None = None
    pixel_size_source: str | None = None
    data_bar_height: int = 0
    data_bar_top: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[:2]
