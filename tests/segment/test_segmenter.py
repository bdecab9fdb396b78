"""The U-Net segmenter, the protocol's defaults and the registry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dark_lines import grid, save_network
from scipy import ndimage
from skimage.transform import rescale

from microlab.data import datasets
from microlab.data.micrograph import Micrograph
from microlab.measure.scores import score
from microlab.pipelines import samples
from microlab.segment.instances import closed_boundary
from microlab.segment.registry import REGISTRY, load_segmenter, segment_image


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return load_segmenter(weights=save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors"))


@pytest.fixture(scope="module")
def segmented(segmenter):
    image, truth = grid(5, 7)
    return truth, segmenter.segment(image)


def test_every_grain_of_a_drawn_grid_is_found(segmented):
    truth, segmentation = segmented
    grains, _ = ndimage.label(~truth)
    assert segmentation.labels.max() == 35
    for grain in range(1, 36):  # each drawn cell lies in one grain, and each grain holds one cell
        assert len(np.unique(segmentation.labels[grains == grain])) == 1
    assert segmentation.labels.dtype == np.int32
    assert segmentation.probability.dtype == np.float32


def test_the_mask_agrees_with_the_grains(segmented):
    truth, segmentation = segmented
    assert (segmentation.boundary == truth).mean() > 0.99
    regions, n = ndimage.label(~segmentation.boundary)
    assert n == 35
    for region in range(1, n + 1):
        assert len(np.unique(segmentation.labels[regions == region])) == 1


def test_brightness_and_contrast_do_not_matter(segmented, segmenter):
    image, _ = grid(5, 7)
    dim = segmenter.segment(0.3 + 0.2 * image)
    np.testing.assert_array_equal(dim.labels, segmented[1].labels)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_grains_of_any_size_are_scaled_to_the_size_of_the_training(tmp_path, size):
    image, _ = grid(6, 8)
    segmenter = load_segmenter(weights=save_network(tmp_path / "dark.safetensors", grain_size_px=30.0))
    segmentation = segmenter.segment(rescale(image, size, order=1, anti_aliasing=size < 1))
    # 5 lines over 6 x 24 px in one direction, 7 over 8 x 24 px in the other
    intercept = 2 / (5 / 6 / 24 + 7 / 8 / 24) * size
    assert segmentation.zoom == pytest.approx(30.0 / intercept, rel=0.4)  # one rung of the ladder of zooms
    assert segmentation.labels.shape == tuple(round(s * size) for s in image.shape)
    assert segmentation.labels.max() == pytest.approx(48, abs=2)


def test_a_given_zoom_is_used(segmenter):
    image, _ = grid(4, 4)
    segmentation = segmenter.segment(image, zoom=2.0)
    assert segmentation.zoom == 2.0
    assert segmentation.labels.shape == image.shape
    assert segmentation.labels.max() == 16


def test_probable_boundary_that_separates_no_grains_is_left_out():
    labels = np.repeat([[1, 2]], 10, axis=1).repeat(20, axis=0).astype(np.int32)
    probability = np.zeros((20, 20), np.float32)
    probability[:, 8:12] = 0.9  # the boundary, thick
    probability[5:7, 2:4] = 0.9  # a pore
    probability[3, 8:12] = 0.0  # a gap in the boundary
    mask = closed_boundary(probability, labels)
    assert not mask[5:7, 2:4].any()
    assert mask[:, 9:11].all()  # closed over the gap
    assert mask[10, 8:12].all()  # as thick as in the probability


def test_the_watershed_settings_on_the_card_are_used(segmenter):
    image, _ = grid(4, 4)
    filled = segmenter.segment(image)
    card = segmenter.card | {"watershed": {"gaps": True}}
    lined = replace(segmenter, card=card).segment(image)
    assert (filled.labels > 0).all()
    assert (lined.labels == 0).any()


def test_a_micrograph_and_its_array_are_segmented_alike(segmented, segmenter):
    segmentation = segmenter.segment(Micrograph(grid(5, 7)[0]), uncertainty=True)
    np.testing.assert_array_equal(segmentation.labels, segmented[1].labels)
    assert segmented[1].uncertainty is None
    assert segmentation.uncertainty.disagreement < 0.05


@pytest.mark.parametrize("method", REGISTRY)
def test_every_method_is_a_segmenter_that_finds_drawn_grains(method):
    image, _ = grid(5, 6)
    segmenter = load_segmenter(method)
    assert segmenter.name == method
    assert segmenter.card["trained_by" if method != "tem" else "first"]
    segmentation = segmenter.segment(image, zoom=1.0)
    assert (
        segmentation.labels.shape
        == segmentation.boundary.shape
        == segmentation.probability.shape
        == image.shape
    )
    if method != "tem":  # which detects both flanks of a line as boundaries
        assert segmentation.labels.max() == 30
    np.testing.assert_array_equal(segment_image(image, method, zoom=1.0).labels, segmentation.labels)


def test_the_old_name_of_the_label_free_method_still_works():
    assert load_segmenter("labour-free").card["name"] == load_segmenter(weights="labour-free").card["name"]


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("magic", {}, "method must be one of auto, .*got 'magic'"),
        ("label-free", {"tolerance": 0.1}, "method label-free has no setting tolerance"),
        ("ridge", {"weights": "tem"}, "method ridge takes no weights, got tem"),
        ("label-free", {"weights": "nobody"}, "nobody: no such weights"),
        ("tem", {"device": "abacus"}, "device 'abacus'"),
        ("label-free", {"twins": True}, "method label-free has no setting twins"),
        ("auto", {"weights": "labour-free", "twins": True}, "weights labour-free do not tell twins apart"),
    ],
)
def test_unsupported_settings_of_a_method_are_named(method, settings, words):
    with pytest.raises(ValueError, match=words):
        load_segmenter(method, **settings)


def test_a_perfect_segmentation_scores_perfectly():
    _, truth = grid(4, 5)
    labels, _ = ndimage.label(~truth)
    scores = score(truth, truth, labels)
    assert scores.pop("grains") == 20
    for name in ("count error", "adapted Rand error", "split, bits", "merge, bits"):
        assert scores.pop(name) == pytest.approx(0, abs=1e-9)
    assert list(scores.values()) == pytest.approx([1.0] * len(scores))


def test_the_trivial_predictor_gets_the_expected_scores(segmenter):
    image, truth = grid(4, 5)
    sample = Micrograph(image, name="grid", boundary=truth, virtual=True, about="drawn")
    table = samples.compare(sample, segmenter.segment(image))
    assert list(table.index) == [
        "U-Net",
        "threshold",
        "gradient watershed",
        "ridge",
        "ridge, our watershed",
        "trivial",
    ]
    trivial = table.loc["trivial"]
    assert trivial["grain IoU"] == pytest.approx((~truth).mean())
    assert trivial["boundary F1, 3 px"] == 0
    assert trivial["count error"] == pytest.approx(19 / 20)
    assert trivial["split, bits"] == pytest.approx(0, abs=1e-9)
    assert trivial["merge, bits"] > 4  # log2(20) = 4.3 bits for equal grains
    assert table.loc["U-Net", "count error"] == 0


def test_the_virtual_sample_is_seeded_labelled_and_true():
    one, two = (samples.virtual_sample(3, size=128, grains=10, steps=30) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    assert (one.image != samples.virtual_sample(4, size=128, grains=10, steps=30).image).any()
    assert one.virtual
    assert "virtual" in one.about
    assert one.pixel_size is None
    # grooves are dark: the truth must be aligned with the image
    assert one.image[one.boundary].mean() < one.image[~one.boundary].mean() - 0.1
    shifted = np.roll(one.boundary, 8, axis=1)
    assert one.image[one.boundary].mean() < one.image[shifted].mean() - 0.05


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((1, 1)), "1 x 1 pixels, both sides need"),
        (np.full((64, 64), np.nan), "NaN"),
        (np.full((64, 64), 0.5), "same grey"),
        (np.zeros((64, 64, 3)), "must be grey"),
    ],
)
def test_images_without_grains_are_refused(image, reason, segmenter):
    with pytest.raises(ValueError, match=reason):
        segmenter.segment(image)


@pytest.mark.skipif(
    not all(datasets.available(name) for name in samples.REAL_SAMPLES),
    reason="real micrographs are not here",
)
def test_real_samples_are_the_test_halves_and_never_called_virtual():
    perovskite, steel = samples.real_samples()
    assert perovskite.image.shape[1] == 1068 - 534
    assert steel.pixel_size == 0.2252
    for sample in (perovskite, steel):
        assert not sample.virtual
        assert sample.boundary.dtype == bool
        assert 0.05 < sample.boundary.mean() < 0.3
