"""Alignment of the boundaries of an image with its mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from microlab.measure.alignment import agreement, boundary_displacement, half_width
from microlab.render.specimen import boundary_geometry
from microlab.simulate import voronoi


def lines(size: int = 128) -> np.ndarray:
    """Parallel lines, one pixel wide, 32 pixels apart: normals are known exactly."""
    mask = np.zeros((size, size), bool)
    mask[:, 16::32] = True
    return mask


def grooves(mask: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    distance = ndimage.distance_transform_edt(~mask)
    return 1 - np.exp(-(distance**2) / (2 * sigma**2))


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_shift_across_the_lines_is_measured_and_one_along_them_is_not(shift: int) -> None:
    image = grooves(lines())
    assert boundary_displacement(lines(), np.roll(image, shift, 1)).median == pytest.approx(shift, abs=0.25)
    assert boundary_displacement(lines(), np.roll(image, shift, 0)).median == 0


def test_the_displacement_is_measured_in_any_direction() -> None:
    # Each line of a tilted family is displaced along its normal by the projection of the shift.
    size, angle, shift = 200, np.deg2rad(30), 4.0
    y, x = np.indices((size, size)) - size / 2
    normal_coordinate = np.cos(angle) * x + np.sin(angle) * y
    mask = np.abs((normal_coordinate + 20) % 40 - 20) < 0.5
    moved_distance = np.abs((np.cos(angle) * (x - shift) + np.sin(angle) * y + 20) % 40 - 20)
    displacement = boundary_displacement(mask, 1 - np.exp(-(moved_distance**2) / 4), reach=8)
    assert displacement.median == pytest.approx(shift * np.cos(angle), abs=0.3)


def test_noise_without_lines_exceeds_half_of_the_reach() -> None:
    noise = np.random.default_rng(0).random((128, 128))
    assert boundary_displacement(lines(), noise, reach=6).median >= 3


def test_bright_lines_are_found_on_request() -> None:
    image = 1 - np.roll(grooves(lines()), 2, 1)
    assert boundary_displacement(lines(), image, polarity="bright").median == pytest.approx(2, abs=0.25)


def test_agreement_counts_what_was_removed_and_what_was_added() -> None:
    truth = np.zeros((100, 200), bool)
    truth[20, :] = truth[40, :] = truth[60, :] = truth[80, :] = True
    changed = truth.copy()
    changed[80] = False
    changed[70, :100] = True  # half a line
    result = agreement(truth, changed, tolerance=3)
    assert result.lost == pytest.approx(1 / 4)
    assert result.invented == pytest.approx(0.5 / 3.5)
    assert result.lost_pixels[80].all()
    assert result.invented_pixels[70, :100].all()


@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_the_half_width_of_a_gaussian_groove_is_known(sigma: float) -> None:
    grains = voronoi.tessellate(voronoi.random_seeds(20, (256, 256), 0), (256, 256))
    distance = boundary_geometry(grains).distance
    image = 1 - np.exp(-(distance**2) / (2 * sigma**2))
    # 1.1774 sigma; the bin nearest to the line is slightly above the minimum.
    assert half_width(image, distance) == pytest.approx(np.sqrt(2 * np.log(2)) * sigma, rel=0.08)


def test_mistakes_are_named() -> None:
    image = grooves(lines())
    with pytest.raises(ValueError, match="differ in size"):
        boundary_displacement(lines(), image[:-1])
    with pytest.raises(ValueError, match="polarity"):
        boundary_displacement(lines(), image, polarity="grey")
    with pytest.raises(ValueError, match="no boundary away from junctions"):
        boundary_displacement(np.zeros((64, 64), bool), np.zeros((64, 64)))
    with pytest.raises(ValueError, match="must both hold a boundary"):
        agreement(lines(), np.zeros((128, 128), bool))
    with pytest.raises(ValueError, match="do not differ in grey"):
        half_width(np.ones((128, 128)), ndimage.distance_transform_edt(~lines()))
