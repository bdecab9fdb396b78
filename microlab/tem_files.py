"""Image files down paper C's route, one folder of results each: what `microlab refine` writes (chapter 14).

Beside the results of every segmentation there are the maps of all iterations and how sure the route is. As in
microlab.batch every file is whole or absent, and `run.json` comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from microlab.batch import Options, Segmented, begin_result, naming, noted, read_micrograph, write_result
from microlab.data import images
from microlab.data.files import atomic
from microlab.measure import grains
from microlab.segment.refine import Refinement
from microlab.tem_networks import TEMRoute
from microlab.tem_route import at_size, route_uncertainty, run_route, segmentation_of
from microlab.uncertainty import Uncertainty


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
        Gets what `microlab.batch.segment_file` writes, and ``boundary.tif`` (float32 probability),
        ``iterations.tif`` (float32 stack: the first guess and every map after it), ``changes.csv`` (mean
        change of each iteration) and ``uncertainty.tif`` (float32 standard deviation over eight views); all
        of the image's size.
    route : TEMRoute
    options : Options, optional
    tolerance, max_iterations
        As `microlab.tem_route.run_route`.

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
            result = run_route(micrograph.pixels, route, zoom=options.scale, **settings)
            segmentation = segmentation_of(result)
            sureness = route_uncertainty(micrograph.pixels, route, result.zoom, **settings)
        table = grains.grain_table(segmentation.labels, micrograph.pixel_size)
    pixels, size, refinement = micrograph.pixels, micrograph.pixel_size, result.refinement
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
