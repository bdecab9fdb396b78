"""CUT: one translator, held in place by contrast instead of by a way back.

    loss = (D_X(F(y)) - 1)^2 + 1/2 lambda_nce [NCE(y, F(y)) + NCE(x, F(x))]
    NCE(a, b) = - log [ exp(b_i . a_i / tau) / sum_j exp(b_i . a_j / tau) ]     i, j: places in the image

What stands at a place after translation must be more like what stood there before than like any other place.
Park et al., ECCV 2020 (doi:10.1007/978-3-030-58545-7_19). Half the networks of a CycleGAN. The variant with
a ten times larger weight and no identity term (FastCUT) stayed at the identity in our tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from microlab.generate.cyclegan import discriminator_loss, frozen, lsgan_loss
from microlab.generate.networks import Discriminator, Generator, ImagePool, initialise

if TYPE_CHECKING:
    from microlab.generate.style import StyleConfig


class CUT(nn.Module):
    """One translator F, one discriminator, and the heads that compare features.

    Parameters
    ----------
    channels : int
        Of simulations and micrographs alike: one encoder reads both.
    crop, width, blocks, noise, layers, pool, seed
        As in `microlab.generate.cyclegan.CycleGAN`.
    lambda_nce : float
        Weight of the contrastive loss.
    patches : int
        Places compared in an image.
    temperature : float
        tau.
    embedding : int
        Length of the compared vectors.

    Raises
    ------
    ValueError
        If `lambda_nce` is negative or `temperature` not positive.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        crop: int = 256,
        width: int = 64,
        blocks: int = 9,
        noise: float = 0.0,
        lambda_nce: float = 1.0,
        layers: int = 3,
        pool: int = 0,
        patches: int = 256,
        temperature: float = 0.07,
        embedding: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if lambda_nce < 0 or not temperature > 0:
            raise ValueError(f"need lambda_nce >= 0 and temperature > 0, got {lambda_nce}, {temperature}")
        self.lambda_nce, self.patches, self.temperature = lambda_nce, patches, temperature
        self.F = Generator(channels, channels, width, blocks, noise, seed=seed)
        self.D_X = Discriminator(channels, width, layers, seed=seed + 2)
        self.pool_X = ImagePool(pool, (channels, crop, crop))
        # The first convolution, both halvings, the first residual block and the middle one.
        self.compared = sorted({0, 1, 2, min(3, 2 + blocks), 2 + (blocks + 1) // 2})
        depths = [width, 2 * width] + [4 * width] * (len(self.compared) - 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 4)
            self.heads = nn.ModuleList(
                nn.Sequential(nn.Linear(depth, embedding), nn.ReLU(), nn.Linear(embedding, embedding))
                for depth in depths
            )
            initialise(self.heads)

    @classmethod
    def from_config(cls, config: StyleConfig, y_channels: int, x_channels: int) -> CUT:
        """The untrained networks of a configuration.

        Raises
        ------
        ValueError
            If simulations and micrographs have different channels.
        """
        if y_channels != x_channels:
            raise ValueError(
                f"CUT needs equal channels, got simulations with {y_channels} and micrographs with "
                f"{x_channels}: make both grey, or use method='cyclegan' with lambda_identity=0"
            )
        return cls(
            y_channels,
            crop=config.crop,
            width=config.width,
            blocks=config.blocks,
            noise=config.noise,
            lambda_nce=config.lambda_nce,
            layers=config.layers,
            seed=config.seed,
        )

    def forward(self, y: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Losses of one step; arguments and result as in `CycleGAN.forward`."""
        fake_x, same_x = self.F(y), self.F(x)
        with frozen(self.D_X):
            parts = {"F": lsgan_loss(self.D_X(fake_x), 1.0)}
        parts["contrast"] = 0.5 * (self.contrast(y, fake_x) + self.contrast(x, same_x))
        parts["D_X"] = discriminator_loss(self.D_X, x, self.pool_X.exchange(fake_x))
        total = parts["F"] + parts["D_X"] + self.lambda_nce * parts["contrast"]
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def contrast(self, before: Tensor, after: Tensor) -> Tensor:
        """Mean contrastive loss over the compared layers; zero if every place is known for certain."""
        losses = []
        pairs = zip(self.F.features(before, self.compared), self.F.features(after, self.compared))
        for head, (old, new) in zip(self.heads, pairs):
            n, _, height, width = old.shape
            places = torch.randperm(height * width, device=old.device)[: self.patches]
            key, query = (
                functional.normalize(head(f.flatten(2)[..., places].transpose(1, 2)).float(), dim=-1)
                for f in (old, new)
            )  # (N, patches, embedding)
            scores = query @ key.detach().transpose(1, 2) / self.temperature  # (N, patches, patches)
            truth = torch.arange(len(places), device=old.device).expand(n, -1)
            losses.append(functional.cross_entropy(scores.flatten(0, 1), truth.flatten()))
        return torch.stack(losses).mean()
