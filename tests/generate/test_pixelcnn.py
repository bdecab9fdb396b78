"""Claims of microlab.generate.pixelcnn, receptive_field and pixelcnn_training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from microlab.book.receptive_field import blind_spot, receptive_field
from microlab.data import weights
from microlab.generate.pixelcnn import (
    NETWORKS,
    GatedPixelCNN,
    PixelCNN,
    PriorConfig,
    held_out_bits,
    train_prior,
    unigram_entropy,
)

both = pytest.mark.parametrize("kind", ["plain", "gated"])
SMALL = {"codes": 4, "channels": 8, "layers": 3}


def random_codes(*shape: int, codes: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(codes, size=shape)


def quick(kind: str = "gated", **settings) -> PriorConfig:
    return PriorConfig(
        **{"kind": kind, "channels": 16, "layers": 1, "first_kernel": 3, "crop": 12, "lr": 5e-3} | settings
    )


def train(codes: np.ndarray, config: PriorConfig, **options):
    return train_prior(codes, config, **{"codes_in_book": 4, "device": "cpu", "progress": False} | options)


# ---- what each logit depends on --------------------------------------------------------------------------


def before(shape: tuple[int, int], at: tuple[int, int]) -> np.ndarray:
    """Positions earlier than `at` along the rows."""
    return (np.arange(shape[0] * shape[1]) < at[0] * shape[1] + at[1]).reshape(shape)


@both
@pytest.mark.parametrize("at", [(0, 0), (0, 5), (4, 0), (4, 5), (7, 9)])
@pytest.mark.parametrize("condition", [0, 2])
def test_no_gradient_comes_from_the_code_itself_or_later_ones(kind, at, condition):
    model = NETWORKS[kind](**SMALL, condition=condition)
    influence = receptive_field(model, (8, 10), at)
    earlier = before((8, 10), at)
    assert not influence[~earlier].any()
    assert influence.any() == earlier.any()


@both
def test_changing_a_code_changes_later_logits_only(kind):
    model = NETWORKS[kind](**SMALL)
    codes = torch.from_numpy(random_codes(1, 6, 7))
    changed = codes.clone()
    changed[0, 3, 4] = (codes[0, 3, 4] + 1) % 4
    difference = (model(codes) - model(changed)).abs().amax((0, 1)).detach().numpy()
    assert not difference[before((6, 7), (3, 5))].any()  # up to and including the code itself, bit for bit
    assert difference[3, 5] > 0
    assert difference[4, 4] > 0


def reachable(
    first: int, kernel: int, layers: int, shape: tuple[int, int], at: tuple[int, int]
) -> np.ndarray:
    """Codes joined to `at` by a path through stacked masked convolutions, counted on sets of positions."""

    def taps(pad: int, itself: bool) -> list[tuple[int, int]]:
        above = [(-dr, dc) for dr in range(1, pad + 1) for dc in range(-pad, pad + 1)]
        return above + [(0, dc) for dc in range(-pad, itself)]

    positions = {at}
    for _ in range(layers):
        positions = {(r + dr, c + dc) for r, c in positions for dr, dc in taps(kernel // 2, True)}
    positions = {(r + dr, c + dc) for r, c in positions for dr, dc in taps(first // 2, False)}
    mask = np.zeros(shape, bool)
    for r, c in positions:
        if 0 <= r < shape[0] and 0 <= c < shape[1]:
            mask[r, c] = True
    return mask


@pytest.mark.parametrize(("first", "kernel", "layers"), [(7, 3, 4), (3, 3, 5), (5, 5, 2)])
def test_the_plain_network_sees_what_paths_through_masked_convolutions_reach(first, kernel, layers):
    model = PixelCNN(codes=4, channels=16, layers=layers, kernel=kernel, first_kernel=first)
    shape, at = (model.reach + 2, 2 * model.reach + 1), (model.reach, model.reach)
    np.testing.assert_array_equal(receptive_field(model) > 0, reachable(first, kernel, layers, shape, at))


def test_the_blind_spot_of_the_plain_network_is_a_triangle_above_to_the_right():
    model = PixelCNN(codes=4, channels=16, layers=6, kernel=3, first_kernel=7)
    at = reach = 3 + 6
    up, right = at - np.arange(reach + 2)[:, None], np.arange(2 * reach + 1) - at
    # Kernels of side 3 gain one column to the right per row upwards; the first one, of side 7, gains three.
    triangle = (up >= 1) & (right > up + 2)
    blind = blind_spot(model)
    np.testing.assert_array_equal(blind, triangle)
    assert blind.sum() == 6 + 5 + 4 + 3 + 2 + 1


@pytest.mark.parametrize(("first", "kernel", "layers"), [(7, 3, 4), (3, 3, 5), (5, 5, 2)])
def test_the_gated_network_sees_every_earlier_code_within_reach(first, kernel, layers):
    model = GatedPixelCNN(codes=4, channels=8, layers=layers, kernel=kernel, first_kernel=first)
    assert model.reach == first // 2 + layers * (kernel // 2)
    assert not blind_spot(model).any()
    # also where the map extends beyond its reach, and then nothing further away
    at = (model.reach + 2, model.reach + 3)
    influence = receptive_field(model, (model.reach + 4, 2 * model.reach + 7), at)
    row, column = np.indices(influence.shape)
    near = (row >= at[0] - model.reach) & (abs(column - at[1]) <= model.reach)
    np.testing.assert_array_equal(influence > 0, before(influence.shape, at) & near)


def test_a_causal_convolution_in_two_parts_equals_a_masked_one():
    model = PixelCNN(**SMALL, first_kernel=5)
    x = F.one_hot(torch.from_numpy(random_codes(2, 6, 7)), 4).permute(0, 3, 1, 2).float()
    kernel = torch.randn(8, 4, 5, 5)  # its masked half is arbitrary
    kernel[:, :, :2] = model.first_above.weight.detach()
    kernel[:, :, 2:3, :2] = model.first_row.weight.detach()
    mask = torch.zeros(5, 5)
    mask[:2] = 1
    mask[2, :2] = 1
    expected = F.conv2d(x, kernel * mask, model.first_above.bias, padding=2)
    parts = model.first_above(F.pad(x, (2, 2, 2, -1))) + model.first_row(F.pad(x, (2, -1)))
    torch.testing.assert_close(parts, expected)


# ---- what training reaches -------------------------------------------------------------------------------


def markov_chain(n: int, side: int, step: np.ndarray, seed: int) -> np.ndarray:
    """Maps whose columns are independent Markov chains, each code drawn given the one above it."""
    rng = np.random.default_rng(seed)
    maps = np.zeros((n, side, side), np.int64)
    maps[:, 0] = rng.integers(len(step), size=(n, side))
    for r in range(1, side):
        uniform = rng.random((n, side, 1))
        maps[:, r] = (step.cumsum(1)[maps[:, r - 1]] <= uniform).sum(-1).clip(max=len(step) - 1)
    return maps


@pytest.mark.slow
@both
def test_a_trained_prior_reaches_the_entropy_rate_of_a_markov_chain_and_not_less(kind):
    step = np.array([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.25, 0.05, 0.7]])
    unseen = markov_chain(40, 24, step, seed=1)
    model, history = train(markov_chain(64, 24, step, seed=0), quick(kind, steps=120), codes_in_book=3)
    bits = held_out_bits(model, unseen)
    # Exact value for these maps: the code length given the true chain. The first row is uniform.
    paid = -np.log2(step[unseen[:, :-1], unseen[:, 1:]])
    truth = (paid.sum() + unseen[:, 0].size * np.log2(3)) / unseen.size
    assert truth < bits < truth + 0.02
    assert bits < unigram_entropy(unseen) - 0.5
    # The first rows of crops cost more.
    assert history.table()["loss"].iloc[-1] == pytest.approx(bits, abs=0.08)


@pytest.mark.slow
def test_the_gated_network_learns_a_code_that_the_plain_one_cannot_see():
    # Each code repeats the one a row up and two to the right: in the blind spot of the plain network.
    def repeats(n: int, seed: int) -> np.ndarray:
        maps = random_codes(n, 24, 24, seed=seed)
        for r in range(1, 24):
            maps[:, r, :-2] = maps[:, r - 1, 2:]
        return maps

    unseen = repeats(8, seed=1)
    free = 1 - (23 * 22) / 24**2  # share of codes that are not determined by others
    plain, _ = train(repeats(64, seed=0), quick("plain", layers=2, steps=120))
    gated, _ = train(repeats(64, seed=0), quick("gated", layers=2, steps=120))
    assert blind_spot(plain)[plain.reach - 1, plain.reach + 2]
    assert held_out_bits(plain, unseen) > 0.95 * 2  # of log2(4)
    assert 2 * free < held_out_bits(gated, unseen) < 2 * free + 0.1


@pytest.mark.slow
@both
def test_the_condition_controls_the_share_of_a_code(kind):
    rng = np.random.default_rng(0)
    often = rng.integers(2, size=256)
    maps = (rng.random((256, 6, 6)) < np.where(often, 0.8, 0.2)[:, None, None]).astype(int)
    conditions = np.eye(2)[often]
    model, _ = train(maps, quick(kind, steps=250, crop=6), codes_in_book=2, conditions=conditions)
    with torch.inference_mode():
        logits = model(torch.zeros(2, 6, 6, dtype=torch.int64), torch.eye(2))
    # at the first position only the condition is known
    assert logits.softmax(1)[:, 1, 0, 0].tolist() == pytest.approx([0.2, 0.8], abs=0.1)
    entropy = -(0.2 * np.log2(0.2) + 0.8 * np.log2(0.8))  # all codes are independent
    assert held_out_bits(model, maps, conditions) == pytest.approx(entropy, abs=0.03)
    assert held_out_bits(model, maps, 1 - conditions) > 1


def test_a_condition_may_be_computed_from_each_crop():
    crops = []

    def share(crop: np.ndarray) -> np.ndarray:
        crops.append(crop)
        return np.array([(crop == 0).mean(), (crop == 1).mean()])

    codes = random_codes(3, 20, 16)
    model, _ = train(codes, quick(steps=2, batch=4), conditions=share, held_out=codes)
    assert model.condition == 2
    assert {crop.shape for crop in crops} == {(12, 12), (20, 16)}  # crops, and held-out maps whole


@both
def test_untrained_weights_and_training_depend_on_the_seed_alone(kind):
    codes = random_codes(4, 16, 16)
    state = torch.random.get_rng_state()
    one, two = (train(codes, quick(kind, steps=4, seed=3))[0].state_dict() for _ in range(2))
    other = train(codes, quick(kind, steps=4, seed=4))[0].state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_killed_run_resumes_exactly(tmp_path):
    codes = random_codes(4, 16, 16)
    config = quick(steps=6, batch=2, checkpoint_every=2)
    calls = 0

    def share(crop: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 12:  # two crops to find D, then two a step: in the fifth step
            raise KeyboardInterrupt
        return np.array([(crop == 0).mean()])

    with pytest.raises(KeyboardInterrupt):
        train(codes, config, conditions=share, folder=tmp_path)
    before_kill = calls
    resumed, _ = train(codes, config, conditions=share, folder=tmp_path)
    assert calls - before_kill == 2 + 2 * 2  # D again, and only the last two steps
    whole, _ = train(codes, config, conditions=lambda crop: np.array([(crop == 0).mean()]))
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_the_weights_kept_are_those_that_predict_held_out_maps_best():
    codes, unseen = random_codes(1, 12, 12), random_codes(4, 12, 12, seed=1)
    # a single map is soon memorised, after which unseen ones cost more
    model, history = train(codes, quick(steps=60, checkpoint_every=10), held_out=unseen)
    checks = history.table()["validation_loss"].dropna()
    assert checks.min() < checks.iloc[-1]
    assert held_out_bits(model, unseen) == pytest.approx(checks.min())


@pytest.mark.parametrize(("augment", "count"), [(False, 1), (True, 8)])
def test_crops_are_rotated_and_flipped_only_on_request(augment, count):
    crops_used = set()

    def record_crop(crop: np.ndarray) -> np.ndarray:
        crops_used.add(crop.tobytes())
        return np.zeros(1)

    train(random_codes(1, 12, 12), quick(steps=8, augment=augment), conditions=record_crop)
    assert len(crops_used) == count


# ---- bits ------------------------------------------------------------------------------------------------


@both
def test_a_network_of_zeros_needs_log2_k_bits(kind):
    model = NETWORKS[kind](**SMALL)
    for parameter in model.parameters():
        parameter.data.zero_()
    maps = [random_codes(5, 7), random_codes(3, 4)]  # sizes may differ
    assert held_out_bits(model, maps) == pytest.approx(2)


def test_the_unigram_entropy_of_known_shares():
    assert unigram_entropy(np.array([[[0, 0], [1, 2]]])) == pytest.approx(1.5)
    assert unigram_entropy(np.full((2, 3, 3), 7)) == 0


# ---- weights and bad input -------------------------------------------------------------------------------


@both
def test_weights_are_restored_with_their_card(kind, tmp_path):
    model = NETWORKS[kind](**SMALL, condition=2)
    card = dict.fromkeys(weights.CARD_FIELDS, "") | {"scores": {}}
    card |= {"architecture": type(model).__name__, "parameters": model.architecture}
    path = weights.save(tmp_path / "prior.safetensors", model, card)
    codes, condition = torch.from_numpy(random_codes(2, 6, 5)), torch.rand(2, 2)
    again = weights.load(path, NETWORKS[kind])[0]
    assert torch.equal(again(codes, condition), model.eval()(codes, condition))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codes": 1}, "codes must be at least 2, got 1"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"condition": -1}, "condition must be at least 0"),
        ({"channels": 7}, "channels must be even"),
        ({"kernel": 4}, "kernel must be odd and at least 3, got 4"),
        ({"first_kernel": 1}, "first_kernel must be odd"),
    ],
)
@both
def test_impossible_networks_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[kind](**settings)


@both
def test_bad_codes_and_conditions_are_refused(kind):
    model, steered = NETWORKS[kind](**SMALL), NETWORKS[kind](**SMALL, condition=3)
    codes = torch.from_numpy(random_codes(2, 5, 5))
    for bad, message in ((codes + 1, "0..3, got 1 to 4"), (codes[0], "N, H, W"), (codes[:, :0], "not empty")):
        with pytest.raises(ValueError, match=message):
            model(bad)
    with pytest.raises(ValueError, match="condition must be None"):
        model(codes, torch.zeros(2, 3))
    for bad in (None, torch.zeros(2, 2), torch.zeros(3, 3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"condition must be \(2, 3\) or \(3,\)"):
            steered(codes, bad)
    with pytest.raises(ValueError, match="not finite"):
        steered(codes, torch.full((3,), torch.nan))
    torch.testing.assert_close(steered(codes, torch.ones(3)), steered(codes, torch.ones(2, 3)))


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (random_codes(2, 16, 16) + 1, {}, r"codes\[0\] must hold codes in 0..3, got 1 to 4"),
        (random_codes(2, 8, 16), {}, r"codes\[0\] .* sides of at least 12"),
        (random_codes(16, 16), {}, r"codes\[0\] must be a map"),
        (np.zeros((2, 16, 16)), {}, "integers"),
        ([], {}, "at least one map"),
        (random_codes(2, 16, 16), {"conditions": np.zeros((3, 1))}, r"conditions must be \(2, D\)"),
        (random_codes(2, 16, 16), {"conditions": np.full((2, 1), np.nan)}, "not finite"),
        (
            random_codes(2, 16, 16),
            {"conditions": np.zeros((2, 1)), "held_out": random_codes(2, 16, 16)},
            "both or neither",
        ),
        (random_codes(2, 16, 16), {"held_out": random_codes(2, 16, 16) + 1}, r"held_out\[0\]"),
    ],
)
def test_maps_that_cannot_be_learnt_from_are_refused(codes, options, message):
    with pytest.raises(ValueError, match=message):
        train(codes, quick(steps=1), **options)


def test_impossible_settings_and_positions_are_refused():
    with pytest.raises(ValueError, match="kind must be one of plain, gated"):
        PriorConfig(kind="masked")
    with pytest.raises(ValueError, match="crop must be at least 1"):
        PriorConfig(crop=0)
    with pytest.raises(ValueError, match="outside of a map"):
        receptive_field(PixelCNN(**SMALL), (5, 5), (5, 0))
