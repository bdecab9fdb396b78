"""Training of the default segmenter: fresh fields by seed and step, a warm start, a card."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.pipelines import train_appearances
from microlab.pipelines.train_appearances import TrainingConfig, fields_loss, fresh_fields, initial_network
from microlab.render import appearances
from microlab.segment.registry import load_segmenter
from microlab.segment.unet import OUTPUTS, UNet
from microlab.simulate import library, voronoi

CELLS = voronoi.tessellate(voronoi.regular_seeds(60, (256, 256), 0.5), (256, 256))
TINY = TrainingConfig(structures=2, held_out=1, width=2, depth=3, crop=64, batch=2, steps=3, start=None)


def test_a_batch_depends_on_seed_and_step_alone_and_never_comes_again():
    batches = fresh_fields([CELLS], TINY)
    for one, same in zip(batches(5), fresh_fields([CELLS], TINY)(5)):
        assert np.array_equal(one, same)
    images, classes = batches(5)
    assert images.shape == (2, 1, 64, 64)
    assert images.dtype == np.float32
    assert classes.shape == (2, 64, 64)
    assert set(np.unique(classes)) <= {0, 1, 2, 3}
    np.testing.assert_allclose(images.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std((1, 2, 3)), 1, atol=1e-3)
    assert not np.array_equal(images[0], images[1])
    for other in (batches(6), fresh_fields([CELLS], replace(TINY, seed=1))(5)):
        assert not np.array_equal(images, other[0])


def test_all_appearances_are_drawn_and_only_those_that_are_asked_for(monkeypatch):
    drawn = []
    original = train_appearances.draw_field

    def noted(appearance, *args, **kwargs):
        drawn.append(appearance)
        return original(appearance, *args, **kwargs)

    monkeypatch.setattr(train_appearances, "draw_field", noted)
    for step in range(60):
        fresh_fields([CELLS], TINY)(step)
    assert set(drawn) == set(appearances.SURFACES)
    drawn.clear()
    for step in range(10):
        fresh_fields([CELLS], replace(TINY, appearances=("etched", "contrast")))(step)
    assert set(drawn) == {"etched", "contrast"}


def test_a_window_inside_a_single_grain_is_drawn_again():
    coarse = np.repeat(np.repeat(np.array([[0, 1], [2, 3]]), 256, 0), 256, 1)
    images, classes = fresh_fields([coarse], TINY)(0)
    assert np.isfinite(images).all()
    assert (classes == appearances.BOUNDARY).any((1, 2)).all()


def test_the_loss_is_least_for_the_true_classes():
    classes = torch.randint(0, 4, (2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def loss(shown):
        kinds = torch.stack([shown == k for k in (1, 2, 3)], 1).float()
        return float(fields_loss(lambda images: 40 * kinds - 20, (torch.zeros(2, 1, 16, 16), classes)))

    assert loss(classes) == pytest.approx(0, abs=1e-4)
    for kind in (1, 2, 3):
        assert loss(torch.where(classes == kind, 0, classes)) > 0.3


def test_the_warm_start_knows_the_boundaries_of_the_weights_it_starts_from():
    model = initial_network(TrainingConfig()).eval()
    known = UNet.from_weights("labour-free").eval()
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(image)[:, :1], known(image))
        assert model(image).shape[1] == len(OUTPUTS)


def test_training_goes_on_from_a_file_and_its_card_says_from_which(tmp_path, monkeypatch):
    small = library.Ranges(shape=(96, 96), grains=(8, 12), steps=(5, 10))
    monkeypatch.setattr(train_appearances, "STRUCTURES", small)
    quiet = {"device": "cpu", "jobs": 1, "progress": False}
    first = train_appearances.train(tmp_path / "first", TINY, **quiet)
    further = replace(TINY, start=str(first), seed=5)
    image = torch.randn(1, 1, 64, 64)
    model, card = weights.load(first, UNet)
    with torch.no_grad():
        torch.testing.assert_close(initial_network(further).eval()(image), model(image))  # all three outputs
    second = weights.card(train_appearances.train(tmp_path / "second", further, **quiet))
    assert second["started_from"]["sha256"] == card["sha256"]
    assert second["started_from"]["training"]["start"] is None
    with pytest.raises(InputError, match="width 2 and depth 3, not 4 and 3"):
        initial_network(replace(further, width=4))


def test_training_resumes_and_gives_weights_that_segment(tmp_path, monkeypatch):
    small = library.Ranges(shape=(96, 96), grains=(8, 12), steps=(5, 10))
    monkeypatch.setattr(train_appearances, "STRUCTURES", small)
    quiet = {"device": "cpu", "jobs": 1, "progress": False}
    path = train_appearances.train(tmp_path / "run", TINY, **quiet)
    segmenter = load_segmenter(weights=path, device="cpu")
    assert segmenter.card["outputs"] == list(OUTPUTS)
    assert segmenter.card["training"]["appearances"] == list(appearances.SURFACES)
    assert "no label" in segmenter.card["data"]
    result = segmenter.segment(np.random.default_rng(0).random((80, 96)).astype(np.float32))
    assert result.labels.shape == (80, 96)
    before = path.read_bytes()
    assert train_appearances.train(tmp_path / "run", TINY, **quiet).read_bytes() == before
    with pytest.raises(InputError, match="lr"):
        train_appearances.train(tmp_path / "run", replace(TINY, lr=0.5), **quiet)
    train_appearances.train(tmp_path / "run", replace(TINY, lr=2e-3), resume=False, **quiet)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"appearances": ("glossy",)}, "glossy"), ({"appearances": ()}, "none"), ({"held_out": 80}, "held_out")],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(InputError, match=words):
        TrainingConfig(**settings)
