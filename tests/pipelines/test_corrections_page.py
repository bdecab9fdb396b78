"""The correction of grains in a headless Chromium: the same labels as in Python, by mouse and by keyboard."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from browser_module import MODEL, caller
from command_line import run
from dark_lines import grid, save_network
from voronoi_labels import random_edit, voronoi_labels

from microlab.data import images
from microlab.data.edits import Edit, apply_edits, labels_sha256, read_edits
from microlab.data.errors import InputError
from microlab.measure.grains import grain_table, summarise
from microlab.pipelines import corrections

pytestmark = pytest.mark.slow
DESKTOP = {"width": 1100, "height": 900}


@pytest.fixture
def in_browser(open_page):
    """Call a JavaScript function of (module, argument), where module is the correction's script."""
    page = open_page("<div id=place></div>", viewport=DESKTOP)
    call = caller(page, corrections.script())
    call.page = page
    return call


def made_and_refused(
    labels: np.ndarray, number: int, *, field: bool = False, seed: int = 0
) -> tuple[list[Edit], dict[Edit, str], np.ndarray]:
    """Random edits that Python makes in turn, others that it refuses at first and why, and the result."""
    rng = np.random.default_rng(seed)
    edits, refused, after = [], {}, labels
    while len(edits) < number:
        edit = random_edit(labels, rng)
        try:
            apply_edits(labels, [edit], field_of_view=field)
        except InputError as error:
            refused[edit] = str(error).removeprefix("edit 1: ")
            continue
        try:
            after = apply_edits(labels, [*edits, edit], field_of_view=field)
        except InputError:  # an earlier edit has changed its place
            continue
        edits.append(edit)
    return edits, refused, after


REPLAY = """async (module, {text, width, field, edits, refused}) => {
  const labels = await module.unpack(text, width);
  const image = new module.Grains(labels, width, field);
  const before = JSON.stringify(image.table());
  const words = refused.map((edit) => {
    try { image.apply(edit); return "made"; } catch (error) { return error.message; }
  });
  for (const edit of edits) image.apply(edit);
  const after = [...image.labels], table = image.table(), mean = image.mean();
  const is = (labels, table) => (
    image.labels.every((label, i) => label === labels[i]) && JSON.stringify(image.table()) === table
  );
  const file = module.editsFile(image, "0".repeat(64), "a name", "1");
  while (image.undo());
  const undone = is(labels, before);
  while (image.redo());
  const redone = is(after, JSON.stringify(table));
  return {after, table, mean, words, undone, redone, file};
}"""


@pytest.mark.parametrize("kind", ["filled", "lines", "wide lines", "field of view"])
def test_the_page_makes_what_python_makes(in_browser, tmp_path, kind):
    """A thousand grains, edits of all four kinds: every pixel, every area, every weight is the same."""
    width = {"lines": 1, "wide lines": 4}.get(kind, 0)
    labels = voronoi_labels((500, 520), 1000, lines=width, seed=3)
    field = kind == "field of view"
    if field:
        y, x = np.mgrid[:500, :520]
        labels[(np.hypot(y - 250, x - 260) > 255) | (y < 40)] = 0
    edits, refused, after = made_and_refused(labels, 25, field=field, seed=len(kind))
    assert {edit.do for edit in edits} == {"merge", "split", "delete", "add"}
    result = in_browser(
        REPLAY,
        {
            "text": corrections.pack_labels(labels),
            "width": 520,
            "field": field,
            "edits": [edit._asdict() for edit in edits],
            "refused": [edit._asdict() for edit in refused],
        },
    )
    np.testing.assert_array_equal(np.reshape(result["after"], labels.shape), after)
    table = grain_table(after, valid=labels > 0 if field else None)
    rows = result["table"]
    assert [row["label"] for row in rows] == table["label"].tolist()
    assert [row["area"] for row in rows] == table["area_px"].tolist()
    assert [row["cut"] for row in rows] == table["touches_edge"].tolist()
    np.testing.assert_allclose([row["diameter"] for row in rows], table["diameter_px"], rtol=1e-14)
    np.testing.assert_allclose([row["weight"] for row in rows], table["edge_weight"], rtol=1e-14)
    mean = summarise(table, ["diameter_px"]).loc["diameter_px", "mean"]
    assert result["mean"]["diameter"] == pytest.approx(mean, rel=1e-12)  # another order of the sum
    assert (result["mean"]["grains"], result["mean"]["cut"]) == (len(table), table["touches_edge"].sum())
    assert len(refused) > 2
    assert result["words"] == list(refused.values())
    assert result["undone"]
    assert result["redone"]
    (tmp_path / "edits.json").write_text(result["file"])
    stored = read_edits(tmp_path / "edits.json")
    assert stored.edits == tuple(edits)
    assert (stored.shape, stored.field_of_view) == (labels.shape, field)
    assert len(result["file"]) < 6000


CLICKS = """async (module, {data, edits}) => {
  const labels = await module.unpack(data.labels, data.width);
  const page = module.mount(document.getElementById("place"), {...data, labels});
  document.querySelector(".ml-all").open = true;
  await new Promise((done) => setTimeout(done, 200));
  const times = [];
  for (const edit of edits) {
    const begin = performance.now();
    page.act(edit);
    document.body.getBoundingClientRect(); // the layout counts, too
    times.push(performance.now() - begin);
  }
  return {times, made: page.image.edits.length, rows: document.querySelectorAll(".ml-body .ml-line").length};
}"""


def test_a_click_among_a_thousand_grains_takes_less_than_50_ms(in_browser):
    """With the table of all grains open, in a megapixel. The median, since machines have pauses."""
    labels = voronoi_labels((1000, 1000), 1000, seed=1)
    edits, _, after = made_and_refused(labels, 20)
    image = np.random.default_rng(0).random((1000, 1000), np.float32)
    data = corrections.page_data(labels, image)
    result = in_browser(CLICKS, {"data": data, "edits": [edit._asdict() for edit in edits]})
    assert result["made"] == 20
    assert result["rows"] == len(np.unique(after[after > 0]))
    assert statistics.median(result["times"]) < 50, sorted(result["times"])


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report about one image of 4 x 5 grains of 24 px, as `microlab segment` writes it."""
    folder = tmp_path_factory.mktemp("report")
    weights = save_network(folder / "dark.safetensors")
    image = images.write_image(folder / "field.tif", grid(4, 5)[0], pixel_size=0.5)
    assert run("segment", image, "-o", folder / "out", "--weights", weights).exit_code == 0
    return folder / "out" / "report.html"


@pytest.fixture
def opened(open_page, report):
    """The report with the correction of its image open."""
    page = open_page(report, viewport=DESKTOP)
    page.get_by_role("button", name="Correct the grains of field").click()
    page.locator(".ml-stage").wait_for()
    return page


def at(page, *pixels: tuple[float, float]) -> list[tuple[float, float]]:
    """Places in the window of pixels (row, column) of the picture."""
    page.locator(".ml-stage").scroll_into_view_if_needed()
    box = page.locator(".ml-stage").bounding_box()
    return [
        (box["x"] + (x + 0.5) * box["width"] / 120, box["y"] + (y + 0.5) * box["height"] / 96)
        for y, x in pixels
    ]


def click(page, *pixels: tuple[float, float]) -> None:
    for place in at(page, *pixels):
        page.mouse.click(*place)


def drag(page, *pixels: tuple[float, float]) -> None:
    first, *others = at(page, *pixels)
    page.mouse.move(*first)
    page.mouse.down()
    for place in others:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def tool(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def value(page, key: str) -> str:
    return page.locator(f"[data-value={key}]").text_content()


def said(page) -> str:
    return page.locator(".ml-say").text_content()


def saved(page, path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save edits.json").click()
    assert download.value.suggested_filename == "edits.json"
    download.value.save_as(path)
    return path


def measured(report: Path, edits: Path, out: Path) -> str:
    labels = report.parent / "field" / "labels.tif"
    result = run("measure", labels, "--edits", edits, "-o", out)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_grains_are_corrected_with_the_mouse_and_measured_as_shown(opened, report, tmp_path):
    before = value(opened, "diameter")
    assert value(opened, "before") == f"20 grains, {before}"
    click(opened, (36, 36), (36, 60))  # merge is the first tool
    assert value(opened, "grains") == "19"
    assert value(opened, "diameter") != before
    assert said(opened).startswith("Merged. 19 grains, mean diameter")
    tool(opened, "Split")
    drag(opened, (44, 84), (58, 84), (76, 84))
    assert value(opened, "grains") == "20"
    click(opened, (60, 20), (60, 52))  # both ends of a line
    assert value(opened, "grains") == "21"
    tool(opened, "Delete")
    click(opened, (84, 12))
    assert value(opened, "grains") == "20"
    tool(opened, "Add")
    drag(opened, (30, 40), (30, 52), (42, 52), (42, 40))
    assert value(opened, "grains") == "21"
    click(opened, (6, 78), (6, 90), (18, 90), (18, 78), (18, 78))  # corners, the last one twice
    assert value(opened, "grains") == "22"
    tool(opened, "Undo")
    assert value(opened, "grains") == "21"
    tool(opened, "Redo")
    assert (value(opened, "grains"), value(opened, "edits")) == ("22", "6")

    edits = saved(opened, tmp_path / "edits.json")
    assert edits.stat().st_size < 2000
    out = measured(report, edits, tmp_path / "out")
    assert re.search(r"\ngrains +22\n", out)
    assert re.search(r"\nmean diameter +(.*)\n", out)[1] == value(opened, "diameter")
    assert re.search(r"cut by the image's edge +(\d+)", out)[1] == value(opened, "cut")
    labels = images.read_labels(report.parent / "field" / "labels.tif")[0]
    corrected = images.read_labels(tmp_path / "out" / "labels.tif")[0]
    assert corrected[84, 12] == 0
    assert corrected[36, 36] == corrected[36, 60] == labels[36, 36]
    assert len({corrected[54, 80], corrected[54, 90], labels[54, 80]}) == 2


def test_everything_works_from_the_keyboard(opened, report, tmp_path):
    """Merge, split, delete, add, undo, redo, zoom, the table, without a mouse."""
    press = opened.keyboard.press
    assert opened.evaluate("document.activeElement.className") == "ml-stage", "the picture has the focus"
    for key in ["ArrowDown", "Enter", *["ArrowRight"] * 3, "Enter"]:  # row 56, columns 60 and 84
        press(key)
    assert value(opened, "grains") == "19"
    press("u")
    assert value(opened, "grains") == "20"
    press("Control+y")
    assert value(opened, "grains") == "19"
    press("s")
    for key in [*["ArrowUp"] * 3, "Enter", *["ArrowDown"] * 6, "Enter"]:
        press(key)
    assert said(opened).startswith("Split. 20 grains")
    press("d")
    press("Enter")
    assert value(opened, "grains") == "19"
    press("a")
    for key in [*["ArrowUp"] * 2, "Enter", "ArrowUp", "Enter", "ArrowLeft", "Enter", "Enter"]:
        press(key)
    assert said(opened).startswith("Added. 20 grains")
    press("Enter")
    press("Escape")
    assert said(opened) == "Given up."
    width = opened.locator(".ml-stage").bounding_box()["width"]
    press("+")
    assert opened.locator(".ml-stage").bounding_box()["width"] == pytest.approx(1.5 * width, rel=0.01)
    for _ in range(12):
        press("ArrowRight")
    assert opened.locator(".ml-view").evaluate("e => e.scrollLeft") > 0, "the cross stays in view"
    press("0")
    assert opened.locator(".ml-stage").bounding_box()["width"] == pytest.approx(width, rel=0.01)
    press("b")
    assert not opened.get_by_role("checkbox", name="boundaries").is_checked()

    opened.locator(".ml-all summary").press("Enter")
    assert opened.get_by_role("table", name="Grains", exact=True).get_by_role("row").count() == 21
    opened.get_by_label("grain", exact=True).fill("7")
    opened.get_by_role("button", name="Show in the picture").press("Enter")
    assert said(opened).startswith("Chosen: grain 7, diameter")
    out = measured(report, saved(opened, tmp_path / "edits.json"), tmp_path / "out")
    assert re.search(r"\nmean diameter +(.*)\n", out)[1] == value(opened, "diameter")


def test_edits_are_opened_again_and_those_of_another_image_are_not(opened, tmp_path):
    click(opened, (36, 36), (36, 60))
    edits = saved(opened, tmp_path / "edits.json")
    tool(opened, "Undo")
    assert value(opened, "edits") == "0"
    opened.locator("input[type=file]").set_input_files(edits)
    opened.wait_for_function("document.querySelector('[data-value=edits]').textContent === '1'")
    assert value(opened, "grains") == "19"
    other = json.loads(edits.read_text()) | {"sha256": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other))
    opened.locator("input[type=file]").set_input_files(tmp_path / "other.json")
    opened.wait_for_function("document.querySelector('.ml-say').textContent.includes('cannot be opened')")
    assert "belongs to another label image" in said(opened)
    assert value(opened, "grains") == "19"


def test_edits_that_are_not_saved_are_asked_for_before_the_page_is_left(opened, tmp_path):
    questions = []

    def leave(dialog) -> None:
        questions.append(dialog.type)
        dialog.accept()

    opened.on("dialog", leave)
    click(opened, (36, 36), (36, 60))
    opened.reload()
    assert questions == ["beforeunload"]
    opened.get_by_role("button", name="Correct the grains of field").click()
    opened.locator(".ml-stage").wait_for()
    click(opened, (36, 36), (36, 60))
    saved(opened, tmp_path / "edits.json")
    opened.reload()
    assert questions == ["beforeunload"]


def test_what_cannot_be_done_is_said_and_changes_nothing(opened):
    click(opened, (36, 36), (84, 108))
    assert re.match(r"Grains \d+ and \d+ share no boundary\.", said(opened))
    tool(opened, "Split")
    drag(opened, (36, 30), (36, 40))
    assert re.match(
        r"The line does not cut grain \d+ in two; draw it from boundary to boundary\.", said(opened)
    )
    tool(opened, "Delete")
    click(opened, (36, 36), (36, 36))
    assert said(opened).startswith("There is no grain at row 36, column 36")
    assert (value(opened, "grains"), value(opened, "edits")) == ("19", "1")


def test_the_labels_of_the_page_are_checked(open_page, report, tmp_path):
    page = report.read_text(encoding="utf-8")
    labels = images.read_labels(report.parent / "field" / "labels.tif")[0]
    own = labels_sha256(labels)
    assert page.count(own) == 1
    (tmp_path / "report.html").write_text(page.replace(own, "0" * 64), encoding="utf-8")
    opened = open_page(tmp_path / "report.html", viewport=DESKTOP)
    opened.get_by_role("button", name="Correct the grains of field").click()
    opened.get_by_text("cannot be corrected here: the labels in this page are damaged").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_is_wide_enough(open_page, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(report, color_scheme=scheme)
    page.get_by_role("button", name="Correct the grains of field").click()
    page.locator(".ml-all summary").click()
    wide = """[...document.querySelectorAll("main *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth && !e.closest(".scroll, .ml-view"))
        .map((e) => e.outerHTML.slice(0, 90))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    violations = [
        (v["id"], v["nodes"][0]["html"])
        for v in axe.run(page).response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert violations == []
    page.emulate_media(media="print")
    assert not page.locator(".ml-edit").is_visible()


def test_without_javascript_the_report_says_so(open_page, report):
    page = open_page(report, java_script_enabled=False)
    assert page.get_by_text(
        "All of it happens on this page, in JavaScript; nothing is uploaded."
    ).is_visible()
    assert not page.get_by_role("button", name="Correct the grains of field").is_visible()


IN_JUPYTERLAB = (
    f"""async (module, values) => {{{MODEL}"""
    + """
  const el = document.getElementById("place");
  const cleanup = await module.default.render({ model, el });
  const grains = () => el.querySelector("[data-value=grains]").textContent;
  const opened = grains();
  el.querySelector("[data-do=undo]").click();
  const undone = [...values.edits];
  values.edits = [{ do: "delete", at: [[5, 5]] }, { do: "merge", at: [[30, 30], [30, 50]] }];
  listeners["change:edits"]();
  const set = grains();
  cleanup();
  return [opened, undone, set, Object.keys(listeners).length, el.querySelectorAll("canvas").length];
}"""
)


def test_the_widget_keeps_its_edits_in_step_with_python(in_browser):
    labels = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((20, 20), int)).astype(np.int32)
    data = corrections.page_data(labels, np.random.default_rng(0).random(labels.shape))
    first = {"do": "merge", "at": [[30, 30], [30, 50]]}
    assert in_browser(IN_JUPYTERLAB, {"data": data, "edits": [first]}) == ["24", [], "23", 0, 0]


def test_the_widget_returns_corrected_labels():
    pytest.importorskip("anywidget")
    from microlab.book.widgets.corrections import CorrectionWidget

    labels = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((20, 20), int))
    widget = CorrectionWidget(labels, np.random.default_rng(0).random(labels.shape), 0.5)
    assert str(widget._esm) == corrections.script()
    np.testing.assert_array_equal(widget.labels, labels)
    widget.edits = [{"do": "merge", "at": [[30, 30], [30, 50]]}]
    np.testing.assert_array_equal(widget.labels, np.where(labels == 8, 7, labels))
    assert widget.record.sha256 == labels_sha256(labels)
    with pytest.raises(ValueError, match="differ in size"):
        CorrectionWidget(labels, np.zeros((3, 3)))
