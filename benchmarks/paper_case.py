"""The paper's simulation: 512 x 512 pixels, 112 grains, 1000 steps. Seconds and peak memory.

    python benchmarks/paper_case.py [--compile] [--device cuda] [--repeats 3]

The bar is 2.0 s eager on two cores, and 700 MB. The best of the repeats is the figure: anything else that
runs on the machine only makes it worse.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch

from microlab.simulate.phasefield import grow
from microlab.simulate.voronoi import regular_seeds, tessellate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="fuse the step with torch.compile")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    grain_map = tessellate(regular_seeds(112, (512, 512), 0.5), (512, 512))
    seconds = []
    for _ in range(arguments.repeats + arguments.compile):
        start = time.perf_counter()
        simulation = grow(grain_map, 1000, device=arguments.device, compile=arguments.compile)
        phi = simulation.phi()  # waits for the device
        seconds.append(time.perf_counter() - start)
    if arguments.compile:
        print(f"first run, with compilation: {seconds.pop(0):.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{arguments.device}, {torch.get_num_threads()} threads: best {min(seconds):.2f} s of", end=" ")
    print(", ".join(f"{s:.2f}" for s in seconds))
    print(f"{len(simulation.order_parameters)} fields, {simulation.recolourings} recolourings", end=", ")
    print(f"lowest phi {phi.min():.3f}; peak memory {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
