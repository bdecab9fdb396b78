"""The U-Net of paper A, prediction over images of any size, and the segmenter made of both.

    probability = sigmoid(UNet(image)),     loss = BCE + 1 - Dice

A contracting path of `depth` levels doubles the channels while it halves the image; an expanding path goes
back up and joins, at each level, what the contracting path saw there (Ronneberger, Fischer and Brox,
MICCAI 2015, doi:10.1007/978-3-319-24574-4_28).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage import morphology
from torch import Tensor, nn
from tqdm.auto import tqdm

from microlab.data import weights
from microlab.data.errors import ImageError, InputError
from microlab.data.mapped import bands, mapped_array, reduced, reduction, release
from microlab.data.micrograph import Micrograph
from microlab.data.transforms import (
    blended_tiles,
    mean_and_deviation,
    resize_by,
    resize_into,
    resize_to,
    resized_shape,
    standardise,
    tile_slices,
)
from microlab.segment.instances import watershed_grains
from microlab.segment.segmenter import Segmenter
from microlab.segment.zoom import most_confident, zoom_trials
from microlab.training.devices import autocast, pick_device, resolve_precision

LEAST_HALVED = 64  # px, shorter side of an image at half of the zoom
FIELD_SIDE = 1024  # px, of the reduced image on which the field of view is cleaned
COVERED = 0.5  # probability from which a pixel does not show the specimen
COVER_REACH = 2  # px of the network's image; narrower specks are not believed
LEAST_COVER, LARGEST_COVER = 0.005, 0.7  # share of the image; less is no legend, mount or corner
MOST_COVERS = 6  # pieces: four corners, a legend and a mount
OUTPUTS = ("boundary", "twin boundary", "outside")  # of a network that knows more than boundaries
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
    "none": lambda channels: nn.Identity(),
}


class UNet(nn.Module):
    """U-Net: contracting path, expanding path, a skip connection at every level.

    Parameters
    ----------
    in_channels, out_channels : int >= 1
        Channels of the image and of the logits. One output channel is the boundary against the grain
        interior; more are classes.
    width : int >= 1
        Channels of the first level; level k has ``width * 2**k``. Paper A's U-Net is the original one, of
        width 64; 16 trains in minutes on two CPU cores.
    depth : int >= 1
        Levels, counted with the bottom one. Images are padded to a multiple of ``2**(depth - 1)``.
    norm : {'batch', 'instance', 'group', 'none'}
        Normalisation after each 3 x 3 convolution.
    dropout : float in [0, 1)
        Share of channels dropped at the bottom level while training.
    seed : int
        Seed of the initial weights; the global generator of torch is left as it was.

    Raises
    ------
    ValueError
        If a size is below 1 or `norm` is not known.
    """

    # Convolutions with many channels run faster on pixels whose channels lie side by side (measured in
    # benchmarks/unet.py); `fit.fit` and `predict` lay the weights out like this.
    memory_format = torch.channels_last

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 16,
        depth: int = 5,
        norm: str = "batch",
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "depth": depth}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        # What a card needs to build the same network again (microlab.data.weights).
        self.architecture = {**sizes, "norm": norm, "dropout": dropout}
        widths = [width * 2**level for level in range(depth)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.ModuleList(
                _two_convolutions(before, after, norm)
                for before, after in zip([in_channels, *widths], widths, strict=False)
            )
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
            self.merge = nn.ModuleList(_two_convolutions(2 * w, w, norm) for w in reversed(widths[:-1]))
            self.dropout = nn.Dropout2d(dropout)
            self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Parameters
        ----------
        image : (N, in_channels, H, W) float
            Any H, W >= 1.

        Returns
        -------
        (N, out_channels, H, W) float logits.
        """
        height, width = image.shape[-2:]
        cell = 2 ** (len(self.down) - 1)  # pixels that become one at the bottom
        x = pad_reflect(image, cell, least=2 * cell)  # one pixel alone cannot be normalised
        return self.unpadded(x)[..., :height, :width]

    def unpadded(self, x: Tensor) -> Tensor:
        """Logits of an image whose sides are multiples of ``2**(depth - 1)``, the smallest excluded."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # (N, width 2^level, H / 2^level, W / 2^level)
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)

    @classmethod
    def from_weights(cls, name_or_path: str | PathLike[str]) -> UNet:
        """A trained network, ready to predict, by the name of shipped weights or the path of a file."""
        return weights.load(name_or_path, cls)[0]


@dataclass(frozen=True, eq=False)
class UNetSegmenter(Segmenter):
    """A U-Net as a segmenter: its probability of a boundary, and grains by the watershed.

    Attributes
    ----------
    model : Module
        Maps (N, 1, H, W) standardised images to (N, K, H, W) logits: of the boundary, or of `OUTPUTS`.
    card : dict
        As `Segmenter`; an empty one takes images as they are. Networks of several outputs name them in
        ``outputs``.
    device : str, optional
        Where it computes; the fastest there is by default.
    twins : bool
        Whether the sides of twins count as boundaries, for networks that tell them apart.
    """

    model: nn.Module
    card: dict = field(default_factory=dict)
    device: str | None = None
    twins: bool = False

    by_blocks: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Of a network that knows more than boundaries, "appearances"."""
        return "appearances" if "outputs" in self.card else "label-free"

    @classmethod
    def load(
        cls,
        weights_name: str | PathLike[str] = "labour-free",
        device: str | None = None,
        twins: bool = False,
    ) -> UNetSegmenter:
        """By the name of shipped weights or the path of a file.

        Raises
        ------
        WeightsError
            If there are no such weights or they do not fit their card.
        InputError
            If `twins` are asked for and the network does not know them.
        """
        pick_device(device)  # a wrong one fails here, not with the first image
        model, card = weights.load(weights_name, UNet)
        try:
            watershed_grains(np.eye(3, dtype=np.float32), **card.get("watershed", {}))
        except (TypeError, ValueError) as error:
            raise weights.WeightsError(
                f"{weights_name}: watershed on its card: {error}; copy it again"
            ) from None
        if twins and "outputs" not in card:
            raise InputError(f"weights {os.fspath(weights_name)} do not tell twins apart; leave twins out")
        return cls(model, {"name": os.fspath(weights_name), **card}, device, twins)

    def probability(self, image: np.ndarray, zoom: float = 1.0, *, progress: bool = False) -> np.ndarray:
        return self.maps(image, zoom, progress=progress)[0]

    def maps(
        self,
        image: np.ndarray,
        zoom: float = 1.0,
        *,
        progress: bool = False,
        folder: str | PathLike[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Segmenter.maps`; a network of several outputs sees the image at the zoom and at half of it.

        The mean of both is sharp where a boundary is clear and closed where it is faint: on 13 virtual fields
        (one of each kind in `studies/appearances`) and with weights of an earlier step of the training it
        lowered the mean error of the grain count from 13 to 9 %.
        """
        if "outputs" not in self.card:
            how = {"device": self.device, "progress": progress, "folder": folder}
            return boundary_probability(image, self.model, zoom, **how), None
        maps = self._outputs_at(image, zoom, progress, folder)
        if min(image.shape) * zoom / 2 >= LEAST_HALVED:
            half = self._outputs_at(image, zoom / 2, progress, folder)
            for one, other in zip(maps, half):
                for rows in bands(image.shape):
                    one[rows] = (one[rows] + other[rows]) / 2
                    release(one, other)
        return maps[0], field_of_view(maps[1], zoom, folder)

    def _outputs_at(
        self,
        image: np.ndarray,
        zoom: float,
        progress: bool = False,
        folder: str | PathLike[str] | None = None,
    ) -> np.ndarray:
        """Probability of a boundary and of what is not the specimen, (2, H, W), at one zoom."""
        how = {"device": self.device, "progress": progress, "folder": folder}
        return boundary_probability(image, self.model, zoom, activation=self._activation, **how)

    def estimate_zoom(self, image: Micrograph | np.ndarray) -> float:
        """As `Segmenter.estimate_zoom`; the most confident zoom of a network that knows grains of many sizes.

        A network that was made for images of one magnification has it as ``zoom`` on its card.
        """
        if "zoom" in self.card:
            return float(self.card["zoom"])
        if "outputs" not in self.card:
            return super().estimate_zoom(image)

        def grains(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
            probability, outside = self._outputs_at(part, 1.0)
            valid = field_of_view(outside)
            return probability, self.grains(probability, valid=valid)[1], valid

        return most_confident(zoom_trials(self.check(image), grains)).zoom

    def _activation(self, logits: Tensor) -> Tensor:
        """Probability of what counts as a boundary, and of what is not the specimen, (N, 2, H, W)."""
        grains, twins, outside = torch.sigmoid(logits).unbind(1)
        return torch.stack([torch.maximum(grains, twins) if self.twins else grains, outside], 1)


def boundary_probability(
    image: np.ndarray,
    model: nn.Module,
    zoom: float = 1.0,
    *,
    activation: Callable[[Tensor], Tensor] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    folder: str | PathLike[str] | None = None,
) -> np.ndarray:
    """Boundary probability of an image by a network that sees it at magnification `zoom`.

    Training images are standardised too, so brightness and contrast do not matter.

    Parameters
    ----------
    image : (H, W) float32
    model, activation, device, progress
        As `predict`.
    zoom : float > 0
    folder : path, optional
        For large images: what is computed lies in unnamed files there, the result too, and only tiles and
        bands are held in memory. By default everything is.

    Returns
    -------
    (H, W) float32 in [0, 1], of the image's own size, or (K, H, W) as `activation` gives them.
    """
    how = {"activation": activation, "device": device, "progress": progress}
    if folder is None:
        probability = predict(model, standardise(resize_by(image, zoom)), **how)
        if probability.ndim == 3:
            return np.stack([resize_to(one, image.shape) for one in probability])
        return resize_to(probability, image.shape)
    zoomed = image
    if zoom != 1:
        zoomed = mapped_array(resized_shape(image.shape, zoom), np.float32, folder)
        resize_into(image, zoomed)
    statistics = mean_and_deviation(zoomed)
    shape = zoomed.shape if activation is None else (2, *zoomed.shape)
    out = mapped_array(shape, np.float32, folder)
    predict(model, zoomed, prepare=lambda pixels: standardise(pixels, statistics), out=out, **how)
    if zoom == 1:
        return out
    del zoomed
    probability = mapped_array((*out.shape[:-2], *image.shape), np.float32, folder)
    for small, large in zip(out.reshape(-1, *out.shape[-2:]), probability.reshape(-1, *image.shape)):
        resize_into(small, large)
        for rows in bands(image.shape):
            np.clip(large[rows], 0, 1, out=large[rows])
        release(probability)
    return probability


def field_of_view(
    outside: np.ndarray, zoom: float = 1.0, folder: str | PathLike[str] | None = None
) -> np.ndarray | None:
    """The field of view of an image of which a network says what is not the specimen.

    Specks are not believed, nor are many pieces, which are grains; holes in a legend are its letters. It is
    computed on at most `FIELD_SIDE` pixels a side.

    Parameters
    ----------
    outside : (H, W) float32 in [0, 1]
        Probability that a pixel does not show the specimen.
    zoom : float > 0
        At which it was computed.
    folder : path, optional
        The result lies in an unnamed file there.

    Returns
    -------
    (H, W) bool, or None where the whole image shows the specimen.
    """
    factor = reduction(outside.shape, FIELD_SIDE)
    small = reduced(outside, factor) >= COVERED
    reach = max(1, round(COVER_REACH / (zoom * factor)))
    small = ndimage.binary_opening(small, morphology.disk(reach))
    parts, _ = ndimage.label(small)
    large = np.bincount(parts.ravel()) >= LEAST_COVER * small.size
    large[0] = False
    small = ndimage.binary_fill_holes(large[parts])
    release(outside)
    if not small.any() or large.sum() > MOST_COVERS or small.mean() > LARGEST_COVER:
        return None
    valid = np.ones(outside.shape, bool) if folder is None else mapped_array(outside.shape, bool, folder)
    place = np.minimum(np.arange(outside.shape[1]) // factor, small.shape[1] - 1)
    for rows in bands(outside.shape):
        index = np.minimum(np.arange(rows.start, rows.stop) // factor, small.shape[0] - 1)
        valid[rows] = ~small[index][:, place]
    release(valid)
    return valid


def _two_convolutions(before: int, after: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        # A normalisation that subtracts the mean makes the convolution's bias idle.
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=norm == "none"),
            NORMS[norm](after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def pad_reflect(x: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Pad the last two axes at their ends by reflection, up to a multiple of `multiple`, at least `least`.

    Unlike ``torch.nn.functional.pad`` the reflection may run to and fro, so one pixel is enough.
    """
    for axis in (-2, -1):
        n = x.shape[axis]
        size = math.ceil(max(n, least) / multiple) * multiple
        if size > n:
            period = max(2 * n - 2, 1)
            index = torch.arange(size, device=x.device) % period
            x = x.index_select(axis, torch.minimum(index, period - index) if n > 1 else index)
    return x


def boundary_loss(logits: Tensor, target: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy plus soft Dice loss, averaged over images.

    With a weight of 1 it is eq. 1 of chapter 07 (sets-loss).

    Paper A trains on binary cross-entropy alone. Dice measures the overlap only, so thin boundaries count
    although most pixels are grain. Dice is taken image by image, which makes the loss of a batch the mean of
    the losses of its images however the batch is shared out over processes.

    Parameters
    ----------
    logits : (N, 1, H, W) float
    target : (N, 1, H, W) float or bool
        1 on boundaries; values between 0 and 1 are soft labels.
    positive_weight : float > 0
        Weight of boundary pixels in the cross-entropy.

    Returns
    -------
    Scalar tensor, at least 0.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    logits, target = logits.float(), target.to(logits.device, torch.float32)
    bce = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(positive_weight, device=logits.device)
    )
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)  # the ones make an empty target well behaved
    return bce + (1 - dice).mean()


def predict(
    model: nn.Module,
    image: np.ndarray,
    *,
    tile: int = 512,
    overlap: int = 64,
    batch: int = 1,
    device: str | torch.device | None = None,
    precision: str = "auto",
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
    out: np.ndarray | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Class probability of every pixel of an image of any size, in bounded memory.

    The image is read tile by tile. Where tiles overlap their predictions are mixed with weights that fall
    linearly towards the tile's edge and sum to one (:func:`microlab.data.transforms.blended_tiles`). Besides
    `image` and `out` only `batch` tiles and the network's activations on them are held, so with both on disk
    the memory needed does not depend on the image's size.

    Parameters
    ----------
    model : Module
        Maps (N, C, h, w) to logits (N, K, h, w), as :class:`UNet`.
    image : (H, W) or (H, W, C) array
        Float, as the network was trained on, or integer, which is divided by its type's largest value.
        Anything with ``shape`` and slices will do: a ``numpy.memmap`` or a zarr array is never read whole.
    tile, overlap : int
        Edge of a tile and overlap of neighbours, pixels, ``0 <= overlap < tile``.
    batch : int >= 1
        Tiles that go through the network at once.
    device : str or torch.device, optional
        Default: :func:`microlab.training.devices.pick_device`.
    precision : {'auto', 'float32', 'bfloat16', 'float16'}
        As in `resolve_precision`.
    prepare : callable, optional
        Applied to every tile, (h, w) or (h, w, C) float32, before the network: for example to standardise
        with the mean and deviation of the whole image.
    activation : callable, optional
        Makes probabilities (N, K', h, w) in [0, 1] of logits. By default the sigmoid of a single logit, the
        softmax of several.
    out : (H, W) or (K, H, W) float32, optional
        Where to write, for example a ``numpy.memmap``. What it holds is overwritten.
    progress : bool
        Show a progress bar.

    Returns
    -------
    float32 (H, W) probability of the one class in [0, 1], or (K, H, W) of several.

    Raises
    ------
    ValueError
        If the image is empty, has a wrong number of axes or holds NaN or infinite values, or if a size does
        not fit.
    """
    if len(image.shape) not in (2, 3) or 0 in image.shape:
        raise ValueError(f"image must be (H, W) or (H, W, C) with at least one pixel, got {image.shape}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    shape = image.shape[:2]
    target = pick_device(device)
    precision = resolve_precision(precision, target)
    pieces = blended_tiles(shape, tile, overlap)
    joined = None  # the output, as soon as the number of classes is known
    bar = tqdm(
        total=len(tile_slices(shape, tile, overlap)), unit="tile", desc="segment", disable=not progress
    )
    with bar, _evaluating(model, target), torch.inference_mode(), autocast(target, precision):
        row = 0
        while group := list(islice(pieces, batch)):
            start = group[0][0][0].start
            if start != row:  # a row of tiles is done, and what lies in files can leave the memory
                release(image, joined)
                row = start
            x = torch.from_numpy(np.stack([_read(image, place, prepare) for place, _ in group])).to(target)
            logits = model(x.contiguous(memory_format=_format(model))).float()
            if activation is not None:
                values = activation(logits)
            else:
                values = torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)
            if values.shape[1] == 1:
                values = values[:, 0]
            if joined is None:
                joined = _cleared(out, (*values.shape[1:-2], *shape))
            for (place, share), value in zip(group, values.cpu().numpy()):
                joined[(..., *place)] += share * value
            bar.update(len(group))
    np.minimum(joined, 1, out=joined)  # the weights sum to one only up to rounding
    release(image, joined)
    return joined


def _read(
    image: np.ndarray,
    place: tuple[slice, slice],
    prepare: Callable[[np.ndarray], np.ndarray] | None,
) -> np.ndarray:
    """One tile as float32 (C, h, w)."""
    pixels = np.asarray(image[place])
    scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    pixels = pixels.astype(np.float32) / np.float32(scale)
    if not np.isfinite(pixels).all():
        rows, columns = place
        raise ImageError(
            f"image holds NaN or infinite values in rows {rows.start} to {rows.stop}, "
            f"columns {columns.start} to {columns.stop}"
        )
    if prepare is not None:
        pixels = np.asarray(prepare(pixels), np.float32)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def _cleared(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if out is None:
        return np.zeros(shape, np.float32)
    if tuple(out.shape) != shape or out.dtype != np.float32:
        raise ValueError(f"out must be float32 of shape {shape}, got {out.dtype} of shape {tuple(out.shape)}")
    out[...] = 0
    release(out)
    return out


def _format(model: nn.Module) -> torch.memory_format:
    return getattr(model, "memory_format", torch.contiguous_format)


@contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move `model` to `device` in evaluation mode, and give its mode back afterwards."""
    training = model.training
    model.to(device, memory_format=_format(model)).eval()
    try:
        yield
    finally:
        model.train(training)
