"""U-Nets as ONNX: the same logits as PyTorch, the same bytes every time, and the files of the page."""

from __future__ import annotations

import hashlib
import json
import lzma

import build_page
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from microlab.segment.onnx_export import INPUT, OUTPUT, write_onnx
from microlab.segment.unet import UNet


def logits_of(path, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: image})[0]


@pytest.mark.parametrize("name", ["appearances", "labour-free"])
def test_a_shipped_network_gives_pytorchs_logits(tmp_path, name):
    model = UNet.from_weights(name).eval()
    path = write_onnx(tmp_path / "network.onnx", model)
    image = np.random.default_rng(0).standard_normal((1, 1, 96, 160)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(logits_of(path, image), expected, rtol=0, atol=1e-4)
    assert path.stat().st_size < 4e6  # the weights are stored in half precision


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_any_size_of_network(tmp_path, norm):
    model = UNet(2, 3, width=4, depth=3, norm=norm, seed=1).eval()
    with torch.no_grad():  # other statistics than those of a new network
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    path = write_onnx(tmp_path / "network.onnx", model)
    image = np.random.default_rng(0).standard_normal((1, 2, 24, 40)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(logits_of(path, image), expected, rtol=0, atol=1e-5)


def test_weights_that_halves_would_round_stay_whole(tmp_path):
    model = UNet(width=4, depth=2).eval()  # fresh weights are no half-precision numbers
    stored = onnx.load(write_onnx(tmp_path / "network.onnx", model)).graph.initializer
    assert {one.data_type for one in stored if len(one.dims) > 1} == {onnx.TensorProto.FLOAT}


def test_the_same_weights_give_the_same_bytes(tmp_path):
    model = UNet.from_weights("appearances")
    first, second = (write_onnx(tmp_path / f"{k}.onnx", model).read_bytes() for k in range(2))
    assert first == second


def test_another_normalisation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="GroupNorm"):
        write_onnx(tmp_path / "network.onnx", UNet(width=8, depth=2, norm="group"))
    assert not list(tmp_path.iterdir())


def test_the_recorded_networks_are_those_of_the_weights(tmp_path):
    card = json.loads(build_page.CARD.read_text(encoding="utf-8"))
    assert build_page.write_networks(tmp_path) == card


def test_vendored_files_are_those_of_the_record():
    folder = build_page.RUNTIME
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".mjs", ".xz")}
    files |= {name[:-3]: lzma.decompress(data) for name, data in files.items() if name.endswith(".xz")}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == sums
