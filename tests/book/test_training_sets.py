"""The study of training sets: the data of each set, and resuming a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from microlab.book.experiments import training_sets
from microlab.book.experiments.training_sets import LABELLED, SETS, Study, run, summary, without_training
from microlab.data.micrograph import Micrograph
from microlab.generate.networks import Generator
from microlab.generate.style import StyleConfig, translate
from microlab.pipelines.samples import Target, virtual_sample
from microlab.pipelines.train_style import fidelity, flat_images, train_style
from microlab.pipelines.training_pairs import labelled_pairs, simulated_pairs
from microlab.simulate import library

TINY = Study(images=4, patches=2, patch=32, width=4, depth=2, crop=32, batch=2, steps=3, fine_tune=2)


@pytest.fixture(scope="module")
def structures(tmp_path_factory) -> list[library.Structure]:
    folder = tmp_path_factory.mktemp("library")
    ranges = library.Ranges(shape=(96, 96), grains=(12, 16), steps=(30, 40))
    library.build(folder, 3, ranges=ranges, jobs=1, progress=False)
    return [library.load(folder, index) for index in range(3)]


@pytest.fixture(scope="module")
def target() -> Target:
    field = virtual_sample(3, size=128, grains=16, steps=40)
    left = replace(field, image=field.image[:, :64].copy(), boundary=field.boundary[:, :64].copy())
    right = replace(field, image=field.image[:, 64:].copy(), boundary=field.boundary[:, 64:].copy())
    return Target("stand-in", left, right, virtual=True)


@pytest.fixture(scope="module")
def generators() -> dict[str, Generator]:
    return {
        name: Generator(width=4, blocks=1, noise=0.3, seed=k) for k, name in enumerate(("CycleGAN", "CUT"))
    }


def test_the_flat_set_is_labelled_by_the_simulation_itself(structures) -> None:
    pair, *_ = simulated_pairs(structures, 4)
    image, mask = pair.image, pair.boundary
    assert np.array_equal(mask, structures[0].boundary_mask)
    assert image[mask].max() < image[~mask].min()  # lines are darker than every grain


def test_translated_masks_are_as_wide_as_the_painted_lines(structures) -> None:
    class Groove(Generator):  # paints a known groove: the phase field itself, blurred
        def forward(self, image, noise=None):
            import torch.nn.functional as functional

            return functional.avg_pool2d(functional.pad(image, (4, 4, 4, 4), mode="reflect"), 9, stride=1)

    thin = simulated_pairs(structures, 2)
    wide = simulated_pairs(structures, 2, Groove(width=1, blocks=0))
    assert wide[0].boundary.mean() > 1.3 * thin[0].boundary.mean()


def test_a_second_pass_over_the_library_gives_other_greys(structures) -> None:
    pairs = simulated_pairs(structures, 6)
    assert np.array_equal(pairs[0].boundary, pairs[3].boundary)
    assert not np.array_equal(pairs[0].image, pairs[3].image)


def test_few_patches_come_from_few_places_and_the_seed_chooses_them(target) -> None:
    size, shape = target.style.image.size, target.style.shape
    tagged = replace(
        target, style=replace(target.style, image=np.linspace(0, 1, size, dtype=np.float32).reshape(shape))
    )
    one = labelled_pairs(tagged, 1.0, 6, patches=1, side=32, seed=0)
    assert all(pair.shape == (32, 32) for pair in one)
    greys = [np.median(pair.image) for pair in one]
    assert np.ptp(greys) < 0.5
    everything = labelled_pairs(tagged, 1.0, 2, patches=None, side=32, seed=0)
    assert everything[0].shape == target.style.image.shape
    with pytest.raises(ValueError, match="holds 8 patches of 32 pixels, 9 were asked for"):
        labelled_pairs(target, 1.0, 2, patches=9, side=32, seed=0)


def test_sets_that_say_they_are_labour_free_never_see_the_mask(
    target, structures, generators, tmp_path
) -> None:
    blind = replace(target, style=replace(target.style, boundary=None))
    free = [name for name in SETS if name not in LABELLED]
    options = {"seeds": (0,), "progress": False, "device": "cpu"}
    table = run(blind, 1.0, structures, generators, tmp_path / "free", TINY, sets=free, **options)
    assert set(table["set"]) == {*free, *(name + training_sets.ADABN for name in free)}
    with pytest.raises((TypeError, AttributeError)):
        run(blind, 1.0, structures, generators, tmp_path / "oracle", TINY, sets=["oracle"], **options)


def test_the_scored_half_is_never_trained_on(target, structures, generators, tmp_path, monkeypatch) -> None:
    hidden = Micrograph(None)  # reading it would raise
    monkeypatch.setattr(training_sets, "evaluate", lambda *_, **__: {"grain IoU": 0.5})
    table = run(
        replace(target, test=hidden),
        1.0,
        structures,
        generators,
        tmp_path,
        TINY,
        seeds=(0,),
        progress=False,
        device="cpu",
    )
    assert set(SETS) <= set(table["set"])


def test_an_interrupted_study_resumes_and_refuses_other_settings(
    target, structures, generators, tmp_path, monkeypatch
) -> None:
    options = {"sets": ["untextured", "oracle"], "progress": False, "device": "cpu"}
    first = run(target, 1.0, structures, generators, tmp_path, TINY, seeds=(0,), **options)
    trained = []
    original = training_sets.train_unet
    monkeypatch.setattr(
        training_sets, "train_unet", lambda *a, **k: (trained.append(k["folder"].name), original(*a, **k))[1]
    )
    both = run(target, 1.0, structures, generators, tmp_path, TINY, seeds=(0, 1), **options)
    assert trained == ["untextured_1", "oracle_1"]
    assert len(both) == 2 * len(first)
    assert summary(both).loc["oracle", ("grain IoU", "mean")] == pytest.approx(
        both.loc[both["set"] == "oracle", "grain IoU"].mean()
    )
    with pytest.raises(ValueError, match=r"other settings \(steps 3 -> 4\)"):
        run(target, 1.0, structures, generators, tmp_path, replace(TINY, steps=4), seeds=(0,), **options)


def test_mistakes_are_named(target, structures, tmp_path) -> None:
    with pytest.raises(ValueError, match="sets must be of"):
        run(target, 1.0, structures, {}, tmp_path, TINY, sets=["pix2pix"])
    with pytest.raises(ValueError, match="'CUT' needs a generator"):
        run(target, 1.0, structures, {}, tmp_path, TINY, sets=["CUT"], progress=False)
    with pytest.raises(ValueError, match="steps must be positive"):
        Study(steps=0)


def test_the_trivial_predictor_finds_one_grain(target) -> None:
    rows = without_training(target)
    assert rows["trivial"]["grains"] == 1
    assert rows["trivial"]["adapted Rand error"] > rows["ridge, our watershed"]["adapted Rand error"]


# ---- one translator for one material ---------------------------------------------------------------------


def test_a_faithful_image_scores_well_and_another_structure_does_not(structures) -> None:
    flat = flat_images(structures)
    own = fidelity(structures, flat)
    other = fidelity(structures, [*flat[1:], flat[0]])
    assert own["displacement, px"] <= 0.5
    assert own["lost"] < 0.1
    assert other["displacement, px"] > 1
    assert other["lost"] > 0.2
    with pytest.raises(ValueError, match="one image for each structure"):
        fidelity(structures, flat[:1])


def test_a_trained_style_comes_with_its_card(structures, target, tmp_path) -> None:
    config = StyleConfig(width=4, blocks=1, layers=1, crop=32, steps=2)
    path = train_style(
        "toy",
        [target.style.image],
        1.0,
        structures,
        tmp_path,
        config,
        held_out=1,
        progress=False,
        device="cpu",
    )
    generator = Generator.from_weights(path)
    translation = translate(generator, flat_images(structures)[0])
    assert translation.shape == structures[0].grain_map.shape
    from microlab.data import weights

    card = weights.card(path)
    assert card["style"]["steps"] == 2
    assert "held-out simulations: displacement, px" in card["scores"]
    with pytest.raises(ValueError, match="held_out"):
        train_style("toy", [target.style.image], 1.0, structures, tmp_path, config, held_out=3)
