"""The reference of the library, written from its docstrings, with equations and chapters as links.

``{api}`` with a room of the library as its content makes one section for each of its modules, and says which
chapters import it. ``{commands}`` makes one for each command of the command line. Docstrings name what they
implement as ``eq. 3 of chapter 02 (phase-limit)`` and ``chapter 02``; on these pages both lead there.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import jupytext
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from addresses import chapters, documented, modules  # noqa: E402  (needs the line above)

EQUATION = re.compile(r"eq\.\s+(\d+)\s+of\s+chapter\s+(\d\d)\s+\(([\w-]+)\)")
CHAPTERS = re.compile(r"\bchapters?\s\d\d(?:(?:,\s| and\s| to\s)(?:chapter\s)?\d\d)*")


def imported(code: str) -> set[str]:
    """Modules of the library that a chapter's code imports from; lines for IPython are left out."""
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.M))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in modules() else name.rpartition(".")[0] for name in names} & set(modules())


@functools.cache
def users() -> dict[str, list[str]]:
    """Documents of the chapters that import from a module, by module."""
    chapters_of: dict[str, list[str]] = {}
    for _, document in chapters():
        cells = jupytext.read(ROOT / f"{document}.md").cells
        for module in imported("\n".join(cell.source for cell in cells if cell.cell_type == "code")):
            chapters_of.setdefault(module, []).append(document)
    return chapters_of


def used_in(documents: list[str]) -> str:
    """The line that says in which chapters a module is used, with links."""
    links = [f"{{doc}}`{Path(document).name[:2]} </{document}>`" for document in documents]
    return f"Used in chapter{'s' * (len(links) > 1)} {', '.join(links)}." if links else ""


def linked(text: str) -> str:
    """A docstring in which every mention of an equation or a chapter is a link."""
    documents = {Path(document).name[:2]: document for _, document in chapters()}

    def chapter(match: re.Match) -> str:
        if match[0] not in documents:
            return match[0]
        return f":doc:`{match[0]} </{documents[match[0]]}>`"

    def mention(match: re.Match) -> str:
        return re.sub(r"\d\d", chapter, match[0])

    parts = re.split(rf"({EQUATION.pattern})", text)
    # re.split gives each match followed by its three groups.
    out = []
    for k in range(0, len(parts), 5):
        out.append(CHAPTERS.sub(mention, parts[k]))
        if k + 4 < len(parts):
            out.append(f"eq. :eq:`{parts[k + 4]}`")
    return "".join(out)


def formulas_kept(lines: list[str]) -> list[str]:
    """A docstring whose indented formulas, above its first section, stand as they are typed.

    Elsewhere ``|x|`` is escaped: it is a magnitude and no substitution.
    """
    out: list[str] = []
    around, formula, section = 0, False, False  # around: the indentation of the text
    for line in lines:
        section = section or bool(re.fullmatch(r"\s*-{3,}", line))  # what underlines a section's title
        indent = len(line) - len(line.lstrip())
        if line.strip() and not section and (not out or not out[-1].strip()):  # a paragraph begins
            if indent >= around + 4 and not formula:
                out += [" " * around + ".. code-block:: text", ""]
            formula = indent >= around + 4
            around = around if formula else indent
        formula = formula and not section
        out.append(line if formula else escape_bars(line))
    return out


def escape_bars(line: str) -> str:
    """A line in which ``|x|`` outside of backticks is no substitution."""
    return re.sub(r"(`+[^`]*`+)|\|", lambda match: match[1] or r"\|", line)


def link_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make a docstring fit for Sphinx, in place, before napoleon reads its sections."""
    lines[:] = linked("\n".join(formulas_kept(lines))).split("\n")


class Page(SphinxDirective):
    """A directive that writes Markdown, which is read as part of the page."""

    has_content = True

    def lines(self) -> list[str]:
        """The Markdown to read."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the lines in place."""
        parent = nodes.Element()
        parent.document = self.state.document
        text = StringList(self.lines(), source="api")
        self.state.nested_parse(text, self.content_offset, parent, match_titles=1)
        return parent.children


class Api(Page):
    """``{api}``: a section for each module of the rooms that are named; the first speaks for the page."""

    def lines(self) -> list[str]:
        """A heading, the chapters and the docstrings of each module."""
        text = []
        for k, name in enumerate(name for room in self.content for name in documented(room)):
            if k or modules()[name].name != "__init__.py":
                text += [f"## {name.removeprefix('microlab.')}", ""]
            text += [used_in(users().get(name, [])), "", "```{eval-rst}", f".. automodule:: {name}"]
            text += ["   :members:", "   :ignore-module-all:", "```", ""]
        return text


class Commands(Page):
    """``{commands}``: what the command line answers to ``--help``, command by command."""

    has_content = False

    def lines(self) -> list[str]:
        """A heading and the help of each command."""
        import typer

        from microlab.cli.main import main

        text, commands = [], [("microlab", typer.main.get_command(main))]
        while commands:
            name, command = commands.pop(0)
            context = command.make_context(name, [], resilient_parsing=True, terminal_width=88)
            text += [f"## {name}", "", "```text", *command.get_help(context).splitlines(), "```", ""]
            below = getattr(command, "commands", {})
            commands[:0] = [(f"{name} {word}", below[word]) for word in sorted(below)]
        return text


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", link_docstring, priority=400)
    app.setup_extension("sphinx.ext.napoleon")
    app.add_directive("api", Api)
    app.add_directive("commands", Commands)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
