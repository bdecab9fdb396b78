"""There are never more processes and threads than tasks or cores, and one that dies takes nothing with it."""

import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
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


@pytest.mark.parametrize("jobs", [0, -2, -100])
def test_jobs_that_are_no_number_of_processes_are_an_error(jobs):
    with pytest.raises(InputError, match=f"got {jobs}"):
        parallel.workers(jobs, 3)


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


# --- processes that die -----------------------------------------------------------------------------------

WORK = """
import os, signal, sys, time
from pathlib import Path
from microlab.data.parallel import imap, imap_unordered

place = Path(sys.argv[1])

def work(k):
    with open(place / f"begun {k}", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.05)
    if k in DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    if k in ONCE and not (place / f"died {k}").exists():
        (place / f"died {k}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return k

def lost(k):
    return f"lost {k}"
"""


def start(place: Path, code: str, **patches: object) -> subprocess.Popen:
    """A script with two processes at work, in a process group of its own."""
    head = "".join(f"{name} = {value!r}\n" for name, value in {"DEADLY": (), "ONCE": (), **patches}.items())
    script = place / "script.py"
    script.write_text(
        head + WORK + "\nif __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(code), "    ")
    )
    environment = {**os.environ, "MICROLAB_CORES": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, script, place],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets what it starts in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def begun(place: Path, k: int) -> int:
    path = place / f"begun {k}"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.slow
def test_only_the_task_that_kills_its_process_is_lost(tmp_path):
    code = "print(*sorted(imap_unordered(work, [(k,) for k in range(12)], 2, lost=lost), key=str), sep='\\n')"
    process = start(tmp_path, code, DEADLY=(3, 7), ONCE=(5,))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert set(out.splitlines()) == {*map(str, {*range(12)} - {3, 7}), "lost 3", "lost 7"}
    assert begun(tmp_path, 3) >= 2  # tried again alone before it is blamed


@pytest.mark.slow
def test_results_in_order_survive_a_process_that_dies_once(tmp_path):
    process = start(tmp_path, "print(*imap(work, [(k,) for k in range(10)], 2))", ONCE=(0, 4))
    out, err = process.communicate(timeout=120)
    assert out.split() == [str(k) for k in range(10)], err


@pytest.mark.slow
def test_without_a_substitute_a_deadly_task_is_one_error(tmp_path):
    code = """
    try:
        list(imap_unordered(work, [(k,) for k in range(4)], 2))
    except OSError as error:
        print(error)
    """
    process = start(tmp_path, code, DEADLY=(2,))
    out, err = process.communicate(timeout=120)
    assert out.strip() == parallel.DIED, err


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "parent"])
def test_an_interrupted_run_ends_at_once_and_its_processes_say_nothing(tmp_path, whom):
    """Ctrl-C reaches every process of the group; a kill reaches one, and the others must notice."""
    code = """
    try:
        list(imap_unordered(work, [(k,) for k in range(2000)], 2))
    except KeyboardInterrupt:
        print("stopped")
    """
    process = start(tmp_path, code)
    deadline = time.monotonic() + 60
    while not begun(tmp_path, 6) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    if whom == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    out, err = process.communicate(timeout=30)
    if whom == "group":
        assert out.strip() == "stopped"
        assert err == ""
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
