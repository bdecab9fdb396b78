"""Pairs of micrograph and class map on disk, with a manifest of their checksums.

FOLDER/manifest.json, images/NAME.tif, masks/NAME.tif (class ids), masks_colour/NAME.png (to look at)

A pair is a :class:`~microlab.data.micrograph.Micrograph` with `classes` and a name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from matplotlib import colormaps
from matplotlib.colors import to_rgba_array

from microlab.data.errors import InputError
from microlab.data.files import atomic, claim, read_json, retire, sha256
from microlab.data.formats import PICTURES
from microlab.data.images import read_image, read_labels, write_image
from microlab.data.micrograph import Micrograph

MANIFEST = "manifest.json"


def begin_pairs(folder: str | os.PathLike) -> None:
    """Make a folder one for a set of pairs; a set that was begun there and not finished is written anew.

    Raises
    ------
    InputError
        If the folder already holds a data set, or something else.
    """
    if (Path(folder) / MANIFEST).exists():
        raise InputError(f"{folder}: already holds a set of pairs; choose another folder or delete this one")
    for place in ("", "images", "masks", "masks_colour"):
        claim(Path(folder) / place, "pairs")
        retire(Path(folder) / place, keep=())


def write_pairs(
    folder: str | os.PathLike,
    pairs: Sequence[Micrograph],
    *,
    classes: int,
    about: dict[str, object] | None = None,
) -> Path:
    """Write pairs as a data set that Fiji opens.

    Each file is written whole or not at all, and the manifest last: a folder with a manifest is complete.
    After a kill, call it again.

    Parameters
    ----------
    folder : path
        Receives ``images/NAME.tif`` (8 bit), ``masks/NAME.tif`` (uint8 class ids, nearly black in a viewer),
        ``masks_colour/NAME.png`` (the same in colours, class 0 black) and ``manifest.json``: `about`, and for
        each pair its files with their SHA-256, its size and the share of each class.
    pairs : sequence of Micrograph
        With `classes` and names that differ.
    classes : int >= 2
    about : dict, optional
        How the pairs were made (settings, seed, weights); anything that JSON holds.

    Returns
    -------
    Path of the manifest.

    Raises
    ------
    InputError
        If the folder already holds a data set, or something else.
    ValueError
        If there are no pairs, names repeat or are no file names, or sizes or class ids do not fit.
    """
    folder, about = Path(folder), about or {}
    try:
        json.dumps(about)
    except TypeError as error:
        raise ValueError(f"about must hold only what JSON can: {error}") from None
    _check(pairs, classes)
    begin_pairs(folder)
    rows = []
    for pair in pairs:
        image, mask, colour = (
            f"{part}/{pair.name}{suffix}"
            for part, suffix in (("images", ".tif"), ("masks", ".tif"), ("masks_colour", ".png"))
        )
        write_image(folder / image, pair.image)
        ids = pair.classes.astype(np.uint8)
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


def read_pairs(folder: str | os.PathLike) -> list[Micrograph]:
    """Read what `write_pairs` wrote, each file checked against its SHA-256.

    Returns
    -------
    list of Micrograph
        Images in steps of 1/255: they are stored with 8 bits.

    Raises
    ------
    InputError
        If there is no manifest or it is damaged, or a file is missing, differs from its checksum, or lies
        elsewhere.
    """
    folder = Path(folder)
    path, mend = folder / MANIFEST, "write the set again"
    if not path.is_file():
        raise InputError(f"{folder}: has no {MANIFEST}, no set of pairs or one cut short; {mend}")
    manifest = read_json(path, mend)
    rows = manifest.get("pairs") if isinstance(manifest, dict) else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise InputError(f"{path}: is damaged, its pairs are no rows of files with checksums; {mend}")
    pairs = []
    for row in rows:
        for file in (row["image"], row["mask"]):
            if Path(os.path.realpath(folder)) not in Path(os.path.realpath(folder / file)).parents:
                raise InputError(f"{path}: names {file}, which lies outside of its folder; {mend}")
            if not (folder / file).is_file():
                raise InputError(f"{folder / file}: named by the manifest and missing; write the set again")
            if sha256(folder / file) != row["sha256"][file]:
                raise InputError(f"{folder / file}: differs from its checksum; write the set again")
        image = tifffile.imread(folder / row["image"]) / np.float32(255)
        pairs.append(Micrograph(image, name=row["name"], classes=tifffile.imread(folder / row["mask"])))
    return pairs


def read_labelled(
    images: str | os.PathLike, masks: str | os.PathLike, *, classes: int | None = None
) -> tuple[list[Micrograph], int]:
    """Read labelled micrographs: two folders with files of the same names.

    Parameters
    ----------
    images : path
        Folder of micrographs (PNG, TIFF, JPEG, BMP), converted to grey. A data bar is cut off, also from the
        mask.
    masks : path
        Folder of masks: ``NAME.png`` or ``.tif`` for the image ``NAME.*``, one class id per pixel, from 0.
        Palette files count by their index.
    classes : int, optional
        Number of classes. By default the largest id plus one, and each id must then occur somewhere.

    Returns
    -------
    pairs : list of Micrograph
        Sorted by name.
    classes : int

    Raises
    ------
    InputError
        If a folder is missing, an image has no mask or a mask no image, sizes differ, class ids are out of
        range, masks are colours, or there is a single image.
    """
    images_by_name, masks_by_name = _by_stem(images), _by_stem(masks)
    if alone := sorted(images_by_name.keys() ^ masks_by_name.keys()):
        raise InputError(
            f"{images} has {len(images_by_name)} images and {masks} {len(masks_by_name)} masks, and these "
            f"have no partner of the same name: {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}"
        )
    if len(images_by_name) < 2:
        raise InputError(
            f"{images}: labelled images found: {len(images_by_name)}; at least 2 are needed, one to train on "
            "and one to measure on (cut a single image into parts)"
        )
    pairs = []
    for name in sorted(images_by_name):
        micrograph, ids = read_image(images_by_name[name]), read_labels(masks_by_name[name])[0]
        height, top = micrograph.shape[0], micrograph.data_bar_top
        if len(ids) == height + top + micrograph.data_bar_height:  # its mask has the data bar as well
            ids = ids[top : top + height]
        if ids.shape != micrograph.shape:
            raise InputError(
                f"mask {ids.shape} and image {micrograph.shape} differ in size: {masks_by_name[name]}"
            )
        pairs.append(replace(micrograph, name=name, classes=ids))
    values = np.unique(np.concatenate([np.unique(pair.classes) for pair in pairs]))
    if classes is None:
        classes = int(values[-1]) + 1
        if len(values) != classes or classes < 2:
            raise InputError(
                f"{masks} holds the values {_some(values)}; classes must be numbered 0, 1, 2 and on, at "
                "least two. Renumber them, or give the number of classes if one never occurs"
            )
    for pair in pairs:
        check_classes(pair.classes, classes, str(masks_by_name[pair.name]))
    return [replace(pair, classes=pair.classes.astype(np.uint8)) for pair in pairs], classes


def checksum(pairs: Sequence[Micrograph]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all images and class maps, in their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for array in (pair.image, pair.classes):
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


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
    """Raise an InputError if a mask is not (H, W) of the class ids 0..classes-1."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iu":
        raise InputError(f"{what} must be whole numbers of shape (H, W), got {mask.dtype} {mask.shape}")
    if mask.min() < 0 or mask.max() >= classes:
        raise InputError(
            f"{what} holds the values {_some(np.unique(mask))}; {classes} classes are 0..{classes - 1}"
        )


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("sha256"), dict):
        return False
    files = row.get("image"), row.get("mask")
    return isinstance(row.get("name"), str) and all(
        isinstance(row["sha256"].get(file), str) for file in files
    )


def _check(pairs: Sequence[Micrograph], classes: int) -> None:
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
        check_classes(pair.classes, classes, f"mask of {pair.name}")
        if pair.shape != pair.classes.shape:
            raise ValueError(f"mask {pair.classes.shape} and image {pair.shape} differ in size: {pair.name}")


def _by_stem(folder: str | os.PathLike) -> dict[str, Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the files")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES and not path.name.startswith("."):
            if path.stem in files:
                raise InputError(f"{path} and {files[path.stem].name} have one name; keep one of them")
            files[path.stem] = path
    return files


def _some(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ... {values[-1]}" if len(values) > 8 else shown
