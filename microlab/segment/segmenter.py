"""The protocol that every method of segmentation follows, and its result.

    image -> zoom -> boundary probability -> zoom back -> labels

A true boundary only ever scores a segmentation (`microlab.measure.scores`); no segmenter reads one. The
methods that can be chosen by name are in `microlab.segment.registry`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from microlab.data.errors import ImageError, InputError
from microlab.data.mapped import bands, release
from microlab.data.micrograph import Micrograph
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.uncertainty import Uncertainty, estimate_uncertainty
from microlab.segment.zoom import matching_zoom

LEAST_SIDE = 32  # px; a shorter image cannot show a grain and its boundaries


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Grains and boundaries of one micrograph.

    Attributes
    ----------
    probability : (H, W) float32 in [0, 1]
        Probability of a grain boundary.
    boundary : (H, W) bool
        True on boundaries: closed lines, as thick as the segmenter predicts them.
    labels : (H, W) int32
        Grains 1..n, filling the field of view; 0 outside of it, and everywhere if there is no grain.
    zoom : float
        Magnification of the image before the segmenter.
    uncertainty : Uncertainty or None
        Disagreement between views of the image, if it was asked for.
    valid : (H, W) bool or None
        Field of view: True on the specimen. None: everywhere.
    notes : tuple of str
        Sentences for the user: what was done.
    warnings : tuple of str
        Sentences for the user: what may be wrong, and what to do next.
    status : str
        How it ended, in a few words for the terminal.
    maps : dict of str to array
        Further maps worth writing, (H, W) or (n, H, W), by the name of their file.
    tables : dict of str to DataFrame
        Further tables worth writing, by the name of their file.
    record : dict
        Plain values worth keeping with the result.
    """

    probability: np.ndarray
    boundary: np.ndarray
    labels: np.ndarray
    zoom: float
    uncertainty: Uncertainty | None = None
    valid: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    status: str = ""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


class Segmenter(Protocol):
    """A method of segmentation.

    A class that derives from this one defines `name`, `card` and `probability`; the other methods have
    defaults that build on these.

    Attributes
    ----------
    name : str
        As in `microlab.segment.registry`.
    card : dict
        What it is and what it was trained on, for reports. Two entries are read here: ``grain_size_px``, the
        mean linear intercept of the training images in pixels, and ``watershed``, the keyword arguments of
        `watershed_grains`.
    by_blocks : bool
        Whether `maps` takes a ``folder`` for what it computes, and holds only parts of a large image in
        memory, and `grains` is the one below: then `microlab.segment.blocks` segments images of any size.
    calibrated : bool
        Whether its probability says how sure it is, as a trained network's does.
    """

    name: str
    card: dict
    by_blocks: ClassVar[bool] = False
    calibrated: ClassVar[bool] = True

    @abstractmethod
    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        """Boundary probability of an (H, W) image, computed at a magnification; (H, W) float32 in [0, 1]."""

    def methods(self) -> tuple[Segmenter, ...]:
        """Itself; or those it chooses from, the one that it tries first in front (`segment.choice`)."""
        return (self,)

    def maps(
        self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`probability`, and the field of view, (H, W) bool, if the method can tell it and it is not all."""
        return self.probability(image, zoom, progress=progress), None

    @classmethod
    def load(cls, weights: str | None = None, device: str | None = None) -> Segmenter:
        """The segmenter, ready to use. A method with weights or settings of its own replaces this."""
        return cls()

    def grains(
        self, probability: np.ndarray, zoom: float = 1.0, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boundary (H, W) bool and labels (H, W) int32 of a probability that was computed at a zoom.

        `valid`, (H, W) bool, is the field of view.
        """
        labels = watershed_grains(probability, valid=valid, **self.card.get("watershed", {}))
        return closed_boundary(probability, labels, valid=valid), labels

    def check(self, image: Micrograph | np.ndarray) -> np.ndarray:
        """The image as (H, W) float32, or an `ImageError` that says why nothing can be segmented in it."""
        return checked_image(image)

    def estimate_zoom(self, image: Micrograph | np.ndarray) -> float:
        """Magnification that brings the grains of an image to the size of those in the training images.

        It is 1 for a segmenter whose card has no ``grain_size_px``.
        """
        size = self.card.get("grain_size_px")
        if size is None:
            return 1.0
        return matching_zoom(
            self.check(image), lambda part: self.grains(self.probability(part))[1], float(size)
        )

    def segment(
        self,
        image: Micrograph | np.ndarray,
        *,
        zoom: float | None = None,
        uncertainty: bool = False,
        progress: bool = False,
    ) -> Segmentation:
        """Segment one micrograph into grains.

        Parameters
        ----------
        image : Micrograph or (H, W) array
            What lies outside of a micrograph's field of view belongs to no grain.
        zoom : float, optional
            Magnification before the segmenter; by default that of `estimate_zoom`.
        uncertainty : bool
            Segment eight views of the image as well (`microlab.segment.uncertainty`).
        progress : bool
            Show a progress bar.

        Raises
        ------
        InputError
            If the image is too small, not finite or blank, or `zoom` is not positive.
        """
        known = image.valid if isinstance(image, Micrograph) else None
        image = self.check(image)
        zoom = self.estimate_zoom(image) if zoom is None else checked_zoom(zoom)
        probability, found = self.maps(image, zoom, progress=progress)
        valid = joint_field(known, found)
        boundary, labels = self.grains(probability, zoom, valid)
        views = estimate_uncertainty(image, self, zoom, valid=valid) if uncertainty else None
        return Segmentation(probability, boundary, labels, zoom, views, valid)


def checked_image(image: Micrograph | np.ndarray) -> np.ndarray:
    """The image as (H, W) float32, or an `ImageError` that says why nothing can be segmented in it."""
    image = np.asarray(pixels_of(image), dtype=np.float32)
    if image.ndim != 2:
        raise ImageError(f"image must be grey, (H, W), got shape {image.shape}")
    if min(image.shape) < LEAST_SIDE:
        raise ImageError(
            f"image has {image.shape[1]} x {image.shape[0]} pixels, "
            f"both sides need at least {LEAST_SIDE}; give a larger field"
        )
    low, high = image.min(), image.max()  # NaN passes through, and no array of the image's size is needed
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("image holds NaN or infinite values; replace them first")
    if low == high:
        raise ImageError("image has the same grey everywhere, there is nothing to segment; check the export")
    return image


def joint_field(known: np.ndarray | None, found: np.ndarray | None) -> np.ndarray | None:
    """Where two fields of view, (H, W) bool or None for everywhere, both show the specimen.

    Where both are given it is written into `found`.
    """
    if known is None or found is None:
        return found if known is None else known
    for rows in bands(found.shape):
        found[rows] &= known[rows]
    release(found)
    return found


def checked_zoom(zoom: float) -> float:
    """The zoom, or an `InputError`."""
    if not 0 < zoom < np.inf:
        raise InputError(f"zoom must be a positive number, got {zoom}")
    return float(zoom)


def pixels_of(image: Micrograph | np.ndarray) -> np.ndarray:
    """The array of a micrograph; an array as it is."""
    return image.image if isinstance(image, Micrograph) else image
