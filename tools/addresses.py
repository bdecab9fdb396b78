"""Addresses from `_config.yml`, chapters from the table of contents, modules from the source tree."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Addresses:
    """Addresses of the repository, the published book and the places that run a notebook."""

    repository: str  # https://github.com/<owner>/<name>
    branch: str  # or, in a release, its tag
    site: str  # https://..., without a trailing slash
    colab_host: str
    binder_host: str

    @property
    def slug(self) -> str:
        """``owner/name`` of the repository."""
        return self.repository.removeprefix("https://github.com/")

    def page(self, document: str) -> str:
        """Address of a published page; `document` is its path without extension."""
        return f"{self.site}/{document}.html"

    def colab(self, document: str) -> str:
        """Address that opens an exported notebook in Colab."""
        return f"{self.colab_host}/github/{self.slug}/blob/{self.branch}/{document}.ipynb"

    def binder(self, document: str) -> str:
        """Address that opens an exported notebook in JupyterLab on Binder."""
        return f"{self.binder_host}/v2/gh/{self.slug}/{self.branch}?urlpath=lab/tree/{document}.ipynb"

    @property
    def install(self) -> str:
        """Requirement with which pip installs the library from this branch or release."""
        return f"microlab @ git+{self.repository}@{self.branch}"


def addresses(config: Path = ROOT / "_config.yml") -> Addresses:
    """Read the addresses from the book's configuration."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    return Addresses(
        repository=settings["repository"]["url"].rstrip("/"),
        branch=settings["repository"]["branch"],
        site=settings["html"]["baseurl"].rstrip("/"),
        colab_host=settings["launch_buttons"]["colab_url"].rstrip("/"),
        binder_host=settings["launch_buttons"]["binderhub_url"].rstrip("/"),
    )


def chapters(toc: Path = ROOT / "book" / "_toc.yml") -> list[tuple[str, str]]:
    """The chapters in reading order, as (part, path without extension)."""
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    return [
        (part["caption"], page["file"])
        for part in parts
        for page in part["chapters"]
        if page["file"].startswith("tutorials/")
    ]


@functools.cache
def modules() -> dict[str, Path]:
    """Files of the library's modules and packages, by dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / "microlab").rglob("*.py"))
        if path.stem != "__main__"
    }


def documented(name: str) -> list[str]:
    """The modules that a name in ``{api}`` stands for: a package with all its modules, or one module.

    The checks of the exercises are left out, because they contain the answers.
    """
    if name == "microlab":
        return [name]
    inside = [module for module in modules() if module.startswith(f"{name}.")]
    return [name, *(module for module in inside if not module.startswith("microlab.book.exercises"))]


@functools.cache
def reference_pages() -> dict[str, str]:
    """Page of the book (its path without extension) that documents a module, by module."""
    return {
        module: page.relative_to(ROOT).with_suffix("").as_posix()
        for page in [ROOT / "book" / "api.md", *sorted((ROOT / "book" / "api").glob("*.md"))]
        for block in re.findall(r"^```\{api\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
        for name in block.split()
        for module in documented(name)
    }
