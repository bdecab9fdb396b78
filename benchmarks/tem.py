"""Time of synthetic TEM pictures with their boundaries: python benchmarks/tem.py

Prints the seconds of wall clock and of processor for the paper's 3000 pictures of 96 x 496 pixels in two
processes, then what one picture costs with each concept switched off, and what the pictures are like.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

import numpy as np

from microlab.render.tem import CONCEPTS, TEMConfig, TEMPair, tem_pairs, weak_boundaries


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def describe(pair: TEMPair) -> tuple[float, ...]:
    weak = weak_boundaries(pair).sum() / max(pair.target.sum(), 1)
    return (len(pair.brightness), pair.target.mean(), weak, pair.contours.mean(), pair.overlapped.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20, help="pictures for each concept switched off")
    options = parser.parse_args()

    start = time.perf_counter()
    likeness = np.array(
        [describe(pair) for pair in tem_pairs(options.pictures, options.seed, jobs=options.jobs)]
    )
    wall = time.perf_counter() - start
    print(f"{options.pictures} pictures, {options.jobs} processes: {wall:.0f} s wall clock")
    names = ("grains", "boundary share", "weak share of it", "contour share", "overlapped share")
    for name, column in zip(names, likeness.T, strict=True):
        low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
        print(
            f"  {name:17s} mean {column.mean():7.3f}   5 % {low:7.3f}   50 % {middle:7.3f}   95 % {high:7.3f}"
        )

    for off in (None, *CONCEPTS):
        config = TEMConfig() if off is None else replace(TEMConfig(), **{off: False})
        start = processor_seconds()
        for _ in tem_pairs(options.repeats, options.seed, config):
            pass
        cost = 1000 * (processor_seconds() - start) / options.repeats
        print(
            f"{'all concepts' if off is None else 'without ' + off:20s} {cost:6.1f} ms of processor per picture"
        )


if __name__ == "__main__":
    main()
