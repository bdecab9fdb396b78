"""Which loss reaches which network in the conditional GAN, and networks of equal size."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microlab.book.experiments.weak_boundaries import count_weights
from microlab.generate.cyclegan import discriminator_loss
from microlab.segment.refine import RefineNet, refine
from microlab.segment.refine_training import SecondConfig, refinement_loss
from microlab.segment.unet import UNet
from studies.tem.rivals import ConditionalGAN, train_gan, unet_of_size

SHORT = {"crop": 32, "batch": 2, "steps": 3, "warmup": 1, "lr": 1e-2, "precision": "float32"}
QUIET = {"progress": False, "device": "cpu"}


def lines(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Channels and boundary of a lattice under noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] + rng.integers(0, 12, (2, 1, 1))
    target = (y % 12 < 2) | (x % 12 < 2)
    return (0.5 * target + 0.5 * rng.random((1, 48, 48))).astype(np.float32), target


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    channels, target = lines(0)
    x = np.concatenate([np.roll(target, 1)[None], channels])[None].astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(target[None, None].astype(np.float32))


def gan(weight: float) -> ConditionalGAN:
    return ConditionalGAN(RefineNet(2, (4, 6), seed=3), 1, width=4, weight=weight, seed=5)


def gradients(network: nn.Module) -> Tensor:
    assert all(p.grad is not None for p in network.parameters())
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def after(weight: float, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Gradients of refiner and discriminator after one step's loss."""
    model = gan(weight)
    model(*batch)["loss"].backward()
    return gradients(model.refiner), gradients(model.discriminator)


def test_without_the_adversarial_loss_the_refiner_has_the_gradient_of_refinement(batch):
    refiner = gan(0).refiner
    refinement_loss(refiner, *batch, applications=2).backward()
    torch.testing.assert_close(after(0, batch)[0], gradients(refiner))


def test_the_discriminator_gets_the_gradient_of_its_own_loss_only(batch):
    model = gan(0)
    x, target = batch
    refined = torch.cat([torch.sigmoid(model.refiner(x)), x[:, 1:]], 1)
    discriminator_loss(model.discriminator, torch.cat([target, x[:, 1:]], 1), refined).backward()
    expected = gradients(model.discriminator)
    assert expected.abs().sum() > 0
    for weight in (0.0, 5.0):
        torch.testing.assert_close(after(weight, batch)[1], expected)


def test_the_refiner_gets_the_weighted_adversarial_gradient_and_not_the_discriminator_s(batch):
    model = gan(1)
    x, _ = batch
    refined = torch.cat([torch.sigmoid(model.refiner(x)), x[:, 1:]], 1)
    ((model.discriminator(refined) - 1) ** 2).mean().backward()
    adversarial = gradients(model.refiner)
    assert adversarial.abs().sum() > 0
    refinement = after(0, batch)[0]
    for weight in (0.5, 2.0):
        expected = refinement + weight * adversarial
        torch.testing.assert_close(after(weight, batch)[0], expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_parts_and_weights_can_learn_afterwards(batch):
    model = gan(0.25)
    losses = model(*batch)
    total = losses["refinement"] + 0.25 * losses["adversarial"] + losses["discriminator"]
    torch.testing.assert_close(losses["loss"].detach(), total)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match="weight must not be negative"):
        gan(weight)


def test_the_trained_generator_refines_alone_and_the_same_seed_gives_it_again():
    pairs, config = [lines(k) for k in range(2)], SecondConfig(**SHORT)
    guesses = [np.full((48, 48), 0.25, np.float32)] * 2
    trained, history = train_gan(pairs, config, guesses=guesses, **QUIET)
    assert isinstance(trained, RefineNet)
    assert not trained.training
    assert {"loss", "refinement", "adversarial", "discriminator"} <= set(history.table().columns)
    start = RefineNet(2, seed=config.seed)
    assert not torch.equal(next(start.parameters()), next(trained.parameters()))
    again, _ = train_gan(pairs, config, guesses=guesses, **QUIET)
    for a, b in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    channels, target = lines(9)
    result = refine(trained, target.astype(np.float32), channels, tolerance=1, device="cpu").result
    assert 0 <= result.min() < result.max() <= 1


@pytest.mark.parametrize("weights", [1, 5000, 20_000])
def test_no_plain_unet_of_another_width_is_closer_to_the_number_of_weights(weights):
    def numbers(network: nn.Module) -> int:
        # Counters and statistics, not learnt.
        running = ("running_mean", "running_var", "num_batches_tracked")
        state = network.state_dict().items()
        return sum(value.numel() for name, value in state if not name.endswith(running))

    closest = unet_of_size(weights, 2, depth=3, seed=4)
    sizes = [numbers(UNet(2, width=width, depth=3)) for width in range(1, 9)]
    assert sizes[-1] > weights
    assert abs(numbers(closest) - weights) == min(abs(size - weights) for size in sizes)
    assert closest(torch.zeros(1, 2, 32, 32)).shape == (1, 1, 32, 32)


def test_weights_are_counted_with_biases_and_over_all_networks():
    linear, convolution = nn.Linear(3, 4), nn.Conv2d(2, 5, 3, bias=False)
    assert count_weights(linear) == 3 * 4 + 4
    assert count_weights(linear, convolution) == 16 + 2 * 5 * 9
    norm = nn.BatchNorm2d(6)  # its running mean and variance are not learnt
    assert count_weights(norm) == 12
    assert count_weights(copy.deepcopy(norm), norm) == 24
