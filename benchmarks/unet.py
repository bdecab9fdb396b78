"""Speed of the U-Net and memory of its prediction: python benchmarks/unet.py [--side 20000]

Prints seconds per training step for each precision and memory layout, the arithmetic of a step and of a
prediction relative to the rate of a large matrix product (an upper bound for any convolution),
then the memory that segmenting square images takes, from file to file and from array to array, extrapolated
to 20 000 x 20 000 pixels. With --side such an image is actually segmented, from file to file (5 bytes of disk
per pixel). Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from microlab.segment.unet import UNet, boundary_loss, predict
from microlab.training.devices import autocast, pick_device, resolve_precision

MIB = 2**20


def seconds_per_step(width: int, side: int, batch: int, precision: str, layout: torch.memory_format) -> float:
    model = UNet(width=width).to(memory_format=layout)
    image = torch.rand(batch, 1, side, side).contiguous(memory_format=layout)
    mask = (image > 0.9).float()
    adam = torch.optim.AdamW(model.parameters())
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            loss = boundary_loss(model(image), mask)
        adam.zero_grad()
        loss.backward()
        adam.step()
        best = min(best, time.perf_counter() - start)
    return best


def matrix_rate() -> float:
    """GFLOP per second of the product of two large float32 matrices, the fastest arithmetic available."""
    a = torch.rand(2000, 2000)
    return 2 * 2000**3 / 1e9 / min(timed(lambda: a @ a) for _ in range(7))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def print_roofline(width: int) -> None:
    """Print the share of a matrix product's rate that prediction and training reach."""
    rate = matrix_rate()
    print(f"\na matrix product: {rate:.0f} GFLOP/s. A U-Net of width {width}, float32:")
    for what, side, batch, train in (("prediction", 512, 1, False), ("training step", 128, 8, True)):
        image = torch.rand(batch, 1, side, side)
        for layout in (torch.contiguous_format, torch.channels_last):
            model = UNet(width=width).train(train).to(memory_format=layout)
            pixels = image.contiguous(memory_format=layout)

            def work(model: UNet = model, pixels: torch.Tensor = pixels, train: bool = train) -> None:
                with torch.set_grad_enabled(train):
                    loss = model(pixels).sum()
                if train:
                    loss.backward()

            with FlopCounterMode(display=False) as counter:
                work()
            gflop = counter.get_total_flops() / 1e9
            seconds = min(timed(work) for _ in range(6))
            print(
                f"{what:>14}, {str(layout).split('.')[1]:>17}: {gflop:.1f} GFLOP in {seconds:.3f} s, "
                f"{gflop / seconds / rate:.0%} of a matrix product's rate"
            )


def anonymous_mib() -> float:
    """Anonymous memory of this process, MiB: pages of mapped files are not counted."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def segment(side: int, mapped: bool, width: int) -> dict[str, float]:
    """Segment a square image in this process and return the seconds and the peak memory."""
    peak, finished = anonymous_mib(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.1):
            peak = max(peak, anonymous_mib())

    with tempfile.TemporaryDirectory() as folder:
        if mapped:
            image = np.memmap(Path(folder, "image"), np.uint8, "w+", shape=(side, side))
            out = np.memmap(Path(folder, "out"), np.float32, "w+", shape=(side, side))
        else:
            image, out = np.full((side, side), 0.5, np.float32), None
        model = UNet(width=width)
        predict(model, image[:512, :512])  # warm-up: starts the threads
        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        predict(model, image, out=out, progress=side > 8000)
        seconds = time.perf_counter() - start
        finished.set()
        watcher.join()
    return {"seconds": seconds, "MiB": peak}


def in_its_own_process(side: int, mapped: bool, width: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(side), str(int(mapped)), str(width)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=16, help="channels of the first level")
    parser.add_argument("--side", type=int, help="also segment an image of this side, from file to file")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, mapped, width = options.one
        print(json.dumps(segment(side, bool(mapped), width)))
        return

    print(
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    print(f"auto is {resolve_precision('auto', pick_device('cpu'))}\n")
    print(f"seconds per training step, width {options.width}, depth 5 (best of 6)")
    print(f"{'tile, batch':>12} {'float32':>9} {'+ chan. last':>13} {'bfloat16':>9} {'+ chan. last':>13}")
    layouts = (torch.contiguous_format, torch.channels_last)
    for side, batch in ((128, 8), (256, 2), (512, 2)):
        times = [
            seconds_per_step(options.width, side, batch, precision, layout)
            for precision in ("float32", "bfloat16")
            for layout in layouts
        ]
        print(f"{f'{side}, {batch}':>12} {times[0]:9.3f} {times[1]:13.3f} {times[2]:9.3f} {times[3]:13.3f}")

    print_roofline(options.width)

    print("\npeak memory of prediction, MiB (process with torch included)")
    sides = (1024, 2048, 4096)
    for mapped, name in ((True, "file to file"), (False, "array to array")):
        runs = [in_its_own_process(side, mapped, options.width) for side in sides]
        per_pixel, fixed = np.polyfit([side**2 for side in sides], [run["MiB"] for run in runs], 1)
        measured = ", ".join(f"{side}: {run['MiB']:.0f}" for side, run in zip(sides, runs))
        expected = per_pixel * 20_000**2 + fixed
        rate = sides[-1] ** 2 / runs[-1]["seconds"] / 1e6
        print(f"{name:>15}  {measured}  ({per_pixel * MIB:+.2f} bytes per pixel, {rate:.1f} megapixels/s)")
        print(f"{'':>15}  extrapolated to 20 000 x 20 000: {expected / 1024:.2f} GiB")
    if options.side:
        run = in_its_own_process(options.side, True, options.width)
        print(f"{options.side} x {options.side}, file to file: {run['MiB']:.0f} MiB, {run['seconds']:.0f} s")


if __name__ == "__main__":
    main()
