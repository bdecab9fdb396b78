"""Time of synthetic TEM pictures with their boundaries: python benchmarks/tem.py

Prints the wall time of the paper's 3000 pictures of 96 x 496 pixels in two processes and statistics of the
pictures, then the processor time of one picture, also with each concept switched off. On a busy machine use
fewer ``--pictures``: processor time hardly depends on other load, wall time does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from microlab.render.tem import CONCEPTS, TEMConfig, TEMPicture, tem_pictures, weak_boundaries


def describe(pair: TEMPicture) -> tuple[float, ...]:
    weak = weak_boundaries(pair).sum() / max(pair.boundary.sum(), 1)
    return (len(pair.brightness), pair.boundary.mean(), weak, pair.contours.mean(), pair.overlapped.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=20, help="pictures for each concept switched off")
    options = parser.parse_args()

    start = time.perf_counter()
    pairs = tem_pictures(options.pictures, options.seed, jobs=options.jobs)
    statistics = np.array([describe(pair) for pair in pairs])
    seconds = time.perf_counter() - start
    print(f"{options.pictures} pictures, {options.jobs} processes: {seconds:.0f} s wall clock")
    names = ("grains", "boundary share", "weak share of it", "contour share", "overlapped share")
    for name, column in zip(names, statistics.T, strict=True):
        low, middle, high = np.quantile(column, [0.05, 0.5, 0.95])
        print(
            f"  {name:16s} mean {column.mean():6.3f}   5 % {low:6.3f}   50 % {middle:6.3f}   95 % {high:6.3f}"
        )

    print("processor time of one picture, and minutes of two processors for 3000")
    for off in (None, *CONCEPTS):
        config = TEMConfig() if off is None else replace(TEMConfig(), **{off: False})
        start = time.process_time()
        for _ in tem_pictures(options.repeats, options.seed, config):
            pass
        cost = (time.process_time() - start) / options.repeats
        name = "all concepts" if off is None else f"without {off}"
        print(f"  {name:20s} {1000 * cost:6.1f} ms   {3000 * cost / 60 / 2:5.2f} min")


if __name__ == "__main__":
    main()
