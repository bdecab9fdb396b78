"""A U-Net as an ONNX file, which runs without PyTorch: in a page of the browser, in C++, on a phone.

An ONNX file holds the network as a graph of standard operators with the weights in it. This one is written
operator by operator, so that the same weights give the same bytes whatever the version of PyTorch; weights that
were stored in half precision stay so, and are widened once when the file is loaded. Needs the package ``onnx``.
(The format: https://github.com/onnx/onnx/blob/main/docs/IR.md; any other network: ``torch.onnx.export``.)
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from microlab.data.files import atomic
from microlab.segment.unet import UNet

if TYPE_CHECKING:
    import onnx

OPSET = 17  # of the operators, understood by every runtime since 2022
INPUT, OUTPUT = "image", "logits"


def write_onnx(path: str | PathLike[str], model: UNet) -> Path:
    """Write a U-Net as ONNX.

    Its input ``image``, (1, C, H, W) float32, has sides that are multiples of ``2**(depth - 1)``, and at least
    twice that; `UNet.forward` pads others. Its output ``logits`` is (1, K, H, W) float32.

    Raises
    ------
    ValueError
        If the network is normalised otherwise than by batch or not at all.
    """
    graph = _Graph()
    with atomic(Path(path)) as partial:
        partial.write_bytes(graph.unet(model).SerializeToString(deterministic=True))
    return Path(path)


class _Graph:
    """Nodes and weights, one after the other; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def unet(self, model: UNet) -> onnx.ModelProto:
        from onnx import TensorProto, checker, helper

        x, skips = INPUT, []
        for level, block in enumerate(model.down):
            x = x if level == 0 else self.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            skips.append(x := self.block(block, x))
        x = skips.pop()
        for up, merge in zip(model.up, model.merge, strict=True):
            x = self.node("ConvTranspose", x, *self.of(up), kernel_shape=[2, 2], strides=[2, 2])
            x = self.block(merge, self.node("Concat", skips.pop(), x, axis=1))
        self.node("Conv", x, *self.of(model.head), kernel_shape=[1, 1], name=OUTPUT)
        channels = (model.architecture[f"{end}_channels"] for end in ("in", "out"))
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, "height", "width"])
            for name, count in zip((INPUT, OUTPUT), channels)
        ]
        graph = helper.make_graph(self.nodes, "unet", ends[:1], ends[1:], self.weights)
        whole = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="microlab"
        )
        checker.check_model(whole)
        return whole

    def block(self, layers: nn.Sequential, x: str) -> str:
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                x = self.node("Conv", x, *self.of(layer), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            elif isinstance(layer, nn.BatchNorm2d):
                statistics = (self.weight(v) for v in (layer.running_mean, layer.running_var))
                x = self.node("BatchNormalization", x, *self.of(layer), *statistics, epsilon=layer.eps)
            elif isinstance(layer, nn.ReLU):
                x = self.node("Relu", x)
            elif not isinstance(layer, nn.Identity):
                raise ValueError(f"{type(layer).__name__} has no counterpart here; use torch.onnx.export")
        return x

    def of(self, layer: nn.Module) -> list[str]:
        """The weight of a layer and its bias, if it has one."""
        return [self.weight(value) for value in (layer.weight, layer.bias) if value is not None]

    def weight(self, value: Tensor) -> str:
        from onnx import TensorProto, numpy_helper

        array, name = value.detach().cpu().numpy().astype(np.float32), f"w{len(self.weights)}"
        half = array.astype(np.float16)
        exact = bool((half.astype(np.float32) == array).all())
        self.weights.append(numpy_helper.from_array(half if exact else array, name))
        return self.node("Cast", name, to=TensorProto.FLOAT) if exact else name

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name
