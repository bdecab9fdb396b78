"""The floor plan: which room may import which, what the root holds, and how large a room may be."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "microlab"
LEVELS = (
    {"measure", "plotting"},
    {"data"},
    {"simulate", "training"},
    {"render", "generate", "segment"},
    {"pipelines"},
    {"cli"},
)
LEVEL = {room: k for k, rooms in enumerate(LEVELS) for room in rooms}
MOST_MODULES = 18


def modules(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path) -> Iterator[str]:
    """Dotted names of ours that a file imports, at the top, in functions and under TYPE_CHECKING."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            yield from (f"{base}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names)


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 or parts[0] == "plotting" else "root"


def broken_rules(path: Path) -> list[str]:
    room = room_of(path)
    broken = []
    for name in imported(path):
        if name.split(".")[0] in ("studies", "benchmarks"):
            broken.append(name)
        if name.split(".")[0] != "microlab" or room == "root":
            continue
        target = name.split(".")[1] if "." in name else ""
        if target == room or target not in {*LEVEL, "book"}:
            continue
        if room == "book":
            allowed = target != "cli"
        else:
            allowed = target != "book" and LEVEL[target] < LEVEL[room]
        if not allowed:
            broken.append(name)
    return broken


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_flow_one_way(path):
    assert broken_rules(path) == []


def test_the_rule_sees_an_import_inside_a_function(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "microlab")
    path = tmp_path / "microlab" / "measure" / "toy.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from ..data import images\n    import microlab.book.records\n")
    assert broken_rules(path) == ["microlab.data.images", "microlab.book.records"]


def missing(path: Path) -> list[str]:
    """Names that a file imports from the library and that are not there."""
    names = []
    for name in imported(path):
        module, _, attribute = name.rpartition(".")
        if module.split(".")[0] == "microlab" and not hasattr(importlib.import_module(module), attribute):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                names.append(name)
    return names


@pytest.mark.parametrize("folder", ["benchmarks", "studies", "tools"])
def test_what_no_other_test_runs_imports_what_there_is(folder):
    assert [name for path in modules(ROOT / folder) for name in missing(path)] == []


def test_a_name_that_moved_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "study.py"
    path.write_text("from microlab.data.parallel import each_done, workers\nimport microlab.data.images\n")
    assert missing(path) == ["microlab.data.parallel.each_done"]


def test_the_root_holds_rooms_and_nothing_else():
    entries = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert entries == {*LEVEL, "book"} - {"plotting"} | {"plotting.py", "__init__.py", "__main__.py"}


def test_no_room_is_too_large():
    folders = {path.parent for path in modules(PACKAGE)}
    sizes = {f: sum(p.name != "__init__.py" for p in f.glob("*.py")) for f in folders}
    assert {f.name: n for f, n in sizes.items() if n > MOST_MODULES} == {}


def test_no_module_only_repeats_names_of_others():
    """A module that defines nothing and imports names of ours is a second door to the same room."""
    for path in modules(PACKAGE):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        own = [n for n in body if not isinstance(n, (ast.Import, ast.ImportFrom, ast.Expr))]
        names = [t.id for n in own if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        ours = [name for name in imported(path) if name.startswith("microlab.")]
        assert not (ours and set(names) <= {"__all__"} and len(names) == len(own)), path
