"""A folder of results that a stopped run goes on from.

    same settings -> the run goes on;  other settings -> InputError, and nothing is touched

Every file is written whole or not at all (`microlab.data.files.atomic`), so whatever stops a run, the next
call with the same settings keeps what is complete and makes the rest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from microlab.data.errors import InputError
from microlab.data.files import atomic

SETTINGS = "settings.json"
SECONDS = "seconds.json"
LOCK = ".lock"


class RunFolder:
    """Settings with a fingerprint, stages, and files that are whole or absent.

    Parameters
    ----------
    path : path
        The folder; made if it is missing.
    settings : mapping
        Everything that determines the results, as plain values; may be nested.
    fresh : bool
        Remove what an earlier run left in the folder.
    log : callable
        Receives one line of text when a stage ends.

    Raises
    ------
    InputError
        If the path is a file, or the folder holds a run with other settings.
    """

    def __init__(
        self,
        path: str | Path,
        settings: dict[str, Any],
        *,
        fresh: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.path, self.log = Path(path), log
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; name a folder for the results")
        if fresh:
            shutil.rmtree(self.path, ignore_errors=True)
        self.settings = plain(settings)
        before = self.read(SETTINGS)
        if before is None:
            self.write(SETTINGS, self.settings)
        elif before != self.settings:
            changed = "; ".join(changes(before, self.settings))
            raise InputError(
                f"{self.path}: holds a run with other settings ({changed}); "
                "take them back, choose another folder, or start anew"
            )

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the settings: equal settings, equal fingerprint."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def read(self, name: str) -> Any:
        """What a JSON file of the folder holds; None if there is none.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: is damaged ({error}); remove it and run again") from None

    def write(self, name: str, value: object) -> None:
        """Write plain values to a JSON file of the folder."""
        with atomic(self.path / name) as partial:
            partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a JSON file holds; made and written if it is missing."""
        if not (self.path / name).is_file():
            self.write(name, plain(make()))
        return self.read(name)

    def arrays(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays of an ``.npz`` file; made and written if it is missing."""
        path = self.path / name
        if not path.is_file():
            with atomic(path) as partial:
                np.savez_compressed(partial, **make())
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that every finished stage took so far, over all calls that worked on it."""
        return self.read(SECONDS) or {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, stopped or not, and log how long it took."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            if self.path.is_dir():
                self.write(SECONDS, {**self.seconds, name: self.seconds.get(name, 0.0) + spent})
        self.log(f"{name}: {duration(spent)}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the folder; released however the process ends.

        Raises
        ------
        InputError
            If another process holds it.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.path}: another process works in this folder; wait for it or choose another folder"
            ) from None
        try:
            yield
        finally:
            lock.release()


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists, paths and the like are refused."""
    return json.loads(json.dumps(value))


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two settings, one phrase an entry: ``seed 0 -> 1``, ``crop absent -> 64``."""
    before, now = _flat(before), _flat(now)
    return [
        f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key, _flat) != now.get(key, _flat)  # a function: no setting equals it
    ]


def duration(seconds: float) -> str:
    """A time in words: ``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _flat(entries: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested entries as ``{"images.a.png": ...}``."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def same_settings(path: Path, settings: dict) -> None:
    """Write the settings beside the results, or refuse to mix results of different ones."""
    settings = json.loads(json.dumps(settings))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{k} {before.get(k)} -> {v}" for k, v in settings.items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{path.parent} holds a run with other settings ({', '.join(changed)}): use another folder"
            )
        return
    with atomic(path) as partial:
        partial.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
