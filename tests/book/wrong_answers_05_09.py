"""Typical wrong answers to the exercises of chapters 05 to 09."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from torch.nn import functional
from wrong_answers import Answers

from microlab.data.micrograph import Micrograph
from microlab.measure.labels import boundaries, components

# ---- 05 ----


def to_the_right(image):
    return np.roll(image, 3, axis=1)


def to_the_left(image):
    return np.roll(image, -3, axis=1)


def off_the_edge(image):
    return np.pad(image, ((0, 0), (3, 0)))[:, : image.shape[1]]


# ---- 06 ----

NOTICED = {"histogram": {"inverted"}, "entropy": set(), "texture": {"shuffled", "inverted"}}


def distance_of(kernel, cross=2):
    return lambda x, y: kernel(x, x).mean() + kernel(y, y).mean() - cross * kernel(x, y).mean()


def without_itself(x, y):
    def among(a):
        k = (a @ a.T / a.shape[1] + 1) ** 3
        return k[~np.eye(len(a), dtype=bool)].mean()

    return among(x) + among(y) - 2 * ((x @ y.T / x.shape[1] + 1) ** 3).mean()


def lined(seed: int) -> Micrograph:
    """An image with dark lines, and the lines."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((96, 96), bool)
    mask[rng.choice(96, 6)] = mask[:, rng.choice(96, 6)] = True
    image = np.clip(170 - 80 * mask + rng.normal(0, 10, mask.shape), 0, 255) / 255
    return Micrograph(image.astype(np.float32), boundary=mask)


OWN = [lined(k) for k in range(6)]
STRANGERS = [replace(own, boundary=OWN[k - 3].boundary) for k, own in enumerate(OWN)]

# ---- 07 ----


def student(a, b, ddof=1, factor=None, over=None):
    d, n = np.asarray(a) - np.asarray(b), len(a)
    factor = stats.t.ppf(0.975, n - 1) if factor is None else factor
    return np.mean(d), factor * np.std(d, ddof=ddof) / np.sqrt(over or n)


def not_paired(a, b):
    test = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    return np.mean(a) - np.mean(b), (test.high - test.low) / 2


TILES = [np.linspace(0, 1, 64).reshape(8, 8)]


def f1_after(images) -> float:
    return 0.8 - 0.5 * abs(float(np.mean(images[0])) - 0.5)


def numpy_loss(model, batch):
    logits, masks = model(batch[0]).detach().numpy().astype(float), batch[1].numpy()
    return np.mean(np.logaddexp(0, logits) - masks * logits)


# ---- 08 ----

LABELS = np.arange(1, 17).reshape(4, 4).repeat(24, 0).repeat(24, 1)
LINES = distance_transform_edt(~boundaries(LABELS)) <= 1.5


def grains_in(mask) -> int:
    return int(components(mask, min_area=20, fill=True).max())


def moved_until_worse() -> int:
    """The smallest shift at which interior overlaps interior less than it would overlap the whole image."""

    def grain_iou(k):
        moved = np.concatenate([np.repeat(LINES[:, :1], k, 1), LINES], 1)[:, :96]
        return (~LINES & ~moved).sum() / (~LINES | ~moved).sum()

    return next(k for k in range(40) if grain_iou(k) < (~LINES).mean())


def with_holes(number: int, half: int = 1) -> np.ndarray:
    """Lines, some with a hole of 2 * half px in their middle, those along the rows first."""
    mask, cut = LINES.copy(), 0
    for row in range(4):
        for column in range(1, 4):
            if cut < number:
                middle, at = 24 * row + 12, 24 * column
                mask[middle - half : middle + half, at - 4 : at + 4] = False
                cut += 1
    return mask


def contingency(true_labels, labels):
    t, f = (np.unique(part, return_inverse=True)[1].ravel() for part in (true_labels, labels))
    table = np.zeros((t.max() + 1, f.max() + 1))
    np.add.at(table, (t, f), 1)
    return table


def rand_error(true_labels, labels, one=1.0, beta=(1, 1)):
    table = contingency(true_labels, labels)
    both, truth, found = ((k * (k - one)).sum() for k in (table, table.sum(1), table.sum(0)))
    return 1 - sum(beta) * both / (beta[0] * truth + beta[1] * found)


def merged_grains(true_labels, mask, tolerance=3):
    n = len(np.unique(true_labels))
    return 1 - components(mask, min_area=30, fill=True).max() / n


def missing_pixels(true_labels, mask, tolerance=3):
    line = boundaries(true_labels)
    near = distance_transform_edt(~mask) <= tolerance if mask.any() else np.zeros_like(mask)
    return 1 - (line & near).sum() / line.sum()


def closed_share(true_labels, mask, tolerance=3):
    return 1 - connected_pairs(true_labels, mask)


def connected_pairs(true_labels, mask):
    """Share of neighbours in one region of the whole mask: counts lines that others have opened."""
    regions = label(~mask, connectivity=1)
    home = [np.bincount(regions[(true_labels == g) & ~mask]).argmax() for g in range(1, 17)]
    pairs = [
        (a, a + step) for a in range(16) for step in (1, 4) if a + step < 16 and (step == 4 or a % 4 < 3)
    ]
    return np.mean([home[a] == home[b] for a, b in pairs])


# ---- 09 ----


def largest_lead(a, b):
    return stats.ks_2samp(a, b).statistic


def kuiper_of(a, b, sign=1):
    at = np.sort(np.r_[a, b])
    gap = np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(
        b
    )
    return gap.max() - sign * gap.min()


ANSWERS = {
    "cyclegan-ex-width": Answers(
        context=lambda: {"ratio": 1.6},
        solution=lambda: (1.5,),
        wrong=[(1 / 1.6, "upside down"), (160, "percent"), (3.0, "too large"), (1.1, "too small")],
    ),
    "cyclegan-ex-shift": Answers(
        wrong=[
            ((off_the_edge, to_the_left), "np.roll"),
            ((to_the_right, to_the_right), "further in F's direction"),
            ((to_the_right, lambda image: image), "G changes nothing"),
            ((to_the_right, lambda image: np.roll(image, -3, axis=0)), "same axis"),
        ]
    ),
    "cyclegan-ex-noise": Answers(
        context=lambda: {"made": np.full((64, 64), 0.5)},
        solution=lambda: (1,),
        wrong=[(64 * 64, "nothing can tell"), (2, "frame"), (256, "constant is a constant")],
    ),
    "realism-ex-blind": Answers(
        context=lambda: {"truth": NOTICED},
        solution=lambda: (NOTICED,),
        wrong=[
            (NOTICED | {"histogram": {"inverted", "shuffled"}}, "does not know where"),
            (NOTICED | {"entropy": {"inverted"}}, "not which grey"),
            (NOTICED | {"texture": {"shuffled", "inverted", "mirrored"}}, "means over directions"),
            (NOTICED | {"entropy": {"rotated"}}, "rotated"),
        ],
    ),
    "realism-ex-bias": Answers(
        wrong=[
            (without_itself, "fair one"),
            (distance_of(lambda a, b: (a @ b.T + 1) ** 3), "number of features"),
            (distance_of(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 2), "cubic"),
            (distance_of(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, cross=1), "count twice"),
        ]
    ),
    "realism-ex-contrast": Answers(
        context=lambda: {"own": OWN, "strangers": STRANGERS},
        wrong=[
            (lambda image, mask: image.std(), "mask is not used"),
            (lambda image, mask: mask.mean(), "image is not used"),
            (lambda image, mask: image[mask].mean() - image[~mask].mean(), "sign"),
            (lambda image, mask: image[~mask].mean(), "strangers"),
        ],
    ),
    "sets-ex-reach": Answers(
        context=lambda: {"touched": 44, "deeper": 188},
        solution=lambda: (46,),
        wrong=[(94, "not one half"), (188, "deeper network"), (22, "both sides")],
    ),
    "sets-ex-epochs": Answers(
        wrong=[
            (lambda images, epochs, batch: images // batch * epochs, "may be smaller, and it counts"),
            (lambda images, epochs, batch: images * epochs, "once a batch"),
            (lambda images, epochs, batch: int(np.ceil(images * epochs / batch)), "not at the end"),
        ]
    ),
    "sets-ex-paired": Answers(
        wrong=[
            (lambda a, b: student(a, b, ddof=0), "n - 1 in the spread"),
            (lambda a, b: student(a, b, factor=1.96), "Student"),
            (lambda a, b: student(a, b, over=1), "root of n"),
            (not_paired, "not paired"),
            (lambda a, b: student(b, a), "a - b"),
        ]
    ),
    "sets-ex-adabn": Answers(
        context=lambda: {"usual": TILES, "f1_after": f1_after},
        solution=lambda: ([np.zeros((8, 8))],),
        stub=lambda: (TILES,),
        wrong=[
            (np.zeros((8, 8)), "must be a list"),
            ([np.zeros((8, 8, 3))], r"\(H, W\)"),
            ([np.full((8, 8), np.nan)], "NaN"),
            ([1 - TILES[0]], "no harm"),
        ],
    ),
    "sets-ex-bce": Answers(
        wrong=[
            (
                lambda model, batch: functional.binary_cross_entropy_with_logits(
                    model(batch[0]).sigmoid(), batch[1]
                ),
                "twice",
            ),
            (
                lambda model, batch: functional.binary_cross_entropy(
                    model(batch[0]).sigmoid(), batch[1], reduction="sum"
                ),
                "take the mean",
            ),
            (
                lambda model, batch: -(batch[1] * model(batch[0]).sigmoid().log()).mean(),
                "interior has a logarithm",
            ),
            (numpy_loss, "no gradient"),
        ]
    ),
    "metrics-ex-dice": Answers(
        wrong=[
            (lambda iou: iou / (2 - iou), "other way"),
            (lambda iou: iou / (1 + iou), "counts twice"),
            (lambda iou: 2 * iou, "not twice"),
        ]
    ),
    "metrics-ex-worse": Answers(
        context=lambda: {"truth": LINES},
        solution=lambda: (moved_until_worse(),),
        wrong=[
            (2.5, "whole number"),
            (-3, "to the right"),
            (moved_until_worse() - 1, "better than nothing"),
            (moved_until_worse() + 1, "smaller shift"),
        ],
    ),
    "metrics-ex-sabotage": Answers(
        context=lambda: {"truth": LINES, "count": grains_in},
        solution=lambda: (with_holes(9),),
        stub=lambda: (LINES,),
        wrong=[
            (with_holes(9, half=5), "too much is erased"),
            (np.ones_like(LINES), "only erase"),
            (with_holes(9).astype(float), "float64"),
            (with_holes(2), "not joined yet"),
        ],
    ),
    "metrics-ex-rand": Answers(
        wrong=[
            (lambda t, f: 1 - rand_error(t, f), "1 minus it"),
            (lambda t, f: rand_error(t, f, one=0.0), "not k squared"),
            (lambda t, f: rand_error(t, f, beta=(0, 1)), "no split hurts"),
            (lambda t, f: rand_error(t, f, beta=(1, 0)), "no merger hurts"),
        ]
    ),
    "metrics-ex-open": Answers(
        wrong=[
            (merged_grains, "no line at all|count the grains"),
            (missing_pixels, "count lines, not pixels"),
            (closed_share, "open one is wanted"),
            (lambda t, m, tolerance=3: connected_pairs(t, m), "joined already|count lines"),
        ]
    ),
    "grains-ex-line": Answers(
        wrong=[
            (lambda d, w: (1 - w / d / 2) ** 2, "at either end, so the diameter shrinks by a whole"),
            (lambda d, w: 1 - w / d, "square"),
            (lambda d, w: 1 - (1 - w / d) ** 2, "that is lost"),
            (lambda d, w: (1 - 2 * w / d) ** 2, "shared by two"),
        ]
    ),
    "grains-ex-needed": Answers(
        solution=lambda: (19,),
        wrong=[(10, "f = 2 is missing"), (18, "round up"), (1106.4, "number of grains; a field")],
    ),
    "grains-ex-kuiper": Answers(
        wrong=[
            (largest_lead, "Kolmogorov"),
            (lambda a, b: kuiper_of(a, b, sign=-1), "the two are added"),
            (lambda a, b: (kuiper_of(a, b) + kuiper_of(a, b, -1)) / 2, "first over the second only"),
        ]
    ),
    "grains-ex-fields": Answers(
        context=lambda: {"from_grains": 0.81},
        solution=lambda: (0.95,),
        wrong=[(0.81, "scatter between grains"), (95, "percent"), (0.89, "Student"), (0.5, "too small")],
    ),
}
