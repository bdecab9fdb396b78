"""Every appearance shows its grains or its boundaries as its name says, and the mask says where."""

from __future__ import annotations

import numpy as np
import pytest

from microlab.measure.labels import components
from microlab.render import appearances
from microlab.render.appearances import SURFACES, Ranges, draw_field
from microlab.simulate import voronoi

CELLS = voronoi.tessellate(voronoi.regular_seeds(60, (256, 256), 0.5), (256, 256))
OPTIONAL = ("elongated", "ragged", "twinned", "marks", "inverted", "legend", "rotated", "mounted")
RECORDED = ("clean", "overexposed", "sharpened", "compressed")
PLAIN = Ranges(zoom=(1.0, 1.0), **dict.fromkeys((*OPTIONAL, *RECORDED), 0))
DARK, BRIGHT = ("grooves", "etched", "over-etched"), ("bright lines",)


@pytest.mark.parametrize("appearance", SURFACES)
def test_a_field_is_an_image_with_its_boundaries_on_its_specimen(appearance):
    for seed in range(6):
        field = draw_field(appearance, CELLS, (128, 96), seed=seed)
        assert field.image.shape == ((128, 96, 3) if appearance == "colour etched" else (128, 96))
        assert field.image.min() >= 0
        assert field.image.max() <= 1
        assert not (field.boundary & ~field.valid).any()
        assert field.boundary.any()
        assert field.virtual


@pytest.mark.parametrize("appearance", SURFACES)
def test_the_same_seed_draws_the_same_field(appearance):
    one, two, other = (draw_field(appearance, CELLS, (96, 96), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.boundary, two.boundary)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("appearance", [*DARK, *BRIGHT])
def test_lines_are_dark_or_bright(appearance):
    differences = []
    for seed in range(10):
        field = draw_field(appearance, CELLS, (160, 160), seed=seed, ranges=PLAIN)
        differences.append(field.image[field.boundary].mean() - field.image[~field.boundary].mean())
    assert np.mean(np.sign(differences)) == (1 if appearance in BRIGHT else -1)


@pytest.mark.parametrize("appearance", ["contrast", "polarised", "colour etched"])
def test_contrast_is_between_grains_and_not_on_lines(appearance):
    between, within = [], []
    for seed in range(6):
        field = draw_field(appearance, CELLS, (160, 160), seed=seed, ranges=PLAIN)
        image = field.image if field.image.ndim == 3 else field.image[..., None]
        labels = components(field.boundary)
        levels = np.array([image[labels == k].mean(0) for k in range(1, labels.max() + 1)])
        residual = image - np.vstack([np.full((1, image.shape[-1]), np.nan), levels])[labels]
        between.append(levels.std(0).mean())
        within.append(np.nanmean(residual[~field.boundary]))
    assert np.mean(between) > 0.05
    assert abs(np.mean(within)) < 1e-3


def test_the_width_of_the_mask_does_not_follow_the_width_of_the_line():
    shares = []
    for appearance in ("grooves", "over-etched", "contrast"):
        field = draw_field(appearance, CELLS, (200, 200), seed=3, ranges=PLAIN)
        shares.append(field.boundary.mean())
    assert max(shares) < 1.35 * min(shares)  # 3 or 4 pixels, as the scan displaces the line by parts of one


def test_twins_are_boundaries_if_asked():
    twins = Ranges(**{**vars(PLAIN), "twinned": 1, "twin_share": (0.8, 0.8)})
    without, counted = (
        draw_field("etched", CELLS, (160, 160), seed=4, ranges=twins, twins_are_boundaries=choice)
        for choice in (False, True)
    )
    assert counted.boundary.sum() > 1.2 * without.boundary.sum()
    assert components(counted.boundary).max() > components(without.boundary).max() + 10


@pytest.mark.parametrize("etched", [0, 1])
def test_sides_of_twins_have_a_class_of_their_own_and_lines_only_where_they_are_etched(etched):
    settings = {"twinned": 1, "twin_share": (0.8, 0.8), "twins_etched": etched}
    ranges = Ranges(**{**vars(PLAIN), **settings})
    darker = []
    for seed in range(8):
        field = draw_field("etched", CELLS, (160, 160), seed=seed, ranges=ranges)
        classes, image = field.classes, field.image
        assert np.array_equal(classes == appearances.BOUNDARY, field.boundary)
        twins = classes == appearances.TWIN_BOUNDARY
        assert twins.mean() > 0.01
        darker.append(image[classes == appearances.GRAIN].mean() - image[twins].mean())
    lines = np.mean(darker) > 0.05
    assert lines == bool(etched)


def test_what_covers_the_specimen_is_outside_of_the_field_of_view():
    covered = Ranges(**{**vars(PLAIN), "legend": 1, "rotated": 1, "mounted": 1})
    for seed in range(5):
        field = draw_field("grooves", CELLS, (128, 128), seed=seed, ranges=covered)
        bare = draw_field("grooves", CELLS, (128, 128), seed=seed, ranges=PLAIN)
        assert 0.2 < field.valid.mean() < 0.95
        assert np.array_equal(field.classes == appearances.OUTSIDE, ~field.valid)
        assert np.array_equal(field.image[field.valid], bare.image[field.valid])


def test_an_unknown_appearance_is_named():
    with pytest.raises(ValueError, match="got 'glossy'"):
        draw_field("glossy", CELLS, (64, 64), seed=0)


def test_every_appearance_says_what_it_is():
    assert all(surface.__doc__ for surface in appearances.SURFACES.values())


@pytest.mark.parametrize("name", RECORDED)
def test_what_happens_to_the_recording_leaves_the_field_as_it_was(name):
    plain, recorded = (
        draw_field("etched", CELLS, (128, 128), seed=5, ranges=Ranges(**{**vars(PLAIN), name: share}))
        for share in (0, 1)
    )
    assert np.mean(plain.boundary == recorded.boundary) > (0.8 if name == "clean" else 0.999)  # without drift
    assert not np.array_equal(plain.image, recorded.image)
    assert np.corrcoef(plain.image.ravel(), recorded.image.ravel())[0, 1] > 0.3


def test_a_clean_field_has_no_noise():
    levels = {}
    for clean in (0, 1):
        ranges = Ranges(**{**vars(PLAIN), "clean": clean})
        fields = [draw_field("polarised", CELLS, (128, 128), seed=k, ranges=ranges) for k in range(4)]
        difference = [
            np.abs(np.diff(f.image, axis=1))[~f.boundary[:, 1:] & ~f.boundary[:, :-1]] for f in fields
        ]
        levels[clean] = np.median(np.concatenate(difference))
    assert levels[1] <= 1 / 255  # shading moves a pixel by one level at most
    assert levels[0] > 4 * max(levels[1], 1 / 255)


def test_an_overexposed_field_has_white_pixels_and_a_compressed_one_blocks():
    ranges = {name: Ranges(**{**vars(PLAIN), name: 1}) for name in ("overexposed", "compressed")}
    white = [
        (draw_field("etched", CELLS, (128, 128), seed=k, ranges=ranges["overexposed"]).image == 1).mean()
        for k in range(8)
    ]
    assert 0.1 < np.mean(white) < 0.4
    steps = np.zeros(8)
    for k in range(8):
        image = draw_field("grooves", CELLS, (128, 128), seed=k, ranges=ranges["compressed"]).image
        step = np.abs(np.diff(image, axis=1)).mean(0)
        steps += [step[(np.arange(127) + 1) % 8 == j].mean() for j in range(8)]
    assert steps[0] > 1.03 * steps[1:].mean()  # between blocks
