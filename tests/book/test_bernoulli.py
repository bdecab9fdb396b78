"""The process and its posterior against enumeration, the sampler against an exactly known distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from microlab.book.experiments.bernoulli import (
    BernoulliNet,
    ancestral,
    bernoulli_loss,
    draw,
    kept_shares,
    noised_mean,
    posterior_mean,
)
from microlab.data import weights
from microlab.segment.refine import RefineNet

STEPS = 8
KEPT = kept_shares(STEPS)


def tiny(channels: int = 3, steps: int = STEPS, seed: int = 0) -> BernoulliNet:
    return BernoulliNet(channels, steps, widths=(4, 6), seed=seed)


def channels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


# ---- the process -----------------------------------------------------------------------------------------


def test_the_end_of_the_process_is_a_fair_coin_whatever_the_map():
    for steps in (1, 2, 10, 100):
        kept = kept_shares(steps)
        assert kept[0] == 1
        assert (kept.diff() < 0).all()
        for x0 in (0.0, 1.0):
            assert noised_mean(torch.tensor([x0]), kept[-1]).item() == 0.5


def test_single_steps_have_the_stated_marginal_mean():
    """The marginal q(x_t | x_0) from the single steps: keep with probability a_t / a_{t-1}, else toss."""
    n, rng = 100_000, np.random.default_rng(0)
    x = np.ones(n)
    for t in range(1, STEPS + 1):
        keep = rng.random(n) < float(KEPT[t] / KEPT[t - 1])
        x = np.where(keep, x, rng.random(n) < 0.5)
        expected = noised_mean(torch.ones(1), float(KEPT[t])).item()
        assert abs(x.mean() - expected) < 4 * 0.5 / math.sqrt(n)  # four standard errors
    assert abs(x.mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


def chain(x0: int) -> dict[tuple[int, ...], float]:
    """Probability of every path x_1 .. x_T from x_0: single steps multiplied."""
    paths = {}
    for path in itertools.product((0, 1), repeat=STEPS):
        probability, before = 1.0, x0
        for t, now in enumerate(path, start=1):
            kept = float(KEPT[t] / KEPT[t - 1])
            probability *= kept * (now == before) + (1 - kept) / 2
            before = now
        paths[path] = probability
    return paths


@pytest.mark.parametrize(("s", "t"), [(1, 2), (3, 4), (2, 7), (1, 8), (7, 8)])
def test_posterior_is_that_of_bayes_over_all_paths(s, t):
    for x0, x_t in itertools.product((0, 1), repeat=2):
        paths = {path: p for path, p in chain(x0).items() if path[t - 1] == x_t}
        expected = sum(p for path, p in paths.items() if path[s - 1] == 1) / sum(paths.values())
        posterior = posterior_mean(
            torch.tensor([float(x_t)], dtype=torch.float64),
            torch.tensor([float(x0)], dtype=torch.float64),
            float(KEPT[t]),
            float(KEPT[s]),
        )
        assert posterior.item() == pytest.approx(expected, abs=1e-12)


def test_posterior_averages_over_the_unknown_x_0():
    for x_t in (0.0, 1.0):
        x = torch.tensor([x_t])
        zero, one, between = (
            posterior_mean(x, torch.tensor([p]), float(KEPT[5]), float(KEPT[3])) for p in (0.0, 1.0, 0.3)
        )
        torch.testing.assert_close(between, 0.7 * zero + 0.3 * one)


def test_posterior_of_the_last_step_is_the_prediction():
    x = torch.tensor([0.0, 1.0, 0.0, 1.0])
    p = torch.tensor([0.2, 0.2, 0.9, 0.9])
    torch.testing.assert_close(posterior_mean(x, p, float(KEPT[1]), 1.0), p)


# ---- the sampler -----------------------------------------------------------------------------------------


def exact(prior: float):
    """p(x_0 = 1 | x_t) by Bayes if every pixel is 1 with probability `prior`; also the mean of x_t by t."""
    means = {}

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        means[t] = x.mean().item()
        kept = float(KEPT[t])
        same, other = (1 + kept) / 2, (1 - kept) / 2
        one = torch.where(x > 0.5, same, other) * prior
        return one / (one + torch.where(x > 0.5, other, same) * (1 - prior))

    return denoise, means


@pytest.mark.parametrize("times", [range(8, 0, -1), [8, 4, 1], [8], [5, 2]])
def test_sampler_with_the_exact_denoiser_draws_from_the_data(times):
    n, prior, generator = 100_000, 0.15, torch.Generator().manual_seed(1)
    error = 4 * 0.5 / math.sqrt(n)
    start = prior * float(KEPT[times[0]]) + (1 - float(KEPT[times[0]])) / 2
    x = (torch.rand(n, generator=generator) < start).float()
    denoise, means = exact(prior)
    p = ancestral(denoise, x, times, KEPT, lambda: torch.rand(n, generator=generator))
    assert abs(p.mean().item() - prior) < error
    for t in times:  # in the reverse process every x_t has the distribution of the forward process
        assert abs(means[t] - (prior * float(KEPT[t]) + (1 - float(KEPT[t])) / 2)) < error
    assert list(means) == list(times)


# ---- the network -----------------------------------------------------------------------------------------


def test_the_network_is_as_large_as_net2():
    sizes = [sum(p.numel() for p in net.parameters()) for net in (BernoulliNet(), RefineNet())]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_the_network_depends_on_the_time():
    model = tiny().eval()
    x, image = torch.ones(1, 1, 16, 16), torch.from_numpy(channels(1, 3, 16, 16))
    early, late = (model(x, image, torch.tensor([t])) for t in (1, STEPS))
    assert (early - late).abs().max() > 1e-4


def test_loss_is_minimal_at_the_true_probability():
    """A network that returns the posterior of a known prior, and two with slightly shifted logits."""
    prior = 0.3

    class ShiftedPosterior(nn.Module):
        def __init__(self, offset: float) -> None:
            super().__init__()
            self.offset = offset

        def forward(self, x, image, t):
            kept = KEPT[t].view(-1, 1, 1, 1)
            odds = torch.where(x > 0.5, (1 + kept) / (1 - kept), (1 - kept) / (1 + kept))
            return torch.log(odds * prior / (1 - prior)) + self.offset

    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(400, 1, 16, 16, generator=generator) < prior).float()
    losses = []
    for offset in (-0.3, 0.0, 0.3):
        torch.manual_seed(0)
        losses.append(
            bernoulli_loss(ShiftedPosterior(offset), KEPT, target, torch.zeros(400, 1, 16, 16)).item()
        )
    assert losses[1] < min(losses[0], losses[2])


def test_a_saved_network_is_restored(tmp_path):
    model = tiny(channels=4).eval()
    card = dict.fromkeys(weights.CARD_FIELDS, "test") | {"scores": {}}
    card |= {"architecture": "BernoulliNet", "parameters": model.architecture}
    read = BernoulliNet.from_weights(weights.save(tmp_path / "net.safetensors", model, card))
    assert read.steps == model.steps
    image = channels(4, 12, 16)
    np.testing.assert_allclose(
        draw(read, image, draws=1, steps=1, device="cpu"),
        draw(model, image, draws=1, steps=1, device="cpu"),
        atol=0.01,  # stored in half precision
    )


# ---- drawing ---------------------------------------------------------------------------------------------


def test_same_seed_same_draws_and_a_draw_depends_on_its_place():
    image = channels(3, 16, 20)
    one = draw(tiny(), image, draws=3, seed=5, device="cpu")
    assert one.shape == (3, 16, 20)
    assert (draw(tiny(), image, draws=2, seed=5, device="cpu") == one[:2]).all()
    assert (draw(tiny(), image, draws=3, seed=6, device="cpu") != one).any()
    assert (one[0] != one[1]).any()


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (17, 30)])
def test_any_size_is_drawn(shape):
    maps = draw(tiny(), channels(3, *shape), draws=2, steps=2, device="cpu")
    assert maps.shape == (2, *shape)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1


class Recorder(BernoulliNet):
    """Records its inputs; predicts that x_0 is x_t."""

    def forward(self, x, image, t):
        self.inputs.append((int(t[0]), x[0, 0].numpy().copy()))
        return 20 * (x - 0.5)


def recorded(**options) -> Recorder:
    model = Recorder(1, 20, widths=(4,))
    model.inputs = []
    draw(model, np.zeros((1, 100, 100), np.float32), draws=1, device="cpu", **options)
    return model


def test_without_a_guess_it_starts_from_coin_tosses():
    t, x = recorded(steps=4).inputs[0]
    assert t == 20
    assert set(np.unique(x)) == {0, 1}
    assert abs(x.mean() - 0.5) < 4 * 0.5 / 100


def test_a_guess_is_noised_to_the_time_of_the_start():
    first = np.zeros((100, 100), np.float32)
    first[:50] = 1
    for start, time in ((0.25, 5), (0.5, 10), (1.0, 20)):
        t, x = recorded(first=first, start=start, steps=2).inputs[0]
        kept = math.cos(math.pi / 2 * time / 20) ** 2
        assert t == time
        assert abs(x[:50].mean() - (1 + kept) / 2) < 4 * 0.5 / math.sqrt(5000)
        assert abs(x[50:].mean() - (1 - kept) / 2) < 4 * 0.5 / math.sqrt(5000)


@pytest.mark.parametrize(("steps", "times"), [(1, [20]), (3, [20, 13, 7]), (None, list(range(20, 0, -1)))])
def test_steps_are_spread_over_the_time(steps, times):
    assert [t for t, _ in recorded(steps=steps).inputs] == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws"),
        ({"steps": 0}, "steps"),
        ({"steps": STEPS + 1}, "steps"),
        ({"start": 0, "first": np.zeros((8, 8))}, "start"),
        ({"first": np.zeros((8, 9))}, "differ in size"),
        ({"first": np.full((8, 8), np.nan)}, "first"),
        ({"channels": np.zeros((2, 8, 8))}, "channels"),
        ({"channels": np.full((3, 8, 8), 2.0)}, "channels"),
    ],
)
def test_bad_input_is_refused(options, message):
    options = {"channels": np.zeros((3, 8, 8))} | options
    with pytest.raises(ValueError, match=message):
        draw(tiny(), **options, device="cpu")


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="steps"):
        BernoulliNet(3, 0)
    with pytest.raises(ValueError, match="channels"):
        BernoulliNet(0)
