"""Claims about uncertainty without labels: views agree or contradict, and the score follows the error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dark_lines import grid, save_network
from scipy.stats import spearmanr

from microlab.measure import instance
from microlab.measure.scores import mask_grains
from microlab.render.sem import Microscope, render
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmenter
from microlab.segment.uncertainty import VIEWS, estimate_uncertainty, view, view_back
from microlab.simulate import phasefield, voronoi


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A network that looks at single pixels only, so that no turn can change its mind."""
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


def test_the_views_are_the_eight_symmetries_and_each_comes_back():
    image = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    square = image[:, :5]
    assert len({view(square, k).tobytes() for k in range(VIEWS)}) == 8
    for k in range(VIEWS):
        np.testing.assert_array_equal(view_back(view(image, k), k), image)
    np.testing.assert_array_equal(view(image, 0), image)


def test_views_of_a_network_that_sees_single_pixels_agree(by_hand):
    found = estimate_uncertainty(grid(4, 5)[0], by_hand, other=by_hand)
    assert found.deviation_map.shape == (96, 120)
    assert found.deviation_map.max() < 1e-3  # half precision may round
    assert found.disagreement < 1e-3
    assert found.models < 1e-3


def lopsided(segmenter):
    """A network that calls the right third of its input boundary: its views contradict one another."""

    class Right(torch.nn.Module):
        def forward(self, x):
            logits = segmenter.model(x)
            logits[..., 2 * x.shape[-1] // 3 :] = 9
            return logits

    return replace(segmenter, model=Right())


def test_the_map_shows_where_the_views_contradict_each_other(by_hand):
    image = grid(5, 5)[0]
    found = estimate_uncertainty(image, lopsided(by_hand), other=by_hand)
    # Turned back, the third lies at each of the four sides in two of the eight views.
    inside, side = found.deviation_map[50:70, 50:70], found.deviation_map[50:70, :35]
    assert inside.max() < 1e-3
    grains = grid(5, 5)[1][50:70, :35]
    expected = np.sqrt(0.25 * 0.75)  # a quarter of the views says one, the others zero
    np.testing.assert_allclose(side[~grains], expected, atol=0.02)
    assert found.disagreement > 0.05
    assert found.models > 0.05


def test_nothing_found_is_no_agreement(by_hand):
    image = np.full((64, 64), 0.5, np.float32)
    image[:, :32] += 0.2  # a step, and not a dark line
    found = estimate_uncertainty(image, by_hand, other=by_hand)
    assert np.isnan(found.disagreement)
    assert np.isnan(found.models)


def test_a_zoomed_image_gets_a_map_of_its_own_size(by_hand):
    found = estimate_uncertainty(grid(4, 5)[0], by_hand, 0.75, views=2)
    assert found.deviation_map.shape == (96, 120)
    assert 0 <= found.deviation_map.min() <= found.deviation_map.max() <= 0.5


class Pixels(Segmenter):
    """Takes the grey level for the probability of a boundary."""

    name, card = "pixels", {}

    def probability(self, image, zoom=1.0, *, progress=False):
        return image


class Corner(Pixels):
    """Marks the upper left corner, whatever it sees."""

    def probability(self, image, zoom=1.0, *, progress=False):
        marked = np.zeros_like(image)
        marked[:4, :4] = 1
        return marked


def test_any_segmenter_can_be_asked_for_its_views():
    image = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    assert Pixels().segment(image, uncertainty=True).uncertainty.deviation_map.max() < 1e-6
    found = Corner().segment(image, uncertainty=True).uncertainty
    # Eight views lay the corner on each of the four corners twice.
    np.testing.assert_allclose(found.deviation_map[0, 0], np.sqrt(0.25 * 0.75), atol=1e-6)
    assert found.deviation_map[8:32, 8:32].max() == 0


@pytest.mark.parametrize("views", [1, 9])
def test_one_view_cannot_disagree(by_hand, views):
    with pytest.raises(ValueError, match=rf"views must lie in 2..8, got {views}"):
        estimate_uncertainty(grid(4, 5)[0], by_hand, views=views)


def test_the_score_rises_with_the_true_error_under_rising_noise():
    segmenter = load_segmenter()
    shape = (144, 144)
    grown = phasefield.grow(voronoi.tessellate(voronoi.random_seeds(14, shape, 1), shape), 60).grain_map()
    errors, disagreements, deviations = [], [], []
    for seed, noise in enumerate((0.02, 0.1, 0.2, 0.3, 0.45, 0.7)):
        microscope = Microscope(detector_noise=noise)
        image, distance = render(grown, microscope, seed=seed, return_distance=True)
        truth = mask_grains(distance <= microscope.boundary_half_width)
        found = estimate_uncertainty(image, segmenter, views=4)
        errors.append(instance.adapted_rand_error(truth, segmenter.segment(image, zoom=1.0).labels))
        disagreements.append(found.disagreement)
        deviations.append(found.deviation)
    assert max(errors) > 0.2  # else there is nothing to tell apart
    assert spearmanr(errors, disagreements).statistic > 0.7
    assert spearmanr(errors, deviations).statistic > 0.7
