"""The virtual microscope: every fault against its formula, and a truth distorted like the image."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from microlab.render import sem
from microlab.render.sem import LOGARITHMIC, OPTIONAL, Microscope, MicroscopeRanges, draw_microscope, render
from microlab.simulate import voronoi

# No faults: grains of one grey. With 1e9 electrons the relative noise is 3e-5.
FAULTLESS = {"groove_depth": 0.0, "step_amplitude": 0.0, "blur": 0.0, "detector_noise": 0.0, "electrons": 1e9}
CLEAN = replace(Microscope(), **dict.fromkeys(OPTIONAL, 0.0), **FAULTLESS)
MAP = voronoi.tessellate(voronoi.random_seeds(30, (160, 160), 5), (160, 160))


def test_the_corners_lose_the_share_that_vignetting_states():
    image = sem.illumination(np.ones((65, 97)), slope=0.0, angle=0.0, vignetting=0.3)
    np.testing.assert_allclose(image[[0, 0, -1, -1], [0, -1, 0, -1]], 0.7, rtol=1e-6)
    assert image[32, 48] == pytest.approx(1)  # the middle
    np.testing.assert_array_equal(image, image[::-1, ::-1])


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 1), (np.pi / 2, 0)])
def test_shading_runs_across_the_field_in_its_direction(angle, axis):
    image = sem.illumination(np.ones((33, 41)), slope=0.4, angle=angle, vignetting=0.0)
    np.testing.assert_allclose(image.take(-1, axis) - image.take(0, axis), 0.4, rtol=1e-5)
    np.testing.assert_allclose(np.ptp(image, axis=1 - axis), 0, atol=1e-6)
    assert image.mean() == pytest.approx(1)


def test_the_probe_spreads_a_point_into_a_gaussian():
    point = np.zeros((41, 41))
    point[20, 20] = 1
    y, x = np.indices(point.shape) - 20
    gaussian = np.exp(-(x**2 + y**2) / (2 * 2.0**2)) / (2 * np.pi * 2.0**2)
    np.testing.assert_allclose(sem.point_spread(point, sigma=2.0), gaussian, atol=1e-3 * gaussian.max())


def test_the_variance_of_shot_noise_is_the_mean_over_the_electrons():
    # The variance of a Poisson count of mean m over n pixels is known to sqrt((2 + 1/m) / n) of itself.
    for level in (0.1, 0.8):
        image = sem.shot_noise(np.full((256, 256), level), electrons=50.0, seed=1)
        error = np.sqrt((2 + 1 / (50 * level)) / image.size)
        assert image.var() == pytest.approx(level / 50, rel=4 * error)
        assert image.mean() == pytest.approx(level, abs=4 * np.sqrt(level / 50 / image.size))


def test_shot_noise_counts_whole_electrons_and_none_in_the_dark():
    counts = 20 * sem.shot_noise(np.linspace(-0.5, 1, 64)[None].repeat(64, 0), electrons=20.0, seed=0)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-5)
    assert not counts[:, :21].any()


@pytest.mark.parametrize("electrons", [0, -3, float("nan")])
def test_a_microscope_needs_electrons(electrons):
    with pytest.raises(ValueError, match=r"electrons must be positive, got"):
        sem.shot_noise(np.ones((4, 4)), electrons=electrons, seed=0)


def test_detector_noise_is_gaussian_of_the_stated_sigma():
    noise = sem.detector_noise(np.zeros((256, 256)), sigma=0.04, seed=0).ravel()
    assert noise.std() == pytest.approx(0.04, rel=4 / np.sqrt(2 * noise.size))
    assert stats.kstest(noise, "norm", args=(0, 0.04)).pvalue > 0.001


def test_charging_streaks_decay_along_the_scan_and_never_against_it():
    decay = 25.0
    image = sem.charging_streaks(np.zeros((256, 256)), amplitude=1.0, decay=decay, seed=0)
    step = np.diff(image, axis=1)  # removes the level of each line
    assert step.max() > 0.3  # a charge appears at once
    assert step.min() > -1.1 / decay  # and decays slowly, to the right
    both = (step[:, 1:] < -1e-4) & (step[:, :-1] < -1e-4)
    assert np.median(step[:, 1:][both] / step[:, :-1][both]) == pytest.approx(np.exp(-1 / decay), rel=0.005)


def test_charged_lines_differ_in_level():
    lines = np.median(sem.charging_streaks(np.zeros((512, 64)), amplitude=0.1, decay=1.0, seed=0), axis=1)
    assert lines.std() == pytest.approx(0.1 * 0.2, rel=4 / np.sqrt(2 * 512))


def test_line_jitter_has_its_standard_deviation_and_is_sideways_and_independent():
    path = sem.scan_path((4096, 10), jitter=0.4, drift=0.0, seed=0)
    assert not path[0].any()
    assert path[1].std() == pytest.approx(0.4, rel=4 / np.sqrt(2 * 4096))
    assert abs(np.corrcoef(path[1, 1:], path[1, :-1])[0, 1]) < 4 / 64


def test_drift_starts_at_rest_is_slow_and_stays_within_its_bound():
    farthest = 0.0
    for seed in range(300):
        path = sem.scan_path((128, 10), jitter=0.0, drift=5.0, seed=seed)
        np.testing.assert_array_equal(path[:, 0], 0)
        # The steepest slope of the path.
        assert np.abs(np.diff(path)).max() < 5 * (1 + np.pi / 2) / 127 * 1.001
        farthest = max(farthest, np.abs(path).max())
    assert 0.8 * 5 < farthest <= 1.11 * 5


def test_an_image_read_along_a_path_is_displaced_by_it():
    image = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    path = np.zeros((2, 40), np.float32)
    path[0], path[1] = 3, -2
    np.testing.assert_allclose(sem.follow_path(image, path)[:-3, 2:], image[3:, :-2], atol=1e-6)
    path[0], path[1] = 0, 0.5
    half = (image[:, :-1] + image[:, 1:]) / 2
    np.testing.assert_allclose(sem.follow_path(image, path)[:, :-1], half, atol=1e-6)


def test_tone_stretches_about_the_middle_and_clips():
    image = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])
    np.testing.assert_allclose(
        sem.tone(image, contrast=2.0, brightness=0.5, gamma=1.0), [[0, 0, 0.5, 1, 1]], atol=1e-7
    )
    np.testing.assert_allclose(sem.tone(image, contrast=1.0, brightness=0.5, gamma=2.0), image**2, atol=1e-7)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_quantising_leaves_two_to_the_bits_levels_and_errs_by_half_a_step(bits):
    image = np.linspace(0, 1, 200_000)[None]
    stored = sem.quantise(image, bits=bits)
    assert len(np.unique(stored)) == 2**bits
    assert np.abs(stored - image).max() <= 0.5 / (2**bits - 1) + 1e-6
    np.testing.assert_array_equal(sem.quantise(np.array([[-1.0, 2.0]]), bits=bits), [[0, 1]])


@pytest.mark.parametrize("bits", [0, 17])
def test_other_bit_depths_are_refused(bits):
    with pytest.raises(ValueError, match=rf"bits must lie in 1..16, got {bits}"):
        sem.quantise(np.ones((2, 2)), bits=bits)


FAULTS = {  # name -> fault with its amplitude as first argument, random number seed as second
    "shading": lambda i, a, s: sem.illumination(i, slope=a, angle=s, vignetting=0.0),
    "vignetting": lambda i, a, s: sem.illumination(i, slope=0.0, angle=0.0, vignetting=a),
    "blur": lambda i, a, s: sem.point_spread(i, sigma=5 * a),
    "detector noise": lambda i, a, s: sem.detector_noise(i, sigma=a, seed=s),
    "charging": lambda i, a, s: sem.charging_streaks(i, amplitude=a, decay=20.0, seed=s),
    "jitter": lambda i, a, s: sem.follow_path(i, sem.scan_path(i.shape, jitter=5 * a, drift=0.0, seed=s)),
    "drift": lambda i, a, s: sem.follow_path(i, sem.scan_path(i.shape, jitter=0.0, drift=20 * a, seed=s)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_acts_alone_repeats_with_its_seed_and_vanishes_with_its_amplitude(name):
    image = np.random.default_rng(0).random((48, 64), dtype=np.float32)
    before = image.copy()
    once = FAULTS[name](image, 0.2, 1)
    assert once.dtype == np.float32
    assert np.abs(once - image).max() > 0.01
    np.testing.assert_array_equal(once, FAULTS[name](image, 0.2, 1))
    if name not in ("vignetting", "blur"):  # deterministic ones
        assert (once != FAULTS[name](image, 0.2, 2)).any()
    np.testing.assert_allclose(FAULTS[name](image, 0.0, 1), image, atol=1e-6)
    np.testing.assert_array_equal(image, before)  # the input is not modified


def test_a_microscope_without_faults_shows_grains_of_one_grey():
    image = render(MAP, CLEAN, seed=3)
    assert image.shape == MAP.shape
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, 0.6, atol=0.6 / 255)


STRENGTHS = {"pits": 100.0, "particles": 60.0, "scratches": 60.0, "drift": 4.0, "line_jitter": 0.8}
STRENGTHS |= {"groove_depth": 0.6, "detector_noise": 0.05, "electrons": 40.0, "blur": 1.5}
STRENGTHS |= {"gamma": 2.0, "contrast": 2.0}


@pytest.mark.parametrize("setting", sorted(OPTIONAL | STRENGTHS.keys() | {"step_amplitude"}))
def test_every_setting_shows_in_the_micrograph(setting):
    # On grains of several greys, so that blur, drift and jitter have something to act on.
    base = replace(CLEAN, grain_spread=0.1, step_share=0.5)
    changed = replace(base, **{setting: STRENGTHS.get(setting, 0.2)})
    difference = np.abs(render(MAP, changed, seed=3) - render(MAP, base, seed=3))
    assert difference.max() > 10 / 255


def test_the_same_seed_gives_the_same_micrograph_and_another_seed_another():
    microscope = draw_microscope(7)
    image, distance = render(MAP, microscope, seed=1, return_distance=True)
    again = render(MAP, microscope, seed=np.random.default_rng(1), return_distance=True)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(distance, again[1])
    np.testing.assert_array_equal(image, render(MAP, microscope, seed=1))
    assert (image != render(MAP, microscope, seed=2)).mean() > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_any_microscope_gives_an_8_bit_image_in_range(seed):
    image = render(MAP, draw_microscope(seed), seed=seed)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_allclose(image * 255, np.round(image * 255), atol=1e-4)
    assert image.std() > 0.01


def test_drift_moves_the_truth_with_the_image():
    # Upright boundaries 100 pixels apart: each line must be darkest where the distance is least.
    grain_map = np.tile(np.arange(200) // 100, (100, 1))
    steady = replace(CLEAN, groove_depth=0.7, groove_variation=0.0)
    still = render(grain_map, steady, return_distance=True)[1]
    window = np.s_[:, 50:150]  # one boundary, at 100 before the drift
    moved = []
    for seed in range(6):
        shaken = replace(steady, drift=40.0, line_jitter=0.5)
        image, distance = render(grain_map, shaken, seed=seed, return_distance=True)
        apart = np.abs(image[window].argmin(1) - distance[window].argmin(1))
        assert np.median(apart) <= 1
        assert np.percentile(apart, 99) <= 2
        moved.append(np.abs(distance[window].argmin(1) - still[window].argmin(1)).max())
    assert max(moved) > 10  # the drift was strong, so the agreement is not accidental


def test_the_truth_matches_the_grooves_under_drift_and_jitter():
    microscope = replace(
        CLEAN, groove_depth=0.7, groove_width=1.5, groove_variation=0.0, drift=8.0, line_jitter=0.4
    )
    image, distance = render(MAP, microscope, seed=4, return_distance=True)
    unmoved = render(MAP, replace(microscope, drift=0.0, line_jitter=0.0), return_distance=True)[1]

    def correlation(d):
        groove = np.exp(-((d - 0.5) ** 2) / (2 * 1.5**2))
        return np.corrcoef(1 - image.ravel(), groove.ravel())[0, 1]

    assert correlation(distance) > 0.98
    assert correlation(unmoved) < 0.8


@pytest.mark.parametrize("width", [1.2, 2.5, 3.0, 3.4])
def test_the_mask_of_a_boundary_is_its_trench(width):
    # Beyond one standard deviation the trench is shallower than exp(-1/2) of its depth. The profile starts at
    # the pixels beside the boundary, half a pixel from it, so the mask may end one pixel early.
    grain_map = np.tile(np.arange(120) // 40, (4, 1))
    microscope = replace(CLEAN, groove_depth=0.7, groove_width=width, groove_variation=0.0)
    image, distance = render(grain_map, microscope, return_distance=True)
    mask = distance <= microscope.boundary_half_width
    deep = 1 - image / 0.6 > 0.7 * np.exp(-0.5) - 0.01
    assert deep[mask].all()
    assert not (deep & (distance > microscope.boundary_half_width + 1)).any()
    assert mask[:, [39, 40]].all()


def test_the_mask_stays_between_1_and_4_pixels_to_each_side():
    assert Microscope(groove_width=0.2).boundary_half_width == 1
    assert Microscope(groove_width=9.0).boundary_half_width == 4


def test_the_frame_of_a_map_that_is_not_periodic_is_not_a_groove():
    grain_map = np.tile(np.arange(60) // 30, (20, 1))
    grooved = replace(CLEAN, groove_depth=0.7, groove_variation=0.0)
    assert render(grain_map, grooved, seed=0)[10, 0] < 0.3
    assert render(grain_map, grooved, seed=0, periodic=False)[10, 0] == pytest.approx(0.6, abs=0.01)


DRAWN = [draw_microscope(seed) for seed in range(400)]


def test_drawn_settings_stay_in_their_ranges_or_are_absent():
    ranges = MicroscopeRanges()
    for field in fields(Microscope):
        low, high = getattr(ranges, field.name)
        for microscope in DRAWN:
            value = getattr(microscope, field.name)
            assert low <= value <= high or (value == 0 and field.name in OPTIONAL)


def test_optional_effects_are_absent_in_the_stated_share():
    off = np.array([[getattr(microscope, name) == 0 for name in sorted(OPTIONAL)] for microscope in DRAWN])
    assert off.mean() == pytest.approx(0.35, abs=4 * np.sqrt(0.35 * 0.65 / off.size))
    assert np.abs(off.mean(0) - 0.35).max() < 4 * np.sqrt(0.35 * 0.65 / len(DRAWN))
    everything = [draw_microscope(seed, MicroscopeRanges(absent=0.0)) for seed in range(20)]
    assert all(getattr(microscope, name) > 0 for microscope in everything for name in OPTIONAL)


@pytest.mark.parametrize("name", sorted({f.name for f in fields(Microscope)} - OPTIONAL))
def test_settings_are_spread_evenly_or_evenly_in_their_logarithm(name):
    scale = np.log if name in LOGARITHMIC else np.asarray
    low, high = scale(np.array(getattr(MicroscopeRanges(), name)))
    values = scale(np.array([getattr(microscope, name) for microscope in DRAWN]))
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-4


def test_a_drawn_microscope_repeats_with_its_seed():
    assert draw_microscope(5) == draw_microscope(np.random.default_rng(5)) != draw_microscope(6)


@pytest.mark.parametrize(
    ("name", "value"), [("blur", (1.0, 0.5)), ("groove_width", (0.0, 2.0)), ("electrons", (-1.0, 5.0))]
)
def test_a_range_that_cannot_be_drawn_from_is_named(name, value):
    with pytest.raises(ValueError, match=rf"range {name}=\({value[0]}, {value[1]}\) must rise"):
        draw_microscope(0, MicroscopeRanges(**{name: value}))


def test_ranges_cover_the_standard_microscope():
    ranges = MicroscopeRanges()
    for field in fields(Microscope):
        low, high = getattr(ranges, field.name)
        assert low <= field.default <= high, field.name
    assert {field.name for field in fields(Microscope)} >= OPTIONAL | LOGARITHMIC
    assert not OPTIONAL & {"groove_depth", "electrons"}  # without them there is no micrograph


def test_a_map_without_a_boundary_cannot_be_rendered():
    with pytest.raises(ValueError, match="grain_map holds a single grain"):
        render(np.zeros((16, 16), int))
