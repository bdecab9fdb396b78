"""The repository agrees with itself: versions, addresses, chapters, notebooks, commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import export_notebooks
import jupytext
import pytest
import update_readme
import yaml
from addresses import addresses, chapters
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

CHAPTERS = sorted((ROOT / "tutorials").glob("[0-9]*.md"))
# The template has everything a chapter must have.
WRITTEN = [
    *CHAPTERS,
    ROOT / "tools" / "chapter_template.md",
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- versions ----


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def pins() -> dict[str, str]:
    lines = [line for line in read("constraints.txt").split("\n") if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def installed_by_make() -> list[Requirement]:
    extras = project()["optional-dependencies"]
    lines = [
        *project()["dependencies"],
        *(line for name in ("book", "lab", "teach", "cluster", "test") for line in extras[name]),
    ]
    return [Requirement(line) for line in lines if not line.startswith("microlab")]


@pytest.mark.parametrize("needed", installed_by_make(), ids=str)
def test_the_pinned_version_is_one_that_the_package_admits(needed):
    assert needed.specifier.contains(pins()[canonicalize_name(needed.name)])


def test_environment_takes_everything_from_the_pins_and_the_package():
    environment = yaml.safe_load(read("environment.yml"))
    conda, pip = environment["dependencies"][:-1], environment["dependencies"][-1]["pip"]
    assert conda == ["python=3.11", "pip"]
    assert "3.11" in read("constraints.txt").split("\n")[0]
    assert "-c constraints.txt" in pip
    (package,) = [line.removeprefix("-e .") for line in pip if line.startswith("-e .")]
    assert f"'.{package}'" in read("Makefile")  # the same extras as make installs
    assert set(package.strip("[]").split(",")) <= set(project()["optional-dependencies"])


def test_version_is_the_same_everywhere():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == project()["version"]
    assert f"## {project()['version']}\n" in read("CHANGELOG.md")


def test_the_library_needs_no_jupyter_to_run():
    names = {Requirement(line).name for line in project()["dependencies"]}
    assert not names & {"ipython", "ipywidgets", "jupyterlab", "notebook", "jupytext", "jupyter-book"}


# ---- addresses ----


def test_addresses_are_only_in_the_configuration():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    host = addresses().site.split("//")[1]
    # Notebooks and README are written from the configuration; CITATION.cff (below) and cli/errors.py (in the
    # tests of the command line) are compared with it.
    derived = {"_config.yml", "README.md", "CITATION.cff", "microlab/cli/errors.py"}
    typed = [
        name
        for name in listed.stdout.decode().split("\n")
        if name and name not in derived and not name.endswith((".ipynb", ".png", ".tif", ".safetensors"))
        if (ROOT / name).is_file()
        if (text := (ROOT / name).read_bytes()).find(addresses().slug.encode()) >= 0
        or text.find(host.encode()) >= 0
    ]
    assert typed == []


def test_citation_names_the_repository_and_the_site():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["repository-code"] == addresses().repository
    assert citation["url"].rstrip("/") == addresses().site


def test_readme_is_up_to_date():
    assert update_readme.updated(read("README.md")) == read("README.md"), "run: python tools/update_readme.py"


def test_addresses_follow_the_configuration(tmp_path):
    config = read("_config.yml").replace(addresses().repository, "https://github.com/other/place")
    (tmp_path / "_config.yml").write_text(config, encoding="utf-8")
    where = addresses(tmp_path / "_config.yml")
    assert where.install == "microlab @ git+https://github.com/other/place@main"
    assert where.colab("tutorials/x") == (
        "https://colab.research.google.com/github/other/place/blob/main/tutorials/x.ipynb"
    )
    assert where.binder("tutorials/x") == (
        "https://mybinder.org/v2/gh/other/place/main?urlpath=lab/tree/tutorials/x.ipynb"
    )


# ---- commands ----


def test_ci_runs_the_commands_of_the_readme():
    for command in ("make test", "make book"):
        assert command in read("README.md")
        assert re.search(rf"^{command}", read(".ci/run"), re.M)


def test_help_is_the_default_and_names_every_target():
    run = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    targets = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.M)[1].split()
    assert run.returncode == 0
    for target in targets:
        assert f"make {target} " in run.stdout


# ---- chapters ----


def test_every_chapter_is_in_the_contents_and_the_other_way_round():
    assert [document for _, document in chapters()] == [f"tutorials/{path.stem}" for path in CHAPTERS]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_notebook_matches_the_chapter(chapter):
    assert not export_notebooks.stale(chapter), "run: make notebooks"
    notebook = export_notebooks.export(chapter)
    assert addresses().colab(f"tutorials/{chapter.stem}") in notebook.cells[0].source
    assert addresses().install in notebook.cells[1].source


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_notebook_holds_no_markup_of_the_book(chapter):
    for cell in export_notebooks.export(chapter).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\{[\w:-]+\}`|^(```|:::)\{|^\([\w-]+\)=", cell.source, re.M), cell.source


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_chapter_states_its_goal_asks_for_predictions_and_ends_in_a_check(chapter):
    text = chapter.read_text(encoding="utf-8")
    assert len(re.findall(r"^# ", re.sub(r"```\{code-cell\}.*?```", "", text, flags=re.S), re.M)) == 1
    for part in ("**You will**", "**You need**", "Before you run", "\n## Check\n", "\n## Exercises\n"):
        assert part in text, part
    check = text.split("\n## Check\n")[1].split("\n## ")[0]
    assert re.search(r"^\s*assert ", check, re.M), "the check asserts nothing"


def unanswered(text: str) -> list[str]:
    """Predictions without a folded answer before the next prediction or the check."""
    parts = re.split(r"^(?=```+\{admonition\} Before you run$)|^(?=## Check$)", text, flags=re.M)
    return [
        match[1]
        for part in parts
        if (match := re.match(r"```+\{admonition\} Before you run\n(?::.*\n)*([\s\S]*?)\n```", part))
        and not re.search(r"^```+\{admonition\} Answer\n(?::.*\n)*:class:.*\bdropdown\b", part, re.M)
    ]


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_every_prediction_is_answered_before_the_next(chapter):
    assert not (left := unanswered(chapter.read_text(encoding="utf-8"))), (chapter.stem, left)


def test_an_answer_that_is_not_folded_or_too_late_does_not_count():
    ask = "```{{admonition}} Before you run\n:class: tip\n{}\n```\n\n".format
    answer = "```{admonition} Answer\n:class: dropdown\nNo.\n```\n\n"
    assert unanswered(ask("Will it?") + answer + ask("And now?") + answer) == []
    assert unanswered(ask("Will it?") + ask("And now?") + answer) == ["Will it?"]
    assert unanswered(ask("Will it?") + "## Check\n\n" + answer) == ["Will it?"]
    assert unanswered(ask("Will\nit?") + answer.replace("dropdown", "tip")) == ["Will\nit?"]


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_every_exercise_has_a_folded_solution(chapter):
    text = chapter.read_text(encoding="utf-8")
    exercises = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n:label: *(\S+)", text)
    solutions = re.findall(r"\{solution(?:-start)?\} *(\S+)\n((?::.*\n)*)", text)
    assert len(exercises) >= 4
    assert sorted(exercises) == sorted(name for name, _ in solutions)
    for name, options in solutions:
        assert re.search(r":class:.*\bdropdown\b", options), name


def draws(source: str) -> bool:
    """True if a cell leaves a matplotlib figure in the page."""
    return bool(
        re.search(r"plt\.(subplots|figure|show|imshow|plot)\(|viz\.(show_image|overlay_|compare_)", source)
    )


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_every_figure_has_alternative_text_and_a_caption(chapter):
    for cell in jupytext.read(chapter).cells:
        if cell.cell_type == "code" and draws(cell.source):
            notes = cell.metadata.get("mystnb", {})
            alt = notes.get("image", {}).get("alt", "")
            assert len(alt.split()) >= 5, f"no alternative text: {cell.source[:80]}"
            assert notes.get("figure", {}).get("caption"), f"no caption: {cell.source[:80]}"


def test_a_chapter_with_its_solutions_imports_what_it_uses(tmp_path):
    """The exported notebooks, which ruff reads too, hold no solutions; the book runs them."""
    for chapter in CHAPTERS:
        cells = [cell.source for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]
        lines = "\n".join(cells).splitlines()
        code = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in lines)
        (tmp_path / f"{chapter.stem}.py").write_text(code, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F401,F811,F821"]
    run = subprocess.run([*ruff, "--output-format", "concise", tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


# ---- the export itself ----


def export_text(tmp_path: Path, text: str) -> str:
    path = tmp_path / "chapter.md"
    header = WRITTEN[-1].read_text(encoding="utf-8").split("\n---\n")[0] + "\n---\n\n"
    path.write_text(header + text, encoding="utf-8")
    return "\n".join(cell.source for cell in export_notebooks.export(path, "tutorials/chapter").cells[2:])


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("{term}`grains <grain>` meet", "*grains* meet"),
        ("{cite:t}`mullins1956`", "[Mullins 1956](https://doi.org/10.1063/1.1722511)"),
        ("{cite:p}`mullins1956`", "([Mullins 1956](https://doi.org/10.1063/1.1722511))"),
        ("$$\na = b\n$$ (eq-x)\n\nby {eq}`eq-x`", "$$\na = b\n\\tag{1}\n$$\n\nby (1)"),
        (
            "as in {eq}`phase-limit`",
            f"as in [(5) of chapter 02]({addresses().page('tutorials/02_phase_field')}#equation-phase-limit)",
        ),
        (
            "{py:func}`~microlab.measure.pixel.iou` of {py:mod}`microlab.book.records`",
            f"[`iou`]({addresses().page('book/api/measure')}#microlab.measure.pixel.iou) of "
            f"[`microlab.book.records`]({addresses().page('book/api/book')}#module-microlab.book.records)",
        ),
        ("```{note}\nLook.\n```", "> **Note**\n>\n> Look."),
        (":::{tip}\nLook.\n:::", "> **Tip**\n>\n> Look."),
        ("(here)=\n## Title", "## Title"),
        ("```python\n{cite}`none`\n```", "```python\n{cite}`none`\n```"),
        ("```{dropdown} More\nText.\n```", "<details><summary>More</summary>\n\nText.\n\n</details>"),
        ("```{figure} a.png\n:alt: A grain\n\nCaption.\n```", "![A grain](a.png)\n\nCaption."),
        (
            "````{exercise} E\n:label: x\n\n```{note}\nDeep.\n```\n````",
            "> **Exercise: E**\n>\n> > **Note**\n> >\n> > Deep.",
        ),
    ],
)
def test_markup_becomes_plain_markdown(tmp_path, myst, plain):
    assert export_text(tmp_path, myst) == plain


@pytest.mark.parametrize(
    ("myst", "message"),
    [
        ("```{tab-set}\nx\n```", "tab-set"),
        ("```{note}\nx", "never closed"),
        ("{cite:t}`nobody1900`", "nobody1900"),
        ("{eq}`nowhere`", "nowhere"),
        ("{py:func}`microlab.nothing`", "microlab.nothing"),
    ],
)
def test_markup_without_a_plain_form_is_an_error(tmp_path, myst, message):
    with pytest.raises(ValueError, match=message):
        export_text(tmp_path, myst)


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)
def test_notebook_links_to_the_solutions_and_holds_none(chapter):
    document = f"tutorials/{chapter.stem}"
    cells = export_notebooks.export(chapter, document).cells
    sources = "\n".join(cell.source for cell in cells)
    text = chapter.read_text(encoding="utf-8")
    hidden = re.findall(r"^```\{solution-start\}.*?^```\{solution-end\}", text, re.M | re.S)
    code = [part for block in hidden for part in re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", block, re.S)]
    assert code
    for block in code:
        assert block.strip() not in sources
    solutions = re.findall(r"\{solution(?:-start)?\} *(\S+)(?:\n:label: *(\S+))?", text)
    for exercise, label in solutions:
        assert f"({addresses().page(document)}#{label or exercise})" in sources


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_pages_of_the_book(chapter):
    cells = export_notebooks.export(chapter, f"tutorials/{chapter.stem}").cells
    text = "\n".join(cell.source for cell in cells)
    pages = re.findall(rf"{re.escape(addresses().site)}/([\w/.-]+)\.html", text)
    assert pages
    assert [page for page in pages if not (ROOT / f"{page}.md").is_file()] == []


def test_a_solution_that_is_never_closed_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="solution of x is never closed"):
        export_text(tmp_path, "```{solution-start} x\n:class: dropdown\n```\n\nText.")
