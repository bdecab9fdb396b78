"""How to cite the book: a line and a BibTeX entry made of CITATION.cff, so that neither is ever typed."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import citation  # noqa: E402  (needs the line above)


class CiteThis(SphinxDirective):
    """``{cite-this}``: the line, then the entry to copy."""

    def run(self) -> list[nodes.Node]:
        """Write both."""
        self.env.note_dependency(str(citation.PATH))
        record = citation.read()
        text, entry = citation.sentence(record), citation.bibtex(record)
        before, address, after = text.partition(record["url"])
        line = nodes.paragraph("", before)
        line += [nodes.reference("", address, refuri=address, internal=False), nodes.Text(after)]
        return [line, nodes.literal_block(entry, entry, language="bibtex")]


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("cite-this", CiteThis)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
