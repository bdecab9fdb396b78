"""How big a run is: one source of every chapter, three sizes.

``MICROLAB_PROFILE`` is ``smoke`` (does everything run?), ``laptop`` (the default: a convincing result
in minutes) or ``paper`` (the published settings). Only this module reads it.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

PROFILES = ("smoke", "laptop", "paper")


def profile() -> str:
    """Name of the profile in force.

    Returns
    -------
    str
        ``smoke``, ``laptop`` or ``paper``.

    Raises
    ------
    ValueError
        If ``MICROLAB_PROFILE`` names none of them.
    """
    name = os.environ.get("MICROLAB_PROFILE") or "laptop"
    if name not in PROFILES:
        raise ValueError(f"MICROLAB_PROFILE is {name!r}; it must be one of {', '.join(PROFILES)}")
    return name


def by_profile(*, smoke: T, laptop: T, paper: T) -> T:
    """Pick the value that belongs to the profile in force.

    Parameters
    ----------
    smoke, laptop, paper : any
        The value for each profile, all three written where the reader sees them.

    Returns
    -------
    The value for the profile in force.

    Raises
    ------
    ValueError
        If ``MICROLAB_PROFILE`` names no profile.

    Examples
    --------
    >>> steps = by_profile(smoke=60, laptop=600, paper=20_000)
    """
    return {"smoke": smoke, "laptop": laptop, "paper": paper}[profile()]
