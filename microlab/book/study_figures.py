"""Figures of the phase study, after paper B's 15 to 19, with the spread that they lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from microlab.book.experiments.synthetic_share import BASES, MEASURES, gains, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe-Ito colours other than those of truth, prediction and error; hatches tell them apart in grey.
_LOOKS = {
    name: {"color": colour, "hatch": hatch}
    for name, colour, hatch in zip(
        BASES,
        ("#009E73", "#D55E00", "#56B4E9", "#4D4D4D", "#F0E442", "#BBBBBB"),
        ("", "//", "..", "xx", "", "--"),
    )
}
_LINES = dict(zip(BASES, ("-", "--", ":", "-.", "-", "-")))
_MARKERS = "os^Dv<>"


def share_plot(
    scores: pd.DataFrame,
    measure: str = "missing_class_iou",
    *,
    source: str,
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """A measure against the share of synthetic data: a bar per base, its own 0 % as a horizontal line.

    Error bars are standard deviations over the seeds. The augmentation-only control is a thin line.

    Parameters
    ----------
    scores : DataFrame
        Of `microlab.book.experiments.synthetic_share.run`.
    measure : str
        Column of `scores`, between 0 and 1; drawn in %.
    source : str
        Pool of the synthetic pairs.
    ax : Axes, optional
    legend : bool

    Raises
    ------
    ValueError
        If there is no such measure.
    """
    if measure not in scores:
        raise ValueError(f"measure must be a column of the scores, got {measure!r}")
    ax = ax or plt.subplots(figsize=(9, 4))[1]
    table = 100 * summary(scores)[measure]
    shares = sorted(share for share in scores.loc[scores["source"] == source, "share"].unique())
    bases = [base for base in BASES if (scores["base"] == base).any()]
    width = 0.8 / len(bases)
    lowest = []
    for k, base in enumerate(bases):
        found = [
            (i, table.loc[key])
            for i, s in enumerate(shares)
            if (key := (base, s, source, False)) in table.index
        ]
        x = [i + (k - (len(bases) - 1) / 2) * width for i, _ in found]
        mean, sd = ([row[part] for _, row in found] for part in ("mean", "sd"))
        ax.bar(
            x,
            mean,
            0.9 * width,
            yerr=np.nan_to_num(sd),
            label=f"{base} ({BASES[base].paper})",
            edgecolor="white",
            capsize=2,
            error_kw={"linewidth": 1},
            **_LOOKS[base],
        )
        lowest += [m - s for m, s in zip(mean, np.nan_to_num(sd))]
        if (base, 0, "", False) in table.index:
            level = table.loc[(base, 0, "", False), "mean"]
            ax.axhline(level, color=_LOOKS[base]["color"], linestyle=_LINES[base], linewidth=1.5)
            lowest.append(level)
    if ("many mixed", 0, "", True) in table.index:
        level = table.loc[("many mixed", 0, "", True), "mean"]
        ax.axhline(level, color="black", linestyle=(0, (1, 3)), linewidth=1.2, label="augmentation only")
        lowest.append(level)
    ax.set_xticks(range(len(shares)), [f"{share}" for share in shares])
    ax.grid(axis="x", visible=False)
    ax.set_axisbelow(True)
    if lowest:
        ax.set_ylim(bottom=max(0, 5 * np.floor(min(lowest) / 5) - 5))  # bars cut off, as the axis says
    ax.set(xlabel=f"synthetic pairs added from {source!r} (%)", ylabel=f"{_called(measure)} (%)")
    if legend:
        ax.legend(ncols=2, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    return ax


def measure_plots(scores: pd.DataFrame, *, source: str) -> Figure:
    """Accuracy, mIoU and Missing Class IoU, one below the other: figures 15, 16 and 17 of the paper."""
    figure, axes = plt.subplots(len(MEASURES), figsize=(9, 3.4 * len(MEASURES)), squeeze=False)
    for k, (ax, measure) in enumerate(zip(axes.flat, MEASURES)):
        share_plot(scores, measure, source=source, ax=ax, legend=k == 0)
    return figure


def class_plots(scores: pd.DataFrame, classes: Sequence[str], *, source: str) -> Figure:
    """IoU of each class over the images that have it: figure 19 of the paper.

    Parameters
    ----------
    scores : DataFrame
    classes : sequence of str
        Names, in the order of their ids.
    source : str
    """
    rows = -(-len(classes) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 3.4 * rows), squeeze=False)
    for k, ax in enumerate(axes.flat):
        if k < len(classes):
            share_plot(scores, f"IoU_{k}", source=source, ax=ax, legend=False)
            ax.set_title(classes[k])
        else:
            ax.set_axis_off()
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def gain_plot(
    scores: pd.DataFrame,
    measure: str = "missing_class_iou",
    *,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Paired gain of every training set over its base alone, with its t interval and a line at no gain.

    Filled markers: the interval excludes 0.
    """
    table = gains(scores, measure=measure, level=level)
    if table.empty:
        raise ValueError("scores hold no training set with its base at 0 %, so there is no gain to draw")
    ax = ax or plt.subplots(figsize=(7, 0.6 + 0.28 * len(table)))[1]
    sources = list(dict.fromkeys(table["source"]))
    ax.axvline(0, color="black", linewidth=1)
    names = []
    for y, row in enumerate(table.itertuples(index=False)):
        colour = _LOOKS[row.base]["color"]
        mean, low, high = 100 * row.gain, 100 * row.low, 100 * row.high
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=colour, linestyle="-", linewidth=2)
        excludes = np.isfinite(low) and (low > 0 or high < 0)
        face = colour if excludes else "white"
        marker = _MARKERS[sources.index(row.source) % len(_MARKERS)]
        ax.plot(mean, y, marker, color=colour, markerfacecolor=face, markeredgecolor="black", zorder=3)
        names.append(_training_set(row.base, row.share, row.source, row.augmented))
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel=f"gain in {_called(measure)} (points)")
    return ax


def describe(scores: pd.DataFrame, measure: str = "missing_class_iou", *, level: float = 0.95) -> str:
    """The study in words, for those who cannot see its figures."""
    table = 100 * summary(scores)[measure]
    alone = [f"{_training_set(*key)}: {table.loc[key, 'mean']:.1f} %" for key in table.index if key[1] == 0]
    sentences = [f"{_called(measure)}, mean over {scores['seed'].nunique()} seeds.", "; ".join(alone) + "."]
    for row in gains(scores, measure=measure, level=level).itertuples(index=False):
        what = _training_set(row.base, row.share, row.source, row.augmented)
        text = f"{what}: gain {100 * row.gain:+.1f} points"
        if np.isfinite(row.low):
            sure = "excludes" if row.low > 0 or row.high < 0 else "holds"
            text += f", interval {100 * row.low:+.1f} to {100 * row.high:+.1f}, {sure} 0"
        sentences.append(text + ".")
    return " ".join(sentences)


def _called(measure: str) -> str:
    return MEASURES.get(measure, measure.replace("IoU_", "IoU of class ").replace("_", " "))


def _training_set(base: str, share: int, source: str, augmented: bool) -> str:
    if augmented:
        return f"{base}, augmentation only"
    return f"{base} with {share} % {source}" if share else f"{base} alone"
