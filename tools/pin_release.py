"""Pin notebooks, badges and links to a release, or to a branch again.

    python tools/pin_release.py v0.2.0      (`make release TAG=v0.2.0`; after the tag: TAG=main)
    python tools/pin_release.py --check v0.2.0

Writes the tag as the branch of `_config.yml` and regenerates what depends on it: the first cell of each
notebook installs this tag, Colab and Binder open it. ``--check`` writes nothing and fails if something
differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

from addresses import ROOT, addresses

TOOLS = ("export_notebooks.py", "update_readme.py")


def version() -> str:
    """Version of the library, from pyproject.toml."""
    return re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail if anything is pinned differently"
    )
    parser.add_argument("name", help="a tag, v and the version of pyproject.toml, or a branch")
    options = parser.parse_args()
    name = options.name
    if not re.fullmatch(r"[\w./-]+", name):
        raise SystemExit(f"{name!r} is no name of a tag or a branch: say v{version()}, or main")
    if re.match(r"v\d", name) and name != f"v{version()}":
        raise SystemExit(f"the tag is {name}, but pyproject.toml has version {version()}: they must agree")
    config = ROOT / "_config.yml"
    if options.check:
        if addresses().branch != name:
            print(f"_config.yml says branch {addresses().branch}, not {name}: make release TAG={name}")
            return 1
    else:
        text = config.read_text(encoding="utf-8")
        config.write_text(re.sub(r"^(  branch: ).*$", rf"\g<1>{name}", text, count=1, flags=re.M), "utf-8")
    check = ["--check"] if options.check else []
    failed = [
        tool for tool in TOOLS if subprocess.run([sys.executable, ROOT / "tools" / tool, *check]).returncode
    ]
    if not options.check and not failed:
        print(f"Notebooks, README and launch buttons lead to {name}. Commit this; for a release, tag it.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
