"""`microlab train-pairs` and `microlab sample-pairs`: what they write, print and refuse."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from toy_pairs import TINY, toy_pairs
from typer.testing import CliRunner

from microlab.cli.main import main
from microlab.data.images import write_image
from microlab.data.pairs import read_pairs
from microlab.generate.pairs import channel_count
from microlab.pipelines import train_pair_model


def run(*arguments: object):
    """Call the command line in this process; an exception that is no exit is a bug and fails the test."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def one_line(result, message: str) -> None:
    """The command ended with exit code 1 and one line with the reason."""
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("microlab: ")
    assert message in lines[0]


def labelled(folder: Path, n: int = 5) -> tuple[Path, Path]:
    for pair in toy_pairs(n):
        write_image(folder / "images" / f"{pair.name}.png", pair.image)
        Image.fromarray(pair.classes).save(_made(folder / "masks") / f"{pair.name}.png")
    return folder / "images", folder / "masks"


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return folder


@pytest.fixture(scope="module")
def small():
    """Tiny profiles."""

    def tiny(profile: str, coding: str, seed: int) -> train_pair_model.PairModelConfig:
        channel_count(2, 1, coding)
        vqvae = replace(TINY.vqvae, steps=30, coding=coding, checkpoint_every=10)
        return replace(TINY, vqvae=vqvae, prior=replace(TINY.prior, steps=40), seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_pair_model, "profile_config", tiny)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("trained")
    result = run("train-pairs", *labelled(folder), "-o", folder / "run", "--device", "cpu")
    assert result.exit_code == 0
    return folder, result


def test_train_pairs_reports_its_data_and_its_scores(trained):
    folder, result = trained
    lines = result.stdout.splitlines()
    assert lines[0] == "images and masks: 4 to train on, 1 held out to measure"
    assert lines[1].startswith("held-out images: error of image")
    assert any(line.startswith("held-out images: bits per code: ") for line in lines)
    assert (
        lines[-1]
        == f"weights: {folder / 'run'}; next: microlab sample-pairs -n 16 -o PAIRS --weights {folder / 'run'}"
    )
    assert {f.name for f in (folder / "run").glob("*.safetensors")} == {
        "pairs-vqvae.safetensors",
        "pairs-prior.safetensors",
    }
    assert list((folder / "run" / "vqvae" / "samples").glob("*.png"))


def test_train_pairs_called_again_changes_nothing(trained):
    folder, first = trained
    before = (folder / "run" / "pairs-prior.safetensors").read_bytes()
    again = run("train-pairs", folder / "images", folder / "masks", "-o", folder / "run", "--device", "cpu")
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert (folder / "run" / "pairs-prior.safetensors").read_bytes() == before
    other = ["-o", folder / "run", "--seed", 1, "--device", "cpu"]
    one_line(run("train-pairs", folder / "images", folder / "masks", *other), "other settings (seed 0 -> 1)")


def test_sample_pairs_writes_pairs_that_other_programs_open_and_a_correct_manifest(trained, tmp_path):
    out = tmp_path / "pairs"
    options = ["--size", "32x48", "--fractions", "0.7,0.3", "--seed", 3, "--device", "cpu"]
    result = run("sample-pairs", "-n", 3, "-o", out, "--weights", trained[0] / "run", *options)
    assert result.exit_code == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["pairs"]) == 3
    for row in manifest["pairs"]:
        image, mask = tifffile.imread(out / row["image"]), tifffile.imread(out / row["mask"])
        assert image.shape == mask.shape == (32, 48)
        assert image.dtype == mask.dtype == np.uint8
        with tifffile.TiffFile(out / row["mask"]) as file:
            assert file.is_imagej  # the TIFF variant of Fiji
        assert np.asarray(Image.open(out / row["mask_colour"])).shape == (32, 48, 3)
        for file, digest in row["sha256"].items():
            assert hashlib.sha256((out / file).read_bytes()).hexdigest() == digest
        np.testing.assert_allclose(row["class_fractions"], [(mask == c).mean() for c in (0, 1)])
    about = manifest["about"]
    assert about["requested_fractions"] == [[0.7, 0.3]] * 3
    assert (about["seed"], about["temperature"], about["min_area"]) == (3, 1.0, [6, 6])
    lines = result.stdout.splitlines()
    assert lines[0] == f"3 pairs of 32 x 48 px in {out}; look at masks_colour"
    assert lines[-1] == f"manifest: {out / 'manifest.json'}"
    mean = np.mean([pair.classes.mean() for pair in read_pairs(out)])
    assert lines[3].split() == ["class", "1", "0.300", f"{mean:.3f}"]


def test_same_seed_same_files(trained, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = ["--size", 32, "--seed", seed, "--device", "cpu", "--temperature", 0.9]
        assert (
            run(
                "sample-pairs", "-n", 2, "-o", tmp_path / name, "--weights", trained[0] / "run", *options
            ).exit_code
            == 0
        )
    a, b, c = ((tmp_path / n / "manifest.json").read_text() for n in "abc")
    assert a == b  # with the checksums of every file
    assert json.loads(a)["pairs"] != json.loads(c)["pairs"]
    assert json.loads(a)["about"]["temperature"] == 0.9


@pytest.mark.slow
def test_sample_pairs_resumes_after_a_kill_and_refuses_other_folders(trained, tmp_path):
    call = ["--weights", trained[0] / "run", "--size", 32, "--device", "cpu", "-n", 1]
    out = tmp_path / "out"
    assert run("sample-pairs", "-o", out, *call).exit_code == 0
    one_line(run("sample-pairs", "-o", out, *call), "already holds a set of pairs")
    (out / "manifest.json").unlink()  # as after a kill before the end
    assert run("sample-pairs", "-o", out, *call).exit_code == 0
    one_line(run("sample-pairs", "-o", trained[0], *call), "which microlab did not write")
    assert not (trained[0] / "manifest.json").exists()
    (tmp_path / "file").write_text("x")
    one_line(run("sample-pairs", "-o", tmp_path / "file", *call), "is a file; name a folder for the results")


@pytest.mark.parametrize(
    "wrong",
    [
        ["sample-pairs"],
        ["sample-pairs", "-o", "out", "-n", "0"],
        ["sample-pairs", "-o", "out", "--size", "256x"],
        ["sample-pairs", "-o", "out", "--size", "big"],
        ["sample-pairs", "-o", "out", "--fractions", "0.5;0.5"],
        ["sample-pairs", "-o", "out", "--seed", "-1"],
        ["train-pairs", "images", "-o", "out"],
        ["train-pairs", "images", "masks"],
        ["train-pairs", "images", "masks", "-o", "out", "--classes", "1"],
    ],
)
def test_a_wrong_call_exits_with_2(wrong):
    assert run(*wrong).exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "nonsense"], "nonsense: no such weights"),
        (["--fractions", "0.5,0.6"], "must sum to 1"),
        (["--fractions", "0.2,0.3,0.5"], "must be 2 numbers, of class 0, class 1"),
        (["--size", "30"], "multiples of 4"),
        (["--temperature", "0"], "temperature must be a positive number"),
        (["--device", "nonsense"], "nonsense"),
    ],
)
def test_an_impossible_request_is_one_line(trained, tmp_path, options, message):
    one_line(run("sample-pairs", "-o", tmp_path / "out", "--weights", trained[0] / "run", *options), message)
    assert not list(tmp_path.rglob("*.tif"))


def _no_folder(images: Path, masks: Path) -> str:
    masks.rename(masks.with_name("elsewhere"))
    return "no such folder"


def _one_image(images: Path, masks: Path) -> str:
    for folder in (images, masks):
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    return "labelled images found: 1; at least 2 are needed"


def _no_partner(images: Path, masks: Path) -> str:
    (masks / "field1.png").unlink()
    return "have no partner of the same name: field1"


def _sizes_differ(images: Path, masks: Path) -> str:
    Image.new("L", (40, 40)).save(masks / "field1.png")
    return "differ in size"


def _ids_out_of_range(images: Path, masks: Path) -> str:
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(masks / "field1.png")
    return "0, 1, 255; classes must be numbered 0, 1, 2"


def _colours(images: Path, masks: Path) -> str:
    Image.new("RGB", (64, 64), "red").save(masks / "field1.png")
    return "is a colour picture"


def _too_small(images: Path, masks: Path) -> str:
    for folder in (images, masks):
        Image.open(folder / "field1.png").crop((0, 0, 64, 24)).save(folder / "field1.png")
    return "field1: is 24 x 64 px, and these settings train on crops of 32 px"


@pytest.mark.parametrize(
    "damage", [_no_folder, _one_image, _no_partner, _sizes_differ, _ids_out_of_range, _colours, _too_small]
)
def test_labelled_images_that_do_not_fit_are_one_line(small, tmp_path, damage):
    images, masks = labelled(tmp_path, 3)
    message = damage(images, masks)
    one_line(run("train-pairs", images, masks, "-o", tmp_path / "run", "--device", "cpu"), message)
    assert not (tmp_path / "run").exists()


def test_train_pairs_refuses_classes_codings_and_folders_that_do_not_fit(small, tmp_path):
    images, masks = labelled(tmp_path, 3)
    run_folder = ["-o", tmp_path / "run", "--device", "cpu"]
    one_line(run("train-pairs", images, masks, *run_folder, "--coding", "colour"), "coding must be one of")
    one_line(run("train-pairs", images, masks, "-o", tmp_path), "which microlab did not write")
    Image.fromarray(np.full((64, 64), 2, np.uint8)).save(masks / "field1.png")
    one_line(run("train-pairs", images, masks, *run_folder, "--classes", 2), "2 classes are 0..1")
