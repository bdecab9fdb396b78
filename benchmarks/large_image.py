"""Seconds and memory of `microlab segment` on a large image: python benchmarks/large_image.py [SIDE ...]

Simulates a periodic polycrystal, renders it with the virtual microscope, tiles it into a TIFF of SIDE x SIDE
pixels, and runs the command on it in a separate process. Prints the seconds and the peak resident memory of
every stage, mapped pages included. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from microlab.data import mapped

PERIOD = 720  # px; does not divide the block size, so that every seam crosses different grains
STAGES = {  # name: modules that call a function, and its name there
    "read": (("microlab.data.images",), "read_image"),
    "zoom": (("microlab.segment.unet:UNetSegmenter",), "estimate_zoom"),
    "alarms": (("microlab.segment.choice",), "gather"),
    "network": (("microlab.segment.unet:UNetSegmenter",), "maps"),
    "watershed": (("microlab.segment.blocks", "microlab.segment.segmenter"), "{}"),
    "boundary": (("microlab.segment.blocks", "microlab.segment.segmenter"), "{}"),
    "grains": (("microlab.pipelines.image_results",), "grain_table"),
    "files": (("microlab.pipelines.image_results",), "write_result"),
    "report": (("microlab.pipelines.report",), "section"),
}
OTHER_NAMES = {
    ("watershed", "microlab.segment.blocks"): "watershed_by_blocks",
    ("watershed", "microlab.segment.segmenter"): "watershed_grains",
    ("boundary", "microlab.segment.blocks"): "boundary_by_blocks",
    ("boundary", "microlab.segment.segmenter"): "closed_boundary",
}


def write_image(path: Path, side: int) -> None:
    """A virtual micrograph of a periodic polycrystal, 8 bits."""
    from microlab.render import sem
    from microlab.simulate import phasefield, voronoi

    rng = np.random.default_rng(0)
    seeds = voronoi.random_seeds(PERIOD**2 // 2300, (PERIOD, PERIOD), rng)
    grown = phasefield.grow(voronoi.tessellate(seeds, (PERIOD, PERIOD)), 300)
    image = sem.render(np.tile(grown.grain_map(), (3, 3)), sem.Microscope(), seed=rng)
    middle = np.rint(255 * image[PERIOD : 2 * PERIOD, PERIOD : 2 * PERIOD]).astype(np.uint8)
    repeats = -(-side // PERIOD)
    pixels = np.tile(middle, (repeats, repeats))[:side, :side]
    tifffile.imwrite(path, pixels, resolution=(1e4 / 0.02,) * 2, resolutionunit="CENTIMETER")


def peak_bytes() -> int:
    """Peak resident memory of this process since the last call."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return int(fields["VmHWM"].split()[0]) * 1024


def measured(name: str, function: Callable, table: dict) -> Callable:
    """Wrap a function so that its seconds and peak memory go into a table; nested stages count separately."""

    @functools.wraps(function)
    def wrapper(*arguments: object, **options: object) -> object:
        before = peak_bytes()
        open_stages = table["open"]
        if open_stages:
            _add(table, open_stages[-1], 0, before)
        else:
            _add(table, "other", 0, before)
        open_stages.append(name)
        inside, start = table["inside"], time.perf_counter()
        table["inside"] = 0.0
        try:
            return function(*arguments, **options)
        finally:
            seconds = time.perf_counter() - start
            _add(table, name, seconds - table["inside"], peak_bytes())
            table["inside"] = inside + seconds
            open_stages.pop()

    return wrapper


def _add(table: dict, name: str, seconds: float, peak: int) -> None:
    total_and_peak = table["stages"].get(name, (0.0, 0))
    table["stages"][name] = (total_and_peak[0] + seconds, max(total_and_peak[1], peak))


def run_command(image: Path, out: Path, large: int) -> dict:
    """Run the command in this process and measure its stages."""
    from importlib import import_module

    from microlab.cli.main import main

    mapped.LARGE = large
    table: dict = {"stages": {}, "open": [], "inside": 0.0}
    for stage, (owners, function) in STAGES.items():
        for owner_name in owners:
            module, _, class_name = owner_name.partition(":")
            target = import_module(module)
            target = getattr(target, class_name) if class_name else target
            attribute = OTHER_NAMES.get((stage, module), function)
            setattr(target, attribute, measured(stage, getattr(target, attribute), table))
    start = time.perf_counter()
    try:
        main(["segment", str(image), "-o", str(out)], standalone_mode=False)
    finally:
        _add(table, "other", time.perf_counter() - start - table["inside"], peak_bytes())
    return table["stages"]


def main() -> None:
    """Print a table for every side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("side", type=int, nargs="*", default=[5000])
    parser.add_argument("--large", type=int, default=mapped.LARGE, help="pixels above which blocks are used")
    parser.add_argument("--folder", type=Path, help="for the temporary image and results")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_command(*options.one, options.large)))
        return
    for side in options.side:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            image = Path(temporary, "large.tif")
            write_image(image, side)
            command = [sys.executable, __file__, "--large", str(options.large), "--one"]
            start = time.perf_counter()
            child = subprocess.run(
                [*command, str(image), str(Path(temporary, "out"))],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - start
        lines = child.stdout.splitlines()
        stages = json.loads(lines[-1])
        peak = max(peak for _, peak in stages.values())
        mode = "by blocks" if side**2 > options.large else "whole"
        print(f"\n{side} x {side} pixels, {mode}, load average {os.getloadavg()[0]:.1f}")
        print(*lines[:-1], sep="\n")
        print(f"{'stage':>10} {'seconds':>9} {'s / Mpx':>9} {'peak, MB':>9} {'bytes / px':>11}")
        for name, (stage_seconds, stage_peak) in [*stages.items(), ("all", (seconds, peak))]:
            print(
                f"{name:>10} {stage_seconds:9.1f} {stage_seconds / side**2 * 1e6:9.3f} "
                f"{stage_peak / 1e6:9.0f} {stage_peak / side**2:11.1f}"
            )


if __name__ == "__main__":
    main()
