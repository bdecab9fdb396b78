"""The help of every command, the options that all of them have, and completion in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from command_line import run

from microlab.cli import errors
from microlab.cli.main import main
from microlab.data import images

GROUP = typer.main.get_command(main)


def commands(group=GROUP, path=()) -> list[tuple[str, ...]]:
    """Words of every command: ``("segment",)``, ``("datasets", "fetch")``."""
    return [
        words
        for name, command in group.commands.items()
        for words in (commands(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)])
    ]


COMMANDS = commands()
each = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def rows(page: str, title: str) -> list[tuple[str, str]]:
    """(left, right) of every row of a section of a page of help, its lines joined."""
    section = re.search(rf"^{title}:\n((?:  .*\n)*)", page, re.M)
    if section is None:
        return []
    joined: list[str] = []
    for line in section[1].splitlines():
        if re.match(r"  \S", line):
            joined.append(line)
        elif line.strip():
            joined[-1] += ("  " if "  " not in joined[-1].strip() else " ") + line.strip()
    return [tuple(re.split(r" {2,}", row.strip(), maxsplit=1)) for row in joined]


@each
def test_help_shows_nothing_of_the_program_behind_it(words):
    page = run(*words, "--help").stdout
    assert f"Usage: microlab {' '.join(words)} [OPTIONS]" in " ".join(page.split())
    assert not re.search(r"[{}<>\x00-\x09]|\brange\b|list\[|Optional|None\b", page)


@each
def test_every_option_has_a_sentence_and_a_default(words):
    page = run(*words, "--help").stdout
    options = rows(page, "Options")
    assert {"-q, --quiet", "--verbose", "-h, --help"} <= {name for name, _ in options}
    for name, about in options + rows(page, "Arguments"):
        if name == "-h, --help":
            continue
        sentence, _, facts = about.rpartition(" [")
        assert len(sentence.split()) >= 3, (name, about)
        assert sentence.endswith("."), name
        assert re.match(r"(required|default: \S.*)\]$", facts.removeprefix("[")), (name, about)


@each
def test_o_is_a_folder_or_says_file(words):
    for name, about in rows(run(*words, "--help").stdout, "Options"):
        if name.startswith("-o"):
            kind = name.split()[-1]
            assert kind in ("FOLDER", "FILE")
            assert kind.lower() in about.lower()


def test_jobs_means_one_thing():
    about = {
        about.partition(" [")[0]
        for words in COMMANDS
        for name, about in rows(run(*words, "--help").stdout, "Options")
        if name.startswith("--jobs")
    }
    assert len(about) == 1
    for call in (["segment", "a.png", "-o", "out"], ["simulate", "out"], ["adapt", "a", "-o", "out"]):
        for wrong in ("0", "-2"):
            result = run(*call, "--jobs", wrong)
            assert result.exit_code == 2
            assert f"got {wrong}" in result.stderr


def test_the_list_of_commands_is_not_cut_off():
    assert [name for name, _ in rows(run("--help").stdout, "Commands")] == list(GROUP.commands)
    assert "..." not in run("--help").stdout.split("Commands:")[1]


def test_what_segment_cannot_do_names_the_chapter():
    page = " ".join(run("segment", "--help").stdout.split())
    assert "out of scope" in page
    assert "chapter 12" in page


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("microlab seg", "segment"),
        ("microlab segment --qu", "--quiet"),
        ("microlab segment --method lab", "label-free"),
        ("microlab datasets f", "fetch"),
    ],
)
def test_a_shell_completes_commands_and_options(typed, expected):
    ask = {
        "_MICROLAB_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    code = "from microlab.cli.main import main; main(prog_name='microlab')"
    call = [sys.executable, "-c", code]
    answer = subprocess.run(call, env=os.environ | ask, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == [expected]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_completion_can_be_printed(shell):
    code = "from microlab.cli.main import main; main(prog_name='microlab')"
    env = os.environ | {"_MICROLAB_COMPLETE": f"source_{shell}"}
    script = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert "_MICROLAB_COMPLETE" in script
    assert shell != "bash" or "complete -o default" in script


@pytest.fixture
def barred(tmp_path):
    """A micrograph with a data bar, about which `segment` has a note."""
    y, x = np.indices((116, 120))
    picture = np.where((y % 24 < 2) | (x % 24 < 2), 0.2, 0.8).astype(np.float32)
    picture[96:] = 0
    return images.write_image(tmp_path / "field.png", picture)


def test_quiet_leaves_results_and_errors_and_verbose_adds_versions(barred, tmp_path):
    call = ["segment", barred, "-o", tmp_path / "out", "--method", "ridge", "--data-bar", 20]
    usual, quiet, verbose = run(*call), run(*call, "--quiet"), run(*call, "--verbose")
    assert "20 rows" in usual.stderr
    assert quiet.stderr == ""
    assert quiet.stdout == usual.stdout == verbose.stdout
    assert usual.stderr in verbose.stderr
    first, *_, last = verbose.stderr.splitlines()
    assert re.fullmatch(r"microlab \S+, Python 3\S+, torch \S+, .+, \d+ cores, process \d+", first)
    assert re.fullmatch(r"microlab: \d+\.\d s", last)
    assert run(*call).stderr == usual.stderr  # neither option outlives its call


def test_errors_are_shown_to_a_quiet_caller_and_with_their_place_to_a_verbose_one(tmp_path):
    call = ["segment", tmp_path / "none.png", "-o", tmp_path / "out"]
    quiet = run(*call, "--quiet")
    assert quiet.exit_code == 1
    assert "none.png" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in run(*call, "--verbose").stderr
    assert run(*call, "--quiet", "--verbose").exit_code == 2


def test_quiet_hides_the_progress_of_the_library(tmp_path):
    call = ["simulate", tmp_path / "library", "-n", 1, "--size", 16, "--grains", 2, 3, "--steps", 1, 2]
    result = run(*call, "--jobs", 1, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "1 structures" in result.stdout


def test_the_first_page_of_help_lists_every_exit_code():
    page = " ".join(run("--help").stdout.split())
    codes = re.findall(r"(\d+) ", page.partition("Exit codes: ")[2])
    assert [int(code) for code in codes] == [
        0,
        errors.FAILED,
        2,
        errors.BUG,
        errors.INTERRUPTED,
        errors.UNREAD,
    ]
