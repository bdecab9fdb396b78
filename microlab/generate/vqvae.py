"""VQ-VAE: an image and its mask, stacked as channels, become a small map of codes.

    x -> encoder -> z,   k = argmin_j |z - e_j|,   decoder(e_k) -> x',   |x - x'|^2 + beta |z - sg(e_k)|^2

4 x 4 pixels share one of K codes (van den Oord, Vinyals and Kavukcuoglu, NeurIPS 2017, eqs. 1 to 3). Paper B
stacks a micrograph and its grey mask to 4 channels, so that one code describes both. In the implementation
that it adapts all channels count alike: with grey repeated three times the image counts three quarters of the
error and the mask one quarter, the default of `VQVAEConfig.image_weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.data.errors import InputError
from microlab.data.images import write_image
from microlab.generate.pairs import channel_count
from microlab.training.crops import orientations, random_crops
from microlab.training.fit import FitConfig, History, fit

DOWNSAMPLING = 4  # pixels along each side that share a code


class Quantised(NamedTuple):
    """Output of the quantiser."""

    vectors: Tensor  # (N, D, h, w), the nearest codebook vectors; gradients pass straight through
    codes: Tensor  # (N, h, w) int64
    loss: Tensor  # commitment loss, plus the codebook loss where gradients move the codebook


class VectorQuantizer(nn.Module):
    """Replace each vector by the nearest of K learnt ones.

    The step and its loss are eq. 1 of chapter 11 (dual-vqvae).

    The gradient of the step is zero almost everywhere, so the decoder's gradient is passed to the encoder
    unchanged (straight-through), and the commitment loss keeps the encoder near the codebook. The codebook
    follows the encoder either by an exponential moving average of the vectors that chose each code, or by
    gradients of its own loss.

    Parameters
    ----------
    codes : int >= 2
        K, size of the codebook. Paper B: 10.
    dim : int >= 1
        D, length of its vectors. Paper B: 64.
    beta : float > 0
        Weight of the commitment loss.
    decay : float in (0, 1) or None
        Memory of the moving average; None trains the codebook by gradients (eq. 3 of van den Oord et al.).
    revive : bool
        Move a code that is (almost) unused onto a random vector of the batch.
    """

    idle = 0.03  # a code chosen less often than this share of an even 1 / K is dead

    def __init__(
        self, codes: int, dim: int, beta: float = 0.25, decay: float | None = 0.99, revive: bool = True
    ) -> None:
        super().__init__()
        if codes < 2 or dim < 1:
            raise ValueError(f"codes must be at least 2 and dim at least 1, got {codes} and {dim}")
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1) or be None, got {decay}")
        self.beta, self.decay, self.revive = beta, decay, revive
        codebook = torch.randn(codes, dim)
        if decay is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("sums", codebook.clone())  # moving average of the summed vectors of a code
        self.register_buffer("counts", torch.ones(codes))  # moving average of how many vectors chose it
        self.register_buffer("started", torch.zeros(()))

    def nearest(self, z: Tensor) -> Tensor:
        """Codes (N, h, w) int64 of vectors (N, D, h, w)."""
        flat = z.float().permute(0, 2, 3, 1).flatten(0, 2)
        # |z - e|^2 without the term |z|^2, which is the same for every code
        distance = self.codebook.square().sum(1) - 2 * flat @ self.codebook.T
        return distance.argmin(1).view(z.shape[0], *z.shape[2:])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codebook vectors (N, D, h, w) of codes (N, h, w)."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Quantised:
        with torch.autocast(z.device.type, enabled=False):  # distances of near codes vanish in half precision
            return self._quantise(z.float())

    def _quantise(self, z: Tensor) -> Quantised:
        if self.training and not self.started:
            self._start(z.detach())
        codes = self.nearest(z)
        vectors = self.lookup(codes)
        loss = self.beta * F.mse_loss(z, vectors.detach())
        if self.decay is None:
            loss = loss + F.mse_loss(vectors, z.detach())
        if self.training:
            self._follow(z.detach(), codes)
        return Quantised(z + (vectors - z).detach(), codes, loss)

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        """Start the codebook at spread-out vectors of the first batch, as k-means++ does.

        A code that starts far from every vector would never be chosen and never move.
        """
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = flat[torch.randint(len(flat), (1,), device=flat.device)]
        while len(chosen) < len(self.codebook):
            far = torch.cdist(flat, chosen).amin(1).square() + 1e-12
            # torch.multinomial takes at most 2^24 weights
            chosen = torch.cat([chosen, flat[torch.multinomial(far[: 2**24], 1)]])
        self.codebook.data.copy_(chosen)
        if self.decay is not None:
            self.sums.copy_(chosen)
        self.counts.fill_(1)
        self.started.fill_(1)

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor) -> None:
        """Move the codebook towards the vectors that chose it, and revive dead codes."""
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = F.one_hot(codes.flatten(), len(self.codebook)).to(flat.dtype)
        counts, sums = chosen.sum(0), chosen.T @ flat
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        decay = 0.99 if self.decay is None else self.decay
        self.counts.lerp_(counts, 1 - decay)
        if self.decay is not None:
            self.sums.lerp_(sums, 1 - decay)
            self.codebook.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        if not self.revive:
            return
        dead = self.counts < self.idle * self.counts.mean()
        if dead.any():
            fresh = flat[torch.randint(len(flat), (int(dead.sum()),), device=flat.device)]
            self.codebook.data[dead] = fresh
            count = self.counts.mean()
            self.counts[dead] = count  # reset the usage, or the code would be dead again at once
            if self.decay is not None:
                self.sums[dead] = fresh * count


class VQVAE(nn.Module):
    """Encoder, vector quantiser and decoder for images stacked with their masks.

    The whole is eq. 1 of chapter 11 (dual-vqvae).

    The layers are those of the implementation that paper B adapts: two strided convolutions and two residual
    blocks, and their mirror image in the decoder.

    Parameters
    ----------
    classes : int >= 2
        Classes of the mask.
    image_channels : int
        3 for RGB, or grey repeated as in paper B; 1 for grey.
    coding : {'grey', 'one-hot'}
        The mask as one grey channel (paper B), or as one channel per class, which needs no k-means later.
    hidden, residual : int
        Channels of the layers, and inside the residual blocks.
    dim, codes, beta, decay, revive
        As in `VectorQuantizer`.
    seed : int
        Seed of the initial weights.

    Attributes
    ----------
    mean, scale : (C,) float buffers
        Mean and standard deviation of each channel over the training set; errors are in units of `scale`.
    """

    def __init__(
        self,
        *,
        classes: int = 4,
        image_channels: int = 3,
        coding: str = "grey",
        hidden: int = 128,
        residual: int = 32,
        dim: int = 64,
        codes: int = 10,
        beta: float = 0.25,
        decay: float | None = 0.99,
        revive: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"classes": classes, "image_channels": image_channels, "hidden": hidden, "residual": residual}
        for name, value in sizes.items():
            if value < (2 if name in ("classes", "hidden") else 1):
                raise ValueError(f"{name} is too small: {value}")
        self.architecture = {
            **sizes,
            "coding": coding,
            "dim": dim,
            "codes": codes,
            "beta": beta,
            "decay": decay,
            "revive": revive,
        }
        self.classes, self.image_channels, self.coding, self.codes = classes, image_channels, coding, codes
        self.channels = channel_count(classes, image_channels, coding)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Conv2d(self.channels, hidden // 2, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden // 2, hidden, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                Residual(hidden, residual),
                Residual(hidden, residual),
                nn.ReLU(),
                nn.Conv2d(hidden, dim, 1),
            )
            self.quantizer = VectorQuantizer(codes, dim, beta, decay, revive)
            self.decoder = nn.Sequential(
                nn.Conv2d(dim, hidden, 3, padding=1),
                Residual(hidden, residual),
                Residual(hidden, residual),
                nn.ReLU(),
                nn.ConvTranspose2d(hidden, hidden // 2, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(hidden // 2, self.channels, 4, stride=2, padding=1),
            )
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("scale", torch.ones(self.channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Quantised]:
        """Reconstruct a batch.

        Parameters
        ----------
        x : (N, C, H, W) float
            Images in [0, 1] stacked with their masks (`microlab.generate.pairs.pack`); H, W multiples of 4.

        Returns
        -------
        reconstruction : (N, C, H, W) float
        quantised : Quantised
        """
        quantised = self.quantizer(self.encoder(self._standardised(x)))
        return self._restored(self.decoder(quantised.vectors)), quantised

    def encode(self, x: Tensor) -> Tensor:
        """Codes (N, H/4, W/4) int64 of images stacked with their masks (N, C, H, W)."""
        return self.quantizer.nearest(self.encoder(self._standardised(x)))

    def decode(self, codes: Tensor) -> Tensor:
        """Images stacked with their masks (N, C, H, W) of codes (N, H/4, W/4) int64 in 0..K-1."""
        if codes.ndim != 3 or codes.min() < 0 or codes.max() >= self.codes:
            raise ValueError(
                f"codes must be (N, h, w) with values in 0..{self.codes - 1}, got shape {tuple(codes.shape)} "
                f"with values {int(codes.min())} to {int(codes.max())}"
            )
        return self._restored(self.decoder(self.quantizer.lookup(codes)))

    def channel_errors(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean squared error of each channel (C,), in units of its variance over the training set."""
        error = (x.float() - reconstruction.float()).square().mean((0, 2, 3))
        return error / self.scale.square()

    def _standardised(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"expected (N, {self.channels}, H, W) with H and W multiples of 4, got {tuple(x.shape)}"
            )
        return (x - self.mean[:, None, None]) / self.scale[:, None, None]

    def _restored(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.mean[:, None, None]


class Residual(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x))))."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


@dataclass(frozen=True)
class VQVAEConfig(FitConfig):
    """Everything that determines a trained VQ-VAE. The defaults take minutes on two CPU cores."""

    coding: str = "grey"  # of the mask: 'grey' or 'one-hot'
    image_channels: int = 3
    hidden: int = 64
    residual: int = 32
    dim: int = 64  # D
    codes: int = 10  # K
    beta: float = 0.25
    decay: float | None = 0.99  # of the codebook's moving average; None: gradients
    revive: bool = True
    image_weight: float = 0.75  # share of the image in the loss; the mask has the rest
    crop: int = 128  # pixels
    batch: int = 8
    symmetries: bool = True  # turn and flip the crops
    steps: int = 1700
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.image_weight < 1:
            raise ValueError(f"image_weight must lie in (0, 1), got {self.image_weight}")
        if self.crop < 16 or self.crop % DOWNSAMPLING:
            raise ValueError(f"crop must be a multiple of {DOWNSAMPLING}, at least 16, got {self.crop}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


# Table 4 of paper B; learning rate, decay and layers are those of the implementation that it adapts.
PAPER = VQVAEConfig(hidden=128, crop=256, batch=8, steps=50_000, lr=3e-4, revive=False, symmetries=False)


def train_vqvae(
    channels: Sequence[np.ndarray],
    config: VQVAEConfig | None = None,
    *,
    classes: int,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    resume: bool = True,
    on_sample: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    sample_every: int = 500,
) -> tuple[VQVAE, History]:
    """Train a VQ-VAE on images stacked with their masks.

    Parameters
    ----------
    channels : sequence of (C, H, W) float32
        From `microlab.generate.pairs.pack`; sides may differ, none smaller than a crop.
    config : VQVAEConfig, optional
    classes : int
        Classes of the masks.
    folder : path, optional
        Receives the checkpoint, ``history.csv`` and ``samples/step_000500.png``: the first image and its
        mask, and below them their reconstruction, as in paper B's figure 7.
    device, progress, resume
        As in `microlab.training.fit.fit`.
    on_sample : callable, optional
        ``on_sample(step, original, reconstruction)`` with arrays (C, H, W), every `sample_every` steps.
    sample_every : int

    Returns
    -------
    model : VQVAE
    history : History
        Among its columns: image, mask (errors in units of the variance), perplexity.

    Raises
    ------
    ValueError
        If there is no image, or one is smaller than a crop, has other channels or is not finite.
    """
    config = config or VQVAEConfig()
    model = VQVAE(
        classes=classes,
        image_channels=config.image_channels,
        coding=config.coding,
        hidden=config.hidden,
        residual=config.residual,
        dim=config.dim,
        codes=config.codes,
        beta=config.beta,
        decay=config.decay,
        revive=config.revive,
        seed=config.seed,
    )
    images = _checked(channels, model.channels, config.crop)
    means = np.array([image.mean((1, 2), dtype=np.float64) for image in images])
    variances = np.array([image.var((1, 2), dtype=np.float64) for image in images])
    model.mean.copy_(torch.from_numpy(means.mean(0)))
    variance = variances.mean(0) + means.var(0)
    # A class that never occurs has no variance; one pixel in ten thousand keeps its scale finite.
    model.scale.copy_(torch.from_numpy(np.sqrt(np.maximum(variance, 1e-4))))
    original = _whole_codes(images[0])

    def sample(network: nn.Module, step: int) -> None:
        if step % sample_every and step != config.steps:
            return
        reconstruction = reconstruct(network, original)
        if folder is not None:
            above, below = (_image_beside_mask(model, one) for one in (original, reconstruction))
            picture = np.concatenate([above, below]).clip(0, 1)
            write_image(Path(folder) / "samples" / f"step_{step:06d}.png", picture)
        if on_sample is not None:
            on_sample(step, original, reconstruction)

    history = fit(
        model,
        _crops(images, config),
        lambda network, batch: vqvae_loss(network, batch, config.image_weight),
        config,
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
        callback=sample if folder is not None or on_sample is not None else None,
    )
    return model, history


def vqvae_loss(network: nn.Module, x: Tensor, image_weight: float) -> dict[str, Tensor]:
    """Reconstruction error plus commitment loss of a batch (N, C, H, W), with the parts to log."""
    reconstruction, quantised = network(x)
    model = network.module if hasattr(network, "module") else network  # DistributedDataParallel wraps it
    errors = model.channel_errors(x, reconstruction)
    image, mask = errors[: model.image_channels].mean(), errors[model.image_channels :].mean()
    share = torch.bincount(quantised.codes.flatten(), minlength=model.codes) / quantised.codes.numel()
    return {
        "loss": image_weight * image + (1 - image_weight) * mask + quantised.loss,
        "image": image,
        "mask": mask,
        "commitment": quantised.loss,
        "perplexity": torch.exp(-torch.special.xlogy(share, share).sum()),
    }


@torch.inference_mode()
def reconstruct(model: VQVAE, channels: np.ndarray) -> np.ndarray:
    """An image stacked with its mask (C, H, W) float32 after encoding and decoding; H, W multiples of 4."""
    x = torch.as_tensor(channels, device=model.scale.device)[None]
    return model.eval()(x)[0][0].float().cpu().numpy()


@torch.inference_mode()
def encode_all(model: VQVAE, channels: Sequence[np.ndarray], *, symmetries: bool = False) -> list[np.ndarray]:
    """Code maps of images stacked with their masks.

    Parameters
    ----------
    model : VQVAE
    channels : sequence of (C, H, W) float32
        Sides are cut to a multiple of 4.
    symmetries : bool
        Encode each image in its eight orientations. Turning its code map is not the same: the encoder is not
        equivariant.

    Returns
    -------
    list of (H/4, W/4) int64
    """
    place = next(model.parameters()).device
    model.eval()
    maps = []
    for image in channels:
        image = _whole_codes(image)
        for turned in orientations(image) if symmetries else [image]:
            x = torch.as_tensor(np.ascontiguousarray(turned), device=place)
            maps.append(model.encode(x[None])[0].cpu().numpy())
    return maps


def reconstruction_report(model: VQVAE, channels: Sequence[np.ndarray]) -> dict[str, object]:
    """What is lost, channel by channel, and how the codebook is used.

    Returns
    -------
    dict
        ``error``: (C,) float, mean squared error in units of the training variance of each channel (0 is
        perfect, 1 is no better than the mean grey); ``use``: CodeUse.
    """
    errors = []
    for image in map(_whole_codes, channels):
        x, reconstruction = (
            torch.as_tensor(array, device=model.scale.device)[None]
            for array in (image, reconstruct(model, image))
        )
        errors.append(model.channel_errors(x, reconstruction).cpu().numpy())
    codes = np.concatenate([codes.ravel() for codes in encode_all(model, channels)])
    return {"error": np.mean(errors, axis=0), "use": code_use(codes, model.codes)}


@dataclass(frozen=True)
class CodeUse:
    """How a codebook is used over some images."""

    share: np.ndarray  # (K,) float, share of positions that chose each code
    perplexity: float  # exp of the entropy: K if all are used alike, 1 if only one is used

    @property
    def dead(self) -> int:
        """Codes that nothing chose."""
        return int((self.share == 0).sum())


def code_use(codes: np.ndarray, k: int) -> CodeUse:
    """Use of a codebook of `k` codes in code maps of any shape, values 0..k-1."""
    codes = np.asarray(codes)
    if codes.size == 0 or codes.min() < 0 or codes.max() >= k:
        raise ValueError(f"codes must be values in 0..{k - 1} and not empty")
    share = np.bincount(codes.ravel(), minlength=k) / codes.size
    used = share[share > 0]
    return CodeUse(share, float(np.exp(-(used * np.log(used)).sum())))


def _crops(images: list[np.ndarray], config: VQVAEConfig) -> Callable[[int], np.ndarray]:
    def batch(step: int) -> np.ndarray:
        seed = [config.seed, step]
        crops = random_crops(images, config.crop, config.batch, seed, orient=config.symmetries)
        return np.stack([crop(images[index]) for index, crop in crops])

    return batch


def _checked(channels: Sequence[np.ndarray], count: int, crop: int) -> list[np.ndarray]:
    if len(channels) == 0:
        raise InputError("there is no image to train on")
    images = [np.asarray(image, np.float32) for image in channels]
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != count or min(image.shape[1:]) < crop:
            raise InputError(
                f"image {index}: expected ({count}, H, W) with sides of at least {crop} px, got {image.shape}"
            )
        if not np.isfinite(image).all():
            raise InputError(f"image {index} holds values that are not finite")
    return images


def _whole_codes(image: np.ndarray) -> np.ndarray:
    """An image (..., H, W) with its sides cut to multiples of 4."""
    height, width = (side // DOWNSAMPLING * DOWNSAMPLING for side in image.shape[-2:])
    return image[..., :height, :width]


def _image_beside_mask(model: VQVAE, channels: np.ndarray) -> np.ndarray:
    image, mask = channels[: model.image_channels].mean(0), channels[model.image_channels :]
    grey = mask[0] if len(mask) == 1 else mask.argmax(0) / (model.classes - 1)
    return np.concatenate([image, grey], axis=1)
