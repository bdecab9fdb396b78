"""Shared by all studies: command line, provenance and storage of records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import microlab
from microlab.book import records
from microlab.training.devices import hardware


def parser(about: str, *, folder: bool = True) -> argparse.ArgumentParser:
    """Command line of a study: ``python -m studies.NAME [FOLDER] [--record]``.

    Parameters
    ----------
    about : str
        Docstring of the study, which is its help.
    folder : bool
        Whether it keeps trainings in a FOLDER, from which an interrupted call resumes.
    """
    command_line = argparse.ArgumentParser(
        prog=f"python -m studies.{Path(sys.argv[0]).parent.name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if folder:
        command_line.add_argument(
            "folder", type=Path, help="keeps the trained networks; an interrupted call resumes"
        )
    command_line.add_argument("--record", action="store_true", help="store it in microlab/book/results")
    return command_line


def origin(command: str, seconds: float, device: str | None = None) -> dict[str, Any]:
    """Provenance fields of a record.

    Parameters
    ----------
    command : str
        Command that reproduces the numbers.
    seconds : float
        Of the computation, trainings of earlier calls included.
    device : str, optional
        As `microlab.training.devices.pick_device` takes it.
    """
    return {
        "command": command,
        "hardware": hardware(device),
        "seconds": round(float(seconds), 1),
        "date": date.today().isoformat(),
        "versions": {"microlab": microlab.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def publish(name: str, record: dict[str, Any], store: bool) -> None:
    """Print the table of a record and its note; with `store`, write it for the book."""
    print(f"\n{records.table_text(record)}\n{record.get('note', '')}", flush=True)
    if store:
        print(f"stored: {records.write(name, record)}")


def spread(table: pd.DataFrame, measures: Sequence[str]) -> dict[str, float | list[float]]:
    """Mean and standard deviation of some columns over the rows (seeds), rounded; the mean alone of one row.

    Columns that are missing or all NaN are left out.
    """
    cells: dict[str, float | list[float]] = {}
    for measure in measures:
        if measure in table and not table[measure].isna().all():
            mean, deviation = float(table[measure].mean()), float(table[measure].std())
            cells[measure] = round(mean, 4) if np.isnan(deviation) else [round(mean, 4), round(deviation, 4)]
    return cells


def every_row(table: pd.DataFrame) -> dict[str, list]:
    """A table in the form of a record, four decimals and no NaN: ``{"columns": [...], "data": [[...]]}``."""
    data = [[_plain(value) for value in row] for row in table.astype(object).to_numpy()]
    return {"columns": [*map(str, table.columns)], "data": data}


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    return None if pd.isna(value) else round(float(value), 4)
