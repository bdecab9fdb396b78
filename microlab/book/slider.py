"""A slider over pictures that works in a published page without a kernel."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from microlab.plotting import _need_alt, _png, _script, as_image

if TYPE_CHECKING:
    from IPython.display import HTML

# The class dark-light asks the book's theme to leave the picture's greys as they are.
_SLIDER = """<figure class="ml-frames" id="{uid}" style="max-width:{width}px;margin:1em 0">
<img class="dark-light" alt="{alt}" src="{first}" style="width:100%;image-rendering:pixelated">
<figcaption>{caption}<div class="ml-controls" hidden>
<label for="{uid}-range">{label}: <output for="{uid}-range">{value}</output></label>
<input id="{uid}-range" type="range" min="0" max="{last}" step="1" value="0" aria-valuetext="{value}"
 style="width:100%"><button type="button" aria-pressed="false">Play</button></div></figcaption></figure>
<script>
(() => {{
  const root = document.getElementById("{uid}"), frames = {frames}, values = {values};
  const image = root.querySelector("img"), output = root.querySelector("output");
  const range = root.querySelector("input"), button = root.querySelector("button");
  const alt = {alt_js};
  const show = () => {{
    const i = Number(range.value);
    image.src = frames[i];
    image.alt = alt + " (" + {label_js} + ": " + values[i] + ")";
    output.textContent = values[i];
    range.setAttribute("aria-valuetext", values[i]);
  }};
  let timer = null;
  const stop = () => {{
    clearInterval(timer); timer = null;
    button.textContent = "Play"; button.setAttribute("aria-pressed", "false");
  }};
  range.addEventListener("input", () => {{ stop(); show(); }});
  range.addEventListener("keydown", (event) => event.stopPropagation());  // or JupyterLab takes the arrows
  button.addEventListener("click", () => {{
    if (timer !== null) return stop();
    button.textContent = "Pause"; button.setAttribute("aria-pressed", "true");
    if (Number(range.value) === {last}) range.value = 0;
    show();
    timer = setInterval(() => {{
      range.value = Number(range.value) + 1;
      show();
      if (Number(range.value) === {last}) stop();
    }}, {interval});
  }});
  button.hidden = matchMedia("(prefers-reduced-motion: reduce)").matches;
  root.querySelector(".ml-controls").hidden = false;
}})();
</script>"""


def frame_slider(
    arrays: Sequence[ArrayLike],
    values: Sequence[object],
    label: str,
    alt: str,
    *,
    caption: str = "",
    width: int = 360,
    interval: int = 350,
    cmap: str = "gray",
    vmin: float | None = None,
    vmax: float | None = None,
) -> HTML:
    """A slider through precomputed pictures that works in the published page, without a kernel.

    The arrow keys move it; the play button is hidden for readers who prefer reduced motion. Without
    JavaScript the first picture and the caption remain.

    Parameters
    ----------
    arrays : sequence of (H, W) or (H, W, 3)
        One picture per position. They share one grey scale, so that brightness means the same in all.
    values : sequence
        Text of the slider at each position: ``"t = 50"`` or ``50``.
    label : str
        Name of the varied quantity, with its unit.
    alt : str
        Alternative text of the pictures. The value is appended.
    caption : str
        Text under the picture.
    width : int
        Width on the page in CSS pixels.
    interval : int
        Milliseconds per picture while playing.
    cmap, vmin, vmax
        As in matplotlib; by default the range over all pictures.

    Returns
    -------
    IPython.display.HTML

    Raises
    ------
    ValueError
        If `alt` is empty, or `arrays` and `values` do not match.
    """
    from IPython.display import HTML  # only chapters need IPython, importing microlab must not

    _need_alt(alt)
    pictures = [as_image(array, f"arrays[{i}]") for i, array in enumerate(arrays)]
    texts = [str(value) for value in values]
    if len(pictures) != len(texts) or len(pictures) < 2:
        raise ValueError(
            f"a slider needs two or more arrays and a value for each, got {len(pictures)} and {len(texts)}"
        )
    vmin = min(float(p.min()) for p in pictures) if vmin is None else vmin
    vmax = max(float(p.max()) for p in pictures) if vmax is None else vmax
    frames = [_png(p, cmap=cmap, vmin=vmin, vmax=vmax) for p in pictures]
    # The name comes from the content: the same chapter gives the same page.
    uid = "ml-" + hashlib.sha256(json.dumps([frames, texts, label, alt]).encode()).hexdigest()[:10]
    return HTML(
        _SLIDER.format(
            uid=uid,
            width=width,
            alt=html.escape(f"{alt} ({label}: {texts[0]})"),
            alt_js=_script(alt),
            first=frames[0],
            caption=f"<p>{html.escape(caption)}</p>" if caption else "",
            label=html.escape(label),
            label_js=_script(label),
            value=html.escape(texts[0]),
            last=len(frames) - 1,
            frames=_script(frames),
            values=_script(texts),
            interval=interval,
        )
    )
