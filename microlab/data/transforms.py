"""Preparing images for networks: contrast, size, tiles and augmentation.

Tiles overlap and are blended with weights that sum to one in every pixel of an image:

    out(x) = sum_k w_k(x) p_k(x),     sum_k w_k(x) = 1
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from skimage import exposure
from skimage.transform import rescale, resize

from microlab.data.mapped import bands, release

Tile = tuple[slice, slice]
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of red, green and blue, Rec. 709


def clahe(image: np.ndarray, clip_limit: float = 0.01, kernel: int | None = None) -> np.ndarray:
    """Contrast limited adaptive histogram equalisation, the preparation of paper A's micrographs.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    clip_limit : float in (0, 1]
        Share of a window's pixels that one grey level may hold; higher gives more contrast.
    kernel : int, optional
        Side of the window in pixels; an eighth of each side of the image by default.

    Returns
    -------
    (H, W) float32 in [0, 1]. An image of one grey level is returned as it is.

    Raises
    ------
    ValueError
        If `image` is not a finite grey image in [0, 1], or `clip_limit` lies outside (0, 1].

    References
    ----------
    K. Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV (1994), 474-485.
    """
    image = _grey(image)
    if not 0 < clip_limit <= 1:
        raise ValueError(f"clip_limit must lie in (0, 1], got {clip_limit}")
    if image.max() == image.min():
        return image.copy()
    return exposure.equalize_adapthist(image, kernel_size=kernel, clip_limit=clip_limit).astype(np.float32)


def stretch(image: np.ndarray, low: float = 0.5, high: float = 99.5) -> np.ndarray:
    """Linear contrast stretch between two percentiles, clipped.

    Parameters
    ----------
    image : (H, W) array, finite
    low, high : float in [0, 100]
        Percentiles that become 0 and 1. Where they coincide, the minimum and the maximum are used.

    Returns
    -------
    (H, W) float64 if `image` is, else float32, in [0, 1].
    """
    exact = np.asarray(image, np.float64)
    black, white = np.percentile(exact, (low, high))
    if white - black < 1e-6 * np.ptp(exact):
        black, white = exact.min(), exact.max()
    stretched = exposure.rescale_intensity(exact, (black, white), (0, 1))
    return stretched if image.dtype == np.float64 else stretched.astype(np.float32)


def grey_weights(colours: np.ndarray) -> np.ndarray:
    """Weights of red, green and blue that show most of an image's contrast: its first principal component.

    Grains that differ in hue alone have the same luminance; along the direction in which the colours vary
    most they differ. It is signed so that grey rises with luminance.

    Parameters
    ----------
    colours : (H, W, 3) float in [0, 1]

    Returns
    -------
    (3,) float32
        Their magnitudes sum to one; `grey_of` applies them.
    """
    sample = np.asarray(colours, np.float64).reshape(-1, 3)
    variances, directions = np.linalg.eigh(np.cov(sample, rowvar=False))
    if variances[-1] == 0:  # one colour everywhere
        return LUMINANCE
    first = directions[:, -1]
    if (sample - sample.mean(0)) @ first @ (sample @ LUMINANCE) < 0:
        first = -first
    return (first / np.abs(first).sum()).astype(np.float32)


def grey_of(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) float32 in [0, 1] of colours (H, W, 3) in [0, 1], by `grey_weights`."""
    darkest = np.minimum(weights, 0).sum()
    return np.clip(colours @ weights - darkest, 0, 1).astype(np.float32)


def standardise(image: np.ndarray, statistics: tuple[float, float] | None = None) -> np.ndarray:
    """Shift and scale an image to mean 0 and standard deviation 1.

    Parameters
    ----------
    image : (H, W) float, finite
    statistics : (float, float), optional
        Mean and standard deviation of the image of which this is a part (`mean_and_deviation`); by default
        its own.

    Returns
    -------
    (H, W) float32. An image of one grey level becomes zero everywhere.
    """
    image = np.asarray(image, dtype=np.float32)
    # Sums in float64: the mean of 4e8 float32 pixels loses digits otherwise.
    mean, deviation = statistics or (image.mean(dtype=np.float64), image.std(dtype=np.float64))
    if deviation <= 1e-6:
        return np.zeros_like(image)
    return (image - np.float32(mean)) / np.float32(deviation)


def mean_and_deviation(image: np.ndarray) -> tuple[np.float32, np.float32]:
    """Mean and standard deviation of a float image (H, W), computed band by band for those of any size."""
    mean = sum(image[rows].sum(dtype=np.float64) for rows in bands(image.shape)) / image.size
    squares = 0.0
    for rows in bands(image.shape):
        squares += np.square(image[rows] - mean, dtype=np.float64).sum()
        release(image)
    return np.float32(mean), np.float32(np.sqrt(squares / image.size))


def resize_by(image: np.ndarray, zoom: float) -> np.ndarray:
    """Magnify (zoom > 1) or shrink and smooth (zoom < 1) a grey image, linearly; at least 1 pixel remains."""
    if zoom == 1:
        return np.asarray(image, np.float32)
    zoom = max(zoom, 1 / min(image.shape))
    return rescale(np.asarray(image, np.float32), zoom, order=1, anti_aliasing=zoom < 1).astype(np.float32)


def resize_to(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A map (h, w) at another size: floating point in [0, 1] linearly, whole numbers by the nearest pixel."""
    if values.shape == tuple(shape):
        return values
    if values.dtype.kind in "iub":
        return resize(values, shape, order=0, preserve_range=True, anti_aliasing=False).astype(values.dtype)
    shrinks = values.size > shape[0] * shape[1]
    return np.clip(resize(values, shape, order=1, anti_aliasing=shrinks), 0, 1).astype(np.float32)


def resized_shape(shape: tuple[int, int], zoom: float) -> tuple[int, int]:
    """The size that `resize_by` gives an image of this shape."""
    zoom = max(zoom, 1 / min(shape))
    return tuple(int(n) for n in np.maximum(np.round(zoom * np.asarray(shape)), 1))


def resize_into(values: np.ndarray, out: np.ndarray) -> None:
    """Resize a float map into another, band by band; both may lie in files.

    The values are those of `resize_by`, and of `resize_to` before it limits them to [0, 1]: linear
    interpolation, after a Gaussian along the axes that shrink, mirrored at the edges.

    Parameters
    ----------
    values : (h, w) float32
    out : (H, W) float32
    """
    factors = np.divide(values.shape, out.shape)
    smooth = values.size > out.size
    sigma = np.maximum(0, (factors - 1) / 2) if smooth else np.zeros(2)
    reach = int(4 * sigma[0] + 0.5) + 2  # of the Gaussian, as scipy cuts it, and of the interpolation
    for rows in bands((out.shape[0], max(out.shape[1], round(values.shape[1] * factors[0])))):
        first, last = ((row + 0.5) * factors[0] - 0.5 for row in (rows.start, rows.stop - 1))
        low = max(int(first) - reach, 0)
        part = np.asarray(values[low : int(last) + reach + 1])
        if smooth:
            part = ndimage.gaussian_filter(part, sigma, mode="mirror")
        out[rows] = ndimage.affine_transform(
            part,
            factors,
            (first - low, 0.5 * factors[1] - 0.5),
            (rows.stop - rows.start, out.shape[1]),
            order=1,
            mode="mirror",
        )
        release(values, out)


def tile_slices(shape: tuple[int, int], tile: int, overlap: int) -> list[Tile]:
    """Square tiles that cover an image, neighbours sharing at least `overlap` pixels.

    Parameters
    ----------
    shape : (H, W)
    tile : int
        Side of a tile in pixels. Along a side of the image shorter than this, the tile is cut to fit.
    overlap : int
        Pixels shared by neighbouring tiles, 0 <= overlap < tile.

    Returns
    -------
    list of (slice, slice), row by row. Every tile has the same size, the last ones are shifted inwards.

    Raises
    ------
    ValueError
        If `overlap` is negative or not smaller than `tile`, or `shape` holds no pixel.
    """
    rows, columns = (_starts(size, tile, overlap) for size in shape)
    return [
        (slice(y, min(y + tile, shape[0])), slice(x, min(x + tile, shape[1]))) for y in rows for x in columns
    ]


def blended_tiles(shape: tuple[int, int], tile: int, overlap: int) -> Iterator[tuple[Tile, np.ndarray]]:
    """Tiles of an image with the weights that join them again.

    The grid is a product of rows and columns, so the weights are too, and they are normalised before any
    tile is computed. Adding ``weights * prediction`` into one output array is then all that joining takes:
    no second array of the image's size, and the output may be a file on disk.

    Parameters
    ----------
    shape, tile, overlap
        As in `tile_slices`.

    Yields
    ------
    tile : (slice, slice)
    weights : (h, w) float32
        Summed over all tiles they are 1 in every pixel.
    """
    axes = []
    for size in shape:
        starts = _starts(size, tile, overlap)
        window = _blend_window(min(tile, size), overlap)
        total = np.zeros(size, dtype=np.float32)
        for start in starts:
            total[start : start + tile] += window
        axes.append([(slice(s, min(s + tile, size)), window / total[s : s + tile]) for s in starts])
    for rows, row_weights in axes[0]:
        for columns, column_weights in axes[1]:
            yield (rows, columns), row_weights[:, None] * column_weights[None, :]


def augment(
    image: np.ndarray,
    *masks: np.ndarray,
    scale: tuple[float, float] = (0.8, 1.25),
    rotation: float = 10.0,
    brightness: float = 0.1,
    contrast: float = 0.2,
    flips: bool = True,
    seed: int | np.random.Generator = 0,
) -> tuple[np.ndarray, ...]:
    """One random view of an image, its masks moved with it.

    Flips, quarter turns, a small rotation and a scale are one affine map about the centre, so the image is
    interpolated once (linear) and the masks keep their values (nearest pixel). What lies outside is mirrored,
    the same way in all. Brightness and contrast change the image alone.

    Parameters
    ----------
    image : (H, W) float in [0, 1]
    *masks : (H, W) bool, int or float
        Boundary masks, labels or distance maps of the same image.
    scale : (low, high)
        Magnification is drawn from this range, evenly in its logarithm.
    rotation : float
        Largest small rotation in degrees, either way.
    brightness : float
        Largest change of the mean grey.
    contrast : float
        Largest relative change of the distances from the mean grey.
    flips : bool
        Flip and turn by quarters. An image that is not square is only flipped, so that its shape stays.
    seed : int or numpy.random.Generator

    Returns
    -------
    tuple: the image as float32 in [0, 1], then each mask with its own type.

    Raises
    ------
    ValueError
        If a mask differs in size from the image.
    """
    for mask in masks:
        if mask.shape != image.shape:
            raise ValueError(f"mask {mask.shape} and image {image.shape} differ in size")
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    zoom = np.exp(rng.uniform(*np.log(scale)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.eye(2)
    if flips:
        mirror = np.diag(rng.choice([-1.0, 1.0], 2))
        if image.shape[0] == image.shape[1] and rng.random() < 0.5:
            mirror = mirror[::-1]  # transpose: with the flips, all eight symmetries of the square
    matrix = mirror @ turn / zoom
    centre = (np.array(image.shape) - 1) / 2
    warp = {"matrix": matrix, "offset": centre - matrix @ centre, "mode": "mirror"}

    moved = ndimage.affine_transform(np.asarray(image, np.float32), order=1, **warp)
    mean = moved.mean()
    moved = (
        mean + (moved - mean) * (1 + rng.uniform(-contrast, contrast)) + rng.uniform(-brightness, brightness)
    )
    moved_masks = [
        ndimage.affine_transform(
            mask.astype(np.uint8) if mask.dtype == bool else mask, order=0, **warp
        ).astype(mask.dtype)
        for mask in masks
    ]
    return np.clip(moved, 0, 1).astype(np.float32), *moved_masks


def _blend_window(tile: int, overlap: int) -> np.ndarray:
    """Weights (tile,) in (0, 1] along one axis: 1 inside, falling linearly over `overlap` at both ends."""
    ramp = (np.arange(tile) + 0.5) / max(overlap, 1)
    return np.minimum(1.0, np.minimum(ramp, ramp[::-1])).astype(np.float32)


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis."""
    if size < 1:
        raise ValueError(f"an image side must be at least 1 pixel, got {size}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must lie in 0..tile-1, got overlap {overlap} and tile {tile}")
    last = max(size - tile, 0)
    return [*range(0, last, tile - overlap), last]


def _grey(image: np.ndarray) -> np.ndarray:
    """The image as float32, or a ValueError that says what is wrong with it."""
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image must be grey (H, W), got shape {image.shape}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        raise ValueError(f"image must be finite and lie in [0, 1], its range is {low} to {high}")
    return image
