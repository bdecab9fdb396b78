"""Figures of the book: one style, one set of colours, scale bars, and images for HTML pages.

Every picture needs a text for readers who cannot see it. `html_image`, and `microlab.book.slider` built on
it, raise an error without `alt`; the other functions draw on matplotlib axes, and the text stands in the
cell's ``mystnb: image: alt:`` metadata, which the checks of the book require.
"""

from __future__ import annotations

import base64
import html
import io
import json
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import ArrayLike, NDArray
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One meaning, one colour, in the whole book. From the Okabe-Ito palette, chosen so that the four also differ
# in lightness (89, 71, 61 and 46 of 100): they stay apart in grey and with any colour vision.
COLOURS: dict[str, str] = {
    "boundary": "#F0E442",  # where a boundary is; too pale for lines on white
    "prediction": "#E69F00",  # what a method says
    "error": "#CC79A7",  # what a method says wrongly
    "truth": "#0072B2",  # what is known
}

# By class id. Okabe-Ito colours on dark grey, apart in lightness too (27, 89, 70 and 54 of 100). The network
# lies on grain boundaries, so it has the book's colour of boundaries; the colours of truth, prediction and
# error are left to their meanings.
CLASS_COLOURS: tuple[str, ...] = ("#404040", COLOURS["boundary"], "#56B4E9", "#D55E00")


def style() -> None:
    """Switch matplotlib to the book's style: plain axes, legible sizes, the book's colours in order."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(
                color=[COLOURS["truth"], COLOURS["prediction"], COLOURS["error"], "#009E73", "#4D4D4D"],
                linestyle=["-", "--", "-.", ":", (0, (1, 1))],
            ),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.figsize": (6.0, 3.6),
            "font.size": 10.5,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def show_image(
    image: ArrayLike,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    pixel_size: float | None = None,
    cmap: str = "gray",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Axes:
    """Draw an image without axes, with a scale bar when the pixel size is known.

    Parameters
    ----------
    image : (H, W) or (H, W, 3)
        Micrograph, field or mask.
    ax : Axes, optional
        Where to draw; by default a new figure of 4 inches.
    title : str, optional
        Title above the picture.
    pixel_size : float, optional
        Micrometres per pixel; draws a scale bar.
    cmap, vmin, vmax
        As in matplotlib.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If `image` is not an image.
    """
    image = as_image(image, "image")
    if ax is None:
        import matplotlib.pyplot as plt  # here: a report needs no window

        _, ax = plt.subplots(figsize=(4, 4 * image.shape[0] / image.shape[1] + 0.2))
    ax.imshow(image, cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    if pixel_size is not None:
        scale_bar(ax, pixel_size)
    return ax


def colour_grains(labels: ArrayLike, *, seed: int = 0, background: int | None = 0) -> NDArray[np.float32]:
    """Give every grain a light colour of its own.

    Parameters
    ----------
    labels : (H, W) int
        Label image or grain map.
    seed : int
        Changes which grain has which colour.
    background : int or None
        The label that is no grain, drawn dark; None for a grain map, where 0 is a grain.

    Returns
    -------
    (H, W, 3) float32 in [0, 1]
    """
    labels = np.asarray(labels)
    ids, index = np.unique(labels, return_inverse=True)
    # Equal steps along a lightness-ordered map, shuffled, so that neighbours differ in grey too.
    shades = np.random.default_rng(seed).permutation(np.linspace(0.15, 1.0, len(ids)))
    palette = mpl.colormaps["viridis"](shades)[:, :3].astype(np.float32)
    palette = 0.75 * palette + 0.25
    if background is not None:
        palette[ids == background] = 0.1
    return palette[index].reshape(*labels.shape, 3)


def colour_classes(mask: ArrayLike) -> NDArray[np.float32]:
    """A mask of class ids as a colour picture, in `CLASS_COLOURS`.

    Parameters
    ----------
    mask : (H, W) int in 0..3

    Returns
    -------
    (H, W, 3) float32 in [0, 1]

    Raises
    ------
    ValueError
        If a class id has no colour.
    """
    mask = np.asarray(mask)
    if mask.size and not 0 <= mask.min() <= mask.max() < len(CLASS_COLOURS):
        raise ValueError(
            f"mask must hold class ids 0 to {len(CLASS_COLOURS) - 1}, got {mask.min()} to {mask.max()}"
        )
    return mpl.colors.to_rgba_array(CLASS_COLOURS)[:, :3].astype(np.float32)[mask]


def overlay_boundaries(
    image: ArrayLike, boundary: ArrayLike, *, colour: str = "prediction", ax: Axes | None = None, **show
) -> Axes:
    """Draw a boundary mask in colour over its image.

    Parameters
    ----------
    image : (H, W)
        Micrograph in [0, 1].
    boundary : (H, W) bool
        True on boundaries.
    colour : str
        A key of `COLOURS` or any matplotlib colour.
    ax, **show
        As in `show_image`.

    Returns
    -------
    Axes
    """
    picture = _paint(image, [(boundary, COLOURS.get(colour, colour))])
    return show_image(picture, ax=ax, **show)


def compare_boundaries(
    image: ArrayLike, truth: ArrayLike, prediction: ArrayLike, *, ax: Axes | None = None, **show
) -> Axes:
    """Draw where two boundary masks agree and where they do not.

    Agreement has the colour of a boundary, what the prediction misses that of the truth, and what it invents
    that of an error.

    Parameters
    ----------
    image : (H, W)
        Micrograph in [0, 1].
    truth, prediction : (H, W) bool
        True on boundaries.
    ax, **show
        As in `show_image`.

    Returns
    -------
    Axes
    """
    truth, prediction = np.asarray(truth, bool), np.asarray(prediction, bool)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in size")
    parts = [
        (truth & prediction, COLOURS["boundary"]),
        (truth & ~prediction, COLOURS["truth"]),
        (prediction & ~truth, COLOURS["error"]),
    ]
    return show_image(_paint(image, parts), ax=ax, **show)


def scale_bar(ax: Axes, pixel_size: float, *, unit: str = "µm", fraction: float = 0.25) -> None:
    """Draw a scale bar of a round length in the lower right corner of an image.

    Parameters
    ----------
    ax : Axes
        Axes that show an image, one data unit per pixel.
    pixel_size : float > 0
        Length of one pixel in `unit`.
    unit : str
        Name of the unit; ``"px"`` with a pixel size of 1 for a simulation without a scale.
    fraction : float in (0, 1)
        The bar is the longest 1-2-5 length within this part of the image's width.

    Raises
    ------
    ValueError
        If `pixel_size` is not positive.
    """
    if not pixel_size > 0:
        raise ValueError(f"pixel_size must be positive, got {pixel_size}")
    width, height = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())
    longest = width * pixel_size * fraction
    decade = 10.0 ** np.floor(np.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    bar = AnchoredSizeBar(
        ax.transData,
        length / pixel_size,
        f"{length:g} {unit}",
        "lower right",
        pad=0.3,
        borderpad=0.3,
        sep=2,
        color="white",
        size_vertical=0.012 * height,
        label_top=True,
        fontproperties=FontProperties(size=8),
    )
    bar.patch.set(facecolor="black", alpha=0.65, linewidth=0)  # a dark plate: legible on any micrograph
    ax.add_artist(bar)


def _paint(image: ArrayLike, parts: list[tuple[ArrayLike, str]]) -> NDArray[np.float32]:
    image = as_image(image, "image").astype(np.float32)
    picture = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    for mask, colour in parts:
        mask = np.asarray(mask, bool)
        if mask.shape != picture.shape[:2]:
            raise ValueError(f"mask {mask.shape} and image {picture.shape[:2]} differ in size")
        picture[mask] = mpl.colors.to_rgb(colour)
    return np.clip(picture, 0, 1)


def html_image(picture: ArrayLike | Figure, alt: str, *, width: int | None = None, **colours) -> str:
    """An HTML ``<img>`` with its pixels inside it, for reports and static pages.

    Parameters
    ----------
    picture : (H, W), (H, W, 3) or Figure
        Image, or a matplotlib figure.
    alt : str
        What the picture shows, for those who cannot see it.
    width : int, optional
        Width on the page in CSS pixels.
    **colours
        `cmap`, `vmin`, `vmax` for an image.

    Returns
    -------
    str
    """
    _need_alt(alt)
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", metadata={"Software": None})
        source = _data_uri(buffer.getvalue())
    else:
        source = _png(as_image(picture, "picture"), **colours)
    size = f' style="width:{width}px;max-width:100%"' if width else ' style="max-width:100%"'
    return f'<img alt="{html.escape(alt)}" src="{source}"{size}>'


def _need_alt(alt: str) -> None:
    if not alt or not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the picture shows")


def as_image(array: ArrayLike, name: str) -> NDArray:
    """`array` if it is an image, (H, W) or (H, W, 3); otherwise a ValueError that says `name`."""
    array = np.asarray(array)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"{name} has shape {array.shape}; an image is (H, W) or (H, W, 3)")
    return array


def _png(array: NDArray, cmap: str = "gray", vmin: float | None = None, vmax: float | None = None) -> str:
    """Data URI of an image: 8-bit palette for one channel (exact and small), RGB for three."""
    if array.ndim == 3:
        picture = Image.fromarray((np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8))
    else:
        low = float(array.min()) if vmin is None else vmin
        high = float(array.max()) if vmax is None else vmax
        scaled = (array.astype(np.float64) - low) / ((high - low) or 1.0)
        picture = Image.fromarray((np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8))
        levels = mpl.colormaps[cmap](np.linspace(0, 1, 256))[:, :3]
        picture.putpalette((levels * 255 + 0.5).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _script(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
