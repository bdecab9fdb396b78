"""The stepper, the shared fields and the saved state of `microlab.simulate.phasefield`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import networkx
import numpy as np
import pytest
import scipy.ndimage as ndi
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from microlab.simulate import sharing
from microlab.simulate.phasefield import GrainGrowth, Parameters, boundary_mask, grow, max_stable_dt
from microlab.simulate.voronoi import random_seeds, tessellate


def polycrystal(grains, shape, seed=0):
    return tessellate(random_seeds(grains, shape, seed), shape)


def dense_numpy(grain_map, steps, dt):
    """Chen and Yang's equations term by term: float64, one field per grain, none of our code."""
    grains = grain_map.max() + 1
    eta = (grain_map == np.arange(grains)[:, None, None]).astype(np.float64)
    rest, laplacian = np.empty_like(eta[0]), np.empty_like(eta[0])
    for _ in range(steps):
        phi = np.einsum("ihw,ihw->hw", eta, eta)
        for field in eta:
            laplacian[:] = -4 * field
            laplacian[1:] += field[:-1]
            laplacian[0] += field[-1]
            laplacian[:-1] += field[1:]
            laplacian[-1] += field[0]
            laplacian[:, 1:] += field[:, :-1]
            laplacian[:, 0] += field[:, -1]
            laplacian[:, :-1] += field[:, 1:]
            laplacian[:, -1] += field[:, 0]
            square = field * field
            np.subtract(phi, square, out=rest)  # sum of the other grains' squares
            # -dF/d eta_i = eta_i - eta_i^3 - 2 eta_i sum_{j != i} eta_j^2 + kappa lap(eta_i)
            field += dt * (field * (1 - square - 2 * rest) + laplacian)
    return eta


# ------------------------------------------------------------------------------------------- shared fields


@pytest.mark.slow
def test_shared_float32_fields_equal_a_dense_float64_reference_through_recolouring():
    start = polycrystal(60, (150, 144), seed=3)
    dense = dense_numpy(start, steps=1000, dt=0.1)
    shared = grow(start, steps=1000)
    assert len(shared.order_parameters) < 30  # fields were shared
    assert shared.recolourings >= 1
    assert np.count_nonzero(shared.grain_map() != dense.argmax(0)) == 0
    assert_allclose(shared.phi(), (dense**2).sum(0), atol=1e-3)
    assert len(np.unique(shared.grain_map())) < 60  # grains vanished on the way


def test_one_field_per_grain_equals_shared_fields():
    start = polycrystal(20, (97, 110), seed=1)
    own = grow(start, 300, reach=None, dtype=torch.float64)
    shared = grow(start, 300, dtype=torch.float64)
    assert len(own.order_parameters) == 20 > len(shared.order_parameters)
    assert_allclose(shared.phi(), own.phi(), atol=1e-6)
    assert_allclose(shared.areas(), own.areas(), atol=1e-3)
    assert shared.energy() == pytest.approx(own.energy(), rel=1e-9)


def test_near_grains_never_share_a_field():
    simulation = GrainGrowth(polycrystal(80, (150, 141), seed=5))
    for _ in range(4):
        simulation.run(50)
        support = (simulation.order_parameters > sharing.SUPPORT).numpy()
        owner = simulation.owner.numpy()
        for field_support, field_owner in zip(support, owner):
            for grain in np.unique(field_owner[field_support]):
                support_of_grain = field_support & (field_owner == grain)
                others = field_support & (field_owner != grain) & (field_owner >= 0)
                around = ndi.maximum_filter(support_of_grain, 2 * 8 + 1, mode="wrap")
                assert not (around & others).any()


@pytest.mark.parametrize("shape", [(64, 64), (61, 67), (35, 90)])
def test_near_pairs_are_complete(shape):
    grains = polycrystal(40, shape, seed=2)
    margin = 9
    pairs = sharing.near_pairs(
        torch.ones((1, *shape), dtype=torch.bool), torch.as_tensor(grains)[None], 40, margin
    )
    pairs = pairs.toarray() > 0
    for grain in range(40):
        around = ndi.maximum_filter(grains == grain, 2 * margin + 1, mode="wrap")
        near = np.setdiff1d(np.unique(grains[around]), grain)
        assert pairs[grain, near].all()
    assert_array_equal(pairs, pairs.T)
    assert not pairs.diagonal().any()


def test_colouring_is_proper_and_frugal_and_that_of_networkx():
    rng = np.random.default_rng(0)
    points = rng.random((300, 2))
    near = np.linalg.norm(points[:, None] - points, axis=-1) < 0.1
    np.fill_diagonal(near, False)
    colour = sharing.colour_graph(sp.csr_matrix(near))
    i, j = np.nonzero(near)
    assert (colour[i] != colour[j]).all()
    assert_array_equal(np.unique(colour), np.arange(colour.max() + 1))
    assert colour.max() <= near.sum(1).max()  # greedy never needs more than degree + 1
    reference = networkx.greedy_color(networkx.from_numpy_array(near), strategy="DSATUR")
    assert_array_equal(colour, [reference[node] for node in range(300)])


def test_follow_spreads_ownership_by_reach_and_sees_clashes():
    grains = np.full((1, 40, 50), -1, np.int32)
    grains[0, 5, 5], grains[0, 5, 25], grains[0, 30, 48] = 4, 0, 2
    eta = torch.as_tensor(grains >= 0).float()
    owner, clash = sharing.follow(eta, torch.as_tensor(grains), 5, reach=6)
    assert_array_equal(owner[0], ndi.maximum_filter(grains[0], 13, mode="wrap"))
    assert not clash
    assert sharing.follow(eta, torch.as_tensor(grains), 5, reach=10)[1]


# --------------------------------------------------------------------------------------------- free energy


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_energy_never_rises(gamma):
    start = polycrystal(40, (96, 96), seed=4)
    dt = max_stable_dt(gamma=gamma)
    simulation = GrainGrowth(start, Parameters(dt=dt, gamma=gamma), dtype=torch.float64)
    energies = [simulation.energy()]
    simulation.run(400, callback=lambda s: energies.append(s.energy()), every=1)
    assert simulation.recolourings >= 1
    assert len(energies) == 401
    assert (np.diff(energies) < 0).all()


@pytest.mark.slow
def test_energy_rises_beyond_the_stable_step(monkeypatch):
    """The bound is tight: a step 10 % above it violates the law checked by the previous test."""
    monkeypatch.setattr("microlab.simulate.phasefield.max_stable_dt", lambda *a, **k: np.inf)
    start = polycrystal(40, (96, 96), seed=4)
    simulation = GrainGrowth(start, Parameters(dt=1.1 * 0.2), dtype=torch.float64)
    energies = [simulation.energy()]
    simulation.run(400, callback=lambda s: energies.append(s.energy()), every=1)
    assert (np.diff(energies) > 0).any()


def test_the_step_is_the_slope_of_the_energy():
    """-L dF/d eta by central differences of `energy` equals the change of one step, for any gamma."""
    rng = np.random.default_rng(1)
    p = Parameters(kappa=1.7, L=0.8, dx=0.9, dt=1e-3, gamma=1.3)
    eta = rng.random((3, 6, 7))
    stepped = GrainGrowth(eta, p, dtype=torch.float64).run(1).order_parameters.numpy()
    for index in [(0, 0, 0), (1, 5, 6), (2, 3, 0), (0, 2, 4)]:
        h, energy = 1e-5, []
        for sign in (1, -1):
            moved = eta.copy()
            moved[index] += sign * h
            energy.append(GrainGrowth(moved, p, dtype=torch.float64).energy())
        slope = (energy[0] - energy[1]) / (2 * h) / p.dx**2
        assert (stepped[index] - eta[index]) / p.dt == pytest.approx(-p.L * slope, rel=1e-6)


# ------------------------------------------------------------------------------------ outputs and conventions


def test_outputs_follow_the_conventions():
    start = polycrystal(20, (64, 80), seed=0)
    simulation = grow(start, 200)
    phi, grains, mask = simulation.phi(), simulation.grain_map(), simulation.boundary_mask()
    assert phi.dtype == np.float32
    assert phi.shape == grains.shape == mask.shape == (64, 80)
    assert grains.dtype == np.int32
    assert mask.dtype == bool
    assert set(np.unique(grains)) <= set(range(20))
    assert 0.3 < phi.min() < 0.65
    assert 0.99 < phi.max() < 1.01
    assert_array_equal(mask, phi < 0.75)
    assert 0.02 < mask.mean() < 0.5
    borders = (grains != np.roll(grains, 1, 0)) | (grains != np.roll(grains, 1, 1))
    assert ndi.binary_dilation(mask, iterations=2)[borders].mean() > 0.99
    assert simulation.time == pytest.approx(20.0)


def test_areas_are_pixel_counts_at_the_start_and_always_fill_the_domain():
    start = polycrystal(20, (64, 80), seed=0)
    simulation = GrainGrowth(start, Parameters(dx=2.0, kappa=4.0))
    assert_allclose(simulation.areas(), 4.0 * np.bincount(start.ravel(), minlength=20))
    simulation.run(500)
    counted = 4.0 * np.bincount(simulation.grain_map().ravel(), minlength=20)
    assert simulation.areas().sum() == pytest.approx(4.0 * 64 * 80, rel=1e-5)
    assert_allclose(simulation.areas(), counted, atol=60)  # 15 pixels' worth of partly shared pixels


def test_results_depend_on_kappa_over_dx_squared_and_on_dt_times_L_alone():
    start = polycrystal(12, (48, 48), seed=0)
    plain = grow(start, 100, Parameters(dt=0.1))
    scaled = grow(start, 100, Parameters(kappa=4.0, dx=2.0, L=0.5, dt=0.2))
    assert_allclose(plain.phi(), scaled.phi(), atol=1e-5)


def test_one_grain_stays_as_it_is():
    simulation = grow(np.zeros((9, 11), int), 50)
    assert_allclose(simulation.phi(), 1, atol=1e-6)
    assert simulation.energy() == pytest.approx(0, abs=1e-6)
    assert_allclose(simulation.areas(), [99])


def test_a_domain_smaller_than_reach_and_gaps_in_ids_are_fine():
    grains = np.array([[7, 7, 7, 7, 3, 3, 3, 3]] * 5)
    shared, own = grow(grains, 60), grow(grains, 60, reach=None)
    assert_array_equal(shared.grain_map(), own.grain_map())
    assert_allclose(shared.phi(), own.phi(), atol=1e-6)


def test_float64_and_float32_agree():
    start = polycrystal(20, (64, 64), seed=0)
    single, double = grow(start, 400), grow(start, 400, dtype=torch.float64)
    assert double.order_parameters.dtype == torch.float64
    assert_allclose(single.phi(), double.phi(), atol=1e-4)


def test_any_integer_type_or_tensor_is_a_grain_map():
    start = polycrystal(10, (40, 40), seed=0)
    expected = grow(start, 20).phi()
    for same in (start.astype(np.uint16), start.astype(np.int64), start.tolist(), torch.as_tensor(start)):
        assert_array_equal(grow(same, 20).phi(), expected)


def test_callback_sees_every_nth_step():
    seen = []
    simulation = GrainGrowth(polycrystal(10, (40, 40)))
    result = simulation.run(100, callback=lambda s: seen.append((s.step_count, s.time)), every=30)
    assert result is simulation
    assert [step for step, _ in seen] == [30, 60, 90]
    assert [time for _, time in seen] == pytest.approx([3.0, 6.0, 9.0])


def test_progress_bar_counts_steps(capsys):
    GrainGrowth(polycrystal(5, (30, 30))).run(7, progress=True)
    assert "7/7" in capsys.readouterr().err
    GrainGrowth(polycrystal(5, (30, 30))).run(7)
    assert capsys.readouterr().err == ""


def test_initial_order_parameters_are_taken_as_they_are():
    start = polycrystal(6, (40, 40), seed=0)
    fields = (start == np.arange(6)[:, None, None]).astype(float)
    given = GrainGrowth(fields).run(100)
    assert_allclose(given.phi(), grow(start, 100).phi(), atol=1e-5)
    assert_array_equal(fields.sum(0), 1)  # the caller's array is not modified


# ------------------------------------------------------------------------------------------------- restart


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}, {"reach": None}])
def test_restart_is_exact(tmp_path, options):
    start = polycrystal(25, (80, 80), seed=1)
    p = Parameters(dt=0.15, gamma=1.2)
    unbroken = grow(start, 400, p, **options)
    first = grow(start, 137, p, **options)
    first.save(tmp_path / "state.safetensors")
    second = GrainGrowth.load(tmp_path / "state.safetensors").run(263)
    assert second.parameters == p
    assert (second.step_count, second.recolourings) == (400, unbroken.recolourings)
    assert torch.equal(second.order_parameters, unbroken.order_parameters)
    assert torch.equal(second.owner, unbroken.owner)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_failed_save_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    simulation = grow(polycrystal(5, (30, 30)), 10)
    simulation.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        simulation.run(10).save(path)
    assert path.read_bytes() == before


def test_loading_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("not a state")
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    for name in ("text.safetensors", "weights.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is not a grain-growth state"):
            GrainGrowth.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        GrainGrowth.load(tmp_path / "missing.safetensors")


# -------------------------------------------------------------------------------------------- wrong inputs


def test_unstable_dt_is_refused_and_the_largest_stable_one_named():
    with pytest.raises(ValueError, match=r"dt = 0.25 is unstable.*largest stable dt is 0\.2"):
        Parameters(dt=0.25)
    with pytest.raises(ValueError, match=r"0\.0588235"):
        Parameters(kappa=4.0, dt=0.1)
    assert Parameters(dt=max_stable_dt()).dt == 0.2
    assert Parameters(kappa=4.0, L=2.0, dx=0.5, dt=max_stable_dt(4.0, 2.0, 0.5)).dt == pytest.approx(1 / 130)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kappa": 0.0}, "kappa must be positive"),
        ({"L": -1.0}, "L must be positive"),
        ({"dx": np.nan}, "dx must be positive"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"gamma": 0.5}, "gamma must exceed 1/2"),
    ],
)
def test_wrong_parameters_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**wrong)


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (np.zeros((4, 4)), "grain map .* of integers"),
        (np.zeros((4, 4), bool), "grain map .* of integers"),
        (np.zeros(4, int), "grain map"),
        (np.zeros((0, 4), int), "grain map"),
        (np.zeros((2, 4, 4), int), "grain map"),
        (np.full((4, 4), -1), "grain ids must lie in 0..n-1"),
        (np.full((4, 4), 99), "grain ids must lie in 0..n-1"),
        (np.full((2, 4, 4), np.nan), "finite"),
    ],
)
def test_wrong_initial_states_are_named(initial, message):
    with pytest.raises(ValueError, match=message):
        GrainGrowth(initial)


def test_wrong_options_are_named():
    grains = np.zeros((4, 4), int)
    with pytest.raises(ValueError, match="dtype"):
        GrainGrowth(grains, dtype=torch.float16)
    with pytest.raises(ValueError, match="reach"):
        GrainGrowth(grains, reach=0)
    with pytest.raises(ValueError, match="source needs order parameters"):
        GrainGrowth(grains, source=lambda t: 0)
    with pytest.raises(ValueError, match="steps"):
        GrainGrowth(grains).run(-1)
    with pytest.raises(ValueError, match="every"):
        GrainGrowth(grains).run(1, every=0)
    for threshold in (0.0, 1.0, -3.0):
        with pytest.raises(ValueError, match="threshold"):
            boundary_mask(np.ones((2, 2)), threshold)


# ------------------------------------------------------------------------------------ speed, other devices


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_step_equals_eager():
    start = polycrystal(25, (80, 80), seed=1)
    eager, compiled = grow(start, 200), grow(start, 200, compile=True)
    assert_allclose(compiled.phi(), eager.phi(), atol=1e-5)
    assert_array_equal(compiled.grain_map(), eager.grain_map())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_cuda_equals_cpu(compile, tmp_path):
    start = polycrystal(60, (192, 192), seed=3)
    cpu, cuda = grow(start, 1000), grow(start, 1000, device="cuda", compile=compile)
    assert cuda.order_parameters.is_cuda
    assert cuda.recolourings == cpu.recolourings
    assert_allclose(cuda.phi(), cpu.phi(), atol=1e-3)
    assert (cuda.grain_map() != cpu.grain_map()).mean() < 1e-4
    assert cuda.energy() == pytest.approx(cpu.energy(), rel=1e-5)
    cuda.save(tmp_path / "state.safetensors")
    assert GrainGrowth.load(tmp_path / "state.safetensors", device="cuda").owner.is_cuda


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_papers_case_stays_under_700_megabytes():
    program = """
import re
from microlab.simulate.phasefield import grow
from microlab.simulate.voronoi import random_seeds, tessellate
simulation = grow(tessellate(random_seeds(112, (512, 512), 0), (512, 512)), 60)
assert simulation.recolourings == 1  # the moment that needs most
simulation.phi(), simulation.grain_map(), simulation.areas(), simulation.energy()
# Not getrusage: its peak is inherited from the process that started this one.
print(int(re.search("VmHWM: *(\\d+) kB", open("/proc/self/status").read().replace("\t", ""))[1]) * 1024 / 1e6)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 700
