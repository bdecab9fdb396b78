"""Micrographs whose truth is known: boundaries to score against, class maps to learn from.

Real ones come from `microlab.data.datasets`. Where they are not available a virtual stand-in takes their
place: it is made when asked for, needs no download, and is always marked as virtual. Fields, not patches, are
split into training, validation and test: patches of one field share its look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from microlab.data.datasets import DatasetError, fetch, load
from microlab.data.micrograph import Micrograph
from microlab.measure.labels import components
from microlab.measure.scores import MIN_GRAIN_AREA, score, trivial_prediction
from microlab.render.steel import steel_fields
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.segmenter import Segmentation

REAL_SAMPLES = {
    "perovskite": "A real micrograph: perovskite film, SEM, test half. The truth is an expert's mask.",
    "steel": "A real micrograph: etched steel, optical. The truth is an expert's mask.",
}


def virtual_sample(seed: int = 7, *, size: int = 512, grains: int = 112, steps: int = 300) -> Micrograph:
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
    Micrograph
        Always marked as virtual.
    """
    from microlab.render import sem
    from microlab.simulate import phasefield, voronoi

    rng = np.random.default_rng(seed)
    seeds = voronoi.random_seeds(grains, (size, size), rng)
    grown = phasefield.grow(voronoi.tessellate(seeds, (size, size)), steps)
    microscope = sem.Microscope()
    image, distance = sem.render(grown.grain_map(), microscope, seed=rng, return_distance=True)
    return Micrograph(
        image,
        name="virtual-polycrystal",
        boundary=distance <= microscope.boundary_half_width,
        virtual=True,
        about="A virtual micrograph: a phase-field simulation under a simulated electron microscope. "
        "The truth is the simulation itself.",
    )


def real_samples() -> list[Micrograph]:
    """Real micrographs with expert masks that no training has seen: half of perovskite, and steel.

    Returns
    -------
    list of Micrograph

    Raises
    ------
    ValueError, OSError
        If a data set is neither here nor to be downloaded.
    """
    from microlab.data import datasets

    return [
        replace(field, about=about)
        for name, about in REAL_SAMPLES.items()
        for field in datasets.load(name, "test")
    ]


@dataclass(frozen=True)
class Target:
    """A material to learn: one field for its look, another to be scored on.

    Attributes
    ----------
    name : str
    style : Micrograph
        The look is learnt from its image. Its `boundary` is for the oracle and the few labelled patches only,
        never for label-free training.
    test : Micrograph
        The held-out field, with its boundary.
    virtual : bool
        A stand-in made by the virtual microscope, because the real images are not available.
    """

    name: str
    style: Micrograph
    test: Micrograph
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
    style, test = _left_and_right(replace(field, name=name, about=REAL_SAMPLES[name]))
    return Target(name, style, test, virtual=False)


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
        reason = f" It stands in for {name}, which is not available: {error}"
    style, test = _left_and_right(virtual_sample(seed, size=768, grains=250))
    test = replace(test, about=test.about + reason)
    return Target(f"virtual stand-in for {name}", style, test, virtual=True)


def _check_name(name: str) -> None:
    if name not in REAL_SAMPLES:
        raise ValueError(f"name must be one of {', '.join(REAL_SAMPLES)}, got {name!r}")


def _left_and_right(field: Micrograph) -> tuple[Micrograph, Micrograph]:
    middle = field.image.shape[1] // 2
    return tuple(
        replace(
            field,
            name=f"{field.name}_{name}",
            image=np.ascontiguousarray(field.image[:, part]),
            boundary=np.ascontiguousarray(field.boundary[:, part]),
        )
        for name, part in (("style", slice(middle)), ("test", slice(middle, None)))
    )


CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "uhcs": ("matrix", "network carbide", "spheroidite", "Widmanstätten"),
    "superalloy": ("matrix", "secondary γ′", "tertiary γ′"),
}


@dataclass(frozen=True)
class LabelledFields:
    """Fields of a material with labelled constituents, split into training, validation and test.

    Attributes
    ----------
    name : str
    train, val, test : list of Micrograph
        Each with its class map.
    classes : tuple of str
        Names by class id.
    virtual : bool
        A stand-in made here, because the real images are not available.
    about : str
        What it is and where its masks come from.
    """

    name: str
    train: list[Micrograph]
    val: list[Micrograph]
    test: list[Micrograph]
    classes: tuple[str, ...]
    virtual: bool
    about: str


def labelled_fields(name: str = "uhcs") -> LabelledFields:
    """A real material in its published split.

    Parameters
    ----------
    name : {'uhcs', 'superalloy'}

    Raises
    ------
    ValueError
        If there is no such material.
    DatasetError
        If the images are neither here nor to be downloaded; see `labelled_fields_or_stand_in`.
    """
    _check_material(name)
    parts = {part: load(name, part) for part in ("train", "val", "test")}
    about = "Real micrographs, with the masks published beside them."
    return LabelledFields(name, **parts, classes=CLASS_NAMES[name], virtual=False, about=about)


def labelled_fields_or_stand_in(
    name: str = "uhcs",
    *,
    fields: tuple[int, int, int] = (16, 4, 4),
    shape: tuple[int, int] = (484, 645),
    seed: int = 11,
) -> LabelledFields:
    """`labelled_fields`, or without the real images a virtual stand-in that is marked as virtual.

    The stand-in for either material is `microlab.render.steel`, which resembles uhcs and has its four
    classes; its name says what it is, and ``about`` why it had to be made.

    Parameters
    ----------
    name : {'uhcs', 'superalloy'}
    fields : (train, val, test)
        Numbers of fields of a stand-in; by default those of uhcs.
    shape : (H, W)
        Of the fields of a stand-in.
    seed : int
        Of a stand-in: same seed, same fields.

    Raises
    ------
    ValueError
        If there is no such material.
    """
    _check_material(name)
    try:
        fetch(name, progress=False)
        return labelled_fields(name)
    except (OSError, DatasetError) as error:
        reason = f"They stand in for {name}, which is not available: {error}"
    train, val, _ = fields
    samples = steel_fields(sum(fields), shape, seed)
    return LabelledFields(
        f"virtual stand-in for {name}",
        samples[:train],
        samples[train : train + val],
        samples[train + val :],
        classes=CLASS_NAMES["uhcs"],
        virtual=True,
        about=f"Virtual fields that resemble ultrahigh-carbon steel. The masks are exact. {reason}",
    )


def corner_patches(fields: Iterable[Micrograph], side: int = 256, per_field: int = 3) -> list[Micrograph]:
    """Square patches of fields, in rows that reach the field's edges so that they overlap little.

    The patches stand in one or more rows, evenly spaced in each. Of all numbers of rows the one with the
    least overlap is taken. Three patches of 256 px in a field of 484 x 645 stand in the two upper corners and
    in the middle of the lower edge; 1.8 % of their area is shared, and no three such squares share less.

    Parameters
    ----------
    fields : iterable of Micrograph
    side : int
        Pixels.
    per_field : int
        Patches per field, at least 1.

    Returns
    -------
    list of Micrograph
        Field by field; copies of (side, side) pixels. A name is the field's with the patch's top row and left
        column. The same every time.

    Raises
    ------
    ValueError
        If a field has no class map or is smaller than a patch, or if `per_field` is not positive.
    """
    if per_field < 1:
        raise ValueError(f"per_field must be at least 1, got {per_field}")
    patches = []
    for field in fields:
        if field.classes is None:
            raise ValueError(f"{field.name}: has no class map")
        if side < 1 or min(field.image.shape) < side:
            raise ValueError(
                f"side must be at least 1 and fit into {field.name} of shape {field.image.shape}, got {side}"
            )
        for top, left in _corners(field.image.shape, side, per_field):
            part = np.s_[top : top + side, left : left + side]
            name = f"{field.name}_y{top}_x{left}"
            patches.append(
                replace(field, name=name, image=field.image[part].copy(), classes=field.classes[part].copy())
            )
    return patches


def few_many(
    target: LabelledFields,
    side: int = 256,
    *,
    per_field: int = 3,
    few_train: int = 16,
    few_val: int = 5,
) -> dict[str, list[Micrograph]]:
    """Training sets in the manner of paper B (arXiv:2408.00707): many labelled patches, or few.

    "Many" are all patches of all training and validation fields, 48 and 12 for uhcs. "Few" are some of those,
    from as few fields as hold them: whoever has little time labels few fields. The fields are evenly spaced
    in the list, the first and the last among them, and the patches of the last one are cut off at the number
    asked for. For uhcs the 16 patches are of fields 0007, 0312, 0360, 0596, 1176 and, one patch, 1579; the 5
    for validation of 0075 and, two patches, 1061.

    Parameters
    ----------
    target : LabelledFields
    side : int
        Pixels.
    per_field : int
        Patches per field.
    few_train, few_val : int
        Number of few patches.

    Returns
    -------
    dict of str to list of Micrograph
        ``many_train``, ``many_val``, ``few_train``, ``few_val``, and ``test``: whole fields, none of which is
        in any other list.

    Raises
    ------
    ValueError
        If more few patches are asked for than there are, or none; or as `corner_patches`.
    """
    return {
        "many_train": corner_patches(target.train, side, per_field),
        "many_val": corner_patches(target.val, side, per_field),
        "few_train": _few(target.train, side, per_field, few_train, "few_train"),
        "few_val": _few(target.val, side, per_field, few_val, "few_val"),
        "test": list(target.test),
    }


def _few(fields: list[Micrograph], side: int, per_field: int, count: int, name: str) -> list[Micrograph]:
    if not 1 <= count <= per_field * len(fields):
        raise ValueError(f"{name} must lie between 1 and {per_field * len(fields)}, got {count}")
    needed = -(-count // per_field)
    chosen = np.linspace(0, len(fields) - 1, needed).round().astype(int)
    return corner_patches([fields[k] for k in chosen], side, per_field)[:count]


def _corners(shape: tuple[int, int], side: int, count: int) -> list[tuple[int, int]]:
    """Top left corners (top, left) of `count` patches in rows, the number of rows with the least overlap."""
    arrangements = []
    for rows in range(1, count + 1):
        tops = _spaced(shape[0] - side, rows)
        in_row = [len(part) for part in np.array_split(range(count), rows)]  # longer rows first
        corners = [(y, x) for y, n in zip(tops, in_row, strict=True) for x in _spaced(shape[1] - side, n)]
        arrangements.append(corners)
    return min(arrangements, key=lambda corners: _overlap(corners, side))


def _spaced(room: int, count: int) -> list[int]:
    return [room // 2] if count == 1 else np.linspace(0, room, count).round().astype(int).tolist()


def _overlap(corners: list[tuple[int, int]], side: int) -> int:
    """Pixels shared, summed over all pairs of patches."""
    return sum(
        max(0, side - abs(y - v)) * max(0, side - abs(x - u))
        for k, (y, x) in enumerate(corners)
        for v, u in corners[:k]
    )


def _check_material(name: str) -> None:
    if name not in CLASS_NAMES:
        raise ValueError(f"name must be one of {', '.join(CLASS_NAMES)}, got {name!r}")


def compare(sample: Micrograph, segmentation: Segmentation) -> pd.DataFrame:
    """The network's scores beside the classical baselines and a trivial predictor.

    A baseline stands as it is used: its mask, cut at one half, and the connected regions between. The
    strongest of them, the ridge filter, also stands with our watershed, which shows how much of the
    difference is in the way of counting.

    Returns
    -------
    pandas.DataFrame
        One row per method, columns as in `score`.
    """
    from microlab.segment.classical import BASELINES

    rows = {"U-Net": score(sample.boundary, segmentation.boundary, segmentation.labels)}
    for name, baseline in BASELINES.items():
        probability = np.asarray(baseline(sample.image), dtype=np.float32)
        mask = probability >= 0.5
        rows[name] = score(sample.boundary, mask, components(mask, min_area=MIN_GRAIN_AREA))
        if name == "ridge":
            labels = watershed_grains(probability)
            rows["ridge, our watershed"] = score(
                sample.boundary, closed_boundary(probability, labels), labels
            )
    rows["trivial"] = score(sample.boundary, *trivial_prediction(sample.shape))
    return pd.DataFrame(rows).T.rename_axis("method")
