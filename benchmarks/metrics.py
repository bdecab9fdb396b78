"""Time of the metrics compared with torchmetrics, scikit-learn and scikit-image: python benchmarks/metrics.py

Both give the same number, which is checked again here; the last column is their time over ours.
Needs torchmetrics (extra `test`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import sklearn.metrics
import torch
import torchmetrics.functional as tm
from scipy.spatial import cKDTree
from skimage import metrics as skimage_metrics
from skimage.segmentation import find_boundaries

from microlab.measure import boundary, instance, pixel


def shortest_time(call: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Shortest time of several runs, because other load only lengthens a run, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def kd_tree_f1(t: np.ndarray, p: np.ndarray, tolerance: float) -> float:
    a, b = np.argwhere(t), np.argwhere(p)
    recall = (cKDTree(b).query(a)[0] <= tolerance).mean()
    precision = (cKDTree(a).query(b)[0] <= tolerance).mean()
    return 2 * precision * recall / (precision + recall)


def cells(seeds: np.ndarray, size: int) -> np.ndarray:
    return cKDTree(seeds).query(np.indices((size, size)).reshape(2, -1).T)[1].reshape(size, size) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--grains", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    seeds = rng.uniform(0, options.size, (options.grains, 2))
    truth = cells(seeds, options.size)
    labels = cells(seeds + rng.normal(0, 2, seeds.shape), options.size)  # boundaries a few pixels off
    true_boundary, predicted_boundary = (
        find_boundaries(truth, mode="inner"),
        find_boundaries(labels, mode="inner"),
    )
    t4, p4 = truth % 4, labels % 4
    as_torch = [torch.from_numpy(x) for x in (p4, t4)]
    segmentations = [torch.from_numpy(np.stack([0 * x, x], -1))[None] for x in (labels, truth)]
    rows = [
        (
            "mean IoU, 4 classes",
            lambda: pixel.mean_iou(t4, p4, 4),
            "torchmetrics",
            lambda: tm.jaccard_index(*as_torch, task="multiclass", num_classes=4).item(),
        ),
        (
            "Missing Class IoU",
            lambda: pixel.missing_class_iou(t4, p4, 4),
            "scikit-learn",
            lambda: sklearn.metrics.jaccard_score(
                t4.ravel(), p4.ravel(), labels=np.unique(t4), average="macro"
            ),
        ),
        (
            "boundary F1, 3 px",
            lambda: boundary.boundary_f1(true_boundary, predicted_boundary, 3, skeleton=False),
            "k-d tree",
            lambda: kd_tree_f1(true_boundary, predicted_boundary, 3),
        ),
        (
            "Hausdorff distance",
            lambda: boundary.hausdorff95(true_boundary, predicted_boundary, percentile=100, skeleton=False),
            "scikit-image",
            lambda: skimage_metrics.hausdorff_distance(true_boundary, predicted_boundary),
        ),
        (
            "adapted Rand error",
            lambda: instance.adapted_rand_error(truth, labels),
            "scikit-image",
            lambda: skimage_metrics.adapted_rand_error(truth, labels)[0],
        ),
        (
            "variation of information",
            lambda: sum(instance.variation_of_information(truth, labels)),
            "scikit-image",
            lambda: skimage_metrics.variation_of_information(truth, labels).sum(),
        ),
        (
            "panoptic quality",
            lambda: instance.panoptic_quality(truth, labels).pq,
            "torchmetrics",
            lambda: tm.detection.panoptic_quality(*segmentations, things={0}, stuffs={1}).item(),
        ),
    ]
    warnings.simplefilter("ignore")
    print(f"{options.size} x {options.size}, {options.grains} grains")
    print(f"{'metric':26s}{'value':>9s}{'ours':>11s}   {'theirs':<26s}{'ratio':>6s}")
    for name, ours, library, theirs in rows:
        our_time, our_result = shortest_time(ours, options.repeats)
        their_time, their_result = shortest_time(theirs, options.repeats)
        if not np.isclose(our_result, their_result, atol=1e-6):
            raise SystemExit(f"{name}: ours {our_result} but {library} {their_result}")
        print(
            f"{name:26s}{our_result:9.4f}{1000 * our_time:8.1f} ms   {library:13s}{1000 * their_time:8.1f} ms"
            f"   {their_time / our_time:6.1f}"
        )


if __name__ == "__main__":
    main()
