"""Cached compared with naive sampling of a PixelCNN: python benchmarks/pixelcnn_sampling.py [--batch 16]

Prints, for the plain and the gated network, the seconds to sample one batch of 64 x 64 codes with cached
activations, those of the naive loop, and their ratio. The naive loop is not run to the end: it is timed at 24
positions spread over the map (--positions), and the fastest is scaled to all 4096, since every position costs
one pass of the network over the whole map. Its codes must equal those of the cached sampler, which is
asserted at the timed positions. On a CPU the processor time of one thread is measured, which other programs
hardly affect.

A loop that passes only the rows down to the current one to the network does half of the work; it is not
compared here.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from microlab.generate.pixelcnn import NETWORKS, Autoregressive
from microlab.generate.sampling import draw, sample
from microlab.training.devices import hardware, pick_device

SEED = 0


def seconds(device: torch.device, started: float = 0.0) -> float:
    """Time since `started`: processor time on a CPU, else wall time once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.process_time() if device.type == "cpu" else time.perf_counter()) - started


@torch.inference_mode()
def naive_passes(model: Autoregressive, codes: torch.Tensor, positions: list[tuple[int, int]]) -> np.ndarray:
    """Seconds of the naive loop at each position, given the codes before it from `codes`."""
    n, height, width = codes.shape
    uniform = torch.from_numpy(np.random.default_rng(SEED).random((n, height, width)))
    uniform = uniform.to(codes.device, torch.float32)
    order = torch.arange(height * width, device=codes.device).view(height, width)
    model(codes)  # warms up
    timings = []
    for r, s in positions:
        previous_codes = torch.where(order < r * width + s, codes, 0)
        started = seconds(codes.device)
        code = draw(model(previous_codes)[:, :, r, s], uniform[:, r, s])
        timings.append(seconds(codes.device, started))
        assert torch.equal(code, codes[:, r, s]), f"the samplers differ at {r}, {s}"
    return np.array(timings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kind", choices=NETWORKS, help="one network only")
    parser.add_argument("--side", type=int, default=64, help="codes along each side")
    parser.add_argument("--batch", type=int, default=16, help="maps side by side")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument(
        "--positions", type=int, default=24, help="positions at which the naive loop is timed"
    )
    parser.add_argument("--device")
    options = parser.parse_args()
    device, side = pick_device(options.device), options.side
    torch.set_num_threads(1)
    indices = np.linspace(0, side * side - 1, options.positions).astype(int)
    positions = [(int(i) // side, int(i) % side) for i in indices]
    print(
        f"{options.batch} maps of {side} x {side} codes, {options.channels} channels, "
        f"{options.layers} layers, {hardware(device)}"
    )
    for kind, network in NETWORKS.items():
        if options.kind not in (None, kind):
            continue
        model = network(10, options.channels, options.layers).to(device)
        sample(model, options.batch, (2, side))  # warms up
        started = seconds(device)
        maps = sample(model, options.batch, (side, side), batch=options.batch, seed=SEED)
        cached = seconds(device, started)
        passes = naive_passes(model, torch.from_numpy(maps).to(device), positions)
        naive = side * side * passes.min()
        print(
            f"{kind:5}  cached {cached:7.2f} s   naive {naive:8.0f} s, scaled from {len(passes)} positions "
            f"({passes.min():.3f} to {passes.max():.3f} s each)   ratio {naive / cached:6.0f}"
        )


if __name__ == "__main__":
    main()
