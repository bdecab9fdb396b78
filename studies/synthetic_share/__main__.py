"""Paper B's study: how much synthetic data improves the segmentation of phases, with confidence intervals.

    python -m studies.synthetic_share FOLDER                 laptop size, uhcs; an hour
    python -m studies.synthetic_share FOLDER --size evening  five seeds of a wider network; three hours
    python -m studies.synthetic_share FOLDER --size paper    all shares, five seeds; one GPU
    python -m studies.synthetic_share FOLDER --record        also stores it: `phase_study_uhcs`

FOLDER keeps the generators, the pools of synthetic pairs, every trained network and every score: an
interrupted call resumes, and the tables show every finished model of that size. A pool that
`microlab.data.pairs.write_pairs` wrote to FOLDER/TARGET/pools/NAME is a source too:
`--sources vqvae NAME`. Needs the data set (downloaded by checksum, or found in MICROLAB_DATA).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from microlab.book.experiments import synthetic_share
from microlab.book.experiments.synthetic_share import BASES, MEASURES, PAPER_FIGURES, SIZES, Grid, PhaseData
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import read_pairs, write_pairs
from microlab.generate.diffusion import DiffusionConfig, MaskDiffusion, paint, train_diffusion
from microlab.generate.pair_model import PairModel
from microlab.pipelines import train_pair_model
from microlab.pipelines.samples import labelled_fields
from microlab.render.steel import steel_fields
from studies import common

SIDE = 256  # of the patches, pixels
PER_FIELD = {"uhcs": 3, "superalloy": 4}  # patches of a training or validation field: 48 + 12, 40 + 16
GENERATORS = {  # source -> (recipe, base whose real pairs train it)
    "vqvae": ("paper", "many mixed"),  # the paper's method, trained as there on one set for every base
    "vqvae-few": ("paper", "few good"),  # separates new information from recombination of the base's pairs
    "ours": ("ours", "many mixed"),  # one-hot masks, no blind spot, conditioned on the class fractions
    "ours-rare": ("ours", "many mixed"),  # as ours, at class fractions of images rich in the rarest class
    "ours-few": ("ours", "few good"),
    "diffusion": ("diffusion", "many mixed"),  # the masks of `ours`, painted by a diffusion model
    "virtual": ("virtual", ""),  # procedural shapes under a virtual microscope: nothing is learnt
    "virtual-diffusion": ("diffusion", "many mixed"),  # drawn shapes, painted by the diffusion model
    "shipped": ("shipped", ""),  # the weights in the package; their card says what they were trained on
}
POOL = 2.0  # size of a pool over that of the largest share, so that seeds draw different pairs
GAIN = "gain in Missing Class IoU"


def pool(
    folder: Path, source: str, data: PhaseData, grid: Grid, number: int, options: argparse.Namespace
) -> list[Micrograph]:
    """The pairs of a source: read if they exist, else sampled from a generator that is trained first."""
    place = folder / "pools" / source
    if not (place / "manifest.json").exists():
        if source not in GENERATORS:
            raise SystemExit(f"{place} holds no pool, and only {', '.join(GENERATORS)} can be made here")
        pairs, about = new_pairs(folder, source, data, grid, number, options)
        write_pairs(place, pairs, classes=len(data.classes), about=about)
    if GENERATORS.get(source, ("", ""))[1]:
        about = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["about"]
        requested = {"size": _generator_size(options)}
        if not BASES[GENERATORS[source][1]].many:
            requested["few"] = grid.few
        stored = {name: about.get(name, value) for name, value in requested.items()}
        if stored != requested:
            stored_text, requested_text = (
                ", ".join(f"{k} {v}" for k, v in part.items()) for part in (stored, requested)
            )
            raise SystemExit(f"{place} was made with {stored_text}, not {requested_text}: use another FOLDER")
    pairs_of_pool = read_pairs(place)
    if len(pairs_of_pool) < number / POOL:
        raise SystemExit(
            f"{place} holds {len(pairs_of_pool)} pairs, the largest share needs {number / POOL:.0f}"
        )
    return pairs_of_pool


def new_pairs(
    folder: Path, source: str, data: PhaseData, grid: Grid, number: int, options: argparse.Namespace
) -> tuple[list[Micrograph], dict[str, object]]:
    """New pairs of a source, and their provenance."""
    if source.startswith("virtual"):
        pairs = steel_fields(number, (SIDE, SIDE), seed=1)
        about: dict[str, object] = {"generator": "drawn by rules, virtual microscope"}
    if source == "virtual":
        return pairs, about
    if GENERATORS[source][0] == "diffusion":
        if source == "diffusion":
            pairs, about = pool(folder, "ours", data, grid, number, options), {"generator": "masks of ours"}
        pairs = pairs[: math.ceil(number / POOL)]  # sampling is expensive: the seeds may share pairs
        base = GENERATORS[source][1]
        model = painter(folder, base, data, grid, options)
        masks = np.stack([pair.classes for pair in pairs])
        images = paint(model, masks, seed=0, device=options.device, progress=True)
        about |= {"painted by": f"diffusion, {options.painter_steps} steps", "trained on": base}
        about |= {"few": grid.few, "size": _generator_size(options)}
        return [replace(pair, image=image) for pair, image in zip(pairs, images, strict=True)], about
    model, about = generator(folder, source, data, grid, options)
    fractions = rare(model, number) if source.endswith("-rare") else None
    pairs = model.sample(
        number, shape=(SIDE, SIDE), fractions=fractions, device=options.device, progress=True
    )
    return pairs, about


def painter(
    folder: Path, base: str, data: PhaseData, grid: Grid, options: argparse.Namespace
) -> MaskDiffusion:
    """The mask-conditioned diffusion model, trained on the real pairs of a base if it does not exist yet."""
    model, _ = train_diffusion(
        synthetic_share.real_pairs(data, grid, base, "train"),
        DiffusionConfig(steps=options.painter_steps),
        classes=len(data.classes),
        folder=folder / "generators" / f"diffusion_{base.replace(' ', '-')}_{grid.few}",
        device=options.device,
    )
    return model


def generator(
    folder: Path, source: str, data: PhaseData, grid: Grid, options: argparse.Namespace
) -> tuple[PairModel, dict[str, object]]:
    """The model of a source, trained if it does not exist yet, and its provenance."""
    recipe, base = GENERATORS[source]
    if recipe == "shipped":
        model = PairModel.from_weights(options.target)
        return model, {"generator": "shipped weights", "trained on": model.card["data"]}
    size = _generator_size(options)
    config = train_pair_model.profile_config(size)
    if recipe == "paper":
        config = train_pair_model.PAPER
        if size != "paper":
            small = train_pair_model.profile_config(size, coding="grey")
            config = replace(
                config,
                vqvae=replace(small.vqvae, revive=False, symmetries=False),
                prior=replace(small.prior, kind="plain"),
            )
    model = train_pair_model.train_pair_model(
        synthetic_share.real_pairs(data, grid, base, "train"),
        folder / "generators" / f"{recipe}_{base.replace(' ', '-')}_{size}_{grid.few}",
        config,
        classes=len(data.classes),
        class_names=list(data.classes),
        held_out=synthetic_share.real_pairs(data, grid, base, "validation"),
        data=f"{base} patches of {options.target}",
        device=options.device,
    )
    return model, {"generator": recipe, "trained on": base, "few": grid.few, "size": size}


def _generator_size(options: argparse.Namespace) -> str:
    return "laptop" if options.size == "evening" else options.size  # generators train at laptop size


def rare(model: PairModel, number: int) -> np.ndarray:
    """Class fractions of training images, drawn in proportion to their share of the rarest class."""
    rows = np.array(model.card["fractions"])
    share = rows[:, rows.mean(0).argmin()]
    return rows[np.random.default_rng(0).choice(len(rows), number, p=share / share.sum())]


def record(
    scores: pd.DataFrame,
    data: PhaseData,
    grid: Grid,
    options: argparse.Namespace,
    pools: dict[str, list[Micrograph]],
    place: Path,
) -> dict:
    """The record of the study (`microlab.book.records`)."""
    names = {**MEASURES, "pooled_missing_class_iou": "Missing Class IoU, pooled"}
    names |= {f"IoU_{c}": f"IoU {name}" for c, name in enumerate(data.classes)}
    table = synthetic_share.summary(scores)
    rows = {}
    for key in table.index:
        spread: dict[str, float | list[float]] = {}
        for measure, name in names.items():
            mean, sd = (round(float(table.loc[key, (measure, part)]), 4) for part in ("mean", "sd"))
            spread[name] = mean if np.isnan(sd) else [mean, sd]  # one seed has no spread
        rows[_row_name(*key)] = {**spread, GAIN: _gain_text(scores, key)}
    trivial_scores = synthetic_share.trivial(data)
    rows["one class everywhere"] = {name: round(trivial_scores[m], 4) for m, name in names.items()}
    settings = grid.training
    network = settings.encoder or f"width {settings.width}, depth {settings.depth}"
    return {
        "title": f"Synthetic pairs added to real ones: {options.target}, {options.size} size, {grid.few} few",
        "data": (
            f"{len(data.test)} real patches of {SIDE} pixels from test fields of {options.target} that no "
            f"training has seen; mean and standard deviation over {_seeds(scores)} seeds."
        ),
        "virtual": data.virtual,
        "sets": {
            **{name: _about(data, grid, name) for name in grid.bases},
            **{source: _about_pool(place, source, len(pairs)) for source, pairs in pools.items()},
        },
        "scores": rows,
        "paper": _paper_rows(names),
        "note": (
            "The paper trained one model per row, on Fe14Nd2B magnets; only what its text states is shown. "
            "Its epochs grow with the training set, so that larger sets also get more steps; here all have "
            "the same. A gain is the mean difference to the base alone at the same seed (purely synthetic "
            "sets: to the base whose validation they share), with its 95 % t interval over the seeds. One in "
            "twenty such intervals excludes 0 where there is no gain. The seeds vary the training and the "
            "choice from the pool, not the real patches. " + options.note
        ),
        "trivial": "one class everywhere",
        "settings": {
            "U-Net": network,
            "steps at most": settings.steps,
            "batch": settings.batch,
            "crop": settings.crop,
            "learning rate": settings.lr,
            "augmentation": settings.augment,
            "few": f"{grid.few} + {grid.few_validation}",
            "poor masks": str(grid.poor),
        },
        "seed": list(grid.seeds),
        "rows": common.every_row(scores),
    } | common.origin(_command(options), scores["seconds"].sum(), options.device)


def _seeds(scores: pd.DataFrame) -> str:
    """The number of seeds, or its range over the rows."""
    n = scores.groupby(["base", "share", "source", "augmented"])["seed"].nunique()
    return f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"


def _row_name(base: str, share: int | None, source: str, augmented: bool) -> str:
    if augmented:
        return f"{base}, augmentation only"
    return f"{base} + {share} % {source}" if share else base


def _gain_text(scores: pd.DataFrame, key: tuple[str, int, str, bool]) -> str:
    base, share, source, augmented = key
    if share == 0 and not augmented:
        return ""
    try:
        gain = synthetic_share.gain(scores, base, share, source, augmented=augmented)
    except ValueError:  # its base alone was not trained
        return ""
    interval = f" ({gain.low:+.3f} to {gain.high:+.3f})" if gain.n > 1 else ""
    return f"{gain.mean:+.3f}{interval}"


def _about(data: PhaseData, grid: Grid, name: str) -> str:
    base = BASES[name]
    train, validation = (
        len(part) if base.many else few
        for part, few in ((data.train, grid.few), (data.validation, grid.few_validation))
    )
    masks = {"good": "expert masks", "poor": "poor masks", "mixed": f"{grid.few} expert masks, the rest poor"}
    what = f"{train} real patches" if base.real else f"no real patch, shares of {train}"
    return f"{what}, {validation} real ones for validation, {masks[base.masks]} (the paper's {base.paper})"


def _about_pool(place: Path, source: str, number: int) -> str:
    about = json.loads((place / "pools" / source / "manifest.json").read_text(encoding="utf-8"))["about"]
    facts = ", ".join(
        f"{name} {value}" for name, value in about.items() if not isinstance(value, (dict, list))
    )
    return f"pool of {number} synthetic pairs ({facts})"


def _paper_rows(names: dict[str, str]) -> dict[str, dict[str, float | str]]:
    rows: dict[str, dict[str, float | str]] = {}
    for figure in sorted(PAPER_FIGURES, key=lambda f: (list(BASES).index(f.base), f.share or 0)):
        if figure.measure in names:
            what = f"+ {figure.share} %" if figure.share else "" if figure.share == 0 else "at its best"
            what = "augmentation only" if figure.augmented else what
            value = f"{figure.value} ({figure.words})" if figure.words else figure.value
            row = rows.setdefault(f"paper, {BASES[figure.base].paper} {what}".rstrip(), {})
            row[names[figure.measure]] = value
    return rows


def _command(options: argparse.Namespace) -> str:
    words = [f"python -m studies.synthetic_share FOLDER --size {options.size} --target {options.target}"]
    for name in ("sources", "bases", "shares", "seeds", "few", "steps", "encoder"):
        value = getattr(options, name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words.append(f"--{name} " + " ".join(f'"{v}"' if " " in str(v) else str(v) for v in values))
    words += ["--no-control"] * options.no_control
    words += [f"--suffix {options.suffix}"] * bool(options.suffix)
    return " ".join([*words, "--record"])


def grid_of(options: argparse.Namespace, classes: int) -> Grid:
    """The grid of a size, changed by the options."""
    grid = SIZES[options.size]
    network = {"classes": classes}
    if options.steps is not None:
        network["steps"] = options.steps
    if options.encoder is not None:
        network |= {"encoder": options.encoder, "encoder_weights": "imagenet"}
    changes: dict[str, object] = {"training": replace(grid.training, **network)}
    for name in ("sources", "bases", "shares", "seeds"):
        value: Sequence | None = getattr(options, name)
        if value is not None:
            changes[name] = tuple(value)
    if options.no_control:
        changes["control"] = False
    if options.few is not None:
        changes |= {"few": options.few, "few_validation": min(grid.few_validation, options.few)}
    return replace(grid, **changes)


def main() -> None:
    """Run the study, print the tables, and store them with --record."""
    parser = common.parser(__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="laptop")
    parser.add_argument("--target", choices=tuple(PER_FIELD), default="uhcs")
    parser.add_argument("--sources", nargs="+", help="names of pools (default: vqvae)")
    parser.add_argument("--bases", nargs="+", choices=tuple(BASES))
    parser.add_argument("--shares", nargs="+", type=int, help="%% synthetic")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--few", type=int, help="patches of the few")
    parser.add_argument("--no-control", action="store_true", help="without augmentation only")
    parser.add_argument("--steps", type=int, help="optimiser steps at most")
    parser.add_argument("--encoder", help="such as efficientnet-b3, with weights from ImageNet")
    parser.add_argument("--painter-steps", type=int, default=1000, help="of the diffusion model")
    parser.add_argument("--jobs", type=int, default=-1, help="processes; 1 on one GPU")
    parser.add_argument("--scheduler", help="address of a Dask scheduler")
    parser.add_argument("--device")
    parser.add_argument("--note", default="", help="sentences for the record")
    parser.add_argument("--suffix", default="", help="of the record's name: phase_study_TARGET_SUFFIX")
    options = parser.parse_args()

    target = labelled_fields(options.target)
    grid = grid_of(options, len(target.classes))
    data = synthetic_share.phase_data(target, grid, SIDE, per_field=PER_FIELD[options.target])
    whole = replace(SIZES[options.size], few=grid.few)  # the pools serve every subset of it
    needed = max(
        synthetic_share.synthetic_number(data, whole, c.base, c.share)
        for c in (*whole.cells(), *grid.cells())
    )
    place = options.folder / options.target
    pools = {
        source: pool(place, source, data, grid, round(POOL * needed), options) for source in grid.sources
    }
    how = {"jobs": options.jobs, "scheduler": options.scheduler, "device": options.device}
    study = place / f"study_{options.size}_{grid.few}"
    synthetic_share.run(grid, data, pools, study, **how)

    scores = synthetic_share.finished(study)  # those of earlier calls included
    grid = replace(
        grid,
        bases=tuple(scores["base"].unique()),
        seeds=tuple(int(seed) for seed in scores["seed"].unique()),
        sources=tuple(pools),
    )
    name = "_".join(part for part in ("phase_study", options.target, options.suffix) if part)
    common.publish(name, record(scores, data, grid, options, pools, place), options.record)
    print("\nGains in Missing Class IoU, paired by seed, 95 % t intervals:\n")
    print(synthetic_share.gains(scores).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
