"""What an adaptation says about itself: realism, uncertainty beside the true error, and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from microlab import plotting
from microlab.data import images
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import duration
from microlab.data.tables import write_csv
from microlab.data.transforms import stretch
from microlab.measure import instance, scores
from microlab.measure.realism import patches, realism_report
from microlab.pipelines import report
from microlab.pipelines.adapt.accept import ERRORS, Acceptance
from microlab.pipelines.adapt.estimate import compared
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.image_results import SegmentedImage, number, read_result
from microlab.pipelines.segment_folder import joined, summary, write_tables
from microlab.pipelines.train_style import flat_images
from microlab.segment.segmenter import Segmenter
from microlab.segment.uncertainty import estimate_uncertainty
from microlab.simulate.library import Structure

COMPARED = 100  # training images that are compared, evenly over all
SHOWN = 5  # patches in a row of the picture
LARGEST_DEVIATION = 0.5  # of numbers in [0, 1]


def realism(
    zoomed: dict[str, np.ndarray],
    pairs: list[Micrograph],
    structures: list[Structure],
    settings: AdaptSettings,
) -> dict:
    """`realism_report` of the training images and of untextured simulations, as index, columns and data.

    Grey levels are stretched in all of them alike: the network standardises its input.
    """
    shapes = [image.shape for image in zoomed.values()]
    side = min(64, *(max(shape) // 2 for shape in shapes), *(min(shape) for shape in shapes))
    sets = {
        "training images": _some(pairs),
        "untextured": [stretch(image) for image in flat_images(structures, seed=settings.seed)],
    }
    table = realism_report(list(zoomed.values()), sets, side=side, n=settings.patches, seed=settings.seed)
    return table.dropna(axis=1, how="all").to_dict("split")


def sample_patches(
    zoomed: dict[str, np.ndarray], pairs: list[Micrograph], settings: AdaptSettings
) -> dict[str, np.ndarray]:
    """A few patches of the images and of the training images, each (`SHOWN`, side, side)."""
    sets = {"images": list(zoomed.values()), "training": _some(pairs)}
    side = min(128, *(min(image.shape) for part in sets.values() for image in part))
    return {name: patches(part, side, SHOWN, settings.seed) for name, part in sets.items()}


def held_out(
    network: Segmenter, default: Segmenter, pairs: list[Micrograph], settings: AdaptSettings
) -> dict[str, list[float]]:
    """Disagreement beside the true errors, on images made as the training images are.

    Parameters
    ----------
    network : Segmenter
        Adapted to grains as large as those of the pairs.
    default : Segmenter
        Estimates its own zoom, as for any image.
    pairs : list of Micrograph
        With their boundary, of structures that trained nothing.
    settings : AdaptSettings
    """
    rows = {name: [] for name in ("disagreement", "deviation", *ERRORS.values())}
    for pair in pairs:
        uncertainty = estimate_uncertainty(pair, network, views=settings.views)
        rows["disagreement"].append(uncertainty.disagreement)
        rows["deviation"].append(uncertainty.deviation)
        truth = scores.mask_grains(pair.boundary)
        found = {"adapted": network.segment(pair, zoom=1.0), "default": default.segment(pair)}
        for which, segmentation in found.items():
            rows[ERRORS[which]].append(instance.adapted_rand_error(truth, segmentation.labels))
    return rows


def numbers_of(result: SegmentedImage) -> dict:
    """Uncertainty of one segmented image as plain values; the rest lies in its folder, the map as a PNG, too.

    White is `LARGEST_DEVIATION` in the picture.
    """
    uncertainty = result.segmentation.uncertainty
    images.write_image(result.folder / "uncertainty.png", uncertainty.deviation_map / LARGEST_DEVIATION)
    return {
        "zoom": result.segmentation.zoom,
        "disagreement": uncertainty.disagreement,
        "deviation": uncertainty.deviation,
        "other network": uncertainty.models,
    }


def uncertainty_table(numbers: dict[str, dict]) -> pd.DataFrame:
    """One row for each image; NaN where there are fewer than two grains to compare."""
    columns = ["disagreement", "deviation", "other network"]
    rows = {name: [values[column] for column in columns] for name, values in numbers.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.astype(float).rename_axis("image")


def write(
    out: Path,
    segmented: list[tuple[Micrograph, Path]],
    segmenter: Segmenter,
    samples: dict[str, np.ndarray],
    realism: pd.DataFrame,
    held_out: pd.DataFrame,
    uncertainty: pd.DataFrame,
    acceptance: Acceptance,
    seconds: dict[str, float],
    estimated: dict[str, float],
    zoom: float,
) -> Path:
    """Tables of all images and the page, with a section for each micrograph and its folder."""
    sections, rows, tables = [], [], {}
    for micrograph, folder in segmented:
        result = read_result(micrograph, folder)
        sections.append(report.section(result))
        rows.append({"image": folder.name, "file": str(micrograph.path), **summary(result)})
        tables[folder.name] = result.table
    write_tables(out, rows, joined(tables))
    write_csv(out / "uncertainty.csv", uncertainty.reset_index())
    worse = [int((held_out["disagreement"] < d).sum()) for d in uncertainty["disagreement"]]
    picture = np.vstack([np.hstack(samples[name]) for name in ("images", "training")])
    parts = [
        {
            "title": "Was the adapted network taken?",
            "text": f"{acceptance.line} It is taken only if it is better where the truth is known, on "
            "virtual micrographs that look like your images, and on your images looks at least as good "
            "(confidence less disagreement less share of the largest grain), without an alarm where the "
            "default rings none. The adapted weights are kept in adapted.safetensors.",
            "table": {
                "caption": "Both networks, each at its own zoom",
                "columns": ["measure", "adapted", "default"],
                "rows": [[name, *map(number, row)] for name, *row in acceptance.table.itertuples()],
            },
        },
        {
            "title": "How sure is it?",
            "text": "Every image was segmented in several views, turned and mirrored"
            + (", and by the network that comes with microlab" if acceptance.taken else "")
            + ". Disagreement is the mean adapted Rand error of single views against "
            "their mean, deviation the standard deviation of the boundary probability near boundaries. No "
            f"truth is known here, so they stand beside {len(held_out)} held-out virtual micrographs under "
            "the adapted network. " + trust(held_out),
            "table": {
                "caption": "0 is full agreement. A dash: nothing to compare.",
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
                    picture, "Patches of your images above, of the training images below"
                ),
                "caption": "Above: patches of your images; below: of the training images (greys stretched)",
            },
            "text": "Patches of the training images and of untextured simulations against patches of your "
            "images. The first row is the floor: how far one half of your images lies from the other. These "
            "distances see no mask: they do not show whether the masks match the images.",
            "table": {
                "caption": "Distances: 0 is the same; entropy in bits",
                "columns": ["patches", *realism.columns],
                "rows": [[name, *map(number, row)] for name, *row in realism.itertuples()],
            },
        },
        {
            "title": "Time",
            "text": f"The images were magnified {zoom:.2f} times before the adapted network. "
            + compared(estimated, seconds),
            "table": {
                "caption": "Measured over all calls",
                "columns": ["stage", "time"],
                "rows": [[stage, duration(spent)] for stage, spent in seconds.items()],
            },
        },
    ]
    title = f"Grains segmented by {'an adapted' if acceptance.taken else 'the default'} network"
    return report.write(out / "report.html", sections, segmenter, title=title, parts=parts)


def trust(held_out: pd.DataFrame) -> str:
    """Whether disagreement followed the true error on the held-out virtual micrographs."""
    rows = held_out.dropna()
    if len(rows) < 5 or rows["disagreement"].nunique() < 2 or rows["adapted Rand error"].nunique() < 2:
        return "They are too few to say how well disagreement follows the true error."
    rank = spearmanr(rows["disagreement"], rows["adapted Rand error"]).statistic
    error = rows["adapted Rand error"].median()
    return (
        f"There the true adapted Rand error has the median {error:.3f}, and its rank correlation with the "
        f"disagreement is {rank:.2f}. An error that all views share shows in no disagreement."
    )


def _some(pairs: list[Micrograph]) -> list[np.ndarray]:
    """Images of some of the pairs, grey levels stretched."""
    return [stretch(pair.image) for pair in pairs[:: -(-len(pairs) // COMPARED)]]
