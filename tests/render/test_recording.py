"""From the detector to the file: what sharpening, clipped tones and compression do to an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage.filters import unsharp_mask

from microlab.render.recording import clipped, compressed, sharpened

NOISE = np.random.default_rng(0).random((64, 80)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 80), (64, 80, 3)])
def test_sharpening_is_that_of_scikit_image(shape):
    image = np.random.default_rng(1).random(shape)
    theirs = unsharp_mask(image, 1.3, 0.8, channel_axis=2 if len(shape) == 3 else None)
    inside = np.s_[8:-8, 8:-8]  # the two continue the image differently beyond its edge
    np.testing.assert_allclose(sharpened(image, sigma=1.3, amount=0.8)[inside], theirs[inside], atol=1e-3)


def test_a_sharpened_edge_overshoots_on_both_sides():
    step = np.where(np.arange(40) < 20, 0.3, 0.7) * np.ones((10, 1))
    row = sharpened(step, sigma=1.5, amount=1.0)[5]
    assert row.min() < 0.25
    assert row.max() > 0.75
    assert row[:10] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("dark", "bright"), [(0.0, 0.0), (0.1, 0.0), (0.02, 0.3)])
def test_as_many_pixels_are_clipped_as_asked_for(dark, bright):
    image = clipped(0.2 + 0.5 * NOISE, dark=dark, bright=bright)
    assert (image == 0).mean() == pytest.approx(dark, abs=0.001)
    assert (image == 1).mean() == pytest.approx(bright, abs=0.001)
    order = np.argsort(NOISE, axis=None)
    assert (np.diff(image.ravel()[order]) >= 0).all()  # no two tones change places


def test_an_image_of_one_tone_stays_as_it_is():
    flat = np.full((8, 8), 0.4, np.float32)
    assert np.array_equal(clipped(flat, dark=0.1, bright=0.1), flat)


def test_compression_is_worse_at_lower_quality_and_harmless_at_the_best():
    smooth = np.add.outer(np.linspace(0.2, 0.5, 64), np.linspace(0, 0.4, 80))
    errors = [np.abs(compressed(NOISE, quality=q) - NOISE).mean() for q in (90, 50, 10)]
    assert errors == sorted(errors)
    assert np.abs(compressed(smooth, quality=90) - smooth).max() < 0.02


def test_compression_is_that_of_a_file():
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * NOISE).astype(np.uint8)).save(file, "JPEG", quality=30)
    assert np.array_equal(np.rint(255 * compressed(NOISE, quality=30)), np.asarray(Image.open(file)))
    assert compressed(np.stack([NOISE] * 3, -1), quality=30).shape == (*NOISE.shape, 3)
