"""Files written whole or not at all, and the mark by which a folder of results knows its own.

    FOLDER/.microlab.jsonl   {"made_by": "segment", ...}                                who made the folder
                             {"file": "labels.tif", "bytes": 5230, "sha256": "..."}     what was written

A folder is ours if it carries the mark. A file in it is ours if it has the size and the checksum of something
that was written there under its name. In a folder that this process has claimed, `atomic` replaces nothing
else, so a file that a user put there, or has edited, is never lost; what is written there without a claim, as
by a user's own code, is the user's. Each entry is added before the file takes its name: a run that is killed
leaves no file that it does not know.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from microlab.data.errors import InputError, printable

MARK = ".microlab.jsonl"
NOT_CONTENT = {MARK, ".lock", ".DS_Store", "Thumbs.db", "desktop.ini"}  # a folder with nothing else is empty
PARTIAL = re.compile(r"\..*\.(\d+)\.part(\..*)?", re.DOTALL)  # the temporary names of `atomic`
_CLAIMED: set[str] = set()  # folders that this process writes results into
LONGEST_NAME = 240  # bytes; file systems take 255, and a number or a page may follow
# Names that Windows keeps for devices.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block succeeds.

    A reader sees the old file or the new one, never half of either. The folder is made if
    it is missing. If the block raises, the temporary file is removed and `path` is untouched.
    Of a link, the file that it leads to is replaced, but in a folder of results the link; into a pipe or a
    device the bytes are copied.

    Parameters
    ----------
    path : path
        The final name.

    Yields
    ------
    Path
        ``.<stem>.<process id>.part<suffix>`` in the same folder. The suffix is kept because
        many writers choose the format by it.

    Raises
    ------
    InputError
        If this process has claimed the folder, and `path` holds what microlab did not write.
    OSError
        If the folder cannot be made or written.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with tempfile.TemporaryDirectory() as place:
            yield Path(place) / path.name
            with open(path, "wb") as node:
                node.write((Path(place) / path.name).read_bytes())
        return
    ours = os.path.realpath(path.parent) in _CLAIMED
    if ours:
        check(path)
    elif path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name with an empty file
        if ours:
            _record(path, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str | os.PathLike, mend: str = "remove it and run again") -> Any:
    """What a JSON file holds.

    Raises
    ------
    InputError
        If the file is damaged; names it and the `mend`.
    OSError
        If it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); {mend}") from None


# --- the mark ------------------------------------------------------------------------------------------


def claim(folder: str | os.PathLike, made_by: str, **about: str) -> Path:
    """Make a folder ours, or refuse one that holds other things.

    Half-written files of a killed run are removed. From now on what this process writes there is recorded as
    ours, until `end_claim`.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    made_by : str
        Of what kind its contents are: "segment", "run", ...
    **about : str
        More entries of the mark: of whom the contents are.

    Raises
    ------
    InputError
        If it is a file, or holds files without the mark, or the results of something else.
    OSError
        If it cannot be made or written.
    """
    folder = Path(folder)
    mark = read_mark(folder)
    if mark is None:
        if (found := other_content(folder)) is not None:
            raise InputError(
                f"{folder}: holds {found}, which microlab did not write; choose a new or an empty folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        mark = _begin(folder, {"made_by": made_by, **about})
    if mark["made_by"] != made_by:
        raise InputError(
            f"{folder}: holds what microlab {mark['made_by']} wrote, not {made_by}; choose another folder"
        )
    for name, value in about.items():
        if mark.get(name) != value:
            raise InputError(
                f"{folder}: holds the results of {mark.get(name)}, "
                "which another call may have written meanwhile; run again"
            )
    _CLAIMED.add(os.path.realpath(folder))
    for entry in folder.iterdir():
        if (name := PARTIAL.fullmatch(entry.name)) and not _alive(int(name[1])):
            entry.unlink(missing_ok=True)
    return folder


def end_claim(folder: str | os.PathLike) -> None:
    """End a `claim`: what is written into the folder from now on is not ours."""
    _CLAIMED.discard(os.path.realpath(folder))


def missing(folder: str | os.PathLike) -> list[Path]:
    """Folders that would have to be made for `folder`, the deepest first."""
    folder = Path(folder)
    return [place for place in (folder, *folder.parents) if not place.exists()]


def unclaim(folder: str | os.PathLike, made: Collection[Path]) -> None:
    """Take back a `claim` before anything was written: the mark, and the folders `made` for it."""
    end_claim(folder)
    for name in (MARK, ".lock"):
        (Path(folder) / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else has begun to use them
        for place in made:
            place.rmdir()


def read_mark(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The mark of a folder, None without: its entries, and as ``files`` the (bytes, sha256) written, by name.

    Of a file that was written more than once they are in the order of writing.

    Raises
    ------
    InputError
        If `folder` is a file, or its mark is damaged.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the results")
    path = folder / MARK
    try:
        first, *lines = path.read_bytes().splitlines() or [b""]
    except (FileNotFoundError, NotADirectoryError):
        return None
    mark = _parsed(first)
    if not isinstance(mark.get("made_by"), str):
        raise InputError(f"{path}: is damaged; choose another folder, or remove this one")
    files: dict[str, list[tuple[int, str]]] = {}
    for entry in map(_parsed, lines):  # the last line may be cut: then its file did not get its name
        name, size, digest = (entry.get(key) for key in ("file", "bytes", "sha256"))
        if isinstance(name, str) and isinstance(size, int) and isinstance(digest, str):
            files.setdefault(name, []).append((size, digest))
    return {**mark, "files": files}


def other_content(folder: str | os.PathLike) -> str | None:
    """The first entry of a folder without a mark, by name; None if it is empty or missing."""
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    begun = re.compile(re.escape(MARK) + r"\.\d+\.part")  # by a call that was killed
    return next((printable(n) for n in names if n not in NOT_CONTENT and not begun.fullmatch(n)), None)


def is_ours(path: str | os.PathLike) -> bool:
    """Whether a file is byte for byte what was written under its name in a folder that carries the mark."""
    path = Path(path)
    mark = read_mark(path.parent)
    known = mark["files"].get(path.name, []) if mark is not None and path.is_file() else set()
    size = path.stat().st_size if known else -1
    return any(size == entry[0] for entry in known) and (size, sha256(path)) in known


def check(path: str | os.PathLike, mend: str = "move or remove it, and run again") -> None:
    """Refuse a file, if there is one, that is not what microlab wrote under its name.

    Raises
    ------
    InputError
        Names the file and the `mend`.
    """
    if not os.path.lexists(path) or os.path.isdir(path) or is_ours(path):
        return
    if read_mark(Path(path).parent) is None:
        raise InputError(
            f"{path}: lies in a folder without {MARK}, microlab's mark; copy the folder whole, or {mend}"
        )
    raise InputError(f"{path}: is damaged or was changed (it is not what microlab wrote); {mend}")


def changed(folder: str | os.PathLike) -> list[Path]:
    """Files of a folder that have names which microlab wrote, and other contents."""
    mark = read_mark(folder)
    names = sorted(mark["files"]) if mark is not None else []
    paths = [Path(folder) / name for name in names]
    return [path for path in paths if os.path.lexists(path) and not is_ours(path)]


def accept(folder: str | os.PathLike) -> None:
    """Take for ours, so that they may be replaced, the files that `changed` names.

    Raises
    ------
    InputError
        If one is no file, but a folder or a link that leads nowhere.
    """
    for path in changed(folder):
        if not path.is_file():
            raise InputError(f"{path}: is no file and cannot be replaced; move it away")
        _record(path, path)


def forget(folder: str | os.PathLike) -> None:
    """Forget what was written into a folder of ours, which was emptied: its mark is as at first."""
    mark = Path(folder) / MARK
    first = mark.read_bytes().splitlines()[0]
    _write_whole(mark, first + b"\n")


def remove(*paths: str | os.PathLike) -> None:
    """Remove files that microlab wrote; those that are missing are passed over.

    Raises
    ------
    InputError
        If one is not ours. None is removed then.
    """
    for path in paths:
        check(path)
    for path in paths:
        Path(path).unlink(missing_ok=True)


def retire(folder: str | os.PathLike, keep: Collection[str]) -> None:
    """Remove what was written into a folder before, except the names in `keep`.

    Raises
    ------
    InputError
        If one of the files was changed since. None is removed then.
    """
    mark = read_mark(folder)
    if mark is not None:
        remove(*(Path(folder) / name for name in sorted(mark["files"]) if name not in keep))


def safe_name(text: str) -> str:
    """A name for a folder that every system takes, close to `text`.

    What cannot be printed, and what Windows refuses, becomes ``_``; dots and spaces at the ends go, and with
    them ``..``; devices get ``_`` in front.
    """
    name = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in text)
    name = name.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .") or "image"
    return f"_{name}" if DEVICES.fullmatch(name) else name


def _begin(folder: Path, header: dict[str, str]) -> dict[str, Any]:
    """Write the mark of a folder, unless another process has meanwhile; returns the one that is there."""
    mark = folder / MARK
    partial = folder / f"{MARK}.{os.getpid()}.part"
    try:
        partial.write_text(json.dumps(header) + "\n", encoding="utf-8")
        try:
            os.link(partial, mark)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(partial, mark)
    finally:
        partial.unlink(missing_ok=True)
    return read_mark(folder) or header


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    os.replace(partial, path)


def _record(path: Path, contents: Path) -> None:
    """Note in the mark that `path` may hold the bytes of the file `contents`."""
    entry = {"file": path.name, "bytes": contents.stat().st_size, "sha256": sha256(contents)}
    mark = path.parent / MARK
    with open(mark, "rb+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = file.read(1) != b"\n"  # by a full disk, or a kill
        else:
            cut = False
    with open(mark, "ab", buffering=0) as file:  # one call: entries of several processes do not mix
        file.write(b"\n" * cut + json.dumps(entry).encode() + b"\n")
        os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        if isinstance(entry, dict):
            return entry
    return {}


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
