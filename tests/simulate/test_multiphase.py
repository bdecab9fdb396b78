"""Two-phase growth against theory: conserved quantities, the falling energy, closed-form results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microlab.simulate import multiphase, phasefield, voronoi
from microlab.simulate.multiphase import ALPHA, BETA, Parameters, TwoPhaseGrowth, assign_phases

FLAT = np.zeros((4, 64), int)
FLAT[:, 16:48] = 1


def cells(number: int = 14, size: int = 64, seed: int = 1) -> np.ndarray:
    return voronoi.tessellate(voronoi.random_seeds(number, (size, size), seed), (size, size))


@pytest.fixture(scope="module")
def flat() -> TwoPhaseGrowth:
    """Two flat borders between an alpha and a beta grain, at rest."""
    return TwoPhaseGrowth(FLAT, [ALPHA, BETA], dtype=torch.float64).run(3000)


def test_a_flat_border_leaves_each_phase_its_own_composition(flat):
    # Common tangent of Fan and Chen's free energy: c_alpha and c_beta with equal, zero potential. The
    # borders are 16 px away, seven decay lengths and more.
    c = flat.composition[0].numpy()
    assert c[0] == pytest.approx(flat.parameters.c_alpha, abs=1e-5)
    assert c[32] == pytest.approx(flat.parameters.c_beta, abs=1e-5)
    np.testing.assert_allclose(flat.potential(), 0, atol=1e-5)
    assert flat.phi()[0, [0, 32]] == pytest.approx(1, abs=1e-4)


def test_a_flat_border_mirrors_the_phases_and_does_not_move(flat):
    # F does not change if alpha and beta change places and c becomes 1 - c, so the profile is odd.
    c = flat.composition[0].numpy()
    np.testing.assert_allclose(c[:32] + c[:32][::-1], 1, atol=1e-5)
    assert (np.diff(c[:32]) > -1e-7).all()
    np.testing.assert_array_equal(flat.phase_map(), FLAT)


def test_a_grain_at_rest_has_no_energy_and_a_border_has_some():
    one = TwoPhaseGrowth(np.zeros((16, 16), int), [BETA], dtype=torch.float64)
    assert one.energy() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(one.run(5).phi(), 1, atol=1e-12)
    assert TwoPhaseGrowth(FLAT, [ALPHA, BETA], dtype=torch.float64).run(50).energy() > 1


@pytest.mark.slow
def test_a_round_particle_has_the_potential_of_gibbs_and_thomson(flat):
    # mu = sigma / (R (c_beta - c_alpha)) in two dimensions. sigma is measured on the flat border, so nothing
    # is fitted. To first order in the border's width over R, so 5 % at R of some 20 px.
    sigma = flat.energy() / (2 * FLAT.shape[0])
    size = 64
    y, x = np.indices((size, size)) - size / 2
    disc = (np.hypot(y, x) < 20).astype(int)
    grown = TwoPhaseGrowth(disc, [ALPHA, BETA], dtype=torch.float64).run(6000)
    p = grown.parameters
    assert np.ptp(grown.potential()) < 1e-3, "not at rest yet"
    radius = np.sqrt((grown.composition > 0.5).sum().item() / np.pi)
    expected = sigma / (radius * (p.c_beta - p.c_alpha))
    assert grown.potential().mean() == pytest.approx(expected, rel=0.05)


def test_the_composition_is_conserved_and_the_energy_only_falls():
    grain_map = cells()
    grown = TwoPhaseGrowth(grain_map, assign_phases(grain_map, 0.4, 3), dtype=torch.float64)
    total, energies = float(grown.composition.sum()), [grown.energy()]
    for _ in range(60):
        energies.append(grown.run(5).energy())
    assert float(grown.composition.sum()) == pytest.approx(total, rel=1e-12)
    assert (np.diff(energies) < 1e-9 * energies[0]).all()
    assert energies[-1] < 0.9 * energies[0]


def test_one_phase_with_a_frozen_composition_is_chen_and_yang_s_model():
    grain_map = cells()
    ours = TwoPhaseGrowth(grain_map, np.full(14, ALPHA), Parameters(M=0.0, eps=1.0), dtype=torch.float64)
    theirs = phasefield.GrainGrowth(grain_map, phasefield.Parameters(gamma=1.0), dtype=torch.float64)
    np.testing.assert_allclose(ours.run(120).phi(), theirs.run(120).phi(), atol=1e-6)
    np.testing.assert_array_equal(ours.grain_map(), theirs.grain_map())


def test_a_particle_of_the_other_phase_persists_where_a_grain_of_the_same_would_vanish():
    # Curvature removes a round grain in the time R^2 / (2 L kappa), 72 here and so 720 steps. A particle of
    # the other phase cannot vanish, because the composition is conserved.
    y, x = np.indices((64, 64)) - 32
    disc = (np.hypot(y, x) < 12).astype(int)
    left = {
        phase: (TwoPhaseGrowth(disc, [ALPHA, phase]).run(900).grain_map() == 1).sum() / disc.sum()
        for phase in (ALPHA, BETA)
    }
    assert left[ALPHA] == 0
    assert left[BETA] > 0.85


def test_the_maps_agree_with_one_another():
    grain_map = cells()
    phases = assign_phases(grain_map, 0.4, 3)
    grown = TwoPhaseGrowth(grain_map, phases).run(40)
    np.testing.assert_array_equal(grown.phase_map(), phases[grown.grain_map()])
    inside = ~grown.boundary_mask()
    assert 0.3 < inside.mean() < 1
    rich = grown.composition.numpy() > 0.5
    assert (rich == grown.phase_map().astype(bool))[inside].mean() > 0.99


def test_the_same_start_gives_the_same_solid():
    grain_map = cells()
    first, second = (TwoPhaseGrowth(grain_map, assign_phases(grain_map, 0.3, 2)).run(30) for _ in range(2))
    assert torch.equal(first.composition, second.composition)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.6, 1.0])
def test_phases_cover_the_requested_share(fraction):
    grain_map = cells(200, 96)
    share = assign_phases(grain_map, fraction, 0)[grain_map].mean()
    # At most half of the largest grain off.
    assert share == pytest.approx(fraction, abs=np.bincount(grain_map.ravel()).max() / grain_map.size)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dt": 0.5}, "largest stable dt"),
        ({"c_alpha": 0.96}, "c_alpha < c_beta"),
        ({"eps": 0.4}, "eps must exceed"),
        ({"kappa_c": 0.0}, "kappa_c must be positive"),
        ({"M": -1.0}, "M must be"),
    ],
)
def test_parameters_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**wrong)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="grain_map must be ids"):
        TwoPhaseGrowth(np.ones((4, 4)), [0, 0])
    with pytest.raises(ValueError, match="each of the 2 grains"):
        TwoPhaseGrowth(FLAT, [ALPHA])
    with pytest.raises(ValueError, match="each of the 2 grains"):
        TwoPhaseGrowth(FLAT, [ALPHA, 2])
    with pytest.raises(ValueError, match="steps must be"):
        TwoPhaseGrowth(FLAT, [ALPHA, BETA]).run(-1)
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]"):
        multiphase.assign_phases(FLAT, 1.5)
