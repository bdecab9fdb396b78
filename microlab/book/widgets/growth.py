"""The live grain-growth simulator of chapter 03: the equations of `simulate.phasefield` in the page itself.

`simulator` makes the HTML of the published page. `microlab.book.widgets.lab.GrainGrowthWidget` is its
JupyterLab widget, whose values Python can read and set. Both run one JavaScript module, `script`.
"""

from __future__ import annotations

import hashlib
import html
import json
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from microlab.plotting import colour_grains, html_image
from microlab.simulate import voronoi
from microlab.simulate.phasefield import GrainGrowth, Parameters

if TYPE_CHECKING:
    from IPython.display import HTML

SIZE = 128  # side of the square, in pixels
MOST_GRAINS = 120  # as in panel.js: the limit for a laptop at many steps per picture
KAPPA = (0.5, 2.0)  # as in panel.js: below, the lattice holds boundaries; above, dt = 0.1 is unstable


def script() -> str:
    """The simulator as one ES module: the class `GrainGrowth`, `mount`, and anywidget's `render`."""
    folder = files("microlab.book.widgets")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("grain_growth.js", "panel.js"))


def settings(
    seeds: ArrayLike | int = 40, kappa: float = 1.0, speed: int = 10, *, seed: int = 0
) -> dict[str, object]:
    """Checked initial settings of the simulator.

    Parameters
    ----------
    seeds : (n, 2) float, or int
        Positions (y, x) in pixels of a square of 128, or how many to draw at random.
    kappa : float in [0.5, 2]
        Gradient energy coefficient.
    speed : int in 1..40
        Time steps of 0.1 per picture.
    seed : int
        Of the random positions.

    Returns
    -------
    dict
        ``size``, ``seeds`` (a list of [y, x]), ``kappa`` and ``speed``.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    if np.ndim(seeds) == 0:
        if not 1 <= seeds <= MOST_GRAINS:
            raise ValueError(f"seeds must be 1..{MOST_GRAINS}, got {seeds}")
        seeds = voronoi.random_seeds(int(seeds), (SIZE, SIZE), seed)
    # Rounding to a thousandth of a pixel keeps the page small.
    points = np.asarray(seeds, float).round(3) % SIZE
    if points.ndim != 2 or points.shape[1] != 2 or not 1 <= len(points) <= MOST_GRAINS:
        raise ValueError(
            f"seeds must be (n, 2) positions with n in 1..{MOST_GRAINS}, got shape {points.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError("seeds must be finite")
    if not KAPPA[0] <= kappa <= KAPPA[1]:
        raise ValueError(f"kappa must lie in {KAPPA[0]:g}..{KAPPA[1]:g}, got {kappa}")
    if not (1 <= speed <= 40 and speed == int(speed)):
        raise ValueError(f"speed must be a whole number of steps in 1..40, got {speed}")
    return {"size": SIZE, "seeds": points.tolist(), "kappa": float(kappa), "speed": int(speed)}


# The still picture is the fallback on paper and without JavaScript.
_PAGE = """<figure class="ml-growth" id="{uid}">
<div class="ml-still">{still}</div>
<figcaption>{caption}</figcaption></figure>
<script type="module">
{script}
mount(document.getElementById("{uid}"), {settings});
</script>"""


def simulator(
    seeds: ArrayLike | int = 40,
    kappa: float = 1.0,
    speed: int = 10,
    *,
    seed: int = 0,
    steps: int = 1000,
    caption: str = "Grain growth, computed by your browser. Click or drag in the picture to place seeds, or "
    "use the arrow keys and Enter.",
) -> HTML:
    """A grain-growth simulation that runs in the published page, without a kernel and without a network.

    The reader places seeds by pointer or keyboard, sets kappa and the speed, starts the simulation, and sees
    the number and mean size of the grains. On paper and without JavaScript a still picture of the same
    polycrystal replaces it, computed by `microlab.simulate.phasefield`.

    Parameters
    ----------
    seeds, kappa, speed, seed
        As for `settings`.
    steps : int
        Time steps of the still picture.
    caption : str
        Text under the picture.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    from IPython.display import HTML  # only chapters need IPython, importing microlab must not

    start = settings(seeds, kappa, speed, seed=seed)
    grain_map = voronoi.tessellate(np.array(start["seeds"]), (SIZE, SIZE))
    growth = GrainGrowth(grain_map, Parameters(kappa=kappa)).run(steps)
    colours = colour_grains(np.arange(growth.n)[None], background=None)[0]  # a grain keeps its colour
    pictures = [
        colours[grains] * np.clip((phi - 0.55) / 0.4, 0, 1)[..., None]
        for grains, phi in ((grain_map, np.ones_like(growth.phi())), (growth.grain_map(), growth.phi()))
    ]
    gap = np.ones((SIZE, 8, 3))
    alive = len(np.unique(growth.grain_map()))
    alt = (
        f"Two maps of coloured grains from the simulator: {len(np.unique(grain_map))} grains at the start, "
        f"{alive} larger ones at time {growth.time:.0f}"
    )
    still = html_image(np.concatenate([pictures[0], gap, pictures[1]], axis=1), alt, width=416)
    source, values = script(), json.dumps(start)
    uid = "ml-" + hashlib.sha256((source + values + caption).encode()).hexdigest()[:10]
    return HTML(
        _PAGE.format(uid=uid, still=still, caption=html.escape(caption), script=source, settings=values)
    )
