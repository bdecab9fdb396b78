"""Each kind of damage has its stated effect and no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from microlab.segment.corruption import Damage, corrupt

NOTHING = Damage(broken=0, thickened=0, spurious=0)
BROKEN = replace(NOTHING, broken=0.3)
THICKENED = replace(NOTHING, thickened=0.4)
SPURIOUS = replace(NOTHING, spurious=0.5)


def lattice(height: int = 96, width: int = 160, period: int = 24) -> np.ndarray:
    """Lines two pixels wide along rows and columns."""
    y, x = np.mgrid[:height, :width]
    return (y % period < 2) | (x % period < 2)


@pytest.mark.parametrize("seed", range(3))
def test_strength_zero_is_the_identity(seed):
    assert (corrupt(lattice(), 0.0, seed=seed) == lattice()).all()


def test_all_switches_off_is_the_identity_at_any_strength():
    assert (corrupt(lattice(), 1.0, damage=NOTHING) == lattice()).all()


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_breaking_only_removes_and_removes_the_stated_share(strength):
    broken = corrupt(lattice(), strength, damage=BROKEN, seed=1)
    assert not (broken & ~lattice()).any()
    lost = lattice().sum() - broken.sum()
    assert abs(lost - 0.3 * strength * lattice().sum()) <= 0.5  # rounded to a whole pixel


def test_gaps_are_pieces_of_line_and_not_single_pixels():
    lost = lattice() & ~corrupt(lattice(), 1.0, damage=BROKEN, seed=1)
    sizes = np.bincount(label(lost, connectivity=2).ravel())[1:]
    in_large = sizes[sizes >= 8].sum() / sizes.sum()  # 4 px along a line 2 px wide
    assert in_large > 0.9
    spread = np.random.default_rng(0).random(lost.shape) < 0.3  # the same share of independent pixels
    single = np.bincount(label(lattice() & spread, connectivity=2).ravel())[1:]
    assert single[single >= 8].sum() / single.sum() < 0.5


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_thickening_only_adds_and_stays_within_reach(reach):
    thick = corrupt(lattice(), 1.0, damage=replace(THICKENED, reach=reach), seed=2)
    assert not (lattice() & ~thick).any()
    assert (thick & ~lattice()).any()
    distance = ndimage.distance_transform_edt(~lattice())
    assert distance[thick].max() <= reach


def test_thickening_everywhere_is_a_dilation():
    thick = corrupt(lattice(), 1.0, damage=replace(NOTHING, thickened=1.0, reach=2), seed=2)
    assert (thick == (ndimage.distance_transform_edt(~lattice()) <= 2)).all()


def test_stray_segments_only_add_and_need_no_boundary():
    stray = corrupt(lattice(), 1.0, damage=SPURIOUS, seed=3)
    assert not (lattice() & ~stray).any()
    # The same segments on an empty map: they do not follow the boundary.
    alone = corrupt(np.zeros_like(lattice()), 1.0, damage=SPURIOUS, seed=3)
    assert (stray == (lattice() | alone)).all()
    assert (alone & ~lattice()).any()


def test_stray_segments_come_as_many_and_as_long_as_stated():
    damage = replace(NOTHING, spurious=0.1, length=(10, 10), width=1)
    pixels = [corrupt(np.zeros((200, 300), bool), 0.5, damage=damage, seed=k).sum() for k in range(20)]
    # 3 segments of 10 px. In rows or columns that is 9 on average (7.1 to 10), rounded up, and the last
    # pixel: 10.5 on average; a few leave the image.
    assert np.mean(pixels) == pytest.approx(3 * 10.5, rel=0.1)


def test_stray_segments_have_their_width():
    def thickness(width: int) -> float:
        damage = replace(NOTHING, spurious=0.05, length=(20, 20), width=width)
        return ndimage.distance_transform_edt(
            corrupt(np.zeros((200, 300), bool), 1.0, damage=damage, seed=0)
        ).max()

    assert thickness(1) < thickness(3) < thickness(5)


def test_an_empty_map_is_neither_broken_nor_thickened():
    empty = np.zeros((40, 50), bool)
    assert not corrupt(empty, 1.0, damage=replace(BROKEN, thickened=1.0)).any()


def test_strong_damage_includes_weak_damage():
    for damage, added in ((BROKEN, False), (SPURIOUS, True)):
        weak, strong = (corrupt(lattice(), s, damage=damage, seed=4) for s in (0.3, 0.8))
        assert not (weak & ~strong if added else ~weak & strong).any()
        assert (weak != strong).any()


def test_switching_one_kind_off_does_not_move_the_others():
    gaps = lattice() & ~corrupt(lattice(), 1.0, damage=BROKEN, seed=5)
    with_strays = corrupt(lattice(), 1.0, damage=replace(BROKEN, spurious=0.5), seed=5)
    strays = corrupt(np.zeros_like(lattice()), 1.0, damage=SPURIOUS, seed=5)
    assert (with_strays == ((lattice() & ~gaps) | strays)).all()


def test_same_seed_same_damage():
    one, two, other = (corrupt(lattice(), 0.7, seed=seed) for seed in (6, 6, 7))
    assert (one == two).all()
    assert (one != other).any()
    rng = np.random.default_rng(6)
    assert (corrupt(lattice(), 0.7, seed=rng) != corrupt(lattice(), 0.7, seed=rng)).any()


def test_the_input_stays_as_it_was():
    boundary = lattice()
    corrupt(boundary, 1.0)
    assert (boundary == lattice()).all()


@pytest.mark.parametrize(
    ("boundary", "strength", "message"),
    [
        (np.zeros((4, 4)), 0.5, "bool"),
        (np.zeros((2, 4, 4), bool), 0.5, r"\(H, W\)"),
        (np.zeros((0, 4), bool), 0.5, "empty"),
        (np.zeros((4, 4), bool), 1.5, "strength"),
        (np.zeros((4, 4), bool), np.nan, "strength"),
    ],
)
def test_bad_input_is_refused(boundary, strength, message):
    with pytest.raises(ValueError, match=message):
        corrupt(boundary, strength)


@pytest.mark.parametrize(
    "setting",
    [
        {"broken": 1.1},
        {"thickened": -0.1},
        {"spurious": -1},
        {"gap": 0},
        {"reach": 0},
        {"width": 0},
        {"length": (9, 3)},
        {"length": (0, 3)},
    ],
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Damage(**setting)
