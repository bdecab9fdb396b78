"""Training of the adapted network: images like the user's, and what the default network knew before.

    batch = crops of the adapted pairs  +  as many fields of every appearance, drawn anew for each step

A network that is trained on the adapted pairs alone forgets the rest within some hundred steps: other
appearances, twins, and what is not the specimen, of which the pairs show nothing. The fields rehearse it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from microlab.data.micrograph import Micrograph
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.train_appearances import fields_loss, fresh_fields, initial_network, origin
from microlab.pipelines.train_segmenter import crops, fitting
from microlab.render.appearances import BOUNDARY, GRAIN
from microlab.segment.unet import OUTPUTS, UNet
from microlab.training.cards import model_card
from microlab.training.fit import History, fit

EVERY = {"ema": 0.99, "workers": 1, "checkpoint_every": 50}  # training, unless it says otherwise


def mixed_batches(
    pairs: Sequence[Micrograph], grain_maps: Sequence[np.ndarray], settings: AdaptSettings
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Batches for `fit.fit`: crops of the pairs, then fields of every appearance.

    Parameters
    ----------
    pairs : sequence of Micrograph
        With their boundary.
    grain_maps : sequence of (H, W) int
        Periodic; of them the fields are made.
    settings : AdaptSettings

    Returns
    -------
    callable
        ``batches(step)`` gives standardised images (N, 1, side, side) float32 and classes (N, side, side)
        uint8, as `microlab.render.appearances` numbers them. It depends on the seed and the step alone.
    """
    fields = fresh_fields(grain_maps, settings.rehearsal)
    own = crops(pairs, settings.crop, settings.batch - settings.rehearsal.batch, settings.seed)

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        (images, boundaries), (others, classes) = own(step), fields(step)
        own_classes = np.where(boundaries[:, 0] > 0, BOUNDARY, GRAIN).astype(classes.dtype)
        return np.concatenate([images, others]), np.concatenate([own_classes, classes])

    return batches


def fit_network(
    pairs: Sequence[Micrograph],
    grain_maps: Sequence[np.ndarray],
    settings: AdaptSettings,
    *,
    folder: Path | None = None,
    device: str | None = None,
    progress: bool = False,
    **others: Any,
) -> tuple[UNet, History]:
    """A U-Net of three outputs, from ``settings.start`` on, trained on `mixed_batches`.

    Parameters
    ----------
    pairs, grain_maps, settings
        As in `mixed_batches`.
    folder, device, progress
        As in `microlab.training.fit.fit`.
    **others
        Of `microlab.training.fit.FitConfig`.
    """
    model = initial_network(settings.rehearsal)
    history = fit(
        model,
        mixed_batches(pairs, grain_maps, settings),
        fields_loss,
        fitting(settings.steps, settings.lr, settings.seed, **EVERY | others),
        folder=folder,
        device=device,
        progress=progress,
    )
    return model, history


def card_of(
    model: nn.Module, history: History, settings: AdaptSettings, images: int, intercept: float, zoom: float
) -> dict:
    """The card of the adapted network.

    Parameters
    ----------
    model, history, settings
    images : int
        Unlabelled images to which the style was matched.
    intercept : float
        Mean intercept of the simulated structures, in pixels.
    zoom : float
        Magnification that gives the grains of the images this intercept.
    """
    styles = {
        "render": "drawn in the appearances nearest to the images",
        "mixed": "half translated, half drawn in the nearest appearances",
    }
    style = styles.get(settings.style, f"translated by {settings.style}")
    return model_card(
        model,
        history,
        trained_by=f"microlab adapt, style {settings.style}, from {settings.start or 'random weights'}",
        data=f"{settings.images} images of simulated polycrystals, {style}, and as many crops of fields of "
        f"every appearance; no label. The style was matched to {images} unlabelled images"
        + (", batch-norm statistics re-estimated on them" if settings.batch_norm else ""),
        scores={},
        seed=settings.seed,
        licence="yours",
        outputs=list(OUTPUTS),
        zoom=zoom,
        grain_size_px=intercept,
        training=asdict(settings),
        started_from=origin(settings.start),
    )
