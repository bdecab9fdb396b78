"""Commands that make pairs of image and mask: `dream`, `train-pairs`.

Registered in `microlab.cli.main`. Libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from microlab.cli.options import Device


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


def dream(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pairs; new or empty.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Pairs to make.")] = 16,
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Shipped weights, or a folder of train-pairs. [default: uhcs]"),
    ] = None,
    size: Annotated[
        str, typer.Option(callback=_size, metavar="PX|HxW", help="Side in pixels, or height x width.")
    ] = "256",
    fractions: Annotated[
        str | None,
        typer.Option(
            callback=_fractions,
            metavar="F,F,...",
            help="Share of each class, in sum 1. [default: as in training images drawn at random]",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Below 1 likely structures become likelier. [default: that of the training]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pairs.")] = 0,
    device: Device = None,
) -> None:
    """Dream micrographs together with their masks.

    OUT gets images/ and masks/ (class ids) as TIFF files that Fiji opens, masks_colour/ to look at, and
    manifest.json with settings, checksums and class fractions.

    \b
    Examples:
      microlab dream -n 16 -o pairs
      microlab dream -n 4 -o rare --fractions 0.6,0.1,0.1,0.2 --size 256x384
      microlab dream -n 100 -o mine --weights run
    """
    import numpy as np

    from microlab.data.pairs import write_pairs
    from microlab.generate.pair_model import DEFAULT_WEIGHTS, PairModel

    pass

    _refuse_other_content(out)
    weights = weights or DEFAULT_WEIGHTS
    dreamer = PairModel.from_weights(weights)
    sides = [int(side) for side in size.split("x")]
    shape = (sides[0], sides[-1])
    if fractions is None:
        asked = dreamer.draw_fractions(number, seed)
    else:
        asked = dreamer.checked_fractions([float(part) for part in fractions.split(",")], number)
    out.mkdir(parents=True, exist_ok=True)  # a place that cannot be written fails before the sampling
    pairs = dreamer.dream(
        number,
        shape=shape,
        fractions=asked,
        temperature=temperature,
        seed=seed,
        device=device,
        progress=True,
    )
    about = {
        "made_by": "microlab dream",
        "weights": weights,
        "weights_sha256": {"vqvae": dreamer.card["vqvae_sha256"], "prior": dreamer.card["sha256"]},
        "class_names": dreamer.classes,
        "seed": seed,
        "temperature": dreamer.card["temperature"] if temperature is None else temperature,
        "min_area": dreamer.card["min_area"],
        "fractions_asked": None if asked is None else asked.tolist(),
    }
    manifest = write_pairs(out, pairs, classes=len(dreamer.classes), about=about)
    width = max(len("class"), *map(len, dreamer.classes))
    typer.echo(f"{number} pairs of {shape[0]} x {shape[1]} px in {out}; look at masks_colour")
    typer.echo(f"{'class':{width}}  asked    got   (mean share of the pixels)")
    for c, name in enumerate(dreamer.classes):
        share = "-" if asked is None else f"{asked[:, c].mean():.3f}"
        got = np.mean([(pair.mask == c).mean() for pair in pairs])
        typer.echo(f"{name:{width}}  {share:>5}  {got:.3f}")
    typer.echo(f"manifest: {manifest}")


def train_pairs(
    images: Annotated[Path, typer.Argument(help="Folder of micrographs.", readable=False)],
    masks: Annotated[
        Path,
        typer.Argument(help="Folder of masks of the same names: one class id per pixel.", readable=False),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for weights and checkpoints.")],
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="smoke|laptop|paper", help="Size of the run. [default: MICROLAB_PROFILE, else laptop]"
        ),
    ] = None,
    coding: Annotated[
        str, typer.Option(metavar="one-hot|grey", help="Of the masks in the VQ-VAE; paper B: grey.")
    ] = "one-hot",
    classes: Annotated[
        int | None, typer.Option(min=2, max=256, help="Number of classes. [default: as found]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = 0,
    device: Device = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in OUT.")] = True,
) -> None:
    """Train the models that dream pairs on your own few labelled images.

    Masks hold class ids 0, 1, 2 and on; the palette of a palette file only shows them. Some images, at least
    one, are held out to measure. Stopped and called again, it goes on where it was.

    \b
    Examples:
      microlab train-pairs images/ masks/ -o run
      microlab dream -n 100 -o pairs --weights run
    """
    from microlab.data import weights as data_weights
    from microlab.data.pairs import read_labelled
    from microlab.pipelines.train_pair_model import profile_config, train_pairs
    from microlab.training import profiles

    pass
    pass
    pass
    pass

    config = profile_config(profile or profiles.profile(), coding, seed)
    pairs, classes = read_labelled(images, masks, classes=classes)
    dreamer = train_pairs(
        pairs,
        out,
        config,
        classes=classes,
        data=f"{images.name} and {masks.name}",
        device=device,
        resume=resume,
    )
    cards = [data_weights.card(out / "pairs-vqvae.safetensors"), dreamer.card]
    typer.echo(cards[0]["data"])
    for card in cards:
        for name, value in card["scores"].items():
            typer.echo(f"{name}: {value:g}")
    typer.echo(f"least area of an object: {', '.join(map(str, dreamer.card['min_area']))} px, by class")
    typer.echo(f"weights: {out}; next: microlab dream -n 16 -o PAIRS --weights {out}")


def _refuse_other_content(folder: Path) -> None:
    """Raise a ValueError if a folder holds anything but the beginnings of a dream that was killed."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith((".", "dream_")):
            raise ValueError(
                f"{folder}: already holds {path.relative_to(folder)}; choose a new or empty folder"
            )
