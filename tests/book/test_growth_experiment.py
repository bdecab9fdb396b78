"""Claims about microlab.book.experiments.growth."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from dark_lines import save_network
from scipy import ndimage

from microlab.book import records
from microlab.book.experiments.growth import (
    Frame,
    Measured,
    Settings,
    grow,
    kinetics,
    measure,
    observe,
    translated,
    virtual_sem,
)
from microlab.generate.networks import Generator
from microlab.generate.style import translate
from microlab.measure.growth import grain_pieces
from microlab.render.flat import untextured
from microlab.render.sem import Microscope
from microlab.segment import segmenter
from microlab.segment.registry import load_segmenter
from microlab.simulate import voronoi
from microlab.simulate.phasefield import GrainGrowth, Parameters

SMALL = Settings(shape=(72, 88), grains=20, start=10, end=70, frames=4, seed=3)


@pytest.fixture(scope="module")
def grown():
    return list(grow(SMALL, progress=False))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


def flat(grain_map, boundary, seed):
    """Paper A's clean rendering, on which the hand-set network is exact."""
    return untextured(grain_map, boundary, seed=seed, grey=(0.75, 0.85))


def same(one, other):
    return all(
        a.time == b.time and (a.grain_map == b.grain_map).all() and (a.boundary == b.boundary).all()
        for a, b in zip(one, other, strict=True)
    )


def test_frames_are_those_of_the_simulation_alone(grown):
    seeds = voronoi.random_seeds(20, (72, 88), seed=3)
    simulation = GrainGrowth(voronoi.tessellate(seeds, (72, 88)), Parameters(dt=0.2)).run(350)
    assert [round(frame.time, 6) for frame in grown] == pytest.approx([10, 30, 50, 70], abs=0.11)
    assert (grown[-1].boundary == simulation.boundary_mask()).all()
    # the same partition: the ids correspond one to one
    pairs = np.unique(np.stack([grown[-1].grain_map.ravel(), simulation.grain_map().ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize("complete", [1, 3])
def test_an_interrupted_sequence_resumes_exactly(tmp_path, grown, complete):
    stopped = grow(SMALL, folder=tmp_path, progress=False)
    list(islice(stopped, complete))
    stopped.close()
    files = sorted((tmp_path / "growth").glob("*.npz"))
    assert len(files) == complete
    stamps = [file.stat().st_mtime_ns for file in files]
    assert same(grow(SMALL, folder=tmp_path, progress=False), grown)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert not list(tmp_path.rglob("*.part*"))


def test_a_missing_frame_is_recomputed(tmp_path, grown):
    list(grow(SMALL, folder=tmp_path, progress=False))
    (tmp_path / "growth" / "0001.npz").unlink()  # the stored simulation is later than this frame
    assert same(grow(SMALL, folder=tmp_path, progress=False), grown)


def test_frames_of_other_settings_are_refused(tmp_path, network):
    other = Settings(shape=(72, 88), grains=20, start=10, end=70, frames=4, seed=4)
    list(islice(grow(SMALL, folder=tmp_path, progress=False), 1))
    with pytest.raises(ValueError, match="seed 3 -> 4"):
        list(grow(other, folder=tmp_path, progress=False))
    options = {"network": network, "folder": tmp_path, "name": "flat"}
    frames = grow(SMALL, progress=False)
    list(islice(observe(frames, flat, scale=1.0, **options), 1))
    with pytest.raises(ValueError, match=r"scale 1\.0 -> 2\.0"):
        list(observe(frames, flat, scale=2.0, **options))


def test_observed_frames_are_read_back_from_their_files(tmp_path, grown, network):
    options = {"network": network, "folder": tmp_path, "name": "flat"}
    first = list(observe(grown, flat, **options))
    second = list(observe(grown, None, **options | {"network": "there is none"}))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.micrograph, b.micrograph)
        np.testing.assert_array_equal(a.segmentation.labels, b.segmentation.labels)


@pytest.mark.parametrize("image", ["virtual SEM", "flat"])
def test_a_grain_keeps_its_grey(grown, image):
    make = {"virtual SEM": virtual_sem(Microscope(grain_spread=0.1)), "flat": flat}[image]
    greys = []
    for frame in (grown[0], grown[-1]):
        picture, ids = make(frame.grain_map, frame.boundary, 5), np.arange(SMALL.grains)
        interior = ndimage.distance_transform_edt(~frame.boundary) > 3
        area = np.bincount(frame.grain_map[interior], minlength=SMALL.grains)
        with np.errstate(invalid="ignore"):  # a vanished grain has no mean
            mean = ndimage.mean(picture, np.where(interior, frame.grain_map, -1), ids)
        greys.append(np.where(area > 60, mean, np.nan))
    both = np.isfinite(greys).all(axis=0)
    assert both.sum() >= 6
    # the flat greys are the same numbers; noise, drift and shading act on the virtual SEM's
    min_correlation = {"virtual SEM": 0.9, "flat": 0.999}[image]
    assert np.corrcoef(greys[0][both], greys[1][both])[0, 1] > min_correlation


def frames_of(grown, labels_of):
    """Frames whose segmentation is `labels_of` applied to the true grains."""
    for frame in grown:
        labels = labels_of(grain_pieces(frame.grain_map)).astype(np.int32)
        empty_map = np.zeros(labels.shape, np.float32)
        segmentation = segmenter.Segmentation(empty_map, frame.boundary, labels, 1.0)
        yield Frame(frame, empty_map, segmentation)


def test_a_perfect_segmentation_has_the_true_slope(grown):
    measured = measure(frames_of(grown, lambda labels: labels))
    law = kinetics(measured, resamples=50)
    assert (law.ratio, law.ratio_low, law.ratio_high) == pytest.approx((1, 1, 1))
    exact = [frame.grain_map.size / len(np.unique(frame.grain_map)) for frame in grown]
    np.testing.assert_allclose(measured.table["exact"], exact)


def curves(found_share):
    """Counts in 36 blocks that follow the parabolic law, with a share of them found in each frame."""
    time = np.linspace(100, 1100, 9)
    rng = np.random.default_rng(0)
    expected = 20 * 400 / (400 + 1.1 * time)[:, None]
    true_counts = expected * (1 + 0.2 * rng.standard_normal(36))
    found_counts = true_counts * found_share[:, None] * (1 + 0.02 * rng.standard_normal((9, 36)))
    table = {"time": time, "true": 288_000 / true_counts.sum(1), "found": 288_000 / found_counts.sum(1)}
    table["exact"], table["true_error"] = table["true"], table["true"] ** 1.5 / 100
    return Measured(pd.DataFrame(table), true_counts, found_counts, 288_000.0)


def test_a_share_lost_in_every_frame_makes_the_slope_steeper_by_as_much():
    law = kinetics(curves(np.full(9, 0.8)))
    assert law.ratio_low < 1 / 0.8 < law.ratio_high
    assert law.ratio_high - law.ratio_low < 0.1 < law.true.k_high / law.true.k - law.true.k_low / law.true.k


def test_small_grains_lost_early_make_growth_look_slower():
    law = kinetics(curves(np.linspace(0.8, 1, 9)))
    assert law.ratio_high < 1


def test_the_hand_set_network_finds_the_true_grains(grown, network):
    frames = list(observe(grown, flat, network=network))
    table = measure(frames).table
    # a vanishing grain consists of boundary only, but still counts in the truth
    np.testing.assert_allclose(table["found"], table["true"], rtol=0.15)


def test_a_translated_frame_is_a_micrograph_of_the_same_size(grown):
    generator = Generator(width=2, blocks=1)
    image = translated(generator)
    frame = grown[0]
    micrograph = image(frame.grain_map, frame.boundary, 5)
    assert micrograph.shape == frame.grain_map.shape
    np.testing.assert_array_equal(micrograph, image(frame.grain_map, frame.boundary, 5))
    clean = untextured(frame.grain_map, frame.boundary, seed=5)
    np.testing.assert_array_equal(micrograph, translate(generator, clean, seed=5))


def test_an_image_of_another_size_is_refused(grown, network):
    with pytest.raises(ValueError, match=r"gave \(48, 88\) for a frame of \(72, 88\)"):
        list(observe(grown, lambda *_: np.zeros((48, 88)), network=network))


@pytest.mark.parametrize("change", [{"frames": 1}, {"grains": 1}, {"start": 200.0}])
def test_settings_that_make_no_sequence_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        Settings(**{"end": 120.0, "start": 20.0, **change})


def test_the_stored_slopes_meet_the_bar():
    record = records.load("growth")
    limit = float(record["bar"]["largest deviation of k"].removeprefix("<= "))
    assert limit == 0.1
    for source in ("ours", "virtual SEM"):
        assert record["scores"][source]["largest deviation of k"] <= limit
        assert record["scores"][source]["largest deviation, exact count"] <= limit
