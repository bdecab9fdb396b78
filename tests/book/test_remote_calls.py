"""Calls between the grader and a submission: values, functions as arguments, gradients, refusals."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest
import torch

from microlab.book.grading.remote import Peer, RemoteError


@pytest.fixture
def connect():
    """A peer whose other side, in a thread, serves the given functions."""
    ends = []

    def connected(**functions) -> Peer:
        ours, theirs = socket.socketpair()
        threading.Thread(target=Peer(theirs, functions).serve, daemon=True).start()
        ends.append(ours)  # the other end hears that it is closed
        return Peer(ours, deadline=time.monotonic() + 20)

    yield connected
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2**70,
        0.1,
        float("inf"),
        "word",
        1 + 2j,
        [1, (2.5, "x"), []],
        {"a": 1, 2: [3]},
        np.float32(1.5),
        np.bool_(True),
        np.int8(-1),
    ],
)
def test_plain_values_come_back_as_they_were(connect, value):
    back = connect(same=lambda x: x).function("same")(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3)[:, ::-1],
        np.zeros((0, 3)),
        np.array(5),
        np.array([True, False]),
        np.array([np.nan, -np.inf]),
        np.broadcast_to(np.float32(2), (3, 4)),
    ],
)
def test_arrays_and_tensors_keep_shape_type_and_numbers(connect, array):
    same = connect(same=lambda x: x).function("same")
    back = same(array)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    tensor = torch.tensor(array.copy())
    assert same(tensor).dtype == tensor.dtype
    assert torch.equal(torch.nan_to_num(same(tensor)), torch.nan_to_num(tensor))


def test_functions_as_arguments_are_called_back(connect):
    twice = connect(twice=lambda f, x: f(f(x))).function("twice")
    assert twice(lambda x: 3 * x, 2) == 18
    np.testing.assert_array_equal(twice(np.square, np.array([2.0, 3.0])), [16, 81])
    assert connect(adder=lambda a: lambda b: a + b).function("adder")(2)(3) == 5


def test_an_array_changed_in_place_is_changed_for_the_caller(connect):
    def spoil(array):
        array[0] = 9
        return array.sum()

    peer, array, tensor = connect(spoil=spoil), np.zeros(3), torch.zeros(3)
    assert peer.function("spoil")(array) == 9
    assert array.tolist() == [9, 0, 0]
    assert peer.function("spoil")(tensor) == 9
    assert tensor.tolist() == [9, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        peer.function("spoil")(np.broadcast_to(1.0, (3,)))


def test_gradients_pass_through_as_without_a_process_between(connect):
    def loss(network, real, fake):
        return (
            0.5 * ((network(real) - 1) ** 2).mean() + 0.5 * (network(fake.detach()) ** 2).mean() + fake.sum()
        )

    remote = connect(loss=loss).function("loss")
    gradients = {}
    for function in (loss, remote):
        weight, bias = torch.tensor(0.7, requires_grad=True), torch.tensor(-0.2, requires_grad=True)
        fake = torch.arange(4.0).reshape(2, 2).requires_grad_()
        value = function(lambda x, w=weight, b=bias: w * x + b, torch.ones(2, 2), fake)
        (3 * value).backward()
        gradients[function] = [value.detach(), weight.grad, bias.grad, fake.grad]
    for here, there in zip(gradients[loss], gradients[remote]):
        torch.testing.assert_close(here, there)


def test_a_stopped_gradient_stays_stopped(connect):
    straight = connect(straight=lambda z, v: z + (v - z).detach()).function("straight")
    z, v = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    (straight(z, v) ** 2).sum().backward()
    assert z.grad.tolist() == [2, 4]
    assert v.grad is None


def test_what_the_other_side_raises_is_raised_here_with_its_place(connect):
    def fails(x):
        raise NotImplementedError("your turn")

    def leaves():
        raise SystemExit(0)

    peer = connect(fails=fails, leaves=leaves)
    with pytest.raises(RemoteError, match="NotImplementedError: your turn") as error:
        peer.function("fails")(1)
    assert "in fails" in "".join(error.value.lines)
    with pytest.raises(RemoteError, match="SystemExit"):
        peer.function("leaves")()
    with pytest.raises(RemoteError, match="name 'missing' is not defined"):
        peer.function("missing")()
    assert connect(same=lambda x: x).function("same")(1) == 1


class Sly(float):
    """Equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("answer", [object(), {1, 2}, np.array([object()]), b"bytes", np.array("text")])
def test_an_answer_without_numbers_is_refused(connect, answer):
    with pytest.raises(RemoteError, match="holds no numbers"):
        connect(answer=lambda: answer).function("answer")()


def test_an_answer_brings_no_code_of_its_own(connect):
    answer = connect(answer=lambda: Sly(0.5)).function("answer")()
    assert answer == 0.5
    assert answer != 1


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'["value", {"object": [1, 2, 3, 4, 5]}, [], 0]\n',
        b'["value", {"array": ["|O8", [1], "AAAAAAAAAAA=", false, 0]}, [], 0]\n',
        b'["value", {"array": ["<f8", [9], "AAAAAAAAAAA=", false, 0]}, [], 0]\n',
        b'["value", ' + b"[" * 100_000 + b"\n",
        b'["value", 1, [[7, 1]], 0]\n',
        b'["value"]\n',
        b"",
    ],
)
def test_a_forged_answer_fails_the_call(line):
    ours, theirs = socket.socketpair()
    theirs.sendall(line)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Exception):  # noqa: B017  whichever: it fails the test in which it arises
        Peer(ours, deadline=time.monotonic() + 5).function("f")()


def test_the_other_side_reaches_only_what_was_lent(connect):
    ours, theirs = socket.socketpair()
    for name in ("eval", "lent 0"):
        theirs.sendall(json.dumps(["call", name, {"list": ["1"]}, {"dict": []}]).encode() + b"\n")
    theirs.sendall(b'["value", 5, [], 0]\n')
    assert Peer(ours, deadline=time.monotonic() + 5).function("f")() == 5
    lines = theirs.recv(2**16).splitlines()
    assert [json.loads(line)[:2] for line in lines[1:]] == [["error", "NameError"]] * 2


def test_silence_and_drops_end_at_the_deadline():
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip():
        while not stop.wait(0.05):
            theirs.sendall(b" ")

    threading.Thread(target=drip, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        Peer(ours, deadline=start + 0.5).function("f")()
    stop.set()
    assert time.monotonic() - start < 2
