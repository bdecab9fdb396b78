"""Micrographs whose boundaries are known, to score a segmentation against: a virtual one, and real ones.

The virtual one is embedded: it is made when asked for, needs no download, and is always marked as virtual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REAL_SAMPLES = {
    "perovskite": "A real micrograph: perovskite film, SEM, test half. The truth is an expert's mask.",
    "steel": "A real micrograph: etched steel, optical. The truth is an expert's mask.",
}


@dataclass(frozen=True)
class Sample:
    """A micrograph with known boundaries, to score against.

    Attributes
    ----------
    name : str
    image : (H, W) float32 in [0, 1]
    truth : (H, W) bool
        True on boundaries.
    pixel_size : float or None
        Micrometres.
    virtual : bool
        Made by the virtual microscope, not by a real one.
    about : str
        What it is and where its truth comes from, in one sentence.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    pixel_size: float | None
    virtual: bool
    about: str


def virtual_sample(seed: int = 7, *, size: int = 512, grains: int = 112, steps: int = 300) -> Sample:
    """The embedded example: a grown polycrystal under the virtual microscope, its truth known.

    Parameters
    ----------
    seed : int
    size : int
        Side in pixels.
    grains : int
        Seeds of the tessellation; some grains are eaten while the others grow.
    steps : int
        Phase-field steps.

    Returns
    -------
    Sample
        Always marked as virtual.
    """
    from microlab.render import sem
    from microlab.simulate import phasefield, voronoi

    rng = np.random.default_rng(seed)
    seeds = voronoi.random_seeds(grains, (size, size), rng)
    grown = phasefield.grow(voronoi.tessellate(seeds, (size, size)), steps)
    microscope = sem.Microscope()
    image, distance = sem.render(grown.grain_map(), microscope, seed=rng, return_distance=True)
    return Sample(
        name="virtual-polycrystal",
        image=image,
        truth=distance <= microscope.boundary_half_width,
        pixel_size=None,
        virtual=True,
        about="A virtual micrograph: a phase-field simulation under a simulated electron microscope. "
        "The truth is the simulation itself.",
    )


def real_samples() -> list[Sample]:
    """Real micrographs with expert masks that no training has seen: half of perovskite, and steel.

    Returns
    -------
    list of Sample

    Raises
    ------
    ValueError, OSError
        If a data set is neither here nor to be downloaded.
    """
    from microlab.data import datasets

    return [
        Sample(field.name, field.image, field.mask, field.pixel_size, False, about)
        for name, about in REAL_SAMPLES.items()
        for field in datasets.load(name, "test")
    ]
