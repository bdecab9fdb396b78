"""One HTML page about segmented micrographs: pictures, numbers and the segmenter's card, all in one file.

Each image becomes a `section` as soon as it is segmented: text and small pictures, no arrays. Its grains can
be corrected by hand on the page (`microlab.pipelines.corrections`).
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from microlab import __version__, plotting
from microlab.data.errors import printable
from microlab.data.files import atomic, read_mark
from microlab.data.mapped import is_large, reduced, reduced_labels, reduction
from microlab.pipelines import corrections
from microlab.pipelines.image_results import MeasuredImage, SegmentedImage, number, overlay
from microlab.segment.registry import REGISTRY
from microlab.segment.segmenter import Segmenter
from microlab.segment.uncertainty import Uncertainty

PICTURE_SIDE = 720  # px; larger pictures are shrunk for the page, the files keep their size
LARGEST_DEVIATION = 0.5  # of numbers in [0, 1]
MOST_CORRECTIONS = 24_000_000  # characters of the images that can be corrected on one page


def section(result: SegmentedImage, *, kind: str = "", scores: pd.DataFrame | None = None) -> dict[str, Any]:
    """What the page says about one image.

    Parameters
    ----------
    result : SegmentedImage
    kind : {"", "real", "virtual"}
        Shown as a label beside the name. Empty where the program cannot know.
    scores : pandas.DataFrame, optional
        From `samples.compare`; the first method is ours.

    Returns
    -------
    dict
        Plain values and HTML of pictures, for `write`; ``line`` is the result in half a sentence.
    """
    name, micrograph = result.name, result.micrograph
    height, width = micrograph.shape
    n = len(result.table)
    small, labels = shrink(micrograph.image), shrink(result.labels, nearest=True)
    valid = None if result.valid is None else shrink(result.valid, nearest=True)
    lines = overlay(small, labels, valid)  # drawn after shrinking, so that they stay visible
    colours = plotting.colour_grains(np.where(find_boundaries(labels, mode="inner"), 0, labels))
    pixel = (
        f"The pixel size is {result.size_text}."
        if result.pixel_size
        else "The pixel size is unknown: all lengths are in pixels (px)."
    )
    pictures = [
        _picture("Micrograph", small, f"Micrograph {name}", vmin=0, vmax=1),
        _picture(
            "Grain boundaries (orange)",
            lines,
            f"{name} with the lines between its {n} grains drawn in orange",
        ),
        _picture(
            f"The {n} grains; the colours carry no meaning",
            colours,
            f"The {n} grains of {name}, each in a colour of its own",
        ),
    ]
    numbers, line = list(result.summary), [one_line(result)]
    if result.pixel_size:
        line.append(f"pixel size {result.size_text}")
    line.append(result.segmentation.status)
    if uncertainty := result.segmentation.uncertainty:
        numbers += _uncertainty_rows(uncertainty)
        finite = np.isfinite(uncertainty.disagreement)
        line.append("disagreement " + (f"{uncertainty.disagreement:.3f}" if finite else "unknown"))
        pictures.append(
            _picture(
                "Uncertainty: standard deviation of the boundary probability between views, 0 to 0.5",
                shrink(uncertainty.deviation_map),
                f"{name}: where the views of the image disagree about the boundary, bright is much",
                cmap="inferno",
                vmin=0,
                vmax=LARGEST_DEVIATION,
            )
        )
    return {
        "name": name,
        "kind": kind,
        "about": " ".join(filter(None, [micrograph.about, f"{width} x {height} pixels.", pixel])),
        "pictures": pictures,
        "numbers": {
            "caption": "Means over whole grains, weighted because the edge cuts large ones more often",
            "columns": ["quantity", "value"],
            "rows": numbers,
        },
        "histogram": _histogram(result),
        "scores": _score_table(scores) if scores is not None else None,
        "uncertain": uncertainty is not None,
        "correction": corrections.page_data(
            result.labels, micrograph.image, result.pixel_size, name=name, valid=result.valid
        ),
        "too_large": f"{width} x {height} pixels are too many to correct the grains on this page: correct "
        "labels.tif with napari, as chapter 16 of the book shows.",
        "notes": result.notes,
        "warnings": result.segmentation.warnings,
        "files": [(file, quote(f"{name}/{file}")) for file in _written(result.folder)],
        "overview": [name, str(n), *(value for _, value in numbers[1:3])],
        "line": ", ".join(filter(None, line)),
    }


def one_line(result: MeasuredImage) -> str:
    """A result in half a sentence, for the terminal."""
    (_, count), (name, value) = result.summary[:2]
    return f"{count} grain{'' if count == '1' else 's'}, {name} {value}"


def table_text(result: MeasuredImage, rows: int = 8) -> str:
    """Head of the grain table and the summary, for the terminal."""
    size, (unit, factor) = ("um" if result.pixel_size else "px"), result.unit
    table = result.table[["label", "circularity", "aspect_ratio", "sides", "touches_edge"]].head(rows)
    square = unit.replace("µ", "u") + ("2" if result.pixel_size else "")
    table.insert(1, f"area_{square}", factor**2 * result.table[f"area_{size}{'2' * (size == 'um')}"])
    table.insert(2, f"diameter_{unit.replace('µ', 'u')}", factor * result.table[f"diameter_{size}"])
    lines = [table.to_string(index=False, float_format=number)]
    if len(result.table) > rows:
        lines.append(f"... and {len(result.table) - rows} more")
    width = max(len(name) for name, _ in result.summary)
    return "\n".join([*lines, "", *(f"{name:{width}}  {value}" for name, value in result.summary)])


def scores_text(scores: pd.DataFrame) -> str:
    """Scores against the truth, one line for each and one column for each method, for the terminal."""
    return pd.DataFrame(_score_rows(scores), columns=["", *scores.index]).to_string(index=False)


def write(
    path: Path,
    sections: list[dict],
    segmenter: Segmenter,
    *,
    failed: list[str] | None = None,
    title: str = "Grains segmented by microlab",
    parts: list[dict] | None = None,
) -> Path:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
    sections : list of dict
        From `section`.
    segmenter : Segmenter
        Its name and card; what the registry says about a method of this name stands above the sections.
    failed : list of str, optional
        One line for every image that could not be segmented.
    title : str
    parts : list of dict, optional
        More about the whole batch: ``title``, ``text``, ``table`` (caption, columns, rows) and perhaps
        ``picture`` (html, caption) of each.

    Returns
    -------
    Path
    """
    environment = Environment(loader=PackageLoader("microlab.pipelines"), autoescape=True, trim_blocks=True)
    # By their numbers: two names may differ in characters only that an address cannot hold.
    sections = [{**section, "anchor": f"image-{k}"} for k, section in enumerate(sections, start=1)]
    overview = None
    if len(sections) > 1:
        overview = {
            "caption": "Every image with its grains; details below",
            "columns": [
                "image",
                "grains",
                "mean diameter",
                "median diameter",
            ],  # the first rows of the summary
            "rows": [s["overview"] for s in sections],
            "links": [s["anchor"] for s in sections],
        }
    method = REGISTRY.get(segmenter.name)
    sections = _with_corrections(sections)
    page = environment.get_template("report.html.j2").render(
        title=title,
        date=f"{datetime.date.today():%d %B %Y}",
        version=__version__,
        sections=sections,
        overview=overview,
        failed=failed or [],
        parts=parts or [],
        method=segmenter.name,
        about=method.about if method else "",
        uncertain=all(s["uncertain"] for s in sections),
        card={
            "caption": "What the segmenter is and what it was trained on",
            "columns": ["entry", "value"],
            "rows": list(_flat(segmenter.card)),
            "text": True,
        },
        script=corrections.script() if any(s["correction"] for s in sections) else None,
    )
    with atomic(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _with_corrections(sections: list[dict]) -> list[dict]:
    """The sections with the names of their files of edits, as far as the page has room for their images."""
    complete, room = [], MOST_CORRECTIONS
    for section in sections:
        data, name = section["correction"], section["name"]
        if data is not None:
            file = "edits.json" if len(sections) == 1 else f"{name}.edits.json"
            words = [f"./{f}" if f.startswith("-") else f for f in (f"{name}/labels.tif", file)]
            command = shlex.join(["microlab", "measure", words[0], "--edits", words[1], "-o", "corrected"])
            room -= len(data["labels"]) + len(data["picture"])
            section = section | {"correction": data | {"file": file, "command": command}}
            if room < 0:
                more = "This page has no room for more images to correct; segment this one alone for a page."
                section |= {"correction": None, "too_large": more}
        complete.append(section)
    return complete


def _flat(card: dict, above: str = "") -> Iterator[tuple[str, str]]:
    """Entries of a nested card as (name, text)."""
    for key, value in card.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield name, printable(text)


def _picture(caption: str, image: np.ndarray, alt: str, **colours: Any) -> dict[str, str]:
    return {"html": plotting.html_image(image, alt, **colours), "caption": caption}


def _uncertainty_rows(uncertainty: Uncertainty) -> list[tuple[str, str]]:
    rows = [
        ("disagreement between views", number(uncertainty.disagreement)),
        ("deviation of the probability near boundaries", number(uncertainty.deviation)),
    ]
    if np.isfinite(uncertainty.models):
        rows.append(("disagreement with the other segmenter", number(uncertainty.models)))
    return rows


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


def _histogram(result: MeasuredImage) -> dict | None:
    """Distribution of the diameters of whole grains, weighted as in the summary; None without any."""
    column, (unit, factor) = ("diameter_um" if result.pixel_size else "diameter_px"), result.unit
    whole = result.table[~result.table["touches_edge"]]
    if whole.empty:
        return None
    diameters, weights = factor * whole[column].to_numpy(), whole["edge_weight"].to_numpy()
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
    if is_large(picture.shape):  # at twice the size first, so that no array of the image's size is needed
        factor = reduction(picture.shape, 2 * PICTURE_SIDE)
        picture = reduced_labels(picture, factor) if nearest else reduced(picture, factor)
    factor = PICTURE_SIDE / max(picture.shape[:2])
    if factor >= 1:
        return picture
    shape = tuple(max(1, round(side * factor)) for side in picture.shape[:2]) + picture.shape[2:]
    return resize(picture, shape, order=0 if nearest else 1, anti_aliasing=not nearest, preserve_range=True)


def _written(folder: Path) -> list[str]:
    """Names of the files that microlab wrote into a folder of results."""
    return sorted(name for name in read_mark(folder)["files"] if (folder / name).is_file())
