"""Write the generated parts of the README: links, the table of chapters, how to cite.

    python tools/update_readme.py [--check]

Each part is between ``<!-- name -->`` and ``<!-- /name -->``. ``--check`` writes nothing and fails if one
is out of date.
"""

from __future__ import annotations

import re
import sys

import citation
from addresses import ROOT, addresses, chapters
from export_notebooks import plain_roles


def links() -> str:
    """Links to read and to run the book."""
    where = addresses()
    start = chapters()[0][1]
    return (
        f"[Read the book]({where.site}/) · [try it on Colab]({where.colab(start)}) · "
        f"[try it on Binder]({where.binder(start)})"
    )


def table() -> str:
    """One row for each chapter: its title, what the reader will do, where to run it."""
    where = addresses()
    rows = ["| part | chapter | you will | |", "|---|---|---|---|"]
    for part, document in chapters():
        text = (ROOT / f"{document}.md").read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.M)[1]
        will = plain_roles(" ".join(re.search(r"\*\*You will\*\*(.+?)\n\n", text, re.S)[1].split()), {})
        run = f"[Colab]({where.colab(document)}) · [Binder]({where.binder(document)})"
        rows.append(f"| {part} | [{title}]({where.page(document)}) | {will} | {run} |")
    return "\n".join(rows)


def cite() -> str:
    """The citation and the BibTeX entry from CITATION.cff."""
    record = citation.read()
    return f"{citation.sentence(record)}\n\n```bibtex\n{citation.bibtex(record)}\n```"


def updated(readme: str) -> str:
    """The README with its generated parts updated.

    Raises
    ------
    ValueError
        If a part's markers are missing.
    """
    for name, write in (("links", links), ("chapters", table), ("cite", cite)):
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not marked.search(readme):
            raise ValueError(f"README.md has no <!-- {name} --> ... <!-- /{name} -->")
        body = write()
        readme = marked.sub(lambda match, body=body: match[1] + body + "\n" + match[2], readme)
    return readme


def main() -> int:
    """Command line."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv[1:]:
        print(
            "README.md is up to date" if new == old else "README.md is stale: python tools/update_readme.py"
        )
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    print("README.md", "written" if new != old else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
