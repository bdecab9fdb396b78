"""Adaptive batch normalisation (AdaBN): adapt a network to unlabelled target images.

    (x - mean) / std     with mean and std of the target's tiles instead of the training set's

Li et al., 2016, arXiv:1603.04779. No weight is trained; it takes a second. It may also harm: the tiles must
have the class proportions of the training images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from microlab.data.errors import InputError
from microlab.data.transforms import standardise
from microlab.training.crops import random_crops


def adapt_batch_norm(
    model: nn.Module, images: Sequence[np.ndarray], *, tile: int = 128, tiles: int = 64, seed: int = 0
) -> nn.Module:
    """A copy of a network whose batch-norm statistics are those of unlabelled images.

    Parameters
    ----------
    model : nn.Module
        With BatchNorm2d layers, trained on standardised images (N, 1, H, W).
    images : sequence of (H, W) float
        Unlabelled images of the target, at the magnification at which the network will see them.
    tile : int
        Side of the random tiles in pixels; at most that of the smallest image.
    tiles : int
        Tiles from all images together.
    seed : int

    Returns
    -------
    nn.Module in evaluation mode; `model` is unchanged.

    Raises
    ------
    ValueError
        If there is no image, or the network has no batch norm.
    """
    if not len(images):
        raise InputError("there are no images; give at least one")
    adapted = copy.deepcopy(model)
    layers = [layer for layer in adapted.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers:
        raise InputError(f"{type(model).__name__} has no batch norm, so it holds no statistics to adapt")
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
    rng = np.random.default_rng(seed)
    side = min(tile, *(min(image.shape) for image in images))
    place = next(model.parameters()).device
    adapted.train()
    with torch.no_grad():
        for _ in range(-(-tiles // 8)):
            crops = random_crops(images, side, 8, rng, orient=False)
            batch = [standardise(crop(images[index])) for index, crop in crops]
            adapted(torch.from_numpy(np.stack(batch)[:, None]).to(place))
    return adapted.eval()
