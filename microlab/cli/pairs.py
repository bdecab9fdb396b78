"""Commands for pairs of image and mask: `sample-pairs`, `train-pairs`.

Registered in `microlab.cli.main`. Libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli.options import Device, Profile, Seed


def _size(value: str) -> str:
    if not re.fullmatch(r"\d+(x\d+)?", value):
        raise typer.BadParameter(
            f"expected a side or HEIGHTxWIDTH in pixels, as 256 or 256x384, got {value!r}"
        )
    return value


def _fractions(value: str | None) -> str | None:
    try:
        [float(part) for part in (value or "0").split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas between, as 0.7,0.3, got {value!r}") from None
    return value


def sample_pairs(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the pairs; new or empty.")
    ],
    number: Annotated[int, typer.Option("-n", "--number", min=1, metavar="N", help="Number of pairs.")] = 16,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights of the pair model: a shipped name, or a folder that train-pairs made. "
            "[default: uhcs]",
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option(
            callback=_size, metavar="PX|HxW", help="Side of a square image in pixels, or height x width."
        ),
    ] = "256",
    fractions: Annotated[
        str | None,
        typer.Option(
            callback=_fractions,
            metavar="F,F,...",
            help="Share of each class in the image, 1 in sum. "
            "[default: as in training images drawn at random]",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="How freely structures are drawn: below 1 likely ones become likelier. "
            "[default: from the weights' card]",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Sample pairs of micrograph and mask from a trained model.

    OUT gets images/ and masks/ (class ids) as TIFF files that Fiji opens, masks_colour/ to look at, and
    manifest.json with settings, checksums and class fractions.

    \b
    Examples:
      microlab sample-pairs -n 16 -o pairs
      microlab sample-pairs -n 4 -o rare --fractions 0.6,0.1,0.1,0.2 --size 256x384
      microlab sample-pairs -n 100 -o mine --weights run
    """
    import numpy as np

    from microlab.data.pairs import begin_pairs, write_pairs
    from microlab.generate.pair_model import DEFAULT_WEIGHTS, PairModel

    weights = weights or DEFAULT_WEIGHTS
    model = PairModel.from_weights(weights)
    sides = [int(side) for side in size.split("x")]
    shape = (sides[0], sides[-1])
    if fractions is None:
        requested = model.draw_fractions(number, seed)
    else:
        requested = model.checked_fractions([float(part) for part in fractions.split(",")], number)
    begin_pairs(out)  # fail before the sampling if it cannot be written
    pairs = model.sample(
        number,
        shape=shape,
        fractions=requested,
        temperature=temperature,
        seed=seed,
        device=device,
        progress=True,
    )
    about = {
        "made_by": "microlab sample-pairs",
        "weights": weights,
        "weights_sha256": {"vqvae": model.card["vqvae_sha256"], "prior": model.card["sha256"]},
        "class_names": model.class_names,
        "seed": seed,
        "temperature": model.card["temperature"] if temperature is None else temperature,
        "min_area": model.card["min_area"],
        "requested_fractions": None if requested is None else requested.tolist(),
    }
    manifest = write_pairs(out, pairs, classes=len(model.class_names), about=about)
    width = max(len("class"), *map(len, model.class_names))
    typer.echo(f"{number} pairs of {shape[0]} x {shape[1]} px in {out}; look at masks_colour")
    typer.echo(f"{'class':{width}}  requested  sampled   (mean share of the pixels)")
    for c, name in enumerate(model.class_names):
        share = "-" if requested is None else f"{requested[:, c].mean():.3f}"
        sampled = np.mean([(pair.classes == c).mean() for pair in pairs])
        typer.echo(f"{name:{width}}  {share:>9}  {sampled:7.3f}")
    typer.echo(f"manifest: {manifest}")


def train_pairs(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of micrographs.", readable=False)],
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS",
            help="Folder of masks of the same names: one class id per pixel.",
            readable=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for weights and checkpoints.")
    ],
    profile: Profile = None,
    coding: Annotated[
        str,
        typer.Option(
            metavar="one-hot|grey",
            help="How the network sees a mask: one plane a class, or one grey value a class, as paper B.",
        ),
    ] = "one-hot",
    classes: Annotated[
        int | None,
        typer.Option(min=2, max=256, metavar="N", help="Number of classes. [default: as found in the masks]"),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last checkpoint in OUT, or begin again.")
    ] = True,
) -> None:
    """Train a pair model on your own few labelled images.

    Masks hold class ids 0, 1, 2 and on; of palette files the index counts. Some images, at least one, are
    held out to measure. Stopped and called again, it goes on where it was.

    \b
    Examples:
      microlab train-pairs images/ masks/ -o run
      microlab sample-pairs -n 100 -o pairs --weights run
    """
    from microlab.data import weights as data_weights
    from microlab.data.pairs import read_labelled
    from microlab.pipelines.train_pair_model import profile_config, train_pair_model
    from microlab.training import profiles

    config = profile_config(profile or profiles.profile(), coding, seed)
    pairs, classes = read_labelled(images, masks, classes=classes)
    model = train_pair_model(
        pairs,
        out,
        config,
        classes=classes,
        data=f"{images.name} and {masks.name}",
        device=device,
        resume=resume,
    )
    cards = [data_weights.card(out / "pairs-vqvae.safetensors"), model.card]
    typer.echo(cards[0]["data"])
    for card in cards:
        for name, value in card["scores"].items():
            typer.echo(f"{name}: {value:g}")
    typer.echo(f"least area of an object: {', '.join(map(str, model.card['min_area']))} px, by class")
    typer.echo(f"weights: {out}; next: microlab sample-pairs -n 16 -o PAIRS --weights {out}")
