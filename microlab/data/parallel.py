"""The one pool of processes, on this machine or on a Dask cluster, and the cores that it shares out.

There are never more processes than tasks or cores, and each computes with its share of the cores: as many
threads as cores for one, one thread each for as many processes as cores. A process that dies takes nothing
with it: a new one takes its place, and what it was at is tried once more when the others are done.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from subprocess import PIPE, Popen
from typing import Any, BinaryIO, TypeVar

import cloudpickle
from joblib import cpu_count, effective_n_jobs

from microlab.data.errors import InputError

T = TypeVar("T")

# Torch counts its threads once for a whole process: calls in threads of one Dask worker wait for each other.
_ONE_AT_A_TIME = threading.Lock()

CONNECT_SECONDS = 10  # after which a Dask scheduler that is silent does not answer
DIED = "a worker process died, perhaps for lack of memory; take fewer --jobs or close other programs"


def check_jobs(jobs: int, scheduler: str | None = None) -> None:
    """Raise an InputError if `jobs` is no number of processes, or the scheduler does not answer."""
    if jobs < -1 or jobs == 0:
        raise InputError(f"jobs must be a number of processes, or -1 for one per core, got {jobs}")
    if scheduler is not None:
        _client(scheduler).close()


def too_many(jobs: int) -> str:
    """A sentence for the user if `jobs` is more than there are cores, else nothing."""
    if jobs <= cores():
        return ""
    return (
        f"--jobs {jobs} is more than the {cores()} cores of this machine, so there are at most {cores()} "
        f"processes; set MICROLAB_CORES={jobs} to have that many all the same"
    )


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
        ``lost(*task)`` is the result of a task that killed the process it was tried in alone, or every Dask
        worker it was given to. By default that is an error.

    Raises
    ------
    InputError
        If `jobs` is no number of processes, `scheduler` does not answer, or Dask is not installed.
    OSError
        If processes die and `lost` is not given.
    """
    check_jobs(jobs)
    if not tasks:
        return  # without starting a worker
    if scheduler is None:
        yield from (result for _, result in _in_processes(function, tasks, jobs, threads, lost))
        return
    with _client(scheduler) as client:
        from dask.distributed import KilledWorker, as_completed

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
    early: dict[int, T] = {}
    following = 0
    for k, result in _in_processes(function, tasks, jobs, threads, None):
        early[k] = result
        while following in early:
            yield early.pop(following)
            following += 1


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


def _client(scheduler: str):
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise InputError('scheduler needs Dask: pip install "dask[distributed]"') from error
    try:
        return Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler {scheduler} does not answer: is that its address? ({error})") from error


def _in_processes(
    function: Callable[..., T],
    tasks: Sequence[tuple],
    jobs: int,
    threads: int | None,
    lost: Callable[..., T] | None,
) -> Iterator[tuple[int, T]]:
    """Number and result of each task, as they come."""
    number = workers(jobs, len(tasks))
    if number == 1:
        yield from ((k, _call(function, task, threads)) for k, task in enumerate(tasks))
        return
    threads = cores() // number if threads is None else threads
    waiting, answers = SimpleQueue(), SimpleQueue()
    for k in range(len(tasks)):
        waiting.put(k)
    busy: dict[int, _Process] = {}  # by the thread that waits for its answer
    stopped = threading.Event()

    def ask() -> None:
        """Keep a process busy as long as there are tasks."""
        process = None
        with suppress(Empty):
            while not stopped.is_set():
                k = waiting.get_nowait()
                try:
                    if process is None:
                        process = busy[threading.get_ident()] = _process(threads)
                    answers.put((k, process.call(function, tasks[k], threads)))
                except Exception as error:
                    process = None
                    answers.put((k, error))
        if process is not None and not stopped.is_set():
            del busy[threading.get_ident()]
            _IDLE.append(process)

    askers = [threading.Thread(target=ask, daemon=True) for _ in range(number)]
    for asker in askers:
        asker.start()
    died = []
    try:
        for _ in tasks:
            k, answer = answers.get()
            if isinstance(answer, EOFError):
                died.append(k)
            else:
                yield k, _result(answer)
        for asker in askers:
            asker.join()
        for k in sorted(died):  # once more, alone
            waiting.put(k)
            ask()
            _, answer = answers.get()
            if not isinstance(answer, EOFError):
                yield k, _result(answer)
            elif lost is not None:
                yield k, lost(*tasks[k])
            else:
                raise OSError(DIED)
    finally:
        stopped.set()
        for process in list(busy.values()):
            process.kill()


def _result(answer: tuple[bool, object] | Exception) -> Any:
    """What a call returned; what it raised, or what went wrong with it, is raised."""
    if isinstance(answer, Exception):
        raise answer
    done, value = answer
    if done:
        return value
    error, where = value
    raise error from _Elsewhere(f"\n{where}")


class _Elsewhere(Exception):
    """Where in another process an error arose."""


class _Process:
    """A Python beside this one that makes calls, one at a time. It ends when this one does, however it ends.

    It has a session of its own, so Ctrl-C does not reach it, and pipes of its own, so nothing is shared that
    it could hold when it is killed. (With the pool of joblib, one process that is killed ends all the others
    and their tasks, and in one run of four the caller waits for ever.)
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.surroundings = _surroundings(environment)
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _answer; _answer()"
        self._process = Popen(
            [sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, function: Callable, task: tuple, threads: int) -> tuple[bool, object]:
        """Whether the call returned, and what; or what it raised and where. EOFError if the process dies."""
        message = cloudpickle.dumps((function, task, threads))
        try:
            _write(self._process.stdin, message)
            answer = _read(self._process.stdout)
        except OSError:  # the pipe is broken
            answer = None
        if answer is None:
            self.kill()
            raise EOFError
        return pickle.loads(answer)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


_IDLE: list[_Process] = []  # that wait for the next call of `imap`


@atexit.register
def _end_idle() -> None:
    while _IDLE:
        _IDLE.pop().kill()


def _process(threads: int) -> _Process:
    """A process whose libraries compute with so many threads: an idle one, or a new one."""
    environment = dict(os.environ)
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR"):
        environment.setdefault(f"{name}_NUM_THREADS", str(threads))
    environment.setdefault("VECLIB_MAXIMUM_THREADS", str(threads))
    with suppress(IndexError):
        while True:
            process = _IDLE.pop()
            if process.alive and process.surroundings == _surroundings(environment):
                return process
            process.kill()
    return _Process(environment)


def _surroundings(environment: dict[str, str]) -> tuple:
    return environment, os.getcwd(), list(sys.path)


def _answer() -> None:
    """What a process of the pool does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a call prints does not mix with the answers
    messages = SimpleQueue()

    def listen() -> None:
        while (message := _read(sys.stdin.buffer)) is not None:
            messages.put(message)
        os._exit(0)  # whoever asked is gone

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            answer = cloudpickle.dumps((True, _call(*pickle.loads(messages.get()))))
        except BaseException as error:
            where = traceback.format_exc()
            try:
                answer = cloudpickle.dumps((False, (error, where)))
                pickle.loads(answer)
            except Exception:  # an error that cannot be sent
                answer = cloudpickle.dumps((False, (RuntimeError(repr(error)), where)))
        _write(answers, answer)


def _write(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(len(message).to_bytes(8, "little"))
    pipe.write(message)
    pipe.flush()


def _read(pipe: BinaryIO) -> bytes | None:
    """The next message; None if there will be none."""
    size = pipe.read(8)
    message = pipe.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    return message if message and len(message) == int.from_bytes(size, "little") else None


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
