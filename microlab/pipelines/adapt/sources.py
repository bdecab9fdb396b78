"""A user's images: read, checked, and brought to the grain size of the simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microlab.data import images
from microlab.data.micrograph import Micrograph
from microlab.data.transforms import resize_by, stretch
from microlab.pipelines.adapt.settings import AdaptSettings
from microlab.pipelines.image_results import Options
from microlab.segment import segmenter

LOOKED_AT = 5  # images on which the grain scale is measured
LEAST_SIDE = 48  # px at the network's scale: a patch to compare, and a few grains


def read_images(files: list[Path], options: Options) -> dict[str, Micrograph]:
    """All images by name, or a ValueError with one part for each that cannot be used."""
    found, wrong = {}, []
    for file in files:
        try:
            micrograph = images.read_image(file, pixel_size=options.pixel_size, data_bar=options.data_bar)
            segmenter.checked_image(micrograph.image)
        except ValueError as error:
            text = str(error)
            wrong.append(text if str(file) in text else f"{file}: {text}")
            continue
        found[file.name if file.name not in found else str(file.resolve())] = micrograph
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(files)} images cannot be used: {'; '.join(wrong)}")
    return found


def grain_scale(
    micrographs: dict[str, Micrograph], shipped: segmenter.Network, options: Options
) -> dict[str, float]:
    """Zoom for the shipped network, measured on a few of the images."""
    names = list(micrographs)
    looked = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).round().astype(int))]
    if options.zoom is not None:
        return dict.fromkeys(looked, options.zoom)
    return {
        name: segmenter.estimate_zoom(micrographs[name].image, *shipped, device=options.device)
        for name in looked
    }


def at_network_scale(
    micrographs: dict[str, Micrograph], zoom: float, settings: AdaptSettings
) -> dict[str, np.ndarray]:
    """The images magnified so that their grains are as large as the simulated ones, grey levels stretched.

    Raises
    ------
    ValueError
        If an image is then too small to learn from, with its name.
    """
    least = max(LEAST_SIDE, settings.learnt.crop if settings.learns else 0)
    real = {}
    for name, micrograph in micrographs.items():
        real[name] = stretch(resize_by(micrograph.image, zoom))
        if min(real[name].shape) < least:
            height, width = micrograph.image.shape
            raise ValueError(
                f"{micrograph.path}: image has {width} x {height} pixels, at its grain scale "
                f"(zoom {zoom:.2f}) both sides need at least {int(np.ceil(least / zoom))}; "
                "leave it out or give a larger field"
            )
        if real[name].max() == real[name].min():
            raise ValueError(f"{micrograph.path}: shows one grey but for a few pixels; check the export")
    return real


def grain_size(card: dict, zoom: float) -> str:
    """The grain size in the images, in words."""
    size = card.get("grain_size_px")
    return f"boundaries {size / zoom:.0f} px apart (mean intercept)" if size else "grain size unknown"
