"""Print at the head of every chapter what it cost: run time and peak memory, measured by the build itself.

myst-nb knows how long a chapter ran. Its memory is known only inside the kernel, so a startup file there
writes the peak after every cell into a file whose name this extension passes on. What a build measured stands
in ``_build/costs/<profile>.json``; copied to ``book/results/costs/`` it is shown by builds of other profiles.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx

from microlab.training.profiles import profile

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "book" / "results" / "costs"
sys.path.insert(0, str(ROOT / "tools"))
from addresses import addresses  # noqa: E402  (needs the line above)

# VmHWM where there is a choice: on Linux a child inherits ru_maxrss from the process that started it.
STARTUP = """
def _write_peak(*_):
    import os, sys
    try:
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except OSError:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open(os.environ["MICROLAB_PEAK_FILE"], "w") as out:
        out.write(str(peak))

get_ipython().events.register("post_run_cell", _write_peak)

# In a page a progress bar is a dead widget that asks for the network: fall back to text and print none.
def _no_progress_bars():
    import os, sys
    os.environ["TQDM_DISABLE"] = "1"
    sys.modules["tqdm.notebook"] = None

_no_progress_bars()
"""


def is_chapter(docname: str) -> bool:
    """Chapters live in ``tutorials/``."""
    return docname.startswith("tutorials/")


def prepare(app: Sphinx) -> None:
    """Give the kernels a startup file, in an IPython directory of their own."""
    folder = Path(tempfile.mkdtemp(prefix="microlab-ipython-"))
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00_peak.py").write_text(STARTUP, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(folder)
    app.microlab_costs = {"profile": profile(), "machine": machine(), "chapters": {}}


def machine() -> str:
    """The machine in a few words."""
    return f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}"


def before(app: Sphinx, docname: str, source: list[str]) -> None:
    """Name the file into which the kernel of this chapter writes its peak memory."""
    os.environ["MICROLAB_PEAK_FILE"] = str(
        Path(os.environ["IPYTHONDIR"]) / (docname.replace("/", "-") + ".peak")
    )


def after(app: Sphinx, doctree: nodes.document) -> None:
    """Put the card under the chapter's title."""
    docname = app.env.docname
    run = NbMetadataCollector.get_exec_data(app.env, docname)
    peak = Path(os.environ["MICROLAB_PEAK_FILE"])
    if not is_chapter(docname) or not run or run["runtime"] is None or not peak.exists():
        return
    cost = {"seconds": round(run["runtime"], 1), "peak_mib": round(int(peak.read_text()) / 2**20)}
    app.microlab_costs["chapters"][docname] = cost
    title = next(doctree.findall(nodes.title))
    title.parent.insert(title.parent.index(title) + 1, card(docname, cost, app.microlab_costs))


def card(docname: str, cost: dict, build: dict) -> nodes.Node:
    """The card: what this build measured, what was recorded for other profiles, and where to run it."""
    lines = [f"{build['profile']} {in_words(cost)} ({build['machine']}; this build)"]
    for path in sorted(RECORDED.glob("*.json")):
        other = json.loads(path.read_text(encoding="utf-8"))
        if other["profile"] != build["profile"] and docname in other["chapters"]:
            lines.append(f"{other['profile']} {in_words(other['chapters'][docname])} ({other['machine']})")
    text = nodes.paragraph("", "", nodes.strong("", "Cost, measured: "), nodes.Text("; ".join(lines) + "."))
    where = addresses()
    links = nodes.paragraph("", "", nodes.strong("", "Run it yourself: "))
    for name, target in (("Colab", where.colab(docname)), ("JupyterLab on Binder", where.binder(docname))):
        links += [nodes.reference("", name, refuri=target, internal=False), nodes.Text(", ")]
    links += [nodes.Text("or "), nodes.literal("", "make lab"), nodes.Text(f" and open {docname}.ipynb.")]
    return nodes.container("", text, links, classes=["ml-cost"])


def in_words(cost: dict) -> str:
    """``41 s, 812 MiB`` or ``3.1 min, 1.2 GiB``."""
    seconds, mib = cost["seconds"], cost["peak_mib"]
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    return f"{time}, {mib} MiB" if mib < 1000 else f"{time}, {mib / 1024:.1f} GiB"


def write(app: Sphinx, exception: Exception | None) -> None:
    """Leave the measured costs beside the built book."""
    if exception or not app.microlab_costs["chapters"]:
        return
    folder = Path(app.outdir).parent / "costs"
    folder.mkdir(exist_ok=True)
    text = json.dumps(app.microlab_costs, indent=2) + "\n"
    (folder / f"{app.microlab_costs['profile']}.json").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx. Kernels must run one at a time for their costs to mean anything."""
    app.connect("builder-inited", prepare)
    app.connect("source-read", before)
    app.connect("doctree-read", after)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
