"""A translator for one material: from unlabelled micrographs to weights with a card.

unlabelled micrographs, zoomed to the library's grain size  +  simulations  ->  F, and how faithful it is
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from microlab.data import weights
from microlab.data.transforms import resize_by, stretch
from microlab.generate.style import StyleConfig, learn_style, translate
from microlab.measure import alignment
from microlab.render.flat import untextured
from microlab.render.specimen import boundary_geometry
from microlab.segment.classical import ridge
from microlab.simulate.library import Structure
from microlab.training.cards import model_card


def flat_images(structures: Sequence[Structure], *, seed: int = 0) -> list[np.ndarray]:
    """Simulations as the translator sees them: flat greys and dark lines, (H, W) float32 in [0, 1]."""
    return [
        untextured(s.grain_map, s.boundary_mask, seed=np.random.default_rng([seed, k]))
        for k, s in enumerate(structures)
    ]


def style_images(images: Sequence[np.ndarray], zoom: float) -> list[np.ndarray]:
    """Micrographs as the translator learns them: zoomed, their greys stretched to black and white."""
    return [stretch(resize_by(image, zoom)) for image in images]


def fidelity(
    structures: Sequence[Structure],
    images: Sequence[np.ndarray],
    distances: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """How well images keep the boundaries of the structures that they were made of.

    Parameters
    ----------
    structures : sequence of Structure
    images : sequence of (H, W) float in [0, 1]
        One image for each structure.
    distances : sequence of (H, W) float, optional
        Distance to the nearest boundary, if the image was bent and its truth with it.

    Returns
    -------
    dict
        ``displacement, px`` (median over all boundary pixels), ``displaced > 2 px``, ``lost`` and
        ``invented`` (shares, against what the ridge filter finds within 3 px), ``half width, px``.

    Raises
    ------
    ValueError
        If there is not one image for each structure.
    """
    if len(structures) != len(images) or not len(images):
        raise ValueError(f"give one image for each structure, got {len(images)} for {len(structures)}")
    if distances is None:
        distances = [boundary_geometry(s.grain_map).distance for s in structures]
    offsets, shares, widths = [], [], []
    for image, distance in zip(images, distances):
        truth = distance <= 1.0
        offsets.append(np.abs(alignment.boundary_displacement(truth, image).offset))
        lines = ridge(image) >= 0.5
        match = alignment.agreement(truth, lines) if lines.any() else None
        shares.append((match.lost, match.invented) if match else (1.0, 0.0))
        with suppress(ValueError):  # a translator may have lost the lines
            widths.append(alignment.half_width(image, distance))
    away = np.concatenate(offsets)
    lost, invented = np.mean(shares, axis=0)
    return {
        "displacement, px": float(np.median(away)),
        "displaced > 2 px": float((away > 2).mean()),
        "lost": float(lost),
        "invented": float(invented),
        "half width, px": float(np.mean(widths)) if widths else float("nan"),
    }


def train_style(
    name: str,
    images: Sequence[np.ndarray],
    zoom: float,
    structures: Sequence[Structure],
    folder: str | Path,
    config: StyleConfig | None = None,
    *,
    data: str = "",
    held_out: int = 8,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Train a translator for one material and write its weights with a card.

    Parameters
    ----------
    name : str
        Of the material; the weights are ``style-<name>.safetensors``.
    images : sequence of (H, W) float in [0, 1]
        Unlabelled micrographs.
    zoom : float
        Magnification that brings their grains to the size of the structures' (`segmenter.estimate_zoom`).
    structures : sequence of Structure
        The last `held_out` are not trained on; the card's fidelity is measured on them.
    folder : path
        Receives the checkpoint, samples and weights. A run that was killed goes on.
    config : StyleConfig, optional
    data : str
        What the micrographs are, for the card.
    held_out : int
    device : str, optional
    progress : bool

    Returns
    -------
    Path of the weights.

    Raises
    ------
    ValueError
        If there are not more structures than are held out, or an image cannot be learnt from.
    """
    if not 0 < held_out < len(structures):
        raise ValueError(f"held_out must lie between 0 and the {len(structures)} structures, got {held_out}")
    config, folder = config or StyleConfig(), Path(folder)
    real = style_images(images, zoom)
    model, history = learn_style(
        flat_images(structures[:-held_out], seed=config.seed),
        real,
        config,
        folder=folder / "training",
        device=device,
        progress=progress,
        sample_every=250,
    )
    unseen = structures[-held_out:]
    translations = [
        translate(model.F, y, seed=k) for k, y in enumerate(flat_images(unseen, seed=config.seed + 1))
    ]
    scores = fidelity(unseen, translations)
    card = model_card(
        model.F,
        history,
        trained_by="microlab.pipelines.train_style.train_style",
        data=f"{data or name}; {len(structures) - held_out} simulated polycrystals, not paired; no label",
        scores={f"held-out simulations: {key}": round(value, 4) for key, value in scores.items()},
        seed=config.seed,
        zoom=round(float(zoom), 4),
        style=asdict(config),
    )
    return weights.save(folder / f"style-{name}.safetensors", model.F, card, half=True)
