"""Pairs of image and class map on disk: written, read, and a user's own folders."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from microlab.data.errors import InputError
from microlab.data.files import MARK
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import checksum, read_labelled, read_pairs, write_pairs


def texture(size: int, seed: int, smooth: float = 4.0) -> np.ndarray:
    """A smooth random image in [0, 1]."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), smooth)
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


def labelled(image: np.ndarray, classes: np.ndarray, name: str = "") -> Micrograph:
    return Micrograph(image, name=name, classes=classes)


def some_pairs(n: int = 3, size: int = 48) -> list[Micrograph]:
    rng = np.random.default_rng(1)
    return [
        labelled(texture(size, k), rng.integers(0, 3, (size, size)).astype(np.uint8), f"p{k}")
        for k in range(n)
    ]


# --- files


def test_written_pairs_are_read_back(tmp_path: Path) -> None:
    pairs = some_pairs()
    manifest = write_pairs(tmp_path / "set", pairs, classes=4, about={"seed": 3})
    assert manifest == tmp_path / "set" / "manifest.json"
    for pair, back in zip(pairs, read_pairs(tmp_path / "set"), strict=True):
        assert back.name == pair.name
        assert back.image.dtype == np.float32
        np.testing.assert_allclose(back.image, pair.image, atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(back.classes, pair.classes)


def test_other_programs_open_the_files_and_the_manifest_is_correct(tmp_path: Path) -> None:
    pairs = some_pairs()
    manifest = json.loads(write_pairs(tmp_path, pairs, classes=4, about={"seed": 3}).read_text())
    assert manifest["about"] == {"seed": 3}
    assert manifest["classes"] == 4
    files = (path for path in tmp_path.rglob("*.*") if path.is_file() and path.name != MARK)
    on_disk = {str(path.relative_to(tmp_path)) for path in files}
    named = {file for row in manifest["pairs"] for file in row["sha256"]}
    assert on_disk == {*named, "manifest.json"}
    for row, pair in zip(manifest["pairs"], pairs, strict=True):
        image, mask = tifffile.imread(tmp_path / row["image"]), tifffile.imread(tmp_path / row["mask"])
        assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
        assert image.shape == mask.shape == tuple(row["shape"]) == (48, 48)
        np.testing.assert_array_equal(mask, pair.classes)
        with Image.open(tmp_path / row["mask"]) as opened:
            assert opened.mode == "L"
        colours = np.asarray(Image.open(tmp_path / row["mask_colour"]))
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
        assert (colours[pair.classes == 0] == 0).all()
        np.testing.assert_allclose(row["class_fractions"], [(pair.classes == c).mean() for c in range(4)])
        for file, digest in row["sha256"].items():
            assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest
    np.testing.assert_allclose(sum(manifest["class_fractions"]), 1)


def test_colour_images_are_written_in_colour(tmp_path: Path) -> None:
    image = np.stack([texture(16, k) for k in range(3)], axis=2)
    write_pairs(tmp_path, [labelled(image, np.zeros((16, 16), np.uint8), "a")], classes=2)
    (back,) = read_pairs(tmp_path)
    np.testing.assert_allclose(back.image, image, atol=0.5 / 255 + 1e-6)


def test_a_complete_set_is_never_overwritten(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path, some_pairs(), classes=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a set of pairs"):
        write_pairs(tmp_path, some_pairs(1, 16), classes=4)
    assert {path: path.read_bytes() for path in before} == before
    assert manifest in before


@pytest.mark.slow
def test_a_kill_while_writing_leaves_no_seemingly_complete_set_and_writing_again_completes_it(
    tmp_path: Path,
) -> None:
    code = """
import sys
import numpy as np
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import write_pairs
image = np.random.default_rng(0).random((256, 256)).astype(np.float32)
classes = np.zeros((256, 256), np.uint8)
pairs = [Micrograph(image, name=f"p{k:04d}", classes=classes) for k in range(4000)]
write_pairs(sys.argv[1], pairs, classes=2)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "images" / "p0003.tif").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    whole = [path for path in tmp_path.rglob("*.tif") if not path.name.startswith(".")]
    assert len(whole) >= 4
    for path in whole:
        assert tifffile.imread(path).shape == (256, 256)  # no partial files
    with pytest.raises(ValueError, match="has no manifest"):
        read_pairs(tmp_path)
    pairs = some_pairs()
    write_pairs(tmp_path, pairs, classes=3)
    assert len(read_pairs(tmp_path)) == len(pairs)


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, some_pairs(), classes=3)
    mask = tmp_path / "masks" / "p1.tif"
    tifffile.imwrite(mask, np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match=r"p1\.tif: differs from its checksum"):
        read_pairs(tmp_path)
    mask.unlink()
    with pytest.raises(ValueError, match=r"p1\.tif: named by the manifest and missing"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs"),
        ([labelled(np.zeros((8, 8)), np.full((8, 8), 3), "a")], "mask of a holds the values 3; 3 classes"),
        ([labelled(np.zeros((8, 9)), np.zeros((8, 8), int), "a")], "differ in size: a"),
        ([labelled(np.zeros((8, 8)), np.zeros((8, 8), int), "../a")], "no file name"),
        ([labelled(np.zeros((8, 8)), np.zeros((8, 8), int))], "no file name"),
        (
            [labelled(np.zeros((8, 8)), np.zeros((8, 8), int), name) for name in ("a", "A")],
            "names of the pairs",
        ),
    ],
)
def test_pairs_that_cannot_be_written_are_refused_before_any_file(
    pairs: list[Micrograph], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_pairs(tmp_path / "set", pairs, classes=3)
    assert not (tmp_path / "set").exists()


def test_the_checksum_depends_on_every_image_and_mask_and_their_order() -> None:
    pairs = some_pairs()
    changed = [labelled(pair.image, pair.classes.copy(), pair.name) for pair in pairs]
    assert checksum(changed) == checksum(pairs)
    changed[1].classes[3, 4] ^= 1
    assert len({checksum(pairs), checksum(changed), checksum(pairs[::-1])}) == 3


def test_settings_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="about must hold only what JSON can"):
        write_pairs(tmp_path / "set", some_pairs(), classes=3, about={"seed": np.int64(3)})


# --- a user's own labelled images


def folders(folder: Path, n: int = 3, suffix: str = ".png") -> tuple[Path, Path]:
    """Folders of `n` images and masks of classes 0, 1, 2."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for pair in some_pairs(n):
        Image.fromarray((pair.image * 255).astype(np.uint8)).save(folder / "images" / f"{pair.name}.png")
        Image.fromarray(pair.classes).save(folder / "masks" / f"{pair.name}{suffix}")
    return folder / "images", folder / "masks"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_user_s_folders_are_read(suffix: str, tmp_path: Path) -> None:
    pairs, classes = read_labelled(*folders(tmp_path, suffix=suffix))
    assert classes == 3
    for pair, drawn in zip(pairs, some_pairs(), strict=True):
        assert pair.name == drawn.name
        np.testing.assert_array_equal(pair.classes, drawn.classes)
        np.testing.assert_allclose(pair.image, drawn.image, atol=1 / 255)


def test_written_sets_are_labelled_folders_too(tmp_path: Path) -> None:
    write_pairs(tmp_path, some_pairs(), classes=3)
    pairs, classes = read_labelled(tmp_path / "images", tmp_path / "masks")
    assert (len(pairs), classes) == (3, 3)


def test_palette_masks_count_by_their_index(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    for path in masks.iterdir():
        picture = Image.open(path).copy()
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        picture.save(path)
        assert Image.open(path).mode == "P"
    pairs, classes = read_labelled(images, masks)
    assert classes == 3
    np.testing.assert_array_equal(pairs[0].classes, some_pairs()[0].classes)


def test_a_data_bar_is_cut_off_the_mask_too(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    for path in images.iterdir():
        picture = np.asarray(Image.open(path))
        bar = np.zeros((16, 48), np.uint8)
        bar[4:12, 4:20] = 255
        Image.fromarray(np.concatenate([picture // 2 + 60, bar])).save(path)
    for path in masks.iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.concatenate([mask, np.zeros((16, 48), np.uint8)])).save(path)
    pairs, _ = read_labelled(images, masks)
    assert {pair.image.shape for pair in pairs} == {pair.classes.shape for pair in pairs} == {(48, 48)}


def _one_image(images: Path, masks: Path) -> None:
    for k in (1, 2):
        (images / f"p{k}.png").unlink()
        (masks / f"p{k}.png").unlink()


def _resave(path: Path, change: object) -> None:
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    ("damage", "classes", "message"),
    [
        (_one_image, None, "labelled images found: 1; at least 2"),
        (lambda i, m: (m / "p2.png").unlink(), None, "3 images and .* 2 masks, .* no partner .*: p2"),
        (lambda i, m: (m / "p2.png").rename(m / "p9.png"), None, "no partner .*: p2, p9"),
        (
            lambda i, m: _resave(m / "p1.png", lambda a: a[:-1]),
            None,
            r"\(47, 48\) and image \(48, 48\) .* .*p1",
        ),
        (lambda i, m: None, 2, r"p0\.png holds the values 0, 1, 2; 2 classes are 0\.\.1"),
        (
            lambda i, m: [_resave(p, lambda a: a * 100) for p in m.iterdir()],
            None,
            "values 0, 100, 200; classes",
        ),
        (lambda i, m: [_resave(p, lambda a: a * 0) for p in m.iterdir()], None, "at least two"),
        (
            lambda i, m: _resave(m / "p1.png", lambda a: np.stack([a, a * 2, a], -1)),
            None,
            "p1.png: is a colour pic",
        ),
        (lambda i, m: Image.open(m / "p1.png").save(m / "p1.png", "JPEG"), None, "JPEG blurs the numbers"),
        (lambda i, m: (m / "p1.png").write_bytes(b"nothing"), None, r"p1\.png"),
        (lambda i, m: (i / "p1.png").write_bytes(b""), None, r"p1\.png: is empty"),
        (lambda i, m: (m / "p1.tif").write_bytes(b"x"), None, "have one name"),
    ],
)
def test_bad_input_is_refused_with_what_is_wrong(
    damage: object, classes: int | None, message: str, tmp_path: Path
) -> None:
    images, masks = folders(tmp_path)
    damage(images, masks)
    with pytest.raises(InputError, match=message):
        read_labelled(images, masks, classes=classes)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_labelled(tmp_path / "none", tmp_path / "none")
