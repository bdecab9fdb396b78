"""The bibliography and the citation of the book."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import citation
import pytest
import yaml
from pybtex.database import Entry, parse_file, parse_string

import microlab

ROOT = Path(__file__).resolve().parents[2]

PAGES = [*sorted((ROOT / "tutorials").glob("[0-9]*.md")), *sorted((ROOT / "book").rglob("*.md"))]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---- bibliography ----

BIBLIOGRAPHY = parse_file(str(ROOT / "book" / "references.bib")).entries
NOWHERE = {"vonneumann1952"}  # a discussion printed in 1952, in proceedings without DOI, ISBN or a page


def isbn_is_right(isbn: str) -> bool:
    return (
        bool(re.fullmatch(r"\d{13}", isbn))
        and sum(int(d) * (1, 3)[k % 2] for k, d in enumerate(isbn)) % 10 == 0
    )


def entry_faults(entry: Entry) -> list[str]:
    """Problems that keep a reader from finding the source."""
    doi, isbn, url = (entry.fields.get(name, "") for name in ("doi", "isbn", "url"))
    wrong = [] if doi or isbn or url else ["has no doi, isbn or url"]
    wrong += [f"doi {doi!r}"] if doi and not re.fullmatch(r"10\.\d{4,9}/[^\s{}]+", doi) else []
    wrong += [f"isbn {isbn!r}"] if isbn and not isbn_is_right(isbn) else []
    wrong += [f"url {url!r}"] if url and not re.fullmatch(r"https://[^\s{}]+", url) else []
    return wrong


@pytest.mark.parametrize("key", [key for key in BIBLIOGRAPHY if key not in NOWHERE])
def test_a_source_can_be_found(key):
    assert entry_faults(BIBLIOGRAPHY[key]) == []


def test_no_source_is_listed_twice():
    dois = Counter(entry.fields["doi"].lower() for entry in BIBLIOGRAPHY.values() if "doi" in entry.fields)
    assert [doi for doi, count in dois.items() if count > 1] == []
    assert sum(dois.values()) > 0.9 * len(BIBLIOGRAPHY)


def test_all_sources_are_cited_and_all_citations_exist():
    roles = [keys for page in PAGES for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", read(page))]
    cited = {key.strip() for keys in roles for key in keys.split(",")}
    assert sorted(cited - BIBLIOGRAPHY.keys()) == []
    assert sorted(BIBLIOGRAPHY.keys() - cited) == []


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("doi", "https://doi.org/10.1/x", "doi"),
        ("doi", "10.1/x", "doi"),
        ("isbn", "9780126372404", "isbn"),
        ("url", "example.org", "url"),
        ("note", "A talk", "has no"),
    ],
)
def test_a_source_that_cannot_be_found_is_reported(field, value, fault):
    (problem,) = entry_faults(Entry("misc", [(field, value)]))
    assert problem.startswith(fault)


# ---- cite this ----


def test_the_citation_has_the_version_of_the_package():
    assert citation.read()["version"] == microlab.__version__
    assert f'\nversion = "{microlab.__version__}"\n' in read(ROOT / "pyproject.toml")


def test_the_citation_parses_and_agrees_with_the_file():
    record = yaml.safe_load(read(ROOT / "CITATION.cff"))
    entry = parse_string(citation.bibtex(record), "bibtex").entries["microlab"]
    assert [str(person) for person in entry.persons["author"]] == [f"{{{record['authors'][0]['name']}}}"]
    assert entry.fields["title"] == record["title"]
    assert entry.fields["version"] == record["version"]
    assert entry.fields["url"] == record["repository-code"]
    for part in (record["title"], record["version"], str(record["date-released"].year), record["url"]):
        assert part in citation.sentence(record)


def test_people_are_cited_by_family_name():
    people = [
        {"family-names": "Okabe", "given-names": "Masataka"},
        {"family-names": "Ito", "given-names": "Kei"},
    ]
    record = citation.read() | {"authors": people}
    assert citation.sentence(record).startswith("Okabe, Masataka & Ito, Kei (")
    authors = parse_string(citation.bibtex(record), "bibtex").entries["microlab"].persons["author"]
    assert [author.last_names for author in authors] == [["Okabe"], ["Ito"]]
