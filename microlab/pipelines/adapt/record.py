"""What was asked, how long each stage took, and which stages are done: files in ``OUT/adaptation``."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from microlab.data.files import atomic
from microlab.data.micrograph import Micrograph

clock = time.perf_counter  # the tests put in a clock that does not count what other programs do

WORKSHOP = "adaptation"  # folder below the results
SOURCE = "microlab adapt"  # in run.json: no image's result may take this folder


class Record:
    """The working folder of one adaptation.

    Parameters
    ----------
    folder : path
    asked : dict
        Everything that determines the result, as plain values.
    fresh : bool
        Remove what an earlier run left.
    tell : callable
        Receives one line of text for each stage.

    Raises
    ------
    ValueError
        If the folder holds an adaptation with other settings or other images.
    """

    def __init__(self, folder: Path, asked: dict, *, fresh: bool, tell: Callable[[str], None]) -> None:
        self.folder, self.tell = folder, tell
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        asked = {"source": SOURCE, "asked": json.loads(json.dumps(asked))}
        before = self.read("run.json")
        if before is None:
            self.write("run.json", asked)
        else:
            _refuse_change(_flat(before["asked"]), _flat(asked["asked"]), folder)

    def read(self, name: str) -> Any:
        """A JSON file of the folder, None if there is none."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, name: str, value: object) -> None:
        with atomic(self.folder / name) as partial:
            partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a JSON file holds; made and written if it is missing."""
        if (found := self.read(name)) is None:
            found = json.loads(json.dumps(make()))
            self.write(name, found)
        return found

    @property
    def seconds(self) -> dict[str, float]:
        """Time of every finished stage so far, over all calls that worked on it."""
        return self.read("seconds.json") or {}

    @contextmanager
    def stage(self, name: str, expected: float | None = None) -> Iterator[None]:
        """Time a stage, killed or not, and say how long it took."""
        start = clock()
        try:
            yield
        finally:
            spent = clock() - start
            if self.folder.is_dir():
                self.write("seconds.json", {**self.seconds, name: self.seconds.get(name, 0.0) + spent})
        note = "" if expected is None else f", expected {duration(expected)}"
        self.tell(f"{name}: {duration(spent)}{note}")


def write_pairs(path: Path, pairs: list[Micrograph]) -> None:
    """Write all pairs to one ``.npz`` file, whole or not at all."""
    images = (255 * np.stack([pair.image for pair in pairs])).round().astype(np.uint8)
    with atomic(path) as partial:
        np.savez(partial, images=images, masks=np.stack([pair.boundary for pair in pairs]))


def read_pairs(path: Path) -> list[Micrograph]:
    """What `write_pairs` wrote."""
    with np.load(path, allow_pickle=False) as file:
        images = file["images"] / np.float32(255)
        return [Micrograph(image, boundary=mask) for image, mask in zip(images, file["masks"])]


def duration(seconds: float) -> str:
    """A time in words: ``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _flat(entries: dict, above: str = "") -> dict[str, Any]:
    """Nested entries as ``{"images.a.png": ...}``."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _refuse_change(before: dict, now: dict, folder: Path) -> None:
    gone = object()
    changed = []
    for key in {**before, **now}:
        old, new = before.get(key, gone), now.get(key, gone)
        if old == new:
            continue
        kind, _, name = key.partition(".")
        if kind == "images":
            changed.append(
                f"{name} {'is new' if old is gone else 'is gone' if new is gone else 'has changed'}"
            )
        else:
            changed.append(
                f"{name or kind} {'absent' if old is gone else old} -> {'absent' if new is gone else new}"
            )
    if changed:
        raise ValueError(
            f"{folder} belongs to an adaptation with other settings ({', '.join(changed)}): "
            "take them back, choose another output folder, or start anew with --fresh"
        )
