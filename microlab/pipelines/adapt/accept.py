"""Whether the adapted network is taken, or the default one kept; no label is needed.

    taken  =  smaller mean error where the truth is known
              and  on the images a mean quality at least that of the default
              and  no alarm on an image where the default rings none

No single sign is enough. The truth is known on simulations only, which may be unlike the images. And a
network that was trained on a narrow set can be confident where it is wrong, which makes its quality on the
images high: so known truth and alarms have to agree as well. Where they do not, nothing is lost: the images
are segmented as `microlab segment` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from microlab.data.micrograph import Micrograph
from microlab.segment.choice import alarms, choose, quality
from microlab.segment.segmenter import Segmenter

ERRORS = {"adapted": "adapted Rand error", "default": "adapted Rand error, default"}  # in `results.held_out`


@dataclass(frozen=True)
class Acceptance:
    """What was compared, and what speaks against the adapted network.

    Attributes
    ----------
    reasons : tuple of str
        Why the adapted network is not taken; empty if it is.
    table : pandas.DataFrame
        One row for each measure, columns ``adapted`` and ``default``.
    """

    reasons: tuple[str, ...]
    table: pd.DataFrame

    @property
    def taken(self) -> bool:
        return not self.reasons

    @property
    def line(self) -> str:
        """The result in one sentence."""
        if self.taken:
            return "The adapted network was taken: it is better on known truth and no worse on the images."
        return (
            f"The adapted network was NOT taken: {'; '.join(self.reasons)}. The images were segmented by the "
            "default, as microlab segment does."
        )


def look(micrographs: Mapping[str, Micrograph], segmenter: Segmenter, zoom: float | None = None) -> dict:
    """What images say about a segmenter (`microlab.segment.evidence`), as plain values.

    Parameters
    ----------
    micrographs : dict of str to Micrograph
    segmenter : Segmenter
    zoom : float, optional
        Magnification before it; by default that which it estimates.

    Returns
    -------
    dict
        Of each image ``method``, ``zoom``, ``quality`` and ``alarms``, the names of those that ring.
    """
    seen = {}
    for name, micrograph in micrographs.items():
        trial = choose(micrograph, segmenter.methods(), zoom=zoom).trial
        seen[name] = {
            "method": trial.segmenter.name,
            "zoom": trial.zoom,
            "quality": quality(trial.evidence),
            "alarms": list(alarms(trial.evidence)),
        }
    return seen


def judge(adapted: dict, default: dict, errors: Mapping[str, Sequence[float]]) -> Acceptance:
    """Apply the rule.

    Parameters
    ----------
    adapted, default : dict
        From `look`, of the same images.
    errors : mapping
        From `results.held_out`: adapted Rand errors of both networks on micrographs of known truth.
    """
    known = {which: float(np.mean(errors[column])) for which, column in ERRORS.items()}
    mean = {
        which: float(np.mean([row["quality"] for row in rows.values()]))
        for which, rows in (("adapted", adapted), ("default", default))
    }
    new = [name for name in adapted if adapted[name]["alarms"] and not default[name]["alarms"]]
    reasons = []
    if not known["adapted"] < known["default"]:
        reasons.append(
            "on virtual micrographs of known truth its mean adapted Rand error is {adapted:.3f}, that of the "
            "default {default:.3f}".format(**known)
        )
    if not mean["adapted"] >= mean["default"]:
        reasons.append(
            "its mean quality on the images is {adapted:.3f}, that of the default {default:.3f}".format(
                **mean
            )
        )
    if new:
        reasons.append(f"alarms ring on {', '.join(new)}, where the default rings none")
    ringing = [sum(bool(row["alarms"]) for row in rows.values()) for rows in (adapted, default)]
    rows = {
        "known truth: mean adapted Rand error (0 is best)": list(known.values()),
        "your images: mean quality (1 is best)": list(mean.values()),
        "your images: how many ring an alarm": ringing,
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(ERRORS)).astype(float)
    return Acceptance(tuple(reasons), table)
