"""Put together the page that segments in the browser: scripts, constants, networks, runtime, samples.

    python tools/build_page.py _build/html/_static/try
    python tools/build_page.py --record      notes the checksums of the networks in book/try/networks.json

`make book` calls it (``book/_ext/try_page.py``). The scripts lie in ``book/try``. What they compute follows
the library, so every number that both need is written here, from the library, into ``constants.js``:
``export default {module: {NAME: value}}``.
"""

from __future__ import annotations

import inspect
import json
import lzma
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from microlab import __version__
from microlab.book.experiments.appearances import zoo_field
from microlab.data import contrast, formats, images, pixel_size, tables, transforms
from microlab.data.files import sha256
from microlab.measure import grain_size, grains
from microlab.pipelines import corrections, image_results
from microlab.segment import choice, evidence, instances, segmenter, unet, zoom
from microlab.segment.onnx_export import write_onnx
from microlab.segment.registry import load_segmenter

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "book/try"
RUNTIME = ROOT / "book/_vendor/onnxruntime"
CARD = SOURCES / "networks.json"  # checksums of the networks as they were last recorded
PAGE = {
    "MOST_MEGAPIXELS": 16,
    "MEGABYTES": {"wasm": 18, "webgpu": 31},  # of the network and its runtime
    "ADVICE": "compare the boundaries with the image; then give the magnification, crop to one material, "
    "correct by hand, or adapt the network (microlab adapt)",  # where the library's advice names its options
    "ACCEPT": ".png,.jpg,.jpeg,.tif,.tiff,.bmp,.webp,.gif,image/*",
}
SAMPLES = {  # of the virtual zoo: entry, index, what the button says
    "grooves.png": ("grooves", 25, "thin dark boundaries"),
    "etched.png": ("etched", 27, "etched boundaries"),
    "contrast.png": ("contrast", 24, "grey levels only"),
}
SAMPLE_SIDE, SAMPLE_PIXEL = 512, 0.05  # px, um
EDITS = ROOT / "microlab/data/edits.js"  # the page corrects grains by the rules of the report


def capitals(module: ModuleType) -> dict[str, Any]:
    """The constants of a module, ``NAME = 3``, that are numbers, texts, or collections of them."""
    own = {}
    for name, value in vars(module).items():
        if name.isupper() and name != "TYPE_CHECKING" and not name.startswith("_"):
            try:
                own[name] = json.loads(json.dumps(value, default=np.ndarray.tolist))
            except TypeError:  # paths, functions
                continue
    return own


def defaults(function: Callable) -> dict[str, Any]:
    """The default values of a function's parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, int | float | str | tuple)}


def constants() -> dict[str, Any]:
    """Every number that the page shares with the library."""
    modules = (choice, contrast, evidence, formats, grain_size, grains, images)
    modules += (pixel_size, segmenter, tables, unet, zoom)
    of = {module.__name__.rpartition(".")[2]: capitals(module) for module in modules}
    of["pixel_size"]["LENGTH"] = pixel_size.LENGTH.pattern
    of["transforms"] = {"LUMINANCE": transforms.LUMINANCE.tolist()}
    of["watershed_grains"] = defaults(instances.watershed_grains)
    of["closed_boundary"] = defaults(instances.closed_boundary)
    of["zoom_trials"] = defaults(zoom.zoom_trials)
    of["matching_zoom"] = defaults(zoom.matching_zoom)
    of["gather"] = defaults(evidence.gather)
    of["predict"] = defaults(unet.predict)
    of["astm_grain_size"] = defaults(grain_size.astm_grain_size)
    of["grain_table"] = defaults(grains.grain_table)
    of["summarise"] = defaults(grains.summarise)
    of["corrections"] = capitals(corrections)
    of["image_results"] = capitals(image_results)
    return {"version": __version__, "page": PAGE, **of}


def write_networks(folder: Path) -> dict[str, dict[str, Any]]:
    """Write what the default method chooses from as ONNX; what the page has to know of each, by its name."""
    networks = {}
    for method in load_segmenter("auto").methods():
        if isinstance(method, choice.Inverted):
            continue
        path = write_onnx(folder / f"{method.name}.onnx", method.model)
        networks[method.name] = {
            "file": path.name,
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "weights_sha256": method.card["sha256"],
            "cell": 2 ** (method.model.architecture["depth"] - 1),
            "outputs": method.card.get("outputs", ["boundary"]),
            "grain_size_px": method.card.get("grain_size_px"),
            "watershed": method.card.get("watershed", {}),
        }
    return networks


def write_runtime(folder: Path) -> None:
    """Copy onnxruntime-web, and unpack what is compressed in the repository."""
    for file in sorted([*RUNTIME.glob("*.mjs"), *RUNTIME.glob("*.xz")]):
        if file.suffix == ".xz":
            (folder / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
        else:
            shutil.copy(file, folder)


def write_samples(folder: Path) -> None:
    """Write the virtual fields that the page offers to try."""
    for file, (entry, index, _) in SAMPLES.items():
        field = zoo_field(entry, index, side=SAMPLE_SIDE)
        images.write_image(folder / file, field.image, pixel_size=SAMPLE_PIXEL)


def write_scripts(folder: Path) -> None:
    """Write the scripts and the constants, all that reading, measuring and correcting need."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in (EDITS, *sorted([*SOURCES.glob("*.js"), *SOURCES.glob("*.css")])):
        shutil.copy(script, folder)
    (folder / "corrections.js").write_text(corrections.script(), encoding="utf-8")
    networks = json.loads(CARD.read_text(encoding="utf-8"))
    of = constants() | {"networks": networks, "candidates": list(networks)}
    of["samples"] = [{"file": file, "name": name} for file, (_, _, name) in SAMPLES.items()]
    text = json.dumps(of, indent=1)
    (folder / "constants.js").write_text(f"export default {text};\n", encoding="utf-8")


def build(folder: Path) -> None:
    """Write the page's files into a folder, which is made if it is missing.

    Raises
    ------
    ValueError
        If a network is not the one whose checksum is recorded in `CARD`.
    """
    write_scripts(folder)
    write_runtime(folder)
    write_samples(folder)
    if write_networks(folder) != json.loads(CARD.read_text(encoding="utf-8")):
        raise ValueError(
            f"the networks are not those in {CARD}; python {sys.argv[0]} --record notes them anew"
        )


def record() -> None:
    """Record the checksums of the networks, with those of the weights they were made of, in `CARD`."""
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(write_networks(Path(folder)), indent=1)
    CARD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        record()
    else:
        build(Path(sys.argv[1]))
