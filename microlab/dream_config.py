"""What determines a dreamer: the settings of both models, ours and paper B's, in three sizes (chapter 11)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from microlab.generate.pixelcnn_training import PriorConfig
from microlab.generate.vqvae import channel_count
from microlab.generate.vqvae_training import PAPER as PAPER_VQVAE
from microlab.generate.vqvae_training import VQVAEConfig
from microlab.profiles import PROFILES


@dataclass(frozen=True)
class DreamConfig:
    """Everything that determines both models. The defaults are ours, at laptop size."""

    vqvae: VQVAEConfig = field(default_factory=lambda: VQVAEConfig(coding="one-hot", image_channels=1))
    prior: PriorConfig = field(default_factory=PriorConfig)
    conditioned: bool = True  # the prior is steered by the class fractions
    min_area: int | tuple[int, ...] | None = None  # of a dreamed object, px; None: as the training masks say
    temperature: float = 1.0  # of sampling, unless asked otherwise
    held_out: float = 0.2  # share of the images that only measure; at least one image
    seed: int = 0  # takes the place of the seeds of `vqvae` and `prior`

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")


OURS = DreamConfig()
# Paper B: grey masks, the network with the blind spot, no steering. Its PixelCNN's size is not stated.
PAPER = DreamConfig(
    vqvae=PAPER_VQVAE,
    prior=PriorConfig(
        kind="plain", channels=128, layers=12, crop=64, batch=8, steps=50_000, lr=3e-4, checkpoint_every=1000
    ),
    conditioned=False,
    min_area=200,
)


def profile_config(profile: str, coding: str = "one-hot", seed: int = 0) -> DreamConfig:
    """Our variant in three sizes: ``smoke`` (does it run?), ``laptop`` (two cores) or ``paper`` (a GPU).

    Parameters
    ----------
    profile : {'smoke', 'laptop', 'paper'}
    coding : {'one-hot', 'grey'}
        Of the masks; grey as in paper B.
    seed : int

    Raises
    ------
    ValueError
        If `profile` or `coding` is not known.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    channel_count(2, 1, coding)  # a wrong coding fails here
    vqvae, prior = OURS.vqvae, OURS.prior
    if profile == "smoke":
        vqvae = replace(vqvae, hidden=16, residual=8, dim=16, crop=64, batch=4, steps=60)
        prior = replace(prior, channels=16, layers=2, crop=16, batch=8, steps=60, checkpoint_every=30)
    if profile == "paper":
        vqvae = replace(vqvae, hidden=128, crop=256, steps=50_000, lr=3e-4, checkpoint_every=1000)
        prior = replace(
            prior, channels=128, layers=12, crop=64, steps=50_000, lr=3e-4, checkpoint_every=1000, patience=10
        )
    # Grey masks in paper B's way, beside three equal channels: the image counts three quarters of the error.
    vqvae = replace(vqvae, coding=coding, image_channels=3 if coding == "grey" else 1)
    return replace(OURS, vqvae=vqvae, prior=prior, seed=seed)
