"""The compiled loops agree with the torch expressions."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from microlab.data.parallel import torch_threads
from microlab.simulate import fused, multiphase, phasefield, sharing
from microlab.simulate.phasefield import GrainGrowth
from microlab.simulate.voronoi import random_seeds, tessellate

SHAPES = [(5, 64, 70), (3, 1, 33), (2, 40, 1), (1, 2, 2), (6, 260, 200)]
DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-14)]


def step(eta, *numbers):
    """One step, without touching `eta`."""
    return fused.advance(eta.clone(), torch.empty_like(eta), 1, *numbers)[0]


def fields(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_a_step_equals_that_of_torch(shape, dtype, tolerance, gamma):
    eta = fields(shape, dtype)
    numbers = 0.1, 0.07, gamma
    new = step(eta, *numbers)
    for reference in (phasefield._step, phasefield._step_in_place):
        assert_close(new, reference(eta, torch.empty_like(eta), *numbers), atol=tolerance, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_two_phase_step_equals_that_of_torch(shape, dtype, tolerance):
    eta, pull = fields(shape, dtype), fields((2, *shape[1:]), dtype, 1)
    beta = (fields(shape, dtype, 2) > 0.5).to(dtype)
    arguments = beta, pull, 1.5, 0.1, 0.07
    step = fused.step_two_phases(eta, torch.empty_like(eta), *arguments)
    reference = multiphase._step(eta, torch.empty_like(eta), *arguments)
    assert_close(step, reference, atol=tolerance, rtol=0)


def test_many_steps_agree_with_torch():
    grain_map = tessellate(random_seeds(12, (96, 80), 3), (96, 80))
    phi = GrainGrowth(grain_map).run(300).phi()
    reference = GrainGrowth(grain_map)
    reference._fused, reference._follow_grains = False, sharing.follow
    np.testing.assert_allclose(phi, reference.run(300).phi(), atol=1e-5)


@pytest.mark.parametrize(("shape", "n"), [((64, 90), 9), ((160, 41), 30), ((12, 7), 2)])
@pytest.mark.parametrize("reach", [1, 8, 30])
def test_grains_are_tracked_as_by_torch(shape, n, reach):
    simulation = GrainGrowth(tessellate(random_seeds(n, shape, 1), shape)).run(60)
    arguments = simulation.order_parameters, simulation.owner, simulation.n, reach
    owner, clash = fused.follow(*arguments)
    reference, reference_clash = sharing.follow(*arguments)
    assert clash == reference_clash
    assert torch.equal(owner, reference)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [2, fused.STEPS, fused.STEPS + 3])
def test_steps_taken_together_equal_steps_taken_one_by_one(shape, steps):
    together, _ = fused.advance(fields(shape, torch.float32), torch.empty(shape), steps, 0.1, 0.07, 1.5)
    one_by_one = fields(shape, torch.float32)
    for _ in range(steps):
        one_by_one = step(one_by_one, 0.1, 0.07, 1.5)
    assert torch.equal(together, one_by_one)


def test_the_result_does_not_depend_on_the_number_of_threads():
    eta = fields((7, 301, 257), torch.float32)
    with torch_threads(1):
        one = step(eta, 0.1, 0.1, 1.0)
    with torch_threads(2):
        assert torch.equal(step(eta, 0.1, 0.1, 1.0), one)


@pytest.mark.parametrize("steps", [4, 7, 2 * fused.STEPS - 1])
def test_an_interrupted_run_is_in_the_state_of_its_step_count(monkeypatch, steps):
    grain_map = tessellate(random_seeds(6, (40, 40), 1), (40, 40))
    lead = fused._lead

    def interrupted(*arguments):
        lead(*arguments)
        raise KeyboardInterrupt

    simulation = GrainGrowth(grain_map).run(10)
    monkeypatch.setattr(fused, "_lead", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulation.run(steps)
    monkeypatch.undo()
    assert simulation.step_count == 10 + steps
    assert torch.equal(simulation.order_parameters, GrainGrowth(grain_map).run(10 + steps).order_parameters)
    simulation.run(5)
    assert np.array_equal(simulation.phi(), GrainGrowth(grain_map).run(15 + steps).phi())


def test_a_part_started_by_another_thread_is_waited_for(monkeypatch):
    monkeypatch.setattr(fused, "_threads", lambda: 2)
    both_begun = threading.Barrier(2, timeout=10)
    leader = threading.get_ident()

    def work(part):
        both_begun.wait()
        if threading.get_ident() != leader:
            time.sleep(0.2)
        return part

    assert sorted(fused._share(work, [(0,), (1,)])) == [0, 1]


def test_a_thread_that_never_starts_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(fused, "_threads", lambda: 2)
    done = threading.Event()
    blocked = [fused._pool(2, os.getpid()).submit(done.wait, 60) for _ in range(2)]
    try:
        assert fused._share(lambda part: part, [(0,), (1,), (2,)]) == [0, 1, 2]
    finally:
        done.set()
    assert all(future.result() for future in blocked)


def test_the_callers_thread_keeps_its_denormal_numbers():
    eta = torch.full((1, 8, 8), 1e-40)
    step(eta, 0.1, 0.1, 1.0)
    assert (eta * 0.5).max() > 0
