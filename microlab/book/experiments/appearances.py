"""A zoo of appearances: virtual fields of known truth, drawn with seeds that no training uses.

Each entry is an appearance of `microlab.render.appearances` and what else is certain to be in its fields.
Chapter 04 shows them, `studies/appearances` scores segmenters on them.
"""

from __future__ import annotations

import functools
from dataclasses import fields, replace

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score

from microlab.data.micrograph import Micrograph
from microlab.measure import grain_size
from microlab.measure.grains import close_boundaries, grain_table, summarise
from microlab.measure.scores import mask_grains, score, trivial_prediction
from microlab.pipelines.training_pairs import in_grey
from microlab.render.appearances import SURFACES, Ranges, draw_field
from microlab.render.tem_grains import facets
from microlab.segment.choice import LIMITS, alarms
from microlab.segment.classical import BASELINES
from microlab.segment.evidence import Evidence, gather, look_at_all
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.segmenter import Segmenter
from microlab.simulate import library

CLASSICAL, FOREST, TRIVIAL = (
    "best of six classical, with hindsight",
    "random forest, 3 000 labels",
    "one grain",
)
GOOD, BAD = 0.15, 0.3  # adapted Rand error
HELD_OUT = 20_000  # seed of the structures and fields; trainings use small ones
FIELDS = 8
SIDE = 384  # px
USUAL = Ranges(
    zoom=(0.6, 1.8),
    ragged=0.5,
    marks=0.3,
    **dict.fromkeys(("elongated", "twinned", "inverted", "legend", "rotated", "mounted"), 0),
    **dict.fromkeys(("clean", "overexposed", "sharpened", "compressed"), 0),
)
ZOO: dict[str, tuple[str, Ranges]] = {
    **{name: (name, USUAL) for name in SURFACES},
    "inverted grooves": ("grooves", replace(USUAL, inverted=1)),
    "etched, twinned": ("etched", replace(USUAL, twinned=1, twins_etched=0.5)),
    "bright lines, elongated": ("bright lines", replace(USUAL, elongated=1)),
    "contrast, legend": ("contrast", replace(USUAL, legend=1)),
    "etched, clean": ("etched", replace(USUAL, clean=1, marks=0)),
    "grooves, sharpened and compressed": ("grooves", replace(USUAL, sharpened=1, compressed=1)),
}


@functools.cache
def structure(index: int) -> np.ndarray:
    """Grain map of a grown polycrystal, (512, 512), for field number `index` of every entry."""
    from microlab.pipelines.train_segmenter import STRUCTURES

    return library.simulate_structure(library.draw_parameters(index, HELD_OUT, STRUCTURES)).grain_map


def zoo_field(name: str, index: int, *, side: int = SIDE) -> Micrograph:
    """Field `index` of an entry of `ZOO`, (side, side), in grey."""
    appearance, ranges = ZOO[name]
    seed = [HELD_OUT, list(ZOO).index(name), index]
    field = draw_field(
        appearance, structure(index), (side, side), seed=np.random.default_rng(seed), ranges=ranges
    )
    return replace(in_grey(field), name=f"{name} {index}")


def as_a_file(field: Micrograph) -> Micrograph:
    """The field as a user has it: nobody says what of it is the specimen."""
    return replace(field, valid=None)


def scores(field: Micrograph, segmenter: Segmenter, zoom: float | None = None) -> dict[str, float | None]:
    """Scores of a segmenter on one field of known truth: `all_scores`, and the zoom."""
    result = segmenter.segment(as_a_file(field), zoom=zoom)
    return {**all_scores(field, result.boundary, result.labels), "zoom": result.zoom}


def all_scores(field: Micrograph, boundary: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """`microlab.measure.scores.score`, and what a user reads off: adjusted Rand index, diameter, ASTM number.

    The mean diameter's error is relative; that of the grain size number is a difference, predicted less true.
    None stands for what is not defined, as the mean diameter of a field without a whole grain.
    """
    valid = field.valid
    truth = mask_grains(field.boundary if valid is None else field.boundary | ~valid)
    inside = labels if valid is None else np.where(valid, labels, 0)
    row = score(field.boundary, boundary, labels, valid)
    row["adjusted Rand index"] = adjusted_rand_score(truth[truth > 0], inside[truth > 0])
    diameters, numbers = [], []
    for one in (close_boundaries(truth), inside):
        if valid is not None:
            one = np.where(valid, one, 0)
        table = grain_table(one, valid=valid)
        diameters.append(summarise(table, ["diameter_px"], interval="t")["mean"].iloc[0])
        numbers.append(grain_size.astm_grain_size(one, 1.0, valid=valid).number)
    row["diameter error"] = diameters[1] / diameters[0] - 1
    row["grain size number error"] = numbers[1] - numbers[0]
    return {name: float(value) if np.isfinite(value) else None for name, value in row.items()}


def classical_answers(image: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Boundary and labels of six classical baselines: three filters, for dark and for bright lines."""
    answers = {}
    for name, baseline in BASELINES.items():
        for polarity in ("dark", "bright"):
            probability = baseline(image, polarity=polarity)
            labels = watershed_grains(probability)
            answers[f"{name}, {polarity}"] = closed_boundary(probability, labels), labels
    return answers


def forest_answer(field: Micrograph, *, labelled: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boundary and labels of a random forest on filter responses, as ilastik and Weka train one by hand.

    Parameters
    ----------
    field : Micrograph
        With its boundary: half of the labelled pixels are taken on it, half elsewhere, all over the field.
    labelled : int
        Pixels that a person would paint; fewer where a field has not so many.
    seed : int
    """
    rng = np.random.default_rng(seed)
    features = multiscale_basic_features(field.image, sigma_min=0.7, sigma_max=12)
    valid = np.ones(field.shape, bool) if field.valid is None else field.valid
    parts = [np.flatnonzero(part & valid) for part in (field.boundary, ~field.boundary)]
    pixels = np.concatenate(
        [rng.choice(part, min(labelled // 2, len(part)), replace=False) for part in parts]
    )
    flat = features.reshape(-1, features.shape[-1])
    forest = RandomForestClassifier(100, max_samples=0.5, max_depth=12, random_state=seed, n_jobs=1)
    forest.fit(flat[pixels], field.boundary.ravel()[pixels])
    probability = forest.predict_proba(flat)[:, 1].reshape(field.shape).astype(np.float32)
    labels = watershed_grains(probability)
    return closed_boundary(probability, labels), labels


def compare(field: Micrograph, segmenters: dict[str, Segmenter]) -> dict[str, dict[str, float | str | None]]:
    """Scores of segmenters on a field, and of the best classical baseline and the forest, with hindsight."""
    rows: dict[str, dict[str, float | str | None]] = {}
    for name, segmenter in segmenters.items():
        result = segmenter.segment(as_a_file(field))
        rows[name] = all_scores(field, result.boundary, result.labels)
        rows[name] |= {
            "zoom": result.zoom,
            "warned": float(bool(result.warnings)),
            "method": result.record.get("method", segmenter.name),
        }
    classical = {name: all_scores(field, *answer) for name, answer in classical_answers(field.image).items()}
    best = min(classical, key=lambda name: classical[name]["adapted Rand error"])
    rows[CLASSICAL] = {**classical[best], "method": best}
    rows[FOREST] = {**all_scores(field, *forest_answer(field)), "method": "random forest"}
    rows[TRIVIAL] = {**all_scores(field, *trivial_prediction(field.shape)), "method": "one grain"}
    return rows


def recall_by_contrast(
    field: Micrograph, boundary: np.ndarray, *, reach: float = 8.0, line: float = 2.0, least: int = 8
) -> pd.DataFrame:
    """Contrast-to-noise ratio of every boundary between two grains, and how much of it was found.

        contrast to noise = max(|A - B|, |L - (A + B) / 2|) / sqrt((var A + var B) / 2)

    A and B are the mean greys beside the boundary, between `line` and `reach` pixels away, and L that of its
    line. The line may be blurred or displaced, so a small ratio is an upper bound of what is to be seen.

    Parameters
    ----------
    field : Micrograph
        With closed true boundaries.
    boundary : (H, W) bool
        As it was found.
    reach, line : float
        Pixels.
    least : int
        Boundaries with fewer pixels on a side are left out.

    Returns
    -------
    DataFrame
        A row for each boundary: ``pixels``, ``contrast to noise`` and ``recall``, the share of its pixels
        with a found line within 3 px.
    """
    labels = close_boundaries(mask_grains(field.boundary))
    near, found = facets(labels), ndimage.distance_transform_edt(~boundary) <= 3
    low, high = np.minimum(labels, near.neighbour), np.maximum(labels, near.neighbour)
    shown = np.ones(field.shape, bool) if field.valid is None else field.valid
    index = np.flatnonzero((near.distance <= reach) & (low != high) & shown)
    _, facet = np.unique(low.ravel()[index].astype(np.int64) << 32 | high.ravel()[index], return_inverse=True)
    rows = []
    for pixels in np.split(index[np.argsort(facet, kind="stable")], np.cumsum(np.bincount(facet))[:-1]):
        away, greys, first = (
            near.distance.ravel()[pixels],
            field.image.ravel()[pixels],
            labels.ravel()[pixels] == low.ravel()[pixels[0]],
        )
        a, b, middle = greys[(away > line) & first], greys[(away > line) & ~first], away <= 1
        if min(len(a), len(b)) < least or not middle.any():
            continue
        contrast = max(abs(a.mean() - b.mean()), abs(greys[middle].mean() - (a.mean() + b.mean()) / 2))
        noise = max(float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)), 1e-6)
        rows.append((int(middle.sum()), contrast / noise, float(found.ravel()[pixels[middle]].mean())))
    return pd.DataFrame(rows, columns=["pixels", "contrast to noise", "recall"])


ZOOM_FACTORS = (1.0, 0.35, 2.8)  # a zoom that is right, and two that are wrong


def evidence_rows(field: Micrograph, segmenters: dict[str, Segmenter]) -> list[dict[str, float | str]]:
    """What the alarms look at, beside the true error: each segmenter at its own zoom and at wrong ones."""
    rows = []
    for name, segmenter in segmenters.items():
        own = segmenter.estimate_zoom(field)
        for factor in ZOOM_FACTORS:
            zoom = float(np.clip(own * factor, 0.125, 4))
            image, result = segmenter.check(field), segmenter.segment(as_a_file(field), zoom=zoom)
            evidence = gather(image, segmenter, zoom)
            evidence = look_at_all(image, result, evidence, segmenter.calibrated)
            row = score(field.boundary, result.boundary, result.labels, field.valid)
            about = {"field": field.name, "method": name, "zoom": zoom, "factor": factor}
            rows.append({**about, **vars(evidence), "adapted Rand error": row["adapted Rand error"]})
    return rows


def alarm_scores(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How often every alarm, and any of them, rings: on good, on middling and on bad segmentations.

    `BAD` is the adapted Rand error beyond which a segmentation is of no use, `GOOD` that below which it is.
    """
    errors = table["adapted Rand error"]
    parts = {"good": errors <= GOOD, "middling": (errors > GOOD) & (errors <= BAD), "bad": errors > BAD}
    signs = [Evidence(**{f.name: row[f.name] for f in fields(Evidence)}) for _, row in table.iterrows()]
    rings = pd.DataFrame([{name: name in alarms(one) for name in LIMITS} for one in signs], index=table.index)
    rules = {name: rings[name] for name in LIMITS} | {"any": rings.any(axis=1), "always": errors >= 0}
    scores = {}
    for rule, rang in rules.items():
        shares = {name: float(rang[part].mean()) for name, part in parts.items() if part.any()}
        scores[rule] = {f"rings on {name}": round(share, 4) for name, share in shares.items()}
        if {"good", "bad"} <= set(shares):
            scores[rule]["balanced accuracy"] = round((shares["bad"] + 1 - shares["good"]) / 2, 4)
    return scores
