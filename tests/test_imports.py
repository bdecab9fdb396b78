"""The structure of the package: which subpackage may import which, contents of the root, and size limits."""

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
LEVEL = {name: k for k, names in enumerate(LEVELS) for name in names}
MOST_MODULES = 18


def modules(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at the top, in functions and under TYPE_CHECKING."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            yield from (f"{base}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names)


def subpackage_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 or parts[0] == "plotting" else "root"


def broken_rules(path: Path) -> list[str]:
    subpackage = subpackage_of(path)
    broken = []
    for name in imported(path):
        if name.split(".")[0] in ("studies", "benchmarks"):
            broken.append(name)
        if name.split(".")[0] != "microlab" or subpackage == "root":
            continue
        target = name.split(".")[1] if "." in name else ""
        if target == subpackage or target not in {*LEVEL, "book"}:
            continue
        if subpackage == "book":
            allowed = target != "cli"
        else:
            allowed = target != "book" and LEVEL[target] < LEVEL[subpackage]
        if not allowed:
            broken.append(name)
    return broken


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_flow_one_way(path):
    assert broken_rules(path) == []


def test_the_rule_includes_imports_inside_functions(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "microlab")
    path = tmp_path / "microlab" / "measure" / "toy.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from ..data import images\n    import microlab.book.records\n")
    assert broken_rules(path) == ["microlab.data.images", "microlab.book.records"]


def missing(path: Path) -> list[str]:
    """Names that a file imports from the library and that do not exist."""
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
def test_untested_folders_import_existing_names(folder):
    assert [name for path in modules(ROOT / folder) for name in missing(path)] == []


def test_a_moved_name_is_detected(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "study.py"
    path.write_text("from microlab.data.parallel import each_done, workers\nimport microlab.data.images\n")
    assert missing(path) == ["microlab.data.parallel.each_done"]


def test_the_root_contains_only_the_subpackages():
    entries = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert entries == {*LEVEL, "book"} - {"plotting"} | {"plotting.py", "__init__.py", "__main__.py"}


def test_no_subpackage_is_too_large():
    folders = {path.parent for path in modules(PACKAGE)}
    sizes = {f: sum(p.name != "__init__.py" for p in f.glob("*.py")) for f in folders}
    assert {f.name: n for f, n in sizes.items() if n > MOST_MODULES} == {}


def test_no_module_only_reexports_names_of_others():
    """A module that only imports names of the library would be a second place to import them from."""
    for path in modules(PACKAGE):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        own = [n for n in body if not isinstance(n, (ast.Import, ast.ImportFrom, ast.Expr))]
        names = [t.id for n in own if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        ours = [name for name in imported(path) if name.startswith("microlab.")]
        assert not (ours and set(names) <= {"__all__"} and len(names) == len(own)), path
