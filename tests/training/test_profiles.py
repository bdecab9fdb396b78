"""The three sizes of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from microlab.training.profiles import PROFILES, by_profile, profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("name", "steps"), [("smoke", 1), ("laptop", 2), ("paper", 3)])
def test_the_environment_picks_the_size(monkeypatch, name, steps):
    monkeypatch.setenv("MICROLAB_PROFILE", name)
    assert profile() == name
    assert by_profile(smoke=1, laptop=2, paper=3) == steps


@pytest.mark.parametrize("unset", [None, ""])
def test_laptop_is_the_default(monkeypatch, unset):
    monkeypatch.delenv("MICROLAB_PROFILE", raising=False)
    if unset is not None:
        monkeypatch.setenv("MICROLAB_PROFILE", unset)
    assert profile() == "laptop"


def test_an_unknown_profile_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("MICROLAB_PROFILE", "quick")
    with pytest.raises(ValueError, match=r"quick.*smoke, laptop, paper"):
        by_profile(smoke=1, laptop=2, paper=3)


def test_no_other_module_reads_the_profile():
    readers = [
        path.name
        for path in (ROOT / "microlab").rglob("*.py")
        if re.search(r"environ.*MICROLAB_PROFILE", path.read_text(encoding="utf-8"))
    ]
    assert readers == ["profiles.py"]
    assert PROFILES == ("smoke", "laptop", "paper")
