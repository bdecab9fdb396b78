"""What `microlab doctor` finds, on this machine and on machines with something wrong."""

from __future__ import annotations

import os
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from command_line import run

from microlab.cli import doctor
from microlab.data import datasets, parallel, weights


@pytest.fixture
def small(monkeypatch):
    """Without data sets and weights, whose checksums take seconds."""
    monkeypatch.setattr(datasets, "DATASETS", {})
    monkeypatch.setattr(weights, "available", lambda: [])
    monkeypatch.delenv("MICROLAB_DATA", raising=False)
    monkeypatch.delenv("MICROLAB_PROFILE", raising=False)
    parallel.cores.cache_clear()
    yield
    parallel.cores.cache_clear()


def findings(*arguments) -> tuple[int, dict[str, str]]:
    """Exit code, and what was found by what was looked at; problems begin with ``!!``."""
    result = run("doctor", *arguments)
    lines = [line for line in result.stdout.splitlines() if line[:2] in ("  ", "!!")]
    return result.exit_code, {line[3:23].strip(): line[:2].strip() + line[24:].strip() for line in lines}


def test_the_machine_of_the_tests_has_nothing_to_mend(small):
    code, found = findings()
    assert code == 0
    assert found["numpy"] == np.__version__
    assert found["torch"] == metadata.version("torch")
    assert found["Python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert found["cores of the machine"] == str(os.cpu_count())
    assert found["by affinity"].startswith(str(len(os.sched_getaffinity(0))))
    assert found["threads of torch"] == str(torch.get_num_threads())
    assert found["temporary files"].endswith("can be written")


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("MICROLAB_DATA", "missing", "MICROLAB_DATA"),
        ("MICROLAB_PROFILE", "huge", "MICROLAB_PROFILE"),
        ("MICROLAB_CORES", "none", "cores used"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(small, monkeypatch, variable, value, what):
    monkeypatch.setenv(variable, value)
    code, found = findings()
    assert code == 1
    assert [name for name, text in found.items() if text.startswith("!!")] == [what]
    assert value in found[what]
    assert "; " in found[what]  # what to do


def test_a_missing_and_an_old_package_are_named_with_the_command_that_mends(small, monkeypatch):
    installed = {"numpy": None, "scipy": "0.1"}
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, "9999"))
    code, found = findings()
    assert code == 1
    assert found["numpy"].startswith("!!missing; pip install 'numpy>=")
    assert found["scipy"].startswith("!!0.1, needed is >=")
    assert not found["pandas"].startswith("!!")


def test_a_package_with_known_holes_is_named(small, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "11.3.0" if name == "pillow" else "9999")
    code, found = findings()
    assert code == 1
    assert found["pillow"].startswith("!!11.3.0, which has known security holes; pip install 'pillow>=13.0'")


def test_a_missing_extra_says_what_installs_it_and_is_no_fault(small, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "nbgrader" else "9999")
    code, found = findings()
    assert found["teach"].startswith("missing nbgrader: pip install 'microlab[teach]'")
    assert found["cluster"].startswith("installed")
    assert code == 0
    assert doctor.EXTRAS["teach"] in found["teach"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_cache_that_cannot_be_written_is_named(small, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    code, found = findings()
    assert code == 1
    assert found["cache of downloads"].startswith("!!/proc/self/microlab, cannot be written")


def test_damaged_weights_and_data_are_named(small, monkeypatch, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    monkeypatch.setattr(weights, "available", lambda: ["broken"])
    code, found = findings()
    assert code == 1
    assert found["weights broken"].startswith("!!")
    assert "broken" in found["weights broken"].removeprefix("!!")


def test_a_container_with_a_limit_is_seen(monkeypatch, tmp_path):
    real = doctor.Path

    def under(path):
        return tmp_path / "cpu.max" if str(path) == "/sys/fs/cgroup/cpu.max" else real(path)

    monkeypatch.setattr(doctor, "Path", under)
    for text, expected in {"150000 100000\n": "1.5 (cgroup)", "max 100000\n": "no limit"}.items():
        (tmp_path / "cpu.max").write_text(text)
        assert doctor._container_limit() == expected
