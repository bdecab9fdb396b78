"""Receptive field and blind spot of a PixelCNN, measured by gradients.

influence of x on the logits at (r, s) = sum |d logits(r, s) / d x|
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from microlab.generate.pixelcnn import Autoregressive


def receptive_field(
    model: Autoregressive, shape: tuple[int, int] | None = None, at: tuple[int, int] | None = None
) -> np.ndarray:
    """Influence of each code on the logits at one position, by gradients.

    Parameters
    ----------
    model : PixelCNN or GatedPixelCNN
    shape : (int, int), optional
        Rows and columns of the map. By default the span of the kernels, and one row below.
    at : (int, int), optional
        Row and column of the position. By default ``(reach, reach)``.

    Returns
    -------
    (H, W) float
        Sum over logits and one-hot inputs of ``|d logit(at) / d input|``, at a random map of codes; exactly
        zero where no path leads to `at`.

    Raises
    ------
    ValueError
        If `at` lies outside of `shape`.
    """
    reach = model.reach
    shape = (reach + 2, 2 * reach + 1) if shape is None else shape
    at = (reach, reach) if at is None else at
    if not (0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]):
        raise ValueError(f"at {at} lies outside of a map of shape {shape}")
    like = model.first_row.weight
    codes = np.random.default_rng(0).integers(model.codes, size=(1, *shape))
    x = F.one_hot(torch.from_numpy(codes), model.codes).permute(0, 3, 1, 2).to(like).requires_grad_()
    condition = like.new_zeros(1, model.condition) if model.condition else None
    with torch.enable_grad():
        logits = model.from_one_hot(x, condition)[0, :, at[0], at[1]]
        # one gradient per logit: gradients of their sum could cancel
        gradients = [torch.autograd.grad(logit, x, retain_graph=True)[0] for logit in logits]
    return sum(gradient.abs() for gradient in gradients).sum((0, 1)).cpu().numpy()


def blind_spot(
    model: Autoregressive, shape: tuple[int, int] | None = None, at: tuple[int, int] | None = None
) -> np.ndarray:
    """Codes before `at`, within `model.reach` rows and columns of it, that have no influence there.

    Parameters and errors as in `receptive_field`.

    Returns
    -------
    (H, W) bool
    """
    influence = receptive_field(model, shape, at)
    r, s = (model.reach, model.reach) if at is None else at
    row, column = np.indices(influence.shape)
    before = (row < r) | ((row == r) & (column < s))
    near = (row >= r - model.reach) & (abs(column - s) <= model.reach)
    return before & near & (influence == 0)
