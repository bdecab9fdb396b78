"""The grain-growth simulator as a widget of JupyterLab. Needs anywidget: ``pip install 'microlab[lab]'``."""

from __future__ import annotations

import anywidget
import traitlets
from numpy.typing import ArrayLike

from microlab.book.widgets import growth


class GrainGrowthWidget(anywidget.AnyWidget):
    """The simulator of `microlab.book.widgets.growth.simulator`, with values that Python reads and sets.

    Parameters
    ----------
    seeds, kappa, speed, seed
        As for `microlab.book.widgets.growth.settings`.

    Attributes
    ----------
    seeds : list of [y, x]
        Set it to restart from other seeds.
    kappa, speed : float, int
    running : bool
    time, grains, diameter : float, int, float
        Last values from the browser, updated five times a second: simulated time, number of grains, mean
        diameter in pixels.

    Examples
    --------
    >>> widget = GrainGrowthWidget(30, kappa=1.5)
    >>> len(widget.seeds)
    30
    """

    _esm = growth.script()

    size = traitlets.Int(growth.SIZE, read_only=True).tag(sync=True)
    seeds = traitlets.List().tag(sync=True)
    kappa = traitlets.Float(1.0, min=growth.KAPPA[0], max=growth.KAPPA[1]).tag(sync=True)
    speed = traitlets.Int(10, min=1, max=40).tag(sync=True)
    running = traitlets.Bool(False).tag(sync=True)
    time = traitlets.Float(0.0).tag(sync=True)
    grains = traitlets.Int(0).tag(sync=True)
    diameter = traitlets.Float(0.0).tag(sync=True)

    def __init__(
        self, seeds: ArrayLike | int = 40, kappa: float = 1.0, speed: int = 10, *, seed: int = 0
    ) -> None:
        start = growth.settings(seeds, kappa, speed, seed=seed)
        super().__init__(seeds=start["seeds"], kappa=start["kappa"], speed=start["speed"])
