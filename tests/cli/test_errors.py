"""Errors: those of the user are reported in one line, those of the program are shown as bugs."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
from command_line import run

from microlab.cli.errors import BUG
from microlab.data import images, parallel
from microlab.data.errors import DivergedError, InputError
from microlab.data.files import MARK, atomic, claim
from microlab.pipelines import train_pair_model, train_segmenter
from microlab.pipelines.adapt import stages
from microlab.training.cards import model_card
from microlab.training.fit import FitConfig, fit

RNG = np.random.default_rng(0)
BAR = re.compile(r"\d+/\d+ \[\d")  # of a progress bar

LIBRARY = ("--jobs", 1, "--grains", 4, 6, "--steps", 2, 3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with valid and invalid inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("empty", "fields", "masks", "other", "soft", "ids", "text"):
        (folder / name).mkdir()
    for name in ("a", "b"):
        images.write_image(folder / "fields" / f"{name}.png", RNG.random((96, 96)))
        tifffile.imwrite(folder / "masks" / f"{name}.tif", (RNG.random((96, 96)) > 0.5).astype(np.uint8))
        tifffile.imwrite(folder / "other" / f"{name}.tif", (RNG.random((64, 80)) > 0.5).astype(np.uint8))
        tifffile.imwrite(folder / "soft" / f"{name}.tif", RNG.random((96, 96)).astype(np.float32))
        tifffile.imwrite(folder / "ids" / f"{name}.tif", RNG.integers(0, 9, (96, 96), np.uint8))
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
    pages = RNG.integers(0, 255, (2, 64, 64), np.uint8)
    tifffile.imwrite(folder / "pages.tif", pages, photometric="minisblack")
    tifffile.imwrite(folder / "wide.tif", np.eye(64, 80, dtype=np.uint8) * 255)
    tifffile.imwrite(folder / "nan.tif", np.full((64, 64), np.nan, np.float32))
    tifffile.imwrite(folder / "pixel.tif", np.zeros((1, 1), np.uint8))
    tifffile.imwrite(folder / "two.tif", RNG.integers(0, 255, (2, 2), np.uint8))
    tifffile.imwrite(folder / "small.tif", RNG.integers(0, 255, (40, 9), np.uint8))
    for name, seed in (("library", 0), ("library2", 1)):
        assert run("simulate", folder / name, "-n", 2, *LIBRARY, "--size", 32, "--seed", seed).exit_code == 0
    return folder


def contents(*folders):
    """Bytes of every file in some folders, by path."""
    return {f: f.read_bytes() for folder in folders for f in sorted(folder.rglob("*")) if f.is_file()}


def one_line(*arguments):
    """The one line printed by a refused call: exit code 1, or 2 below the usage for a wrong call."""
    result = run(*arguments)
    lines = [line for line in result.stderr.splitlines() if line.strip() and not BAR.search(line)]
    assert result.exit_code in (1, 2), result.output
    assert "bug" not in result.stderr, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    if result.exit_code == 1:
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("microlab: ")
    else:
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], result.stderr
    return lines[-1]


FILES = ["missing", "missing.tif", "empty", "text", "text.tif", "zeros.tif", "stack.tif", "nan.tif"]
FILES += ["pixel.tif", "two.tif", "small.tif"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("method", ["label-free", "tem", "ridge"])
def test_segment_reports_wrong_images_in_one_line(inputs, tmp_path, file, method):
    one_line("segment", inputs / file, "-o", tmp_path / "out", "--method", method)


@pytest.mark.parametrize("file", FILES[:8])
def test_measure_reports_wrong_labels_in_one_line(inputs, file):
    one_line("measure", inputs / file)


@pytest.mark.parametrize("file", [file for file in FILES if file != "zeros.tif"])
def test_measure_reports_wrong_truths_in_one_line(inputs, file):
    one_line("measure", inputs / "labels.tif", "--truth", inputs / file)


@pytest.mark.parametrize("file", FILES)
def test_adapt_reports_wrong_images_in_one_line(inputs, tmp_path, file):
    one_line("adapt", inputs / file, "-o", tmp_path / "out", "--profile", "smoke", "--style", "render")


WEIGHTS = ["nonsense", "missing.safetensors", "text.safetensors", "labels.tif", "empty", "uhcs"]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_wrong_weights(inputs, tmp_path, weights):
    given = weights if weights in ("nonsense", "uhcs") else inputs / weights
    out = tmp_path / "out"
    one_line("segment", inputs / "fields", "-o", out, "--weights", given)
    one_line("segment", inputs / "fields", "-o", out, "--method", "tem", "--weights", given)
    one_line("demo", "-o", out, "--weights", given)
    if weights != "uhcs":
        one_line("sample-pairs", "-n", 1, "-o", out, "--weights", given)


# Calls that are refused, and what their line names.
CALLS = {
    "segment": """
        {fields} -o {out} --device nonsense             | nonsense
        {fields} -o {out} --device cuda:99              | cuda:99
        {fields} -o {out} --device meta                 | meta
        {fields} -o {out} --method nonsense             | nonsense
        {fields} -o {out} --method ridge --weights labour-free | ridge
        {fields} -o {out} --tolerance 0.1               | tolerance
        {fields} -o {out} --views 1                     | one view
        {fields}/a.png -o {out} --data-bar 500          | 500
        {fields}/a.png -o {out} --data-bar 95           | a.png
        {fields} -o {out} --jobs nonsense               | --jobs
        {fields} -o {out} --jobs 0                      | jobs
        {fields} -o {fields}/a.png                      | a.png
        {stack} -o {out} --method ridge                 | choose one with --page 0 to 2
        {stack} -o {out} --method ridge --page 3        | no page 3; pages run from 0 to 2
        {stack} -o {out} --method ridge --page -1       | --page
        {fields}/a.png -o {out} --method ridge --page 1 | no page 1
    """,
    "demo": """
        -o {fields}/a.png       | a.png
        -o {out} --device nonsense | nonsense
        -o {out} --seed -1      | --seed
    """,
    "measure": """
        {labels} --pixel-size 0             | 0.0
        {labels} --pixel-size nan           | nan
        {labels} {zeros} --truth {labels}   | --truth
        {labels} --truth {wide}             | wide.tif (64, 80)
        {labels} --truth {stack}            | stack.tif: has 3 pages
        {labels} -o {fields}                | fields: holds a.png, which microlab did not write
        {labels} -o {labels}                | labels.tif: is an input
        {labels} -o {labels}/grains.csv     | labels.tif
    """,
    "simulate": """
        {out} -n 0                              | --number
        {out} -n 1 --size 8                     | --size
        {out} -n 1 --seed -1                    | --seed
        {out} -n 1 --jobs 0 --size 16 --grains 2 4 --steps 1 2 | jobs
        {out} -n 1 --grains 5                   | --grains
        {out} -n 1 --grains 5 many              | --grains
        {out} -n 1 --grains 5 2                 | (5, 2)
        {out} -n 1 --grains 0 2                 | (0, 2)
        {out} -n 1 --grains 5 99999             | (5, 99999)
        {out} -n 1 --grains 5 300 --size 16     | pixels of 16 x 16
        {out} -n 1 --steps 0 2                  | (0, 2)
        {out} -n 1 --steps 9 2                  | (9, 2)
        {fields}/a.png -n 1                     | a.png: is a file
        {fields}/a.png/deep -n 1                | a.png
    """,
    "train": """
        {out} --recipe lines --library missing             | missing holds no manifest.csv: give a library
        {out} --recipe lines --library {fields}            | fields
        {out} --recipe lines --library {fields}/a.png      | a.png
        {out} --recipe lines --library {library} --structures 3 | holds 2 structures
        {out} --recipe lines --library {library} --structures 2 | 1..32, the smallest image's, got 224
        {out} --structures 2 --images 0     | --images
        {out} --structures 1                | --structures
        {out} --steps 0                     | --steps
        {out} --steps many                  | --steps
        {out} --width 0                     | --width
        {out} --seed -1                     | --seed
        {out} --device nonsense             | nonsense
        {library}                           | library: holds a run with other settings
        {fields}/a.png                      | a.png: is a file
        {fields}/a.png/deep                 | a.png
        {out} --recipe quick                | --recipe must be appearances or lines, got 'quick'
        {out} --images 4                    | --images does not belong to --recipe appearances
        {out} --library {library}           | --library does not belong to --recipe appearances
        {out} --recipe lines --appearance etched | --appearance does not belong to --recipe lines
        {out} --appearance glossy           | appearances must be of grooves
    """,
    "adapt": """
        {fields} -o {out} --style nonsense              | nonsense
        {fields} -o {out} --profile nonsense            | nonsense
        {fields} -o {out} --style render --device nonsense | nonsense
        {fields} -o {out} --style render --jobs 0       | jobs
        {fields} -o {out} --jobs many                   | --jobs
        {fields} -o {out} --seed -1                     | --seed
        {fields} -o {out} --scale 0                     | --scale
        {fields} -o {out} --scale nan                   | nan
        {fields} -o {out} --style render --scale 0.02   | a.png
        {fields} -o {out} --pixel-size -1               | -1
        {fields} -o {out} --data-bar many               | many
        {fields} -o {out} --style render --data-bar 95  | 95
        {fields} {stack} -o {out} --style render        | 1 of 3 images cannot be used: stack.tif
        {fields} -o {fields}/a.png --style render       | a.png
        {fields} -o {fields}/a.png/deep --style render  | a.png
    """,
    "sample-pairs": """
        -n 0 -o {out}                           | --number
        -n 1 -o {out} --size 0                  | 0
        -n 1 -o {out} --size 7                  | 7
        -n 1 -o {out} --size big                | big
        -n 1 -o {out} --size 32x                | 32x
        -n 1 -o {out} --size 32 --seed -1       | --seed
        -n 1 -o {out} --size 32 --fractions a,b | a,b
        -n 1 -o {out} --size 32 --fractions 1,1 | fractions must be 4 numbers
        -n 1 -o {out} --size 32 --fractions nan,0,0,1 | nan
        -n 1 -o {out} --size 32 --fractions 1,1,0,-1 | -1.0
        -n 1 -o {out} --size 32 --temperature -1 | -1.0
        -n 1 -o {out} --size 32 --temperature 0 | 0.0
        -n 1 -o {out} --size 32 --temperature nan | nan
        -n 1 -o {out} --size 32 --device nonsense | nonsense
        -n 1 -o {out} --weights {fields}        | fields
        -n 1 -o {fields}                        | fields: holds a.png, which microlab did not write
        -n 1 -o {fields}/a.png                  | a.png
        -n 1 -o {fields}/a.png/deep             | a.png
    """,
    "train-pairs": """
        missing {masks} -o {out}                        | missing: no such folder
        {fields} missing -o {out}                       | missing: no such folder
        {fields}/a.png {masks} -o {out}                 | a.png
        {fields} {masks}/a.tif -o {out}                 | a.tif
        {empty} {masks} -o {out}                        | empty
        {fields} {empty} -o {out}                       | empty
        {fields} {other} -o {out}                       | a.tif
        {fields} {soft} -o {out}                        | a.tif: labels must be whole numbers
        {fields} {masks} -o {out} --classes 1           | --classes
        {fields} {ids} -o {out} --classes 2             | a.tif holds the values 0, 1, 2
        {text} {masks} -o {out}                         | no partner of the same name: b
        {fields} {text} -o {out}                        | no partner of the same name: b
        {fields} {masks} -o {fields}                    | fields: holds a.png, which microlab did not write
        {fields} {masks} -o {fields}/a.png              | a.png: is a file
        {fields} {masks} -o {fields}/a.png/deep         | a.png
        {fields} {masks} -o {out} --coding nonsense     | nonsense
        {fields} {masks} -o {out} --profile nonsense    | nonsense
        {fields} {masks} -o {out} --profile paper       | 96 x 96 px
        {fields} {masks} -o {out} --device nonsense     | nonsense
        {fields} {masks} -o {out} --seed -1             | --seed
    """,
    "datasets": "fetch nonsense | nonsense",
}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (f"{command} {line.split(' | ')[0].strip()}", line.split(" | ")[1].strip())
        for command, lines in CALLS.items()
        for line in lines.strip().splitlines()
    ],
)
def test_wrong_options_and_folders(inputs, tmp_path, call, named, monkeypatch):
    """One line names the value or the file; no input is changed, and no result is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROLAB_PROFILE", "smoke")
    places = {path.name.removesuffix(".tif"): path for path in inputs.iterdir()}
    places |= {"text": inputs / "text", "out": tmp_path / "out"}
    before = contents(inputs)
    line = one_line(*[part.format(**places) for part in call.split()])
    assert named in line.replace(f"{inputs}/", "")
    assert contents(inputs) == before
    written = {path.name for path in contents(tmp_path)}
    assert written <= {MARK}, written  # a folder that is ours and empty


@pytest.mark.parametrize("address", ["nonsense", "tcp://nonsense", "ftp://127.0.0.1:1", "tcp://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_named(inputs, tmp_path, address, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_SECONDS", 0.2)
    out = tmp_path / "out"
    small = ["--size", 16, "--grains", 2, 3, "--steps", 1, 2]
    assert f"scheduler {address} does" in one_line("simulate", out, "-n", 1, *small, "--scheduler", address)
    images_and_method = [inputs / "fields", "--method", "ridge"]
    assert f"scheduler {address} does" in one_line(
        "segment", *images_and_method, "-o", tmp_path / "images", "--scheduler", address
    )


def stopped(*arguments, **keywords):
    """Stands in for a stage that is killed."""
    raise InputError("stopped")


def test_a_library_of_other_settings_is_not_changed(inputs):
    library = inputs / "library"
    before = contents(library)
    for changed in (["--size", 48], ["--size", 32, "--seed", 1], ["--size", 32, "--grains", 4, 7]):
        line = one_line("simulate", library, "-n", 3, *LIBRARY, *changed)
        assert "library: holds a run with other settings (" in line
    assert contents(library) == before


def test_an_adaptation_of_other_settings_is_not_changed(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "measure_sizes", lambda *_: {"a.png": 20.0})
    monkeypatch.setattr(stages, "estimate", stopped)
    call = ["adapt", inputs / "fields", "-o", tmp_path / "out", "--profile", "smoke"]
    assert "stopped" in one_line(*call, "--style", "render")
    for name in ("adapted.safetensors", "a/run.json", "work/training/state.safetensors"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("of the first run")
    before = contents(tmp_path / "out")
    for changed, phrase in {
        "--style cut": "settings.style render -> cut",
        "--style render --seed 1": "settings.seed 0 -> 1",
        "--style render --scale 2": "zoom None -> 2.0",
        "--style render --data-bar 10": "data_bar auto -> 10",
        "--style render --batch-norm": "settings.batch_norm False -> True",
        "--style render --profile laptop": "settings.steps 8 -> 400",
        f"--style render {inputs / 'small.tif'}": "",
        f"--style render {inputs / 'labels.tif'}": "images.labels.tif absent -> ",
    }.items():
        line = one_line(*call, *changed.split())
        assert phrase in line
        assert "--fresh" in line or not phrase
        assert contents(tmp_path / "out") == before


def test_a_training_of_other_settings_is_not_changed(inputs, tmp_path, monkeypatch):
    """Its checkpoint would continue with other images and be attributed to them."""
    monkeypatch.setattr(train_segmenter, "render_pairs", stopped)
    monkeypatch.setattr(train_segmenter.library, "build", stopped)
    monkeypatch.setattr(train_segmenter, "check_crop", lambda side, shapes: None)
    folder = tmp_path / "run"
    call = ["train", folder, "--recipe", "lines", "--structures", 2, "--images", 4, "--steps", 5]
    library = ["--library", inputs / "library"]
    assert "stopped" in one_line(*call, *library)
    claim(folder / "training", "training")
    for name in ("labour-free.safetensors", "training/state.safetensors"):
        with atomic(folder / name) as partial:
            partial.write_text("of the first run")
    before = contents(folder)
    for changed, phrase in {
        "--images 5": "images 4 -> 5",
        "--steps 6": "steps 5 -> 6",
        "--width 8": "width 16 -> 8",
        "--seed 1": "seed 0 -> 1",
        f"--library {inputs / 'library2'}": "library ",
    }.items():
        line = one_line(*call, *library, *changed.split())
        assert f"run: holds a run with other settings ({phrase}" in line
        assert "--no-resume" in line
    assert "other settings (library" in one_line(*call)  # its own library
    assert contents(folder) == before
    assert "stopped" in one_line(*call, *library)  # resumes
    assert contents(folder) == before
    assert "stopped" in one_line(*call, *library, "--seed", 1, "--no-resume")
    assert not (folder / "training" / "state.safetensors").exists()
    assert "seed 1 -> 0" in one_line(*call, *library)


def test_a_pair_training_of_other_settings_is_not_changed(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(train_pair_model, "train_vqvae", stopped)
    folder = tmp_path / "run"
    call = ["train-pairs", inputs / "fields", inputs / "masks", "-o", folder, "--profile", "smoke"]
    assert "stopped" in one_line(*call)
    claim(folder / "vqvae", "training")
    with atomic(folder / "vqvae" / "state.safetensors") as partial:
        partial.write_text("of the first run")
    before = contents(folder)
    for changed, phrase in {
        "--seed 1": "seed 0 -> 1",
        "--coding grey": "coding one-hot -> grey",
        "--classes 3": "classes 2 -> 3",
    }.items():
        line = one_line(*call, *changed.split())
        assert phrase in line
        assert "--no-resume" in line
        assert contents(folder) == before
    other = [inputs / "fields" if part == inputs / "masks" else part for part in call]
    one_line(*other)
    assert contents(folder) == before


DAMAGE = {  # file of a library of two structures -> what is written over it
    "settings.json": ["{", "[]"],
    "manifest.csv": ["", "a,b\n1,2\n"],
    "structures/000001/structure.json": ["{", "[]", "{}"],
    "structures/000001/grains.tif": ["no image"],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in DAMAGE.items() for text in texts])
def test_a_damaged_library_is_named_and_repaired(inputs, tmp_path, file, text, monkeypatch):
    library = tmp_path / "library"
    shutil.copytree(inputs / "library", library)
    (library / file).write_text(text)
    simulate = ["simulate", library, "-n", 2, *LIBRARY, "--size", 32]
    if file != "settings.json":  # the reader needs none
        call = ["train", tmp_path / "run", "--recipe", "lines", "--library", library, "--structures", 2]
        assert f"library/{file}" in one_line(*call)
        assert not (tmp_path / "run").exists()
    elif text:
        assert f"library/{file}: is damaged" in one_line(*simulate)
    # As the message advises: another folder, or without the structure, or without the file.
    if file == "settings.json":
        shutil.rmtree(library)
    elif "structures" in file:
        shutil.rmtree((library / file).parent)
    else:
        (library / file).unlink()
    assert run(*simulate).exit_code == 0
    for name in ("manifest.csv", "settings.json", "structures/000001/grains.tif"):
        assert (library / name).read_bytes() == (inputs / "library" / name).read_bytes()


@pytest.mark.parametrize("name", ["state.safetensors", "history.csv"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    model, config = torch.nn.Linear(1, 1), FitConfig(steps=2, checkpoint_every=1, log_every=1)

    def train():
        return fit(
            model,
            lambda step: torch.ones(1, 1),
            lambda m, x: m(x).mean(),
            config,
            folder=tmp_path,
            progress=False,
            device="cpu",
        )

    train()
    (tmp_path / name).write_text("step,loss\none,two\n")
    with pytest.raises(InputError, match=rf"{name}: is damaged .*; remove it"):
        train()
    (tmp_path / name).unlink()
    model.architecture = {}
    card = model_card(model, train(), trained_by="", data="", scores={}, seed=0)
    assert card["minutes"] == 0


def test_a_folder_where_a_result_should_be_is_named(inputs, tmp_path):
    call = ["segment", inputs / "fields", "-o", tmp_path / "out", "--method", "ridge"]
    assert run(*call).exit_code == 0
    (tmp_path / "out" / "report.html").unlink()
    (tmp_path / "out" / "report.html").mkdir()
    assert "out/report.html: Is a directory; a folder stands where a file is needed" in one_line(*call)


def test_a_page_of_a_file_has_results_of_its_own(inputs, tmp_path):
    out = tmp_path / "out"
    for page in (0, 1):
        call = ["segment", inputs / "pages.tif", "-o", out, "--method", "ridge", "--page", page]
        assert run(*call).exit_code == 0
    for page in (0, 1):
        labels = tifffile.imread(out / f"pages-page{page}" / "labels.tif")
        images.write_image(tmp_path / "alone.png", tifffile.imread(inputs / "pages.tif")[page] / 255)
        assert run("segment", tmp_path / "alone.png", "-o", out, "--method", "ridge").exit_code == 0
        np.testing.assert_array_equal(labels, tifffile.imread(out / "alone" / "labels.tif"))


def test_results_never_overwrite_the_image(inputs, tmp_path):
    out = tmp_path / "out"
    assert run("segment", inputs / "fields" / "a.png", "-o", out, "--method", "ridge").exit_code == 0
    image = images.write_image(out / "labels" / "labels.tif", RNG.random((64, 64)))
    before = image.read_bytes()
    assert run("segment", image, "-o", out, "--method", "ridge").exit_code == 0
    assert image.read_bytes() == before
    assert (out / "labels-2" / "labels.tif").is_file()


def test_wrong_environment_variables(inputs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("MICROLAB_DATA", "missing")
    assert "MICROLAB_DATA" in one_line("demo", "--real", "-o", out)
    assert "MICROLAB_DATA" in one_line("datasets", "fetch", "steel")
    monkeypatch.setenv("MICROLAB_PROFILE", "nonsense")
    assert "MICROLAB_PROFILE" in one_line("adapt", inputs / "fields", "-o", out)
    assert "MICROLAB_PROFILE" in one_line("train-pairs", inputs / "fields", inputs / "masks", "-o", out)


@pytest.mark.parametrize("error", [ValueError("wrong shape"), FloatingPointError("nan"), KeyError("pixels")])
def test_an_error_of_the_program_is_shown_as_a_bug(inputs, tmp_path, monkeypatch, error):
    def broken(*arguments, **keywords):
        raise error

    monkeypatch.setattr(images, "write_labels", broken)
    result = run("segment", inputs / "fields" / "a.png", "-o", tmp_path / "out", "--method", "ridge")
    assert result.exit_code == BUG
    assert type(error).__name__ in result.stderr
    assert "this is a bug in microlab" in result.stderr


def test_a_diverged_training_is_an_error_of_the_user_and_of_arithmetic():
    assert issubclass(DivergedError, InputError)
    assert issubclass(DivergedError, FloatingPointError)
