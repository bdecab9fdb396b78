"""Pairs of image and mask: packed, cleaned, dreamed, checked against real ones, written and read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage
from skimage.feature import match_template
from skimage.measure import regionprops
from sklearn.cluster import KMeans

from microlab.data.datasets import available, load
from microlab.data.pairs import Pair, read_labelled, read_pairs, write_pairs
from microlab.generate.masks import clean_mask, least_areas, object_areas, objects
from microlab.generate.novelty import _correlations, _unit, check_pairs, nearest_real
from microlab.generate.pairs import dream, pack, unpack
from microlab.generate.pixelcnn import GatedPixelCNN, PixelCNN
from microlab.generate.sampling import sample
from microlab.generate.vqvae import VQVAE

STEP = 1 / 3  # between the grey levels of four classes


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


def some_pairs(n: int = 3, size: int = 48) -> list[Pair]:
    rng = np.random.default_rng(1)
    return [
        Pair(texture(size, k), rng.integers(0, 3, (size, size)).astype(np.uint8), f"p{k}") for k in range(n)
    ]


# --- packing


@pytest.mark.parametrize("coding", ["grey", "one-hot"])
@pytest.mark.parametrize("image_channels", [1, 3])
def test_unpacking_gives_back_what_was_packed(coding: str, image_channels: int) -> None:
    how = {"classes": 4, "coding": coding, "image_channels": image_channels}
    image, mask = texture(32, 0), np.random.default_rng(0).integers(0, 4, (32, 32)).astype(np.uint8)
    channels = pack(image, mask, **how)
    assert channels.shape == (image_channels + (1 if coding == "grey" else 4), 32, 32)
    assert channels.dtype == np.float32
    back, raw = unpack(channels, **how)
    for plane in np.moveaxis(np.atleast_3d(back), 2, 0):
        np.testing.assert_array_equal(plane, image)
    np.testing.assert_array_equal(clean_mask(raw, 4, min_area=0), mask)
    if coding == "grey":
        np.testing.assert_allclose(raw, mask / 3, atol=1e-7)
    else:
        np.testing.assert_array_equal(raw, mask)


def test_colour_images_keep_their_colours() -> None:
    image = np.stack([texture(16, k) for k in range(3)], axis=2)
    back, _ = unpack(pack(image, np.zeros((16, 16), int), classes=2), classes=2)
    np.testing.assert_array_equal(back, image)


def test_decoded_values_outside_the_range_are_clipped() -> None:
    channels = np.full((4, 8, 8), 1.7, np.float32)
    channels[3] = -0.4
    image, raw = unpack(channels, classes=4)
    assert image.max() == 1
    assert raw.min() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((8, 9), int)}, r"mask \(8, 9\) and image \(8, 8\) differ in size"),
        ({"mask": np.full((8, 8), 4)}, "holds the values 4; 4 classes are 0..3"),
        ({"mask": np.full((8, 8), -1)}, "holds the values -1"),
        ({"mask": np.zeros((8, 8))}, "whole numbers"),
        ({"image": np.full((8, 8), 1.5)}, "from 0 to 1"),
        ({"image": np.full((8, 8), np.nan)}, "finite"),
        ({"image": np.zeros((8, 8, 3)), "image_channels": 1}, "colour image"),
        ({"image": np.zeros((8, 8, 2))}, "image must be"),
        ({"coding": "gray"}, "coding must be one of"),
        ({"image_channels": 2}, "image_channels must be 1 or 3"),
        ({"classes": 1}, "classes must be at least 2"),
    ],
)
def test_what_cannot_be_packed_is_refused(change: dict, message: str) -> None:
    given = {"image": np.zeros((8, 8)), "mask": np.zeros((8, 8), int), "classes": 4} | change
    with pytest.raises(ValueError, match=message):
        pack(given.pop("image"), given.pop("mask"), **given)


def test_unpacking_refuses_another_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"must be \(7, H, W\)"):
        unpack(np.zeros((4, 8, 8)), classes=4, coding="one-hot")


# --- cleaning


def test_grey_noise_salt_and_small_objects_are_cleaned_exactly() -> None:
    truth = discs()
    rng = np.random.default_rng(0)
    raw = truth * STEP + 0.03 * rng.standard_normal(truth.shape)  # 5.5 standard deviations to halfway levels
    # Salt and pepper off the rims: on a rim both sides are as near, and the right one cannot be known.
    rim = ndimage.binary_dilation(truth > 0, iterations=2) & ~ndimage.binary_erosion(truth > 0, iterations=2)
    salt = (rng.random(truth.shape) < 0.01) & ~rim
    raw[salt] = rng.integers(0, 4, salt.sum()) * STEP
    raw[60:70, 5:20] = STEP * 3  # an object of 150 px, alone on the background
    raw[28:36, 28:36] = 0  # a hole of 64 px inside a disc
    raw[88:92, 88:92] = 1.5 * STEP  # a grey halfway between two classes
    assert (clean_mask(raw.clip(0, 1), 4, min_area=0) != truth).sum() > 300
    cleaned = clean_mask(raw.clip(0, 1), 4)
    np.testing.assert_array_equal(cleaned, truth)
    assert cleaned.dtype == np.uint8


@pytest.mark.parametrize("present", [(), (1,), (3,), (1, 3), (2, 3)])
def test_an_absent_class_is_not_invented(present: tuple[int, ...]) -> None:
    truth = discs(classes=present)
    rng = np.random.default_rng(1)
    raw = truth * STEP + 0.03 * rng.standard_normal(truth.shape)  # 5.5 standard deviations to halfway levels
    np.testing.assert_array_equal(clean_mask(raw.clip(0, 1), 4, min_area=0), truth)


def test_k_means_on_the_histogram_is_k_means_on_the_pixels() -> None:
    raw = np.random.default_rng(2).random((64, 64)) ** 2
    levels = np.linspace(0, 1, 4)[:, None]
    pixels = KMeans(4, init=levels, n_init=1).fit(raw.reshape(-1, 1)).labels_.reshape(raw.shape)
    # 1023 levels: the few pixels within half a level of a bound may fall to its other side
    assert (clean_mask(raw, 4, min_area=0) != pixels).mean() < 0.003


def test_k_means_follows_levels_that_a_decoder_has_shifted_where_rounding_does_not() -> None:
    truth = discs()
    shifted = np.array([0.0, 0.25, 0.53, 0.85])[truth]  # class 2 halfway to class 1 but for 0.03
    raw = (shifted + 0.05 * np.random.default_rng(3).standard_normal(truth.shape)).clip(0, 1)
    rounded = np.rint(raw * 3).astype(int)
    cleaned = clean_mask(raw, 4, min_area=0)
    assert (cleaned != truth).mean() < 0.5 * (rounded != truth).mean()


def test_a_grey_border_between_far_classes_gets_a_rim_of_false_ones() -> None:
    truth = discs(classes=(3,))
    blurred = ndimage.gaussian_filter(truth * STEP, 1.5)
    rim = clean_mask(blurred, 4, min_area=0)
    false = np.isin(rim, (1, 2))
    assert false.sum() > 100
    distance = ndimage.distance_transform_edt(truth == 3) + ndimage.distance_transform_edt(truth == 0)
    assert distance[false].max() < 5  # all of it lies along the border
    # Each rim is shorter than 200 px: removing small objects mends it.
    cleaned = clean_mask(blurred, 4)
    assert set(np.unique(cleaned)) == {0, 3}
    assert (cleaned != truth).mean() < 0.002
    # One-hot channels have no levels to pass through.
    channels = np.stack(
        [np.zeros_like(blurred), *(ndimage.gaussian_filter(1.0 * (truth == c), 1.5) for c in range(4))]
    )
    _, raw = unpack(channels, classes=4, coding="one-hot", image_channels=1)
    assert set(np.unique(raw)) == {0, 3}
    assert (raw != truth).mean() < 0.002


def test_the_rim_of_a_large_object_is_too_large_to_be_removed() -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[:, 128:] = 3
    blurred = ndimage.gaussian_filter(truth * STEP, 1.5)
    assert set(np.unique(clean_mask(blurred, 4))) == {0, 1, 2, 3}  # what the docstring says is not enough


def test_no_object_under_the_least_area_is_left_and_larger_ones_stay() -> None:
    raw = ndimage.gaussian_filter(np.random.default_rng(4).random((3, 120, 120)), (0, 2, 2)).argmax(0)
    cleaned = clean_mask(raw, 3, min_area=60)
    for c in range(3):
        labels, _ = ndimage.label(cleaned == c, structure=np.ones((3, 3)))
        assert np.bincount(labels.ravel())[1:].min() >= 60
        before, _ = ndimage.label(raw == c, structure=np.ones((3, 3)))
        large = np.flatnonzero(np.bincount(before.ravel())[1:] >= 60) + 1
        assert (cleaned[np.isin(before, large)] == c).all()
    np.testing.assert_array_equal(clean_mask(cleaned, 3, min_area=60), cleaned)


def test_a_removed_object_is_parted_where_the_border_passes() -> None:
    raw = np.zeros((40, 40), np.uint8)
    raw[:, 20:] = 1
    truth = raw.copy()
    raw[15:25, 15:25] = 2  # 100 px across the border
    np.testing.assert_array_equal(clean_mask(raw, 3), truth)


def test_each_class_can_have_its_own_least_area() -> None:
    raw = np.zeros((60, 60), np.uint8)
    raw[5:15, 5:15] = 1
    raw[30:40, 30:40] = 2
    cleaned = clean_mask(raw, 3, min_area=(200, 200, 50))
    assert set(np.unique(cleaned)) == {0, 2}


def test_the_largest_object_stays_when_all_are_small() -> None:
    raw = np.zeros((10, 10), np.uint8)
    raw[:, 7:] = 1
    np.testing.assert_array_equal(clean_mask(raw, 2), np.zeros((10, 10)))


def test_objects_and_areas_agree_with_scipy_and_skimage() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(5).random((4, 90, 90)), (0, 1.5, 1.5)).argmax(0)
    areas = object_areas(mask, 5)
    assert len(areas[4]) == 0
    for c in range(4):
        labels, count = ndimage.label(mask == c, structure=np.ones((3, 3)))
        expected = sorted(region.area for region in regionprops(labels))
        assert len(areas[c]) == count
        assert sorted(areas[c]) == expected
    assert objects(mask).min() == 1


def test_least_areas_lose_no_more_than_the_share() -> None:
    mask = np.zeros((100, 100), np.uint8)
    for k in range(10):  # 10 specks of 4 px beside one object of 400 px: 9 % of class 1
        mask[2:4, 4 + 8 * k : 6 + 8 * k] = 1
    mask[40:60, 40:60] = 1
    mask[80:83, 80:83] = 2
    assert least_areas([mask], 4, share=0.08) == (200, 4, 9, 200)
    assert least_areas([mask], 4, share=0.1) == (200, 200, 9, 200)
    kept = clean_mask(mask, 4, min_area=least_areas([mask], 4, share=0.08))
    np.testing.assert_array_equal(kept, mask)


@pytest.mark.skipif(not available("uhcs"), reason="uhcs is not on this machine")
def test_the_paper_s_200_px_erase_the_spheroidite_of_uhcs_and_learnt_areas_do_not() -> None:
    masks = [sample.classes for sample in load("uhcs", "train")]

    def left(min_area: int | tuple[int, ...]) -> float:
        cleaned = [clean_mask(mask, 4, min_area=min_area) for mask in masks]
        kept = sum(((m == 2) & (truth == 2)).sum() for m, truth in zip(cleaned, masks))
        return kept / sum((m == 2).sum() for m in masks)

    assert left(200) < 0.1
    assert left(least_areas(masks, 4)) > 0.95


@pytest.mark.parametrize(
    ("raw", "given", "message"),
    [
        (np.zeros((4, 4, 1)), {}, r"raw mask must be \(H, W\)"),
        (np.full((4, 4), np.nan), {}, "not finite"),
        (np.full((4, 4), 7), {}, "holds the values 7"),
        (np.zeros((4, 4)), {"levels": (0, 1, 0.5)}, "levels must be 3 rising"),
        (np.zeros((4, 4)), {"min_area": -1}, "min_area"),
        (np.zeros((4, 4)), {"min_area": (1, 2)}, "min_area"),
    ],
)
def test_what_cannot_be_cleaned_is_refused(raw: np.ndarray, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean_mask(raw, 3, **given)


# --- dreaming


def tiny(coding: str = "grey", **options: int) -> VQVAE:
    return VQVAE(4, coding=coding, hidden=8, residual=4, dim=4, codes=5, **options)


@pytest.mark.parametrize("coding", ["grey", "one-hot"])
@pytest.mark.parametrize("network", [PixelCNN, GatedPixelCNN])
def test_dreams_are_pairs_and_the_seed_settles_them(coding: str, network: type) -> None:
    prior = network(codes=5, channels=4, layers=1)
    first, again, other = (
        dream(tiny(coding), prior, 3, shape=(32, 48), min_area=4, batch=2, seed=seed) for seed in (1, 1, 2)
    )
    assert [pair.name for pair in first] == ["dream_0000", "dream_0001", "dream_0002"]
    for pair, same in zip(first, again):
        assert pair.image.shape == pair.mask.shape == (32, 48)
        assert pair.image.dtype == np.float32
        assert pair.mask.dtype == np.uint8
        assert 0 <= pair.image.min() <= pair.image.max() <= 1
        assert pair.mask.max() < 4
        np.testing.assert_array_equal(pair.image, same.image)
        np.testing.assert_array_equal(pair.mask, same.mask)
    assert any((a.image != b.image).any() for a, b in zip(first, other))


def test_a_dream_is_the_cleaned_decoding_of_the_sampled_codes() -> None:
    vqvae, prior = tiny(), GatedPixelCNN(codes=5, channels=4, layers=1)
    (pair,) = dream(vqvae, prior, 1, shape=(32, 32), min_area=9, grey=False, seed=4)
    codes = sample(prior, 1, (8, 8), seed=4)
    decoded = vqvae.decode(torch.as_tensor(codes))[0].detach().numpy()
    np.testing.assert_allclose(pair.image, decoded[:3].transpose(1, 2, 0).clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(pair.mask, clean_mask(decoded[3].clip(0, 1), 4, min_area=9))


def test_a_condition_reaches_the_prior() -> None:
    prior = GatedPixelCNN(codes=5, channels=4, layers=1, condition=4)
    (pair,) = dream(tiny(), prior, 1, shape=(16, 16), condition=[0.5, 0.2, 0.2, 0.1])
    assert pair.mask.shape == (16, 16)
    with pytest.raises(ValueError, match="condition"):
        dream(tiny(), prior, 1, shape=(16, 16), condition=[0.5, 0.5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be"),
        ({"shape": (30, 32)}, "multiples of 4"),
        ({"shape": (0, 32)}, "multiples of 4"),
    ],
)
def test_dreams_that_cannot_be_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dream(tiny(), PixelCNN(codes=5, channels=4, layers=1), **({"n": 1} | given))


def test_a_prior_of_other_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="knows 7 codes and the VQ-VAE 5"):
        dream(tiny(), PixelCNN(codes=7, channels=4, layers=1), 1)


# --- checks against real pairs


def test_the_table_counts_what_was_drawn() -> None:
    drawn = Pair(texture(128, 0), discs(classes=(1, 1, 3)))
    empty = Pair(texture(128, 0), discs(classes=()))
    table = check_pairs([drawn], [drawn, empty], 4)
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
        check_pairs([drawn], [], 4)


def test_correlations_are_those_of_skimage() -> None:
    rng = np.random.default_rng(6)
    patches, real = rng.random((3, 7, 7)), rng.random((20, 33))
    for score, patch in zip(_correlations(_unit(patches), real), patches):
        np.testing.assert_allclose(score, match_template(real, patch), atol=1e-10)


def test_a_copy_is_found_where_it_was_cut_turned_and_in_other_contrast() -> None:
    real = [texture(160, seed) for seed in (1, 2)]
    copy = 0.2 + 0.5 * np.rot90(real[1][22:86, 41:105]).clip(0, 1)  # corner on no multiple of the step
    new = texture(64, 9)
    table = nearest_real([copy, new], real, patch=64)
    found = table.iloc[0]
    assert (found["image"], found["real"]) == (0, 1)
    assert abs(found["real_y"] - 22) <= 2  # half a step
    assert abs(found["real_x"] - 41) <= 2
    np.testing.assert_array_equal(  # the turn leads from the copy back to the real window
        np.rot90(copy, int(found["turn"])), (0.2 + 0.5 * real[1][22:86, 41:105]).clip(0, 1)
    )
    assert found["distance"] < 0.1
    assert table["distance"][1] > 3 * found["distance"]
    unturned = nearest_real([copy], real, patch=64, turns=False)
    assert unturned["distance"][0] > 3 * found["distance"]


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


# --- files


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    pairs = some_pairs()
    manifest = write_pairs(tmp_path / "set", pairs, classes=4, about={"seed": 3})
    assert manifest == tmp_path / "set" / "manifest.json"
    for pair, back in zip(pairs, read_pairs(tmp_path / "set"), strict=True):
        assert back.name == pair.name
        assert back.image.dtype == np.float32
        np.testing.assert_allclose(back.image, pair.image, atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(back.mask, pair.mask)


def test_other_programs_open_the_files_and_the_manifest_tells_the_truth(tmp_path: Path) -> None:
    pairs = some_pairs()
    manifest = json.loads(write_pairs(tmp_path, pairs, classes=4, about={"seed": 3}).read_text())
    assert manifest["about"] == {"seed": 3}
    assert manifest["classes"] == 4
    on_disk = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()}
    named = {file for row in manifest["pairs"] for file in row["sha256"]}
    assert on_disk == {*named, "manifest.json"}
    for row, pair in zip(manifest["pairs"], pairs, strict=True):
        image, mask = tifffile.imread(tmp_path / row["image"]), tifffile.imread(tmp_path / row["mask"])
        assert (image.dtype, mask.dtype) == (np.uint8, np.uint8)
        assert image.shape == mask.shape == tuple(row["shape"]) == (48, 48)
        np.testing.assert_array_equal(mask, pair.mask)
        with Image.open(tmp_path / row["mask"]) as opened:
            assert opened.mode == "L"
        colours = np.asarray(Image.open(tmp_path / row["mask_colour"]))
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
        assert (colours[pair.mask == 0] == 0).all()
        np.testing.assert_allclose(row["class_fractions"], [(pair.mask == c).mean() for c in range(4)])
        for file, digest in row["sha256"].items():
            assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == digest
    np.testing.assert_allclose(sum(manifest["class_fractions"]), 1)


def test_colour_images_are_written_in_colour(tmp_path: Path) -> None:
    image = np.stack([texture(16, k) for k in range(3)], axis=2)
    write_pairs(tmp_path, [Pair(image, np.zeros((16, 16), np.uint8), "a")], classes=2)
    (back,) = read_pairs(tmp_path)
    np.testing.assert_allclose(back.image, image, atol=0.5 / 255 + 1e-6)


def test_a_complete_set_is_never_overwritten(tmp_path: Path) -> None:
    manifest = write_pairs(tmp_path, some_pairs(), classes=4)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a set of pairs"):
        write_pairs(tmp_path, some_pairs(1, 16), classes=4)
    assert {path: path.read_bytes() for path in before} == before
    assert manifest in before


@pytest.mark.slow
def test_a_kill_while_writing_leaves_no_false_set_and_writing_again_completes_it(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from microlab.data.pairs import Pair, write_pairs
image = np.random.default_rng(0).random((256, 256)).astype(np.float32)
pairs = [Pair(image, np.zeros((256, 256), np.uint8), f"p{k:04d}") for k in range(4000)]
write_pairs(sys.argv[1], pairs, classes=2)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "images" / "p0003.tif").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    whole = [path for path in tmp_path.rglob("*.tif") if not path.name.startswith(".")]
    assert len(whole) >= 4
    for path in whole:
        assert tifffile.imread(path).shape == (256, 256)  # no half files
    with pytest.raises(ValueError, match="has no manifest"):
        read_pairs(tmp_path)
    pairs = some_pairs()
    write_pairs(tmp_path, pairs, classes=3)
    assert len(read_pairs(tmp_path)) == len(pairs)


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, some_pairs(), classes=3)
    mask = tmp_path / "masks" / "p1.tif"
    tifffile.imwrite(mask, np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match=r"p1\.tif: differs from its checksum"):
        read_pairs(tmp_path)
    mask.unlink()
    with pytest.raises(ValueError, match=r"p1\.tif: named by the manifest and missing"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs"),
        ([Pair(np.zeros((8, 8)), np.full((8, 8), 3), "a")], "mask of a holds the values 3; 3 classes"),
        ([Pair(np.zeros((8, 9)), np.zeros((8, 8), int), "a")], "differ in size: a"),
        ([Pair(np.zeros((8, 8)), np.zeros((8, 8), int), "../a")], "no file name"),
        ([Pair(np.zeros((8, 8)), np.zeros((8, 8), int))], "no file name"),
        ([Pair(np.zeros((8, 8)), np.zeros((8, 8), int), name) for name in ("a", "A")], "names of the pairs"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_file(
    pairs: list[Pair], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_pairs(tmp_path / "set", pairs, classes=3)
    assert not (tmp_path / "set").exists()


def test_settings_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="about must hold only what JSON can"):
        write_pairs(tmp_path / "set", some_pairs(), classes=3, about={"seed": np.int64(3)})


# --- a user's own labelled images


def labelled(folder: Path, n: int = 3, suffix: str = ".png") -> tuple[Path, Path]:
    """Folders of `n` images and masks of classes 0, 1, 2."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for pair in some_pairs(n):
        Image.fromarray((pair.image * 255).astype(np.uint8)).save(folder / "images" / f"{pair.name}.png")
        Image.fromarray(pair.mask).save(folder / "masks" / f"{pair.name}{suffix}")
    return folder / "images", folder / "masks"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_user_s_folders_are_read(suffix: str, tmp_path: Path) -> None:
    pairs, classes = read_labelled(*labelled(tmp_path, suffix=suffix))
    assert classes == 3
    for pair, drawn in zip(pairs, some_pairs(), strict=True):
        assert pair.name == drawn.name
        np.testing.assert_array_equal(pair.mask, drawn.mask)
        np.testing.assert_allclose(pair.image, drawn.image, atol=1 / 255)


def test_written_sets_are_labelled_folders_too(tmp_path: Path) -> None:
    write_pairs(tmp_path, some_pairs(), classes=3)
    pairs, classes = read_labelled(tmp_path / "images", tmp_path / "masks")
    assert (len(pairs), classes) == (3, 3)


def test_palette_masks_count_by_their_index(tmp_path: Path) -> None:
    images, masks = labelled(tmp_path)
    for path in masks.iterdir():
        picture = Image.open(path).copy()
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        picture.save(path)
        assert Image.open(path).mode == "P"
    pairs, classes = read_labelled(images, masks)
    assert classes == 3
    np.testing.assert_array_equal(pairs[0].mask, some_pairs()[0].mask)


def test_a_data_bar_is_cut_off_the_mask_too(tmp_path: Path) -> None:
    images, masks = labelled(tmp_path)
    for path in images.iterdir():
        picture = np.asarray(Image.open(path))
        bar = np.zeros((16, 48), np.uint8)
        bar[4:12, 4:20] = 255
        Image.fromarray(np.concatenate([picture // 2 + 60, bar])).save(path)
    for path in masks.iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.concatenate([mask, np.zeros((16, 48), np.uint8)])).save(path)
    pairs, _ = read_labelled(images, masks)
    assert {pair.image.shape for pair in pairs} == {pair.mask.shape for pair in pairs} == {(48, 48)}


def _one_image(images: Path, masks: Path) -> None:
    for k in (1, 2):
        (images / f"p{k}.png").unlink()
        (masks / f"p{k}.png").unlink()


def _resave(path: Path, change: object) -> None:
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


@pytest.mark.parametrize(
    ("spoil", "classes", "message"),
    [
        (_one_image, None, "labelled images found: 1; at least 2"),
        (lambda i, m: (m / "p2.png").unlink(), None, "3 images and .* 2 masks, .* no partner .*: p2"),
        (lambda i, m: (m / "p2.png").rename(m / "p9.png"), None, "no partner .*: p2, p9"),
        (
            lambda i, m: _resave(m / "p1.png", lambda a: a[:-1]),
            None,
            r"\(47, 48\) and image \(48, 48\) .* .*p1",
        ),
        (lambda i, m: None, 2, r"p0\.png holds the values 0, 1, 2; 2 classes are 0\.\.1"),
        (
            lambda i, m: [_resave(p, lambda a: a * 100) for p in m.iterdir()],
            None,
            "values 0, 100, 200; classes",
        ),
        (lambda i, m: [_resave(p, lambda a: a * 0) for p in m.iterdir()], None, "at least two"),
        (
            lambda i, m: _resave(m / "p1.png", lambda a: np.stack([a] * 3, -1)),
            None,
            "p1.png: is a colour pic",
        ),
        (lambda i, m: (m / "p1.png").rename(m / "p1.jpg"), None, "JPEG blurs class ids"),
        (lambda i, m: (m / "p1.png").write_bytes(b"nothing"), None, r"p1\.png"),
        (lambda i, m: (i / "p1.png").write_bytes(b""), None, r"p1\.png: is empty"),
        (lambda i, m: (m / "p1.tif").write_bytes(b"x"), None, "have one name"),
    ],
)
def test_bad_input_is_refused_with_what_is_wrong(
    spoil: object, classes: int | None, message: str, tmp_path: Path
) -> None:
    images, masks = labelled(tmp_path)
    spoil(images, masks)
    with pytest.raises(ValueError, match=message):
        read_labelled(images, masks, classes=classes)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_labelled(tmp_path / "none", tmp_path / "none")
