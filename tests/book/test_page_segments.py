"""The page that segments, in a headless Chromium: the library's grains, no request, mouse and keyboard."""

from __future__ import annotations

import base64
import io
import json

import build_page
import numpy as np
import pytest
import tifffile
from browse_site import serve
from PIL import Image

from microlab.book.experiments.appearances import zoo_field
from microlab.data import images
from microlab.data.datasets import DatasetError, load
from microlab.measure import grain_size, instance
from microlab.measure.grains import grain_table, summarise
from microlab.pipelines.corrections import measure_corrected
from microlab.segment.registry import load_segmenter

pytestmark = pytest.mark.slow
PIXEL = 0.05  # um
PATIENCE = 240_000  # ms
PAGE = """<!doctype html><html lang="en"><title>t</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<main><h1>t</h1><div class="ml-try" id="place"></div></main><script type="module">
import { start } from "./page.js";
window.page = start(document.getElementById("place"));
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("try")
    build_page.build(folder)
    (folder / "index.html").write_text(PAGE)
    with serve(folder) as address:
        yield address


@pytest.fixture
def open_try(browser, site):
    """Open the page; whatever is printed as an error, or asks another site, fails the test."""
    problems, contexts = [], []

    def show(script: str = "", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if foreign(request.url) else None)
        if script:
            page.add_init_script(script)
        page.goto(site + "index.html")
        page.wait_for_selector("button.ml-main")
        return page

    def foreign(url: str) -> bool:
        return not url.startswith((site, "blob:", "data:"))

    yield show
    for context in contexts:
        context.close()
    assert problems == []


def give(page, path) -> None:
    """Open a file, as the file dialogue does."""
    page.set_input_files("input[type=file]", path)
    page.wait_for_function("name => page.state.file?.name === name", arg=path.name)


def segment(page) -> None:
    page.click("[data-do=segment]")
    page.wait_for_function("() => page.state.result || !document.querySelector('.ml-alarm').hidden")
    assert not page.is_visible(".ml-alarm"), page.inner_text(".ml-alarm")


LABELS = """() => {
  const {data, height, width} = (page.state.result.corrected ?? page.state.result.labels), parts = [];
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const part = (i) => String.fromCharCode(...bytes.subarray(i, i + 8192));
  for (let i = 0; i < bytes.length; i += 8192) parts.push(part(i));
  return [btoa(parts.join("")), height, width];
}"""


def labels_of(page) -> np.ndarray:
    text, height, width = page.evaluate(LABELS)
    return np.frombuffer(base64.b64decode(text), np.int32).reshape(height, width).copy()


def saved(page, name: str) -> bytes:
    """What a button of the page saves."""
    with page.expect_download() as download:
        page.click(f"button:text-is('{name}')")
    return open(download.value.path(), "rb").read()


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A virtual field of 160 px with a pixel size, as a TIFF."""
    path = tmp_path_factory.mktemp("field") / "field.tif"
    return images.write_image(path, zoo_field("grooves", 24, side=160).image, pixel_size=PIXEL, bits=16)


def real(name: str) -> np.ndarray:
    try:
        return load(name, "test")[0].image[:320, :640]
    except (DatasetError, OSError) as error:
        pytest.skip(str(error))


# On the third one an alarm rings, and the second network is taken.
FIELDS = [("etched", 31, 256), ("contrast, legend", 31, 256), ("over-etched", 33, 160)]


@pytest.mark.parametrize("name", [*FIELDS, "perovskite", "steel"], ids=str)
def test_the_page_gives_the_librarys_grains(open_try, tmp_path, name):
    image = real(name) if isinstance(name, str) else zoo_field(*name[:2], side=name[2]).image
    path = images.write_image(tmp_path / "image.png", image, pixel_size=PIXEL)
    page = open_try()
    give(page, path)
    segment(page)
    labels = labels_of(page)

    micrograph = images.read_image(path)
    ours = load_segmenter("auto").segment(micrograph)
    assert instance.adapted_rand_error(ours.labels, labels) <= 0.005
    assert abs(len(np.unique(labels)) - len(np.unique(ours.labels))) <= 1
    means = [
        summarise(grain_table(one, PIXEL, valid=valid), ["diameter_um"])["mean"].iloc[0]
        for one, valid in ((ours.labels, ours.valid), (labels, labels > 0))
    ]
    assert means[1] == pytest.approx(means[0], rel=0.005, nan_ok=True)  # NaN where all grains are cut
    numbers = [grain_size.astm_grain_size(one, PIXEL, valid=one > 0).number for one in (ours.labels, labels)]
    assert numbers[1] == pytest.approx(numbers[0], abs=0.02)
    result = page.evaluate("() => { const r = page.state.result; return [r.zoom, r.warnings, r.record]; }")
    assert result[0] == pytest.approx(ours.zoom)
    assert len(result[1]) == len(ours.warnings)
    assert result[2]["method"] == ours.record["method"]
    tried = [
        [(one["method"], round(one["zoom"], 3)) for one in of["tried"]] for of in (ours.record, result[2])
    ]
    assert tried[1] == tried[0]
    shown = dict(page.evaluate("page.state.result.measured.rows"))
    diameter = float(shown["mean diameter"].split()[0].replace("–", "nan"))
    assert diameter == pytest.approx(means[0], rel=0.01, nan_ok=True)


def test_nothing_is_asked_of_the_network_after_the_page_has_its_files(open_try, field):
    page = open_try()
    give(page, field)
    segment(page)  # loads the network
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    page.click("[data-do=whole]")
    give(page, field)
    segment(page)
    for name in ("grains.csv", "labels.tif", "labels.png", "mask.png", "report.html"):
        saved(page, name)
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []


def test_what_is_taken_home(open_try, field, tmp_path):
    page = open_try()
    give(page, field)
    segment(page)
    labels = labels_of(page)
    with tifffile.TiffFile(io.BytesIO(saved(page, "labels.tif"))) as tif:
        assert np.array_equal(tif.asarray(), labels)
    (tmp_path / "labels.tif").write_bytes(saved(page, "labels.tif"))
    assert images.read_labels(tmp_path / "labels.tif")[1] == pytest.approx(PIXEL)
    table = saved(page, "grains.csv").decode().splitlines()
    expected = grain_table(labels, PIXEL)
    assert table[0].split(",") == list(expected)
    assert len(table) == len(expected) + 1
    mask = np.asarray(Image.open(io.BytesIO(saved(page, "mask.png"))))
    assert set(np.unique(mask)) == {0, 255}
    report = saved(page, "report.html").decode()
    assert "field.tif" in report
    assert "mean diameter" in report
    assert "data:image/png" in report


def test_corrections_are_those_of_the_library(open_try, field, tmp_path):
    page = open_try()
    give(page, field)
    segment(page)
    before = labels_of(page)
    page.click("[data-do=correct]")
    place = page.locator(".ml-stage")
    place.focus()
    y, x = np.argwhere((before[:, 1:] != before[:, :-1])[40:120, 40:120])[0] + 40
    grains = int(page.inner_text("[data-value=grains]"))
    box = place.bounding_box()
    for column in (x, x + 1):  # one click on each side of a boundary
        place.click(position={"x": (column + 0.5) * box["width"] / 160, "y": (y + 0.5) * box["height"] / 160})
    page.wait_for_function("() => page.state.result.corrected")
    assert int(page.inner_text("[data-value=grains]")) == grains - 1
    after = labels_of(page)
    assert len(np.unique(after)) == len(np.unique(before)) - 1
    page.wait_for_function("n => page.state.result.measured.rows[0][1] === String(n)", arg=grains - 1)
    (tmp_path / "edits.json").write_bytes(saved(page, "Save field-edits.json"))
    (tmp_path / "labels.tif").write_bytes(saved(page, "labels before corrections"))
    with tifffile.TiffFile(io.BytesIO(saved(page, "labels.tif"))) as tif:
        assert np.array_equal(tif.asarray(), after)
    replayed = measure_corrected(tmp_path / "labels.tif", tmp_path / "edits.json")
    assert np.array_equal(replayed.labels, after)
    assert json.loads((tmp_path / "edits.json").read_text())["edits"][0]["do"] == "merge"


def test_a_part_of_the_image_and_the_scale_bar_are_dragged(open_try, field):
    page = open_try()
    give(page, field)
    box = page.locator(".ml-picture canvas").bounding_box()

    def drag(*corners):
        (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners)
        page.mouse.move(x0, y0)
        page.mouse.down()
        page.mouse.move(x1, y1, steps=3)
        page.mouse.up()

    page.click("[data-tool=bar]")
    drag((0.1, 0.9), (0.6, 0.9))
    assert float(page.input_value("[name=pixels]")) == pytest.approx(80, abs=2)
    page.fill("[name=length]", "4")
    page.dispatch_event("[name=length]", "input")
    unit = {"nm": 1e-3, "µm": 1}[page.input_value("[name=unit]")]
    assert float(page.input_value("[name=size]")) * unit == pytest.approx(4 / 80, rel=0.03)
    page.click("[data-tool=crop]")
    drag((0.25, 0.25), (0.75, 1.0))
    segment(page)
    assert labels_of(page).shape == pytest.approx((120, 80), abs=2)
    assert "scale bar" in dict(page.evaluate("page.state.result.measured.rows"))["pixel size"]


def test_unsaved_corrections_are_not_lost_without_a_question(open_try, field):
    page = open_try()
    give(page, field)
    segment(page)
    page.click("[data-do=correct]")
    page.locator(".ml-stage").press("d")
    page.locator(".ml-stage").press("Enter")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click("[data-do=segment]")
    assert len(asked) == 1
    assert page.is_visible(".ml-stage")
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.click("[data-sample='0']")
    page.wait_for_function("() => page.state.file.name === 'grooves.png'")
    assert len(asked) == 2
    assert not page.is_visible(".ml-stage")


def test_a_pixel_size_given_later_changes_the_numbers(open_try, field):
    page = open_try()
    give(page, field)
    segment(page)
    page.select_option("[name=unit]", "µm")
    page.fill("[name=size]", "2")
    page.wait_for_function("() => page.state.result.pixelSize === 2")
    shown = dict(page.evaluate("page.state.result.measured.rows"))
    assert shown["pixel size"] == "2 µm (given)"
    table = summarise(grain_table(labels_of(page), 2.0), ["diameter_um"])
    assert float(shown["mean diameter"].split()[0]) == pytest.approx(table["mean"].iloc[0], rel=0.01)


def test_a_data_bar_is_shown_and_left_out(open_try, tmp_path):
    """Its scale bar is to be measured, and it may have been found where there is none."""
    image = zoo_field("etched", 34, side=160).image
    bar = np.zeros((40, 160))
    bar[15:18, 100:140] = 1
    path = images.write_image(tmp_path / "barred.png", np.vstack([image, bar]))
    assert images.read_image(path).data_bar_height == 40
    page = open_try()
    give(page, path)
    assert "lowest 40 rows are a data bar" in page.inner_text(".ml-status")
    assert page.evaluate("page.state.read.image.height") == 200
    assert [page.input_value(f"[name={side}]") for side in ("top", "height")] == ["0", "160"]
    segment(page)
    assert labels_of(page).shape == (160, 160)
    assert "lowest 40 rows are a data bar" in page.inner_text(".ml-notes")
    page.click("[data-do=whole]")
    segment(page)
    assert labels_of(page).shape == (200, 160)


def test_what_fails_on_the_graphics_card_is_done_by_the_processor(open_try):
    page = open_try(
        "navigator.gpu.requestAdapter = async () => ({info: {}, features: new Set(), limits: {}});"
    )
    load = (
        "async () => { const {Network} = await import('./network.js');"
        " const network = await Network.load('appearances'), data = new Float32Array(1024);"
        " const [logits] = await network.logits({data, height: 32, width: 32});"
        " return [network.about.provider, logits.length]; }"
    )
    assert page.evaluate(load) == ["wasm", 1024]


@pytest.mark.parametrize("kind", ["lognormal", "outlier", "few", "same"])
def test_the_histogram_has_numpys_bins(open_try, kind):
    values = np.random.default_rng(1).lognormal(1, 0.4, 300)
    values = {"outlier": np.append(values, 200), "few": values[:5], "same": np.full(4, 2.0)}.get(kind, values)
    page = open_try()
    edges = page.evaluate(
        "async (values) => (await import('./histogram.js')).binEdges(values)", values.tolist()
    )
    np.testing.assert_allclose(edges, np.histogram_bin_edges(values, "auto"), rtol=1e-9)


def test_by_keyboard_alone(open_try, field):
    page = open_try()
    give(page, field)  # the dialogue itself is the browser's
    page.focus("[name=zoom]")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_function("() => page.state.result")
    assert page.evaluate("document.activeElement.className") == "ml-result"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.do") == "correct":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".ml-stage")
    page.wait_for_function("() => document.activeElement.classList.contains('ml-stage')")
    page.keyboard.press("d")
    page.keyboard.press("Enter")
    page.wait_for_function("() => page.state.result.corrected")


def test_cancelled_and_begun_again(open_try, field):
    page = open_try()
    give(page, field)
    page.click("[data-do=segment]")
    page.wait_for_selector("[data-do=cancel]:visible")
    page.click("[data-do=cancel]")
    assert page.inner_text(".ml-status") == "Cancelled."
    assert page.is_enabled("[data-do=segment]")
    segment(page)
    assert labels_of(page).max() > 3


def tiff_of(side: int) -> bytes:
    """A TIFF whose header says that it is large."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), np.uint8))
    data = bytearray(file.getvalue())
    entries = int.from_bytes(data[4:8], "little")
    for k in range(int.from_bytes(data[entries : entries + 2], "little")):
        at = entries + 2 + 12 * k
        if int.from_bytes(data[at : at + 2], "little") in (256, 257):
            data[at + 2 : at + 4] = (4).to_bytes(2, "little")
            data[at + 8 : at + 12] = side.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.png", b"no image at all", "notes.png"),
        ("large.tif", tiff_of(8000), "16"),
        ("even.png", None, "grey"),
    ],
)
def test_what_cannot_be_segmented_is_one_line(open_try, tmp_path, name, content, words):
    path = tmp_path / name
    if content is None:
        Image.fromarray(np.full((64, 64), 7, np.uint8)).save(path)
    else:
        path.write_bytes(content)
    page = open_try()
    page.set_input_files("input[type=file]", path)
    page.wait_for_function("() => !document.querySelector('.ml-alarm').hidden")
    text = page.inner_text(".ml-alarm")
    assert words in text
    assert name in text
    assert "\n" not in text
    assert "undefined" not in text


def test_without_web_assembly(open_try, field):
    page = open_try("delete window.WebAssembly;")
    line = page.evaluate(
        "async () => { const {Network} = await import('./network.js');"
        " return Network.load('appearances').catch((error) => error.message); }"
    )
    assert "WebAssembly" in line


def test_nothing_runs_over_on_a_phone(open_try, field):
    page = open_try(viewport={"width": 390, "height": 844}, has_touch=True)
    give(page, field)
    segment(page)
    page.click("[data-do=correct]")
    page.wait_for_selector(".ml-stage")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_warning_says_what_to_do_on_the_page(open_try, tmp_path):
    """Noise has no grains, and with half a millimetre a pixel whatever is found is too large for one."""
    noise = np.random.default_rng(0).random((96, 96))
    page = open_try()
    give(page, images.write_image(tmp_path / "noise.tif", noise, pixel_size=500.0))
    segment(page)
    first, second = page.locator(".ml-warnings p").all_inner_texts()
    assert first.startswith("This segmentation may be wrong")
    assert "give the magnification" in first
    assert "--" not in first
    assert "over 1 mm" in second


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_file_is_dropped_or_pasted(open_try, field, event):
    page = open_try()
    page.evaluate(
        """([event, text]) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "given.tif"));
          const kind = event === "drop" ? DragEvent : ClipboardEvent;
          const key = event === "drop" ? "dataTransfer" : "clipboardData";
          const place = event === "drop" ? document.getElementById("place") : document;
          place.dispatchEvent(new kind(event, {[key]: transfer, bubbles: true}));
        }""",
        [event, base64.b64encode(field.read_bytes()).decode()],
    )
    page.wait_for_function("() => page.state.file?.name === 'given.tif'")
    assert page.inner_text(".ml-status").startswith("160 x 160 pixels")
