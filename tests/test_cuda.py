"""GPU results agree with CPU results; runs only with CUDA."""

import numpy as np
import pytest
import torch

from microlab.generate.pixelcnn import PixelCNN
from microlab.generate.sampling import sample
from microlab.segment.registry import load_segmenter
from microlab.segment.unet import UNet, boundary_loss
from microlab.simulate.multiphase import TwoPhaseGrowth, assign_phases
from microlab.simulate.voronoi import random_seeds, tessellate
from microlab.training.fit import FitConfig, fit

GPU = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_shipped_network_gives_the_same_probability():
    image = np.random.default_rng(0).random((300, 260), np.float32)
    cpu, gpu = (load_segmenter("label-free", device=device).probability(image) for device in ("cpu", GPU))
    np.testing.assert_allclose(gpu, cpu, atol=0.02)  # a GPU convolves in half precision


def test_training_lowers_the_loss():
    image = np.random.default_rng(0).random((4, 1, 64, 64), np.float32)
    batch = image, (image > 0.9).astype(np.float32)
    history = fit(
        UNet(width=4, depth=3),
        lambda step: batch,
        lambda network, batch: boundary_loss(network(batch[0]), batch[1]),
        FitConfig(steps=30, log_every=10),
        device=GPU,
        progress=False,
    )
    losses = history.table()["loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_the_same_seed_samples_nearly_the_same_codes():
    model = PixelCNN(codes=8, channels=16, layers=2)
    cpu = sample(model, 2, (12, 12), seed=3)
    gpu = sample(model, 2, (12, 12), seed=3, device=GPU)
    assert (cpu == gpu).mean() > 0.9  # one code within rounding of a bound changes all later ones


def test_two_phases_grow_the_same_way():
    grain_map = tessellate(random_seeds(12, (64, 64), 1), (64, 64))
    phases = assign_phases(grain_map, 0.4)
    cpu, gpu = (TwoPhaseGrowth(grain_map, phases, device=device).run(200) for device in ("cpu", GPU))
    np.testing.assert_allclose(gpu.phi(), cpu.phi(), atol=1e-3)
    np.testing.assert_allclose(gpu.composition.cpu(), cpu.composition, atol=1e-3)
