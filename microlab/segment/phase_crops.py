"""What a network for phases is trained on: labelled micrographs, checked, cropped and augmented (chapter 12).

The mask moves with the image where the image is turned, and stays as it is where only its greys change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from microlab.render.prepare import clahe, standardise

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
    """Batches for `microlab.training.fit`: random crops of standardised images, augmented.

    Every image is as likely as any other, whatever its size.

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
        for _ in range(batch):
            k = rng.integers(len(pairs))
            grey, mask = pairs[k]
            y, x = rng.integers(0, np.array(mask.shape) - side + 1)
            place = np.s_[y : y + side, x : x + side]
            crop, mask = images[k][place], mask[place]
            if "photometric" in augment:
                # Not standardised again: a change of brightness or contrast would vanish.
                crop = crop + units[k] * (photometric(grey[place], seed=rng) - grey[place])
            if "flips" in augment:
                turns, flip = rng.integers(4), rng.choice([-1, 1])
                crop, mask = (np.rot90(a, turns)[:, ::flip] for a in (crop, mask))
            parts.append(crop)
            masks.append(mask)
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
