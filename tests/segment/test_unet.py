"""microlab.segment.unet: the network's shape, its loss, and prediction over tiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from microlab.data import weights
from microlab.segment.unet import (
    OUTPUTS,
    UNet,
    UNetSegmenter,
    boundary_loss,
    field_of_view,
    pad_reflect,
    predict,
)
from microlab.training.fit import FitConfig, fit


class Logit(nn.Module):
    """The network whose prediction is its input."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.logit(image, eps=1e-6)


class Blur(nn.Module):
    """A network with a receptive field of `reach` pixels to each side."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(2 * reach + 1, stride=1, padding=reach, count_include_pad=False)

    def forward(self, image: Tensor) -> Tensor:
        return torch.logit(self.mean(image), eps=1e-6)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.95, (height, width)).astype(np.float32)


def cpu(model: nn.Module, image: np.ndarray, **options) -> np.ndarray:
    return predict(model, image, **{"device": "cpu", "precision": "float32"} | options)


# ---- the network -----------------------------------------------------------------------------------------


def test_the_original_network_has_its_31_million_weights():
    # Two 3 x 3 convolutions per level, up-convolutions, joined levels and the head, counted by hand.
    def convolutions(before: int, after: int) -> int:
        return 9 * before * after + 9 * after * after + 4 * after  # batch norm: scale and shift, twice

    widths = [64, 128, 256, 512, 1024]
    expected = sum(convolutions(a, b) for a, b in zip([1, *widths], widths))
    expected += sum(4 * 2 * w * w + w + convolutions(2 * w, w) for w in widths[:-1]) + 64 + 1
    with torch.device("meta"):
        model = UNet(width=64, depth=5, seed=0)
    assert sum(p.numel() for p in model.parameters()) == expected == 31_036_481


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (5, 3), (16, 16), (33, 50)])
def test_any_image_of_one_pixel_or_more_is_segmented_at_its_own_size(norm, size):
    model = UNet(in_channels=2, out_channels=3, width=2, depth=4, norm=norm).eval()
    logits = model(torch.rand(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    assert torch.isfinite(logits).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8, 16, 64]), st.sampled_from([1, 32]))
def test_padding_reflects_as_numpy_does(height, width, multiple, least):
    image = picture(height, width)
    padded = pad_reflect(torch.from_numpy(image)[None, None], multiple, least)[0, 0].numpy()
    down, right = (
        next(k for k in range(200) if (n + k) % multiple == 0 and n + k >= least) for n in (height, width)
    )
    # numpy cannot reflect a single pixel; repeating it is the limit.
    expected = np.pad(image, ((0, down), (0, 0)), mode="reflect" if height > 1 else "edge")
    expected = np.pad(expected, ((0, 0), (0, right)), mode="reflect" if width > 1 else "edge")
    assert np.array_equal(padded, expected)


def test_the_seed_determines_the_weights_and_keeps_the_callers_random_state():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, second, other = UNet(width=2, depth=2), UNet(width=2, depth=2), UNet(width=2, depth=2, seed=1)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_every_weight_gets_a_gradient():
    model = UNet(width=2, depth=4)
    boundary_loss(model(torch.rand(2, 1, 32, 32)), torch.ones(2, 1, 32, 32)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.slow
def test_dark_lines_are_learned_in_forty_steps():
    def batches(step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([3, step])
        mask = np.zeros((4, 1, 48, 48), np.float32)
        for image in mask:
            image[0, rng.integers(4, 44)] = image[0, :, rng.integers(4, 44)] = 1
        noise = 0.2 * rng.standard_normal(mask.shape)
        return (0.7 - 0.5 * mask + noise).astype(np.float32), mask

    model = UNet(width=4, depth=3)
    config = FitConfig(steps=40, lr=0.02, precision="float32")
    fit(model, batches, lambda m, b: boundary_loss(m(b[0]), b[1]), config, progress=False, device="cpu")
    image, mask = batches(999)
    predictions = np.stack([cpu(model, plane[0]) >= 0.5 for plane in image])
    truth = mask[:, 0] > 0
    assert (predictions & truth).sum() / (predictions | truth).sum() > 0.8
    assert (image[:, 0] < 0.45)[truth].mean() > 0.6  # a threshold on single pixels does worse:
    dark = image[:, 0] < 0.45
    assert (dark & truth).sum() / (dark | truth).sum() < 0.5


def test_trained_weights_are_restored_from_their_file(tmp_path):
    model = UNet(width=2, depth=3, norm="group").eval()
    card = dict.fromkeys(weights.CARD_FIELDS, "a test") | {"scores": {}}
    card |= {"architecture": "UNet", "parameters": model.architecture}
    path = weights.save(tmp_path / "small.safetensors", model, card)
    again = UNet.from_weights(path)
    image = torch.rand(1, 1, 20, 20)
    assert not again.training
    assert torch.equal(again(image), model(image))


# ---- the loss --------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_and_dice_by_their_formulas():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 1, 5, 6)).astype(np.float32)
    target = (rng.random((3, 1, 5, 6)) < 0.3).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    dice = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, target)]
    loss = boundary_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss.item() == pytest.approx(entropy + 1 - np.mean(dice), rel=1e-5)


def test_the_loss_of_a_batch_is_the_mean_over_its_images():
    logits, target = torch.randn(4, 1, 6, 6), (torch.rand(4, 1, 6, 6) < 0.4).float()
    single = torch.stack([boundary_loss(logits[k : k + 1], target[k : k + 1]) for k in range(4)])
    assert boundary_loss(logits, target).item() == pytest.approx(single.mean().item(), rel=1e-5)


def test_the_loss_of_a_perfect_prediction_is_zero_also_for_an_empty_mask():
    target = (torch.rand(2, 1, 8, 8) < 0.4).float()
    assert boundary_loss(200 * target - 100, target).item() < 1e-4
    empty = torch.zeros(1, 1, 8, 8)
    assert boundary_loss(empty - 100, empty).item() < 1e-4
    with pytest.raises(ValueError, match="differ in shape"):
        boundary_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))


# ---- prediction over tiles -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(1, 40),
    share=st.floats(0, 0.99),
    batch=st.integers(1, 5),
)
def test_tiles_join_without_a_seam(height, width, tile, share, batch):
    image = picture(height, width)
    tile = max(tile, 6)
    probability = cpu(Logit(), image, tile=tile, overlap=int(share * (tile - 1) / 2), batch=batch)
    assert probability.dtype == np.float32
    assert np.allclose(probability, image, atol=2e-6)


def test_overlap_removes_the_errors_at_the_edges_of_tiles():
    image = picture(150, 130)
    whole = cpu(Blur(3), image, tile=512)
    errors = [np.abs(cpu(Blur(3), image, tile=64, overlap=overlap) - whole) for overlap in (0, 32)]
    assert errors[0].max() > 2.5 * errors[1].max()
    assert errors[0].max() > 0.05  # the seam that the overlap removes
    inner = np.s_[4:58, 4:58]  # of the first tile, away from its edges and from its neighbours
    assert np.allclose(cpu(Blur(3), image, tile=64, overlap=0)[inner], whole[inner], atol=2e-6)


def test_a_unet_is_nearly_the_same_in_tiles_of_any_batch():
    model, image = UNet(width=4, depth=3), picture(100, 120)
    whole = cpu(model, image)
    assert np.allclose(cpu(model, image, tile=64, overlap=32, batch=4), whole, atol=0.02)
    assert np.allclose(
        cpu(model, image, tile=64, overlap=32, batch=4), cpu(model, image, tile=64, overlap=32), atol=1e-5
    )


def test_memory_maps_are_accepted_as_input_and_output(tmp_path):
    image = np.memmap(tmp_path / "in.raw", np.uint8, "w+", shape=(130, 90))
    image[:] = np.random.default_rng(0).integers(20, 230, image.shape)
    out = np.memmap(tmp_path / "out.raw", np.float32, "w+", shape=(130, 90))
    out[:] = 7  # whatever it held is overwritten
    probability = cpu(Logit(), image, tile=50, overlap=10, out=out)
    assert probability is out
    assert np.allclose(out, image / 255, atol=2e-6)


def test_integer_images_are_scaled_and_tiles_can_be_prepared():
    image = np.random.default_rng(0).integers(2000, 60000, (40, 30)).astype(np.uint16)
    assert np.allclose(cpu(Logit(), image), image / 65535, atol=2e-6)
    assert np.allclose(cpu(Logit(), image, prepare=lambda tile: tile / 2), image / 131070, atol=2e-6)


def test_several_classes_give_probabilities_that_sum_to_one():
    model = UNet(in_channels=3, out_channels=4, width=2, depth=2)
    probability = cpu(model, np.random.default_rng(0).random((50, 41, 3)), tile=32, overlap=8)
    assert probability.shape == (4, 50, 41)
    assert np.allclose(probability.sum(0), 1, atol=1e-5)


def test_the_models_mode_is_restored():
    model = UNet(width=2, depth=2).train()
    statistics = model.down[0][1].running_mean.clone()
    cpu(model, picture(20, 20))
    assert model.training
    assert torch.equal(model.down[0][1].running_mean, statistics)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((0, 5)), {}, "at least one pixel"),
        (np.zeros(5), {}, r"\(H, W\)"),
        (np.full((8, 8), np.nan), {}, "NaN.*rows 0 to 8"),
        (np.zeros((8, 8)), {"tile": 4, "overlap": 4}, "overlap"),
        (np.zeros((8, 8)), {"batch": 0}, "batch"),
        (np.zeros((8, 8)), {"precision": "int8"}, "precision"),
        (np.zeros((8, 8)), {"out": np.zeros((8, 9), np.float32)}, r"out.*\(8, 8\)"),
        (np.zeros((8, 8)), {"out": np.zeros((8, 8), np.uint8)}, "out.*uint8"),
    ],
)
def test_a_wrong_argument_of_predict_is_named(image, options, words):
    with pytest.raises(ValueError, match=words):
        cpu(Logit(), image, **options)


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}, {"norm": "layer"}, {"in_channels": 0}])
def test_a_wrong_setting_of_the_network_is_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        UNet(**settings)


def peak_memory(side: int, folder: Path) -> float:
    """Peak of anonymous memory, MiB, of a process that segments a square image from disk to disk."""
    code = f"""
import sys, threading
import numpy as np, torch
from microlab.segment.unet import UNet, predict
torch.set_num_threads(1)

def anonymous():  # pages of mapped files are the system's to drop, so they do not count
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

peaks = []
class Watched(UNet):
    def forward(self, image):
        logits = super().forward(image)
        peaks.append(anonymous())
        return logits

image = np.memmap({str(folder / "in")!r}, np.uint8, "w+", shape=({side}, {side}))
out = np.memmap({str(folder / "out")!r}, np.float32, "w+", shape=({side}, {side}))
predict(Watched(width=2, depth=2), image, tile=256, overlap=32, out=out, device="cpu", precision="float32")
print(max(peaks))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_image(tmp_path):
    small, large = peak_memory(512, tmp_path), peak_memory(4096, tmp_path)
    # The larger image has 64 times the pixels, 80 MiB of input and output.
    assert large < small + 20


# --- several outputs -------------------------------------------------------------------------------------


class ThreeOutputs(nn.Module):
    """Logits that follow the grey level: boundary where dark, twin where middling, outside where bright."""

    def forward(self, image):
        return 40 * torch.cat([-0.5 - image, 0.5 - image.abs() - 0.2, image - 1.0], 1)


def bright_legend() -> np.ndarray:
    image = np.full((200, 300), 0.4, np.float32)
    image[::40], image[:, ::40] = 0.0, 0.0
    image[150:190, 20:120] = 1.0
    image[160:165, 40:90] = 0.0  # its bar
    image[5, 5] = 1.0  # a speck
    return image


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_what_is_not_the_specimen_is_found_and_kept_out_of_the_grains(tmp_path, zoom, mapped):
    segmenter = UNetSegmenter(ThreeOutputs(), {"outputs": list(OUTPUTS)}, device="cpu")
    image = bright_legend()
    folder = tmp_path if mapped else None
    probability, valid = segmenter.maps(image, zoom, folder=folder)
    assert probability.shape == image.shape
    expected = np.ones(image.shape, bool)
    expected[150:190, 20:120] = False
    wrong = valid != expected
    assert wrong.sum() < 0.002 * image.size if zoom == 1 else wrong.sum() < 0.02 * image.size
    assert valid[5, 5]  # a speck is no legend
    assert not valid[162, 60]  # the bar belongs to it
    result = segmenter.segment(image, zoom=zoom)
    assert (result.labels[~result.valid] == 0).all()
    assert (result.labels[result.valid] > 0).all()


def test_an_image_of_the_specimen_alone_has_no_field_of_view():
    segmenter = UNetSegmenter(ThreeOutputs(), {"outputs": list(OUTPUTS)}, device="cpu")
    image = bright_legend()
    image[150:190, 20:120] = 0.4
    assert segmenter.maps(image)[1] is None


def test_sides_of_twins_count_only_if_asked():
    image = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (64, 1))
    plain, twins = (
        UNetSegmenter(ThreeOutputs(), {"outputs": list(OUTPUTS)}, "cpu", twins=choice).probability(image)
        for choice in (False, True)
    )
    standard = (image - image.mean()) / image.std()
    np.testing.assert_allclose(plain > 0.5, standard < -0.5)
    np.testing.assert_allclose(twins > 0.5, (standard < -0.5) | (np.abs(standard) < 0.3))


def test_the_zoom_on_a_card_is_used():
    segmenter = UNetSegmenter(ThreeOutputs(), {"outputs": list(OUTPUTS), "zoom": 0.7}, device="cpu")
    assert segmenter.estimate_zoom(bright_legend()) == 0.7


def test_the_image_is_seen_at_the_zoom_and_at_half_of_it_unless_it_is_small():
    segmenter = UNetSegmenter(ThreeOutputs(), {"outputs": list(OUTPUTS)}, device="cpu")
    image = np.random.default_rng(0).random((160, 200)).astype(np.float32)
    one, half = (segmenter._outputs_at(image, zoom)[0] for zoom in (1.0, 0.5))
    assert np.abs(one - half).mean() > 0.05
    np.testing.assert_allclose(segmenter.maps(image)[0], (one + half) / 2, atol=1e-6)
    small = image[:100, :120]
    np.testing.assert_allclose(segmenter.maps(small)[0], segmenter._outputs_at(small, 1.0)[0], atol=1e-6)


@pytest.mark.parametrize(("pieces", "believed"), [(3, True), (16, False)])
def test_a_few_pieces_are_no_specimen_and_many_are_grains(pieces, believed):
    outside = np.zeros((200, 200), np.float32)
    for k in range(pieces):
        y, x = 50 * (k // 4), 50 * (k % 4)
        outside[y + 5 : y + 35, x + 5 : x + 35] = 1
    valid = field_of_view(outside)
    assert (valid is not None) == believed
    if believed:
        assert (valid == (outside < 0.5)).mean() > 0.99
    assert field_of_view(np.ones((64, 64), np.float32)) is None  # then the network is wrong
