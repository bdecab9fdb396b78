"""Grain growth with the Chen-Yang phase-field model, and its flat boundary at equilibrium.

    d eta_i / dt = L [ eta_i (1 + (2 gamma - 1) eta_i^2 - 2 gamma phi) + kappa lap(eta_i) ]
    phi = sum_j eta_j^2

This is -L dF/d eta_i for the free energy (Chen and Yang, Phys. Rev. B 50, 15752, 1994; gamma = 1 in paper A)

    F = int 1/4 + sum_i (-eta_i^2/2 + eta_i^4/4 + kappa/2 |grad eta_i|^2) + gamma sum_{i<j} eta_i^2 eta_j^2

by explicit Euler steps and the five-point Laplacian on a periodic grid. The 1/4 makes F zero inside a grain.

Across a flat boundary between two grains at equilibrium (:func:`planar_profile`)

    kappa eta'' = eta^3 - eta + 2 gamma eta zeta^2,    and the same with eta and zeta exchanged

For gamma = 1 its energy is sigma = 0.3875 sqrt(kappa), its width 1 / max |eta'| = 3.436 sqrt(kappa), and
phi = eta^2 + zeta^2 falls to 0.636 at its middle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.integrate import solve_bvp
from torch import Tensor
from tqdm.auto import tqdm

from microlab.data.errors import InputError
from microlab.data.files import atomic
from microlab.simulate import fused, sharing


def max_stable_dt(kappa: float = 1.0, L: float = 1.0, dx: float = 1.0, gamma: float = 1.0) -> float:
    """Largest time step at which the explicit scheme is stable and keeps every eta >= 0.

    With gamma = 1 it is eq. 5 of chapter 02 (phase-limit).

    What multiplies eta in a step, ``1 + dt L (1 + (2 gamma - 1) eta^2 - 2 gamma phi - 4 kappa / dx^2)``,
    is least inside another grain (eta = 0, phi = 1); it must not turn negative.
    """
    return 1.0 / (L * (4 * kappa / dx**2 + max(1.0, 2 * gamma - 1)))


@dataclass(frozen=True)
class Parameters:
    """Material and grid of a simulation; the defaults are paper A's.

    Raises
    ------
    InputError
        If a value is not positive, gamma is at most 1/2 (grains would mix instead of excluding one
        another), or dt is unstable; the message names the largest stable one.
    """

    kappa: float = 1.0  # gradient energy coefficient
    L: float = 1.0  # kinetic coefficient
    dx: float = 1.0  # grid spacing
    dt: float = 0.1  # time step
    gamma: float = 1.0  # how strongly two order parameters exclude one another

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{name} must be positive and finite, got {value}")
        if self.gamma <= 0.5:
            raise InputError(f"gamma must exceed 1/2, or grains do not exclude one another; got {self.gamma}")
        largest = max_stable_dt(self.kappa, self.L, self.dx, self.gamma)
        if self.dt > largest * (1 + 1e-9):
            raise InputError(
                f"dt = {self.dt} is unstable with kappa = {self.kappa}, L = {self.L}, dx = {self.dx}, "
                f"gamma = {self.gamma}: the largest stable dt is {largest:.6g}"
            )


class GrainGrowth:
    """A running grain-growth simulation.

    A step follows eq. 2 of chapter 02 (phase-allen-cahn), many grains on few fields eq. 1 of chapter 03
    (grain-growth-equation).

    Parameters
    ----------
    initial : (H, W) int or (C, H, W) float
        A grain map with ids 0..n-1, sharp at the start. Or the order parameters themselves, one field
        for each grain, which are then never shared.
    parameters : Parameters
    dtype : torch.float32 or torch.float64
    device : str or torch.device, optional
        The CPU if not given.
    compile : bool
        Fuse the step with `torch.compile`, for a GPU: on a CPU it is fused already.
    reach : float or None
        How far a grain's order parameter is followed outside its support, in lengths sqrt(kappa) over which
        it decays. None gives every grain its own field: slow, and the reference for what sharing does.
    source : callable, optional
        ``source(t) -> (C, H, W)`` is added to d eta / dt; with order parameters as `initial` only.

    Attributes
    ----------
    order_parameters : (C, H, W) Tensor
        Shared fields. A step overwrites them: copy what you keep.
    owner : (C, H, W) int32 Tensor
        Grain that each value belongs to, -1 for none.
    step_count, recolourings : int
    """

    def __init__(
        self,
        initial: ArrayLike | Tensor,
        parameters: Parameters | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        compile: bool = False,
        reach: float | None = 8,
        source: Callable[[float], ArrayLike | Tensor] | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if reach is not None and not reach > 0:
            raise ValueError(f"reach must be positive, or None for one field per grain; got {reach}")
        self.parameters = p = parameters or Parameters()
        self.step_count, self.recolourings = 0, 0
        self._source = source
        # Grains are followed often enough that a boundary moves less than its own width in between.
        self._follow_every = max(1, round(5 / (p.L * p.dt)))
        device = torch.device(device or "cpu")
        on_cpu = device.type == "cpu"
        self._step = torch.compile(_step) if compile else _step_in_place
        self._fused = on_cpu and not compile and source is None
        self._follow_grains = fused.follow if on_cpu else sharing.follow
        initial = initial.cpu().numpy() if isinstance(initial, Tensor) else np.asarray(initial)
        if initial.ndim == 3 and initial.dtype.kind == "f":
            if not np.isfinite(initial).all() or initial.size == 0:
                raise ValueError("initial order parameters must be finite and not empty")
            self.n, self._reach = len(initial), None
            self.order_parameters = torch.tensor(initial, dtype=dtype, device=device)
        else:
            if source is not None:
                raise ValueError("source needs order parameters (C, H, W) as initial, not a grain map")
            grains = torch.tensor(_checked_grain_map(initial), device=device)
            self.n = int(grains.max()) + 1
            self._reach = None if reach is None else int(np.ceil(reach * np.sqrt(p.kappa) / p.dx))
            if self._reach is None:
                self.order_parameters = (grains == torch.arange(self.n, device=device)[:, None, None]).to(
                    dtype
                )
            else:
                one_field = torch.ones_like(grains, dtype=dtype)[None]
                self.order_parameters, self.owner = sharing.separate(
                    one_field, grains[None], self.n, self._reach
                )
        if self._reach is None:
            ids = torch.arange(self.n, dtype=torch.int32, device=device)
            self.owner = ids[:, None, None].expand(self.order_parameters.shape)
        self._next = torch.empty_like(self.order_parameters)

    @property
    def time(self) -> float:
        """Simulated time, steps times dt."""
        return self.step_count * self.parameters.dt

    def run(
        self,
        steps: int,
        *,
        progress: bool = False,
        callback: Callable[[GrainGrowth], None] | None = None,
        every: int = 50,
    ) -> GrainGrowth:
        """Take `steps` time steps; return self. After every `every`-th one call ``callback(self)``.

        Two runs of 500 steps, even with `save` and `load` in between, equal one of 1000 exactly.
        """
        if steps < 0 or every < 1:
            raise ValueError(f"steps must be >= 0 and every >= 1, got {steps} and {every}")
        last = self.step_count + steps
        with tqdm(total=steps, disable=not progress, desc="grain growth", unit="step") as bar:
            while self.step_count < last:
                # up to the next step after which something else happens
                ends = (self.step_count // k * k + k for k in (self._follow_every, every))
                take = min(last, *ends) - self.step_count
                self._advance(take)
                bar.update(take)
                if self._reach is not None and self.step_count % self._follow_every == 0:
                    self._follow()
                if callback is not None and self.step_count % every == 0:
                    callback(self)
        return self

    def phi(self) -> np.ndarray:
        """Sum of squared order parameters, (H, W) float32: about 1 inside grains, lower on boundaries."""
        return _phi(self.order_parameters).float().cpu().numpy()

    def grain_map(self) -> np.ndarray:
        """Grain with the largest order parameter at each pixel, (H, W) int32; ids keep their meaning."""
        top = self.order_parameters.max(0).indices  # argmax is 30 times slower on a CPU
        return self.owner.gather(0, top[None])[0].cpu().numpy()

    def boundary_mask(self, threshold: float = 0.75) -> np.ndarray:
        """Boundary pixels, (H, W) bool; see `boundary_mask`."""
        return boundary_mask(self.phi(), threshold)

    def areas(self) -> np.ndarray:
        """Area of each grain in units of dx's square, (n,) float64.

        A pixel is shared in the proportions eta_i^2 / phi, so areas vary smoothly in time and add up
        to that of the domain. A vanished grain has 0.
        """
        phi = _phi(self.order_parameters)
        total = torch.zeros(self.n + 1, dtype=torch.float64, device=phi.device)
        for eta, owner in zip(self.order_parameters, self.owner):
            share = (eta * eta / phi).double()
            total += torch.bincount(owner.flatten() + 1, share.flatten(), minlength=self.n + 1)
        return (total[1:] * self.parameters.dx**2).cpu().numpy()  # total[0] is owned by none

    def energy(self) -> float:
        """Free energy F of the whole domain; the scheme never lets it rise.

        It is eq. 1 of chapter 02 (phase-energy), and falls by eq. 3 of chapter 02 (phase-falls).
        """
        p = self.parameters
        phi = _phi(self.order_parameters).double()
        density = 0.25 - phi / 2 + p.gamma / 2 * phi**2
        for eta in self.order_parameters:
            eta = eta.double()
            density += (0.25 - p.gamma / 2) * eta**4
            for axis in (0, 1):
                density += p.kappa / 2 * ((torch.roll(eta, -1, axis) - eta) / p.dx) ** 2
        return float(density.sum() * p.dx**2)

    def save(self, path: str | Path) -> None:
        """Write the whole state to one safetensors file, at once or not at all."""
        state = {
            "parameters": asdict(self.parameters),
            "n": self.n,
            "reach": self._reach,
            "step_count": self.step_count,
            "recolourings": self.recolourings,
        }
        tensors = {"order_parameters": self.order_parameters, "owner": self.owner.contiguous()}
        with atomic(path) as partial:
            save_file(tensors, partial, {"grain_growth": json.dumps(state)})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        compile: bool = False,
        source: Callable[[float], ArrayLike | Tensor] | None = None,
    ) -> GrainGrowth:
        """Continue a saved simulation: the same numbers as if it had never stopped.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is not a state written by `save`.
        """
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["grain_growth"])
                eta, owner = file.get_tensor("order_parameters"), file.get_tensor("owner")
        except (SafetensorError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a grain-growth state written by GrainGrowth.save") from error
        p = Parameters(**state["parameters"])
        simulation = cls(eta, p, dtype=eta.dtype, device=device, compile=compile, source=source)
        simulation.owner = owner.to(simulation.order_parameters.device)
        simulation.n, simulation._reach = state["n"], state["reach"]
        simulation.step_count, simulation.recolourings = state["step_count"], state["recolourings"]
        return simulation

    def _advance(self, steps: int) -> None:
        p, eta, new = self.parameters, self.order_parameters, self._next
        rate, coupling = p.dt * p.L, p.dt * p.L * p.kappa / p.dx**2
        if self._fused:
            # First what will be true: the steps are taken to the end even if the user interrupts them.
            self.order_parameters, self._next = (new, eta) if ceil(steps / fused.STEPS) % 2 else (eta, new)
            self.step_count += steps
            fused.advance(eta, new, steps, rate, coupling, p.gamma)
        else:
            for _ in range(steps):
                self._step(eta, new, rate, coupling, p.gamma)
                if self._source is not None:
                    new.add_(torch.as_tensor(self._source(self.time)).to(new), alpha=p.dt)
                eta, new = new, eta
                self.step_count += 1
            self.order_parameters, self._next = eta, new

    def _follow(self) -> None:
        """Follow the moving grains; colour again when two on one field come near one another."""
        owner, clash = self._follow_grains(self.order_parameters, self.owner, self.n, self._reach)
        if clash:  # the old owners are still right on the supports
            eta, owner = sharing.separate(self.order_parameters, self.owner, self.n, self._reach)
            self.order_parameters, self._next = eta, torch.empty_like(eta)
            self.recolourings += 1
        self.owner = owner


def grow(
    grain_map: ArrayLike, steps: int = 1000, parameters: Parameters | None = None, **options
) -> GrainGrowth:
    """Grow grains from a sharp grain map for `steps` steps; `options` are those of `GrainGrowth`.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = grow(np.repeat([[0, 1]], 16, axis=1).repeat(8, axis=0), steps=10)
    >>> simulation.phi().shape
    (8, 32)
    """
    return GrainGrowth(grain_map, parameters, **options).run(steps)


def boundary_mask(phi: ArrayLike, threshold: float = 0.75) -> np.ndarray:
    """Boundary pixels of a polycrystal.

    Parameters
    ----------
    phi : (H, W) float
        Sum of squared order parameters, about 1 inside grains.
    threshold : float in (0, 1)
        Boundary where ``phi < threshold``. At equilibrium the minimum across a
        flat boundary is 0.636, lower at junctions, so 0.75 marks a thin line.

    Returns
    -------
    (H, W) bool, True on boundaries.

    Raises
    ------
    ValueError
        If `threshold` is outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1), got {threshold}")
    return np.asarray(phi) < threshold


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


def _phi(eta: Tensor) -> Tensor:
    phi = torch.zeros_like(eta[0])
    for field in eta:
        phi.addcmul_(field, field)
    return phi


def _step(eta: Tensor, new: Tensor, rate: float, coupling: float, gamma: float) -> Tensor:
    """One explicit step into `new`, written as the equation; rate = dt L, coupling = dt L kappa / dx^2.

    The equation is eq. 2 of chapter 02 (phase-allen-cahn).
    """
    phi = (eta * eta).sum(0)
    reaction = eta * (1 + (2 * gamma - 1) * eta * eta - 2 * gamma * phi)
    up, down = torch.roll(eta, 1, -2), torch.roll(eta, -1, -2)
    left, right = torch.roll(eta, 1, -1), torch.roll(eta, -1, -1)
    laplacian = up + down + left + right - 4 * eta  # times dx^2
    return new.copy_(eta + rate * reaction + coupling * laplacian)


def _step_in_place(eta: Tensor, new: Tensor, rate: float, coupling: float, gamma: float) -> Tensor:
    """The same step without temporaries, for a GPU."""
    common = _phi(eta).mul_(-2 * gamma * rate).add_(1 + rate - 4 * coupling)
    torch.addcmul(common, eta, eta, value=(2 * gamma - 1) * rate, out=new).mul_(eta)
    for axis in (-2, -1):  # the four neighbours, periodic
        n = eta.shape[axis]
        new.narrow(axis, 1, n - 1).add_(eta.narrow(axis, 0, n - 1), alpha=coupling)
        new.narrow(axis, 0, 1).add_(eta.narrow(axis, n - 1, 1), alpha=coupling)
        new.narrow(axis, 0, n - 1).add_(eta.narrow(axis, 1, n - 1), alpha=coupling)
        new.narrow(axis, n - 1, 1).add_(eta.narrow(axis, 0, 1), alpha=coupling)
    return new


def _checked_grain_map(grain_map: np.ndarray) -> np.ndarray:
    """(H, W) int32, or a ValueError that says what is wrong."""
    if grain_map.ndim != 2 or grain_map.dtype.kind not in "iu" or grain_map.size == 0:
        raise ValueError(
            "initial must be a grain map (H, W) of integers or order parameters (C, H, W) of floats, "
            f"got shape {grain_map.shape} of {grain_map.dtype}"
        )
    low, high = grain_map.min(), grain_map.max()
    if low < 0 or high >= grain_map.size:
        raise ValueError(f"grain ids must lie in 0..n-1, got {low}..{high} on {grain_map.size} pixels")
    return grain_map.astype(np.int32)
