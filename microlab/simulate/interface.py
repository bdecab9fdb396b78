"""The flat boundary between two grains of the Chen-Yang model at equilibrium (chapter 02).

    kappa eta'' = eta^3 - eta + 2 gamma eta zeta^2,    and the same with eta and zeta exchanged

For gamma = 1 its energy is sigma = 0.3875 sqrt(kappa), its width 1 / max |eta'| = 3.436 sqrt(kappa), and
phi = eta^2 + zeta^2 falls to 0.636 at its middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_bvp


def planar_profile(x: ArrayLike, kappa: float = 1.0, gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Equilibrium of a flat boundary at x = 0, where ``kappa eta'' = eta^3 - eta + 2 gamma eta zeta^2``.

    Solved as a boundary-value problem for the right half (eta and zeta mirror one another); only
    gamma = 3/2 has a closed form, ``eta = (1 + tanh(x / sqrt(2 kappa))) / 2``.

    Parameters
    ----------
    x : (N,) float
        Distance from the boundary.

    Returns
    -------
    eta, zeta : (N,) float64
        Order parameters of the grain on the right and of the one on the left.
    """
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    if not gamma > 0.5:
        raise ValueError(f"gamma must exceed 1/2, or grains do not exclude one another; got {gamma}")
    s = np.asarray(x, dtype=float) / np.sqrt(kappa)

    def slopes(_, y):  # y = eta, eta', zeta, zeta'
        eta, d_eta, zeta, d_zeta = y
        return np.stack(
            [
                d_eta,
                eta**3 - eta + 2 * gamma * eta * zeta**2,
                d_zeta,
                zeta**3 - zeta + 2 * gamma * zeta * eta**2,
            ]
        )

    def ends(left, right):  # mirror symmetry at 0; one grain alone far away
        return np.array([left[0] - left[2], left[1] + left[3], right[0] - 1, right[2]])

    far = 12 * max(1.0, (2 * gamma - 1) ** -0.5)
    grid = np.linspace(0, far, 200)
    step, slope = (1 + np.tanh(grid / np.sqrt(2))) / 2, 1 / np.cosh(grid / np.sqrt(2)) ** 2 / np.sqrt(8)
    solution = solve_bvp(slopes, ends, grid, [step, slope, 1 - step, -slope], tol=1e-8, max_nodes=100_000)
    if not solution.success:
        raise ValueError(f"no planar profile found for gamma = {gamma}: {solution.message}")
    values = solution.sol(np.minimum(np.abs(s), far))
    return np.where(s >= 0, values[0], values[2]), np.where(s >= 0, values[2], values[0])
