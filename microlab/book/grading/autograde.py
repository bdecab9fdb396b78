"""The autograder's execution of a submission: its code in a sandbox, the tests outside of it.

    submission: its cells run in a kernel that sees one folder (`isolation`)
    tests: those of the instructor's source run in this process, and call its functions (`remote`)

A submission can therefore answer a test, but neither read, change nor skip it. The course's configuration of
nbgrader names `IsolatedExecute` in place of nbgrader's own `Execute`; nothing else of nbgrader is changed.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import hmac
import linecache
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.preprocessors import Execute
from traitlets import Unicode

from microlab.book.course import SEED
from microlab.book.grading import remote
from microlab.book.grading.isolation import best_way, isolated, open_to_others

CANARY, CANARY_SECONDS = "assert 1 == 2", 20  # passes only where asserts have been switched off
SWITCHED_OFF = "it switched off asserts"
NOTES = "grading_notes.txt"  # in the course folder: a line for each submission that got 0 for what it did


class IsolatedExecute(Execute):
    """nbgrader's preprocessor that runs a notebook, with the submission in a sandbox.

    A submission that ends its kernel, switches off asserts, writes outside of its folder, changes the
    gradebook or holds the course's seed gets 0 in every test and a note: on top of its notebook, in the log
    and in grading_notes.txt of the course.

    Raises
    ------
    InputError
        If this machine cannot keep a submission apart from the course.
    """

    course = Unicode(help="Folder of the course.").tag(config=True)
    user = Unicode("", help="User to run submissions as, the last choice.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Run one submission and put the results of the tests into its notebook."""
        about = resources["nbgrader"]
        course, student = Path(self.course), about["student"]
        source = course / "source" / about["assignment"] / f"{about['notebook']}.ipynb"
        self._tests = Tests(nbformat.read(source, 4))
        self._seed = (course / "course_seed.txt").read_text(encoding="utf-8").strip()
        self._key = own_key(self._seed, student, nb)
        self._verdicts: dict[str, list[NotebookNode]] = {}
        self._notes: list[str] = []
        self._started = False
        submitted = Path(resources["metadata"]["path"])
        box = tempfile.TemporaryDirectory(prefix="microlab-", ignore_cleanup_errors=True)
        with box as folder, watched(course, self._notes, about):
            self._box = Path(folder)
            work = self._box / "course" / "autograded" / student / about["assignment"]
            _copy_files(submitted, work)
            shutil.copy(remote.__file__, self._box)
            if best_way(self.user) == "user":
                open_to_others(self._box)
            before = _contents(self._box / "course", apart=work)
            inside = {**resources, "metadata": {**resources["metadata"], "path": str(work)}}
            try:
                nb, _ = super().preprocess(nb, inside)
            except Exception as error:
                if not self._started:
                    raise  # this machine's fault, not the submission's
                self._notes.append(
                    f"its kernel ended or did not answer before the last cell ({type(error).__name__})"
                )
            after = _contents(self._box / "course", apart=work)
        written = sorted(path for path in before | after if before.get(path) != after.get(path))
        self._notes += [f"it wrote outside of its folder: {', '.join(written)}"] if written else []
        for cell in nb.cells:
            if _is_test(cell):
                verdict = self._verdicts.get(cell.metadata.nbgrader.get("grade_id"))
                cell.outputs = [_error("NotRun", "this test did not run")] if verdict is None else verdict
        nb = scrubbed(nb, self._seed, self._notes)
        if self._notes:
            self._give_zero(nb, about)
        return nb, resources

    def create_kernel_manager(self) -> AsyncKernelManager:
        """The kernel of this submission, in its box and reached through sockets in it."""
        self.kernel_manager_class = _IsolatedKernel
        manager = super().create_kernel_manager()
        manager.transport = "ipc"
        manager.connection_file = str(self._box / "kernel.json")
        manager.ip = str(self._box / "kernel")
        spec = manager.kernel_spec
        spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.argv += ["--log-level=CRITICAL"]  # else it greets whoever started it without a notebook
        spec.interrupt_mode = "message"  # a signal from here does not reach it
        work = self._box / "course" / "autograded"
        manager.apart = {"box": self._box, "private": Path(self.course).resolve(), "user": self.user}
        manager.apart["cwd"] = next(path for path in work.glob("*/*"))
        return manager

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        """Run a cell of the submission in its kernel, and a test in this process."""
        self._started = True
        if not _is_test(cell):
            cell, resources = super().preprocess_cell(cell, resources, index)
            if _timed_out(cell):
                self._check_asserts(index)  # else every cell of a kernel that has been broken takes its time
            return cell, resources
        name = cell.metadata.nbgrader.get("grade_id")
        if name in self._tests.code and name not in self._verdicts:
            try:
                self._verdicts[name] = self._judge(name, index)
            finally:
                self.nb.cells[index] = cell  # where the client has put the cells that it ran for us
        return cell, resources

    def _judge(self, name: str, index: int) -> list[NotebookNode]:
        """Outputs of a test: none if it passes, else its error."""
        self._check_asserts(index)
        address = str(self._box / "judge")
        result: list[NotebookNode] = []
        hung_up = threading.Event()
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(address)
            os.chmod(address, 0o777)
            listener.listen(1)
            limit = time.monotonic() + (self.timeout or 120) + 10  # the kernel is interrupted first
            judge = threading.Thread(
                target=lambda: result.extend(self._tests.run(name, listener, self._key, limit, hung_up))
            )
            judge.start()
            program = str(self._box / "remote.py")
            answer = f"__import__('runpy').run_path({program!r})['serve']({address!r}, globals())"
            try:
                self.execute_cell(nbformat.v4.new_code_cell(answer), index, store_history=False)
            finally:
                hung_up.set()
                judge.join()
                os.unlink(address)
        return result

    def _check_asserts(self, index: int) -> None:
        """Note a kernel in which asserts pass; TimeoutError if it does not answer any more."""
        canary, cell, usual = nbformat.v4.new_code_cell(CANARY), self.nb.cells[index], self.timeout
        self.timeout = min(usual or CANARY_SECONDS, CANARY_SECONDS)
        try:
            self.execute_cell(canary, index, store_history=False)
        finally:
            self.timeout, self.nb.cells[index] = usual, cell  # the client puts what it runs into the notebook
        if _timed_out(canary):
            raise TimeoutError("the kernel does not answer")
        failed = any(out.output_type == "error" and out.ename == "AssertionError" for out in canary.outputs)
        if not failed and SWITCHED_OFF not in self._notes:
            self._notes.append(SWITCHED_OFF)

    def _give_zero(self, nb: NotebookNode, about: Mapping[str, str]) -> None:
        reason = "; ".join(self._notes)
        for cell in nb.cells:
            if _is_test(cell):
                cell.outputs = [_error("NoPoints", f"this submission gets no points for its tests: {reason}")]
        note = nbformat.v4.new_markdown_cell(
            f"**No points for the tests of this submission:** {reason}. "
            "Talk to your instructor if that is a mistake."
        )
        if (nb.nbformat, nb.nbformat_minor) < (4, 5):
            del note["id"]
        nb.cells.insert(0, note)
        self.log.warning("%s of %s gets 0: %s", about["assignment"], about["student"], reason)
        now = datetime.datetime.now().isoformat(timespec="seconds")
        with open(Path(self.course) / NOTES, "a", encoding="utf-8") as file:
            file.write(f"{now} {about['assignment']} {about['student']}: {reason}\n")


class Tests:
    """The tests of an assignment, as the instructor's source has them.

    Parameters
    ----------
    source : NotebookNode
        The notebook with solutions and hidden tests.

    Attributes
    ----------
    code : dict of str to str
        Text of each test, by grade_id.
    functions : list of str
        What the students are asked to write; tests know no other names, but what the notebook imports.
    """

    def __init__(self, source: NotebookNode) -> None:
        cells = [cell for cell in source.cells if cell.cell_type == "code"]
        self.code = {cell.metadata.nbgrader.grade_id: cell.source for cell in cells if _is_test(cell)}
        self.functions = [
            node.name
            for cell in cells
            if utils.is_solution(cell)
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.FunctionDef)
        ]
        self._space: dict[str, Any] = {}
        for cell in cells:  # a test that fails before its imports must not make the next ones fail
            if not utils.is_solution(cell):
                imports = [
                    n for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom)
                ]
                exec(compile(ast.Module(imports, []), "imports", "exec"), self._space)

    def run(
        self, name: str, listener: socket.socket, key: str, limit: float, hung_up: threading.Event
    ) -> list[NotebookNode]:
        """Run a test against the submission that connects to `listener`.

        Parameters
        ----------
        name : str
            grade_id of the test.
        listener : socket.socket
        key : str
            What hidden numbers are drawn from.
        limit : float
            Time of `time.monotonic` at which the test fails.
        hung_up : threading.Event
            Set when the submission will not connect any more.

        Returns
        -------
        list of NotebookNode
            Nothing if the test passes, else one output with the error.
        """
        code, file = self.code[name], f"<{name}>"
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        try:
            with closing(_accepted(listener, limit, hung_up)) as connection:
                peer = remote.Peer(connection, deadline=limit)
                self._space.update({function: peer.function(function) for function in self.functions})
                with utils.setenv(**{SEED: key}):
                    exec(compile(code, file, "exec"), self._space)
        except Exception as error:
            return [_failure(error, file)]
        return []


def own_key(seed: str, student: str, nb: NotebookNode) -> str:
    """What the hidden numbers of one submission are drawn from.

    The same submission gets the same numbers again; another one gets others. So numbers that a submission has
    seen are of no use to the next.
    """
    text = "\0".join([student, *(cell.source for cell in nb.cells)])
    return hmac.new(seed.encode(), text.encode(), hashlib.sha256).hexdigest()


def scrubbed(nb: NotebookNode, seed: str, notes: list[str]) -> NotebookNode:
    """The notebook without the course's seed, wherever it stands in it; `notes` says that it was there."""
    text = nbformat.writes(nb)
    if seed not in text:
        return nb
    notes.append("it held the course's seed")
    return nbformat.reads(text.replace(seed, "(the seed)"), 4)


@contextmanager
def watched(course: Path, notes: list[str], about: Mapping[str, str]) -> Iterator[None]:
    """Compare the gradebook before and after the block.

    If it has changed, a copy of the old one is left beside it, and `notes` names it.
    """
    gradebook = course / "gradebook.db"
    before = gradebook.read_bytes() if gradebook.is_file() else None
    yield
    after = gradebook.read_bytes() if gradebook.is_file() else None
    if after != before:
        copy = course / f"gradebook_before_{about['assignment']}_{about['student']}.db"
        copy.write_bytes(before or b"")
        notes.append(f"gradebook.db changed while it ran; the old one is {copy.name}: compare them")


class _IsolatedKernel(AsyncKernelManager):
    """A kernel whose process is isolated; `apart` says how."""

    apart: Mapping[str, Any]

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        if best_way(self.apart["user"]) == "user":
            os.chmod(self.connection_file, 0o644)
        return isolated(super().format_kernel_cmd(extra_arguments), **self.apart)


def _is_test(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and utils.is_grade(cell) and not utils.is_solution(cell)


def _timed_out(cell: NotebookNode) -> bool:
    """Whether nbgrader ended a cell for its time."""
    outputs = cell.outputs if cell.cell_type == "code" else []
    return any(out.output_type == "error" and out.ename == "CellTimeoutError" for out in outputs)


def _accepted(listener: socket.socket, limit: float, hung_up: threading.Event) -> socket.socket:
    listener.settimeout(0.1)
    while time.monotonic() < limit:
        last = hung_up.is_set()  # it may have connected just before
        try:
            return listener.accept()[0]
        except TimeoutError:
            if last:
                break
    raise ConnectionError("the submission did not answer")


def _failure(error: Exception, file: str) -> NotebookNode:
    """The output of a failed test: where in the test, and where in the student's function."""
    lines = ["Traceback (most recent call last):"]
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == file:
            lines += [f"  line {frame.lineno} of the test", f"    {frame.line}"]
    if isinstance(error, remote.RemoteError):
        lines += ["in the submission:", *(line.rstrip("\n") for line in error.lines[-20:])]
        return _error(error.name, str(error), lines)
    return _error(type(error).__name__, str(error), [*lines, f"{type(error).__name__}: {error}"])


def _error(name: str, text: str, lines: list[str] | None = None) -> NotebookNode:
    text = text[:2000]
    return nbformat.v4.new_output(
        "error", ename=name, evalue=text, traceback=[line[:2000] for line in lines or [f"{name}: {text}"]]
    )


def _copy_files(folder: Path, target: Path) -> None:
    """Copy what was handed in beside the notebook; links are left out, they could lead anywhere."""
    target.mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.suffix != ".ipynb" and path.resolve() == (folder.resolve() / inside):
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / inside)


def _contents(folder: Path, apart: Path) -> dict[str, str]:
    """Kind or checksum of everything in a folder but what is in `apart`."""
    contents = {}
    for path in folder.rglob("*"):
        if path.is_relative_to(apart):
            continue
        regular = path.is_file() and not path.is_symlink()
        digest = (
            hashlib.sha256(path.read_bytes()).hexdigest() if regular else "link" if path.is_symlink() else ""
        )
        contents[str(path.relative_to(folder))] = digest
    return contents
