"""Limits of paper C's segmenter: noise beyond its training, iterations, invisible boundaries (chapter 14).

    failure: the variance of the noise at which the accuracy falls below that of "no boundary"

All functions use networks that `studies.tem.study.run` has trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from skimage.morphology import skeletonize

from microlab.book.experiments.weak_boundaries import (
    TOLERANCE,
    Answer,
    score_answer,
    score_answers,
    visibility,
)
from microlab.data.parallel import imap_unordered
from microlab.measure.boundary import distance_to
from microlab.measure.scores import trivial_prediction
from microlab.render.tem import TEMConfig, TEMPicture
from microlab.render.tem_grains import facets
from microlab.segment.classical import BASELINES
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of, finished
from microlab.segment.edges import edge_probability, fused_edges
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.refine import NotConverged, Refinement, first_guess, refine
from studies.tem.study import TEMStudy, held_out_pictures, trained_segmenter

UNTRAINED = "edges, no training"
NOTHING = "all background"


def classical_answers(image: np.ndarray) -> dict[str, Answer]:
    """Results of the methods without training, all with our watershed.

    Parameters
    ----------
    image : (H, W) float32 in [0, 1]

    Returns
    -------
    dict
        Name of a method -> boundary (H, W) bool and grains (H, W) int32: the baselines of
        `microlab.segment.classical`, and the agreement of the three edge detectors.
    """
    maps = {name: np.asarray(baseline(image), np.float32) for name, baseline in BASELINES.items()}
    maps[UNTRAINED] = edge_probability(fused_edges(image))
    answers = {}
    for name, probability in maps.items():
        labels = watershed_grains(probability)
        answers[name] = (closed_boundary(probability, labels), labels)
    return answers


def without_training(pictures: Sequence[TEMPicture], jobs: int = 1) -> pd.DataFrame:
    """Mean scores of the methods without training and of the trivial baseline, a row for each."""
    tables = list(imap_unordered(_classical_scores, [(pair,) for pair in pictures], jobs))
    return pd.concat(tables).groupby(level=0, sort=False).mean()


def noise_stress(study: TEMStudy, folder: str | Path, jobs: int = 1) -> pd.DataFrame:
    """Scores against the variance of the noise, far beyond that of the training, on the same grains.

    Returns
    -------
    DataFrame
        Columns variance, method, seed, and the mean of each score over the pictures. Methods: Net1, Net1 and
        Net2, edges without training, all background.
    """
    tasks = [(study, str(folder), variance) for variance in study.variances]
    table = pd.concat(imap_unordered(_stressed, tasks, jobs))
    return table.sort_values(["variance", "method", "seed"], ignore_index=True)


def failure_threshold(variances: Sequence[float], scores: Sequence[float], level: float) -> float:
    """Variance at which a score first falls below a level, interpolated in its logarithm.

    Parameters
    ----------
    variances : sequence of float
        In ascending order.
    scores : sequence of float
    level : float

    Returns
    -------
    float
        Infinite if it never does; the first variance if the score is below from the start.
    """
    variances, margin = np.asarray(variances, float), np.asarray(scores, float) - level
    below = np.flatnonzero(margin < 0)
    if not len(below):
        return float("inf")
    k = below[0]
    if k == 0:
        return float(variances[0])
    share = margin[k - 1] / (margin[k - 1] - margin[k])
    low, high = np.log(variances[k - 1 : k + 1])
    return float(np.exp(low + share * (high - low)))


def iteration_scores(study: TEMStudy, folder: str | Path, n: int = 20, jobs: int = 1) -> pd.DataFrame:
    """Scores after every iteration of Net2.

    Returns
    -------
    DataFrame
        Columns seed, picture, iteration (0 is Net1's map), iterations (to convergence), change (of this
        step), and the scores. A converged map keeps its scores to the last iteration.
    """
    tasks = [(study, str(folder), seed, n) for seed in study.seeds]
    table = pd.concat(imap_unordered(_iterated, tasks, jobs), ignore_index=True)
    # The same iterations for all seeds, so that means are over all of them.
    iterations = range(table["iteration"].max() + 1)
    parts = []
    for _, part in table.groupby(["seed", "picture"]):
        part = (
            part.set_index("iteration")
            .reindex(iterations, method="ffill")
            .rename_axis("iteration")
            .reset_index()
        )
        part.loc[part["iteration"] > part["iterations"], "change"] = np.nan
        parts.append(part)
    return pd.concat(parts).sort_values(["seed", "picture", "iteration"], ignore_index=True)


def iterations_and_error(curves: pd.DataFrame, measure: str = "adapted Rand error") -> tuple[float, float]:
    """Spearman's correlation of a picture's number of iterations with its final error, and its p value.

    Parameters
    ----------
    curves : DataFrame
        From :func:`iteration_scores`. A picture counts once: its mean over the seeds.
    measure : str

    Returns
    -------
    (float, float)
        NaN if one of the two is constant, or there are fewer than three pictures.
    """
    last = curves[curves["iteration"] == curves["iteration"].max()]
    mean = last.groupby("picture")[["iterations", measure]].mean().dropna()
    if len(mean) < 3 or (mean.nunique() == 1).any():
        return float("nan"), float("nan")
    result = stats.spearmanr(mean["iterations"], mean[measure])
    return float(result.statistic), float(result.pvalue)


def recall_by_visibility(segmenter: EdgeSegmenter, pictures: Sequence[TEMPicture]) -> pd.DataFrame:
    """Visibility and recall of every facet.

    Returns
    -------
    DataFrame
        The columns of `weak_boundaries.visibility` and ``recall``, the share of the facet's pixels with a
        predicted line within 2 px.
    """
    tables = []
    for pair in pictures:
        boundary, _ = segmenter.grains(run_maps(segmenter, pair.image)[1].result)
        distance = distance_to(skeletonize(boundary))
        table, near = visibility(pair), facets(pair.labels)
        low, high = np.minimum(pair.labels, near.neighbour), np.maximum(pair.labels, near.neighbour)
        facet_masks = [
            pair.boundary & (low == a) & (high == b) for a, b in zip(table["first"], table["second"])
        ]
        tables.append(
            table.assign(recall=[float((distance[mask] <= TOLERANCE).mean()) for mask in facet_masks])
        )
    return pd.concat(tables, ignore_index=True)


def run_maps(segmenter: EdgeSegmenter, image: np.ndarray) -> tuple[np.ndarray, Refinement]:
    """Net1's map of a picture and its refinement, without a warning if it does not converge."""
    channels = channels_of(image, segmenter.card["inputs"])
    first = first_guess(segmenter.net1, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # the number of iterations shows it
        options = {
            "tolerance": segmenter.card["tolerance"],
            "max_iterations": segmenter.card["max_iterations"],
        }
        return first, refine(segmenter.net2, first, channels, **options)


def easier() -> dict[str, TEMConfig]:
    """Test pictures without one of the causes of hidden boundaries each, to measure its effect."""
    low_noise = {"noise_variance": (2e-4, 1e-3)}  # the real strip has about 4e-4
    all_concepts = TEMConfig()
    return {
        "all concepts": all_concepts,
        "no similar neighbours": replace(all_concepts, similar=False),
        "no overlap": replace(all_concepts, overlap=False),
        "no bending": replace(all_concepts, bending=False),
        "noise of the real strip": replace(all_concepts, **low_noise),
        "no similar neighbours, no overlap, noise of the real strip": replace(
            all_concepts, similar=False, overlap=False, **low_noise
        ),
    }


def easier_scores(study: TEMStudy, folder: str | Path, jobs: int = 1) -> pd.DataFrame:
    """Scores on the pictures of :func:`easier`.

    Returns
    -------
    DataFrame
        Columns pictures, refiner (Net2, or one more Net1 in its place), seed and the mean scores; the same
        grains in each, as far as the concepts allow.
    """
    tasks = [(study, str(folder), name) for name in easier()]
    table = pd.concat(imap_unordered(_easier, tasks, jobs))
    order = {name: k for k, name in enumerate(easier())}
    by = ["refiner", "pictures", "seed"]
    return table.sort_values(by, key=lambda c: c.map(order) if c.name == "pictures" else c)


def _classical_scores(pair: TEMPicture) -> pd.DataFrame:
    answers = {**classical_answers(pair.image), NOTHING: trivial_prediction(pair.image.shape)}
    return pd.DataFrame({name: score_answer(pair, *answer) for name, answer in answers.items()}).T


def _stressed(study: TEMStudy, folder: str, variance: float) -> pd.DataFrame:
    concepts = TEMConfig(noise_variance=(variance, variance))
    pictures = held_out_pictures(study, study.stressed, concepts)
    rows = []
    edges = [edge_probability(fused_edges(pair.image)) for pair in pictures]
    answers = {UNTRAINED: [finished(p, {"method": "watershed"}) for p in edges]}
    answers[NOTHING] = [trivial_prediction(pair.image.shape) for pair in pictures]
    for method, results in answers.items():
        rows.append({"method": method, "seed": -1, **score_answers(pictures, results).mean().to_dict()})
    for seed in study.seeds:
        segmenter = trained_segmenter(study, folder, seed)
        maps = [run_maps(segmenter, pair.image) for pair in pictures]
        stages = {"Net1 and Net2": [done.result for _, done in maps]}
        if seed == study.seeds[0]:
            stages["Net1"] = [first for first, _ in maps]
        for stage, results in stages.items():
            scores = score_answers(pictures, [segmenter.grains(p) for p in results]).mean().to_dict()
            if stage != "Net1":
                scores["iterations"] = float(np.mean([done.iterations for _, done in maps]))
            rows.append({"method": stage, "seed": seed, **scores})
    return pd.DataFrame(rows).assign(variance=variance)


def _iterated(study: TEMStudy, folder: str, seed: int, n: int) -> pd.DataFrame:
    segmenter, rows = trained_segmenter(study, folder, seed), []
    pictures = held_out_pictures(study, n)
    refinements = [run_maps(segmenter, pair.image)[1] for pair in pictures]
    for picture, (pair, refinement) in enumerate(zip(pictures, refinements, strict=True)):
        for k, probability in enumerate(refinement.maps):
            about = {"seed": seed, "picture": picture, "iteration": k, "iterations": refinement.iterations}
            about["change"] = refinement.changes[k - 1] if k else np.nan
            rows.append({**about, **score_answer(pair, *segmenter.grains(probability))})
    return pd.DataFrame(rows)


def _easier(study: TEMStudy, folder: str, name: str) -> pd.DataFrame:
    pictures, rows = held_out_pictures(study, study.stressed, easier()[name]), []
    background = float(np.mean([1 - pair.boundary.mean() for pair in pictures]))
    for refiner in ("Net2", "one more Net1"):
        for seed in study.seeds:
            segmenter = trained_segmenter(study, folder, seed, refiner)
            answers = [segmenter.grains(run_maps(segmenter, pair.image)[1].result) for pair in pictures]
            about = {"pictures": name, "refiner": refiner, "seed": seed}
            scores = score_answers(pictures, answers).mean().to_dict()
            rows.append({**about, **scores, "accuracy of all background": background})
    return pd.DataFrame(rows)
