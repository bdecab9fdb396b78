"""Many image files at once: here, in processes of this machine, or on a Dask cluster.

    files  ->  one folder of results each, by any worker and in any order  ->  one report, in the files' order

Images know nothing of each other. So a file that fails is told of and the others are still done, and every
worker makes the same result: it loads the weights by name and writes through `image_results`.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from microlab.data.errors import USER_ERRORS, one_line
from microlab.data.parallel import imap_unordered
from microlab.pipelines import image_results, report
from microlab.pipelines.image_results import Options
from microlab.segment import edge_segmenter, segmenter
from microlab.segment.edge_segmenter import TEMRoute
from microlab.segment.segmenter import Network
from microlab.training import devices

METHODS = {
    "labour-free": (segmenter.load_network, segmenter.DEFAULT_WEIGHTS),
    "tem": (edge_segmenter.load_route, edge_segmenter.DEFAULT_WEIGHTS),
}
# Warnings are caught, and torch counts its threads, once for a whole process: threads of a Dask worker wait.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What became of one image file.

    Attributes
    ----------
    file, folder : Path
        The image, and where its results lie.
    section : dict or None
        From `report.section`. None if the image failed.
    line : str
        The result in half a sentence, or what is wrong with the file.
    notes : list of str
    error : Exception or None
    """

    file: Path
    folder: Path
    section: dict | None
    line: str
    notes: list[str]
    error: Exception | None = None


@dataclass(frozen=True)
class Batch:
    """What became of all files, in their order; `report` is None if every file failed."""

    outcomes: list[Outcome]
    report: Path | None

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def grains(self) -> pd.DataFrame:
        """One row for each grain, as in ``grains.csv``, with the image's name in front."""
        done = [outcome.folder for outcome in self.outcomes if outcome.error is None]
        tables = {folder.name: pd.read_csv(folder / "grains.csv") for folder in done}
        if not tables:
            return pd.DataFrame(columns=["image"])
        return pd.concat(tables, names=["image"]).reset_index("image").reset_index(drop=True)


def segment(
    paths: list[Path | str],
    out: Path | str,
    *,
    method: str = "labour-free",
    weights: str | os.PathLike | None = None,
    options: Options | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    tell: Callable[[Outcome, int], None] = lambda outcome, number: None,
) -> Batch:
    """Segment image files, or folders of them, and write one report: `microlab segment` in Python.

    Parameters
    ----------
    paths : list of path
        Image files, or folders of them.
    out : path
        Gets a folder for every image, as `image_results.segment_file` writes it, and ``report.html``.
    method : {"labour-free", "tem"}
    weights : str or path, optional
        Shipped weights, or a file (for "tem" a folder) of your own.
    options : batch.Options, optional
    jobs : int
        Processes on this machine; -1 for one per core. One process computes with all cores, several with one
        thread each.
    scheduler : str, optional
        Address of a Dask scheduler (``"tcp://host:8786"``) whose workers segment the images instead. They
        must see images, weights and `out` under the same paths.
    tell : callable
        Gets every outcome as it comes, and the number of files.

    Returns
    -------
    Batch

    Raises
    ------
    ValueError, OSError
        If there is no image, the device or the weights are wrong, `out` cannot be made, or the scheduler does
        not answer. A file that fails raises nothing: it is an outcome with an error.
    """
    options, out = options or Options(), Path(out)
    files = image_results.find_images([Path(path) for path in paths])
    network = load(method, weights, options.device)  # what is wrong for all images fails here, once
    out.mkdir(parents=True, exist_ok=True)
    folders = image_results.result_folders(files, out)
    away = jobs != 1 or scheduler is not None
    if away:  # a worker may stand in another folder
        weights = str(Path(weights).absolute()) if weights and Path(weights).exists() else weights
        tasks = [(file.absolute(), folder.absolute()) for file, folder in zip(files, folders)]
    else:
        tasks = list(zip(files, folders))
    threads = 1 if away else None
    work = [(k, *task, method, weights, options, threads) for k, task in enumerate(tasks)]
    found: dict[int, Outcome] = {}

    def keep(k: int, outcome: Outcome) -> None:
        found[k] = replace(outcome, file=files[k], folder=folders[k])
        tell(found[k], len(files))

    try:
        for k, outcome in imap_unordered(_segment_one, work, jobs, scheduler, lost=_lost):
            keep(k, outcome)
    except BrokenProcessPool:  # joblib gives up all that was not finished, whichever process died
        for task in work:
            if task[0] not in found:
                keep(*_lost(*task))
    outcomes = [found[k] for k in range(len(files))]
    sections = [outcome.section for outcome in outcomes if outcome.section is not None]
    failures = [outcome.line for outcome in outcomes if outcome.section is None]
    if not sections:
        return Batch(outcomes, None)
    page = report.write(out / "report.html", sections, image_results.card_of(network), failures=failures)
    return Batch(outcomes, page)


def load(
    method: str = "labour-free", weights: str | os.PathLike | None = None, device: str | None = None
) -> Network | TEMRoute:
    """The network of a method, loaded once in a process as long as its files stay the same.

    Raises
    ------
    ValueError
        If method, device or weights are wrong.
    """
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, got {method!r}")
    devices.pick_device(device)
    name = os.fspath(weights or METHODS[method][1])
    path = Path(name)
    files = sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
    return _loaded(method, name, tuple((f.stat().st_mtime_ns, f.stat().st_size) for f in files))


@functools.lru_cache(maxsize=1)
def _loaded(method: str, name: str, stamp: tuple) -> Network | TEMRoute:
    return METHODS[method][0](name)


def _segment_one(
    k: int, file: Path, folder: Path, method: str, weights: str | None, options: Options, threads: int | None
) -> tuple[int, Outcome]:
    """Segment file number `k`; runs in a worker, where no mistake in the file may stop the others."""
    with _ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            result = image_results.segment_file(file, folder, load(method, weights, options.device), options)
            page, line = report.section(result), report.one_line(result)
            return k, Outcome(file, folder, page, line, result.notes)
        except USER_ERRORS as error:
            return k, Outcome(file, folder, None, one_line(error), [], error)
        finally:
            torch.set_num_threads(before)


def _lost(k: int, file: Path, folder: Path, *_: object) -> tuple[int, Outcome]:
    """The outcome of an image whose worker died."""
    error = OSError(f"{file}: its worker died, perhaps for lack of memory; try it alone or with fewer")
    return k, Outcome(file, folder, None, str(error), [], error)
