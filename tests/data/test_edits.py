"""Edits of label images: each rule on a picture drawn by hand, and what must hold whatever is edited."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from voronoi_labels import random_edit, voronoi_labels

from microlab.data.edits import Edit, Edits, apply_edits, labels_sha256, read_edits, write_edits
from microlab.data.errors import InputError


def two_squares(gap: int) -> np.ndarray:
    """Two grains of 12 x 10 px side by side, with `gap` columns of label 0 between them."""
    labels = np.zeros((12, 20 + gap), np.int32)
    labels[:, :10], labels[:, 10 + gap :] = 1, 2
    return labels


@pytest.mark.parametrize("gap", [0, 1, 2, 5, 8])
def test_a_merge_fills_the_line_between_both(gap):
    merged = apply_edits(two_squares(gap), [Edit("merge", ((3, 2), (8, 19 + gap)))])
    np.testing.assert_array_equal(merged, np.ones((12, 20 + gap)))


def test_the_first_grain_of_a_merge_keeps_its_number():
    merged = apply_edits(two_squares(1), [Edit("merge", ((3, 19), (3, 2)))])
    assert np.unique(merged).tolist() == [2]


def test_a_merge_leaves_the_line_to_a_third_grain():
    labels = np.zeros((25, 21), np.int32)
    labels[:12, :10], labels[:12, 11:], labels[13:] = 1, 2, 3
    merged = apply_edits(labels, [Edit("merge", ((0, 0), (0, 20)))])
    assert (merged[:12] == 1).all()
    assert (merged[12] == 0).all()
    assert (merged[13:] == 3).all()


@pytest.mark.parametrize("gap", [9, 30])
def test_grains_far_from_one_another_are_not_merged(gap):
    with pytest.raises(InputError, match=r"edit 1: grains 1 and 2 share no boundary"):
        apply_edits(two_squares(gap), [Edit("merge", ((3, 2), (3, 15 + gap)))])


def test_grains_that_meet_at_a_corner_only_are_not_merged():
    labels = np.kron([[1, 2], [3, 4]], np.ones((10, 10), np.int32))
    with pytest.raises(InputError, match="share no boundary"):
        apply_edits(labels, [Edit("merge", ((0, 0), (19, 19)))])


@pytest.mark.parametrize("line", [((0, 4), (9, 4)), ((0, 2), (9, 7)), ((0, 0), (9, 9))])
def test_a_split_of_a_grain_that_touches_others_loses_no_pixel(line):
    labels = np.ones((10, 15), np.int32)
    labels[:, 10:] = 2
    split = apply_edits(labels, [Edit("split", line)])
    assert set(np.unique(split[:, :10])) == {1, 3}
    assert (split[:, 10:] == 2).all()
    assert np.bincount(split[:, :10].ravel())[1] >= 50, "the larger piece keeps the number"


def test_a_split_where_boundaries_are_lines_leaves_a_line():
    labels = np.ones((10, 12), np.int32)
    split = apply_edits(labels, [Edit("split", ((0, 5), (9, 5)))])
    expected = np.ones((10, 12))
    expected[:, 5], expected[:, :5] = 0, 2
    np.testing.assert_array_equal(split, expected)


def test_a_crooked_line_makes_no_grain_of_a_few_pixels():
    labels = np.ones((20, 25), np.int32)
    labels[:, 20:] = 2
    line = ((0, 10), (6, 10), (8, 12), (10, 10), (8, 8), (12, 10), (19, 10))  # a knot encloses some pixels
    split = apply_edits(labels, [Edit("split", line)])
    assert np.unique(split).tolist() == [1, 2, 3]


def test_a_line_that_ends_inside_cuts_nothing():
    with pytest.raises(InputError, match=r"edit 2: the line does not cut grain 1 in two"):
        apply_edits(two_squares(0), [Edit("delete", ((0, 19),)), Edit("split", ((0, 5), (8, 5)))])


def test_a_line_across_three_grains_cuts_the_one_that_holds_most_of_it():
    labels = np.kron([1, 2, 3], np.ones((12, 10), np.int32))
    split = apply_edits(labels, [Edit("split", ((5, 7), (5, 22)))])
    assert (split[:, :10] == 1).all()
    assert (split[:, 20:] == 3).all()
    assert np.unique(split[:, 10:20]).tolist() == [2, 4]


def test_a_deleted_grain_is_a_hole():
    deleted = apply_edits(two_squares(0), [Edit("delete", ((5, 5),))])
    np.testing.assert_array_equal(deleted, np.kron([0, 2], np.ones((12, 10))))


def test_an_added_grain_is_what_the_outline_encloses():
    outline = ((3, 3), (3, 8), (8, 8), (8, 3))
    added = apply_edits(two_squares(0), [Edit("add", outline)])
    expected = two_squares(0)
    expected[3:9, 3:9] = 3
    np.testing.assert_array_equal(added, expected)
    lines = apply_edits(two_squares(1), [Edit("add", outline)])
    expected = two_squares(1)
    expected[3:9, 3:9] = 0
    expected[4:8, 4:8] = 3
    np.testing.assert_array_equal(lines, expected)


def test_an_outline_across_a_grain_leaves_its_pieces_as_grains():
    labels = np.ones((12, 40), np.int32)
    labels[:, 30:] = 2
    added = apply_edits(labels, [Edit("add", ((0, 10), (0, 15), (11, 15), (11, 10)))])
    runs = added[6][np.flatnonzero(np.diff(added[6], prepend=-1))]
    assert runs.tolist() == [4, 3, 1, 2]


def test_nothing_changes_outside_of_the_field_of_view():
    labels = two_squares(0)
    labels[:4] = 0
    outline = ((0, 3), (0, 8), (8, 8), (8, 3))
    added = apply_edits(labels, [Edit("add", outline)], field_of_view=True)
    assert (added[:4] == 0).all()
    assert (added[4:9, 3:9] == 3).all()
    assert (apply_edits(labels, [Edit("add", outline)])[:4, 3:9] == 3).all()


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_whatever_is_edited_grains_stay_connected_and_apart(lines):
    """Every grain is one region, and where lines of label 0 lay between grains they still do."""
    labels = voronoi_labels(shape=(120, 130), grains=60, lines=lines, seed=lines)
    # A thick line cuts off corners; take only the largest region of every grain.
    for number in np.unique(labels[labels > 0]):
        regions = ndimage.label(labels == number)[0]
        sizes = np.bincount(regions.ravel())[1:]
        labels[(regions > 0) & (regions != sizes.argmax() + 1)] = 0
    before, made, rng = labels.copy(), 0, np.random.default_rng(1)
    for _ in range(80):
        edit = random_edit(labels, rng)
        try:
            edited = apply_edits(labels, [edit])
        except InputError:
            continue
        made += 1
        for number in np.unique(edited[edited > 0]):
            assert ndimage.label(edited == number)[1] == 1, (edit, number)
        if lines:
            for one, other in ((edited[1:], edited[:-1]), (edited[:, 1:], edited[:, :-1])):
                assert not ((one != other) & (one > 0) & (other > 0)).any(), edit
        elif edit.do in ("merge", "split"):
            np.testing.assert_array_equal(edited > 0, labels > 0)
        if edit.do != "add":
            change = len(np.unique(edited[edited > 0])) - len(np.unique(labels[labels > 0]))
            assert (change > 0) if edit.do == "split" else (change == -1)
        labels = edited
    assert made > 20
    assert (before != labels).any()


def test_edits_are_made_in_order_on_a_copy():
    labels = two_squares(0)
    edits = [
        Edit("split", ((6, 0), (6, 9))),
        Edit("merge", ((0, 0), (0, 19))),
        Edit("split", ((0, 4), (6, 4))),
    ]
    step = labels
    for k in range(3):
        step = apply_edits(labels, edits[: k + 1])
    assert np.unique(step).tolist() == [1, 3, 4]
    np.testing.assert_array_equal(labels, two_squares(0))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("paint", ((0, 0),)), "'paint' is none of merge, split, delete, add"),
        (Edit("merge", ((0, 0),)), "merge takes 2 pixels, got 1"),
        (Edit("split", ((0, 0),)), "split takes 2 or more pixels, got 1"),
        (Edit("add", ((0, 0), (1, 1))), "add takes 3 or more pixels"),
        (Edit("delete", ((12, 0),)), "row 12, column 0 lies outside of the image"),
        (Edit("delete", ((0, -1),)), "lies outside"),
        (Edit("merge", ((0, 0), (5, 5))), "both pixels lie in grain 1"),
        (Edit("merge", ((0, 0), (0, 10))), "there is no grain at row 0, column 10"),
        (Edit("split", ((0, 10), (5, 10))), "the line meets no grain"),
        (Edit("add", ((0, 0), (0, 1), (1, 1))), "encloses less than 10 pixels"),
    ],
)
def test_an_edit_that_cannot_be_made_says_why(edit, message):
    with pytest.raises(InputError, match=f"edit 1: .*{message}"):
        apply_edits(two_squares(1), [edit])


def test_numbers_end_at_the_largest_of_int32():
    labels = np.full((10, 12), 2**31 - 1, np.int64)
    with pytest.raises(InputError, match="renumber the grains"):
        apply_edits(labels, [Edit("split", ((0, 5), (9, 5)))])
    with pytest.raises(ValueError, match="numbers up to"):
        apply_edits(labels + 1, [])


EDITS = (Edit("merge", ((1, 2), (3, 19))), Edit("split", ((0, 5), (11, 5))))


def test_a_file_of_edits_is_read_as_it_was_written(tmp_path):
    edits = Edits(labels_sha256(two_squares(0)), (12, 20), EDITS, field_of_view=True)
    path = write_edits(tmp_path / "edits.json", edits, name="field")
    assert read_edits(path) == edits
    assert json.loads(path.read_text())["image"] == "field"
    assert path.stat().st_size < 500
    empty = Edits(edits.sha256, (12, 20))
    assert read_edits(write_edits(path, empty)) == empty


def test_edits_of_another_image_are_refused():
    labels = two_squares(0)
    edits = Edits(labels_sha256(labels), labels.shape, EDITS[:1])
    assert edits.apply(labels.astype(np.uint16)).max() == 1, "the type of the file does not matter"
    labels[0, 0] = 2
    with pytest.raises(InputError, match=r"belong to another label image \(20 x 12 px, .* than here.tif"):
        edits.apply(labels, "here.tif")


def test_the_checksum_is_of_the_labels_and_their_shape():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert labels_sha256(labels) == labels_sha256(np.asfortranarray(labels.astype(np.int64)))
    assert labels_sha256(labels) != labels_sha256(labels.reshape(3, 2))


def stored(**changes: object) -> str:
    edits = [{"do": "delete", "at": [[0, 0]]}]
    good = {"format": "microlab edits 1", "sha256": "0" * 64, "shape": [12, 20], "field_of_view": False}
    return json.dumps(good | {"edits": edits} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no file of edits"),
        ("[" * 100_000, "is no file of edits"),
        ("[1, 2]", "is no file of edits"),
        (stored(format="microlab edits 9"), "with the format 'microlab edits 1'"),
        (stored(sha256=3), "sha256 must be"),
        (stored(shape=[12.5, 3]), "shape must be"),
        (stored(shape=[0, 3]), "shape must be"),
        (stored(field_of_view=1), "field_of_view must be"),
        (stored(edits={}), "edits must be a list"),
        (stored(edits=[7]), "edit 1: at must be"),
        (stored(edits=[{"do": "delete", "at": [[True, 0]]}]), "edit 1: at must be"),
        (stored(edits=[{"do": "delete", "at": [[0, 0]]}, {"do": "melt", "at": [[0, 0]]}]), "edit 2: 'melt'"),
        (stored(edits=[{"do": "delete", "at": [[0, 20]]}]), "edit 1: row 0, column 20 lies outside"),
        (stored(edits=[{"do": "merge", "at": []}]), "edit 1: merge takes 2"),
    ],
)
def test_a_wrong_file_of_edits_is_named(tmp_path, text, message):
    path = tmp_path / "edits.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        read_edits(path)


def test_places_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_edits(tmp_path / "missing.json")
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(InputError, match="is no file of edits"):
            read_edits(place)
    binary = Path(tmp_path / "labels.tif")
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="is no file of edits"):
        read_edits(binary)
