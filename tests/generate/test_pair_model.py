"""A pair model: image and mask packed into channels, and sampled from codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from microlab.data.errors import InputError
from microlab.generate.masks import clean_mask
from microlab.generate.pair_model import PairModel
from microlab.generate.pairs import pack, unpack
from microlab.generate.pixelcnn import Autoregressive, GatedPixelCNN, PixelCNN
from microlab.generate.sampling import sample
from microlab.generate.vqvae import VQVAE


def texture(size: int, seed: int, smooth: float = 4.0) -> np.ndarray:
    """A smooth random image in [0, 1]."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), smooth)
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


# --- packing


@pytest.mark.parametrize("coding", ["grey", "one-hot"])
@pytest.mark.parametrize("image_channels", [1, 3])
def test_unpacking_inverts_packing(coding: str, image_channels: int) -> None:
    how = {"classes": 4, "coding": coding, "image_channels": image_channels}
    image, mask = texture(32, 0), np.random.default_rng(0).integers(0, 4, (32, 32)).astype(np.uint8)
    channels = pack(image, mask, **how)
    assert channels.shape == (image_channels + (1 if coding == "grey" else 4), 32, 32)
    assert channels.dtype == np.float32
    back, raw = unpack(channels, **how)
    for plane in np.moveaxis(np.atleast_3d(back), 2, 0):
        np.testing.assert_array_equal(plane, image)
    np.testing.assert_array_equal(clean_mask(raw, 4, min_area=0), mask)
    if coding == "grey":
        np.testing.assert_allclose(raw, mask / 3, atol=1e-7)
    else:
        np.testing.assert_array_equal(raw, mask)


def test_colour_images_keep_their_colours() -> None:
    image = np.stack([texture(16, k) for k in range(3)], axis=2)
    back, _ = unpack(pack(image, np.zeros((16, 16), int), classes=2), classes=2)
    np.testing.assert_array_equal(back, image)


def test_decoded_values_outside_the_range_are_clipped() -> None:
    channels = np.full((4, 8, 8), 1.7, np.float32)
    channels[3] = -0.4
    image, raw = unpack(channels, classes=4)
    assert image.max() == 1
    assert raw.min() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((8, 9), int)}, r"mask \(8, 9\) and image \(8, 8\) differ in size"),
        ({"mask": np.full((8, 8), 4)}, "holds the values 4; 4 classes are 0..3"),
        ({"mask": np.full((8, 8), -1)}, "holds the values -1"),
        ({"mask": np.zeros((8, 8))}, "whole numbers"),
        ({"image": np.full((8, 8), 1.5)}, "from 0 to 1"),
        ({"image": np.full((8, 8), np.nan)}, "finite"),
        ({"image": np.zeros((8, 8, 3)), "image_channels": 1}, "colour image"),
        ({"image": np.zeros((8, 8, 2))}, "image must be"),
        ({"coding": "gray"}, "coding must be one of"),
        ({"image_channels": 2}, "image_channels must be 1 or 3"),
        ({"classes": 1}, "classes must be at least 2"),
    ],
)
def test_pairs_that_cannot_be_packed_are_refused(change: dict, message: str) -> None:
    given = {"image": np.zeros((8, 8)), "mask": np.zeros((8, 8), int), "classes": 4} | change
    with pytest.raises(ValueError, match=message):
        pack(given.pop("image"), given.pop("mask"), **given)


def test_unpacking_refuses_another_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"must be \(7, H, W\)"):
        unpack(np.zeros((4, 8, 8)), classes=4, coding="one-hot")


# --- sampling


def tiny(coding: str = "grey", **options: int) -> VQVAE:
    return VQVAE(classes=4, coding=coding, hidden=8, residual=4, dim=4, codes=5, **options)


def pair_model(
    prior: Autoregressive, *, coding: str = "grey", min_area: int = 4, grey: bool = True
) -> PairModel:
    card = {"classes": list("abcd"), "min_area": min_area, "grey": grey, "temperature": 1.0}
    return PairModel(tiny(coding), prior, card)


@pytest.mark.parametrize("coding", ["grey", "one-hot"])
@pytest.mark.parametrize("network", [PixelCNN, GatedPixelCNN])
def test_samples_are_pairs_and_depend_on_the_seed(coding: str, network: type) -> None:
    model = pair_model(network(codes=5, channels=4, layers=1), coding=coding)
    first, again, other = (model.sample(3, shape=(32, 48), batch=2, seed=seed) for seed in (1, 1, 2))
    assert [pair.name for pair in first] == ["pair_0000", "pair_0001", "pair_0002"]
    for pair, same in zip(first, again):
        assert pair.image.shape == pair.classes.shape == (32, 48)
        assert pair.image.dtype == np.float32
        assert pair.classes.dtype == np.uint8
        assert 0 <= pair.image.min() <= pair.image.max() <= 1
        assert pair.classes.max() < 4
        np.testing.assert_array_equal(pair.image, same.image)
        np.testing.assert_array_equal(pair.classes, same.classes)
    assert any((a.image != b.image).any() for a, b in zip(first, other))


def test_a_pair_is_the_cleaned_decoding_of_the_sampled_codes() -> None:
    model = pair_model(GatedPixelCNN(codes=5, channels=4, layers=1), min_area=9, grey=False)
    (pair,) = model.sample(1, shape=(32, 32), seed=4)
    codes = sample(model.prior, 1, (8, 8), seed=4)
    decoded = model.vqvae.decode(torch.as_tensor(codes))[0].detach().numpy()
    np.testing.assert_allclose(pair.image, decoded[:3].transpose(1, 2, 0).clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(pair.classes, clean_mask(decoded[3].clip(0, 1), 4, min_area=9))


def test_fractions_reach_the_prior() -> None:
    model = pair_model(GatedPixelCNN(codes=5, channels=4, layers=1, condition=4))
    (pair,) = model.sample(1, shape=(16, 16), fractions=[0.5, 0.2, 0.2, 0.1])
    assert pair.classes.shape == (16, 16)
    with pytest.raises(InputError, match="fractions must be 4 numbers"):
        model.sample(1, shape=(16, 16), fractions=[0.5, 0.5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"shape": (30, 32)}, "multiples of 4"),
        ({"shape": (0, 32)}, "multiples of 4"),
    ],
)
def test_impossible_requests_are_refused(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair_model(PixelCNN(codes=5, channels=4, layers=1)).sample(**({"n": 1} | given))


def test_a_prior_of_other_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="has 7 codes, the VQ-VAE 5"):
        pair_model(PixelCNN(codes=7, channels=4, layers=1))
