"""Many image files in, one folder of results each.

Every file of a result is written whole or not at all, and `run.json` comes last: a folder that holds it is
complete.

Image files down paper C's route, one folder of results each: what `microlab refine` writes.

Beside the results of every segmentation there are the maps of all iterations and how sure the route is. As in
microlab.pipelines.image_results every file is whole or absent, and `run.json` comes last.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from microlab import __version__
from microlab.data import images
from microlab.data.files import atomic, sha256
from microlab.data.micrograph import Micrograph
from microlab.measure import grains
from microlab.measure.grains import grain_table
from microlab.measure.labels import boundaries
from microlab.measure.scores import mask_grains
from microlab.segment.edge_segmenter import (
    TEMRoute,
    at_size,
    route_uncertainty,
    run_route,
    segment_tem,
    segmentation_of,
)
from microlab.segment.refine import CapReached, Refinement
from microlab.segment.segmenter import Network, Segmentation, segment_image
from microlab.segment.uncertainty import Uncertainty

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Options:
    """How the images of one batch are read and segmented."""

    pixel_size: float | None = None  # micrometres; overrides what the files say
    data_bar: int | str = "auto"  # "auto", or rows to cut off at the bottom
    scale: float | None = None  # magnification before the network; estimated when None
    device: str | None = None


@dataclass(frozen=True)
class Segmented:
    """One image file, segmented and measured."""

    name: str
    source: str
    image: np.ndarray  # (H, W) float32, data bar cut off
    pixel_size: float | None
    segmentation: Segmentation
    table: pd.DataFrame  # one row per grain
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def labels(self) -> np.ndarray:
        return self.segmentation.labels

    @property
    def boundary(self) -> np.ndarray:
        return self.segmentation.boundary


@dataclass(frozen=True)
class Measured:
    """A label image from anywhere, measured."""

    labels: np.ndarray  # (H, W) int32
    boundary: np.ndarray  # (H, W) bool
    pixel_size: float | None
    table: pd.DataFrame


def find_images(paths: list[Path]) -> list[Path]:
    """Image files named directly or lying in a named folder, each once, in a stable order.

    Raises
    ------
    ValueError
        If a folder holds no image. A missing file is kept: it fails by itself when it is read.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(
                f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
            )
            if not found:
                raise ValueError(
                    f"{path}: the folder holds no image; give one with {', '.join(SUFFIXES)} files"
                )
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def result_folders(files: list[Path], out: Path) -> list[Path]:
    """A folder of its own under `out` for every image: its stem, with a number where two share one.

    A folder that holds another image's result, from this run or an earlier one, is never taken. Names that
    differ in case only count as the same, as they do on macOS and Windows.
    """
    folders, taken = [], set()
    for file in files:
        for number in range(1, len(files) + 10_000):
            name = file.stem if number == 1 else f"{file.stem}-{number}"
            if name.casefold() not in taken and _source(out / name) in (None, str(file.resolve())):
                break
        taken.add(name.casefold())
        folders.append(out / name)
    return folders


def segment_file(
    path: Path, folder: Path, network: Network | TEMRoute, options: Options = Options()
) -> Segmented:
    """Segment one image file and write its results.

    Parameters
    ----------
    path : Path
    folder : Path
        Gets ``mask.png`` (255 on boundaries), ``labels.tif``, ``grains.csv``, ``overlay.png``, ``run.json``.
    network : (model, card) or TEMRoute
        The kind chooses the method: `segmenter.segment_image` or `edge_segmenter.segment_tem`.
    options : Options

    Returns
    -------
    Segmented

    Raises
    ------
    ValueError, OSError
        With the name of the file and what is wrong.
    """
    segment = segment_tem if isinstance(network, TEMRoute) else segment_image
    with noted() as notes:
        micrograph = read_micrograph(path, options, notes)
        with naming(path):
            segmentation = segment(micrograph.image, network, scale=options.scale, device=options.device)
        table = grains.grain_table(segmentation.labels, micrograph.pixel_size)
    result = Segmented(
        folder.name, str(path), micrograph.image, micrograph.pixel_size, segmentation, table, notes, folder
    )
    write_result(result, card_of(network), options)
    return result


def card_of(network: Network | TEMRoute) -> dict:
    """The card that describes a network, or both networks of a route."""
    return network.card if isinstance(network, TEMRoute) else network[1]


@contextmanager
def noted() -> Iterator[list[str]]:
    """A list that gets the warnings meant for the user as soon as the block has ended."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        for category in (UserWarning, CapReached):
            warnings.simplefilter("always", category)
        yield notes
    notes[:0] = [str(w.message) for w in caught if issubclass(w.category, (UserWarning, CapReached))]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_micrograph(path: Path, options: Options, notes: list[str]) -> Micrograph:
    """The image of a file, its data bar cut off and said so in the notes."""
    micrograph = images.read_image(path, pixel_size=options.pixel_size, data_bar=options.data_bar)
    if micrograph.data_bar_height:
        notes.append(f"The lowest {micrograph.data_bar_height} rows are a data bar and were cut off first.")
    return micrograph


def segment_sample(sample: Micrograph, out: Path, network: Network, device: str | None = None) -> Segmented:
    """As `segment_file`, for a micrograph whose truth is known: both are written beside the results."""
    folder = out / sample.name
    segmentation = segment_image(sample.image, network, device=device)
    table = grains.grain_table(segmentation.labels, sample.pixel_size)
    result = Segmented(
        sample.name, sample.about, sample.image, sample.pixel_size, segmentation, table, [], folder
    )
    images.write_image(folder / "micrograph.png", sample.image)
    images.write_mask(folder / "truth.png", sample.boundary)
    write_result(result, network[1])
    return result


def measure_file(path: Path, pixel_size: float | None = None) -> Measured:
    """Read a label image or a boundary mask and measure its grains.

    Parameters
    ----------
    path : Path
        A label image (0 on boundaries, grains 1..n), or a boundary mask of the values 0 and 255, whose
        grains are then the connected regions of its interior.
    pixel_size : float, optional
        Micrometres; overrides what the file says.

    Raises
    ------
    ValueError, OSError
        With the name of the file and what is wrong.
    """
    labels, own_size = images.read_labels(path)
    if labels.max() == 255 and not ((labels != 0) & (labels != 255)).any():
        boundary = labels == 255
        labels = mask_grains(boundary)
    else:
        boundary = boundaries(labels)
    if not labels.any():
        raise ValueError(f"{path}: holds no grain; grains are numbered from 1, boundaries are 0")
    pixel_size = pixel_size or own_size
    return Measured(labels, boundary, pixel_size, grains.grain_table(labels, pixel_size))


def write_result(
    result: Segmented, card: dict, options: Options = Options(), more: dict | None = None
) -> None:
    """Write the files of one result into its folder, each whole or not at all; `more` joins ``run.json``."""
    folder, segmentation = result.folder, result.segmentation
    begin_result(folder)
    images.write_mask(folder / "mask.png", segmentation.boundary)
    images.write_labels(folder / "labels.tif", segmentation.labels, pixel_size=result.pixel_size)
    images.write_image(folder / "overlay.png", overlay(result.image, segmentation.labels))
    with atomic(folder / "grains.csv") as partial:
        result.table.to_csv(partial, index=False, float_format="%.6g")
    run = {
        "source": str(Path(result.source).resolve()),
        "sha256": sha256(result.source) if Path(result.source).is_file() else None,
        "microlab": __version__,
        "method": method_of(card),
        "weights": card.get("name"),
        "weights_sha256": weights_sha256(card),
        "pixel_size_um": result.pixel_size,
        "zoom": segmentation.zoom,
        "grains": int(segmentation.labels.max()),
        "options": asdict(options),
        **(more or {}),
        "notes": result.notes,
    }
    with atomic(folder / "run.json") as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def method_of(card: dict) -> str:
    """The method of `microlab segment` that a card belongs to: only a `TEMRoute` says that it is one."""
    return "tem" if card.get("method") == "tem" else "labour-free"


def begin_result(folder: Path) -> None:
    """Take away the ``run.json`` of an earlier run: what is killed now must not look complete."""
    (folder / "run.json").unlink(missing_ok=True)


def weights_sha256(card: dict) -> str | dict[str, str | None] | None:
    """Checksum of the weights, of each network by its part where a card describes two; None if unknown."""
    if method_of(card) == "tem":
        return {part: card.get(part, {}).get("sha256") for part in ("first", "refine")}
    return card.get("sha256")


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The micrograph with the lines between grains drawn in colour, (H, W, 3) float32 in [0, 1]."""
    from matplotlib.colors import to_rgb
    from skimage.segmentation import find_boundaries

    from microlab.plotting import COLOURS

    picture = np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2).astype(np.float32)
    picture[find_boundaries(labels, connectivity=1, mode="thick")] = to_rgb(COLOURS["prediction"])
    return picture


def _source(folder: Path) -> str | None:
    """The image whose result a folder holds, None if it holds none."""
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Refined:
    """One image file after the route."""

    segmented: Segmented
    refinement: Refinement
    uncertainty: Uncertainty

    def one_line(self) -> str:
        """Iterations, how they ended, grains, and how far the views of the image disagree."""
        n, disagreement = self.refinement.iterations, self.uncertainty.disagreement
        grains = int(self.segmented.labels.max())
        parts = [
            f"{n} iteration{'' if n == 1 else 's'}",
            "converged" if self.refinement.converged else "cap reached",
            f"{grains} grain{'' if grains == 1 else 's'}",
            "disagreement " + ("unknown" if np.isnan(disagreement) else f"{disagreement:.3f}"),
        ]
        return ", ".join(parts)


def refine_file(
    path: Path,
    folder: Path,
    route: TEMRoute,
    options: Options | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int | None = None,
) -> Refined:
    """Send one image file down the route and write all that it gives.

    Parameters
    ----------
    path : Path
    folder : Path
        Gets what `segment_file` writes, and ``boundary.tif`` (float32 probability),
        ``iterations.tif`` (float32 stack: the first guess and every map after it), ``changes.csv`` (mean
        change of each iteration) and ``uncertainty.tif`` (float32 standard deviation over eight views); all
        of the image's size.
    route : TEMRoute
    options : Options, optional
    tolerance, max_iterations
        As `microlab.segment.edge_segmenter.run_route`.

    Returns
    -------
    Refined

    Raises
    ------
    ValueError, OSError
        With the name of the file and what is wrong.
    """
    options = options or Options()
    settings = {"tolerance": tolerance, "max_iterations": max_iterations, "device": options.device}
    with noted() as notes:
        micrograph = read_micrograph(path, options, notes)
        with naming(path):
            result = run_route(micrograph.image, route, zoom=options.scale, **settings)
            segmentation = segmentation_of(result)
            sureness = route_uncertainty(micrograph.image, route, result.zoom, **settings)
        table = grain_table(segmentation.labels, micrograph.pixel_size)
    pixels, size, refinement = micrograph.image, micrograph.pixel_size, result.refinement
    segmented = Segmented(folder.name, str(path), pixels, size, segmentation, table, notes, folder)

    begin_result(folder)
    maps = np.stack([at_size(m, pixels.shape) for m in refinement.maps])
    for name, values in (("boundary", segmentation.probability), ("uncertainty", sureness.deviation_map)):
        images.write_image(folder / f"{name}.tif", values, pixel_size=size, bits=32)
    images.write_stack(folder / "iterations.tif", maps, pixel_size=size)
    changes = pd.DataFrame(
        {"iteration": np.arange(1, refinement.iterations + 1), "mean_change": refinement.changes}
    )
    with atomic(folder / "changes.csv") as partial:
        changes.to_csv(partial, index=False, float_format="%.6g")
    card = route.card
    more = {
        "iterations": refinement.iterations,
        "converged": refinement.converged,
        "last_mean_change": float(refinement.changes[-1]),
        "tolerance": card["tolerance"] if tolerance is None else tolerance,
        "max_iterations": card["max_iterations"] if max_iterations is None else max_iterations,
        "inputs": card["inputs"],
        "finish": card["finish"],
        "disagreement": None if np.isnan(sureness.disagreement) else sureness.disagreement,
        "deviation": sureness.deviation,
    }
    write_result(segmented, card, options, more)
    return Refined(segmented, refinement, sureness)
