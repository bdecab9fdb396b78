"""The networks' sizes, the rule that stops the refinement, and the step from a map to grains."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label
from torch import Tensor, nn

from microlab.data import weights
from microlab.segment.refine import (
    EdgeNet,
    EncoderDecoder,
    NotConverged,
    RefineNet,
    finish,
    first_guess,
    refine,
)


class Towards(nn.Module):
    """Moves the map by a fixed share towards the first channel: a contraction with known steps."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(torch.lerp(x[:, :1], x[:, 1:2], self.share).double(), eps=1e-9)


class Negative(nn.Module):
    """Inverts the map, so the iteration oscillates."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(1 - x[:, :1], eps=1e-6)


class Symmetric(nn.Module):
    """Mean of a network over the four flips of its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        axes = [(), (-1,), (-2,), (-2, -1)]
        return torch.stack([self.network(x.flip(a)).flip(a) for a in axes]).mean(0)


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(np.float32)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ---- the networks ----------------------------------------------------------------------------------------


def test_networks_have_the_size_of_the_paper_s():
    def levels(in_channels: int, widths: tuple[int, ...], bridge: int) -> int:  # counted by hand
        def layer(before: int, after: int) -> int:
            return 9 * before * after + 2 * after  # without bias; batch norm has scale and shift

        total = sum(layer(a, b) + layer(b, b) for a, b in zip([in_channels, *widths], widths))
        total += bridge * layer(widths[-1], widths[-1])
        total += sum(4 * a * b + a + layer(2 * a, a) + layer(a, a) for a, b in pairwise(widths))
        return total + widths[0] + 1

    assert size(EdgeNet()) == levels(3, (16, 32, 64), 5)
    assert size(RefineNet()) == levels(4, (8, 14, 22), 0)
    assert size(EdgeNet()) == pytest.approx(0.3e6, rel=0.05)
    assert size(RefineNet()) == pytest.approx(20e3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (17, 30), (32, 48)])
def test_networks_take_images_of_any_size(shape):
    for network in (EdgeNet(4), RefineNet(5)):
        x = torch.rand(2, network.in_channels, *shape)
        assert network.eval()(x).shape == (2, 1, *shape)


def test_the_bridge_enlarges_the_receptive_field():
    def reach(bridge: tuple[int, ...]) -> int:
        network = EdgeNet(1, widths=(4, 4, 4), bridge=bridge).eval()
        x = torch.from_numpy(picture(1, 1, 8, 256)).requires_grad_()
        network(x)[0, 0, 4, 128].backward()
        return int(np.ptp(np.flatnonzero(x.grad[0, 0].abs().sum(0))))

    # At the bottom a pixel stands for four: dilations of 1, 2 and 4 add 28 px on each side.
    assert reach((1, 2, 4)) > reach(()) + 40


def test_initial_weights_follow_the_seed_and_keep_the_random_state_of_torch():
    before = torch.random.get_rng_state()
    one, two, other = RefineNet(seed=3), RefineNet(seed=3), RefineNet(seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("network", [EdgeNet, RefineNet])
def test_a_saved_network_is_restored(network, tmp_path):
    model = network(5, widths=(4, 6), bridge=(2,), seed=1).eval()
    card = dict.fromkeys(weights.CARD_FIELDS, "test") | {"scores": {}}
    card |= {"architecture": network.__name__, "parameters": model.architecture}
    read = network.from_weights(weights.save(tmp_path / "net.safetensors", model, card))
    x = torch.rand(1, 5, 16, 16)
    torch.testing.assert_close(read(x), model(x), atol=2e-2, rtol=0)  # stored in half precision


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"bridge": (0,)}, "bridge"),
    ],
)
def test_bad_networks_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoder(**{"in_channels": 3, "widths": (4,), "bridge": (), "seed": 0} | settings)


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="takes 3 channels, got 4"):
        first_guess(EdgeNet(3), picture(4, 16, 16), device="cpu")


# ---- refinement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_contraction_stops_at_the_step_that_the_rule_predicts(share):
    first, channels = picture(20, 30), picture(3, 20, 30, seed=1)
    done = refine(Towards(share), first, channels, device="cpu")
    # Step k changes the map by share (1 - share)^(k - 1) |edges - first|.
    distance = np.abs(channels[0] - first).mean(dtype=float)
    changes = share * (1 - share) ** np.arange(60) * distance
    assert done.converged
    assert done.iterations == np.argmax(changes < 0.003) + 1
    np.testing.assert_allclose(done.changes, changes[: done.iterations], atol=1e-6)
    assert (done.maps[0] == first).all()
    assert done.maps.shape == (done.iterations + 1, 20, 30)
    assert (done.result == done.maps[-1]).all()
    assert np.abs(done.result - channels[0]).mean() < 0.003 * (1 - share) / share + 1e-6


def test_a_smaller_tolerance_takes_more_steps_and_comes_closer():
    first, channels = picture(16, 16), picture(1, 16, 16, seed=1)
    done = [refine(Towards(0.5), first, channels, tolerance=t, device="cpu") for t in (0.01, 0.001)]
    assert done[0].iterations < done[1].iterations
    errors = [np.abs(d.result - channels[0]).mean() for d in done]
    assert errors[1] < errors[0]


def test_an_oscillator_hits_the_cap_and_warns():
    first, channels = picture(16, 16), picture(3, 16, 16)
    with pytest.warns(NotConverged, match="cap of 7 iterations"):
        done = refine(Negative(), first, channels, max_iterations=7, device="cpu")
    assert not done.converged
    assert done.iterations == 7
    np.testing.assert_allclose(done.result, 1 - first, atol=1e-4)  # an odd number of inversions


def test_the_last_allowed_step_may_converge_without_a_warning():
    first = picture(8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = refine(Towards(1.0), first, first[None], max_iterations=1, device="cpu")
    assert done.converged
    assert done.iterations == 1


def test_without_keeping_the_first_and_the_last_map_remain():
    first, channels = picture(16, 16), picture(1, 16, 16, seed=1)
    all_maps, two_maps = (
        refine(Towards(0.5), first, channels, keep=keep, device="cpu") for keep in (True, False)
    )
    assert two_maps.iterations == all_maps.iterations
    assert (two_maps.maps == all_maps.maps[[0, -1]]).all()


def test_a_symmetric_network_refines_the_mirror_image_to_the_mirror_image():
    # Sides that are multiples of four: others are padded at one end only, which breaks the symmetry.
    network = Symmetric(RefineNet(widths=(4, 6, 8), seed=2))
    first, channels = picture(24, 32), picture(3, 24, 32, seed=1)
    for axis in (-1, -2):
        one = refine(network, first, channels, max_iterations=4, tolerance=1e-6, device="cpu")
        two = refine(
            network,
            np.flip(first, axis),
            np.flip(channels, axis),
            max_iterations=4,
            tolerance=1e-6,
            device="cpu",
        )
        np.testing.assert_allclose(np.flip(two.maps, axis), one.maps, atol=1e-5)
        np.testing.assert_allclose(two.changes, one.changes, atol=1e-6)


def test_a_plain_network_is_not_symmetric():
    # Otherwise the test above would be trivial.
    network, channels = EdgeNet(widths=(4, 6, 8), seed=2), picture(3, 24, 32, seed=1)
    one, two = (first_guess(network, np.flip(channels, axis), device="cpu") for axis in ((), -1))
    assert np.abs(np.flip(two, -1) - one).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": np.zeros((8, 9))}, "differ in size"),
        ({"first": np.full((8, 8), np.nan)}, "first"),
        ({"first": np.full((8, 8), 255)}, "first"),
        ({"first": np.zeros((1, 8, 8))}, r"first must be \(H, W\)"),
        ({"channels": np.zeros((8, 8))}, r"\(C, H, W\)"),
        ({"channels": np.zeros((8, 8, 3))}, "channels first"),
        ({"channels": np.full((3, 8, 8), np.nan)}, "channels"),
        ({"tolerance": 0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_bad_input_of_refine_is_refused(change, message):
    arguments = {"first": np.zeros((8, 8)), "channels": np.zeros((3, 8, 8))} | change
    with pytest.raises(ValueError, match=message):
        refine(Towards(0.5), **arguments, device="cpu")


# ---- from a map to grains --------------------------------------------------------------------------------


def wall(width: int, gap: int) -> np.ndarray:
    """A line across the image with a gap in its middle."""
    image = np.zeros((41, 41), np.float32)
    image[20 - width // 2 : 20 - width // 2 + width] = 0.9
    image[:, 20 - gap // 2 : 20 - gap // 2 + gap] = 0
    return image


@pytest.mark.parametrize(
    ("width", "gap", "closed"),
    [(5, 3, True), (5, 4, True), (5, 5, False), (3, 2, True), (3, 3, False), (1, 1, False)],
)
def test_closing_bridges_the_gaps_stated_in_the_docstring(width, gap, closed):
    grains = finish(wall(width, gap))[1]
    assert grains.max() == (2 if closed else 1)


def test_without_closing_the_gap_stays():
    assert finish(wall(5, 3), radius=0)[1].max() == 1


def test_a_gap_at_the_image_s_edge_is_closed():
    image = wall(5, 1)
    image[:, 20] = image[:, 19]
    image[:, :2] = 0  # the line stops 2 px before the edge: 4 px to its mirror image
    assert finish(image)[1].max() == 2


def test_faint_lines_count_from_the_threshold_on():
    for value, grains in ((0.19, 1), (0.2, 2), (0.21, 2)):
        assert finish(np.float32(value) * (wall(3, 0) > 0))[1].max() == grains
    assert finish(0.3 * (wall(3, 0) > 0), threshold=0.5)[1].max() == 1


def test_small_holes_are_filled_and_grains_are_not():
    image = np.zeros((60, 60), np.float32)
    image[20:40, 20:40] = 1
    image[27:32, 27:32] = 0  # 25 px, wider than the closing disc
    assert finish(image, radius=0)[0][29, 29]
    assert not finish(image, radius=0, min_area=25)[0][29, 29]
    image[22:38, 22:38] = 0
    boundary, grains = finish(image)
    assert not boundary[29, 29]
    assert grains.max() == 2


def test_grains_are_the_regions_between_the_boundaries():
    image = (np.indices((60, 90)) % 15 < 3).any(0).astype(np.float32)
    boundary, grains = finish(image)
    assert boundary.dtype == bool
    assert grains.dtype == np.int32
    assert ((grains == 0) == boundary).all()
    assert grains.max() == 24
    assert label(grains, connectivity=1).max() == 24  # no grain is in two pieces


def test_finishing_commutes_with_rotations_and_flips():
    rough = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 50)), 2)
    image = np.interp(rough, (rough.min(), rough.max()), (0, 1)).astype(np.float32)
    boundary = finish(image, threshold=0.5)[0]
    for turn in (np.fliplr, np.flipud, np.rot90):
        assert (finish(turn(image), threshold=0.5)[0] == turn(boundary)).all()


def test_an_empty_map_is_one_grain_and_a_full_one_none():
    assert finish(np.zeros((20, 20)))[1].max() == 1
    assert finish(np.ones((20, 20)))[1].max() == 0


@pytest.mark.parametrize(
    ("probability", "settings", "message"),
    [
        (np.zeros((3, 4, 5)), {}, r"probability must be \(H, W\)"),
        (np.full((4, 4), np.nan), {}, "finite"),
        (np.full((4, 4), 2.0), {}, r"\[0, 1\]"),
        (np.zeros((4, 4)), {"threshold": 0}, "threshold"),
        (np.zeros((4, 4)), {"radius": -1}, "radius"),
        (np.zeros((4, 4)), {"min_area": -1}, "min_area"),
    ],
)
def test_bad_input_of_finish_is_refused(probability, settings, message):
    with pytest.raises(ValueError, match=message):
        finish(probability, **settings)
