"""Distances between sets of images, against scipy, scikit-image, torchmetrics and plain statistics."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage import measure
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from microlab.book import figures
from microlab.measure import kernel, projection, realism
from microlab.measure.realism import FLOOR, halves, patches, realism_report

matplotlib.use("Agg")


def noisy(seed: int, shape=(96, 160), blur: float = 1.5, spread: float = 0.15) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), blur)
    return np.clip(0.5 + spread * field / field.std(), 0, 1).astype(np.float32)


def grey_means(cut: np.ndarray) -> np.ndarray:
    """A feature space small enough for quick tests: mean and deviation of each quarter."""
    quarters = [cut[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return np.stack([f(q, axis=(1, 2)) for q in quarters for f in (np.mean, np.std)], axis=1)


# ---- patches ----


def test_the_same_seed_cuts_images_and_masks_at_the_same_places():
    images = [noisy(0), noisy(1, (64, 80))]
    masks = [image > 0.5 for image in images]
    cut, cut_masks = patches(images, 32, 50, seed=3), patches(masks, 32, 50, seed=3)
    assert cut_masks.dtype == bool
    np.testing.assert_array_equal(cut > 0.5, cut_masks)
    assert not np.array_equal(cut, patches(images, 32, 50, seed=4))


def test_every_possible_place_is_equally_likely():
    small, large = np.zeros((10, 10)), np.ones((10, 19))  # 1 place and 10 places
    share = patches([small, large], 10, 4000, seed=0)[:, 0, 0].mean()
    assert abs(share - 10 / 11) < 4 * np.sqrt(10 / 121 / 4000)  # four standard errors


@pytest.mark.parametrize("side", [97, 0])
def test_an_image_smaller_than_a_patch_is_named(side):
    with pytest.raises(ValueError, match=r"image 0 has shape|must be at least 1"):
        patches([noisy(0)], side, 5)


def test_halves_share_no_pixel_and_lose_none():
    numbered = np.arange(7 * 5).reshape(7, 5)
    for image in (numbered, numbered.T):
        (first,), (second,) = halves([image])
        assert abs(first.size - second.size) <= 5
        assert sorted([*first.ravel(), *second.ravel()]) == list(range(35))


# ---- grey levels ----


def test_histogram_distance_is_that_of_scipy():
    first, second = noisy(0), noisy(1, spread=0.25) ** 1.3
    ours = realism.histogram_distance(*map(realism.intensity_histogram, (first, second)))
    levels = [np.rint(image.astype(float) * 255).ravel() / 255 for image in (first, second)]
    assert ours == pytest.approx(stats.wasserstein_distance(*levels), abs=1e-9)
    assert ours > 0.01


def test_a_shift_of_ten_levels_is_a_distance_of_ten_levels():
    dark, light = np.full((4, 4), 50, np.uint8), np.full((4, 4), 60, np.uint8)
    ours = realism.histogram_distance(*map(realism.intensity_histogram, (dark, light)))
    assert ours == pytest.approx(10 / 255)


def test_entropy_is_that_of_scipy_and_skimage_on_8_bits():
    image = noisy(2)
    levels = np.rint(image * 255).astype(np.uint8)
    ours = realism.shannon_entropy(image)
    assert ours == pytest.approx(stats.entropy(np.bincount(levels.ravel()), base=2), abs=1e-9)
    assert ours == pytest.approx(measure.shannon_entropy(levels), abs=1e-9)
    assert measure.shannon_entropy(image) > ours + 2  # scikit-image counts distinct floats


def test_one_grey_has_no_entropy_and_even_greys_have_eight_bits():
    assert realism.shannon_entropy(np.full((8, 8), 0.3)) == 0
    assert realism.shannon_entropy(np.arange(256, dtype=np.uint8)) == pytest.approx(8)
    assert realism.entropies(np.zeros((3, 8, 8))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [np.full((8, 8), 1.5), np.full((8, 8), np.nan), np.full((8, 8), 7)])
def test_grey_levels_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"uint8, or float in \[0, 1\]"):
        realism.shannon_entropy(bad)


# ---- SSIM ----


def test_ssim_follows_the_definition_and_torchmetrics():
    a, b = noisy(0).astype(float), np.clip(noisy(0) + 0.3 * (noisy(5) - 0.5), 0, 1).astype(float)
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2

    def mean(x):
        return ndimage.correlate(x, window)[5:-5, 5:-5]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    by_hand = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert realism.ssim(a, b) == pytest.approx(by_hand.mean(), abs=1e-7)
    tensors = [torch.from_numpy(x)[None, None] for x in (a, b)]
    other = structural_similarity_index_measure(*tensors, data_range=1.0)
    assert realism.ssim(a, b) == pytest.approx(float(other), abs=0.01)  # it also averages a padded rim


def test_ssim_of_an_image_with_itself_is_one_and_of_unrelated_images_low():
    assert realism.ssim(noisy(0), noisy(0)) == 1
    assert abs(realism.ssim(noisy(0), noisy(1))) < 0.1
    with pytest.raises(ValueError, match="one size"):
        realism.ssim(noisy(0), noisy(0)[:50])


# ---- kernel distance ----


def test_mmd2_is_that_of_torchmetrics():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 12)), rng.standard_normal((60, 12)) * 1.3 + 0.2
    reference = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y), degree=3, gamma=None, coef=1.0))
    assert kernel.mmd2(x, y) == pytest.approx(reference, rel=1e-9)


def test_mmd2_is_the_kid_of_torchmetrics_on_images():
    class Means(torch.nn.Module):
        num_features = 8

        def forward(self, images):
            return torch.from_numpy(grey_means(images[:, 0].numpy() / 255)).float()

    sets = [patches([noisy(k, spread=0.1 + 0.05 * k)], 16, 40, seed=k) for k in (0, 1)]
    eight_bits = [(cut * 255).astype(np.uint8) for cut in sets]
    kid = KernelInceptionDistance(feature=Means(), subsets=1, subset_size=40)
    for real, cut in zip((True, False), eight_bits):
        kid.update(torch.from_numpy(cut)[:, None].repeat(1, 3, 1, 1), real=real)
    ours = kernel.mmd2(*(grey_means(cut / 255) for cut in eight_bits))
    assert ours == pytest.approx(float(kid.compute()[0]), abs=1e-5)  # float32 there


def test_the_distance_of_one_distribution_from_itself_is_zero_on_average():
    rng = np.random.default_rng(1)
    drawn = [kernel.kernel_distance(*rng.standard_normal((2, 100, 5)), subset=25) for _ in range(200)]
    values, errors = np.array(drawn).T
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert (values < 0).mean() > 0.3  # unbiased: it falls on both sides
    # Four subsets estimate the error only roughly, but on average it is the true spread.
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.25)


def test_the_distance_does_not_depend_on_the_subset():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((400, 4)), rng.standard_normal((400, 4)) + 0.5
    small, large = (kernel.kernel_distance(x, y, subset=subset) for subset in (20, 100))
    assert small.value == pytest.approx(large.value, abs=4 * np.hypot(small.error, large.error))
    assert small.value > 5 * small.error


def test_too_few_patches_for_two_subsets_is_an_error():
    with pytest.raises(ValueError, match=r"subset=50 needs two subsets.*100 patches"):
        kernel.kernel_distance(np.zeros((99, 3)), np.zeros((200, 3)))


def test_outliers_are_compressed_and_small_deviations_kept():
    reference = np.random.default_rng(3).standard_normal((500, 2))
    z = kernel.standardised([[1e6, 0.1]], reference)
    assert z[0, 0] == pytest.approx(3, abs=1e-6)
    plain = (0.1 - reference[:, 1].mean()) / reference[:, 1].std()
    assert z[0, 1] == pytest.approx(plain, rel=0.01)


# ---- report ----


def test_distances_grow_with_blur_and_the_floor_lies_below():
    real = [noisy(k) for k in range(4)]
    sets = {
        f"blur {b}": [ndimage.gaussian_filter(noisy(k), b) for k in range(10, 14)] for b in (0.0, 1, 2, 4)
    }
    options = {"spaces": {"small": grey_means}, "side": 32, "n": 100, "subset": 25}
    report = realism_report(real, sets, **options)
    assert list(report.index) == [FLOOR, *sets]
    for column in ("histogram", "entropy distance", "KID small"):
        assert (np.diff(report[column].iloc[1:]) > 0).all(), column
        assert report[column].iloc[-1] > 3 * abs(report[column][FLOOR])
    assert report["SSIM"].isna().all()
    again = realism_report(real, sets, **options)
    np.testing.assert_array_equal(report.to_numpy(), again.to_numpy())


def test_ssim_is_reported_only_for_pairs():
    before = [noisy(8), noisy(9)]
    after = [np.clip(image * 0.9, 0, 1) for image in before]
    options = {"spaces": {}, "side": 32, "n": 20}
    report = realism_report([noisy(0)], {"made": after, "other": before}, inputs={"made": before}, **options)
    assert report["SSIM"]["made"] == pytest.approx(
        np.mean([realism.ssim(a, b) for a, b in zip(before, after)])
    )
    assert report["SSIM"].isna().tolist() == [True, False, True]
    with pytest.raises(ValueError, match="one image for each"):
        realism_report([noisy(0)], {"made": after}, inputs={"made": before[:1]}, **options)


def test_constant_images_are_refused_as_reference_and_far_as_a_set():
    flat, options = np.full((64, 64), 0.5, np.float32), {"side": 32, "n": 40, "subset": 20}
    with pytest.raises(ValueError, match="all alike"):
        realism_report([flat], {"real": [noisy(0)]}, spaces={"small": grey_means}, **options)
    # Texture features are defined for a single grey.
    report = realism_report([noisy(0)], {"flat": [flat]}, **options)
    assert report["entropy"]["flat"] == 0
    assert report["KID texture"]["flat"] > 10 * abs(report["KID texture"][FLOOR])


# ---- map ----


def test_groups_far_apart_stay_apart_in_the_map_and_the_seed_decides():
    rng = np.random.default_rng(0)
    groups = {"a": rng.standard_normal((30, 6)), "b": rng.standard_normal((30, 6)) + 20}
    placed = projection.tsne(groups, perplexity=10, seed=1)
    together = np.concatenate(list(placed.values()))
    distance = np.linalg.norm(together[:, None] - together[None], axis=-1) + 1e9 * np.eye(60)
    assert ((distance.argmin(1) < 30) == (np.arange(60) < 30)).all()
    again = projection.tsne(groups, perplexity=10, seed=1)
    np.testing.assert_array_equal(placed["a"], again["a"])
    with pytest.raises(ValueError, match="perplexity"):
        projection.tsne(groups, perplexity=60)


def test_links_join_each_image_with_the_mask_of_its_row():
    images, masks = np.random.default_rng(0).standard_normal((2, 5, 2))
    lines = projection.links(images, masks)
    for i in range(5):
        np.testing.assert_array_equal(lines[i], [images[i], masks[i]])
    with pytest.raises(ValueError, match="must both be"):
        projection.links(images, masks[:4])


# ---- figures ----


def test_the_dashboard_draws_what_the_report_says():
    real, other = [noisy(0)], [noisy(1)]
    masks = {"real": [real[0] > 0.6], "made": [other[0] > 0.6]}
    figure, report = figures.dashboard(
        real, {"made": other}, masks=masks, spaces={"small": grey_means}, side=32, n=60, subset=20, shown=20
    )
    bars = figure.axes[-1].containers
    heights = [bar.get_width() for container in bars for bar in getattr(container, "patches", [])]
    np.testing.assert_allclose(heights, report["KID small"])
    text = figures.describe(report)
    assert "made" in text
    assert f"{report['entropy']['made']:.2f}" in text
    matplotlib.pyplot.close(figure)


def test_the_surface_has_the_grey_as_its_height():
    patch = noisy(0)[:32, :32]
    axes = figures.surface_plot(patch)
    np.testing.assert_allclose(axes.zz_dataLim.intervalx, [patch.min(), patch.max()], atol=1e-6)
    assert axes.get_zlim()[0] <= patch.min()
    assert axes.get_zlim()[1] >= patch.max()
    matplotlib.pyplot.close(axes.figure)
