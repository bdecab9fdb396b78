"""microlab.training.fit: exact resume, two processes equal one, and the effect of each setting."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from microlab.data.weights import read_tensors, write_tensors
from microlab.segment.unet import UNet, boundary_loss
from microlab.training.devices import autocast, pick_device, resolve_precision
from microlab.training.fit import FitConfig, History, fit, shuffled

pytestmark = pytest.mark.usefixtures("one_thread")


class Line(nn.Module):
    """y = weight x + bias."""

    def __init__(self, weight: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


def points(step: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng([0, step]).standard_normal(8).astype(np.float32)
    return x, 3 * x - 1


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def quiet(model: nn.Module, config: FitConfig, **options) -> History:
    options = {"batches": points, "loss": squared_error, "progress": False, "device": "cpu"} | options
    return fit(model, config=config, **options)


# ---- the loop learns -------------------------------------------------------------------------------------


def test_a_line_is_fitted_and_the_history_records_it(tmp_path):
    model = Line()
    history = quiet(model, FitConfig(steps=300, lr=0.1, log_every=50), folder=tmp_path)
    assert model.weight.item() == pytest.approx(3, abs=1e-3)
    assert model.bias.item() == pytest.approx(-1, abs=1e-3)
    table = history.table()
    assert table["step"].tolist() == [50, 100, 150, 200, 250, 300]
    assert table["loss"].iloc[-1] < 1e-4 < table["loss"].iloc[0]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == table["loss"].tolist()
    assert load_file(tmp_path / "model.safetensors")["weight"].item() == model.weight.item()
    assert not model.training  # ready to predict


def test_logged_loss_is_the_mean_since_the_previous_row_and_parts_are_logged():
    losses: list[float] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        value = squared_error(model, batch)
        losses.append(value.item())
        return {"loss": value, "root": value.sqrt()}

    rows = quiet(Line(), FitConfig(steps=7, log_every=4), loss=loss).rows
    assert [row["step"] for row in rows] == [4, 7]
    assert rows[0]["loss"] == pytest.approx(np.mean(losses[:4]), rel=1e-6)
    assert rows[1]["loss"] == pytest.approx(np.mean(losses[4:]), rel=1e-6)
    assert rows[1]["root"] == pytest.approx(np.mean(np.sqrt(losses[4:])), rel=1e-6)


def test_without_schedule_the_steps_are_those_of_adam():
    model, twin = Line(), Line()
    quiet(model, FitConfig(steps=20, lr=0.05, schedule="constant"))
    adam = torch.optim.Adam(twin.parameters(), lr=0.05)
    for step in range(20):
        adam.zero_grad()
        squared_error(twin, tuple(map(torch.from_numpy, points(step)))).backward()
        adam.step()
    assert model.weight.item() == pytest.approx(twin.weight.item(), rel=1e-6)


def test_schedules_follow_their_formulas():
    cosine = FitConfig(steps=110, lr=2.0, warmup=10)
    assert cosine.learning_rate(0) == pytest.approx(0.2)
    assert cosine.learning_rate(9) == pytest.approx(2.0)
    assert cosine.learning_rate(60) == pytest.approx(1.0)
    assert cosine.learning_rate(110) == pytest.approx(0.0)
    linear = FitConfig(steps=100, lr=2.0, schedule="linear")
    assert linear.learning_rate(25) == pytest.approx(1.5)
    assert FitConfig(steps=100, lr=2.0, schedule="constant").learning_rate(99) == 2.0
    rows = quiet(Line(), FitConfig(steps=4, lr=2.0, schedule="linear", log_every=1)).rows
    assert [row["lr"] for row in rows] == [2.0, 1.5, 1.0, 0.5]


def test_a_late_schedule_holds_for_half_of_the_steps_as_the_cyclegan_of_zhu_et_al():
    late = FitConfig(steps=200, lr=2e-4, schedule="late")
    published = [2e-4 * (1 - max(0, step - 100) / 100) for step in range(200)]
    assert [late.learning_rate(step) for step in range(200)] == pytest.approx(published)


def test_the_callback_gets_the_running_mean_in_evaluation_mode_and_changes_nothing(tmp_path):
    calls = []

    def callback(model, step):
        torch.rand(5)  # a callback may use random numbers
        calls.append((step, model.weight.item(), model.training, torch.is_grad_enabled()))

    config = FitConfig(steps=10, lr=0.1, ema=0.8, log_every=4)
    watched, plain = Line(), Line()
    quiet(watched, config, callback=callback)
    quiet(plain, config)
    assert [(step, training, grad) for step, _, training, grad in calls] == [
        (step, False, False) for step in (4, 8, 10)
    ]
    assert calls[-1][1] == pytest.approx(watched.weight.item())  # the mean becomes the model
    assert torch.equal(watched.weight, plain.weight)


def test_clipping_bounds_the_gradient():
    def norm(clip: float | None) -> float:
        model = Line(weight=50.0)
        quiet(model, FitConfig(steps=1, clip=clip))
        return math.hypot(*(p.grad.item() for p in model.parameters()))

    assert norm(None) > 10
    assert norm(0.5) == pytest.approx(0.5, rel=1e-4)


def test_the_running_mean_follows_its_formula():
    path: list[float] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        path.append(model.weight.item())
        return squared_error(model, batch)

    model = Line()
    quiet(model, FitConfig(steps=30, lr=0.1, ema=0.8, schedule="constant"), loss=loss)
    plain = Line()
    quiet(plain, FitConfig(steps=30, lr=0.1, schedule="constant"))
    mean = 0.0
    for step, weight in enumerate([*path[1:], plain.weight.item()], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    assert model.weight.item() == pytest.approx(mean, rel=1e-5)
    assert mean != pytest.approx(plain.weight.item(), rel=1e-3)


def test_early_stopping_ends_with_the_best_weights(tmp_path):
    def distance_from_two(model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"loss": abs(model.weight.item() - 2), "weight": model.weight.item()}

    config = FitConfig(
        steps=500, lr=0.05, schedule="constant", validate_every=5, patience=3, log_every=5, seed=1
    )
    model = Line()
    history = quiet(model, config, validate=distance_from_two, folder=tmp_path)
    table = history.table()
    assert history.stopped_early
    assert table["step"].iloc[-1] < 500
    best = table["validation_loss"].idxmin()
    assert history.best_step == table["step"][best]
    assert table["step"].iloc[-1] == history.best_step + 3 * 5
    assert model.weight.item() == pytest.approx(table["validation_weight"][best], rel=1e-6)
    again = Line()  # a finished run is only read
    assert quiet(again, config, validate=distance_from_two, folder=tmp_path).rows == history.rows
    assert again.weight.item() == model.weight.item()


def test_a_larger_monitor_can_be_the_better_one():
    scores = iter([0.1, 0.9, 0.3, 0.2])
    config = FitConfig(steps=4, validate_every=1, patience=2, monitor="iou", maximise=True)
    history = quiet(Line(), config, validate=lambda model: {"iou": next(scores)})
    assert history.best_step == 2
    assert history.stopped_early


# ---- resume ----------------------------------------------------------------------------------------------


def interrupted(folder: Path, kill_at: int | None) -> None:
    """A run with everything that has state: dropout, batch norm, running mean, best weights, warm-up."""

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        image = np.random.default_rng([5, step]).random((2, 1, 24, 24), np.float32)
        return image, (image > 0.5).astype(np.float32)

    def validate(model: nn.Module) -> float:
        image, mask = map(torch.from_numpy, batches(10_000))
        return boundary_loss(model(image), mask).item()

    torch.set_num_threads(1)
    config = FitConfig(
        steps=17,
        lr=0.01,
        warmup=3,
        weight_decay=0.01,
        clip=1.0,
        ema=0.9,
        precision="float32",
        log_every=4,
        checkpoint_every=5,
        validate_every=3,
        seed=7,
    )
    model = UNet(width=4, depth=3, dropout=0.3)
    quiet(model, config, batches=batches, loss=pixel_loss, folder=folder, validate=validate)


def pixel_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return boundary_loss(model(batch[0]), batch[1])


def start(call: str, **environment: str) -> subprocess.Popen[str]:
    """Run one of the functions of this file in a process of its own."""
    line = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_fit as t; t.{call}"
    variables = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-c", line], env=variables | environment, stderr=subprocess.PIPE, text=True
    )


def finish(*processes: subprocess.Popen[str]) -> list[int]:
    """Wait for the processes and return their exit codes; none outlives the test."""
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode in (0, -signal.SIGKILL), errors
        return [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()


def without_seconds(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_the_unbroken_run_bit_for_bit(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    interrupted(whole, None)
    for kill_at in (8, 13):  # killed twice, each time between checkpoints
        assert finish(start(f"interrupted(t.Path({str(broken)!r}), {kill_at})")) == [-signal.SIGKILL]
        assert not (broken / "model.safetensors").exists()
    interrupted(broken, None)
    for name in ("model.safetensors", "state.safetensors"):
        expected, resumed = load_file(whole / name), load_file(broken / name)
        assert expected.keys() == resumed.keys()
        assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    rows = without_seconds(whole / "history.csv")
    assert rows == without_seconds(broken / "history.csv")
    assert [int(row["step"]) for row in rows] == [3, 4, 6, 8, 9, 12, 15, 16, 17]
    assert not list(broken.glob(".*.part*"))  # no temporary files stay behind


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    config = FitConfig(steps=20, checkpoint_every=5)
    replace = os.replace

    def full_disk(source, target):
        if Path(target).name == "state.safetensors" and len(calls) == 2:
            raise OSError(28, "No space left on device")
        calls.append(target) if Path(target).name == "state.safetensors" else None
        replace(source, target)

    calls: list[object] = []
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        quiet(Line(), config, folder=tmp_path)
    monkeypatch.undo()
    resumed_at: list[int] = []
    quiet(Line(), config, folder=tmp_path, batches=lambda step: resumed_at.append(step) or points(step))
    assert resumed_at == list(range(10, 20))


def test_resume_false_starts_from_scratch_and_other_settings_are_refused(tmp_path):
    quiet(Line(), FitConfig(steps=10), folder=tmp_path)
    with pytest.raises(ValueError, match=r"lr 0\.001 -> 0\.5.*resume=False"):
        quiet(Line(), FitConfig(steps=10, lr=0.5), folder=tmp_path)
    with pytest.raises(ValueError, match="another network"):
        quiet(nn.Linear(3, 3), FitConfig(steps=10), folder=tmp_path)
    model = Line()
    quiet(model, FitConfig(steps=10, lr=0.5), folder=tmp_path, resume=False)
    fresh = Line()
    quiet(fresh, FitConfig(steps=10, lr=0.5))
    assert model.weight.item() == fresh.weight.item()


def test_an_abandoned_restart_does_not_resume_the_earlier_run(tmp_path):
    quiet(Line(), FitConfig(steps=10), folder=tmp_path)

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quiet(Line(), FitConfig(steps=10), folder=tmp_path, resume=False, batches=stop)
    steps: list[int] = []
    quiet(
        Line(), FitConfig(steps=10), folder=tmp_path, batches=lambda step: steps.append(step) or points(step)
    )
    assert steps == list(range(10))


def test_a_constant_schedule_can_be_continued(tmp_path):
    settings = {"lr": 0.05, "schedule": "constant", "log_every": 10}
    quiet(Line(), FitConfig(steps=10, **settings), folder=tmp_path)
    model, whole = Line(), Line()
    quiet(model, FitConfig(steps=30, **settings), folder=tmp_path)
    quiet(whole, FitConfig(steps=30, **settings))
    assert model.weight.item() == whole.weight.item()


def scripted(values: list[float]):
    """A validation that returns scripted results, one after the other."""
    script = iter(values)
    return lambda model: next(script)


VALIDATED = [5.0, 4.0, 4.5, 4.0, 4.2, 3.0, 3.1, 3.2, 3.3, 3.4, 2.0, 2.0]  # lower is better


@pytest.mark.parametrize(("plateau", "factor"), [(1, 0.5), (2, 0.1), (3, 0.1)])
def test_a_plateau_lowers_the_rate_as_torchs_scheduler_does(plateau, factor):
    config = FitConfig(
        steps=12,
        lr=0.1,
        schedule="constant",
        log_every=1,
        validate_every=1,
        plateau=plateau,
        plateau_factor=factor,
    )
    rows = quiet(Line(), config, validate=scripted(VALIDATED)).rows
    optimizer = torch.optim.Adam(Line().parameters(), lr=0.1)
    # torch counts the tolerated validations, so one less; threshold 0: any improvement counts.
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=plateau - 1, threshold=0, eps=0
    )
    expected = []
    for value in VALIDATED:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    assert [row["lr"] for row in rows] == pytest.approx(expected)
    assert min(expected) < 0.1


def test_the_lowered_learning_rate_is_kept_on_resume(tmp_path):
    settings = {"lr": 0.1, "schedule": "constant", "log_every": 1, "validate_every": 1, "plateau": 2}
    whole, broken = Line(), Line()
    history = quiet(whole, FitConfig(steps=12, **settings), validate=scripted(VALIDATED))
    for steps, results in ((5, VALIDATED[:5]), (8, VALIDATED[5:8]), (12, VALIDATED[8:])):
        resumed = quiet(
            broken, FitConfig(steps=steps, **settings), folder=tmp_path, validate=scripted(results)
        )
    assert resumed.table()["lr"].tolist() == history.table()["lr"].tolist()
    assert broken.weight.item() == whole.weight.item()


def test_a_checkpoint_older_than_a_setting_is_resumed_at_its_default(tmp_path):
    settings = {"schedule": "constant", "log_every": 10}
    quiet(Line(), FitConfig(steps=10, **settings), folder=tmp_path)
    state = tmp_path / "state.safetensors"
    tensors, metadata = read_tensors(state)
    facts = json.loads(metadata["run"])
    del facts["config"]["plateau"], facts["config"]["plateau_factor"], facts["reductions"]
    write_tensors(state, tensors, {"run": json.dumps(facts)})
    with pytest.raises(ValueError, match="plateau None -> 3"):
        quiet(Line(), FitConfig(steps=20, plateau=3, **settings), folder=tmp_path)
    history = quiet(Line(), FitConfig(steps=20, **settings), folder=tmp_path)
    assert history.rows[-1]["step"] == 20


# ---- what goes wrong -------------------------------------------------------------------------------------


def test_a_loss_that_is_nan_names_its_step_and_keeps_the_checkpoint(tmp_path):
    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = points(step)
        return x, y * (np.nan if step == 13 else 1)

    with pytest.raises(FloatingPointError, match=r"loss is nan at step 13.*last checkpoint"):
        quiet(Line(), FitConfig(steps=20, checkpoint_every=5), folder=tmp_path, batches=batches)
    state = load_file(tmp_path / "state.safetensors")
    assert state["optimizer.0.step"].item() == 10
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path):
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model.weight - model.weight.detach()).sqrt().sum()  # value 0, slope infinite

    model = Line(weight=1.0)
    with pytest.raises(FloatingPointError, match=r"gradient norm is (inf|nan) at step 0"):
        quiet(model, FitConfig(steps=3), loss=loss, folder=tmp_path)
    assert model.weight.item() == 1.0
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 5, "lr": -1.0}, "lr"),
        ({"steps": 5, "schedule": "step"}, "schedule"),
        ({"steps": 5, "precision": "int8"}, "precision"),
        ({"steps": 5, "ema": 1.0}, "ema"),
        ({"steps": 5, "clip": 0.0}, "clip"),
        ({"steps": 5, "patience": 0}, "patience"),
        ({"steps": 5, "plateau": 0}, "plateau"),
        ({"steps": 5, "plateau_factor": 1.0}, "plateau_factor"),
        ({"steps": 5, "workers": -1}, "workers"),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**settings)


def test_a_validation_without_its_monitor_is_named():
    with pytest.raises(ValueError, match=r"'loss'.*iou"):
        quiet(Line(), FitConfig(steps=2, validate_every=1), validate=lambda model: {"iou": 1.0})


# ---- reproducible ----------------------------------------------------------------------------------------


def test_threads_that_prepare_batches_change_nothing():
    plain, ahead = Line(), Line()
    quiet(plain, FitConfig(steps=25, lr=0.1))
    quiet(ahead, FitConfig(steps=25, lr=0.1, workers=3))
    assert plain.weight.item() == ahead.weight.item()


def test_the_callers_random_state_is_unchanged():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    quiet(Line(), FitConfig(steps=5))
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_is_a_permutation_and_epochs_differ():
    indices = shuffled(12, 4, seed=5)
    epochs = [np.concatenate([indices(3 * epoch + k) for k in range(3)]) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert np.array_equal(indices(4), shuffled(12, 4, seed=5)(4))
    with pytest.raises(ValueError, match="batch"):
        shuffled(3, 4)


# ---- precision and devices -------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_mixed_precision_computes_in_half_and_keeps_weights_in_float32(precision, dtype):
    model = nn.Linear(4, 1)
    dtypes = set()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        output = model(batch)
        dtypes.add(output.dtype)
        return output.float().square().mean()

    def batches(step: int) -> np.ndarray:
        return np.random.default_rng(step).random((8, 4), np.float32)

    history = quiet(model, FitConfig(steps=30, lr=0.05, precision=precision), batches=batches, loss=loss)
    assert dtypes == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history.precision == precision
    assert history.rows[-1]["loss"] < 0.2


def test_float16_scales_the_loss_so_that_small_gradients_survive():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    quiet(
        model,
        FitConfig(steps=5, lr=0.1, schedule="constant", precision="float16"),
        batches=lambda step: np.ones((4, 1), np.float32),
        loss=lambda model, batch: (model(batch) * 1e-6).float().mean() * 1e-2,  # slope 1e-8: 0 in float16
    )
    assert model.weight.item() < 0.9


@pytest.mark.parametrize(("native", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_computes_in_bfloat16_only_where_that_is_native(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == precision
    assert resolve_precision("float16", torch.device("cpu")) == "float16"  # an explicit choice is used


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_a_gpu_computes_in_the_half_precision_of_its_generation(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == precision
    assert resolve_precision("auto", torch.device("mps")) == "float32"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision"):
        autocast(torch.device("cpu"), "float8")


def test_device_takes_a_name_and_refuses_a_missing_one():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="'toaster'"):
        pick_device("toaster")


# ---- several processes -----------------------------------------------------------------------------------


def pair(folder: Path) -> None:
    """Two runs, one after the other: group norm uses single images, batch norm the share of its process."""

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.random.default_rng([9, step]).random((4, 1, 16, 16), np.float32)
        return image, (image > 0.6).astype(np.float32)

    def size(model: nn.Module) -> float:
        return float(sum(p.square().sum() for p in model.parameters()))

    torch.set_num_threads(1)
    for norm in ("group", "batch"):
        model = UNet(width=4, depth=2, norm=norm)
        config = FitConfig(
            steps=6, lr=0.003, precision="float32", log_every=2, checkpoint_every=3, validate_every=3
        )
        quiet(model, config, batches=batches, loss=pixel_loss, folder=folder / norm, validate=size)
        write_tensors(folder / norm / f"rank{os.environ.get('RANK', '')}.safetensors", model.state_dict())


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    call = f"pair(t.Path({str(tmp_path / 'two')!r}))"
    assert finish(*(start(call, RANK=rank, LOCAL_RANK=rank, **torchrun) for rank in "01")) == [0, 0]
    pair(tmp_path / "one")
    for norm in ("group", "batch"):
        first, second, written = (
            load_file(tmp_path / "two" / norm / f"{name}.safetensors") for name in ("rank0", "rank1", "model")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(torch.equal(first[name], written[name]) for name in first)
    first = load_file(tmp_path / "two" / "group" / "rank0.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "group" / "rank.safetensors").items():
        # Sums are taken in another order, and Adam divides by small numbers.
        assert torch.allclose(first[name], tensor, rtol=1e-3, atol=2e-5), name
    rows, expected = (without_seconds(tmp_path / k / "group" / "history.csv") for k in ("two", "one"))
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == ["2", "3", "4", "6"]
    losses = [[float(row["loss"]) for row in table if row["loss"]] for table in (rows, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_named():
    from microlab.training.fit import _place

    with pytest.raises(ValueError, match=r"\(3, 2\).*2 processes"):
        _place(np.zeros((3, 2)), torch.device("cpu"), torch.contiguous_format, 0, 2)
