"""Checks of chapter 07, training sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from microlab.book.exercises import Mistake, NotYet, check_for
from microlab.book.exercises.comparison import compare, number, run


@check_for("sets-ex-reach")
def reach(answer: float, *, touched: int, deeper: int) -> str:
    """Width of the receptive field of a U-Net of depth 3; `touched` pixels have a gradient."""
    number(
        answer,
        touched,
        {
            "two levels less: each level doubles what the lowest one adds, so it is not one half": deeper / 2,
            "that is the field of the deeper network": deeper,
            "that is half of the field: it reaches to both sides": touched / 2,
        },
        accept=lambda width: touched <= width <= touched + 4,
        rtol=0.04,
        name="my_width",
    )
    return f"the gradient touches {touched} px"


@check_for("sets-ex-epochs")
def epochs(answer: Callable) -> str:
    """Updates of the weights in so many epochs."""
    compare(
        answer,
        lambda images, epochs, batch: epochs * len(range(0, images, batch)),
        [(90, 200, 2), (180, 200, 2), (2700, 200, 2), (91, 3, 2), (10, 5, 4)],
        {
            "the last batch of an epoch may be smaller, and it counts": (
                lambda images, epochs, batch: epochs * (images // batch)
            ),
            "a part of an update is none: round up in every epoch": (
                lambda images, epochs, batch: epochs * images / batch
            ),
            "round up in every epoch, not at the end: the epochs do not share a batch": (
                lambda images, epochs, batch: -(-epochs * images // batch)
            ),
            "the weights change once a batch, not once an image": lambda images, epochs, batch: (
                epochs * images
            ),
            "that is one epoch": lambda images, epochs, batch: -(-images // batch),
            "a larger batch means fewer updates": lambda images, epochs, batch: epochs * images * batch,
        },
    )
    return "with 30 times the images the same epochs are 30 times the training"


def _half(values: NDArray, ddof: int = 1) -> float:
    return stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=ddof) / np.sqrt(len(values))


def _unpaired(a: NDArray, b: NDArray) -> tuple[float, float]:
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def _paired(a: NDArray, b: NDArray) -> tuple[float, float]:
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


@check_for("sets-ex-paired")
def paired(answer: Callable) -> str:
    """Mean of the differences, seed by seed, and half of its 95 % interval."""
    rng = np.random.default_rng(0)
    luck = [rng.normal(0.6, 0.1, n) for n in (3, 5, 8)]
    cases = [
        (seed + rng.normal(0.04, 0.02, len(seed)), seed + rng.normal(0, 0.01, len(seed))) for seed in luck
    ]
    compare(
        answer,
        _paired,
        cases,
        {
            "these are few differences out of many: divide by n - 1 in the spread (`ddof=1`)": (
                lambda a, b: ((a - b).mean(), _half(a - b, 0))
            ),
            "1.96 is for many seeds; with few take Student's t, `stats.t.ppf(0.975, n - 1)`": (
                lambda a, b: ((a - b).mean(), 1.96 * (a - b).std(ddof=1) / np.sqrt(len(a)))
            ),
            "that is the whole interval; half of it is wanted": lambda a, b: (
                (a - b).mean(),
                2 * _half(a - b),
            ),
            "the error of a mean is the spread over the root of n": (
                lambda a, b: ((a - b).mean(), _half(a - b) * np.sqrt(len(a)))
            ),
            "that is not paired: take the differences first, then their spread": _unpaired,
            "the order is a - b": lambda a, b: ((b - a).mean(), _half(a - b)),
            "both tails count: 0.975, not 0.95": (
                lambda a, b: (
                    (a - b).mean(),
                    _half(a - b) * stats.t.ppf(0.95, len(a) - 1) / stats.t.ppf(0.975, len(a) - 1),
                )
            ),
            "n differences leave n - 1 degrees of freedom": (
                lambda a, b: (
                    (a - b).mean(),
                    _half(a - b) * stats.t.ppf(0.975, len(a)) / stats.t.ppf(0.975, len(a) - 1),
                )
            ),
        },
    )
    return "it gains only where a seed lifts both sets"


@check_for("sets-ex-adabn")
def adabn(answer: list, *, usual: list, f1_after: Callable[[list], float]) -> str:
    """Unlabelled images that make AdaBN harm."""
    if answer is None or answer is Ellipsis:
        raise NotYet("shown_to_it is empty")
    if not isinstance(answer, (list, tuple)) or not answer:
        raise Mistake("shown_to_it must be a list of images: put brackets around a single one")
    for image in answer:
        if np.ndim(image) != 2:
            raise Mistake(f"an image here is (H, W); one of yours has shape {np.shape(image)}")
        if not np.isfinite(image).all():
            raise Mistake("an image holds NaN or infinity: that harms any network, and teaches nothing")
    same = len(answer) == len(usual) and all(
        np.array_equal(a, b) for a, b in zip(answer, usual, strict=False)
    )
    if same:
        raise NotYet("these are the tiles as they were")
    before, after = f1_after(usual), f1_after(answer)
    summary = f"boundary F1 {after:.3f}, with the right tiles {before:.3f}"
    if after >= before - 0.02:
        raise NotYet(f"{summary}: that does no harm. What changes the share of boundary in a tile?")
    return f"{summary}: it harms"


@check_for("sets-ex-bce")
def bce(answer: Callable) -> str:
    """Binary cross-entropy of a network's logits."""
    torch_rng = torch.Generator().manual_seed(0)
    model = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        model.weight.copy_(torch.randn(model.weight.shape, generator=torch_rng))
        model.bias.fill_(-0.3)
    images = torch.randn((2, 1, 12, 14), generator=torch_rng)
    masks = (torch.rand(images.shape, generator=torch_rng) < 0.2).float()

    def of(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable:
        return lambda model, batch: loss(model(batch[0]), batch[1])

    def dice(logits: Tensor, masks: Tensor) -> Tensor:
        p = torch.sigmoid(logits)
        return 1 - 2 * (p * masks).sum() / (p.sum() + masks.sum())

    def by_hand(logits: Tensor, masks: Tensor) -> Tensor:
        p = torch.sigmoid(logits.double())
        return -torch.where(masks > 0, p, 1 - p).log().mean()

    mistakes = {
        "that is the sum over all pixels; take the mean": of(
            lambda x, m: functional.binary_cross_entropy_with_logits(x, m, reduction="sum")
        ),
        "the sigmoid is applied twice: `..._with_logits` has one inside": of(
            lambda x, m: functional.binary_cross_entropy_with_logits(torch.sigmoid(x), m)
        ),
        "boundary and interior are exchanged": of(
            lambda x, m: functional.binary_cross_entropy_with_logits(x, 1 - m)
        ),
        "that is the Dice loss": of(dice),
        "only the boundary pixels count in that; the interior has a logarithm too, of 1 - p": of(
            lambda x, m: -(m * functional.logsigmoid(x)).mean()
        ),
        "the sign is missing: a loss falls when the network is right": of(
            lambda x, m: -functional.binary_cross_entropy_with_logits(x, m)
        ),
        "that is the squared error": of(lambda x, m: functional.mse_loss(torch.sigmoid(x), m)),
    }
    compare(answer, of(by_hand), [(model, (images, masks))], mistakes, rtol=1e-4, reveal=False)
    value = run(answer, model, (images, masks))
    if not (isinstance(value, Tensor) and value.requires_grad):
        raise Mistake("the value is right, but no gradient leads back to the weights: use torch, not numpy")
    return "the value is right, and it has a gradient"
