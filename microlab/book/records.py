"""Stored results of long studies: one JSON file each, written by `python -m studies.NAME --record`.

A record says what was measured on what, the scores of every method, settings, seeds, command, machine and
date. A score is a number, or [mean, standard deviation] over the seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from microlab.data.files import atomic

FOLDER = Path(__file__).parent / "results"
FIELDS = {
    "title": str,  # what was measured, in a line
    "data": str,  # on what: data set and which part of it
    "virtual": bool,  # True if the images are not real
    "scores": dict,  # {method: {measure: number, or [mean, standard deviation]}}, "ours" first
    "trivial": str,  # which of the methods is the trivial baseline
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
    "bar": dict,  # {measure: ">= 0.86"}, set before the run
    "note": str,
    "sets": dict,  # {method: what it was trained on}, of a study in which no row is ours alone
    "rows": dict,  # every single model of a study: {"columns": [...], "data": [[...], ...]}, for figures
}


def available() -> list[str]:
    """Names of the stored records."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """One record by its name.

    Raises
    ------
    ValueError
        If there is no such record.
    """
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"no record {name!r}; there are {', '.join(available()) or 'none'}")
    return json.loads(path.read_text(encoding="utf-8"))


def check(record: dict[str, Any], name: str) -> None:
    """Raise ValueError, naming the record and the field, if a record is not complete."""
    for field, kind in FIELDS.items():
        if not isinstance(record.get(field), kind):
            raise ValueError(f"{name}: field {field!r} is {record.get(field)!r}, which is not of {kind}")
    for field in record.keys() - FIELDS.keys() - OPTIONAL.keys():
        raise ValueError(f"{name}: unknown field {field!r}")
    for method in (*(() if "sets" in record else ("ours",)), record["trivial"]):
        if method not in record["scores"]:
            raise ValueError(f"{name}: no scores of {method!r}; there are {sorted(record['scores'])}")


def write(name: str, record: dict[str, Any]) -> Path:
    """Check a record and store it, whole or not at all; returns its file.

    Raises
    ------
    ValueError
        If the record is not complete, or holds NaN, which JSON does not know.
    """
    check(record, name)
    text = json.dumps(record, indent=None if "rows" in record else 1, ensure_ascii=False, allow_nan=False)
    with atomic(FOLDER / f"{name}.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return FOLDER / f"{name}.json"


def cell(value: float | str | list[float] | None) -> str:
    """One score as text, with its spread if there is one."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        mean, spread = value
        return f"{mean:.3f} ± {spread:.3f}"
    return f"{value:.4g}"


def rows(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Rows of a record's table, the paper's first: (name, {measure: score})."""
    trivial = record["trivial"]
    ours = {
        f"{name} (trivial baseline)" if name == trivial else name: row
        for name, row in record["scores"].items()
    }
    return [*record.get("paper", {}).items(), *ours.items()]


def table_text(record: dict[str, Any]) -> str:
    """A record as plain text for a terminal."""
    measures = list(next(iter(record["scores"].values())))
    text = {
        name: [cell(row.get(measure)).replace(" (tolerance not stated)", "*") for measure in measures]
        for name, row in rows(record)
    }
    first = max(map(len, text))
    widths = [max(map(len, column)) for column in zip(measures, *text.values())]
    lines = [record["title"], record["data"], ""]
    lines += [
        "  ".join([name.ljust(first), *(value.rjust(width) for value, width in zip(line, widths))])
        for name, line in {"": measures, **text}.items()
    ]
    if any("*" in value for line in text.values() for value in line):
        lines.append("* tolerance not stated")
    return "\n".join(lines)
