"""Claims about errors: those of the user are one line, those of the program are shown as bugs."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from command_line import run

from microlab.cli.errors import BUG
from microlab.data import images
from microlab.data.errors import DivergedError, InputError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with inputs that are right and wrong."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("empty", "fields", "masks", "other", "text"):
        (folder / name).mkdir()
    for name in ("a", "b"):
        images.write_image(folder / "fields" / f"{name}.png", RNG.random((96, 96)))
        tifffile.imwrite(folder / "masks" / f"{name}.tif", (RNG.random((96, 96)) > 0.5).astype(np.uint8))
        tifffile.imwrite(folder / "other" / f"{name}.tif", (RNG.random((64, 80)) > 0.5).astype(np.uint8))
    (folder / "text" / "a.tif").write_text("no image")
    (folder / "text.tif").write_text("no image")
    (folder / "text.safetensors").write_text("no weights")
    (folder / "text.safetensors.json").write_text("{}")
    (folder / "text.json").write_text("{")
    labels = np.zeros((64, 64), np.int32)
    labels[:, :30], labels[:, 34:] = 1, 2
    images.write_labels(folder / "labels.tif", labels)
    tifffile.imwrite(folder / "zeros.tif", np.zeros((64, 64), np.uint8))
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 64, 64), np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "nan.tif", np.full((64, 64), np.nan, np.float32))
    tifffile.imwrite(folder / "pixel.tif", np.zeros((1, 1), np.uint8))
    tifffile.imwrite(folder / "two.tif", RNG.integers(0, 255, (2, 2), np.uint8))
    tifffile.imwrite(folder / "small.tif", RNG.integers(0, 255, (40, 9), np.uint8))
    return folder


def one_line(*arguments, code=(1, 2)):
    result = run(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.strip() and "it/s]" not in line]
    assert result.exit_code in code, result.output
    assert "bug" not in result.stderr, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    if result.exit_code == 1:
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("microlab: ")
    return result.stderr


FILES = ["missing", "missing.tif", "empty", "text", "text.tif", "zeros.tif", "stack.tif", "nan.tif"]
FILES += ["pixel.tif", "two.tif", "small.tif"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("method", ["label-free", "tem", "ridge"])
def test_segment_takes_wrong_images(here, tmp_path, file, method):
    one_line("segment", here / file, "-o", tmp_path / "out", "--method", method)


@pytest.mark.parametrize("file", FILES[:8])
def test_measure_takes_wrong_labels(here, file):
    one_line("measure", here / file)


@pytest.mark.parametrize("file", [file for file in FILES if file != "zeros.tif"])
def test_measure_takes_wrong_truths(here, file):
    one_line("measure", here / "labels.tif", "--truth", here / file)


@pytest.mark.parametrize("file", FILES)
def test_adapt_takes_wrong_images(here, tmp_path, file):
    one_line("adapt", here / file, "-o", tmp_path / "out", "--profile", "smoke", "--style", "render")


WEIGHTS = ["nonsense", "missing.safetensors", "text.safetensors", "labels.tif", "empty", "uhcs"]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_wrong_weights(here, tmp_path, weights):
    given = weights if weights in ("nonsense", "uhcs") else here / weights
    out = tmp_path / "out"
    one_line("segment", here / "fields", "-o", out, "--weights", given)
    one_line("segment", here / "fields", "-o", out, "--method", "tem", "--weights", given)
    one_line("demo", "-o", out, "--weights", given)
    if weights != "uhcs":
        one_line("sample-pairs", "-n", 1, "-o", out, "--weights", given)


@pytest.mark.parametrize(
    "call",
    [
        "segment {fields} -o {out} --device nonsense",
        "segment {fields} -o {out} --device cuda:99",
        "segment {fields} -o {out} --method nonsense",
        "segment {fields} -o {out} --method ridge --weights labour-free",
        "segment {fields} -o {out} --tolerance 0.1",
        "segment {fields}/a.png -o {out} --data-bar 500",
        "segment {fields}/a.png -o {out} --data-bar 95",
        "segment {fields} -o {out} --scheduler nonsense",
        "segment {fields} -o {out} --jobs nonsense",
        "segment {fields} -o {out} --jobs 0",
        "segment {fields} -o {fields}/a.png",
        "demo -o {fields}/a.png",
        "demo -o {out} --device nonsense",
        "demo -o {out} --seed -1",
        "measure {labels} --pixel-size 0",
        "measure {labels} {labels2} --truth {labels}",
        "measure {labels} -o {fields}",
        "simulate {out} -n 0",
        "simulate {out} -n 1 --jobs 1 --size 8",
        "simulate {out} -n 1 --jobs 0 --size 16 --grains 2 4 --steps 1 2",
        "simulate {out} -n 1 --jobs 1 --grains 5 2",
        "simulate {out} -n 1 --jobs 1 --grains 0 2",
        "simulate {out} -n 1 --jobs 1 --grains 5 99999",
        "simulate {out} -n 1 --jobs 1 --steps 0 2",
        "simulate {out} -n 1 --jobs 1 --steps 9 2",
        "simulate {fields}/a.png -n 1 --jobs 1 --size 16 --grains 2 3 --steps 1 2",
        "train {out} --library missing",
        "train {out} --library {fields}",
        "train {out} --structures 2 --images 0",
        "datasets fetch nonsense",
    ],
)
def test_wrong_options_and_folders(here, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("fields", "masks", "other", "empty", "text")
    places = {name: here / name for name in names} | {"out": tmp_path / "out"}
    places |= {"labels": here / "labels.tif", "labels2": here / "zeros.tif"}
    one_line(*[part.format(**places) for part in call.split()])


def test_wrong_environment_variables(here, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("MICROLAB_DATA", "missing")
    assert "MICROLAB_DATA" in one_line("demo", "--real", "-o", out)
    assert "MICROLAB_DATA" in one_line("datasets", "fetch", "steel")
    monkeypatch.setenv("MICROLAB_PROFILE", "nonsense")
    assert "MICROLAB_PROFILE" in one_line("adapt", here / "fields", "-o", out)
    assert "MICROLAB_PROFILE" in one_line("train-pairs", here / "fields", here / "masks", "-o", out)


@pytest.mark.parametrize("error", [ValueError("wrong shape"), FloatingPointError("nan"), KeyError("pixels")])
def test_an_error_of_the_program_is_shown_as_a_bug(here, tmp_path, monkeypatch, error):
    def broken(*arguments, **keywords):
        raise error

    monkeypatch.setattr(images, "write_labels", broken)
    result = run("segment", here / "fields" / "a.png", "-o", tmp_path / "out", "--method", "ridge")
    assert result.exit_code == BUG
    assert type(error).__name__ in result.stderr
    assert "this is a bug in microlab" in result.stderr


def test_a_diverged_training_is_an_error_of_the_user_and_of_arithmetic():
    assert issubclass(DivergedError, InputError)
    assert issubclass(DivergedError, FloatingPointError)
