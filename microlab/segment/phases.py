"""Which phase is each pixel? A U-Net for masks of several classes, trained as in paper B (chapter 12).

    loss = mean over pixels of -(1 - p_t)^gamma log p_t  +  1 - mean over images and classes of Dice_c

p_t is the probability given to a pixel's true class. The network is ours, from scratch, or the paper's: a
U-Net whose contracting path is an EfficientNet-B3 from the package segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microlab.measure.metrics import Confusion
from microlab.render.prepare import standardise
from microlab.segment.encoders import encoder_unet
from microlab.segment.phase_crops import AUGMENTATIONS, Pair, check_pairs, crops
from microlab.segment.unet import UNet, predict
from microlab.training import FitConfig, History, fit


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
    """The untrained network of a configuration, for grey images: our `UNet`, or `encoders.encoder_unet`."""
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
        As in `microlab.training.fit`.

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
        FitConfig(
            steps=config.steps,
            lr=config.lr,
            schedule="constant",
            ema=config.ema,
            precision=config.precision,
            log_every=config.validate_every,
            validate_every=config.validate_every,
            checkpoint_every=config.checkpoint_every,
            patience=config.patience,
            plateau=config.plateau,
            monitor="missing_class_iou",
            maximise=True,
            seed=config.seed,
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
