"""Tables as CSV files: no exponents, and no cell that a spreadsheet takes for a formula."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from microlab.data.errors import printable
from microlab.data.files import atomic

DIGITS = 6  # significant ones of a number


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table without its index, whole or not at all.

    Numbers have six significant digits. A text that begins like a formula gets ``'`` in front, and what
    cannot be printed is written out (`printable`).

    Raises
    ------
    InputError, OSError
        As `microlab.data.files.atomic`.
    """
    table = table.rename(columns=cell)
    for name in table:
        column = table[name]
        if column.dtype.kind == "f":
            size = column[np.isfinite(column) & (column != 0)].abs()
            if len(size) and (
                size.min() < 1e-4 or size.max() >= 10**DIGITS - 0.5
            ):  # where %g turns to exponents
                table[name] = column.map(_without_exponent, na_action="ignore").astype(object)
        elif not pd.api.types.is_numeric_dtype(column):
            table[name] = column.map(cell, na_action="ignore")
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format=f"%.{DIGITS}g", encoding="utf-8")


def cell(value: object) -> object:
    """A value as a cell: text that no spreadsheet calculates, anything else as it is."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _without_exponent(value: float) -> str:
    return np.format_float_positional(value, DIGITS, unique=False, fractional=False, trim="-")
