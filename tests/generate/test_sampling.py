"""Claims of microlab.generate.sampling: exact, reproducible and fast."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from microlab.generate.pixelcnn import NETWORKS, Autoregressive
from microlab.generate.sampling import draw, sample, sample_naive

both = pytest.mark.parametrize("kind", ["plain", "gated"])


def network(kind: str, codes: int = 5, channels: int = 8, layers: int = 3, **settings) -> Autoregressive:
    """Untrained, in float64, with weights large enough that the codes before a code matter."""
    model = NETWORKS[kind](codes=codes, channels=channels, layers=layers, **settings).double()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


# ---- the cached sampler is the naive one -----------------------------------------------------------------


@both
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (13, 11)])
@pytest.mark.parametrize(("kernel", "first_kernel", "condition"), [(3, 7, 0), (5, 3, 2)])
def test_cached_and_naive_sampling_draw_the_same_codes(kind, shape, kernel, first_kernel, condition):
    model = network(kind, kernel=kernel, first_kernel=first_kernel, condition=condition)
    steer = np.random.default_rng(1).normal(size=(3, condition)) if condition else None
    options = {"condition": steer, "seed": 4, "temperature": 0.8, "batch": 2}
    cached = sample(model, 3, shape, **options)
    np.testing.assert_array_equal(cached, sample_naive(model, 3, shape, **options))
    assert cached.dtype == np.int64
    assert cached.shape == (3, *shape)
    assert shape != (13, 11) or len(np.unique(cached)) == 5


@both
def test_at_64_by_64_every_code_is_the_one_that_the_whole_network_would_draw(kind):
    # If each code is what the network draws given the codes before it, the naive loop gives the same map:
    # by induction from the first code. One pass shows all positions at once.
    model = network(kind, codes=10, channels=16, layers=2)
    codes = torch.from_numpy(sample(model, 1, (64, 64), seed=7))
    uniform = torch.from_numpy(np.random.default_rng(7).random((1, 64, 64)))
    with torch.inference_mode():
        logits = model(codes)
    again = draw(logits.permute(0, 2, 3, 1).reshape(-1, 10), uniform.flatten()).view(codes.shape)
    assert torch.equal(again, codes)


@both
def test_cached_sampling_needs_a_hundredth_of_the_arithmetic_at_64_by_64(kind):
    # Counted, not timed: the same on every machine. benchmarks/pixelcnn_sampling.py measures the time.
    model = NETWORKS[kind](codes=10, channels=16, layers=2)
    per_code = []
    for side in (12, 18):
        with FlopCounterMode(display=False) as cached:
            sample(model, 1, (side, side))
        per_code.append(cached.get_total_flops() / side**2)
    assert (
        0 < per_code[1] == pytest.approx(per_code[0], rel=0.05)
    )  # a code costs the same in a map of any size
    with FlopCounterMode(display=False) as one_pass, torch.no_grad():
        model(torch.zeros(1, 64, 64, dtype=torch.int64))
    assert one_pass.get_total_flops() > 100 * per_code[1]  # the naive loop needs one pass for every code


# ---- it draws from the right distribution ----------------------------------------------------------------


@both
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_maps_of_two_by_two_codes_occur_with_the_probabilities_of_the_network(kind, temperature):
    model = network(kind, codes=2)
    maps = torch.tensor(list(itertools.product(range(2), repeat=4))).view(16, 2, 2)
    with torch.inference_mode():
        logp = torch.log_softmax(model(maps) / temperature, 1).gather(1, maps[:, None]).sum((1, 2, 3))
    expected = logp.exp().numpy()
    assert expected.sum() == pytest.approx(1)
    drawn = sample(model, 6000, (2, 2), temperature=temperature, batch=6000)
    counts = np.bincount(drawn.reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    often = 6000 * expected > 5  # the usual condition of the test; the rest together
    observed = np.append(counts[often], counts[~often].sum())
    expected_counts = np.append(6000 * expected[often], 6000 * expected[~often].sum())
    keep = expected_counts > 0
    assert stats.chisquare(observed[keep], expected_counts[keep]).pvalue > 1e-3


@both
def test_a_low_temperature_gives_the_most_probable_code(kind):
    model = network(kind)
    codes = torch.from_numpy(sample(model, 2, (6, 6), temperature=1e-6))
    with torch.inference_mode():
        assert torch.equal(model(codes).argmax(1), codes)


def test_a_code_is_drawn_where_the_cumulative_probability_passes_the_uniform_number():
    logits = torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64).log()
    uniform = torch.tensor([0.0, 0.49, 0.5, 1 - 1e-16], dtype=torch.float64)
    # codes 0 and 2 have probability zero, also at u = 0 and on the bound
    assert draw(logits.expand(4, -1), uniform).tolist() == [1, 1, 3, 3]
    assert draw(torch.zeros(1, 3), torch.ones(1)).item() == 2  # u may be rounded up to one


@both
def test_the_condition_changes_what_is_drawn(kind):
    model = network(kind, condition=1)
    one, other = (sample(model, 4, (8, 8), condition=[value]) for value in (-3.0, 3.0))
    assert (one != other).mean() > 0.2
    alternating = sample(model, 4, (8, 8), condition=[[-3.0], [3.0], [-3.0], [3.0]])
    np.testing.assert_array_equal(alternating[::2], one[::2])
    np.testing.assert_array_equal(alternating[1::2], other[1::2])


# ---- the same seed, the same maps ------------------------------------------------------------------------


@both
def test_maps_depend_on_the_seed_and_not_on_batch_or_number(kind):
    model = network(kind)
    state = torch.random.get_rng_state()
    maps = sample(model, 5, (7, 6), seed=2)
    for batch in (1, 2, 5):
        np.testing.assert_array_equal(sample(model, 5, (7, 6), seed=2, batch=batch), maps)
    np.testing.assert_array_equal(sample(model, 3, (7, 6), seed=2), maps[:3])
    np.testing.assert_array_equal(sample(model, 5, (7, 6), seed=np.random.default_rng(2)), maps)
    assert (sample(model, 5, (7, 6), seed=3) != maps).any()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.first_row.weight.requires_grad
    assert model.first_row.weight.grad is None


def test_progress_counts_the_rows_of_all_batches(capsys):
    sample(network("plain"), 3, (6, 4), batch=2, progress=True)
    assert "12/12" in capsys.readouterr().err
    sample(network("plain"), 3, (6, 4))
    assert capsys.readouterr().err == ""


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [sample, sample_naive])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n and batch must be at least 1, got 0"),
        ({"batch": 0}, "n and batch"),
        ({"shape": (0, 4)}, "shape must be two numbers"),
        ({"shape": (4,)}, "shape must be two numbers"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"condition": None}, r"condition must be \(2, 3\) or \(3,\)"),
        ({"condition": np.zeros((3, 3))}, "condition must be"),
        ({"condition": [0.0, 1.0]}, r"got \(2,\)"),
        ({"condition": [0.0, 1.0, np.inf]}, "not finite"),
    ],
)
def test_bad_requests_are_refused(method, change, message):
    request = {"n": 2, "shape": (4, 4), "condition": np.zeros(3)} | change
    with pytest.raises(ValueError, match=message):
        method(network("gated", condition=3), **request)
