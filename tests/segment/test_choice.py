"""Which segmenter is taken, and when the user is warned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dark_lines import grid

from microlab.data.errors import ImageError
from microlab.data.micrograph import Micrograph
from microlab.segment import choice
from microlab.segment.choice import LIMITS, AutoSegmenter, Inverted, alarms, choose, quality
from microlab.segment.classical import Ridge
from microlab.segment.evidence import Evidence
from microlab.segment.segmenter import Segmenter

GOOD = Evidence(
    disagreement=0.02, confidence=0.9, largest=0.05, coverage=0.9, support=0.95, explained=0.3, grains=90
)
WORSE = {"disagreement": 1.0, "confidence": 0.0, "largest": 1.0, "coverage": 0.0}


class Named(Segmenter):
    card = {}

    def __init__(self, name: str) -> None:
        self.name = name

    def probability(self, image, zoom=1.0, *, progress=False):
        return np.zeros(image.shape, np.float32)


def chosen(monkeypatch, **evidence: Evidence) -> choice.Choice:
    """The choice among segmenters of these names, each with the evidence given."""
    asked = []

    def told(image, segmenter, zoom, valid):
        asked.append(segmenter.name)
        return evidence[segmenter.name]

    monkeypatch.setattr(choice, "gather", told)
    result = choose(np.random.default_rng(0).random((64, 64)), [Named(name) for name in evidence], zoom=1.0)
    assert [trial.segmenter.name for trial in result.tried] == asked
    return result


def test_a_good_segmentation_rings_no_alarm():
    assert alarms(GOOD) == {}


@pytest.mark.parametrize("sign", LIMITS)
def test_each_sign_rings_beyond_its_limit_and_says_its_value(sign):
    limit, text = LIMITS[sign]
    for step, rings in ((-1e-6, WORSE[sign] < limit), (1e-6, WORSE[sign] > limit)):
        evidence = replace(GOOD, **{sign: limit + step})
        assert (sign in alarms(evidence)) == rings
    (sentence,) = alarms(replace(GOOD, **{sign: WORSE[sign]})).values()
    assert text in sentence
    assert f"{WORSE[sign]:.2f}" in sentence


def test_what_a_method_cannot_tell_rings_nothing_and_is_null_in_the_record():
    signs = replace(GOOD, confidence=np.nan)
    assert alarms(signs) == {}
    assert choice.Trial(Named("one"), 1.0, signs).record["confidence"] is None


def test_the_last_digits_that_depend_on_the_number_of_threads_are_not_recorded():
    other = replace(GOOD, confidence=GOOD.confidence + 1e-7)
    assert choice.signs(other) == choice.signs(GOOD) == vars(GOOD)


def test_without_an_alarm_the_others_are_not_tried(monkeypatch):
    result = chosen(monkeypatch, first=GOOD, second=replace(GOOD, confidence=1.0))
    assert result.trial.segmenter.name == "first"
    assert len(result.tried) == 1
    assert result.warnings == result.notes == ()


def test_an_alarm_gives_way_to_a_method_without_one(monkeypatch):
    bad = replace(GOOD, disagreement=0.6)
    result = chosen(monkeypatch, first=bad, second=replace(bad, coverage=0.1), third=GOOD)
    assert result.trial.segmenter.name == "third"
    assert result.warnings == ()
    (note,) = result.notes
    assert "third was taken instead of first" in note
    assert "disagreement" in note


def test_where_all_ring_the_best_is_taken_and_the_user_is_told_what_to_do(monkeypatch):
    bad = replace(GOOD, disagreement=0.6, coverage=0.2)
    result = chosen(monkeypatch, first=bad, second=replace(bad, disagreement=0.4))
    assert result.trial.segmenter.name == "second"
    (warning,) = result.warnings
    for word in ("disagreement 0.40", "coverage 0.20", "--scale", "microlab adapt", "overlay.png"):
        assert word in warning


def test_a_method_that_cannot_take_the_image_is_left_out(monkeypatch):
    class Large(Named):
        def check(self, image):
            raise ImageError("too small for it")

    bad = replace(GOOD, disagreement=0.6)
    monkeypatch.setattr(choice, "gather", lambda image, segmenter, zoom, valid: bad)
    image = np.random.default_rng(0).random((64, 64))
    result = choose(image, [Named("first"), Large("second"), Named("third")], zoom=1.0)
    assert [trial.segmenter.name for trial in result.tried] == ["first", "third"]
    with pytest.raises(ImageError, match="too small"):
        choose(image, [Large("first"), Named("second")], zoom=1.0)


@pytest.mark.parametrize("sign", ["disagreement", "confidence", "largest"])
def test_every_sign_lowers_the_quality(sign):
    assert quality(replace(GOOD, **{sign: WORSE[sign]})) < quality(GOOD)


def test_the_negative_of_an_image_is_segmented_as_the_image_is_by_the_inverted_method():
    class Dark(Ridge):
        def probability(self, image, zoom=1.0, *, progress=False):
            from microlab.segment.classical import ridge

            return ridge(image, 1.5, "dark")

    image, _ = grid(6, 6)
    plain, inverted = Dark().segment(image, zoom=1.0), Inverted(Dark()).segment(1 - image, zoom=1.0)
    np.testing.assert_allclose(plain.probability, inverted.probability, atol=1e-5)
    assert np.array_equal(plain.labels, inverted.labels)
    assert plain.labels.max() == 36
    assert Dark().segment(1 - image, zoom=1.0).labels.max() != 36


def test_a_method_without_an_alarm_goes_before_one_that_looks_better_but_rings(monkeypatch):
    ringing = replace(GOOD, coverage=0.1, confidence=0.99, disagreement=0.0, largest=0.01)
    quiet = replace(GOOD, confidence=0.8, disagreement=0.15, largest=0.25)
    assert quality(quiet) < quality(ringing)
    assert chosen(monkeypatch, first=ringing, second=quiet).trial.segmenter.name == "second"


def test_a_fault_outside_of_the_middle_is_warned_of():
    """The choice compares views of the middle; the boundaries are right there and missing elsewhere."""

    class Middle(Segmenter):
        name, card = "middle", {}

        def probability(self, image, zoom=1.0, *, progress=False):
            found = np.where(image < 0.3, 0.95, 0.02).astype(np.float32)
            if max(image.shape) > 512:
                found[:, 980:] = 0.02
            return found

    image, _ = grid(20, 60)
    assert image.shape == (480, 1440)
    segmenter = AutoSegmenter((Middle(),))
    assert segmenter.segment(image[:, 464:976].copy(), zoom=1.0).warnings == ()
    whole = segmenter.segment(image, zoom=1.0)
    assert whole.record["tried"][0]["largest"] < 0.1  # all is well in the middle
    assert whole.record["evidence"]["largest"] > 0.3
    (warning,) = whole.warnings
    assert "largest" in warning


def test_the_evidence_heeds_the_field_of_view_of_the_micrograph():
    image, _ = grid(12, 12)
    valid = np.ones(image.shape, bool)
    valid[:, image.shape[1] // 2 :] = False
    result = AutoSegmenter((Ridge(),)).segment(Micrograph(image, valid=valid), zoom=1.0)
    assert not result.labels[~valid].any()
    assert result.record["tried"][0]["grains"] == result.labels.max() < 12 * 12 * 0.6
