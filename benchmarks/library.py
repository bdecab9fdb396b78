"""Time of a library of simulated structures of the paper's size: python benchmarks/library.py [--full]

Builds a few structures (or, with --full, all 300) and prints the time of 300 at that rate: by wall time,
and by processor time, which is what they take on an idle machine. Needs psutil (extra `test`).
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
    """Processor time of this process and its workers, which stay alive between builds."""
    this_process = psutil.Process()
    return sum(
        p.cpu_times().user + p.cpu_times().system
        for p in [this_process, *this_process.children(recursive=True)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8, help="structures to time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="build all 300")
    options = parser.parse_args()
    n, jobs, ranges = 300 if options.full else options.n, options.jobs, library.Ranges()
    with tempfile.TemporaryDirectory() as folder:
        script_start = time.perf_counter()
        tiny = library.Ranges(shape=(32, 32), grains=(2, 4), steps=(1, 2))
        library.build(Path(folder, "tiny"), 2 * jobs, jobs=jobs, ranges=tiny)  # starts the workers
        start, processor_time = time.perf_counter(), processor_seconds()
        library.build(Path(folder, "library"), n, jobs=jobs, ranges=ranges)
        wall_time, processor_time = time.perf_counter() - start, processor_seconds() - processor_time
        steps = library.read_manifest(Path(folder, "library")).steps.sum()
    height, width = ranges.shape
    print(f"{jobs} processes on {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print(f"starting the workers {start - script_start:.1f} s")
    print(f"{n} structures of {height} x {width} pixels, {steps} steps in all")
    print(f"{wall_time:.1f} s of wall time, {processor_time:.1f} s of processor time")
    if not options.full:
        factor = 300 * sum(ranges.steps) / 2 / steps  # 300 structures of the mean number of steps
        print(
            f"extrapolated to 300 structures: {wall_time * factor / 60:.1f} min of wall time, "
            f"{processor_time * factor / jobs / 60:.1f} min if {jobs} cores were free"
        )


if __name__ == "__main__":
    main()
