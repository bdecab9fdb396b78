"""The reference of the library, written from its docstrings, with equations and chapters as links.

``{api}`` with names of modules as its content makes one section for each. Docstrings name what they implement
as ``eq. 3 of chapter 02 (phase-limit)`` and ``chapter 02``; on these pages both lead there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from addresses import chapters  # noqa: E402  (needs the line above)

EQUATION = re.compile(r"eq\.\s+(\d+)\s+of\s+chapter\s+(\d\d)\s+\(([\w-]+)\)")
CHAPTERS = re.compile(r"\bchapters?\s\d\d(?:(?:,\s| and\s| to\s)(?:chapter\s)?\d\d)*")


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


class Api(SphinxDirective):
    """``{api}``: a section for each module that is named; a package named first speaks for the page."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the sections as part of the page."""
        text = []
        for k, name in enumerate(self.content):
            if k or not (ROOT / name.replace(".", "/")).is_dir():
                text += [f"## {name.removeprefix('microlab.')}", ""]
            text += [
                "```{eval-rst}",
                f".. automodule:: {name}",
                "   :members:",
                "   :ignore-module-all:",
                "```",
                "",
            ]
        parent = nodes.Element()
        parent.document = self.state.document
        self.state.nested_parse(StringList(text, source="api"), self.content_offset, parent, match_titles=1)
        return parent.children


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", link_docstring, priority=400)
    app.setup_extension("sphinx.ext.napoleon")
    app.add_directive("api", Api)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
