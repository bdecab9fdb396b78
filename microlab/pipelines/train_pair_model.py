"""Training of a pair model on a few labelled micrographs, and its settings in three sizes.

    image + mask -> VQ-VAE -> codes -> PixelCNN, conditioned on the class fractions of the crop

Paper B (arXiv:2408.00707), and our variant of it: masks one-hot, no blind spot, composition on request.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import block_reduce

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import checksum
from microlab.data.run_folder import RunFolder
from microlab.generate.masks import least_areas
from microlab.generate.pair_model import PairModel
from microlab.generate.pairs import channel_count, pack
from microlab.generate.pixelcnn import (
    Autoregressive,
    PriorConfig,
    held_out_bits,
    train_prior,
    unigram_entropy,
)
from microlab.generate.vqvae import (
    DOWNSAMPLING,
    VQVAE,
    VQVAEConfig,
    encode_all,
    reconstruction_report,
    train_vqvae,
)
from microlab.generate.vqvae import PAPER as PAPER_VQVAE
from microlab.training.cards import model_card
from microlab.training.crops import orientations, random_crops
from microlab.training.devices import pick_device
from microlab.training.fit import STATE, History
from microlab.training.profiles import PROFILES


@dataclass(frozen=True)
class PairModelConfig:
    """Everything that determines both networks. The defaults are ours, at laptop size."""

    vqvae: VQVAEConfig = field(default_factory=lambda: VQVAEConfig(coding="one-hot", image_channels=1))
    prior: PriorConfig = field(default_factory=PriorConfig)
    conditioned: bool = True  # the prior is conditioned on the class fractions
    min_area: int | tuple[int, ...] | None = None  # of a sampled object, px; None: from the training masks
    temperature: float = 1.0  # default of sampling
    held_out: float = 0.2  # share of the images that only measure; at least one image
    seed: int = 0  # takes the place of the seeds of `vqvae` and `prior`

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out must lie in (0, 1), got {self.held_out}")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature must be a positive number, got {self.temperature}")


OURS = PairModelConfig()
# Paper B: grey masks, the network with the blind spot, no conditioning. Its PixelCNN's size is not stated.
PAPER = PairModelConfig(
    vqvae=PAPER_VQVAE,
    prior=PriorConfig(
        kind="plain", channels=128, layers=12, crop=64, batch=8, steps=50_000, lr=3e-4, checkpoint_every=1000
    ),
    conditioned=False,
    min_area=200,
)


def profile_config(profile: str, coding: str = "one-hot", seed: int = 0) -> PairModelConfig:
    """Our variant in three sizes: ``smoke`` (does it run?), ``laptop`` (two cores) or ``paper`` (a GPU).

    Parameters
    ----------
    profile : {'smoke', 'laptop', 'paper'}
    coding : {'one-hot', 'grey'}
        Of the masks; grey as in paper B.
    seed : int

    Raises
    ------
    InputError
        If there is no such `profile` or `coding`.
    """
    if profile not in PROFILES:
        raise InputError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    channel_count(2, 1, coding)  # refuses a wrong coding
    vqvae, prior = OURS.vqvae, OURS.prior
    if profile == "smoke":
        vqvae = replace(vqvae, hidden=16, residual=8, dim=16, crop=64, batch=4, steps=60)
        prior = replace(prior, channels=16, layers=2, crop=16, batch=8, steps=60, checkpoint_every=30)
    if profile == "paper":
        long = {"steps": 50_000, "lr": 3e-4, "checkpoint_every": 1000}
        vqvae = replace(vqvae, hidden=128, crop=256, **long)
        prior = replace(prior, channels=128, layers=12, crop=64, patience=10, **long)
    # Grey masks as in paper B, beside three equal channels: the image counts three quarters of the error.
    vqvae = replace(vqvae, coding=coding, image_channels=3 if coding == "grey" else 1)
    return replace(OURS, vqvae=vqvae, prior=prior, seed=seed)


MAX_BYTES = 16 * 2**20  # of one file of weights; larger ones are stored with 16 bits
MAX_CODES = 2**25  # in the crops cut for a conditioned prior: 256 MB
MADE_BY = "microlab.pipelines.train_pair_model.train_pair_model"


def train_pair_model(
    pairs: Sequence[Micrograph],
    folder: str | os.PathLike[str],
    config: PairModelConfig | None = None,
    *,
    classes: int,
    class_names: Sequence[str] | None = None,
    held_out: Sequence[Micrograph] = (),
    name: str = "pairs",
    data: str = "labelled images",
    licence: str = "that of the images",
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
) -> PairModel:
    """Train a VQ-VAE and a prior on labelled images, and write both with their cards.

    Parameters
    ----------
    pairs : sequence of Micrograph
        With `classes`; no side smaller than a crop.
    folder : path
        Receives ``NAME-vqvae.safetensors``, ``NAME-prior.safetensors``, their cards, and the checkpoints in
        ``vqvae/`` and ``prior/``: a killed run goes on from there.
    config : PairModelConfig, optional
    classes : int >= 2
    class_names : sequence of str, optional
    held_out : as `pairs`, optional
        Images that only measure. By default a share of `pairs`, chosen so that every class still trains.
    name : str
        First part of the files' names.
    data, licence : str
        For the cards.
    device, progress, resume
        As in `microlab.training.fit.fit`.

    Returns
    -------
    PairModel

    Raises
    ------
    InputError
        If images or masks do not fit, there are too few, or the folder holds something else.
    """
    config, folder = config or OURS, Path(folder)
    class_names = list(class_names or (f"class {c}" for c in range(classes)))
    if len(class_names) != classes:
        raise InputError(f"class_names must be those of {classes} classes, got {len(class_names)}")
    vqvae_config, prior_config = (replace(part, seed=config.seed) for part in (config.vqvae, config.prior))
    train, unseen = _named(pairs), _named(held_out)
    settings = {"made_by": MADE_BY, "classes": classes, **asdict(config)}
    settings |= {"images": checksum(train), "held-out images": checksum(unseen)}
    if not unseen:
        train, unseen = _hold_out(train, config.held_out, config.seed)
    side = max(vqvae_config.crop, prior_config.crop * DOWNSAMPLING)
    packed = [_packed(pair, classes, vqvae_config, side) for pair in train]
    packed_unseen = [_packed(pair, classes, vqvae_config, side) for pair in unseen]
    pick_device(device)  # a wrong device fails before a folder is made
    forget = () if resume else (f"vqvae/{STATE}", f"prior/{STATE}")
    run = RunFolder(folder, settings, forget=forget, anew="resume=False, --no-resume")

    options = {"device": device, "progress": progress, "resume": resume}
    vqvae, vqvae_history = train_vqvae(packed, vqvae_config, classes=classes, folder=run / "vqvae", **options)
    codes = encode_all(vqvae, packed, symmetries=vqvae_config.symmetries)
    codes_unseen = encode_all(vqvae, packed_unseen)
    conditions = conditions_unseen = None
    if config.conditioned:
        blocks = [b for p in train for b in _class_blocks(p.classes, classes, vqvae_config.symmetries)]
        codes, conditions = _crops_with_fractions(codes, blocks, prior_config)
        conditions_unseen = _class_fractions(unseen, classes)
    prior, prior_history = train_prior(
        codes,
        prior_config,
        codes_in_book=vqvae.codes,
        conditions=conditions,
        held_out=codes_unseen,
        held_out_conditions=conditions_unseen,
        folder=run / "prior",
        **options,
    )

    vqvae.cpu()
    prior.cpu()
    common = {
        "trained_by": MADE_BY,
        "data": f"{data}: {len(train)} to train on, {len(unseen)} held out to measure",
        "licence": licence,
        "seed": config.seed,
        "classes": class_names,
    }
    vqvae_path = _save(
        run / f"{name}-vqvae.safetensors",
        vqvae,
        vqvae_history,
        config=asdict(vqvae_config),
        scores=_reconstruction_scores(vqvae, packed_unseen, class_names),
        **common,
    )
    areas = config.min_area
    if areas is None:
        areas = least_areas([pair.classes for pair in train], classes)
    bits, alone = held_out_bits(prior, codes_unseen, conditions_unseen), unigram_entropy(codes_unseen)
    _save(
        run / f"{name}-prior.safetensors",
        prior,
        prior_history,
        config=asdict(prior_config),
        scores={
            "held-out images: bits per code": round(bits, 4),
            "held-out images: bits per code from the frequencies alone": round(alone, 4),
        },
        min_area=np.broadcast_to(areas, classes).tolist(),
        fractions=np.round(_class_fractions(train, classes), 5).tolist(),
        temperature=config.temperature,
        grey=all(pair.image.ndim == 2 for pair in train),
        vqvae_sha256=weights.card(vqvae_path)["sha256"],
        **common,
    )
    return PairModel.from_weights(folder / name)


def _reconstruction_scores(
    vqvae: VQVAE, packed: list[np.ndarray], class_names: list[str]
) -> dict[str, float]:
    report = reconstruction_report(vqvae, packed)
    parts = ["image"] if vqvae.image_channels == 1 else [f"image channel {k}" for k in range(3)]
    parts += ["mask"] if vqvae.coding == "grey" else class_names
    errors = {
        f"held-out images: error of {part}, in units of its variance": round(float(error), 4)
        for part, error in zip(parts, report["error"], strict=True)
    }
    return {**errors, "held-out images: perplexity of the codes": round(report["use"].perplexity, 3)}


def _crops_with_fractions(
    codes: list[np.ndarray], blocks: list[np.ndarray], config: PriorConfig
) -> tuple[list[np.ndarray], np.ndarray]:
    """Random crops (crop, crop) of code maps, and the class fractions (M, C) of the pixels of each.

    The composition of a crop is not that of its field, so one field gives many compositions.
    """
    n = min(config.steps * config.batch, MAX_CODES // config.crop**2)
    places = np.array([np.prod(np.array(m.shape) - config.crop + 1) for m in codes])
    crops, conditions = [], []
    for index, crop in random_crops(
        codes, config.crop, n, [config.seed, 1], shares=places / places.sum(), orient=False
    ):
        crops.append(crop(codes[index]))
        conditions.append(crop(blocks[index]).mean((1, 2)))
    return crops, np.stack(conditions)


def _class_blocks(mask: np.ndarray, classes: int, symmetries: bool) -> list[np.ndarray]:
    """Class fractions (C, H/4, W/4) of the pixels under each code, turned as `encode_all` turns images."""
    height, width = (side // DOWNSAMPLING * DOWNSAMPLING for side in mask.shape)
    one_hot = mask[None, :height, :width] == np.arange(classes)[:, None, None]
    blocks = block_reduce(one_hot.astype(np.float32), (1, DOWNSAMPLING, DOWNSAMPLING), np.mean)
    return orientations(blocks) if symmetries else [blocks]


def _class_fractions(pairs: list[Micrograph], classes: int) -> np.ndarray:
    """Class fractions (n, C) of whole images."""
    return np.stack([np.bincount(p.classes.ravel(), minlength=classes) / p.classes.size for p in pairs])


def _named(pairs: Sequence[Micrograph]) -> list[Micrograph]:
    return [pair if pair.name else replace(pair, name=f"image {k}") for k, pair in enumerate(pairs)]


def _packed(pair: Micrograph, classes: int, config: VQVAEConfig, side: int) -> np.ndarray:
    coding = {"coding": config.coding, "image_channels": config.image_channels}
    try:
        channels = pack(pair.image, pair.classes, classes=classes, **coding)
    except InputError as error:
        raise InputError(f"{pair.name}: {error}") from None
    if min(pair.shape) < side:
        raise InputError(
            f"{pair.name}: is {pair.shape[0]} x {pair.shape[1]} px, and these settings train on crops of "
            f"{side} px; give larger images or take smaller settings"
        )
    return channels


def _hold_out(pairs: list[Micrograph], share: float, seed: int) -> tuple[list[Micrograph], list[Micrograph]]:
    """Split the pairs at random; if possible, the first part keeps every class."""
    if len(pairs) < 2:
        raise InputError(
            f"at least 2 labelled images are needed, one to train on and one to measure on, got {len(pairs)}"
        )
    number = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    present = [set(np.unique(pair.classes).tolist()) for pair in pairs]
    chosen: list[int] = []
    for k in order:
        rest = [present[i] for i in order if i != k and i not in chosen]
        if len(chosen) < number and rest and set().union(*rest) == set().union(*present):
            chosen.append(k)
    if not chosen:
        chosen = order[:1]
        lost = present[chosen[0]] - set().union(*(present[i] for i in order[1:]))
        warnings.warn(
            f"class {', '.join(map(str, sorted(lost)))} occurs only in {pairs[chosen[0]].name}, which is "
            "held out to measure on: it will not be learnt. Give more labelled images",
            stacklevel=3,
        )
    return [p for i, p in enumerate(pairs) if i not in chosen], [pairs[i] for i in sorted(chosen)]


def _save(path: Path, model: VQVAE | Autoregressive, history: History, **facts: Any) -> Path:
    """Write weights with their card."""
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return weights.save(path, model, model_card(model, history, **facts), half=size > MAX_BYTES - 2**16)
