"""How big a run is: one source of every chapter, three sizes.

``MICROLAB_PROFILE`` is ``smoke`` (does everything run?), ``laptop`` (the default: a convincing result
in minutes) or ``paper`` (the published settings). Only this module reads it.
"""

from __future__ import annotations

import os
from typing import TypeVar

from microlab.data.errors import InputError

T = TypeVar("T")

PROFILES = ("smoke", "laptop", "paper")


def profile() -> str:
    """Name of the profile in force.

    Raises
    ------
    InputError
        If ``MICROLAB_PROFILE`` names none of `PROFILES`.
    """
    name = os.environ.get("MICROLAB_PROFILE") or "laptop"
    if name not in PROFILES:
        raise InputError(f"MICROLAB_PROFILE is {name!r}; it must be one of {', '.join(PROFILES)}")
    return name


def by_profile(*, smoke: T, laptop: T, paper: T) -> T:
    """Pick the value for the profile in force.

    Examples
    --------
    >>> steps = by_profile(smoke=60, laptop=600, paper=20_000)
    """
    return {"smoke": smoke, "laptop": laptop, "paper": paper}[profile()]
