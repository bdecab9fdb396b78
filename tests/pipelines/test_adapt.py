"""`microlab adapt`: it resumes after a kill and refuses inputs and settings that do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from microlab.cli.main import main
from microlab.data import images
from microlab.pipelines import image_results, train_segmenter
from microlab.pipelines.adapt import microscopes, results, stages
from microlab.pipelines.adapt.settings import DEFAULT_STYLE, AdaptSettings, profile_settings
from microlab.pipelines.adapt.stages import adapt
from microlab.pipelines.image_results import Options
from microlab.pipelines.training_pairs import render_pair
from microlab.render.sem import Microscope, render
from microlab.segment.registry import load_segmenter
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
    crop=32,
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
    card = load_segmenter(weights=result.weights).card
    assert card["grain_size_px"] > 0
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
    for words in ("How sure is it?", "Are the training images like yours?", "Measured over all calls"):
        assert words in page
    assert "No uncertainty of the" not in page
    assert list(result.realism.index) == ["real, other half", "training images", "untextured"]
    assert len(result.held_out) == 3
    stages_timed = ["zoom", "library", "style", "pairs", "training", "realism", "held out", "segment"]
    assert list(result.seconds)[:8] == stages_timed


class Killed(BaseException):
    """Stands in for a kill of the process."""


# Where a run is killed: after a number of calls of a function that the stage needs.
PLACES = {
    "library": (library, "_write_manifest", 0),
    "style": (stages, "learn_style", 0),
    "pairs": (microscopes, "render_pair", 1),
    "written pairs": (stages, "train", 0),
    "training": (train_segmenter, "pair_loss", 2),
    "realism": (results, "realism_report", 0),
    "held out": (results, "render_pair", 1),
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
        (microscopes, "render_pair"),
        (train_segmenter, "pair_loss"),
        (results, "realism_report"),
        (image_results, "segment_micrograph"),
    ):
        monkeypatch.setattr(place, name, forbidden)
    again, _ = run(folder, out, replace(TINY, style="mixed"))
    assert again.weights.read_bytes() == weights
    assert again.uncertainty.equals(result.uncertainty)
    assert all(again.seconds[stage] >= spent for stage, spent in result.seconds.items() if stage != "report")


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
    (out / "work").mkdir(parents=True)
    (out / "work" / "settings.json").write_text(json.dumps({"settings": {"seed": 5}}))
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


@pytest.mark.parametrize(("style", "least"), [("render", 96), ("cyclegan", 128)])
def test_an_image_too_small_at_its_grain_scale_is_named(tmp_path, style, least):
    images.write_image(tmp_path / "in" / "few.png", micrograph(0)[:90])
    settings = replace(TINY, style=style, learnt=replace(TINY.learnt, crop=64))
    words = rf"few.png: image has 96 x 90 pixels.*both sides need at least {least}"
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "in", tmp_path / "out", settings, options=Options(zoom=0.5, device="cpu"))


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
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)
    with pytest.raises(ValueError, match="profile must be one of smoke, laptop, paper, got 'huge'"):
        profile_settings("huge")


def test_microscopes_like_the_one_that_took_the_image_are_kept():
    grains = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 0), (160, 160))
    seed, n = 3, 24
    # The image comes from microscope 7 itself, of other grains.
    other = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 9), (160, 160))
    real = render_pair(other, [seed, 7]).image
    kept = microscopes.nearest_microscopes([grains], [real], 6, 4, seed, progress=False)
    assert kept == sorted(set(kept))
    assert len(kept) == 6
    assert 7 in kept
    assert max(kept) < n
    everything = microscopes.nearest_microscopes([grains], [real], 6, 1, seed, progress=False)
    assert everything == list(range(6))


def test_disagreement_is_reported_next_to_that_of_virtual_micrographs():
    held_out = pd.DataFrame({"disagreement": [0.1, 0.2, 0.3, 0.4, 0.5], "deviation": 0.1})
    held_out["adapted Rand error"] = [0.2, 0.3, 0.25, 0.5, 0.6]
    assert "median 0.300, and its rank correlation with the disagreement is 0.90" in results.trust(held_out)
    assert "too few" in results.trust(held_out[:4])
    table = results.uncertainty_table({"a": {"disagreement": np.nan, "deviation": 0.1, "other network": 0.2}})
    assert np.isnan(table.loc["a", "disagreement"])
    assert table.loc["a", "deviation"] == 0.1


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
