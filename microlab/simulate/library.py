"""A library of simulated polycrystals on disk: parallel, seeded, resumable.

    structure(index) = grain growth of a Voronoi polycrystal, with parameters drawn from (seed, index)

A structure depends only on the library's seed and its own index, so any worker may make it, in any order. It
is written into a temporary folder that is renamed when complete. Whatever stops a build, the next call keeps
what is complete, by size and checksum, and makes the rest:

    folder/settings.json                     seed and ranges; a build with others is refused
    folder/structures/000123/phi.tif         float32
                             grains.tif      uint16, ids from 0
                             mask.tif        uint8, 255 on boundaries
                             structure.json  what was drawn, and size and SHA-256 of the images
    folder/manifest.csv                      one row for each complete structure
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import tifffile
from tqdm.auto import tqdm

import microlab
from microlab.data.errors import InputError
from microlab.data.files import atomic, check, read_json, sha256
from microlab.data.parallel import check_jobs, imap_unordered
from microlab.data.run_folder import RunFolder, plain
from microlab.simulate import topology, voronoi
from microlab.simulate.phasefield import GrainGrowth, Parameters

FILES = {"phi": "phi.tif", "grain_map": "grains.tif", "mask": "mask.tif"}
RECORD = "structure.json"
MEND = "move {} away and run microlab simulate again"
UNFINISHED = re.compile(r"(\d{6,}\.)?[0-9a-f]{32}\.part")  # folders that a stopped build leaves


@dataclass(frozen=True)
class Ranges:
    """What the structures of a library have in common, and the ranges from which the rest is drawn.

    Pairs are (least, most), both included, and drawn uniformly. The defaults lie around paper A's
    512 x 512 pixels, 112 grains and 1000 steps.

    Raises
    ------
    InputError
        If a range is empty or outside what the simulation can do.
    """

    shape: tuple[int, int] = (512, 512)  # pixels
    grains: tuple[int, int] = (80, 150)  # number of seeds
    alpha: tuple[float, float] = (0.0, 0.7)  # regularity of the seeds
    steps: tuple[int, int] = (200, 1500)  # time steps of growth
    coalesced: tuple[float, float] = (0.0, 0.0)  # pairs of neighbours joined before growth, per grain
    threshold: float = 0.75  # boundary where phi is lower
    kappa: float = 1.0  # gradient energy coefficient
    dt: float = 0.1  # time step, in units in which the kinetic coefficient and the pixel are 1

    def __post_init__(self) -> None:
        limits = {"grains": (1, 65536), "alpha": (0.0, voronoi.MAX_ALPHA), "steps": (1, np.inf)}
        limits["coalesced"] = (0.0, 0.9)
        for name, (least, most) in limits.items():  # 65536: what the 16 bits of grains.tif can tell apart
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise InputError(
                    f"{name} must be (least, most) with {least} <= least <= most <= {most}, got {(low, high)}"
                )
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InputError(f"shape must be two positive sizes (H, W), got {self.shape}")
        height, width = self.shape
        if self.grains[1] > height * width:
            raise InputError(f"grains must not outnumber the pixels of {height} x {width}, got {self.grains}")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold must lie in (0, 1), got {self.threshold}")
        Parameters(kappa=self.kappa, dt=self.dt)  # refuses an unstable dt


@dataclass(frozen=True)
class StructureParameters:
    """Everything that determines one structure."""

    index: int  # place in the library
    seed: int  # of the structure's seeds
    grains: int  # at the start
    alpha: float
    steps: int
    threshold: float
    kappa: float
    dt: float
    shape: tuple[int, int]
    coalesced: float


@dataclass(frozen=True)
class Structure:
    """One simulated polycrystal.

    Attributes
    ----------
    phi : (H, W) float32
        Sum of squared order parameters, about 1 inside grains.
    grain_map : (H, W) int32
        Grain ids 0..n-1. Grains that vanished leave their ids unused.
    boundary_mask : (H, W) bool
        True on boundaries.
    parameters : StructureParameters
    """

    phi: np.ndarray
    grain_map: np.ndarray
    boundary_mask: np.ndarray
    parameters: StructureParameters


def draw_parameters(index: int, seed: int = 0, ranges: Ranges | None = None) -> StructureParameters:
    """Parameters of structure `index` of the library with this `seed`.

    Parameters
    ----------
    index : int
        Place in the library, from 0. It does not matter what was drawn for the others.
    seed : int
        Seed of the library, 0 or more.
    ranges : Ranges, optional
        By default ``Ranges()``.
    """
    ranges = ranges or Ranges()
    rng = np.random.default_rng([seed, index])
    return StructureParameters(
        index=index,
        seed=int(rng.integers(2**32)),
        grains=int(rng.integers(*ranges.grains, endpoint=True)),
        alpha=float(rng.uniform(*ranges.alpha)),
        steps=int(rng.integers(*ranges.steps, endpoint=True)),
        threshold=ranges.threshold,
        kappa=ranges.kappa,
        dt=ranges.dt,
        shape=tuple(ranges.shape),
        coalesced=float(rng.uniform(*ranges.coalesced)),
    )


def simulate_structure(parameters: StructureParameters) -> Structure:
    """Grow the polycrystal that `parameters` describe."""
    p = parameters
    seeds = voronoi.regular_seeds(p.grains, p.shape, p.alpha, p.seed)
    start = topology.coalesce(voronoi.tessellate(seeds, p.shape), p.coalesced, p.seed)
    growth = GrainGrowth(start, Parameters(kappa=p.kappa, dt=p.dt)).run(p.steps)
    return Structure(growth.phi(), growth.grain_map(), growth.boundary_mask(p.threshold), p)


def build(
    folder: str | Path,
    n: int,
    *,
    seed: int = 0,
    ranges: Ranges | None = None,
    jobs: int = -1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Path:
    """Simulate the structures 0..n-1 of a library, or those that are missing.

    Only one build may work in a folder at a time.

    Parameters
    ----------
    folder : path
        Folder of the library; created if missing.
    n : int
        Number of structures. A later call with a larger `n` extends the library.
    seed : int
        Seed of the library, 0 or more.
    ranges : Ranges, optional
        By default ``Ranges()``.
    jobs : int
        Processes on this machine, each with one thread; -1 for one per core. A process takes about 0.4 GB
        at 512 x 512 pixels (measured with 150 grains).
    scheduler : str, optional
        Address of a Dask scheduler (``"tcp://host:8786"``) whose workers make the structures instead. They
        must see `folder` under the same path.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path of the manifest, ``folder/manifest.csv``.

    Raises
    ------
    InputError
        If an argument is wrong, `folder` is a file, it holds something else or a library of another seed or
        other ranges, or a file of it was changed.
    OSError
        If the library cannot be written (full disk, no permission). What is complete is kept.
    """
    folder, ranges = Path(folder).absolute(), ranges or Ranges()
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}")
    check_jobs(jobs, scheduler)  # before there is a folder
    try:
        _open_library(folder, seed, ranges)
        drawn = [draw_parameters(index, seed, ranges) for index in range(n)]
        tasks = [(folder, p) for p in drawn if not _is_complete(_structure_folder(folder, p.index), p)]
        work = imap_unordered(_make, tasks, jobs, scheduler, threads=1)
        for _ in tqdm(work, desc="structures", total=n, initial=n - len(tasks), disable=not progress):
            pass
        return _write_manifest(folder)
    except OSError as error:
        with suppress(OSError, InputError):  # the rows of what is complete, if the disk takes them
            _write_manifest(folder)
        complete = 0
        for index in range(n):
            with suppress(OSError, InputError):
                complete += _is_complete(_structure_folder(folder, index))
        reason, name = error.strerror or str(error), error.filename2 or error.filename
        raise OSError(
            error.errno,
            f"library {folder} is not finished, {reason}{f' ({name})' if name else ''}; {complete} of {n} "
            "structures are complete and kept. Remove the cause and repeat the call",
        ) from error


def read_manifest(folder: str | Path) -> pd.DataFrame:
    """Table of a library, one row per structure, with file paths relative to `folder`.

    Raises
    ------
    InputError
        If there is no manifest in `folder`, it is damaged or was changed, or a row stands twice.
    """
    path = Path(folder) / "manifest.csv"
    if not path.is_file():
        raise InputError(f"folder {folder} holds no manifest.csv: give a library that microlab simulate made")
    mend = "remove it and run microlab simulate again"
    check(path, mend)
    try:
        table = pd.read_csv(path)
    except ValueError:  # empty, or no table
        table = pd.DataFrame()
    if "index" not in table or table["index"].dtype.kind != "i" or table["index"].duplicated().any():
        raise InputError(f"{path}: is no manifest of a library; {mend}")
    return table


def load(folder: str | Path, index: int) -> Structure:
    """Read structure `index` of a library.

    Raises
    ------
    InputError
        If the library has no such structure, or one of its files is damaged.
    """
    place = _structure_folder(Path(folder), index)
    if not _is_complete(place):
        raise InputError(f"library {folder} has no complete structure {index}: see its manifest.csv")
    images = {name: tifffile.imread(place / file) for name, file in FILES.items()}
    record = _record(place)
    parameters = {name: record[name] for name in StructureParameters.__dataclass_fields__}
    parameters["shape"] = tuple(parameters["shape"])
    return Structure(
        images["phi"],
        images["grain_map"].astype(np.int32),
        images["mask"] > 0,
        StructureParameters(**parameters),
    )


def _open_library(folder: Path, seed: int, ranges: Ranges) -> None:
    """Make the folders, refuse those of another library, and clear what a stopped build left behind."""
    RunFolder(folder, {"seed": seed, **asdict(ranges)})
    structures = folder / "structures"
    structures.mkdir(exist_ok=True)
    for leftover in structures.iterdir():
        if UNFINISHED.fullmatch(leftover.name):
            _discard(leftover)


def _make(folder: Path, parameters: StructureParameters) -> int:
    """Simulate one structure and put it in its place; runs in a worker."""
    structure = simulate_structure(parameters)
    _write_structure(folder, structure)
    return parameters.index


def _write_structure(folder: Path, structure: Structure) -> None:
    """Write into a temporary folder, then rename it: a structure is there completely or not at all."""
    place = _structure_folder(folder, structure.parameters.index)
    part = place.with_name(f"{place.name}.{uuid4().hex}.part")
    images = {
        "phi": structure.phi,
        "grain_map": structure.grain_map.astype(np.uint16),
        "mask": structure.boundary_mask.astype(np.uint8) * 255,
    }
    record = {
        **asdict(structure.parameters),
        "grains_left": len(np.unique(structure.grain_map)),
        "microlab": microlab.__version__,
        "files": {},
    }
    try:
        part.mkdir()
        for name, image in images.items():
            tiff = BytesIO()  # written to a file directly, a full disk would be an OSError without a reason
            tifffile.imwrite(tiff, image)
            file = part / FILES[name]
            _write(file, tiff.getvalue())
            record["files"][file.name] = _facts(file)
        record = plain(record)
        _write(part / RECORD, json.dumps(record | {"sha256": _digest(record)}, indent=1).encode())
        if place.exists() and not _is_complete(place):  # somebody removed files from it
            for file in sorted(place.iterdir()):
                new = part / file.name
                if not (file.is_file() and new.is_file() and file.read_bytes() == new.read_bytes()):
                    raise InputError(f"{file}: is no file of this library; {MEND.format(place)}")
            _discard(place)
        try:
            os.replace(part, place)
        except OSError:
            if not _is_complete(place):  # else a worker that outlived a killed build came first with the same
                raise
    finally:
        _discard(part)


def _write_manifest(folder: Path) -> Path:
    """Rows of all complete structures, read from the structures themselves, so that none can be lost."""
    rows = []
    for place in sorted((folder / "structures").glob("[0-9]*[0-9]")):
        if not (place.name.isdecimal() and _is_complete(place)):
            continue
        record = _record(place)
        height, width = record.pop("shape")
        version = record.pop("microlab")
        del record["files"]
        paths = {name: (place / file).relative_to(folder).as_posix() for name, file in FILES.items()}
        rows.append({**record, "height": height, "width": width, **paths, "microlab": version})
    path = folder / "manifest.csv"
    _write(path, pd.DataFrame(rows).to_csv(index=False).encode())
    return path


def _structure_folder(folder: Path, index: int) -> Path:
    return folder / "structures" / f"{index:06d}"


def _record(place: Path) -> dict:
    """What `_write_structure` noted about a structure."""
    path = place / RECORD
    record = read_json(path, MEND.format(place))
    if not isinstance(record, dict) or record.pop("sha256", None) != _digest(record):
        raise InputError(f"{path}: is damaged or was changed; {MEND.format(place)}")
    return record


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _is_complete(place: Path, parameters: StructureParameters | None = None) -> bool:
    """Whether a structure, which `parameters` determine, has all its files.

    Raises
    ------
    InputError
        If a file is not what was written: what happens to it is the user's choice.
    """
    if not all(os.path.isfile(place / file) for file in (*FILES.values(), RECORD)):  # never raises
        return False
    record = _record(place)
    expected = {"index": int(place.name)} if parameters is None else plain(asdict(parameters))
    if any(record[name] != value for name, value in expected.items()):
        raise InputError(f"{place}: holds a structure of another library; {MEND.format('it')}")
    for file, facts in record["files"].items():
        if facts != _facts(place / file):
            raise InputError(f"{place / file}: is damaged or was changed; {MEND.format(place)}")
    return True


def _facts(file: Path) -> dict:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _write(path: Path, data: bytes) -> None:
    with atomic(path) as partial:
        partial.write_bytes(data)


def _discard(place: Path) -> None:
    """Remove a folder if it is there, renamed first: who still writes into it cannot publish it any more."""
    away = place.with_name(f"{uuid4().hex}.part")
    try:
        os.replace(place, away)
    except OSError:  # it is not there, or the disk fails
        away = place
    shutil.rmtree(away, ignore_errors=True)
