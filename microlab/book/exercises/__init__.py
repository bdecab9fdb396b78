"""Checks behind the book's exercises: the reader submits an answer and gets feedback that names the mistake.

    from microlab.book import exercises

    exercises.check("voronoi-ex-needle", needle_over_mean)

The first argument is the exercise's label in the book. One module per chapter holds its checks. They need no
network, and less than a second each.

A check is a function that takes the reader's answer. It raises `NotYet` or `Mistake` with a hint, or returns
a remark on a correct answer.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass

RIGHT, NOT_YET, MISTAKE = "right", "not yet", "mistake"
_LOOK = {RIGHT: ("✓", "#009E73"), NOT_YET: ("…", "#E69F00"), MISTAKE: ("✗", "#CC79A7")}
_CHECKS: dict[str, Callable[..., str | None]] = {}


@dataclass(frozen=True, repr=False)
class Feedback:
    """Result of a check.

    Attributes
    ----------
    status : str
        ``right``, ``not yet`` (empty, or wrong for an unknown reason) or ``mistake`` (`text` names it).
    text : str
        The hint, or a remark on a right answer. Code stands between backticks.
    """

    status: str
    text: str

    @property
    def right(self) -> bool:
        """True if the answer is right."""
        return self.status == RIGHT

    def __repr__(self) -> str:
        return f"{self.status}: {self.text}" if self.text else self.status

    def _repr_html_(self) -> str:
        sign, colour = _LOOK[self.status]
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(self.text)).replace("\n", "<br>")
        return (
            f'<div style="border-left: 0.3em solid {colour}; padding: 0.2em 0.8em">'
            f"<strong>{sign} {self.status.capitalize()}{':' if text else '.'}</strong> {text}</div>"
        )


class Fault(Exception):
    """Why an answer is not right; raised inside checks only."""

    status = NOT_YET


class NotYet(Fault):
    """The answer is empty, or wrong for an unknown reason."""


class Mistake(Fault):
    """The answer is wrong for a reason that the message names."""

    status = MISTAKE


def check_for(label: str) -> Callable[[Callable], Callable]:
    """Register a function as the check of the exercise `label`.

    Raises
    ------
    ValueError
        If the label has a check already.
    """

    def register(grade: Callable[..., str | None]) -> Callable[..., str | None]:
        if label in _CHECKS:
            raise ValueError(f"exercise {label!r} has a second check in {grade.__module__}")
        _CHECKS[label] = grade
        return grade

    return register


def _modules() -> dict[str, str]:
    """Modules by the first part of their labels: ``ch03_grain_growth`` holds ``grain-growth-ex-*``."""
    package = importlib.import_module("microlab.book.exercises")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    chapters = [name for name in names if re.match(r"ch\d\d_", name)]
    return {re.sub(r"^ch\d\d_", "", name).replace("_", "-"): name for name in chapters}


def labels() -> list[str]:
    """Labels of all exercises that have a check, in the order of the chapters."""
    for name in _modules().values():
        importlib.import_module(f"microlab.book.exercises.{name}")
    return list(_CHECKS)


def check(label: str, *answers: object, **context: object) -> Feedback:
    """Say whether the answer to an exercise is right, and if not, why.

    Never raises because of a wrong answer, an empty one, or an error inside the reader's function.

    Parameters
    ----------
    label : str
        The exercise's label in the book, such as ``voronoi-ex-needle``.
    *answers : object
        The answer: a function (without brackets behind its name), a number, an array, or several of them.
    **context : object
        Variables of the chapter that the check needs, such as the mask that the answer belongs to.

    Returns
    -------
    Feedback
        Shown by a notebook as the value of the cell.

    Raises
    ------
    ValueError
        If no exercise with a check has this label.
    """
    prefix = label.partition("-ex-")[0]
    modules = _modules()
    if prefix in modules:
        importlib.import_module(f"microlab.book.exercises.{modules[prefix]}")
    if label not in _CHECKS:
        registered = [name for name in labels() if name.startswith(f"{prefix}-ex-")] or labels()
        raise ValueError(f"no check for exercise {label!r}; there is one for {', '.join(registered)}")
    try:
        remark = _CHECKS[label](*answers, **context)
    except Fault as fault:
        return Feedback(fault.status, str(fault))
    return Feedback(RIGHT, remark or "")
