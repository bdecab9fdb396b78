"""Data sets by checksum: where files are looked up, what masks mean, the error if a set is not available."""

from __future__ import annotations

import functools
import http.server
import threading

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from microlab.data import datasets
from microlab.data.datasets import DATASETS, DatasetError
from microlab.data.files import sha256
from microlab.measure.scores import mask_grains


def real(name: str, split: str | None = None, **options) -> list[datasets.Sample]:
    if not datasets.available(name):
        pytest.skip(f"{name} is not on this machine; set MICROLAB_DATA")
    return datasets.load(name, split, **options)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The interconnect set as one made-up file on a local server, with an empty cache."""
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)).save(
        source / "TEM.png"
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=source)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    registry = {"TEM.png": sha256(source / "TEM.png")}
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(datasets, "_registry", lambda name: (address, registry))
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("MICROLAB_DATA", raising=False)
    yield source, server
    server.shutdown()
    server.server_close()


def test_every_data_set_has_a_registry_with_its_address_and_checksums():
    for name, dataset in DATASETS.items():
        base_url, registry = datasets._registry(name)
        assert dataset.name == name
        assert base_url.startswith("https://raw.githubusercontent.com/")
        assert dataset.url.removeprefix("https://github.com/") in base_url
        assert base_url.endswith("/")
        assert len(base_url.split("/")[-2]) == 40  # one exact version
        assert registry
        assert all(len(digest) == 64 and int(digest, 16) for digest in registry.values())
        assert dataset.licence
        assert dataset.citation


def test_a_set_is_downloaded_once_and_then_found_in_the_cache(toy, tmp_path):
    source, server = toy
    assert not datasets.available("interconnect")
    first = datasets.load("interconnect")[0]
    server.shutdown()
    server.server_close()
    assert datasets.available("interconnect")
    again = datasets.load("interconnect")[0]
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.image, np.asarray(Image.open(source / "TEM.png")) / np.float32(255))
    assert datasets.fetch("interconnect")["TEM.png"] == tmp_path / "cache" / "interconnect" / "TEM.png"


def test_a_download_that_differs_from_its_checksum_is_refused(toy, tmp_path):
    source, _ = toy
    Image.new("L", (20, 30)).save(source / "TEM.png")
    with pytest.raises(DatasetError, match="differs from its checksum"):
        datasets.fetch("interconnect", progress=False)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_offline_without_a_copy_the_error_says_what_to_do(toy):
    _, server = toy
    server.shutdown()
    server.server_close()
    with pytest.raises(DatasetError, match="MICROLAB_DATA") as error:
        datasets.fetch("interconnect", progress=False)
    assert "internet" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unwritable_cache_is_reported(toy, tmp_path):
    (tmp_path / "cache").touch()  # a file where the folder should be
    with pytest.raises(DatasetError, match="MICROLAB_DATA"):
        datasets.fetch("interconnect", progress=False)


def test_the_folder_of_microlab_data_comes_first_and_its_checksum_counts(toy, tmp_path, monkeypatch):
    source, _ = toy
    folder = tmp_path / "mine" / "interconnect"
    folder.mkdir(parents=True)
    good = (source / "TEM.png").read_bytes()
    (folder / "TEM.png").write_bytes(good)
    monkeypatch.setenv("MICROLAB_DATA", str(tmp_path / "mine"))
    assert datasets.fetch("interconnect")["TEM.png"] == folder / "TEM.png"
    (folder / "TEM.png").write_bytes(good[:-1] + b"?")
    with pytest.raises(DatasetError, match=r"TEM\.png: differs from its checksum"):
        datasets.fetch("interconnect")
    monkeypatch.setenv("MICROLAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="no such folder"):
        datasets.fetch("interconnect")


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(DatasetError, match="perovskite"):
        datasets.load("perovskit")
    with pytest.raises(DatasetError, match="style, test"):
        datasets.load("perovskite", "train")
    with pytest.raises(DatasetError, match="leave it out"):
        datasets.load("interconnect", "test")


# --- the real files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "count", "shape"),
    [
        ("perovskite", "style", 1, (1067, 534)),
        ("perovskite", "test", 1, (1067, 534)),
        ("steel", "test", 1, (600, 800)),
        ("uhcs", None, 24, (484, 645)),
        ("uhcs", "train", 16, (484, 645)),
        ("uhcs", "val", 4, (484, 645)),
        ("uhcs", "test", 4, (484, 645)),
        ("superalloy", None, 18, (512, 512)),
        ("superalloy", "train", 10, (512, 512)),
        ("superalloy", "val", 4, (512, 512)),
        ("superalloy", "test", 4, (512, 512)),
        ("interconnect", None, 1, (154, 1166)),
        ("membrane", "test", 30, (512, 512)),
        ("titanium-bse", "test", 1, (852, 1422)),
        ("titanium-sem", "test", 1, (768, 1024)),
    ],
)
def test_real_sets_have_the_sizes_and_types_that_are_promised(name, split, count, shape):
    samples = real(name, split)
    dataset = DATASETS[name]
    assert len(samples) == count
    assert len({sample.name for sample in samples}) == count
    for sample in samples:
        assert sample.image.shape == shape
        assert sample.image.dtype == np.float32
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert sample.pixel_size == dataset.pixel_size
        mask = sample.classes if dataset.classes else sample.boundary
        if mask is not None:
            assert mask.shape == shape
            assert mask.dtype == (np.uint8 if dataset.classes else bool)
    if dataset.classes:
        assert set(np.unique([sample.classes for sample in samples])) == set(range(len(dataset.classes)))


@pytest.mark.parametrize("name", ["uhcs", "superalloy"])
def test_splits_share_no_image_and_leave_none_out(name):
    parts = [{sample.name for sample in real(name, split)} for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == {sample.name for sample in real(name)}


def test_perovskite_shows_no_mask_outside_its_test_half_unless_asked():
    assert real("perovskite", "style")[0].boundary is None
    assert real("perovskite")[0].boundary is None
    assert real("perovskite", "test")[0].boundary is not None
    assert real("perovskite", "style", labelled=True)[0].boundary.any()
    assert real("perovskite", "test", labelled=False)[0].boundary is None


def test_the_halves_of_perovskite_are_disjoint_and_make_up_the_whole():
    whole = real("perovskite", labelled=True)[0]
    halves = [real("perovskite", split, labelled=True)[0] for split in ("style", "test")]
    assert np.array_equal(np.hstack([half.image for half in halves]), whole.image)
    assert np.array_equal(np.hstack([half.boundary for half in halves]), whole.boundary)


def test_perovskite_has_no_dark_frame_left():
    image = real("perovskite")[0].image
    typical = np.median(image)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert np.median(edge) > 0.8 * typical


@pytest.mark.parametrize(("name", "split"), [("perovskite", "test"), ("steel", "test"), ("membrane", "test")])
def test_boundaries_are_the_darker_thin_minority(name, split):
    # In all three, boundaries are darker than grains. A swapped or inverted mask fails every assertion.
    for sample in real(name, split)[:5]:
        assert sample.boundary.mean() < 0.35
        assert sample.image[sample.boundary].mean() < sample.image[~sample.boundary].mean()
        thickest = ndimage.distance_transform_edt
        assert np.quantile(thickest(sample.boundary)[sample.boundary], 0.9) < np.quantile(
            thickest(~sample.boundary)[~sample.boundary], 0.9
        )


@pytest.mark.parametrize(("name", "split"), [("perovskite", "test"), ("steel", "test"), ("membrane", "test")])
def test_masks_are_aligned_with_their_images(name, split):
    # A shifted or mirrored mask covers brighter pixels than the aligned one.
    sample = real(name, split)[0]
    aligned = sample.image[sample.boundary].mean()
    for other in (sample.boundary[::-1], sample.boundary[:, ::-1], np.roll(sample.boundary, 12, axis=0)):
        assert aligned < sample.image[other].mean()


def test_steel_closes_about_226_grains():
    sample = real("steel")[0]
    _, count = ndimage.label(~sample.boundary)  # 4-connected
    assert 180 < count < 280


def test_classes_of_uhcs_and_superalloy_look_as_their_names_say():
    for sample in real("uhcs", "train"):
        levels = [sample.image[sample.classes == k].mean() for k in np.unique(sample.classes)]
        present = list(np.unique(sample.classes))
        if 3 in present:  # etched carbide particles and needles stand out bright from the matrix
            assert levels[present.index(3)] > levels[present.index(0)]
        assert levels[present.index(2)] > levels[present.index(0)]
    for sample in real("superalloy", "test"):
        sizes = []
        for k in (1, 2):  # secondary precipitates are far larger than tertiary ones
            parts, count = ndimage.label(sample.classes == k)
            sizes.append(np.median(ndimage.sum_labels(np.ones(parts.shape), parts, np.arange(1, count + 1))))
        assert sizes[0] > 3 * sizes[1]
        assert sample.image[sample.classes > 0].mean() < sample.image[sample.classes == 0].mean()


def test_titanium_under_backscattered_electrons_has_134_grains_outside_of_its_legend():
    """Counts as `titanium-bse` is described: 134 in the field, 105 above the legend."""
    sample = real("titanium-bse")[0]
    assert mask_grains(sample.boundary | ~sample.valid).max() == 134
    assert mask_grains(sample.boundary[:664]).max() == 105
    legend = sample.image[~sample.valid]
    assert (legend > 0.95).mean() > 0.7  # white, with black figures
    assert (sample.image[sample.valid] > 0.95).mean() < 0.01


def test_boundaries_are_the_brighter_thin_minority_of_titanium_sem():
    sample = real("titanium-sem")[0]
    assert sample.valid is None
    assert 0.02 < sample.boundary.mean() < 0.2
    assert sample.image[sample.boundary].mean() > 1.3 * sample.image[~sample.boundary].mean()
