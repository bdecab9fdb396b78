"""Long commands, killed twenty times at random moments, end in the bytes of a run that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dark_lines import grid
from faults import BESIDE

from microlab.data import images

KILLS = 20
pytestmark = pytest.mark.slow

# Small settings. What stands before the line "go" is done once, in a process that is copied (forked) for each
# run: so the modules are not loaded over and over, and kills fall into the work.
SCRIPTS = {
    "simulate": """
from microlab.simulate import library
--- go
ranges = library.Ranges(shape=(64, 64), grains=(6, 9), steps=(150, 250))
library.build(out, 24, ranges=ranges, jobs=1, progress=False)
""",
    "simulate with two processes": """
from microlab.simulate import library
--- go
ranges = library.Ranges(shape=(64, 64), grains=(6, 9), steps=(150, 250))
library.build(out, 24, ranges=ranges, jobs=2, progress=False)
""",
    "segment": """
from microlab.pipelines.segment_folder import segment_folder
--- go
assert not segment_folder([inputs / "fields"], out, method="ridge", skip_existing=True).failed
""",
    "train": """
from microlab.pipelines import train_appearances
from microlab.simulate import library
train_appearances.STRUCTURES = library.Ranges(shape=(80, 80), grains=(8, 12), steps=(20, 40))
small = {"structures": 3, "held_out": 1, "width": 2, "depth": 2, "crop": 64, "batch": 1, "start": None}
config = train_appearances.TrainingConfig(**small, steps=60)
--- go
real = train_appearances.fitting
train_appearances.fitting = lambda *a, **k: real(*a, **k | {"checkpoint_every": 5, "workers": 0})
train_appearances.train(out, config, device="cpu", jobs=1, progress=False)
""",
    "train-pairs": """
from dataclasses import replace
from microlab.data.pairs import read_labelled
from microlab.pipelines.train_pair_model import profile_config, train_pair_model
config = profile_config("smoke")
config = replace(
    config,
    vqvae=replace(config.vqvae, steps=20, checkpoint_every=4),
    prior=replace(config.prior, steps=20, checkpoint_every=4),
)
pairs, classes = read_labelled(inputs / "pictures", inputs / "masks")
--- go
train_pair_model(pairs, out, config, classes=classes, device="cpu", progress=False)
""",
    "adapt": """
from dataclasses import replace
from microlab.pipelines.adapt import stages, training
from microlab.pipelines.adapt.settings import profile_settings
settings = replace(profile_settings("smoke", "render"), views=2)
training.EVERY["checkpoint_every"] = 2
--- go
stages.adapt([inputs / "fields" / "a.png"], out, settings, jobs=1, progress=False)
""",
}
SERVER = """
import os, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
inputs = Path(sys.argv[1])
{before}
for line in sys.stdin:
    out, child = Path(line.rstrip()), os.fork()
    if child == 0:
        os.setsid()
        code = 1
        try:
            exec(sys.argv[2])
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# Differ from run to run: times, dates and minutes on cards, pages with times.
TIMES = (*BESIDE, "history.csv", "state.safetensors", "estimate.json", "report.html", "run.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    place, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    for k, name in enumerate(("a", "b", "c", "d", "e", "f")):
        images.write_image(place / "fields" / f"{name}.png", grid(6, 6 + k)[0])
    for name in ("a", "b", "c"):
        (place / "masks").mkdir(exist_ok=True)
        images.write_image(place / "pictures" / f"{name}.png", rng.random((64, 64)))
        tifffile.imwrite(place / "masks" / f"{name}.tif", (rng.random((64, 64)) > 0.5).astype(np.uint8))
    return place


class Server:
    """A process with the modules of a script that copies itself for each run of it."""

    def __init__(self, script: str, inputs: Path, errors: Path) -> None:
        before, after = SCRIPTS[script].split("--- go\n")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MICROLAB_CORES": "2"}
        self.errors = errors
        with open(errors, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(before=before), inputs, after],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def start(self, out: Path) -> int:
        """Begin a run; its process."""
        print(out, file=self.process.stdin, flush=True)
        child = self.process.stdout.readline()
        assert child, self.errors.read_text()
        return int(child)

    def end(self) -> int:
        """The exit code of the run, or minus the signal that ended it."""
        return int(self.process.stdout.readline())

    def finish(self, out: Path) -> float:
        """Run to the end; the seconds of the work."""
        begin = time.monotonic()
        self.start(out)
        assert self.end() == 0, self.errors.read_text()
        return time.monotonic() - begin


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file but those that hold times; weights in place of their cards, which hold dates and minutes."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in TIMES)
    cards = {path.with_suffix(".json") for path in out.rglob("*.safetensors")}
    names = {path.relative_to(out).as_posix(): path for path in files if path not in cards}
    return {name: path.read_bytes() for name, path in names.items() if name != "work/trained.json"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_twenty_kills_end_in_the_same_bytes(script, inputs, tmp_path):
    server = Server(script, inputs, tmp_path / "errors.txt")
    seconds = server.finish(tmp_path / "whole")
    rng = np.random.default_rng(list(SCRIPTS).index(script))
    broken, killed = [tmp_path / "broken-0"], 0
    while killed < KILLS:
        child = server.start(broken[-1])
        time.sleep(rng.uniform(0, seconds / 4))
        with suppress(ProcessLookupError):  # it has ended already
            os.kill(child, signal.SIGKILL)  # only this one process: its workers must notice
        code = server.end()
        assert code in (0, -signal.SIGKILL), server.errors.read_text()
        killed += code != 0
        if code == 0:  # nothing is left to be killed
            broken.append(tmp_path / f"broken-{len(broken)}")
        assert len(broken) <= KILLS, "the runs end before they are killed"
    server.finish(broken[-1])
    server.process.kill()
    assert "Traceback" not in server.errors.read_text()
    whole = bytes_of(tmp_path / "whole")
    for out in broken:
        assert bytes_of(out) == whole
        assert not [path for path in out.rglob("*") if ".part" in path.name]
