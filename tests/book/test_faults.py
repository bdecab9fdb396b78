"""Faults have their stated effect, and a rule is evaluated on pictures that were not used to set it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from dark_lines import save_network
from sklearn.metrics import balanced_accuracy_score, roc_curve

from microlab.book import records
from microlab.book.experiments import faults
from microlab.render import sem, specimen
from microlab.render.sem import Microscope, render
from microlab.render.specimen import Phases, carbon_film, phase_contrast, scan_windows
from microlab.segment.registry import load_segmenter
from microlab.simulate import voronoi

MAP = voronoi.tessellate(voronoi.random_seeds(12, (96, 96), 3), (96, 96))


@pytest.fixture(scope="module")
def dark_pixel_network(tmp_path_factory):
    """A network with hand-set weights that marks dark pixels as boundaries."""
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


# ---- the specimen ----


def test_film_transmission_follows_beer_s_law():
    image = np.array([[0.2, 0.6]])
    for thickness in (0.0, 0.7, 2.0):
        transmitted = carbon_film(image, thickness)
        assert np.ptp(transmitted) == pytest.approx(0.4 * np.exp(-thickness), rel=1e-5)
    twice = carbon_film(carbon_film(image, 0.5), 0.7)
    np.testing.assert_allclose(twice, carbon_film(image, 1.2), rtol=1e-5)  # thicknesses add up
    np.testing.assert_allclose(carbon_film(image, 30.0, level=0.3), 0.3, rtol=1e-5)
    with pytest.raises(ValueError, match="thickness must be 0 or more, got -1"):
        carbon_film(image, -1.0)


def test_windows_are_rectangles_of_the_requested_sizes():
    for seed in range(5):
        film = scan_windows((80, 120), number=1, side=0.6, seed=seed) > 0.5
        rows, columns = film.any(1).sum(), film.any(0).sum()
        assert film.sum() == pytest.approx(rows * columns, rel=0.02)  # rounded corners
        assert 0.3 * 80 - 2 <= rows <= 0.6 * 80 + 2
        assert 0.3 * 120 - 2 <= columns <= 0.6 * 120 + 2
    assert not scan_windows((80, 120), number=0, side=0.6, seed=0).any()
    with pytest.raises(ValueError, match=r"side must lie in \(0, 1\], got 1.5"):
        scan_windows((80, 120), number=1, side=1.5, seed=0)


def test_phases_differ_by_the_step_and_the_mean_stays():
    phase_map = np.zeros((10, 10), int)
    phase_map[:, :3] = 1
    image = phase_contrast(np.full((10, 10), 0.5), phase_map, step=0.2)
    assert image[0, 0] - image[0, 9] == pytest.approx(0.2, abs=1e-6)
    assert image.mean() == pytest.approx(0.5, abs=1e-6)


def test_phase_borders_are_grooved_only_on_request():
    phases = (np.arange(int(MAP.max()) + 1) % 2)[MAP]
    border = specimen.boundary_geometry(phases).distance < 1
    grains = (specimen.boundary_geometry(MAP).distance < 1) & (
        specimen.boundary_geometry(phases).distance > 6
    )
    quiet = Microscope(electrons=1e9, detector_noise=0.0, drift=0.0, line_jitter=0.0, charging=0.0)
    flat, grooved = (render(MAP, quiet, phases=Phases(phases, step=0.0, groove=g)) for g in (0.0, 1.0))
    inside = specimen.boundary_geometry(MAP).distance > 8
    assert abs(np.median(flat[inside]) - np.median(flat[border])) < 0.05
    assert np.median(grooved[inside]) - np.median(grooved[border]) > 0.1
    assert np.median(np.abs(flat - grooved)[grains]) < 1 / 200  # less than a grey level: grains do not change
    assert np.median(flat[inside]) - np.median(flat[grains]) > 0.1


# ---- faults ----


@pytest.mark.parametrize("fault", faults.STRENGTHS)
def test_zero_strength_changes_nothing_and_other_strengths_do(fault):
    intact = faults.render_faulty(MAP, faults.Fault(fault, 0.0), seed=4)
    np.testing.assert_array_equal(intact.image, render(MAP, sem.draw_microscope(4), seed=4))
    np.testing.assert_array_equal(
        *(faults.degrade(intact.image, faults.Fault(fault, 0.0), seed) for seed in (0, 9))
    )
    for strength in faults.STRENGTHS[fault]:
        broken = faults.render_faulty(MAP, faults.Fault(fault, strength), seed=4)
        np.testing.assert_array_equal(broken.truth, intact.truth)
        if fault.startswith("zoomed"):
            sign = 1 if fault == "zoomed in" else -1
            assert broken.image.shape[0] == pytest.approx(96 * 2 ** (sign * strength), abs=1)
        else:
            assert np.abs(broken.image - intact.image).mean() > 0.005
        assert 0 <= broken.image.min() <= broken.image.max() <= 1
        degraded = faults.degrade(intact.image, faults.Fault(fault, strength))
        assert degraded.shape == broken.image.shape
        assert 0 <= degraded.min() <= degraded.max() <= 1


def test_defocus_adds_to_the_variance_of_the_probe():
    # An ideal edge blurred by two Gaussians is as wide as blurred by one with the summed variance.
    edge = np.zeros((8, 101), np.float32)
    edge[:, 50:] = 1
    three, four, five = (faults.Fault("defocus", strength) for strength in (3.0, 4.0, 5.0))
    twice = faults.degrade(faults.degrade(edge, three), four)
    np.testing.assert_allclose(twice, faults.degrade(edge, five), atol=2e-3)


def test_a_film_hides_grains_from_the_network(dark_pixel_network):
    microscope = Microscope(groove_depth=0.9, groove_width=2.5, electrons=5e3, detector_noise=0.0)
    clean, hidden = (
        faults.evaluate(
            faults.render_faulty(MAP, faults.Fault("contamination", t), 1, microscope), dark_pixel_network
        )[1]
        for t in (0.0, 5.0)
    )
    assert hidden["boundary F1, 3 px"] < clean["boundary F1, 3 px"]


def test_found_grains_lie_on_the_grid_of_the_truth(dark_pixel_network):
    picture = faults.render_faulty(MAP, faults.Fault("zoomed in", 1.0), 1)
    segmentation, measured = faults.evaluate(picture, dark_pixel_network)
    assert picture.image.shape == (192, 192)
    for output in (segmentation.labels, segmentation.boundary, segmentation.probability):
        assert output.shape == (96, 96)
    assert set(measured) == {*faults.SCORES, *faults.WARNINGS, "zoom"}
    assert 0 <= measured["disagreement"] <= 1


def test_unknown_faults_are_named():
    with pytest.raises(ValueError, match=r"a fault must be one of charging.*got 'rain'"):
        faults.Fault("rain", 1.0)
    with pytest.raises(ValueError, match="strength must be a number of 0 or more, got -1"):
        faults.Fault("defocus", -1.0)


# ---- the rule ----


def test_the_threshold_is_youden_s():
    rng = np.random.default_rng(0)
    bad = rng.random(300) < 0.4
    warning = rng.normal(size=300) + 1.2 * bad
    threshold = faults.best_threshold(warning, bad)
    false, caught, _ = roc_curve(bad, warning)
    ours = faults.alarm_rates(warning > threshold, bad)
    assert ours["balanced accuracy"] == pytest.approx((1 + (caught - false).max()) / 2)
    assert ours["balanced accuracy"] == pytest.approx(balanced_accuracy_score(bad, warning > threshold))


def test_a_perfect_warning_makes_no_error_and_a_rule_needs_both_kinds():
    bad = np.array([False, True, False, True])
    threshold = faults.best_threshold(np.array([0.1, 0.8, 0.2, 0.6]), bad)
    assert 0.2 < threshold < 0.6
    with pytest.raises(ValueError, match="good and bad pictures, got 4 bad of 4"):
        faults.best_threshold(np.arange(4.0), np.ones(4, bool))


def test_always_looking_has_a_balance_of_one_half():
    bad = np.array([True, False, False])
    assert faults.alarm_rates(np.ones(3, bool), bad) == {
        "false alarms": 1.0, "misses": 0.0, "balanced accuracy": 0.5
    }  # fmt: skip
    assert faults.alarm_rates(np.zeros(3, bool), bad)["balanced accuracy"] == 0.5


def test_rules_are_set_and_evaluated_on_different_polycrystals():
    rng = np.random.default_rng(1)
    error = rng.random(60)
    table = pd.DataFrame({"seed": np.repeat(np.arange(6), 10), "adapted Rand error": error})
    for name in faults.WARNINGS:
        table[name] = error + 0.05 * rng.normal(size=60)
    setting, testing = faults.split_by_seed(table)
    assert not set(setting["seed"]) & set(testing["seed"])
    assert len(setting) + len(testing) == len(table)
    rules = faults.evaluate_rules(setting, testing, limit=0.5)
    assert (rules.loc[list(faults.WARNINGS), "balanced accuracy"] > 0.7).all()
    assert rules.loc["always look", "balanced accuracy"] == 0.5
    assert rules.loc["either", "misses"] <= rules.loc["disagreement", "misses"]


def test_the_stored_rules_follow_from_the_stored_pictures():
    stored = records.load("when_it_breaks")
    table = pd.DataFrame(stored["rows"]["data"], columns=stored["rows"]["columns"])
    rules = faults.evaluate_rules(*faults.split_by_seed(table))
    for rule, row in stored["scores"].items():
        for measure in ("false alarms", "misses", "balanced accuracy"):
            assert rules.loc[rule, measure] == pytest.approx(row[measure], abs=1e-3), (rule, measure)
    assert stored["scores"][stored["trivial"]]["balanced accuracy"] == 0.5


def test_a_stored_picture_gives_the_stored_measurements_again():
    # Seed 0 without a fault and with the thickest film, as in the study.
    stored = records.load("when_it_breaks")
    table = pd.DataFrame(stored["rows"]["data"], columns=stored["rows"]["columns"])
    row = table[(table["seed"] == 0) & (table["fault"] == "contamination") & (table["strength"] == 4)].iloc[0]
    picture = faults.render_faulty(faults.grains(0, 192, 24), faults.Fault("contamination", 4.0), 0)
    _, measured = faults.evaluate(picture, load_segmenter("label-free"))
    for name in (*faults.SCORES, "disagreement", "largest grain"):
        # Rounding differs between processors.
        assert measured[name] == pytest.approx(row[name], abs=0.03), name
