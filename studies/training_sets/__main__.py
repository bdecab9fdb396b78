"""Paper A's comparison of training sets, on real micrographs: one U-Net, one recipe, eight sets.

    python -m studies.training_sets FOLDER            both targets, three seeds; two and a half hours
    python -m studies.training_sets FOLDER --record   also stores them: `training_sets_TARGET`

FOLDER keeps the library, every training and every score: an interrupted call resumes. Needs the data
sets perovskite and steel (downloaded by checksum, or found in MICROLAB_DATA).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from scipy import ndimage

from microlab.book.experiments import training_sets
from microlab.data.weights import fill
from microlab.generate.networks import Generator
from microlab.generate.style import StyleConfig, learn_style
from microlab.measure.labels import boundaries
from microlab.measure.scores import score
from microlab.pipelines import samples, train_segmenter, train_style
from microlab.segment.instances import closed_boundary, watershed_grains
from microlab.segment.registry import load_segmenter
from microlab.segment.unet import UNet, boundary_probability
from microlab.simulate import library
from studies import common

HELD_OUT = 8  # structures on which the shipped translators were evaluated
CUT = StyleConfig(method="cut", steps=1000)
MEASURES = (
    "grain IoU",
    "boundary F1, 2 px",
    "boundary F1, 3 px",
    "boundary F1, 5.4 px",
    "count error",
    "adapted Rand error",
)
PAPER = {
    "paper's method, abstract": {"grain IoU": 0.88, "boundary F1, 3 px": "0.90 (tolerance not stated)"},
    "paper's method, conclusion": {"grain IoU": 0.91, "boundary F1, 3 px": "0.91 (tolerance not stated)"},
}
NOTES = {
    "perovskite": (
        "The paper's images are its own and not public. It does not say of which class its IoU is, nor "
        "the tolerance of its boundary F1; its abstract and its conclusion give two pairs of figures; it "
        "counts its labelled training patches once as 4 and once as 6. Its baselines are drawn in its "
        "figure 4, not printed. So its rows are landmarks, not rivals. Here one field is cut in halves: "
        "the left one is style and, for the oracle, labels; the right one is the test. The lines of the "
        "expert's mask are mostly 3 to 7 pixels wide, which a grain IoU feels: the row with thinned lines "
        "shows what the CycleGAN set loses by drawing them as wide as its translator paints. The U-Net is "
        "smaller than the paper's (16 channels against 64) and sees fewer steps."
    ),
    "steel": (
        "Etched steel under light, cut in halves as the perovskite is. The paper has no such target. The "
        "few labelled patches are four of 128 x 128 pixels. CUT was not trained for it, to save time."
    ),
}


def study(folder: Path, name: str, options: argparse.Namespace) -> dict:
    """Run one target and make its record."""
    start = time.perf_counter()
    target = samples.target(name)
    network = load_segmenter("label-free")
    zoom = network.estimate_zoom(target.style.image)  # of the unlabelled half
    library.build(folder / "library", 80, ranges=train_segmenter.STRUCTURES)
    structures = [library.load(folder / "library", index) for index in range(80 - HELD_OUT)]
    real, flat = train_style.style_images([target.style.image], zoom), train_style.flat_images(structures)
    sets = [s for s in training_sets.SETS if s in options.sets]
    generators = {"CycleGAN": Generator.from_weights(f"style-{name}")}
    if "CUT" in sets:
        generators["CUT"] = learn_style(flat, real, CUT, folder=folder / f"CUT_{name}")[0].F.eval()
    settings = training_sets.Study(steps=options.steps)
    scores = training_sets.run(
        target, zoom, structures, generators, folder / name, settings, seeds=options.seeds, sets=sets
    )
    table = training_sets.summary(scores)
    rows = {
        kind: {
            measure: [round(float(table.loc[kind, (measure, part)]), 4) for part in ("mean", "sd")]
            for measure in MEASURES
        }
        for kind in table.index
    }
    if len(options.seeds) > 1:
        rows["CycleGAN, lines thinned by 1 px"] = thinned(folder / name, target, zoom, options.seeds)
    segmentation = network.segment(target.test.image)
    rows["shipped labour-free weights"] = score(
        target.test.boundary, segmentation.boundary, segmentation.labels
    )
    rows |= training_sets.without_training(target)
    rows = {
        kind: {m: v if isinstance(v, list) else round(float(v), 4) for m, v in row.items() if m in MEASURES}
        for kind, row in rows.items()
    }
    command = f"python -m studies.training_sets FOLDER --targets {name} --record"
    if len(sets) < len(training_sets.SETS):
        command += " --sets " + " ".join(f'"{s}"' for s in sets)
    return {
        "title": f"Training sets: {name}",
        "data": f"Right half of the real micrograph {name}; mean and standard deviation over "
        f"{len(options.seeds)} seeds. The translators were trained, and the simulated images made, once.",
        "virtual": False,
        "sets": {kind: training_sets.SETS[kind] for kind in sets},
        "scores": rows,
        "paper": PAPER if name == "perovskite" else {},
        "note": NOTES[name],
        "trivial": "trivial",
        "settings": {
            "U-Net": f"width {settings.width}, depth {settings.depth}",
            "steps": settings.steps,
            "batch": settings.batch,
            "crop": settings.crop,
            "images": settings.images,
            "zoom, estimated": round(zoom, 3),
        },
        "seed": list(options.seeds),
    } | common.origin(command, _training_seconds(folder / name) + time.perf_counter() - start)


def thinned(folder: Path, target: samples.Target, zoom: float, seeds: list[int], pixels: float = 1.0) -> dict:
    """Scores of the CycleGAN set with thinned lines: the effect of line thickness alone."""
    rows = []
    for seed in seeds:
        model = UNet(width=training_sets.Study.width, depth=training_sets.Study.depth)
        fill(model, folder / f"CycleGAN_{seed}" / "model.safetensors")
        probability = boundary_probability(target.test.image, model.eval(), zoom)
        labels = watershed_grains(probability)
        drawn = closed_boundary(probability, labels)
        core = boundaries(labels) | (ndimage.distance_transform_edt(drawn) > pixels)
        rows.append(score(target.test.boundary, drawn & core, labels))
    return common.spread(pd.DataFrame(rows), MEASURES)


def _training_seconds(folder: Path) -> float:
    """Seconds of all trainings in the folder, including those of earlier calls."""
    return sum(pd.read_csv(path)["seconds"].max() for path in folder.glob("*/history.csv"))


def main() -> None:
    """Run the study, print the records, and store them with --record."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--targets", nargs="+", choices=("perovskite", "steel"), default=["perovskite", "steel"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--sets", nargs="+", choices=tuple(training_sets.SETS), default=list(training_sets.SETS)
    )
    parser.add_argument("--steps", type=int, default=training_sets.Study.steps)
    options = parser.parse_args()
    for name in options.targets:
        common.publish(f"training_sets_{name}", study(options.folder, name, options), options.record)


if __name__ == "__main__":
    main()
