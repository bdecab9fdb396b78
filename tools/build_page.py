"""Put together the page that segments in the browser: scripts, constants, networks, samples.

python tools/build_page.py _build/html/_static/try

The scripts lie in ``book/try``. What they compute follows the library, so every number that both need is
written here, from the library, into ``constants.js``: ``export default {module: {NAME: value}}``.
"""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from microlab import __version__
from microlab.data import contrast, images, tables
from microlab.measure import grain_size, grains
from microlab.segment import choice, evidence, instances, segmenter, unet, zoom

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "book/try"
EDITS = ROOT / "microlab/data/edits.js"  # the page corrects grains by the rules of the report


def capitals(module: ModuleType) -> dict[str, Any]:
    """The constants of a module, ``NAME = 3``, that are numbers, texts, or collections of them."""
    own = {}
    for name, value in vars(module).items():
        if name.isupper() and name != "TYPE_CHECKING" and not name.startswith("_"):
            try:
                own[name] = json.loads(json.dumps(value, default=np.ndarray.tolist))
            except TypeError:  # paths, functions
                continue
    return own


def defaults(function: Callable) -> dict[str, Any]:
    """The default values of a function's parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, int | float | str | tuple)}


def constants() -> dict[str, Any]:
    """Every number that the page shares with the library."""
    modules = (choice, contrast, evidence, grain_size, grains, images, segmenter, tables, unet, zoom)
    of = {module.__name__.rpartition(".")[2]: capitals(module) for module in modules}
    of["watershed_grains"] = defaults(instances.watershed_grains)
    of["closed_boundary"] = defaults(instances.closed_boundary)
    of["zoom_trials"] = defaults(zoom.zoom_trials)
    of["matching_zoom"] = defaults(zoom.matching_zoom)
    of["gather"] = defaults(evidence.gather)
    of["predict"] = defaults(unet.predict)
    of["astm_grain_size"] = defaults(grain_size.astm_grain_size)
    of["grain_table"] = defaults(grains.grain_table)
    of["summarise"] = defaults(grains.summarise)
    return {"version": __version__, **of}


def build(folder: Path) -> None:
    """Write the page's files into a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in (EDITS, *sorted(SOURCES.glob("*.js"))):
        shutil.copy(script, folder)
    text = json.dumps(constants(), indent=1)
    (folder / "constants.js").write_text(f"export default {text};\n", encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
