"""A JavaScript module in a page of Chromium, and what JupyterLab would give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MODEL = """
  const listeners = {};
  const model = {
    get: (key) => values[key],
    set: (key, value) => { values[key] = value; },
    save_changes: () => {},
    on: (name, listener) => { listeners[name] = listener; },
    off: (name) => { delete listeners[name]; },
  };
"""


def caller(page: Any, source: str) -> Callable:
    """``call(function, argument)`` runs a JavaScript function of (module, argument) in the page.

    Parameters
    ----------
    page : playwright Page
    source : str
        Of the module.
    """
    address = "URL.createObjectURL(new Blob([source], {type: 'text/javascript'}))"

    def call(function: str, argument: object = None) -> object:
        load = f"async ([source, argument]) => ({function})(await import({address}), argument)"
        return page.evaluate(load, [source, argument])

    return call
