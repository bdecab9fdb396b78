"""The page that segments: sizes, seconds, the longest pause of the page; and a network made smaller.

    python benchmarks/page.py            all; needs Chromium
    python benchmarks/page.py networks   PyTorch, onnxruntime, and weights of fewer bits, on virtual fields
    python benchmarks/page.py browser    a sample and one megapixel in headless Chromium (WebAssembly)

One thread everywhere, as in the page.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization

from microlab.book.experiments.appearances import zoo_field
from microlab.data import images
from microlab.data.transforms import standardise
from microlab.measure import instance
from microlab.segment.instances import watershed_grains
from microlab.segment.onnx_export import INPUT, write_onnx
from microlab.segment.unet import UNet

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from browse_site import chromium, serve  # noqa: E402  (needs the line above)
from build_page import build  # noqa: E402

KINDS = ("grooves", "etched", "contrast", "polarised")
CALIBRATION, TESTED = range(40, 44), range(50, 52)  # fields of each kind
SIDE = 256
PAGE = """<!doctype html><html lang="en"><title>t</title><link rel="stylesheet" href="style.css">
<main><div class="ml-try" id="place"></div></main><script type="module">
import { start } from "./page.js";
window.longest = 0;
const see = (list) => { for (const task of list.getEntries()) longest = Math.max(longest, task.duration); };
new PerformanceObserver(see).observe({ type: "longtask", buffered: true });
window.page = start(document.getElementById("place"));
</script>"""


def fields(indices: range) -> list[np.ndarray]:
    return [standardise(zoo_field(kind, k, side=SIDE).image) for kind in KINDS for k in indices]


class Calibration(quantization.CalibrationDataReader):
    """The fields from whose activations the integers' scales are taken."""

    def __init__(self) -> None:
        self.images = iter(fields(CALIBRATION))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {INPUT: image[None, None]}


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def median_seconds(work, runs: int = 5) -> float:
    work()
    spent = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def networks() -> None:
    """Size, time and result of the default network in several forms."""
    torch.set_num_threads(1)
    model = UNet.from_weights("appearances").eval().to(memory_format=torch.channels_last)
    large = np.random.default_rng(0).standard_normal((1, 1, 512, 512)).astype(np.float32)
    tested = fields(TESTED)

    def torch_logits(image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return model(x).numpy()

    def probability(logits: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logits[0, 0]))

    reference = [probability(torch_logits(image[None, None])) for image in tested]
    grains = [watershed_grains(p) for p in reference]
    print("form | MB | MB gzipped | s for 512 x 512 | largest change of p | adapted Rand error to PyTorch's")
    print(f"PyTorch, float32 | 7.8 | | {median_seconds(lambda: torch_logits(large)):.3f} | 0 | 0", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        half = write_onnx(Path(folder) / "half.onnx", model)
        os.chdir(folder)  # where the quantisation leaves its own files
        ready, integer = Path(folder) / "ready.onnx", Path(folder) / "integer.onnx"
        quantization.shape_inference.quant_pre_process(half, ready, skip_symbolic_shape=True)
        how = {"per_channel": True, "quant_format": quantization.QuantFormat.QDQ}
        quantization.quantize_static(ready, integer, Calibration(), **how)
        dynamic = Path(folder) / "dynamic.onnx"
        quantization.quantize_dynamic(ready, dynamic)
        forms = {
            "onnxruntime, weights of 16 bits, float32 arithmetic (shipped)": half,
            "onnxruntime, 8-bit integers, scales from virtual fields": integer,
            "onnxruntime, 8-bit integers, scales at run time": dynamic,
        }
        for name, path in forms.items():
            try:
                run = session(path)
                results = [probability(run.run(None, {INPUT: image[None, None]})[0]) for image in tested]
                spent = median_seconds(lambda run=run: run.run(None, {INPUT: large}))
            except Exception as error:  # an operator that this runtime lacks is a result, too
                print(f"{name} | does not run: {str(error)[:90]}", flush=True)
                continue
            change = max(float(np.abs(a - b).max()) for a, b in zip(results, reference))
            errors = [instance.adapted_rand_error(g, watershed_grains(p)) for g, p in zip(grains, results)]
            sizes = path.stat().st_size / 1e6, len(gzip.compress(path.read_bytes())) / 1e6
            print(
                f"{name} | {sizes[0]:.1f} | {sizes[1]:.1f} | {spent:.3f} | {change:.2g} | "
                f"mean {np.mean(errors):.4f}, worst {max(errors):.4f}",
                flush=True,
            )


def browser() -> None:
    """Seconds in the page, the longest task of its main thread, and the memory of Chromium's processes."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build(place)
        (place / "index.html").write_text(PAGE)
        loaded = [place / name for name in ("appearances.onnx", "ort-wasm-simd-threaded.wasm")]
        scripts = [*place.glob("*.js"), place / "ort.wasm.min.mjs", place / "ort-wasm-simd-threaded.mjs"]
        for name, files in {"network and runtime": loaded, "scripts": scripts}.items():
            total = sum(file.stat().st_size for file in files)
            packed = sum(len(gzip.compress(file.read_bytes())) for file in files)
            print(f"{name}: {total / 1e6:.1f} MB, {packed / 1e6:.1f} MB gzipped")
        field = zoo_field("grooves", 32, side=512).image
        hard = np.tile(zoo_field("over-etched", 33, side=160).image, (4, 4))[:512, :512]
        sizes = {
            "512 x 512": field,
            "one megapixel": np.tile(field, (2, 2)),
            "512 x 512, an alarm rings": hard,  # so three candidates are tried
            "12 megapixels": np.tile(field, (6, 8)),
        }
        with serve(place) as home, chromium() as started:
            for name, image in sizes.items():
                path = images.write_image(place / "image.png", image, pixel_size=0.05)
                page = started.new_page()
                page.set_default_timeout(600_000)
                page.goto(home)
                page.wait_for_selector("button.ml-main")
                page.set_input_files("input[type=file]", path)
                page.wait_for_function("() => page.state.file")
                for turn in ("first, with loading", "again"):
                    page.evaluate("() => { page.state.result = null; longest = 0; }")
                    page.click("[data-do=segment]")
                    page.wait_for_function("() => page.state.result")
                    spent, longest = page.evaluate("[page.state.result.seconds, longest]")
                    print(
                        f"{name}, {turn}: {spent:.1f} s, longest main-thread task {longest:.0f} ms",
                        flush=True,
                    )
                parts = [
                    p
                    for p in psutil.process_iter()
                    if "chrom" in p.name() and "renderer" in " ".join(p.cmdline())
                ]
                most = max(p.memory_info().rss for p in parts)
                print(f"{name}: largest renderer {most / 1e9:.2f} GB", flush=True)
                if page.is_enabled("[data-do=correct]"):
                    page.evaluate("() => { longest = 0; }")
                    page.click("[data-do=correct]")
                    page.wait_for_selector(".ml-stage")
                    print(f"{name}, corrections opened: longest task {page.evaluate('longest'):.0f} ms")
                page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("networks", "browser"), nargs="?")
    chosen = parser.parse_args().part
    if chosen in (None, "networks"):
        networks()
    if chosen in (None, "browser"):
        browser()
