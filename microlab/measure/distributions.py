"""Comparison of two distributions of grains: ours and that of an expert's mask.

    difference = mean of ours - mean of truth,     quantiles of ours against quantiles of truth

The tests are in :mod:`microlab.measure.two_sample`, means and their intervals are those of
:func:`microlab.measure.grains.summarise`. How many grains are needed, and what the frame does to them, is in
:mod:`microlab.measure.sampling`.

All tests take the two samples as independent. Two segmentations of one field are not: they show the same
grains. The tests then reject too rarely and the intervals of the difference are too wide;
:func:`match_grains` pairs the grains for a paired test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from microlab.measure.checks import as_labels
from microlab.measure.grains import counted_grains, summarise
from microlab.measure.instance import matches
from microlab.measure.two_sample import (
    axial_mean,
    effective_number,
    mean_permutation_test,
    percentile_interval,
    resampled_means,
    two_sample_test,
    weighted_quantiles,
)

QUANTITIES = ("area", "diameter", "circularity", "aspect_ratio", "orientation")
UNITS = {"area": ("area_px", "area_um2"), "diameter": ("diameter_px", "diameter_um")}
AXIAL = "orientation_deg"


def compare_grains(
    ours: pd.DataFrame,
    truth: pd.DataFrame,
    quantities: Sequence[str] = QUANTITIES,
    *,
    edge: str = "weighted",
    interval: str = "bootstrap",
    confidence: float = 0.95,
    resamples: int = 2000,
    least: int = 10,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Compare the grains of a segmentation, ours, with those of an expert's mask.

    Parameters
    ----------
    ours, truth : DataFrame from :func:`microlab.measure.grains.grain_table`
        Rows of several images may be concatenated. Draw both label images by one convention: boundaries of
        different width alone make the distributions differ (`close_boundaries`).
    quantities : sequence of str
        Columns of the tables, or ``"area"``, ``"diameter"`` and ``"orientation"``: then micrometres if both
        tables know them, pixels if neither does.
    edge : {"weighted", "exclude", "keep"}
        Grains cut by the frame, as in `summarise`. The weights of "weighted" enter means, intervals and
        `p_mean`. They do not enter `statistic` and `p_value`, which compare the whole grains as they are:
        fair where both tables come from frames of one size.
    interval : {"bootstrap", "t"}
        Percentile bootstrap over grains; or Student's t for means and Welch's for the difference, with Kish's
        effective numbers of grains. Orientations always take the bootstrap.
    confidence : float in (0, 1)
    resamples : int
        Of bootstrap and permutation.
    least : int >= 2
        Fewer grains than this are refused.
    seed : int or Generator

    Returns
    -------
    DataFrame indexed by quantity, the unit in its name, with columns

    ``n_ours``, ``n_truth``
        Grains used.
    ``mean_ours``, ``mean_ours_low``, ``mean_ours_high``, and the same for ``truth``
        Mean with its interval. For orientations the axial mean; its interval spans most of the half circle
        where no direction is preferred, and may leave [0, 180).
    ``difference``, ``difference_low``, ``difference_high``
        Mean of ours minus mean of truth, with its interval.
    ``relative_difference``
        Difference over the mean of truth; NaN for orientations.
    ``test``, ``statistic``, ``p_value``
        Kolmogorov-Smirnov; Kuiper for orientations. Sensitive to any difference of the distributions.
    ``p_mean``
        Permutation test of the difference of means; NaN for orientations.

    Raises
    ------
    ValueError
        If a table is empty, lacks a column or has fewer than `least` grains, or if one table is in
        micrometres and the other, or a part of it, is not.
    """
    if least < 2:
        raise ValueError(f"least must be 2 grains or more, got {least}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    rng = np.random.default_rng(seed)
    tables = {"ours": ours, "truth": truth}
    rows = {}
    for column in _columns(quantities, tables):
        samples = [_sample(table, name, column, edge, least) for name, table in tables.items()]
        (a, wa), (b, wb) = samples
        row: dict[str, object] = {"n_ours": len(a), "n_truth": len(b)}
        if column == AXIAL:
            means = [axial_mean(x, w).direction for x, w in samples]
            spread = [_wrap(_resampled_axial(x, w, resamples, rng) - m) for (x, w), m in zip(samples, means)]
            limits = [(m + percentile_interval(s, confidence)).tolist() for m, s in zip(means, spread)]
            difference = float(_wrap(means[0] - means[1]))
            between = (difference + percentile_interval(_wrap(spread[0] - spread[1]), confidence)).tolist()
            relative = p_mean = float("nan")
        else:
            settings = {"edge": edge, "interval": interval, "confidence": confidence, "resamples": resamples}
            summaries = [summarise(t, [column], **settings, seed=rng).loc[column] for t in tables.values()]
            means = [float(s["mean"]) for s in summaries]
            limits = [(float(s["mean_low"]), float(s["mean_high"])) for s in summaries]
            difference = means[0] - means[1]
            relative = difference / means[1] if means[1] else float("nan")
            if interval == "t":
                between = difference + _welch(samples, [float(s["std"]) for s in summaries], confidence)
            else:
                mean_ours, mean_truth = (resampled_means(x, w, resamples, rng) for x, w in samples)
                between = percentile_interval(mean_ours - mean_truth, confidence)
            p_mean = mean_permutation_test(a, wa, b, wb, resamples, rng)
        for name, mean, (low, high) in zip(tables, means, limits):
            row |= {f"mean_{name}": mean, f"mean_{name}_low": low, f"mean_{name}_high": high}
        row |= {"difference": difference, "difference_low": between[0], "difference_high": between[1]}
        row["relative_difference"] = relative
        test = two_sample_test(a, b, axial=column == AXIAL, resamples=resamples, seed=rng)
        rows[column] = row | {
            "test": test.test,
            "statistic": test.statistic,
            "p_value": test.p_value,
            "p_mean": p_mean,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")


def quantile_pairs(
    ours: pd.DataFrame,
    truth: pd.DataFrame,
    quantity: str,
    *,
    probabilities: ArrayLike | None = None,
    edge: str = "weighted",
    confidence: float = 0.95,
    resamples: int = 1000,
    least: int = 10,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Quantiles of our grains against those of the expert's, for a quantile-quantile plot.

    On the diagonal the distributions agree. A line beside it is a shift, a line of another slope a scale,
    and points that leave it at one end are missed or invented grains of that size.

    Parameters
    ----------
    ours, truth, edge, confidence, resamples, least, seed
        As in :func:`compare_grains`; edge weights enter the quantiles.
    quantity : str
        One quantity as in :func:`compare_grains`, but no orientation: a circle has no smallest value.
    probabilities : (M,) float in (0, 1), optional
        By default the middles of as many equal steps as the smaller table has grains.

    Returns
    -------
    DataFrame with columns ``probability``, ``truth``, ``ours``, and ``low``, ``high``: pointwise bootstrap
    interval of ours. It does not hold the error of the truth.
    """
    tables = {"ours": ours, "truth": truth}
    (column,) = _columns([quantity], tables)
    if column == AXIAL:
        raise ValueError(
            "orientations lie on a circle and have no quantiles; compare them by two_sample_test"
        )
    (a, wa), (b, wb) = (_sample(table, name, column, edge, least) for name, table in tables.items())
    if probabilities is None:
        m = min(len(a), len(b))
        probabilities = (np.arange(m) + 0.5) / m
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 1 or not len(p) or not ((p > 0) & (p < 1)).all():
        raise ValueError(f"probabilities must be a list of numbers in (0, 1), got {probabilities}")
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(a), size=(resamples, len(a)))
    resampled = np.array([weighted_quantiles(a[pick], wa[pick], p) for pick in picks])
    low, high = percentile_interval(resampled, confidence, axis=0)
    columns = {
        "truth": weighted_quantiles(b, wb, p),
        "ours": weighted_quantiles(a, wa, p),
        "low": low,
        "high": high,
    }
    return pd.DataFrame({"probability": p, **columns})


def match_grains(ours: ArrayLike, truth: ArrayLike) -> pd.DataFrame:
    """Pairs of grains of one field that share more than half of their union, so that none has two partners.

    Parameters
    ----------
    ours, truth : (H, W) int
        Label images, 0 on boundaries.

    Returns
    -------
    DataFrame with ``label_ours``, ``label_truth`` and ``iou``, to join the two grain tables with. Grains
    without a row were missed, invented, merged or cut.
    """
    ours, truth = as_labels(ours, "ours"), as_labels(truth, "truth")
    if ours.shape != truth.shape or ours.ndim != 2:
        raise ValueError(f"ours {ours.shape} and truth {truth.shape} must be (H, W) images of one size")
    pairs = matches(truth, ours).rename(columns={"predicted": "label_ours", "true": "label_truth"})
    return pairs[["label_ours", "label_truth", "iou"]].reset_index(drop=True)


def _columns(quantities: Sequence[str], tables: dict[str, pd.DataFrame]) -> list[str]:
    """Columns of the quantities, in the unit that both tables have."""
    for name, table in tables.items():
        if not len(table):
            raise ValueError(f"{name} is an empty table: no grain was found, or all were filtered out")
    columns = []
    for quantity in quantities:
        column = AXIAL if quantity == "orientation" else quantity
        if quantity in UNITS:
            px, um = UNITS[quantity]
            share = [float(t[um].notna().mean()) if um in t else 0.0 for t in tables.values()]
            if share not in ([0, 0], [1, 1]):
                parts = " and ".join(f"{s:.0%} of {n}" for n, s in zip(tables, share))
                raise ValueError(
                    f"mixed units: {um} is known for {parts}; give every grain_table the pixel size, or none"
                )
            column = um if share == [1, 1] else px
        columns.append(column)
    for name, table in tables.items():
        missing = [c for c in (*columns, "area_px", "touches_edge", "edge_weight") if c not in table]
        if missing:
            raise ValueError(f"{name} lacks the columns {missing}; it has {list(table.columns)}")
    return columns


def _sample(
    table: pd.DataFrame, name: str, column: str, edge: str, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and weights of the grains that count."""
    used, w = counted_grains(table, edge)
    x = used[column].to_numpy(dtype=float)
    finite = ~np.isnan(x)
    if finite.sum() < least:
        whole = "" if edge == "keep" else " that the frame does not cut"
        raise ValueError(
            f"{name} has {finite.sum()} grains with {column}{whole}, at least {least} are needed; "
            "take a larger field or several, or lower `least`"
        )
    return x[finite], w[finite]


def _wrap(degrees: ArrayLike) -> NDArray:
    """Axial difference in [-90, 90)."""
    return (np.asarray(degrees) + 90) % 180 - 90


def _resampled_axial(x: NDArray, w: NDArray, resamples: int, rng: np.random.Generator) -> NDArray:
    mean = resampled_means(np.exp(2j * np.radians(x)), w, resamples, rng)
    return np.degrees(np.angle(mean)) / 2


def _welch(samples: list[tuple[NDArray, NDArray]], stds: list[float], confidence: float) -> NDArray:
    """Limits of Welch's interval about the difference of means."""
    n = np.array([effective_number(w) for _, w in samples])
    v = np.array(stds) ** 2 / n
    freedom = v.sum() ** 2 / (v**2 / (n - 1)).sum()
    return stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(v.sum()) * np.array([-1, 1])
