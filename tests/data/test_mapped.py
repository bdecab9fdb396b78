"""Arrays in files: no values are lost when memory is released, and no file is left behind."""

from __future__ import annotations

import numpy as np
import pytest

from microlab.data.mapped import block_slices, mapped_array, reduced, reduced_labels, release, widened


def test_released_values_persist_and_no_file_is_visible(tmp_path):
    array = mapped_array((300, 500), np.float32, tmp_path / "new")
    assert not array.any()
    array[7:9] = 3
    release(array[:200], None, np.zeros(3))
    assert array.sum() == 3000
    assert list((tmp_path / "new").iterdir()) == []


def test_changes_held_only_in_memory_are_not_released(tmp_path):
    np.zeros(5000).tofile(tmp_path / "zeros")
    private = np.memmap(tmp_path / "zeros", float, "c")
    private[:] = 1
    release(private)
    assert private.all()


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path):
    with pytest.raises(OSError):
        mapped_array((2**22, 2**20), np.float32, tmp_path)  # 16 TB


@pytest.mark.parametrize("shape", [(100, 100), (101, 37), (64, 200), (5, 1)])
def test_blocks_cover_every_pixel_once(shape):
    count = np.zeros(shape, int)
    for row in block_slices(shape, 33):
        for place in row:
            count[place] += 1
            assert max(count[place].shape) <= 33
            outer, inner = widened(place, 9, shape)
            assert np.shares_memory(count[outer][inner], count[place])
            assert count[outer][inner].shape == count[place].shape
    assert (count == 1).all()


def test_reduction_takes_means_of_grey_and_the_middle_of_labels():
    image = np.random.default_rng(0).random((61, 50)).astype(np.float32)
    small = reduced(image, 5)
    assert small.shape == (12, 10)
    np.testing.assert_allclose(small[3, 4], image[15:20, 20:25].mean(), rtol=1e-6)
    assert reduced_labels(image, 5).shape == small.shape
    assert reduced_labels(image, 5)[3, 4] == image[17, 22]
