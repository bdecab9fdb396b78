"""Figures on realism: the dashboard of one call, surface plots, and a map with linked masks.

real | synthetic sets  ->  patches -> grey levels, entropy, t-SNE with masks, kernel distance with errors
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
