"""Post-process the built site: markup for screen readers, duplicate ids, addresses of other sites."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx


def repair(text: str) -> str:
    """One page, repaired.

    - a bibliography entry needs a list as parent, or the plain role of a list item;
    - a ``<summary>`` and the search button have visible words, which the label must not hide;
    - the arrow that unfolds pages in the side bar needs a name;
    - the side bar is a landmark, and needs a name as one;
    - the theme repeats the title as a second top heading, for print only;
    - an exercise carries its id twice (its own, and its target's): the later one goes;
    - the scripts of Thebe, which would run code on another site, are not used: they go, with its address.
    """
    text = text.replace('role="doc-biblioentry"', 'role="listitem"')
    text = text.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    text = text.replace(
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="More pages"><span class="toctree-toggle"',
    )
    text = re.sub(r'(<button class="[^"]*search-button[^"]*"[^>]*?) aria-label="Search"', r"\1", text)
    text = re.sub(
        r'(id="jb-print-docs-body"[^>]*>\s*)<h1>(.*?)</h1>', r'\1<p class="h1">\2</p>', text, flags=re.S
    )
    text = text.replace(
        '<div id="pst-primary-sidebar"',
        '<div role="complementary" aria-label="Book" id="pst-primary-sidebar"',
    )
    for thebe in (
        r">const THEBE_JS_URL",
        r' type="text/x-thebe-config">',
        r'[^>]* src="[^"]*sphinx-thebe\.js',
    ):
        text = re.sub(rf"<script{thebe}.*?</script>", "", text, flags=re.S)
    ids: set[str] = set()

    def once(match: re.Match) -> str:
        if match[2] in ids:
            return match[1]
        ids.add(match[2])
        return match[0]

    # Scripts may hold text that looks like a tag; they are stepped over.
    parts = re.split(r"(<script\b.*?</script>)", text, flags=re.S)
    parts[::2] = [re.sub(r'(<[a-zA-Z][^<>]*?)\sid="([^"]*)"', once, part) for part in parts[::2]]
    return "".join(parts)


def without_addresses(script: str) -> str:
    """A script whose strings name no other site.

    MathJax holds, for speech that is not switched on, addresses from which it would load more of itself.
    """
    return re.sub(r"""(?<=["'`])https?://(?!www\.w3\.org/)[^"'`\s]*""", "", script)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Repair every page after the build."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        if "_static" not in page.relative_to(out).parts:
            page.write_text(repair(page.read_text(encoding="utf-8")), encoding="utf-8")
    for script in (out / "_static" / "mathjax").glob("*.js"):
        script.write_text(without_addresses(script.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
