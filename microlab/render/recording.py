"""What happens to a micrograph between the detector and the file: sharpening, clipped tones, compression.

    image  ->  sharpened  ->  tones stretched until some are clipped  ->  JPEG

Software of microscopes does the first two, often without being asked, and many images are passed on as JPEG.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage


def sharpened(image: np.ndarray, *, sigma: float, amount: float) -> np.ndarray:
    """Unsharp mask: add the difference to a smoothed image (Gonzalez and Woods, Digital Image Processing).

    Lines get an overshoot on both sides.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) float in [0, 1]
    sigma : float > 0
        Standard deviation of the smoothing, pixels; 0.7 to 2 are usual.
    amount : float >= 0
        Factor of the difference; 0.3 to 1.5 are usual.

    Returns
    -------
    float32 of the same shape, in [0, 1].
    """
    smooth = ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim])
    return np.clip(image + amount * (image - smooth), 0, 1).astype(np.float32)


def clipped(image: np.ndarray, *, dark: float, bright: float) -> np.ndarray:
    """Stretch the tones so that a share of the pixels becomes black and another one white.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) float in [0, 1]
    dark, bright : float in [0, 1)
        Shares of the pixels; automatic contrast clips 0.002 to 0.01, overexposure a third and more.

    Returns
    -------
    float32 of the same shape, in [0, 1]; as it was where the two tones coincide.
    """
    low, high = np.quantile(image, (dark, 1 - bright))
    if high <= low:
        return np.asarray(image, np.float32)
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def compressed(image: np.ndarray, *, quality: int) -> np.ndarray:
    """What a JPEG file keeps of an image: blocks of 8 x 8 pixels with coarse high frequencies (ITU-T T.81).

    Parameters
    ----------
    image : (H, W) or (H, W, 3) float in [0, 1]
    quality : int in 1..95
        As in libjpeg; cameras write 75 to 95, below 50 the blocks show.

    Returns
    -------
    float32 of the same shape, in [0, 1], 8-bit levels.
    """
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255
