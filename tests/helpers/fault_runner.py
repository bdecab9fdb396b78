"""A malformed input given to a command: what must hold whatever it is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from command_line import run

SEED = int(os.environ.get("FAULTS_SEED", "0"))  # another number tries other damage
SECONDS = 20  # for one call; more is a hang
BAR = re.compile(r"\d+/\d+ \[|\d+image \[|0image")  # of a progress bar


def generator(name: str) -> np.random.Generator:
    """Random numbers of one case, the same in every run."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


@contextlib.contextmanager
def in_time(seconds: int = SECONDS) -> Iterator[None]:
    """Fail if the block takes longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def contents(folder: Path) -> dict[str, str]:
    """What a folder holds: the checksum of every regular file, the kind of everything else."""
    held = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            if path.is_symlink() or not path.is_file():
                held[str(path)] = "link" if path.is_symlink() else "folder" if path.is_dir() else "other"
            else:
                held[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return held


def call(
    folder: Path, *arguments: object, named: str | None = None, fails: bool | None = True, failures: int = 1
):
    """Give a malformed input to a command, in this process, and check what must hold.

    Exit code 0, or 1 with one line for each of the `failures` that begins with ``microlab:``, or 2 with a
    usage error; no traceback and no word of a bug; an end within `SECONDS`; nothing in `folder` changed and
    no half file left. Results go to ``folder.parent / "out"``.

    Parameters
    ----------
    folder : Path
        The inputs.
    arguments
        Of the command line.
    named : str, optional
        Must stand in the message of a failure: the file, or the value.
    fails : bool, optional
        Whether the call must fail; None if it may.
    failures : int
        Lines of a failure.

    Returns
    -------
    The result of the call.
    """
    before = contents(folder)
    with in_time():
        result = run(*arguments)
    said = f"{arguments}\n{result.output}"
    assert result.exit_code in (0, 1, 2), said
    assert "Traceback" not in result.output, said
    assert "bug in microlab" not in result.output, said
    assert contents(folder) == before, said
    out = folder.parent / "out"
    assert not [path for path in out.rglob("*") if ".part" in path.name], said
    if fails is not None:
        assert (result.exit_code != 0) == fails, said
    if result.exit_code == 1:
        lines = [line for line in result.stderr.splitlines() if line.strip() and not BAR.search(line)]
        errors = [line for line in lines if "images failed" not in line]
        assert len(errors) == failures, said
        assert all(line.startswith("microlab: ") for line in errors), said
        if named is not None:
            assert named in errors[-1], said
    return result


# --- damage by chance to the bytes of a file: (data, rng) -> data ---


def half(data, rng):
    return data[: len(data) // 2]


def cut(data, rng):
    return data[: rng.integers(1, len(data))]


def head_bytes(data, rng):
    damaged = bytearray(data)
    for place in rng.integers(0, min(96, len(data)), 3):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def some_bytes(data, rng):
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), max(2, len(data) // 200)):
        damaged[place] = rng.integers(256)
    return bytes(damaged)
