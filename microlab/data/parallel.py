"""The one pool of processes, on this machine or on a Dask cluster, and the cores that it shares out.

There are never more processes than tasks or cores, and each computes with its share of the cores: as many
threads as cores for one, one thread each for as many processes as cores.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed, effective_n_jobs

from microlab.data.errors import InputError

T = TypeVar("T")

# Torch counts its threads once for a whole process: calls in threads of one Dask worker wait for each other.
_ONE_AT_A_TIME = threading.Lock()

CONNECT_SECONDS = 10  # after which a Dask scheduler that is silent does not answer


def check_jobs(jobs: int) -> None:
    """Raise an InputError if `jobs` is no number of processes."""
    if jobs == 0:
        raise InputError("jobs must be a number of processes, or -1 for one per core, got 0")


def imap_unordered(
    function: Callable[..., T],
    tasks: Sequence[tuple],
    jobs: int = -1,
    scheduler: str | None = None,
    *,
    threads: int | None = None,
    lost: Callable[..., T] | None = None,
) -> Iterator[T]:
    """Call a function on each task, here or on a cluster, and yield the results as they come.

    Parameters
    ----------
    function : callable
        Of a module, so that workers can import it.
    tasks : sequence of tuple
        Arguments of each call.
    jobs : int
        Processes on this machine, at most one per core; -1 for one per core.
    scheduler : str, optional
        Address of a Dask scheduler whose workers make the calls instead.
    threads : int, optional
        Threads of each call; by default one in a Dask worker, and a share of the cores in a process.
    lost : callable, optional
        ``lost(*task)`` is the result of a task that killed every Dask worker it was given to. By default that
        is an error.

    Raises
    ------
    InputError
        If `jobs` is 0, `scheduler` does not answer, or Dask is not installed.
    """
    check_jobs(jobs)
    if not tasks:
        return  # without starting a worker
    if scheduler is None:
        yield from _in_processes(function, tasks, jobs, threads, "generator_unordered")
        return
    try:
        from dask.distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise InputError('scheduler needs Dask: pip install "dask[distributed]"') from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler {scheduler} does not answer: is that its address? ({error})") from error
    with client:
        futures = {client.submit(_call, function, task, threads or 1, pure=False): task for task in tasks}
        for future in as_completed(futures):
            if lost is not None and isinstance(future.exception(), KilledWorker):
                yield lost(*futures[future])
            else:
                yield future.result()


def imap(
    function: Callable[..., T], tasks: Sequence[tuple], jobs: int = -1, *, threads: int | None = None
) -> Iterator[T]:
    """Call a function on each task in processes of this machine, and yield the results in order.

    Parameters are those of :func:`imap_unordered`.
    """
    check_jobs(jobs)
    yield from _in_processes(function, tasks, jobs, threads, "generator")


@functools.cache
def cores() -> int:
    """Cores that this process may use, by its affinity and the limit of its container (cgroup).

    The environment variable MICROLAB_CORES overrides the count, for more processes than cores too.

    Raises
    ------
    InputError
        If MICROLAB_CORES is not a whole number of at least 1.
    """
    count = os.environ.get("MICROLAB_CORES")
    if count is None:
        return cpu_count()
    if not (count.isdecimal() and int(count) >= 1):
        raise InputError(
            f"MICROLAB_CORES must be a whole number of at least 1, got {count!r}; correct or unset it"
        )
    return int(count)


def workers(jobs: int, tasks: int) -> int:
    """Processes for a number of tasks: `jobs`, -1 for one per core, and never more than cores or tasks."""
    check_jobs(jobs)
    return max(1, min(effective_n_jobs(jobs) if jobs < 0 else jobs, cores(), tasks))


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch compute with `number` threads inside the block; None changes nothing."""
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(
    function: Callable[..., T], tasks: Sequence[tuple], jobs: int, threads: int | None, order: str
) -> Iterator[T]:
    number = workers(jobs, len(tasks))
    if threads is None and number > 1:
        threads = cores() // number
    yield from Parallel(n_jobs=number, return_as=order)(
        delayed(_call)(function, task, threads) for task in tasks
    )


def _call(function: Callable[..., T], task: tuple, threads: int | None) -> T:
    _keep_freed_memory()
    if threads is None:
        return function(*task)
    with _ONE_AT_A_TIME, torch_threads(threads):
        return function(*task)


@functools.cache
def _keep_freed_memory() -> None:
    """Undo what Dask asks of glibc's malloc: to give back to the system all that is freed.

    Dask starts its workers with this variable, and leaves it to all later processes of whoever started them.
    Every array is then mapped anew, and zeroed page by page by the system: a micrograph took 60 % longer. The
    thresholds set here are those that malloc finds for itself where it is let alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") == "65536" and mallopt is not None:
        mallopt(-1, 64 * 2**20)  # M_TRIM_THRESHOLD of malloc.h
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD
