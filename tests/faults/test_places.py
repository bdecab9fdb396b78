"""Places that cannot be written, outputs that are inputs, awkward names: one line, and nothing is lost.

To add a place, add it to `PLACES`; to add a name, add a part of it to `PARTS`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from command_line import run
from dark_lines import grid, save_network
from faults import USER, contents, line_of
from toy_method import TOY

from microlab.cli import errors
from microlab.data import files, images, parallel
from microlab.data.errors import InputError, one_line, out_of_memory, printable
from microlab.data.files import MARK, atomic, claim, safe_name
from microlab.data.tables import write_csv
from microlab.pipelines.image_results import Options, length, number, result_folders
from microlab.pipelines.measure_folder import measure_folder
from microlab.pipelines.segment_folder import segment_folder
from microlab.segment.registry import REGISTRY
from microlab.simulate import library

RANGES = library.Ranges(shape=(32, 32), grains=(4, 6), steps=(3, 6))


@pytest.fixture(autouse=True)
def quick_method(monkeypatch):
    monkeypatch.setitem(REGISTRY, "toy", TOY)


@pytest.fixture
def field(tmp_path) -> Path:
    """A micrograph of 12 grains in a folder of the user's, with other things in it."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "notes.txt").write_bytes(USER)
    return images.write_image(place / "field.tif", grid(3, 4)[0], pixel_size=0.5)


@pytest.fixture
def labels(field) -> Path:
    squares = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((20, 20), int))
    return images.write_labels(field.with_name("squares.tif"), squares, pixel_size=0.5)


def refused(*call: object) -> str:
    """The one line of a call that is refused."""
    result = run(*call)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.stderr
    assert result.exit_code == 2 or len(lines) == 1, result.stderr
    return lines[-1]


# --- folders that are not ours ----------------------------------------------------------------------------

FULL = ("field.tif", "notes.txt", "report.html", "a/mask.png", "structures/000000.part/x", "manifest.csv")
FULL += (
    "work/photo.png",
    "labour-free.safetensors",
    "settings.json",
    "run.json",
    "library/a.tif",
    "summary.csv",
)
COMMANDS = {
    "segment": lambda field, place: ("segment", field, "-o", place, "--method", "ridge"),
    "demo": lambda field, place: ("demo", "-o", place),
    "measure": lambda field, place: ("measure", field.with_name("squares.tif"), "-o", place),
    "simulate": lambda field, place: (
        "simulate",
        place,
        "-n",
        1,
        "--size",
        32,
        "--grains",
        3,
        4,
        "--jobs",
        1,
    ),
    "train": lambda field, place: ("train", place, "--structures", 2, "--steps", 1),
    "train anew": lambda field, place: ("train", place, "--structures", 2, "--steps", 1, "--no-resume"),
    "sample-pairs": lambda field, place: ("sample-pairs", "-n", 1, "--size", 32, "-o", place),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FULL)
def test_a_folder_with_things_of_the_users_is_refused_and_left_alone(command, name, labels, tmp_path):
    place = tmp_path / "theirs"
    (place / name).parent.mkdir(parents=True)
    (place / name).write_bytes(USER)
    before = contents(tmp_path)
    line = refused(*COMMANDS[command](labels.with_name("field.tif"), place))
    assert (
        f"{place}: holds {Path(name).parts[0]}, which microlab did not write; choose a new or an empty"
        in line
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("first", ["measure", "simulate"])
@pytest.mark.parametrize("then", ["segment", "measure", "simulate", "demo"])
def test_a_folder_of_one_kind_of_results_is_none_of_another(first, then, labels, tmp_path):
    place, field = tmp_path / "out", labels.with_name("field.tif")
    assert run(*COMMANDS[first](field, place)).exit_code == 0
    before = contents(place)
    if first == then:
        assert run(*COMMANDS[then](field, place)).exit_code == 0
    else:
        assert f"{place}: holds what microlab" in refused(*COMMANDS[then](field, place))
        assert contents(place) == before


@pytest.mark.parametrize(
    "entry", [".DS_Store", "Thumbs.db", "desktop.ini", ".lock", ".microlab.jsonl.999999999.part"]
)
def test_a_folder_is_empty_to_a_person_who_sees_nothing_in_it(tmp_path, entry):
    (tmp_path / entry).write_bytes(b"")
    claim(tmp_path, "segment")
    assert (tmp_path / MARK).is_file()


def test_what_a_killed_process_left_half_written_goes_and_that_of_a_living_one_stays(tmp_path):
    claim(tmp_path, "segment")
    (tmp_path / ".a.999999999.part.tif").write_bytes(b"half")
    living = tmp_path / f".b.{os.getpid()}.part.tif"
    living.write_bytes(b"half")
    (tmp_path / "b.part.tif").write_bytes(USER)
    claim(tmp_path, "segment")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MARK, living.name, "b.part.tif"])


# --- inputs are no outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "out", ["squares.tif", "truth.png", "table.csv", "mine.xlsx", "sub/../squares.tif", "link.csv"]
)
def test_measure_replaces_no_input_and_no_table(labels, tmp_path, out):
    place = labels.parent
    (place / "sub").mkdir()
    images.write_mask(place / "truth.png", np.zeros((60, 80), bool))
    (place / "table.csv").write_bytes(USER)
    (place / "mine.xlsx").write_bytes(USER)
    (place / "link.csv").symlink_to(labels)
    before = contents(place)
    line = refused("measure", labels, "--truth", place / "truth.png", "-o", place / out)
    assert str(place / out) in line
    assert contents(place) == before


def test_a_table_is_replaced_on_request(labels):
    table = labels.with_name("table.csv")
    table.write_bytes(USER)
    assert run("measure", labels, "-o", table, "--overwrite").exit_code == 0
    assert len(pd.read_csv(table)) == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_table_goes_through_a_pipe_that_stays_one(labels, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    try:
        assert run("measure", labels, "-o", pipe).exit_code == 0
        assert reader.communicate(timeout=20)[0].startswith(b"image,label,area_px")
    finally:
        reader.kill()
    assert pipe.is_fifo()


def test_a_link_leads_to_the_file_that_is_written(labels, tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "there" / "table.csv")
    assert run("measure", labels, "-o", link).exit_code == 0
    assert link.is_symlink()
    assert (tmp_path / "there" / "table.csv").is_file()


def test_weights_to_start_from_are_not_written_over(tmp_path):
    own = save_network(tmp_path / "run" / "appearances.safetensors")
    before = contents(tmp_path)
    line = refused("train", own.parent, "--start", own, "--steps", 1, "--structures", 2, "--no-resume")
    assert "would be overwritten by the weights trained" in line
    assert contents(tmp_path) == before


def test_images_that_lie_where_adapt_works_are_safe(field, tmp_path):
    """`--fresh` empties that folder."""
    work = tmp_path / "out" / "work"
    shutil.copytree(field.parent, work)
    before = contents(tmp_path)
    assert "holds work, which microlab did not write" in refused("adapt", work, "-o", work.parent, "--fresh")
    assert contents(tmp_path) == before
    claim_all = tmp_path / "ours"
    claim(claim_all, "adapt")
    shutil.copytree(field.parent, claim_all / "work")
    assert "lies in" in refused("adapt", claim_all / "work", "-o", claim_all, "--fresh")


def test_a_fresh_run_removes_no_file_but_its_own(tmp_path):
    from microlab.data.run_folder import RunFolder

    run_folder = RunFolder(tmp_path / "run", {"seed": 0})
    run_folder.write("a.json", 1)
    library.build(tmp_path / "run" / "library", 1, ranges=RANGES, jobs=1, progress=False)
    for place in ("notes.txt", "library/notes.txt", "library/structures/notes.txt", "a.png", "grains.tif"):
        (tmp_path / "run" / place).write_bytes(USER)
        before = without_marks(tmp_path)
        with pytest.raises(InputError, match=f"{Path(place).name}: is not of a run and would be lost"):
            RunFolder(tmp_path / "run", {"seed": 1}, fresh=True)
        assert without_marks(tmp_path) == before
        (tmp_path / "run" / place).unlink()
    RunFolder(tmp_path / "run", {"seed": 1}, fresh=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {MARK, ".lock", "settings.json"}


# --- places that do not take a file -----------------------------------------------------------------------


def a_file(place: Path) -> Path:
    place.write_bytes(USER)
    return place


def below_a_file(place: Path) -> Path:
    return a_file(place) / "below"


def a_loop(place: Path) -> Path:
    place.symlink_to(place)
    return place


def to_nowhere(place: Path) -> Path:
    place.symlink_to(place.parent / "nowhere")
    return place


def the_system(place: Path) -> Path:
    return Path("/proc/microlab")


def too_long(place: Path) -> Path:
    return place / ("n" * 300)


def a_device(place: Path) -> Path:
    return Path("/dev/null")


PLACES = (a_file, below_a_file, a_loop, to_nowhere, the_system, too_long, a_device)


@pytest.mark.skipif(sys.platform != "linux", reason="places of Linux")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_place_that_cannot_be_written_is_one_line(command, place, labels, tmp_path):
    out = place(tmp_path / "place")
    if command == "measure" and place is a_device:
        return  # a table goes there
    before = contents(tmp_path)
    refused(*COMMANDS[command](labels.with_name("field.tif"), out))
    assert contents(tmp_path) == before


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "segment": lambda field, out: segment_folder(
        [field], out, method="toy", options=Options(rois=False, geojson=True)
    ),
    "measure": lambda field, out: measure_folder([field.with_name("squares.tif")], out, geojson=True),
    "simulate": lambda field, out: library.build(out, 2, ranges=RANGES, jobs=1, progress=False),
}


def without_marks(place: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(place).items() if Path(name).name not in (MARK, ".lock")}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_any_moment(command, code, call, labels, tmp_path, monkeypatch):
    """One line; no half file; and once the disk works again, the same results."""
    field = labels.with_name("field.tif")
    write = WRITERS[command]
    write(field, tmp_path / "whole")
    real = getattr(os, call)
    rng = np.random.default_rng([code, len(command)])
    for moment in sorted({0, *rng.integers(1, 12, 3).tolist()}):
        out = tmp_path / str(moment)
        calls = iter(range(10**6))

        def failing(*arguments, moment=moment, calls=calls):
            if next(calls) >= moment:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        def all_done(out=out) -> None:
            result = write(field, out)
            for image in getattr(result, "failed", []):
                raise image.error

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            line = line_of(all_done)
        assert line is None or os.strerror(code) in line, line
        assert not [name for name in contents(tmp_path) if ".part" in name]
        assert line_of(all_done) is None
        assert without_marks(out) == without_marks(tmp_path / "whole")


# --- names ------------------------------------------------------------------------------------------------

PARTS = [
    "",
    ".",
    "..",
    "...",
    "=1+1",
    "@x",
    "+a",
    "-b",
    "a b",
    "<blink>x",
    "&amp;",
    '"q"',
    "'",
    "\x1b[31mred",
    "\n",
]
PARTS += [
    "\t",
    "é",
    "\udce9",
    "名",
    "CON",
    "report.html",
    "summary.csv",
    "work",
    "a" * 200,
    "%s",
    "{x}",
    "$(x)",
    "\u202e",
]
PARTS += ["adapted.safetensors", "nul.txt", "a\\b", "a:b", "?", "*", "|", " lead", "trail ", "grains.csv"]


def awkward_names(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    names = [part for part in PARTS if part]
    while len(names) < n:
        name = "".join(rng.choice(PARTS, 2))
        if name.strip("/") and len(os.fsencode(name)) < 240:
            names.append(name)
    return names


@pytest.mark.parametrize("name", awkward_names(120, 0), ids=lambda name: printable(name)[:30])
def test_every_image_has_a_folder_of_its_own_below_the_results(name, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    paths = [tmp_path / f"{name}.png", tmp_path / f"{name}.tif", tmp_path / "other.png"]
    folders = result_folders(paths, out)
    assert len({folder.name.casefold() for folder in folders}) == 3
    for folder in folders:
        assert folder.parent == out
        assert folder.resolve().parent == out.resolve()
        assert folder.name.isprintable()
        assert not set(folder.name) & set('<>:"/\\|?*')
        assert folder.name.casefold() not in ("report.html", "summary.csv", "grains.csv", "con", "nul.txt")
        folder.mkdir()  # every file system takes it
    assert safe_name(safe_name(name)) == safe_name(name)


class Text(HTMLParser):
    """Tags of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


def test_awkward_names_from_the_file_to_table_page_and_terminal(tmp_path):
    """A batch of them: every one is segmented, and no cell, tag or terminal obeys a name."""
    place, out = tmp_path / "fields", tmp_path / "out"
    place.mkdir()
    names = [name for name in awkward_names(40, 1) if "/" not in name and name not in (".", "..")]
    for name in names:
        images.write_image(tmp_path / "field.png", grid(2, 3)[0])
        (place / f"{name}.png").write_bytes((tmp_path / "field.png").read_bytes())
    (place / "broken\x1b[2J=.png").write_bytes(b"no image")
    paths = sorted(place.iterdir())
    before = contents(place)
    result = run("segment", *paths, "-o", out, "--method", "toy")
    assert contents(place) == before
    assert result.exit_code == 1  # of the broken one
    assert "\x1b" not in result.output
    assert len(result.stdout.splitlines()) == len(paths)  # one for each that worked, and the report's
    summary = pd.read_csv(out / "summary.csv", keep_default_na=False)
    assert len(summary) == len(paths)
    assert summary["image"].nunique() == len(paths)
    grains = pd.read_csv(out / "grains.csv", keep_default_na=False)
    assert grains["image"].nunique() == len(paths) - 1
    for table in (out / "summary.csv", out / "grains.csv"):
        cells = re.split(r",|\n", table.read_text(encoding="utf-8").replace('"', ""))
        assert not [cell for cell in cells if cell[:1] in ("=", "@", "+") or re.match(r"-[^\d]", cell)]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "blink" not in Text(page).tags
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == sorted(
        [MARK, ".lock", "summary.csv", "grains.csv", "report.html"]
    )
    measured = run("measure", out, "-o", tmp_path / "all")
    assert measured.exit_code == 0
    assert len(pd.read_csv(tmp_path / "all" / "summary.csv")) == len(paths) - 1


@pytest.mark.parametrize("name", ["...png", "..png"])
def test_a_name_of_dots_does_not_lead_out_of_the_results(tmp_path, name):
    """Its stem is the folder above, or the folder itself, where a mask of the user's lies."""
    images.write_image(tmp_path / "field.png", grid(3, 4)[0])
    (tmp_path / "field.png").rename(tmp_path / name)
    (tmp_path / "mask.png").write_bytes(USER)
    assert run("segment", tmp_path / name, "-o", tmp_path / "out", "--method", "toy").exit_code == 0
    assert (tmp_path / "mask.png").read_bytes() == USER
    assert (tmp_path / "out" / "image" / "mask.png").is_file()


def test_cells_that_would_be_calculated_are_text(tmp_path):
    table = pd.DataFrame(
        {"image": ["=cmd()|' 'A0", "+1", "-a", "@x", "plain", None], "n": [1, 2, 3, 4, 5, 6]}
    )
    write_csv(tmp_path / "t.csv", table)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[1:] == ["'=cmd()|' 'A0,1", "'+1,2", "'-a,3", "'@x,4", "plain,5", ",6"]


# --- numbers as people read them --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [4e-6, 1e-12, 0.1, 0.000123456, 12.0, 999.7, 1e5, 123456789.0, -2.5e-7, 0.0]
)
def test_no_number_has_an_exponent(tmp_path, value):
    assert "e" not in number(value)
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5e-3)
    write_csv(tmp_path / "t.csv", pd.DataFrame({"a": [value, np.nan, 1.0]}))
    cells = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert "e" not in cells[0]
    assert float(cells[0]) == pytest.approx(value, rel=1e-5)
    assert cells[1:] == ['""', "1"] or cells[1:] == ["", "1"]


@pytest.mark.parametrize(
    ("um", "text"), [(0.002, "2 nm"), (0.05, "50 nm"), (0.5, "0.5 µm"), (4.2, "4.2 µm"), (2500, "2.5 mm")]
)
def test_lengths_have_the_unit_in_which_they_are_read(um, text):
    assert length(um) == text


def test_grains_of_nanometres_are_measured_in_nanometres(tmp_path):
    """Squares of 20 px of 0.1 nm: 4 nm²."""
    squares = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((20, 20), int))
    path = images.write_labels(tmp_path / "tenth_nm.tif", squares, pixel_size=1e-4)
    result = run("measure", path)
    assert re.search(r"mean area +4 nm²", result.stdout)
    assert re.search(r"mean diameter +2\.26 nm", result.stdout)
    assert not re.search(r"\de-\d", result.stdout)


def test_the_summary_as_json(labels, tmp_path):
    result = run("measure", labels, labels.with_name("field.tif").with_suffix(".none"), "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)["images"]
    assert (rows[0]["grains"], rows[0]["pixel_size_um"]) == (12, 0.5)
    assert rows[0]["mean_area_um2"] == pytest.approx(100)
    assert rows[0]["mean_diameter_um"] == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert (
        rows[0]["mean_diameter_low_um"] is None
        or rows[0]["mean_diameter_low_um"] <= rows[0]["mean_diameter_um"]
    )
    assert "field.none" in rows[1]["error"]
    again = run("segment", labels.with_name("field.tif"), "-o", tmp_path / "out", "--method", "toy", "--json")
    told = json.loads(again.stdout)
    assert told["images"][0]["grains"] == 12
    assert Path(told["report"]).is_file()


# --- the system -------------------------------------------------------------------------------------------


def test_more_jobs_than_cores_are_said_and_refused_if_they_make_no_sense(field, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    out = tmp_path / "out"
    result = run("segment", field, "-o", out, "--method", "toy", "--jobs", 10**20)
    assert result.exit_code == 0
    assert "more than the 2 cores of this machine" in result.stderr
    for jobs in (0, -2, -(10**20)):
        assert "jobs must be" in refused("segment", field, "-o", tmp_path / "no", "--jobs", jobs)
    line = refused("segment", field, "-o", tmp_path / "no", "--jobs", 2, "--scheduler", "tcp://127.0.0.1:1")
    assert "exclude each other" in line
    line = refused("simulate", tmp_path / "no", "-n", 1, "--jobs", 2, "--scheduler", "tcp://127.0.0.1:1")
    assert "exclude each other" in line
    assert not (tmp_path / "no").exists()


def test_no_memory_is_one_line_that_names_the_image(field, tmp_path, monkeypatch):
    def hungry(*arguments, **keywords):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("microlab.pipelines.image_results.choose", hungry)
    line = refused("segment", field, "-o", tmp_path / "out", "--method", "toy")
    assert line.startswith(f"microlab: {field}: not enough memory; ")
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), errors.INTERRUPTED, "stopped by Ctrl-C"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), errors.UNREAD, "the output was closed"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device; free some space"),
        (RecursionError("deep"), errors.BUG, "this is a bug"),
    ],
)
def test_each_end_has_its_line_and_its_exit_code(raised, code, words, field, tmp_path, monkeypatch):
    def ends(*arguments, **keywords):
        raise raised

    monkeypatch.setattr("microlab.pipelines.segment_folder.segment_folder", ends)
    result = run("segment", field, "-o", tmp_path / "out", "--method", "toy")
    assert result.exit_code == code
    assert words in result.stderr
    assert code == errors.BUG or len(result.stderr.splitlines()) == 1


def command_line(*call: object, **options) -> subprocess.Popen:
    """The command as a program of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MICROLAB_CORES": "2"}
    call = [sys.executable, "-m", "microlab", *map(str, call)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True} | options
    return subprocess.Popen(call, env=environment, text=True, preexec_fn=heed_ctrl_c, **options)


def heed_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("call", [["--version"], ["datasets", "list"], ["--help"]])
def test_an_output_that_takes_nothing_is_one_line(call):
    with open("/dev/full", "w") as full:
        _, err = command_line(*call, stdout=full).communicate(timeout=60)
    assert re.fullmatch(r"microlab: (the output: )?No space left on device; free some space .*\n", err)


@pytest.mark.slow
def test_a_pipe_that_closes_is_one_line(labels):
    with command_line("measure", labels) as process:
        process.stdout.close()  # as head does when it has enough
        err = process.stderr.read()
        assert process.wait(timeout=60) == errors.UNREAD
    assert err.splitlines()[-1].startswith("microlab: stopped, since the output was closed")
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_is_one_line_with_processes_too(tmp_path, jobs):
    for k in range(6):
        images.write_image(tmp_path / "fields" / f"{k}.png", grid(6, 6 + k)[0])
    process = command_line(
        "segment", tmp_path / "fields", "-o", tmp_path / "out", "--jobs", jobs, "--method", "ridge"
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines == ["microlab: stopped by Ctrl-C; files that were finished are whole and kept"]
    assert process.returncode == errors.INTERRUPTED
    assert not (tmp_path / "out" / "report.html").exists()
    assert (
        run(
            "segment", tmp_path / "fields", "-o", tmp_path / "out", "--skip-existing", "--method", "ridge"
        ).exit_code
        == 0
    )


@pytest.mark.parametrize("scale", [100, 60])
def test_a_magnification_beyond_measure_is_refused_before_the_work(field, tmp_path, scale):
    images.write_image(field, grid(20, 20)[0])
    line = refused("segment", field, "-o", tmp_path / "out", "--scale", scale, "--method", "toy")
    most = float(re.search(r"give at most ([\d.]+) \(--scale\)", line)[1])
    assert 480 * 480 * most**2 <= 64e6 < 480 * 480 * (most + 0.1) ** 2


# --- outlines ---------------------------------------------------------------------------------------------


def test_outlines_of_a_batch_are_written_where_they_are_asked_for(field, labels, tmp_path):
    pytest.importorskip("roifile")
    call = ["segment", field, "-o", tmp_path / "out", "--method", "toy", "--rois", "--geojson"]
    assert run(*call).exit_code == 0
    with zipfile.ZipFile(tmp_path / "out" / "field" / "rois.zip") as archive:
        assert archive.namelist() == [f"{k:04d}.roi" for k in range(1, 13)]
    features = json.loads((tmp_path / "out" / "field" / "grains.geojson").read_text())["features"]
    assert len(features) == 12
    assert run("segment", field, "-o", tmp_path / "out", "--method", "toy").exit_code == 0
    assert not (tmp_path / "out" / "field" / "rois.zip").exists()  # of the call before
    assert "need a folder" in refused("measure", labels, "--rois")
    assert "need a folder" in refused("measure", labels, "--rois", "-o", tmp_path / "t.csv")
    assert run("measure", labels, "--rois", "-o", tmp_path / "m").exit_code == 0
    assert (tmp_path / "m" / "squares" / "rois.zip").is_file()


def test_the_labels_hold_the_unit(field, tmp_path):
    assert run("segment", field, "-o", tmp_path / "out", "--method", "toy").exit_code == 0
    with tifffile.TiffFile(tmp_path / "out" / "field" / "labels.tif") as tif:
        assert tif.imagej_metadata["unit"] == "um"
        count, of = tif.pages[0].tags["XResolution"].value
        assert of / count == pytest.approx(0.5)


def test_measuring_a_folder_of_results_gives_its_grains_again(field, tmp_path):
    images.write_image(field.with_name("second.tif"), grid(5, 4)[0], pixel_size=0.25)
    call = ["segment", field, field.with_name("second.tif"), "-o", tmp_path / "out", "--method", "toy"]
    assert run(*call).exit_code == 0
    assert run("measure", tmp_path / "out", "-o", tmp_path / "again").exit_code == 0
    for name in ("grains.csv", "summary.csv"):
        first, second = (pd.read_csv(tmp_path / place / name) for place in ("out", "again"))
        shared = [column for column in second if column in first and column != "file"]
        assert len(shared) > 10
        pd.testing.assert_frame_equal(first[shared], second[shared], rtol=1e-5)


def test_messages_are_printable():
    assert one_line(OSError(errno.ENOENT, "No such file", "\x1b[31m\udce9.png")).isprintable()
    with pytest.raises(InputError), atomic_in_a_marked_folder():
        pass


def atomic_in_a_marked_folder():
    """A context in which a file of the user's would be replaced."""
    import tempfile

    place = Path(tempfile.mkdtemp())
    files.claim(place, "segment")
    (place / "a.txt").write_bytes(USER)
    return atomic(place / "a.txt")
