"""Claims of segment.constituents: the compound loss, crops, training, both averages, and the encoders."""

from __future__ import annotations

import importlib
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.segmentation import dice_score

from microlab.data.micrograph import Micrograph
from microlab.data.transforms import standardise
from microlab.measure.pixel import missing_class_iou
from microlab.segment.constituents import (
    AUGMENTATIONS,
    PAPER,
    ConstituentConfig,
    build_network,
    encoder_unet,
    evaluate_constituents,
    focal_dice_loss,
    labelled_crops,
    photometric,
    predict_constituents,
    train_constituents,
)
from microlab.segment.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def random_batch(n: int = 3, classes: int = 4, side: int = 9) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(n, classes, side, side, generator=draw)
    return logits, torch.randint(0, classes - 1, (n, side, side), generator=draw)  # the last class is absent


# ---- loss ------------------------------------------------------------------------------------------------


def test_the_loss_agrees_with_a_hand_calculation():
    # Two pixels, three classes, the truth 0 and 1; class 2 is absent.
    p = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]])
    logits = p.log().T.reshape(1, 3, 1, 2)
    focal = (0.5**2 * -np.log(0.5) + 0.3**2 * -np.log(0.7)) / 2
    dice = (2 * 0.5 / (0.7 + 1) + 2 * 0.7 / (0.95 + 1)) / 2
    loss = focal_dice_loss(logits, torch.tensor([[[0, 1]]]))
    assert loss.item() == pytest.approx(focal + 1 - dice, rel=1e-5)


def test_its_parts_are_cross_entropy_and_the_dice_of_torchmetrics():
    _, target = random_batch()
    guess = target.roll(2, dims=-1)
    sure = 60.0 * F.one_hot(guess, 4).movedim(-1, 1)  # probabilities of 0 and 1: soft Dice is Dice
    dice_part = focal_dice_loss(sure, target, gamma=0) - F.cross_entropy(sure, target)
    one_hot = [F.one_hot(mask, 4).movedim(-1, 1) for mask in (guess, target)]
    dice = dice_score(*one_hot, num_classes=4, average="none", input_format="one-hot")
    assert dice_part.item() == pytest.approx(1 - dice[:, :3].mean().item(), abs=1e-5)


def test_a_class_absent_from_the_truth_has_no_dice_of_its_own():
    logits, target = random_batch(classes=3)
    never = torch.full_like(logits[:, :1], -1e4)
    assert focal_dice_loss(torch.cat([logits, never], 1), target) == pytest.approx(
        focal_dice_loss(logits, target)
    )


def test_probability_of_an_absent_class_is_penalised():
    logits, target = random_batch()
    logits.requires_grad_()
    focal_dice_loss(logits, target).backward()
    assert (logits.grad[:, 3].sum((1, 2)) > 0).all()


def test_the_loss_of_a_batch_is_the_mean_over_its_shares():
    logits, target = random_batch(n=4)
    shares = [focal_dice_loss(logits[k::2], target[k::2]) for k in range(2)]  # as two processes hold them
    assert focal_dice_loss(logits, target).item() == pytest.approx(
        torch.stack(shares).mean().item(), rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certainty_right_or_wrong_has_a_finite_loss_and_gradient(dtype):
    _, target = random_batch()
    for truth, least, most in ((target, 0, 1e-3), (target.roll(1, 0), 1, 1e5)):
        logits = (1e4 * F.one_hot(truth, 4).movedim(-1, 1)).to(dtype).requires_grad_()
        loss = focal_dice_loss(logits, target)
        loss.backward()
        assert least <= loss.item() <= most
        assert torch.isfinite(logits.grad).all()


def test_the_focal_term_reduces_the_weight_of_correct_pixels():
    p = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    # Dice does not depend on gamma: what is left is the focal loss, (1 - 0.9)^2 of the cross-entropy.
    difference = focal_dice_loss(p, target, gamma=0) - focal_dice_loss(p, target, gamma=2)
    assert difference.item() == pytest.approx(-np.log(0.9) * (1 - 0.1**2), rel=1e-5)


def test_a_target_of_another_size_is_refused():
    logits, target = random_batch()
    with pytest.raises(ValueError, match=r"\(3, 4, 9, 9\).*\(3, 9, 8\)"):
        focal_dice_loss(logits, target[..., :-1])


# ---- crops -----------------------------------------------------------------------------------------------


def numbered(seed: int = 0, side: int = 24) -> Micrograph:
    """An image whose class map numbers its pixels, so that a crop shows where it was taken."""
    image = np.random.default_rng(seed).random((side, side), np.float32)
    return Micrograph(image, classes=np.arange(side * side).reshape(side, side))


@pytest.mark.parametrize("augment", ["none", "flips"])
def test_image_and_mask_are_cropped_and_turned_together(augment):
    micrograph = numbered()
    grey = standardise(micrograph.image).ravel()
    x, mask = labelled_crops([micrograph], 10, 50, augment, seed=3)(0)
    assert x.shape == (50, 1, 10, 10)
    assert x.dtype == np.float32
    assert np.array_equal(x[:, 0], grey[mask])
    # The step along a row shows the orientation: to the right, left, down or up, mirrored or not.
    steps = {(int(m[0, 1] - m[0, 0]), int(m[1, 0] - m[0, 0])) for m in mask}
    assert len(steps) == {"none": 1, "flips": 8}[augment]


def test_photometric_changes_do_not_move_the_mask():
    micrograph = numbered()
    x, mask = labelled_crops([micrograph], 10, 40, "photometric", seed=3)(0)
    assert (np.diff(mask, axis=2) == 1).all()
    assert (np.diff(mask, axis=1) == 24).all()
    plain = standardise(micrograph.image).ravel()[mask]
    changed = [not np.allclose(a, b) for a, b in zip(x[:, 0], plain)]
    assert sum(changed) >= 38  # one in ten thousand stays as it is
    # A change of brightness reaches the network: means change by more than rounding.
    assert np.abs(x[:, 0].mean((1, 2)) - plain.mean((1, 2))).max() > 0.2


def test_photometric_changes_are_seeded_and_stay_in_range():
    image = np.random.default_rng(0).random((32, 32), np.float32)
    before = image.copy()
    for seed in range(40):
        changed = photometric(image, seed=seed)
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
        assert np.array_equal(changed, photometric(image, seed=seed))
    assert np.array_equal(image, before)


def test_an_image_of_one_grey_level_stays_zero_through_every_augmentation():
    flat = Micrograph(np.full((16, 16), 0.4, np.float32), classes=np.zeros((16, 16), np.uint8))
    for augment in AUGMENTATIONS:
        x, _ = labelled_crops([flat], 8, 20, augment)(0)
        assert not x.any(), augment


def test_a_batch_depends_on_seed_and_step_alone():
    pairs = [numbered(k) for k in range(3)]
    batches = labelled_crops(pairs, 8, 4, "flips+photometric", seed=1)
    first = batches(7)
    batches(8)
    for a, b in zip(first, labelled_crops(pairs, 8, 4, "flips+photometric", seed=1)(7)):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[1], labelled_crops(pairs, 8, 4, "flips+photometric", seed=2)(7)[1])


# ---- training --------------------------------------------------------------------------------------------


def three_classes(seed: int, side: int = 40) -> Micrograph:
    """Three classes: dark matrix, grey stripes, a few bright squares; with noise."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    mask[:, rng.integers(4) :: 8] = 1
    mask[:, rng.integers(4) + 1 :: 8] = 1
    for y, x in rng.integers(0, side - 8, (2, 2)):
        mask[y : y + 8, x : x + 8] = 2
    image = np.array([0.2, 0.5, 0.8])[mask] + rng.normal(0, 0.08, mask.shape)
    return Micrograph(np.clip(image, 0, 1).astype(np.float32), classes=mask)


SMALL = ConstituentConfig(
    classes=3, width=4, depth=2, crop=24, batch=4, steps=60, lr=0.02, validate_every=20, precision="float32"
)
TRAIN, VAL, TEST = (
    [three_classes(k) for k in range(first, first + n)] for first, n in ((0, 3), (10, 2), (20, 3))
)
FIRST = TRAIN[0]


@pytest.fixture(scope="module")
def trained():
    return train_constituents(TRAIN, VAL, SMALL, progress=False, device="cpu")


def test_it_learns_three_classes_and_returns_the_best_weights(trained):
    model, history = trained
    scores = evaluate_constituents(model, TEST, 3, device="cpu")
    assert scores["missing_class_iou"] > 0.9
    assert scores["accuracy"] > scores["majority_accuracy"] + 0.15
    table = history.table()
    best = table["validation_missing_class_iou"].max()
    assert table.loc[table["step"] == history.best_step, "validation_missing_class_iou"].item() == best
    assert evaluate_constituents(model, VAL, 3)["pooled_missing_class_iou"] == pytest.approx(best, abs=0.01)


def test_the_same_seed_gives_the_same_network_and_another_one_does_not():
    short = replace(SMALL, steps=4)
    image = TEST[0].image
    one, same, other = (
        train_constituents(TRAIN, VAL, replace(short, seed=seed), progress=False, device="cpu")[0]
        for seed in (1, 1, 2)
    )
    x = torch.from_numpy(standardise(image))[None, None]
    with torch.no_grad():
        assert torch.equal(one(x), same(x))
        assert not torch.equal(one(x), other(x))


def test_an_interrupted_training_resumes_exactly(tmp_path):
    config = replace(SMALL, steps=8, validate_every=4, checkpoint_every=4)
    whole, _ = train_constituents(TRAIN, VAL, config, progress=False, device="cpu")
    train_constituents(TRAIN, VAL, replace(config, steps=4), progress=False, device="cpu", folder=tmp_path)
    resumed, _ = train_constituents(TRAIN, VAL, config, progress=False, device="cpu", folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


def test_training_stops_early_after_the_learning_rate_was_lowered(tmp_path):
    # One grey level, one class: the first validation is perfect, so that none improves on it.
    config = replace(SMALL, lr=1e-3, steps=40, validate_every=1, patience=6, plateau=2)
    flat = [Micrograph(np.full((24, 24), 0.5, np.float32), classes=np.zeros((24, 24), np.uint8))]
    settings = {"progress": False, "device": "cpu", "folder": tmp_path}
    _, history = train_constituents(TRAIN, flat, config, **settings)
    assert history.stopped_early
    assert history.best_step == 1
    assert history.table()["validation_missing_class_iou"].eq(1).all()
    rates = history.table()["lr"] / config.lr
    assert rates.tolist() == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    _, again = train_constituents(TRAIN, flat, config, **settings)
    pd.testing.assert_frame_equal(again.table(), history.table())  # finished: nothing is retrained


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([], "train must hold at least one"),
        ([FIRST, replace(FIRST, classes=FIRST.classes[1:])], r"train\[1\].*\(40, 40\).*\(39, 40\)"),
        ([replace(FIRST, image=FIRST.image * 255)], r"train\[0\].*\[0, 1\].*range"),
        ([replace(FIRST, image=FIRST.image * np.nan)], r"train\[0\].*\[0, 1\].*nan"),
        ([replace(FIRST, classes=FIRST.classes + 1)], r"train\[0\].*values 1, 2, 3; 3 classes are 0\.\.2"),
        ([replace(FIRST, classes=FIRST.image)], r"train\[0\].*whole numbers.*float32"),
        (
            [replace(FIRST, image=FIRST.image[:20], classes=FIRST.classes[:20])],
            r"train\[0\].*\(20, 40\).*crop of 24",
        ),
    ],
)
def test_a_pair_that_cannot_be_used_is_named(train, words):
    with pytest.raises(ValueError, match=words):
        train_constituents(train, VAL, SMALL, progress=False)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"classes": 1}, "classes"),
        ({"crop": 0}, "crop"),
        ({"augment": "mixup"}, "augment must be one of none, flips.*'mixup'"),
        ({"gamma": 0.5}, "gamma"),
        ({"encoder_weights": "imagenet"}, "need an encoder"),
    ],
)
def test_a_wrong_setting_is_named(setting, words):
    with pytest.raises(ValueError, match=words):
        ConstituentConfig(**setting)


# ---- scores ----------------------------------------------------------------------------------------------


class GreyThresholds(nn.Module):
    """Classifies every pixel by its standardised grey, split at fixed levels."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-(image + 1), -image.abs(), image - 1], 1).neg().abs().neg()


def test_scores_are_those_of_the_metrics_by_either_average():
    model, pairs = GreyThresholds(), [three_classes(k) for k in range(4)]
    pairs[0] = replace(pairs[0], classes=np.minimum(pairs[0].classes, 1))  # this image has no class 2
    truth = [pair.classes for pair in pairs]
    guess = [predict_constituents(model, pair.image, device="cpu") for pair in pairs]
    scores = evaluate_constituents(model, pairs, 3, device="cpu")
    per_image = missing_class_iou(truth, guess, 3, per_image=True)
    assert scores["missing_class_iou"] == pytest.approx(per_image.mean())
    pooled = missing_class_iou(truth, guess, 3, per_image=False)
    assert scores["pooled_missing_class_iou"] == pytest.approx(pooled)
    assert abs(scores["missing_class_iou"] - pooled) > 1e-3  # the two averages do differ here
    accuracy = np.mean([np.mean(t == g) for t, g in zip(truth, guess)])
    assert scores["accuracy"] == pytest.approx(accuracy)
    assert scores["pooled_accuracy"] == pytest.approx(accuracy)  # the images are of equal size
    both = [(np.sum((t == 2) & (g == 2)), np.sum((t == 2) | (g == 2))) for t, g in zip(truth, guess)]
    assert scores["IoU_2"] == pytest.approx(np.mean([a / b for a, b in both[1:]]))
    assert scores["pooled_IoU_2"] == pytest.approx(sum(a for a, _ in both) / sum(b for _, b in both))


def test_a_class_that_no_truth_has_scores_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two = [replace(pair, classes=np.minimum(pair.classes, 1)) for pair in TEST]
        scores = evaluate_constituents(GreyThresholds(), two, 3)
    assert np.isnan(scores["IoU_2"])
    assert np.isnan(scores["pooled_IoU_2"])
    assert np.isfinite(scores["missing_class_iou"])


def test_any_size_is_predicted_as_class_ids(trained):
    for shape in ((1, 1), (7, 61), (1100, 30)):
        guess = predict_constituents(trained[0], np.random.default_rng(0).random(shape))
        assert guess.shape == shape
        assert guess.dtype == np.uint8
        assert guess.max() < 3


# ---- networks --------------------------------------------------------------------------------------------


def test_the_papers_settings_are_those_of_its_table():
    assert (PAPER.encoder, PAPER.encoder_weights, PAPER.classes) == ("efficientnet-b3", "imagenet", 4)
    assert (PAPER.crop, PAPER.batch, PAPER.lr) == (256, 2, 1e-3)
    assert (PAPER.steps / PAPER.validate_every, PAPER.patience, PAPER.plateau) == (200, 15, 5)  # in epochs


class FakeUnet(nn.Module):
    """Refuses sides that are not multiples of 32, like the real one, and records its arguments."""

    def __init__(self, encoder: str, encoder_weights: str | None, in_channels: int, classes: int) -> None:
        super().__init__()
        if encoder_weights == "imagenet":
            raise OSError("no route to host")
        if encoder != "efficientnet-b3":
            raise KeyError(f"Wrong encoder name `{encoder}`")
        self.layer = nn.Conv2d(in_channels, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-2] % 32 == image.shape[-1] % 32 == 0
        return self.layer(image)


def test_an_encoder_is_padded_seeded_and_trains(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", SimpleNamespace(Unet=FakeUnet))
    config = replace(SMALL, encoder="efficientnet-b3", steps=3)
    weights = [build_network(replace(config, seed=seed)).network.layer.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    model, history = train_constituents(TRAIN, VAL, config, progress=False, device="cpu")
    assert not torch.equal(model.network.layer.weight, weights[0])
    assert len(history.rows) == 1
    assert predict_constituents(model, TEST[0].image).shape == (40, 40)
    with pytest.raises(ValueError, match=r"'vgg99'.*Wrong encoder name"):
        encoder_unet("vgg99", None, 3)
    with pytest.raises(ValueError, match=r"'imagenet' of efficientnet-b3.*no route.*encoder_weights=None"):
        encoder_unet("efficientnet-b3", "imagenet", 3)


def test_without_the_package_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match=r"segmentation_models_pytorch.*microlab\[encoders\].*encoder=None"):
        build_network(ConstituentConfig(encoder="efficientnet-b3"))
    assert isinstance(build_network(ConstituentConfig()), UNet)


def test_efficientnet_b3_with_random_weights_fits_a_pair():
    try:
        importlib.import_module("segmentation_models_pytorch")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"segmentation_models_pytorch cannot be imported: {error}")
    config = replace(SMALL, encoder="efficientnet-b3", crop=32, batch=2, steps=8, lr=1e-3, validate_every=4)
    model, history = train_constituents(TRAIN[:1], VAL[:1], config, progress=False, device="cpu")
    # EfficientNet-B3 without its classifier has 10.7 million weights; the paper's encoder is that one.
    assert sum(p.numel() for p in model.network.encoder.parameters()) == pytest.approx(10.7e6, rel=0.02)
    assert predict_constituents(model, TEST[0].image).shape == (40, 40)
    assert np.isfinite(history.table()["validation_missing_class_iou"].dropna()).all()
