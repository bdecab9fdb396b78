"""What in an image is no specimen: legends pasted into it, black corners of a rotated field, the mount.

    valid(x) = 1 where x shows the specimen, 0 elsewhere

Every function takes an image and returns it together with the field of view, True on the specimen
(`microlab.data.micrograph.Micrograph.valid`).
"""

from __future__ import annotations

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from microlab.render.specimen import Seed, smooth_noise

UNITS = ("nm", "µm", "mm")


def scale_bar(image: np.ndarray, *, boxed: bool = True, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """A scale bar with its length in figures in a corner, as microscopes paste them.

    Bar and figures are black on a white box, white on a black one, or lie on the image itself. The box takes
    20 to 60 % of the width and 7 to 25 % of the height of the image; it stands a few pixels from the corner,
    or in it.

    Parameters
    ----------
    image : (H, W) float in [0, 1], at least 64 x 64
    boxed : bool
        Whether there is a box.
    seed : int or numpy.random.Generator

    Returns
    -------
    image : (H, W) float32
    valid : (H, W) bool
        False in the box or, without one, where bar and figures are.

    Raises
    ------
    ValueError
        If the image is smaller.
    """
    height, width = image.shape
    if min(height, width) < 64:
        raise ValueError(f"image must have at least 64 x 64 pixels, got {height} x {width}")
    rng = np.random.default_rng(seed)
    box_height, box_width = (
        int(n * rng.uniform(*share)) for n, share in ((height, (0.07, 0.25)), (width, (0.2, 0.6)))
    )
    away = int(rng.choice([0, rng.integers(1, 12)]))
    top = away if rng.random() < 0.3 else height - box_height - away
    left = away if rng.random() < 0.5 else width - box_width - away
    dark = rng.random() < 0.5
    box = Image.new("L", (box_width, box_height), 0 if dark else 255)
    draw, ink = ImageDraw.Draw(box), 255 if dark else 0
    bar, thickness = int(box_width * rng.uniform(0.4, 0.9)), max(1, box_height // 8)
    begin, base = (box_width - bar) // 2, box_height - 2 * thickness
    draw.rectangle((begin, base - thickness, begin + bar, base), fill=ink)
    text = f"{rng.choice([1, 2, 5]) * 10 ** rng.integers(0, 3)} {rng.choice(UNITS)}"
    font = ImageFont.truetype(findfont("DejaVu Sans"), max(6, min(box_height // 2, box_width // len(text))))
    draw.text((box_width / 2, base - 2 * thickness), text, fill=ink, font=font, anchor="ms")
    out, valid = image.astype(np.float32), np.ones(image.shape, bool)
    place = np.s_[top : top + box_height, left : left + box_width]
    drawn = np.asarray(box) / np.float32(255)
    covered = np.ones(drawn.shape, bool) if boxed else drawn == ink / 255
    out[place][covered], valid[place] = drawn[covered], ~covered
    return out, valid


def rotated_field(image: np.ndarray, *, angle: float, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Corners of one grey, as a field that was rotated or stitched leaves them.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    angle : float
        Of the field against the image, in radians. The largest field of the image's proportions that fits
        stays.
    fill : float in [0, 1]
        Grey of the corners.

    Returns
    -------
    image : (H, W) float32
    valid : (H, W) bool
        False in the corners.
    """
    height, width = image.shape
    y, x = np.indices(image.shape, dtype=np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    sine, cosine = np.sin(angle), np.cos(angle)
    # The rotated rectangle s height x s width reaches the frame first with one of its corners.
    s = min(n / (abs(cosine) * n + abs(sine) * other) for n, other in ((height, width), (width, height)))
    down, right = np.abs(cosine * y - sine * x), np.abs(sine * y + cosine * x)
    valid = (down <= s * height / 2) & (right <= s * width / 2)
    return np.where(valid, image, fill).astype(np.float32), valid


def mount(
    image: np.ndarray, *, share: float, angle: float, grey: float, seed: Seed
) -> tuple[np.ndarray, np.ndarray]:
    """The edge of the specimen, and the resin or the holder beyond it: smooth, of another grey.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    share : float in [0, 1)
        Of the image that shows the mount.
    angle : float
        Direction of the mount from the middle of the image, in radians from the rows.
    grey : float in [0, 1]
    seed : int or numpy.random.Generator
        Of the unevenness of edge and mount.

    Returns
    -------
    image : (H, W) float32
    valid : (H, W) bool
        False on the mount.

    Raises
    ------
    ValueError
        If `share` is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    rng = np.random.default_rng(seed)
    y, x = np.indices(image.shape)
    place = np.cos(angle) * x + np.sin(angle) * y + 3 * smooth_noise(image.shape, 15.0, rng)
    valid = place <= np.quantile(place, 1 - share)
    resin = grey + 0.03 * smooth_noise(image.shape, 25.0, rng) + 0.01 * rng.standard_normal(image.shape)
    return np.where(valid, image, np.clip(resin, 0, 1)).astype(np.float32), valid
