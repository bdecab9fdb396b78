"""The checks in the browser, on tiny pages: a valid page passes, and every fault is found."""

from __future__ import annotations

import re
from pathlib import Path

import browse_site
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("playwright")

SLIDER = """<figure class="ml-frames">
<img alt="one" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">
<label for="r">threshold</label><input id="r" type="range"><script>
document.currentScript.parentNode.querySelector("input").addEventListener("input", ({target}) => {
  const image = target.parentNode.querySelector("img");
  MOVE
})</script></figure>"""
MOVE = 'image.src = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";'
COLAB = '<a href="https://colab.research.google.com/github/o/r/blob/main/tutorials/NAME">Colab</a>'
SOUND = SLIDER.replace("MOVE", MOVE + 'image.alt = "two";') + COLAB.replace("NAME", "a.ipynb")

FAULTS = {
    "<script>console.error('broken')</script>": "console: broken",
    "<script>nothing.at.all</script>": "error: nothing is not defined",
    '<img alt="A grain" src="http://127.0.0.2/x.png">': "asks another site: http://127.0.0.2/x.png",
    '<div style="width: 800px">wide</div>': "wider than 390 px: <div style",
    '<p style="color: #999; background: #aaa">pale</p>': "axe color-contrast, 1 times",
    "<button></button>": "axe button-name",
    SLIDER.replace("MOVE", 'image.alt = "two";'): "slider does not change its picture: r",
    SLIDER.replace("MOVE", MOVE): "slider does not change its picture's words: r",
    COLAB.replace("NAME", "none.ipynb"): "launch button leads to no notebook",
    COLAB.replace("NAME", "a.md"): "launch button leads to no notebook",
}

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("chromium")
def test_a_valid_page_passes_and_each_fault_is_found(tmp_path):
    """One browser for all pages, because starting it takes longest."""
    (tmp_path / "tutorials").mkdir()
    for name in ("a.ipynb", "a.md"):
        (tmp_path / "tutorials" / name).touch()
    site = tmp_path / "site"
    site.mkdir()
    (site / "favicon.ico").touch()
    for name, body in {"sound": SOUND, **{f"fault{i}": body for i, body in enumerate(FAULTS)}}.items():
        (site / f"{name}.html").write_text(
            '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">'
            f"<title>Title</title><main><h1>Title</h1>{body}</main></html>"
        )
    (site / "search.html").write_text(
        '<!doctype html><html lang="en"><title>Search</title><main><h1>Search</h1><div id="search-results">'
        '<ul class="search"><li><a href="sound.html">Voronoi</a></li></ul></div></main></html>'
    )
    count, problems = browse_site.browse(site, tmp_path, tmp_path / "shots")
    assert count == len(FAULTS) + 2
    assert not [p for p in problems if p.startswith(("sound", "search"))]
    for i, (body, message) in enumerate(FAULTS.items()):
        page_problems = [p for p in problems if p.startswith(f"fault{i}.html (")]
        assert any(message in p for p in page_problems), f"{body} passed, or gave only {page_problems}"
    assert len(list((tmp_path / "shots").glob("*.jpg"))) == 2 * count
    assert all(re.match(r"\S+\.html \((light|dark)\): ", p) for p in problems)


@pytest.mark.usefixtures("chromium")
def test_a_search_that_finds_nothing_is_a_problem(tmp_path):
    (tmp_path / "favicon.ico").touch()
    (tmp_path / "search.html").write_text(
        '<!doctype html><title>Search</title><div id="search-results"></div>'
    )
    with browse_site.serve(tmp_path) as home, browse_site.chromium() as browser:
        (problem,) = browse_site.check_search(browser, home, patience=0.5)
    assert problem.startswith("search does not find Voronoi")


def test_an_unbuilt_book_is_an_error_not_a_pass(tmp_path):
    with pytest.raises(ValueError, match="make book"):
        browse_site.browse(tmp_path)
