"""CycleGAN: two translators that must undo each other.

    F: Y -> X   simulation to micrograph            D_X  tells real micrographs from translated ones
    G: X -> Y   micrograph to simulation            D_Y  tells simulations from translated micrographs

    generators:      (D_X(F(y)) - 1)^2 + (D_Y(G(x)) - 1)^2
                     + lambda_cycle (|G(F(y)) - y| + |F(G(x)) - x|)
                     + lambda_cycle lambda_identity (|F(x) - x| + |G(y) - y|)
    discriminators:  1/2 [(D_X(x) - 1)^2 + D_X(F(y))^2] + 1/2 [(D_Y(y) - 1)^2 + D_Y(G(x))^2]

Names and directions are those of paper A (section II.B). Zhu et al., ICCV 2017, doi:10.1109/ICCV.2017.244.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from microlab.generate.networks import Discriminator, Generator, ImagePool

if TYPE_CHECKING:
    from microlab.generate.style import StyleConfig


class CycleGAN(nn.Module):
    """Both translators, both discriminators and their pools of earlier translations.

    Its loss is eq. 2 of chapter 05 (cyclegan-loss).

    Calling it gives the losses of one step. Generators and discriminators share that step: each loss leaves
    the other side's weights out, so one optimiser over all of them does what two in turn do.

    Parameters
    ----------
    y_channels, x_channels : int
        Channels of a simulation and of a micrograph.
    crop : int
        Side of the images it trains on.
    width, blocks : int
        Of the generators; the discriminators have the same width.
    noise : float
        Of F's noise channel; see `Generator`.
    lambda_cycle : float
        Weight of the cycle loss; 10 in the paper's network. Low: freedom to move boundaries; high: texture
        suffers.
    lambda_identity : float
        Weight of the identity loss relative to the cycle loss; 0 leaves it out.
    layers : int
        Halvings of the discriminators.
    pool : int
        Translations remembered; 50 in the paper's network.
    seed : int

    Raises
    ------
    ValueError
        If a weight is negative, or the identity loss has a weight between images of different channels.
    """

    def __init__(
        self,
        y_channels: int = 1,
        x_channels: int = 1,
        *,
        crop: int = 256,
        width: int = 64,
        blocks: int = 9,
        noise: float = 0.0,
        lambda_cycle: float = 10.0,
        lambda_identity: float = 0.5,
        layers: int = 3,
        pool: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if lambda_cycle < 0 or lambda_identity < 0:
            raise ValueError(f"weights must not be negative, got {lambda_cycle=}, {lambda_identity=}")
        if lambda_identity and y_channels != x_channels:
            raise ValueError(
                f"the identity loss needs equal channels, got {y_channels} and {x_channels}: "
                "set lambda_identity=0 or make both grey"
            )
        self.lambda_cycle, self.lambda_identity = lambda_cycle, lambda_identity
        self.F = Generator(y_channels, x_channels, width, blocks, noise, seed=seed)
        self.G = Generator(x_channels, y_channels, width, blocks, seed=seed + 1)
        self.D_X = Discriminator(x_channels, width, layers, seed=seed + 2)
        self.D_Y = Discriminator(y_channels, width, layers, seed=seed + 3)
        self.pool_X = ImagePool(pool, (x_channels, crop, crop))
        self.pool_Y = ImagePool(pool, (y_channels, crop, crop))

    @classmethod
    def from_config(cls, config: StyleConfig, y_channels: int, x_channels: int) -> CycleGAN:
        """The untrained networks of a configuration, between images of these channels."""
        return cls(
            y_channels,
            x_channels,
            crop=config.crop,
            width=config.width,
            blocks=config.blocks,
            noise=config.noise,
            lambda_cycle=config.lambda_cycle,
            lambda_identity=config.lambda_identity,
            layers=config.layers,
            seed=config.seed,
        )

    def forward(self, y: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Losses of one step.

        Parameters
        ----------
        y, x : (N, C, crop, crop) float in [-1, 1]
            Simulations and micrographs, not paired.

        Returns
        -------
        dict
            ``loss`` to lower, and its parts: adversarial losses of F and G, cycle, identity, D_X, D_Y.
        """
        fake_x, fake_y = self.F(y), self.G(x)
        with frozen(self.D_X, self.D_Y):
            parts = {"F": lsgan_loss(self.D_X(fake_x), 1.0), "G": lsgan_loss(self.D_Y(fake_y), 1.0)}
        parts["cycle"] = _l1(self.G(fake_x), y) + _l1(self.F(fake_y), x)
        if self.lambda_identity:
            parts["identity"] = _l1(self.F(x), x) + _l1(self.G(y), y)
        parts["D_X"] = discriminator_loss(self.D_X, x, self.pool_X.exchange(fake_x))
        parts["D_Y"] = discriminator_loss(self.D_Y, y, self.pool_Y.exchange(fake_y))
        weight = {
            "cycle": self.lambda_cycle,
            "identity": self.lambda_cycle * self.lambda_identity,
        }
        total = sum(weight.get(name, 1.0) * part for name, part in parts.items())
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}


def lsgan_loss(scores: Tensor, target: float) -> Tensor:
    """Least-squares adversarial loss: mean squared distance of patch scores from 1 (real) or 0 (fake)."""
    return functional.mse_loss(scores, torch.full_like(scores, target))


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Half the loss on real patches plus half that on fake ones; no gradient reaches the generator.

    It is half of eq. 3 of chapter 05 (cyclegan-judges).
    """
    real_loss = lsgan_loss(discriminator(real), 1.0)
    fake_loss = lsgan_loss(discriminator(fake.detach()), 0.0)
    return 0.5 * (real_loss + fake_loss)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Let gradients pass through the networks, but not into their weights.

    Weights that were frozen before stay frozen afterwards.
    """
    trainable = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()
