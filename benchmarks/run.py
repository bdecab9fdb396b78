"""All performance goals in one run: ours, a peer, and ours again on a busy machine.

    make bench                                     everything, and the table in benchmarks/README.md
    python benchmarks/run.py phase-field unet      some rows
    python benchmarks/run.py --chapters            three chapters in the laptop profile, an hour and a half

Each case runs in its own process, once to warm up and then at least three times; the median is reported.
"Busy" is the same next to one busy process for every two cores, and next to one for every core.
A row is stored in `benchmarks/results.json` as soon as it is measured. Peers that are not installed are left
out; `make bench` installs them into `.venv-peers`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
README = ROOT / "benchmarks" / "README.md"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
MIN_RUNS, MIN_SECONDS = 3, 2.0
CHAPTERS = ("03_grain_growth", "06_realism", "07_training_sets")

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is timed: a function that prepares the work and returns it, and the same for each peer."""

    what: str
    prepare: Callable[[], Work]
    peers: dict[str, Callable[[], Work]] = field(default_factory=dict)
    goal: str = ""


def paper_case(size: int = 512, grains: int = 112, steps: int = 1000, fused: bool = True) -> Work:
    from microlab.simulate import sharing
    from microlab.simulate.phasefield import GrainGrowth
    from microlab.simulate.voronoi import regular_seeds, tessellate

    grain_map = tessellate(regular_seeds(grains, (size, size), 0.5), (size, size))

    def work() -> None:
        simulation = GrainGrowth(grain_map)
        if not fused:
            simulation._fused, simulation._follow_grains = False, sharing.follow
        simulation.run(steps)

    return work


def two_phases() -> Work:
    from microlab.simulate.multiphase import TwoPhaseGrowth, assign_phases
    from microlab.simulate.voronoi import regular_seeds, tessellate

    grain_map = tessellate(regular_seeds(40, (256, 256), 0.5), (256, 256))
    phases = assign_phases(grain_map, 0.4)
    return lambda: TwoPhaseGrowth(grain_map, phases).run(200)


def sharing_fields() -> Work:
    from microlab.simulate.phasefield import GrainGrowth
    from microlab.simulate.voronoi import regular_seeds, tessellate

    grain_map = tessellate(regular_seeds(450, (1024, 1024), 0.5), (1024, 1024))
    return lambda: GrainGrowth(grain_map).run(50)


def pairs() -> Work:
    from microlab.generate.pair_model import PairModel

    model = PairModel.from_weights()
    return lambda: model.sample(16)


def naive_sampling() -> Work:
    """The naive loop, timed on 3 of the 4096 codes, because a whole run takes hours."""
    import torch

    from microlab.generate.pair_model import PairModel

    model = PairModel.from_weights().prior.eval()
    codes = torch.zeros(16, 64, 64, dtype=torch.int64)
    condition = model.checked_condition(torch.full((16, model.condition), 1 / max(model.condition, 1)), 16)

    def work() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(3):
                model(codes, condition)
        return 4096 * (time.perf_counter() - start) / 3

    return work


def diffusion() -> Work:
    import numpy as np

    from microlab.generate.diffusion import MaskDiffusion, paint

    model = MaskDiffusion(classes=2, width=16)
    model.statistics = model.statistics.new_tensor([[0.5, 0.2]])
    masks = np.zeros((2, 128, 128), np.uint8)
    return lambda: paint(model, masks, steps=10)


def boundary_probability() -> Work:
    import numpy as np

    from microlab.segment.registry import load_segmenter

    segmenter, image = load_segmenter("label-free"), np.random.default_rng(0).random((512, 512), np.float32)
    return lambda: segmenter.probability(image)


def naive_inference() -> Work:
    """The usual inference loop of tutorials: float32, channels first, gradients off."""
    import torch

    from microlab.segment.registry import load_segmenter

    model, image = load_segmenter("label-free").model.eval(), torch.rand(1, 1, 512, 512)
    model = model.to(memory_format=torch.contiguous_format)

    def work() -> None:
        with torch.no_grad():
            torch.sigmoid(model(image))

    return work


def one_megapixel() -> Work:
    from microlab.data.images import write_image
    from microlab.pipelines.samples import virtual_sample
    from microlab.pipelines.segment_folder import segment_folder

    folder = Path(tempfile.mkdtemp())
    write_image(folder / "image.tif", virtual_sample(size=1024, grains=450).image)
    run_numbers = iter(range(10**6))
    return lambda: segment_folder([folder / "image.tif"], folder / str(next(run_numbers)))


def unet_training(ours: bool = True) -> Work:
    import torch

    from microlab.segment.unet import UNet, boundary_loss
    from microlab.training.fit import FitConfig, fit

    image = torch.rand(8, 1, 128, 128)
    mask = (image > 0.9).float()

    def train_with_fit() -> None:
        fit(
            UNet(width=16),
            lambda step: (image.numpy(), mask.numpy()),
            lambda network, batch: boundary_loss(network(batch[0]), batch[1]),
            FitConfig(steps=6),
            progress=False,
        )

    def plain_loop() -> None:
        network = UNet(width=16)
        network.memory_format = torch.contiguous_format
        adam = torch.optim.AdamW(network.parameters())
        for _ in range(6):
            loss = boundary_loss(network(image), mask)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            loss.item()

    return train_with_fit if ours else plain_loop


def small_training() -> Work:
    import numpy as np

    from microlab.generate.vqvae import VQVAEConfig, train_vqvae

    channels = np.random.default_rng(0).random((2, 4, 160, 160), np.float32)
    config = VQVAEConfig(hidden=32, crop=64, batch=8, steps=8)
    return lambda: train_vqvae(list(channels), config, classes=3, progress=False)


def refinement() -> Work:
    import numpy as np

    from microlab.segment.registry import load_segmenter

    segmenter, image = load_segmenter("tem"), np.random.default_rng(0).random((256, 256), np.float32)
    return lambda: segmenter.segment(image, zoom=1.0)


def kernel_distances() -> Work:
    import numpy as np

    from microlab.measure.features import encoder, texture
    from microlab.measure.kernel import kernel_distance
    from microlab.segment.unet import UNet

    patches = np.random.default_rng(0).random((200, 64, 64), np.float32)
    describe = encoder(UNet.from_weights("labour-free"))

    def work() -> None:
        for features in (texture(patches), describe(patches)):
            kernel_distance(features[:100], features[100:])

    return work


def chapter(name: str) -> Work:
    import jupytext
    from nbclient import NotebookClient

    os.environ["MICROLAB_PROFILE"] = "laptop"
    notebook = jupytext.read(ROOT / "tutorials" / f"{name}.ipynb")
    return lambda: NotebookClient(notebook, timeout=None, kernel_name="python3").execute(
        cwd=ROOT / "tutorials"
    )


CASES = {
    "phase-field": Case(
        "grain growth, 512 x 512, 112 grains, 1000 steps",
        paper_case,
        {"torch, one operation after another": lambda: paper_case(fused=False)},
        "0.8 s idle",
    ),
    "phase-field-large": Case(
        "grain growth, 1024 x 1024, 450 grains, 200 steps", lambda: paper_case(1024, 450, 200)
    ),
    "sharing": Case("450 grains put on shared fields, 1024 x 1024, and 50 steps", sharing_fields),
    "two-phases": Case("two-phase growth, 256 x 256, 40 grains, 200 steps", two_phases),
    "pairs": Case(
        "16 pairs of image and mask from 64 x 64 codes",
        pairs,
        {"naive loop, scaled up": naive_sampling},
        "6 s idle, 15 s beside a competitor",
    ),
    "diffusion": Case("two 128 x 128 images by 10 steps of diffusion", diffusion),
    "unet": Case(
        "boundary probability of 512 x 512 pixels, label-free weights",
        boundary_probability,
        {"float32, channels first": naive_inference},
        "2 times as fast",
    ),
    "megapixel": Case("microlab segment, 1024 x 1024 pixels, all files", one_megapixel, goal="8 s idle"),
    "unet-training": Case(
        "six steps of the U-Net, width 16, 8 crops of 128 x 128",
        unet_training,
        {"plain loop, channels first": lambda: unet_training(ours=False)},
        "1.5 times as fast",
    ),
    "vqvae-training": Case("eight steps of a VQ-VAE, 8 crops of 64 x 64", small_training),
    "refinement": Case("TEM boundaries of 256 x 256 pixels, refined to convergence", refinement),
    "kernel-distances": Case("features and kernel distance of 200 patches", kernel_distances),
    **{
        f"chapter-{name[:2]}": Case(f"chapter {name[:2]}, laptop", lambda n=name: chapter(n))
        for name in CHAPTERS
    },
}


def time_repeats(work: Work, once: bool) -> list[float]:
    """Seconds of each repeat; work that returns a float has timed itself."""
    seconds: list[float] = []
    if not once:
        work()
    while not seconds or (not once and (len(seconds) < MIN_RUNS or sum(seconds) < MIN_SECONDS)):
        start = time.perf_counter()
        own_time = work()
        seconds.append(own_time if isinstance(own_time, float) else time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(name: str, peer: str | None = None, competitors: int = 0) -> tuple[float, float]:
    """Median seconds of a case or of one of its peers, in a separate process, and its peak memory in GB."""
    command = [sys.executable, __file__, "--one", name, *(["--peer", peer] if peer else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    with busy(competitors):
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr}")
    result = json.loads(run.stdout.splitlines()[-1])
    return statistics.median(result["seconds"]), result["peak_gb"]


def machine() -> str:
    from microlab.data.parallel import cores

    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        return f"{cores()} cores, {model}"
    return f"{cores()} cores, {platform.machine()}"


def run(name: str) -> None:
    """Measure one case and store its row."""
    from microlab.data.files import atomic
    from microlab.data.parallel import cores

    case = CASES[name]
    load = os.getloadavg()[0]
    idle, peak = measure(name)
    row = {"what": case.what, "goal": case.goal, "seconds": idle, "peak_gb": peak, "peers": {}}
    row["peers"] = {peer: measure(name, peer)[0] for peer in case.peers}
    row["busy"] = {str(n): measure(name, competitors=n)[0] for n in (cores() // 2 or 1, cores())}
    row |= {"date": str(date.today()), "machine": machine(), "load_before": round(load, 1)}
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    table[name] = row
    with atomic(RESULTS) as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n")
    print(line(row), flush=True)


def line(row: dict) -> str:
    peers = "; ".join(
        f"{peer}: {seconds:.3g} s, {seconds / row['seconds']:.3g} x" for peer, seconds in row["peers"].items()
    )
    busy_cells = " | ".join(
        f"{seconds:.3g} s, {seconds / row['seconds']:.2f} x" for seconds in row["busy"].values()
    )
    cells = [
        row["what"],
        f"{row['seconds']:.3g} s",
        f"{row['peak_gb']:.2f} GB" if row["peak_gb"] else "",
        peers,
        busy_cells,
        row["goal"],
    ]
    return f"| {' | '.join(cells)} |"


def update_readme() -> None:
    table = json.loads(RESULTS.read_text())
    machines = sorted({f"{row['machine']}, {row['date']}" for row in table.values()})
    rows = [
        "| what | idle | peak memory | peer, and how many times as long "
        "| beside a busy process for every two cores | for every core | goal |",
        "|---|---|---|---|---|---|---|",
        *(line(table[name]) for name in CASES if name in table),
    ]
    text = README.read_text(encoding="utf-8")
    new = re.sub(
        r"(?s)(<!-- table -->\n).*?(<!-- end -->)",
        lambda match: (
            f"{match[1]}`make bench`; {'; '.join(machines)}.\n\n" + "\n".join(rows) + f"\n{match[2]}"
        ),
        text,
    )
    README.write_text(new, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--chapters", action="store_true")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import resource

        import microlab  # noqa: F401  sets the threads' wait policy before torch is loaded

        case = CASES[options.one]
        work = (case.peers[options.peer] if options.peer else case.prepare)()
        seconds = time_repeats(work, once=options.one.startswith("chapter"))
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # a chapter runs in a kernel of its own
        peak = max(resource.getrusage(one).ru_maxrss for one in who)
        peak *= 1 if sys.platform == "darwin" else 1024
        print(json.dumps({"seconds": seconds, "peak_gb": peak / 1e9}))
        return
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    for name in options.cases or [n for n in CASES if n.startswith("chapter") == options.chapters]:
        run(name)
    update_readme()


if __name__ == "__main__":
    main()
