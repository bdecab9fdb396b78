"""Translation between simulation and micrograph: networks, losses, training."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.generate.cut import CUT
from microlab.generate.cyclegan import CycleGAN, discriminator_loss, frozen, lsgan_loss
from microlab.generate.networks import Discriminator, Generator, ImagePool
from microlab.generate.registry import STYLES, translator
from microlab.generate.style import StyleConfig, learn_style, translate
from microlab.render.flat import untextured
from microlab.simulate import voronoi

TINY = StyleConfig(width=4, blocks=1, layers=1, crop=32, batch=2, steps=6, ema=None)


def images(n: int, size: int = 48, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((n, size, size)).astype(np.float32))


def flat_grains(seed: int, size: int = 64) -> np.ndarray:
    grains = voronoi.tessellate(voronoi.random_seeds(12, (size, size), seed), (size, size))
    return untextured(grains, seed=seed)


# ---- networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (8, 9)])
def test_a_translation_has_the_size_of_its_input(size: tuple[int, int]) -> None:
    translated = Generator(width=4, blocks=1, noise=0.3)(torch.zeros(2, 1, *size))
    assert translated.shape == (2, 1, *size)
    assert translated.abs().max() <= 1


def test_without_noise_a_flat_image_stays_flat_so_texture_needs_the_noise_channel() -> None:
    # A transposed convolution would print a checkerboard here.
    flat = torch.full((1, 1, 40, 40), 0.3)
    assert Generator(width=4, blocks=1)(flat).std() < 1e-5
    assert Generator(width=4, blocks=1, noise=0.3)(flat).std() > 1e-4


@pytest.mark.parametrize(("layers", "field"), [(3, 70), (2, 34), (1, 16)])
def test_a_score_of_the_discriminator_sees_a_patch_of_the_known_size(layers: int, field: int) -> None:
    discriminator = Discriminator(width=2, layers=layers).double()
    discriminator.score = nn.Sequential(
        *(m for m in discriminator.score if not isinstance(m, nn.InstanceNorm2d))
    )
    for parameter in discriminator.parameters():
        nn.init.constant_(parameter, 0.1)  # so that no paths cancel
    image = torch.ones(1, 1, 128, 128, dtype=torch.double, requires_grad=True)
    scores = discriminator.score(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero().ravel()
    assert rows[-1] - rows[0] + 1 == field  # 70 is the published figure for three layers


@pytest.mark.parametrize("arguments", [{"width": 0}, {"blocks": -1}, {"noise": -0.1}, {"in_channels": 0}])
def test_a_generator_refuses_impossible_sizes(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Generator(**arguments)


def test_the_pool_returns_old_images_half_of_the_time_and_stores_new_ones() -> None:
    torch.manual_seed(0)
    pool = ImagePool(20, (1, 1, 1))
    returned = [float(pool.exchange(torch.full((1, 1, 1, 1), float(k)))) for k in range(1000)]
    assert returned[:20] == list(range(20))  # while the pool fills, it returns the new images
    old = np.mean([value != k for k, value in enumerate(returned)][20:])
    assert 0.45 < old < 0.55
    assert ImagePool(0, (1, 1, 1)).exchange(torch.ones(2, 1, 1, 1)).sum() == 2


# ---- losses ----------------------------------------------------------------------------------------------


def test_the_adversarial_loss_is_the_squared_distance_from_the_target() -> None:
    scores = torch.tensor([0.0, 0.5, 1.0])
    assert lsgan_loss(scores, 1.0) == pytest.approx((1 + 0.25 + 0) / 3)
    assert discriminator_loss(nn.Identity(), torch.ones(3), torch.ones(3)) == pytest.approx(0.5)


def test_a_deliberately_frozen_network_stays_frozen() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    network[0].requires_grad_(False)
    with frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]


def test_one_optimiser_equals_alternating_generator_and_discriminator_steps() -> None:
    torch.manual_seed(0)
    ours = CycleGAN(crop=32, width=4, blocks=1, layers=1, pool=0, lambda_identity=0.5)
    turns = copy.deepcopy(ours)
    adam = {"lr": 1e-3, "betas": (0.5, 0.999)}
    together = torch.optim.Adam(ours.parameters(), **adam)
    of_generators = torch.optim.Adam([*turns.F.parameters(), *turns.G.parameters()], **adam)
    of_discriminators = torch.optim.Adam([*turns.D_X.parameters(), *turns.D_Y.parameters()], **adam)
    mse, l1 = nn.functional.mse_loss, nn.functional.l1_loss
    for _ in range(3):
        y, x = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
        together.zero_grad()
        ours(y, x)["loss"].backward()
        together.step()

        fake_x, fake_y = turns.F(y), turns.G(x)  # the published order: generators, then discriminators
        scores = turns.D_X(fake_x), turns.D_Y(fake_y)
        loss = sum(mse(s, torch.ones_like(s)) for s in scores)
        loss = loss + 10 * (l1(turns.G(fake_x), y) + l1(turns.F(fake_y), x))
        loss = loss + 5 * (l1(turns.F(x), x) + l1(turns.G(y), y))
        of_generators.zero_grad()
        loss.backward()
        of_generators.step()
        of_discriminators.zero_grad()
        for discriminator, real, fake in ((turns.D_X, x, fake_x), (turns.D_Y, y, fake_y)):
            one, zero = discriminator(real), discriminator(fake.detach())
            (0.5 * (mse(one, torch.ones_like(one)) + mse(zero, torch.zeros_like(zero)))).backward()
        of_discriminators.step()
    for (name, a), b in zip(ours.named_parameters(), turns.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_the_contrastive_loss_is_the_cross_entropy_of_finding_the_matching_position() -> None:
    model = CUT(crop=32, width=4, blocks=1, layers=1, embedding=64, patches=10_000)  # every position
    before, after = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    expected = []
    pairs = zip(model.F.features(before, model.compared), model.F.features(after, model.compared))
    for head, (old, new) in zip(model.heads, pairs):
        key, query = (head(f[0].flatten(1).T).detach().double().numpy() for f in (old, new))
        key, query = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (key, query))
        scores = query @ key.T / 0.07
        log_share = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        expected.append(-np.diag(log_share).mean())
    assert model.contrast(before, after).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_cut_trains_its_heads_and_leaves_the_discriminator_to_its_own_loss() -> None:
    model = CUT(crop=32, width=4, blocks=1, layers=1, embedding=8, patches=16)
    parts = model(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
    parts["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert set(parts) == {"loss", "F", "contrast", "D_X"}


# ---- training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cyclegan", "cut"])
def test_a_killed_run_resumes_exactly(method: str, tmp_path, monkeypatch) -> None:
    from microlab.training import fit

    config = dataclasses.replace(TINY, method=method)
    options = {"progress": False, "device": "cpu"}
    whole, _ = learn_style(images(2), images(1, seed=1), config, folder=tmp_path / "whole", **options)
    original = fit.FitConfig
    monkeypatch.setattr(
        fit, "FitConfig", lambda **k: original(**{**k, "checkpoint_every": 2, "log_every": 2})
    )

    def stop(step: int, *_: np.ndarray) -> None:
        if step == 4:
            raise KeyboardInterrupt

    parts = {"folder": tmp_path / "parts", "sample_every": 2, **options}
    with pytest.raises(KeyboardInterrupt):
        learn_style(images(2), images(1, seed=1), config, on_sample=stop, **parts)
    resumed, history = learn_style(images(2), images(1, seed=1), config, **parts)
    for a, b in zip(whole.F.parameters(), resumed.F.parameters()):
        assert torch.equal(a, b)
    assert (tmp_path / "parts" / "samples" / "step_000006.png").exists()
    assert {"F", "D_X", "loss"} <= set(history.table().columns)


@pytest.mark.slow
def test_training_moves_the_grey_of_translations_towards_that_of_the_micrographs() -> None:
    dark = [0.2 * flat_grains(seed) for seed in range(4)]
    config = StyleConfig(width=8, blocks=1, layers=1, crop=32, steps=60, lr=2e-3, ema=None)
    y = flat_grains(9)
    model, _ = learn_style(
        [flat_grains(seed) for seed in range(4, 8)], dark, config, progress=False, device="cpu"
    )
    untrained = translate(translator(config.method).from_config(config, 1, 1).F, y)
    trained = translate(model.F, y)
    target_grey = np.mean([image.mean() for image in dark])
    assert abs(trained.mean() - target_grey) < 0.5 * abs(untrained.mean() - target_grey)


def test_colour_micrographs_can_be_learnt_from_grey_simulations() -> None:
    colour = [np.stack([i, i, i], axis=-1) for i in images(1)]
    config = dataclasses.replace(TINY, lambda_identity=0.0)
    model, _ = learn_style(images(1), colour, config, progress=False, device="cpu")
    assert translate(model.F, images(1)[0]).shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("simulated", "real", "message"),
    [
        ({"a.png": np.ones((20, 64))}, images(1), "a.png has 64 x 20 pixels, smaller than the crop of 32"),
        (images(1), {"b.png": np.full((64, 64), 0.5)}, "b.png has the same grey everywhere"),
        (images(1), {"c": np.ones((64, 64)), "d": np.eye(64)}, "real image c has the same grey"),
        (
            images(1),
            {"e": np.eye(64), "f": np.random.default_rng(0).random((64, 64, 3))},
            "f has 3 channels and real image e has 1",
        ),
        (images(1), [], "there are no real images"),
        (images(1), {"g.png": 255 * np.eye(64)}, "g.png must hold finite values from 0 to 1"),
    ],
)
def test_images_that_cannot_be_learnt_from_are_named(simulated, real, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_style(simulated, real, TINY, progress=False)


def test_cut_and_the_identity_loss_require_equal_channels() -> None:
    colour = [np.random.default_rng(0).random((40, 40, 3))]
    for config in (
        StyleConfig(method="cut", crop=32, steps=1),
        StyleConfig(lambda_identity=0.5, crop=32, steps=1),
    ):
        with pytest.raises(ValueError, match="equal channels"):
            learn_style(images(1), colour, config, progress=False)


class Brighter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.F = Generator(width=4, blocks=0)

    @classmethod
    def from_config(cls, config: StyleConfig, y_channels: int, x_channels: int) -> nn.Module:
        return cls()

    def forward(self, y: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.F(y).mean() - x.mean()) ** 2}


def test_a_style_is_added_by_one_line_and_an_unknown_one_is_refused(monkeypatch) -> None:
    with pytest.raises(InputError, match="one of cyclegan, cut, got 'brighter'"):
        StyleConfig(method="brighter")
    monkeypatch.setitem(STYLES, "brighter", f"{__name__}:Brighter")
    config = dataclasses.replace(TINY, method="brighter")
    model, _ = learn_style(images(2), images(1, seed=1), config, progress=False, device="cpu")
    assert isinstance(model, Brighter)


@pytest.mark.parametrize("arguments", [{"method": "pix2pix"}, {"steps": 0}, {"crop": 16}])
def test_impossible_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        StyleConfig(**arguments)


# ---- translation -----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_texture_and_another_seed_another() -> None:
    generator, y = Generator(width=4, blocks=1, noise=0.3), flat_grains(0)
    first = translate(generator, y, seed=1)
    assert np.array_equal(first, translate(generator, y, seed=1))
    assert not np.array_equal(first, translate(generator, y, seed=2))
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1


def test_translating_does_not_change_the_global_random_state() -> None:
    state = torch.random.get_rng_state()
    translate(Generator(width=4, blocks=1, noise=0.3), flat_grains(0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_tiles_would_show_seams_so_whole_images_are_translated() -> None:
    # As the module explains for instance normalisation: a tile is not a part of the whole translation.
    generator = Generator(width=4, blocks=1)
    y = flat_grains(0)
    whole, tile = translate(generator, y), translate(generator, y[:, :32])
    assert np.abs(whole[:, :16] - tile[:, :16]).max() > 1e-3


def test_a_generator_is_restored_from_weights_and_card(tmp_path) -> None:
    generator = Generator(width=4, blocks=2, noise=0.3, seed=5)
    card = dict.fromkeys(weights.CARD_FIELDS, "x") | {
        "scores": {},
        "architecture": "Generator",
        "parameters": generator.architecture,
        "minutes": 1,
        "seed": 5,
    }
    path = weights.save(tmp_path / "style.safetensors", generator, card)
    y = flat_grains(1)
    assert np.array_equal(translate(Generator.from_weights(path), y), translate(generator, y))
