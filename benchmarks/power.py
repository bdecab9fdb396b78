"""Time of circle packing and power diagrams, compared with the usual methods and Voro++.

    python benchmarks/power.py
    python -m venv peer && peer/bin/pip install -e . pyvoro-mmalahe && peer/bin/python benchmarks/power.py

The implementations take turns in one process, so that the ratios also hold on a busy machine. CPU time is
the cost of the work; wall time also includes waiting for other programs. pyvoro (Voro++) returns polygons;
"drawn" rasterises them, so that both give a grain map, and the share of pixels on which they agree is
printed. Without pyvoro its two lines are missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from skimage.draw import polygon

from microlab.simulate.power import pack_circles, power_diagram, radii_of
from microlab.simulate.voronoi import tessellate

try:
    import pyvoro
except ImportError:
    pyvoro = None


def pixel_by_circle(centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The definition: the power of every pixel with respect to every circle, one circle at a time."""
    distances = [np.abs(np.arange(size) - c[:, None] % size) for size, c in zip(shape, centres.T)]
    squared_distances = [np.minimum(d, size - d) ** 2 for d, size in zip(distances, shape)]  # periodic
    best, grain_map = np.full(shape, np.inf), np.zeros(shape, np.int32)
    for i, radius in enumerate(radii):
        power = (squared_distances[0][i] - radius**2)[:, None] + squared_distances[1][i]
        closer = power < best
        best[closer], grain_map[closer] = power[closer], i
    return grain_map


def tree_per_pixel(centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """One query of a k-d tree for every pixel, in the space where power is distance."""
    height = np.sqrt(radii.max() ** 2 - radii**2)
    tree = cKDTree(np.column_stack([centres, height]), boxsize=(*shape, 0))  # 0: not periodic
    pixels = np.indices(shape).reshape(2, -1).T
    return tree.query(np.column_stack([pixels, np.zeros(len(pixels))]))[1].reshape(shape).astype(np.int32)


def voro_polygons(centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> list[dict]:
    limits = [[0.0, float(size)] for size in shape]
    return pyvoro.compute_2d_voronoi(
        centres.tolist(), limits, 4 * float(radii.max()), radii=radii.tolist(), periodic=[True, True]
    )


def voro_drawn(centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    grain_map = np.full(shape, -1, np.int32)
    for i, cell in enumerate(voro_polygons(centres, radii, shape)):
        row, column = polygon(*(np.array(cell["vertices"]) + shape).T)  # shifted: polygon drops negative rows
        grain_map[row % shape[0], column % shape[1]] = i
    return grain_map


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=2, default=(96, 496), metavar=("H", "W"))
    parser.add_argument("--grains", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    n, shape = options.grains, tuple(options.shape)

    radii = radii_of(n, shape[0] * shape[1])
    centres, _ = pack_circles(shape, radii)
    implementations: dict[str, Callable[[], object]] = {
        "power_diagram": lambda: power_diagram(centres, radii, shape),
        "every pixel by every circle": lambda: pixel_by_circle(centres, radii, shape),
        "a k-d tree query per pixel": lambda: tree_per_pixel(centres, radii, shape),
    }
    if pyvoro:
        implementations["pyvoro, polygons only"] = lambda: voro_polygons(centres, radii, shape)
        implementations["pyvoro, drawn"] = lambda: voro_drawn(centres, radii, shape)
    implementations["tessellate (Voronoi, equal radii)"] = lambda: tessellate(centres, shape)
    implementations["pack_circles"] = lambda: pack_circles(shape, radii)

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in implementations}
    for _ in range(options.repeats):
        for name, call in implementations.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))

    print(f"{n} circles in {shape[0]} x {shape[1]} pixels, {options.repeats} rounds, ms")
    print(f"{'':36s}{'CPU: min':>11s}{'median':>9s}{'wall: min':>13s}{'median':>9s}{'CPU ratio':>11s}")
    medians = {name: np.median(1000 * np.array(t), axis=0) for name, t in times.items()}
    for name, t in times.items():
        minimum, (cpu, wall) = 1000 * np.min(t, axis=0), medians[name]
        ratio = cpu / medians["power_diagram"][0]
        print(f"{name:36s}{minimum[0]:11.1f}{cpu:9.1f}{minimum[1]:13.1f}{wall:9.1f}{ratio:11.2f}")
    ours = power_diagram(centres, radii, shape)
    for name in ("every pixel by every circle", "a k-d tree query per pixel", "pyvoro, drawn"):
        if name in implementations:
            print(f"pixels as in power_diagram, {name}: {(implementations[name]() == ours).mean():.2%}")


if __name__ == "__main__":
    main()
