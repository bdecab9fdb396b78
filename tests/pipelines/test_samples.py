"""Targets: real halves where available, else a stand-in that is marked as virtual."""

from __future__ import annotations

import numpy as np
import pytest

from microlab.data import datasets
from microlab.pipelines import samples


@pytest.mark.slow
def test_without_the_images_a_stand_in_says_that_it_is_virtual_and_why(monkeypatch, recwarn) -> None:
    def unavailable(*_, **__):
        raise datasets.DatasetError("no network")

    monkeypatch.setattr(datasets, "fetch", unavailable)
    stand_in = samples.target_or_stand_in("steel")
    assert stand_in.virtual
    assert stand_in.test.virtual
    assert "virtual" in stand_in.name
    assert "steel" in stand_in.test.about
    assert "no network" in stand_in.test.about
    assert stand_in.style.shape == stand_in.style.boundary.shape == stand_in.test.shape
    assert stand_in.style.boundary.dtype == bool
    assert not recwarn.list  # a page of the book would show a warning
    assert np.array_equal(stand_in.style.image, samples.target_or_stand_in("steel").style.image)


def test_an_unknown_target_is_refused() -> None:
    for make in (samples.target, samples.target_or_stand_in):
        with pytest.raises(ValueError, match="name must be one of perovskite, steel, got 'copper'"):
            make("copper")


@pytest.mark.skipif(
    not all(datasets.available(name) for name in samples.REAL_SAMPLES), reason="wants the real images"
)
@pytest.mark.parametrize("name", list(samples.REAL_SAMPLES))
def test_the_halves_of_a_real_target_make_the_whole_field(name: str) -> None:
    real = samples.target_or_stand_in(name)
    (field,) = datasets.load(name, labelled=True)
    assert not real.virtual
    assert np.array_equal(np.hstack([real.style.image, real.test.image]), field.image)
    assert np.array_equal(np.hstack([real.style.boundary, real.test.boundary]), field.boundary)
