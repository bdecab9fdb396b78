"""Glossary, numbered equations and the reference of the library agree with text and code."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import api_reference
import formulas
import pytest
from addresses import chapters, documented
from export_notebooks import equations

ROOT = Path(__file__).resolve().parents[2]

CHAPTERS = sorted((ROOT / "tutorials").glob("[0-9]*.md"))
PAGES = [*CHAPTERS, *sorted((ROOT / "book").rglob("*.md"))]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "microlab").rglob("*.py"))
}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its cells and code listings."""
    return re.sub(r"^```(?:\{code-cell\}|\w+\n).*?^```", "", text, flags=re.M | re.S)


# ---- glossary ----


def normalised(term: str) -> str:
    return " ".join(term.replace("’", "'").lower().split())


def glossary(text: str) -> list[str]:
    """The entries of the glossary, normalised for comparison."""
    return [
        normalised(line) for line in re.findall(r"^(\S.*)\n(?= {2}\S)", text.split("```{glossary}")[1], re.M)
    ]


def linked_terms(text: str) -> list[str]:
    """The entries that the {term} roles of a page refer to, normalised."""
    roles = re.findall(r"\{term\}`(?:[^`<]+<([^>`]+)>|([^`]+))`", text)
    return [normalised(target or term) for target, term in roles]


def glossary_faults(text: str, known: set[str]) -> list[str]:
    """Terms of a page that are missing from the known entries, or set in italics instead of {term}."""
    missing = [f"the glossary has no {term!r}" for term in linked_terms(text) if term not in known]
    italics = re.findall(r"(?<![*\w\\])\*(?![*\s])([^*\n]+?)(?<!\s)\*(?![*\w])", prose(text))
    plain = [f"{{term}} for {word!r}, not italics" for word in map(normalised, italics) if word in known]
    return missing + plain


ENTRIES = glossary(read(ROOT / "book" / "glossary.md"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_words_are_in_the_glossary(page):
    assert glossary_faults(read(page), set(ENTRIES)) == []


def test_every_entry_of_the_glossary_is_used_and_defined_once():
    used = {term for page in PAGES for term in linked_terms(read(page))}
    assert len(ENTRIES) > 80
    assert [term for term in ENTRIES if term not in used] == []
    assert [term for term, count in Counter(ENTRIES).items() if count > 1] == []


def test_a_term_missing_from_the_glossary_is_detected():
    text = "A {term}`grain` and {term}`Many <spline>` and a *mask* and `code`.\n"
    assert glossary_faults(text, {"grain", "mask"}) == [
        "the glossary has no 'spline'",
        "{term} for 'mask', not italics",
    ]


# ---- names of the library in the text ----


def public(module: str) -> set[str]:
    """Functions and classes of a module, and methods as ``Class.method``, that have a docstring."""
    names = set()
    for node in ast.parse(read(MODULES[module])).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            names.add(node.name)
            methods = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{part.name}" for part in methods if isinstance(part, ast.FunctionDef)}
    return names


def unknown_names(text: str) -> list[str]:
    """Targets of {py:...} roles that are not modules, functions, classes or methods of the library."""
    roles = re.findall(r"\{py:(\w+)\}`(?:[^`<]+<([^>`]+)>|~?([^`]+))`", text)
    wrong = []
    for role, titled, plain in roles:
        target = titled or plain
        module = (
            target
            if role == "mod"
            else next((m for m in sorted(MODULES, reverse=True) if target.startswith(m + ".")), "")
        )
        name = target.removeprefix(module).strip(".")
        if module not in MODULES or (name and name not in public(module)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_names_of_the_library_exist(page):
    assert unknown_names(read(page)) == []


def test_an_unknown_library_name_is_detected():
    text = "{py:func}`~microlab.measure.pixel.iou` {py:func}`x <microlab.measure.pixel.iuo>`"
    assert unknown_names(text + " {py:mod}`microlab.no`") == ["microlab.measure.pixel.iuo", "microlab.no"]


def test_every_module_is_in_the_reference_once():
    listed = [
        module
        for page in [ROOT / "book" / "api.md", *sorted((ROOT / "book" / "api").glob("*.md"))]
        for block in re.findall(r"^```\{api\}\n(.*?)^```", read(page), re.M | re.S)
        for name in block.split()
        for module in documented(name)
    ]
    # Left out: the commands, whose page is made from `--help`, and the exercises' checks, which are answers.
    private = re.compile(r"microlab\.(__main__|cli|book\.exercises)(\..*)?")
    assert Counter(listed) == Counter(name for name in MODULES if not private.fullmatch(name))


def test_every_command_is_in_the_reference():
    lines = api_reference.Commands.lines(None)
    assert {"## microlab", "## microlab segment", "## microlab datasets fetch"} <= set(lines)
    assert any(line.startswith("Usage: microlab datasets fetch") for line in lines)


def test_a_module_says_in_which_chapters_it_is_used():
    code = "%pip install x\nfrom microlab.simulate import power, voronoi\nimport microlab.plotting as p\n"
    code += "from microlab.measure.pixel import iou\nimport numpy\nfrom microlab import read\n"
    modules = {
        f"microlab.{name}" for name in ("simulate.power", "simulate.voronoi", "plotting", "measure.pixel")
    }
    assert api_reference.imported(code) == {"microlab", *modules}
    assert api_reference.users()["microlab.book.widgets.growth"] == ["tutorials/03_grain_growth"]
    assert api_reference.used_in(["tutorials/04_x", "tutorials/07_y"]) == (
        "Used in chapters {doc}`04 </tutorials/04_x>`, {doc}`07 </tutorials/07_y>`."
    )
    assert api_reference.used_in(["tutorials/04_x"]).startswith("Used in chapter {doc}")
    assert api_reference.used_in([]) == ""


def test_no_docstring_lists_the_chapters_that_use_the_module():
    typed = re.compile(r"\(chapters? \d\d[^()]*\)")
    docstrings = {name: ast.get_docstring(ast.parse(read(path))) or "" for name, path in MODULES.items()}
    assert [name for name, text in docstrings.items() if typed.search(text)] == []


def test_every_page_of_the_reference_is_in_the_contents():
    contents = read(ROOT / "book" / "_toc.yml")
    for page in (ROOT / "book" / "api").glob("*.md"):
        assert f"file: book/api/{page.stem}\n" in contents + "\n"


def test_docstrings_link_to_equations_and_chapters():
    text = "See eq. 5 of\nchapter 02 (phase-limit), and chapters 01 to 03 (chapter 99).\n"
    assert api_reference.linked(text) == (
        "See eq. :eq:`phase-limit`, and chapters :doc:`01 </tutorials/01_voronoi>` to "
        ":doc:`03 </tutorials/03_grain_growth>` (chapter 99).\n"
    )


def test_docstring_formulas_are_kept_verbatim_and_bars_are_escaped():
    lines = [
        "What |x| is.",
        "",
        "    y = |x|",
        "",
        "More |x|, `|x|`.",
        "",
        "Parameters",
        "----------",
        "x",
        "    |x|",
    ]
    assert api_reference.formulas_kept(lines) == [
        r"What \|x\| is.",
        "",
        ".. code-block:: text",
        "",
        "    y = |x|",
        "",
        r"More \|x\|, `|x|`.",
        "",
        "Parameters",
        "----------",
        "x",
        r"    \|x\|",
    ]


# ---- equations ----


@pytest.mark.parametrize("chapter", CHAPTERS, ids=named)
def test_every_displayed_equation_has_a_number(chapter):
    labels = [label for label, _ in formulas.displayed(read(chapter))]
    assert all(labels)
    assert len(labels) == len(set(labels))
    # In the order of the page, which is that of the numbers.
    assert [equations()[label] for label in labels] == [
        (k, f"tutorials/{chapter.stem}") for k in range(1, len(labels) + 1)
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_equations_that_a_page_names_exist(page):
    assert [label for label in re.findall(r"\{eq\}`([^`]+)`", read(page)) if label not in equations()] == []


def wrong_mentions(text: str) -> list[str]:
    """Mentions ``eq. 3 of chapter 02 (label)`` whose label does not exist or has another number."""
    wrong = []
    for number, chapter, label in api_reference.EQUATION.findall(text):
        k, document = equations().get(label, (0, ""))
        if (k, Path(document).name[:2]) != (int(number), chapter):
            wrong.append(
                f"eq. {number} of chapter {chapter} ({label}) is {k or 'none'} of {document or 'none'}"
            )
    bare = re.findall(r"eq\. \d+ of\s+chapter \d\d(?!\s+\([\w-]+\))", text)
    return wrong + [f"{mention}: say its label" for mention in bare]


@pytest.mark.parametrize("module", MODULES)
def test_equation_numbers_in_docstrings_are_correct(module):
    assert wrong_mentions(read(MODULES[module])) == []


def test_docstrings_refer_to_equations_of_every_chapter_that_has_any():
    named_labels = {
        label for path in MODULES.values() for *_, label in api_reference.EQUATION.findall(read(path))
    }
    assert len(named_labels) >= 30
    with_equations = {document for _, document in equations().values()}
    assert with_equations == {equations()[label][1] for label in named_labels}


def test_a_mention_with_a_wrong_number_is_detected():
    text = "eq. 2 of chapter 02 (phase-limit) eq. 5 of chapter 03 (phase-limit) eq. 1 of\nchapter 02 (x)"
    assert wrong_mentions(text + ", eq. 1 of chapter 02.") == [
        "eq. 2 of chapter 02 (phase-limit) is 5 of tutorials/02_phase_field",
        "eq. 5 of chapter 03 (phase-limit) is 5 of tutorials/02_phase_field",
        "eq. 1 of chapter 02 (x) is none of none",
        "eq. 1 of chapter 02: say its label",
    ]


def test_chapter_numbers_in_the_contents_match_the_file_names():
    # The page takes its number from the contents: equation 3 of chapter 02 is (2.3) there.
    assert [int(Path(document).name[:2]) for _, document in chapters()] == list(range(len(CHAPTERS)))
