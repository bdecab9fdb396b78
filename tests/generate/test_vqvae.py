"""The quantiser's arithmetic and gradients, and what a small VQ-VAE preserves of an image and its mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from microlab.generate.vqvae import (
    PAPER,
    VQVAE,
    VectorQuantizer,
    VQVAEConfig,
    channel_count,
    code_use,
    encode_all,
    reconstruct,
    reconstruction_report,
    train_vqvae,
)

SMALL = {"hidden": 16, "residual": 8, "dim": 8}


def vectors(n: int = 2, dim: int = 8, side: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, side, side, generator=torch.Generator().manual_seed(seed))


def quantizer(**options) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(**({"codes": 6, "dim": 8} | options)).eval()


def two_phases(n: int = 4, side: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Disks (class 1, bright) on a matrix (class 0, dark), grey image and grey mask: (2, side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    out = []
    for _ in range(n):
        mask = np.zeros((side, side), bool)
        for cy, cx in rng.uniform(0, side, (6, 2)):
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < 9**2
        image = 0.3 + 0.4 * mask + 0.02 * rng.standard_normal(mask.shape)
        out.append(np.stack([image, mask]).astype(np.float32))
    return out


# ---- the quantiser ---------------------------------------------------------------------------------------


def test_each_vector_gets_the_nearest_code():
    layer, z = quantizer(), vectors()
    flat = z.permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    expected = cdist(flat, layer.codebook.numpy()).argmin(1)
    assert (layer.nearest(z).numpy().ravel() == expected).all()


def test_output_is_made_of_codebook_vectors_alone():
    layer, z = quantizer(), vectors()
    out = layer(z)
    flat = out.vectors.permute(0, 2, 3, 1).reshape(-1, 8)
    torch.testing.assert_close(flat, layer.codebook[out.codes.flatten()])


def test_gradient_passes_straight_through():
    layer = quantizer()
    z = vectors().requires_grad_()
    weight = vectors(seed=1)
    (layer(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)  # as if quantisation were the identity


def test_commitment_pulls_the_encoder_and_not_the_codebook():
    layer = quantizer(decay=None, beta=0.25)
    z = vectors().requires_grad_()
    out = layer(z)
    nearest = layer.codebook.detach()[out.codes].permute(0, 3, 1, 2)
    (gradient,) = torch.autograd.grad(out.loss, z, retain_graph=True)
    torch.testing.assert_close(gradient, 0.25 * 2 * (z.detach() - nearest) / z.numel())


def test_codebook_loss_pulls_each_code_to_its_assigned_vectors():
    layer, z = quantizer(decay=None), vectors()
    out = layer(z)
    (gradient,) = torch.autograd.grad(out.loss, layer.codebook)
    flat, codes = z.permute(0, 2, 3, 1).reshape(-1, 8), out.codes.flatten()
    for code, vector in enumerate(layer.codebook.detach()):
        assigned = flat[codes == code]
        torch.testing.assert_close(gradient[code], 2 * (vector - assigned).sum(0) / z.numel())


def test_moving_average_follows_its_formula():
    layer, z = quantizer(decay=0.9, revive=False), vectors()
    layer.started.fill_(1)
    before, counts = layer.codebook.clone(), layer.counts.clone()
    codes = layer.train()(z).codes.flatten().numpy()
    flat = z.permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    for code in range(6):
        assigned = flat[codes == code]
        count = 0.9 * counts[code].item() + 0.1 * len(assigned)
        expected = (0.9 * before[code].numpy() + 0.1 * assigned.sum(0)) / count
        np.testing.assert_allclose(layer.codebook[code].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_moving_average_finds_the_means_of_clusters():
    centres = 4 * torch.eye(6, 8)
    layer = quantizer(decay=0.8).train()
    generator = torch.Generator().manual_seed(3)
    for _ in range(150):
        which = torch.randint(6, (64,), generator=generator)
        noise = 0.1 * torch.randn(64, 8, generator=generator)
        layer((centres[which] + noise).view(1, 8, 8, 8).permute(0, 3, 1, 2))
    distance = torch.cdist(centres, layer.codebook).amin(1)
    assert (distance < 0.1).all(), distance


@pytest.mark.parametrize("decay", [0.9, None])
def test_dead_code_is_revived_only_on_request(decay):
    z = vectors(n=8)
    for revive in (False, True):
        layer = quantizer(decay=decay, revive=revive).train()
        layer.started.fill_(1)
        with torch.no_grad():
            layer.codebook[0] = 1e3  # far from every vector
            if decay is not None:
                layer.sums[0] = 1e3 * layer.counts[0]
        torch.manual_seed(0)
        for _ in range(80):
            layer(z)
        assert ((layer.nearest(z) == 0).any().item()) == revive


def test_evaluation_does_not_change_the_codebook():
    layer, z = quantizer(), vectors()
    before = layer.codebook.clone()
    layer(z)
    assert torch.equal(layer.codebook, before)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"codes": 1}, "codes"), ({"beta": 0.0}, "beta"), ({"decay": 1.0}, "decay"), ({"dim": 0}, "dim")],
)
def test_impossible_quantisers_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        quantizer(**options)


# ---- the network -----------------------------------------------------------------------------------------


def test_the_paper_s_network_turns_256_pixels_into_64_codes_and_back():
    model = VQVAE().eval()  # defaults: K = 10, D = 64, 4 channels
    assert (model.channels, model.codes, model.quantizer.codebook.shape) == (4, 10, (10, 64))
    with torch.inference_mode():
        codes = model.encode(torch.rand(1, 4, 256, 256))
        assert codes.shape == (1, 64, 64)
        assert model.decode(codes).shape == (1, 4, 256, 256)


def test_one_hot_masks_take_a_channel_per_class():
    assert channel_count(5, 3, "one-hot") == 8
    assert VQVAE(classes=5, image_channels=1, coding="one-hot", **SMALL).channels == 6


def test_reconstruction_is_the_decoded_codes():
    model = VQVAE(classes=2, image_channels=1, **SMALL).eval()
    x = torch.rand(2, 2, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[0], model.decode(model.encode(x)))


def test_same_seed_builds_the_same_network_and_keeps_the_random_state_of_torch():
    state = torch.random.get_rng_state()
    first, second, other = (
        VQVAE(classes=2, image_channels=1, seed=seed, **SMALL).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


def test_errors_are_in_units_of_the_variance():
    model = VQVAE(classes=2, image_channels=1, **SMALL)
    x = torch.from_numpy(np.stack(two_phases()))
    model.scale.copy_(x.std((0, 2, 3), correction=0))
    mean = x.mean((0, 2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(model.channel_errors(x, mean), torch.ones(2))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 2, 18, 16), (2, 16, 16)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        VQVAE(classes=2, image_channels=1, **SMALL).encode(torch.zeros(shape))


def test_codes_outside_the_codebook_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.9"):
        VQVAE(classes=2, image_channels=1, **SMALL).decode(torch.full((1, 4, 4), 10))


# ---- training --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_code_map_keeps_the_phases(tmp_path):
    images = two_phases(6)
    config = VQVAEConfig(image_channels=1, crop=32, steps=400, lr=3e-3, codes=8, **SMALL)
    model, history = train_vqvae(images, config, classes=2, folder=tmp_path, progress=False, sample_every=200)
    unseen = two_phases(3, seed=9)
    report = reconstruction_report(model, unseen)
    assert report["error"][1] < 0.2  # of the mask's variance
    accuracy = np.mean([((reconstruct(model, x)[1] > 0.5) == (x[1] > 0.5)).mean() for x in unseen])
    majority = np.mean([max(x[1].mean(), 1 - x[1].mean()) for x in unseen])
    assert accuracy > 0.97 > majority
    assert {"image", "mask", "perplexity"} <= set(history.table().columns)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step_000200.png", "step_000400.png"]


def test_a_killed_training_resumes_exactly(tmp_path):
    images = two_phases(2)
    config = VQVAEConfig(image_channels=1, crop=16, batch=2, steps=30, checkpoint_every=10, **SMALL)
    whole, _ = train_vqvae(images, config, classes=2, progress=False)

    class Killed(Exception):
        pass

    def kill(step, before, after):
        raise Killed

    with pytest.raises(Killed):
        train_vqvae(
            images,
            config,
            classes=2,
            folder=tmp_path,
            progress=False,
            on_sample=kill,
            sample_every=30,
        )
    resumed, _ = train_vqvae(images, config, classes=2, folder=tmp_path, progress=False)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("images", "word"),
    [
        ([], "no image"),
        ([np.zeros((2, 8, 64), np.float32)], "at least 16"),
        ([np.zeros((3, 64, 64), np.float32)], r"\(2, H, W\)"),
        ([np.full((2, 64, 64), np.nan, np.float32)], "not finite"),
    ],
)
def test_training_images_that_do_not_fit_are_refused(images, word):
    config = VQVAEConfig(image_channels=1, crop=16, steps=1, **SMALL)
    with pytest.raises(ValueError, match=word):
        train_vqvae(images, config, classes=2, progress=False)


@pytest.mark.parametrize("options", [{"crop": 30}, {"crop": 8}, {"image_weight": 1.0}, {"steps": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        VQVAEConfig(**options)


def test_the_paper_s_settings_are_those_of_its_table_4():
    table = (PAPER.codes, PAPER.dim, PAPER.batch, PAPER.steps, PAPER.crop)
    assert table == (10, 64, 8, 50_000, 256)


# ---- codes -----------------------------------------------------------------------------------------------


def test_code_use_agrees_with_scipy_s_entropy():
    codes = np.random.default_rng(0).integers(0, 7, (3, 8, 8))
    use = code_use(codes, 10)
    counts = np.bincount(codes.ravel(), minlength=10)
    assert use.perplexity == pytest.approx(np.exp(entropy(counts / counts.sum())))
    assert use.dead == 3
    assert use.share.sum() == pytest.approx(1)


def test_perplexity_counts_equally_used_codes():
    assert code_use(np.arange(6).repeat(5), 10).perplexity == pytest.approx(6)
    assert code_use(np.zeros((4, 4), int), 10).perplexity == pytest.approx(1)


def test_encoding_crops_to_whole_codes_and_returns_all_orientations():
    model = VQVAE(classes=2, image_channels=1, **SMALL)
    maps = encode_all(model, [np.random.default_rng(0).random((2, 18, 24), np.float32)], symmetries=True)
    assert [m.shape for m in maps] == [(4, 6), (6, 4)] * 4
