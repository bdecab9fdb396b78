"""One training loop for every network of the book.

    weights <- weights - lr(step) * Adam(d loss / d weights)

`batches(step)` and the random numbers of a step depend on the step's number alone. A run that is killed and
resumed is therefore the run that was never interrupted, bit for bit.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.data.errors import DivergedError, InputError, WeightsError
from microlab.data.files import atomic, check, claim, remove
from microlab.data.run_folder import changes, plain
from microlab.training.devices import (
    PRECISIONS,
    autocast,
    from_first_process,
    join_processes,
    mean_over_processes,
    pick_device,
    resolve_precision,
)

STATE = "state.safetensors"  # the checkpoint, in the folder of a run

# Share of the steps done -> share of the learning rate. Functions of the step alone have no state to restore.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "late": lambda share: min(1.0, 2 * (1 - share)),
    "constant": lambda share: 1.0,
}


@dataclass(frozen=True)
class FitConfig:
    """Settings of :func:`fit`. Paper A: Adam, learning rate 1e-4 held constant, batches of 2."""

    steps: int  # optimiser steps
    lr: float = 1e-3  # highest learning rate
    schedule: str = "cosine"  # to zero by 'cosine', 'linear' or 'late' (linear from half-way), or 'constant'
    warmup: int = 0  # steps over which lr rises linearly from zero
    weight_decay: float = 0.0  # decoupled (AdamW)
    betas: tuple[float, float] = (0.9, 0.999)  # decay of Adam's means of the gradient and of its square
    clip: float | None = None  # largest norm of the gradient
    ema: float | None = None  # decay of the exponential moving average of the weights, for example 0.999
    precision: str = "auto"  # 'auto' (as in `resolve_precision`), 'float32', 'bfloat16' or 'float16'
    log_every: int = 50  # steps between rows of the history
    checkpoint_every: int = 500  # steps between checkpoints
    validate_every: int | None = None  # steps between validations; None: checkpoint_every
    patience: int | None = None  # validations without improvement before stopping
    plateau: int | None = None  # lr is lowered after every so many validations in a row without improvement
    plateau_factor: float = 0.1  # by this factor
    monitor: str = "loss"  # entry of the validation's result that decides which weights are best
    maximise: bool = False  # True if a larger monitor is better
    workers: int = 0  # threads that prepare batches ahead
    seed: int = 0  # of dropout and other random layers

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "validate_every", "patience", "plateau"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be a positive number, got {value}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.precision not in ("auto", *PRECISIONS):
            raise InputError(f"precision must be 'auto' or one of {list(PRECISIONS)}, got {self.precision!r}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema must lie in (0, 1), got {self.ema}")
        if not 0 < self.plateau_factor < 1:
            raise InputError(f"plateau_factor must lie in (0, 1), got {self.plateau_factor}")
        if self.warmup < 0 or self.weight_decay < 0 or self.workers < 0:
            raise InputError("warmup, weight_decay and workers must not be negative")

    @classmethod
    def of(cls, settings: Any, **others: Any) -> FitConfig:
        """Settings from the fields of the same names of another dataclass; `others` take precedence."""
        names = {f.name for f in fields(cls)} & {f.name for f in fields(settings)}
        return cls(**({name: getattr(settings, name) for name in names} | others))

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0, before any reduction on a plateau."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr * SCHEDULES[self.schedule](share)


@dataclass
class History:
    """Log of a run: one row per `log_every` steps and per validation."""

    rows: list[dict[str, float]] = field(default_factory=list)
    precision: str = "float32"
    device: str = "cpu"
    best_step: int | None = None  # of the lowest (or highest) validated monitor
    stopped_early: bool = False

    def table(self) -> pd.DataFrame:
        """Columns step, loss (mean since the row before), its parts, lr, seconds, validation_*."""
        return pd.DataFrame(self.rows)


def fit(
    model: nn.Module,
    batches: Callable[[int], Any],
    loss: Callable[[nn.Module, Any], Tensor | dict[str, Tensor]],
    config: FitConfig,
    *,
    folder: str | os.PathLike[str] | None = None,
    validate: Callable[[nn.Module], float | dict[str, float]] | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    resume: bool = True,
    callback: Callable[[nn.Module, int], None] | None = None,
) -> History:
    """Train `model` in place.

    Started by ``torchrun`` the same call trains on several devices: every process takes its share of each
    batch (rows rank, rank + world size, ...), DistributedDataParallel averages the gradients, and the first
    process writes the files.

    Parameters
    ----------
    model : Module
        Ends on the device, with the trained weights: their moving average if `config.ema`, those of the best
        validation if `validate`.
    batches : callable
        ``batches(step)`` is the batch of a step: an array, a tensor, or a tuple, list or dict of them, the
        first axis counting the samples. It must depend on `step` alone (see :func:`shuffled`).
    loss : callable
        ``loss(model, batch)`` is the scalar to lower, or a dict whose entry ``"loss"`` is; the other entries
        are logged.
    config : FitConfig
    folder : path, optional
        Receives ``state.safetensors`` (the whole state, written atomically), ``model.safetensors`` (the
        weights) and ``history.csv``.
    validate : callable, optional
        ``validate(model)``, in evaluation mode and without gradients, is a number to lower, or a dict of
        numbers among them `config.monitor`.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Default: :func:`microlab.training.devices.pick_device`.
    resume : bool
        Continue from the checkpoint in `folder` if there is one; False starts anew.
    callback : callable, optional
        ``callback(model, step)`` every `config.log_every` steps and after the last, with the averaged weights
        if `config.ema`, in evaluation mode and without gradients; for example to show samples.

    Returns
    -------
    History

    Raises
    ------
    InputError
        If the checkpoint belongs to other settings or another network, `folder` holds something else than a
        training, or a file of it was changed.
    ValueError
        If a batch cannot be split evenly among the processes, or `validate` returns no `config.monitor`.
    DivergedError
        If the loss or its gradient is NaN or infinite. The last checkpoint is kept.
    """
    rank, world = join_processes(device)
    target = pick_device(device)
    memory_format = getattr(model, "memory_format", torch.contiguous_format)
    if world > 1 and target.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(target, memory_format=memory_format).train()
    run = _Run(model, config, target, Path(folder) if folder is not None else None, rank, world)
    if resume:
        run.restore()
    else:
        run.forget()
    network = model
    if world > 1:
        network = DistributedDataParallel(model, [target.index] if target.type == "cuda" else None)
    scaler = run.scaler
    validate_every = config.validate_every or config.checkpoint_every
    steps = range(run.step, run.step if run.history.stopped_early else config.steps)
    devices = [target] if target.type == "cuda" else []
    bar = tqdm(initial=run.step, total=config.steps, unit="step", disable=not progress or rank > 0)
    with bar, torch.random.fork_rng(devices):  # the caller's random numbers stay as they were
        for step, batch in zip(steps, _prepared(batches, steps, config.workers)):
            torch.manual_seed(_step_seed(config.seed, step, rank))
            batch = _place(batch, target, memory_format, rank, world)
            lr = config.learning_rate(step) * config.plateau_factor**run.reductions
            run.optimizer.param_groups[0]["lr"] = lr
            with autocast(target, run.history.precision):
                parts = loss(network, batch)
            parts = parts if isinstance(parts, dict) else {"loss": parts}
            values = mean_over_processes(parts, world)
            if not math.isfinite(values["loss"]):
                raise DivergedError(_not_finite("loss", values["loss"], step, run.folder))

            run.optimizer.zero_grad(set_to_none=True)
            scaler.scale(parts["loss"]).backward()
            scaler.unscale_(run.optimizer)
            norm = nn.utils.clip_grad_norm_(run.parameters, config.clip or math.inf)
            if not scaler.is_enabled() and not math.isfinite(norm):
                raise DivergedError(_not_finite("gradient norm", float(norm), step, run.folder))
            scaler.step(run.optimizer)  # float16: skips a step whose gradient overflowed
            scaler.update()
            run.step += 1
            if run.mean is not None:
                run.mean.update_parameters(model)
            run.log(values, lr)
            if callback is not None and (run.step % config.log_every == 0 or run.step == config.steps):
                run.evaluate(lambda model: callback(model, run.step))
            bar.update()
            bar.set_postfix(loss=f"{values['loss']:.4g}", refresh=False)

            last = run.step == config.steps
            if validate is not None and (run.step % validate_every == 0 or last):
                run.validate(validate)
            if last or run.history.stopped_early or run.step % config.checkpoint_every == 0:
                run.save()
            if run.history.stopped_early:
                break
    run.finish()
    return run.history


class _Run:
    """State of a run: weights, optimiser, averaged weights, best weights, history, step."""

    def __init__(
        self,
        model: nn.Module,
        config: FitConfig,
        device: torch.device,
        folder: Path | None,
        rank: int,
        world: int,
    ) -> None:
        self.model, self.config, self.device, self.rank, self.world = model, config, device, rank, world
        self.folder = folder
        if folder is not None and rank == 0:
            claim(folder, "training")
        self.step = 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.mean = _moving_average(model, config.ema) if config.ema else None
        self.shown = model if self.mean is None else self.mean.module  # what is validated and returned
        self.best: dict[str, Tensor] | None = None
        self.best_value = math.nan
        self.validations_since_best = 0
        self.reductions = 0  # of the learning rate, on plateaus
        self.sums: dict[str, float] = {}
        self.summed = 0
        precision = from_first_process(resolve_precision(config.precision, device), world)
        self.history = History(precision=precision, device=str(device))
        self._scale_for_precision()
        self.seconds_before, self.started = 0.0, time.perf_counter()

    def _scale_for_precision(self) -> None:
        # float16 gradients underflow unless the loss is scaled up; the other precisions need no scaling.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.history.precision == "float16")

    def log(self, values: dict[str, float], lr: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            means = {name: total / self.summed for name, total in self.sums.items()}
            seconds = self.seconds_before + time.perf_counter() - self.started
            self.history.rows.append({"step": self.step, **means, "lr": lr, "seconds": round(seconds, 3)})
            self.sums, self.summed = {}, 0
            self._write_history()

    def evaluate(self, function: Callable[[nn.Module], Any]) -> Any:
        """Call a function on the model as it would be used now, in the first process only."""
        if self.rank > 0:
            return None
        training = self.shown.training
        self.shown.eval()
        with torch.no_grad():
            result = function(self.shown)
        self.shown.train(training)
        return result

    def validate(self, validate: Callable[[nn.Module], float | dict[str, float]]) -> None:
        result = self.evaluate(validate)
        if self.rank == 0:
            result = result if isinstance(result, dict) else {self.config.monitor: result}
            result = {name: float(value) for name, value in result.items()}
        result = from_first_process(result, self.world)
        if self.config.monitor not in result:
            raise ValueError(f"validate must return {self.config.monitor!r} (monitor), got {sorted(result)}")
        value = result[self.config.monitor]
        row = {f"validation_{name}": number for name, number in result.items()}
        if not self.history.rows or self.history.rows[-1]["step"] != self.step:
            self.history.rows.append({"step": self.step})
        self.history.rows[-1].update(row)
        self._write_history()
        better = value > self.best_value if self.config.maximise else value < self.best_value
        if better or math.isnan(self.best_value):
            self.best_value, self.history.best_step, self.validations_since_best = value, self.step, 0
            self.best = {name: tensor.clone() for name, tensor in self.shown.state_dict().items()}
        else:
            self.validations_since_best += 1
            if self.config.plateau is not None and self.validations_since_best % self.config.plateau == 0:
                self.reductions += 1
            if self.config.patience is not None and self.validations_since_best >= self.config.patience:
                self.history.stopped_early = True

    def finish(self) -> None:
        """Give the model its final weights, the same in every process."""
        self.model.load_state_dict(self.best or self.shown.state_dict())
        if self.world > 1:  # buffers (batch norm) follow the first process
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        self.model.eval()
        if self.folder is not None and self.rank == 0:
            weights.write_tensors(self.folder / "model.safetensors", self.model.state_dict())

    def save(self) -> None:
        if self.folder is None or self.rank > 0:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.mean is not None:
            tensors |= {f"mean.{name}": tensor for name, tensor in self.mean.state_dict().items()}
        if self.best is not None:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, memory in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in memory.items()}
        facts = {
            "step": self.step,
            "config": asdict(self.config),
            "precision": self.history.precision,
            "best_step": self.history.best_step,
            "best_value": self.best_value,
            "stopped_early": self.history.stopped_early,
            "validations_since_best": self.validations_since_best,
            "reductions": self.reductions,
            "sums": self.sums,
            "summed": self.summed,
            "scaler": self.scaler.state_dict(),
            "seconds": self.seconds_before + time.perf_counter() - self.started,
            "rows": self.history.rows,
        }
        self._write_history()
        # One file, replaced in one step: a kill leaves the old state or the new one, never a mixture.
        weights.write_tensors(self.folder / STATE, tensors, {"run": json.dumps(facts)})

    def restore(self) -> None:
        path = self.folder / STATE if self.folder is not None else None
        if path is None or not path.exists():
            return
        check(path, "remove it to train from the start")
        check(self.folder / "history.csv", "remove it and run again")
        try:
            tensors, metadata = weights.read_tensors(path)
            facts = json.loads(metadata["run"])
        except (WeightsError, KeyError, ValueError) as error:
            reason = str(error).removeprefix(f"{path}: ").removesuffix("; copy it again")
            raise InputError(
                f"{path}: is no whole checkpoint ({reason}); remove it to train from the start"
            ) from None
        self._check_settings(facts["config"], path)
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "mean": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        weights.fill(self.model, path, groups["model"])
        if self.mean is not None:
            weights.fill(self.mean, path, groups["mean"])
        if groups["best"]:
            self.best = {name: tensor.to(self.device) for name, tensor in groups["best"].items()}
        state = self.optimizer.state_dict()
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            if tensor.shape == parameter.shape:  # in the parameter's own memory layout, as it was
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        self.step = facts["step"]
        self.sums, self.summed, self.seconds_before = facts["sums"], facts["summed"], facts["seconds"]
        self.best_value, self.validations_since_best = facts["best_value"], facts["validations_since_best"]
        self.reductions = facts.get("reductions", 0)  # absent from checkpoints older than the setting
        rows = facts.get("rows", [])  # absent from checkpoints older than the entry
        self.history = History(
            rows, facts["precision"], str(self.device), facts["best_step"], facts["stopped_early"]
        )
        self._write_history()
        self._scale_for_precision()
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])

    def forget(self) -> None:
        """Remove what an earlier run left, so that nothing can resume it by mistake."""
        if self.folder is not None and self.rank == 0:
            remove(*(self.folder / name for name in (STATE, "model.safetensors", "history.csv")))

    def _check_settings(self, before: dict[str, Any], path: Path) -> None:
        before = asdict(FitConfig(steps=1)) | before  # settings newer than the checkpoint: their defaults
        free = {"checkpoint_every", "workers"} | ({"steps"} if self.config.schedule == "constant" else set())
        before, now = (
            {name: value for name, value in plain(config).items() if name not in free}
            for config in (before, asdict(self.config))
        )
        if changed := changes(before, now):
            raise InputError(
                f"{path}: belongs to a run with other settings ({', '.join(changed)}); "
                "use another folder, or resume=False to start anew"
            )

    def _write_history(self) -> None:
        if self.folder is None or self.rank > 0:
            return
        columns = list(dict.fromkeys(name for row in self.history.rows for name in row))
        with atomic(self.folder / "history.csv") as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history.rows)


def _moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and floating buffers; the first steps have a shorter memory.

    mean <- d mean + (1 - d) weights,     d = min(decay, (1 + step) / (10 + step))
    """

    def average(means: list[Tensor], values: list[Tensor], step: Tensor) -> None:
        d = min(decay, (1 + int(step)) / (10 + int(step)))
        for mean, value in zip(means, values):
            mean.lerp_(value, 1 - d) if mean.is_floating_point() else mean.copy_(value)

    mean = AveragedModel(model, multi_avg_fn=average, use_buffers=True).eval()
    mean.n_averaged += 1  # the initial weights are the first
    return mean


# ---- batches ---------------------------------------------------------------------------------------------


def shuffled(n: int, batch: int, seed: int = 0) -> Callable[[int], np.ndarray]:
    """Indices of the samples of a step: every epoch is a new permutation of range(n).

    Returns
    -------
    callable
        ``indices(step)``, int64 (batch,); an epoch is ``n // batch`` steps and the rest of a permutation is
        left out.
    """
    if not 1 <= batch <= n:
        raise InputError(f"batch must lie in [1, n = {n}], got {batch}")
    per_epoch = n // batch

    def indices(step: int) -> np.ndarray:
        epoch, turn = divmod(step, per_epoch)
        return np.random.default_rng([seed, epoch]).permutation(n)[turn * batch : (turn + 1) * batch]

    return indices


def _prepared(batches: Callable[[int], Any], steps: range, workers: int) -> Iterator[Any]:
    """Batches in order of their steps, prepared ahead by threads if `workers`."""
    if not workers:
        yield from map(batches, steps)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque(pool.submit(batches, step) for step in steps[: 2 * workers])
        for step in steps:
            if step + 2 * workers < steps.stop:
                ahead.append(pool.submit(batches, step + 2 * workers))
            yield ahead.popleft().result()


def _place(
    batch: Any, device: torch.device, memory_format: torch.memory_format, rank: int, world: int
) -> Any:
    """This process' share of a batch, on the device."""
    if isinstance(batch, dict):
        return {k: _place(v, device, memory_format, rank, world) for k, v in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(_place(v, device, memory_format, rank, world) for v in batch)
    tensor = torch.as_tensor(batch)
    if world > 1:
        if tensor.ndim == 0 or len(tensor) % world:
            raise InputError(f"a batch of shape {tuple(tensor.shape)} cannot be shared by {world} processes")
        tensor = tensor[rank::world]
    if tensor.ndim == 4 and tensor.is_floating_point():
        return tensor.to(device, non_blocking=True).contiguous(memory_format=memory_format)
    return tensor.to(device, non_blocking=True)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _not_finite(what: str, value: float, step: int, folder: Path | None) -> str:
    kept = "" if folder is None else f"; the last checkpoint is kept in {folder}"
    return f"{what} is {value} at step {step}: lower lr, set clip, or check the batch of that step{kept}"
