"""A folder of results that a stopped run goes on from.

    same settings -> the run goes on;  other settings -> InputError, and nothing is touched

Every file is written whole or not at all, so whatever stops a run, the next call with the same settings
keeps what is complete and makes the rest. The folder carries the mark of `microlab.data.files`: a file is
trusted by its size and checksum, and one that is not as it was written is refused by name. What is missing is
made again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout

from microlab.data.errors import InputError
from microlab.data.files import (
    MARK,
    NOT_CONTENT,
    atomic,
    check,
    claim,
    forget,
    is_ours,
    missing,
    read_json,
    read_mark,
    remove,
    unclaim,
)

SETTINGS = "settings.json"
SECONDS = "seconds.json"
LOCK = ".lock"
MEND = "remove it and run again"
# What is written below a run's folder without a mark: structures, samples of a style; and marks and locks.
BELOW = re.compile(
    r"(.*/)?(structures/[^/]*/((phi|grains|mask)\.tif|structure\.json)|samples/step_\d+\.png"
    r"|\.microlab\.jsonl|\.lock|\.[^/]*\.part(\.[^/]*)?)",
    re.DOTALL,
)


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
    forget : sequence of str
        Files of an earlier run to remove together with its settings: the rest is gone on from.
    anew : str, optional
        How the caller's user starts anew, as ``--fresh``; what a refusal advises.
    log : callable
        Receives one line of text when a stage ends.

    Raises
    ------
    InputError
        If the path is a file, the folder holds a run with other settings or something else than a run, or is
        to be emptied while another process works in it or while it holds a file that is not of a run.

    Attributes
    ----------
    is_new : bool
        Whether there was no run before.
    """

    def __init__(
        self,
        path: str | Path,
        settings: dict[str, Any],
        *,
        fresh: bool = False,
        forget: Sequence[str] = (),
        anew: str = "",
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.path, self.settings, self.log = Path(path), plain(settings), log
        self._anew = f", or start anew ({anew})" if anew else ""
        self._made = missing(self.path)
        claim(self.path, "run")
        if fresh:
            self._empty()
        if forget:
            remove(*(self.path / name for name in forget), self.path / SETTINGS)
        self.is_new = not (self.path / SETTINGS).exists()
        if self.is_new and not (fresh or forget):
            left = [name for name in read_mark(self.path)["files"] if (self.path / name).exists()]
            if left:
                raise InputError(
                    f"{self.path / SETTINGS}: is missing, so how {min(left)} beside it was made is unknown; "
                    f"choose another folder{self._anew}"
                )
        check(self.path / SETTINGS, f"choose another folder{self._anew}")
        self.require(SETTINGS, self.settings)

    def _empty(self) -> None:
        """Remove all files, or none if one of them was not written by a run."""
        with self.lock():
            files = sorted(path for path in self.path.rglob("*") if path.is_symlink() or not path.is_dir())
            for file in files:
                known = BELOW.fullmatch(file.relative_to(self.path).as_posix()) or file.name in NOT_CONTENT
                if not (known or is_ours(file)):
                    raise InputError(f"{file}: is not of a run and would be lost; move it away first")
            for file in files:
                if file.parent != self.path or file.name not in (MARK, LOCK):
                    file.unlink()
            forget(self.path)
            for folder in sorted((path for path in self.path.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()

    def discard(self) -> None:
        """Remove a new run that was refused before it made anything, with the folders made for it."""
        self._empty()
        unclaim(self.path, self._made)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the settings, equal for equal settings."""
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
        check(path, MEND)
        return read_json(path, MEND)

    def write(self, name: str, value: object) -> None:
        """Write plain values to a JSON file of the folder."""
        text = json.dumps(value, indent=1) + "\n"
        with self._atomic(name) as partial:
            partial.write_text(text, encoding="utf-8")

    @contextmanager
    def _atomic(self, name: str) -> Iterator[Path]:
        """As `atomic`, in the folder or in one below it, which then carries the mark, too."""
        path = self.path / name
        if path.parent != self.path:
            claim(path.parent, "run")
        with atomic(path) as partial:
            yield partial

    def require(self, name: str, value: dict[str, Any]) -> None:
        """Write entries to a JSON file, or refuse them if it holds other ones.

        Raises
        ------
        InputError
            Names what has changed.
        """
        value, before = plain(value), self.read(name)
        if before is None:
            self.write(name, value)
        elif not isinstance(before, dict):
            raise InputError(f"{self.path / name}: is damaged (holds no settings); {MEND}")
        elif before != value:
            raise InputError(
                f"{self.path}: holds a run with other settings ({'; '.join(changes(before, value))}); "
                f"take them back or choose another folder{self._anew}"
            )

    def once(self, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """What a JSON file holds; written as ``make(*arguments)`` if it is missing."""
        if not (self.path / name).is_file():
            self.write(name, make(*arguments))
        return self.read(name)

    def arrays(
        self, name: str, make: Callable[..., dict[str, Any]], *arguments: Any
    ) -> dict[str, np.ndarray]:
        """Arrays of an ``.npz`` file; written as ``make(*arguments)`` if it is missing.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            arrays = make(*arguments)
            with self._atomic(name) as partial:
                np.savez_compressed(partial, **arrays)
        check(path, MEND)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (ValueError, BadZipFile) as error:
            raise InputError(f"{path}: is damaged ({error}); {MEND}") from None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that every stage took so far, over all calls that worked on it."""
        return self.read(SECONDS) or {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, stopped or not, and log how long it took."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
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
        try:
            with FileLock(self.path / LOCK, timeout=0):
                yield
        except Timeout:
            raise InputError(
                f"{self.path}: another process works in this folder; wait for it or choose another folder"
            ) from None


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists, paths and the like are refused."""
    return json.loads(json.dumps(value))


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two settings, one phrase an entry: ``seed 0 -> 1``, ``crop absent -> 64``."""
    before, now = _flat(before), _flat(now)
    return [
        f"{key} {_short(before.get(key, 'absent'))} -> {_short(now.get(key, 'absent'))}"
        for key in {**before, **now}
        if before.get(key, _flat) != now.get(key, _flat)  # a function: no setting equals it
    ]


def _short(value: Any) -> Any:
    """The start of a checksum, other values as they are."""
    return f"{value[:8]}..." if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else value


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
