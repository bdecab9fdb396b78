"""Figures that two chapters or a chapter and its page share: realism, and the study of synthetic shares.

real | synthetic sets  ->  patches -> grey levels, entropy, t-SNE with masks, kernel distance with errors
scores of a study      ->  paper B's figures 15 to 19, with the spread that they lack
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from microlab import plotting
from microlab.book.experiments.synthetic_share import BASES, MEASURES, gains, summary
from microlab.measure import realism
from microlab.measure.features import texture
from microlab.measure.projection import links, tsne

REAL = "real"
# Real is what is known. The others follow; none has the colour of an error.
_OTHERS = (plotting.COLOURS["prediction"], "#009E73", "#4D4D4D", "#56B4E9", "#D55E00", "#882255")
_MARKERS = "o^sDvPX"

Features = Callable[[NDArray], NDArray]


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each set, real first."""
    others = [name for name in names if name != REAL]
    return {REAL: plotting.COLOURS["truth"], **{n: _OTHERS[k % len(_OTHERS)] for k, n in enumerate(others)}}


def surface_plot(patch: ArrayLike, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """A patch as a landscape: the height is the grey, so boundaries are valleys.

    Parameters
    ----------
    patch : (H, W) float in [0, 1]
    ax : 3-D axes, optional
    title : str, optional

    Returns
    -------
    Axes
    """
    patch = np.asarray(patch, float)
    if patch.ndim != 2:
        raise ValueError(f"patch must be (H, W), got shape {patch.shape}")
    if ax is None:
        ax = plt.figure().add_subplot(projection="3d")
    y, x = np.indices(patch.shape)
    ax.plot_surface(x, y, patch, cmap="cividis", vmin=0, vmax=1, rcount=64, ccount=64, linewidth=0)
    ax.set(zlim=(0, 1), xticks=[], yticks=[], zticks=[0, 1])
    ax.view_init(elev=55, azim=-60)
    ax.set_box_aspect((1, 1, 0.5), zoom=1.2)
    if title:
        ax.set_title(title)
    return ax


def histogram_plot(sets: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Intensity histograms of several sets, as lines; grey levels are joined by fours against the jitter.

    Parameters
    ----------
    sets : mapping of name to array of images
    """
    ax = ax or plt.subplots()[1]
    palette = colours(list(sets))
    for name, images in sets.items():
        shares = realism.intensity_histogram(images).reshape(-1, 4).sum(1)
        ax.plot((np.arange(64) + 0.5) / 64, shares, label=name, color=palette[name], linestyle="-")
    # Untextured images have spikes that would flatten all the others.
    ax.set(xlabel="grey", ylabel="share of pixels (cube-root axis)")
    ax.set_yscale("function", functions=(np.cbrt, lambda share: share**3))
    return ax


def entropy_plot(entropies: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Distribution of the patches' entropies, one row for each set: box from quartile to quartile."""
    ax = ax or plt.subplots()[1]
    palette = colours(list(entropies))
    boxes = ax.boxplot(
        [np.asarray(values) for values in entropies.values()],
        orientation="horizontal",
        tick_labels=list(entropies),
        patch_artist=True,
        widths=0.6,
        flierprops={"markersize": 2},
        medianprops={"color": "black"},
    )
    for name, box in zip(entropies, boxes["boxes"]):
        box.set(facecolor=palette[name], alpha=0.8)
    ax.invert_yaxis()
    ax.set(xlabel="entropy of a patch (bits)")
    return ax


def map_plot(
    placed: Mapping[str, ArrayLike], masks: Mapping[str, ArrayLike] | None = None, *, ax: Axes | None = None
) -> Axes:
    """A t-SNE map; masks are hollow, and a thin line leads from each image to its mask.

    Parameters
    ----------
    placed : mapping of name to (n, 2)
    masks : mapping of name to (n, 2), optional
        Row i belongs to row i of the same set in `placed`.
    """
    ax = ax or plt.subplots()[1]
    palette, masks = colours(list(placed)), masks or {}
    for k, (name, points) in enumerate(placed.items()):
        mark = {"s": 14, "marker": _MARKERS[k % len(_MARKERS)], "zorder": 3}
        if name in masks:
            ax.add_collection(
                LineCollection(links(points, masks[name]), colors="#999999", linewidths=0.3, alpha=0.6)
            )
            ax.scatter(*np.asarray(masks[name]).T, facecolors="none", edgecolors=palette[name], **mark)
        ax.scatter(*np.asarray(points).T, color=palette[name], linewidths=0, label=name, **mark)
    ax.set(xticks=[], yticks=[], xlabel="t-SNE, no units")
    return ax


def kernel_distance_plot(report: pd.DataFrame, space: str, *, ax: Axes | None = None) -> Axes:
    """Kernel distances and two standard errors, on an axis linear near zero and logarithmic above."""
    ax = ax or plt.subplots()[1]
    palette = colours([REAL, *report.index[1:]])
    shades = [palette[REAL], *(palette[name] for name in report.index[1:])]
    ax.barh(
        list(report.index),
        report[f"KID {space}"],
        xerr=2 * report[f"KID {space} error"],
        color=shades,
        capsize=3,
    )
    ax.axvline(report[f"KID {space}"].iloc[0], color=palette[REAL], linestyle=":", linewidth=1)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_axisbelow(True)
    ax.invert_yaxis()
    ax.set(xlabel=f"kernel distance, {space} features")
    return ax


def dashboard(
    real: Sequence[ArrayLike],
    sets: Mapping[str, Sequence[ArrayLike]],
    *,
    masks: Mapping[str, Sequence[ArrayLike]] | None = None,
    inputs: Mapping[str, Sequence[ArrayLike]] | None = None,
    spaces: Mapping[str, Features] | None = None,
    side: int = 64,
    n: int = 400,
    subset: int = 50,
    shown: int = 60,
    seed: int = 0,
) -> tuple[Figure, pd.DataFrame]:
    """Everything on the realism of several sets in one figure, after figure 3 of paper A.

    Example patches, grey levels, entropies, a t-SNE map in the first feature space with masks linked to
    their images, and the kernel distance in each space.

    Parameters
    ----------
    real, sets, inputs, spaces, side, n, subset, seed
        As in :func:`microlab.measure.realism.realism_report`.
    masks : mapping of name to sequence of (H, W) bool, optional
        Masks of the images of a set, or of ``"real"``, for the map. They are only drawn, nothing is measured
        on them.
    shown : int
        Patches of each set in the map.

    Returns
    -------
    figure : Figure
    report : DataFrame
        Of `realism_report`. `describe` puts it in words.

    Raises
    ------
    ValueError
        As `realism_report`, if `spaces` is empty, and if masks do not have the sizes of their images.
    """
    spaces = {"texture": texture} if spaces is None else spaces
    everything, masks = {REAL: real, **sets}, masks or {}
    if not spaces:
        raise ValueError("spaces must name at least one feature space, the first is that of the map")
    for name, images in masks.items():
        if [np.shape(i) for i in everything.get(name, ())] != [np.shape(i) for i in images]:
            raise ValueError(f"masks[{name!r}] must have the number and sizes of the images of {name!r}")
    report = realism.realism_report(
        real, sets, inputs=inputs, spaces=spaces, side=side, n=n, subset=subset, seed=seed
    )
    cut = {name: realism.patches(images, side, n, seed) for name, images in everything.items()}
    space, features = next(iter(spaces.items()))
    points = {name: features(part[:shown]) for name, part in cut.items()}
    for name, images in masks.items():  # the same seed, so the same places
        drawn = realism.patches(images, side, n, seed)[:shown].astype(np.float32)
        points[f"{name} mask"] = features(drawn)
    placed = tsne(points, perplexity=min(30.0, sum(map(len, points.values())) / 4), seed=seed)

    tall = 1.0 + 0.25 * (len(spaces) - 1)  # the bars of several spaces stand one above the other
    figure = plt.figure(figsize=(9.0, 5.4 + 3.0 * tall))
    grid = figure.add_gridspec(3, 2, height_ratios=[0.75, 1, tall])
    examples = grid[0, :].subgridspec(1, len(cut))
    for k, (name, part) in enumerate(cut.items()):
        plotting.show_image(_mosaic(part), ax=figure.add_subplot(examples[k]), title=name, vmin=0, vmax=1)
    histogram_plot(cut, ax=figure.add_subplot(grid[1, 0]))
    entropies = {name: realism.entropies(part) for name, part in cut.items()}
    entropy_plot(entropies, ax=figure.add_subplot(grid[1, 1]))
    ax = figure.add_subplot(grid[2, 0])
    map_plot({name: placed[name] for name in cut}, {name: placed[f"{name} mask"] for name in masks}, ax=ax)
    ax.set_title(f"{space} features" + (", hollow: masks" if masks else ""))
    ax.legend(fontsize=8)
    bars = grid[2, 1].subgridspec(len(spaces), 1)
    for k, name in enumerate(spaces):
        kernel_distance_plot(report, name, ax=figure.add_subplot(bars[k]))
    return figure, report


def describe(report: pd.DataFrame) -> str:
    """The dashboard in words, for those who cannot see it: one sentence for each set."""
    sentences = []
    for name, row in report.iterrows():
        distances = [
            f"{column.removeprefix('KID ')} kernel distance {row[column]:.3g}"
            for column in report.columns
            if column.startswith("KID ") and not column.endswith(" error")
        ]
        parts = [
            f"histogram distance {row['histogram']:.3f}",
            f"entropy {row['entropy']:.2f} bits",
            *distances,
        ]
        if np.isfinite(row["SSIM"]):
            parts.append(f"SSIM with its inputs {row['SSIM']:.2f}")
        sentences.append(f"{name}: {', '.join(parts)}.")
    return " ".join(sentences)


def _mosaic(cut: NDArray, across: int = 2) -> NDArray:
    """The first patches, two by two, with a white line between them."""
    side = cut.shape[-1]
    mosaic = np.ones((across * side + across - 1,) * 2, np.float32)
    for k, patch in enumerate(cut[: across**2]):
        y, x = (k // across) * (side + 1), (k % across) * (side + 1)
        mosaic[y : y + side, x : x + side] = patch
    return mosaic


# ---- synthetic pairs added to real ones ----

# Okabe-Ito colours other than those of truth, prediction and error; hatches tell them apart in grey.
_BASE_STYLES = {
    name: {"color": colour, "hatch": hatch}
    for name, colour, hatch in zip(
        BASES,
        ("#009E73", "#D55E00", "#56B4E9", "#4D4D4D", "#F0E442", "#BBBBBB"),
        ("", "//", "..", "xx", "", "--"),
    )
}
_BASE_LINES = dict(zip(BASES, ("-", "--", ":", "-.", "-", "-")))
_SOURCE_MARKERS = "os^Dv<>"


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
        bars = [
            (i, table.loc[key])
            for i, s in enumerate(shares)
            if (key := (base, s, source, False)) in table.index
        ]
        x = [i + (k - (len(bases) - 1) / 2) * width for i, _ in bars]
        mean, sd = ([row[part] for _, row in bars] for part in ("mean", "sd"))
        ax.bar(
            x,
            mean,
            0.9 * width,
            yerr=np.nan_to_num(sd),
            label=f"{base} ({BASES[base].paper})",
            edgecolor="white",
            capsize=2,
            error_kw={"linewidth": 1},
            **_BASE_STYLES[base],
        )
        lowest += [m - s for m, s in zip(mean, np.nan_to_num(sd))]
        if (base, 0, "", False) in table.index:
            level = table.loc[(base, 0, "", False), "mean"]
            ax.axhline(level, color=_BASE_STYLES[base]["color"], linestyle=_BASE_LINES[base], linewidth=1.5)
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
        colour = _BASE_STYLES[row.base]["color"]
        mean, low, high = 100 * row.gain, 100 * row.low, 100 * row.high
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=colour, linestyle="-", linewidth=2)
        excludes = np.isfinite(low) and (low > 0 or high < 0)
        face = colour if excludes else "white"
        marker = _SOURCE_MARKERS[sources.index(row.source) % len(_SOURCE_MARKERS)]
        ax.plot(mean, y, marker, color=colour, markerfacecolor=face, markeredgecolor="black", zorder=3)
        names.append(_training_set(row.base, row.share, row.source, row.augmented))
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel=f"gain in {_called(measure)} (points)")
    return ax


def describe_shares(scores: pd.DataFrame, measure: str = "missing_class_iou", *, level: float = 0.95) -> str:
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
