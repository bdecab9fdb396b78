"""Malformed images, masks, labels and weights, made by rules and chance, given to the commands.

Whatever the input, a command ends in time with success or one line, and changes nothing of the user's
(`tests/helpers/fault_runner.py`). ``FAULTS_SEED=1 pytest tests/faults`` tries other damage; a case is a
function or a line in one of the tables below.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fault_runner import call, contents, cut, generator, half, head_bytes, in_time, some_bytes
from pictures import polycrystal, squares
from PIL import Image

from microlab.data import masks
from microlab.data.errors import InputError
from microlab.data.images import read_image, write_image, write_labels
from microlab.data.pairs import read_pairs

PICTURE = np.rint(polycrystal(64, 24)[0] * 255).astype(np.uint8)
GRID = squares(4, 12)
LINES = GRID == 0


def encoded(values: np.ndarray, kind: str, **options: object) -> bytes:
    """A picture as the bytes of a file, by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    """The same as a TIFF file, by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"metadata": None, **options})
    return buffer.getvalue()


COLOURS = np.dstack([PICTURE, PICTURE // 2, PICTURE // 3])
FILES = {  # good ones, to be damaged
    "grey.png": encoded(PICTURE, "PNG"),
    "colour.png": encoded(COLOURS, "PNG"),
    "deep.png": encoded(PICTURE.astype(np.uint16) * 257, "PNG"),
    "grey.jpg": encoded(PICTURE, "JPEG"),
    "colour.jpg": encoded(COLOURS, "JPEG", quality=60, progressive=True),
    "grey.bmp": encoded(PICTURE, "BMP"),
    "grey.gif": encoded(PICTURE, "GIF"),
    "colour.webp": encoded(COLOURS, "WEBP"),
    "lossless.webp": encoded(COLOURS, "WEBP", lossless=True),
    "raw.tif": tiff(PICTURE),
    "big.tif": tiff(PICTURE, bigtiff=True, byteorder=">"),
    "float.tif": tiff(PICTURE.astype(np.float32)),
    "deflate.tif": tiff(PICTURE.astype(np.uint16), compression="zlib", predictor=True, rowsperstrip=8),
    "tiles.tif": tiff(PICTURE, tile=(16, 16), compression="zlib"),
    "imagej.tif": tiff(PICTURE, imagej=True, metadata={"unit": "um"}, resolution=(10, 10)),
    "ome.ome.tif": tiff(
        PICTURE, metadata={"axes": "YX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}, ome=True
    ),
    "lzw.tif": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "jpeg.tif": encoded(PICTURE, "TIFF", compression="jpeg"),
    "fax.tif": encoded(PICTURE > 99, "TIFF", compression="group4"),
    "packbits.tif": encoded(PICTURE, "TIFF", compression="packbits"),
}


# --- damage by chance ------------------------------------------------------------------------------------


def zeros(data, rng):
    start = int(rng.integers(8, len(data) - 8))
    return data[:start] + b"\0" * min(200, len(data) - start) + data[start + 200 :]


def last_bytes(data, rng):
    """Where TIFF files have their directories and PNG files their end."""
    damaged = bytearray(data)
    for place in rng.integers(max(0, len(data) - 200), len(data), 4):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def doubled(data, rng):
    return data[: rng.integers(8, len(data))] + data


DAMAGE = (half, cut, head_bytes, some_bytes, zeros, last_bytes, doubled)
CHANCE = [(name, damage) for name in FILES for damage in DAMAGE]


def damaged(folder: Path, name: str, damage) -> Path:
    path = folder / name
    path.write_bytes(damage(FILES[name], generator(f"{name} {damage.__name__}")))
    return path


def one_line_or_image(path: Path, read) -> None:
    """Reading ends in time in an image of finite values, or in one line that names the file."""
    result, said = None, None
    with in_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = read(path)
        except InputError as error:
            said = str(error)
    if said is not None:
        assert said.startswith(f"{path}: "), said
        assert "\n" not in said
        assert len(said) < 500 + len(str(path))
        return
    values = result.image if hasattr(result, "image") else result.labels
    assert np.isfinite(values).all()
    assert min(values.shape) > 0


@pytest.mark.parametrize(("name", "damage"), CHANCE, ids=lambda part: getattr(part, "__name__", part))
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name, damage):
    path = damaged(tmp_path, name, damage)
    before = contents(tmp_path)
    one_line_or_image(path, read_image)
    one_line_or_image(path, masks.read_label_image)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", FILES)
def test_half_a_file_is_never_an_image(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = damaged(tmp_path / "in", name, half)
    call(tmp_path / "in", "segment", path, "-o", tmp_path / "out", "--method", "ridge", named=name)
    call(tmp_path / "in", "measure", path, named=name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage"), CHANCE[1::3], ids=lambda part: getattr(part, "__name__", part))
def test_a_damaged_file_given_to_segment(tmp_path, name, damage):
    (tmp_path / "in").mkdir()
    path = damaged(tmp_path / "in", name, damage)
    call(
        tmp_path / "in", "segment", path, "-o", tmp_path / "out", "--method", "ridge", named=name, fails=None
    )


# --- tags of TIFF ----------------------------------------------------------------------------------------

TAGS = {  # tag -> values that its file does not have
    "width": (256, (0, 1, 65, 6400, 65535)),
    "length": (257, (0, 1, 65, 6400, 65535)),
    "bits": (258, (0, 3, 12, 16, 64, 65535)),
    "compression": (259, (0, 2, 5, 7, 8, 34712, 50000, 65535)),
    "photometric": (262, (3, 4, 5, 6, 8, 32803, 34892, 65535)),
    "offsets": (273, (0, 1, 60000)),
    "samples": (277, (0, 2, 3, 65535)),
    "rows": (278, (0, 1, 3, 65535)),
    "counts": (279, (0, 1, 9)),
    "planar": (284, (0, 2, 9)),
    "predictor": (317, (0, 3, 9)),
    "format": (339, (0, 3, 5, 6, 9)),
}
TAG_CASES = [
    (file, tag, value)
    for file in ("raw.tif", "lzw.tif", "deflate.tif")
    for tag, (_, values) in TAGS.items()
    for value in values
]


@pytest.mark.parametrize(("file", "tag", "value"), TAG_CASES)
def test_a_tag_that_does_not_fit_is_read_or_refused_in_one_line(tmp_path, file, tag, value):
    data = bytearray(FILES[file])
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack_from(order + "I", data, 4)
    (number,) = struct.unpack_from(order + "H", data, place)
    for entry in range(place + 2, place + 2 + 12 * number, 12):
        code, kind, count = struct.unpack_from(order + "HHI", data, entry)
        if code == TAGS[tag][0] and count == 1:
            struct.pack_into(order + ("H" if kind == 3 else "I"), data, entry + 8, value)
    path = tmp_path / file
    path.write_bytes(data)
    one_line_or_image(path, read_image)
    one_line_or_image(path, masks.read_label_image)


# --- what is no image ------------------------------------------------------------------------------------


def png_of(width, height, bits=8, colour=0, body=b""):
    """A PNG whose header claims a size that its body does not have."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [head, b"IDAT" + zlib.compress(body), b"IEND"]
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


NO_IMAGES = {
    "empty.png": b"",
    "byte.png": b"\x89",
    "text.png": b"grain size 5 um\n" * 40,
    "page.png": b"<!DOCTYPE html><html><body>404</body></html>",
    "svg.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zip.png": b"PK\3\4" + b"\0" * 90,
    "pdf.png": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) run\n%%EOF\n",
    "photoshop.png": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 1, 64, 64, 8, 1) + b"\0" * 600,
    "pickle.png": b"\x80\4cposix\nsystem\n(S'true'\ntR.",
    "program.png": b"\x7fELF\2\1\1" + b"\0" * 90,
    "lfs.tif": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "nulls.tif": b"\0" * 4096,
    "magic.tif": b"II*\0",
    "directory.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 40,
    "loop.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "outside.tif": b"II*\0\xff\xff\xff\x7f" + b"\0" * 40,
    "bigtiff.tif": b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 40,
    "wide.png": png_of(2**31 - 1, 2**31 - 1),
    "tall.png": png_of(1, 2**31 - 1),
    "zero.png": png_of(0, 64),
    "short.png": png_of(640, 480, body=b"\0" * 99),
    "bits.png": png_of(64, 64, bits=3),
    "colour.png": png_of(64, 64, colour=5),
    "bomb.png": png_of(60000, 60000, body=b"\0" * 10**6),
    "one.png": encoded(PICTURE[:1, :1], "PNG"),
    "row.png": encoded(PICTURE[:1], "PNG"),
    "column.png": encoded(PICTURE[:, :1], "PNG"),
    "blank.png": encoded(PICTURE * 0 + 90, "PNG"),
    "nan.tif": tiff(PICTURE * np.float32(np.nan)),
    "infinite.tif": tiff(PICTURE * np.float32(np.inf)),
    "complex.tif": tiff(PICTURE.astype(np.complex64)),
    "stack.tif": tiff(np.stack([PICTURE] * 3), photometric="minisblack"),
    "volume.tif": tiff(np.stack([np.stack([PICTURE] * 2)] * 2), photometric="minisblack"),
    "mosaic.tif": tiff(PICTURE, photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)]),
    "transparent.png": encoded(np.dstack([PICTURE, PICTURE * 0 + 1, PICTURE, PICTURE * 0])[:9, :9], "PNG"),
}
COMMANDS = {
    "segment": lambda path, out: ("segment", path, "-o", out, "--method", "ridge"),
    "measure": lambda path, out: ("measure", path),
    "truth": lambda path, out: ("measure", path.parent / "good_labels.tif", "--truth", path),
    "adapt": lambda path, out: ("adapt", path, "-o", out, "--style", "render", "--profile", "smoke"),
}


@pytest.fixture
def inputs(tmp_path):
    """A folder with a good label image beside what is malformed."""
    folder = tmp_path / "in"
    write_labels(folder / "good_labels.tif", GRID)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_by_every_command(inputs, name, command):
    path = inputs / name
    path.write_bytes(NO_IMAGES[name])
    call(inputs, *COMMANDS[command](path, inputs.parent / "out"), named=name if command != "truth" else None)


def special(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere.png")
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle of two":
        path.symlink_to(folder / "other.png")
        (folder / "other.png").symlink_to(path)
    return path  # "missing" is not there


SPECIAL = ("pipe", "circle", "dangling", "folder", "device", "circle of two", "missing")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_by_every_command(inputs, kind, command):
    path = special(inputs, kind)
    call(inputs, *COMMANDS[command](path, inputs.parent / "out"), named=f"{kind}.png")


@pytest.mark.parametrize("kind", SPECIAL[:5])
def test_in_a_folder_it_is_named_and_the_others_are_done(inputs, kind):
    write_image(inputs / "good.png", PICTURE / 255.0)
    (inputs / "good_labels.tif").unlink()
    special(inputs, kind)
    fails = kind != "folder"  # a folder that ends in .png is left out, and that is said
    result = call(
        inputs, "segment", inputs, "-o", inputs.parent / "out", "--method", "ridge", fails=fails, named=kind
    )
    assert (inputs.parent / "out" / "good" / "run.json").is_file(), result.output


# --- masks, labels, truths -------------------------------------------------------------------------------


def with_values(low, high, dtype):
    return tiff(np.where(LINES, high, low).astype(dtype))


NO_LABELS = {
    "micrograph.tif": tiff(PICTURE),
    "probability.tif": tiff(PICTURE / np.float32(255)),
    "classes.tif": tiff(np.random.default_rng(0).integers(0, 4, (60, 60)).astype(np.uint8)),
    "colours.png": encoded(COLOURS, "PNG"),
    "jpeg.jpg": encoded((LINES * 255).astype(np.uint8), "JPEG"),
    "jpeg.png": encoded((LINES * 255).astype(np.uint8), "JPEG"),
    "jpeg.tif": encoded((LINES * 255).astype(np.uint8), "TIFF", compression="jpeg"),
    "lossy.webp": encoded(np.dstack([LINES * np.uint8(255)] * 3), "WEBP"),
    "white.png": encoded(PICTURE * 0 + 255, "PNG"),
    "ones.png": encoded(PICTURE > 999, "PNG"),
    "negative.tif": tiff(np.where(LINES, -1, GRID.astype(np.int32))),
    "minus_infinity.tif": tiff(np.where(LINES, -np.inf, GRID).astype(np.float32)),
    "nan.tif": tiff(np.where(LINES, np.nan, GRID).astype(np.float32)),
    "too_large.tif": tiff(np.where(LINES, 0, GRID.astype(np.uint64) + 2**40)),
    "half.tif": tiff(GRID.astype(np.float32) + 0.5),
    "halves.tif": tiff((np.indices((60, 60))[1] >= 30).astype(np.uint8) * 7),
    "stack.tif": tiff(np.stack([GRID] * 3), photometric="minisblack"),
    "three.png": encoded(np.where(LINES, 255, np.where(GRID == 9, 127, 0)).astype(np.uint8), "PNG"),
}
MASKS = {
    f"{low}_{high}_{np.dtype(dtype).name}.tif": (low, high, dtype)
    for low, high in ((0, 255), (0, 1), (1, 0), (255, 0), (0, 127), (7, 9), (200, 100))
    for dtype in (np.uint8, np.uint16, np.int32, np.float32)
}


@pytest.mark.parametrize("command", ["measure", "truth"])
@pytest.mark.parametrize("name", NO_LABELS)
def test_what_is_no_mask_and_no_labels_is_refused(inputs, name, command):
    path = inputs / name
    path.write_bytes(NO_LABELS[name])
    call(inputs, *COMMANDS[command](path, None), named=name)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_two_values_has_the_grains_and_the_score_of_its_structure(inputs, name):
    path = inputs / name
    path.write_bytes(with_values(*MASKS[name]))
    result = call(inputs, "measure", path, fails=False)
    assert re.search(rf"^grains +{GRID.max()}$", result.stdout, re.MULTILINE)
    assert masks.read_label_image(path).labels.max() == GRID.max()
    score = call(inputs, *COMMANDS["truth"](path, None), fails=False)
    assert "1.000" in next(line for line in score.stdout.splitlines() if "grain IoU" in line)


CLASS_MASKS = {  # of train-pairs, and what the message names
    "white.png": (encoded((LINES * 255).astype(np.uint8), "PNG"), "0, 255"),
    "jpeg.jpg": (encoded(LINES.astype(np.uint8), "JPEG"), "JPEG"),
    "colours.png": (
        encoded(np.dstack([LINES * np.uint8(255), LINES * np.uint8(0), ~LINES * np.uint8(9)]), "PNG"),
        "colour",
    ),
    "soft.tif": (tiff(np.random.default_rng(0).random(GRID.shape).astype(np.float32)), "whole numbers"),
    "wide.png": (encoded(np.pad(LINES, 9).astype(np.uint8), "PNG"), "differ in size"),
    "text.png": (b"no image", "not an image"),
    "empty.png": (b"", "0 bytes"),
    "half.png": (encoded(LINES.astype(np.uint8), "PNG")[:60], "damaged"),
    "minus.tif": (tiff(-LINES.astype(np.int16)), "0.."),
    "postscript.png": (NO_IMAGES["postscript.png"], "not an image"),
    "bomb.png": (NO_IMAGES["bomb.png"], "million"),
}


@pytest.mark.parametrize("name", CLASS_MASKS)
def test_train_pairs_refuses_what_is_no_map_of_classes(tmp_path, name):
    data, words = CLASS_MASKS[name]
    for k in range(2):
        write_image(tmp_path / "in" / "images" / f"{k}.png", np.random.default_rng(k).random(GRID.shape))
        (tmp_path / "in" / "masks").mkdir(exist_ok=True)
        (tmp_path / "in" / "masks" / f"{k}{Path(name).suffix}").write_bytes(data)
    folders = (tmp_path / "in" / "images", tmp_path / "in" / "masks")
    call(tmp_path / "in", "train-pairs", *folders, "-o", tmp_path / "out", "--profile", "smoke", named=words)
    assert not (tmp_path / "out").exists()


def test_train_pairs_does_not_wait_for_a_pipe(tmp_path):
    for part in ("images", "masks"):
        for k in range(2):
            write_image(tmp_path / "in" / part / f"{k}.png", np.random.default_rng(k).random(GRID.shape))
    for part in ("images", "masks"):
        kept = (tmp_path / "in" / part / "0.png").read_bytes()
        (tmp_path / "in" / part / "0.png").unlink()
        os.mkfifo(tmp_path / "in" / part / "0.png")
        folders = (tmp_path / "in" / "images", tmp_path / "in" / "masks")
        call(tmp_path / "in", "train-pairs", *folders, "-o", tmp_path / "out", named="no regular file")
        (tmp_path / "in" / part / "0.png").unlink()
        (tmp_path / "in" / part / "0.png").write_bytes(kept)


def pairs_of(file):
    row = {"name": "a", "image": file, "mask": "m", "sha256": {file: "", "m": ""}}
    return json.dumps({"pairs": [row]})


PAIRS = ("[]", "{", "", "{}", '{"pairs": 3}', '{"pairs": [3]}', '{"pairs": [{"name": "a"}]}', "null")
PAIRS += tuple(pairs_of(file) for file in ("../secret.tif", "/etc/passwd", "deep/../../secret.tif", "i.tif"))


@pytest.mark.parametrize("text", PAIRS)
def test_a_wrong_manifest_of_pairs_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: |named by the manifest and missing") as error:
        read_pairs(tmp_path)
    assert "\n" not in str(error.value)


def test_there_are_enough_cases():
    number = len(CHANCE) + len(FILES) + len(TAG_CASES) + len(NO_IMAGES) * 4 + len(SPECIAL) * 4
    number += len(NO_LABELS) * 2 + len(MASKS) + len(CLASS_MASKS) + len(PAIRS)
    assert number >= 500
