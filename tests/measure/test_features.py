"""Feature spaces: what they depend on, what they ignore, and that VGG16 has the published layers."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage

from microlab.measure import features
from microlab.measure.features import TEXTURE_NAMES, VGG16, encoder, pretrained_vgg16, texture, vgg16
from microlab.segment.unet import UNet


def smooth(seed: int, blur: float, n: int = 4, side: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((n, side, side))
    field = ndimage.gaussian_filter(noise, (0, blur, blur), mode="wrap")
    return np.clip(0.5 + 0.12 * field / field.std(), 0, 1).astype(np.float32)


def feature(name: str, patches: np.ndarray) -> np.ndarray:
    return texture(patches)[:, TEXTURE_NAMES.index(name)]


# ---- texture ----


def test_every_texture_feature_has_a_name_and_shares_sum_to_one():
    values = texture(smooth(0, 1))
    assert values.shape == (4, len(TEXTURE_NAMES))
    for start in ("grey", "LBP radius 1", "LBP radius 3"):
        columns = [k for k, name in enumerate(TEXTURE_NAMES) if name.startswith(start)]
        np.testing.assert_allclose((values[:, columns] ** 2).sum(1), 1)
    power = 10 ** values[:, [k for k, name in enumerate(TEXTURE_NAMES) if name.startswith("power")]]
    assert (power.sum(1) <= 1 + 1e-4).all()  # less the corners of the spectrum


def test_a_stripe_has_its_power_in_the_ring_of_its_frequency():
    x = np.arange(64)
    stripes = 0.5 + 0.4 * np.sin(2 * np.pi * x * 0.275)[None, None] * np.ones((1, 64, 1))
    power = texture(stripes)[0, -features.SPECTRUM_BINS :]
    assert power.argmax() == 5  # 0.275 of at most 0.5 per pixel: the sixth of ten rings


def test_co_occurrence_contrast_is_the_mean_squared_difference():
    (patch,) = smooth(1, 2, n=1)
    levels = np.rint(patch * 255).astype(int) // 8
    pairs = [(levels[:, :-1], levels[:, 1:]), (levels[:-1], levels[1:])]
    pairs += [(levels[1:, :-1], levels[:-1, 1:]), (levels[:-1, :-1], levels[1:, 1:])]
    expected = np.mean([((a - b) ** 2).mean() for a, b in pairs])
    assert feature("contrast at 1 px", patch[None])[0] == pytest.approx(expected)


def test_blur_moves_power_to_low_frequencies_and_lowers_contrast():
    sharp, soft = smooth(2, 0.7), smooth(2, 3)
    assert (feature("power 0", soft) > feature("power 0", sharp)).all()
    assert (feature("power 8", soft) < feature("power 8", sharp)).all()
    assert (feature("contrast at 1 px", soft) < feature("contrast at 1 px", sharp)).all()


def test_a_patch_of_one_grey_has_finite_features():
    assert np.isfinite(texture(np.full((1, 32, 32), 0.4))).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 8, 8)), "side >= 16"),
        (np.zeros((64, 64)), "side >= 16"),
        (np.zeros((2, 32, 40)), "square"),
        (np.full((2, 32, 32), 2.0), r"\[0, 1\]"),
        (np.full((2, 32, 32), np.nan), r"\[0, 1\]"),
    ],
)
def test_patches_that_cannot_be_described_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        texture(bad)


# ---- encoder ----


def test_encoder_features_are_the_means_of_the_levels():
    model, patches = UNet(width=4, depth=3, seed=1), smooth(3, 1)
    model.eval()
    x = torch.from_numpy(
        (patches - patches.mean((1, 2), keepdims=True)) / patches.std((1, 2), keepdims=True)
    )[:, None]
    with torch.no_grad():
        first = model.down[0](x)
        second = model.down[1](torch.nn.functional.max_pool2d(first, 2))
    values = encoder(model)(patches)
    assert values.shape == (4, 4 + 8 + 16)
    np.testing.assert_allclose(values[:, :4], first.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(values[:, 4:12], second.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(encoder(model, levels=[1])(patches), values[:, 4:12], atol=1e-6)


def test_encoder_ignores_brightness_and_does_not_change_the_model():
    model, cut = UNet(width=4, depth=3), smooth(4, 1)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    np.testing.assert_allclose(encoder(model)(cut), encoder(model)(0.2 + 0.5 * cut), atol=1e-3)
    assert np.isfinite(encoder(model)(np.full((1, 32, 32), 0.5))).all()
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# ---- VGG16 ----


def test_vgg16_has_the_published_layers():
    # Simonyan and Zisserman, table 1, configuration D: thirteen 3 x 3 convolutions, 14 714 688 weights
    state = VGG16().state_dict()
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # positions in torchvision's list
    assert list(state) == [f"features.{k}.{kind}" for k in convolutions for kind in ("weight", "bias")]
    assert sum(tensor.numel() for tensor in state.values()) == 14_714_688


def test_weights_come_from_a_file_and_through_timm(tmp_path, monkeypatch):
    random = VGG16(seed=5)
    state = {**random.state_dict(), "head.fc.weight": torch.zeros(3)}  # a classifier, which is not used
    save_file(state, tmp_path / "vgg16.safetensors")
    cut = smooth(5, 1, n=3, side=32)
    expected = vgg16(random)(cut)
    assert expected.shape == (3, 512)
    np.testing.assert_array_equal(vgg16(pretrained_vgg16(tmp_path / "vgg16.safetensors"))(cut), expected)

    def create_model(name, pretrained):
        assert (name, pretrained) == ("vgg16", True)
        return SimpleNamespace(state_dict=lambda: state)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    np.testing.assert_array_equal(vgg16(pretrained_vgg16())(cut), expected)


def test_grey_enters_as_three_normalised_colours():
    model, cut = VGG16(seed=2), smooth(6, 1, n=1, side=32)
    colours = [
        (torch.from_numpy(cut[0]) - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
    ]
    with torch.no_grad():
        expected = model.features(torch.stack(colours)[None]).mean((2, 3))
    np.testing.assert_allclose(vgg16(model)(cut), expected, rtol=1e-4, atol=1e-7)


def test_unavailable_weights_are_an_error_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"microlab\[vgg\].*or give path"):
        pretrained_vgg16()
    with pytest.raises(ValueError, match="no readable safetensors"):
        pretrained_vgg16(tmp_path / "none.safetensors")
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="no VGG16"):
        pretrained_vgg16(tmp_path / "part.safetensors")
