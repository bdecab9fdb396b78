"""The results page: tables written from run records, never typed.

A record is one file, ``book/results/<name>.json`` or among the package's own. The directive ``{run-records}``
turns those it names into sections: the paper's figure, the bar we set ourselves, ours, and what stands beside
them, with the settings they came from. The role ``{score}`` writes one number of a record into a sentence. A
record that lacks a field, or has a score without its trivial predictor, stops the build.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from microlab.book.records import FOLDER, cell

FIELDS = {
    "title": str,  # what was measured, in a line
    "data": str,  # on what: data set and which part of it
    "virtual": bool,  # True if the images are not real
    "scores": dict,  # {method: {measure: number, or [mean, standard deviation]}}, "ours" first
    "trivial": str,  # which of the methods knows nothing
    "settings": dict,  # everything that would change the numbers
    "seed": (int, list),
    "command": str,  # what prints these numbers again
    "hardware": str,
    "seconds": (int, float),
    "date": str,  # YYYY-MM-DD
    "versions": dict,  # {package: version}
}
OPTIONAL = {
    "paper": dict,  # {measure: figure}, or {row: {measure: figure}} where the paper has several
    "bar": dict,
    "note": str,
    "sets": dict,  # {method: what it was trained on}, of a study in which no row is ours alone
    "rows": dict,  # every single model of a study: {"columns": [...], "data": [[...], ...]}, for figures
}


def check(record: dict, name: str) -> None:
    """Raise ValueError, naming the file and the field, if a record is not complete."""
    for field, kind in FIELDS.items():
        if not isinstance(record.get(field), kind):
            raise ValueError(f"{name}: field {field!r} is {record.get(field)!r}, which is not of {kind}")
    for field in record.keys() - FIELDS.keys() - OPTIONAL.keys():
        raise ValueError(f"{name}: unknown field {field!r}")
    for method in (*(() if "sets" in record else ("ours",)), record["trivial"]):
        if method not in record["scores"]:
            raise ValueError(f"{name}: no scores of {method!r}; there are {sorted(record['scores'])}")


def markdown(record: dict) -> str:
    """A record as a section of MyST Markdown."""
    scores = record["scores"]
    measures = list(next(iter(scores.values())))
    rows = []
    paper = record.get("paper", {})
    if paper and all(isinstance(value, dict) for value in paper.values()):
        rows += paper.items()
    elif paper:
        rows.append(("paper, on its own data", paper))
    if "bar" in record:
        rows.append(("bar we set", record["bar"]))
    if "ours" in scores:
        rows.append(("**ours**", scores["ours"]))
    for method, values in scores.items():
        if method != "ours":
            rows.append((f"{method} (knows nothing)" if method == record["trivial"] else method, values))

    table = [["", *measures], ["---", *["---:"] * len(measures)]]
    table += [[name, *[cell(values.get(measure)) for measure in measures]] for name, values in rows]
    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
    seeds = ", ".join(map(str, record["seed"])) if isinstance(record["seed"], list) else record["seed"]
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    lines = [
        f"### {record['title']}",
        "",
        f"{'Measured on **virtual** images. ' if record['virtual'] else ''}{record['data']}",
        "",
        *["| " + " | ".join(row) + " |" for row in table],
        "",
        *([record["note"], ""] if "note" in record else []),
        *[f"- {name}: {what}" for name, what in record.get("sets", {}).items()],
        "",
        f"Printed by `{record['command']}` on {record['date']}, {record['hardware']},"
        f" {record['seconds']:.0f} s, seed {seeds}. Settings: {settings}. Versions: {versions}.",
        "",
    ]
    return "\n".join(lines)


def records(book: Path) -> dict[str, Path]:
    """Files of all records, by name: the package's and those of the folder `book`."""
    return {path.stem: path for folder in (FOLDER, book / "results") for path in folder.glob("*.json")}


def load(path: Path) -> dict:
    """A record, checked."""
    record = json.loads(path.read_text(encoding="utf-8"))
    check(record, path.name)
    return record


class RunRecords(SphinxDirective):
    """``{run-records}``: the records that its lines name, in their order; a line may be a pattern, tem_*."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the tables as part of the page."""
        known = records(Path(self.env.srcdir) / "book")
        text = []
        for pattern in self.content:
            names = sorted(name for name in known if fnmatch(name, pattern.strip()))
            if not names:
                raise self.error(f"no record {pattern!r}; there are {sorted(known)}")
            for name in names:
                self.env.note_dependency(str(known[name]))
                text.append(markdown(load(known[name])))
        parent = nodes.Element()
        parent.document = self.state.document
        self.state.nested_parse(
            StringList("\n".join(text).split("\n"), source="run records"),
            self.content_offset,
            parent,
            match_titles=1,
        )
        return parent.children


class Score(SphinxRole):
    """``{score}`record :: method :: measure```: one number of a record, as its table shows it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up; what is not there stops the build."""
        name, method, measure = (part.strip() for part in self.text.split("::"))
        try:
            path = records(Path(self.env.srcdir) / "book")[name]
            value = load(path)["scores"][method][measure]
        except KeyError as error:
            raise ValueError(f"{self.text}: there is no {error}") from None
        self.env.note_dependency(str(path))
        return [nodes.inline("", cell(value))], []


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("run-records", RunRecords)
    app.add_role("score", Score())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
