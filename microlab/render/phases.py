"""A second phase under the virtual microscope (chapter 15)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phases:
    """A second phase in a virtual micrograph.

    Attributes
    ----------
    phase_map : (H, W) int
        0 or 1 for each pixel, constant over a grain.
    step : float
        Brightness of phase 1 above phase 0, in units of full scale.
    groove : float
        Depth of the groove between two phases over that between two grains. An etchant that attacks grain
        boundaries may leave phase borders flat (0): they show by their contrast alone.
    """

    phase_map: np.ndarray
    step: float = 0.25
    groove: float = 0.0


def phase_contrast(image: np.ndarray, phase_map: np.ndarray, *, step: float) -> np.ndarray:
    """Compositional contrast: the heavier phase scatters more electrons back and is brighter by `step`.

    Parameters
    ----------
    phase_map : (H, W) int, 0 for the lighter phase and 1 for the heavier
    step : float
        Brightness of the second phase above the first, in units of full scale; the mean stays where it was.

    References
    ----------
    Goldstein et al., Scanning Electron Microscopy and X-Ray Microanalysis, 4th ed. (2018): backscattering
    rises with the atomic number.
    """
    heavy = np.asarray(phase_map, np.float32)
    return (image + step * (heavy - heavy.mean())).astype(np.float32)
