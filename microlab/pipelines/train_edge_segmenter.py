"""Train paper C's two networks on synthetic TEM images, without a hand-drawn label.

    pictures -> edges;   Net1 learns from some pictures, Net2 from the others

Net2 may be trained on Net1's own errors (`SecondConfig.guessed`), which must be those on pictures that Net1
was not trained on; so these are held out. By default it learns from simulated damage alone: trained on errors
it learns that a faint boundary is often none, and leaves the gaps open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.data.parallel import imap
from microlab.measure.grain_size import mean_intercept
from microlab.measure.labels import components
from microlab.render.tem import TEMConfig, tem_picture
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of
from microlab.segment.edges import DETECTORS
from microlab.segment.refine import first_guess
from microlab.segment.refine_training import FirstConfig, Pair, SecondConfig, train_first, train_second
from microlab.training.cards import model_card
from microlab.training.devices import pick_device, resolve_precision

CARDS = {"first": "tem-first", "refine": "tem-refine"}


@dataclass(frozen=True)
class EdgeTrainingConfig:
    """Settings of the whole training. Paper C: 3000 pictures of 96 x 496 pixels."""

    pictures: int = 3000
    held_back: float = 0.3  # share of the pictures held out from Net1, which train Net2
    inputs: tuple[str, ...] = DETECTORS  # the paper's; "grey" may be one more
    concepts: TEMConfig = field(default_factory=TEMConfig)
    first: FirstConfig = field(default_factory=lambda: FirstConfig(steps=8000, lr=3e-3))
    second: SecondConfig = field(default_factory=lambda: SecondConfig(steps=2000, lr=3e-3, guessed=0.0))
    seed: int = 0  # of the pictures

    def __post_init__(self) -> None:
        if self.pictures < 2:
            raise ValueError(f"pictures must be at least 2, one for each network, got {self.pictures}")
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back is a share and must lie in (0, 1), got {self.held_back}")

    @property
    def for_second(self) -> int:
        """Number of pictures that train Net2."""
        return min(max(round(self.held_back * self.pictures), 1), self.pictures - 1)


def edge_pairs(
    n: int,
    seed: int = 0,
    concepts: TEMConfig | None = None,
    inputs: tuple[str, ...] = DETECTORS,
    *,
    jobs: int = 1,
    progress: bool = False,
) -> list[Pair]:
    """Synthetic pictures as the input of the networks: channels and boundary.

    Parameters
    ----------
    n, seed, concepts, jobs
        As `microlab.render.tem.tem_pictures`.
    inputs : tuple of str
        As `microlab.segment.edge_segmenter.channels_of`.
    progress : bool

    Returns
    -------
    list of (channels (C, H, W) float32, boundary (H, W) bool)
    """
    # One pool that draws and filters: two, one fed by the other, would wait for each other for ever.
    seeds = np.random.SeedSequence(seed).spawn(n)
    work = imap(_edge_pair, [(sequence, concepts or TEMConfig(), inputs) for sequence in seeds], jobs)
    return list(tqdm(work, total=n, desc="pictures", unit="picture", disable=not progress))


def train_networks(
    config: EdgeTrainingConfig = EdgeTrainingConfig(),
    folder: str | Path | None = None,
    *,
    pairs: list[Pair] | None = None,
    start: EdgeSegmenter | None = None,
    jobs: int = 1,
    device: str | None = None,
    progress: bool = True,
) -> EdgeSegmenter:
    """Train Net1, then Net2 on Net1's maps of held-out pictures.

    Parameters
    ----------
    config : EdgeTrainingConfig
    folder : path, optional
        Keeps both trainings' checkpoints: killed and called again, they go on.
    pairs : list of Pair, optional
        The pictures, if they are there already (`edge_pairs`), or real ones with their boundaries.
    start : EdgeSegmenter, optional
        Networks to train further; they stay as they are.
    jobs : int
        Processes that draw pictures.
    device : str, optional
    progress : bool

    Returns
    -------
    EdgeSegmenter
        With a card that says what the networks take.

    Raises
    ------
    ValueError
        If `pairs` are not as many as the settings say, or none of them shows two grains.
    """
    folder = Path(folder) if folder is not None else None
    if pairs is None:
        pairs = edge_pairs(
            config.pictures, config.seed, config.concepts, config.inputs, jobs=jobs, progress=progress
        )
    if len(pairs) != config.pictures:
        raise ValueError(
            f"pairs must be as many as the settings' pictures, {config.pictures}, got {len(pairs)}"
        )
    card = {"inputs": list(config.inputs), "grain_size_px": round(grain_size(pairs), 2)}
    training, held_out = pairs[: -config.for_second], pairs[-config.for_second :]
    options: dict[str, Any] = {"device": device, "progress": progress}
    before = (start.net1, start.net2) if start else (None, None)
    net1, _ = train_first(
        training, config.first, model=before[0], folder=folder and folder / "first", **options
    )
    guesses = [first_guess(net1, channels, device=device) for channels, _ in held_out]
    net2, _ = train_second(
        held_out,
        config.second,
        guesses=guesses,
        model=before[1],
        folder=folder and folder / "refine",
        **options,
    )
    return EdgeSegmenter(net1.eval(), net2.eval(), card)


def grain_size(pairs: list[Pair]) -> float:
    """Mean linear intercept of the true grains of some pictures, px; what a user's image is scaled to.

    Pictures of a single grain have none and are left out; ValueError if there is no other.
    """
    intercepts = [mean_intercept(components(boundary, fill=True)) for _, boundary in pairs[:200]]
    finite = [intercept for intercept in intercepts if np.isfinite(intercept)]
    if not finite:
        raise ValueError("pairs must hold a boundary between two grains, got none")
    return float(np.mean(finite))


def save_networks(
    folder: str | Path | None,
    segmenter: EdgeSegmenter,
    config: EdgeTrainingConfig,
    scores: dict[str, float],
    minutes: float,
) -> list[Path]:
    """Write both networks with their cards, as `EdgeSegmenter.load` reads them.

    Parameters
    ----------
    folder : path or None
        None for the weights that ship with the package.
    segmenter : EdgeSegmenter
    config : EdgeTrainingConfig
    scores : dict
        Name of a measure, with the test set in it -> figure.
    minutes : float
        Of the whole training.
    """
    shared = {
        "trained_by": "microlab.pipelines.train_edge_segmenter.train_networks",
        "data": (
            f"{config.pictures} synthetic TEM pictures (microlab.render.tem), {config.for_second} of them "
            "for Net2; virtual, no label"
        ),
        "scores": scores,
        "minutes": round(minutes, 1),
    }
    names = ("inputs", "grain_size_px", "finish", "tolerance", "max_iterations")
    use = {name: segmenter.card[name] for name in names}
    paths = []
    for part, network, training in (
        ("first", segmenter.net1, config.first),
        ("refine", segmenter.net2, config.second),
    ):
        name = CARDS[part] if folder is None else Path(folder) / f"{part}.safetensors"
        card = model_card(
            network,
            **shared,
            seed=training.seed,
            steps=training.steps,
            batch=training.batch,
            crop=training.crop,
            training_precision=resolve_precision(training.precision, pick_device()),
            **(use if part == "first" else {}),
        )
        paths.append(weights.save(name, network, card, half=True))
    return paths


def _edge_pair(seed: np.random.SeedSequence, concepts: TEMConfig, inputs: tuple[str, ...]) -> Pair:
    picture = tem_picture(seed, concepts)
    return channels_of(picture.image, inputs), picture.boundary
