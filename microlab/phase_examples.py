"""Labelled multi-phase fields that system B learns from: real ones, or a virtual stand-in (chapters 11, 12).

Fields, not patches, are split into training, validation and test: patches of one field share its look, so a
model that saw one patch has seen a little of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from microlab.data.datasets import DatasetError, Sample, fetch, load
from microlab.virtual_phases import virtual_phases
from microlab.viz import COLOURS

__all__ = [
    "CLASS_COLOURS",
    "CLASS_NAMES",
    "Patch",
    "PhaseTarget",
    "colour_classes",
    "corner_patches",
    "few_many",
    "phase_target",
    "phase_target_or_stand_in",
    "virtual_phases",
]

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "uhcs": ("matrix", "network carbide", "spheroidite", "Widmanstätten"),
    "superalloy": ("matrix", "secondary γ′", "tertiary γ′"),
}

# By class id. Okabe-Ito colours on dark grey, apart in lightness too (27, 89, 70 and 54 of 100). The network
# lies on grain boundaries, so it has the book's colour of boundaries; the colours of truth, prediction and
# error are left to their meanings.
CLASS_COLOURS: tuple[str, ...] = ("#404040", COLOURS["boundary"], "#56B4E9", "#D55E00")

Patch = tuple[str, np.ndarray, np.ndarray]
"""Name, image (H, W) float32 in [0, 1], mask (H, W) uint8."""


@dataclass(frozen=True)
class PhaseTarget:
    """A material with labelled phases, split by field.

    Attributes
    ----------
    name : str
    train, val, test : list of Sample
        Images (H, W) float32 in [0, 1], masks (H, W) uint8 of class ids.
    classes : tuple of str
        Names by class id.
    virtual : bool
        A stand-in made here, because the real images cannot be had.
    about : str
        What it is and where its masks come from.
    """

    name: str
    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    classes: tuple[str, ...]
    virtual: bool
    about: str


def phase_target(name: str = "uhcs") -> PhaseTarget:
    """A real material in its published split.

    Parameters
    ----------
    name : {'uhcs', 'superalloy'}

    Raises
    ------
    ValueError
        If there is no such material.
    DatasetError
        If the images are neither here nor to be downloaded; see `phase_target_or_stand_in`.
    """
    _check_name(name)
    parts = {part: load(name, part) for part in ("train", "val", "test")}
    about = "Real micrographs, with the masks published beside them."
    return PhaseTarget(name, **parts, classes=CLASS_NAMES[name], virtual=False, about=about)


def phase_target_or_stand_in(
    name: str = "uhcs",
    *,
    fields: tuple[int, int, int] = (16, 4, 4),
    shape: tuple[int, int] = (484, 645),
    seed: int = 11,
) -> PhaseTarget:
    """`phase_target`, or without the real images a virtual stand-in that is marked as virtual.

    The stand-in for either material is `microlab.virtual_phases`, which resembles uhcs and has its four
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
    _check_name(name)
    try:
        fetch(name, progress=False)
        return phase_target(name)
    except (OSError, DatasetError) as error:
        reason = f"They stand in for {name}, which is not to be had: {error}"
    train, val, _ = fields
    made = virtual_phases(sum(fields), shape, seed)
    return PhaseTarget(
        f"virtual stand-in for {name}",
        made[:train],
        made[train : train + val],
        made[train + val :],
        classes=CLASS_NAMES["uhcs"],
        virtual=True,
        about=f"Virtual fields that resemble ultrahigh-carbon steel. The masks are exact. {reason}",
    )


def colour_classes(mask: np.ndarray) -> np.ndarray:
    """A mask of class ids as a colour picture, in `CLASS_COLOURS`.

    Parameters
    ----------
    mask : (H, W) int in 0..3

    Returns
    -------
    (H, W, 3) float32 in [0, 1]

    Raises
    ------
    ValueError
        If a class id has no colour.
    """
    mask = np.asarray(mask)
    if mask.size and not 0 <= mask.min() <= mask.max() < len(CLASS_COLOURS):
        raise ValueError(
            f"mask must hold class ids 0 to {len(CLASS_COLOURS) - 1}, got {mask.min()} to {mask.max()}"
        )
    palette = [[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in CLASS_COLOURS]
    return np.array(palette, np.float32)[mask]


def corner_patches(fields: Iterable[Sample], side: int = 256, per_field: int = 3) -> list[Patch]:
    """Square patches of fields, in rows that reach the field's edges so that they overlap little.

    The patches stand in one or more rows, evenly spaced in each. Of all numbers of rows the one with the
    least overlap is taken. Three patches of 256 px in a field of 484 x 645 stand in the two upper corners and
    in the middle of the lower edge; 1.8 % of their area is shared, and no three such squares share less.

    Parameters
    ----------
    fields : iterable of Sample
    side : int
        Pixels.
    per_field : int
        Patches per field, at least 1.

    Returns
    -------
    list of (name, image, mask)
        Field by field; copies of (side, side) pixels. A name is the field's with the patch's top row and left
        column. The same every time.

    Raises
    ------
    ValueError
        If a field has no mask or is smaller than a patch, or if `per_field` is not positive.
    """
    if per_field < 1:
        raise ValueError(f"per_field must be at least 1, got {per_field}")
    patches = []
    for field in fields:
        if field.mask is None:
            raise ValueError(f"{field.name}: has no mask")
        if side < 1 or min(field.image.shape) < side:
            raise ValueError(
                f"side must be at least 1 and fit into {field.name} of shape {field.image.shape}, got {side}"
            )
        for top, left in _corners(field.image.shape, side, per_field):
            part = np.s_[top : top + side, left : left + side]
            name = f"{field.name}_y{top}_x{left}"
            patches.append((name, field.image[part].copy(), field.mask[part].copy()))
    return patches


def few_many(
    target: PhaseTarget,
    side: int = 256,
    *,
    per_field: int = 3,
    few_train: int = 16,
    few_val: int = 5,
) -> dict[str, list[Patch]]:
    """Training sets in the manner of paper B (arXiv:2408.00707): many labelled patches, or few.

    "Many" are all patches of all training and validation fields, 48 and 12 for uhcs. "Few" are some of those,
    from as few fields as hold them: whoever has little time labels few fields. The fields are evenly spaced
    in the list, the first and the last among them, and the patches of the last one are cut off at the number
    asked for. For uhcs the 16 patches are of fields 0007, 0312, 0360, 0596, 1176 and, one patch, 1579; the 5
    for validation of 0075 and, two patches, 1061.

    Parameters
    ----------
    target : PhaseTarget
    side : int
        Pixels.
    per_field : int
        Patches per field.
    few_train, few_val : int
        Number of few patches.

    Returns
    -------
    dict of str to list of (name, image, mask)
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
        "test": [(field.name, field.image, field.mask) for field in target.test],
    }


def _few(fields: list[Sample], side: int, per_field: int, count: int, name: str) -> list[Patch]:
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


def _check_name(name: str) -> None:
    if name not in CLASS_NAMES:
        raise ValueError(f"name must be one of {', '.join(CLASS_NAMES)}, got {name!r}")
