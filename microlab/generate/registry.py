"""The learnt styles by name: a new one is a class as `microlab.generate.cut.CUT`, and one line here.

Nothing heavy is imported before a style is loaded, so that the command line can list the names at once.
"""

from __future__ import annotations

from importlib import import_module

STYLES: dict[str, str] = {
    "cyclegan": "microlab.generate.cyclegan:CycleGAN",
    "cut": "microlab.generate.cut:CUT",
}
"""Translators by the name of their style, each as a module and a class in it.

A class builds its networks with ``from_config(config, y_channels, x_channels)``. Called with batches of
simulations and micrographs, they return their losses; their ``F`` translates simulations.
"""


def translator(style: str) -> type:
    """The class of a style in `STYLES`, a torch module."""
    module, name = STYLES[style].split(":")
    return getattr(import_module(module), name)
