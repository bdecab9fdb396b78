"""CITATION.cff as text: the line and the BibTeX entry of the README and the book."""

from __future__ import annotations

from typing import Any

import yaml
from addresses import ROOT

PATH = ROOT / "CITATION.cff"


def read() -> dict[str, Any]:
    """Contents of CITATION.cff."""
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def names(record: dict[str, Any]) -> list[str]:
    """Authors as ``Family, Given``, or the name of a group."""
    return [
        author["name"] if "name" in author else f"{author['family-names']}, {author['given-names']}"
        for author in record["authors"]
    ]


def sentence(record: dict[str, Any]) -> str:
    """One line, close to APA style."""
    authors, year = " & ".join(names(record)), record["date-released"].year
    return f"{authors} ({year}). {record['title']} (version {record['version']}). {record['url']}"


def bibtex(record: dict[str, Any]) -> str:
    """A BibTeX entry; the braces around a group's name keep BibTeX from splitting it."""
    authors = [
        f"{{{name}}}" if "name" in author else name for author, name in zip(record["authors"], names(record))
    ]
    return "\n".join(
        [
            "@software{microlab,",
            f"  author = {{{' and '.join(authors)}}},",
            f"  title = {{{record['title']}}},",
            f"  version = {{{record['version']}}},",
            f"  year = {{{record['date-released'].year}}},",
            f"  url = {{{record['repository-code']}}}",
            "}",
        ]
    )
