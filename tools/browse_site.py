"""Open every page of the built book in a headless Chromium and list the problems.

Each page is checked in the light theme on a desktop and in the dark theme on a phone: no console error, no
request to another site, nothing wider than the window, no serious or critical finding of axe-core; sliders
and simulators respond to the keyboard. Launch buttons lead to notebooks of this repository, and the search
works.

python tools/browse_site.py _build/html [--shots FOLDER]      (needs Chromium: apt-get install chromium)
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MODES = {"light": (DESKTOP, PHONE), "dark": (PHONE, DESKTOP)}  # the first size gets all checks
TERM = "Voronoi"  # to search for
PATIENCE = 120  # seconds until something counts as missing; build machines are often busy

# The document must not scroll sideways; a table or an equation may scroll inside itself.
WIDER = """() => {
  if (document.documentElement.scrollWidth <= innerWidth) return null;
  const wide = [...document.querySelectorAll("main *")]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .filter((e) => !e.closest("table, pre, .bd-sidebar-secondary"));
  return (wide.at(-1) ?? document.body).outerHTML.slice(0, 90);
}"""

# The contrast of text depends on its colour, size, weight and background only, and axe-core takes a minute
# for a page of tables: so one element of each style is checked. `axe` is in the page since its first run.
CONTRAST = """async () => {
  const background = (e) => {
    while (e && /^rgba\\(.*, 0\\)$/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
    return e && getComputedStyle(e).backgroundColor;
  };
  const styles = new Map();
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim())) continue;
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const {color, fontSize, fontWeight, opacity, backgroundImage} = getComputedStyle(e);
    styles.set([color, fontSize, fontWeight, opacity, backgroundImage, background(e)].join(), e);
  }
  const options = {runOnly: ["color-contrast"], preload: false, resultTypes: ["violations"]};
  return styles.size ? (await axe.run({include: [...styles.values()]}, options)).violations : [];
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing; the browser reports what fails."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve `folder` while the block runs; yields the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium installed on this machine, headless.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise FileNotFoundError("no Chromium on this machine: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str, scheme: str, problems: list[str], **options) -> Iterator[Page]:
    """A page, loaded and typeset; its errors go to `problems`, including later ones."""
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce", **options)
    page.set_default_timeout(1000 * PATIENCE)
    home = re.match(r"\w+://[^/]+/", address)[0]

    def on_request(handler) -> None:
        url = handler.request.url
        if url.startswith((home, "data:", "blob:")):
            handler.continue_()
        else:
            problems.append(f"asks another site: {url[:90]}")
            handler.abort()

    def on_console(message) -> None:
        if message.type == "error":
            where = message.location["url"].removeprefix(home)
            problems.append(f"console: {message.text[:150]} ({where[:90]})")

    page.route("**/*", on_request)
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"error: {str(error)[:150]}"))
    page.goto(address, wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    yield page
    page.close()


def check_controls(page: Page) -> list[str]:
    """Sliders (`book.slider`) and simulators (`book.widgets.growth`) that the keyboard does not move."""
    problems = []
    for figure in page.locator("figure.ml-frames").all():
        image, slider = figure.locator("img"), figure.locator("input[type=range]")
        name = slider.get_attribute("id")
        before, text_before = image.get_attribute("src"), image.get_attribute("alt")
        slider.press("ArrowRight")
        if image.get_attribute("src") == before:
            problems.append(f"slider does not change its picture: {name}")
        if image.get_attribute("alt") == text_before:
            problems.append(f"slider does not change its picture's words: {name}")
    for figure in page.locator("figure.ml-growth").all():
        canvas = figure.locator("canvas")
        before, label = canvas.evaluate("c => c.toDataURL()"), canvas.get_attribute("aria-label")
        figure.locator("[data-do=step]").press("Enter")
        if canvas.evaluate("c => c.toDataURL()") == before or canvas.get_attribute("aria-label") == label:
            problems.append(f"simulator does not move: {figure.get_attribute('id')}")
    return problems


def check_accessibility(page: Page) -> list[str]:
    """Serious and critical findings of axe-core."""
    from axe_playwright_python.sync_playwright import Axe

    # Its preloading requests imported style sheets at wrong addresses, which would look like our error.
    options = {
        "preload": False,
        "resultTypes": ["violations"],
        "rules": {"color-contrast": {"enabled": False}},
    }
    violations = Axe().run(page, options=options).response["violations"] + page.evaluate(CONTRAST)
    return [
        f"axe {violation['id']}, {len(violation['nodes'])} times: "
        + " ".join(violation["nodes"][0]["html"].split())[:110]
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]


def check_launch(page: Page, repository: Path) -> list[str]:
    """Launch buttons that do not lead to a notebook of `repository`."""
    links = page.locator("a[href*='colab.research'], a[href*='mybinder.org']")
    hrefs = links.evaluate_all("links => links.map(a => a.href)")
    named = {
        href: re.search(r"(?:/blob/[^/]+/|lab(?:/|%2F)tree(?:/|%2F))(.+?)(?:$|[?#&])", href) for href in hrefs
    }
    return [
        f"launch button leads to no notebook: {href}"
        for href, path in named.items()
        if not path
        or not path[1].endswith(".ipynb")
        or not (repository / path[1].replace("%2F", "/")).is_file()
    ]


def check_page(
    browser: Browser, address: str, scheme: str, repository: Path, shot: Path | None = None
) -> list[str]:
    """Problems of one page in one colour scheme."""
    first, second = MODES[scheme]
    problems: list[str] = []
    with opened(browser, address, scheme, problems, viewport=first) as page:
        if shot:
            page.screenshot(path=shot, full_page=True, type="jpeg", quality=70)
        problems += check_accessibility(page)
        problems += check_launch(page, repository)
        problems += check_controls(page)
        for size in (first, second):
            page.set_viewport_size(size)
            if wide := page.evaluate(WIDER):
                problems.append(f"wider than {size['width']} px: {wide}")
    return problems


def check_search(browser: Browser, home: str, term: str = TERM, patience: float = PATIENCE) -> list[str]:
    """Problems of the search page, which must find `term` within `patience` seconds."""
    from playwright.sync_api import TimeoutError

    problems: list[str] = []
    with opened(browser, f"{home}search.html?q={term}", "light", problems, viewport=DESKTOP) as page:
        try:
            page.wait_for_selector("#search-results ul.search li a", timeout=1000 * patience)
        except TimeoutError:
            problems.append(f"search does not find {term}")
    return problems


def browse(folder: Path, repository: Path = ROOT, shots: Path | None = None) -> tuple[int, list[str]]:
    """Number of pages under `folder`, and their problems, as ``page (scheme): problem``.

    Raises
    ------
    ValueError
        If there is no page.
    """
    folder = folder.resolve()
    # The start page only redirects to the first page of the book.
    pages = [
        p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts and p != folder / "index.html"
    ]
    if not pages:
        raise ValueError(f"no page under {folder}; build the book first: make book")
    problems = []
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    with serve(folder) as home, chromium() as browser:
        for path in (bar := tqdm(pages, unit="page")):
            name = path.relative_to(folder).as_posix()
            for scheme in MODES:
                bar.set_postfix_str(f"{name} ({scheme})")
                shot = shots / f"{name.replace('/', '_')}_{scheme}.jpg" if shots else None
                page_problems = check_page(browser, home + name, scheme, repository, shot)
                for problem in dict.fromkeys(page_problems):
                    problems.append(f"{name} ({scheme}): {problem}")
                    bar.write(problems[-1], file=sys.stderr)  # shown at once, before the run ends
        if (folder / "search.html").exists():
            problems += [f"search.html: {problem}" for problem in check_search(browser, home)]
    return len(pages), problems


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for a screenshot of every page")
    arguments = parser.parse_args()
    try:
        count, problems = browse(arguments.site, shots=arguments.shots)
    except (ValueError, FileNotFoundError) as error:
        print(error)
        return 2
    print(*problems, f"{count} pages read in Chromium, {len(problems)} problems", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
