"""Typical wrong answers to the exercises of chapters 10 to 12."""

from __future__ import annotations

from wrong_answers import Answers

ANSWERS: dict[str, Answers] = {}
