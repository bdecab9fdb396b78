"""microlab.data.run_folder: completed results are kept, differing settings are refused by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from microlab.data import run_folder
from microlab.data.errors import InputError
from microlab.data.run_folder import RunFolder, changes, duration

SETTINGS = {"seed": 0, "shape": (64, 64), "images": {"a.png": "0" * 64, "b.png": "1" * 64}}


def never() -> None:
    raise AssertionError("made again")


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_same_settings_open_the_same_run(tmp_path):
    first = RunFolder(tmp_path / "deep" / "run", SETTINGS)
    first.write("half.json", 1)
    again = RunFolder(tmp_path / "deep" / "run", SETTINGS)
    assert again.read("half.json") == 1
    assert again.fingerprint == first.fingerprint
    assert again.settings["shape"] == [64, 64]  # as JSON holds it


def test_the_fingerprint_ignores_the_order_of_settings_and_nothing_else(tmp_path):
    reordered = dict(reversed(SETTINGS.items()))
    assert RunFolder(tmp_path / "a", reordered).fingerprint == RunFolder(tmp_path / "b", SETTINGS).fingerprint
    other = {**SETTINGS, "images": {"a.png": "0" * 64, "b.png": "2" * 64}}
    assert RunFolder(tmp_path / "c", other).fingerprint != RunFolder(tmp_path / "b", SETTINGS).fingerprint


@pytest.mark.parametrize(
    ("now", "phrases"),
    [
        ({**SETTINGS, "seed": 1}, ["seed 0 -> 1"]),
        (
            {**SETTINGS, "shape": (64, 32), "crop": None},
            [r"shape \[64, 64\] -> \[64, 32\]", "absent -> None"],
        ),
        ({"seed": 0, "shape": (64, 64)}, [r"images\.a\.png 00000000\.\.\. -> absent", r"images\.b\.png"]),
        ({**SETTINGS, "images": SETTINGS["images"] | {"b.png": "f" * 64}}, [r"11111111\.\.\. -> ffffffff"]),
    ],
)
def test_a_refusal_names_what_has_changed_and_touches_nothing(tmp_path, now, phrases):
    RunFolder(tmp_path, SETTINGS).write("result.json", 1)
    before = contents(tmp_path)
    for phrase in phrases:
        with pytest.raises(InputError, match=phrase):
            RunFolder(tmp_path, now)
    assert contents(tmp_path) == before
    assert RunFolder(tmp_path, SETTINGS).read("result.json") == 1


def test_unchanged_settings_are_not_named():
    assert changes({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}) == ["b.d 3 -> 4"]
    assert changes({"a": None}, {"a": None}) == []
    assert changes({}, {"a": None}) == ["a absent -> None"]


def test_a_fresh_run_discards_the_earlier_one(tmp_path):
    RunFolder(tmp_path, SETTINGS).write("deep/result.json", 1)
    run = RunFolder(tmp_path, {"seed": 1}, fresh=True)
    assert run.read("deep/result.json") is None
    assert run.read("settings.json") == {"seed": 1}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "run", SETTINGS, fresh=True)
    assert (tmp_path / "run").read_text() == "mine"


def test_settings_that_json_cannot_hold_are_the_callers_error(tmp_path):
    with pytest.raises(TypeError):
        RunFolder(tmp_path / "run", {"path": tmp_path})
    assert not (tmp_path / "run").exists()


def test_a_result_is_computed_once(tmp_path):
    run = RunFolder(tmp_path, SETTINGS)
    assert run.once("pair.json", lambda a, b: (a, b), 1, 2) == [1, 2]
    assert run.once("pair.json", never) == [1, 2]
    image = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    first = run.arrays("deep/pair.npz", lambda scale: {"image": scale * image, "zoom": 1.5}, 2)
    again = run.arrays("deep/pair.npz", never)
    for stored in (first, again):
        assert stored["image"].dtype == np.float32
        np.testing.assert_array_equal(stored["image"], 2 * image)
        assert float(stored["zoom"]) == 1.5


def test_entries_beside_the_settings_are_kept_or_refused(tmp_path):
    run = RunFolder(tmp_path, SETTINGS)
    run.require("pool.json", {"pairs": 3})
    run.require("pool.json", {"pairs": 3})
    with pytest.raises(InputError, match="pairs 3 -> 4"):
        run.require("pool.json", {"pairs": 4})
    assert run.read("pool.json") == {"pairs": 3}


@pytest.mark.parametrize("method", ["once", "arrays"])
def test_a_failed_step_leaves_no_file(tmp_path, method):
    run = RunFolder(tmp_path, SETTINGS)
    before = contents(tmp_path)
    with pytest.raises(AssertionError):
        getattr(run, method)("result.npz", never)
    with pytest.raises(TypeError):
        run.write("result.json", {"path": tmp_path})
    assert contents(tmp_path) == before


def test_a_damaged_file_is_named(tmp_path):
    run = RunFolder(tmp_path, SETTINGS)
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half of a file")
    with pytest.raises(InputError, match=r"half\.json: is damaged .* remove it"):
        run.once("half.json", never)
    with pytest.raises(InputError, match=r"half\.npz: is damaged .* remove it"):
        run.arrays("half.npz", never)
    (tmp_path / "settings.json").write_text("")
    with pytest.raises(InputError, match=r"settings\.json: is damaged"):
        RunFolder(tmp_path, SETTINGS)


def test_seconds_of_a_stage_add_up_over_calls_that_were_stopped(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_folder.time, "perf_counter", lambda: now[0])
    lines: list[str] = []

    def stopped() -> None:
        now[0] += 100
        raise KeyboardInterrupt

    run = RunFolder(tmp_path, SETTINGS, log=lines.append)
    with pytest.raises(KeyboardInterrupt), run.stage("training"):
        stopped()
    run = RunFolder(tmp_path, SETTINGS, log=lines.append)
    with run.stage("training"):
        now[0] += 20
    with run.stage("report"):
        now[0] += 3
    assert run.seconds == {"training": 120, "report": 3}
    assert lines == ["training: 20 s", "report: 3.0 s"]  # a stopped stage is not announced as done


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01, "0.0 s"), (8.04, "8.0 s"), (61, "61 s"), (240, "4 min"), (9000, "2.5 h")]
)
def test_durations_are_formatted_for_reading(seconds, text):
    assert duration(seconds) == text


def test_only_one_process_works_in_a_folder_and_a_killed_one_releases_it(tmp_path):
    run = RunFolder(tmp_path, SETTINGS)
    code = (
        "import sys, time\n"
        "from microlab.data.run_folder import RunFolder\n"
        f"with RunFolder({str(tmp_path)!r}, {SETTINGS!r}).lock():\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another process works in this folder"), run.lock():
            pass
        with pytest.raises(InputError, match="another process works in this folder"):
            RunFolder(tmp_path, SETTINGS, fresh=True)
        os.kill(other.pid, signal.SIGKILL)
    with run.lock():
        pass
    with pytest.raises(ZeroDivisionError), run.lock():
        1 / 0  # noqa: B018
    with run.lock():
        pass
