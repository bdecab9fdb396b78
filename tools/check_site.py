"""Check the built book offline: links, anchors, ids, alternative texts, addresses of other sites, page size.

python tools/check_site.py _build/html
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

MAX_KIB = 3000  # a page with a slider contains its pictures
COMMENT = re.compile(r"/\*.*?\*/", re.S)
# An address in a string of a script or in a url() of a style, whether it is ever loaded or not.
ADDRESS = re.compile(r"""(?:["'`]|url\(\s*)((?:https?:)?//[\w-]+(?:\.[\w-]+)+[^\s"'`)]*)""")
NAMESPACES = "http://www.w3.org/"  # names of XML vocabularies, never loaded


class Page(HTMLParser):
    """The links, resources, ids and labels of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.images: list[tuple[str, str]] = []  # (source, alternative text)
        self.labelled: set[str] = set()
        self.inputs: list[str] = []
        self.headings = 0
        self.language = ""
        self.code: list[str] = []  # inline scripts and styles
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        a = {key: value or "" for key, value in attributes}
        self._inside = tag in ("script", "style")
        if a.get("id"):
            self.ids[a["id"]] += 1
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video") and a.get("src"):
            self.resources.append(a["src"])
        if (
            tag == "link"
            and {"stylesheet", "preload", "icon"} & set(a.get("rel", "").split())
            and a.get("href")
        ):
            self.resources.append(a["href"])
        if tag == "img":
            self.images.append((a.get("src", ""), a.get("alt", "")))
        if tag == "label" and a.get("for"):
            self.labelled.add(a["for"])
        if tag == "input" and a.get("type") == "range":
            self.inputs.append(a.get("id", ""))
        if tag == "h1":
            self.headings += 1
        if tag == "html":
            self.language = a.get("lang", "")

    def handle_endtag(self, tag: str) -> None:
        """A script or style ends with its tag."""
        self._inside = False

    def handle_data(self, data: str) -> None:
        """Collect what stands in scripts and styles."""
        if self._inside:
            self.code.append(data)


def foreign_addresses(code: str) -> list[str]:
    """Addresses of other sites in the strings of a script or style, comments left out."""
    found = ADDRESS.findall(COMMENT.sub("", code))
    return sorted({address for address in found if not address.startswith(NAMESPACES)})


def check_reference(root: Path, page: Path, reference: str, pages: dict[Path, Page]) -> str | None:
    """The problem with a link inside the site, or None."""
    url = urlsplit(reference)
    if url.scheme or reference.startswith("//"):
        return None
    target = (page.parent / unquote(url.path)).resolve() if url.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(root) or not target.exists():
        return f"leads nowhere: {reference}"
    anchor = unquote(url.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return f"no such anchor: {reference}"
    return None


def check_page(root: Path, path: Path, pages: dict[Path, Page]) -> list[str]:
    """Problems of one page."""
    page = pages[path]
    problems = [check_reference(root, path, reference, pages) for reference in page.links + page.resources]
    problems += [
        f"loads from the network: {reference}"
        for reference in page.resources
        if reference.startswith(("http://", "https://", "//"))
    ]
    problems += [
        f"names another site: {address}" for code in page.code for address in foreign_addresses(code)
    ]
    problems += [f"id used {count} times: {name}" for name, count in page.ids.items() if count > 1]
    for source, alt in page.images:
        # Without a text from the author, Sphinx inserts the file's path.
        if not alt.strip() or re.fullmatch(r"\S*_images/\S+", alt.strip()):
            problems.append(f"image without words: {source[:60]}")
    problems += [f"slider without a label: {name}" for name in page.inputs if name not in page.labelled]
    redirect = page.headings == 0 and path == root / "index.html"  # the start page only redirects to the book
    if not redirect:
        if page.headings != 1:
            problems.append(f"{page.headings} top headings, not one")
        if not page.language:
            problems.append("no language")
    kib = path.stat().st_size // 1024
    if kib > MAX_KIB:
        problems.append(f"{kib} KiB, more than {MAX_KIB}")
    return [problem for problem in problems if problem]


def check_site(root: Path) -> tuple[int, list[str]]:
    """Number of pages under `root`, and their problems, as ``page: problem``.

    Raises
    ------
    ValueError
        If there is no page.
    """
    root = root.resolve()
    paths = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.relative_to(root).parts]
    if not paths:
        raise ValueError(f"no page under {root}; build the book first: make book")
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    problems = [
        f"{path.relative_to(root)}: {problem}" for path in paths for problem in check_page(root, path, pages)
    ]
    for path in sorted(root.glob("_static/**/*")):
        if path.suffix in (".js", ".mjs", ".css"):
            code = path.read_text(encoding="utf-8")
            problems += [
                f"{path.relative_to(root)}: names another site: {address}"
                for address in foreign_addresses(code)
            ]
    return len(pages), problems


def main() -> int:
    """Command line."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    try:
        count, problems = check_site(Path(sys.argv[1]))
    except ValueError as error:
        print(error)
        return 2
    print(*problems, f"{count} pages checked, {len(problems)} problems", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
