"""Threshold rules of the edge detectors on virtual TEM: python -m studies.tem.edge_rules

Means over pictures: boundary F1 (2 px) of each detector and of the agreement of two, adapted Rand error and
count error of the grains. The trivial predictor finds no boundary: F1 0, one grain.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd

from microlab.measure.boundary import boundary_f1
from microlab.measure.instance import adapted_rand_error, grain_count_error
from microlab.render.tem import TEMConfig, TEMPicture, tem_pictures
from microlab.segment.edges import DETECTORS, EdgeConfig, agreement, edge_probability, fused_edges
from microlab.segment.instances import watershed_grains

DEFAULT = EdgeConfig()
CONFIGS = {
    "default": DEFAULT,
    "noise rule, rate 0.001": replace(DEFAULT, false_rate=0.001),
    "noise rule, rate 0.01": replace(DEFAULT, false_rate=0.01),
    "noise rule, rate 0.05": replace(DEFAULT, false_rate=0.05),
    "noise rule, rate 0.1": replace(DEFAULT, false_rate=0.1),
    "Otsu": replace(DEFAULT, rule="otsu"),
    "percentile, strongest 5 %": replace(DEFAULT, rule="percentile", strongest=0.05),
    "percentile, strongest 10 %": replace(DEFAULT, rule="percentile", strongest=0.1),
    "percentile, strongest 20 %": replace(DEFAULT, rule="percentile", strongest=0.2),
    "sigma 1.5": replace(DEFAULT, sigma=1.5),
    "sigma 2": replace(DEFAULT, sigma=2),
    "sigma 3": replace(DEFAULT, sigma=3),
    "without median": replace(DEFAULT, median=1),
    "median 3 x 3": replace(DEFAULT, median=3),
    "least step 0.02": replace(DEFAULT, least_step=0.02),
    "least step 0.08": replace(DEFAULT, least_step=0.08),
    "hysteresis 0.4": replace(DEFAULT, hysteresis=0.4),
    "hysteresis 0.7": replace(DEFAULT, hysteresis=0.7),
}


def scores(pair: TEMPicture, config: EdgeConfig, width: float) -> dict[str, float]:
    """Scores of one picture; pixels of the drawn boundary are left out of the scores of the grains."""
    edges = fused_edges(pair.image, config)
    grains = watershed_grains(edge_probability(edges, width))
    truth = np.where(pair.boundary, 0, pair.labels + 1)
    row = {name: boundary_f1(pair.boundary, edge > 0, 2) for name, edge in zip(DETECTORS, edges)}
    return row | {
        "two agree": boundary_f1(pair.boundary, agreement(edges) >= 2, 2),
        "Rand error": adapted_rand_error(truth, grains),
        "count error": grain_count_error(truth, grains, min_area=30),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variance", type=float, nargs="*", default=[0.001, 0.01], help="of the noise")
    parser.add_argument("--width", type=float, default=1.0, help="of an edge's place, px")
    options = parser.parse_args()
    for variance in options.variance:
        concepts = TEMConfig(noise_variance=(variance, variance))
        pairs = list(tem_pictures(options.pictures, options.seed, concepts))
        rows = {
            name: pd.DataFrame([scores(pair, config, options.width) for pair in pairs]).mean()
            for name, config in CONFIGS.items()
        }
        print(f"noise variance {variance}, {options.pictures} pictures, seed {options.seed}")
        print(pd.DataFrame(rows).T.round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
