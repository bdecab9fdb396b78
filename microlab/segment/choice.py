"""Which segmenter an image is given to, and what to be careful with.

    default  ->  an alarm?  ->  the other segmenters, and the image inverted  ->  the best, or a warning

Alarms look at `microlab.segment.evidence`, so they need no truth. What they miss and how often they ring in
vain is measured by `studies/appearances --part alarms`, on virtual fields of known truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.segment.evidence import Evidence, gather, look_at_all
from microlab.segment.segmenter import Segmentation, Segmenter, checked_zoom

LIMITS: dict[str, tuple[float, str]] = {  # of `Evidence`: where an alarm rings, and what the user reads
    "disagreement": (0.18, "turned and mirrored, the image is segmented differently"),
    "confidence": (0.78, "the network is unsure on its own lines"),
    "largest": (0.3, "one grain takes much of the field, so boundaries may be missing"),
    "coverage": (0.4, "the image has many edges where no boundary was found"),
}
ADVICE = (
    "compare overlay.png with the image; then give the magnification (--scale), crop to one material, adapt "
    "the network (microlab adapt), or correct by hand"
)


def alarms(evidence: Evidence) -> dict[str, str]:
    """The signs that something is wrong: name of the sign, and a sentence with its value."""
    rings = {}
    for name, (limit, text) in LIMITS.items():
        value = getattr(evidence, name)  # NaN where a method cannot tell, and then nothing rings
        if value > limit if name in ("disagreement", "largest") else value < limit:
            rings[name] = f"{text} ({name} {value:.2f}, limit {limit:g})"
    return rings


def signs(evidence: Evidence) -> dict[str, float | None]:
    """Plain values for a file, None where a method cannot tell.

    Three digits: beyond them the number of threads decides.
    """
    return {name: None if np.isnan(value) else round(value, 3) for name, value in vars(evidence).items()}


def quality(evidence: Evidence) -> float:
    """How good a segmentation looks, for comparing several of one image; larger is better.

    Its Spearman correlation with the adapted Rand error is -0.88 over the 360 segmentations of virtual fields
    in the record `appearances_alarms`; of several sums of the signs it was the best on an earlier set of 78.
    """
    return evidence.confidence - evidence.disagreement - evidence.largest


def warn(evidence: Evidence) -> tuple[str, ...]:
    """At most one sentence for the user: which alarms ring and what to do next."""
    rings = alarms(evidence)
    return (f"This segmentation may be wrong: {'; '.join(rings.values())}. Next: {ADVICE}.",) if rings else ()


@dataclass(frozen=True)
class Trial:
    """One segmenter on one image: what it was, at which zoom, and the evidence."""

    segmenter: Segmenter
    zoom: float
    evidence: Evidence

    @property
    def record(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"method": self.segmenter.name, "zoom": self.zoom, **signs(self.evidence)}


@dataclass(frozen=True)
class Choice:
    """The segmenter to take for an image, and what was found on the way.

    Attributes
    ----------
    trial : Trial
        The best of those tried.
    tried : tuple of Trial
        All of them, the default first.
    """

    trial: Trial
    tried: tuple[Trial, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """At most one sentence about what may be wrong with the chosen segmentation and what to do next."""
        return warn(self.trial.evidence)

    @property
    def notes(self) -> tuple[str, ...]:
        """Which segmenter was taken, where it is not the default."""
        first, best = self.tried[0], self.trial
        if best is first:
            return ()
        reasons = ", ".join(alarms(first.evidence))
        return (
            f"Method {best.segmenter.name} was taken instead of {first.segmenter.name}, on which alarms rang "
            f"({reasons}); --method {first.segmenter.name} keeps it.",
        )


def choose(
    image: Micrograph | np.ndarray,
    candidates: Sequence[Segmenter],
    *,
    zoom: float | None = None,
) -> Choice:
    """Try the first candidate, and the others only where an alarm rings.

    Parameters
    ----------
    image : Micrograph or (H, W) array
    candidates : sequence of Segmenter
        The default first.
    zoom : float, optional
        Magnification before the segmenter; by default that which each estimates.

    Raises
    ------
    InputError
        If the first candidate cannot segment the image, or the zoom is not positive. Others that cannot are
        left out.
    """
    known = image.valid if isinstance(image, Micrograph) else None
    trials: list[Trial] = []
    for segmenter in candidates:
        try:
            grey = segmenter.check(image)
        except InputError:  # too small for it, for example
            if not trials:
                raise
            continue
        chosen = segmenter.estimate_zoom(image) if zoom is None else checked_zoom(zoom)
        trials.append(Trial(segmenter, chosen, gather(grey, segmenter, chosen, valid=known)))
        if not alarms(trials[0].evidence):
            break
    quiet = [trial for trial in trials if not alarms(trial.evidence)]
    best = max(quiet or trials, key=lambda trial: quality(trial.evidence))
    return Choice(best, tuple(trials))


@dataclass(frozen=True, eq=False)
class Inverted(Segmenter):
    """Another segmenter that sees the negative of every image."""

    inner: Segmenter

    @property
    def name(self) -> str:
        return f"{self.inner.name}, inverted"

    @property
    def card(self) -> dict:
        return self.inner.card

    @property
    def calibrated(self) -> bool:
        return self.inner.calibrated

    def check(self, image: Micrograph | np.ndarray) -> np.ndarray:
        return self.inner.check(image)

    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        return self.inner.probability(1 - image, zoom, progress=progress)

    def maps(
        self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return self.inner.maps(1 - image, zoom, progress=progress)

    def grains(
        self, probability: np.ndarray, zoom: float = 1.0, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.inner.grains(probability, zoom, valid)

    def estimate_zoom(self, image: Micrograph | np.ndarray) -> float:
        return self.inner.estimate_zoom(1 - self.check(image))


@dataclass(frozen=True, eq=False)
class AutoSegmenter(Segmenter):
    """The default method: a network that knows every appearance, and others where alarms ring.

    Attributes
    ----------
    candidates : tuple of Segmenter
        The default first.
    """

    candidates: tuple[Segmenter, ...]
    name: ClassVar[str] = "auto"
    by_blocks: ClassVar[bool] = True
    card: dict = field(default_factory=dict)

    @classmethod
    def load(
        cls, weights: str | None = None, device: str | None = None, twins: bool = False
    ) -> AutoSegmenter:
        from microlab.segment.registry import load_segmenter

        default = load_segmenter("appearances", device=device, twins=twins)
        lines = load_segmenter("label-free", device=device)
        # Not tem: the alarms do not notice its errors, so it would be taken where it is worst (chapter 15).
        return cls((default, lines, Inverted(lines)), default.card)

    def methods(self) -> tuple[Segmenter, ...]:
        return self.candidates

    def check(self, image: Micrograph | np.ndarray) -> np.ndarray:
        return self.candidates[0].check(image)

    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        return self.candidates[0].probability(image, zoom, progress=progress)

    def maps(
        self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return self.candidates[0].maps(image, zoom, progress=progress)

    def estimate_zoom(self, image: Micrograph | np.ndarray) -> float:
        return self.candidates[0].estimate_zoom(image)

    def segment(
        self,
        image: Micrograph | np.ndarray,
        *,
        zoom: float | None = None,
        uncertainty: bool = False,
        progress: bool = False,
    ) -> Segmentation:
        choice = choose(image, self.candidates, zoom=zoom)
        best = choice.trial
        result = best.segmenter.segment(image, zoom=best.zoom, uncertainty=uncertainty, progress=progress)
        return with_choice(result, choice, self.check(image))


def with_choice(result: Segmentation, choice: Choice, image: np.ndarray | None = None) -> Segmentation:
    """A segmentation that says how it was chosen and what may be wrong with it.

    Parameters
    ----------
    result : Segmentation
    choice : Choice
    image : (H, W) float32, optional
        As `Segmenter.check` returns it: then all of it is looked at for alarms. Otherwise the middle counts,
        which `choose` looked at.
    """
    segmenter, evidence = choice.trial.segmenter, choice.trial.evidence
    if image is not None:
        evidence = look_at_all(image, result, evidence, segmenter.calibrated)
    record = {"method": segmenter.name, "tried": [trial.record for trial in choice.tried]}
    return replace(
        result,
        notes=(*choice.notes, *result.notes),
        warnings=warn(evidence),
        record=result.record | record | {"evidence": signs(evidence)},
    )
