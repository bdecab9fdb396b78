"""Pairs of micrograph and mask on disk, with a manifest of their checksums.

FOLDER/manifest.json, images/NAME.tif, masks/NAME.tif (class ids), masks_colour/NAME.png (to look at)
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from matplotlib import colormaps
from matplotlib.colors import to_rgba_array
from PIL import Image

from microlab.data.errors import ImageError
from microlab.data.files import atomic, sha256
from microlab.data.images import read_image, read_labels, write_image

MANIFEST = "manifest.json"
SUFFIXES = (".tif", ".tiff", ".png", ".bmp", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pair:
    """A micrograph and its mask."""

    image: np.ndarray  # (H, W) or (H, W, 3) float32 in [0, 1]
    mask: np.ndarray  # (H, W) uint8, class ids
    name: str = ""


def write_pairs(
    folder: str | os.PathLike, pairs: Sequence[Pair], *, classes: int, about: dict[str, object] | None = None
) -> Path:
    """Write pairs as a data set that Fiji opens.

    Each file is written whole or not at all, and the manifest last: a folder with a manifest is complete.
    After a kill, call it again. A folder that already has a manifest is left as it is.

    Parameters
    ----------
    folder : path
        Receives ``images/NAME.tif`` (8 bit), ``masks/NAME.tif`` (uint8 class ids, nearly black in a viewer),
        ``masks_colour/NAME.png`` (the same in colours, class 0 black) and ``manifest.json``: `about`, and for
        each pair its files with their SHA-256, its size and the share of each class.
    pairs : sequence of Pair
        With names that differ.
    classes : int >= 2
    about : dict, optional
        How the pairs were made (settings, seed, weights); anything that JSON holds.

    Returns
    -------
    Path of the manifest.

    Raises
    ------
    ValueError
        If there are no pairs, names repeat or are no file names, sizes or class ids do not fit, or the folder
        already holds a data set.
    """
    folder, about = Path(folder), about or {}
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder}: already holds a set of pairs; choose another folder or delete this one")
    try:
        json.dumps(about)
    except TypeError as error:
        raise ValueError(f"about must hold only what JSON can: {error}") from None
    _check(pairs, classes)
    rows = []
    for pair in pairs:
        image, mask, colour = (
            f"{part}/{pair.name}{suffix}"
            for part, suffix in (("images", ".tif"), ("masks", ".tif"), ("masks_colour", ".png"))
        )
        write_image(folder / image, pair.image)
        ids = pair.mask.astype(np.uint8)
        with atomic(folder / mask) as partial:
            tifffile.imwrite(partial, ids, imagej=True)
        write_image(folder / colour, class_colours(classes)[ids])
        rows.append(
            {
                "name": pair.name,
                "image": image,
                "mask": mask,
                "mask_colour": colour,
                "sha256": {file: sha256(folder / file) for file in (image, mask, colour)},
                "shape": list(ids.shape),
                "class_fractions": (np.bincount(ids.ravel(), minlength=classes) / ids.size).tolist(),
            }
        )
    mean = np.mean([row["class_fractions"] for row in rows], axis=0).tolist()
    manifest = {"classes": classes, "about": about, "class_fractions": mean, "pairs": rows}
    with atomic(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1))
    return folder / MANIFEST


def read_pairs(folder: str | os.PathLike) -> list[Pair]:
    """Read what `write_pairs` wrote, each file checked against its SHA-256.

    Returns
    -------
    list of Pair
        Images to the 1/255 of their 8 bits.

    Raises
    ------
    ValueError
        If there is no manifest, or a file is missing or differs from its checksum.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: has no {MANIFEST}, no set of pairs or one cut short; write it again")
    pairs = []
    for row in json.loads((folder / MANIFEST).read_text())["pairs"]:
        for file in (row["image"], row["mask"]):
            if not (folder / file).is_file():
                raise ValueError(f"{folder / file}: named by the manifest and missing; write the set again")
            if sha256(folder / file) != row["sha256"][file]:
                raise ValueError(f"{folder / file}: differs from its checksum; write the set again")
        image = tifffile.imread(folder / row["image"]) / np.float32(255)
        pairs.append(Pair(image, tifffile.imread(folder / row["mask"]), row["name"]))
    return pairs


def read_labelled(
    images: str | os.PathLike, masks: str | os.PathLike, *, classes: int | None = None
) -> tuple[list[Pair], int]:
    """Read a user's labelled micrographs: two folders with files of the same names.

    Parameters
    ----------
    images : path
        Folder of micrographs (PNG, TIFF, JPEG, BMP), made grey. A data bar is cut off, from the mask too.
    masks : path
        Folder of masks: ``NAME.png`` or ``.tif`` for the image ``NAME.*``, one class id per pixel, from 0.
        Palette files count by their index.
    classes : int, optional
        Number of classes. By default the largest id plus one, and each id must then occur somewhere.

    Returns
    -------
    pairs : list of Pair
        Sorted by name.
    classes : int

    Raises
    ------
    ValueError
        If a folder is missing, an image has no mask or a mask no image, sizes differ, class ids are out of
        range, masks are colours, or there is a single image.
    """
    pictures, labels = _by_stem(images), _by_stem(masks)
    if alone := sorted(pictures.keys() ^ labels.keys()):
        raise ValueError(
            f"{images} has {len(pictures)} images and {masks} {len(labels)} masks, and these have no partner "
            f"of the same name: {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}"
        )
    if len(pictures) < 2:
        raise ValueError(
            f"{images}: labelled images found: {len(pictures)}; at least 2 are needed, one to learn from and "
            "one to check on (cut a single image into parts)"
        )
    pairs = []
    for stem in sorted(pictures):
        image, mask = read_image(pictures[stem]), _read_ids(labels[stem])
        if image.data_bar_height and mask.shape[0] == image.image.shape[0] + image.data_bar_height:
            mask = mask[: image.image.shape[0]]
        if mask.shape != image.image.shape:
            raise ValueError(
                f"mask {mask.shape} and image {image.image.shape} differ in size: {labels[stem]}"
            )
        pairs.append(Pair(image.image, mask, stem))
    found = np.unique(np.concatenate([np.unique(pair.mask) for pair in pairs]))
    if classes is None:
        classes = int(found[-1]) + 1
        if len(found) != classes or classes < 2:
            raise ValueError(
                f"{masks} holds the values {_some(found)}; classes must be numbered 0, 1, 2 and on, at least "
                "two. Renumber them, or give the number of classes if one never occurs"
            )
    for pair in pairs:
        check_classes(pair.mask, classes, str(labels[pair.name]))
    return [Pair(pair.image, pair.mask.astype(np.uint8), pair.name) for pair in pairs], classes


def class_colours(classes: int) -> np.ndarray:
    """Colours to show class ids in, (classes, 3) float in [0, 1]: class 0 black, then Okabe and Ito's."""
    # orange, sky blue, green, yellow, blue, vermilion, purple: told apart with any colour vision
    names = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
    colours = to_rgba_array(names)[:, :3]
    if classes > len(colours):
        more = colormaps["turbo"](np.linspace(0, 1, classes - len(colours)))[:, :3]
        colours = np.concatenate([colours, more])
    return colours[:classes]


def check_classes(mask: np.ndarray, classes: int, what: str) -> None:
    """Raise a ValueError if a mask is not (H, W) of the class ids 0..classes-1."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iu":
        raise ValueError(f"{what} must be whole numbers of shape (H, W), got {mask.dtype} {mask.shape}")
    if mask.min() < 0 or mask.max() >= classes:
        raise ValueError(
            f"{what} holds the values {_some(np.unique(mask))}; {classes} classes are 0..{classes - 1}"
        )


def _check(pairs: Sequence[Pair], classes: int) -> None:
    if not pairs:
        raise ValueError("there are no pairs to write")
    if not 2 <= classes <= 256:
        raise ValueError(f"classes must lie in 2..256, got {classes}")
    names = [pair.name for pair in pairs]
    for name in names:
        if not name or Path(name).name != name or "\\" in name or name.startswith("."):
            raise ValueError(f"pair name {name!r} is no file name")
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError("the names of the pairs repeat; give each its own")
    for pair in pairs:
        check_classes(pair.mask, classes, f"mask of {pair.name}")
        if pair.image.shape[:2] != pair.mask.shape:
            raise ValueError(
                f"mask {pair.mask.shape} and image {pair.image.shape[:2]} differ in size: {pair.name}"
            )


def _by_stem(folder: str | os.PathLike) -> dict[str, Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder that holds the files")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in files:
                raise ValueError(f"{path} and {files[path.stem].name} have one name; keep one of them")
            files[path.stem] = path
    return files


def _read_ids(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ImageError(f"{path}: JPEG blurs class ids; save masks as PNG or TIFF")
    try:
        with Image.open(path) as picture:
            if picture.mode == "P":  # the numbers are class ids, the palette only shows them
                return np.asarray(picture)
            colours = picture.mode not in ("1", "L", "I", "F") and not picture.mode.startswith("I;")
    except OSError:
        colours = False  # a TIFF that Pillow cannot open, or a damaged file: read_labels says which
    if colours:
        raise ImageError(
            f"{path}: is a colour picture; a mask holds one class id per pixel, 0, 1, 2 and on. Give each "
            "colour its number, ids[(picture == colour).all(-1)] = number, and save the ids as 8-bit grey"
        )
    return read_labels(path)[0]


def _some(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ... {values[-1]}" if len(values) > 8 else shown
