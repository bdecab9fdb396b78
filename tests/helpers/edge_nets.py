"""Net1 and Net2 with hand-set weights, so that the code around them can be tested without training.

Net1 marks a pixel as boundary where the 3 x 3 pixels around it contain many edges. Net2 combines that with
its input map, whose weight is below one, so that the iteration must converge. Neither prefers a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from microlab.data import weights
from microlab.segment.refine import EdgeNet, EncoderDecoder, RefineNet


def save_edge_segmenter(
    folder: Path, inputs: Sequence[str] = ("sobel", "log", "canny"), channels: int | None = None, **entries
) -> Path:
    """Write both networks with their cards; keyword arguments are further entries of the first card."""
    channels = len(inputs) if channels is None else channels
    first, second = EdgeNet(channels, (1,), ()), RefineNet(len(inputs) + 1, (1,), ())
    _set_weights(first, around=0.5 / channels, centre=0.0, head=8)
    _set_weights(second, around=0.25 / len(inputs), centre=0.5, head=6)
    facts = {"trained_by": "written by hand", "data": "none", "licence": "MIT", "scores": {}, "seed": 0}
    facts |= {"hardware": "none", "minutes": 0, "date": "2025-01-01"}
    for name, network, more_entries in (
        ("first", first, {"inputs": list(inputs), **entries}),
        ("refine", second, {}),
    ):
        card = {
            "architecture": type(network).__name__,
            "parameters": network.architecture,
            **facts,
            **more_entries,
        }
        weights.save(folder / f"{name}.safetensors", network, card)
    return folder


def _set_weights(network: EncoderDecoder, around: float, centre: float, head: float) -> None:
    """Logit head * (around * edges in 3 x 3 + centre * map - 1/2); the map, if there is one, comes first."""
    before, after = (layer[0] for layer in network.down[0])
    with torch.no_grad():
        before.weight[:] = around
        if centre:
            before.weight[0, 0] = 0
            before.weight[0, 0, 1, 1] = centre
        after.weight[:] = 0
        after.weight[0, 0, 1, 1] = 1
        network.head.weight[:] = head
        network.head.bias[:] = -head / 2


def patchwork(rows: int, columns: int, cell: int = 32) -> np.ndarray:
    """A TEM-like picture: square grains in four greys, neighbours always different, (H, W) float32."""
    y, x = np.mgrid[: rows * cell, : columns * cell] // cell
    noise = 0.01 * np.random.default_rng(0).standard_normal(y.shape)
    return np.clip(0.2 + 0.2 * ((y + 2 * x) % 4) + noise, 0, 1).astype(np.float32)
