"""Paper C's segmenter on real images with manually drawn boundaries (chapter 14).

    membrane: trained on synthetic TEM only;   then fine-tuned on 5 tiles;   trained on the 5 tiles alone
    steel:    trained on synthetic TEM only

Scored on held-out tiles, beside the methods without training.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microlab.book.experiments.weak_boundaries import Answer
from microlab.data.files import atomic
from microlab.data.micrograph import Micrograph
from microlab.data.parallel import imap_unordered
from microlab.data.run_folder import RunFolder
from microlab.measure.scores import score, trivial_prediction
from microlab.pipelines.train_edge_segmenter import EdgeTrainingConfig, train_networks
from microlab.render.tem import TEMConfig, tem_picture
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of
from microlab.segment.refine import NotConverged
from microlab.segment.refine_training import FirstConfig, SecondConfig
from studies.tem.limits import NOTHING, classical_answers

TILES = 5  # used for training
SYNTHETIC, TUNED, ALONE = "synthetic TEM only", "then fine-tuned on 5 tiles", "5 tiles alone"


def score_real(truth: np.ndarray, answer: Answer) -> dict[str, float]:
    """The scores of `microlab.measure.scores.score`, and the accuracy of pixels."""
    boundary, labels = answer
    return {"accuracy": float((boundary == truth).mean()), **score(truth, boundary, labels)}


def split(
    samples: Sequence[Micrograph], seed: int, tiles: int = TILES
) -> tuple[list[Micrograph], list[Micrograph]]:
    """Tiles to train on, drawn by the seed, and all the others.

    Raises
    ------
    ValueError
        If none would be left to test on.
    """
    if not 2 <= tiles < len(samples):
        raise ValueError(f"tiles must lie in 2..{len(samples) - 1}, got {tiles}")
    chosen = set(np.random.default_rng(seed).choice(len(samples), tiles, replace=False).tolist())
    parts: tuple[list[Micrograph], list[Micrograph]] = ([], [])
    for k, sample in enumerate(samples):
        parts[k not in chosen].append(sample)
    return parts


def fine_tuning(seed: int, steps: int = 400, lr: float = 1e-3) -> EdgeTrainingConfig:
    """Settings of a training on five tiles, two of which train Net2."""
    shared: dict[str, Any] = {"steps": steps, "lr": lr, "batch": 4, "seed": seed}
    return replace(
        EdgeTrainingConfig(),
        held_back=0.4,
        first=FirstConfig(**shared),
        second=SecondConfig(**shared),
        seed=seed,
    )


def tuned(
    tiles: Sequence[Micrograph],
    recipe: EdgeTrainingConfig,
    folder: str | Path,
    start: EdgeSegmenter | None = None,
    device: str | None = None,
) -> EdgeSegmenter:
    """Train a segmenter on labelled tiles, from `start` or from scratch."""
    inputs = tuple(start.card["inputs"]) if start else recipe.inputs
    pairs = [(channels_of(tile.image, inputs), tile.boundary) for tile in tiles]
    recipe = replace(recipe, pictures=len(pairs), inputs=inputs)
    return train_networks(recipe, folder, pairs=pairs, start=start, device=device, progress=False)


def membrane_scores(
    samples: Sequence[Micrograph],
    segmenter: EdgeSegmenter,
    folder: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    steps: int = 400,
    jobs: int = 1,
    device: str | None = None,
) -> pd.DataFrame:
    """Scores of a segmenter on labelled tiles, before and after training on some of them.

    Parameters
    ----------
    samples : sequence of Micrograph
        With masks, True on boundaries.
    segmenter : EdgeSegmenter
        Trained on synthetic TEM.
    folder : path
        Keeps networks and scores, so that an interrupted call resumes.
    seeds : sequence of int
        Each draws its own five tiles; the others are scored.
    steps : int
        Of each network's training on the tiles.
    jobs : int
    device : str, optional

    Returns
    -------
    DataFrame
        Columns method, seed and the mean scores over the held-out tiles.

    Raises
    ------
    ValueError
        If the folder holds trainings on other tiles or of other lengths.
    """
    folder = Path(folder).absolute()
    RunFolder(folder, {"steps": steps, "samples": [sample.name for sample in samples]})
    scores_before = list(imap_unordered(_answer_scores, [(sample, segmenter) for sample in samples], jobs))
    scores_before = {
        sample.name: rows for sample, rows in zip(samples, _in_order(scores_before, samples), strict=True)
    }
    tasks = [
        (list(samples), segmenter, folder, seed, steps, start, device)
        for seed in seeds
        for start in (TUNED, ALONE)
    ]
    rows = [row for task_rows in imap_unordered(_trained, tasks, jobs) for row in task_rows]
    rows.sort(key=lambda row: (row["seed"], row["method"] == ALONE))  # workers finish in any order
    for seed in seeds:
        tests = [sample.name for sample in split(samples, seed)[1]]
        means = pd.concat([scores_before[name] for name in tests]).groupby(level=0, sort=False).mean()
        rows += [{"method": name, "seed": seed, **means.loc[name].to_dict()} for name in means.index]
    return pd.DataFrame(rows)


def one_image_scores(sample: Micrograph, segmenters: dict[int, EdgeSegmenter]) -> pd.DataFrame:
    """The segmenters of several seeds on one image with a mask, beside the methods without training."""
    rows = []
    for seed, segmenter in segmenters.items():
        rows.append(
            {
                "method": SYNTHETIC,
                "seed": seed,
                **score_real(sample.boundary, segment_real(sample, segmenter)),
            }
        )
    answers = {**classical_answers(sample.image), NOTHING: trivial_prediction(sample.shape)}
    for name, answer in answers.items():
        rows.append({"method": name, "seed": -1, **score_real(sample.boundary, answer)})
    return pd.DataFrame(rows)


def segment_real(sample: Micrograph, segmenter: EdgeSegmenter, zoom: float | None = None) -> Answer:
    """Boundary and grains of a real image; the zoom is estimated if it is not given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # reaching the cap is expected here
        result = segmenter.segment(sample.image, zoom=zoom, keep=False)
    return result.boundary, result.labels


def stand_in(number: int = 8, seed: int = 0) -> list[Micrograph]:
    """Synthetic tiles in place of the membrane set, where it is not available."""
    concepts = replace(TEMConfig(), shape=(192, 192))
    pairs = [tem_picture(s, concepts) for s in np.random.SeedSequence(seed).spawn(number)]
    return [
        Micrograph(pair.image, name=f"virtual_{k:02d}", boundary=pair.boundary, virtual=True)
        for k, pair in enumerate(pairs)
    ]


def _answer_scores(sample: Micrograph, segmenter: EdgeSegmenter) -> tuple[str, pd.DataFrame]:
    answers = {SYNTHETIC: segment_real(sample, segmenter), **classical_answers(sample.image)}
    answers[NOTHING] = trivial_prediction(sample.shape)
    return sample.name, pd.DataFrame({name: score_real(sample.boundary, a) for name, a in answers.items()}).T


def _in_order(scores: list[tuple[str, pd.DataFrame]], samples: Sequence[Micrograph]) -> list[pd.DataFrame]:
    by_name = dict(scores)
    return [by_name[sample.name] for sample in samples]


def _trained(
    samples: list[Micrograph],
    segmenter: EdgeSegmenter,
    folder: Path,
    seed: int,
    steps: int,
    method: str,
    device: str | None,
) -> list[dict[str, Any]]:
    """Train on one draw of tiles and score the others; called in a worker."""
    import torch

    place = folder / f"{method.replace(' ', '-')}_{seed}"
    path = place / "scores.json"
    if not path.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            train, test = split(samples, seed)
            start = segmenter if method == TUNED else None
            lr = 1e-3 if method == TUNED else 3e-3  # training from scratch works better at the larger rate
            network = tuned(train, fine_tuning(seed, steps, lr), place, start, device)
            card = {"finish": segmenter.card["finish"]}
            network = EdgeSegmenter(network.net1, network.net2, {**network.card, **card})
            scores = [score_real(tile.boundary, segment_real(tile, network, zoom=1.0)) for tile in test]
        finally:
            torch.set_num_threads(threads)
        row = {"method": method, "seed": seed, **pd.DataFrame(scores).mean().to_dict()}
        with atomic(path) as partial:
            partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return [json.loads(path.read_text(encoding="utf-8"))]
