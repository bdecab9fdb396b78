"""The command `doctor`: what microlab finds on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from microlab.data.errors import USER_ERRORS, one_line

EXTRAS = {  # of pyproject.toml -> what it is for
    "book": "build the book",
    "lab": "read the chapters in JupyterLab",
    "teach": "make and grade assignments",
    "formats": "read dm3, dm4, emd, ser, mrc and other files of microscopes",
    "cluster": "segment and simulate on a Dask cluster (--scheduler)",
    "vgg": "the feature space of VGG16 in chapter 06",
    "encoders": "paper B's encoder in microlab.segment.constituents",
    "test": "run the tests",
}

# Older versions have holes that a damaged image could use; pyproject.toml admits what Colab ships.
WITHOUT_HOLES = {"pillow": "13.0"}

Finding = tuple[str, str, str]  # what, what was found, the mend ("" where nothing is wrong)


def doctor() -> None:
    """Print versions, cores, device, folders and what is missing.

    Looks at versions, cores and threads, the device that networks compute on, folders of data and weights,
    and the optional extras. What has to be mended begins with two exclamation marks and ends with what to do;
    the exit code is then 1. Paste all of it into a bug report. Nothing is changed.

    \b
    Example:
      microlab doctor
    """
    problems = 0
    for title, examine in SECTIONS.items():
        typer.echo(title)
        for what, found, mend in _safe(examine):
            problems += bool(mend)
            typer.echo(f"{'!!' if mend else '  '} {what:20} {found}{f'; {mend}' if mend else ''}")
    typer.echo(f"\n{problems} to mend" if problems else "\nNothing to mend.")
    if problems:
        raise typer.Exit(1)


def _safe(examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings; an error of the machine or of a setting is one of them."""
    try:
        yield from examine()
    except USER_ERRORS as error:
        yield "error", *_halves(one_line(error))


def _halves(line: str) -> tuple[str, str]:
    """An error's line, as what is wrong and what to do."""
    wrong, separator, mend = line.rpartition("; ")
    return (wrong, mend) if separator else (line, "correct it")


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.version import Version

    import microlab

    yield "microlab", f"{microlab.__version__} in {Path(microlab.__file__).parent}", ""
    python = ".".join(map(str, sys.version_info[:3]))
    yield "Python", f"{python} in {sys.prefix}, {platform.platform()}", ""
    if not _requirements():
        yield "installation", "none: microlab runs from a folder", "pip install -e . in that folder"
    for requirement in map(Requirement, _requirements()):
        if requirement.marker is not None:
            continue  # of an extra
        found = _version(requirement.name)
        install = f"pip install '{requirement}'"
        if found is None:
            yield requirement.name, "missing", install
        elif not requirement.specifier.contains(found, prereleases=True):
            yield requirement.name, f"{found}, needed is {requirement.specifier}", install
        elif Version(found) < Version(safe := WITHOUT_HOLES.get(requirement.name, "0")):
            install = f"pip install '{requirement.name}>={safe}'"
            yield requirement.name, f"{found}, which has known security holes", install
        else:
            yield requirement.name, found, ""


def _threads() -> Iterator[Finding]:
    from microlab.data.parallel import cores

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "not known"
    yield "cores of the machine", str(os.cpu_count()), ""
    yield "by affinity", f"{affinity} (taskset, batch systems)", ""
    yield "by container", _container_limit(), ""
    yield from _attempt("cores used", cores, "{}, at most as many processes and threads".format)
    for name in ("MICROLAB_CORES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY"):
        yield name, os.environ.get(name, "not set"), ""


def _container_limit() -> str:
    """The share of the processors that a container may use (cgroup), in words."""
    unified = Path("/sys/fs/cgroup/cpu.max")
    quota, period = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    try:
        if unified.is_file():
            share, per = unified.read_text().split()
        else:
            share, per = quota.read_text().strip(), period.read_text().strip()
        return "no limit" if share in ("max", "-1") else f"{int(share) / int(per):g} (cgroup)"
    except (OSError, ValueError):
        return "no limit found"


def _device() -> Iterator[Finding]:
    import torch

    try:
        from microlab.training.devices import hardware, pick_device, resolve_precision
    except USER_ERRORS:  # MICROLAB_CORES, which the section above names
        return

    device = pick_device()
    yield "networks compute on", f"{device}: {hardware(device)}", ""
    yield "precision", resolve_precision("auto", device), ""
    yield "threads of torch", str(torch.get_num_threads()), ""
    cuda = torch.version.cuda
    idle = cuda is None and shutil.which("nvidia-smi") is not None
    mend = "install a torch with CUDA: make TORCH=gpu, or see pytorch.org" if idle else ""
    yield "CUDA of this torch", cuda or "none, a build for processors only", mend


def _folders() -> Iterator[Finding]:
    from microlab.data import datasets, weights
    from microlab.training.profiles import profile

    yield "shipped weights", f"{', '.join(weights.available())} in {weights.FOLDER}", ""
    for name in weights.available():
        yield from _attempt(f"weights {name}", lambda name=name: weights.load_state(name))
    yield from _attempt("MICROLAB_PROFILE", profile, str)
    yield _place("temporary files", Path(tempfile.gettempdir()))
    yield _place("cache of downloads", datasets.cache_folder())
    given = os.environ.get("MICROLAB_DATA")
    if given and not Path(given).is_dir():
        yield "MICROLAB_DATA", f"{given}, no such folder", "correct or unset it"
        return
    yield "MICROLAB_DATA", f"{given}, found" if given else "not set: data sets are in the cache only", ""
    for name in datasets.DATASETS:
        yield from _attempt(
            f"data set {name}",
            lambda name=name: datasets.available(name),
            lambda here, name=name: "here" if here else f"not here: microlab datasets fetch {name}",
        )


def _attempt(
    what: str, action: Callable[[], Any], found: Callable[[Any], str] | None = None
) -> Iterator[Finding]:
    """What went wrong in an action, or what `found` makes of its result, if it is given."""
    try:
        result = action()
    except USER_ERRORS as error:
        yield what, *_halves(one_line(error))
    else:
        if found is not None:
            yield what, found(result), ""


def _place(what: str, folder: Path) -> Finding:
    """Whether files can be written in a folder, which need not exist yet."""
    nearest = next(place for place in (folder, *folder.parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return (
            what,
            f"{folder}, cannot be written ({error.strerror})",
            "free space or change its access rights",
        )
    return what, f"{folder}, {'can be written' if nearest == folder else 'will be made'}", ""


def _extras() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in _requirements()]
    extras = metadata.metadata("microlab").get_all("Provides-Extra") if requirements else []
    for extra in sorted(extras or []):
        needed = [
            each.name
            for each in requirements
            if each.marker is not None and each.marker.evaluate({"extra": extra}) and each.name != "microlab"
        ]
        missing = [name for name in needed if _version(name) is None]
        state = f"missing {', '.join(missing)}: pip install 'microlab[{extra}]'" if missing else "installed"
        yield extra, f"{state} ({EXTRAS[extra]})" if extra in EXTRAS else state, ""


def _requirements() -> list[str]:
    try:
        return metadata.requires("microlab") or []
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Versions": _versions,
    "Cores and threads": _threads,
    "Device": _device,
    "Folders": _folders,
    "Optional extras": _extras,
}
