"""Make a virtual environment with the versions that Colab ships, to run the notebooks as a reader there does.

python tools/colab_env.py .venv-colab      (`make colab` calls it)

The versions are those of tools/colab-constraints.txt. Python is 3.13, Colab's own, where it is installed and
a CPU build of torch for it can be had; otherwise the Python that runs this. The last line says which and why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "tools" / "colab-constraints.txt"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"  # PyPI's torch is gigabytes of CUDA on Linux
# What runs a notebook on Colab, and what runs the notebooks here.
PACKAGES = ["ipython", "ipykernel", "ipywidgets", "anywidget", "pytest", "pytest-xdist", "nbval==0.11.0"]


def pip(folder: Path, *arguments: str) -> str:
    """Run pip of an environment; what went wrong, or nothing."""
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    return run.stderr or "pip failed" if run.returncode else ""


def make(folder: Path, python: str, torch: list[list[str]]) -> bool:
    """Make the environment anew, with torch by the first of the ways that works; False if none does."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    return any(not pip(folder, "--no-deps", *way) for way in torch)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    from_index = [
        "--retries",
        "0",
        "--timeout",
        "15",
        "--index-url",
        os.environ.get("TORCH_INDEX", CPU_TORCH),
    ]
    newest = shutil.which("python3.13")
    if newest and subprocess.run([newest, "--version"], capture_output=True).returncode:
        newest = None  # pyenv puts a command there for a version that is not switched on
    if newest and make(folder, newest, [[*from_index, "torch"]]):
        why = "as on Colab"
    else:
        ours = f"torch=={version('torch').split('+')[0]}"  # as `make` installed it here, from the same places
        if not make(folder, sys.executable, [[*from_index, ours], [ours]]):
            raise SystemExit(f"{ours} cannot be installed")
        missing = "no CPU build of torch for Python 3.13 was found" if newest else "there is no python3.13"
        why = f"because {missing}; Colab has 3.13"
    python = folder / "bin" / "python"
    show = "import importlib.metadata as m, platform; print(platform.python_version(), m.version('torch'))"
    found, torch = subprocess.run(
        [python, "-c", show], check=True, capture_output=True, text=True
    ).stdout.split()
    if wrong := pip(folder, "-c", str(CONSTRAINTS), f"torch=={torch}", "-e", ".", *PACKAGES):
        raise SystemExit(f"{CONSTRAINTS} does not fit Python {found} and torch {torch}:\n{wrong}")
    print(f"{folder.name}: Colab's versions, Python {found} ({why}), torch {torch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
