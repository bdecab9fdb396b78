"""Stored results of long studies, as `microlab demo --real` and the book print them.

A record is one JSON file: what was measured on what, the scores of every method, settings, seeds, command,
machine and date. A score is a number, or [mean, standard deviation] over the seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


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
    return [
        *record.get("paper", {}).items(),
        *(
            (f"{name} (knows nothing)" if name == trivial else name, row)
            for name, row in record["scores"].items()
        ),
    ]


def table_text(record: dict[str, Any]) -> str:
    """A record as plain text for a terminal."""
    measures = list(next(iter(record["scores"].values())))
    found = rows(record)
    first = max(len(name) for name, _ in found)
    text = {
        name: [cell(row.get(measure)).replace(" (tolerance not stated)", "*") for measure in measures]
        for name, row in found
    }
    widths = [
        max(len(measure), *(len(line[k]) for line in text.values())) for k, measure in enumerate(measures)
    ]
    lines = [record["title"], record["data"], ""]
    lines.append("  ".join([" " * first, *(m.rjust(w) for m, w in zip(measures, widths))]))
    lines += [
        "  ".join([name.ljust(first), *(v.rjust(w) for v, w in zip(line, widths))])
        for name, line in text.items()
    ]
    if any("*" in value for line in text.values() for value in line):
        lines.append("* tolerance not stated")
    return "\n".join(lines)
