"""A VQ-VAE and a prior that were trained together: load and dream.

class fractions -> PixelCNN -> codes -> VQ-VAE's decoder -> image and mask -> cleaned mask
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microlab.data import weights
from microlab.data.pairs import Pair
from microlab.generate.pairs import dream
from microlab.generate.pixelcnn import NETWORKS, Autoregressive
from microlab.generate.vqvae import VQVAE

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
        ``fractions`` (class fractions of each training image), ``temperature``, ``grey``, ``vqvae_sha256``.
    """

    vqvae: VQVAE
    prior: Autoregressive
    card: dict[str, Any]

    @classmethod
    def from_weights(cls, name: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> PairModel:
        """Load both models.

        Parameters
        ----------
        name : str or path
            Name of shipped weights without its ending (``uhcs`` for ``uhcs-vqvae`` and ``uhcs-prior``), or a
            folder that `train_pairs` wrote, or FOLDER/NAME in it.

        Raises
        ------
        WeightsError
            If there are no such weights, they are damaged, or the two were not trained together.
        """
        vqvae_path, prior_path = _find(name)
        vqvae, vqvae_card = weights.load(vqvae_path, VQVAE)
        architecture = weights.card(prior_path)["architecture"]
        networks = {network.__name__: network for network in NETWORKS.values()}
        if architecture not in networks:
            raise weights.WeightsError(f"{prior_path}: holds a {architecture}, no PixelCNN; choose others")
        prior, card = weights.load(prior_path, networks[architecture])
        if card.get("vqvae_sha256") != vqvae_card["sha256"]:
            raise weights.WeightsError(f"{name}: VQ-VAE and prior were not trained together; copy both again")
        return cls(vqvae, prior, card)

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.card["classes"]

    @property
    def conditioned(self) -> bool:
        """Whether class fractions can be asked for."""
        return self.prior.condition > 0

    def dream(
        self,
        n: int,
        *,
        shape: tuple[int, int] = (256, 256),
        fractions: np.ndarray | Sequence[float] | None = None,
        temperature: float | None = None,
        seed: int | np.random.Generator = 0,
        device: str | None = None,
        progress: bool = False,
    ) -> list[Pair]:
        """New pairs of image and mask.

        Parameters
        ----------
        n : int >= 1
        shape : (int, int)
            Height and width in pixels, multiples of 4.
        fractions : (C,) or (n, C) float, optional
            Class fractions asked for, for all or for each; they sum to one. By default those of training
            images drawn at random (`draw_fractions`).
        temperature : float > 0, optional
            By default that of the training's settings.
        seed : int or numpy.random.Generator
        device : str, optional
        progress : bool

        Returns
        -------
        list of Pair
            image (H, W) or (H, W, 3) float32 in [0, 1], mask (H, W) uint8

        Raises
        ------
        ValueError
            If a number is out of range, or fractions do not fit or were not learnt.
        """
        if fractions is None:
            fractions = self.draw_fractions(n, seed)
        return dream(
            self.vqvae,
            self.prior,
            n,
            shape=shape,
            condition=None if fractions is None else self.checked_fractions(fractions, n),
            temperature=self.card["temperature"] if temperature is None else temperature,
            min_area=self.card["min_area"],
            grey=self.card["grey"],
            seed=seed,
            device=device,
            progress=progress,
        )

    def draw_fractions(self, n: int, seed: int | np.random.Generator = 0) -> np.ndarray | None:
        """Class fractions (n, C) of training images drawn at random; None if the prior takes none."""
        if not self.conditioned:
            return None
        # An int seeds the codes too: they must not begin with the numbers that were drawn here.
        rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng([seed, 1])
        rows = np.array(self.card["fractions"])
        return rows[rng.integers(len(rows), size=n)]

    def checked_fractions(self, fractions: np.ndarray | Sequence[float], n: int) -> np.ndarray:
        """`fractions` as (n, C) float summing to one, or a ValueError."""
        if not self.conditioned:
            raise ValueError("these models were trained without class fractions: none can be asked for")
        count = len(self.classes)
        found = np.asarray(fractions, float)
        if found.shape not in ((count,), (n, count)):
            raise ValueError(
                f"fractions must be {count} numbers, of {', '.join(self.classes)}, or {n} rows of them, got "
                f"shape {found.shape}"
            )
        total = found.sum(-1)
        if not ((found >= 0).all() and (abs(total - 1) < 5e-3).all()):  # also false for NaN
            raise ValueError(f"fractions must not be negative and must sum to 1, got {found.tolist()}")
        return np.broadcast_to(found / total[..., None], (n, count)).copy()


def _find(name: str | os.PathLike[str]) -> tuple[str | Path, str | Path]:
    """Weights of a VQ-VAE and its prior: the shipped ones of that name, or a user's files."""
    shipped = [n.removesuffix("-prior") for n in weights.available() if n.endswith("-prior")]
    if name in shipped:
        return f"{name}-vqvae", f"{name}-prior"
    stem = Path(name)
    if stem.is_dir():
        found = sorted(stem.glob("*-prior.safetensors"))
        if len(found) != 1:
            raise weights.WeightsError(
                f"{stem}: holds {len(found)} trained priors; give a folder that train-pairs finished, or "
                "FOLDER/NAME for NAME-prior.safetensors"
            )
        stem = found[0].with_name(found[0].name.removesuffix("-prior.safetensors"))
    vqvae, prior = (stem.with_name(f"{stem.name}-{part}.safetensors") for part in ("vqvae", "prior"))
    if not prior.is_file():
        raise weights.WeightsError(
            f"{name}: no such weights; give a folder that train-pairs wrote or one of the shipped: "
            f"{', '.join(shipped) or 'none'}"
        )
    return vqvae, prior
