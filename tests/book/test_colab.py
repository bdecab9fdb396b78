"""As on a fresh Colab: the first cell of a notebook installs the library, and the installed copy works."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from addresses import addresses
from nbclient import NotebookClient

from microlab.pipelines import samples
from microlab.segment.registry import load_segmenter

ROOT = Path(__file__).resolve().parents[2]

# Segments with the shipped weights, and reports where the library is installed and which files it has.
USE = """\
import hashlib
from pathlib import Path

import microlab
from microlab.pipelines import samples
from microlab.segment.registry import load_segmenter

found = load_segmenter("label-free").segment(samples.virtual_sample().image)
folder = Path(microlab.__file__).parent
print(folder)
print(hashlib.sha256(found.boundary.tobytes()).hexdigest())
print(*sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
"""

pytestmark = pytest.mark.slow


def git(*arguments: str, cwd: Path) -> str:
    name = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *name, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def library_files() -> list[str]:
    """The library's files that git tracks or would track."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "microlab", cwd=ROOT)
    return [name for name in listed.split("\n") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository with the library of the working tree, on the branch that the notebooks install."""
    folder = tmp_path_factory.mktemp("origin")
    for name in (*library_files(), "pyproject.toml", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git("init", "-q", "-b", addresses().branch, cwd=folder)
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", "The library", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """Python of an environment with the packages of this one, like Colab's, but without microlab."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    shared = folder / "shared"
    shared.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("microlab", "__editable__")) and path.suffix != ".pth":
            (shared / path.name).symlink_to(path)
    python = folder / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout
    (Path(packages.strip()) / "shared.pth").write_text(f"{shared}\n")
    return python


@pytest.fixture
def run(tmp_path, monkeypatch, repository, fresh):
    """Run cells in one kernel of the fresh environment and return their outputs as text, cell by cell.

    Nothing is downloaded: the notebook's address leads to the local repository, and pip has no index.
    """
    kernel = tmp_path / "kernels" / "fresh"
    kernel.mkdir(parents=True)
    command = [str(fresh), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Fresh", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv(
        "PIP_NO_BUILD_ISOLATION", "0"
    )  # pip reads it as --no-build-isolation: setuptools is here
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{repository.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", addresses().repository)

    def execute(*sources: str) -> list[str]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])
        NotebookClient(notebook, kernel_name="fresh", timeout=300).execute(cwd=str(tmp_path))
        return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]

    return execute


def first_cell(chapter: str) -> str:
    return nbformat.read(ROOT / "tutorials" / f"{chapter}.ipynb", as_version=4).cells[1].source


def test_the_first_cell_installs_a_library_that_segments_and_then_does_nothing(run, fresh):
    """The installed copy, with its weights, finds the same boundaries as the one under test."""
    absent = "import importlib.util; print(importlib.util.find_spec('microlab'))"
    nowhere = "import os; os.environ['GIT_CONFIG_COUNT'] = '0'"  # a second installation would fail
    cell = first_cell("00_start")
    before, installed, used, _, again = run(absent, cell, USE, nowhere, cell)
    assert before == "None\n"
    assert "ERROR" not in installed
    folder, digest, files = used.strip().split("\n")[-3:]
    assert Path(folder).is_relative_to(fresh.parents[1])
    expected = load_segmenter("label-free").segment(samples.virtual_sample().image).boundary
    assert digest == hashlib.sha256(expected.tobytes()).hexdigest()
    assert {name.removeprefix("microlab/") for name in library_files()} <= set(files.split())
    assert again == ""


def test_version_0_1_0_is_replaced(tmp_path, monkeypatch):
    """Version 0.1.0 had no `microlab.book`: the first cell must not mistake it for this version."""
    (tmp_path / "microlab").mkdir()
    (tmp_path / "microlab" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    cell = re.sub(r"^( *)%pip .*$", r"\1print('installs')", first_cell("00_start"), flags=re.M)
    run = subprocess.run(
        [sys.executable, "-S", "-c", cell], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout == "installs\n"


def test_every_notebook_begins_with_the_same_cell():
    cells = {first_cell(path.stem) for path in (ROOT / "tutorials").glob("[0-9]*.ipynb")}
    assert len(cells) == 1
    assert f'%pip install -q --upgrade "{addresses().install}"' in cells.pop()
