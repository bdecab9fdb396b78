"""The three systems on one micrograph: scores and costs (chapter 14).

    A  simulations under a virtual microscope -> U-Net            no label
    B  four labelled patches -> VQ-VAE + PixelCNN -> sampled pairs -> U-Net
    C  edges -> Net1 -> Net2, trained on synthetic TEM            no label, and no image of this kind

They are compared with methods without training, the same U-Net on the four patches alone, and the trivial
baseline. All are scored on the held-out half of the micrograph.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from microlab.book.experiments.training_sets import Study, train_unet
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import MANIFEST, read_pairs, write_pairs
from microlab.data.run_folder import RunFolder
from microlab.measure import pixel, scores
from microlab.measure.scores import trivial_prediction
from microlab.pipelines.samples import Target
from microlab.pipelines.train_pair_model import OURS, PairModelConfig, profile_config, train_pair_model
from microlab.pipelines.training_pairs import augmented_pairs, labelled_pairs, labelled_patches
from microlab.segment import edges
from microlab.segment.classical import ridge
from microlab.segment.edge_segmenter import EdgeSegmenter
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.refine import NotConverged
from microlab.segment.registry import load_segmenter
from microlab.segment.unet import boundary_probability
from microlab.training import devices

Answer = tuple[np.ndarray, np.ndarray]  # boundary (H, W) bool, grains (H, W) int
CLASSES = ("grain", "boundary")  # of the sampled masks

# Names as in the stored record; "dreams" are sampled pairs.
REAL, BOTH, SAMPLED = "four labelled patches", "B: patches and dreams", "B: dreams alone"
ORACLE = "oracle, same U-Net"
TRAINED = {  # name -> training data of its U-Net, in the order of the table
    BOTH: "half of the U-Net's pairs are views of the four labelled patches, half were sampled from a VQ-VAE "
    "and a PixelCNN; three of the four patches train these, one measures when to stop",
    SAMPLED: "the same U-Net on sampled pairs only",
    REAL: "the same U-Net on views of the four patches only, which shows what sampled pairs add",
    ORACLE: "the same U-Net on the expert's mask of the whole training half",
}
SHIPPED, TEM = "A: labour-free weights", "C: TEM route, zero-shot"
RIDGE, EDGES, NOTHING = "ridge filter", "edges, no training", "nothing anywhere"


@dataclass(frozen=True)
class Size:
    """Settings of all trainings."""

    study: Study  # the U-Net and its patches, as in chapter 07
    pair_model: PairModelConfig
    sampled: int  # pairs; each is augmented until there are ``study.images``


_SMALL = profile_config("smoke")
SIZES = {
    "smoke": Size(
        Study(images=8, patch=64, width=4, depth=2, crop=32, batch=2, steps=4),
        replace(
            _SMALL,
            vqvae=replace(_SMALL.vqvae, crop=32, batch=2, steps=4),
            prior=replace(_SMALL.prior, crop=8, batch=2, steps=4),
        ),
        sampled=2,
    ),
    # The U-Net is chapter 07's at laptop size. The pair model sees patches of 128 px, 32 codes wide.
    "laptop": Size(
        Study(images=96, width=12, crop=96, batch=6, steps=240),
        replace(
            OURS,
            vqvae=replace(OURS.vqvae, crop=96, batch=8, steps=500),
            prior=replace(
                OURS.prior, channels=32, layers=6, crop=24, batch=8, steps=400, checkpoint_every=50
            ),
        ),
        sampled=48,
    ),
    "paper": Size(Study(), replace(OURS, prior=replace(OURS.prior, crop=24)), sampled=240),
}


@dataclass(frozen=True)
class Row:
    """One method's scores and costs."""

    name: str
    seed: int | None  # None where nothing is trained
    scores: dict[str, float]
    minutes: float  # of training: the generator's and the U-Net's
    seconds: float  # for the test image, from pixels to grains
    megabytes: float  # of the weights that segment, at 16 bits


def run(
    target: Target,
    zoom: float,
    folder: str | Path,
    size: Size,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    names: Sequence[str] = tuple(TRAINED),
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score system B and its controls, seed by seed.

    Results and sampled pairs are written at once, so the same call resumes an interrupted one. An interrupted
    training restarts, so that its measured cost is complete.

    Parameters
    ----------
    target, zoom, device, progress
        As `microlab.book.experiments.training_sets.run`.
    folder : path
    size : Size
    seeds : sequence of int
        Of the patches, the initial weights, the crops and the sampled pairs.
    names : sequence of str
        Keys of `TRAINED`.

    Returns
    -------
    DataFrame
        A row per method and seed: name, seed, the scores of `score`, minutes, seconds, megabytes.

    Raises
    ------
    ValueError
        If a name is not known, or the folder holds a run with other settings.
    """
    folder = Path(folder)
    for name in names:
        if name not in TRAINED:
            raise ValueError(f"names must be of {', '.join(TRAINED)}, got {name!r}")
    settings = {"target": target.name, "zoom": round(zoom, 4), "sampled": size.sampled, **asdict(size.study)}
    run = RunFolder(folder, settings | {"pair model": asdict(size.pair_model)})
    cells = [(seed, name) for seed in seeds for name in TRAINED if name in names]
    rows = []
    for seed, name in tqdm(cells, desc=f"three systems, {target.name}", disable=not progress):
        file = f"rows/{list(TRAINED).index(name)}_{seed}.json"
        rows.append(Row(**run.once(file, _trained_row, name, seed, target, zoom, folder, size, device)))
    return table(rows)


def untrained(
    target: Target, edge_segmenter: EdgeSegmenter | None = None, *, device: str | None = None
) -> list[Row]:
    """Rows of shipped weights, system C, the classical methods and the trivial baseline.

    Without an `edge_segmenter` (`EdgeSegmenter.load`) the row of system C is left out.
    """
    network = load_segmenter("label-free", device=device)

    def shipped(image: np.ndarray) -> Answer:
        segmentation = network.segment(image)
        return segmentation.boundary, segmentation.labels

    def tem(image: np.ndarray) -> Answer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)
            segmentation = replace(edge_segmenter, device=device or edge_segmenter.device).segment(
                image, keep=False
            )
        return segmentation.boundary, segmentation.labels

    rows = [_row(SHIPPED, shipped, target, network.card["minutes"], megabytes(network.model), device)]
    if edge_segmenter is not None:
        minutes = edge_segmenter.card.get("first", {}).get("minutes", float("nan"))  # both networks
        rows.append(
            _row(TEM, tem, target, minutes, megabytes(edge_segmenter.net1, edge_segmenter.net2), device)
        )
    rows += [
        _row(RIDGE, lambda image: grains_of(np.asarray(ridge(image), np.float32)), target),
        _row(EDGES, lambda image: grains_of(edges.edge_probability(edges.fused_edges(image))), target),
        _row(NOTHING, lambda image: trivial_prediction(image.shape), target),
    ]
    return rows


def sample_patches(
    patches: Sequence[Micrograph],
    folder: str | Path,
    size: Size,
    seed: int,
    *,
    device: str | None = None,
) -> tuple[list[Micrograph], float]:
    """Train a pair model on a few patches, and sample pairs of the same size.

    `folder` receives the weights, and the sampled pairs as a data set (`microlab.data.pairs.write_pairs`).

    Returns
    -------
    pairs : list of Micrograph
        With their boundary.
    minutes : float
        Of training and sampling, by `clock`.
    """
    place = Path(folder) / "pairs"
    if not (place / MANIFEST).exists():
        timer, start = clock(device), clock(device)()
        model = train_pair_model(
            [replace(patch, classes=patch.boundary.astype(np.uint8)) for patch in patches],
            folder,
            replace(size.pair_model, seed=seed),
            classes=len(CLASSES),
            class_names=CLASSES,
            device=device,
            progress=False,
            resume=False,  # a resumed training would be timed only in part
        )
        pairs = model.sample(size.sampled, shape=patches[0].shape, seed=seed, device=device)
        about = {"minutes": (timer() - start) / 60, "seed": seed}
        write_pairs(place, pairs, classes=len(CLASSES), about=about)
    about = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["about"]
    pairs = [Micrograph(pair.image, boundary=pair.classes == 1) for pair in read_pairs(place)]
    return pairs, float(about["minutes"])


def score(truth: np.ndarray, boundary: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`microlab.measure.scores.score`, and pixel accuracy."""
    measured = scores.score(truth, boundary, labels)
    return {"accuracy": float(pixel.pixel_accuracy(truth, boundary)), **measured}


def grains_of(probability: np.ndarray) -> Answer:
    """Boundary and grains of a map by the watershed that A, B and the controls share."""
    labels = watershed_grains(probability)
    return closed_boundary(probability, labels), labels


def megabytes(*models: torch.nn.Module) -> float:
    """Size of some networks' weights at 16 bits, as they ship."""
    return sum(2 * t.numel() for model in models for t in model.state_dict().values()) / 1e6


def clock(device: str | None = None) -> Callable[[], float]:
    """A clock in seconds: processor time on a CPU, independent of other programs' load; else wall time."""
    return time.process_time if devices.pick_device(device).type == "cpu" else time.perf_counter


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a DataFrame, a column for each score."""
    costs = [field.name for field in fields(Row) if field.name != "scores"]
    return pd.DataFrame([{**{name: getattr(row, name) for name in costs}, **row.scores} for row in rows])


def _trained_row(
    name: str, seed: int, target: Target, zoom: float, folder: Path, size: Size, device: str | None
) -> dict[str, object]:
    pairs, generator_minutes = _pairs(name, seed, target, zoom, folder, size, device)
    timer, start = clock(device), clock(device)()
    model = train_unet(pairs, size.study, seed, device=device, progress=False)
    minutes = generator_minutes + (timer() - start) / 60

    def answer(image: np.ndarray) -> Answer:
        return grains_of(boundary_probability(image, model, zoom, device=device))

    return asdict(replace(_row(name, answer, target, minutes, megabytes(model), device), seed=seed))


def _pairs(
    name: str, seed: int, target: Target, zoom: float, folder: Path, size: Size, device: str | None
) -> tuple[list[Micrograph], float]:
    """Training pairs of a U-Net, and the minutes that their generator took."""
    study = size.study
    n = study.images
    if name in (REAL, ORACLE):
        few = study.patches if name == REAL else None
        return labelled_pairs(target, zoom, n, patches=few, side=study.patch, seed=seed), 0.0
    patches = labelled_patches(target, zoom, study.patches, side=study.patch, seed=seed)
    sampled, minutes = sample_patches(patches, folder / f"pair_model_{seed}", size, seed, device=device)
    if name == SAMPLED:
        return augmented_pairs(sampled, n, seed=[seed, 72]), minutes
    real = labelled_pairs(target, zoom, n - n // 2, patches=study.patches, side=study.patch, seed=seed)
    return real + augmented_pairs(sampled, n // 2, seed=[seed, 72]), minutes


def _row(
    name: str,
    answer: Callable[[np.ndarray], Answer],
    target: Target,
    minutes: float = 0.0,
    size: float = 0.0,
    device: str | None = None,
) -> Row:
    """Score a method's answer on the test image and time its second call."""
    image = target.test.image
    answer(image)  # the first call also loads libraries
    timer, start = clock(device), clock(device)()
    boundary, labels = answer(image)
    seconds = timer() - start
    return Row(name, None, score(target.test.boundary, boundary, labels), minutes, seconds, size)
