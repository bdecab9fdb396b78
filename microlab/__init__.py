"""microlab: segment real micrographs without drawing a single label.

    image = microlab.read_image("field.tif")
    grains = microlab.grain_table(microlab.segment_image(image).labels, image.pixel_size)

The calls of `__all__` are loaded when they are first used, so that importing the package costs nothing.
Everything else is in the rooms: `simulate`, `render`, `generate`, `segment`, `measure`, `data`, `training`
and `pipelines`.

In all docstrings paper A is Zahran et al. (2026, arXiv:2602.01710), paper B is Stern et al. (2024) and
paper C is Saleh et al. (2025); the book's references give them in full. Symbols are those of the book's
notation.
"""

import os
from importlib import import_module
from typing import Any

# OpenMP's threads, which are torch's, spin while they wait for each other. Beside any other busy process the
# one that is waited for may not run: a simulation of 1.5 s took 100 s. Threads that sleep instead cost little
# on an idle machine. The variable is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.2.0"

_CALLS = {
    "read_image": "data.images:read_image",
    "write_labels": "data.images:write_labels",
    "show_image": "plotting:show_image",
    "grow_grains": "simulate.phasefield:grow",
    "render_sem": "render.sem:render",
    "virtual_sample": "pipelines.samples:virtual_sample",
    "PairModel": "generate.pair_model:PairModel",
    "load_segmenter": "segment.registry:load_segmenter",
    "segment_image": "segment.registry:segment_image",
    "segment_folder": "pipelines.segment_folder:segment_folder",
    "adapt": "pipelines.adapt.stages:adapt",
    "grain_table": "measure.grains:grain_table",
    "score": "measure.scores:score",
}

__all__ = list(_CALLS)


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'microlab' has no attribute {name!r}")
    module, attribute = _CALLS[name].split(":")
    return getattr(import_module(f"microlab.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS])
