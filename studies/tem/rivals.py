"""Baselines for boundary refinement, matched to Net2 in their number of parameters.

    conditional GAN:  refinement loss + weight (D(map, edges) - 1)^2,    D: true map or refined one?

Paper C does not compare its refinement with a baseline. Here a conditional generative adversarial network
(Isola et al., CVPR 2017, arXiv:1611.07004) and a plain U-Net of equal size replace Net2; a second Net1 needs
no code of its own, and the diffusion model is in microlab.book.experiments.bernoulli.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microlab.book.experiments.weak_boundaries import count_weights
from microlab.generate.cyclegan import discriminator_loss, frozen, lsgan_loss
from microlab.generate.networks import Discriminator
from microlab.segment.refine import RefineNet
from microlab.segment.refine_training import Pair, SecondConfig, refinement_batches, refinement_loss
from microlab.segment.unet import UNet
from microlab.training.fit import FitConfig, History, fit


class ConditionalGAN(nn.Module):
    """A refinement network and a discriminator between its maps and true ones, given the same edges.

    Calling it gives the losses of one step; as in microlab.generate.cyclegan both networks share the step.

    Parameters
    ----------
    refiner : Module
        As :class:`~microlab.segment.refine.RefineNet`: (N, 1 + C, H, W) to logits.
    channels : int >= 1
        C, channels of the image.
    width : int >= 1
        Of the discriminator, whose receptive field is 34 x 34 pixels.
    weight : float >= 0
        Of the adversarial loss; at 0 the refiner's gradient equals that of Net2's training.
    applications : int >= 1
        As in :func:`~microlab.segment.refine_training.refinement_loss`.
    seed : int
        Of the discriminator's initial weights.

    Raises
    ------
    ValueError
        If `weight` is negative.
    """

    memory_format = torch.channels_last

    def __init__(
        self,
        refiner: nn.Module,
        channels: int,
        *,
        width: int = 16,
        weight: float = 0.1,
        applications: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.weight, self.applications = weight, applications
        self.refiner = refiner
        self.discriminator = Discriminator(1 + channels, width, layers=2, seed=seed)

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Losses of one step.

        Parameters
        ----------
        x : (N, 1 + C, H, W) float in [0, 1]
        target : (N, 1, H, W) float of 0 and 1

        Returns
        -------
        dict
            ``loss`` and its parts: refinement, adversarial, discriminator.
        """
        channels = x[:, 1:]
        refined = torch.cat([torch.sigmoid(self.refiner(x).float()), channels], dim=1)
        real = torch.cat([target, channels], dim=1)
        with frozen(self.discriminator):
            adversarial = lsgan_loss(self.discriminator(refined), 1.0)
        refinement = refinement_loss(self.refiner, x, target, self.applications)
        discriminator = discriminator_loss(self.discriminator, real, refined)
        total = refinement + self.weight * adversarial + discriminator
        parts = {"refinement": refinement, "adversarial": adversarial, "discriminator": discriminator}
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}


def train_gan(
    pairs: Sequence[Pair],
    config: SecondConfig | None = None,
    *,
    guesses: Sequence[np.ndarray] | None = None,
    weight: float = 0.1,
    **options: Any,
) -> tuple[RefineNet, History]:
    """Train Net2's network as the generator of a conditional GAN, on Net2's training data.

    Parameters
    ----------
    pairs, config, guesses, **options
        As :func:`microlab.segment.refine_training.train_second`.
    weight : float >= 0
        Of the adversarial loss.

    Returns
    -------
    model : RefineNet
        The generator alone.
    history : History
    """
    config = config or SecondConfig()
    batches = refinement_batches(pairs, config, guesses)
    channels = len(pairs[0][0])
    gan = ConditionalGAN(
        RefineNet(1 + channels, seed=config.seed),
        channels,
        weight=weight,
        applications=config.applications,
        seed=config.seed + 1,
    )
    history = fit(gan, batches, lambda model, batch: model(*batch), FitConfig.of(config, clip=1.0), **options)
    return gan.refiner.eval(), history


def unet_of_size(weights: int, in_channels: int = 1, depth: int = 4, seed: int = 0) -> UNet:
    """The plain U-Net with the number of weights closest to a given one.

    Parameters
    ----------
    weights : int >= 1
        Target number of weights.
    in_channels, depth, seed
        As :class:`~microlab.segment.unet.UNet`.
    """
    best, gap = None, float("inf")
    for width in count(1):  # weights rise with the width, so stop when the gap grows
        network = UNet(in_channels, width=width, depth=depth, seed=seed)
        difference = abs(count_weights(network) - weights)
        if difference >= gap:
            return best
        best, gap = network, difference
