"""Draw the README's picture, the road of the book in four steps: book/_static/road.png.

python tools/readme_picture.py

Nothing in it is drawn by hand: the structure is simulated, the virtual micrograph rendered, and the real one
(perovskite, MIT licence) segmented by the shipped weights, which never saw a mask.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from microlab import examples, pipeline, viz
from microlab.render import sem
from microlab.segment.instances import boundaries
from microlab.simulate import phasefield, voronoi

OUT = Path(__file__).resolve().parents[1] / "book" / "_static" / "road.png"
SIDE = 360  # pixels of each panel


def main() -> None:
    """Simulate, render, segment, draw."""
    viz.style()
    seeds = voronoi.regular_seeds(60, (SIDE, SIDE), 0.4, seed=3)
    growth = phasefield.grow(voronoi.tessellate(seeds, (SIDE, SIDE)), 300)
    virtual = sem.render(growth.grain_map(), sem.Microscope(), seed=3)
    sample = next(s for s in examples.real_samples() if s.name.startswith("perovskite"))
    found = pipeline.segment_image(sample.image)
    window = (
        sample.image[200 : 200 + SIDE, 100 : 100 + SIDE],
        found.labels[200 : 200 + SIDE, 100 : 100 + SIDE],
    )

    figure, axes = plt.subplots(1, 4, figsize=(12, 3.4))
    viz.show_image(viz.colour_grains(growth.grain_map(), background=None), ax=axes[0])
    viz.show_image(virtual, ax=axes[1])
    viz.show_image(window[0], ax=axes[2])
    viz.overlay_boundaries(window[0], boundaries(window[1]), ax=axes[3])
    titles = [
        "physics makes the shapes",
        "a virtual microscope films them",
        "a real micrograph",
        "its grains, no label drawn",
    ]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
    figure.savefig(OUT, dpi=110)
    print(f"{OUT.relative_to(OUT.parents[2])}: {OUT.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
