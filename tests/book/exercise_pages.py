"""The exercises as printed in the chapters: stubs, solutions and the calls of their checks."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import jupytext

ROOT = Path(__file__).resolve().parents[2]
DIRECTIVE = r"^`{3,}\{((?:exercise|solution)(?:-start|-end)?)\}([^\n]*)(.*?)^```"
CHAPTERS = sorted((ROOT / "tutorials").glob("[0-9]*.md"))


@dataclass
class Exercise:
    """One exercise of a chapter: its text, the code of its cells and of its solution."""

    label: str
    text: str
    before: str  # all code of the chapter that comes before
    code: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)

    def calls(self, cells: list[str]) -> list[ast.Call]:
        """The calls of this exercise's check in some cells."""
        return [
            node
            for cell in cells
            for node in ast.walk(ast.parse(cell))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "exercises.check"
            and ast.literal_eval(node.args[0]) == self.label
        ]

    def empty_functions(self) -> list[str]:
        """Names of the functions that the reader has to write."""
        return [
            node.name
            for cell in self.code
            for node in ast.walk(ast.parse(cell))
            if isinstance(node, ast.FunctionDef)
            and any(isinstance(s, ast.Expr) and ast.unparse(s) == "..." for s in node.body)
        ]

    def answer(self, solved: bool) -> tuple:
        """The answer that the page's stub, or its solution, submits.

        Functions and literal values are taken from the cells unchanged; whatever needs the chapter's data is
        left out, and its name keeps its value from the stub.
        """
        known = _run([self.before], {}, values=False)
        known = _run(self.code, known)
        (call,) = self.calls(self.code)
        if solved:
            known = _run(self.solution, known)
        return tuple(eval(ast.unparse(argument), known) for argument in call.args[1:])


def _run(cells: list[str], known: dict, values: bool = True) -> dict:
    """Imports, functions and literals of some cells, in `known`."""
    for cell in cells:
        for node in ast.parse(cell).body:
            literal = False
            if values and isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Subscript):
                try:
                    ast.literal_eval(node.value)
                    literal = True
                except ValueError:
                    literal = False
            if literal or isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
                exec(compile(ast.Module([node], []), "chapter", "exec"), known)
    return known


@functools.cache
def exercises(chapter: Path) -> dict[str, Exercise]:
    """Exercises of a chapter by label, in order."""
    by_label: dict[str, Exercise] = {}
    inside, solved, before = None, None, ""
    for cell in jupytext.read(chapter).cells:
        if cell.cell_type == "markdown":
            for kind, argument, body in re.findall(DIRECTIVE, cell.source, re.M | re.S):
                if kind in ("exercise", "exercise-start"):
                    label = re.search(r":label: *(\S+)", body)[1]
                    following = cell.source.split(f":label: {label}", 1)[1].strip("`\n ")
                    by_label[label] = Exercise(label, following, before)
                    inside = label if kind == "exercise-start" else None
                elif kind == "exercise-end":
                    inside = None
                elif kind != "solution":
                    solved = argument.strip() if kind == "solution-start" else None
            continue
        if solved:
            by_label[solved].solution.append(cell.source)
        elif inside:
            by_label[inside].code.append(cell.source)
        if not solved:
            before += "\n" + "\n".join(line for line in cell.source.split("\n") if not line.startswith("%"))
    return by_label


@functools.cache
def checked() -> dict[str, Exercise]:
    """The exercises of all chapters that call a check, by label."""
    by_label = {label: exercise for chapter in CHAPTERS for label, exercise in exercises(chapter).items()}
    return {label: exercise for label, exercise in by_label.items() if exercise.calls(exercise.code)}
