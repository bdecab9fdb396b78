"""What an adaptation says about itself: realism, segmented images, and how sure it is."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from microlab import plotting
from microlab.data import images
from microlab.data.files import atomic, sha256
from microlab.data.micrograph import Micrograph
from microlab.data.transforms import stretch
from microlab.measure import instance, scores
from microlab.measure.realism import patches, realism_report
from microlab.pipelines import image_results, report
from microlab.pipelines.adapt.estimate import HELD_OUT_VIEWS
from microlab.pipelines.adapt.record import WORKSHOP, Record, duration
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.image_results import Options, SegmentedImage
from microlab.pipelines.train_style import flat_images
from microlab.pipelines.training_pairs import render_pair
from microlab.segment import segmenter
from microlab.segment.uncertainty import estimate_uncertainty
from microlab.simulate.library import Structure

MONTAGE = "looks.png"
COMPARED = 100  # training images that are compared, evenly over all
SHOWN = 5  # patches in a row of the montage
MOST = 0.5  # largest standard deviation of numbers in [0, 1]


def realism(
    real: dict[str, np.ndarray],
    training: list[Micrograph],
    structures: list[Structure],
    settings: AdaptSettings,
) -> dict:
    """`realism_report` of the training images and of untextured simulations, as index, columns and data.

    Grey levels are stretched in all of them alike: the network standardises its input.
    """
    side = min(
        64, *(max(image.shape) // 2 for image in real.values()), *(min(i.shape) for i in real.values())
    )
    sets = {
        "training images": training_images(training),
        "untextured": [stretch(image) for image in flat_images(structures, seed=settings.seed)],
    }
    table = realism_report(list(real.values()), sets, side=side, n=settings.patches, seed=settings.seed)
    table = table.dropna(axis=1, how="all")
    return {key: table.to_dict("split")[key] for key in ("index", "columns", "data")}


def training_images(training: list[Micrograph]) -> list[np.ndarray]:
    """Images of some of the pairs, (H, W) float32 in [0, 1], grey levels stretched."""
    return [stretch(pair.image) for pair in training[:: -(-len(training) // COMPARED)]]


def montage(
    real: dict[str, np.ndarray], training: list[Micrograph], settings: AdaptSettings, path: Path
) -> None:
    """A picture of patches of the images (upper row) and of the training images (lower row)."""
    made = training_images(training)
    side = min(128, *(min(image.shape) for image in (*real.values(), *made)))
    rows = [np.hstack(patches(part, side, SHOWN, settings.seed)) for part in (list(real.values()), made)]
    images.write_image(path, np.vstack(rows))


def held_out(
    network: segmenter.Network, structures: list[Structure], settings: AdaptSettings, device: str | None
) -> dict[str, list[float]]:
    """Disagreement beside the true error, on virtual micrographs of structures that trained nothing."""
    rows = {"disagreement": [], "deviation": [], "adapted Rand error": []}
    for k in range(HELD_OUT_VIEWS * len(structures)):
        pair = render_pair(structures[k % len(structures)].grain_map, [settings.seed + 1, k])
        image, mask = pair.image, pair.boundary
        found = estimate_uncertainty(image, network, views=settings.views)
        labels = segmenter.segment_image(image, network, scale=1.0, device=device).labels
        rows["disagreement"].append(found.disagreement)
        rows["deviation"].append(found.deviation)
        rows["adapted Rand error"].append(instance.adapted_rand_error(scores.mask_grains(mask), labels))
    return rows


def segment(
    record: Record,
    out: Path,
    micrographs: dict[str, Micrograph],
    network: segmenter.Network,
    shipped: segmenter.Network,
    options: Options,
    settings: AdaptSettings,
    progress: bool,
) -> list[dict]:
    """Segment every image, with its uncertainty, and return the report's sections.

    A finished image leaves its section in the working folder, with what it was made from.
    """
    folders = image_results.result_folders([m.path for m in micrographs.values()], out)
    made_with = {
        "weights": network[1]["sha256"],
        "options": asdict(options) | {"device": None},
        "views": settings.views,
    }
    sections = []
    work = list(zip(micrographs.items(), folders))
    for (name, micrograph), folder in tqdm(work, unit="image", desc="segment", disable=not progress):
        file = f"sections/{folder.name}.json"
        made_of = {**made_with, "image": sha256(micrograph.path)}
        before = record.read(file)
        kept = (folder / "run.json").is_file()
        if before is None or not kept or before["made of"] != json.loads(json.dumps(made_of)):
            seen = replace(options, views=settings.views)
            result = image_results.segment_micrograph(micrograph, folder, network, seen, other=shipped)
            page = section(result)
            images.write_image(
                folder / "uncertainty.png", result.segmentation.uncertainty.deviation_map / MOST
            )
            before = {"made of": made_of, "section": page, "line": page["line"]}
            record.write(file, before)
            record.tell(f"{name} -> {folder}: {before['line']}")
        sections.append(before["section"])
    return sections


def section(result: SegmentedImage) -> dict:
    """What the page says about one image, with its uncertainty."""
    found = result.segmentation.uncertainty
    numbers = {
        "disagreement": found.disagreement,
        "deviation": found.deviation,
        "other network": found.models,
    }
    said = {name: None if np.isnan(value) else value for name, value in numbers.items()}
    return report.section(result) | {"uncertainty": said}


def uncertainty_table(sections: list[dict]) -> pd.DataFrame:
    """One row for each image; NaN where nothing was found that could be compared."""
    rows = {s["name"]: s["uncertainty"] for s in sections}
    return pd.DataFrame.from_dict(rows, orient="index").astype(float).rename_axis("image")


def write(
    out: Path,
    sections: list[dict],
    network: segmenter.Network,
    realism: pd.DataFrame,
    held_out: pd.DataFrame,
    uncertainty: pd.DataFrame,
    expected: dict[str, float],
    seconds: dict[str, float],
    zoom: float,
) -> Path:
    """``uncertainty.csv`` and the page, with the picture of `montage`."""
    looks = images.read_image(out / WORKSHOP / MONTAGE, data_bar=0).image
    with atomic(out / "uncertainty.csv") as partial:
        uncertainty.to_csv(partial, float_format="%.4g")
    worse = [int((held_out["disagreement"] < d).sum()) for d in uncertainty["disagreement"]]
    number = image_results.number
    parts = [
        {
            "title": "How sure is it?",
            "text": "Every image was segmented in several views, turned and mirrored, and by the network "
            "that comes with microlab. Disagreement is the mean adapted Rand error of single views against "
            "their mean, deviation the standard deviation of the boundary probability near boundaries. No "
            f"truth is known here, so they stand beside {len(held_out)} held-out virtual micrographs. "
            + trust(held_out),
            "table": {
                "caption": "0 is full agreement. A dash: fewer than two grains were found.",
                "columns": [
                    "image",
                    "disagreement",
                    "deviation",
                    "other network",
                    "virtual ones that agree more",
                ],
                "rows": [
                    [name, *map(number, row), f"{n} of {len(held_out)}"]
                    for (name, *row), n in zip(uncertainty.itertuples(), worse)
                ],
            },
        },
        {
            "title": "Are the training images like yours?",
            "picture": {
                "html": plotting.html_image(
                    looks, "Patches of your images above, of the training images below"
                ),
                "caption": "Above: patches of your images; below: of the training images (greys stretched)",
            },
            "text": "Patches of the training images and of untextured simulations against patches of your "
            "images. The first row is the floor: how far one half of your images lies from the other. These "
            "distances see no mask: they cannot tell whether the images teach the right boundaries.",
            "table": {
                "caption": "Distances: 0 is the same; entropy in bits",
                "columns": ["patches", *realism.columns],
                "rows": [[name, *map(number, row)] for name, *row in realism.itertuples()],
            },
        },
        {
            "title": "Time",
            "text": f"The network looks at the images at zoom {zoom:.2f}.",
            "table": {
                "caption": "Expected before the start, and measured over all calls",
                "columns": ["stage", "expected", "measured"],
                "rows": [
                    [stage, duration(expected[stage]) if stage in expected else "–", duration(spent)]
                    for stage, spent in seconds.items()
                ],
            },
        },
    ]
    return report.write(
        out / "report.html", sections, network, title="Grains segmented by an adapted network", parts=parts
    )


def trust(held_out: pd.DataFrame) -> str:
    """Whether disagreement followed the true error on the held-out virtual micrographs."""
    known = held_out.dropna()
    if len(known) < 5 or known["disagreement"].nunique() < 2 or known["adapted Rand error"].nunique() < 2:
        return "They are too few to say how well disagreement follows the true error."
    rank = spearmanr(known["disagreement"], known["adapted Rand error"]).statistic
    error = known["adapted Rand error"].median()
    return (
        f"There the true adapted Rand error has the median {error:.3f}, and its rank correlation with the "
        f"disagreement is {rank:.2f}. What all views get wrong alike, no disagreement shows."
    )
