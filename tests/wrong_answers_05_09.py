"""Typical wrong answers to the exercises of chapters 05 to 09."""

from __future__ import annotations

from wrong_answers import Answers

ANSWERS: dict[str, Answers] = {}
