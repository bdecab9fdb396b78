"""`microlab adapt` on real fields beside the default: its gain, and its time. Record `adaptation`.

    python -m studies.adaptation FOLDER                 two hours on two cores
    python -m studies.adaptation FOLDER --size smoke    a trial run
    python -m studies.adaptation FOLDER --target steel  this field; those that are done join it in the record
    python -m studies.adaptation FOLDER --record        also stores it

Each field is written to a file and adapted to as a user would, without its mask. Then both networks segment
it, the adapted one also where it was not taken: so the rule that accepts can be judged. A field that is done
is read from FOLDER, and an adaptation that was interrupted goes on.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from microlab.book.experiments.appearances import TRIVIAL, all_scores, as_a_file
from microlab.data.datasets import load
from microlab.data.images import write_image
from microlab.data.micrograph import Micrograph
from microlab.data.run_folder import RunFolder
from microlab.measure.scores import trivial_prediction
from microlab.pipelines.adapt.estimate import TIMED
from microlab.pipelines.adapt.settings import AdaptSettings, profile_settings
from microlab.pipelines.adapt.stages import adapt
from microlab.segment.registry import load_segmenter
from studies import common
from studies.appearances.__main__ import ABOVE, MEASURES

DEFAULT, ADAPTED, KEPT = "default", "adapted", "what the command keeps"
TARGETS = ("perovskite", "steel", "titanium-bse", "titanium-sem")
RULE = ("estimated, s", "taken, s", "taken / estimated", "accepted", "gained")


def target(name: str) -> Micrograph:
    """The real field of a data set that is adapted to; of titanium-bse what lies above its legend."""
    field = replace(load(name, "test")[0], name=name)
    if name == "titanium-bse":
        field = replace(field, image=field.image[:ABOVE], boundary=field.boundary[:ABOVE], valid=None)
    return field


def adapt_to(field: Micrograph, folder: Path, settings: AdaptSettings) -> dict:
    """Adapt to a field, and score the default, the adapted network and the one that the command keeps."""
    image = folder / f"{field.name}.png"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_image(image, field.image)
    result = adapt([image], folder / "results", settings, log=print)
    rows = {}
    for name, segmenter in {
        DEFAULT: load_segmenter("auto"),
        ADAPTED: load_segmenter(weights=result.weights),
    }.items():
        seen = segmenter.segment(as_a_file(field))
        rows[name] = {**all_scores(field, seen.boundary, seen.labels), "zoom": seen.zoom}
    taken = result.acceptance.taken
    rows[KEPT] = rows[ADAPTED if taken else DEFAULT]
    estimated = sum(json.loads((folder / "results/work/estimate.json").read_text()).values())
    took = sum(result.seconds.get(stage, 0.0) for stages in TIMED.values() for stage in stages)
    errors = [rows[name]["adapted Rand error"] for name in (DEFAULT, ADAPTED)]
    about = dict(zip(RULE, (estimated, took, took / estimated, float(taken), float(errors[1] < errors[0]))))
    return {"rows": rows, "about": about, "reasons": list(result.acceptance.reasons)}


def record(folder: Path, size: str, names: tuple[str, ...], note: str = "") -> dict:
    """One row for each target and segmenter; the targets that are done join those of `names`."""
    settings = profile_settings(size)
    run = RunFolder(folder, {"profile": size, "default": load_segmenter("auto").card["sha256"]})
    done = {}
    for name in TARGETS:
        if name in names or (run / f"{name}.json").is_file():
            done[name] = run.once(f"{name}.json", adapt_to, target(name), folder / name, settings)
    scores, notes = {}, []
    for name, one in done.items():
        field = target(name)
        one["rows"][TRIVIAL] = all_scores(field, *trivial_prediction(field.shape))
        for row in (DEFAULT, ADAPTED, KEPT, TRIVIAL):
            values = {measure: one["rows"][row].get(measure) for measure in MEASURES}
            scores[f"{name}: {row}"] = {
                key: round(value, 4) for key, value in values.items() if value is not None
            }
        scores[f"{name}: {ADAPTED}"] |= {key: round(value, 4) for key, value in one["about"].items()}
        seconds = "{:.0f} s estimated, {:.0f} s taken".format(*(one["about"][key] for key in RULE[:2]))
        refusal = f"not taken, since {'; '.join(one['reasons'])}" if one["reasons"] else "taken"
        notes.append(f"{name}: {refusal}; {seconds}.")
    table = pd.DataFrame(
        [{"target": t, "row": r, **row} for t, one in done.items() for r, row in one["rows"].items()]
    )
    return {
        "title": "Adapting to one real field",
        "data": f"`microlab adapt` on {len(done)} real fields, each alone, with the settings of the {size} "
        "profile.",
        "virtual": False,
        "sets": {
            DEFAULT: "`microlab segment` as it comes",
            ADAPTED: "the network of `microlab adapt`, taken or not",
            KEPT: "what `microlab adapt` segments the field with, by its rule",
        },
        "scores": scores,
        "trivial": f"{next(iter(done))}: {TRIVIAL}",
        "rows": common.every_row(table),
        "settings": {"profile": size, "style": settings.style, "steps": str(settings.steps)},
        "seed": settings.seed,
        "note": " ".join([*notes, note]).strip(),
    } | common.origin(
        f"python -m studies.adaptation FOLDER --size {size} --record",
        sum(one["about"][RULE[1]] for one in done.values()),
    )


def main() -> None:
    """Print the table, and store it with --record."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", choices=("smoke", "laptop"), default="laptop")
    parser.add_argument("--target", choices=TARGETS, action="append", help="this field only; may be repeated")
    parser.add_argument("--note", default="", help="what the record says besides: what else the machine did")
    options = parser.parse_args()
    result = record(options.folder, options.size, tuple(options.target or TARGETS), options.note)
    common.publish("adaptation", result, options.record)


if __name__ == "__main__":
    main()
