"""Typical wrong answers to every exercise with a check, and words of the hint for each.

Stubs and solutions come from the chapters themselves; they are here only where they need a chapter's data.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Answers:
    """Answers to one exercise.

    Attributes
    ----------
    wrong : list of (answer, str)
        Answer (a tuple, or a single value), and a pattern that its hint must match.
    context : callable
        Returns the keyword arguments of the check, new for each call.
    solution, stub : callable, optional
        Return answers, new for each call; by default those of the page's solution and stub.
    """

    wrong: list[tuple[object, str]]
    context: Callable[[], dict] = dict
    solution: Callable[[], tuple] | None = None
    stub: Callable[[], tuple] | None = None


PARTS = ("00_04", "05_09", "10_12", "13_14", "15", "16")


def all_answers() -> dict[str, Answers]:
    """Answers by label."""
    by_label: dict[str, Answers] = {}
    for part in PARTS:
        by_label |= importlib.import_module(f"wrong_answers_{part}").ANSWERS
    return by_label
