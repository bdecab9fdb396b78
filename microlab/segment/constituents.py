"""Which phase is each pixel? A U-Net for masks of several classes, trained as in paper B.

    loss = mean over pixels of -(1 - p_t)^gamma log p_t  +  1 - mean over images and classes of Dice_c

p_t is the probability given to a pixel's true class. The network is ours, from scratch, or the paper's: a
U-Net whose contracting path is an EfficientNet-B3 from the package segmentation_models_pytorch.

What a network for phases is trained on: labelled micrographs, checked, cropped and augmented.

The mask moves with the image where the image is turned, and stays as it is where only its greys change.

U-Nets whose contracting path is a known classifier, from segmentation_models_pytorch.

The package is optional. It needs torchvision, which must come from the same index as torch: the one on PyPI
fits the torch on PyPI, and does not import beside the CPU build that `make` installs on Linux.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from microlab.data.transforms import clahe, standardise
from microlab.measure.pixel import Confusion
from microlab.segment.unet import UNet, pad_reflect, predict
from microlab.training.crops import random_crops
from microlab.training.fit import FitConfig, History, fit

Pair = tuple[np.ndarray, np.ndarray]  # image (H, W) float in [0, 1], mask (H, W) of class ids

AUGMENTATIONS = ("none", "flips", "photometric", "flips+photometric")


def check_pairs(pairs: Sequence[Pair], classes: int, name: str, smallest: int = 1) -> None:
    """Raise a ValueError that says which pair of `name` cannot be used and why."""
    if len(pairs) == 0:
        raise ValueError(f"{name} must hold at least one (image, mask) pair, got none")
    for k, (image, mask) in enumerate(pairs):
        where = f"{name}[{k}]"
        if image.ndim != 2 or image.shape != mask.shape:
            raise ValueError(f"{where}: image {image.shape} and mask {mask.shape} must be (H, W) and equal")
        if min(image.shape) < smallest:
            raise ValueError(f"{where}: image {image.shape} is smaller than a crop of {smallest} pixels")
        low, high = float(np.min(image)), float(np.max(image))
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise ValueError(f"{where}: image must lie in [0, 1], its range is {low} to {high}")
        if mask.dtype.kind not in "iu" or mask.min() < 0 or mask.max() >= classes:
            raise ValueError(
                f"{where}: mask must hold integer class ids 0..{classes - 1}, "
                f"got {mask.dtype} {mask.min()} to {mask.max()}"
            )


def crops(
    pairs: Sequence[Pair], side: int, batch: int, augment: str = "none", seed: int = 0
) -> Callable[[int], Pair]:
    """Batches for `microlab.training.fit.fit`: random crops of standardised images, augmented.

    Images are drawn uniformly, whatever their size.

    Parameters
    ----------
    pairs : sequence of (image (H, W) float in [0, 1], mask (H, W) int)
    side, batch : int
        Pixels of a crop's side, and crops in a batch.
    augment : {'none', 'flips', 'photometric', 'flips+photometric'}
        'flips' turns by quarters too.
    seed : int

    Returns
    -------
    callable
        ``batches(step)``: images (batch, 1, side, side) float32 and masks (batch, side, side) int64.
    """
    images = [standardise(image) for image, _ in pairs]
    # What one grey level is in the standardised image; an image of one level stays zero.
    units = [np.float32(1 / deviation if (deviation := np.std(image)) > 1e-6 else 0) for image, _ in pairs]

    def batches(step: int) -> Pair:
        rng = np.random.default_rng([seed, step])
        parts, masks = [], []
        for k, crop in random_crops(images, side, batch, rng, orient="flips" in augment):
            grey, mask = pairs[k]
            part = crop(images[k])
            if "photometric" in augment:
                # Not standardised again: a change of brightness or contrast would vanish.
                part = part + units[k] * (photometric(crop(grey), seed=rng) - crop(grey))
            parts.append(part)
            masks.append(crop(mask))
        return np.stack(parts)[:, None], np.stack(masks).astype(np.int64)

    return batches


def photometric(image: np.ndarray, *, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Changes of grey, sharpness and noise that leave the mask true: paper B's augmentation-only control.

    The paper lists the changes, not how likely or strong they are. Here one of each of three groups is drawn
    nine times in ten (CLAHE, brightness or gamma; sharpening, Gaussian blur, mean blur or motion blur;
    contrast), and Gaussian noise once in five. Its change of hue has no meaning in a grey image.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    seed : int or numpy.random.Generator

    Returns
    -------
    (H, W) float32 in [0, 1].
    """
    rng = np.random.default_rng(seed)
    image = np.asarray(image, np.float32)
    if rng.random() < 0.9:
        change = rng.choice(["clahe", "brightness", "gamma"])
        if change == "clahe":
            image = clahe(image, clip_limit=rng.uniform(0.005, 0.02))
        elif change == "brightness":
            image = image + rng.uniform(-0.2, 0.2)
        else:
            image = image ** rng.uniform(0.8, 1.25)
    if rng.random() < 0.9:
        change = rng.choice(["sharpen", "gaussian", "mean", "motion"])
        if change == "sharpen":
            image = image + rng.uniform(0.2, 1) * (image - ndimage.gaussian_filter(image, 1))
        elif change == "gaussian":
            image = ndimage.gaussian_filter(image, rng.uniform(0.5, 1.5))
        elif change == "mean":
            image = ndimage.uniform_filter(image, 3)
        else:
            image = ndimage.uniform_filter1d(image, rng.choice([3, 5, 7]), axis=rng.integers(2))
    if rng.random() < 0.9:
        image = image.mean() + (image - image.mean()) * rng.uniform(0.8, 1.2)
    if rng.random() < 0.2:
        image = image + rng.normal(0, rng.uniform(0.01, 0.04), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


class PaddedNetwork(nn.Module):
    """A network that wants sides in multiples of a number, for images of any size.

    Parameters
    ----------
    network : Module
        Maps (N, C, H, W) to (N, K, H, W).
    multiple : int
        Pixels. Images are padded by reflection, and the logits cut back.
    """

    memory_format = torch.channels_last

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, H, W) of images (N, C, H, W)."""
        height, width = image.shape[-2:]
        return self.network(pad_reflect(image, self.multiple))[..., :height, :width]


def encoder_unet(encoder: str, encoder_weights: str | None, classes: int, *, seed: int = 0) -> PaddedNetwork:
    """An untrained U-Net around an encoder, for grey images.

    The first layer takes one channel. With pretrained weights, segmentation_models_pytorch sums that layer
    over the three colours, which equals feeding the grey image three times as paper B does.

    Parameters
    ----------
    encoder : str
        For example 'efficientnet-b3', the paper's.
    encoder_weights : str, optional
        'imagenet' downloads pretrained weights (safetensors); None starts from random ones.
    classes : int
    seed : int
        Of the random weights.

    Raises
    ------
    ValueError
        If segmentation_models_pytorch cannot be imported, does not know the encoder or its weights, or
        cannot fetch them.
    """
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
        raise ValueError(
            f"encoder {encoder!r} needs segmentation_models_pytorch, which cannot be imported ({error}): "
            "pip install 'microlab[encoders]', with torchvision from the index that torch came from, "
            "or encoder=None for our own U-Net"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = smp.Unet(encoder, encoder_weights=encoder_weights, in_channels=1, classes=classes)
        except KeyError as error:
            raise ValueError(
                f"encoder {encoder!r}, encoder_weights {encoder_weights!r}: {error.args[0]}"
            ) from error
        except OSError as error:
            raise ValueError(
                f"encoder_weights {encoder_weights!r} of {encoder} could not be fetched ({error}): "
                "go online once, or encoder_weights=None for random ones"
            ) from error
    return PaddedNetwork(network, 32)  # five halvings


@dataclass(frozen=True)
class PhaseConfig:
    """Everything that determines a trained network. The defaults take minutes on two CPU cores."""

    classes: int = 4
    encoder: str | None = None  # None: our UNet; else an encoder of segmentation_models_pytorch
    encoder_weights: str | None = None  # None: random; 'imagenet' downloads pretrained ones
    width: int = 16  # of our UNet's first level
    depth: int = 4  # levels of our UNet
    crop: int = 128  # side of the square crops, pixels
    batch: int = 8
    steps: int = 1000
    lr: float = 1e-3  # held constant until the validation stops improving
    validate_every: int = 50  # steps
    patience: int | None = 15  # validations without improvement before stopping
    plateau: int | None = 5  # validations without improvement before lr falls to a tenth
    augment: str = "flips"  # of the crops: 'none', 'flips', 'photometric' or 'flips+photometric'
    gamma: float = 2.0  # of the focal loss
    ema: float | None = None  # decay of the running mean of the weights
    precision: str = "auto"
    checkpoint_every: int = 250  # steps
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= 256:
            raise ValueError(f"classes must lie in 2..256, got {self.classes}")
        for name in ("crop", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if not (self.gamma == 0 or self.gamma >= 1):  # between them the gradient at certainty is infinite
            raise ValueError(f"gamma must be 0 or at least 1, got {self.gamma}")
        if self.encoder is None and self.encoder_weights is not None:
            raise ValueError(
                f"encoder_weights {self.encoder_weights!r} need an encoder, such as 'efficientnet-b3'"
            )


# Table 3 of paper B. An epoch there is the number of images / 2 steps; here the 48 images of its larger sets.
# For n images: dataclasses.replace(PAPER, steps=200 * (n // 2), validate_every=n // 2).
PAPER = PhaseConfig(
    encoder="efficientnet-b3",
    encoder_weights="imagenet",
    crop=256,
    batch=2,
    steps=200 * 24,
    validate_every=24,
    augment="none",
)


def phase_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Compound loss of paper B: categorical focal loss plus soft Dice loss.

    The paper names the two, not their weights; here both count alike.
    The focal loss is the cross-entropy in which pixels that are already right hardly count. Dice gives every
    class the same say, however few its pixels. It is taken image by image, over the classes that the image's
    target has: one that is absent has no overlap to improve, and what is wrongly given to it is missing in
    the true classes, as in the Missing Class IoU. No smoothing constant is then needed. Being a mean over
    images, the loss of a batch is the mean of the losses of its shares, so DistributedDataParallel computes
    the same gradient as one process; Dice over the pixels of a whole batch would not allow that.

    Parameters
    ----------
    logits : (N, C, H, W) float
    target : (N, H, W) int64 in 0..C-1
    gamma : float, 0 or at least 1
        Focus; 0 is the plain cross-entropy.

    Returns
    -------
    Scalar tensor, at least 0.

    References
    ----------
    T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017, doi:10.1109/ICCV.2017.324.
    F. Milletari, N. Navab, S.-A. Ahmadi, V-Net, 3DV 2016, doi:10.1109/3DV.2016.79.
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit")
    log_p = F.log_softmax(logits.float(), 1)  # float32 also under autocast: the logarithm needs the digits
    log_p_true = log_p.gather(1, target[:, None])
    focal = (-((1 - log_p_true.exp()) ** gamma) * log_p_true).mean()

    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(log_p.dtype)  # (N, C, H, W)
    p = log_p.exp()
    size = truth.sum((2, 3))  # (N, C) pixels of each class
    present = size > 0
    total = (p.sum((2, 3)) + size).where(present, 1)  # an absent class of probability 0 would divide 0 by 0
    dice = 2 * (p * truth).sum((2, 3)) / total  # 0 for an absent class
    return focal + 1 - (dice.sum(1) / present.sum(1)).mean()


def build_network(config: PhaseConfig) -> nn.Module:
    """The untrained network of a configuration, for grey images: our `UNet`, or `encoder_unet`."""
    if config.encoder is None:
        return UNet(1, config.classes, config.width, config.depth, seed=config.seed)
    return encoder_unet(config.encoder, config.encoder_weights, config.classes, seed=config.seed)


def train_phases(
    train: Sequence[Pair],
    val: Sequence[Pair],
    config: PhaseConfig | None = None,
    *,
    folder: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: bool = True,
) -> tuple[nn.Module, History]:
    """Train a network on labelled micrographs.

    Images are shifted and scaled to mean 0 and deviation 1. Each sample of a batch is a random crop of a
    random image; every image is as likely as any other, whatever its size. Whole validation images decide:
    their Missing Class IoU, over the pixels of all, stops the training and lowers the learning rate, and the
    weights of its best value are returned.

    Parameters
    ----------
    train, val : sequences of (image (H, W) float in [0, 1], mask (H, W) int class ids)
        None smaller than a crop, apart from validation images. Fields of `val` must not be among `train`.
    config : PhaseConfig, optional
    folder, device, progress, resume
        As in `microlab.training.fit.fit`.

    Returns
    -------
    model : Module
        In evaluation mode.
    history : History
        One row per validation: step, loss, lr, seconds, validation_missing_class_iou, validation_mIoU,
        validation_accuracy and validation_IoU_0, validation_IoU_1, ...

    Raises
    ------
    ValueError
        If a set is empty, an image and its mask do not fit, or an image is smaller than a crop.
    """
    config = config or PhaseConfig()
    check_pairs(train, config.classes, "train", config.crop)
    check_pairs(val, config.classes, "val")
    model = build_network(config)
    history = fit(
        model,
        crops(train, config.crop, config.batch, config.augment, config.seed),
        lambda network, batch: phase_loss(network(batch[0]), batch[1], gamma=config.gamma),
        FitConfig.of(
            config,
            schedule="constant",
            log_every=config.validate_every,
            monitor="missing_class_iou",
            maximise=True,
        ),
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
        validate=lambda network: _scores(
            _pooled(_confusions(network, val, config.classes, device, config.precision))
        ),
    )
    return model, history


def predict_phases(
    model: nn.Module,
    image: np.ndarray,
    *,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> np.ndarray:
    """Class of every pixel of a micrograph.

    Parameters
    ----------
    model : Module
        As `train_phases` returns it.
    image : (H, W) float in [0, 1]
        Of any size: beyond 1024 pixels it goes through the network in tiles.
    device, precision
        As in `microlab.segment.unet.predict`.

    Returns
    -------
    (H, W) uint8 class ids.
    """
    probability = predict(model, standardise(image), tile=1024, device=device, precision=precision)
    return probability.argmax(0).astype(np.uint8)


def evaluate_phases(
    model: nn.Module, pairs: Sequence[Pair], classes: int, *, device: str | torch.device | None = None
) -> dict[str, float]:
    """Scores of a network on labelled micrographs, by both ways of averaging.

    Parameters
    ----------
    model : Module
    pairs : sequence of (image (H, W) float in [0, 1], mask (H, W) int class ids)
    classes : int
    device : str or torch.device, optional

    Returns
    -------
    dict
        ``accuracy``, ``mIoU``, ``missing_class_iou`` and ``IoU_0``, ``IoU_1``, ...: means over images, as in
        the paper, IoU_c over those whose truth has class c. ``pooled_...``: the same with the pixels of all
        images counted together, where an image with a sliver of a class counts by that sliver. NaN for a
        class that no truth has. ``majority_accuracy``: pooled, of always answering the commonest class.

    Raises
    ------
    ValueError
        If there is no pair, or an image and its mask do not fit.
    """
    check_pairs(pairs, classes, "pairs")
    single = _confusions(model, pairs, classes, device)
    pooled = _pooled(single)
    means = pd.DataFrame([_scores(confusion) for confusion in single]).mean().to_dict()  # skips NaN
    return {
        **means,
        **{f"pooled_{name}": value for name, value in _scores(pooled).items()},
        "majority_accuracy": pooled.majority_accuracy(),
    }


def _confusions(
    model: nn.Module,
    pairs: Sequence[Pair],
    classes: int,
    device: str | torch.device | None,
    precision: str = "auto",
) -> list[Confusion]:
    """One confusion matrix for each image."""
    predicted = (predict_phases(model, image, device=device, precision=precision) for image, _ in pairs)
    return [Confusion(classes).update(mask, phases) for (_, mask), phases in zip(pairs, predicted)]


def _pooled(confusions: Sequence[Confusion]) -> Confusion:
    pooled = Confusion(confusions[0].classes)
    pooled.matrix = sum(confusion.matrix for confusion in confusions)
    return pooled


def _scores(confusion: Confusion) -> dict[str, float]:
    return {
        "accuracy": confusion.accuracy(),
        "mIoU": confusion.miou(),
        "missing_class_iou": confusion.missing_class_iou(),
        **{f"IoU_{c}": float(value) for c, value in enumerate(confusion.iou(missing_class=True))},
    }
