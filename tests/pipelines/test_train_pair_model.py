"""Training a pair model on a few labelled images, and sampling pairs with it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_pairs import TINY, toy_pairs, two_classes

from microlab.data import weights
from microlab.data.micrograph import Micrograph
from microlab.generate import pixelcnn, vqvae
from microlab.generate.masks import least_areas, object_areas
from microlab.generate.pair_model import PairModel
from microlab.generate.vqvae import encode_all
from microlab.pipelines.train_pair_model import (
    OURS,
    PAPER,
    PairModelConfig,
    _class_blocks,
    _crops_with_fractions,
    _hold_out,
    profile_config,
    train_pair_model,
)

SHORT = replace(
    TINY,
    vqvae=replace(TINY.vqvae, steps=8, checkpoint_every=3),
    prior=replace(TINY.prior, channels=4, layers=1, steps=8, checkpoint_every=3),
)
QUIET = {"classes": 2, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    train_pair_model(
        toy_pairs(), folder, TINY, class_names=["dark", "bright"], name="toy", licence="MIT", **QUIET
    )
    return folder


@pytest.fixture(scope="module")
def model(folder) -> PairModel:
    return PairModel.from_weights(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_pair_model(toy_pairs(4), folder, SHORT, **QUIET)
    return folder


def pair(image: np.ndarray, classes: np.ndarray, name: str) -> Micrograph:
    return Micrograph(image, name=name, classes=classes)


def share(pairs: list[Micrograph]) -> float:
    """Share of class 1."""
    return float(np.mean([pair.classes.mean() for pair in pairs]))


def files_of(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.safetensors")}


@pytest.mark.slow
def test_both_models_are_written_with_cards_that_say_how_good_they_are(folder):
    for part, architecture in (("vqvae", "VQVAE"), ("prior", "GatedPixelCNN")):
        assert (folder / f"toy-{part}.safetensors").stat().st_size < 16 * 2**20
        card = weights.card(folder / f"toy-{part}.safetensors")
        assert card["architecture"] == architecture
        assert card["licence"] == "MIT"
        assert card["data"] == "labelled images: 6 to train on, 2 held out to measure"
        assert card["classes"] == ["dark", "bright"]
    assert len(card["fractions"]) == 6
    np.testing.assert_allclose(np.sum(card["fractions"], axis=1), 1, atol=2e-5)
    assert card["min_area"] == [6, 6]


@pytest.mark.slow
def test_on_held_out_images_both_networks_beat_trivial_baselines(folder):
    scores = weights.card(folder / "toy-vqvae.safetensors")["scores"]
    errors = {name: value for name, value in scores.items() if "error of" in name}
    assert [name.split("error of ")[1].split(",")[0] for name in errors] == ["image", "dark", "bright"]
    assert max(errors.values()) < 0.6  # 1 is the mean grey
    assert 2 < scores["held-out images: perplexity of the codes"] <= 10
    bits = weights.card(folder / "toy-prior.safetensors")["scores"]
    alone = bits["held-out images: bits per code from the frequencies alone"]
    assert bits["held-out images: bits per code"] < alone - 0.3


def test_sampled_fractions_follow_the_requested_ones(model):
    requested = (0.1, 0.4, 0.7)
    sampled = [share(model.sample(16, shape=(64, 64), fractions=(1 - f, f), device="cpu")) for f in requested]
    np.testing.assert_allclose(sampled, requested, atol=0.12)  # fields of 64 px vary
    mixed = model.sample(2, shape=(64, 64), fractions=[(0.95, 0.05), (0.2, 0.8)], device="cpu")
    assert mixed[1].classes.mean() > mixed[0].classes.mean() + 0.3


def test_without_a_request_the_composition_is_that_of_training_images(model):
    fractions = model.draw_fractions(32, seed=1)
    rows = {tuple(row) for row in model.card["fractions"]}
    assert {tuple(row) for row in fractions.tolist()} <= rows
    pairs = model.sample(32, shape=(64, 64), seed=1, device="cpu")
    assert share(pairs) == pytest.approx(fractions[:, 1].mean(), abs=0.1)


def test_image_and_mask_of_a_sampled_pair_belong_together(model):
    for pair in model.sample(4, shape=(64, 48), fractions=(0.5, 0.5), device="cpu"):
        assert pair.image.shape == pair.classes.shape == (64, 48)
        assert pair.image[pair.classes == 1].mean() > pair.image[pair.classes == 0].mean() + 0.3
        for areas in object_areas(pair.classes, 2):
            assert areas.min() >= 6  # min_area


def test_same_seed_same_pairs(model):
    first, again, other = (model.sample(3, shape=(32, 32), seed=seed, device="cpu") for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.classes, b.classes)
    assert any((a.classes != b.classes).any() for a, b in zip(first, other, strict=True))
    rng = model.sample(3, shape=(32, 32), seed=np.random.default_rng(5), device="cpu")
    rng_again = model.sample(3, shape=(32, 32), seed=np.random.default_rng(5), device="cpu")
    np.testing.assert_array_equal(rng[2].image, rng_again[2].image)


@pytest.mark.parametrize(("module", "function"), [(vqvae, "vqvae_loss"), (pixelcnn, "bits_per_code")])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, whole, monkeypatch, module, function):
    pairs = toy_pairs(4)
    real, calls = getattr(module, function), []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > 5:  # after the checkpoint of step 3
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, function, killed)
    with pytest.raises(KeyboardInterrupt):
        train_pair_model(pairs, tmp_path / "killed", SHORT, **QUIET)
    assert not files_of(tmp_path / "killed")
    monkeypatch.setattr(module, function, real)
    train_pair_model(pairs, tmp_path / "killed", SHORT, **QUIET)
    assert files_of(tmp_path / "killed") == files_of(whole)


def test_a_folder_refuses_other_settings_and_images(tmp_path, whole):
    pairs = toy_pairs(4)
    shutil.copytree(whole, tmp_path / "run")
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match=r"seed 0 -> 1.*another folder"):
        train_pair_model(pairs, tmp_path / "run", replace(SHORT, seed=1), **QUIET)
    with pytest.raises(ValueError, match=r"images .*another folder"):
        train_pair_model(toy_pairs(5), tmp_path / "run", SHORT, **QUIET)
    assert files_of(tmp_path / "run") == before
    train_pair_model(pairs, tmp_path / "run", replace(SHORT, seed=1), resume=False, **QUIET)
    assert files_of(tmp_path / "run") != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, which microlab did not write"):
        train_pair_model(pairs, tmp_path / "mine", SHORT, **QUIET)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_papers_method_needs_no_fractions_and_accepts_none(tmp_path):
    config = replace(
        SHORT,
        vqvae=replace(SHORT.vqvae, coding="grey", image_channels=3, symmetries=False),
        prior=replace(SHORT.prior, kind="plain"),
        conditioned=False,
    )
    model = train_pair_model(toy_pairs(4), tmp_path, config, **QUIET)
    assert model.card["architecture"] == "PixelCNN"
    assert model.draw_fractions(2) is None
    pair = model.sample(1, shape=(32, 32), device="cpu")[0]
    assert pair.image.ndim == 2  # grey repeated becomes grey again
    assert set(np.unique(pair.classes)) <= {0, 1}
    with pytest.raises(ValueError, match="without class fractions"):
        model.sample(1, shape=(32, 32), fractions=(0.5, 0.5), device="cpu")


class BlocksOfOne(torch.nn.Module):
    """An encoder whose code is the number of class-1 pixels in a block of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, x):
        return (torch.nn.functional.avg_pool2d(x[:, 1], 4) * 16).round().long()


def test_the_fractions_of_a_crop_are_those_of_its_own_pixels():
    pairs = [two_classes(0.3, 0, 52), two_classes(0.6, 1, 64)]
    codes = encode_all(BlocksOfOne(), [np.stack([p.image, p.classes]) for p in pairs], symmetries=True)
    blocks = [b for p in pairs for b in _class_blocks(p.classes, 2, True)]
    crops, fractions = _crops_with_fractions(codes, blocks, TINY.prior)
    assert fractions.shape == (TINY.prior.steps * TINY.prior.batch, 2)
    np.testing.assert_allclose(fractions[:, 1], [crop.mean() / 16 for crop in crops], atol=1e-5)
    assert fractions[:, 1].std() > 0.1  # a field provides many compositions
    other_way = np.mean([(crop[0] != crop[:, 0]).any() for crop in crops])
    assert other_way > 0.5  # the crops are not constants that any orientation would fit


def test_objects_below_the_smallest_real_ones_are_cleaned_away_by_default(tmp_path):
    model = train_pair_model(toy_pairs(4), tmp_path, replace(SHORT, min_area=None), **QUIET)
    masks = [p.classes for p in _hold_out(toy_pairs(4), 0.25, 0)[0]]
    assert model.card["min_area"] == list(least_areas(masks, 2))


def test_holding_out_images_leaves_every_class_in_the_training_set():
    pairs = toy_pairs(6)
    rare = pair(pairs[0].image, np.where(pairs[0].classes == 1, 2, 0).astype(np.uint8), "rare")
    for seed in range(6):
        train, unseen = _hold_out([*pairs, rare], 0.4, seed)
        assert (len(train), len(unseen)) == (4, 3)
        assert "rare" in {p.name for p in train}
    one = pair(rare.image, np.ones_like(rare.classes), "one")
    with pytest.warns(UserWarning, match="class 0, 2 occurs only in rare, .*not be learnt"):
        train, unseen = _hold_out([rare, one], 0.2, 0)  # whichever is held out, a class is missing
    assert [p.name for p in train + unseen] == ["one", "rare"]


GOOD = two_classes(0.4, 9)


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([GOOD], {}, "at least 2 labelled images"),
        (
            [GOOD, pair(GOOD.image, GOOD.classes[:-4], "cut")],
            {},
            r"cut: mask \(60, 64\) and image \(64, 64\)",
        ),
        ([GOOD, GOOD, pair(GOOD.image, GOOD.classes * 2, "third")], {}, r"third: mask holds the values 0, 2"),
        ([GOOD, pair(GOOD.image * 255, GOOD.classes, "bytes")], {}, "bytes: image must hold finite values"),
        ([GOOD, pair(GOOD.image[:20], GOOD.classes[:20], "low")], {}, r"low: is 20 x 64 px.*crops of 32 px"),
        ([GOOD, GOOD], {"class_names": ["one"]}, "class_names must be those of 2 classes, got 1"),
        ([GOOD, GOOD], {"device": "nonsense"}, "nonsense"),
    ],
)
def test_images_that_do_not_fit_are_named(tmp_path, pairs, options, message):
    with pytest.raises(ValueError, match=message):
        train_pair_model(pairs, tmp_path / "run", SHORT, **QUIET | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fractions": (0.5, 0.6)}, "must sum to 1"),
        ({"fractions": (1.5, -0.5)}, "not be negative"),
        ({"fractions": (np.nan, 0.5)}, "must sum to 1"),
        ({"fractions": (0.2, 0.3, 0.5)}, "2 numbers, of dark, bright"),
        ({"shape": (30, 32)}, "multiples of 4"),
        ({"temperature": 0.0}, "temperature"),
        ({"n": 0}, "n must be at least 1"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.sample(**{"n": 1, "shape": (32, 32), "device": "cpu", **wrong})


def test_models_that_were_not_trained_together_are_refused(tmp_path, folder):
    train_pair_model(toy_pairs(4), tmp_path / "other", SHORT, name="toy", **QUIET)
    for suffix in ("safetensors", "json"):
        (tmp_path / "other" / f"toy-prior.{suffix}").write_bytes(
            (folder / f"toy-prior.{suffix}").read_bytes()
        )
    with pytest.raises(ValueError, match="not trained together"):
        PairModel.from_weights(tmp_path / "other")


def test_weights_are_found_by_folder_or_by_name_in_it(tmp_path, folder):
    assert PairModel.from_weights(folder / "toy").card == PairModel.from_weights(str(folder)).card
    with pytest.raises(ValueError, match="no such weights"):
        PairModel.from_weights(folder / "nothing")
    with pytest.raises(ValueError, match="holds 0 trained priors"):
        PairModel.from_weights(tmp_path)


def test_profiles_differ_in_size_and_the_papers_settings_are_the_papers():
    sizes = [profile_config(name).vqvae.steps for name in ("smoke", "laptop", "paper")]
    assert sizes == sorted(set(sizes))
    assert profile_config("laptop") == OURS
    assert profile_config("smoke", "grey", 3).vqvae.coding == "grey"
    assert profile_config("smoke", seed=3).seed == 3
    assert (PAPER.vqvae.codes, PAPER.vqvae.dim, PAPER.vqvae.crop, PAPER.vqvae.batch) == (10, 64, 256, 8)
    assert (PAPER.vqvae.steps, PAPER.vqvae.coding, PAPER.prior.kind) == (50_000, "grey", "plain")
    assert (PAPER.min_area, PAPER.prior.crop, PAPER.conditioned) == (200, 64, False)
    for wrong in ({"held_out": 0.0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PairModelConfig(**wrong)
    with pytest.raises(ValueError, match="profile must be one of"):
        profile_config("huge")
    with pytest.raises(ValueError, match="coding"):
        profile_config("smoke", "colour")
