"""Segmentation by blocks gives the result of the watershed of the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from dark_lines import save_network
from scipy import ndimage

from microlab.data.micrograph import Micrograph
from microlab.render import sem
from microlab.segment import blocks
from microlab.segment.blocks import boundary_by_blocks, segment_by_blocks, watershed_by_blocks
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.unet import UNetSegmenter
from microlab.simulate import voronoi

SHAPE = (420, 560)


def by_blocks(probability: np.ndarray, **how: object) -> tuple[np.ndarray, int]:
    labels = np.zeros(probability.shape, np.int32)
    return labels, watershed_by_blocks(probability, labels, **how)


def assert_same_grains(result: np.ndarray, expected: np.ndarray) -> None:
    """The same partition of the pixels, up to the numbering; grains of `result` are 1..n."""
    pairs = np.unique(np.stack([result.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(result)) == len(np.unique(expected))
    np.testing.assert_array_equal(np.setdiff1d(result, 0), np.arange(1, result.max() + 1))


@pytest.fixture(scope="module")
def polycrystal() -> np.ndarray:
    """Grain map (H, W) of about 400 grains, 24 px across."""
    seeds = voronoi.random_seeds(400, SHAPE, np.random.default_rng(1))
    return voronoi.tessellate(seeds, SHAPE)


@pytest.fixture(scope="module")
def probability(polycrystal) -> np.ndarray:
    """Like a network's output: lines with noise and gaps; no two pixels are equal, so there are no ties."""
    line = np.zeros(SHAPE, bool)
    line[:-1] |= polycrystal[:-1] != polycrystal[1:]
    line[:, :-1] |= polycrystal[:, :-1] != polycrystal[:, 1:]
    distance = ndimage.distance_transform_edt(~line)
    rough = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(SHAPE), 2)
    logit = 4 - 1.5 * distance.clip(max=6) + 1.5 * rough / rough.std()
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


@pytest.mark.parametrize(("block", "halo"), [(192, 96), (150, 75), (300, 100)])
def test_grains_are_those_of_the_whole_image(probability, block, halo):
    labels, cuts = by_blocks(probability, block=block, halo=halo)
    assert_same_grains(labels, watershed_grains(probability))
    assert cuts == 0


def test_gaps_stay_empty(probability):
    labels, _ = by_blocks(probability, block=192, halo=96, gaps=True)
    np.testing.assert_array_equal(labels == 0, probability >= 0.5)


def test_a_grain_across_four_blocks_is_one():
    y, x = np.mgrid[:200, :200]
    ring = np.abs(np.hypot(y - 100, x - 100) - 60)
    labels, cuts = by_blocks(np.exp(-((ring / 2) ** 2)).astype(np.float32), block=100, halo=50)
    assert (labels[100, 100] == labels[ring * (np.hypot(y - 100, x - 100) < 60) > 4]).all()
    assert labels.max() == 2
    assert cuts == 0


def test_blocks_that_disagree_are_counted_and_still_fill_the_image(probability):
    """With a halo of two pixels a block does not contain the grains on its seams."""
    labels, cuts = by_blocks(probability, block=140, halo=2)
    assert (labels > 0).all()
    assert cuts > 5
    assert by_blocks(probability, block=140, halo=32)[1] == 0


def test_a_halo_wider_than_half_a_block_is_refused(probability):
    with pytest.raises(ValueError, match=r"halo must lie in 2\.\.50"):
        by_blocks(probability, block=100, halo=51)


@pytest.mark.parametrize("block", [37, 150])
def test_boundary_is_that_of_the_whole_image(probability, block):
    labels = watershed_grains(probability)
    boundary = np.zeros(SHAPE, bool)
    boundary_by_blocks(probability, labels, boundary, block=block)
    np.testing.assert_array_equal(boundary, closed_boundary(probability, labels))


def test_a_scratch_counts_only_where_some_block_connects_it_to_a_line():
    labels = np.ones((90, 90), np.int32)
    labels[:, 80:] = 2
    probability = np.zeros((90, 90), np.float32)
    np.fill_diagonal(probability, 1)  # reaches the line from three blocks away, through their corners
    probability[70, 5:60] = 1
    boundary = np.zeros((90, 90), bool)
    boundary_by_blocks(probability, labels, boundary, block=30)
    np.testing.assert_array_equal(boundary, closed_boundary(probability, labels))
    assert boundary[0, 0]
    assert not boundary[70, 30]


@pytest.mark.parametrize("zoom", [1.0, 0.8])
def test_the_segmentation_by_blocks_equals_that_in_memory(polycrystal, tmp_path, zoom):
    image = sem.render(polycrystal, sem.Microscope(), seed=3)
    segmenter = UNetSegmenter.load(save_network(tmp_path / "dark.safetensors"))
    whole = segmenter.segment(image, zoom=zoom)
    by_blocks = segment_by_blocks(image, segmenter, tmp_path / "maps", zoom=zoom, block=200, halo=100)
    np.testing.assert_allclose(by_blocks.probability, whole.probability, atol=1e-6)  # one step of float32
    assert_same_grains(by_blocks.labels, whole.labels)
    np.testing.assert_array_equal(by_blocks.boundary, whole.boundary)
    assert "3 x 3 blocks" in by_blocks.notes[0]
    assert "agree about every grain" in by_blocks.notes[0]
    assert list((tmp_path / "maps").iterdir()) == []


@dataclass(frozen=True, eq=False)
class LeavesOutTheTop(UNetSegmenter):
    """Finds that the uppermost rows do not show the specimen."""

    def maps(self, image, zoom=1.0, *, progress=False, folder=None):
        probability, _ = super().maps(image, zoom, progress=progress, folder=folder)
        found = np.ones(image.shape, bool)
        found[:40] = False
        return probability, found


def test_a_field_of_view_that_is_known_counts_beside_the_one_that_is_found(polycrystal, tmp_path):
    image = sem.render(polycrystal, sem.Microscope(), seed=3)
    network = UNetSegmenter.load(save_network(tmp_path / "dark.safetensors"))
    known = np.ones(SHAPE, bool)
    known[:, 400:] = False
    micrograph, both = Micrograph(image, valid=known), known.copy()
    both[:40] = False
    for segmenter, expected in (
        (network, known),
        (LeavesOutTheTop(network.model, network.card), both),
    ):
        whole = segmenter.segment(micrograph, zoom=1.0)
        by_blocks = segment_by_blocks(micrograph, segmenter, tmp_path / "maps", zoom=1.0, block=200, halo=100)
        for result in (whole, by_blocks):
            np.testing.assert_array_equal(result.valid, expected)
            np.testing.assert_array_equal(result.labels > 0, expected)
    assert known[:40, :400].all()  # the user's array is left as it was


def test_the_halo_depends_on_the_grain_size():
    assert blocks.default_halo(None, 1.0) == blocks.HALO
    assert blocks.default_halo(40.0, 1.0) == 240
    assert blocks.default_halo(40.0, 0.5) == 480
    assert blocks.default_halo(40.0, 8.0) == blocks.HALO_RANGE[0]


def test_the_field_of_view_is_respected_block_by_block(probability):
    valid = np.ones(SHAPE, bool)
    valid[300:, 100:330] = False
    valid[:150, :60] = False
    labels, _ = by_blocks(probability, block=192, halo=96, valid=valid)
    whole = watershed_grains(probability, valid=valid)
    assert_same_grains(labels, whole)
    boundary = np.zeros(SHAPE, bool)
    boundary_by_blocks(probability, labels, boundary, block=150, valid=valid)
    np.testing.assert_array_equal(boundary, closed_boundary(probability, whole, valid=valid))
