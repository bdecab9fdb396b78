"""Labelled multi-phase fields: patches inside fields, splits by field, and a stand-in that says so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.measure import label, regionprops

from microlab import plotting
from microlab.data import datasets
from microlab.data.micrograph import Micrograph
from microlab.pipelines import samples
from microlab.pipelines.samples import corner_patches, few_many
from microlab.render.steel import steel_fields

real_only = pytest.mark.skipif(not datasets.available("uhcs"), reason="wants the real images")


def numbered(name: str = "field", shape: tuple[int, int] = (484, 645)) -> Micrograph:
    """A field in which every pixel has a unique value."""
    return Micrograph(np.arange(np.prod(shape)).reshape(shape), name=name, classes=np.zeros(shape, np.uint8))


def shared(patches: list) -> int:
    """Pixels in two patches at once, counted pixel by pixel."""
    return sum(np.intersect1d(a.image, b.image).size for a, b in itertools.combinations(patches, 2))


def target(train: int = 6, val: int = 3, test: int = 2) -> samples.LabelledFields:
    parts = {
        part: [numbered(f"{part}{k:02d}", (60, 80)) for k in range(n)]
        for part, n in (("train", train), ("val", val), ("test", test))
    }
    return samples.LabelledFields("small", **parts, classes=("a",), virtual=True, about="")


def test_three_patches_of_a_field_share_no_more_than_they_must() -> None:
    patches = corner_patches([numbered()])
    assert [patch.shape for patch in patches] == [(256, 256)] * 3
    # Two patches are 28 rows higher than the field, so every pair shares them; three are 123 columns wider.
    assert shared(patches) == (2 * 256 - 484) * (3 * 256 - 645)


def test_no_three_patches_share_less_in_a_field_small_enough_to_try_them_all() -> None:
    height, width, side = 7, 10, 4
    corners = itertools.product(range(height - side + 1), range(width - side + 1))
    field = np.arange(height * width).reshape(height, width)
    squares = [set(field[y : y + side, x : x + side].ravel()) for y, x in corners]
    least = min(len(a & b) + len(a & c) + len(b & c) for a, b, c in itertools.combinations(squares, 3))
    assert shared(corner_patches([numbered(shape=(height, width))], side)) == least


def test_four_patches_fill_a_square_field_without_overlap() -> None:
    assert shared(corner_patches([numbered(shape=(512, 512))], 256, 4)) == 0


@pytest.mark.parametrize("per_field", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(256, 256), (256, 300), (600, 257)])
def test_patches_never_leave_the_field_and_carry_their_mask(per_field: int, shape: tuple[int, int]) -> None:
    field = numbered(shape=shape)
    field = Micrograph(field.image, name="f", classes=(field.image % 4).astype(np.uint8))
    patches = corner_patches([field], 256, per_field)
    assert len(patches) == per_field
    for patch in patches:
        image = patch.image
        top, left = divmod(int(image[0, 0]), shape[1])
        assert patch.name == f"f_y{top}_x{left}"
        assert np.array_equal(image, field.image[top : top + 256, left : left + 256])
        assert np.array_equal(patch.classes, image % 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_field": 0}, "per_field must be at least 1, got 0"),
        ({"side": 485}, r"side must be at least 1 and fit into field of shape \(484, 645\), got 485"),
    ],
)
def test_impossible_patches_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corner_patches([numbered()], **arguments)


def test_a_field_without_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="wood: has no class map"):
        corner_patches([Micrograph(np.zeros((9, 9)), name="wood")], 4)


def test_few_patches_are_some_of_the_many_and_come_from_few_fields() -> None:
    sets = few_many(target(), 32, few_train=7, few_val=2)
    names = {key: [patch.name for patch in patches] for key, patches in sets.items()}
    assert [len(names[key]) for key in ("many_train", "many_val", "few_train", "few_val")] == [18, 9, 7, 2]
    assert set(names["few_train"]) < set(names["many_train"])
    assert set(names["few_val"]) < set(names["many_val"])
    assert {name.split("_")[0] for name in names["few_train"]} == {"train00", "train02", "train05"}
    assert {name.split("_")[0] for name in names["few_val"]} == {"val00"}


@pytest.mark.parametrize("count", [0, 19])
def test_more_few_patches_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"few_train must lie between 1 and 18, got {count}"):
        few_many(target(), 32, few_train=count)


@real_only
def test_of_the_real_steel_no_test_field_is_in_training() -> None:
    sets = few_many(samples.labelled_fields("uhcs"))
    assert {key: len(patches) for key, patches in sets.items()} == {
        "many_train": 48,
        "many_val": 12,
        "few_train": 16,
        "few_val": 5,
        "test": 4,
    }
    fields = {key: {patch.name.split("_")[0] for patch in patches} for key, patches in sets.items()}
    assert len(fields["many_train"] | fields["many_val"] | fields["test"]) == 16 + 4 + 4
    assert fields["few_train"] == {"uhcs" + n for n in ("0007", "0312", "0360", "0596", "1176", "1579")}
    assert fields["few_val"] == {"uhcs0075", "uhcs1061"}
    # Names may be wrong: no row of a test image, 256 px from its edges, is in a training or validation patch.
    learnt = {
        row.tobytes() for key in ("many_train", "many_val") for patch in sets[key] for row in patch.image
    }
    tested = {
        row[part].tobytes() for patch in sets["test"] for row in patch.image for part in np.s_[:256, -256:]
    }
    assert not learnt & tested


@real_only
def test_real_masks_hold_the_classes_that_the_target_names() -> None:
    real = samples.labelled_fields("uhcs")
    assert not real.virtual
    for field in real.train + real.val + real.test:
        assert field.classes.max() < len(real.classes) == 4
        assert field.classes.shape == field.image.shape


def test_every_class_has_a_colour_of_its_own() -> None:
    picture = plotting.colour_classes(np.arange(4).reshape(2, 2))
    assert picture.shape == (2, 2, 3)
    assert len(np.unique(picture.reshape(4, 3), axis=0)) == 4
    assert max(map(len, samples.CLASS_NAMES.values())) == len(plotting.CLASS_COLOURS)
    with pytest.raises(ValueError, match="mask must hold class ids 0 to 3, got 0 to 255"):
        plotting.colour_classes(np.array([[0, 255]]))


def test_without_the_images_a_stand_in_says_that_it_is_virtual_and_why(monkeypatch, recwarn, capfd) -> None:
    def unavailable(*_, **__):
        raise datasets.DatasetError("no network")

    monkeypatch.setattr(datasets, "fetch", unavailable)
    stand_in = samples.labelled_fields_or_stand_in("superalloy", fields=(3, 2, 1), shape=(64, 80))
    assert stand_in.virtual
    assert stand_in.name == "virtual stand-in for superalloy"
    assert "Virtual" in stand_in.about
    assert "no network" in stand_in.about
    assert [len(stand_in.train), len(stand_in.val), len(stand_in.test)] == [3, 2, 1]
    assert len({field.name for field in stand_in.train + stand_in.val + stand_in.test}) == 6
    assert not recwarn.list  # a page of the book would show a warning
    assert capfd.readouterr() == ("", "")
    again = samples.labelled_fields_or_stand_in("superalloy", fields=(3, 2, 1), shape=(64, 80))
    assert np.array_equal(stand_in.test[0].image, again.test[0].image)


def test_an_unknown_material_is_refused() -> None:
    for make in (samples.labelled_fields, samples.labelled_fields_or_stand_in):
        with pytest.raises(ValueError, match="name must be one of uhcs, superalloy, got 'copper'"):
            make("copper")


@pytest.fixture(scope="module")
def virtual() -> list[Micrograph]:
    return steel_fields(40)


def test_virtual_fields_have_the_class_fractions_of_the_real_steel(virtual: list[Micrograph]) -> None:
    fractions = np.array([np.bincount(f.classes.ravel(), minlength=4) / f.classes.size for f in virtual])
    # Means of the 24 real fields; a mean of 40 virtual ones has a standard error of 0.010 at most.
    np.testing.assert_allclose(fractions.mean(axis=0), [0.744, 0.130, 0.100, 0.027], atol=0.03)
    needles = fractions[:, 3]
    assert 0 < (needles == 0).mean() < 0.5  # absent from some fields, but not from most


def test_virtual_needles_are_long_and_particles_are_small(virtual: list[Micrograph]) -> None:
    needles = [
        region for field in virtual for region in regionprops(label(field.classes == 3)) if region.area > 50
    ]
    particles = [r.area for field in virtual for r in regionprops(label(field.classes == 2))]
    assert np.median([n.axis_major_length / n.axis_minor_length for n in needles]) > 5
    assert 2 <= np.median(particles) <= 8  # px; 3 in the real masks
    widths = [2 * distance_transform_edt(field.classes == 1).max() for field in virtual]
    assert 25 < np.median(widths) < 60  # px at the thickest place; 90 % of the real network are below 55


def test_in_a_virtual_picture_the_classes_differ_as_in_a_real_one(virtual: list[Micrograph]) -> None:
    """Real means of the classes less the matrix's: -0.05 network, 0.34 spheroidite, 0.20 Widmanstätten."""
    for phase, low, high in ((1, -0.15, 0.02), (2, 0.15, 0.45), (3, 0.1, 0.45)):
        contrast = [
            field.image[field.classes == phase].mean() - field.image[field.classes == 0].mean()
            for field in virtual
            if (field.classes == phase).sum() > 200
        ]
        assert low < np.median(contrast) < high
    assert np.std([field.image.mean() for field in virtual]) > 0.02  # different brightness


def test_virtual_fields_are_repeatable_and_do_not_depend_on_how_many(virtual: list[Micrograph]) -> None:
    for field, again in zip(virtual, steel_fields(2, seed=np.random.default_rng(0)), strict=False):
        assert np.array_equal(field.image, again.image)
        assert np.array_equal(field.classes, again.classes)
    assert field.image.dtype == np.float32
    assert field.classes.dtype == np.uint8
    assert 0 <= field.image.min() < field.image.max() <= 1
    assert not np.array_equal(virtual[0].classes, steel_fields(1, seed=1)[0].classes)
    assert steel_fields(1, (60, 91))[0].image.shape == (60, 91)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 1, "shape": (0, 5)}])
def test_impossible_virtual_fields_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        steel_fields(**arguments)
