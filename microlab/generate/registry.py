"""The learnt styles by name: a new one is a class as `microlab.generate.cut.CUT`, and one line here.

Nothing heavy is imported before a style is loaded, so that the command line can list the names at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

STYLES: dict[str, str] = {
    "cyclegan": "microlab.generate.cyclegan:CycleGAN",
    "cut": "microlab.generate.cut:CUT",
}
"""Translators, as "module:class", by the name of their style.

A class builds its networks with ``from_config(config, y_channels, x_channels)``. Called with batches of
simulations and micrographs, they return their losses; their ``F`` translates simulations.
"""


def translator(style: str) -> type[nn.Module]:
    """The class of a style in `STYLES`."""
    module, name = STYLES[style].split(":")
    return getattr(import_module(module), name)
