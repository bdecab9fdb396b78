"""Grain growth: microlab, NumPy, FiPy, py-pde and pyphasefield side by side, per field, pixel and step.

    make bench                                        with the peers, installed into .venv-peers
    python benchmarks/phasefield.py [--peers PYTHON]  with the peers of your own environment, or without

The peers are installed in a separate environment, so that their dependencies do not conflict with ours;
without `--peers` only microlab and NumPy run. All take the same explicit Euler steps of the same Chen-Yang
equations (kappa = L = dx = 1, dt = 0.1, periodic) and must end with the same phi. Compilation time is not
counted. The share of the memory bandwidth is that of one read and one write of every field each time that
steps are taken together (`microlab.simulate.fused.STEPS`), relative to copying an array that is larger than
any cache.

The first table is the cost of arithmetic, on four grains with a field each. The second is the paper's case,
112 grains on 512 x 512 pixels, where microlab needs far fewer fields than grains.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np

DT = 0.1
CASES = {  # pixels per side, steps
    "microlab": (512, 200),
    "microlab, larger": (1024, 100),
    "NumPy": (512, 20),
    "pyphasefield": (512, 20),
    "py-pde": (256, 100),
    "FiPy": (64, 20),
}


def quarters(size):
    """Grain map (size, size) of four square grains, ids 0..3."""
    half = np.arange(size) // (size // 2)
    return 2 * half[:, None] + half


def numpy_dense(grain_map, steps):
    """The equations written directly in NumPy, one field per grain. Returns seconds per step and phi."""
    eta = (grain_map == np.arange(grain_map.max() + 1)[:, None, None]).astype(float)
    start = time.perf_counter()
    for _ in range(steps):
        phi = (eta**2).sum(0)
        laplacian = sum(np.roll(eta, shift, axis) for axis in (1, 2) for shift in (1, -1)) - 4 * eta
        eta = eta + DT * (eta * (1 + eta**2 - 2 * phi) + laplacian)
    return (time.perf_counter() - start) / steps, (eta**2).sum(0)


def microlab_run(grain_map, steps, **options):
    """Returns seconds per step, phi and the number of fields."""
    from microlab.simulate.phasefield import GrainGrowth

    simulation = GrainGrowth(grain_map, **options).run(2)  # starts the threads, compiles the step
    start = time.perf_counter()
    simulation.run(steps - 2)
    return (time.perf_counter() - start) / (steps - 2), simulation.phi(), len(simulation.order_parameters)


def py_pde(grain_map, steps):
    import pde

    names = [f"e{i}" for i in range(4)]
    phi = " + ".join(f"{name}**2" for name in names)
    equations = {name: f"laplace({name}) + {name} * (1 + {name}**2 - 2 * ({phi}))" for name in names}
    equation = pde.PDE(equations, bc="periodic")
    size = len(grain_map)
    grid = pde.CartesianGrid([(0, size), (0, size)], size, periodic=True)
    fields = [pde.ScalarField(grid, (grain_map == i).astype(float)) for i in range(4)]

    stamps = []  # compilation happens in the first half, so only the second is timed
    tracker = pde.CallbackTracker(lambda *_: stamps.append(time.perf_counter()), interrupts=steps * DT / 2)
    state = pde.FieldCollection(fields, labels=names)
    result = equation.solve(state, steps * DT, dt=DT, solver="euler", tracker=tracker)
    _, middle, end = stamps
    return 2 * (end - middle) / steps, sum(field.data**2 for field in result)


def fipy(grain_map, steps):
    from fipy import CellVariable, ExplicitDiffusionTerm, PeriodicGrid2D, TransientTerm

    size = len(grain_map)
    mesh = PeriodicGrid2D(nx=size, ny=size, dx=1.0, dy=1.0)
    eta = [CellVariable(mesh=mesh, value=(grain_map == i).ravel() * 1.0, hasOld=True) for i in range(4)]
    phi = sum(e.old**2 for e in eta)
    equations = [
        TransientTerm() == ExplicitDiffusionTerm(coeff=1.0) + e.old * (1 + e.old**2 - 2 * phi) for e in eta
    ]

    def step():
        for e in eta:
            e.updateOld()
        for e, equation in zip(eta, equations):
            equation.solve(var=e, dt=DT)

    step()
    start = time.perf_counter()
    for _ in range(steps - 1):
        step()
    return (time.perf_counter() - start) / (steps - 1), sum(e.value**2 for e in eta).reshape(size, size)


def pyphasefield(grain_map, steps):
    from pyphasefield.simulation import Simulation

    class ChenYang(Simulation):
        def init_fields(self):
            for i in range(4):
                self.add_field((grain_map == i).astype(float), f"e{i}")

        def simulation_loop(self):
            phi = sum(field.data**2 for field in self.fields)
            changes = [
                field.laplacian() + field.data * (1 + field.data**2 - 2 * phi) for field in self.fields
            ]
            for field, change in zip(self.fields, changes):
                field.data += self.dt * change

    simulation = ChenYang(dimensions=list(grain_map.shape), dx=1.0, dt=DT, framework="CPU_SERIAL")
    simulation.set_boundary_conditions("PERIODIC")
    simulation.initialize_engine()
    simulation.simulate(1)
    start = time.perf_counter()
    simulation.simulate(steps - 1)
    seconds = (time.perf_counter() - start) / (steps - 1)
    return seconds, sum(field.get_cells() ** 2 for field in simulation.fields)


def bandwidth():
    """Bytes per second when copying an array larger than any cache, with torch's threads."""
    import torch

    source, target = torch.rand(2**27), torch.empty(2**27)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds)


def run_implementation(name):
    """Nanoseconds per field, pixel and step of one implementation, and its mean phi."""
    size, steps = CASES[name]
    grain_map = quarters(size)
    if name.startswith("microlab"):
        seconds, phi, _ = microlab_run(grain_map, steps, reach=None)
    else:
        peers = {"NumPy": numpy_dense, "py-pde": py_pde, "FiPy": fipy, "pyphasefield": pyphasefield}
        seconds, phi = peers[name](grain_map, steps)
    return {"ns": 1e9 * seconds / (4 * size**2), "phi": float(phi.mean())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers", metavar="PYTHON", help="interpreter of an environment with fipy, py-pde and pyphasefield"
    )
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(run_implementation(arguments.only)))
        return

    print(f"{'one field per grain':20} {'size':>5} {'ns per field, pixel, step':>27} {'ratio':>8}")
    ours = None
    for name, (size, steps) in CASES.items():
        peer = name in ("py-pde", "FiPy", "pyphasefield")
        if peer and not arguments.peers:
            continue
        python = arguments.peers if peer else sys.executable
        process = subprocess.run([python, __file__, "--only", name], capture_output=True, text=True)
        if process.returncode:
            sys.exit(f"{name} failed:\n{process.stderr}")
        result = json.loads(process.stdout.splitlines()[-1])
        expected = numpy_dense(quarters(size), steps)[1].mean()
        if abs(result["phi"] - expected) > 1e-5:
            sys.exit(
                f"{name} solved different equations: mean phi {result['phi']:.6f}, expected {expected:.6f}"
            )
        ours = ours or result["ns"]
        print(f"{name:20} {size:5} {result['ns']:27.2f} {result['ns'] / ours:8.1f}")

    from microlab.simulate import fused
    from microlab.simulate.voronoi import regular_seeds, tessellate

    grain_map = tessellate(regular_seeds(112, (512, 512), 0.5), (512, 512))
    shared, _, fields = microlab_run(grain_map, 1000)
    dense, _ = numpy_dense(grain_map, 3)
    print(f"\n{'112 grains, 512 x 512':21} {'fields':>7} {'ms per step':>12} {'1000 steps':>12} {'ratio':>8}")
    print(f"{'microlab':21} {fields:7} {1e3 * shared:12.2f} {1e3 * shared:10.1f} s {1:8.1f}")
    copy_rate = bandwidth()
    for size, grains, steps in ((512, 112, 200), (1024, 450, 100)):
        grain_map = tessellate(regular_seeds(grains, (size, size), 0.5), (size, size))
        step, _, count = microlab_run(grain_map, steps)
        share = 2 * 4 * count * size**2 / (fused.STEPS * step) / copy_rate
        print(
            f"{size} x {size}, {grains} grains: {count} fields, {1e9 * step / count / size**2:.2f} ns per "
            f"field, pixel and step; {share:.0%} of the {copy_rate / 1e9:.1f} GB/s of a copy"
        )
    print(f"{'NumPy':21} {112:7} {1e3 * dense:12.1f} {1e3 * dense:10.1f} s {dense / shared:8.1f}")


if __name__ == "__main__":
    main()
