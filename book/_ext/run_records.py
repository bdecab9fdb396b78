"""The results page: tables written from run records, never typed.

A record is one file ``book/results/<name>.json``. The directive ``{run-records}`` turns each into a section:
the paper's figure, the bar we set ourselves, ours, and what stands beside them, with the settings they came
from. A record that lacks a field, or has a score without its trivial predictor, stops the build.
"""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from microlab import results

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
    table += [[name, *[results.cell(values.get(measure)) for measure in measures]] for name, values in rows]
    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
    seeds = ", ".join(map(str, record["seed"])) if isinstance(record["seed"], list) else record["seed"]
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    lines = [
        f"## {record['title']}",
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


class RunRecords(SphinxDirective):
    """``{run-records}``: every record of the package and of ``book/results``, in the order of their names."""

    def run(self) -> list[nodes.Node]:
        """Parse the tables as part of the page."""
        folders = [results.FOLDER, Path(self.env.srcdir) / "book" / "results"]
        text = []
        for folder in folders:
            self.env.note_dependency(str(folder))
        for path in (path for folder in folders for path in sorted(folder.glob("*.json"))):
            record = json.loads(path.read_text(encoding="utf-8"))
            check(record, path.name)
            text.append(markdown(record))
        parent = nodes.Element()
        parent.document = self.state.document
        self.state.nested_parse(
            StringList("\n".join(text).split("\n"), source="run records"),
            self.content_offset,
            parent,
            match_titles=1,
        )
        return parent.children


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("run-records", RunRecords)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
