"""Labelled images of two classes that a tiny VQ-VAE and a tiny prior learn within seconds."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from microlab.data.micrograph import Micrograph
from microlab.generate.pixelcnn import PriorConfig
from microlab.generate.vqvae import VQVAEConfig
from microlab.pipelines.train_pair_model import PairModelConfig

TINY = PairModelConfig(
    vqvae=VQVAEConfig(
        coding="one-hot",
        image_channels=1,
        hidden=16,
        residual=8,
        dim=16,
        crop=32,
        batch=8,
        steps=100,
        lr=4e-3,
        checkpoint_every=5,
    ),
    prior=PriorConfig(
        channels=16, layers=2, first_kernel=5, crop=8, batch=16, steps=150, lr=1e-2, checkpoint_every=50
    ),
    min_area=6,
    held_out=0.25,
)


def two_classes(fraction: float, seed: int, side: int = 64) -> Micrograph:
    """Bright blobs of class 1 that cover `fraction` of the pixels, with noise."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((side, side)), 4, mode="wrap")
    mask = (field > np.quantile(field, 1 - fraction)).astype(np.uint8)
    image = 0.2 + 0.6 * mask + 0.05 * rng.standard_normal((side, side))
    return Micrograph(image.clip(0, 1).astype(np.float32), name=f"field{seed}", classes=mask)


def toy_pairs(n: int = 8) -> list[Micrograph]:
    """Fields with 10 to 70 % of class 1."""
    return [two_classes(fraction, k) for k, fraction in enumerate(np.linspace(0.1, 0.7, n))]
