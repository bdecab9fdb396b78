"""Run the reader's function: diagnose faults common to all exercises, and compare with a reference.

The reference is an independent implementation. A *mistake* is a function that makes a known mistake: if the
reader's function agrees with it in every case, and the correct one does not, the hint names the mistake.
"""

from __future__ import annotations

import copy
import inspect
import linecache
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from microlab.book.exercises import Mistake, NotYet

EMPTY = (None, Ellipsis)


def _is_empty(value: object) -> bool:
    return any(value is empty for empty in EMPTY)


def format_value(value: object) -> str:
    """Short text of a value."""
    if isinstance(value, tuple):
        return f"({', '.join(map(format_value, value))})"
    if isinstance(value, str) or callable(value):
        return getattr(value, "__name__", repr(value))
    try:
        array = np.asarray(value)
    except Exception:  # a reader's object may raise anything
        return type(value).__name__
    if array.dtype == object:
        return type(value).__name__
    if array.ndim == 0:
        return f"{array.item():.6g}" if array.dtype.kind in "iuf" else str(array.item())
    if array.size > 6:
        return f"an array {array.shape}"
    return np.array2string(array, precision=4, separator=", ", suppress_small=True)


def _call_text(function: Callable, arguments: Sequence) -> str:
    return f"`{getattr(function, '__name__', 'your function')}({', '.join(map(format_value, arguments))})`"


def _error_line(function: Callable, error: BaseException) -> str:
    """The reader's line that raised an error."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not frames:
        return ""
    line = (frames[-1].line or linecache.getline(file, frames[-1].lineno)).strip()
    return f", in line {frames[-1].lineno}" + (f": `{line}`" if line else "")


def check_callable(answer: object) -> None:
    """Raise `Mistake` or `NotYet` if an answer is not a function."""
    if _is_empty(answer):
        raise NotYet("there is no function yet, or it was called: hand in its name without brackets")
    if not callable(answer):
        raise Mistake(
            f"hand in the function itself, its name without brackets, not its value {format_value(answer)}"
        )


def _unchanged(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) or hasattr(first, "detach"):
        return np.array_equal(np.asarray(first), np.asarray(second), equal_nan=False)
    return True  # numbers and tuples are immutable; other objects are not compared


def _array(value: object, call: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        array = np.asarray(value)
    except Exception as error:
        raise Mistake(f"{call} gives {type(value).__name__}, which is no array of numbers") from error
    if array.dtype.kind not in "biufc":
        raise Mistake(
            f"{call} gives {format_value(value)}, a {type(value).__name__}, where numbers are wanted"
        )
    return array


def _examine(value: object, like: object, call: str) -> None:
    """Raise `Mistake` if a value differs from `like` in type or shape."""
    if isinstance(like, tuple):
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != len(like):
            raise Mistake(f"{call} gives {format_value(value)}; {len(like)} values are wanted, `return a, b`")
        for part, expected in zip(value, like, strict=True):
            if _is_empty(part):
                raise NotYet(f"{call} still gives {part} for one of its values")
            _examine(part, expected, call)
        return
    array, expected = _array(value, call), np.asarray(like.detach() if hasattr(like, "detach") else like)
    if array.shape != expected.shape:
        form = f"shape {array.shape}" if array.ndim else "a single number"
        right = f"shape {expected.shape}" if expected.ndim else "a single number"
        raise Mistake(f"{call} gives {form}, and {right} is wanted")
    if array.dtype.kind == "c":
        raise Mistake(f"{call} gives complex numbers; take the real part of what a Fourier transform returns")
    if expected.dtype.kind == "b" and array.dtype.kind != "b":
        raise Mistake(f"{call} gives {array.dtype}, and True or False is wanted (bool)")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        if np.isnan(array).any():
            raise Mistake(f"{call} gives NaN: is zero divided by zero, or the logarithm of zero taken?")
        raise Mistake(f"{call} gives infinity: is something divided by zero?")


def run(function: Callable, *arguments: object, like: object = None) -> object:
    """The value of the reader's function for copies of the arguments.

    Parameters
    ----------
    like : object, optional
        A right value; the reader's must have its shape and kind.

    Raises
    ------
    NotYet
        If the function is empty.
    Mistake
        If it raises, changes an argument, or gives NaN or another shape or kind than `like`.
    """
    check_callable(function)
    call = _call_text(function, arguments)
    handed = copy.deepcopy(arguments)
    try:
        inspect.signature(function).bind(*handed)
    except TypeError as error:
        raise Mistake(f"{call} is called with {len(handed)} arguments: {error}") from error
    except ValueError:  # a builtin without a signature
        pass
    try:
        value = function(*handed)
    except NotImplementedError as error:
        raise NotYet("the function is still empty") from error
    except Exception as error:
        name = type(error).__name__
        raise Mistake(f"{call} raises {name}{_error_line(function, error)}. It says: {error}") from error
    if _is_empty(value):
        raise NotYet(
            "the function gives nothing. Write its body in place of `...`, and end every way with `return`"
        )
    for number, (before, after) in enumerate(zip(arguments, handed, strict=True), start=1):
        if not _unchanged(before, after):
            raise Mistake(f"{call} changes its argument number {number}; work on a copy of it")
    if like is not None:
        _examine(value, like, call)
    return value


def agree(first: object, second: object, rtol: float = 1e-6, atol: float = 1e-9) -> bool:
    """True if two values of one form are equal within the tolerance."""
    if isinstance(second, tuple):
        return len(first) == len(second) and all(
            agree(a, b, rtol, atol) for a, b in zip(first, second, strict=True)
        )
    first, second = (np.asarray(v.detach() if hasattr(v, "detach") else v) for v in (first, second))
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=rtol, atol=atol))


def _common_error(outputs: list, expected: list) -> str | None:
    """The error that all outputs share, if any: a factor, a sign, exchanged axes."""
    if any(isinstance(value, tuple) for value in expected):
        return None
    if all(np.ndim(w) == 2 and agree(np.transpose(f), w) for f, w in zip(outputs, expected, strict=True)):
        return "rows and columns are exchanged"
    flat = [
        np.concatenate([np.ravel(np.asarray(v, float)) for v in values]) for values in (outputs, expected)
    ]
    nonzero = flat[1] != 0
    if len(flat[0]) < 2 or not nonzero.any() or np.abs(flat[0][~nonzero]).max(initial=0) > 1e-9:
        return None
    ratio = flat[0][nonzero] / flat[1][nonzero]
    if len(ratio) > 1 and np.ptp(ratio) < 1e-6 * abs(ratio[0]) and np.ptp(flat[1]) > 0:
        if abs(ratio[0] + 1) < 1e-6:
            return "the sign is wrong in every case, and only the sign"
        return f"a constant factor is wrong: you give {ratio[0]:.6g} times the right answer in every case"
    return None


def compare(
    function: Callable,
    reference: Callable | Sequence,
    cases: Iterable[tuple],
    mistakes: Mapping[str, Callable] | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    reveal: bool = True,
) -> None:
    """Compare the reader's function with a reference in several cases.

    Parameters
    ----------
    reference : callable or sequence
        Function that gives the right values, or the right values themselves.
    cases : iterable of tuple
        Arguments of each case.
    mistakes : mapping of str to callable
        Hint, and the function that makes the mistake.
    reveal : bool
        Show the expected value of the first case that is wrong.

    Raises
    ------
    NotYet, Mistake
        If the function is not right.
    """
    cases = list(cases)
    expected = [reference(*copy.deepcopy(case)) for case in cases] if callable(reference) else list(reference)
    outputs = [run(function, *case, like=value) for case, value in zip(cases, expected, strict=True)]
    wrong = [k for k in range(len(cases)) if not agree(outputs[k], expected[k], rtol, atol)]
    if not wrong:
        return
    for hint, blunder in (mistakes or {}).items():
        mistaken = [blunder(*copy.deepcopy(case)) for case in cases]
        if all(agree(f, m, rtol, atol) for f, m in zip(outputs, mistaken, strict=True)):
            raise Mistake(hint)
    if common := _common_error(outputs, expected):
        raise Mistake(common)
    first = wrong[0]
    right = f", and {format_value(expected[first])} is right" if reveal else ", which is not right"
    raise NotYet(f"{_call_text(function, cases[first])} gives {format_value(outputs[first])}{right}")


def number(
    answer: object,
    expected: float,
    mistakes: Mapping[str, float] | None = None,
    *,
    rtol: float = 0.01,
    atol: float = 0.0,
    accept: Callable[[float], bool] | None = None,
    name: str = "your number",
) -> None:
    """Compare a number of the reader with the right one.

    Parameters
    ----------
    mistakes : mapping of str to float
        Hint, and the number that the mistake leads to.
    accept : callable, optional
        Criterion of a correct answer, if it is not closeness to `expected`.

    Raises
    ------
    NotYet, Mistake
        If the number is not right within the tolerance.
    """
    if _is_empty(answer):
        raise NotYet("the answer is still empty")
    if hasattr(answer, "item") and np.size(answer) == 1:
        answer = answer.item()
    if callable(answer) or not isinstance(answer, numbers.Real) or isinstance(answer, bool):
        raise Mistake(f"{name} is {format_value(answer)}; a number is wanted")
    if not np.isfinite(answer):
        raise Mistake(f"{name} is {answer}: is something divided by zero?")

    def near(value: float) -> bool:
        return abs(answer - value) <= max(rtol * abs(value), atol)

    if accept(answer) if accept else near(expected):
        return
    for hint, value in (mistakes or {}).items():
        if near(value):
            raise Mistake(hint)
    raise NotYet(f"{name}, {format_value(answer)}, is too {'large' if answer > expected else 'small'}")
