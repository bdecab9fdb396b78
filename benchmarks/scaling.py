"""Time to segment a folder of micrographs with one worker and with two, compared in one run (chapter 16).

    python benchmarks/scaling.py            prints the table
    python benchmarks/scaling.py --record   also stores it (microlab/book/results/scaling.json)

All variants segment the same files, in rounds, so that other load on the machine affects all of them.
Workers are started and have loaded torch before timing begins, and a Dask cluster runs only while it is
measured: an idle one takes a quarter of a core. The speed-up is the median over the rounds of the ratio
within a round. The run fails if two variants write different labels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from distributed import LocalCluster

import microlab
from microlab.book import records
from microlab.data import images
from microlab.data.files import atomic
from microlab.data.parallel import imap_unordered
from microlab.pipelines import samples
from microlab.pipelines.segment_folder import segment_folder

RESULT = records.FOLDER / "scaling.json"
BASE, OURS, TRIVIAL = "one process, one thread", "two processes", "two processes, empty task"
NAMES = {OURS: "ours"}
SIDE = 256  # px
WORKER = f"import torch, {segment_folder.__module__}"  # what a worker loads before its first micrograph


def write_folder(folder: Path, number: int) -> None:
    """Virtual micrographs, one file each."""
    folder.mkdir()
    for k in range(number):
        image = samples.virtual_sample(100 + k, size=SIDE, grains=SIDE**2 // 2300).image
        images.write_image(folder / f"field{k:02d}.tif", image, pixel_size=0.02)


def empty_task(k: int) -> int:
    """A task without work, whose time is that of sending, waiting and collecting."""
    return k


def segment(folder: Path, out: Path, threads: int = 1, **options: object) -> dict[str, bytes]:
    """Segment the folder and return the label files as bytes, by image."""
    torch.set_num_threads(threads)  # in this process; workers always use one
    result = segment_folder([folder], out, **options)
    assert not result.failed, result.failed
    return {image.file.name: (image.folder / "labels.tif").read_bytes() for image in result.images}


@contextmanager
def dask_cluster(workers: int) -> Iterator[str | None]:
    """Address of a scheduler with that many workers, None if there are none."""
    if not workers:
        yield None
        return
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "protocol": "tcp", "silence_logs": "ERROR"}
    with LocalCluster(n_workers=workers, **options) as cluster:
        yield cluster.scheduler_address


def startup_seconds(code: str) -> float:
    """Seconds to start an interpreter and run a line of code, the median of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]


def main() -> None:
    """Print the table, and store it with --record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    script_start, load = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder / "two", 2)
        write_folder(folder / "images", options.images)
        call = partial(segment, out=folder / "out")
        tasks = [(k,) for k in range(options.images)]
        variants: dict[str, tuple[int, Callable]] = {  # number of Dask workers, and the call
            BASE: (0, call),
            "one process, two threads": (0, partial(call, threads=2)),
            OURS: (0, partial(call, jobs=2)),
            "one Dask worker": (1, call),
            "two Dask workers": (2, call),
            TRIVIAL: (0, lambda folder, scheduler: list(imap_unordered(empty_task, tasks, 2))),
        }
        labels: dict[str, bytes] | None = None
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(options.rounds):
            # In alternating order, so that a drift of the load cancels.
            names = list(variants)[:: 1 if turn % 2 == 0 else -1]
            for name in names:
                workers, variant = variants[name]
                with dask_cluster(workers) as scheduler:
                    for _ in range(2):  # workers load torch and the weights
                        variant(folder / "two", scheduler=scheduler)
                    start = time.perf_counter()
                    bytes_by_image = variant(folder / "images", scheduler=scheduler)
                    seconds[name].append(time.perf_counter() - start)
                if name != TRIVIAL:
                    labels = labels or bytes_by_image
                    assert bytes_by_image == labels, f"{name}: other labels than {BASE}"
    table = {name: np.array(values) for name, values in seconds.items()}
    scores = {
        NAMES.get(name, name): {
            "seconds, median": round(float(np.median(values)), 3),
            "times as fast": round(float(np.median(table[BASE] / values)), 2) if name != TRIVIAL else None,
            "least": round(float((table[BASE] / values).min()), 2) if name != TRIVIAL else None,
            "most": round(float((table[BASE] / values).max()), 2) if name != TRIVIAL else None,
        }
        for name, values in table.items()
    }
    record = {
        "title": "Scaling out: a folder of micrographs with one worker and with two",
        "data": f"{options.images} virtual micrographs of {SIDE} x {SIDE} pixels, zoom estimated in each. "
        f"Ours: {OURS}, one thread each. 'Times as fast' is against {BASE}: median, least, most.",
        "virtual": True,
        "scores": dict(sorted(scores.items(), key=lambda item: item[0] != "ours")),
        "trivial": TRIVIAL,
        "settings": {
            "images": options.images,
            "rounds": options.rounds,
            "load average at the start": f"{load:.1f}",
            "start of a worker, not counted": f"{startup_seconds(WORKER):.1f} s",
            "of which torch": f"{startup_seconds('import torch'):.1f} s",
            "labels": "the same bytes whoever segments",
        },
        "seed": 100,
        "command": "python benchmarks/scaling.py --record",
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "seconds": round(time.perf_counter() - script_start, 1),
        "date": date.today().isoformat(),
        "versions": {"microlab": microlab.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "note": "The load average says what else ran: ratios within a round are fair, seconds are not "
        "those of an idle machine.",
    }
    for name, row in record["scores"].items():
        print(f"{name:28s}", "   ".join(f"{measure} {value}" for measure, value in row.items()))
    print("\n".join(f"{name}: {value}" for name, value in record["settings"].items()))
    if options.record:
        with atomic(RESULT) as partial_file:
            partial_file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":  # the workers import this file again
    main()
