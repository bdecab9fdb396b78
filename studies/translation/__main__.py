"""Translators: ablation of the loss weights, and training of the shipped ones.

    python -m studies.translation FOLDER                      prints the ablation; half an hour
    python -m studies.translation FOLDER --record             also stores it: `translation_perovskite`
    python -m studies.translation FOLDER --train perovskite   one translator, 10 to 20 minutes on two cores

FOLDER keeps the library and every run; an interrupted call resumes. `--ship` copies the weights
into the package. Needs the data set (downloaded by checksum, or found in MICROLAB_DATA); masks are not read.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from microlab.data import weights
from microlab.generate.networks import Generator
from microlab.generate.style import StyleConfig, learn_style, translate
from microlab.measure.realism import realism_report
from microlab.pipelines import samples, train_segmenter, train_style, training_pairs
from microlab.segment.registry import load_segmenter
from microlab.simulate import library
from studies import common

SHIPPED = {
    "perovskite": StyleConfig(
        width=16, blocks=6, crop=128, batch=1, steps=1800, lr=3e-4, lambda_identity=0.1
    ),
    "steel": StyleConfig(width=16, blocks=4, crop=96, batch=2, steps=1000, lr=4e-4, lambda_identity=0.1),
}
SMALL = {"width": 16, "blocks": 4, "crop": 96, "batch": 2, "steps": 400}
ABLATION = {
    **{f"cycle {w}": StyleConfig(**SMALL, lambda_cycle=w, lambda_identity=0.0) for w in (1, 5, 10, 30)},
    **{f"cycle 10, identity {w}": StyleConfig(**SMALL, lambda_identity=w) for w in (0.1, 0.5)},
    "cycle 10, no noise channel": StyleConfig(**SMALL, lambda_identity=0.1, noise=0.0),
    "CUT": StyleConfig(**SMALL, method="cut"),
}
HELD_OUT = 8


def structures(folder: Path, n: int = 80) -> list[library.Structure]:
    """The library, with the grain sizes that the shipped U-Net was trained on; made once."""
    library.build(folder, n, ranges=train_segmenter.STRUCTURES)
    return [library.load(folder, index) for index in range(n)]


def zoom_of(target: samples.Target) -> float:
    """Magnification of the unlabelled half, estimated by the shipped network."""
    return load_segmenter("label-free").estimate_zoom(target.style.image)


def train(folder: Path, name: str, ship: bool) -> None:
    """Train one translator, as it is shipped."""
    target = samples.target(name)
    path = train_style.train_style(
        name,
        [target.style.image],
        zoom_of(target),
        structures(folder / "library"),
        folder / name,
        SHIPPED[name],
        data=f"left half of the micrograph {name}",
        held_out=HELD_OUT,
    )
    print(json.dumps(weights.card(path), indent=1))
    if ship:
        for file in (path, path.with_suffix(".json")):
            shutil.copy(file, weights.FOLDER / file.name)


def ablation(folder: Path) -> dict:
    """Realism against displacement, over the weights of the losses."""
    target = samples.target("perovskite")
    zoom, structure_list = zoom_of(target), structures(folder / "library")
    training, held_out = structure_list[:-HELD_OUT], structure_list[-HELD_OUT:]
    real, flat = (
        train_style.style_images([target.style.image], zoom),
        train_style.flat_images(held_out, seed=1),
    )
    images, fidelity = {}, {}
    images["untextured"], fidelity["untextured"] = flat, train_style.fidelity(held_out, flat)
    generators = {}
    if "style-perovskite" in weights.available():
        generators["ours"] = Generator.from_weights("style-perovskite")
    for name, config in ABLATION.items():
        place = folder / "ablation" / name.replace(", ", "_").replace(" ", "_")
        generators[name] = learn_style(train_style.flat_images(training), real, config, folder=place)[0].F
    start = time.perf_counter()
    for name, generator in generators.items():
        images[name] = [translate(generator, y, seed=k) for k, y in enumerate(flat)]
        fidelity[name] = train_style.fidelity(held_out, images[name])
    images["virtual SEM"] = [
        training_pairs.render_pair(s.grain_map, [1, k]).image for k, s in enumerate(held_out)
    ]
    report = realism_report(real, images, inputs=dict.fromkeys(generators, flat))
    table = pd.DataFrame(fidelity).T.join(report, how="outer").loc[[*report.index]]
    # Seconds of all trainings, including those of earlier calls.
    training_seconds = sum(
        pd.read_csv(path)["seconds"].max() for path in (folder / "ablation").glob("*/history.csv")
    )
    rows = {
        name: {measure: round(float(value), 4) for measure, value in row.items() if np.isfinite(value)}
        for name, row in table.iterrows()
    }
    return {
        "title": "Translation: realism against displacement (perovskite)",
        "data": f"{HELD_OUT} held-out simulations, translated; the reference of realism is the unlabelled "
        "left half of the perovskite micrograph.",
        "virtual": False,
        "scores": {name: rows[name] for name in ("ours", *(set_ for set_ in rows if set_ != "ours"))},
        "trivial": "untextured",
        "note": "`ours` is the shipped translator, trained for longer and with more blocks than the others, "
        "which share "
        f"{SMALL['steps']} steps at width {SMALL['width']}. Displacement is the median distance between the "
        "mask's lines and the darkest line of the image, by grey profiles; it must not pass 1 pixel.",
        "bar": {"displacement, px": "<= 1"},
        "settings": {"zoom": round(zoom, 3), **SMALL},
        "seed": 0,
    } | common.origin(
        "python -m studies.translation FOLDER --record", training_seconds + time.perf_counter() - start
    )


def main() -> None:
    """Print, and store or ship the result if requested."""
    parser = common.parser(__doc__)
    parser.add_argument("--train", choices=tuple(SHIPPED), help="one of the translators that ship, instead")
    parser.add_argument("--ship", action="store_true", help="copy its weights into the package")
    options = parser.parse_args()
    if options.train:
        train(options.folder, options.train, options.ship)
    else:
        common.publish("translation_perovskite", ablation(options.folder), options.record)


if __name__ == "__main__":
    main()
