"""Uncertainty without labels: views agree or contradict, and the score follows the error."""

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
def pixelwise_network(tmp_path_factory):
    """A network that uses single pixels only, so that its result does not depend on orientation."""
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


def test_the_views_are_the_eight_symmetries_and_each_can_be_undone():
    image = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    square = image[:, :5]
    assert len({view(square, k).tobytes() for k in range(VIEWS)}) == 8
    for k in range(VIEWS):
        np.testing.assert_array_equal(view_back(view(image, k), k), image)
    np.testing.assert_array_equal(view(image, 0), image)


def test_views_of_a_pixelwise_network_agree(pixelwise_network):
    uncertainty = estimate_uncertainty(grid(4, 5)[0], pixelwise_network, other=pixelwise_network)
    assert uncertainty.deviation_map.shape == (96, 120)
    assert uncertainty.deviation_map.max() < 1e-3  # half precision may round
    assert uncertainty.disagreement < 1e-3
    assert uncertainty.models < 1e-3


def lopsided(segmenter):
    """A network that marks the right third of its input as boundary: its views contradict one another."""

    class Right(torch.nn.Module):
        def forward(self, x):
            logits = segmenter.model(x)
            logits[..., 2 * x.shape[-1] // 3 :] = 9
            return logits

    return replace(segmenter, model=Right())


def test_the_map_shows_where_the_views_contradict_each_other(pixelwise_network):
    image = grid(5, 5)[0]
    uncertainty = estimate_uncertainty(image, lopsided(pixelwise_network), other=pixelwise_network)
    # Turned back, the third lies at each of the four sides in two of the eight views.
    inside, side = uncertainty.deviation_map[50:70, 50:70], uncertainty.deviation_map[50:70, :35]
    assert inside.max() < 1e-3
    grains = grid(5, 5)[1][50:70, :35]
    expected = np.sqrt(0.25 * 0.75)  # a quarter of the views says one, the others zero
    np.testing.assert_allclose(side[~grains], expected, atol=0.02)
    assert uncertainty.disagreement > 0.05
    assert uncertainty.models > 0.05


def test_empty_results_do_not_count_as_agreement(pixelwise_network):
    image = np.full((64, 64), 0.5, np.float32)
    image[:, :32] += 0.2  # a step, and not a dark line
    uncertainty = estimate_uncertainty(image, pixelwise_network, other=pixelwise_network)
    assert np.isnan(uncertainty.disagreement)
    assert np.isnan(uncertainty.models)


def test_a_zoomed_image_gets_a_map_of_its_own_size(pixelwise_network):
    uncertainty = estimate_uncertainty(grid(4, 5)[0], pixelwise_network, 0.75, views=2)
    assert uncertainty.deviation_map.shape == (96, 120)
    assert 0 <= uncertainty.deviation_map.min() <= uncertainty.deviation_map.max() <= 0.5


class Pixels(Segmenter):
    """Uses the grey level as boundary probability."""

    name, card = "pixels", {}

    def probability(self, image, zoom=1.0, *, progress=False):
        return image


class Corner(Pixels):
    """Marks the upper left corner of any input."""

    def probability(self, image, zoom=1.0, *, progress=False):
        marked = np.zeros_like(image)
        marked[:4, :4] = 1
        return marked


def test_any_segmenter_can_estimate_its_uncertainty():
    image = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    assert Pixels().segment(image, uncertainty=True).uncertainty.deviation_map.max() < 1e-6
    uncertainty = Corner().segment(image, uncertainty=True).uncertainty
    # The eight views map the corner to each of the four corners twice.
    np.testing.assert_allclose(uncertainty.deviation_map[0, 0], np.sqrt(0.25 * 0.75), atol=1e-6)
    assert uncertainty.deviation_map[8:32, 8:32].max() == 0


@pytest.mark.parametrize("views", [1, 9])
def test_one_view_cannot_disagree(pixelwise_network, views):
    with pytest.raises(ValueError, match=rf"views must lie in 2..8, got {views}"):
        estimate_uncertainty(grid(4, 5)[0], pixelwise_network, views=views)


def test_the_score_rises_with_the_true_error_under_rising_noise():
    segmenter = load_segmenter("label-free")
    shape = (144, 144)
    grown = phasefield.grow(voronoi.tessellate(voronoi.random_seeds(14, shape, 1), shape), 60).grain_map()
    errors, disagreements, deviations = [], [], []
    for seed, noise in enumerate((0.02, 0.1, 0.2, 0.3, 0.45, 0.7)):
        microscope = Microscope(detector_noise=noise)
        image, distance = render(grown, microscope, seed=seed, return_distance=True)
        truth = mask_grains(distance <= microscope.boundary_half_width)
        uncertainty = estimate_uncertainty(image, segmenter, views=4)
        errors.append(instance.adapted_rand_error(truth, segmenter.segment(image, zoom=1.0).labels))
        disagreements.append(uncertainty.disagreement)
        deviations.append(uncertainty.deviation)
    assert max(errors) > 0.2  # so that there is something to distinguish
    assert spearmanr(errors, disagreements).statistic > 0.7
    assert spearmanr(errors, deviations).statistic > 0.7
