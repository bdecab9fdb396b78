"""The data bar that a scanning electron microscope prints under its image (chapter 00).

It is a band across the full width at the bottom whose background is one exact black or white, with text and
a scale bar on it. Grains measured through it would be wrong, so it is found and cut off.
"""

from __future__ import annotations

import numpy as np

LEAST_HEIGHT = 12  # px; a frame of one or two dark rows is no data bar
LARGEST_SHARE = 0.4  # of the image height
TOLERANCE = 10 / 255  # how far the background may stray: compression artefacts, not image noise


def find_data_bar(image: np.ndarray) -> int | None:
    """First row of the data bar at the bottom of a micrograph.

    The background level is the commonest grey value of the lowest rows; it has to be near black or white.
    From the bottom upwards a row belongs to the bar while at least 35 % of its pixels have that level, or
    while nearly all of its pixels agree (the frame and the rules between fields). The bar has to end
    abruptly: the rows above it hold less than half as much of the level. A dark frame, a noisy dark image
    and a bright etched surface all fail one of these.

    Parameters
    ----------
    image : (H, W) float in [0, 1]

    Returns
    -------
    int or None
        Row where the bar begins, so that ``image[:row]`` is the micrograph. None if there is no bar,
        also when the bar has a grey background or is drawn over the image: give its height instead.
    """
    height, width = image.shape
    searched = int(LARGEST_SHARE * height)
    if searched <= LEAST_HEIGHT:
        return None
    some = max(1, width // 2000)  # every column of a very wide image would only cost memory
    bottom = np.asarray(image[height - searched - 5 :, ::some], dtype=np.float32)  # 5 rows to compare with
    lowest = bottom[-max(LEAST_HEIGHT, height // 50) :]
    level = np.bincount(np.rint(lowest.ravel() * 255).astype(np.intp), minlength=256).argmax() / 255
    if 0.1 < level < 0.9:
        return None

    background = (np.abs(bottom - level) <= TOLERANCE).mean(axis=1)  # share of each row
    row_level = np.median(bottom, axis=1, keepdims=True)
    uniform = (np.abs(bottom - row_level) <= TOLERANCE).mean(axis=1) >= 0.95
    in_bar = (background >= 0.35) | uniform
    first = len(in_bar) - int(np.argmin(in_bar[::-1])) if not in_bar.all() else 0
    if first < 5 or len(in_bar) - first < LEAST_HEIGHT:
        return None
    if background[first - 5 : first].mean() >= 0.5 * np.median(background[first:]):
        return None
    return height - len(in_bar) + first
