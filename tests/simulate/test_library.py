"""The library of structures: its parameters, and that interrupted builds neither lose nor repeat anything."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import microlab
from microlab.data.errors import InputError
from microlab.data.files import MARK
from microlab.simulate import library, voronoi
from microlab.simulate.phasefield import Parameters, grow

SMALL = library.Ranges(shape=(48, 64), grains=(4, 8), steps=(20, 60))
N = 10


def build(folder: Path, n: int = N, **options) -> Path:
    return library.build(folder, n, **{"ranges": SMALL, "jobs": 1, "progress": False, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a library by its relative path, but for the mark, which tells what was written when."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != MARK)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def run_script(script: str, *arguments: object, **options) -> subprocess.Popen:
    """Python in its own process group, so that it and its workers can be killed together."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, text=True, **options)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A library built without interruption."""
    folder = tmp_path_factory.mktemp("unbroken")
    build(folder)
    return folder


def test_manifest_has_one_row_per_structure_and_names_its_files(unbroken):
    manifest = library.read_manifest(unbroken)
    assert manifest["index"].tolist() == list(range(N))
    for row in manifest.itertuples():
        drawn = library.draw_parameters(row.index, 0, SMALL)
        assert (row.seed, row.grains, row.alpha, row.steps) == (
            drawn.seed,
            drawn.grains,
            drawn.alpha,
            drawn.steps,
        )
        assert (row.threshold, row.kappa, row.dt) == (0.75, 1.0, 0.1)
        assert (row.height, row.width, row.microlab) == (48, 64, microlab.__version__)
        for path in (row.phi, row.grain_map, row.mask):
            assert tifffile.imread(unbroken / path).shape == (48, 64)


def test_a_structure_is_the_grain_growth_its_row_describes(unbroken):
    row = library.read_manifest(unbroken).iloc[3]
    shape = (row.height, row.width)
    seeds = voronoi.regular_seeds(row.grains, shape, row.alpha, row.seed)
    growth = grow(voronoi.tessellate(seeds, shape), row.steps, Parameters(kappa=row.kappa, dt=row["dt"]))
    structure = library.load(unbroken, 3)
    # Threads may add in another order, so equal up to rounding.
    np.testing.assert_allclose(structure.phi, growth.phi(), atol=1e-5)
    assert (structure.grain_map != growth.grain_map()).mean() < 1e-3
    np.testing.assert_array_equal(structure.boundary_mask, structure.phi < row.threshold)
    assert 0 < structure.boundary_mask.mean() < 0.5
    assert row.grains_left == len(np.unique(structure.grain_map))
    types = [structure.phi.dtype, structure.grain_map.dtype, structure.boundary_mask.dtype]
    assert types == [np.float32, np.int32, bool]


def test_images_have_types_that_fiji_opens(unbroken):
    place = unbroken / "structures" / "000003"
    phi, grains, mask = (tifffile.imread(place / f"{name}.tif") for name in ("phi", "grains", "mask"))
    assert (phi.dtype, grains.dtype, mask.dtype) == (np.float32, np.uint16, np.uint8)
    assert set(np.unique(mask)) == {0, 255}


def test_parameters_cover_their_ranges_and_depend_on_index_and_seed_only():
    drawn = pd.DataFrame([vars(library.draw_parameters(i, 5)) for i in range(2000)])
    ranges = library.Ranges()
    for name in ("grains", "alpha", "steps"):
        low, high = getattr(ranges, name)
        assert low <= drawn[name].min() < low + 0.01 * (high - low) + 1e-9
        assert high >= drawn[name].max() > high - 0.01 * (high - low) - 1e-9
        # uniform: standard error of the mean is 0.65 % of the range
        assert drawn[name].mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert drawn.seed.nunique() == 2000
    assert library.draw_parameters(7, 5) == library.draw_parameters(7, 5)
    assert library.draw_parameters(7, 5) != replace(library.draw_parameters(7, 6))


def test_a_larger_n_extends_the_library_without_changing_existing_structures(unbroken, tmp_path):
    build(tmp_path, 4)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "structures").rglob("*")}
    build(tmp_path)
    assert all(path.stat().st_mtime_ns == time_before for path, time_before in before.items())
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.slow
def test_killed_with_its_workers_alive_and_restarted_it_equals_an_unbroken_build(tmp_path):
    """SIGKILL to a build with two processes, then to a second build next to its orphaned workers."""
    script = """
        import sys
        from microlab.simulate import library
        ranges = library.Ranges(shape=(64, 64), grains=(4, 8), steps=(150, 250))
        library.build(sys.argv[1], 12, ranges=ranges, jobs=int(sys.argv[2]), progress=False)
    """
    broken, whole, groups = tmp_path / "broken", tmp_path / "whole", []

    def kill_when(complete: int, jobs: int) -> None:
        process = run_script(script, broken, jobs)
        groups.append(process.pid)
        while len(list(broken.glob("structures/[0-9]*[0-9]/structure.json"))) < complete:
            assert process.poll() is None, "finished before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)  # to the parent only: its workers keep running
        assert process.wait() == -signal.SIGKILL

    try:
        kill_when(complete=3, jobs=2)
        finished = {p: p.stat().st_mtime_ns for p in broken.glob("structures/[0-9]*[0-9]")}
        kill_when(complete=7, jobs=1)
        assert not (broken / "manifest.csv").exists()
        for folder in (broken, whole):
            build(folder, 12, ranges=replace(SMALL, shape=(64, 64), steps=(150, 250)))
    finally:
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
    assert len(finished) >= 3
    # Nothing was repeated.
    assert all(place.stat().st_mtime_ns == time_before for place, time_before in finished.items())
    assert contents(broken) == contents(whole)  # nothing was lost, and no temporary files remain
    assert library.read_manifest(broken)["index"].tolist() == list(range(12))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
@pytest.mark.slow
def test_killed_at_every_single_write_it_recovers(unbroken, tmp_path):
    """A child dies by SIGKILL before or after its k-th flush or rename, for every k; then it is repeated."""
    script = """
        import os, signal, sys, torch
        torch.set_num_threads(1)  # no thread pool may exist before a fork
        from pathlib import Path
        from microlab.simulate import library

        ranges = library.Ranges(shape=(48, 64), grains=(4, 8), steps=(20, 60))
        calls, limit = 0, 0

        def dying(function):
            def call(*arguments):
                global calls
                calls += 1
                if calls == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
                function(*arguments)
                if calls == -limit:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call

        build = lambda folder: library.build(folder, 2, ranges=ranges, jobs=1, progress=False)
        for k in range(1, 1000):
            deaths = 0
            for limit in (k, -k):
                folder = Path(sys.argv[1]) / str(limit)
                child = os.fork()
                if child == 0:
                    os.fsync, os.replace = dying(os.fsync), dying(os.replace)
                    build(folder)
                    os._exit(0)
                status = os.waitpid(child, 0)[1]
                deaths += os.WIFSIGNALED(status)
                calls = 0
                build(folder)
            if not deaths:
                print(k)
                break
    """
    process = run_script(script, tmp_path, stdout=subprocess.PIPE)
    points = int(process.communicate()[0])
    assert process.returncode == 0
    assert points > 10  # 4 files and 1 rename for each of 2 structures, settings and manifest beside
    expected = {
        name: data
        for name, data in contents(unbroken).items()
        if "structures/" not in name or int(name[11:17]) < 2
    }
    expected["manifest.csv"] = b"\n".join(expected["manifest.csv"].split(b"\n")[:3]) + b"\n"
    for folder in tmp_path.iterdir():
        assert contents(folder) == expected, f"killed at write {folder.name}"
    assert len(list(tmp_path.iterdir())) == 2 * points


def test_a_full_disk_gives_one_clear_error_and_keeps_what_is_complete(unbroken, tmp_path, monkeypatch):
    flush, calls = os.fsync, iter(range(1000))

    def flush_to_a_small_disk(descriptor):
        if (
            next(calls) == 17
        ):  # after mark, settings and its entry, three structures of four files, and two files of the fourth
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush_to_a_small_disk)
        with pytest.raises(
            OSError, match=r"No space left on device.*; 3 of 10 structures are complete"
        ) as caught:
            build(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)
    assert library.read_manifest(tmp_path)["index"].tolist() == [0, 1, 2]
    assert not list(tmp_path.rglob("*.part*"))
    build(tmp_path)  # the disk has space again
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.slow
def test_two_processes_meeting_a_real_write_limit_give_one_clear_error(tmp_path):
    pytest.importorskip("resource")
    script = """
        import resource, sys
        from microlab.simulate import library
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # phi.tif has 12 288 bytes and more
        ranges = library.Ranges(shape=(48, 64), grains=(4, 8), steps=(20, 60))
        try:
            library.build(sys.argv[1], 4, ranges=ranges, jobs=2, progress=False)
        except OSError as error:
            print(error)
    """
    process = run_script(script, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    assert f"[Errno {errno.EFBIG}] library {tmp_path} is not finished, File too large" in output
    assert "; 0 of 4" in output
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.part*"))


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt: is a file"):
        build(tmp_path / "notes.txt")
    with pytest.raises(OSError, match=r"is not finished, Not a directory.*; 0 of 10"):
        build(tmp_path / "notes.txt" / "library")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root writes anywhere: let the system call refuse

        def refuse(path, *_):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"is not finished, Permission denied.*; 0 of 10"):
        build(folder)
    assert not (folder / "structures").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1}, r"holds a run with other settings \(seed 0 -> 1\)"),
        ({"ranges": replace(SMALL, steps=(20, 61))}, r"steps \[20, 60\] -> \[20, 61\]"),
        ({"ranges": replace(SMALL, threshold=0.7)}, r"threshold 0.75 -> 0.7"),
    ],
)
def test_another_seed_or_other_ranges_in_the_same_folder_are_refused(unbroken, other, message):
    before = contents(unbroken)
    with pytest.raises(InputError, match=message):
        build(unbroken, **other)
    assert contents(unbroken) == before


def test_a_structure_with_a_missing_file_is_rebuilt(unbroken, tmp_path):
    build(tmp_path)
    (tmp_path / "structures" / "000004" / "mask.tif").unlink()
    with pytest.raises(InputError, match="no complete structure 4"):
        library.load(tmp_path, 4)
    build(tmp_path)
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.slow
def test_a_dask_scheduler_builds_the_same_library(unbroken, cluster, tmp_path):
    assert cluster.scheduler_address.startswith("tcp://")
    build(tmp_path, scheduler=cluster.scheduler_address)
    assert contents(tmp_path) == contents(unbroken)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="scheduler nonsense://1 does not answer"):
        build(tmp_path / "library", scheduler="nonsense://1", jobs=-1)
    assert not (tmp_path / "library").exists()  # a refused call leaves nothing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grains": (9, 3)}, r"grains must be \(least, most\) .* got \(9, 3\)"),
        ({"grains": (0, 3)}, "grains must be"),
        ({"grains": (5, 70000)}, "most <= 65536"),
        ({"alpha": (0.2, 0.8)}, r"alpha must be .* most <= 0.75"),
        ({"steps": (0, 10)}, "steps must be"),
        ({"shape": (64,)}, "shape must be two positive sizes"),
        ({"threshold": 1.0}, "threshold must lie in"),
        ({"dt": 0.3}, "largest stable dt is 0.2"),
    ],
)
def test_impossible_ranges_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        library.Ranges(**wrong)


def test_wrong_arguments_are_named(unbroken, tmp_path):
    with pytest.raises(InputError, match="n must be at least 1"):
        build(tmp_path, 0)
    with pytest.raises(InputError, match="seed must be 0 or more"):
        build(tmp_path, seed=-1)
    with pytest.raises(InputError, match=r"holds no manifest.csv"):
        library.read_manifest(tmp_path)
    with pytest.raises(InputError, match="no complete structure 10"):
        library.load(unbroken, N)


def test_a_damaged_image_is_named(tmp_path):
    build(tmp_path, 1)
    (tmp_path / "structures" / "000000" / "phi.tif").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"phi.tif: is damaged .* move .* away and run .* again"):
        library.load(tmp_path, 0)
    with pytest.raises(InputError, match=r"phi.tif: is damaged"):
        build(tmp_path, 1)


def test_settings_file_describes_the_library(unbroken):
    settings = json.loads((unbroken / "settings.json").read_text())
    assert settings["seed"] == 0
    assert settings["grains"] == [4, 8]
