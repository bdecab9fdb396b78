"""Label-free training: seeded pairs, crops that keep image and mask together, a short training."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from microlab.data.errors import InputError
from microlab.data.micrograph import Micrograph
from microlab.measure.grain_size import mean_intercept
from microlab.pipelines import train_segmenter
from microlab.pipelines.train_segmenter import TrainingConfig, crops
from microlab.pipelines.training_pairs import render_pair, render_pairs
from microlab.render.sem import Microscope, MicroscopeRanges
from microlab.segment.registry import load_segmenter
from microlab.simulate import library, voronoi

MAP = voronoi.tessellate(voronoi.random_seeds(8, (96, 96), 1), (96, 96))


def fixed_ranges(**settings: float) -> MicroscopeRanges:
    """Ranges without variation: every setting is absent or fixed to the given value."""
    base = {f.name: (f.default, f.default) for f in fields(Microscope)}
    fixed = {name: (value, value) for name, value in settings.items()}
    return MicroscopeRanges(**{**base, **fixed}, absent=1.0)


def test_the_mask_is_as_wide_as_the_drawn_groove():
    ranges = fixed_ranges(
        groove_depth=0.6, groove_width=2.6, groove_variation=0.0, detector_noise=1e-6, electrons=1e9
    )
    stripes = np.tile(np.arange(120) // 40, (60, 1))
    pair = render_pair(stripes, [3], ranges)
    image, mask = pair.image, pair.boundary
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, (image * 255).round() / np.float32(255))  # as in an image file
    assert mask.dtype == bool
    nearest = np.abs(np.arange(120) + 0.5 - 40 * np.arange(4)[:, None]).min(0)  # to the four upright lines
    np.testing.assert_array_equal(mask, np.tile(nearest <= 2.6, (60, 1)))
    assert image[mask].max() < image[:, nearest > 6].min()


def test_a_virtual_pair_depends_on_its_seed_alone():
    pair, again = render_pair(MAP, [4, 2]), render_pair(MAP, [4, 2])
    np.testing.assert_array_equal(pair.image, again.image)
    np.testing.assert_array_equal(pair.boundary, again.boundary)
    assert (pair.image != render_pair(MAP, [4, 3]).image).any()


def test_boundaries_are_darker_than_grains_under_every_microscope():
    for seed in range(12):
        pair = render_pair(MAP, [seed])
        assert pair.image[pair.boundary].mean() < pair.image[~pair.boundary].mean(), seed


def test_pairs_cycle_through_the_structures_each_with_its_own_microscope():
    maps = [MAP, np.ascontiguousarray(MAP.T)]
    pairs = render_pairs(maps, 3, 5, jobs=1, progress=False)
    for k, pair in enumerate(pairs):
        expected = render_pair(maps[k % 2], [5, k])
        np.testing.assert_array_equal(pair.image, expected.image)
        np.testing.assert_array_equal(pair.boundary, expected.boundary)
    assert (pairs[0].image != pairs[2].image).any()
    (chosen,) = render_pairs(maps, [2], 5, jobs=1, progress=False)
    np.testing.assert_array_equal(chosen.image, pairs[2].image)


def twins(n: int, shape: tuple[int, int]) -> list[Micrograph]:
    """Micrographs whose image is their own boundary."""
    masks = [np.random.default_rng(k).random(shape) < 0.4 for k in range(n)]
    return [Micrograph(mask.astype(np.float32), boundary=mask) for mask in masks]


def test_a_crop_keeps_image_and_mask_together():
    images, masks = crops(twins(3, (40, 50)), 16, 32, 0)(0)
    assert images.shape == masks.shape == (32, 1, 16, 16)
    assert images.dtype == masks.dtype == np.float32
    np.testing.assert_array_equal(images > 0, masks == 1)
    np.testing.assert_allclose(images.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((1, 2, 3)), 1, atol=1e-4)


def test_crops_come_from_everywhere_in_all_eight_orientations():
    (pair,) = pairs = twins(1, (12, 12))
    whole = {part.tobytes() for part in crops(pairs, 12, 100, 0)(0)[1]}
    square = pair.image
    turned = [np.rot90(square, k) for k in range(4)]
    assert whole == {np.ascontiguousarray(part).tobytes() for t in turned for part in (t, t[:, ::-1])}
    places = np.zeros((12, 12))  # a single marked pixel must appear at every position, including the corners
    for y, x in ((0, 0), (11, 11), (5, 6)):
        spot = np.zeros((12, 12), bool)
        spot[y, x] = True
        places[y, x] = crops([Micrograph(pair.image, boundary=spot)], 8, 200, 0)(0)[1].sum()
    assert places[0, 0] > 0
    assert places[11, 11] > 0
    assert places[5, 6] == 200


def test_a_batch_depends_on_its_step_and_seed_alone():
    pairs = twins(3, (40, 40))
    first = crops(pairs, 16, 4, 7)
    first(0)
    for one, two in zip(first(5), crops(pairs, 16, 4, 7)(5)):
        np.testing.assert_array_equal(one, two)
    assert (first(5)[1] != first(6)[1]).any()
    assert (first(5)[1] != crops(pairs, 16, 4, 8)(5)[1]).any()


@pytest.mark.parametrize("side", [0, 41])
def test_a_crop_larger_than_an_image_is_refused(side):
    with pytest.raises(ValueError, match=rf"crop side must lie in 1..40, the smallest image's, got {side}"):
        crops(twins(1, (50, 40)), side, 4, 0)


@pytest.mark.parametrize("held_out", [0, 3, 4])
def test_held_out_structures_must_leave_some_to_train_on(held_out):
    with pytest.raises(ValueError, match=f"held_out must lie between 0 and structures=3, got {held_out}"):
        TrainingConfig(structures=3, held_out=held_out)


MINUTE = TrainingConfig(structures=3, held_out=1, images=4, width=4, depth=3, crop=64, batch=2, steps=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A minute training from the first simulation on; its folder and the weights."""
    folder = tmp_path_factory.mktemp("training")
    ranges = library.Ranges(shape=(96, 96), grains=(8, 12), steps=(20, 30), coalesced=(0.0, 0.3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_segmenter, "STRUCTURES", ranges)
        yield folder, train_segmenter.train(folder, MINUTE, jobs=1, device="cpu", progress=False)


def test_training_writes_working_weights_and_a_complete_card(trained):
    folder, path = trained
    assert path == folder / "labour-free.safetensors"
    network = load_segmenter(weights=path)
    card = network.card
    assert card["parameters"]["width"] == 4
    assert card["training"]["steps"] == 4
    maps = [library.load(folder / "library", index).grain_map for index in range(3)]
    assert card["grain_size_px"] == pytest.approx(np.mean([mean_intercept(m) for m in maps]))
    assert card["data"] == "4 virtual micrographs of 2 simulated polycrystals; no label"
    assert len(card["scores"]) == 8
    assert all(np.isfinite(score) for score in card["scores"].values())
    image = render_pair(maps[0], [0]).image
    labels = network.segment(image, zoom=1.0).labels
    assert labels.shape == image.shape
    assert labels.max() >= 1


def test_a_second_call_neither_simulates_nor_trains_again(trained, monkeypatch):
    folder, path = trained
    weights, history = path.read_bytes(), (folder / "training" / "history.csv").read_text()
    stamps = {file: file.stat().st_mtime_ns for file in folder.glob("library/structures/*/*")}
    assert len(stamps) == 3 * 4

    def forbidden(*arguments):
        raise AssertionError("simulated or trained again")

    monkeypatch.setattr(library, "simulate_structure", forbidden)
    monkeypatch.setattr(train_segmenter, "pair_loss", forbidden)
    assert train_segmenter.train(folder, MINUTE, jobs=1, device="cpu", progress=False) == path
    assert path.read_bytes() == weights
    assert (folder / "training" / "history.csv").read_text() == history
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_a_library_that_is_too_small_is_named(trained, tmp_path):
    small_library = trained[0] / "library"
    with pytest.raises(
        InputError, match=r"holds 3 structures, the training needs 5: extend it or ask for fewer"
    ):
        train_segmenter.train(
            tmp_path, replace(MINUTE, structures=5), library_folder=small_library, progress=False
        )
    assert not any(tmp_path.iterdir())


def test_a_wrong_device_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="nonsense"):
        train_segmenter.train(tmp_path / "run", device="nonsense")
    assert not (tmp_path / "run").exists()
