"""Pictures of two phases: their content, and how boundaries of each kind are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dark_lines import save_network

from microlab.book.experiments import two_phases
from microlab.render.sem import Microscope
from microlab.segment.registry import load_segmenter
from microlab.segment.unet import UNet, UNetSegmenter

QUIET = Microscope(electrons=1e5, detector_noise=0.0, charging=0.0, grain_spread=0.0, tilt=0.0, shading=0.0)


@pytest.fixture(scope="module")
def solid():
    return two_phases.grow(1, size=96, number=9, steps=30)


@pytest.fixture(scope="module")
def dark_pixel_network(tmp_path_factory):
    """A network with hand-set weights that marks dark pixels as boundaries."""
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


def halves(border_column: int = 48) -> two_phases.PhasePicture:
    """A phase border down the middle and a grain boundary across, both one pixel wide."""
    truth, border = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    truth[:, border_column] = truth[30, :] = True
    border[:, border_column] = True
    return two_phases.PhasePicture(np.zeros((96, 96), np.float32), truth, border)


def test_every_grain_is_of_one_phase_and_both_phases_occur(solid):
    for grain in np.unique(solid.grain_map):
        assert len(np.unique(solid.phase_map[solid.grain_map == grain])) == 1
    assert 0.1 < solid.phase_map.mean() < 0.7


def test_the_phases_differ_in_the_picture_by_the_step(solid):
    picture = two_phases.render(solid, 3, step=0.3, groove=1.0, microscope=QUIET)
    inside = ~picture.truth
    bright, dark = (np.median(picture.image[inside & (solid.phase_map == k)]) for k in (1, 0))
    assert bright - dark == pytest.approx(0.3, abs=0.05)  # texture and illumination


def test_a_border_is_where_the_phases_change(solid):
    picture = two_phases.render(solid, 3, microscope=QUIET)
    changes = solid.phase_map != np.roll(solid.phase_map, 1, 1)
    assert picture.border[changes].all()
    assert 0.05 < (picture.border & picture.truth).sum() / picture.truth.sum() < 0.95


def test_recall_counts_each_kind_of_boundary_separately():
    picture = halves()
    only_border = picture.border.copy()
    recalls = two_phases.recalls(picture, only_border)
    assert recalls["recall, phase borders"] == 1
    assert recalls["recall, grain boundaries"] == pytest.approx(6 / 95)  # what is within 3 px of the border
    shifted = np.roll(picture.truth, 4, 1)
    assert two_phases.recalls(picture, shifted)["recall, phase borders"] == pytest.approx(7 / 96)  # of row 30
    empty_recalls = two_phases.recalls(picture, np.zeros_like(picture.truth))
    assert set(empty_recalls.values()) == {0.0}


def test_recall_of_an_absent_kind_is_nan():
    picture = halves()
    one = two_phases.PhasePicture(picture.image, picture.border, picture.border)
    assert np.isnan(two_phases.recalls(one, one.truth)["recall, grain boundaries"])


def test_fine_tuning_does_not_change_the_given_network(solid):
    network = UNetSegmenter(UNet(width=2, depth=2).eval(), {"watershed": {}})
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    training_pictures = [two_phases.render(solid, 4)]
    tuned_states = [
        two_phases.fine_tune(network, training_pictures, 2, crop=64, batch=2).model.state_dict()
        for _ in range(2)
    ]
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in tuned_states[0].items())
    # Reproducible.
    assert all(torch.equal(value, tuned_states[1][name]) for name, value in tuned_states[0].items())


@pytest.mark.slow
def test_the_study_compares_every_method_with_the_trivial_one(dark_pixel_network, monkeypatch):
    monkeypatch.setattr(two_phases, "fine_tune", lambda network, *_, **__: network)
    table = two_phases.study(dark_pixel_network, structures=1, pictures=2, test=1, steps=1)
    assert set(table["method"]) == {
        "shipped",
        "trained on two phases",
        "control, trained on one",
        two_phases.TRIVIAL,
    }
    assert len(table) == 4 * 2
    trivial = table[table["method"] == two_phases.TRIVIAL]
    assert (trivial["boundary F1, 3 px"] == 0).all()
    assert (trivial["recall, phase borders"] == 0).all()
    # Fine-tuning is replaced by the identity, so the three networks are the same.
    scores = table.set_index(["groove", "method"])["adapted Rand error"]
    assert (
        scores[0.0, "shipped"]
        == scores[0.0, "trained on two phases"]
        == scores[0.0, "control, trained on one"]
    )
