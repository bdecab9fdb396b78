"""Train paper C's two networks on synthetic TEM: no label is drawn by anybody.

    pictures -> edges;   Net1 learns from some pictures, Net2 from the others

Net2 may be taught by Net1's own mistakes (`SecondConfig.guessed`), which must be those on pictures that Net1
does not know; so these are kept apart. By default it learns from damage alone: taught by mistakes it learns
that a faint boundary is often none, and leaves the gaps open.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.measure.grain_size import mean_intercept
from microlab.measure.labels import components
from microlab.render.tem import TEMConfig, tem_picture
from microlab.segment.edge_segmenter import TEMRoute, channels_of
from microlab.segment.edges import DETECTORS
from microlab.segment.refine import first_guess
from microlab.segment.refine_training import FirstConfig, Pair, SecondConfig, train_first, train_second
from microlab.training.cards import model_card
from microlab.training.devices import pick_device, resolve_precision

CARDS = {"first": "tem-first", "refine": "tem-refine"}


@dataclass(frozen=True)
class TEMRecipe:
    """Settings of the whole training. Paper C: 3000 pictures of 96 x 496 pixels."""

    pictures: int = 3000
    held_back: float = 0.3  # share of the pictures that Net1 never sees: on them Net2 learns
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
    """Synthetic pictures as the networks meet them: channels and boundary.

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
    work = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_edge_pair)(sequence, concepts or TEMConfig(), inputs)
        for sequence in np.random.SeedSequence(seed).spawn(n)
    )
    return list(tqdm(work, total=n, desc="pictures", unit="picture", disable=not progress))


def train_networks(
    recipe: TEMRecipe = TEMRecipe(),
    folder: str | Path | None = None,
    *,
    pairs: list[Pair] | None = None,
    start: TEMRoute | None = None,
    jobs: int = 1,
    device: str | None = None,
    progress: bool = True,
) -> TEMRoute:
    """Train Net1, then Net2 on what Net1 makes of pictures that it does not know.

    Parameters
    ----------
    recipe : TEMRecipe
    folder : path, optional
        Keeps both trainings' checkpoints: killed and called again, they go on.
    pairs : list of Pair, optional
        The pictures, if they are there already (`edge_pairs`), or real ones with their boundaries.
    start : TEMRoute, optional
        Networks to train further; they stay as they are.
    jobs : int
        Processes that draw pictures.
    device : str, optional
    progress : bool

    Returns
    -------
    TEMRoute
        With a card that says what the networks take.

    Raises
    ------
    ValueError
        If `pairs` are not as many as the recipe says, or none of them shows two grains.
    """
    folder = Path(folder) if folder is not None else None
    if pairs is None:
        pairs = edge_pairs(
            recipe.pictures, recipe.seed, recipe.concepts, recipe.inputs, jobs=jobs, progress=progress
        )
    if len(pairs) != recipe.pictures:
        raise ValueError(
            f"pairs must be as many as the recipe's pictures, {recipe.pictures}, got {len(pairs)}"
        )
    card = {"inputs": list(recipe.inputs), "grain_size_px": round(grain_size(pairs), 2)}
    known, unknown = pairs[: -recipe.for_second], pairs[-recipe.for_second :]
    options: dict[str, Any] = {"device": device, "progress": progress}
    before = (start.net1, start.net2) if start else (None, None)
    net1, _ = train_first(known, recipe.first, model=before[0], folder=folder and folder / "first", **options)
    guesses = [first_guess(net1, channels, device=device) for channels, _ in unknown]
    net2, _ = train_second(
        unknown,
        recipe.second,
        guesses=guesses,
        model=before[1],
        folder=folder and folder / "refine",
        **options,
    )
    return TEMRoute(net1.eval(), net2.eval(), card)


def grain_size(pairs: list[Pair]) -> float:
    """Mean linear intercept of the true grains of some pictures, px; what a user's image is scaled to.

    Pictures of a single grain have none and are left out; ValueError if there is no other.
    """
    found = [mean_intercept(components(target, fill=True)) for _, target in pairs[:200]]
    finite = [intercept for intercept in found if np.isfinite(intercept)]
    if not finite:
        raise ValueError("pairs must hold a boundary between two grains, got none")
    return float(np.mean(finite))


def save_networks(
    folder: str | Path | None, route: TEMRoute, recipe: TEMRecipe, scores: dict[str, float], minutes: float
) -> list[Path]:
    """Write both networks with their cards, as `microlab.segment.edge_segmenter.load_route` reads them.

    Parameters
    ----------
    folder : path or None
        None for the weights that ship with the package.
    route : TEMRoute
    recipe : TEMRecipe
    scores : dict
        Name of a measure, with the test set in it -> figure.
    minutes : float
        Of the whole training.
    """
    shared = {
        "trained_by": "microlab.pipelines.train_edge_segmenter.train_networks",
        "data": (
            f"{recipe.pictures} synthetic TEM pictures (microlab.render.tem), {recipe.for_second} of them "
            "for Net2; virtual, no label"
        ),
        "scores": scores,
        "minutes": round(minutes, 1),
    }
    names = ("inputs", "grain_size_px", "finish", "tolerance", "max_iterations")
    use = {name: route.card[name] for name in names}
    paths = []
    for part, network, config in (
        ("first", route.net1, recipe.first),
        ("refine", route.net2, recipe.second),
    ):
        name = CARDS[part] if folder is None else Path(folder) / f"{part}.safetensors"
        card = model_card(
            network,
            **shared,
            seed=config.seed,
            steps=config.steps,
            batch=config.batch,
            crop=config.crop,
            training_precision=resolve_precision(config.precision, pick_device()),
            **(use if part == "first" else {}),
        )
        paths.append(weights.save(name, network, card, half=True))
    return paths


def timed_training(recipe: TEMRecipe, folder: str | Path, **options: Any) -> tuple[TEMRoute, float]:
    """:func:`train_networks` and the minutes that this call took."""
    start = time.perf_counter()
    route = train_networks(recipe, folder, **options)
    return route, (time.perf_counter() - start) / 60


def _edge_pair(seed: np.random.SeedSequence, concepts: TEMConfig, inputs: tuple[str, ...]) -> Pair:
    picture = tem_picture(seed, concepts)
    return channels_of(picture.image, inputs), picture.boundary
