"""Micrographs whose boundaries are known, to score a segmentation against: a virtual one, and real ones.

The virtual one is embedded: it is made when asked for, needs no download, and is always marked as virtual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Target:
    """A material to learn: unlabelled images for its look, a held-out part to be scored on.

    Attributes
    ----------
    name : str
    style : (H, W) float32 in [0, 1]
        Unlabelled; the look is learnt from it.
    labelled : (H, W) bool
        Expert mask of `style`. For the oracle and the few labelled patches only, never for a labour-free
        route.
    test : Sample
        The held-out part.
    virtual : bool
        A stand-in made by the virtual microscope, because the real images cannot be had.
    """

    name: str
    style: np.ndarray
    labelled: np.ndarray
    test: Sample
    virtual: bool


def target(name: str = "perovskite") -> Target:
    """A real target, its left half to learn the look from and its right half to be scored on.

    Parameters
    ----------
    name : {'perovskite', 'steel'}

    Raises
    ------
    ValueError
        If there is no such target.
    OSError, DatasetError
        If the images are neither here nor to be downloaded; see `target_or_stand_in`.
    """
    from microlab.data import datasets

    _check_name(name)
    (field,) = datasets.load(name, labelled=True)
    whole = Sample(name, field.image, field.mask, field.pixel_size, False, REAL_SAMPLES[name])
    style, test = _left_and_right(whole)
    return Target(name, style.image, style.truth, test, virtual=False)


def target_or_stand_in(name: str = "perovskite", seed: int = 11) -> Target:
    """`target`, or without the real images a virtual stand-in that is marked as virtual.

    The stand-in is one large virtual micrograph through one microscope, cut into halves like the real ones,
    so that a chapter runs anywhere. Its name says what it is, and ``test.about`` why it had to be made.
    """
    from microlab.data import datasets

    _check_name(name)
    try:
        datasets.fetch(name, progress=False)
        return target(name)
    except (OSError, datasets.DatasetError) as error:
        reason = f" It stands in for {name}, which is not to be had: {error}"
    style, test = _left_and_right(virtual_sample(seed, size=768, grains=250))
    test = replace(test, about=test.about + reason)
    return Target(f"virtual stand-in for {name}", style.image, style.truth, test, virtual=True)


def _check_name(name: str) -> None:
    if name not in REAL_SAMPLES:
        raise ValueError(f"name must be one of {', '.join(REAL_SAMPLES)}, got {name!r}")


def _left_and_right(field: Sample) -> tuple[Sample, Sample]:
    middle = field.image.shape[1] // 2
    return tuple(
        replace(
            field,
            name=f"{field.name}_{name}",
            image=np.ascontiguousarray(field.image[:, part]),
            truth=np.ascontiguousarray(field.truth[:, part]),
        )
        for name, part in (("style", slice(middle)), ("test", slice(middle, None)))
    )
