"""Signs of a good or bad segmentation, on images whose segmentation is known to be either."""

from __future__ import annotations

import numpy as np
from dark_lines import grid

from microlab.segment.classical import Ridge
from microlab.segment.evidence import gather
from microlab.segment.segmenter import Segmenter


class Painted(Segmenter):
    """Gives a known boundary probability whatever it is shown; views of it agree or do not."""

    name, card = "painted", {}

    def __init__(self, probability: np.ndarray, turned: bool = True) -> None:
        self.map, self.turned = probability.astype(np.float32), turned

    def probability(self, image, zoom=1.0, *, progress=False):
        if not self.turned or image.shape != self.map.shape:
            return self.map if image.shape == self.map.shape else self.map.T
        for k in range(8):  # the orientation in which the image was shown
            turned = np.rot90(self.image, k % 4)
            turned = turned[:, ::-1] if k >= 4 else turned
            if np.array_equal(turned, image):
                back = np.rot90(self.map, k % 4)
                return back[:, ::-1] if k >= 4 else back
        raise AssertionError("not a view of the image")


def evidence(image: np.ndarray, lines: np.ndarray, **how):
    segmenter = Painted(np.where(lines, 0.95, 0.02))
    segmenter.image = image
    return gather(image, segmenter, **how)


IMAGE, TRUTH = grid(8, 8)


def test_the_true_boundaries_give_every_sign_of_a_good_segmentation():
    signs = evidence(IMAGE, TRUTH)
    assert signs.disagreement == 0
    assert signs.confidence > 0.9
    assert signs.largest < 0.03
    assert signs.coverage > 0.97
    assert signs.support > 0.95
    assert signs.grains == 64


def test_missing_boundaries_show_in_the_coverage_and_in_the_largest_grain():
    half = TRUTH.copy()
    half[:, 100:] = False
    signs = evidence(IMAGE, half)
    assert signs.coverage < 0.65
    assert signs.support > 0.9
    assert signs.largest > 0.3


def test_invented_boundaries_show_in_the_support():
    finer = grid(32, 32, cell=6)[1]
    signs = evidence(IMAGE, finer)
    assert signs.support < 0.9
    assert signs.coverage > 0.95
    assert evidence(IMAGE, TRUTH).support > signs.support + 0.05


def test_no_boundary_at_all_is_one_grain_without_confidence():
    signs = evidence(IMAGE, np.zeros_like(TRUTH))
    assert (signs.disagreement, signs.confidence, signs.largest, signs.coverage) == (1, 0, 1, 0)


def test_views_that_differ_disagree():
    rng = np.random.default_rng(0)
    image = rng.random((96, 96)).astype(np.float32)
    lines = np.zeros((96, 96))
    lines[:, ::24] = 0.9  # the same map for every view: turned back it is another one
    signs = gather(image, Painted(lines, turned=False))
    assert signs.disagreement > 0.2
    assert gather(image, Painted(lines, turned=False), views=1).disagreement == 0


def test_a_filter_has_no_confidence():
    assert np.isnan(gather(IMAGE, Ridge(), views=1).confidence)


def test_grey_that_differs_between_grains_is_explained_by_them():
    rng = np.random.default_rng(1)
    squares = np.indices((192, 192)) // 24
    ids = squares[0] * 8 + squares[1]
    image = (rng.random(64)[ids] + 0.02 * rng.standard_normal((192, 192))).astype(np.float32)
    assert evidence(image, TRUTH).explained > 0.8
    assert evidence(image.T.copy()[::-1].copy(), np.roll(TRUTH, 12, (0, 1))).explained < 0.7


def test_the_middle_is_looked_at():
    class Seen(Segmenter):
        name, card, shapes = "seen", {}, []

        def probability(self, image, zoom=1.0, *, progress=False):
            self.shapes.append(image.shape)
            return np.zeros(image.shape, np.float32)

    gather(np.random.default_rng(0).random((300, 200)), Seen(), window=64, views=1)
    gather(np.random.default_rng(0).random((300, 200)), Seen(), 2.0, window=64, views=1)
    gather(np.random.default_rng(0).random((300, 200)), Seen(), views=2)
    assert Seen.shapes == [(64, 64), (64, 64), (300, 200), (200, 300)]
