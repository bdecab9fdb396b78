"""Feature spaces in which patches of micrographs are compared.

    features: (n, side, side) grey patches -> (n, d) numbers

Three spaces, by name: ``texture`` (descriptors from scikit-image), ``encoder`` (the contracting path of a
trained U-Net) and ``vgg16`` (the network of the paper, trained on photographs). A distance is meaningful only
with the name of its space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from torch import Tensor, nn

GREY_BINS = 16  # of the histogram
CO_LEVELS = 32  # grey levels of the co-occurrence matrix
CO_DISTANCES = (1, 3, 6)  # pixels
CO_PROPERTIES = ("contrast", "homogeneity", "energy", "correlation")
LBP_RADII = (1, 3)  # pixels
SPECTRUM_BINS = 10
TEXTURE_NAMES = (
    *(f"grey {k}" for k in range(GREY_BINS)),
    *(f"LBP radius {radius} pattern {k}" for radius in LBP_RADII for k in range(10)),
    *(f"{name} at {distance} px" for name in CO_PROPERTIES for distance in CO_DISTANCES),
    *(f"power {k}" for k in range(SPECTRUM_BINS)),
)


def texture(patches: ArrayLike) -> NDArray[np.float64]:
    """Texture descriptors: grey levels, local binary patterns, co-occurrence and power spectrum.

    Shares (of grey levels and of patterns) enter as their square roots, in which the sampling noise of a
    share is the same whether it is large or small. Co-occurrence properties are means over four directions.
    The spectrum is the logarithm of the share of the power in rings of equal width, up to the Nyquist
    frequency; a constant patch has the least power in all of them.

    Parameters
    ----------
    patches : (n, side, side) float in [0, 1], side >= 16

    Returns
    -------
    (n, 58) float64, named by `TEXTURE_NAMES`

    References
    ----------
    Haralick, Shanmugam and Dinstein, IEEE Trans. Syst. Man Cybern. 3, 610 (1973): co-occurrence.
    Ojala, Pietikainen and Maenpaa, IEEE Trans. Pattern Anal. 24, 971 (2002): local binary patterns.
    """
    patches = _checked(patches)
    levels = np.rint(patches * 255).astype(np.uint8)
    angles = np.arange(4) * np.pi / 4
    rows = []
    for patch in levels:
        shares = [np.bincount((patch // (256 // GREY_BINS)).ravel(), minlength=GREY_BINS)]
        for radius in LBP_RADII:
            patterns = local_binary_pattern(patch, 8, radius, method="uniform").astype(int)
            shares.append(np.bincount(patterns.ravel(), minlength=10))
        matrix = graycomatrix(
            patch // (256 // CO_LEVELS), CO_DISTANCES, angles, CO_LEVELS, symmetric=True, normed=True
        )
        pairs = [graycoprops(matrix, name).mean(axis=1) for name in CO_PROPERTIES]
        rows.append(np.concatenate([*(np.sqrt(share / patch.size) for share in shares), *pairs]))
    return np.hstack([rows, _spectrum(patches)])


def _spectrum(patches: NDArray) -> NDArray[np.float64]:
    side = patches.shape[-1]
    deviations = patches.astype(np.float64) - patches.mean((1, 2), keepdims=True)
    # Without the window the discontinuity between opposite edges would leak into all frequencies.
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2(deviations * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    ring = np.minimum((frequency * 2 * SPECTRUM_BINS).astype(int), SPECTRUM_BINS)  # the last: corners
    rings = np.stack([power[:, ring == k].sum(1) for k in range(SPECTRUM_BINS)], axis=1)
    return np.log10(rings / np.maximum(power.sum((1, 2)), 1e-12)[:, None] + 1e-6)


def encoder(
    model: nn.Module, *, levels: Sequence[int] | None = None, batch: int = 64
) -> Callable[[ArrayLike], NDArray[np.float32]]:
    """Features of a trained U-Net: the mean of every channel of its contracting path.

    Patches are standardised individually, as in training, so the features ignore brightness and contrast.

    Parameters
    ----------
    model : Module
        Has ``down``, a list of blocks with a 2 x 2 maximum pooling between them
        (:class:`microlab.segment.unet.UNet`). It runs on the device of its weights.
    levels : sequence of int, optional
        Which levels, from 0, the full resolution; by default all.
    batch : int
        Patches per forward pass.

    Returns
    -------
    callable
        (n, side, side) in [0, 1] to (n, d) float32; d is the number of channels of the chosen levels.
    """
    levels = range(len(model.down)) if levels is None else levels

    def block_means(x: Tensor) -> Tensor:
        means = []
        for level, block in enumerate(model.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            means.append(x.mean((2, 3)))
        return torch.cat([means[level] for level in levels], dim=1)

    def features(patches: ArrayLike) -> NDArray[np.float32]:
        patches = _checked(patches)
        mean = patches.mean((1, 2), keepdims=True)
        deviation = patches.std((1, 2), keepdims=True)
        flat = np.where(deviation > 1e-6, deviation, 1.0)  # a constant patch becomes zero
        return _run(model, block_means, ((patches - mean) / flat)[:, None], batch)

    return features


class VGG16(nn.Module):
    """The convolutional part of VGG16 and the mean of its 512 last channels.

    Implemented here because the packages that publish it need torchvision, which must match torch's build.
    The names of the weights are those of timm and torchvision (``features.0.weight``, ...).

    References
    ----------
    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
    """

    # Channels of the 3 x 3 convolutions; 0 halves the image.
    LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for width in self.LAYERS:
                if width:
                    layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                    channels = width
                else:
                    layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised as for ImageNet, sides of at least 32, to (N, 512)."""
        return self.features(image).mean((2, 3))


def pretrained_vgg16(path: str | PathLike[str] | None = None) -> VGG16:
    """VGG16 with trained weights, from a file or through timm.

    Parameters
    ----------
    path : path, optional
        A safetensors file of timm's or torchvision's ``vgg16``. By default timm (``pip install
        'microlab[vgg]'``) finds it in its cache or downloads it from the Hugging Face hub (about 500 MB).

    Raises
    ------
    ValueError
        If timm cannot be used or cannot get the weights, or the file is not that of a VGG16.
    """
    if path is None:
        try:
            import timm

            state = timm.create_model("vgg16", pretrained=True).state_dict()
        # Not installed, an incompatible torchvision, no network connection.
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"VGG16 weights are not available through timm ({reason}): install 'microlab[vgg]' with a "
                "torchvision of torch's own build, or give path, a safetensors file of vgg16"
            ) from error
    else:
        try:
            state = load_file(Path(path))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"path {path}: is no readable safetensors file ({error})") from None
    model = VGG16()
    # The classifier head is not used.
    state = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"path {path or 'timm'}: holds no VGG16 without batch norm ({reason})") from None
    return model


def vgg16(model: VGG16, *, batch: int = 16) -> Callable[[ArrayLike], NDArray[np.float32]]:
    """Features of VGG16, the space of the paper: means of the 512 channels of the last block.

    The paper does not state its layer. Grey is repeated in all three channels and normalised with the
    statistics of ImageNet; patches are not resized.

    Parameters
    ----------
    model : VGG16
        From `pretrained_vgg16`.
    batch : int

    Returns
    -------
    callable
        (n, side, side) in [0, 1], side >= 32, to (n, 512) float32.
    """
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    deviation = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]

    def features(patches: ArrayLike) -> NDArray[np.float32]:
        patches = _checked(patches, least=32)
        return _run(model, model, (patches[:, None] - mean) / deviation, batch)

    return features


def _run(
    model: nn.Module, function: Callable[[Tensor], Tensor], images: NDArray, batch: int
) -> NDArray[np.float32]:
    """`function` on (N, C, H, W) in batches, on the model's device and in evaluation mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = [function(part.to(device)) for part in torch.from_numpy(images).float().split(batch)]
            return torch.cat(parts).float().cpu().numpy()
    finally:
        model.train(training)


def _checked(patches: ArrayLike, least: int = 16) -> NDArray[np.float32]:
    patches = np.asarray(patches, dtype=np.float32)
    if patches.ndim != 3 or len(patches) == 0 or min(patches.shape[1:]) < least:
        raise ValueError(
            f"patches must be (n, side, side) with n >= 1 and side >= {least}, got shape {patches.shape}"
        )
    if patches.shape[1] != patches.shape[2]:
        raise ValueError(f"patches must be square, got shape {patches.shape}")
    if not (patches.min() >= 0 and patches.max() <= 1):  # NaN fails both
        raise ValueError(f"patches must be finite and lie in [0, 1], got {patches.min()} to {patches.max()}")
    return patches
