"""Calls of functions between two processes that share nothing: the grader, and a submission in its sandbox.

    grader: f(x, g)  ->  submission: f(x, g)  ->  grader: g(y)  ->  ...        one message a line, JSON only

Numbers, strings, lists, arrays and tensors are copied; nothing else is accepted, and nothing is unpickled:
a submission can answer with numbers only. A function given as an argument stays where it is and is called
back. Gradients of tensors pass through both ways. An array that a function changes in place is changed for
the caller too.

The sandbox runs this file alone: it imports nothing but the standard library and NumPy, and torch where a
tensor comes.
"""

from __future__ import annotations

import base64
import functools
import json
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MAX_BYTES = 16 * 2**20  # of one message


class RemoteError(Exception):
    """What a function of the other process raised.

    Attributes
    ----------
    name : str
        Its class, as NotImplementedError.
    lines : list of str
        Its traceback there.
    """

    def __init__(self, name: str, message: str, lines: list[str]) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name, self.lines = name, lines


class Peer:
    """One end of a connection.

    Parameters
    ----------
    connection : socket.socket
    functions : mapping
        Functions that the other side may call by name, beside those lent to it as arguments.
    deadline : float, optional
        Time of `time.monotonic` after which waiting for the other side ends in a TimeoutError.
    """

    def __init__(
        self,
        connection: socket.socket,
        functions: Mapping[str, Callable] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._connection, self._functions, self._deadline = connection, functions or {}, deadline
        self._received = bytearray()
        self._lent: dict[str, Callable] = {}
        self._kept: list[
            tuple[list, list]
        ] = []  # tensors that came out of and went into a call, for gradients

    def function(self, name: str) -> Callable:
        """A function of the other side."""

        def call(*args: Any, **kwargs: Any) -> Any:
            sent: list = []
            message = ["call", name, self._encode(list(args), sent), self._encode(kwargs, sent)]
            value, changes, number = self._ask(message)
            for index, change in changes:
                sent[index][...] = self._decode(change, [])
            inputs = [array for array in sent if _needs_gradient(array)]
            return self._decode(value, [], functools.partial(self._link, number, inputs))

        call.__name__ = call.__qualname__ = str(name)
        return call

    def serve(self) -> None:
        """Answer calls until the other side hangs up."""
        while True:
            try:
                kind, *content = self._receive()
            except ConnectionError:
                return
            self._answer(kind, content)

    # ---- asking and answering ----

    def _ask(self, message: list) -> list:
        """Send a message and answer what the other side asks until its reply comes."""
        self._send(message)
        while True:
            kind, *content = self._receive()
            if kind == "value":
                return content
            if kind == "error":
                name, text, lines = content
                raise RemoteError(str(name), str(text), [str(line) for line in lines])
            self._answer(kind, content)

    def _answer(self, kind: str, content: list) -> None:
        try:
            reply = {"call": self._called, "gradient": self._differentiated}[kind](*content)
        except BaseException as error:  # also SystemExit: it ends the function, not the process
            lines = traceback.format_exception(error)
            name = error.name if isinstance(error, RemoteError) else type(error).__name__
            reply = ["error", name, str(error), lines]
        self._send(reply)

    def _called(self, name: str, args: Any, kwargs: Any) -> list:
        got: list = []
        lookup = self._lent if name in self._lent else self._functions
        arguments, keywords = self._decode(args, got), self._decode(kwargs, got)
        before = [_numbers(array).copy() for array in got]
        if name not in lookup:
            raise NameError(f"name {name!r} is not defined")
        result = lookup[name](*arguments, **keywords)
        changes = [
            [index, self._encode(array, [])]
            for index, (array, old) in enumerate(zip(got, before))
            if old.tobytes() != _numbers(array).tobytes()
        ]
        outputs: list = []
        value = self._encode(result, outputs)
        self._kept.append((outputs, [array for array in got if _needs_gradient(array)]))
        return ["value", value, changes, len(self._kept) - 1]

    def _differentiated(self, number: int, index: int, gradient: Any) -> list:
        """Gradients of the inputs of an earlier call, and of what functions lent to it depend on."""
        import torch

        outputs, inputs = self._kept[number]
        for array in inputs:
            array.grad = None
        torch.autograd.backward(outputs[index], self._decode(gradient, []), retain_graph=True)
        return ["value", [None if a.grad is None else self._encode(a.grad, []) for a in inputs]]

    def _link(self, number: int, inputs: list, index: int, value: Any) -> Any:
        """A tensor from the other side whose gradient is computed there."""
        import torch

        peer = self

        class Link(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, anchor: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
                return value

            @staticmethod
            def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
                (gradients,) = peer._ask(["gradient", number, index, peer._encode(gradient, [])])
                return None, *(None if g is None else peer._decode(g, []) for g in gradients)

        return Link.apply(torch.zeros((), requires_grad=True), *inputs)

    # ---- messages ----

    def _send(self, message: list) -> None:
        self._limit_wait()
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> list:
        seen = 0
        while (end := self._received.find(b"\n", seen)) < 0:
            seen = len(self._received)
            if seen > MAX_BYTES:
                raise ConnectionError(f"an answer of more than {MAX_BYTES} bytes")
            self._limit_wait()
            piece = self._connection.recv(2**16)
            if not piece:
                raise ConnectionError("the submission hung up")
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        message = json.loads(line)
        if not isinstance(message, list) or not message:
            raise ConnectionError("an answer that is none")
        return message

    def _limit_wait(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._connection.settimeout(left)

    # ---- values ----

    def _encode(self, value: Any, arrays: list) -> Any:
        """JSON of a value; its arrays and tensors are appended to `arrays`."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple):
            return {type(value).__name__: [self._encode(item, arrays) for item in value]}
        if type(value) is dict:
            return {"dict": [[self._encode(k, []), self._encode(v, arrays)] for k, v in value.items()]}
        if type(value) is complex:
            return {"complex": [value.real, value.imag]}
        if callable(value):
            name = f"lent {len(self._lent)}"
            self._lent[name] = value
            return {"function": name}
        if _is_tensor(value):
            kind, needs = "tensor", value.requires_grad
        else:
            kind, needs = "scalar" if isinstance(value, np.generic) else "array", False
        numbers = _numbers(value)
        arrays.append(value)
        data = base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode()
        return {kind: [numbers.dtype.str, list(numbers.shape), data, needs, len(arrays) - 1]}

    def _decode(self, message: Any, arrays: list, link: Callable | None = None) -> Any:
        """The value of JSON; `link` makes a tensor of it whose gradient is computed on the other side."""
        if not isinstance(message, dict):
            if message is None or isinstance(message, bool | int | float | str):
                return message
            raise ValueError("a message that holds no value")
        ((kind, content),) = message.items()
        if kind in ("list", "tuple"):
            items = [self._decode(item, arrays, link) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {self._decode(k, []): self._decode(v, arrays, link) for k, v in content}
        if kind == "complex":
            return complex(*content)
        if kind == "function":
            return self.function(content)
        dtype, shape, data, needs, index = content
        dtype = np.dtype(dtype)
        if dtype.kind not in "biufc" or kind not in ("array", "scalar", "tensor"):
            raise ValueError(f"a {kind} of {dtype}, which holds no numbers")
        numbers = np.ndarray(shape, dtype, bytearray(base64.b64decode(data)))
        if kind == "scalar":
            arrays.append(numbers[()])
            return numbers[()]
        if kind == "array":
            arrays.append(numbers)
            return numbers
        import torch

        tensor = torch.from_numpy(numbers)
        if needs and link is not None:
            return link(index, tensor)
        arrays.append(tensor.requires_grad_(bool(needs)))
        return tensor


def serve(path: str, functions: Mapping[str, Callable]) -> None:
    """In the sandbox: connect to the grader and answer its calls."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        Peer(connection, functions).serve()


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _needs_gradient(array: Any) -> bool:
    return _is_tensor(array) and array.requires_grad


def _numbers(value: Any) -> np.ndarray:
    """The numbers of an array, tensor or anything like them; TypeError if there are none."""
    if _is_tensor(value):
        value = value.detach().cpu().numpy()
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "biufc":
        raise TypeError(f"a {type(value).__name__}, which holds no numbers")
    return numbers
