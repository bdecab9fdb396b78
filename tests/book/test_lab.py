"""`make lab`: the real JupyterLab in a headless Chromium, from the start page to the simulator and a hint."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import browse_site
import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("jupyterlab")
BROWSER = next(filter(None, map(shutil.which, browse_site.BROWSERS)), None)
SHOTS = os.environ.get("LAB_SHOTS")  # folder for screenshots taken during the test
pytestmark = pytest.mark.slow

# Cells of chapters 00 and 03, and the widget that chapter 03 mentions, in one notebook.
WIDGET = (
    "from microlab.book.widgets.lab import GrainGrowthWidget\n\n"
    "widget = GrainGrowthWidget(60, seed=1)\nwidget"
)
WRONG = 'from microlab.book import exercises\n\nexercises.check("start-ex-pixel", 2.5, 2.5)'
REPORT = 'print(f"Python was told: {widget.grains} grains at time {widget.time:.0f}")'


def started_by_make() -> tuple[str, str]:
    """The folder in which `make lab` starts JupyterLab, and the option that selects what is opened."""
    (match,) = re.findall(r"jupyter lab (\S+) (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    return match


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Address that JupyterLab would open in the reader's browser, served from copies of the notebooks."""
    root, opens = started_by_make()
    folder = tmp_path / root
    folder.mkdir()
    for notebook in (ROOT / root).glob("[0-9]*.ipynb"):
        shutil.copy(notebook, folder)
    cells = nbformat.read(folder / "03_grain_growth.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    (simulator,) = (source for source in sources if "\nsimulator(" in f"\n{source}")
    imports = next(source for source in sources if "import simulator" in source)
    walk = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in (imports, simulator, WIDGET, REPORT, WRONG)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(walk, folder / "walk.ipynb")
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    for name in ("WORKSPACES", "SETTINGS"):
        monkeypatch.setenv(f"JUPYTERLAB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(ROOT / "tools" / "lab"))
    monkeypatch.setenv("MICROLAB_PROFILE", "smoke")
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        root,
        opens,
        "--no-browser",
        "--port=0",
        "--allow-root",
    ]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            yield opened_address(tmp_path / "runtime", server, tmp_path / "server.log")
        finally:
            server.terminate()
            server.wait(timeout=30)


def opened_address(runtime: Path, server: subprocess.Popen, log: Path) -> str:
    """Target of the redirect page that the server writes for the browser."""
    for _ in range(240):
        for page in runtime.glob("jpserver-*-open.html"):
            if match := re.search(r'href="(http[^"]+)"', page.read_text(encoding="utf-8")):
                return match[1]
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture
def page(tmp_path):
    """A browser page of desktop size; errors in it fail the test."""
    problems = []
    with browse_site.chromium() as browser:
        page = browser.new_page(viewport=browse_site.DESKTOP)
        page.set_default_timeout(1000 * browse_site.PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / "end.png")
            print(page.url, problems)
        page.close()
    assert problems == []


def picture(element, name: str) -> np.ndarray:
    """Screenshot of an element; kept in LAB_SHOTS, if that is set."""
    shot = element.screenshot()
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        (Path(SHOTS) / f"{name}.png").write_bytes(shot)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)


def run_cells(notebook, *numbers: int) -> None:
    """Run code cells as a reader would; retry where the kernel was not ready and the key had no effect."""
    for number in numbers:
        prompt = notebook.locator(".jp-CodeCell .jp-InputArea-prompt").nth(number)
        deadline = time.monotonic() + browse_site.PATIENCE
        while not re.match(r"\[\d+\]", prompt_text := prompt.inner_text()):
            assert time.monotonic() < deadline, f"cell {number} does not run"
            if re.match(r"\[\s*\]", prompt_text):
                prompt.click()
                prompt.page.keyboard.press("Shift+Enter")
            prompt.page.wait_for_timeout(2000)


def play(panel, name: str) -> None:
    """The simulator changes while it plays and stops after Pause; an arrow key moves its slider."""
    slider = panel.locator("[data-set=kappa]")
    slider.focus()
    slider.press("ArrowRight")
    assert slider.input_value() == "1.1"
    assert slider.evaluate("e => e === document.activeElement")
    canvas = panel.locator("canvas")
    canvas.scroll_into_view_if_needed()
    before = picture(canvas, f"{name}-before")
    panel.get_by_role("button", name="Play").click()
    panel.page.wait_for_function(
        "(e) => Number(e.textContent) > 20", arg=panel.locator("[data-value=time]").element_handle()
    )
    panel.get_by_role("button", name="Pause").click()
    after = picture(canvas, f"{name}-after")
    assert (np.abs(after - before).max(axis=2) > 30).mean() > 0.05
    assert np.array_equal(after, picture(canvas, f"{name}-after"))


def test_make_lab_disables_distracting_extensions():
    """The news pop-up, and nbgrader's buttons, whose Validate would call an unsolved chapter a success."""
    assert "JUPYTER_CONFIG_PATH=$(CURDIR)/tools/lab $(BIN)/jupyter lab" in (ROOT / "Makefile").read_text()
    off = json.loads((ROOT / "tools" / "lab" / "labconfig" / "page_config.json").read_text())
    assert off["disabledExtensions"]["@jupyter/nbgrader:validate-assignment"] is True


def test_make_lab_opens_the_start_page(address):
    assert re.search(r"/lab/tree/00_start\.ipynb(\?|$)", address)
    with urllib.request.urlopen(address, timeout=browse_site.PATIENCE) as answer:
        assert answer.status == 200


# Takes minutes on a busy machine, where JupyterLab drops keys until its kernel is ready: so run it by hand.
@pytest.mark.skipif(not (SHOTS and BROWSER), reason="run by hand: LAB_SHOTS=folder, and needs Chromium")
def test_start_page_simulator_and_hint_work_in_jupyterlab(address, page):
    page.goto(address)
    notebook = page.locator(".jp-NotebookPanel:visible")
    notebook.get_by_role("heading", level=1).wait_for()
    assert page.locator(".lm-mod-current.jp-mod-current").inner_text().strip() == "00_start.ipynb"
    assert page.locator(".jp-Launcher:visible").count() == 0
    run_cells(notebook, 0, 1, 2)  # up to the micrograph
    notebook.locator(".jp-OutputArea-output img").first.wait_for()
    picture(page, "start")
    assert (
        notebook.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
        == 0
    )

    page.goto(address.replace("00_start", "walk"))
    notebook = page.locator(".jp-NotebookPanel:visible")
    notebook.locator(".jp-CodeCell").first.wait_for()
    run_cells(notebook, 0, 1, 2)
    cells = notebook.locator(".jp-CodeCell")
    play(cells.nth(1).locator(".ml-panel").first, "chapter")
    play(cells.nth(2).locator(".ml-panel").first, "widget")
    run_cells(notebook, 3, 4)
    python_message = notebook.get_by_text(re.compile(r"Python was told: \d+ grains at time \d"))
    python_message.wait_for()
    grains, time_shown = re.search(r"(\d+) grains at time (\d+)", python_message.inner_text()).groups()
    assert 0 < int(grains) <= 60
    assert int(time_shown) >= 20
    hint = notebook.locator(".jp-OutputArea-output", has_text="Mistake:")
    hint.wait_for()
    assert "area" in hint.inner_text()
    picture(page, "hint")
