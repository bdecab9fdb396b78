"""Modules of the page in a browser, called with numpy arrays."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

TYPES = {
    "f4": "Float32Array",
    "f8": "Float64Array",
    "i4": "Int32Array",
    "u1": "Uint8Array",
}

# Images {data, height, width} travel as base64; typed arrays that are no image as lists.
PACKING = """
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const text = ({buffer, byteOffset, byteLength}) => {
    const all = new Uint8Array(buffer, byteOffset, byteLength), parts = [];
    for (let i = 0; i < all.length; i += 8192) parts.push(String.fromCharCode(...all.subarray(i, i + 8192)));
    return btoa(parts.join(""));
  };
  const unpack = (value) => {
    if (Array.isArray(value)) return value.map(unpack);
    if (value === null || typeof value !== "object") return value;
    if (value.bytes === undefined) {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, unpack(one)]));
    }
    const {height, width} = value;
    return {data: new globalThis[value.type](bytes(value.bytes)), height, width};
  };
  const pack = (value) => {
    if (value === null || typeof value !== "object") return value;
    if (ArrayBuffer.isView(value)) return [...value];
    if (Array.isArray(value)) return value.map(pack);
    if (ArrayBuffer.isView(value.data)) {
      const {data, height, width} = value;
      return {bytes: text(data), type: data.constructor.name, height, width};
    }
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, pack(one)]));
  };
"""


def packed(value: Any) -> Any:
    """A value for the page: arrays (H, W) as images, everything else as JSON has it."""
    if isinstance(value, np.ndarray):
        values = np.ascontiguousarray(value.astype(np.uint8) if value.dtype == bool else value)
        values = values.astype("i4") if values.dtype.kind == "i" else values
        height, width = values.shape
        return {
            "bytes": base64.b64encode(values.tobytes()).decode(),
            "type": TYPES[values.dtype.str[1:]],
            "height": height,
            "width": width,
        }
    if isinstance(value, dict):
        return {name: packed(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [packed(one) for one in value]
    return value


def unpacked(value: Any) -> Any:
    """What the page returned; images as arrays (H, W)."""
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "bytes" not in value:
        return {name: unpacked(one) for name, one in value.items()}
    code = next(code for code, name in TYPES.items() if name == value["type"])
    data = np.frombuffer(base64.b64decode(value["bytes"]), f"<{code}")
    return data.reshape(value["height"], value["width"])


class Modules:
    """The modules of a folder that is served at an address.

    ``modules("arrays.js", "label", mask)`` calls a function, and ``modules.run(source, ...)`` a JavaScript
    function of (an object of the modules by name, the arguments...).
    """

    def __init__(self, page: Any, address: str, names: list[str]) -> None:
        self.page = page
        loads = ", ".join(f"{name}: await import('{address}{name}.js')" for name in names)
        page.evaluate(f"async () => {{ {PACKING} window.shop = {{pack, unpack, modules: {{{loads}}}}}; }}")

    def run(self, source: str, *arguments: Any) -> Any:
        code = f"async (a) => shop.pack(await ({source})(shop.modules, ...shop.unpack(a)))"
        return unpacked(self.page.evaluate(code, packed(list(arguments))))

    def __call__(self, module: str, function: str, *arguments: Any) -> Any:
        return self.run(f"(m, ...a) => m.{module}.{function}(...a)", *arguments)
