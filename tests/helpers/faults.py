"""Ways in which a file of a run comes to harm, and what must be true whatever happens to it.

a call returns                  ->  its results are those of an undisturbed run
it raises an error of the user  ->  one line, which names the file or its folder
either way                      ->  what the disturbed file held is still there
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microlab.data.errors import USER_ERRORS, one_line
from microlab.data.files import MARK

BESIDE = (MARK, ".lock", "seconds.json")  # differ from run to run
USER = b"\x89PNG\r\n\x1a\n a picture of the user's"


def cut(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def empty(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def grow(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() + rng.bytes(9))


def edit(path: Path, rng: np.random.Generator) -> None:
    """Another digit somewhere, as an editor would leave it."""
    data = bytearray(path.read_bytes())
    digits = [k for k, byte in enumerate(data) if chr(byte).isdigit()] or [0]
    k = digits[rng.integers(len(digits))]
    data[k] = ord("7") if data[k] != ord("7") else ord("3")
    path.write_bytes(data)


def foreign(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(USER + rng.bytes(int(rng.integers(100))))


def swap(path: Path, rng: np.random.Generator) -> None:
    """The contents of a neighbour of the same kind, or the file turned around."""
    others = [p for p in path.parent.iterdir() if p.suffix == path.suffix and p != path and p.is_file()]
    data = others[rng.integers(len(others))].read_bytes() if others else path.read_bytes()[::-1]
    path.write_bytes(data)


def delete(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def folder(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_bytes(USER)


def dangling(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere" / "at all")


def linked(path: Path, rng: np.random.Generator) -> None:
    """A link to a file of the user's outside of the folder."""
    elsewhere = path.parent / "users.dat"
    elsewhere.write_bytes(USER)
    path.unlink()
    path.symlink_to(elsewhere)


HARMS: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    cut, empty, flip, grow, edit, foreign, swap, delete, folder, dangling, linked,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One file, named relative to the folder of a run, and what happens to it."""

    file: str
    harm: Callable[[Path, np.random.Generator], None]
    seed: int

    def __str__(self) -> str:
        return f"{self.file}-{self.harm.__name__}"

    def apply(self, tree: Path) -> Path:
        path = tree / self.file
        self.harm(path, np.random.default_rng(self.seed))
        return path


def cases(files: list[str], seed: int = 0, share: float = 1.0) -> list[Case]:
    """Every harm to every file, or a share of them drawn at random."""
    rng = np.random.default_rng(seed)
    every = [Case(file, harm, seed + k) for k, file in enumerate(files) for harm in HARMS]
    return [case for case in every if rng.random() < share]


def contents(tree: Path) -> dict[str, bytes]:
    """Bytes of every file, and where every dangling link leads to, by relative path."""
    found = {}
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            found[path.relative_to(tree).as_posix()] = path.read_bytes()
        elif path.is_symlink():
            found[path.relative_to(tree).as_posix()] = str(path.readlink()).encode()
    return found


def results(tree: Path) -> dict[str, bytes]:
    """`contents` without marks, locks and times, and without what the harms put beside."""
    return {
        name: data
        for name, data in contents(tree).items()
        if Path(name).name not in (*BESIDE, "users.dat", "notes.txt")
    }


def line_of(call: Callable[[], object]) -> str | None:
    """The one line of a call that was refused; None if it went through. Anything else is a bug and raises."""
    try:
        call()
    except USER_ERRORS as error:
        return one_line(error)
    return None


def check(tree: Path, reference: Path, case: Case, call: Callable[[], object]) -> str | None:
    """Harm a file of a copy of `reference`, call, check what must be true; the line, if it was refused."""
    shutil.copytree(reference, tree, symlinks=True)
    undisturbed = contents(tree)
    path = case.apply(tree)
    before = contents(tree)
    users = {n: d for n, d in before.items() if undisturbed.get(n) != d and Path(n).name not in BESIDE}
    line = line_of(call)
    after = contents(tree)
    lost = [name for name, data in users.items() if after.get(name) != data]
    assert not lost, f"{case}: lost {lost}; {line}"
    if line is None:
        assert results(tree) == results(reference), f"{case}: goes through with other results"
    else:
        assert "\n" not in line
        named = [path, *path.parents][: len(path.relative_to(tree).parts) + 1]
        named += [path / "notes.txt", path.resolve()]
        assert any(str(place) in line for place in named), f"{case}: {line}"
        assert "; " in line or ": " in line.removeprefix(str(path)), line  # what to do about it
    leftover = [name for name in after if ".part" in name]
    assert not leftover, leftover
    return line
