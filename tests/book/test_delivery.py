"""What reaches readers: releases, the scheduled workflows, Binder, Colab's versions, `make`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def version() -> str:
    return re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.M)[1]


# ---- a release ----


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that a release pins, with chapters of the first part, and a call of the tool."""
    for name in ("tools", "book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_vendor", "__pycache__"))
    (tmp_path / "tutorials").mkdir()
    contents = yaml.safe_load((tmp_path / "book" / "_toc.yml").read_text(encoding="utf-8"))
    contents["parts"] = contents["parts"][:1]
    for chapter in (ROOT / "tutorials").glob("*.md"):  # all: links need their titles
        shutil.copy(chapter, tmp_path / "tutorials")
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(contents))
    for name in ("_config.yml", "pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)

    def pin(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, tmp_path / "tools" / "pin_release.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return tmp_path, pin


@pytest.mark.slow
def test_a_release_pins_first_cells_badges_and_links_to_its_tag(copy):
    folder, pin = copy
    tag = f"v{version()}"
    assert pin("--check", tag).returncode == 1
    assert pin(tag).returncode == 0
    assert pin("--check", tag).returncode == 0
    config = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["branch"] == tag
    notebooks = sorted((folder / "tutorials").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        link, first = nbformat.read(path, as_version=4).cells[:2]
        assert f'{config["repository"]["url"]}@{tag}"' in first.source
        assert f"/blob/{tag}/tutorials/{path.name}" in link.source
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"/blob/{tag}/tutorials/00_start.ipynb" in readme
    assert f"/{tag}?urlpath=lab/tree/tutorials/00_start.ipynb" in readme
    assert "/blob/main/" not in readme


@pytest.mark.parametrize(
    ("name", "message"),
    [("v9.9.9", f"pyproject.toml has version {version()}"), ("a tag", "is no name of a tag")],
)
@pytest.mark.slow
def test_a_tag_that_is_not_the_version_changes_nothing(copy, name, message):
    folder, pin = copy
    run = pin(name)
    assert run.returncode == 1
    assert message in run.stderr
    assert (folder / "_config.yml").read_text(encoding="utf-8") == read("_config.yml")


# ---- workflows ----


def workflow(path: Path) -> dict:
    parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    return parsed | {"on": parsed[True]}  # YAML 1.1 reads the word `on` as true


def steps(path: Path) -> list[dict]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_tools_and_actions_that_exist(path):
    targets = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.M)[1].split())
    called = [name for step in steps(path) for name in re.findall(r"\bmake (\w+)", step.get("run", ""))]
    assert called
    assert set(called) <= targets
    for step in steps(path):
        for tool in re.findall(r"tools/\w+\.py", step.get("run", "")):
            assert (ROOT / tool).is_file()
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step.get("uses", f"actions/x@{'0' * 40}"))


def test_one_commit_of_each_action_is_used_and_its_version_said():
    uses = {use for path in WORKFLOWS for use in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))}
    pins = [re.fullmatch(r"(actions/[\w-]+)@[0-9a-f]{40}  # v\d+\.\d+\.\d+", use) for use in uses]
    assert all(pins), uses
    assert len({pin[1] for pin in pins}) == len(uses)


def test_every_week_tests_notebooks_and_book_run_and_the_book_is_published():
    weekly = workflow(ROOT / ".github" / "workflows" / "weekly.yml")
    (schedule,) = weekly["on"]["schedule"]
    minute, hour, day_of_month, month, weekday = schedule["cron"].split()
    assert (minute.isdigit(), hour.isdigit(), day_of_month, month) == (True, True, "*", "*")
    assert weekday in set("0123456")
    assert "workflow_dispatch" in weekly["on"]
    jobs = weekly["jobs"]
    runs = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "make test" in runs["test"]  # which runs the notebooks with Colab's versions, see below
    assert "make book" in runs["book"]
    (artifact,) = (s for s in jobs["book"]["steps"] if "upload-pages-artifact" in s.get("uses", ""))
    assert f"tools/check_site.py {artifact['with']['path']}\n" in read("Makefile")  # what `make book` built
    publish = jobs["publish"]
    assert set(publish["needs"]) == {"test", "book"}
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert publish["environment"]["name"] == "github-pages"
    assert any("deploy-pages" in step.get("uses", "") for step in publish["steps"])


# ---- Colab's versions ----


def colab() -> list[Requirement]:
    lines = read("tools/colab-constraints.txt").split("\n")
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_library_admits_what_colab_ships():
    needs = re.search(r"^dependencies = \[(.*?)^\]", read("pyproject.toml"), re.M | re.S)[1]
    shipped = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in colab()}
    checked = 0
    for line in re.findall(r'"(.+?)"', needs):
        need = Requirement(line)
        if (name := canonicalize_name(need.name)) in shipped:
            assert need.specifier.contains(shipped[name]), need
            checked += 1
    assert checked >= 12
    assert (shipped["ipython"], shipped["ipykernel"], shipped["ipywidgets"]) == ("7.34.0", "6.17.1", "7.7.1")


HOLES = {  # package: (first version without the hole, advisory), as looked up on 30 November 2026
    "pillow": ("11.3", "CVE-2025-48379"),  # 13.0 mends more; Colab ships 11.3
    "torch": ("2.11", "CVE-2025-32434, CVE-2026-24747, CVE-2026-4538"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "filelock": ("3.20.3", "CVE-2025-68146, CVE-2026-22701"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "scikit-learn": ("1.5", "CVE-2024-5206"),
    "joblib": ("1.2", "CVE-2022-21797"),
    "dask": ("2026.1.1", "CVE-2026-23528"),
    "jupyterlab": ("4.6.2", "CVE-2026-73415, CVE-2026-73417"),
    "pytest": ("9.0.3", "CVE-2025-71176"),
    "playwright": ("1.55.1", "CVE-2025-59288"),
}


def test_lower_bounds_leave_out_versions_with_known_holes():
    text = read("pyproject.toml")
    bounds = {
        canonicalize_name(need.name): Version(bound.version)
        for need in map(Requirement, re.findall(r'"([a-z][\w.-]*(?:\[[\w,]+\])?>=[^"]+)"', text))
        for bound in need.specifier
        if bound.operator == ">="
    }
    for name, (version, advisory) in HOLES.items():
        assert bounds[name] >= Version(version), advisory


def test_the_pinned_pillow_has_none_of_the_holes_of_colabs():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", read("constraints.txt"), re.M))
    assert Version(pins["pillow"]) >= Version("13.0")  # GHSA-5x8w-8jj5-q52h, GHSA-462x-pgg6-55fp and others


def test_make_test_runs_all_notebooks_with_colabs_versions():
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", read("Makefile"), re.M)[1]
    assert "colab" in recipe
    recipe = re.search(r"^colab:.*\n((?:\t.*\n)+)", read("Makefile"), re.M)[1]
    assert "$(COLAB)/bin/python -m pytest $(SPREAD) tutorials" in recipe


# ---- Binder ----


def test_binder_finds_its_files_where_it_looks():
    """repo2docker reads `binder/` or `.binder/` instead of the root if there is one.

    There micromamba passes the pip lines to pip as a file next to environment.yml, with that folder as the
    working directory.
    """
    assert not (ROOT / "binder").exists()
    assert not (ROOT / ".binder").exists()
    lines = yaml.safe_load(read("environment.yml"))["dependencies"][-1]["pip"]
    named = [line.split()[1] for line in lines if line.startswith(("-c ", "-e "))]
    for path in named:
        assert (ROOT / path.split("[")[0]).exists(), path


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="environment.yml names Python 3.11")
@pytest.mark.slow
def test_binders_pip_lines_install_what_make_installed(tmp_path):
    """Given these lines, pip has nothing to add to what `make` installed from the same pins."""
    lines = yaml.safe_load(read("environment.yml"))["dependencies"][-1]["pip"]
    copy = tmp_path / "repository"  # pip writes beside pyproject.toml
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "microlab", copy / "microlab", ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "lines.txt").write_text("\n".join(line for line in lines if "://" not in line))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation"]
    run = subprocess.run([*command, "-r", "lines.txt"], cwd=copy, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    would = re.findall(r"^Would install (.*)$", run.stdout, re.M)
    assert would == [f"microlab-{version()}"]
