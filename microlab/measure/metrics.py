"""All metrics of segmentation in one place (chapter 08): pixels, boundaries, grains.

Every function takes (truth, prediction) as one image or a set of images. For a set, ``per_image`` must be
said: True gives one score per image (average them with ``numpy.nanmean``), False one for the whole set.
Ratios of nothing to nothing are NaN: an image without boundaries or grains in both is no success.
"""

from __future__ import annotations

from .boundary import (
    BoundaryScores,
    boundary_f1,
    boundary_scores,
    default_tolerance,
    edge_pixels,
    hausdorff95,
)
from .instance import (
    PanopticQuality,
    Variation,
    adapted_rand_error,
    grain_count_error,
    panoptic_quality,
    variation_of_information,
)
from .pixel import Confusion, class_iou, dice, iou, mean_iou, missing_class_iou, pixel_accuracy

__all__ = [
    "BoundaryScores",
    "Confusion",
    "PanopticQuality",
    "Variation",
    "adapted_rand_error",
    "boundary_f1",
    "boundary_scores",
    "class_iou",
    "default_tolerance",
    "dice",
    "edge_pixels",
    "grain_count_error",
    "hausdorff95",
    "iou",
    "mean_iou",
    "missing_class_iou",
    "panoptic_quality",
    "pixel_accuracy",
    "variation_of_information",
]
