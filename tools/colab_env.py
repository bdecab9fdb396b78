"""Make a virtual environment with the versions that Colab ships, to run the notebooks as on Colab.

python tools/colab_env.py .venv-colab      (`make colab` calls it)

The versions are those of tools/colab-constraints.txt. Python is 3.13, Colab's own, where it is installed and
a CPU build of torch is available for it; otherwise the Python that runs this script. The last line of the
output says which one, and why.
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
# Packages that run a notebook on Colab, and those that run the notebooks here.
PACKAGES = ["ipython", "ipykernel", "ipywidgets", "anywidget", "pytest", "pytest-xdist", "nbval==0.11.0"]


def pip(folder: Path, *arguments: str) -> str:
    """Run the pip of an environment; returns its error output, empty on success."""
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    return run.stderr or "pip failed" if run.returncode else ""


def make(folder: Path, python: str, torch: list[list[str]]) -> bool:
    """Recreate the environment and install torch with the first arguments that work; False if none do."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    return any(not pip(folder, "--no-deps", *arguments) for arguments in torch)


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
        newest = None  # pyenv has a command even for versions that are not active
    if newest and make(folder, newest, [[*from_index, "torch"]]):
        reason = "as on Colab"
    else:
        # As installed here by `make`, from the same indexes.
        same_torch = f"torch=={version('torch').split('+')[0]}"
        if not make(folder, sys.executable, [[*from_index, same_torch], [same_torch]]):
            raise SystemExit(f"{same_torch} cannot be installed")
        missing = "no CPU build of torch for Python 3.13 was found" if newest else "there is no python3.13"
        reason = f"because {missing}; Colab has 3.13"
    python = folder / "bin" / "python"
    code = "import importlib.metadata as m, platform; print(platform.python_version(), m.version('torch'))"
    python_version, torch = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    if error := pip(folder, "-c", str(CONSTRAINTS), f"torch=={torch}", "-e", ".", *PACKAGES):
        raise SystemExit(f"{CONSTRAINTS} does not fit Python {python_version} and torch {torch}:\n{error}")
    print(f"{folder.name}: Colab's versions, Python {python_version} ({reason}), torch {torch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
