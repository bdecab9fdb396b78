"""The phase field against independent results: sharp interfaces, exact solutions, laws of growth."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import curve_fit

from microlab.simulate.phasefield import GrainGrowth, Parameters, max_stable_dt, planar_profile
from microlab.simulate.voronoi import random_seeds, tessellate

# ------------------------------------------------------------------------------------------- one boundary


def stripes(dx, gamma=1.0):
    """Two relaxed stripes: distance from a boundary, eta on its right and on its left, energy per length."""
    width = round(80 / dx)
    grains = np.zeros((1, width), int)
    grains[:, width // 4 : 3 * width // 4] = 1
    p = Parameters(dx=dx, dt=max_stable_dt(dx=dx, gamma=gamma), gamma=gamma)
    simulation = GrainGrowth(grains, p, dtype=torch.float64, reach=None).run(round(30 / p.dt))
    left, right = simulation.order_parameters[:, 0].numpy()
    x = (np.arange(width) - width // 4 + 0.5) * dx
    near = np.abs(x) < 15
    return x[near], right[near], left[near], simulation.energy() / (2 * dx)


def test_flat_boundary_relaxes_to_the_numerical_equilibrium_at_second_order():
    errors = {}
    for dx in (1.0, 0.5, 0.25):
        x, right, left, _ = stripes(dx)
        eta, zeta = planar_profile(x)
        assert_allclose(right, left[::-1], atol=1e-9)
        errors[dx] = max(abs(right - eta).max(), abs(left - zeta).max())
    assert errors[0.25] < 1e-3
    assert np.log2(errors[0.5] / errors[0.25]) == pytest.approx(2, abs=0.1)
    assert errors[1.0] < 0.012  # the paper's grid: 1 % of eta


def test_boundary_energy_is_that_of_the_profile():
    x = np.linspace(-12, 12, 4801)
    eta, zeta = planar_profile(x)
    # Equipartition: half the excess energy is in the gradients, so sigma is twice theirs.
    sigma = np.trapezoid(np.gradient(eta, x) ** 2 + np.gradient(zeta, x) ** 2, x)
    assert sigma == pytest.approx(0.38749, abs=2e-5)
    assert stripes(0.25)[3] == pytest.approx(sigma, rel=1e-3)
    assert (eta**2 + zeta**2).min() == pytest.approx(0.63557, abs=2e-5)


def test_profile_at_gamma_three_halves_is_the_exact_tanh():
    x = np.linspace(-20, 20, 801)
    for kappa in (1.0, 2.5):
        eta, zeta = planar_profile(x, kappa=kappa, gamma=1.5)
        assert_allclose(eta, (1 + np.tanh(x / np.sqrt(2 * kappa))) / 2, atol=1e-7)
        assert_allclose(eta + zeta, 1, atol=1e-7)
    x, right, _, energy = stripes(0.25, gamma=1.5)
    assert_allclose(right, (1 + np.tanh(x / np.sqrt(2))) / 2, atol=2e-3)
    assert energy == pytest.approx(np.sqrt(2) / 3, rel=2e-3)


def test_planar_profile_names_wrong_values():
    with pytest.raises(ValueError, match="kappa"):
        planar_profile([0.0], kappa=-1)
    with pytest.raises(ValueError, match="gamma"):
        planar_profile([0.0], gamma=0.4)


def disc(radius, dx, size):
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * dx
    return (x**2 + y**2 < radius**2).astype(np.int32)


def test_width_of_a_boundary_does_not_depend_on_its_curvature():
    dx = 0.5

    def width(x, eta):
        """Distance over which a rising eta goes from 0.1 to 0.9."""
        return np.interp(0.9, eta, x) - np.interp(0.1, eta, x)

    x, right, _, _ = stripes(dx)
    exact = width(x, planar_profile(x)[0])
    assert width(x, right) == pytest.approx(exact, rel=0.01)
    for radius, now in ((16, 14.3), (30, 29.2)):
        p = Parameters(dx=dx, dt=max_stable_dt(dx=dx))
        start = disc(radius, dx, round((2 * radius + 24) / dx))
        grain = GrainGrowth(start, p, dtype=torch.float64, reach=None).run(round(25 / p.dt))
        assert np.sqrt(grain.areas()[1] / np.pi) == pytest.approx(now, abs=0.2)  # it is shrinking meanwhile
        eta = grain.order_parameters[1].numpy()
        inwards = eta[len(eta) // 2, : len(eta) // 2]
        assert width(np.arange(len(inwards)) * dx, inwards) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("kappa", "radius", "size", "ratio", "tolerance"),
    [
        (4.0, 60, 160, 1.0, 0.01),  # sharp-interface rate within 1 %
        (1.0, 40, 108, 0.964, 0.005),  # the paper's grid: the lattice slows the boundary by 3.6 %
    ],
)
def test_circle_shrinks_at_the_sharp_interface_rate(kappa, radius, size, ratio, tolerance):
    p = Parameters(kappa=kappa, dt=max_stable_dt(kappa))
    simulation = GrainGrowth(disc(radius, 1.0, size), p, reach=None)
    record = []
    until_half = (radius**2 - (radius / 2) ** 2) / (2 * kappa)
    simulation.run(
        round(until_half / p.dt), callback=lambda s: record.append((s.time, s.areas()[1])), every=20
    )
    time, area = np.array([r for r in record if r[0] > 0.1 * until_half]).T
    slope, _ = np.polyfit(time, area, 1)
    assert slope / (-2 * np.pi * kappa) == pytest.approx(ratio, abs=tolerance)
    assert np.corrcoef(time, area)[0, 1] ** 2 > 0.99999


# ----------------------------------------------------------------------------------------- three boundaries


@pytest.mark.parametrize(("kappa", "width", "speed_tolerance"), [(4.0, 64, 0.01), (1.0, 40, 0.05)])
def test_triple_junctions_open_at_120_degrees(kappa, width, speed_tolerance):
    """A slab grows into two columns, from junctions of 90, 90 and 180 degrees, until its front is steady.

    Between junctions the front must be Mullins' curve y = -(w / 2 theta) ln cos(2 theta u / w), moving at
    2 theta kappa L / w. Three equal tensions make theta = 30 degrees, and the slab's angle 180 - 2 theta.
    (W. W. Mullins, J. Appl. Phys. 27, 900, 1956.)
    """
    height = 6 * width
    grains = np.zeros((height, 2 * width), np.int32)
    grains[:, width:] = 1
    middle, slab = height // 2, height // 8
    grains[middle - slab : middle + slab] = 2
    p = Parameters(kappa=kappa, dt=max_stable_dt(kappa))
    simulation = GrainGrowth(grains, p, reach=None)
    lap = round(0.2 * width**2 / kappa / p.dt)

    def front():
        """Height in every pixel column at which the slab's order parameter equals the larger other."""
        eta = simulation.order_parameters.double().numpy()[:, middle:]
        lead = eta[2] - np.maximum(eta[0], eta[1])
        first = (lead < 0).argmax(0)
        column = np.arange(2 * width)
        above, below = lead[first, column], lead[first - 1, column]
        return first - 1 + below / (below - above)

    simulation.run(lap)
    before = front()
    simulation.run(lap)
    after = front()

    u = np.arange(2 * width) % width - (width - 1) / 2
    away = np.abs(u) < width / 2 - 3 * np.sqrt(kappa)  # the junction itself is as wide as the interface

    def mullins(u, lowest, theta):  # the junctions run ahead along the columns' boundary
        return lowest - width / (2 * theta) * np.log(np.cos(2 * theta * u / width))

    fit, _ = curve_fit(mullins, u[away], after[away], (after.min(), 0.4), bounds=([0, 0.05], [height, 1.5]))
    assert 180 - 2 * np.degrees(fit[1]) == pytest.approx(120, abs=2)
    assert np.abs(after[away] - mullins(u[away], *fit)).max() < 0.05  # pixels: the whole curve fits
    speed = (after - before).mean() / (lap * p.dt)
    assert speed == pytest.approx(np.pi / 3 * kappa / width, rel=speed_tolerance)


# --------------------------------------------------------------------------------------------- many grains


@pytest.fixture(scope="module")
def coarsening():
    """One large run shared by the tests of growth laws: 800 random grains, recorded every 5 units of time."""
    shape = (768, 768)
    simulation = GrainGrowth(tessellate(random_seeds(800, shape, 1), shape), Parameters(dt=max_stable_dt()))
    time, areas, sides = [], [], []

    def record(s):
        if s.time < 100:  # the tessellation is still becoming a grain structure
            return
        time.append(s.time)
        areas.append(s.areas())
        sides.append(count_sides(s.grain_map(), s.n))

    simulation.run(2000, callback=record, every=25)
    return SimpleNamespace(
        time=np.array(time), areas=np.array(areas), sides=np.array(sides), pixels=768 * 768
    )


def count_sides(grain_map, n):
    """Number of different neighbours of each grain, periodic."""
    pairs = []
    for axis in (0, 1):
        other = np.roll(grain_map, 1, axis)
        edge = grain_map != other
        pairs += [grain_map[edge] * n + other[edge], other[edge] * n + grain_map[edge]]
    return np.bincount(np.unique(np.concatenate(pairs)) // n, minlength=n)


@pytest.mark.slow
def test_grains_grow_by_their_number_of_sides(coarsening):
    """von Neumann and Mullins: dA/dt = (pi/3) kappa L (n - 6), whatever a grain's size and shape.

    Sides change meanwhile, so growth over 20 units of time is compared with the mean number of sides over
    this time, which is the law's integral. Grains below 200 pixels, a radius of two interface widths, are not
    resolved and left out.
    """
    time, areas, sides = coarsening.time, coarsening.areas, coarsening.sides
    mean_sides, growth = [], []
    for a in range(0, len(time) - 4, 4):
        b = a + 4
        resolved = areas[b] > 200
        mean_sides.append(np.trapezoid(sides[a : b + 1, resolved], dx=1 / 4, axis=0))
        growth.append((areas[b] - areas[a])[resolved] / (time[b] - time[a]))
    mean_sides, growth = np.concatenate(mean_sides), np.concatenate(growth)
    assert len(growth) > 5000
    slope, offset = np.polyfit(mean_sides, growth, 1)
    assert slope / (np.pi / 3) == pytest.approx(1, abs=0.04)
    assert -offset / slope == pytest.approx(6.0, abs=0.05)
    assert np.std(growth - slope * mean_sides - offset) < 0.15  # a law, not a trend: sides span -3 to +6


@pytest.mark.slow
def test_mean_number_of_sides_is_six(coarsening):
    counted = coarsening.sides[coarsening.sides > 0]
    assert counted.mean() == pytest.approx(6, abs=0.02)


@pytest.mark.slow
def test_mean_area_grows_linearly_in_time(coarsening):
    mean = coarsening.pixels / (coarsening.sides > 0).sum(1)
    assert mean[-1] > 1.2 * mean[0]
    assert np.corrcoef(coarsening.time, mean)[0, 1] ** 2 >= 0.99


# --------------------------------------------------------- PFHub benchmark 7a: a manufactured solution

KAPPA, A1, B1, A2, B2, C2 = 0.0004, 0.0075, 8 * np.pi, 0.03, 22 * np.pi, 0.0625 * np.pi


def pfhub_7a(cells, dt, end):
    """Error after `end` and the field eta; pages.nist.gov/pfhub/benchmarks/benchmark7.ipynb, part (a).

    Its equation is ours for two grains eta and 1 - eta with gamma = 3/2 and opposite sources. The
    square is the benchmark's half square and its mirror image, which makes it periodic in y.
    """
    h = 1 / cells
    y, x = torch.arange(cells // 2 + 1, dtype=torch.float64)[:, None] * h, torch.arange(cells) * h
    width = np.sqrt(2 * KAPPA)

    def wave(t):
        return y - (0.25 + A1 * t * torch.sin(B1 * x) + A2 * torch.sin(B2 * x + C2 * t))

    def mirrored(half):
        return torch.cat([half, half[1:-1].flip(0)])

    def exact(t):
        return mirrored(0.5 * (1 - torch.tanh(wave(t) / width)))

    def source(t):
        alpha_t = A1 * torch.sin(B1 * x) + A2 * C2 * torch.cos(B2 * x + C2 * t)
        alpha_x = A1 * B1 * t * torch.cos(B1 * x) + A2 * B2 * torch.cos(B2 * x + C2 * t)
        alpha_xx = -A1 * B1**2 * t * torch.sin(B1 * x) - A2 * B2**2 * torch.sin(B2 * x + C2 * t)
        tanh = torch.tanh(wave(t) / width)
        moving = np.sqrt(2) * (alpha_t - KAPPA * alpha_xx) - 2 * np.sqrt(KAPPA) * tanh * alpha_x**2
        s = mirrored((1 - tanh**2) / (4 * np.sqrt(KAPPA)) * moving)
        return torch.stack([s, -s])

    start = exact(0.0)
    simulation = GrainGrowth(
        torch.stack([start, 1 - start]),
        Parameters(kappa=KAPPA, dx=h, dt=dt, gamma=1.5),
        dtype=torch.float64,
        source=source,
    )
    eta, other = simulation.run(round(end / dt)).order_parameters
    assert_allclose(eta + other, 1, atol=1e-12)
    half = slice(0, cells // 2 + 1)
    return float((eta - exact(end))[half].norm()) * h, eta.numpy()


@pytest.mark.slow
def test_manufactured_solution_is_reached_at_second_order_in_dx():
    """Errors at t = 8 in the benchmark's range, falling by h^2 and equal to those FiPy has published."""
    coarse, middle, fine = (pfhub_7a(*case, end=8)[0] for case in ((126, 8e-3), (200, 8e-3), (320, 4e-3)))
    assert coarse < 5e-3
    assert fine > 1e-4
    order = np.log(coarse / fine) / np.log(320 / 126)
    assert order == pytest.approx(2, abs=0.2)
    assert np.log(middle / fine) / np.log(320 / 200) == pytest.approx(2, abs=0.1)
    assert middle == pytest.approx(1.3895e-3, rel=5e-3)  # FiPy at h = 0.005


def test_manufactured_solution_is_reached_at_first_order_in_dt():
    """At the benchmark's steps the error in time is masked by that in space, so it is measured separately:
    at one dx, by how much the solution changes from halving to halving of dt."""
    fields = [pfhub_7a(100, dt, end=2)[1] for dt in (0.04, 0.02, 0.01, 0.005)]
    change = [np.linalg.norm(a - b) for a, b in pairwise(fields)]
    orders = np.log2(np.array(change[:-1]) / change[1:])
    assert_allclose(orders, 1, atol=0.05)
