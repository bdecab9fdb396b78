"""Grain growth in a solid of two phases, alpha and beta.

    d eta_i / dt = L [ gamma (c - c_other)^2 eta_i - eta_i^3 - 2 eps eta_i sum_{j != i} eta_j^2
                       + kappa lap(eta_i) ]
    d c / dt     = M lap( dF/dc )

This is eq. 2 of chapter 15 (breaks-two-phases). Every grain has an order parameter and belongs to one phase;
c is a composition, which is conserved. A grain can only grow at the expense of the other phase if atoms
diffuse there, so each phase slows the growth of the other. The free energy is that of Chen and Fan (J. Am.
Ceram. Soc. 79, 1163, 1996) and Fan and Chen (Acta Mater. 45, 3297, 1997):

    F = int  f(c) + sum_i [ -gamma/2 (c - c_other)^2 eta_i^2 + eta_i^4/4 ] + eps sum_{i<j} eta_i^2 eta_j^2
           + kappa_c/2 |grad c|^2 + sum_i kappa/2 |grad eta_i|^2

    f(c) = A/4 (x^4/h^2 - 2 x^2 + h^2) + gamma^2/4 [(c - c_alpha)^4 + (c - c_beta)^4],
    x = c - (c_alpha + c_beta)/2,   h = (c_beta - c_alpha)/2

c_other is c_beta for an alpha grain and c_alpha for a beta grain. With gamma = 1/(2h)^2 a grain of either
phase has F = 0 at eta = 1 and its own composition: a flat border leaves the phases at c_alpha and c_beta.
With one phase and constant c the first line is that of `phasefield`, with its gamma = eps.

Order parameters take explicit Euler steps; c takes a semi-implicit one in Fourier space (Eyre's splitting:
what stiffens the equation is taken at the new time). Grid, sharing of fields and units as in `phasefield`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm.auto import trange

from microlab.data.parallel import torch_threads
from microlab.simulate import fused, phasefield, sharing

ALPHA, BETA = 0, 1
SMALL = 2**18  # pixels below which one thread is faster than several that wait for each other


@dataclass(frozen=True)
class Parameters:
    """Material and grid; only the form of F and the compositions are Fan and Chen's.

    Raises
    ------
    ValueError
        If a value is out of its range, or dt is unstable; the message names the largest stable one.
    """

    c_alpha: float = 0.05  # composition of the phase alpha
    c_beta: float = 0.95  # of the phase beta
    A: float = 2.0  # depth of the double well of the composition
    eps: float = 1.5  # how strongly two grains exclude one another
    kappa: float = 1.0  # gradient energy of the order parameters
    kappa_c: float = 1.0  # gradient energy of the composition
    L: float = 1.0  # kinetic coefficient of the order parameters
    M: float = 1.0  # mobility of the composition; 0 freezes it
    dx: float = 1.0  # grid spacing
    dt: float = 0.1  # time step

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (np.isfinite(value) and (value > 0 or (name == "M" and value == 0))):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.c_alpha < self.c_beta < 1:
            raise ValueError(
                f"compositions must lie 0 < c_alpha < c_beta < 1, got {self.c_alpha}, {self.c_beta}"
            )
        if self.eps <= 0.5:
            raise ValueError(f"eps must exceed 1/2, or grains do not exclude one another; got {self.eps}")
        largest = phasefield.max_stable_dt(self.kappa, self.L, self.dx, self.eps)
        if self.dt > largest * (1 + 1e-9):
            raise ValueError(f"dt = {self.dt} is unstable: the largest stable dt is {largest:.6g}")

    @property
    def gamma(self) -> float:
        """Coupling at which a grain is at rest with eta = 1 and the composition of its phase."""
        return 1 / (self.c_beta - self.c_alpha) ** 2


class TwoPhaseGrowth:
    """A running simulation of a two-phase polycrystal.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1, sharp at the start, periodic.
    phase_of : (n,) int
        Phase of each grain, `ALPHA` or `BETA`.
    parameters : Parameters
    dtype : torch.float32 or torch.float64
    device : str or torch.device, optional
    reach : float
        How far a grain's order parameter is followed outside its support, in lengths sqrt(kappa).

    Attributes
    ----------
    composition : (H, W) Tensor
    order_parameters : (C, H, W) Tensor
        Shared fields, as in `phasefield.GrainGrowth`.
    owner : (C, H, W) int32 Tensor
    step_count : int

    Raises
    ------
    ValueError
        If the grain map or the phases are not what they should be.
    """

    def __init__(
        self,
        grain_map: ArrayLike,
        phase_of: ArrayLike,
        parameters: Parameters | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        reach: float = 8,
    ) -> None:
        self.parameters = p = parameters or Parameters()
        grains = np.asarray(grain_map)
        if grains.ndim != 2 or grains.dtype.kind not in "iu" or grains.size == 0 or grains.min() < 0:
            raise ValueError(f"grain_map must be ids from 0, (H, W), got {grains.dtype} {grains.shape}")
        self.n = int(grains.max()) + 1
        phases = np.asarray(phase_of)
        if phases.shape != (self.n,) or not np.isin(phases, (ALPHA, BETA)).all():
            raise ValueError(
                f"phase_of must hold {ALPHA} or {BETA} for each of the {self.n} grains, got {phases}"
            )
        self.phase_of = phases.astype(np.uint8)
        self.step_count = 0
        self._reach = int(np.ceil(reach * np.sqrt(p.kappa) / p.dx))
        self._follow_every = max(1, round(5 / (p.L * p.dt)))
        where = torch.device(device or "cpu")
        on_cpu = where.type == "cpu"
        self._step = fused.step_two_phases if on_cpu else _step
        self._follow_grains = fused.follow if on_cpu else sharing.follow
        ids = torch.tensor(grains.astype(np.int32), device=where)
        self.order_parameters, self.owner = sharing.separate(
            torch.ones(ids.shape, dtype=dtype, device=where)[None], ids[None], self.n, self._reach
        )
        at_rest = torch.tensor([p.c_alpha, p.c_beta], dtype=dtype, device=where)
        self.composition = at_rest[torch.tensor(self.phase_of.astype(np.int64), device=where)[ids.long()]]
        self._next = torch.empty_like(self.order_parameters)
        self._update_phases()
        waves = [2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(s, dtype=dtype)) for s in ids.shape]
        k2 = (waves[0][:, None] + waves[1][None, : ids.shape[1] // 2 + 1]) / p.dx**2  # -k2 is the Laplacian's
        self._k2 = k2.to(where)

    @property
    def time(self) -> float:
        """Simulated time, steps times dt."""
        return self.step_count * self.parameters.dt

    def run(self, steps: int, *, progress: bool = False) -> TwoPhaseGrowth:
        """Take `steps` time steps; return self."""
        if steps < 0:
            raise ValueError(f"steps must be >= 0, got {steps}")
        with torch_threads(1 if self.composition.numel() < SMALL else None):
            for _ in trange(steps, disable=not progress, desc="two-phase growth", unit="step"):
                self._advance()
                if self.step_count % self._follow_every == 0:
                    self._follow()
        return self

    def phi(self) -> np.ndarray:
        """Sum of squared order parameters, (H, W) float32: about 1 inside grains, lower on boundaries."""
        return (self.order_parameters**2).sum(0).float().cpu().numpy()

    def grain_map(self) -> np.ndarray:
        """Grain with the largest order parameter at each pixel, (H, W) int32; ids keep their meaning."""
        top = self.order_parameters.max(0).indices
        return self.owner.gather(0, top[None])[0].cpu().numpy()

    def phase_map(self) -> np.ndarray:
        """Phase of the grain at each pixel, (H, W) uint8, `ALPHA` or `BETA`."""
        return self.phase_of[self.grain_map()]

    def boundary_mask(self, threshold: float = 0.75) -> np.ndarray:
        """Boundary pixels of grains and phases alike, (H, W) bool: ``phi < threshold``."""
        return phasefield.boundary_mask(self.phi(), threshold)

    def potential(self) -> np.ndarray:
        """Diffusion potential dF/dc, (H, W) float64; the same everywhere once nothing diffuses any more."""
        p, c = self.parameters, self.composition
        return (self._slope() - p.kappa_c * _laplacian(c, p.dx)).double().cpu().numpy()

    def energy(self) -> float:
        """Free energy F of the whole domain; the scheme never lets it rise."""
        p, c = self.parameters, self.composition.double()
        eta = self.order_parameters.double()
        x, h, square = c - (p.c_alpha + p.c_beta) / 2, (p.c_beta - p.c_alpha) / 2, eta**2
        phi = square.sum(0)
        density = p.A / 4 * (x**4 / h**2 - 2 * x**2 + h**2)
        density += p.gamma**2 / 4 * ((c - p.c_alpha) ** 4 + (c - p.c_beta) ** 4)
        other = p.c_beta + self._beta.double() * (p.c_alpha - p.c_beta)
        density += -p.gamma / 2 * (square * (c - other) ** 2).sum(0) + (square**2).sum(0) / 4
        density += p.eps / 2 * (phi**2 - (square**2).sum(0))
        for axis in (-2, -1):
            density += p.kappa_c / 2 * ((torch.roll(c, -1, axis) - c) / p.dx) ** 2
            density += p.kappa / 2 * (((torch.roll(eta, -1, axis) - eta) / p.dx) ** 2).sum(0)
        return float(density.sum() * p.dx**2)

    def _slope(self) -> Tensor:
        """dF/dc without the gradient's part."""
        p, c = self.parameters, self.composition
        x, h = c - (p.c_alpha + p.c_beta) / 2, (p.c_beta - p.c_alpha) / 2
        alpha, beta = torch.zeros_like(c), torch.zeros_like(c)  # sums of eta^2 over the grains of a phase
        for eta, is_beta in zip(self.order_parameters, self._beta):
            square = eta * eta
            beta.addcmul_(square, is_beta)
            alpha.add_(square)
        alpha -= beta
        slope = p.A * (x**3 / h**2 - x) + p.gamma**2 * ((c - p.c_alpha) ** 3 + (c - p.c_beta) ** 3)
        return slope - p.gamma * ((c - p.c_beta) * alpha + (c - p.c_alpha) * beta)

    def _advance(self) -> None:
        p, c = self.parameters, self.composition
        others = (p.c_beta, p.c_alpha)  # of alpha grains and of beta grains
        pull = torch.stack([p.gamma * (c - other) ** 2 for other in others])
        if p.M:
            # Half of the steepest slope of dF/dc, taken at the new time, keeps F from rising (Eyre 1998).
            steep = p.A + 3 * p.gamma
            explicit = torch.fft.rfft2(c) - p.dt * p.M * self._k2 * torch.fft.rfft2(self._slope() - steep * c)
            new = explicit / (1 + p.dt * p.M * self._k2 * (steep + p.kappa_c * self._k2))
            self.composition = torch.fft.irfft2(new, s=c.shape)
        eta, rate = self.order_parameters, p.dt * p.L
        arguments = (eta, self._next, self._beta, pull, p.eps, rate, rate * p.kappa / p.dx**2)
        self.order_parameters, self._next = self._step(*arguments), eta
        self.step_count += 1

    def _follow(self) -> None:
        owner, clash = self._follow_grains(self.order_parameters, self.owner, self.n, self._reach)
        if clash:
            eta, owner = sharing.separate(self.order_parameters, self.owner, self.n, self._reach)
            self.order_parameters, self._next = eta, torch.empty_like(eta)
        self.owner = owner
        self._update_phases()

    def _update_phases(self) -> None:
        """1 where a field's value belongs to a beta grain, (C, H, W); values without an owner are zero."""
        phase = torch.tensor([*self.phase_of, ALPHA], device=self.owner.device)  # -1 finds the last
        self._beta = phase[self.owner.long()].to(self.order_parameters.dtype)


def assign_phases(grain_map: ArrayLike, fraction: float, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Assign phases to grains at random, beta to about `fraction` of the area.

    Parameters
    ----------
    grain_map : (H, W) int
        Grain ids 0..n-1.
    fraction : float in [0, 1]
        Share of beta to aim at.

    Returns
    -------
    (n,) uint8, `ALPHA` or `BETA`: the draw whose share comes nearest.

    Raises
    ------
    ValueError
        If `fraction` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    areas = np.bincount(np.ravel(grain_map))
    order = np.random.default_rng(seed).permutation(len(areas))
    share = np.concatenate([[0], areas[order].cumsum()]) / areas.sum()
    phases = np.full(len(areas), ALPHA, np.uint8)
    phases[order[: np.abs(share - fraction).argmin()]] = BETA
    return phases


def _step(
    eta: Tensor, new: Tensor, beta: Tensor, pull: Tensor, eps: float, rate: float, coupling: float
) -> Tensor:
    """One explicit step into `new`, written as the equation; rate = dt L, coupling = dt L kappa / dx^2."""
    phi = (eta * eta).sum(0)
    growth = torch.lerp(pull[ALPHA], pull[BETA], beta) + (2 * eps - 1) * eta * eta - 2 * eps * phi
    return new.copy_(eta + rate * growth * eta + coupling * _laplacian(eta, 1.0))


def _laplacian(field: Tensor, dx: float) -> Tensor:
    around = sum(torch.roll(field, step, axis) for axis in (-2, -1) for step in (1, -1))
    return (around - 4 * field) / dx**2
