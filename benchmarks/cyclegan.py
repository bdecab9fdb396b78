"""CycleGAN compared with the public implementation: time per image of a training step and of a translation.

    git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix
    python benchmarks/cyclegan.py --peer pytorch-CycleGAN-and-pix2pix

The peer (Zhu, Park et al., BSD licence) is in no package registry; without `--peer` only microlab runs. The
peer's own training step runs unchanged, with its default settings; we only set the number of residual blocks.

Both train the same number of weights on the same crops: two ResNet generators, two PatchGANs with three
downsamplings, instance norm, least squares, cycle weight 10, identity weight 0.5, a pool of 50, no noise
channel. Two things differ. The peer upsamples by a transposed convolution; we repeat pixels and convolve,
which takes four times the multiplications in those two layers. The row "their upsampling" puts transposed
convolutions into ours. And the peer pads its strided convolutions with zeros, where we reflect.

Ours is timed inside `microlab.training.fit.fit`, with everything it does in a step. "As used" takes the
fastest precision of the device and keeps a running mean of the weights.

The implementations take turns. On a CPU the processor time of one thread is measured, which other programs
hardly affect; on a GPU it is wall time. Memory is the most that two steps add to a process (Linux), or what
torch allocates on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from microlab.generate.cyclegan import CycleGAN
from microlab.generate.style import translate
from microlab.training.devices import resolve_precision
from microlab.training.fit import FitConfig, fit

PEER = "pytorch-CycleGAN-and-pix2pix"
OURS = {
    "microlab, their upsampling": {"precision": "float32"},
    "microlab": {"precision": "float32"},
    "microlab, as used": {"precision": "auto", "ema": 0.99},
}
CASES = ((16, 4, 96, 2), (32, 6, 128, 1))  # width, blocks, crop, batch
SIDE = 512  # px, of the translated image
STEPS = 2  # per turn; ours takes one more, which is not counted


class Ours:
    """CycleGAN trained by `fit`."""

    def __init__(self, name: str, case: tuple[int, ...], device: torch.device) -> None:
        width, blocks, crop, _ = case
        self.model = CycleGAN(crop=crop, width=width, blocks=blocks)
        if "upsampling" in name:
            for generator in (self.model.F, self.model.G):
                generator.decode = nn.Sequential(
                    *transposed(4 * width), *transposed(2 * width), *generator.decode[4:]
                )
        if device.type == "cuda":  # as learn_style does
            self.model.memory_format = torch.channels_last
        self.device = device
        self.config = FitConfig(
            steps=STEPS + 1, lr=2e-4, schedule="constant", betas=(0.5, 0.999), **OURS[name]
        )

    def weights(self) -> int:
        return count(self.model.F, self.model.G, self.model.D_X, self.model.D_Y)

    def train(self, y: np.ndarray, x: np.ndarray, clock: Callable[[], float]) -> list[float]:
        """Seconds of each step: from the moment `fit` asks for a batch until it asks for the next."""
        stamps = []

        def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
            stamps.append(clock())
            return y, x

        loss = lambda network, batch: network(*batch)  # noqa: E731
        fit(self.model, batches, loss, self.config, device=str(self.device), progress=False)
        return list(np.diff(stamps))

    def translate(self, image: np.ndarray) -> None:
        translate(self.model.F, image)


class Peer:
    """The peer's CycleGANModel."""

    def __init__(self, folder: Path, case: tuple[int, ...], device: torch.device) -> None:
        width, blocks, _, _ = case
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        from models import networks
        from models.cycle_gan_model import CycleGANModel

        norm = networks.get_norm_layer("instance")

        def initialised(network: nn.Module) -> nn.Module:
            networks.init_weights(network, "normal", 0.02)
            return network.to(device)

        # Its options offer only 6 and 9 blocks. Classes, losses and the training step are the peer's own.
        networks.define_G = lambda *_: initialised(
            networks.ResnetGenerator(1, 1, width, norm, n_blocks=blocks)
        )
        networks.define_D = lambda *_: initialised(networks.NLayerDiscriminator(1, width, 3, norm))
        options = {
            **{
                "input_nc": 1,
                "output_nc": 1,
                "ngf": width,
                "ndf": width,
                "n_layers_D": 3,
                "netG": "",
                "netD": "",
            },
            **{"norm": "instance", "init_type": "normal", "init_gain": 0.02, "no_dropout": True},
            **{
                "lambda_A": 10.0,
                "lambda_B": 10.0,
                "lambda_identity": 0.5,
                "gan_mode": "lsgan",
                "pool_size": 50,
            },
            **{"lr": 2e-4, "beta1": 0.5, "direction": "AtoB", "isTrain": True, "preprocess": "crop"},
            **{"checkpoints_dir": "", "name": "", "device": device},
            "gpu_ids": [device.index or 0] if device.type == "cuda" else [],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = CycleGANModel(Namespace(**options))
        self.device = device

    def weights(self) -> int:
        return count(*(getattr(self.model, f"net{name}") for name in ("G_A", "G_B", "D_A", "D_B")))

    def train(self, y: np.ndarray, x: np.ndarray, clock: Callable[[], float]) -> list[float]:
        stamps = [clock()]
        for _ in range(STEPS):
            self.model.real_A = torch.from_numpy(y).to(self.device)
            self.model.real_B = torch.from_numpy(x).to(self.device)
            self.model.optimize_parameters()
            stamps.append(clock())
        return list(np.diff(stamps))

    def translate(self, image: np.ndarray) -> None:
        self.model.real_A = torch.from_numpy(2 * image - 1)[None, None].to(self.device)
        with torch.no_grad():
            self.model.netG_A(self.model.real_A).cpu().numpy()


def transposed(channels: int) -> list[nn.Module]:
    """The peer's upsampling layer, without its bias, which instance normalisation cancels."""
    convolution = nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1, bias=False)
    nn.init.normal_(convolution.weight, std=0.02)
    return [convolution, nn.InstanceNorm2d(channels // 2), nn.ReLU(inplace=True)]


def count(*networks: nn.Module) -> int:
    """Number of kernel weights, without biases."""
    return sum(p.numel() for network in networks for p in network.parameters() if p.ndim > 1)


def build(name: str, case: tuple[int, ...], device: torch.device, peer: Path | None) -> Ours | Peer:
    return Peer(peer, case, device) if name == PEER else Ours(name, case, device)


def crops(case: tuple[int, ...]) -> list[np.ndarray]:
    """A batch of each domain, in [-1, 1]. Their content does not matter for speed."""
    _, _, crop, batch = case
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (batch, 1, crop, crop)).astype(np.float32) for _ in range(2)]


def status(field: str) -> float:
    """A memory field of this process' status, in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def peak_mib(name: str, case: tuple[int, ...], device: torch.device, peer: Path | None) -> float:
    """Peak memory that building the networks and two steps add, in a process that does nothing else."""
    y, x = crops(case)
    warm = torch.rand(1, 16, 32, 32, requires_grad=True)  # loads the libraries
    nn.functional.conv2d(warm, torch.rand(16, 16, 3, 3)).sum().backward()
    if device.type == "cuda":
        build(name, case, device, peer).train(y, x, time.perf_counter)
        return torch.cuda.max_memory_allocated(device) / 2**20
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    build(name, case, device, peer).train(y, x, time.perf_counter)
    return status("VmHWM") - before


def in_its_own_process(name: str, case: tuple[int, ...], options: Namespace) -> float:
    command = [sys.executable, __file__, "--device", options.device, "--threads", str(options.threads)]
    command += ["--peer", str(options.peer)] if options.peer else []
    command += ["--one", json.dumps([name, case])]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def compare(case: tuple[int, ...], options: Namespace) -> None:
    """Print one table: all implementations, taking turns, at one size."""
    device = torch.device(options.device)

    def clock() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    names = [*([PEER] if options.peer else []), *OURS]
    implementations = {name: build(name, case, device, options.peer) for name in names}
    if len({implementation.weights() for implementation in implementations.values()}) > 1:
        sys.exit(
            f"the architectures differ: { ({n: c.weights() for n, c in implementations.items()}) } weights"
        )
    y, x = crops(case)
    image = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    training = {name: [] for name in names}
    translation = {name: [] for name in names}
    for turn in range(options.turns + 1):
        for name, implementation in implementations.items():
            seconds = implementation.train(y, x, clock)
            start = clock()
            implementation.translate(image)
            if turn:  # the first is a warm-up
                training[name].append(statistics.median(seconds) / len(y))
                translation[name].append(clock() - start)

    width, blocks, crop, batch = case
    weights = implementations[names[0]].weights()
    print(f"\nwidth {width}, {blocks} blocks, crop {crop}, batch {batch}: {weights:,} weights")
    print(
        f"{'':30} {'training, ms per image':>24} {'':7} {f'{SIDE} x {SIDE} pixels':>16} {'':7} {'memory':>8}"
    )
    print(f"{'':30} {'median (range)':>24} {'ratio':>7} {'ms':>16} {'ratio':>7} {'MiB':>8}")
    for name in names:
        step, image_time = (1e3 * statistics.median(times[name]) for times in (training, translation))
        spread = f"{step:.1f} ({1e3 * min(training[name]):.1f} to {1e3 * max(training[name]):.1f})"
        # Ratios turn by turn, so that changes in the load of the machine cancel.
        step_ratio, image_ratio = (
            statistics.median(a / b for a, b in zip(times[name], times[names[0]]))
            for times in (training, translation)
        )
        memory = in_its_own_process(name, case, options)
        print(f"{name:30} {spread:>24} {step_ratio:7.2f} {image_time:16.1f} {image_ratio:7.2f} {memory:8.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", metavar="FOLDER", type=Path, help=f"clone of junyanz/{PEER}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--turns", type=int, default=9, help=f"turns of {STEPS} steps for each implementation"
    )
    parser.add_argument(
        "--case", type=int, nargs=4, metavar=("WIDTH", "BLOCKS", "CROP", "BATCH"), action="append"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.one:
        name, case = json.loads(options.one)
        print(peak_mib(name, case, device, options.peer))
        return

    print(
        f"{device}, {options.threads} threads, load average {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, auto is {resolve_precision('auto', device)}"
    )
    if not options.peer:
        print(
            f"without the peer; to compare: git clone https://github.com/junyanz/{PEER}, then --peer {PEER}"
        )
    for case in options.case or CASES:
        compare(tuple(case), options)


if __name__ == "__main__":
    main()
