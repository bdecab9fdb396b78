"""Time of seeds, tessellation and statistics of a periodic polycrystal: python benchmarks/voronoi.py

Prints the median and the minimum of several runs, and those of a periodic k-d tree queried for every pixel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from microlab.simulate import voronoi


def measure(what: str, call: Callable[[], object], repeats: int) -> None:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    print(f"{what:48s} median {np.median(times):8.1f} ms   minimum {min(times):8.1f} ms")


def tree_per_pixel(seeds: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The usual method: one tree query for every pixel."""
    return (
        cKDTree(seeds, boxsize=shape).query(np.indices(shape).reshape(2, -1).T, workers=-1)[1].reshape(shape)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="edge of the square box in pixels")
    parser.add_argument("--grains", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    n, shape, repeats = options.grains, (options.size, options.size), options.repeats
    seeds = voronoi.random_seeds(n, shape)

    print(f"{n} grains in {shape[0]} x {shape[1]} pixels, {repeats} runs")
    for alpha in (0.3, 0.6, 0.7, voronoi.MAX_ALPHA):
        measure(f"regular_seeds, alpha {alpha}", lambda a=alpha: voronoi.regular_seeds(n, shape, a), repeats)
    measure("lloyd_seeds, 5 sweeps", lambda: voronoi.lloyd_seeds(n, shape, 5), repeats)
    measure("tessellate", lambda: voronoi.tessellate(seeds, shape), repeats)
    measure("the same with a k-d tree query per pixel", lambda: tree_per_pixel(seeds, shape), repeats)
    measure("sides", lambda: voronoi.sides(seeds, shape), repeats)


if __name__ == "__main__":
    main()
