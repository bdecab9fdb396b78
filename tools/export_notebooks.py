"""Write the notebooks for JupyterLab, Colab and nbval from the chapters, one-way and deterministically.

    python tools/export_notebooks.py [--check] [chapter.md ...]

A chapter is MyST Markdown. A plain notebook cannot show its directives and roles, so each becomes plain
Markdown here; one without a plain form is an error. Solutions stay in the book and are replaced by a link.
``--check`` writes nothing and fails if a notebook is stale.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import yaml
from addresses import ROOT, addresses, reference_pages
from pybtex.database import parse_file

FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}\s*(?P<argument>.*)$")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
TARGET = re.compile(r"^\([\w-]+\)=\s*$")
NOTES = {"note", "tip", "warning", "important", "seealso", "caution", "hint", "attention", "margin"}
DROPPED = {"bibliography", "tableofcontents"}
BOOTSTRAP = """\
# On Colab, install the library first; where it is installed already this does nothing.
import importlib.util
import os
import sys

# Let torch's threads sleep while they wait for each other. By default they spin, and on a computer that does
# anything else besides, this notebook would take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if not (importlib.util.find_spec("microlab") and importlib.util.find_spec("microlab.book")):
    %pip install -q --upgrade "{install}"
    sys.modules.pop("microlab", None)  # a version before 0.2.0
"""


@functools.cache
def bibliography() -> dict[str, str]:
    """Citations as text, by key, with a link if the entry has a DOI or an address."""
    cited = {}
    for key, entry in parse_file(str(ROOT / "book" / "references.bib")).entries.items():
        persons = entry.persons.get("author") or entry.persons["editor"]
        names = [
            re.sub(r"[{}\\\"']", "", " ".join(person.prelast_names + person.last_names)) for person in persons
        ]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        text = f"{authors} {entry.fields['year']}"
        link = f"https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else entry.fields.get("url")
        cited[key] = f"[{text}]({link})" if link else text
    return cited


@functools.cache
def title(document: str) -> str:
    """First heading of a page of the book; `document` is its path without extension."""
    path = ROOT / f"{document}.md"
    if not path.is_file():
        raise ValueError(f"{{doc}}`{document}`: there is no {path.relative_to(ROOT)}")
    return re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.M)[1]


def number_labels(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Numbers of the labelled equations and figures of a chapter, in order, by label."""
    equations, figures = [], []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            equations += re.findall(r"\{math\}[^\n]*\n:label:\s*(\S+)", cell.source)
            equations += re.findall(r"^\$\$\s*\(([\w-]+)\)\s*$", cell.source, re.M)
        elif name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            figures.append(name)
    numbers = {label: str(k) for k, label in enumerate(equations, start=1)}
    return numbers | {label: f"Figure {k}" for k, label in enumerate(figures, start=1)}


@functools.cache
def equations() -> dict[str, tuple[int, str]]:
    """Number and chapter (its path in the book without extension) of every labelled equation, by label."""
    labelled = {}
    for chapter in sorted((ROOT / "tutorials").glob("[0-9]*.md")):
        numbers = number_labels(jupytext.read(chapter))
        document = f"tutorials/{chapter.stem}"
        labelled |= {label: (int(number), document) for label, number in numbers.items() if number.isdigit()}
    return labelled


def plain_roles(text: str, numbers: dict[str, str]) -> str:
    """Replace the MyST roles of a line by plain Markdown."""

    def cite(match: re.Match) -> str:
        try:
            names = [bibliography()[key.strip()] for key in match[2].split(",")]
        except KeyError as error:
            raise ValueError(f"{error} is not in book/references.bib") from None
        return ("{}" if match[1] == ":t" else "({})").format(", ".join(names))

    def document(match: re.Match) -> str:
        path = match[2] or match[3]
        path = path[1:] if path.startswith("/") else f"tutorials/{path}"  # chapters are in one folder
        return f"[{(match[1] or title(path)).strip()}]({addresses().page(path)})"

    def equation(match: re.Match) -> str:
        if match[1] in numbers:
            return f"({numbers[match[1]]})"
        if match[1] not in equations():
            raise ValueError(f"no equation of a chapter has the label {match[1]!r}")
        number, path = equations()[match[1]]
        return f"[({number}) of chapter {Path(path).name[:2]}]({addresses().page(path)}#equation-{match[1]})"

    def code(match: re.Match) -> str:
        short, name = match[1], match[2]
        modules = [
            m for m in reference_pages() if name == m or (name.startswith(f"{m}.") and m != "microlab")
        ]
        module = max(modules, key=len, default=None)
        if module is None:
            raise ValueError(f"{name} is in no page of book/api")
        shown = name.rsplit(".", 1)[-1] if short else name
        anchor = f"module-{name}" if name == module else name
        return f"[`{shown}`]({addresses().page(reference_pages()[module])}#{anchor})"

    text = re.sub(r"\{py:\w+\}`(~?)([\w.]+)`", code, text)
    text = re.sub(r"\{cite(:\w+)?\}`([^`]+)`", cite, text)
    text = re.sub(r"\{doc\}`(?:([^`<]+)<([^`>]+)>|([^`]+))`", document, text)
    text = re.sub(r"\{eq\}`([^`]+)`", equation, text)
    text = re.sub(r"\{numref\}`([^`<]+)`", lambda m: numbers.get(m[1], m[1]), text)
    text = re.sub(r"\{term\}`(?:([^`<]+?)\s*<[^`>]+>|([^`]+))`", lambda m: f"*{m[1] or m[2]}*", text)
    text = re.sub(r"\{(?:sub|sup)\}`([^`]+)`", r"\1", text)
    return re.sub(
        r"\{[\w:]+\}`(?:([^`<]+?)\s*<[^`>]+>|([^`]+))`", lambda m: m[1] or f"`{m[2].strip()}`", text
    )


def read_directive(lines: list[str], start: int) -> tuple[str, str, dict[str, str], str, int]:
    """Name, argument, options and body of the directive that opens at `start`, and the line after it."""
    opening = FENCE.match(lines[start])
    fence, name, argument = opening["fence"], opening["name"], opening["argument"]
    end = start + 1
    while end < len(lines) and not re.match(rf"^{fence[0]}{{{len(fence)},}}\s*$", lines[end]):
        end += 1
    if end == len(lines):
        raise ValueError(f"directive {{{name}}} is never closed: {lines[start]}")
    body, options = lines[start + 1 : end], {}
    if body and body[0].strip() == "---":
        close = body.index("---", 1)
        options = {key: str(value) for key, value in (yaml.safe_load("\n".join(body[1:close])) or {}).items()}
        body = body[close + 1 :]
    while body and (option := OPTION.match(body[0])):
        options[option[1]] = option[2]
        body.pop(0)
    return name, argument, options, "\n".join(body).strip(), end + 1


def plain_directive(
    name: str, argument: str, options: dict[str, str], body: str, numbers: dict[str, str]
) -> list[str]:
    """The Markdown lines of a directive."""
    kind = name.split(":")[-1]
    if kind in DROPPED or kind.endswith("-end"):
        return []
    if kind == "math":
        tag = rf" \tag{{{numbers[options['label']]}}}" if "label" in options else ""
        return ["$$", f"{argument} {body}".strip() + tag, "$$"]
    if kind in ("figure", "image"):
        return [f"![{options.get('alt', '')}]({argument})", "", plain(body, numbers)]
    if kind == "table":
        return [f"**{plain_roles(argument, numbers)}**", "", plain(body, numbers)]
    folded = kind == "dropdown" or "dropdown" in options.get("class", "").split()
    if kind in ("admonition", "dropdown"):
        title = plain_roles(argument, numbers)
    elif kind in NOTES:
        title, body = kind.capitalize(), f"{argument}\n{body}".strip()
    elif name.startswith("prf:") or kind in ("exercise", "exercise-start"):
        title = kind.removesuffix("-start").capitalize() + (
            f": {plain_roles(argument, numbers)}" if argument else ""
        )
    else:
        raise ValueError(
            f"directive {{{name}}} has no plain form; use another or extend tools/export_notebooks.py"
        )
    if folded:
        return [f"<details><summary>{title}</summary>", "", plain(body, numbers), "", "</details>"]
    quoted = [f"**{title}**"] + (["", *plain(body, numbers).split("\n")] if body else [])
    return [f"> {line}".rstrip() for line in quoted]


def plain(source: str, numbers: dict[str, str]) -> str:
    """MyST Markdown as the plain Markdown of a notebook."""
    out: list[str] = []
    lines, i, verbatim = source.split("\n"), 0, None
    while i < len(lines):
        line = lines[i]
        if verbatim is None and FENCE.match(line):
            *directive, i = read_directive(lines, i)
            out += ["", *plain_directive(*directive, numbers), ""]
            continue
        if fence := re.match(r"^\s*(`{3,}|~{3,})", line):  # a code listing, left unchanged
            verbatim = fence[1][0] if verbatim is None else (None if fence[1][0] == verbatim else verbatim)
            out.append(line)
        elif verbatim is not None:
            out.append(line)
        elif label := re.match(r"^\$\$\s*\(([\w-]+)\)\s*$", line):  # the end of a labelled equation
            out += [rf"\tag{{{numbers[label[1]]}}}", "$$"]
        elif not TARGET.match(line):
            out.append(plain_roles(line, numbers))
        i += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def without_solutions(source: str, page: str) -> str:
    """MyST source with a link to the book's page in place of each solution, its code included."""
    out: list[str] = []
    lines, i = source.split("\n"), 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        kind = opening["name"].split(":")[-1] if opening else ""
        if kind not in ("solution", "solution-start"):
            out.append(lines[i])
            i += 1
            continue
        _, exercise, options, _, after = read_directive(lines, i)
        if kind == "solution-start":
            ends = [k for k in range(after, len(lines)) if re.match(r"^`{3,}\{solution-end\}", lines[k])]
            if not ends:
                raise ValueError(f"the solution of {exercise} is never closed by solution-end")
            *_, after = read_directive(lines, ends[0])
        out.append(f"[Solution in the book]({page}#{options.get('label', exercise)})")
        i = after
    return "\n".join(out)


def export(chapter: Path, document: str | None = None) -> nbformat.NotebookNode:
    """The notebook of a chapter.

    Parameters
    ----------
    chapter : Path
        MyST source.
    document : str, optional
        Its path in the book without extension; by default derived from the path of the file.
    """
    document = document or chapter.resolve().relative_to(ROOT).with_suffix("").as_posix()
    where = addresses()
    read = f"[Read this chapter in the book]({where.page(document)})"
    cells = [
        nbformat.v4.new_markdown_cell(f"{read} · [open it in Colab]({where.colab(document)})"),
        nbformat.v4.new_code_cell(BOOTSTRAP.format(install=where.install).rstrip()),
    ]
    text = chapter.read_text(encoding="utf-8")
    numbers = number_labels(jupytext.reads(text, fmt="md:myst"))  # as on the page
    for cell in jupytext.reads(without_solutions(text, where.page(document)), fmt="md:myst").cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, numbers)
            if cell.source:
                cells.append(cell)
            continue
        cells.append(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" in figure:
            caption = plain_roles(" ".join(figure["caption"].split()), numbers)
            number = f"**{numbers[figure['name']]}.** " if "name" in figure else ""
            cells.append(nbformat.v4.new_markdown_cell(number + caption))
    for k, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{document}:{k}:{cell.source}".encode()).hexdigest()[:12]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    nbformat.validate(notebook)
    return notebook


def stale(chapter: Path) -> bool:
    """True if the notebook of a chapter differs from the output of `export`."""
    out = chapter.with_suffix(".ipynb")
    return not out.exists() or out.read_text(encoding="utf-8") != nbformat.writes(export(chapter)) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a notebook is stale")
    parser.add_argument("chapters", nargs="*", type=Path, help="by default every tutorials/*.md")
    options = parser.parse_args()
    chapters = options.chapters or sorted((ROOT / "tutorials").glob("[0-9]*.md"))
    changed = [chapter for chapter in chapters if stale(chapter)]
    if not options.check:
        for chapter in changed:
            chapter.with_suffix(".ipynb").write_text(
                nbformat.writes(export(chapter)) + "\n", encoding="utf-8"
            )
    verb = "stale" if options.check else "written"
    print(f"{len(chapters)} chapters, {len(changed)} notebooks {verb}", *changed, sep="\n  ")
    if options.check and changed:
        print("run: python tools/export_notebooks.py")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
