"""Print the built book as one PDF: all pages in reading order, with bookmarks and with links inside it.

python tools/make_pdf.py _build/html _build/microlab.pdf      (needs Chromium: apt-get install chromium)

Nothing is executed: pages and results are those of `make book`. Answers, solutions and folded code are shown
open, because paper cannot be unfolded. A slider shows its first picture, the simulator a still one.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from addresses import ROOT, addresses
from browse_site import chromium, serve
from bs4 import BeautifulSoup, Tag

# Nothing is wider than the paper and no picture is split; code may continue on the next page instead of
# leaving a gap. Titles are pre-wrap, so that bookmarks keep the space where a title wraps.
PRINT = """
@page { size: A4; margin: 18mm 16mm 18mm 16mm; }
html, body { background: white; font-size: 10.5pt; }
body { margin: 0; padding: 0; }
article { break-before: page; max-width: none !important; }
h1, h2, h3, h4 { break-after: avoid; white-space: pre-wrap; }
figure, img, .cell_output, tr, .admonition-title, mjx-container { break-inside: avoid; }
img, table { max-width: 100% !important; }
img { height: auto; }
pre, code { white-space: pre-wrap !important; overflow-wrap: anywhere; break-inside: auto !important; }
pre { orphans: 3; widows: 3; }
.cell, .cell_input, .cell_output, .pst-scrollable-table-container, .highlight, [class^="highlight-"] {
  display: block !important; overflow: visible !important; /* scroll and flex boxes never break */
}
.cell_input, .highlight, [class^="highlight-"] { break-inside: auto !important; }
mjx-container svg g { stroke: none !important; } /* a stroke of 0 is a hairline: bold letters */
pre, div.highlight pre { font-size: 8.5pt; max-height: none !important; overflow: visible !important; }
table { display: table; font-size: 7.5pt; width: 100%; overflow-wrap: break-word; }
table:has(th:nth-child(10)) { font-size: 6.3pt; }
td, th { padding: 1.5pt 3pt !important; }
a { color: inherit; text-decoration: none; border-bottom: 0.4pt solid #777; }
.cover { break-before: avoid; padding-top: 60mm; text-align: center; }
.contents li { list-style: none; margin: 0.2em 0; }
.copybtn, .headerlink, .ml-controls, .ml-panel, .ml-try { display: none !important; }
.ml-still { display: block !important; }
"""
FOOT = '<div style="width:100%;font-size:8px;text-align:center"><span class="pageNumber"></span></div>'
RENDERED = """async () => {
  await MathJax.startup.promise;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  return [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src.slice(0, 90));
}"""


def documents(toc: Path) -> list[tuple[str, str]]:
    """All documents in reading order, as (part, path without extension); the root has no part."""
    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    pages = [(part["caption"], page["file"]) for part in contents["parts"] for page in part["chapters"]]
    return [("", contents["root"]), *pages]


def name(document: str) -> str:
    """Prefix of a document's ids, and the id of its article."""
    return document.replace("/", "-")


def rewritten_link(reference: str, document: str, known: set[str], site: str) -> str:
    """A link of a page, rewritten for the single document.

    Parameters
    ----------
    reference : str
        As in the page of `document`.
    known : set of str
        The documents in the book; any other link inside the site leads to the published site.
    """
    url = urlsplit(reference)
    if url.scheme or reference.startswith("//"):
        return reference
    path = os.path.normpath(os.path.join(os.path.dirname(document), unquote(url.path)))
    target = path.removesuffix(".html") if url.path else document
    if target not in known:
        return f"{site}/{path}" + (f"#{url.fragment}" if url.fragment else "")
    return f"#{name(target)}" + (f"--{url.fragment}" if url.fragment else "")


def article(root: Path, document: str, known: set[str], site: str) -> Tag:
    """The text of a page, with ids, links and pictures rewritten for the single document.

    Raises
    ------
    FileNotFoundError
        If the page was not built.
    """
    path = root / f"{document}.html"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build the whole book first, make book")
    text = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select_one("article.bd-article")
    for tag in text.select("script, .headerlink, .ml-controls"):
        tag.decompose()
    for tag in text.select("[id]"):
        tag["id"] = f"{name(document)}--{tag['id']}"
    for tag in text.select("[for]"):
        tag["for"] = f"{name(document)}--{tag['for']}"
    for tag in text.select("a[href]"):
        tag["href"] = rewritten_link(tag["href"], document, known, site)
    for tag in text.select("img[src]"):
        tag.attrs.pop("loading", None)
        if not urlsplit(tag["src"]).scheme:
            tag["src"] = f"/{root.name}/" + os.path.normpath(
                os.path.join(os.path.dirname(document), tag["src"])
            )
    for tag in text.select("details"):
        tag["open"] = ""
    text["id"] = name(document)
    return text


def cover(title: str, lines: list[str], chapters: list[tuple[str, str, str]]) -> str:
    """Title page and contents; `chapters` are (part, id, title)."""
    items, previous_part = [], ""
    for part, target, heading in chapters:
        if part != previous_part:
            items.append(f"<li><strong>{html.escape(part)}</strong></li>")
            previous_part = part
        items.append(f'<li><a href="#{target}">{html.escape(heading)}</a></li>')
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        f'<article class="bd-article cover"><p class="h1">{html.escape(title)}</p>{paragraphs}</article>'
        f'<article class="bd-article contents"><p class="h1">Contents</p><ul>{"".join(items)}</ul></article>'
    )


def book(root: Path, toc: Path) -> str:
    """The built book under `root` as one HTML document, to be served from the folder above it."""
    listed, config = documents(toc), yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    known, site = {document for _, document in listed}, addresses().site
    texts = [article(root, document, known, site) for _, document in listed]
    titles = [re.sub(r"\s+", " ", text.select_one("h1").get_text()).strip() for text in texts]
    first = (root / f"{listed[0][1]}.html").read_text(encoding="utf-8")
    head = BeautifulSoup(first, "html.parser").head
    base = os.path.dirname(listed[0][1])
    styles = [
        os.path.normpath(os.path.join(base, link["href"])) for link in head.select("link[rel=stylesheet]")
    ]
    math = [str(tag) for tag in head.select("script") if "window.MathJax" in tag.get_text()]
    source = next(tag["src"] for tag in head.select("script[src]") if "mathjax" in tag["src"])
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    lines = [config["author"], f"Version {version}", site, "Text and figures: CC BY 4.0. Code: MIT."]
    contents = [(part, name(document), title) for (part, document), title in zip(listed, titles)]
    return "\n".join(
        [
            '<!doctype html><html lang="en" data-theme="light" data-mode="light"><head>',
            '<meta charset="utf-8">',
            f"<title>{html.escape(config['title'])}</title>",
            *(f'<link rel="stylesheet" href="/{root.name}/{style}">' for style in styles),
            f"<style>{PRINT}</style>",
            *math,
            f'<script defer src="/{root.name}/{os.path.normpath(os.path.join(base, source))}"></script>',
            "</head><body><main class='bd-content'>",
            cover(config["title"], lines, contents),
            *map(str, texts),
            "</main></body></html>",
        ]
    )


def print_pdf(root: Path, document: str, out: Path) -> int:
    """Print an HTML document, served beside `root`, to a PDF; returns the number of its pages.

    Raises
    ------
    ValueError
        If a picture is missing.
    """
    page_file = root.parent / "book-print.html"
    page_file.write_text(document, encoding="utf-8")
    part = out.with_name(out.name + ".part")
    try:
        with serve(root.parent) as address, chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(0)  # the whole book is typeset at once
            page.goto(f"{address}{page_file.name}", wait_until="load")
            if missing := page.evaluate(RENDERED):
                raise ValueError(f"{len(missing)} pictures are missing, the first is {missing[0]}")
            page.pdf(
                path=part,
                prefer_css_page_size=True,
                print_background=True,
                outline=True,
                tagged=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOT,
            )
        part.replace(out)
    finally:
        page_file.unlink()
        part.unlink(missing_ok=True)
    return len(re.findall(rb"/Type\s*/Page\b", out.read_bytes()))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", type=Path, help="folder of the built book")
    parser.add_argument("out", type=Path, help="the PDF")
    options = parser.parse_args()
    root = options.site.resolve()
    try:
        pages = print_pdf(root, book(root, ROOT / "book" / "_toc.yml"), options.out)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {pages} pages, {options.out.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
