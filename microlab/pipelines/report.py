"""One HTML page about a batch of micrographs: pictures, numbers and the network's card, all in one file.

Each image becomes a `section` as soon as it is segmented, so that a batch holds text and small pictures, not
arrays.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from microlab import __version__, plotting
from microlab.data.files import atomic
from microlab.measure import grain_size, grains
from microlab.pipelines.image_results import Measured, Segmented, method_of, overlay

ABOUT_METHOD = {
    "labour-free": (
        "as a network segmented them; the card at the end says what it was trained on",
        "The network",
    ),
    "tem": (
        "as two networks segmented them: the first drew boundaries from detected edges, the second mended "
        "its map until it stood still, or until a cap that the notes then tell of. The card at the end says "
        "what both were trained on",
        "The two networks",
    ),
}
"""What, by method, the numbers rest on, and the title above the card."""

PICTURE_SIDE = 720  # px; larger pictures are shrunk for the page, the files keep their size


def section(
    result: Segmented, *, kind: str = "", about: str = "", scores: pd.DataFrame | None = None
) -> dict:
    """What the page says about one image.

    Parameters
    ----------
    result : Segmented
    kind : {"", "real", "virtual"}
        Shown as a label beside the name. Empty where the program cannot know.
    about : str
        What the image is.
    scores : pandas.DataFrame, optional
        From `samples.compare`; the first method is ours.

    Returns
    -------
    dict
        Plain values and HTML of pictures, for `write`.
    """
    height, width = result.image.shape
    numbers = summary(result)
    n = len(result.table)
    small, labels = shrink(result.image), shrink(result.labels, nearest=True)
    lines = overlay(small, labels)  # drawn after shrinking, so that they stay visible
    colours = plotting.colour_grains(np.where(find_boundaries(labels, mode="inner"), 0, labels))
    pixel = (
        f"The pixel size is {result.pixel_size:.4g} µm."
        if result.pixel_size
        else "The pixel size is unknown: all lengths are in pixels (px)."
    )
    return {
        "name": result.name,
        "anchor": "image-" + re.sub(r"[^A-Za-z0-9_-]+", "-", result.name),
        "kind": kind,
        "about": " ".join(filter(None, [about, f"{width} x {height} pixels.", pixel])),
        "pictures": [
            {
                "html": plotting.html_image(small, f"Micrograph {result.name}", vmin=0, vmax=1),
                "caption": "Micrograph",
            },
            {
                "html": plotting.html_image(
                    lines, f"{result.name} with the lines between its {n} grains drawn in orange"
                ),
                "caption": "Grain boundaries found (orange)",
            },
            {
                "html": plotting.html_image(
                    colours, f"The {n} grains of {result.name}, each in a colour of its own"
                ),
                "caption": f"The {n} grains; the colours carry no meaning",
            },
        ],
        "numbers": {
            "caption": "Means over whole grains, weighted because the edge cuts large ones more often",
            "columns": ["quantity", "value"],
            "rows": numbers,
        },
        "histogram": _histogram(result),
        "scores": _score_table(scores) if scores is not None else None,
        "notes": result.notes,
        "files": [(name, quote(f"{result.folder.name}/{name}")) for name in _written(result)],
        "overview": [result.name, str(n), *(value for _, value in numbers[1:3])],
    }


def summary(result: Segmented | Measured) -> list[tuple[str, str]]:
    """Numbers of one image as (quantity, value with unit) pairs.

    Means and quantiles are over whole grains, weighted because the frame cuts large grains more often
    (`grains.summarise`). ASTM numbers need a pixel size.
    """
    table, size = result.table, result.pixel_size
    unit, diameter, area = ("µm", "diameter_um", "area_um2") if size else ("px", "diameter_px", "area_px")
    of = grains.summarise(table, [diameter, area, "aspect_ratio"])
    low, high = of.loc[diameter, "mean_low"], of.loc[diameter, "mean_high"]
    rows = [
        ("grains", str(len(table))),
        ("mean diameter", f"{number(of.loc[diameter, 'mean'])} {unit}"),
        ("median diameter", f"{number(of.loc[diameter, 'median'])} {unit}"),
        ("95 % interval of the mean diameter", f"{number(low)} to {number(high)} {unit}"),
        ("mean area", f"{number(of.loc[area, 'mean'])} {unit}²"),
        ("mean aspect ratio", number(of.loc["aspect_ratio", "mean"])),
        ("cut by the image's edge", f"{int(table['touches_edge'].sum())} grains"),
    ]
    if size:
        for method in ("planimetric", "intercept"):
            astm = grain_size.astm_grain_size(result.labels, size, method).number
            rows.append((f"ASTM E112 grain size number, {method}", number(astm)))
    return rows


def one_line(result: Segmented | Measured) -> str:
    """A result in half a sentence, for the terminal."""
    (_, count), (name, value) = summary(result)[:2]
    return f"{count} grains, {name} {value}"


def table_text(result: Segmented | Measured, rows: int = 8) -> str:
    """Head of the grain table and the summary, for the terminal."""
    size = ["area_um2", "diameter_um"] if result.pixel_size else ["area_px", "diameter_px"]
    table = result.table[["label", *size, "circularity", "aspect_ratio", "sides", "touches_edge"]]
    lines = [table.head(rows).to_string(index=False, float_format=number)]
    if len(table) > rows:
        lines.append(f"... and {len(table) - rows} more")
    numbers = summary(result)
    width = max(len(name) for name, _ in numbers)
    return "\n".join([*lines, "", *(f"{name:{width}}  {value}" for name, value in numbers)])


def scores_text(scores: pd.DataFrame) -> str:
    """Scores against the truth, one line for each and one column for each method, for the terminal."""
    return pd.DataFrame(_score_rows(scores), columns=["", *scores.index]).to_string(index=False)


def write(
    path: Path,
    sections: list[dict],
    card: dict,
    *,
    failures: list[str] | None = None,
    title: str = "Grains segmented by microlab",
    parts: list[dict] | None = None,
) -> Path:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
    sections : list of dict
        From `section`.
    card : dict
        Of the network, or of the two networks of a `microlab.segment.edge_segmenter.TEMRoute`.
    failures : list of str, optional
        One line for every image that could not be segmented.
    title : str
    parts : list of dict, optional
        More about the whole batch: ``title``, ``text``, ``table`` (caption, columns, rows) and perhaps
        ``picture`` (html, caption) of each. With them the page no longer says that no uncertainty is claimed.

    Returns
    -------
    Path
    """
    environment = Environment(loader=PackageLoader("microlab.pipelines"), autoescape=True, trim_blocks=True)
    overview = None
    if len(sections) > 1:
        overview = {
            "caption": "Every image with its grains; details below",
            "columns": ["image", "grains", "mean diameter", "median diameter"],  # the first rows of `summary`
            "rows": [s["overview"] for s in sections],
            "links": [s["anchor"] for s in sections],
        }
    how, card_title = ABOUT_METHOD[method_of(card)]
    page = environment.get_template("report.html.j2").render(
        title=title,
        made=f"{datetime.date.today():%d %B %Y}",
        version=__version__,
        sections=sections,
        overview=overview,
        failures=failures or [],
        parts=parts or [],
        how=how,
        card_title=card_title,
        card={
            "caption": "Card of the weights",
            "columns": ["entry", "value"],
            "rows": list(_flat(card)),
            "text": True,
        },
    )
    with atomic(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _flat(card: dict, above: str = "") -> Iterator[tuple[str, str]]:
    """Entries of a nested card as (name, text)."""
    for key, value in card.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def number(value: float) -> str:
    """Three significant digits without an exponent; a dash for what is not known."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _score_rows(scores: pd.DataFrame) -> list[list[str]]:
    """One row for each score: its name, then every method's value as text."""
    return [
        [
            name,
            *("–" if np.isnan(v) else f"{v:.0f}" if name == "grains" else f"{v:.3f}" for v in scores[name]),
        ]
        for name in scores
    ]


def _score_table(scores: pd.DataFrame) -> dict:
    return {
        "caption": "IoU and F1: 1 is perfect; errors, split and merge: 0. 'Trivial' calls it all one grain.",
        "columns": ["score", *scores.index],
        "rows": _score_rows(scores),
        "ours": 1,
    }


def _histogram(result: Segmented) -> dict | None:
    """Distribution of the diameters of whole grains, weighted as in `summary`; None without whole grains."""
    unit, column = ("µm", "diameter_um") if result.pixel_size else ("px", "diameter_px")
    whole = result.table[~result.table["touches_edge"]]
    if whole.empty:
        return None
    diameters, weights = whole[column].to_numpy(), whole["edge_weight"].to_numpy()
    with mpl.rc_context():
        plotting.style()
        figure = Figure(figsize=(5.2, 2.9), dpi=140)
        axes = figure.subplots()
        axes.set_axisbelow(True)
        bins = np.histogram_bin_edges(diameters, "auto")
        axes.hist(
            diameters,
            bins,
            weights=weights,
            color=plotting.COLOURS["truth"],
            edgecolor="white",
            linewidth=0.6,
        )
        axes.axvline(np.average(diameters, weights=weights), color="black", linewidth=1.2, linestyle="--")
        axes.set(xlabel=f"equivalent circle diameter ({unit})", ylabel="grains (weighted)")
        low, high = number(diameters.min()), number(diameters.max())
        html = plotting.html_image(
            figure, f"Histogram of the diameters of {len(whole)} whole grains, from {low} to {high} {unit}"
        )
    return {"html": html, "caption": "Diameters of whole grains; the dashed line is their mean"}


def shrink(picture: np.ndarray, nearest: bool = False) -> np.ndarray:
    """The picture with its longer side at most `PICTURE_SIDE` pixels."""
    factor = PICTURE_SIDE / max(picture.shape[:2])
    if factor >= 1:
        return picture
    shape = tuple(max(1, round(side * factor)) for side in picture.shape[:2]) + picture.shape[2:]
    return resize(picture, shape, order=0 if nearest else 1, anti_aliasing=not nearest, preserve_range=True)


def _written(result: Segmented) -> list[str]:
    return sorted(f.name for f in result.folder.iterdir() if not f.name.startswith("."))
