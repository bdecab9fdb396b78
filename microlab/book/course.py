"""Hidden tests of the assignments: random numbers from a secret course seed, and a comparison in pure Python.

The sources of the assignments, hidden tests included, are public. The numbers of a hidden test are drawn from
a seed that only the instructor has, so they cannot be hard-coded in an answer.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any

import numpy as np

SEED = "MICROLAB_COURSE_SEED"  # the environment variable; a course's nbgrader_config.py sets it


def hidden_rng(test: str) -> np.random.Generator:
    """Random numbers of one hidden test.

    Parameters
    ----------
    test : str
        Name of the test; each has its own numbers.

    Returns
    -------
    numpy.random.Generator
        The same for the same course seed and name.

    Raises
    ------
    ValueError
        If the environment holds no course seed.
    """
    seed = os.environ.get(SEED, "")
    if not seed:
        raise ValueError(
            f"{SEED} is {seed!r}; it must be the course's secret seed. Grade in the course folder."
        )
    digest = hashlib.sha256(f"{seed}/{test}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def close(got: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """True if an answer has the expected shape and numbers.

    Numbers are compared one by one with `math.isclose`, so that patching NumPy's comparison or overloading an
    operator has no effect.

    Parameters
    ----------
    got, expected : float, sequence, array or tensor
    tolerance : float
        Relative, and absolute for numbers below 1. NaN equals NaN.

    Returns
    -------
    bool
        False too if `got` holds no numbers.
    """
    try:
        got_shape, got_numbers = _numbers(got)
    except (TypeError, ValueError):
        return False
    shape, numbers = _numbers(expected)
    return got_shape == shape and all(
        (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
        for a, b in zip(got_numbers, numbers, strict=True)
    )


def _numbers(value: Any) -> tuple[tuple[int, ...], list[float]]:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    array = np.asarray(value, dtype=float)
    return array.shape, array.ravel().tolist()
