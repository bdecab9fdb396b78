"""Batch-norm statistics re-estimated on unlabelled images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from microlab.segment.adabn import adapt_batch_norm
from microlab.segment.unet import UNet


def test_the_statistics_become_those_of_the_target() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)).eval()
    images = [np.random.default_rng(0).normal(5, 2, (64, 64)).astype(np.float32)]
    adapted = adapt_batch_norm(model, images, tile=64, tiles=8)
    standard = (images[0] - images[0].mean()) / images[0].std()
    activations = model[0](torch.from_numpy(standard)[None, None].float())
    torch.testing.assert_close(adapted[1].running_mean, activations.mean((0, 2, 3)), rtol=0.02, atol=1e-4)
    torch.testing.assert_close(adapted[1].running_var, activations.var((0, 2, 3)), rtol=0.02, atol=1e-4)


def test_the_given_network_and_all_weights_are_unchanged() -> None:
    model = UNet(width=4, depth=2).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = adapt_batch_norm(model, [np.random.default_rng(1).random((40, 50))], tile=32, tiles=8)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), adapted.parameters()))
    assert not adapted.training


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no image"):
        adapt_batch_norm(UNet(width=4, depth=2), [])
    with pytest.raises(ValueError, match="no batch norm"):
        adapt_batch_norm(UNet(width=4, depth=2, norm="instance"), [np.eye(32)])
