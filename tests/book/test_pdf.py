"""The PDF: the pages of a built book in one document, in order, with links that stay inside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import browse_site
import make_pdf
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]

TOC = """\
root: book/intro
parts:
- caption: Start
  chapters:
  - file: tutorials/one
  - file: tutorials/two
"""
HEAD = """<!doctype html><html><head><link rel="stylesheet" href="../_static/a.css">
<script>window.MathJax = {}</script><script defer src="../_static/mathjax.js"></script></head>
<body><nav><a href="nowhere.html">menu</a></nav><article class="bd-article">"""
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJg"
    "gg=="
)
PAGES = {
    "book/intro": '<section id="top"><h1>A book<a class="headerlink" href="#top">#</a></h1></section>',
    "tutorials/one": '<section id="top"><h1>One</h1><a href="two.html#eq">to two</a><a href="#top">up</a>'
    '<a href="../_sources/one.md">source</a><a href="https://example.org/">out</a></section>',
    "tutorials/two": '<section id="eq"><h1>Two</h1><details><summary>Answer</summary>42</details>'
    f'<img alt="a dot" loading="lazy" src="{DOT}"><script>alert(1)</script>'
    '<a href="../book/intro.html">home</a></section>',
}

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path):
    """A built book of three pages, and its table of contents."""
    root = tmp_path / "html"
    for document, text in PAGES.items():
        path = root / f"{document}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEAD}{text}</article></body></html>", encoding="utf-8")
    (root / "_static").mkdir()
    (root / "_static" / "a.css").write_text("h1 { color: black; }")
    (root / "_static" / "mathjax.js").write_text("window.MathJax = {startup: {promise: Promise.resolve()}};")
    (tmp_path / "_toc.yml").write_text(TOC)
    return root, tmp_path / "_toc.yml"


def test_links_lead_to_places_in_the_document_or_to_the_published_site(site):
    book = BeautifulSoup(make_pdf.book(*site), "html.parser")
    ids = [tag["id"] for tag in book.select("[id]")]
    assert len(ids) == len(set(ids))
    links = {tag.get_text(): tag["href"] for tag in book.select("a[href]")}
    assert links["to two"] == "#tutorials-two--eq"
    assert links["up"] == "#tutorials-one--top"
    assert links["home"] == "#book-intro"
    assert links["out"] == "https://example.org/"
    assert links["source"] == f"{make_pdf.addresses().site}/_sources/one.md"
    assert {link[1:] for link in links.values() if link.startswith("#")} <= set(ids)
    assert "menu" not in links


def test_pages_are_in_order_and_folded_parts_are_open(site):
    book = BeautifulSoup(make_pdf.book(*site), "html.parser")
    assert [title.get_text() for title in book.select("h1")] == ["A book", "One", "Two"]
    assert [entry.get_text() for entry in book.select(".contents li")] == ["A book", "Start", "One", "Two"]
    assert all(tag.has_attr("open") for tag in book.select("details"))
    assert "alert" not in str(book)


def test_a_book_with_a_page_missing_is_not_printed(site):
    root, toc = site
    (root / "tutorials" / "two.html").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"two\.html is missing: build the whole book first, make book"
    ):
        make_pdf.book(root, toc)


@pytest.mark.usefixtures("chromium")
def test_the_pdf_has_a_page_for_each_part_bookmarks_and_inner_links(site, tmp_path):
    out = tmp_path / "book.pdf"
    assert make_pdf.print_pdf(site[0], make_pdf.book(*site), out) == 5  # cover, contents, three pages
    text = out.read_bytes()
    assert text.startswith(b"%PDF-")
    assert b"/Outlines" in text
    assert len(re.findall(rb"/Subtype\s*/Link", text)) >= 8
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "book-print.html").exists()


def test_a_machine_without_chromium_is_told_what_to_install(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(browse_site.shutil, "which", lambda name: None)
    monkeypatch.setattr(make_pdf, "book", lambda root, toc: "")
    monkeypatch.setattr(sys, "argv", ["make_pdf.py", str(site[0]), str(tmp_path / "book.pdf")])
    assert make_pdf.main() == 1
    assert "apt-get install chromium" in capsys.readouterr().err
