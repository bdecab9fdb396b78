"""A card says what was trained, where, when, for how long and in which precision."""

from __future__ import annotations

from datetime import date

from microlab.data.weights import CARD_FIELDS
from microlab.segment.unet import UNet
from microlab.training.cards import model_card
from microlab.training.fit import History

FACTS = {"trained_by": "a test", "data": "none", "scores": {"toy: IoU": 1.0}, "seed": 3}


def test_a_card_has_every_field_that_weights_need():
    rows = [{"step": 1, "seconds": 30.0}, {"step": 2, "validation_loss": 1.0}, {"step": 4, "seconds": 90.0}]
    card = model_card(UNet(width=4, depth=2), History(rows, precision="bfloat16"), **FACTS, classes=["a"])
    assert not set(CARD_FIELDS) - set(card)
    assert card["architecture"] == "UNet"
    assert UNet(**card["parameters"]).architecture == card["parameters"]
    assert (card["minutes"], card["training_precision"]) == (1.5, "bfloat16")
    assert (card["date"], card["classes"], card["licence"]) == (date.today().isoformat(), ["a"], "MIT")


def test_given_fields_take_precedence():
    card = model_card(UNet(width=4, depth=2), **FACTS, licence="yours", minutes=7, hardware="a laptop")
    assert (card["licence"], card["minutes"], card["hardware"]) == ("yours", 7, "a laptop")
