"""What is pasted over a field or lies beside it is marked, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest

from microlab.render import field_of_view

IMAGE = np.random.default_rng(0).uniform(0.2, 0.8, (200, 300)).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_a_scale_bar_is_black_and_white_and_leaves_the_rest_alone(seed):
    image, valid = field_of_view.scale_bar(IMAGE, seed=seed)
    assert np.array_equal(image[valid], IMAGE[valid])
    rows, columns = np.nonzero(~valid)
    box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert box.size == len(rows)  # a rectangle
    assert 0.07 * 0.2 * 0.9 < box.size / IMAGE.size < 0.25 * 0.6
    assert {0.0, 1.0} <= set(np.unique(box))
    line = np.abs(box - box[0, 0]).mean(1).max()
    assert 0.4 * 0.9 < line < 0.95  # the bar, 40 to 90 % of the box


@pytest.mark.parametrize("seed", range(4))
def test_without_a_box_bar_and_figures_lie_on_the_image(seed):
    boxed, box = field_of_view.scale_bar(IMAGE, seed=seed)
    image, valid = field_of_view.scale_bar(IMAGE, boxed=False, seed=seed)
    assert np.array_equal(image[valid], IMAGE[valid])
    assert set(np.unique(image[~valid])) in ({0.0}, {1.0})
    assert not (~valid & box).any()
    assert 0.05 < (~valid).sum() / (~box).sum() < 0.5
    assert np.array_equal(image[~valid], boxed[~valid])


def test_seeds_give_other_scale_bars_and_one_seed_the_same():
    one, two, other = (field_of_view.scale_bar(IMAGE, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("angle", [0.0, 0.2, -0.4, np.pi / 2])
def test_a_rotated_field_is_the_largest_rectangle_that_fits(angle):
    image, valid = field_of_view.rotated_field(IMAGE, angle=angle, fill=1.0)
    assert np.array_equal(image[valid], IMAGE[valid])
    assert (image[~valid] == 1).all()
    # Width and height of a rotated rectangle's frame, set equal to the image's.
    sine, cosine = abs(np.sin(angle)), abs(np.cos(angle))
    scale = min(200 / (200 * cosine + 300 * sine), 300 / (300 * cosine + 200 * sine))
    assert valid.mean() == pytest.approx(scale**2, abs=0.01)
    edge = [valid[0].any() or valid[-1].any(), valid[:, 0].any() or valid[:, -1].any()]
    assert any(edge)  # a larger one would not fit


def test_the_mount_takes_its_share_on_its_side():
    image, valid = field_of_view.mount(IMAGE, share=0.25, angle=0.0, grey=0.1, seed=0)
    assert np.array_equal(image[valid], IMAGE[valid])
    assert valid.mean() == pytest.approx(0.75, abs=0.001)
    assert valid[:, :200].all()
    assert not valid[:, 250:].any()
    assert image[~valid].mean() == pytest.approx(0.1, abs=0.03)
    assert image[~valid].std() < 0.3 * IMAGE.std()


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="64 x 64 pixels, got 32 x 300"):
        field_of_view.scale_bar(IMAGE[:32], seed=0)
    with pytest.raises(ValueError, match="share"):
        field_of_view.mount(IMAGE, share=1.0, angle=0, grey=0.5, seed=0)
