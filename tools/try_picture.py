"""Draw the still picture of the page that segments, for print: python tools/try_picture.py

Builds the page, segments its sample of etched boundaries in headless Chromium, and writes
``book/_static/try.png``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from browse_site import chromium, serve
from build_page import ROOT, build

PICTURE = ROOT / "book/_static/try.png"
PAGE = """<!doctype html><html lang="en"><title>t</title><link rel="stylesheet" href="style.css"><style>
:root { --pst-color-border: #ccc; font: 16px sans-serif; }
.ml-drop, .ml-status, .ml-fields, .ml-save, .ml-result > p, form > p { display: none !important; }
body { width: 900px; }
.ml-try { border: 0 !important; display: flex; gap: 2rem; } .ml-columns { flex-direction: column; }
.ml-picture canvas { max-width: 460px !important; }</style>
<div class="ml-try" id="place"></div><script type="module">
import { start } from "./page.js";
window.page = start(document.getElementById("place"));
</script>"""


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        (Path(folder) / "index.html").write_text(PAGE)
        with serve(Path(folder)) as home, chromium() as browser:
            page = browser.new_page(viewport={"width": 960, "height": 640}, device_scale_factor=1.5)
            page.set_default_timeout(300_000)
            page.goto(home)
            page.dispatch_event("[data-sample='1']", "click")
            page.wait_for_function("() => page.state.file")
            page.evaluate("page.segment()")
            page.wait_for_function("() => page.state.result")
            page.locator("#place").screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
