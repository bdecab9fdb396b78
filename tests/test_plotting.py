"""Figures: colours that everyone can distinguish, correct scale bars, sliders without a kernel."""

from __future__ import annotations

import base64
import io
import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from microlab import plotting
from microlab.book.slider import frame_slider

mpl.use("Agg")

# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen with the three kinds of dichromacy.
DICHROMATS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def perceived(colour: str, eyes: str | None) -> np.ndarray:
    """A colour in CIELAB as perceived with a kind of colour vision."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    if eyes:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        linear = np.clip(np.array(DICHROMATS[eyes]) @ linear, 0, 1)
        rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(rgb.reshape(1, 1, 3))[0, 0]


@pytest.mark.parametrize("eyes", [None, *DICHROMATS])
def test_the_four_colours_are_distinct_for_every_kind_of_colour_vision(eyes):
    for first, second in itertools.combinations(plotting.COLOURS.values(), 2):
        # A difference of 10 is far above what is just noticeable (about 1 to 2).
        assert deltaE_ciede2000(perceived(first, eyes), perceived(second, eyes)) > 10


def test_the_four_colours_are_distinct_in_grey():
    lightness = sorted(perceived(colour, None)[0] for colour in plotting.COLOURS.values())
    assert min(np.diff(lightness)) > 8
    assert set(plotting.COLOURS) == {"boundary", "prediction", "error", "truth"}


@pytest.mark.parametrize(("pixel_size", "label"), [(0.2252, "20 µm"), (0.01, "1 µm"), (1.0, "100 µm")])
def test_scale_bar_has_a_round_length_and_is_drawn_to_scale(pixel_size, label):
    ax = plotting.show_image(np.zeros((300, 400)), pixel_size=pixel_size)
    (bar,) = (artist for artist in ax.artists if isinstance(artist, AnchoredSizeBar))
    assert bar.txt_label.get_text() == label
    ax.figure.canvas.draw()
    (line,) = bar.size_bar.get_children()
    edges = ax.transData.inverted().transform(line.get_window_extent())[:, 0]
    assert np.ptp(edges) * pixel_size == pytest.approx(float(label.split()[0]))
    assert 0 <= edges.min() <= edges.max() <= 400
    mpl.pyplot.close("all")


def test_scale_bar_refuses_an_impossible_pixel_size():
    with pytest.raises(ValueError, match="pixel_size"):
        plotting.show_image(np.zeros((8, 8)), pixel_size=0.0)
    mpl.pyplot.close("all")


def test_comparison_paints_hits_misses_and_false_positives():
    truth = np.array([[True, True, False, False]])
    prediction = np.array([[True, False, True, False]])
    ax = plotting.compare_boundaries(np.full((1, 4), 0.5), truth, prediction)
    painted = np.asarray(ax.images[0].get_array())[0]
    expected = [
        *(mpl.colors.to_rgb(plotting.COLOURS[name]) for name in ("boundary", "truth", "error")),
        (0.5, 0.5, 0.5),
    ]
    np.testing.assert_allclose(painted, expected, atol=1e-6)
    with pytest.raises(ValueError, match="differ in size"):
        plotting.compare_boundaries(np.zeros((1, 4)), truth, prediction[:, :3])
    with pytest.raises(ValueError, match="differ in size"):
        plotting.overlay_boundaries(np.zeros((2, 2)), truth)
    mpl.pyplot.close("all")


def test_every_grain_has_its_own_colour_and_the_background_is_dark():
    labels = np.arange(7, dtype=np.int32).reshape(1, 7)
    colours = plotting.colour_grains(labels)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 7
    assert colours[0, 0].max() < colours[0, 1:].mean(axis=1).min()
    assert np.array_equal(colours, plotting.colour_grains(labels))
    assert plotting.colour_grains(labels, background=None)[0, 0].max() > 0.2


class Tags(HTMLParser):
    """Tags and their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def first(self, tag: str) -> dict:
        return next(attributes for name, attributes in self.tags if name == tag)


def slider(**changes) -> str:
    arguments = {
        "arrays": [np.full((4, 6), value) for value in (0.0, 0.5, 1.0)],
        "values": ["0", "</script><b>", "2"],
        "label": "time <steps>",
        "alt": 'A "grey" field',
    }
    return frame_slider(**(arguments | changes)).data


def test_slider_works_with_keyboard_and_screen_reader():
    page = Tags(slider())
    control = page.first("input")
    assert control["type"] == "range"
    assert page.first("label")["for"] == control["id"]
    assert control["aria-valuetext"] == "0"
    assert (control["min"], control["max"]) == ("0", "2")
    assert page.first("img")["alt"] == 'A "grey" field (time <steps>: 0)'
    assert page.first("button")["type"] == "button"
    assert "prefers-reduced-motion" in slider()


def test_slider_shows_its_first_picture_without_javascript():
    page = Tags(slider())
    assert page.first("img")["src"].startswith("data:image/png;base64,")
    assert "hidden" in page.first("div")  # the controls appear only once the script runs


def test_slider_cannot_be_broken_by_its_texts():
    assert [tag for tag, _ in Tags(slider()).tags].count("script") == 1
    assert "<b>" not in slider()


def test_slider_is_named_by_its_content():
    assert slider() == slider()
    assert Tags(slider()).first("figure")["id"] != Tags(slider(label="x")).first("figure")["id"]


def test_slider_shares_one_grey_scale_over_its_pictures():
    frames = re.search(r"frames = (\[.*?\])", slider())[1]
    levels = []
    for uri in re.findall(r"base64,([^\"]+)", frames):
        picture = Image.open(io.BytesIO(base64.b64decode(uri))).convert("L")
        assert picture.size == (6, 4)
        levels.append(int(np.asarray(picture)[0, 0]))
    assert levels == [0, 128, 255]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alt": " "}, "alt is empty"),
        ({"values": ["0"]}, "got 3 and 1"),
        ({"arrays": [np.zeros((4, 6))], "values": ["0"]}, "two or more"),
        ({"arrays": [np.zeros(4)] * 3}, r"arrays\[0\] has shape \(4,\)"),
    ],
)
def test_slider_refuses_what_it_cannot_show(changes, message):
    with pytest.raises(ValueError, match=message):
        slider(**changes)


def test_html_image_keeps_its_pixels_and_needs_alternative_text():
    field = np.linspace(0, 1, 12).reshape(3, 4)
    tag = Tags(plotting.html_image(field, "A ramp", vmin=0, vmax=1)).first("img")
    assert tag["alt"] == "A ramp"
    picture = Image.open(io.BytesIO(base64.b64decode(tag["src"].split(",")[1]))).convert("L")
    assert np.abs(np.asarray(picture) / 255 - field).max() < 0.003  # half a grey level, twice rounded
    with pytest.raises(ValueError, match="alt is empty"):
        plotting.html_image(field, "")


def test_figures_can_be_shown_in_html():
    plotting.style()
    fig, ax = mpl.pyplot.subplots()
    ax.plot([0, 1])
    assert (
        Tags(plotting.html_image(fig, "A line", width=200)).first("img")["src"].startswith("data:image/png")
    )
    mpl.pyplot.close("all")
    mpl.rcdefaults()


def test_importing_the_library_needs_no_jupyter():
    block = "import sys; sys.modules['IPython'] = sys.modules['ipywidgets'] = None; import microlab.plotting"
    subprocess.run([sys.executable, "-c", block], check=True, timeout=60)
