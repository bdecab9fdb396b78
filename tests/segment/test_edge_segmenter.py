"""The TEM segmenter: what changes its result, what must not, how it stops, what it refuses."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from edge_nets import patchwork, save_edge_segmenter
from skimage.measure import label
from skimage.transform import rescale
from torch import Tensor, nn

from microlab.data import weights
from microlab.data.errors import InputError
from microlab.data.transforms import stretch
from microlab.measure.grain_size import mean_intercept
from microlab.measure.instance import adapted_rand_error
from microlab.segment.edge_segmenter import EdgeSegmenter, channels_of, finish_settings, finished
from microlab.segment.edges import fused_edges
from microlab.segment.refine import NotConverged, finish
from microlab.segment.uncertainty import estimate_uncertainty

TURNS = {
    "left-right": lambda a: a[..., ::-1],
    "up-down": lambda a: a[..., ::-1, :],
    "quarter": lambda a: np.rot90(a, axes=(-2, -1)),
}


class Same(nn.Module):
    """Returns the map unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(x[:, :1].double(), eps=1e-9)


class Negative(nn.Module):
    """Inverts the map, so the iteration oscillates."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit(1 - x[:, :1].double(), eps=1e-9)


class Leftmost(nn.Module):
    """Marks the left third of its input as boundary, so its views contradict one another."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.full_like(x[:, :1], -9)
        logits[..., : x.shape[-1] // 3] = 9
        return logits


class Everywhere(nn.Module):
    """Marks every pixel as boundary."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, :1], 9)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> EdgeSegmenter:
    return EdgeSegmenter.load(save_edge_segmenter(tmp_path_factory.mktemp("weights")), "cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return patchwork(4, 5)


@pytest.fixture(scope="module")
def result(picture, segmenter):
    return segmenter.segment(picture)


def changed(segmenter: EdgeSegmenter, net2: nn.Module | None = None, **entries) -> EdgeSegmenter:
    """The segmenter with another second network, or other entries of the card."""
    return replace(segmenter, net2=net2 or segmenter.net2, card=segmenter.card | entries)


def truth(rows: int, columns: int, cell: int = 32) -> np.ndarray:
    y, x = np.mgrid[: rows * cell, : columns * cell] // cell
    return 1 + x + columns * y


# ---- channels --------------------------------------------------------------------------------------------


def test_channels_are_selected_by_name_in_the_given_order(picture):
    sobel, log, canny = fused_edges(picture)
    channels = channels_of(picture, ["canny", "grey", "sobel"])
    assert channels.dtype == np.float32
    np.testing.assert_array_equal(channels[0], canny)
    np.testing.assert_allclose(channels[1], stretch(picture, 1, 99), atol=1e-6)
    np.testing.assert_array_equal(channels[2], sobel)
    np.testing.assert_array_equal(channels_of(picture)[1], log)


@pytest.mark.parametrize("inputs", [["sobel", "roberts"], [], "edges"])
def test_an_unknown_channel_is_named_with_the_choices(picture, inputs):
    with pytest.raises(ValueError, match=r"sobel, log, canny, grey, got (roberts|none|edges)"):
        channels_of(picture, inputs)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_turned_image_gives_turned_channels(picture, turn):
    inputs = ("sobel", "log", "canny", "grey")
    # rounding decides ties between neighbours, so a few pixels may differ
    differs = np.abs(turn(channels_of(picture, inputs)) - channels_of(turn(picture), inputs)) > 1e-6
    assert differs.mean() < 0.002


# ---- from the image to the grains ------------------------------------------------------------------------


def test_every_grain_of_a_drawn_picture_is_found(picture, result):
    assert result.labels.max() == 20
    assert result.labels.dtype == np.int32
    assert result.labels.min() == 1  # grains fill the image
    assert adapted_rand_error(truth(4, 5), result.labels) < 0.05
    for values, dtype in ((result.first, np.float32), (result.probability, np.float32)):
        assert values.shape == picture.shape
        assert values.dtype == dtype
    assert result.boundary.dtype == bool
    assert set(np.unique(result.agreement)) <= {0, 1, 2, 3}
    assert (result.agreement > 0).sum() == fused_edges(picture).any(0).sum()


def test_grains_meet_inside_the_boundary_and_lose_no_area_to_it(result):
    regions = label(~result.boundary, connectivity=1)
    for region in range(1, regions.max() + 1):
        assert len(np.unique(result.labels[regions == region])) == 1
    areas = np.bincount(result.labels.ravel())[1:]
    between = np.bincount(finish(result.probability)[1].ravel())[1:]
    assert areas.mean() == 32**2
    assert between.mean() < 0.9 * 32**2  # what would be measured without


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_turned_image_gives_turned_grains_where_the_networks_prefer_no_direction(
    picture, segmenter, result, turn
):
    turned = segmenter.segment(turn(picture))
    assert turned.labels.max() == result.labels.max()
    assert adapted_rand_error(turn(result.labels), turned.labels) < 0.02
    assert np.abs(turned.probability - turn(result.probability)).mean() < 0.002


@pytest.mark.parametrize(("gain", "offset"), [(1, 0.3), (0.2, 0.0), (255, 10), (1e-3, 5e3)])
def test_brightness_and_contrast_change_nothing(picture, segmenter, result, gain, offset):
    other = segmenter.segment(gain * picture.astype(float) + offset)
    assert np.abs(other.probability - result.probability).max() < 1e-6
    np.testing.assert_array_equal(other.labels, result.labels)


def test_a_grey_channel_is_passed_to_the_networks(tmp_path, picture):
    segmenter = EdgeSegmenter.load(save_edge_segmenter(tmp_path, ["sobel", "log", "canny", "grey"]), "cpu")
    # The grey contributes too, so grains differ; this tests that the channel is passed on.
    segmentation = segmenter.segment(picture)
    assert segmentation.channels.shape == (4, *picture.shape)
    np.testing.assert_allclose(segmentation.channels[3], stretch(picture, 1, 99), atol=1e-5)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_grains_of_any_size_are_scaled_to_the_size_of_the_training(tmp_path, size):
    segmenter = EdgeSegmenter.load(save_edge_segmenter(tmp_path, grain_size_px=32.0), "cpu")
    image = rescale(patchwork(5, 6), size, order=1, anti_aliasing=size < 1)
    segmentation = segmenter.segment(image)
    expected = 32.0 / (size * mean_intercept(truth(5, 6)))
    assert segmentation.zoom == pytest.approx(expected, rel=0.4)  # one rung of the ladder of zooms
    for values in (
        segmentation.labels,
        segmentation.probability,
        segmentation.first,
        segmentation.agreement,
        segmentation.boundary,
    ):
        assert values.shape == image.shape
    assert segmentation.channels.shape[1:] == segmentation.refinement.result.shape
    assert segmentation.labels.max() == 30


def test_without_a_grain_size_on_the_card_the_image_is_taken_as_it_is(result):
    assert result.zoom == 1


def test_a_blank_middle_does_not_stop_the_search_for_the_scale(tmp_path):
    segmenter = EdgeSegmenter.load(save_edge_segmenter(tmp_path, grain_size_px=32.0), "cpu")
    image = patchwork(16, 16)
    image[160:352, 160:352] = 0.5  # the whole window at the end of the ladder of zooms
    assert segmenter.estimate_zoom(image) == pytest.approx(1, rel=0.4)


def test_the_card_counts_lengths_in_pixels_of_the_networks():
    """Magnified by two before the networks, their disc of 2 px is one of 1 px in the image."""
    line = np.zeros((40, 40), np.float32)
    line[:, 18:23] = 1
    line[19:22] = 0  # a gap of 3 px in a line 5 px wide: a disc of radius 2 closes it, one of 1 does not
    finish = {"method": "paper"}
    assert finished(line, finish, 1.0)[1].max() == 2
    assert finished(line, finish, 2.0)[1].max() == 1
    speck = np.ones((40, 40), np.float32)
    speck[:, :5], speck[10:18, 20:28] = 0, 0
    assert finished(speck, finish, 1.0)[1].max() == 2  # 64 px, at least 30
    assert finished(speck, finish, 0.5)[1].max() == 1  # 30 px of the networks are 120 here


def test_the_card_selects_the_finish(picture, segmenter, result):
    segmentation = changed(segmenter, finish={"method": "watershed", "threshold": 0.3}).segment(picture)
    np.testing.assert_array_equal(segmentation.probability, result.probability)
    assert segmentation.labels.max() == 20
    assert (segmentation.boundary != result.boundary).any()
    strict = changed(segmenter, finish={"method": "paper", "min_area": 2000}).segment(picture)
    assert strict.labels.max() == 0  # every grain is smaller


# ---- stopping --------------------------------------------------------------------------------------------


def test_an_unchanged_map_converges_after_one_step(picture, segmenter):
    segmentation = replace(segmenter, net2=Same()).segment(picture)
    assert segmentation.refinement.converged
    assert segmentation.refinement.iterations == 1
    np.testing.assert_allclose(segmentation.probability, segmentation.first, atol=1e-6)


def test_an_oscillating_map_reaches_the_cap_and_warns(picture, segmenter):
    oscillating = replace(segmenter, net2=Negative())
    with pytest.warns(NotConverged, match="cap of 50 iterations"):
        segmentation = oscillating.segment(picture)
    assert not segmentation.refinement.converged
    with pytest.warns(NotConverged, match="cap of 3 iterations"):
        segmentation = changed(oscillating, max_iterations=3).segment(picture)
    # An odd number of inversions.
    np.testing.assert_allclose(segmentation.probability, 1 - segmentation.first, atol=1e-4)


def test_the_rule_on_the_card_is_used_unless_one_is_given(picture, tmp_path):
    folder = save_edge_segmenter(tmp_path, tolerance=0.5)
    assert EdgeSegmenter.load(folder, "cpu").segment(picture).refinement.iterations == 1
    strict = EdgeSegmenter.load(folder, "cpu", tolerance=1e-5).segment(picture).refinement
    assert strict.iterations > 3
    assert strict.changes[-1] < 1e-5
    with pytest.warns(NotConverged, match="cap of 1 "):
        EdgeSegmenter.load(folder, "cpu", tolerance=1e-5, max_iterations=1).segment(picture)


# ---- result and uncertainty -----------------------------------------------------------------------------


def test_maps_tables_and_record_describe_the_refinement(picture, result):
    refinement = result.refinement
    assert set(result.maps) == {"boundary", "iterations"}
    np.testing.assert_array_equal(result.maps["iterations"], refinement.maps)
    np.testing.assert_array_equal(result.tables["changes"]["mean_change"], refinement.changes)
    assert (result.record["iterations"], result.record["converged"]) == (refinement.iterations, True)
    assert result.status == f"{refinement.iterations} iterations, converged"


def test_intermediate_maps_need_not_be_kept(picture, segmenter, result):
    segmentation = segmenter.segment(picture, keep=False)
    assert set(segmentation.maps) == {"boundary"}
    assert len(segmentation.refinement.maps) == 2
    np.testing.assert_array_equal(segmentation.labels, result.labels)


def test_without_a_grain_every_label_is_zero(picture, segmenter):
    assert not replace(segmenter, net2=Everywhere()).segment(picture).labels.any()


def test_views_agree_where_the_networks_prefer_no_direction(picture, segmenter):
    uncertainty = segmenter.segment(picture, uncertainty=True).uncertainty
    assert uncertainty.deviation_map.shape == picture.shape
    assert uncertainty.deviation < 1e-3
    assert uncertainty.disagreement < 0.02
    assert np.isnan(uncertainty.models)


def test_views_of_a_lopsided_network_contradict_each_other_and_zooming_keeps_the_size(picture, segmenter):
    lopsided = replace(segmenter, net1=Leftmost(), net2=Same())
    uncertainty = estimate_uncertainty(picture[:, :128], lopsided)
    # Turned back, the third lies at each of the four sides in two of the eight views.
    np.testing.assert_allclose(uncertainty.deviation_map[60:70, :40], np.sqrt(0.25 * 0.75), atol=0.01)
    assert uncertainty.deviation_map[60:70, 60:70].max() < 1e-3
    zoomed = estimate_uncertainty(picture, lopsided, 0.75, views=2)
    assert zoomed.deviation_map.shape == picture.shape


def test_views_that_reach_the_cap_do_not_warn_again(picture, segmenter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate_uncertainty(picture, changed(segmenter, net2=Negative(), max_iterations=2), views=2)


# ---- what is refused -------------------------------------------------------------------------------------

UNFIT = [
    (np.random.default_rng(0).random((40, 40, 3)), "grey.*colour; average it"),
    (np.random.default_rng(0).random(40), r"\(H, W\)"),
    (np.random.default_rng(0).random((16, 40)), "(at least 17|larger field)"),
    (np.full((40, 40), 0.4), "constant.*0.4"),
    (np.where(np.eye(40), np.nan, 0.5), "NaN"),
    (np.where(np.eye(40), np.inf, 0.5), "infinite"),
]


@pytest.mark.parametrize("entry_point", ["channels_of", "zoom given", "zoom estimated", "uncertainty"])
@pytest.mark.parametrize(
    ("image", "words"), UNFIT, ids=["RGB", "1-D", "small", "constant", "NaN", "infinite"]
)
def test_every_entry_point_refuses_an_unfit_image_and_names_the_reason(segmenter, entry_point, image, words):
    calls = {
        "channels_of": lambda: channels_of(image),
        "zoom given": lambda: segmenter.segment(image, zoom=2.0),
        "zoom estimated": lambda: changed(segmenter, grain_size_px=20.0).segment(image),
        "uncertainty": lambda: estimate_uncertainty(image, segmenter),
    }
    with pytest.raises(InputError, match=words):
        calls[entry_point]()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"zoom": 0}, "zoom must be a positive number, got 0"),
        ({"zoom": np.nan}, "zoom"),
        ({"zoom": 0.1}, "160 x 128 pixels; at zoom 0.1 .* fewer than 17; give a larger zoom"),
        ({"tolerance": 0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_a_wrong_setting_is_named(picture, segmenter, settings, words):
    zoom = settings.pop("zoom", None)
    with pytest.raises(ValueError, match=words):
        changed(segmenter, **settings).segment(picture, zoom=zoom)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"inputs": ["sobel"]}, r"net1 takes 3 channels, but the card's inputs \(sobel\) need 1; .*together"),
        ({"inputs": ["sobel", "log", "eye"]}, "inputs.*got eye"),
        ({"grain_size_px": -3}, "grain_size_px.*-3"),
        ({"finish": {"method": "magic"}}, "paper or watershed, got 'magic'"),
        ({"finish": {"method": "paper", "neck": 2}}, "threshold, radius, min_area, got 'neck'"),
        ({"finish": {"method": "watershed", "gaps": True}}, "got 'gaps'"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, segmenter, entries, words):
    with pytest.raises(ValueError, match=words):
        changed(segmenter, **entries)
    folder = save_edge_segmenter(tmp_path)
    path = folder / "first.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(weights.WeightsError, match=words) as error:
        EdgeSegmenter.load(folder)
    assert str(folder) in str(error.value)


def test_networks_that_were_not_trained_together_are_refused(tmp_path):
    three, four = (
        save_edge_segmenter(tmp_path / "3"),
        save_edge_segmenter(tmp_path / "4", ["sobel", "log", "canny", "grey"]),
    )
    for suffix in ("safetensors", "json"):
        (three / f"refine.{suffix}").write_bytes((four / f"refine.{suffix}").read_bytes())
    with pytest.raises(ValueError, match=r"net2 takes 5 channels, but .* need a map and 3; choose weights"):
        EdgeSegmenter.load(three)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nobody: no such weights; give tem or a folder with first"):
        EdgeSegmenter.load("nobody")
    with pytest.raises(ValueError, match=r"first\.safetensors"):
        EdgeSegmenter.load(tmp_path)
    folder = save_edge_segmenter(tmp_path / "swapped")
    for suffix in ("safetensors", "json"):
        (folder / f"first.{suffix}").write_bytes((folder / f"refine.{suffix}").read_bytes())
    with pytest.raises(ValueError, match="holds a RefineNet, not a EdgeNet"):
        EdgeSegmenter.load(folder)


def test_a_card_without_settings_gets_those_of_the_paper(segmenter):
    bare = EdgeSegmenter(Same(), Same(), {})
    assert bare.card["inputs"] == ["sobel", "log", "canny"]
    assert (bare.card["tolerance"], bare.card["max_iterations"]) == (0.003, 50)
    assert finish_settings(bare.card["finish"]) == ("paper", {"threshold": 0.2, "radius": 2, "min_area": 30})
    assert (
        segmenter.card["first"]["trained_by"] == segmenter.card["refine"]["trained_by"] == "written by hand"
    )


@pytest.mark.skipif("tem-first" not in weights.available(), reason="the pair is not in this checkout yet")
def test_the_shipped_pair_fits_and_loads():
    segmenter = EdgeSegmenter.load()
    assert segmenter.card["name"] == "tem"
    assert segmenter.card["grain_size_px"] > 0
    assert segmenter.segment(patchwork(2, 3), zoom=1.0).labels.shape == (64, 96)
