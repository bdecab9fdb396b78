"""The checks of the built site, and what the build adds to its pages, on tiny pages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import book_html
import chapter_table
import cost_card
import pytest
import run_records
from check_site import MAX_KIB, check_site, foreign_addresses

from microlab.book import records

ROOT = Path(__file__).resolve().parents[2]


def page(body: str, language: str = ' lang="en"') -> str:
    return f"<!doctype html><html{language}><body><h1 id='top'>Title</h1>{body}</body></html>"


def site(folder: Path, **pages: str) -> list[str]:
    """Write pages and return what the check finds."""
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return check_site(folder)[1]


def test_a_valid_site_passes(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text(page(""), encoding="utf-8")
    body = """<a href="two.html#caf%C3%A9">x</a> <a href="#top">x</a> <a href="https://example.org">x</a>
    <a href="sub/">x</a> <a href="mailto:a@b.c">x</a> <img src="a%20b.png" alt="A grain">
    <img src="data:image/png;base64,AA" alt="A grain"><label for="r">t</label><input type="range" id="r">"""
    assert site(tmp_path, one=page(body), two=page('<p id="café"></p>')) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="none.html">x</a>', "leads nowhere: none.html"),
        ('<a href="../outside.html">x</a>', "leads nowhere: ../outside.html"),
        ('<a href="#none">x</a>', "no such anchor: #none"),
        ('<a href="one.html#none">x</a>', "no such anchor: one.html#none"),
        ('<img src="none.png" alt="A grain">', "leads nowhere: none.png"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads from the network: https://cdn"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads from the network: //example.org/x.css"),
        ("<script>const later = 'https://cdn.example.org/x.js'</script>", "names another site: https://cdn"),
        (
            "<style>p {background: url(//example.org/x.png)}</style>",
            "names another site: //example.org",
        ),
        ('<p id="a"></p><p id="a"></p>', "id used 2 times: a"),
        ('<img src="data:,">', "image without words"),
        ('<img src="data:," alt=" ">', "image without words"),
        ('<img src="data:," alt="../_images/0f3a.png">', "image without words"),
        ('<input type="range" id="r">', "slider without a label: r"),
        ("<h1>Second</h1>", "2 top headings"),
        ("<p>" + "x" * (MAX_KIB + 1) * 1024 + "</p>", "KiB, more than"),
    ],
)
def test_each_fault_is_found(tmp_path, body, problem):
    (problem_found,) = site(tmp_path, one=page(body))
    assert problem_found.startswith("one.html: ")
    assert problem in problem_found


def test_a_file_of_the_theme_that_names_another_site_is_found(tmp_path):
    (tmp_path / "_static" / "scripts").mkdir(parents=True)
    script = tmp_path / "_static" / "scripts" / "x.js"
    script.write_text(
        '/* from "https://example.org" */ a = "http://www.w3.org/2000/svg"; // see https://b.org'
    )
    assert site(tmp_path, one=page("<script>a = '<p>https'; b = 1 // https://b.org</script>")) == []
    script.write_text('const dormant = "https://cdn.example.org/npm/";')
    (problem,) = site(tmp_path, one=page(""))
    assert problem == "_static/scripts/x.js: names another site: https://cdn.example.org/npm/"


def test_a_page_needs_a_language(tmp_path):
    assert site(tmp_path, one=page("", language="")) == ["one.html: no language"]


def test_an_unbuilt_book_is_an_error_not_a_pass(tmp_path):
    with pytest.raises(ValueError, match="make book"):
        check_site(tmp_path)
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_site.py", tmp_path], capture_output=True, timeout=60
    )
    assert run.returncode == 2


def test_duplicate_ids_are_kept_only_once_and_scripts_are_unchanged():
    text = '<p id="a">1</p><script>x = \'<p id="a">\'</script><p class="c" id="a">2</p><p id="b">3</p>'
    assert book_html.repair(text) == (
        '<p id="a">1</p><script>x = \'<p id="a">\'</script><p class="c">2</p><p id="b">3</p>'
    )


def test_scripts_that_would_run_code_on_another_site_are_taken_out():
    thebe = (
        '<script>const THEBE_JS_URL = "https://unpkg.com/thebe@0.8.2/lib/index.js"; const a = 1</script>'
        '<script async="async" src="../_static/sphinx-thebe.js?v=c1"></script>'
        '<script type="text/x-thebe-config">{"requestKernel": true}</script>'
    )
    kept = '<script src="../_static/togglebutton.js"></script><script>b = 2</script>'
    assert book_html.repair(kept + thebe + kept + thebe) == kept + kept


def test_the_built_equations_name_no_other_site():
    vendored = ROOT / "book" / "_vendor" / "mathjax" / "tex-svg-full.js"
    script = vendored.read_text(encoding="utf-8")
    assert foreign_addresses(script)
    clean = book_html.without_addresses(script)
    assert foreign_addresses(clean) == []
    assert clean.count("http://www.w3.org/") == script.count("http://www.w3.org/")
    assert len(script) - len(clean) < 1000


def test_the_arrow_that_unfolds_the_side_bar_has_a_name():
    arrow = '<summary><span class="toctree-toggle" role="presentation"><i></i></span></summary>'
    assert book_html.repair(arrow).startswith('<summary aria-label="More pages"><span')


def test_the_title_that_is_repeated_for_print_is_no_second_heading():
    text = '<div id="jb-print-docs-body" class="onlyprint">\n <h1>T</h1></div><h1>T</h1>'
    assert book_html.repair(text).count("<h1") == 1


def test_costs_are_given_in_suitable_units():
    assert cost_card.in_words({"seconds": 41.4, "peak_mib": 812}) == "41 s, 812 MiB"
    assert cost_card.in_words({"seconds": 186.0, "peak_mib": 1229}) == "3.1 min, 1.2 GiB"


def test_the_card_names_recorded_costs_of_other_profiles(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_card, "RECORDED", tmp_path)
    costs = {"tutorials/00_start": {"seconds": 240.0, "peak_mib": 900}}
    for name in ("smoke", "laptop"):
        record = {"profile": name, "machine": "8 CPU cores", "chapters": costs}
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    build = {"profile": "smoke", "machine": "2 CPU cores"}
    text = cost_card.card("tutorials/00_start", {"seconds": 5.0, "peak_mib": 300}, build).astext()
    assert "smoke 5 s, 300 MiB (2 CPU cores; this build); laptop 4.0 min, 900 MiB (8 CPU cores)." in text


@pytest.mark.slow
def test_the_instructors_table_has_the_outcome_and_the_measured_cost_of_every_chapter(tmp_path):
    """A small book of this guide and empty chapters, in which one chapter was measured."""
    (tmp_path / "conf.py").write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT / 'book' / '_ext')!r}]\n"
        "extensions = ['myst_nb', 'chapter_table']\n"
        "myst_enable_extensions = ['smartquotes']\n"
        "nb_execution_mode = 'off'\n"
        "root_doc = 'book/instructor'\n"
        "def setup(app):\n"
        "    def measured(app, env):\n"
        "        cost = {'seconds': 41.4, 'peak_mib': 812}\n"
        "        app.microlab_costs['chapters']['tutorials/01_voronoi'] = cost\n"
        "    app.connect('env-updated', measured)\n",
        encoding="utf-8",
    )
    for _, document in chapter_table.chapters():
        stub = tmp_path / f"{document}.md"
        stub.parent.mkdir(exist_ok=True)
        stub.write_text("---\norphan: true\n---\n\n# A chapter\n", encoding="utf-8")
    (tmp_path / "book").mkdir()
    guide = (ROOT / "book" / "instructor.md").read_text(encoding="utf-8")
    (tmp_path / "book" / "instructor.md").write_text(guide, encoding="utf-8")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-b",
            "html",
            str(tmp_path),
            str(tmp_path / "_build" / "html"),
        ],
        check=True,
        capture_output=True,
    )
    html = (tmp_path / "_build" / "html" / "book" / "instructor.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert re.search(
        r" 01 draw polycrystals of any size .* 41 s, 812 MiB \(\d+ CPU cores.*?\) 01_voronoi ", text
    )
    assert re.search(r" 03 grow a polycrystal ", text)
    assert len(re.findall(r"not measured in this build", text)) == len(chapter_table.chapters()) - 1


def test_a_chapter_without_a_stated_outcome_is_named():
    with pytest.raises(ValueError, match=r"x\.md"):
        chapter_table.outcome("# Title\n\nText.\n\n", "x.md")


RECORD = {
    "title": "Perovskite",
    "data": "the right half of perovskite",
    "virtual": False,
    "scores": {"ours": {"grain IoU": 0.87654, "grains": 112}, "all grain": {"grain IoU": 0.7}},
    "trivial": "all grain",
    "settings": {"width": 16},
    "seed": 0,
    "command": "microlab demo --real",
    "hardware": "2 CPU cores",
    "seconds": 12.3,
    "date": "2026-11-20",
    "versions": {"torch": "2.13.0"},
    "paper": {"grain IoU": 0.88},
}


def test_a_record_becomes_a_table_with_paper_ours_and_trivial():
    text = run_records.markdown(RECORD)
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert rows == [
        "|  | grain IoU | grains |",
        "| --- | ---: | ---: |",
        "| paper, on its own data | 0.88 |  |",
        "| **ours** | 0.8765 | 112 |",
        "| all grain (trivial baseline) | 0.7 |  |",
    ]
    assert "`microlab demo --real` on 2026-11-20, 2 CPU cores, 12 s, seed 0" in text
    assert "virtual" not in text
    assert "**virtual**" in run_records.markdown(RECORD | {"virtual": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "x: field 'seed' is None"),
        ({"command": 3}, "x: field 'command' is 3"),
        ({"mood": "good"}, "unknown field 'mood'"),
        ({"trivial": "coin"}, "no scores of 'coin'"),
        ({"scores": {"all grain": {}}}, "no scores of 'ours'"),
    ],
)
def test_an_incomplete_record_is_refused(change, message):
    records.check(RECORD, "x")
    with pytest.raises(ValueError, match=message):
        records.check(RECORD | change, "x")


RESULTS_PAGE = (ROOT / "book" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", records.available())
def test_stored_records_are_complete_and_shown_once(name):
    run_records.load(name)
    blocks = re.findall(r"```\{run-records\}\n(.*?)```", RESULTS_PAGE, re.S)
    assert sum(fnmatch(name, pattern) for block in blocks for pattern in block.split()) == 1


def test_the_score_overview_agrees_with_the_records():
    named = re.findall(r"\{score\}`([^`]+)`", RESULTS_PAGE)
    assert named
    for text in named:
        record, method, measure = text.split(" :: ")
        assert measure in run_records.load(record)["scores"][method], text
