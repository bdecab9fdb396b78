"""The page that segments in the browser: put together beside the built book, and loaded by one page only."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import build_page


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the page's files after the build."""
    if not exception and app.builder.format == "html":
        build_page.build(Path(app.outdir) / "_static/try")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
