"""Bias and precision of the mean grain size of a finite field: edge effects and sample size.

    n = f (z s / p)^2 grains give the mean of a quantity of relative spread s within +-p

A grain is whole in a W x H field with probability (W - w - 1)(H - h - 1) / (W H), so a mean over whole grains
favours small ones. Either every grain is weighted by the inverse probability, as in `grain_table` and
`summarise`, or only grains with their centre inside a guard frame count. :func:`edge_bias` measures both on a
periodic simulation of known truth. Its :func:`windows` also show the true coverage of intervals: grains of
one field are not independent, hence the factor f.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from skimage.measure import label

from microlab.measure.grains import grain_table


def windows(
    grain_map: ArrayLike, window: tuple[int, int], seed: int | np.random.Generator = 0
) -> list[NDArray[np.integer]]:
    """Cut a periodic grain map into adjacent windows, as fields of view.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids from 0, periodic, without boundary pixels.
    window : (h, w)
        In px. As many as fit; the remainder is dropped.
    seed : int or Generator
        Of the random shift of the grid of windows.

    Returns
    -------
    list of (h, w) int label images, grains from 1; a grain that a window cuts into two parts has two labels

    Raises
    ------
    ValueError
        If `grain_map` is not an image of ids >= 0 or no window fits.
    """
    grains = np.asarray(grain_map)
    if grains.ndim != 2 or grains.dtype.kind not in "iu" or grains.size == 0 or grains.min() < 0:
        raise ValueError(
            f"grain_map must be an (H, W) image of ids from 0, got {grains.dtype} {grains.shape}"
        )
    (height, width), (h, w) = grains.shape, window
    if not (2 <= h <= height and 2 <= w <= width):
        raise ValueError(f"window {window} must be 2 px or more and fit into the grain map {grains.shape}")
    grains = np.roll(grains, np.random.default_rng(seed).integers((height, width)), axis=(0, 1))
    corners = [(y, x) for y in range(0, height - h + 1, h) for x in range(0, width - w + 1, w)]
    # 8-connected: a cell may end in a splinter whose pixels meet at corners only
    return [label(grains[y : y + h, x : x + w], background=-1, connectivity=2) for y, x in corners]


def guard_frame(table: pd.DataFrame, shape: tuple[int, int], margin: float) -> pd.DataFrame:
    """Grains whose centroid lies at least `margin` from the frame of a field.

    Every grain has one centroid, whatever its size, so the sample is unbiased if the margin is so wide that
    none of its grains reaches the edge. Summarise them with ``edge="keep"``.

    Parameters
    ----------
    table : DataFrame from :func:`microlab.measure.grains.grain_table`, of one field
    shape : (H, W)
        Of the field, px.
    margin : float
        In px.

    Returns
    -------
    DataFrame, the rows of the sample

    Raises
    ------
    ValueError
        If the margin is negative or leaves no frame.

    Warns
    -----
    UserWarning
        If the image edge still cuts some of the grains: the mean is then biased towards small ones.
    """
    if not 0 <= margin < min(shape) / 2:
        raise ValueError(f"margin must lie in [0, {min(shape) / 2}) for a field of {shape}, got {margin}")
    y, x = table["centroid_y_px"], table["centroid_x_px"]
    sample = table[y.between(margin, shape[0] - 1 - margin) & x.between(margin, shape[1] - 1 - margin)]
    cut = int(sample["touches_edge"].sum())
    if cut:
        warnings.warn(
            f"{cut} of {len(sample)} grains inside the guard frame are cut by the image; widen the margin "
            f"of {margin} px",
            stacklevel=2,
        )
    return sample


def edge_bias(
    grain_map: ArrayLike,
    window: tuple[int, int],
    quantity: str = "diameter_px",
    *,
    guard: float | None = None,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Bias of the mean grain size that windows of a periodic map give, for each treatment of cut grains.

    Parameters
    ----------
    grain_map : (H, W) int
        Periodic, so that the true mean is known. Much larger than `window`.
    window : (h, w)
        In px.
    quantity : {"diameter_px", "area_px"}
    guard : float, optional
        Margin of the guard frame, px; by default it is left out.
    seed : int or Generator

    Returns
    -------
    DataFrame indexed by ``keep`` (parts count as grains), ``exclude`` (whole grains, equal weights),
    ``weighted`` (whole grains, Miles-Lantuejoul weights) and ``guard``, with columns

    ``grains``
        Number of them in all windows.
    ``mean``, ``bias``
        Over all windows, and its relative deviation from the truth.
    ``bias_error``
        Standard error of `bias`, from the scatter between windows.

    ``DataFrame.attrs["truth"]`` holds the true mean.

    Raises
    ------
    ValueError
        As :func:`windows` and :func:`guard_frame`, if `quantity` is unknown or fewer than 2 windows fit.
    """
    if quantity not in ("diameter_px", "area_px"):
        raise ValueError(f'quantity must be "diameter_px" or "area_px", got {quantity!r}')
    views = windows(grain_map, window, seed)
    if len(views) < 2:
        raise ValueError(
            f"only {len(views)} window of {window} fits into {np.shape(grain_map)}; 2 are needed"
        )
    areas = np.bincount(np.ravel(grain_map))
    areas = areas[areas > 0]
    truth = float(np.mean(areas if quantity == "area_px" else 2 * np.sqrt(areas / np.pi)))
    samples: dict[str, list[tuple[NDArray, NDArray]]] = {"keep": [], "exclude": [], "weighted": []}
    if guard is not None:
        samples["guard"] = []
    for view in views:
        table = grain_table(view, reach=0)
        whole = table[~table["touches_edge"]]
        ones, x = np.ones(len(table)), table[quantity].to_numpy()
        samples["keep"].append((x, ones))
        samples["exclude"].append((whole[quantity].to_numpy(), ones[: len(whole)]))
        samples["weighted"].append((whole[quantity].to_numpy(), whole["edge_weight"].to_numpy()))
        if guard is not None:
            inside = guard_frame(table, window, guard)
            samples["guard"].append((inside[quantity].to_numpy(), ones[: len(inside)]))
    bias = pd.DataFrame({name: _ratio(parts, truth) for name, parts in samples.items()}).T
    bias = bias.astype({"grains": int}).rename_axis("edge")
    bias.attrs["truth"] = truth
    return bias


def grains_needed(
    spread: float, precision: float = 0.05, confidence: float = 0.95, *, dependence: float = 1.0
) -> int:
    """Number of grains for a mean within a given precision.

    It is eq. 3 of chapter 09 (grains-needed).

    Parameters
    ----------
    spread : float > 0
        Standard deviation over mean of the quantity: about 0.5 for areas of random cells, 1.2 for a steel.
    precision : float > 0
        Half width of the interval over the mean.
    confidence : float in (0, 1)
    dependence : float > 0
        Variance of the mean over that of independent grains.

    Returns
    -------
    int
    """
    for name, value in (("spread", spread), ("precision", precision), ("dependence", dependence)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return math.ceil(dependence * (stats.norm.ppf((1 + confidence) / 2) * spread / precision) ** 2)


def _ratio(parts: list[tuple[NDArray, NDArray]], truth: float) -> dict[str, float]:
    """Weighted mean over all windows (ratio estimator), and its error from the scatter between windows."""
    total = np.array([w.sum() for _, w in parts])
    if not total.sum():
        return {"grains": 0, "mean": float("nan"), "bias": float("nan"), "bias_error": float("nan")}
    mean = sum((x * w).sum() for x, w in parts) / total.sum()
    share = np.array([((x - mean) * w).sum() for x, w in parts])
    error = math.sqrt(len(parts) / (len(parts) - 1) * (share**2).sum()) / total.sum()
    return {
        "grains": sum(len(x) for x, _ in parts),
        "mean": mean,
        "bias": mean / truth - 1,
        "bias_error": error / truth,
    }
