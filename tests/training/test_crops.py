"""Crops: drawn uniformly, the same cut for every map of an image, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from microlab.training.crops import orientations, random_crops

ARRAYS = [np.arange(9 * 7).reshape(9, 7), np.arange(2 * 6 * 8).reshape(2, 6, 8)]


def test_a_crop_cuts_an_image_and_its_maps_alike():
    image = ARRAYS[1]
    for _, crop in random_crops([image], 4, 20, 0):
        part = crop(image)
        assert part.shape == (2, 4, 4)
        assert np.array_equal(part[1], crop(image[1]))
        assert np.array_equal(part[1], part[0] + 6 * 8)


def test_every_array_place_and_orientation_is_drawn_and_nothing_else():
    crops = list(random_crops(ARRAYS, 5, 3000, 1))
    assert {index for index, _ in crops} == {0, 1}
    places = [(c.rows.start, c.columns.start, c.turns, c.mirrored) for index, c in crops if index == 0]
    assert len(set(places)) == 5 * 3 * 8
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert counts.min() > 2  # 1500 / 120 = 12.5 on average


def test_shares_are_probabilities_of_the_arrays():
    drawn = [index for index, _ in random_crops(ARRAYS, 5, 2000, 0, shares=np.array([0.9, 0.1]))]
    assert np.mean(drawn) == pytest.approx(0.1, abs=0.03)


def test_upright_crops_are_plain_windows():
    image = ARRAYS[0]
    for _, crop in random_crops([image], 5, 20, 0, orient=False):
        assert np.array_equal(crop(image), image[crop.rows, crop.columns])


def test_crops_depend_on_the_seed_alone():
    assert list(random_crops(ARRAYS, 3, 9, [4, 7])) == list(random_crops(ARRAYS, 3, 9, [4, 7]))
    assert list(random_crops(ARRAYS, 3, 9, [4, 7])) != list(random_crops(ARRAYS, 3, 9, [4, 8]))


def test_the_eight_orientations_are_all_different_and_form_the_group_of_the_square():
    image = np.arange(12).reshape(1, 3, 4)
    turned = orientations(image)
    assert len({t.tobytes() + bytes(t.shape) for t in map(np.ascontiguousarray, turned)}) == 8
    assert {t.shape for t in turned} == {(1, 3, 4), (1, 4, 3)}
