"""Which constituent is each pixel? A U-Net for masks of several classes, trained as in paper B.

    loss = mean over pixels of -(1 - p_t)^gamma log p_t  +  1 - mean over images and classes of Dice_c

p_t is the probability given to a pixel's true class. The network is ours, from random weights, or the
paper's: a U-Net whose contracting path is an EfficientNet-B3 from the package segmentation_models_pytorch.
That package is optional. It needs torchvision, which must come from the same index as torch: the one on PyPI
fits the torch on PyPI, and does not import beside the CPU build that `make` installs on Linux.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import check_classes
from microlab.data.transforms import clahe, standardise
from microlab.measure.pixel import Confusion
from microlab.segment.unet import UNet, pad_reflect, predict
from microlab.training.crops import random_crops
from microlab.training.fit import FitConfig, History, fit

AUGMENTATIONS = ("none", "flips", "photometric", "flips+photometric")


@dataclass(frozen=True)
class ConstituentConfig(FitConfig):
    """Everything that determines a trained network. The defaults take minutes on two CPU cores."""

    classes: int = 4
    encoder: str | None = None  # None: our UNet; else an encoder of segmentation_models_pytorch
    encoder_weights: str | None = None  # None: random; 'imagenet' downloads pretrained ones
    width: int = 16  # of our UNet's first level
    depth: int = 4  # levels of our UNet
    crop: int = 128  # side of the square crops, pixels
    batch: int = 8
    augment: str = "flips"  # of the crops: one of AUGMENTATIONS
    gamma: float = 2.0  # of the focal loss
    steps: int = 1000
    schedule: str = "constant"  # until the validation stops improving
    checkpoint_every: int = 250
    validate_every: int = 50  # also the steps between rows of the history
    patience: int | None = 15
    plateau: int | None = 5
    monitor: str = "missing_class_iou"
    maximise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
PAPER = ConstituentConfig(
    encoder="efficientnet-b3",
    encoder_weights="imagenet",
    crop=256,
    batch=2,
    steps=200 * 24,
    validate_every=24,
    augment="none",
)


def build_network(config: ConstituentConfig) -> nn.Module:
    """The untrained network of a configuration, for grey images: our `UNet`, or `encoder_unet`."""
    if config.encoder is None:
        return UNet(1, config.classes, config.width, config.depth, seed=config.seed)
    return encoder_unet(config.encoder, config.encoder_weights, config.classes, seed=config.seed)


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
    InputError
        If segmentation_models_pytorch cannot be imported, does not know the encoder or its weights, or
        cannot fetch them.
    """
    try:
        smp = importlib.import_module("segmentation_models_pytorch")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another build than torch
        raise InputError(
            f"encoder {encoder!r} needs segmentation_models_pytorch, which cannot be imported ({error}): "
            "pip install 'microlab[encoders]', with torchvision from the index that torch came from, "
            "or encoder=None for our own U-Net"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = smp.Unet(encoder, encoder_weights=encoder_weights, in_channels=1, classes=classes)
        except KeyError as error:
            raise InputError(
                f"encoder {encoder!r}, encoder_weights {encoder_weights!r}: {error.args[0]}"
            ) from error
        except OSError as error:
            raise InputError(
                f"encoder_weights {encoder_weights!r} of {encoder} could not be fetched ({error}): "
                "go online once, or encoder_weights=None for random ones"
            ) from error
    return PaddedNetwork(network, 32)  # the encoder halves the image five times


class PaddedNetwork(nn.Module):
    """A network that needs sides in multiples of a number, made to take images of any size.

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


def focal_dice_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Compound loss of paper B: categorical focal loss plus soft Dice loss.

    The paper names the two, not their weights; here both count alike. In the focal loss pixels that are
    already right hardly count. Dice weights all classes alike, however few their pixels. It is taken image by
    image, over the classes that the image's target has: an absent class has no overlap to improve, and pixels
    wrongly given to it are missing in the true classes, as in the Missing Class IoU. No smoothing constant is
    then needed. The loss of a batch is a mean over images, so DistributedDataParallel computes the same
    gradient as one process, which Dice over the pixels of a whole batch would not allow.

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


def train_constituents(
    train: Sequence[Micrograph],
    val: Sequence[Micrograph],
    config: ConstituentConfig | None = None,
    *,
    folder: str | PathLike[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: bool = True,
) -> tuple[nn.Module, History]:
    """Train a network on labelled micrographs.

    Images are shifted and scaled to mean 0 and deviation 1. Each sample of a batch is a random crop of an
    image drawn uniformly, whatever its size. Whole validation images decide: their Missing Class IoU, over
    the pixels of all, stops the training and lowers the learning rate, and the weights of its best value are
    returned.

    Parameters
    ----------
    train, val : sequences of Micrograph
        Grey, with `classes`; no side of a training image smaller than a crop. Fields of `val` must not be
        among `train`.
    config : ConstituentConfig, optional
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
        If a set is empty, an image and its class map do not fit, or an image is smaller than a crop.
    """
    config = config or ConstituentConfig()
    _check(train, config.classes, "train", config.crop)
    _check(val, config.classes, "val")
    model = build_network(config)
    history = fit(
        model,
        labelled_crops(train, config.crop, config.batch, config.augment, config.seed),
        lambda network, batch: focal_dice_loss(network(batch[0]), batch[1], gamma=config.gamma),
        replace(config, log_every=config.validate_every),
        folder=folder,
        device=device,
        progress=progress,
        resume=resume,
        validate=lambda network: _scores(
            _pooled(_confusions(network, val, config.classes, device, config.precision))
        ),
    )
    return model, history


def predict_constituents(
    model: nn.Module,
    image: np.ndarray,
    *,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> np.ndarray:
    """Class ids (H, W) uint8 of every pixel of a micrograph.

    Parameters
    ----------
    model : Module
        As `train_constituents` returns it.
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


def evaluate_constituents(
    model: nn.Module,
    pairs: Sequence[Micrograph],
    classes: int,
    *,
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Scores of a network on labelled micrographs, by both ways of averaging.

    Parameters
    ----------
    model : Module
    pairs : sequence of Micrograph
        Grey, with `classes`.
    classes : int
    device : str or torch.device, optional

    Returns
    -------
    dict
        ``accuracy``, ``mIoU``, ``missing_class_iou`` and ``IoU_0``, ``IoU_1``, ...: means over images, as in
        the paper, IoU_c over those whose truth has class c. ``pooled_...``: the same with the pixels of all
        images counted together, where an image with a sliver of a class counts by that sliver. NaN for a
        class that no truth has. ``majority_accuracy``: pooled, of always predicting the commonest class.

    Raises
    ------
    ValueError
        If there is no pair, or an image and its class map do not fit.
    """
    _check(pairs, classes, "pairs")
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
    pairs: Sequence[Micrograph],
    classes: int,
    device: str | torch.device | None,
    precision: str = "auto",
) -> list[Confusion]:
    """One confusion matrix for each image."""
    predictions = (predict_constituents(model, p.image, device=device, precision=precision) for p in pairs)
    return [Confusion(classes).update(pair.classes, ids) for pair, ids in zip(pairs, predictions)]


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


def labelled_crops(
    pairs: Sequence[Micrograph], side: int, batch: int, augment: str = "none", seed: int = 0
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Batches for `microlab.training.fit.fit`: random crops of standardised images, augmented.

    Images are drawn uniformly, whatever their size. The class map is turned with the image, and stays as it
    is where only grey levels change.

    Parameters
    ----------
    pairs : sequence of Micrograph
        Grey, with `classes`.
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
    images = [standardise(pair.image) for pair in pairs]
    # What one grey level is in the standardised image; an image of one level stays zero.
    deviations = [np.std(pair.image) for pair in pairs]
    units = [np.float32(1 / deviation if deviation > 1e-6 else 0) for deviation in deviations]

    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, step])
        parts, masks = [], []
        for k, crop in random_crops(images, side, batch, rng, orient="flips" in augment):
            part, grey = crop(images[k]), crop(pairs[k].image)
            if "photometric" in augment:
                # Not standardised again: a change of brightness or contrast would vanish.
                part = part + units[k] * (photometric(grey, seed=rng) - grey)
            parts.append(part)
            masks.append(crop(pairs[k].classes))
        return np.stack(parts)[:, None], np.stack(masks).astype(np.int64)

    return batches


def photometric(image: np.ndarray, *, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Changes of grey, sharpness and noise that leave the mask valid: paper B's augmentation-only control.

    The paper lists the changes, not their probability or strength. Here one of each of three groups is drawn
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


def _check(pairs: Sequence[Micrograph], classes: int, name: str, smallest: int = 1) -> None:
    """Raise a ValueError that says which pair of `name` cannot be used and why."""
    if len(pairs) == 0:
        raise InputError(f"{name} must hold at least one labelled image, got none")
    for k, pair in enumerate(pairs):
        where, image, mask = f"{name}[{k}]", pair.image, pair.classes
        if image.ndim != 2 or image.shape != mask.shape:
            raise InputError(f"{where}: image {image.shape} and mask {mask.shape} must be (H, W) and equal")
        if min(image.shape) < smallest:
            raise InputError(f"{where}: image {image.shape} is smaller than a crop of {smallest} pixels")
        low, high = float(np.min(image)), float(np.max(image))
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise InputError(f"{where}: image must lie in [0, 1], its range is {low} to {high}")
        check_classes(mask, classes, f"{where}: mask")
