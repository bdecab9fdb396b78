"""The noising process and the sampler against their formulas, and properties of a small trained network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from microlab.data import weights
from microlab.data.micrograph import Micrograph
from microlab.generate import diffusion
from microlab.generate.diffusion import (
    DiffusionConfig,
    MaskDiffusion,
    alpha_sigma,
    diffuse,
    paint,
    sample,
    train_diffusion,
    velocity_loss,
)

GREYS = (0.35, 0.65)  # of the two classes of the toy
GRAIN = 0.05  # standard deviation of its noise
TOY = DiffusionConfig(
    width=16, depth=2, patch=1, crop=16, batch=16, steps=150, lr=3e-3, ema=0.98, precision="float32"
)


def toy(n: int = 3, side: int = 48, seed: int = 0) -> list[Micrograph]:
    """Stripes of two classes, each of one grey with added white noise."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        mask = (np.sin(np.arange(side) / 4 + rng.uniform(0, 6)) > 0).astype(np.uint8)[None].repeat(side, 0)
        image = np.array(GREYS)[mask] + GRAIN * rng.standard_normal(mask.shape)
        pairs.append(Micrograph(image.clip(0, 1).astype(np.float32), classes=mask))
    return pairs


@pytest.fixture(scope="module")
def trained() -> MaskDiffusion:
    return train_diffusion(toy(), TOY, classes=2, progress=False, device="cpu")[0]


# ---- the process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_noisy_images_have_the_mean_and_variance_of_the_cosine_schedule(t):
    n, value = 40_000, 1.5
    noise = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x, _ = diffuse(torch.full((n, 1, 1, 1), value), torch.full((n,), t), noise)
    kept = (1 + math.cos(math.pi * t)) / 2  # alpha-bar of Nichol and Dhariwal (eq. 17), offset 0
    error = 4 / math.sqrt(n)  # four standard errors of a mean of normal numbers of variance 1
    assert abs(x.mean().item() - math.sqrt(kept) * value) < error + 1e-6
    assert abs(x.var().item() - (1 - kept)) < math.sqrt(2) * error * (1 - kept) + 1e-6


def test_velocity_is_the_derivative_along_the_process():
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(5, 1, 2, 2, generator=generator) for _ in range(2))
    t, h = torch.linspace(0.1, 0.9, 5), 1e-2
    difference = (diffuse(x0, t + h, noise)[0] - diffuse(x0, t - h, noise)[0]) / (2 * h)
    # Central differences err by h^2/6 of the third derivative, (pi/2)^3 times a number of order one.
    torch.testing.assert_close(difference / (math.pi / 2), diffuse(x0, t, noise)[1], atol=1e-3, rtol=0)


def best_velocity(x: torch.Tensor, t: float, mean: float, deviation: float) -> torch.Tensor:
    """E[v | x_t] if every pixel of x_0 is normal: by the formula of conditional normal variables."""
    alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    x0 = mean + gain * (x - alpha * mean)
    noise = sigma / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)
    return alpha * noise - sigma * x0


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampler_with_the_exact_denoiser_draws_from_the_data(eta):
    mean, deviation, n = 0.7, 0.5, 40_000
    generator = torch.Generator().manual_seed(2)

    def fresh() -> torch.Tensor:
        return torch.randn(n, 1, 1, 1, generator=generator)

    x = sample(lambda x, t: best_velocity(x, t, mean, deviation), fresh(), 200, eta=eta, fresh=fresh)
    # Four standard errors, and 1 % for the 200 finite steps.
    assert abs(x.mean().item() - mean) < 4 * deviation / math.sqrt(n) + 0.007
    assert abs(x.std().item() / deviation - 1) < 4 / math.sqrt(2 * n) + 0.01
    skew = ((x - x.mean()) / x.std()).pow(3).mean().item()
    assert abs(skew) < 4 * math.sqrt(6 / n)


def test_few_steps_of_the_sampler_come_close_and_more_come_closer():
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(3))
    errors = [
        abs(sample(lambda x, t: best_velocity(x, t, 0.0, 0.5), noise, steps).std().item() - 0.5)
        for steps in (5, 25, 125)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.05


def test_limits_bound_the_picture():
    noise = 3 * torch.randn(100, 1, 1, 1, generator=torch.Generator().manual_seed(4))
    x = sample(
        lambda x, t: best_velocity(x, t, 0.0, 2.0), noise, 10, limits=(torch.tensor(-1), torch.tensor(1))
    )
    assert x.min() == -1
    assert x.max() == 1


def test_shares_keep_the_variance():
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 7))
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(7))


# ---- the painter -----------------------------------------------------------------------------------------


def test_an_untrained_network_predicts_nothing():
    model = MaskDiffusion(classes=2, width=8, depth=2)
    x = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = velocity_loss(model, x, torch.zeros(16, 32, 32, dtype=torch.long))
    assert loss.item() == pytest.approx(1, abs=0.1)  # the variance of v


@pytest.mark.slow
def test_painted_classes_have_their_grey_and_their_grain(trained):
    rng = np.random.default_rng(5)
    masks = np.kron(rng.integers(0, 2, (6, 4, 4)), np.ones((10, 10))).astype(np.uint8)  # squares, not stripes
    pictures = paint(trained, masks, device="cpu")
    for label, grey in enumerate(GREYS):
        values = pictures[masks == label]
        assert abs(values.mean() - grey) < 0.05  # a sixth of the distance between the classes
        assert GRAIN / 2 < values.std() < 2 * GRAIN


def test_same_seed_same_picture_whatever_the_batch(trained):
    masks = np.zeros((3, 16, 16), np.uint8)
    first = paint(trained, masks, steps=4, seed=7, device="cpu")
    np.testing.assert_allclose(
        first, paint(trained, masks, steps=4, seed=7, batch=2, device="cpu"), atol=0.02
    )
    assert (first == paint(trained, masks, steps=4, seed=7, device="cpu")).all()
    assert np.abs(first - paint(trained, masks, steps=4, seed=8, device="cpu")).mean() > 0.01
    assert np.abs(first[0] - first[1]).mean() > 0.01


def test_statistics_set_brightness_and_contrast(trained):
    masks = toy(1)[0].classes[None]
    pictures = [paint(trained, masks, statistics=[row], device="cpu") for row in [(0.5, 0.15), (0.4, 0.1)]]
    # The same picture up to rounding and clipping.
    np.testing.assert_allclose((pictures[0] - 0.5) / 0.15, (pictures[1] - 0.4) / 0.1, atol=0.1)


def test_ancestral_sampling_paints_the_same_classes(trained):
    mask = toy(1, seed=9)[0].classes[None]
    picture = paint(trained, mask, steps=50, eta=1.0, device="cpu")
    for label, grey in enumerate(GREYS):
        assert abs(picture[mask == label].mean() - grey) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (17, 30)])
def test_any_size_is_painted(trained, shape):
    picture = paint(trained, np.ones((1, *shape), np.uint8), steps=2, device="cpu")
    assert picture.shape == (1, *shape)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_loaded_weights_paint_like_the_saved_model(trained, tmp_path):
    card = dict.fromkeys(weights.CARD_FIELDS, "test") | {"scores": {}}
    card |= {"architecture": "MaskDiffusion", "parameters": trained.architecture}
    path = weights.save(tmp_path / "toy.safetensors", trained, card)
    mask = np.zeros((1, 16, 16), np.uint8)
    loaded = weights.load(path, MaskDiffusion)[0]
    assert (paint(loaded, mask, steps=3, device="cpu") == paint(trained, mask, steps=3, device="cpu")).all()


def test_killed_training_resumes_exactly(tmp_path, monkeypatch):
    short = DiffusionConfig(
        width=8, depth=1, patch=1, crop=8, batch=2, steps=6, checkpoint_every=3, precision="float32"
    )

    calls = []

    def dying(*arguments) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 4:  # after the checkpoint at step 3
            raise KeyboardInterrupt
        return velocity_loss(*arguments)

    options = {"classes": 2, "folder": tmp_path, "progress": False, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(diffusion, "velocity_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train_diffusion(toy(), short, **options)
    resumed, _ = train_diffusion(toy(), short, **options)
    whole, _ = train_diffusion(toy(), short, classes=2, progress=False, device="cpu")
    for one, other in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.full((1, 8, 8), 2, np.uint8), r"0\.\.1"),
        (np.full((1, 8, 8), -1), r"0\.\.1"),
        (np.zeros((1, 8, 8), np.float32), "whole numbers"),
        (np.zeros((8, 8), np.uint8), r"\(n, H, W\)"),
        (np.zeros((0, 8, 8), np.uint8), "empty"),
    ],
)
def test_bad_masks_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        paint(MaskDiffusion(classes=2, width=8, depth=1), masks, device="cpu")


def test_bad_settings_are_refused():
    model, mask = MaskDiffusion(classes=2, width=8, depth=1), np.zeros((1, 8, 8), np.uint8)
    for options, message in [
        ({"steps": 0}, "steps"),
        ({"eta": 2}, "eta"),
        ({"batch": 0}, "batch"),
        ({"statistics": [(0.5, 0.0)]}, "statistics"),
        ({"statistics": [(0.5, 0.1)] * 2}, "statistics"),
    ]:
        with pytest.raises(ValueError, match=message):
            paint(model, mask, device="cpu", **options)
    for options in ({"width": 12}, {"classes": 1}, {"depth": 0}, {"patch": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MaskDiffusion(**options)
    with pytest.raises(ValueError, match="does not fit"):
        model(torch.zeros(1, 1, 8, 8), torch.zeros(1, 4, 8, dtype=torch.long), torch.zeros(1))
    with pytest.raises(ValueError, match="multiple"):
        DiffusionConfig(crop=30)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((np.zeros((64, 64)), np.zeros((64, 60), np.uint8)), "differ|both"),
        ((np.zeros((32, 64)), np.zeros((32, 64), np.uint8)), "smaller than a crop"),
        ((np.full((64, 64), 200.0), np.zeros((64, 64), np.uint8)), "0 to 1"),
        ((np.eye(64), np.full((64, 64), 2, np.uint8)), r"0\.\.1"),
        ((np.full((64, 64), 0.5), np.zeros((64, 64), np.uint8)), "nothing to learn"),
    ],
)
def test_bad_pairs_are_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        train_diffusion([Micrograph(pair[0], classes=pair[1])], classes=2, progress=False)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        train_diffusion([], classes=2, progress=False)
