"""Segmenting a folder: serial runs, processes and a cluster write the same files, and no result is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from dark_lines import grid, save_network

from microlab.data import images, parallel
from microlab.pipelines import segment_folder as segment_folder_module
from microlab.pipelines.image_results import Options
from microlab.pipelines.segment_folder import FolderResult, ImageResult, cached_segmenter, segment_folder

FILES = ("mask.png", "labels.tif", "grains.csv", "overlay.png", "run.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("weights") / "dark.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four micrographs with known numbers of grains, and a damaged file among them."""
    place = tmp_path_factory.mktemp("micrographs")
    for k, name in enumerate(("a", "b", "d", "e")):
        images.write_image(place / f"{name}.tif", grid(3 + k, 4)[0], pixel_size=0.5)
    whole = (place / "a.tif").read_bytes()
    (place / "c.tif").write_bytes(whole[: len(whole) // 2])
    return place


@pytest.fixture(scope="module")
def serial(folder, weights, tmp_path_factory) -> FolderResult:
    return segment_folder([folder], tmp_path_factory.mktemp("serial"), weights=weights)


def assert_same_files(result: FolderResult, expected: FolderResult) -> None:
    assert [o.file for o in result.images] == [o.file for o in expected.images]
    for one, other in zip(result.images, expected.images):
        assert (one.error is None) == (other.error is None)
        assert one.notes == other.notes
        assert one.folder.name == other.folder.name
        for name in FILES if one.error is None else ():
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_every_valid_file_is_segmented_in_order_and_the_damaged_one_is_named(serial, folder):
    assert [image.file.name for image in serial.images] == [f"{name}.tif" for name in "abcde"]
    (failed,) = serial.failed
    assert failed.section is None
    assert failed.line.startswith(str(folder / "c.tif"))
    assert "copy or export it again" in failed.line
    counts = serial.grains.groupby("image").size().to_dict()
    assert counts == {"a": 12, "b": 16, "d": 20, "e": 24}  # rows x columns of the grids
    page = serial.report.read_text(encoding="utf-8")
    places = [page.index(f'id="image-{k}"') for k in (1, 2, 3, 4)]
    assert places == sorted(places)
    assert "c.tif" in page


def test_grains_have_the_columns_of_their_tables(serial):
    (first, *_) = serial.images
    alone = serial.grains.query("image == 'a'").drop(columns="image").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, pd.read_csv(first.folder / "grains.csv"))


@pytest.mark.slow
def test_processes_write_the_same_files(serial, folder, weights, tmp_path):
    assert_same_files(segment_folder([folder], tmp_path, weights=weights, jobs=2), serial)


@pytest.mark.slow
def test_a_dask_cluster_writes_the_same_files(serial, folder, weights, tmp_path, cluster):
    address = cluster.scheduler_address
    assert_same_files(segment_folder([folder], tmp_path, weights=weights, scheduler=address), serial)


@pytest.mark.slow
def test_the_command_line_uses_the_cluster(serial, folder, weights, tmp_path, cluster, monkeypatch):
    monkeypatch.chdir(folder.parent)  # workers have another working directory: relative paths must still work
    call = ["segment", folder.name, "-o", tmp_path / "out", "--weights", weights]
    result = run(*call, "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 1  # of the damaged file
    assert "c.tif" in result.stderr
    assert result.stderr.splitlines()[-1] == "microlab: 1 of 5 images failed"
    for image in serial.images:
        if image.error is None:
            labels = (tmp_path / "out" / image.folder.name / "labels.tif").read_bytes()
            assert labels == (image.folder / "labels.tif").read_bytes()
    assert (tmp_path / "out" / "report.html").is_file()


segment_one = segment_folder_module._segment_one


def segment_or_die(*task: object) -> tuple[int, ImageResult]:
    """Like an image that needs too much memory: its worker dies."""
    if task[1].name == "b.tif":
        time.sleep(1.0)  # let the worker report the previous image, which it does every few milliseconds
        os._exit(9)
    return segment_one(*task)


@pytest.mark.slow
def test_an_image_that_kills_its_dask_worker_is_reported_and_the_others_are_segmented(
    serial, folder, weights, tmp_path, monkeypatch
):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(segment_folder_module, "_segment_one", segment_or_die)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    import dask

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**options, protocol="tcp", silence_logs=50) as cluster,
    ):
        result = segment_folder([folder], tmp_path, weights=weights, scheduler=cluster.scheduler_address)
    failed = {image.file.name: image.line for image in result.failed}
    assert set(failed) == {"b.tif", "c.tif"}
    assert "worker died" in failed["b.tif"]
    for one, other in zip(result.images, serial.images):
        if one.error is None:
            assert (one.folder / "labels.tif").read_bytes() == (other.folder / "labels.tif").read_bytes()


@pytest.mark.slow
def test_an_image_that_kills_its_process_is_reported_and_the_others_are_segmented(
    serial, folder, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(segment_folder_module, "_segment_one", segment_or_die)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    result = segment_folder([folder], tmp_path, weights=weights, jobs=2)
    failed = {image.file.name: image.line for image in result.failed}
    assert set(failed) == {"b.tif", "c.tif"}
    assert "worker died" in failed["b.tif"]
    for one, other in zip(result.images, serial.images):
        if one.error is None:
            assert (one.folder / "labels.tif").read_bytes() == (other.folder / "labels.tif").read_bytes()
    assert "b.tif" in result.report.read_text(encoding="utf-8")


def test_nothing_is_written_if_every_image_would_fail(folder, tmp_path, weights):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no such weights"):
        segment_folder([folder], out, weights="nobody")
    with pytest.raises(ValueError, match=r"method must be one of auto, .*, got 'magic'"):
        segment_folder([folder], out, method="magic")
    with pytest.raises(ValueError, match="device 'abacus'"):
        segment_folder([folder], out, weights=weights, options=Options(device="abacus"))
    assert not out.exists()
    result = segment_folder([folder / "c.tif"], out, weights=weights)
    assert result.report is None
    assert result.grains.empty


def test_weights_are_reloaded_when_their_file_changes(tmp_path):
    path = save_network(tmp_path / "w.safetensors", grain_size_px=20.0)
    first = cached_segmenter("label-free", path, Options())
    assert cached_segmenter("label-free", path, Options()) is first
    save_network(path, grain_size_px=30.0)
    os.utime(path, ns=(1, 1))
    assert cached_segmenter("label-free", path, Options()).card["grain_size_px"] == 30.0


@pytest.mark.slow
def test_python_m_microlab_is_the_command(folder, weights, tmp_path):
    call = [
        sys.executable,
        "-m",
        "microlab",
        "segment",
        folder / "a.tif",
        "-o",
        tmp_path,
        "--weights",
        weights,
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 grains" in done.stdout
    assert json.loads((tmp_path / "a" / "run.json").read_text())["grains"] == 12


# --- warnings --------------------------------------------------------------------------------------------


def test_a_doubtful_result_is_warned_of_wherever_its_numbers_stand(tmp_path):
    """Noise has no grains: whatever is drawn into it must not pass as a measurement."""
    rng = np.random.default_rng(0)
    images.write_image(tmp_path / "noise.png", np.clip(0.5 + 0.2 * rng.standard_normal((200, 260)), 0, 1))
    images.write_image(tmp_path / "grains.png", grid(8, 10)[0])
    weights = save_network(tmp_path / "dark.safetensors")
    result = segment_folder(
        [tmp_path / "noise.png", tmp_path / "grains.png"], tmp_path / "out", weights=weights
    )
    noise, grains = result.images
    (warning,) = noise.warnings
    assert "may be wrong" in warning
    assert "--scale" in warning
    assert not grains.warnings
    for folder, warnings in (("noise", [warning]), ("grains", [])):
        record = json.loads((tmp_path / "out" / folder / "run.json").read_text())
        assert record["warnings"] == warnings
        assert record["tried"][0]["method"] == record["method"] == "label-free"
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    assert summary.loc["noise", "warnings"] == warning
    assert pd.isna(summary.loc["grains", "warnings"])
    assert summary.loc["grains", "grains"] == 80
    page = result.report.read_text()
    top = page[page.index("<main>") : page.index("<section")]
    assert 'class="warning"' in top
    assert "noise" in top
    assert page.count('class="warning"') == 2  # above everything, and with the image


def test_a_file_that_failed_has_its_error_in_the_summary(tmp_path):
    images.write_image(tmp_path / "grains.png", grid(8, 10)[0])
    (tmp_path / "broken.png").write_bytes(b"no image")
    weights = save_network(tmp_path / "dark.safetensors")
    files = [tmp_path / "broken.png", tmp_path / "grains.png"]
    segment_folder(files, tmp_path / "out", weights=weights)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    assert "broken.png" in summary.loc["broken", "error"]
    assert summary.loc["grains", "mean_diameter_px"] == pytest.approx(27, abs=3)
