"""Tiny trainings on a lattice of lines: learning, refinement, resuming after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from microlab.book.experiments.bernoulli import BernoulliConfig, draw, train_bernoulli
from microlab.segment import refine_training
from microlab.segment.corruption import Damage
from microlab.segment.refine import EdgeNet, RefineNet, first_guess, refine
from microlab.segment.refine_training import (
    FirstConfig,
    SecondConfig,
    refinement_batches,
    refinement_loss,
    train_first,
    train_second,
)
from microlab.segment.unet import boundary_loss

QUIET = {"progress": False, "device": "cpu"}
SHORT = {"crop": 16, "batch": 4, "warmup": 5, "lr": 1e-2, "ema": None, "precision": "float32"}


def lattice(seed: int, side: int = 64) -> np.ndarray:
    """Lines two pixels wide, twelve apart, at a random offset."""
    y, x = np.mgrid[:side, :side] + np.random.default_rng(seed).integers(0, 12, (2, 1, 1))
    return (y % 12 < 2) | (x % 12 < 2)


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two channels with the lines under noise."""
    target = lattice(seed)
    noise = np.random.default_rng(1000 + seed).normal(0, 0.3, (2, *target.shape))
    return (0.3 + 0.4 * target + noise).clip(0, 1).astype(np.float32), target


def blind(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image without information: only the map can be used for the refinement."""
    return np.zeros((1, 64, 64), np.float32), lattice(seed)


# ---- learning --------------------------------------------------------------------------------------------


def test_net1_learns_to_draw_the_lines():
    pairs = [noisy(k) for k in range(4)]
    config = FirstConfig(steps=60, **SHORT)
    model, _ = train_first(pairs, config, model=EdgeNet(2, widths=(6, 8), bridge=(1,)), **QUIET)
    untrained, _ = train_first(
        pairs, FirstConfig(steps=1, **SHORT), model=EdgeNet(2, widths=(6, 8), bridge=(1,)), **QUIET
    )
    channels, target = noisy(9)
    wrong = [np.mean((first_guess(m, channels, device="cpu") > 0.5) != target) for m in (untrained, model)]
    # A threshold half-way between the greys errs where the mean of two noises exceeds 0.2: 17 %.
    assert wrong[1] < 0.1
    assert wrong[1] < wrong[0]


@pytest.mark.slow
def test_net2_closes_unseen_gaps_and_converges():
    config = SecondConfig(
        steps=150, damage=Damage(broken=0.3, gap=1.5, thickened=0, spurious=0), soften=0.5, **SHORT
    )
    model, history = train_second([blind(k) for k in range(4)], config, **QUIET)
    losses = history.table()["loss"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]
    channels, target = blind(9)
    broken = target.copy()
    for y in range(0, 64, 12):
        broken[y : y + 4, (y * 5) % 60 : (y * 5) % 60 + 4] = False
    gaps = target & ~broken
    refinement = refine(model, broken.astype(np.float32), channels, device="cpu")
    assert refinement.converged
    assert (refinement.result[gaps] > 0.5).mean() > 0.8
    assert (refinement.result[broken] > 0.5).mean() > 0.95  # correct pixels are kept
    assert (refinement.result[~target] < 0.5).mean() > 0.95


def test_bernoulli_diffusion_learns_the_share_and_the_position_of_lines():
    config = BernoulliConfig(steps=100, diffusion_steps=6, **SHORT)
    model, history = train_bernoulli([noisy(k) for k in range(4)], config, **QUIET)
    channels, target = noisy(9)
    share = target.mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))  # nats per pixel
    assert history.table()["loss"].iloc[-1] < entropy
    maps = draw(model, channels, draws=4, device="cpu")
    mean = maps.mean(0)
    assert mean[target].mean() > 3 * mean[~target].mean()


# ---- training data ---------------------------------------------------------------------------------------


class Spy(nn.Module):
    """Records its inputs; has one weight, so that it can be trained."""

    inputs: list[torch.Tensor] = []  # shared with the copy that is trained

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        Spy.inputs.append(x.detach().clone())
        return self.weight * x[:, :1]


@pytest.fixture
def spy():
    Spy.inputs = []
    return Spy()


def test_channels_and_boundary_are_cropped_and_turned_together(spy, monkeypatch):
    target = np.random.default_rng(0).random((40, 60)) < 0.3
    targets = []
    monkeypatch.setattr(
        refine_training, "boundary_loss", lambda logits, t: targets.append(t) or logits.square().mean()
    )
    train_first(
        [(target[None].astype(np.float32), target)], FirstConfig(steps=3, **SHORT), model=spy, **QUIET
    )
    for x, t in zip(Spy.inputs, targets, strict=True):
        assert torch.equal(x, t)
    crops = torch.cat(Spy.inputs)
    assert len({crop.numpy().tobytes() for crop in crops}) == len(crops)


def test_net2_gets_the_truth_at_strength_zero_and_damaged_maps_above(spy):
    for strength, same in ((0.0, True), (1.0, False)):
        Spy.inputs = []
        config = SecondConfig(steps=2, strengths=(strength,), soften=0, applications=1, **SHORT)
        train_second([(lattice(0)[None].astype(np.float32), lattice(0))], config, model=spy, **QUIET)
        for x in Spy.inputs:
            assert torch.equal(x[:, 0], x[:, 1]) == same


def test_guesses_take_their_share_of_the_samples(spy):
    guess = np.full((64, 64), 0.25, np.float32)  # no damaged boundary is that even
    pairs = [blind(0)]
    for guessed, low, high in ((0.0, 0, 0), (0.5, 0.3, 0.7), (1.0, 1, 1)):
        Spy.inputs = []
        config = SecondConfig(steps=15, guessed=guessed, applications=1, **SHORT)
        train_second(pairs, config, guesses=[guess], model=spy, **QUIET)
        starts = torch.cat(Spy.inputs)[:, 0]
        assert low <= (starts == 0.25).all((1, 2)).float().mean() <= high


def test_the_batch_of_a_step_does_not_depend_on_earlier_batches():
    pairs, config = [noisy(k) for k in range(2)], SecondConfig(**SHORT)
    batches = refinement_batches(pairs, config)
    third = batches(3)
    batches(0)
    for x, again, fresh in zip(third, batches(3), refinement_batches(pairs, config)(3), strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(x, fresh)
    assert not np.array_equal(third[0], batches(4)[0])
    x, target = third
    assert (x.shape, target.shape) == ((4, 3, 16, 16), (4, 1, 16, 16))
    assert 0 <= x.min() <= x.max() <= 1
    assert set(np.unique(target)) == {0.0, 1.0}


def test_net2_is_trained_on_the_refinement_batches_and_nothing_else(spy):
    pairs, guesses = [noisy(k) for k in range(2)], [np.full((64, 64), 0.25, np.float32)] * 2
    config = SecondConfig(steps=3, applications=1, **SHORT)
    train_second(pairs, config, guesses=guesses, model=spy, **QUIET)
    batches = refinement_batches(pairs, config, guesses)
    for step, inputs in enumerate(Spy.inputs):
        np.testing.assert_array_equal(inputs.numpy(), batches(step)[0])
    assert len(Spy.inputs) == 3


def test_every_application_starts_from_the_previous_one_and_enters_the_loss():
    class Half(nn.Module):
        def forward(self, x):
            return torch.logit(x[:, :1] / 2)

    x, target = torch.full((1, 2, 4, 4), 0.8), torch.ones(1, 1, 4, 4)
    by_hand = [boundary_loss(torch.logit(torch.full((1, 1, 4, 4), p)), target) for p in (0.4, 0.2, 0.1)]
    torch.testing.assert_close(refinement_loss(Half(), x, target, 3), torch.stack(by_hand).mean())


def test_the_initial_network_is_not_changed():
    model = RefineNet(2, widths=(4, 6))
    before = [p.clone() for p in model.parameters()]
    trained, _ = train_second([blind(0)], SecondConfig(steps=2, **SHORT), model=model, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not torch.equal(before[0], next(trained.parameters()))


# ---- reproducibility -------------------------------------------------------------------------------------


def test_killed_training_resumes_exactly(tmp_path, monkeypatch):
    config = SecondConfig(steps=6, checkpoint_every=3, **SHORT)
    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) > 4:  # after the checkpoint at step 3
            raise KeyboardInterrupt
        return refinement_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(refine_training, "refinement_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train_second([blind(0)], config, folder=tmp_path, **QUIET)
    resumed, _ = train_second([blind(0)], config, folder=tmp_path, **QUIET)
    whole, _ = train_second([blind(0)], config, **QUIET)
    for one, other in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("train", [train_first, train_bernoulli])
def test_same_seed_same_weights(train):
    config = (BernoulliConfig if train is train_bernoulli else FirstConfig)(steps=2, **SHORT)
    one, two = (train([noisy(0)], config, **QUIET)[0] for _ in range(2))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [train_first, train_second, train_bernoulli])
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((np.zeros((1, 64, 64)), np.zeros((64, 60), bool)), "boundary must be bool of shape"),
        ((np.zeros((1, 64, 64)), np.zeros((64, 64))), "boundary must be bool"),
        ((np.zeros((64, 64)), np.zeros((64, 64), bool)), r"\(C, H, W\)"),
        ((np.zeros((1, 32, 64)), np.zeros((32, 64), bool)), "smaller than a crop of 40"),
        ((np.full((1, 64, 64), np.nan), np.zeros((64, 64), bool)), r"pairs\[0\]: channels"),
    ],
)
def test_bad_pairs_are_refused(train, pair, message):
    kind = {train_first: FirstConfig, train_second: SecondConfig, train_bernoulli: BernoulliConfig}[train]
    with pytest.raises(ValueError, match=message):
        train([pair], kind(crop=40), **QUIET)


def test_no_pairs_and_unequal_channels_are_refused():
    with pytest.raises(ValueError, match="none"):
        train_first([], **QUIET)
    with pytest.raises(ValueError, match=r"pairs\[1\] has 1 channels"):
        train_first([noisy(0), blind(0)], FirstConfig(crop=16), **QUIET)


def test_guesses_that_do_not_fit_are_refused():
    config = SecondConfig(crop=16)
    with pytest.raises(ValueError, match="2 for 1"):
        train_second([blind(0)], config, guesses=[np.zeros((64, 64))] * 2, **QUIET)
    with pytest.raises(ValueError, match=r"guesses\[0\].*differ in size"):
        train_second([blind(0)], config, guesses=[np.zeros((64, 60))], **QUIET)


@pytest.mark.parametrize(
    "setting",
    [
        {"crop": 0},
        {"batch": 0},
        {"strengths": ()},
        {"strengths": (1.5,)},
        {"soften": -1},
        {"guessed": 2},
        {"applications": 0},
    ],
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SecondConfig(**setting)
