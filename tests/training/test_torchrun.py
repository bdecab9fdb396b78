"""`torchrun -m microlab train`: two processes share a library, a training and one file of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from microlab.data import weights
from microlab.segment.registry import load_segmenter

SIZE = ["--recipe", "lines", "--structures", "2", "--images", "4", "--steps", "4", "--width", "2"]

pytestmark = pytest.mark.slow


def train(folder: Path, *arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    call = [
        sys.executable,
        *launcher,
        "-m",
        "microlab",
        "train",
        folder,
        *SIZE,
        "--device",
        "cpu",
        *arguments,
    ]
    process = subprocess.run(
        list(map(str, call)), env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("two")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return folder, train(folder, launcher=launcher).stdout


def test_one_process_builds_the_library_and_prints_where_the_weights_are(two):
    folder, output = two
    assert output.count("weights: ") == 1
    assert len(list((folder / "library" / "structures").iterdir())) == 2
    assert not list(folder.rglob("*.part*"))
    card = load_segmenter(weights=folder / "labour-free.safetensors").card
    assert card["training"]["steps"] == 4
    assert weights.card(folder / "labour-free.safetensors")["sha256"]


def test_the_loss_is_that_of_one_process_but_for_batch_norm(two, tmp_path):
    folder, _ = two
    train(tmp_path, "--library", folder / "library")
    together, alone = (
        pd.read_csv(place / "training" / "history.csv")["loss"].iloc[-1] for place in (folder, tmp_path)
    )
    # Batch norm sees 4 images instead of 8 on CPUs; without it tests/training/test_fit.py holds them to 1e-3.
    assert together == pytest.approx(alone, rel=0.02)
