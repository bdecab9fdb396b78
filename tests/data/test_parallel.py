"""There are never more processes and threads than tasks or cores."""

import os
import platform
import subprocess
import sys

import pytest

from microlab.data import parallel
from microlab.data.errors import InputError


@pytest.mark.parametrize(
    ("jobs", "tasks", "expected"), [(-1, 100, 4), (-1, 2, 2), (3, 100, 3), (9, 100, 4), (1, 5, 1), (2, 0, 1)]
)
def test_workers_are_at_most_cores_and_tasks(monkeypatch, jobs, tasks, expected):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    monkeypatch.setattr(parallel, "effective_n_jobs", lambda jobs: 4)
    assert parallel.workers(jobs, tasks) == expected


def test_zero_jobs_are_an_error():
    with pytest.raises(InputError, match="got 0"):
        parallel.workers(0, 3)


@pytest.mark.parametrize("count", ["two", "0", "-1", "1.5", ""])
def test_an_invalid_number_of_cores_is_named(monkeypatch, count):
    monkeypatch.setenv("MICROLAB_CORES", count)
    with pytest.raises(InputError, match=f"MICROLAB_CORES .* got '{count}'"):
        parallel.cores.__wrapped__()


def run(code: str, **environment: str) -> str:
    environment_kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "MICROLAB_CORES")}
    environment_kept["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code], env={**environment_kept, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_threads_sleep_while_waiting_unless_the_user_sets_otherwise():
    code = "import microlab, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert run(code) == "passive"
    assert run(code, OMP_WAIT_POLICY="active") == "active"


def test_the_user_can_set_the_number_of_cores():
    code = (
        "from microlab.data.parallel import cores, workers; print(cores(), workers(-1, 99), workers(6, 99))"
    )
    assert run(code, MICROLAB_CORES="7").split()[::2] == ["7", "6"]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int(run(code).split()[0]) <= count


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_freed_memory_is_kept_whatever_dask_asked_for():
    """Arrays of 1 MB, one after another, are mapped anew (256 pages of 4 kB) only before the first call."""
    code = """
import resource
import numpy as np
from microlab.data.parallel import imap

def faults(k):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(2**18, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(0), *imap(faults, [(1,), (2,)], 1))
"""
    before, _, after = map(int, run(code, MALLOC_TRIM_THRESHOLD_="65536").split())
    assert before > 50 * 200
    assert after < 500
