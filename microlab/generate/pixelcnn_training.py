"""Train a PixelCNN on code maps, and measure how well it predicts unseen ones (chapter 11).

    bits per code = -mean_i log2 p(k_i | k_1, ..., k_(i-1))

Never below the entropy rate of the maps, and below the entropy of the single codes as soon as the network
has learnt anything about their arrangement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from microlab.generate.pixelcnn import NETWORKS, Autoregressive
from microlab.generate.vqvae_training import orientations
from microlab.training import FitConfig, History, fit

Conditions = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PriorConfig:
    """Everything that determines a trained prior. The defaults take minutes on two CPU cores."""

    kind: str = "gated"  # or 'plain', as in paper B
    channels: int = 64
    layers: int = 8
    kernel: int = 3
    first_kernel: int = 7
    crop: int = 32  # codes along each side
    batch: int = 16
    steps: int = 600
    lr: float = 1e-3  # lowered to zero along a cosine
    ema: float | None = None  # decay of the running mean of the weights
    augment: bool = False  # turn and flip the crops: only for codes that mean the same in every orientation
    patience: int | None = None  # checks on the held-out maps without improvement before stopping
    checkpoint_every: int = 200  # steps; also between checks on the held-out maps
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in NETWORKS:
            raise ValueError(f"kind must be one of {', '.join(NETWORKS)}, got {self.kind!r}")
        for name in ("crop", "batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def train_prior(
    codes: np.ndarray | Sequence[np.ndarray],
    config: PriorConfig | None = None,
    *,
    codes_in_book: int,
    conditions: Conditions | None = None,
    held_out: np.ndarray | Sequence[np.ndarray] | None = None,
    held_out_conditions: np.ndarray | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
) -> tuple[Autoregressive, History]:
    """Train a PixelCNN on random crops of code maps.

    At its top and left rim a crop has nothing before it, which is what a sampler meets at the corner of a
    map.

    Parameters
    ----------
    codes : (M, H, W) int64, or sequence of (H, W) int64
        Maps of codes in 0..K-1, no side smaller than a crop.
    config : PriorConfig, optional
    codes_in_book : int
        K.
    conditions : (M, D) float, or callable, optional
        What steers the network: a vector for each map, or ``conditions(crop)``, the vector (D,) of a crop
        (crop, crop) of codes.
    held_out : as `codes`, optional
        Maps that do not train. The weights kept are those that predict them best.
    held_out_conditions : (M', D) float, optional
        Of the held-out maps; not needed where `conditions` is a callable.
    folder, device, progress, resume
        As in `microlab.training.fit`.

    Returns
    -------
    model : PixelCNN or GatedPixelCNN
    history : History
        Columns loss and, with `held_out`, validation_loss: bits per code.

    Raises
    ------
    ValueError
        If there is no map, one is smaller than a crop or holds codes out of range, or conditions do not fit.
    """
    config = config or PriorConfig()
    maps = _checked(codes, codes_in_book, config.crop, "codes")
    if conditions is not None and not callable(conditions):
        conditions = _checked_conditions(conditions, len(maps), "conditions")
    batches = _crops(maps, conditions, config)
    steer = batches(0).get("condition")
    model = NETWORKS[config.kind](
        codes_in_book,
        config.channels,
        config.layers,
        config.kernel,
        config.first_kernel,
        0 if steer is None else steer.shape[1],
        config.seed,
    )
    validate = None
    if held_out is not None:
        unseen = _checked(held_out, codes_in_book, 1, "held_out")
        given = np.stack([conditions(m) for m in unseen]) if callable(conditions) else held_out_conditions
        if (given is None) != (conditions is None):
            raise ValueError("conditions and held_out_conditions must be given both or neither")
        if given is not None:
            given = _checked_conditions(given, len(unseen), "held_out_conditions")

        def validate(network: torch.nn.Module) -> float:
            return held_out_bits(network, unseen, given)

    history = fit(
        model,
        batches,
        lambda network, batch: bits_per_code(network(batch["codes"], batch.get("condition")), batch["codes"]),
        FitConfig(
            steps=config.steps,
            lr=config.lr,
            ema=config.ema,
            clip=1.0,
            patience=config.patience,
            checkpoint_every=config.checkpoint_every,
            seed=config.seed,
        ),
        folder=folder,
        validate=validate,
        progress=progress,
        device=device,
        resume=resume,
    )
    return model, history


def bits_per_code(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Mean of -log2 p over codes (N, H, W), from logits (N, K, H, W).

    It is eq. 3 of chapter 11 (dual-bits).
    """
    return F.cross_entropy(logits.float(), codes) / math.log(2)


@torch.inference_mode()
def held_out_bits(
    model: Autoregressive,
    codes: np.ndarray | Sequence[np.ndarray],
    conditions: np.ndarray | None = None,
) -> float:
    """How many bits a network needs for a code of maps that it has not seen, on average over all codes.

    Parameters
    ----------
    model : PixelCNN or GatedPixelCNN
    codes : (M, H, W) int64, or sequence of (H, W) int64
    conditions : (M, D) float, optional

    Returns
    -------
    float, at least 0. A network that knows nothing needs ``log2(K)``.

    Raises
    ------
    ValueError
        If there is no map, codes are out of range or conditions do not fit.
    """
    maps = _checked(codes, model.codes, 1, "codes")
    if conditions is not None:
        conditions = _checked_conditions(conditions, len(maps), "conditions")
    place = next(model.parameters()).device
    bits = 0.0
    for index, one in enumerate(maps):
        x = torch.from_numpy(one)[None].to(place)
        steer = None if conditions is None else torch.from_numpy(conditions[index]).to(place)
        bits += float(bits_per_code(model(x, steer), x)) * one.size
    return bits / sum(one.size for one in maps)


def unigram_entropy(codes: np.ndarray | Sequence[np.ndarray]) -> float:
    """Bits per code for someone who knows only how frequent each code is."""
    counts = np.bincount(np.concatenate([np.ravel(one) for one in codes]))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _crops(
    maps: list[np.ndarray], conditions: Conditions | None, config: PriorConfig
) -> Callable[[int], dict[str, np.ndarray]]:
    """``batches(step)``: codes (N, crop, crop) int64 and, if steered, condition (N, D) float32."""
    places = np.array([(m.shape[0] - config.crop + 1) * (m.shape[1] - config.crop + 1) for m in maps])
    share = places / places.sum()  # every crop of every map is as likely

    def batches(step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([config.seed, step])
        crops, steers = [], []
        for index in rng.choice(len(maps), size=config.batch, p=share):
            y, x = (rng.integers(side - config.crop + 1) for side in maps[index].shape)
            crop = maps[index][y : y + config.crop, x : x + config.crop]
            crops.append(orientations(crop)[rng.integers(8)] if config.augment else crop)
            if conditions is not None:
                steers.append(conditions(crops[-1]) if callable(conditions) else conditions[index])
        if conditions is None:
            return {"codes": np.stack(crops)}
        steer = np.stack([np.atleast_1d(s) for s in steers]).astype(np.float32)
        return {"codes": np.stack(crops), "condition": _checked_conditions(steer, len(crops), "conditions")}

    return batches


def _checked(
    codes: np.ndarray | Sequence[np.ndarray], codes_in_book: int, least: int, name: str
) -> list[np.ndarray]:
    maps = [np.asarray(one) for one in codes]
    if not maps:
        raise ValueError(f"{name} must hold at least one map, got none")
    for index, one in enumerate(maps):
        if one.ndim != 2 or one.dtype.kind not in "iu" or min(one.shape) < least:
            raise ValueError(
                f"{name}[{index}] must be a map (H, W) of integers with sides of at least {least}, "
                f"got {one.dtype} of shape {one.shape}"
            )
        if one.min() < 0 or one.max() >= codes_in_book:
            raise ValueError(
                f"{name}[{index}] must hold codes in 0..{codes_in_book - 1}, got {one.min()} to {one.max()}"
            )
    return [one.astype(np.int64) for one in maps]


def _checked_conditions(conditions: np.ndarray, n: int, name: str) -> np.ndarray:
    found = np.asarray(conditions, np.float32)
    if found.ndim != 2 or len(found) != n or found.shape[1] < 1:
        raise ValueError(f"{name} must be ({n}, D), one vector for each map, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds values that are not finite")
    return found
