"""Draw the README's picture, the workflow of the book in four steps: book/_static/road.png.

python tools/readme_picture.py

Nothing in it is drawn by hand: the structure is simulated, rendered by the virtual microscope, and segmented
by the shipped weights. The repository contains no real micrographs.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from microlab import plotting
from microlab.measure.labels import boundaries
from microlab.render import sem
from microlab.segment.registry import segment_image
from microlab.simulate import phasefield, voronoi

OUT = Path(__file__).resolve().parents[1] / "book" / "_static" / "road.png"
SIDE = 300  # pixels of each panel


def main() -> None:
    """Simulate, render, segment, draw."""
    plotting.style()
    seeds = voronoi.regular_seeds(45, (SIDE, SIDE), 0.4, seed=3)
    grains = phasefield.grow(voronoi.tessellate(seeds, (SIDE, SIDE)), 300).grain_map() + 1  # 0 is background
    image = sem.render(grains, sem.Microscope(), seed=3)
    segmentation = segment_image(image)

    figure, axes = plt.subplots(1, 4, figsize=(10, 2.75))
    grain_colours = plotting.colour_grains(grains)
    grain_colours[boundaries(grains)] = 1
    plotting.show_image(grain_colours, ax=axes[0], title="physics makes the shapes")
    plotting.show_image(image, ax=axes[1], title="a virtual microscope sees them")
    plotting.show_image(segmentation.probability, ax=axes[2], title="a network finds the boundaries")
    measured_colours = plotting.colour_grains(segmentation.labels)
    plotting.show_image(
        0.5 * measured_colours[..., :3] + 0.5 * image[..., None], ax=axes[3], title="grains, to be measured"
    )
    figure.savefig(OUT, dpi=100)
    Image.open(OUT).convert("RGB").quantize(128).save(OUT, optimize=True)  # a third of the bytes
    print(f"{OUT.relative_to(OUT.parents[2])}: {OUT.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
