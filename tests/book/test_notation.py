"""The table of notation agrees with the formulas of the chapters and with the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import formulas
import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[2]

CHAPTERS = {path.name[:2]: path for path in sorted((ROOT / "tutorials").glob("[0-9]*.md"))}
IN_THE_TEXT = "in the text only"
INDICES = {"i", "j"}  # indices of sums; no symbol of the book has these names

Row = tuple[str, str, str, str]  # chapter or "", LaTeX of the symbol, where it is in the code, unit or range


def rows(text: str) -> list[Row]:
    """A row for every symbol of both tables."""
    table_rows = []
    for line in text.split("\n## Arrays")[0].split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        chapter = cells.pop(0) if re.fullmatch(r"\d\d", cells[0]) else ""
        if cells[0].startswith("$"):
            symbols = [symbol.split("=")[0].strip() for symbol in re.findall(r"\$([^$]+)\$", cells[0])]
            table_rows += [(chapter, symbol, cells[1], cells[3]) for symbol in symbols]
    return table_rows


TABLE = rows((ROOT / "book" / "notation.md").read_text(encoding="utf-8"))


# ---- the code ----


def module_path(name: str) -> Path:
    return ROOT / "microlab" / f"{name.replace('.', '/')}.py"


@cache
def code_of(place: str) -> ast.Module:
    """The code of ``simulate.phasefield``, or of the cells of ``chapter 02``."""
    if place.startswith("chapter "):
        cells = jupytext.read(CHAPTERS[place[-2:]]).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        return ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.M))
    return ast.parse(module_path(place).read_text(encoding="utf-8"))


def names(tree: ast.Module) -> set[str]:
    """Names in code: parameters, variables, attributes, functions and classes."""
    all_names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            all_names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            all_names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            all_names.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            all_names.add(node.name)
    return all_names


def defaults(tree: ast.Module, name: str) -> list[object]:
    """Constants that are the default of a parameter or a field of this name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == name:
            found.append(node.value)
        elif isinstance(node, ast.FunctionDef):
            a = node.args
            positional = [*a.posonlyargs, *a.args][-len(a.defaults) :] if a.defaults else []
            pairs = [*zip(positional, a.defaults), *zip(a.kwonlyargs, a.kw_defaults)]
            found += [value for argument, value in pairs if argument.arg == name]
    return [node.value for node in found if isinstance(node, ast.Constant)]


def code_faults(row: Row) -> list[str]:
    """Problems of the place in the code that a row names."""
    chapter, symbol, cell, unit = row
    if cell == IN_THE_TEXT:
        return [] if chapter else [f"{symbol}: a symbol of the whole book is somewhere in the code"]
    match = re.fullmatch(r"(`\w+`(?:, `\w+`)*) in (?:`([\w.]+)`|(chapter \d\d))", cell)
    if not match:
        return [f"{symbol}: say `name` in `module`, not {cell!r}"]
    place = match[2] or match[3]
    if match[2] and not module_path(place).exists():
        return [f"{symbol}: there is no module microlab.{place}"]
    tree, listed = code_of(place), re.findall(r"`(\w+)`", match[1])
    wrong = [f"{symbol}: {place} has no {name}" for name in listed if name not in names(tree)]
    default = re.match(r"([\d.]+) by default", unit)
    if default and float(default[1]) not in defaults(tree, listed[0]):
        wrong.append(f"{symbol}: the default of {listed[0]} in {place} is {defaults(tree, listed[0])}")
    return wrong


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}{row[1]}")
def test_symbol_has_its_counterpart_in_the_code(row):
    assert code_faults(row) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (("", r"\kappa", "`kapa` in `simulate.phasefield`", ""), "has no kapa"),
        (("", r"\kappa", "`kappa` in `simulate.phase`", ""), "no module"),
        (("", r"\kappa", "`kappa`", ""), "say `name` in `module`"),
        (("", r"\kappa", IN_THE_TEXT, ""), "somewhere in the code"),
        (("", r"\kappa", "`kappa` in `simulate.phasefield`", "2 by default"), "the default of kappa"),
    ],
)
def test_a_wrong_counterpart_is_found(row, fault):
    (problem,) = code_faults(row)
    assert fault in problem


# ---- the formulas ----


def known_symbols(table: list[Row], chapter: str) -> set[str]:
    """Names that the tables explain for a chapter; a running index in a subscript may differ."""
    known = set()
    for where, symbol, *_ in table:
        if where in ("", chapter):
            exact, letter = formulas.symbols(symbol)[0]
            known |= {exact} if re.search(r"_\d", exact) else {exact, letter}
    return known


def unexplained(text: str, chapter: str, table: list[Row]) -> list[str]:
    """Symbols of the displayed equations of a chapter that no table explains."""
    known = known_symbols(table, chapter) | INDICES
    return [
        f"{label}: {exact}"
        for label, latex in formulas.displayed(text)
        for exact, letter in formulas.symbols(latex)
        if exact not in known and letter not in known
    ]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_symbol_of_an_equation_is_in_the_notation(chapter):
    assert unexplained(CHAPTERS[chapter].read_text(encoding="utf-8"), chapter, TABLE) == []


def test_a_symbol_is_explained_once():
    symbols = [row[:2] for row in TABLE]
    assert len(TABLE) > 80
    assert sorted(symbols) == sorted(set(symbols))


def test_a_row_for_one_chapter_explains_a_symbol_of_it():
    for chapter, symbol, *_ in TABLE:
        if chapter:
            text = CHAPTERS[chapter].read_text(encoding="utf-8")
            used = {name for _, latex in formulas.displayed(text) for name, _ in formulas.symbols(latex)}
            assert used & {name for pair in formulas.symbols(symbol) for name in pair}, (chapter, symbol)


def test_an_unexplained_symbol_is_found():
    text = "```{math}\n:label: a-b\n\\mu = \\eta_j^2 + \\text{IoU} + \\frac{dR}{dt} + d_1 + \\bar d\n```\n"
    assert unexplained(text, "02", TABLE) == [r"a-b: \mu"]
    assert unexplained(text, "02", [row for row in TABLE if row[1] != "R"]) == [r"a-b: \mu"]  # \bar R is left
    assert unexplained(text, "02", [row for row in TABLE if row[1] != r"\eta_i"]) == [
        r"a-b: \eta_j",
        r"a-b: \mu",
    ]


def test_symbols_are_read_from_latex():
    latex = r"d_0 + \lambda_{\text{id}} + e_{j-1} + \hat h_\sigma + \ln p + \Delta x^2 + e^{-f}"
    assert formulas.symbols(latex) == [
        (r"\Delta x", r"\Delta x"),
        (r"\lambda_id", r"\lambda_id"),
        ("d_0", "d"),
        ("e_j-1", "e"),
        ("f", "f"),
        (r"h_\sigma", r"h_\sigma"),
        ("p", "p"),
    ]
