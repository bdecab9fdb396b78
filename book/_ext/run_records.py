"""The results page: tables written from run records, never typed.

A record is one file, ``microlab/book/results/<name>.json``. The directive ``{run-records}`` turns those that
it names into sections: the paper's figure, the bar we set ourselves, ours, and what stands beside them, with
the settings they came from. The role ``{score}`` writes one number of a record into a sentence. A record that
lacks a field, or has scores without a trivial baseline, stops the build.
"""

from __future__ import annotations

import fnmatch

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from microlab.book import records
from microlab.book.records import cell


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
            rows.append((f"{method} (trivial baseline)" if method == record["trivial"] else method, values))

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


def load(name: str) -> dict:
    """A record by its name, checked."""
    record = records.load(name)
    records.check(record, name)
    return record


class RunRecords(SphinxDirective):
    """``{run-records}``: the records that its lines name, in their order; a line may be a pattern, tem_*."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Parse the tables as part of the page."""
        text = []
        for pattern in self.content:
            names = fnmatch.filter(records.available(), pattern.strip())
            if not names:
                raise self.error(f"no record {pattern!r}; there are {records.available()}")
            for name in names:
                self.env.note_dependency(str(records.FOLDER / f"{name}.json"))
                text.append(markdown(load(name)))
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
            value = load(name)["scores"][method][measure]
        except KeyError as error:
            raise ValueError(f"{self.text}: there is no {error}") from None
        self.env.note_dependency(str(records.FOLDER / f"{name}.json"))
        return [nodes.inline("", cell(value))], []


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_directive("run-records", RunRecords)
    app.add_role("score", Score())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
