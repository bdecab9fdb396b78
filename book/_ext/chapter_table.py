"""The instructor's table of chapters: what a reader can do at the end, the cost of a run, and the assignment.

Nothing in it is typed: outcomes are the chapters' own words (**You will** ...), the order is that of the
contents, and costs are those on the chapters' cards. A build knows them only when every chapter has run, so
they are filled in last.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import cost_card
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from addresses import chapters  # noqa: E402  (needs the line above)


class measured_cost(nodes.Inline, nodes.TextElement):
    """Stands for the cost of one chapter until that is known."""


class MeasuredCost(SphinxRole):
    """``{measured-cost}`tutorials/01_voronoi```: time and memory of that chapter, measured."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave a place for it."""
        return [measured_cost("", "", docname=self.text)], []


def outcome(text: str, name: str) -> str:
    """What a chapter says that its reader will be able to do, in one line.

    Raises
    ------
    ValueError
        If it does not say so.
    """
    match = re.search(r"^\*\*You will\*\* (.*?)\n\n", text, re.S | re.M)
    if not match:
        raise ValueError(f"{name}: there is no paragraph that begins with **You will**")
    return " ".join(match[1].split())


class ChapterTable(SphinxDirective):
    """``{chapter-table}``: a row for every chapter."""

    def run(self) -> list[nodes.Node]:
        """Parse the table as part of the page."""
        rows = ["| chapter | you will | cost of a run | assignment |", "|---|---|---|---|"]
        for _, document in chapters():
            source = ROOT / f"{document}.md"
            self.env.note_dependency(str(source))
            number = source.stem.split("_")[0]
            assignments = sorted((ROOT / "tutorials" / "assignments").glob(f"{number}_*/{number}_*.md"))
            names = ", ".join(f"`{path.stem}`" for path in assignments)
            will = outcome(source.read_text(encoding="utf-8"), source.name)
            rows.append(
                f"| {{doc}}`{number} </{document}>` | {will} | {{measured-cost}}`{document}` | {names} |"
            )
        parent = nodes.Element()
        parent.document = self.state.document
        self.state.nested_parse(StringList(rows, source="chapter table"), self.content_offset, parent)
        return parent.children


def costs(build: dict, docname: str) -> str:
    """Every cost known of a chapter: this build's, then those recorded for other profiles."""
    texts = []
    for measured in (build, *map(_read, sorted(cost_card.RECORDED.glob("*.json")))):
        if docname in measured["chapters"] and (measured is build or measured["profile"] != build["profile"]):
            words = cost_card.in_words(measured["chapters"][docname])
            texts.append(f"{measured['profile']} {words} ({measured['machine']})")
    return "; ".join(texts) or "not measured in this build"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the costs in."""
    for place in list(doctree.findall(measured_cost)):
        place.replace_self(nodes.Text(costs(app.microlab_costs, place["docname"])))


def setup(app: Sphinx) -> dict:
    """Register with Sphinx, after `cost_card`, which measures."""
    app.setup_extension("cost_card")
    app.add_node(measured_cost)
    app.add_role("measured-cost", MeasuredCost())
    app.add_directive("chapter-table", ChapterTable)
    app.connect("doctree-resolved", fill)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
