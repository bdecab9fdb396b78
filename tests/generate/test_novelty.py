"""Synthetic pairs beside real ones: statistics of their masks, and copies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import match_template

from microlab.data.micrograph import Micrograph
from microlab.generate.novelty import _correlations, _unit, nearest_real, pair_statistics


def discs(size: int = 128, classes: tuple[int, ...] = (1, 2, 3), radius: int = 14) -> np.ndarray:
    """Discs of the classes, far apart on class 0; each has 613 pixels."""
    mask = np.zeros((size, size), np.uint8)
    rows, columns = np.indices(mask.shape)
    for k, c in enumerate(classes):
        y, x = 32 + 64 * (k // 2), 32 + 64 * (k % 2)
        mask[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = c
    return mask


def texture(size: int, seed: int, smooth: float = 4.0) -> np.ndarray:
    """A smooth random image in [0, 1]."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), smooth)
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


def test_the_table_counts_what_was_drawn() -> None:
    drawn = Micrograph(texture(128, 0), classes=discs(classes=(1, 1, 3)))
    empty = Micrograph(texture(128, 0), classes=discs(classes=()))
    table = pair_statistics([drawn], [drawn, empty], 4)
    disc = int((discs(classes=(1,)) == 1).sum())
    synthetic = table.xs("synthetic", level="set")
    assert synthetic["fraction"].sum() == pytest.approx(1)
    assert synthetic.loc[1, "fraction"] == pytest.approx(2 * disc / 128**2)
    assert synthetic.loc[1, "objects"] == pytest.approx(2 / 128**2 * 1e6)
    assert synthetic.loc[1, "median_area"] == disc
    assert synthetic.loc[2, "objects"] == 0
    assert np.isnan(synthetic.loc[2, "median_area"])
    real = table.xs("real", level="set")
    assert real.loc[3, "fraction"] == pytest.approx(disc / 128**2 / 2)
    assert real.loc[3, "fraction_sd"] == pytest.approx(disc / 128**2 / np.sqrt(2))
    assert real.loc[3, "median_area"] == disc  # of the one image that has the class
    with pytest.raises(ValueError, match="no real pairs"):
        pair_statistics([drawn], [], 4)


def test_correlations_are_those_of_skimage() -> None:
    rng = np.random.default_rng(6)
    patches, real = rng.random((3, 7, 7)), rng.random((20, 33))
    for score, patch in zip(_correlations(_unit(patches), real), patches):
        np.testing.assert_allclose(score, match_template(real, patch), atol=1e-10)


def test_a_copy_is_found_where_it_was_cut_turned_and_in_other_contrast() -> None:
    real = [texture(160, seed) for seed in (1, 2)]
    copy = 0.2 + 0.5 * np.rot90(real[1][22:86, 41:105]).clip(0, 1)  # the corner is not a multiple of the step
    new = texture(64, 9)
    table = nearest_real([copy, new], real, patch=64)
    best_match = table.iloc[0]
    assert (best_match["image"], best_match["real"]) == (0, 1)
    assert abs(best_match["real_y"] - 22) <= 2  # half a step
    assert abs(best_match["real_x"] - 41) <= 2
    np.testing.assert_array_equal(  # undoing the rotation gives the real window back
        np.rot90(copy, int(best_match["turn"])), (0.2 + 0.5 * real[1][22:86, 41:105]).clip(0, 1)
    )
    assert best_match["distance"] < 0.1
    assert table["distance"][1] > 3 * best_match["distance"]
    unturned = nearest_real([copy], real, patch=64, turns=False)
    assert unturned["distance"][0] > 3 * best_match["distance"]


def test_the_distance_is_one_less_the_correlation_at_the_place_named() -> None:
    real, image = texture(96, 1), texture(64, 5)
    row = nearest_real([image], [real], patch=64, scale=8).iloc[0]
    y, x, turn = (int(row[name]) for name in ("real_y", "real_x", "turn"))
    turned = np.rot90(image, turn % 4)
    turned = turned[:, ::-1] if turn >= 4 else turned
    blocks = [
        part.reshape(8, 8, 8, 8).mean((1, 3)).ravel() for part in (turned, real[y : y + 64, x : x + 64])
    ]
    assert row["distance"] == pytest.approx(1 - np.corrcoef(*blocks)[0, 1], abs=1e-4)


def test_every_patch_of_an_image_has_a_row_and_a_flat_one_no_distance() -> None:
    image = np.concatenate([texture(64, 3), np.full((64, 64), 0.5, np.float32)], axis=1)
    table = nearest_real([image], [texture(96, 1)], patch=64)
    assert table[["y", "x"]].to_numpy().tolist() == [[0, 0], [0, 64]]
    assert np.isnan(table["distance"][1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 60}, "multiple of scale"),
        ({"patch": 128}, "at least 128 pixels"),
        ({"patch": 64, "step": 3}, "step must divide"),
    ],
)
def test_patches_that_do_not_fit_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_real([texture(64, 0)], [texture(96, 1)], **given)
