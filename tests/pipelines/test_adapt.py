"""`microlab adapt`: it resumes after a kill, refuses what does not fit, and keeps the default if better."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from microlab.cli.main import main
from microlab.data import images
from microlab.data.files import claim
from microlab.data.run_folder import RunFolder
from microlab.measure.grain_size import mean_intercept
from microlab.measure.labels import components
from microlab.pipelines import image_results, train_appearances
from microlab.pipelines.adapt import accept, candidates, estimate, results, stages, training
from microlab.pipelines.adapt.settings import DEFAULT_STYLE, AdaptSettings, profile_settings
from microlab.pipelines.adapt.stages import adapt
from microlab.pipelines.image_results import Options
from microlab.pipelines.training_pairs import draw_pair, render_pair
from microlab.render.appearances import BOUNDARY, GRAIN, OUTSIDE, SURFACES, TWIN_BOUNDARY
from microlab.render.sem import Microscope, render
from microlab.segment.registry import load_segmenter
from microlab.segment.segmenter import Segmentation
from microlab.simulate import library, phasefield, voronoi

SHAPE = (96, 96)
TINY = replace(
    profile_settings("smoke"),
    structures=2,
    ranges=library.Ranges(shape=SHAPE, grains=(8, 12), steps=(5, 10), coalesced=(0.0, 0.3)),
    images=2,
    candidates=2,
    learnt=replace(profile_settings("smoke").learnt, crop=32, steps=3),
    start=None,
    width=2,
    depth=2,
    crop=64,
    steps=4,
    patches=100,
    views=2,
)
FIXED = Options(zoom=1.0, device="cpu")  # the grain scale is tested elsewhere


def micrograph(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    grains = voronoi.tessellate(voronoi.random_seeds(9, shape, seed), shape)
    return render(phasefield.grow(grains, 10).grain_map(), Microscope(), seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two tiny virtual micrographs."""
    place = tmp_path_factory.mktemp("micrographs")
    for seed in range(2):
        images.write_image(place / f"field{seed}.png", micrograph(seed))
    return place


def run(folder: Path, out: Path, settings: AdaptSettings = TINY, **keywords):
    lines: list[str] = []
    keywords = {"options": FIXED, "jobs": 1, "progress": False, **keywords}
    return adapt([folder], out, settings, log=lines.append, **keywords), lines


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """An adaptation that was never interrupted, in mixed style so that every stage takes part."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    result, lines = run(folder, out, replace(TINY, style="mixed"))
    return out, result, lines


@pytest.mark.slow
def test_it_writes_weights_grains_uncertainty_and_a_report(done):
    out, result, _ = done
    own = load_segmenter(weights=result.weights)
    card = own.card
    assert card["grain_size_px"] > 0
    assert card["outputs"] == ["boundary", "twin boundary", "outside"]
    assert card["zoom"] == result.zoom == own.estimate_zoom(micrograph(7))
    assert "style mixed" in card["trained_by"]
    assert "2 unlabelled images" in card["data"]
    for name in ("field0", "field1"):
        files = {file.name for file in (out / name).iterdir()}
        assert files >= {"mask.png", "labels.tif", "grains.csv", "overlay.png", "uncertainty.tif", "run.json"}
        deviation = tifffile.imread(out / name / "uncertainty.tif")
        assert deviation.shape == SHAPE
        assert 0 <= deviation.min() <= deviation.max() <= 0.5
    assert list(pd.read_csv(out / "uncertainty.csv")["image"]) == ["field0", "field1"]
    page = result.report.read_text(encoding="utf-8")
    for words in (
        "Was the adapted network taken?",
        "How sure is it?",
        "Are the training images like yours?",
        "Measured over all calls",
        "times as long",
    ):
        assert words in page
    assert "No uncertainty of the" not in page
    assert list(result.realism.index) == ["real, other half", "training images", "untextured"]
    assert len(result.held_out) == 2  # a translation and a rendering
    prepared = ["zoom", "estimate", "library", "style", "pairs", "training"]
    assert list(result.seconds)[:10] == [*prepared, "realism", "held out", "accept", "segment"]


def weights_of(out: Path, name: str) -> str:
    """Checksum of the weights that segmented an image."""
    return json.loads((out / name / "run.json").read_text())["weights_sha256"]


@pytest.mark.slow
def test_a_network_that_is_worse_is_not_taken_and_everyone_is_told(done):
    out, result, lines = done  # four steps from random weights
    assert not result.acceptance.taken
    error = result.acceptance.table.loc["known truth: mean adapted Rand error (0 is best)"]
    assert error["adapted"] > error["default"]
    assert result.weights.is_file()  # kept all the same
    assert weights_of(out, "field0") == load_segmenter().card["sha256"]
    told = [line for line in lines if "was NOT taken: on virtual micrographs of known truth" in line]
    page = result.report.read_text(encoding="utf-8")
    assert len(told) == 1
    assert "was NOT taken: on virtual micrographs of known truth" in page
    assert "Grains segmented by the default network" in page
    assert result.uncertainty["other network"].isna().all()


@pytest.mark.slow
def test_a_network_that_is_better_segments_the_images(folder, done, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    for name in ("accept-adapted.json", "held_out.json"):
        (out / "work" / name).unlink()
    real, look = results.held_out, accept.look

    def exchanged(*arguments):
        rows = real(*arguments)
        one, other = accept.ERRORS.values()
        return rows | {one: rows[other], other: rows[one]}

    def quiet(micrographs, segmenter, zoom):
        seen = look(micrographs, segmenter, zoom)
        return {name: row | {"quality": 1.0, "alarms": []} for name, row in seen.items()}

    monkeypatch.setattr(results, "held_out", exchanged)
    monkeypatch.setattr(accept, "look", quiet)
    result, lines = run(folder, out, replace(TINY, style="mixed"))
    assert result.acceptance.taken
    assert any("The adapted network was taken" in line for line in lines)
    assert weights_of(out, "field0") == load_segmenter(weights=result.weights).card["sha256"]
    assert "Grains segmented by an adapted network" in result.report.read_text(encoding="utf-8")
    assert json.loads((out / "work" / "segmented" / "field0.json").read_text())["zoom"] == result.zoom


def seen(quality: float, *alarms: str) -> dict:
    return {"quality": quality, "alarms": list(alarms)}


@pytest.mark.parametrize(
    ("errors", "adapted", "default", "words"),
    [
        ((0.1, 0.2), {"a": seen(0.8), "b": seen(0.7)}, {"a": seen(0.7), "b": seen(0.8)}, ""),
        ((0.1, 0.2), {"a": seen(0.8, "coverage")}, {"a": seen(0.2, "largest")}, ""),
        ((0.2, 0.2), {"a": seen(0.9)}, {"a": seen(0.1)}, "known truth.* is 0.200, that of the default 0.200"),
        ((0.1, 0.2), {"a": seen(0.5)}, {"a": seen(0.6)}, "quality on the images is 0.500.* default 0.600"),
        (
            (0.1, 0.2),
            {"a": seen(0.9), "b": seen(0.9, "coverage")},
            {"a": seen(0.1), "b": seen(0.1)},
            "alarms ring on b, where the default rings none",
        ),
    ],
)
def test_all_three_signs_must_speak_for_the_adapted_network(errors, adapted, default, words):
    known = {column: [error] for column, error in zip(accept.ERRORS.values(), errors)}
    result = accept.judge(adapted, default, known)
    assert result.taken == (not words)
    assert len(result.reasons) == bool(words)
    assert re.search(words, result.line)


@pytest.mark.parametrize(
    ("style", "translated", "rendered"), [("render", 0, 12), ("mixed", 6, 6), ("cut", 12, 0)]
)
def test_the_held_out_images_are_made_as_the_training_images_are(style, translated, rendered):
    settings = profile_settings("laptop", style)
    chosen = list(range(0, 2 * (settings.images - settings.translated), 2))
    few, structures, some = stages.for_judging(settings, ["held out"], chosen)
    assert (few.images, few.translated, len(some)) == (12, translated, rendered)
    assert structures == ["held out"]
    assert len(set(some)) == rendered
    assert set(some) <= set(chosen)
    assert stages.for_judging(settings, [], chosen[:1])[2] == chosen[:1]  # no microscope twice


def test_half_of_every_batch_rehearses_what_the_default_knows():
    settings = replace(TINY, batch=5)
    grains = voronoi.tessellate(voronoi.random_seeds(60, (192, 192), 0), (192, 192))
    batches = training.mixed_batches([render_pair(grains, [0, 0])], [grains], settings)
    own, fields = set(), set()
    for step in range(12):
        images, classes = batches(step)
        assert images.shape == (5, 1, 64, 64)
        assert classes.shape == (5, 64, 64)
        own |= set(np.unique(classes[:3]))
        fields |= set(np.unique(classes[3:]))
    assert own == {GRAIN, BOUNDARY}
    assert fields == {GRAIN, BOUNDARY, TWIN_BOUNDARY, OUTSIDE}
    for again, first in zip(batches(3), batches(3)):
        np.testing.assert_array_equal(again, first)


def test_training_goes_on_from_the_default_network():
    start, card = (load_segmenter("appearances").model, load_segmenter("appearances").card)
    settings = replace(profile_settings("smoke"), steps=1, lr=1e-9, batch=2)
    grains = voronoi.tessellate(voronoi.random_seeds(60, (192, 192), 0), (192, 192))
    model, history = training.fit_network([render_pair(grains, [0, 0])], [grains], settings, device="cpu")
    for ours, theirs in zip(model.parameters(), start.parameters()):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), atol=1e-6)
    made = training.card_of(model, history, settings, 2, 30.0, 0.5)
    assert made["started_from"]["sha256"] == card["sha256"]
    assert (made["zoom"], made["grain_size_px"]) == (0.5, 30.0)


@pytest.mark.slow
def test_the_grain_size_is_measured_in_pixels_of_the_image():
    shape = (256, 256)
    grains = phasefield.grow(voronoi.tessellate(voronoi.random_seeds(50, shape, 0), shape), 20).grain_map()
    image = images.Micrograph(render(grains, Microscope(), seed=0))
    default = load_segmenter(device="cpu")
    for zoom in (None, 0.7):  # the magnification at which it is measured does not matter
        size = stages.measure_sizes({"a": image}, default, zoom)["a"]
        assert size == pytest.approx(mean_intercept(grains), rel=0.15)  # some boundaries are missed


def test_without_a_boundary_the_grain_size_is_not_guessed(monkeypatch):
    image, nothing = micrograph(0), np.zeros(SHAPE, np.float32)
    one = Segmentation(nothing, nothing > 0, np.ones(SHAPE, np.int32), 1.0)
    segmenter = SimpleNamespace(check=lambda image: image, segment=lambda image, zoom: one, methods=list)
    chosen = SimpleNamespace(trial=SimpleNamespace(segmenter=segmenter, zoom=1.0))
    monkeypatch.setattr(stages, "choose", lambda *_, **__: chosen)
    with pytest.raises(ValueError, match=r"few: the default network finds no boundary.*--scale"):
        stages.measure_sizes({"few": image}, segmenter, 1.0)


@pytest.mark.slow
def test_the_time_is_estimated_before_the_long_stages(done):
    out, result, lines = done
    told = next(k for k, line in enumerate(lines) if re.match(r"about \d.*: library .*, images", line))
    assert told < next(k for k, line in enumerate(lines) if line.startswith("library:"))
    estimated = json.loads((out / "work" / "estimate.json").read_text())
    assert set(estimated) == set(estimate.TIMED)
    assert {stage for stages in estimate.TIMED.values() for stage in stages} <= set(result.seconds)
    words = estimate.compared({"library": 60.0, "training": 120.0}, {"library": 90.0, "segment": 180.0})
    assert "3 min were estimated for them; they took 4 min, 1.50 times as long" in words
    double = estimate.in_words({"library": 60.0, "style": 0.0, "training": 120.0})
    assert double == "about 3 min: library 60 s, training 2 min"


class Killed(BaseException):
    """Stands in for a kill of the process."""


# Where a run is killed: after a number of calls of a function that the stage needs.
PLACES = {
    "library": (library, "_write_manifest", 0),
    "style": (stages, "learn_style", 0),
    "pairs": (candidates, "draw_pair", 1),
    "written pairs": (stages, "fit_network", 0),
    "training": (train_appearances, "boundary_loss", 2),
    "realism": (results, "realism_report", 0),
    "held out": (results, "estimate_uncertainty", 1),
    "accept": (accept, "choose", 1),
    "segment": (results, "numbers_of", 1),
    "report": (results, "read_result", 1),
}


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_weights(folder, tmp_path, done, monkeypatch):
    out = tmp_path / "out"
    settings = replace(TINY, style="mixed")
    for place, name, calls in PLACES.values():
        left, real = [calls], getattr(place, name)

        def killer(*arguments, left=left, real=real, **keywords):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **keywords)

        monkeypatch.setattr(place, name, killer)
        with pytest.raises(Killed):
            run(folder, out, settings)
        monkeypatch.setattr(place, name, real)
    result, lines = run(folder, out, settings)
    assert result.weights.read_bytes() == done[1].weights.read_bytes()
    assert result.uncertainty.equals(done[1].uncertainty)
    assert result.held_out.equals(done[1].held_out)
    assert not any(line.startswith("field") for line in lines)  # both were segmented before the last kill


def test_a_finished_adaptation_is_not_repeated(folder, done, monkeypatch):
    out, result, _ = done
    weights = result.weights.read_bytes()

    def forbidden(*arguments, **keywords):
        raise AssertionError("made again")

    for place, name in (
        (library, "simulate_structure"),
        (candidates, "draw_pair"),
        (train_appearances, "boundary_loss"),
        (results, "realism_report"),
        (results, "held_out"),
        (accept, "choose"),
        (image_results, "segment_micrograph"),
    ):
        monkeypatch.setattr(place, name, forbidden)
    again, _ = run(folder, out, replace(TINY, style="mixed"))
    assert again.acceptance.reasons == result.acceptance.reasons
    assert again.weights.read_bytes() == weights
    assert again.uncertainty.equals(result.uncertainty)
    assert all(again.seconds[stage] >= spent for stage, spent in result.seconds.items() if stage != "report")


@pytest.mark.slow
def test_each_image_is_read_once(folder, tmp_path, monkeypatch):
    read, files = images.read_image, []
    monkeypatch.setattr(images, "read_image", lambda path, **o: (files.append(path.name), read(path, **o))[1])
    run(folder, tmp_path / "out", replace(TINY, style="render"))
    assert sorted(files) == ["field0.png", "field1.png"]


def test_the_report_is_made_from_stored_results(done):
    out, result, _ = done
    numbers = json.loads((out / "work" / "segmented" / "field0.json").read_text())
    assert numbers["disagreement"] == pytest.approx(
        result.uncertainty.loc["field0", "disagreement"], nan_ok=True
    )
    page = result.report.read_text(encoding="utf-8")
    assert page.count("data:image") >= 2 * 4 + 1  # pictures of each image, and the patches
    assert not any("data:image" in file.read_text() for file in (out / "work").rglob("*.json"))


def test_other_settings_or_images_are_refused_by_name(folder, done, tmp_path):
    out = done[0]
    mixed = replace(TINY, style="mixed")
    with pytest.raises(ValueError, match=r"\(settings.learnt.steps 3 -> 4; settings.seed 0 -> 1\).*fresh"):
        run(folder, out, replace(mixed, seed=1, learnt=replace(mixed.learnt, steps=4)))
    with pytest.raises(ValueError, match=r"\(zoom 1.0 -> 1.5\)"):
        run(folder, out, mixed, options=Options(zoom=1.5, device="cpu"))
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "field1.png").unlink()
    images.write_image(other / "field2.png", micrograph(2))
    images.write_image(other / "field0.png", micrograph(3))
    words = r"field0.png \w{8}\.\.\. -> \w{8}.*field1.png \w{8}\.\.\. -> absent.*field2.png absent -> \w{8}"
    with pytest.raises(ValueError, match=words):
        run(other, out, mixed)


def test_fresh_discards_the_earlier_run(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    RunFolder(claim(out, "adapt") / "work", {"settings": {"seed": 5}})
    with pytest.raises(ValueError, match="seed 5 -> 0"):
        run(folder, out)

    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(stages, "simulate", killed)
    with pytest.raises(Killed):
        run(folder, out, fresh=True)
    assert json.loads((out / "work" / "settings.json").read_text())["settings"]["seed"] == 0


def test_all_unusable_images_are_named_before_anything_is_written(folder, tmp_path):
    place = tmp_path / "in"
    shutil.copytree(folder, place)
    images.write_image(place / "blank.png", np.full((64, 64), 0.4, np.float32))
    images.write_image(place / "small.png", micrograph(0)[:20, :30])
    (place / "text.png").write_text("this is no image")
    with pytest.raises(ValueError, match="3 of 5 images cannot be used") as error:
        run(place, tmp_path / "out")
    for words in (
        "blank.png: image has the same grey",
        "small.png: image has 30 x 20",
        "text.png: is not an",
    ):
        assert words in str(error.value)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: the folder holds no image"):
        run(tmp_path / "empty", tmp_path / "out")


@pytest.mark.slow
def test_an_image_too_small_at_its_grain_scale_is_named(tmp_path):
    images.write_image(tmp_path / "in" / "few.png", micrograph(0)[:90])
    words = r"few.png: image has 96 x 90 pixels.*both sides need at least 96"
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "in", tmp_path / "out", TINY, options=Options(zoom=0.5, device="cpu"))
    assert not (tmp_path / "out" / "work" / "library").exists()
    images.write_image(tmp_path / "in" / "few.png", micrograph(0)[:64])
    large = replace(TINY, style="cyclegan", learnt=replace(TINY.learnt, crop=96))
    with pytest.raises(ValueError, match=r"few.png: .* at its zoom, \d\.\d+, both sides need at least \d+;"):
        run(tmp_path / "in", tmp_path / "other", large)


def test_a_full_disk_is_reported_before_the_start(folder, tmp_path):
    huge = replace(TINY, structures=10**9)
    with pytest.raises(OSError, match=r"needs about .* GB, the disk has .* GB left"):
        run(folder, tmp_path / "out", huge)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"style": "paint"}, "style must be one of render, cyclegan, cut, mixed, got 'paint'"),
        ({"style": "cut"}, "learnt.method must be the style 'cut', got 'cyclegan'"),
        ({"held_out": 2}, "held_out must lie between 0 and structures=2, got 2"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"crop": 97}, r"crop must fit the structures, \(96, 96\), got 97"),
        ({"crop": 63}, "crop must be at least 64, got 63"),
        ({"batch": 1}, "batch must be at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="profile must be one of smoke, laptop, paper, got 'huge'"):
        profile_settings("huge")


def test_fields_that_look_like_the_image_are_kept():
    grains = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 0), (160, 160))
    seed, n = 3, 24
    # The image is field 7 itself, of other grains.
    other = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 9), (160, 160))
    real = draw_pair(other, [seed, 7]).image
    kept = candidates.nearest_fields([grains], [real], 6, 4, seed, progress=False)
    assert kept == sorted(set(kept))
    assert len(kept) == 6
    assert 7 in kept
    assert max(kept) < n
    everything = candidates.nearest_fields([grains], [real], 6, 1, seed, progress=False)
    assert everything == list(range(6))


def test_a_drawn_pair_shows_the_grains_of_its_map_in_some_appearance():
    grains = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 0), (160, 160))
    names = set()
    for k in range(40):
        pair = draw_pair(grains, [5, k])
        names.add(pair.name)
        assert pair.image.shape == pair.boundary.shape == grains.shape  # colours too are grey now
        np.testing.assert_allclose(255 * pair.image, np.rint(255 * pair.image), atol=1e-4)
        assert pair.valid.all()
        assert not (pair.classes == TWIN_BOUNDARY).any()
        assert 15 < components(pair.boundary).max() < 90  # whole and cut grains
    assert names == set(SURFACES)


def test_disagreement_is_reported_next_to_that_of_virtual_micrographs():
    held_out = pd.DataFrame({"disagreement": [0.1, 0.2, 0.3, 0.4, 0.5], "deviation": 0.1})
    held_out["adapted Rand error"] = [0.2, 0.3, 0.25, 0.5, 0.6]
    assert "median 0.300, and its rank correlation with the disagreement is 0.90" in results.trust(held_out)
    assert "too few" in results.trust(held_out[:4])
    table = results.uncertainty_table({"a": {"disagreement": np.nan, "deviation": 0.1, "other network": 0.2}})
    assert np.isnan(table.loc["a", "disagreement"])
    assert table.loc["a", "deviation"] == 0.1


@pytest.mark.slow
def test_the_command_adapts_and_reports_its_results(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("microlab.pipelines.adapt.settings.profile_settings", lambda *_: TINY)
    call = [
        "adapt",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "--jobs",
        "1",
        "--device",
        "cpu",
        "--scale",
        "1",
    ]
    result = CliRunner().invoke(main, [*call, "--pixel-size", "0.5"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "zoom: 2 images" in result.stdout
    assert "field1: disagreement between views" in result.stdout
    assert f"report: {tmp_path / 'out' / 'report.html'}" in result.stdout
    table = pd.read_csv(tmp_path / "out" / "field0" / "grains.csv")
    np.testing.assert_allclose(table["area_um2"], table["area_px"] * 0.25, rtol=1e-5)
    refused = CliRunner().invoke(main, [*call[:2], "-o", str(tmp_path / "out"), "--scale", "2"])
    assert refused.exit_code == 1
    assert "zoom 1.0 -> 2.0" in refused.stderr
    assert CliRunner().invoke(main, ["adapt", str(folder)]).exit_code == 2
    page = CliRunner().invoke(main, ["adapt", "--help"]).stdout
    assert f"[default: {DEFAULT_STYLE}]" in " ".join(page.split())
