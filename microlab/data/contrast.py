"""Which stored values are the picture: hot pixels, numbers for "no value", and what is black and white.

    grey = (value - black) / (white - black), clipped to [0, 1]

One pixel of 65535 among counts of 60, or a strip of -9999, decides a mean and a standard deviation, and with
them what a network sees. So both are found by their distance from the rest, measured in the spread of the
rest, and by their shape: hot pixels are single, and a thin network across the image is not a flaw but what we
look for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SAMPLED = 10**6  # px from which the spread of the values is estimated
FAR = 5.0  # spreads beyond which a value is not of the picture
SPREAD = (5, 95)  # percentiles, of these spreads
FAR_NUMBER = 1.0  # spreads between the picture and a number for "no value"
SPREAD_NUMBER = (1, 99)  # percentiles, of these spreads
LEAST_REPEATS = 16  # of a number for "no value"
LEAST_REST = 0.05  # share of the pixels with another value, or the number is the picture
LARGEST_HOT = 9  # px, of a group of hot pixels
NEIGHBOURHOOD = 5  # px, side of the square whose median replaces a hot pixel
LEAST_SHARE = 0.25  # of black to white; a picture that takes less of it is stretched
# Of a network of lines: its extent and area, of the image, and its share of the image's rim.
LEAST_EXTENT = 0.5
LARGEST_AREA = 0.3
LARGEST_RIM = 0.5
EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class Range:
    """What in an image is no picture, and between which values the picture lies.

    Attributes
    ----------
    low, high : float
        Least and largest value of the picture.
    missing : (H, W) bool or None
        True where there is no value. None: nowhere.
    hot : (H, W) bool or None
        Single pixels far from all others.
    clipped : bool
        Whether values outside of `low` and `high` occur.
    note : str
        What is to be said about it.
    """

    low: float
    high: float
    missing: np.ndarray | None = None
    hot: np.ndarray | None = None
    clipped: bool = False
    note: str = ""


def find_range(
    values: np.ndarray, *, nodata: float | None = None, opaque: np.ndarray | None = None
) -> Range | None:
    """Find the picture among the stored values.

    Parameters
    ----------
    values : (H, W) or (H, W, C), of numbers or bool
        Of 8 bits all values count as picture: nothing can lie far from it.
    nodata : float, optional
        The number that stands for "no value". Others are found: repeated, at an end, and far from the rest.
        NaN and infinity always stand for it.
    opaque : (H, W) bool, optional
        False where there is no value.

    Returns
    -------
    Range, or None if no pixel has a value.
    """
    out: np.ndarray | None = None  # (H, W) bool, pixels without a value; of a large clean image there is none
    said = []

    def leave_out(found: np.ndarray, what: str) -> None:
        nonlocal out
        found = _any(found) if out is None else _any(found) & ~out
        if number := int(found.sum()):
            said.append(f"{number} pixel{' is' if number == 1 else 's are'} {what}")
            out = found if out is None else out | found

    if opaque is not None and opaque.any() and not opaque.all():
        leave_out(~opaque & ~_single(~opaque), "transparent")
    if values.dtype.kind == "f" and not np.isfinite([values.min(), values.max()]).all():
        leave_out(~np.isfinite(values), "NaN or infinite")
    if nodata is not None and np.isfinite(nodata):
        leave_out(values == nodata, f"{nodata:g}, which stands for no value")
    if out is not None and out.all():
        return None
    far = None
    if values.dtype.itemsize > 1:
        while (number := _far_number(values, out)) is not None:
            leave_out(values == number, f"{number:g}, far from the rest")
        far = _far(values, out)
        if far is not None:
            number = int(far.sum())
            said.append(f"{number} pixel{' is' if number == 1 else 's are'} far from all others")
    if out is None and far is None:
        return Range(float(values.min()), float(values.max()))
    bad = np.logical_or.reduce([part for part in (out, far) if part is not None])
    hot = _single(bad)
    missing = np.zeros_like(bad) if out is None else out & ~hot
    inside = values[~bad]
    done = []
    if hot.any():
        done.append("single ones (hot or dead) took the grey of their neighbours")
    if missing.any():
        done.append("what has no value lies outside of the field of view")
    if far is not None and (far & ~hot).any():
        done.append("larger groups were clipped")
    return Range(
        float(inside.min()),
        float(inside.max()),
        missing if missing.any() else None,
        hot if hot.any() else None,
        True,
        f"{', '.join(said)}; {', '.join(done)}",
    )


def fill(image: np.ndarray, found: Range) -> None:
    """Give hot pixels the median of their neighbours and missing ones that of the picture, in place.

    Parameters
    ----------
    image : (H, W) float
    found : Range
        With maps of the shape (H, W).
    """
    bad = [part for part in (found.missing, found.hot) if part is not None]
    if not bad:
        return
    bad = np.logical_or.reduce(bad)
    good = image[~bad]
    middle = np.median(good[:: max(1, good.size // SAMPLED)])
    if found.missing is not None:
        image[found.missing] = middle
    if found.hot is not None:
        reach = NEIGHBOURHOOD // 2
        replaced = []
        for y, x in (places := np.argwhere(found.hot)):
            place = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            around = image[place][~bad[place]]
            replaced.append(np.median(around) if around.size else middle)
        image[tuple(places.T)] = replaced


def _any(found: np.ndarray) -> np.ndarray:
    """(H, W) bool of an (H, W) or (H, W, C) one."""
    return found.any(axis=2) if found.ndim == 3 else found


def _there(values: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The values that are there."""
    return values if out is None else values[~out]


def _sample(values: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Some of the values that are there, as float."""
    step = max(1, int(np.sqrt(values.shape[0] * values.shape[1] / SAMPLED)))
    some = _there(values[::step, ::step], None if out is None else out[::step, ::step])
    return (some if some.size else _there(values, out)).astype(np.float64).ravel()


def _far_number(values: np.ndarray, out: np.ndarray | None) -> float | None:
    """A number at one end of the values that is repeated and far from the rest, unless it forms a network."""
    there = _there(values, out)
    some = _sample(values, out)
    for end, nearest in ((float(there.min()), np.min), (float(there.max()), np.max)):
        rest = some[some != end]
        # Where the number is nearly all it is the picture; one grey beside it makes a picture of two values.
        if rest.size < LEAST_REST * some.size or rest.min() == rest.max():
            continue
        limit = FAR_NUMBER * np.ptp(np.percentile(rest, SPREAD_NUMBER))
        if abs(nearest(rest) - end) <= limit:
            continue
        found = there == end
        if found.sum() < LEAST_REPEATS or abs(float(nearest(there[~found])) - end) <= limit:
            continue
        if _network(_any(values == end)) is None:
            return end
    return None


def _far(values: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
    """Pixels, (H, W) bool, whose value is far from those of the picture; None if there are none."""
    low, high = np.percentile(_sample(values, out), SPREAD)
    least, largest = low - FAR * (high - low), high + FAR * (high - low)
    there = _there(values, out)
    if high == low or (there.min() >= least and there.max() <= largest):
        return None

    def beyond() -> np.ndarray:
        far = _any((values < least) | (values > largest))
        return far if out is None else far & ~out

    far = beyond()
    if (lines := _network(far)) is not None:  # thin lines on even grains are far from them, and no flaw
        least, largest = min(least, values[lines].min()), max(largest, values[lines].max())
        far = beyond()
    return far if far.any() else None


def _network(found: np.ndarray) -> np.ndarray | None:
    """The largest group of pixels, if it forms thin lines across the image, no frame and no patch."""
    parts, number = ndimage.label(found, EIGHT)
    if not number:
        return None
    area = np.bincount(parts.ravel())[1:]
    largest = int(np.argmax(area))
    height, width = (s.stop - s.start for s in ndimage.find_objects(parts)[largest])
    group = parts == largest + 1
    rim = np.concatenate([group[0], group[-1], group[:, 0], group[:, -1]]).mean()
    across = max(height / found.shape[0], width / found.shape[1]) > LEAST_EXTENT
    thin = area[largest] < LARGEST_AREA * height * width
    return group if across and thin and rim < LARGEST_RIM else None


def _single(found: np.ndarray) -> np.ndarray:
    """Those of the pixels, (H, W) bool, that form groups of at most `LARGEST_HOT`."""
    if not found.any():
        return found
    parts = ndimage.label(found, EIGHT)[0]
    small = np.bincount(parts.ravel()) <= LARGEST_HOT
    small[0] = False
    return small[parts]
