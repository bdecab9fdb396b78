"""A VQ-VAE and a prior that were trained together: load them and sample pairs of image and mask.

class fractions -> PixelCNN -> codes -> VQ-VAE's decoder -> image and raw mask -> cleaned mask
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microlab.data import weights
from microlab.data.errors import InputError, WeightsError
from microlab.data.micrograph import Micrograph
from microlab.generate.masks import clean_mask
from microlab.generate.pairs import unpack
from microlab.generate.pixelcnn import NETWORKS, Autoregressive
from microlab.generate.sampling import sample
from microlab.generate.vqvae import DOWNSAMPLING, VQVAE
from microlab.training.devices import pick_device

DEFAULT_WEIGHTS = "uhcs"


@dataclass(frozen=True)
class PairModel:
    """A VQ-VAE and a prior that were trained together.

    Attributes
    ----------
    vqvae : VQVAE
    prior : PixelCNN or GatedPixelCNN
    card : dict
        The prior's card. Beside the usual fields: ``classes`` (names), ``min_area`` (px, by class),
        ``fractions`` (class fractions of each training image), ``temperature``, ``grey`` (whether images
        with three equal channels are averaged), ``vqvae_sha256``.
    """

    vqvae: VQVAE
    prior: Autoregressive
    card: dict[str, Any]

    def __post_init__(self) -> None:
        if self.prior.codes != self.vqvae.codes:
            raise WeightsError(
                f"the prior has {self.prior.codes} codes, the VQ-VAE {self.vqvae.codes}: not trained together"
            )

    @classmethod
    def from_weights(cls, name: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> PairModel:
        """Load both networks.

        Parameters
        ----------
        name : str or path
            Name of shipped weights without its ending (``uhcs`` for ``uhcs-vqvae`` and ``uhcs-prior``), or a
            folder that `train_pair_model` wrote, or FOLDER/NAME in it.

        Raises
        ------
        WeightsError
            If there are no such weights, they are damaged, or the two were not trained together.
        """
        vqvae_path, prior_path = _paths(name)
        vqvae, vqvae_card = weights.load(vqvae_path, VQVAE)
        architecture = weights.card(prior_path)["architecture"]
        networks = {network.__name__: network for network in NETWORKS.values()}
        if architecture not in networks:
            raise WeightsError(f"{prior_path}: holds a {architecture}, no PixelCNN; choose others")
        prior, card = weights.load(prior_path, networks[architecture])
        if card.get("vqvae_sha256") != vqvae_card["sha256"]:
            raise WeightsError(f"{name}: VQ-VAE and prior were not trained together; copy both again")
        needed = ("classes", "temperature", "grey", "min_area", "fractions")
        if lacking := [field for field in needed if field not in card]:
            raise WeightsError(f"{prior_path}: card lacks {', '.join(lacking)}; copy it again")
        return cls(vqvae, prior, card)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.card["classes"]

    @property
    def conditioned(self) -> bool:
        """Whether the prior takes class fractions."""
        return self.prior.condition > 0

    def sample(
        self,
        n: int,
        *,
        shape: tuple[int, int] = (256, 256),
        fractions: np.ndarray | Sequence[float] | None = None,
        temperature: float | None = None,
        batch: int = 16,
        seed: int | np.random.Generator = 0,
        device: str | None = None,
        progress: bool = False,
    ) -> list[Micrograph]:
        """New pairs of image and mask.

        Parameters
        ----------
        n : int >= 1
        shape : (int, int)
            Height and width in pixels, multiples of 4.
        fractions : (C,) or (n, C) float, optional
            Requested class fractions, for all or for each; they sum to one. By default those of training
            images drawn at random (`draw_fractions`).
        temperature : float > 0, optional
            Below 1 likely codes become likelier; by default that on the card.
        batch : int
            Pairs sampled at a time.
        seed : int or numpy.random.Generator
        device : str, optional
        progress : bool

        Returns
        -------
        list of Micrograph, named ``pair_0000`` and on
            image (H, W) or (H, W, 3) float32 in [0, 1], classes (H, W) uint8

        Raises
        ------
        InputError
            If a number is out of range, or fractions do not fit or were not learnt.
        """
        if n < 1:
            raise InputError(f"n must be at least 1, got {n}")
        if len(shape) != 2 or min(shape) < DOWNSAMPLING or any(side % DOWNSAMPLING for side in shape):
            raise InputError(f"shape must be two multiples of {DOWNSAMPLING}, got {tuple(shape)}")
        if fractions is None:
            fractions = self.draw_fractions(n, seed)
        place = pick_device(device)
        codes = sample(
            self.prior,
            n,
            (shape[0] // DOWNSAMPLING, shape[1] // DOWNSAMPLING),
            condition=None if fractions is None else self.checked_fractions(fractions, n),
            temperature=self.card["temperature"] if temperature is None else temperature,
            batch=batch,
            seed=seed,
            device=place,
            progress=progress,
        )
        vqvae = self.vqvae.to(place).eval()
        coding = {name: getattr(vqvae, name) for name in ("classes", "coding", "image_channels")}
        pairs = []
        for start in range(0, n, batch):
            with torch.inference_mode():
                part = torch.as_tensor(codes[start : start + batch], device=place)
                decoded = vqvae.decode(part).float().cpu().numpy()
            for channels in decoded:
                image, raw = unpack(channels, **coding)
                if self.card["grey"] and image.ndim == 3:
                    image = image.mean(2)
                classes = clean_mask(raw, vqvae.classes, min_area=self.card["min_area"])
                name = f"pair_{len(pairs):04d}"
                pairs.append(Micrograph(image, name=name, classes=classes, virtual=True))
        return pairs

    def draw_fractions(self, n: int, seed: int | np.random.Generator = 0) -> np.ndarray | None:
        """Class fractions (n, C) of training images drawn at random; None if the prior takes none."""
        if not self.conditioned:
            return None
        # An int seeds the codes too: their random numbers must not repeat those drawn here.
        rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng([seed, 1])
        rows = np.array(self.card["fractions"])
        return rows[rng.integers(len(rows), size=n)]

    def checked_fractions(self, fractions: np.ndarray | Sequence[float], n: int) -> np.ndarray:
        """`fractions` as (n, C) float summing to one, or an InputError."""
        if not self.conditioned:
            raise InputError("these models were trained without class fractions; leave the fractions out")
        count = len(self.class_names)
        rows = np.asarray(fractions, float)
        if rows.shape not in ((count,), (n, count)):
            raise InputError(
                f"fractions must be {count} numbers, of {', '.join(self.class_names)}, or {n} rows of them, "
                f"got shape {rows.shape}"
            )
        total = rows.sum(-1)
        if not ((rows >= 0).all() and (abs(total - 1) < 5e-3).all()):  # also false for NaN
            raise InputError(f"fractions must not be negative and must sum to 1, got {rows.tolist()}")
        return np.broadcast_to(rows / total[..., None], (n, count)).copy()


def _paths(name: str | os.PathLike[str]) -> tuple[str | Path, str | Path]:
    """Weights of a VQ-VAE and its prior: the shipped ones of that name, or a user's files."""
    shipped = [n.removesuffix("-prior") for n in weights.available() if n.endswith("-prior")]
    if name in shipped:
        return f"{name}-vqvae", f"{name}-prior"
    stem = Path(name)
    if stem.is_dir():
        priors = sorted(stem.glob("*-prior.safetensors"))
        if len(priors) != 1:
            raise WeightsError(
                f"{stem}: holds {len(priors)} trained priors; give a folder that train-pairs finished, or "
                "FOLDER/NAME for NAME-prior.safetensors"
            )
        stem = priors[0].with_name(priors[0].name.removesuffix("-prior.safetensors"))
    vqvae, prior = (stem.with_name(f"{stem.name}-{part}.safetensors") for part in ("vqvae", "prior"))
    if not prior.is_file():
        raise WeightsError(
            f"{name}: no such weights; give a folder that train-pairs wrote or one of the shipped: "
            f"{', '.join(shipped) or 'none'}"
        )
    return vqvae, prior
