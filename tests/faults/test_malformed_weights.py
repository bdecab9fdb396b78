"""Malformed weights and cards given to the commands: one line that names the file, in time, nothing changed.

As `test_malformed_inputs.py`, with the same runner and seeds.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from dark_lines import save_network
from fault_runner import call, cut, generator, half, head_bytes, some_bytes
from pictures import polycrystal

from microlab.data.files import sha256
from microlab.data.images import write_image

PICTURE = polycrystal(64, 24)[0]


def doubled(data, rng):
    return data[: rng.integers(8, len(data))] + data


@pytest.fixture
def inputs(tmp_path):
    """A folder for a good image and what is malformed."""
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


def tensors(data, rng):
    """The header of a safetensors file with one number or name changed."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name = names[rng.integers(len(names))]
    change = rng.integers(4)
    if change == 0:
        header[name]["dtype"] = "F99"
    elif change == 1:
        header[name]["shape"] = [10**9]
    elif change == 2:
        header[name]["data_offsets"] = [5, 10**12]
    else:
        header["other"] = header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def length(data, rng):
    return struct.pack("<Q", 2 ** int(rng.integers(20, 63))) + data[8:]


DAMAGE = (half, cut, head_bytes, some_bytes, doubled, tensors, length)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_weights_are_refused_in_one_line(inputs, network, damage, number):
    """With a card whose checksum is that of the damaged file: damage is not only found by it."""
    write_image(inputs / "good.png", PICTURE)
    path = inputs / "damaged.safetensors"
    path.write_bytes(damage(network.read_bytes(), generator(f"{damage.__name__} {number}")))
    card = json.loads(network.with_suffix(".json").read_text())
    card["sha256"] = sha256(path)
    path.with_suffix(".json").write_text(json.dumps(card))
    arguments = ("segment", inputs / "good.png", "-o", inputs.parent / "out", "--weights", path)
    call(inputs, *arguments, named="damaged", fails=None)  # changed numbers are no damage that can be seen
    other = inputs / "damaged-too.safetensors"  # loaded anew: what a process has loaded it keeps
    shutil.copy(path, other)
    shutil.copy(network.with_suffix(".json"), other.with_suffix(".json"))
    call(inputs, *arguments[:-1], other, named="damaged-too")


CARDS = {
    "missing": None,
    "empty": "",
    "no json": "{",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "no entries": "{}",
    "deep": "[" * 100_000,
    "latin": b"\xff\xfe{",
}
ENTRIES = {
    "architecture": ["Nothing", None, 3, [], {"a": 1}],
    "parameters": [None, [], "wide", {}, {"width": -1}, {"width": 10**9}, {"width": "a"}, {"depth": 99}],
    "sha256": [None, 3, "", "0" * 64],
    "grain_size_px": ["large", -1, 0, float("nan"), [], 1e99],
    "watershed": [3, {"neck": -1}, {"nothing": 1}, {"threshold": 2}, {"min_area": "a"}],
    "zoom": ["large", 0, -1, float("nan"), 1e9],
}


def with_card(folder: Path, network: Path, text: str | bytes | None) -> Path:
    path = folder / "wrong.safetensors"
    shutil.copy(network, path)
    if text is not None:
        path.with_suffix(".json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("kind", CARDS)
def test_a_wrong_card_is_refused_in_one_line(inputs, network, kind):
    write_image(inputs / "good.png", PICTURE)
    path = with_card(inputs, network, CARDS[kind])
    out = inputs.parent / "out"
    call(inputs, "segment", inputs / "good.png", "-o", out, "--weights", path, named="wrong")
    call(inputs, "segment", inputs / "good.png", "-o", out, "--method", "tem", "--weights", path)
    call(inputs, "sample-pairs", "-n", 1, "-o", out, "--weights", path)


@pytest.mark.parametrize(
    ("entry", "value"), [(entry, value) for entry, values in ENTRIES.items() for value in values], ids=repr
)
def test_a_wrong_entry_of_a_card_is_refused_in_one_line(inputs, network, entry, value):
    write_image(inputs / "good.png", PICTURE)
    card = json.loads(network.with_suffix(".json").read_text()) | {entry: value}
    path = with_card(inputs, network, json.dumps(card))
    call(
        inputs, "segment", inputs / "good.png", "-o", inputs.parent / "out", "--weights", path, named="wrong"
    )


PICKLE = b"\x80\4cposix\nsystem\n(S'true'\ntR."
NO_WEIGHTS = ("folder", "text", "pickle", "image", "pipe", "missing", "circle")


@pytest.mark.parametrize("method", ["label-free", "appearances", "tem"])
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_file_of_weights_is_refused_in_one_line(inputs, kind, method):
    write_image(inputs / "good.png", PICTURE)
    path = inputs / f"{kind}.safetensors"
    if kind in ("folder", "pipe", "circle"):
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "circle": lambda: path.symlink_to(path)}[
            kind
        ]()
    elif kind != "missing":
        path.write_bytes({"text": b"no weights", "pickle": PICKLE, "image": b"\x89PNG\r\n\x1a\n" * 9}[kind])
        path.with_suffix(".json").write_text("{}")
    arguments = ("segment", inputs / "good.png", "-o", inputs.parent / "out", "--method", method)
    call(inputs, *arguments, "--weights", path)
