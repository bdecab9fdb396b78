"""Half, stale, foreign and edited files of a run: refused by name or made anew, and nothing is lost.

To add a case, add a harm to `HARMS` in tests/helpers/faults.py: it then meets every file of every kind of run
below. To add a kind of run, give its files, an undisturbed run, and what to call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dark_lines import grid, save_network
from faults import Case, cases, check, contents, line_of
from toy_method import TOY

import microlab.training.fit as fit_module
from microlab.data import images, weights
from microlab.data.errors import InputError
from microlab.data.files import MARK
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import read_pairs, write_pairs
from microlab.data.run_folder import RunFolder
from microlab.pipelines.adapt.settings import profile_settings
from microlab.pipelines.adapt.stages import adapt
from microlab.pipelines.image_results import Options
from microlab.pipelines.measure_folder import measure_folder
from microlab.pipelines.segment_folder import segment_folder
from microlab.segment.registry import REGISTRY, load_segmenter
from microlab.simulate import library
from microlab.training.fit import FitConfig, fit


@pytest.fixture(scope="module", autouse=True)
def undisturbed_by_the_clock() -> Iterator[None]:
    """Histories hold seconds, which would differ from run to run; and the method that is quick is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "time", SimpleNamespace(perf_counter=lambda: 0.0))
        patch.setitem(REGISTRY, "toy", TOY)
        yield


def reference(make: Callable[[Path], None]):
    """A fixture: the folder of an undisturbed run."""

    @pytest.fixture(scope="module")
    def made(tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("reference") / "run"
        make(folder)
        return folder

    return made


# --- simulate ---------------------------------------------------------------------------------------------

STRUCTURE = (*library.FILES.values(), library.RECORD)
STRUCTURES = [f"structures/00000{k}/{name}" for k in range(2) for name in STRUCTURE]
SMALL = library.Ranges(shape=(32, 32), grains=(4, 6), steps=(3, 6))


def simulate(folder: Path) -> None:
    library.build(folder, 2, ranges=SMALL, jobs=1, progress=False)
    assert len(library.read_manifest(folder)) == 2
    for index in range(2):
        library.load(folder, index)


simulated = reference(simulate)


@pytest.mark.parametrize("case", cases([MARK, "settings.json", "manifest.csv", *STRUCTURES], 100), ids=str)
def test_simulate(case: Case, simulated, tmp_path):
    check(tmp_path / "run", simulated, case, lambda: simulate(tmp_path / "run"))


def test_a_structure_of_another_library_is_not_taken(simulated, tmp_path):
    shutil.copytree(simulated, tmp_path / "run")
    library.build(tmp_path / "other", 2, seed=1, ranges=SMALL, jobs=1, progress=False)
    place = tmp_path / "run" / "structures" / "000001"
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "other" / "structures" / "000001", place)
    with pytest.raises(InputError, match=r"000001: holds a structure of another library; move it away"):
        simulate(tmp_path / "run")


def test_one_structure_does_not_stand_in_for_another(simulated, tmp_path):
    shutil.copytree(simulated, tmp_path / "run")
    structures = tmp_path / "run" / "structures"
    shutil.rmtree(structures / "000001")
    shutil.copytree(structures / "000000", structures / "000001")
    with pytest.raises(InputError, match="000001: holds a structure of another"):
        library.load(tmp_path / "run", 1)


def test_a_structure_that_stands_twice_in_the_manifest_is_refused(simulated, tmp_path):
    """It would train and validate alike."""
    folder = tmp_path / "run"
    shutil.copytree(simulated, folder)
    manifest = folder / "manifest.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(InputError, match=r"manifest\.csv: .*remove it"):
        library.read_manifest(folder)


# --- train ------------------------------------------------------------------------------------------------


def train(folder: Path) -> None:
    """A line fitted in some steps: the loop, checkpoints and files of every training."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 8)[:, None]
    fit(
        torch.nn.Linear(1, 1),
        lambda step: x + step / 100,
        lambda network, batch: ((network(batch) - 2 * batch) ** 2).mean(),
        FitConfig(steps=6, log_every=1, checkpoint_every=2, precision="float32"),
        folder=folder,
        device="cpu",
        progress=False,
    )


trained = reference(train)
TRAINING = [MARK, "state.safetensors", "model.safetensors", "history.csv"]


@pytest.mark.parametrize("case", cases(TRAINING, 200), ids=str)
def test_train(case: Case, trained, tmp_path):
    line = check(tmp_path / "run", trained, case, lambda: train(tmp_path / "run"))
    if case.file == "history.csv" and case.harm.__name__ == "delete":
        assert line is None


# --- adapt, studies: any run with stages ------------------------------------------------------------------


def stages(folder: Path) -> None:
    run = RunFolder(folder, {"seed": 0, "shape": (4, 4)})
    assert run.once("sizes.json", lambda: {"a": 3.5, "b": 4}) == {"a": 3.5, "b": 4}
    stored = run.arrays("pairs.npz", lambda: {"images": np.arange(6).reshape(2, 3)})
    np.testing.assert_array_equal(stored["images"], [[0, 1, 2], [3, 4, 5]])
    assert run.once("segmented/field.json", lambda: {"zoom": 1.5}) == {"zoom": 1.5}
    with run.stage("report"):
        pass


staged = reference(stages)
STAGES = [MARK, "settings.json", "sizes.json", "pairs.npz", "seconds.json", "segmented/field.json"]


@pytest.mark.parametrize("case", cases([*STAGES, f"segmented/{MARK}"], 300), ids=str)
def test_run_with_stages(case: Case, staged, tmp_path):
    check(tmp_path / "run", staged, case, lambda: stages(tmp_path / "run"))


# --- sample-pairs -----------------------------------------------------------------------------------------


def pairs(folder: Path) -> None:
    if not (folder / "manifest.json").exists():
        rng = np.random.default_rng(0)
        made = [
            Micrograph(rng.random((20, 20), np.float32), name=name, classes=rng.integers(0, 2, (20, 20)))
            for name in ("a", "b")
        ]
        write_pairs(folder, made, classes=2)
    assert [pair.name for pair in read_pairs(folder)] == ["a", "b"]


paired = reference(pairs)
PAIRS = [f"{part}/{MARK}" for part in ("images", "masks")] + ["images/a.tif", "masks/b.tif"]


@pytest.mark.parametrize("case", cases([MARK, *PAIRS], 400), ids=str)
def test_pairs(case: Case, paired, tmp_path):
    def read() -> None:
        if not (tmp_path / "run" / case.file).is_file() and case.file.endswith(".tif"):
            (tmp_path / "run" / "manifest.json").unlink()  # as the message says: write the set again
        pairs(tmp_path / "run")

    check(tmp_path / "run", paired, case, read)


@pytest.mark.parametrize("file", ["../secret.tif", "/etc/hostname", "images/../../secret.tif"])
def test_a_manifest_does_not_lead_out_of_its_folder(paired, tmp_path, file):
    shutil.copytree(paired, tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"images/a.tif"', f'"{file}"'))
    with pytest.raises(InputError, match="lies outside of its folder"):
        read_pairs(tmp_path / "run")


# --- segment and measure ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("fields")
    for k, name in enumerate(("a", "b")):
        images.write_image(place / f"{name}.tif", grid(3 + k, 4)[0], pixel_size=0.5)
    return place


def segment(fields: Path, out: Path, **how: bool) -> None:
    result = segment_folder([fields], out, method="toy", **how)
    if result.failed:
        raise result.failed[0].error


@pytest.fixture(scope="module")
def segmented(fields, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    segment(fields, out)
    return out


IMAGE = ["mask.png", "labels.tif", "grains.csv", "overlay.png", "run.json"]
RESULTS = [MARK, "summary.csv", "grains.csv", "report.html", *(f"a/{name}" for name in IMAGE)]


@pytest.mark.parametrize("case", cases(RESULTS, 500, share=0.4), ids=str)
def test_segment_skips_only_what_is_whole(case: Case, fields, segmented, tmp_path):
    check(tmp_path / "run", segmented, case, lambda: segment(fields, tmp_path / "run", skip_existing=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(RESULTS, 600), ids=str)
def test_segment_again(case: Case, fields, segmented, tmp_path):
    check(tmp_path / "run", segmented, case, lambda: segment(fields, tmp_path / "run"))


def test_overwrite_is_how_a_changed_result_is_replaced(fields, segmented, tmp_path):
    shutil.copytree(segmented, tmp_path / "run")
    (tmp_path / "run" / "a" / "labels.tif").write_bytes(b"edited")
    (tmp_path / "run" / "summary.csv").write_text("edited")
    (tmp_path / "run" / "a" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"summary\.csv: .*--overwrite"):
        segment(fields, tmp_path / "run")
    segment(fields, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "a" / "notes.txt").read_text() == "mine"
    (tmp_path / "run" / "a" / "notes.txt").unlink()
    ours = {name: data for name, data in contents(tmp_path / "run").items() if MARK not in name}
    assert ours == {name: data for name, data in contents(segmented).items() if MARK not in name}


def test_a_folder_that_lost_its_mark_is_somebody_elses(fields, segmented, tmp_path):
    shutil.copytree(segmented, tmp_path / "run")
    (tmp_path / "run" / "a" / MARK).unlink()
    before = contents(tmp_path / "run" / "a")
    segment(fields, tmp_path / "run")
    assert contents(tmp_path / "run" / "a") == before
    assert (tmp_path / "run" / "a-2" / "run.json").is_file()


def test_results_of_other_settings_are_not_skipped(fields, segmented, tmp_path):
    shutil.copytree(segmented, tmp_path / "run")
    result = segment_folder([fields], tmp_path / "run", method="toy", skip_existing=True)
    assert all(image.kept for image in result.images)
    options = Options(pixel_size=0.25)
    result = segment_folder([fields], tmp_path / "run", method="toy", skip_existing=True, options=options)
    assert not any(image.kept for image in result.images)
    assert result.grains["area_um2"].max() < 26**2 * 0.25**2


def test_results_of_another_method_do_not_stay(fields, tmp_path):
    """Neither its files nor their names in the report; a file of the user's stays."""
    segment_folder([fields / "a.tif"], tmp_path / "run", method="tem")
    (tmp_path / "run" / "a" / "notes.txt").write_text("mine")
    assert (tmp_path / "run" / "a" / "iterations.tif").is_file()
    segment_folder([fields / "a.tif"], tmp_path / "run", method="toy")
    left = {path.name for path in (tmp_path / "run" / "a").iterdir()}
    assert left == {*IMAGE, MARK, "notes.txt"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "iterations.tif" not in page
    assert "notes.txt" not in page


@pytest.mark.parametrize("case", cases(["a/labels.tif", "a/run.json", f"a/{MARK}", MARK], 700), ids=str)
def test_measure_reads_a_folder_of_results(case: Case, segmented, tmp_path):
    """A damaged label image is refused; a changed one is somebody's correction, and counts. Both are said."""
    said, measured = [], []

    def measure() -> None:
        for result in measure_folder([tmp_path / "run"], log=said.append):
            said.extend(result.notes)
            if result.error is not None:
                raise result.error
            measured.append(result.name)

    shutil.copytree(segmented, tmp_path / "run")
    undisturbed = contents(tmp_path / "run")
    case.apply(tmp_path / "run")
    before = contents(tmp_path / "run")
    line = line_of(measure)
    if line is not None:
        assert str(tmp_path / "run") in line
    elif case.file in ("a/labels.tif", "a/run.json") and before.get(case.file) != undisturbed[case.file]:
        assert any(str(tmp_path / "run" / "a") in note for note in said), said
    elif not said:
        assert measured == ["a", "b"]
    assert contents(tmp_path / "run") == before


# --- weights and their cards ------------------------------------------------------------------------------

ENTRIES = {
    "architecture": [None, 3, "Other"],
    "parameters": [None, [], "x", {"width": "wide"}, {"width": 10**9}],
    "scores": [None, 7],
    "sha256": [None, "", "0" * 64],
    "grain_size_px": [0, -3, "big", 1e9, float("nan"), [], True],
    "zoom": [0, "x", float("inf")],
    "watershed": [[], 3],
}


@pytest.mark.parametrize(("entry", "value"), [(e, v) for e, values in ENTRIES.items() for v in values])
def test_a_wrong_card_is_named(tmp_path, entry, value):
    path = save_network(tmp_path / "own.safetensors")
    card = weights.card(path) | {entry: value}
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"own\.(json|safetensors): "):
        load_segmenter("label-free", path)


def test_weights_that_are_no_numbers_do_not_blame_the_image(tmp_path):
    path = save_network(tmp_path / "own.safetensors")
    tensors, card = weights.load_state(path)
    tensors["head.bias"] = tensors["head.bias"] * float("nan")
    weights.save(path, tensors, card)
    with pytest.raises(InputError, match=r"own\.safetensors: head\.bias holds NaN"):
        weights.load_state(path)


# --- adapt, the whole -------------------------------------------------------------------------------------

WORK = ["settings.json", "grain_sizes.json", "estimate.json", "candidates.json", "pairs.npz", "held_out.npz"]
WORK += [
    "trained.json",
    "realism.json",
    "patches.npz",
    "held_out.json",
    "accept-adapted.json",
    "seconds.json",
]
WORK += ["training/state.safetensors", "training/history.csv", "segmented/a.json", "library/settings.json"]
ADAPTED = [
    "adapted.safetensors",
    "adapted.json",
    "uncertainty.csv",
    "report.html",
    "a/labels.tif",
    "a/run.json",
]


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("micrographs")
    for k, name in enumerate(("a", "b")):
        images.write_image(place / f"{name}.png", grid(6, 7 + k)[0])
    return place


def adapted_to(micrographs: Path, out: Path) -> None:
    adapt([micrographs], out, profile_settings("smoke", "render"), jobs=1, progress=False)


@pytest.fixture(scope="module")
def adapted(micrographs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    adapted_to(micrographs, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("case", cases([*(f"work/{n}" for n in WORK), *ADAPTED], 800, share=0.3), ids=str)
def test_adapt(case: Case, micrographs, adapted, tmp_path):
    """Refused, or done with the same results; the report, which tells the time taken, may differ."""
    shutil.copytree(adapted, tmp_path / "run")
    path = case.apply(tmp_path / "run")
    data = path.read_bytes() if path.is_file() else None
    line = line_of(lambda: adapted_to(micrographs, tmp_path / "run"))
    assert data is None or path.read_bytes() == data
    if line is not None:
        assert str(tmp_path / "run") in line
        return
    if case.file not in ("work/training/state.safetensors", "work/training/history.csv"):  # done with
        assert data is None, f"{case}: goes through"
    for name in ("adapted.safetensors", "a/labels.tif", "a/mask.png", "b/grains.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (adapted / name).read_bytes()
