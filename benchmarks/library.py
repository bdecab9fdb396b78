"""Time of a library of simulated structures of the paper's size: python benchmarks/library.py [--full]

Builds a few structures (or, with --full, all 300) and prints what 300 take at that rate: as the clock ran,
and by the processor time used, which is what they take when nothing else runs. Needs psutil (extra `test`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil

from microlab.simulate import library


def processor_seconds() -> float:
    """Of this process and its workers, which stay alive between builds."""
    me = psutil.Process()
    return sum(p.cpu_times().user + p.cpu_times().system for p in [me, *me.children(recursive=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8, help="structures to time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="build all 300")
    options = parser.parse_args()
    n, jobs, ranges = 300 if options.full else options.n, options.jobs, library.Ranges()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        tiny = library.Ranges(shape=(32, 32), grains=(2, 4), steps=(1, 2))
        library.build(Path(folder, "tiny"), 2 * jobs, jobs=jobs, ranges=tiny)  # starts the workers
        start, used = time.perf_counter(), processor_seconds()
        library.build(Path(folder, "library"), n, jobs=jobs, ranges=ranges)
        took, used = time.perf_counter() - start, processor_seconds() - used
        steps = library.read_manifest(Path(folder, "library")).steps.sum()
    height, width = ranges.shape
    print(f"{jobs} processes on {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print(f"start of the workers {start - begin:.1f} s")
    print(f"{n} structures of {height} x {width} pixels, {steps} steps in all")
    print(f"{took:.1f} s by the clock, {used:.1f} s of processor time")
    if not options.full:
        more = 300 * sum(ranges.steps) / 2 / steps  # 300 structures of the mean number of steps
        print(
            f"extrapolated to 300 structures: {took * more / 60:.1f} min by the clock, "
            f"{used * more / jobs / 60:.1f} min if {jobs} cores were free"
        )


if __name__ == "__main__":
    main()
