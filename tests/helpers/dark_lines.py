"""A network with hand-set weights, so that the code around it can be tested without training.

It marks a pixel as boundary where the standardised image is more than one standard deviation below its mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from microlab.data import weights
from microlab.segment.unet import UNet


def save_network(path: Path, **card_entries: object) -> Path:
    """Write the network's weights and card; keyword arguments are further entries of the card."""
    model = UNet(width=1, depth=1, norm="none")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first, second = (layer for layer in model.down[0] if isinstance(layer, torch.nn.Conv2d))
        first.weight[0, 0, 1, 1] = -1  # darkness below the mean, kept positive by the ReLU
        second.weight[0, 0, 1, 1] = 1
        model.head.weight[:] = 8
        model.head.bias[:] = -8  # probability 0.5 at one standard deviation
    card = {
        "architecture": "UNet",
        "parameters": model.architecture,
        "trained_by": "written by hand",
        "data": "none",
        "licence": "MIT",
        "scores": {},
        "hardware": "none",
        "minutes": 0,
        "date": "2025-01-01",
        "seed": 0,
    }
    return weights.save(path, model, {**card, **card_entries})


def grid(rows: int, columns: int, cell: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A micrograph of rectangular grains and its boundary mask: dark lines 3 px wide every `cell` px."""
    y, x = np.mgrid[: rows * cell, : columns * cell]
    truth = ((y + 1) % cell < 3) & (y > 2) & (y < rows * cell - 2)
    truth |= ((x + 1) % cell < 3) & (x > 2) & (x < columns * cell - 2)
    noise = 0.02 * np.random.default_rng(0).standard_normal(truth.shape)
    return np.clip(np.where(truth, 0.2, 0.7) + noise, 0, 1).astype(np.float32), truth
