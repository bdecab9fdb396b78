"""When to look at a picture oneself: rules made of warnings, and what they cost (chapter 15).

    alarm if warning > x,     balanced accuracy = 1 - (false alarms + misses) / 2

x is set on some pictures and judged on others.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from microlab.failures import BAD, WARNINGS


def halves(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures to set a rule on, and to judge it on: of even and of odd polycrystals, never of the same."""
    odd = table["seed"] % 2 == 1
    return table[~odd], table[odd]


def best_threshold(warning: np.ndarray, bad: np.ndarray) -> float:
    """The x of "look yourself if the warning exceeds x" that errs least on given pictures.

    Parameters
    ----------
    warning : (N,) float
    bad : (N,) bool
        Whether the segmentation is unusable.

    Returns
    -------
    float
        Halfway between two warnings; the highest that maximises the mean of the share of bad pictures
        caught and the share of good ones let through.

    Raises
    ------
    ValueError
        If all pictures are good, or all are bad: nothing could be set.
    """
    warning, bad = np.asarray(warning, float), np.asarray(bad, bool)
    if bad.all() or not bad.any():
        raise ValueError(f"a rule needs good and bad pictures, got {bad.sum()} bad of {bad.size}")
    values = np.unique(warning)
    candidates = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1]]])
    caught = (warning[bad] > candidates[:, None]).mean(1)
    let_through = (warning[~bad] <= candidates[:, None]).mean(1)
    balance = caught + let_through
    return float(candidates[np.flatnonzero(balance >= balance.max() - 1e-12)[-1]])


def judge(alarm: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    """How good alarms were: false alarms, misses, and their balance.

    Parameters
    ----------
    alarm, bad : (N,) bool

    Returns
    -------
    dict
        ``false alarms``: share of the good pictures with an alarm; ``misses``: share of the bad ones without;
        ``balanced accuracy``: one minus the mean of the two, 0.5 for whoever always or never looks.
    """
    alarm, bad = np.asarray(alarm, bool), np.asarray(bad, bool)
    false, missed = alarm[~bad].mean(), (~alarm[bad]).mean()
    return {
        "false alarms": float(false),
        "misses": float(missed),
        "balanced accuracy": float(1 - (false + missed) / 2),
    }


def rules(setting: pd.DataFrame, testing: pd.DataFrame, limit: float = BAD) -> pd.DataFrame:
    """Rules set on some pictures and judged on others.

    Parameters
    ----------
    setting, testing : DataFrame
        As :func:`microlab.failures.sweep` gives them.
    limit : float
        Adapted Rand error beyond which a segmentation is bad.

    Returns
    -------
    DataFrame
        One row per rule: its threshold and what :func:`judge` says. "either" raises the alarm if the
        disagreement or the largest grain does, at their own thresholds.
    """
    bad_then, bad = (table["adapted Rand error"] > limit for table in (setting, testing))
    found, alarms = {}, {}
    for name in WARNINGS:
        threshold = best_threshold(setting[name], bad_then)
        alarms[name] = testing[name] > threshold
        found[name] = {"threshold": threshold} | judge(alarms[name], bad)
    either = alarms["disagreement"] | alarms["largest grain"]
    found["either"] = {"threshold": np.nan} | judge(either, bad)
    found["always look"] = {"threshold": np.nan} | judge(np.ones(len(bad), bool), bad)
    return pd.DataFrame(found).T.rename_axis("rule")
