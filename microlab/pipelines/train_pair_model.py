"""What determines a dreamer: the settings of both models, ours and paper B's, in three sizes.

From a few labelled micrographs to a model that dreams pairs of image and mask.

    image + mask -> VQ-VAE -> codes -> PixelCNN, steered by the class fractions of the crop

Paper B (arXiv:2408.00707), and our own variant of it: masks one-hot, no blind spot, composition on request.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import block_reduce

from microlab.data import weights
from microlab.data.pairs import Pair
from microlab.data.run_folder import RunFolder
from microlab.generate.masks import least_areas
from microlab.generate.pair_model import PairModel
from microlab.generate.pairs import pack
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
    channel_count,
    encode_all,
    reconstruction_report,
    train_vqvae,
)
from microlab.generate.vqvae import PAPER as PAPER_VQVAE
from microlab.training.cards import model_card
from microlab.training.crops import orientations, random_crops
from microlab.training.devices import pick_device
from microlab.training.fit import History
from microlab.training.profiles import PROFILES


@dataclass(frozen=True)
class DreamConfig:
    """Everything that determines both models. The defaults are ours, at laptop size."""

    vqvae: VQVAEConfig = field(default_factory=lambda: VQVAEConfig(coding="one-hot", image_channels=1))
    prior: PriorConfig = field(default_factory=PriorConfig)
    conditioned: bool = True  # the prior is steered by the class fractions
    min_area: int | tuple[int, ...] | None = None  # of a dreamed object, px; None: as the training masks say
    temperature: float = 1.0  # of sampling, unless asked otherwise
    held_out: float = 0.2  # share of the images that only measure; at least one image
    seed: int = 0  # takes the place of the seeds of `vqvae` and `prior`

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")


OURS = DreamConfig()
# Paper B: grey masks, the network with the blind spot, no steering. Its PixelCNN's size is not stated.
PAPER = DreamConfig(
    vqvae=PAPER_VQVAE,
    prior=PriorConfig(
        kind="plain", channels=128, layers=12, crop=64, batch=8, steps=50_000, lr=3e-4, checkpoint_every=1000
    ),
    conditioned=False,
    min_area=200,
)


def profile_config(profile: str, coding: str = "one-hot", seed: int = 0) -> DreamConfig:
    """Our variant in three sizes: ``smoke`` (does it run?), ``laptop`` (two cores) or ``paper`` (a GPU).

    Parameters
    ----------
    profile : {'smoke', 'laptop', 'paper'}
    coding : {'one-hot', 'grey'}
        Of the masks; grey as in paper B.
    seed : int

    Raises
    ------
    ValueError
        If `profile` or `coding` is not known.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    channel_count(2, 1, coding)  # a wrong coding fails here
    vqvae, prior = OURS.vqvae, OURS.prior
    if profile == "smoke":
        vqvae = replace(vqvae, hidden=16, residual=8, dim=16, crop=64, batch=4, steps=60)
        prior = replace(prior, channels=16, layers=2, crop=16, batch=8, steps=60, checkpoint_every=30)
    if profile == "paper":
        vqvae = replace(vqvae, hidden=128, crop=256, steps=50_000, lr=3e-4, checkpoint_every=1000)
        prior = replace(
            prior, channels=128, layers=12, crop=64, steps=50_000, lr=3e-4, checkpoint_every=1000, patience=10
        )
    # Grey masks in paper B's way, beside three equal channels: the image counts three quarters of the error.
    vqvae = replace(vqvae, coding=coding, image_channels=3 if coding == "grey" else 1)
    return replace(OURS, vqvae=vqvae, prior=prior, seed=seed)


SETTINGS = "settings.json"  # marks a folder of train_pairs
MOST_BYTES = 16 * 2**20  # of one file of weights; larger ones are stored with 16 bits
MOST_CODES = 2**25  # in the crops cut for a conditioned prior: 256 MB


def train_pairs(
    pairs: Sequence[Pair | tuple[np.ndarray, np.ndarray]],
    folder: str | os.PathLike[str],
    config: DreamConfig | None = None,
    *,
    classes: int,
    names: Sequence[str] | None = None,
    held_out: Sequence[Pair | tuple[np.ndarray, np.ndarray]] | None = None,
    name: str = "pairs",
    data: str | None = None,
    licence: str = "that of the images",
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
) -> PairModel:
    """Train a VQ-VAE and a prior on labelled images, and write both with their cards.

    Parameters
    ----------
    pairs : sequence of Pair or (image, mask)
        Images (H, W) or (H, W, 3) float in [0, 1], masks (H, W) of class ids; sides of at least a crop.
    folder : path
        Receives ``NAME-vqvae.safetensors``, ``NAME-prior.safetensors``, their cards, and the checkpoints in
        ``vqvae/`` and ``prior/``: a killed run goes on from there.
    config : DreamConfig, optional
    classes : int >= 2
    names : sequence of str, optional
        Of the classes.
    held_out : as `pairs`, optional
        Images that only measure. By default a share of `pairs`, chosen so that every class still trains.
    name : str
        The files' first part.
    data, licence : str, optional
        For the cards.
    device, progress, resume
        As in `microlab.training.fit.fit`.

    Returns
    -------
    PairModel

    Raises
    ------
    ValueError
        If images or masks do not fit, there are too few, or the folder holds something else.
    """
    config, folder = config or OURS, Path(folder)
    vqvae_config = replace(config.vqvae, seed=config.seed)
    prior_config = replace(config.prior, seed=config.seed)
    names = [f"class {c}" for c in range(classes)] if names is None else list(names)
    if len(names) != classes:
        raise ValueError(f"names must be those of {classes} classes, got {len(names)}")
    train, unseen = _named(pairs), _named(held_out or [])
    images = {"images": _digest(train), "held-out images": _digest(unseen)}  # as given: the seed parts them
    if not unseen:
        train, unseen = _hold_out(train, config.held_out, config.seed)
    side = max(vqvae_config.crop, prior_config.crop * DOWNSAMPLING)
    packed, packed_unseen = (
        [_packed(p, classes, vqvae_config, side) for p in some] for some in (train, unseen)
    )
    pick_device(device)  # a wrong device fails before a folder is made
    areas = least_areas([p.mask for p in train], classes) if config.min_area is None else config.min_area
    _claim(folder, config, images | {"classes": classes}, resume)

    options = {"device": device, "progress": progress, "resume": resume}
    vqvae, history = train_vqvae(packed, vqvae_config, classes=classes, folder=folder / "vqvae", **options)
    turned = vqvae_config.symmetries
    codes, codes_unseen = encode_all(vqvae, packed, symmetries=turned), encode_all(vqvae, packed_unseen)
    fractions, fractions_unseen = (
        np.stack([_fractions(p.mask, classes) for p in s]) for s in (train, unseen)
    )
    steered: dict[str, np.ndarray] = {}
    seen = codes
    if config.conditioned:
        blocks = [b for p in train for b in _class_blocks(p.mask, classes, turned)]
        seen, conditions = _crops_with_fractions(codes, blocks, prior_config)
        steered = {"conditions": conditions, "held_out_conditions": fractions_unseen}
    prior, prior_history = train_prior(
        seen,
        prior_config,
        codes_in_book=vqvae.codes,
        held_out=codes_unseen,
        folder=folder / "prior",
        **steered,
        **options,
    )

    vqvae.cpu()
    prior.cpu()
    common = {
        "trained_by": "microlab.pipelines.train_pair_model.train_pairs",
        "data": f"{data or 'labelled images'}: {len(train)} to learn from, {len(unseen)} held out to measure",
        "licence": licence,
        "seed": config.seed,
        "classes": names,
    }
    path = folder / f"{name}-vqvae.safetensors"
    scores = _reconstruction_scores(vqvae, packed_unseen, names)
    _save(path, vqvae, history, **common, config=asdict(vqvae_config), scores=scores)
    bits = held_out_bits(prior, codes_unseen, steered.get("held_out_conditions"))
    scores = {
        "held-out images: bits per code": round(bits, 4),
        "held-out images: bits per code from the frequencies alone": round(unigram_entropy(codes_unseen), 4),
    }
    for_dreaming = {
        "min_area": np.broadcast_to(areas, classes).tolist(),
        "fractions": np.round(fractions, 5).tolist(),
        "temperature": config.temperature,
        "grey": all(np.ndim(p.image) == 2 for p in train),
        "vqvae_sha256": weights.card(path)["sha256"],
    }
    facts = {"config": asdict(prior_config), "scores": scores}
    _save(folder / f"{name}-prior.safetensors", prior, prior_history, **common, **facts, **for_dreaming)
    return PairModel.from_weights(folder / name)


def _reconstruction_scores(vqvae: VQVAE, packed: list[np.ndarray], names: list[str]) -> dict[str, float]:
    report = reconstruction_report(vqvae, packed)
    parts = ["image"] if vqvae.image_channels == 1 else [f"image channel {k}" for k in range(3)]
    parts += ["mask"] if vqvae.coding == "grey" else names
    errors = {
        f"held-out images: error of {part}, in units of its variance": round(float(error), 4)
        for part, error in zip(parts, report["error"], strict=True)
    }
    return {**errors, "held-out images: perplexity of the codes": round(report["use"].perplexity, 3)}


def _crops_with_fractions(
    codes: list[np.ndarray], blocks: list[np.ndarray], config: PriorConfig
) -> tuple[list[np.ndarray], np.ndarray]:
    """Random crops (crop, crop) of code maps, and the class fractions (M, C) of the pixels of each.

    They are cut in advance because a crop's composition is not its field's: one field then teaches many
    compositions.
    """
    n = min(config.steps * config.batch, MOST_CODES // config.crop**2)
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


def _fractions(mask: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(mask.ravel(), minlength=classes) / mask.size


def _named(pairs: Sequence[Pair | tuple[np.ndarray, np.ndarray]]) -> list[Pair]:
    found = [p if isinstance(p, Pair) else Pair(*map(np.asarray, p), "") for p in pairs]
    return [p if p.name else replace(p, name=f"image {index}") for index, p in enumerate(found)]


def _packed(pair: Pair, classes: int, config: VQVAEConfig, side: int) -> np.ndarray:
    try:
        channels = pack(
            pair.image, pair.mask, classes=classes, coding=config.coding, image_channels=config.image_channels
        )
    except ValueError as error:
        raise ValueError(f"{pair.name}: {error}") from None
    if min(pair.mask.shape) < side:
        raise ValueError(
            f"{pair.name}: is {pair.mask.shape[0]} x {pair.mask.shape[1]} px, and these settings learn from "
            f"crops of {side} px; give larger images or take smaller settings"
        )
    return channels


def _hold_out(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Part the pairs at random, so that each class is left in the first part if that can be."""
    if len(pairs) < 2:
        raise ValueError(
            f"at least 2 labelled images are needed, one to learn from and one to check on, got {len(pairs)}"
        )
    wanted = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    has = [set(np.unique(pair.mask).tolist()) for pair in pairs]
    chosen: list[int] = []
    for k in order:
        rest = [has[i] for i in order if i != k and i not in chosen]
        if len(chosen) < wanted and rest and set().union(*rest) == set().union(*has):
            chosen.append(k)
    if not chosen:
        chosen = order[:1]
        lost = has[chosen[0]] - set().union(*(has[i] for i in order[1:]))
        warnings.warn(
            f"class {', '.join(map(str, sorted(lost)))} occurs only in {pairs[chosen[0]].name}, which is "
            "held out to check on: it will not be learnt. Give more labelled images",
            stacklevel=3,
        )
    return [p for i, p in enumerate(pairs) if i not in chosen], [pairs[i] for i in sorted(chosen)]


def _claim(folder: Path, config: DreamConfig, given: dict[str, Any], resume: bool) -> None:
    """Take the folder, or refuse one that holds something else or a run with other settings or images."""
    path = folder / SETTINGS
    strange = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    if strange and not path.exists():
        raise ValueError(f"{folder}: holds something else; choose a new or an empty folder")
    if not resume:
        path.unlink(missing_ok=True)
    settings: dict[str, Any] = {"made_by": "microlab.pipelines.train_pair_model.train_pairs", **given}
    for f in fields(config):
        value = getattr(config, f.name)
        part = asdict(value) if f.name in ("vqvae", "prior") else None
        settings |= {f.name: value} if part is None else {f"{f.name}.{k}": v for k, v in part.items()}
    RunFolder(folder, settings)


def _digest(pairs: list[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for array in (np.asarray(pair.image, np.float32), np.asarray(pair.mask, np.uint8)):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _save(path: Path, model: VQVAE | Autoregressive, history: History, **facts: Any) -> Path:
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return weights.save(path, model, model_card(model, history, **facts), half=size > MOST_BYTES - 2**16)
