"""The displayed equations of a chapter, and the symbols in them."""

from __future__ import annotations

import re

DISPLAYED = re.compile(
    r"^```\{math\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<body>.*?)^```"
    r"|^\$\$\n(?P<dollars>.*?)^\$\$[ \t]*(?:\((?P<label>[\w-]+)\))?[ \t]*$",
    re.M | re.S,
)
LETTERS = re.compile(  # commands that are symbols
    r"alpha|beta|gamma|delta|epsilon|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega"
    r"|Gamma|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|nabla|ell"
)
TOKEN = re.compile(
    r"\\(?:text|mathrm|operatorname)\{[^{}]*\}"  # words
    r"|d(?=[A-Za-z])|e(?=\^)"  # a differential, the number e
    r"|(?P<base>\\Delta\s+[A-Za-z]|\\mathcal\s*\{?[A-Z]\}?|\\[A-Za-z]+|[A-Za-z])"
    r"(?P<subscript>_(?:\\text\{[^{}]*\}|\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-z]+|[A-Za-z0-9]))?"
)
# Subscripts that are indices: of an element, a step, the first or the last one: e_j, k_{i-1}, y_0, a_T.
INDEX = re.compile(r"[cijktT0-9+-]*")


def displayed(text: str) -> list[tuple[str, str]]:
    """Label (or "") and LaTeX of every displayed equation, in the order of the text."""
    equations = []
    for match in DISPLAYED.finditer(text):
        label = re.search(r"^:label:\s*(\S+)", match["options"] or "", re.M)
        name = label[1] if label else match["label"] or ""
        equations.append((name, match["body"] or match["dollars"]))
    return equations


def symbols(latex: str) -> list[tuple[str, str]]:
    """The symbols of a formula as (name, name without its subscript if that is an index).

    Words, functions, differentials, pi and e are not symbols. Bars and hats are left out.
    """
    names = set()
    for match in TOKEN.finditer(latex):
        base = re.sub(r"[{}\s]+", " ", match["base"] or "").strip()
        command = re.fullmatch(r"\\(\w+)", base)
        if not base or (command and not LETTERS.fullmatch(command[1])):
            continue
        subscript = re.sub(r"\\text|[{}\s]", "", match["subscript"] or "")[1:]
        name = f"{base}_{subscript}" if subscript else base
        names.add((name, base if INDEX.fullmatch(subscript) else name))
    return sorted(names)
