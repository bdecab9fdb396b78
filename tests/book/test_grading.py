"""What keeps a submission apart from the course, without running a notebook."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from microlab.book.grading import autograde, isolation, landlock
from microlab.data.errors import InputError

LOOK = """
import os
for path in ("PRIVATE/seed", "BOX/../outside", "/etc/shadow"):
    try:
        print(open(path).read())
    except OSError as error:
        print(type(error).__name__)
open("here", "w").write("mine")
for path in ("BOX/../outside", "PRIVATE/new", "/usr/new"):
    try:
        open(path, "w")
        print("written")
    except OSError as error:
        print("refused")
print(sorted(os.environ))
"""


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """A box, and a private folder beside it."""
    box, private = tmp_path / "box", tmp_path / "private"
    (box / "work").mkdir(parents=True)
    private.mkdir(mode=0o700)
    (private / "seed").write_text("secret")
    (tmp_path / "outside").write_text("not yours")
    return box, private


@pytest.fixture(params=["bubblewrap", "landlock"])
def way(request, monkeypatch) -> str:
    """Each way of isolation that this machine has."""
    if request.param == "landlock":
        monkeypatch.setattr(isolation, "works_with_bubblewrap", lambda: False)
    try:
        found = isolation.best_way()
    except InputError:
        found = ""
    if found != request.param:
        pytest.skip(f"needs {request.param}")
    return found


def test_a_program_sees_its_folder_only(places, way, monkeypatch):
    box, private = places
    monkeypatch.setenv("SECRET", "x")
    code = LOOK.replace("BOX", str(box)).replace("PRIVATE", str(private))
    call = isolation.isolated([sys.executable, "-c", code], box, box / "work", private)
    run = subprocess.run(call, capture_output=True, text=True, check=True)
    *lines, names = run.stdout.splitlines()
    refusal = "FileNotFoundError" if way == "bubblewrap" else "PermissionError"
    assert lines == [refusal] * 3 + ["refused"] * 3
    assert "SECRET" not in names
    assert (box / "work" / "here").read_text() == "mine"
    assert (box.parent / "outside").read_text() == "not yours"


ALONE = """
import os, socket
for attempt in (lambda: socket.create_connection(("127.0.0.1", PORT), timeout=2), lambda: os.kill(PID, 0)):
    try:
        attempt()
        print("reached")
    except OSError:
        print("alone")
"""


def test_a_program_reaches_neither_the_network_nor_other_processes(places, way):
    box, private = places
    if way == "landlock" and landlock.version() < 6:
        pytest.skip("needs Linux 6.12")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = ALONE.replace("PORT", str(server.getsockname()[1])).replace("PID", str(os.getpid()))
        call = isolation.isolated([sys.executable, "-c", code], box, box / "work", private)
        assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "alone\nalone\n"


def test_a_course_among_the_systems_programs_is_refused(places):
    box, _ = places
    with pytest.raises(InputError, match="move the course"):
        isolation.isolated(["true"], box, box, Path(sys.prefix) / "course")


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root"
)
def test_a_separate_user_cannot_read_what_is_private(places, monkeypatch):
    box, private = places
    for folder in (box.parent, *box.parent.parents[:3]):
        if os.stat(folder).st_uid == 0 and str(folder) not in ("/", "/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    monkeypatch.setattr(isolation, "best_way", lambda user="": "user")
    isolation.open_to_others(box)
    script = f"cat {private}/seed; echo mine > here; echo $SECRET; id -un"
    monkeypatch.setenv("SECRET", "x")
    call = isolation.isolated(["sh", "-c", script], box, box / "work", private, user="nobody")
    run = subprocess.run(call, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["nobody"]
    assert "Permission denied" in run.stderr
    assert (box / "work" / "here").read_text() == "mine\n"


def test_a_user_that_does_not_exist_is_named(places, monkeypatch):
    box, private = places
    monkeypatch.setattr(isolation, "best_way", lambda user="": "user")
    with pytest.raises(InputError, match="no user 'no-such-grader'"):
        isolation.isolated(["true"], box, box, private, user="no-such-grader")


def test_without_a_way_to_isolate_nothing_runs(places, monkeypatch):
    box, private = places
    monkeypatch.setattr(isolation, "works_with_bubblewrap", lambda: False)
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(InputError, match="install bubblewrap"):
        isolation.isolated(["true"], box, box, private)
    private.chmod(0o755)
    with pytest.raises(InputError, match=f"chmod 700 {private}"):
        isolation.isolated(["true"], box, box, private, user="grader")


def test_a_changed_gradebook_is_noted_and_the_old_one_kept(tmp_path):
    gradebook = tmp_path / "gradebook.db"
    gradebook.write_bytes(b"20 points")
    about, notes = {"assignment": "01", "student": "eve"}, []
    with autograde.watched(tmp_path, notes, about):
        pass
    assert notes == []
    with autograde.watched(tmp_path, notes, about):
        gradebook.write_bytes(b"594 points")
    (note,) = notes
    assert "gradebook_before_01_eve.db" in note
    assert (tmp_path / "gradebook_before_01_eve.db").read_bytes() == b"20 points"
    with autograde.watched(tmp_path, notes, about):
        gradebook.unlink()
    assert len(notes) == 2


def notebook(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(text) for text in sources]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_seed_in_a_notebook_is_scrubbed_and_noted():
    nb, notes = notebook("print(1)"), []
    nb.cells[0].outputs = [nbformat.v4.new_output("stream", text="the seed is abc123!")]
    clean = autograde.scrubbed(nb, "abc123", notes)
    assert clean.cells[0].outputs[0].text == "the seed is (the seed)!"
    assert len(notes) == 1
    assert autograde.scrubbed(clean, "abc123", []) == clean


def test_hidden_numbers_belong_to_one_submission():
    def key(seed="s", student="eve", text="x = 1"):
        return autograde.own_key(seed, student, notebook(text))

    assert key() == key()
    assert len({key(), key(seed="t"), key(student="bob"), key(text="x = 2")}) == 4
    assert "s3cret" not in key(seed="s3cret")


def test_files_beside_a_submission_are_copied_but_no_links(tmp_path):
    handed_in, secret = tmp_path / "in", tmp_path / "seed"
    (handed_in / "data").mkdir(parents=True)
    secret.write_text("secret")
    (handed_in / "data" / "areas.csv").write_text("1,2")
    (handed_in / "link.txt").symlink_to(secret)
    (handed_in / "up").symlink_to(tmp_path)
    (handed_in / "01.ipynb").write_text("{}")
    autograde._copy_files(handed_in, tmp_path / "box")
    copied = {str(path.relative_to(tmp_path / "box")) for path in (tmp_path / "box").rglob("*")}
    assert copied == {"data", "data/areas.csv"}
