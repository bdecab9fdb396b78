"""Test lines for a visual check: they lie in the image, and their counts agree with geometry."""

from __future__ import annotations

import numpy as np
import pytest
from dark_lines import grid
from hypothesis import given
from hypothesis import strategies as st

from microlab.measure.labels import components
from microlab.measure.spot_check import count_crossings, spot_lines


@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 2**32 - 1))
def test_lines_lie_in_the_image_and_have_their_length(height, width, seed):
    lines = spot_lines((height, width), 4, seed)
    assert lines.shape == (4, 2, 2)
    assert (lines >= -1e-9).all()
    assert (lines <= np.array([height, width]) - 1 + 1e-9).all()
    lengths = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    np.testing.assert_allclose(lengths, 0.8 * min(height, width))


def test_a_line_across_a_drawn_grid_counts_each_drawn_line_once():
    labels = components(grid(5, 7)[1])  # lines 3 px wide
    assert count_crossings(labels, [(10, 2), (10, 160)]) == 6
    assert count_crossings(labels, [(2, 10), (115, 10)]) == 4
    assert count_crossings(labels, [(10, 2), (10, 12)]) == 0


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.9, 1.4])
def test_a_slanted_line_counts_stripes_as_geometry_does(angle):
    stripes = np.tile(np.arange(200) // 20 + 1, (200, 1))
    end = 5 + 190 * np.array([np.sin(angle), np.cos(angle)])
    expected = int((end[1] + 0.5) // 20)  # the last stripe's number: stripes begin at x = 0, 20, ...
    assert count_crossings(stripes, [(5.0, 5.0), end]) == expected


@pytest.mark.slow
def test_random_lines_find_the_mean_intercept_of_stripes():
    stripes = np.tile(np.arange(400) // 16 + 1, (400, 1))  # random directions cross each at 16 pi / 2
    lines = spot_lines(stripes.shape, 600, 3)
    crossings = sum(count_crossings(stripes, line) for line in lines)
    expected = 600 * 0.8 * 400 / (16 * np.pi / 2)
    assert crossings == pytest.approx(
        expected, rel=4 / np.sqrt(600) * 0.48
    )  # |cos| spreads by 0.48 of its mean


@pytest.mark.parametrize("line", [[(0, 0), (0, 12)], [(-2, 0), (5, 5)], [(0, 0)]])
def test_a_line_outside_is_named(line):
    with pytest.raises(ValueError, match=r"two ends \(y, x\) within \(10, 10\)"):
        count_crossings(np.ones((10, 10), int), line)


def test_a_line_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"length must lie in \(0, 9\]"):
        spot_lines((10, 40), length=12)
