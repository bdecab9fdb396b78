"""Eight public sets of real micrographs: what they hold, their licences, and how they are fetched and read.

    file accepted  <=>  sha256(file) = the registry's sha256

A set is looked for in the folder ``$MICROLAB_DATA/<set>/<path in its registry>``, then in the user's cache,
and is downloaded into that cache otherwise. Each registry (``registries/<set>.registry``) names in its first
line the address and the exact version that the files come from. None is stored in the repository.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from microlab.data.errors import DatasetError
from microlab.data.files import sha256
from microlab.data.formats import read_stored
from microlab.data.micrograph import Micrograph

STYLE_COLUMNS = 534  # perovskite: columns left of this are the style source, the others the test


def available(name: str) -> bool:
    """Whether every file of the set is on this machine, so that `load` needs no network."""
    return all(_local(name, path, digest) for path, digest in _registry(name)[1].items())


def fetch(name: str, *, progress: bool = True) -> dict[str, Path]:
    """Bring a data set to this machine and check every file against its checksum.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    progress : bool
        Show a progress bar while files are downloaded.

    Returns
    -------
    dict of str to Path
        Local file for each path in the registry.

    Raises
    ------
    DatasetError
        If the set is unknown, a file differs from its checksum, or it can be neither found nor downloaded.
    """
    base_url, registry = _registry(name)
    files = {path: _local(name, path, digest) for path, digest in registry.items()}
    missing = [path for path, file in files.items() if file is None]
    for path in tqdm(missing, desc=f"download {name}", unit="file", disable=not (progress and missing)):
        files[path] = _download(name, base_url, path, registry[path])
    return files


def load(name: str, split: str | None = None, *, labelled: bool | None = None) -> list[Micrograph]:
    """The micrographs of a data set with their masks.

    =============  =======================================================  ==============================
    set            mask                                                     splits
    =============  =======================================================  ==============================
    perovskite     bool, True on boundaries drawn by an expert              style, test (left, right half)
    steel          bool, True on boundaries                                 test
    uhcs           uint8, 0 matrix, 1 network, 2 spheroidite, 3 Widmanst.   train, val, test
    superalloy     uint8, 0 matrix, 1 secondary, 2 tertiary gamma'          train, val, test
    interconnect   None                                                     none
    membrane       bool, True on membranes                                  test
    titanium-bse   bool, True on boundaries; `valid` is False in a legend   test
    titanium-sem   bool, True on boundaries, open lines: boundary F1 only   test
    =============  =======================================================  ==============================

    The perovskite masks never train anything: only its test half comes with one unless `labelled` is True,
    which is for an oracle to compare with. The black rows at the edge of its file are cut off, so the two
    halves are 1067 rows high.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    split : str, optional
        One of the set's splits; everything by default.
    labelled : bool, optional
        Whether they carry their `boundary` or `classes`. By default they do, except perovskite outside its
        test half.

    Returns
    -------
    list of Micrograph
        In the order of the registry's numbers; the same every time.

    Raises
    ------
    DatasetError
        As `fetch`, and if the set has no such split.
    """
    dataset = _dataset(name)
    if split is not None and split not in dataset.splits:
        choices = ", ".join(dataset.splits) or "none: leave it out"
        raise DatasetError(f"{name}: no split {split!r}; choose from {choices}")
    samples = _READERS[name](fetch(name), split)
    if labelled is None:
        labelled = name != "perovskite" or split == "test"
    truth = "classes" if dataset.classes else "boundary"
    return [
        Micrograph(
            image,
            dataset.pixel_size,
            name=field,
            valid=_valid(image.shape, dataset.legend),
            **{truth: mask if labelled else None},
        )
        for field, image, mask in samples
    ]


def _valid(shape: tuple[int, int], legend: tuple[slice, slice] | None) -> np.ndarray | None:
    if legend is None:
        return None
    valid = np.ones(shape, bool)
    valid[legend] = False
    return valid


Rows = list[tuple[str, np.ndarray, "np.ndarray | None"]]  # name, image, mask


def _perovskite(files: dict[str, Path], split: str | None) -> Rows:
    rows = slice(2, -1)  # the screenshot's transparent frame is black there
    columns = {None: slice(None), "style": slice(STYLE_COLUMNS), "test": slice(STYLE_COLUMNS, None)}[split]
    image = _grey(files["example_images/example2.png"])[rows, columns]
    mask = _grey(files["example_images/ground_truth2.png"])[rows, columns] > 0.5  # grey only at blurred rims
    name = "perovskite" if split is None else f"perovskite_{split}"
    return [(name, np.ascontiguousarray(image), np.ascontiguousarray(mask))]


def _steel(files: dict[str, Path], split: str | None) -> Rows:
    folder = "ex_segmentation/optical_etched"
    image = _grey(files[f"{folder}/ref_steel_micrograph/extras/grain_structures_steel.tif"])
    mask = _grey(files[f"{folder}/grains_steel_highlighted_segmented.tif"]) > 0.5  # boundaries are 255
    return [("steel", image, mask)]


def _uhcs(files: dict[str, Path], split: str | None) -> Rows:
    lists = {"train": "train16A.txt", "val": "validate4A.txt", "test": "test4A.txt"}
    if split is None:
        with open(files["data/uhcs/splits/split_cv.csv"], newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
    else:
        names = files[f"data/uhcs/splits/{lists[split]}"].read_text().split()
    stems = sorted(name.removesuffix(".tif") for name in names)
    return [
        (
            stem,
            _grey(files[f"data/uhcs/images/{stem}.tif"]),
            np.load(files[f"data/uhcs/labels/{stem}.npy"], allow_pickle=False).astype(np.uint8),
        )
        for stem in stems
    ]


def _superalloy(files: dict[str, Path], split: str | None) -> Rows:
    rows: Rows = []
    for part in (split,) if split else ("train", "val", "test"):
        folder = f"benchmark_segmentation_data/Super1/{part}"
        for path in (path for path in files if path.startswith(f"{folder}/")):
            stem = Path(path).stem
            rows.append((stem, _grey(files[path]), _colours(files[f"{folder}_annot/{stem}_mask.tif"])))
    return rows


def _interconnect(files: dict[str, Path], split: str | None) -> Rows:
    return [("interconnect", _grey(files["TEM.png"]), None)]


def _membrane(files: dict[str, Path], split: str | None) -> Rows:
    folder = "data/membrane/train"
    return [
        (
            f"membrane_{number:02d}",
            _grey(files[f"{folder}/image/{number}.png"]),
            _grey(files[f"{folder}/label/{number}.png"]) < 0.5,  # membranes are drawn black
        )
        for number in range(30)
    ]


def _titanium_bse(files: dict[str, Path], split: str | None) -> Rows:
    sheet = _grey(files["docs/static/images/dataset.png"])  # the image, a gap, the expert's mask
    height, width, mask_at = 852, 1422, 1486
    lines = sheet[:height, mask_at : mask_at + width] > 0.5
    mask = ndimage.binary_dilation(lines)  # drawn one pixel wide
    return [("titanium-bse", np.ascontiguousarray(sheet[:height, :width]), mask)]


def _titanium_sem(files: dict[str, Path], split: str | None) -> Rows:
    stem = "ex_segmentation/sem_polished/sem_alpha_beta_ti_6al_4v"
    mask = _grey(files[f"{stem}_segmented.tif"]) > 0.5
    return [("titanium-sem", _grey(files[f"{stem}.tif"]), mask)]


_READERS: dict[str, Callable[[dict[str, Path], str | None], Rows]] = {
    "perovskite": _perovskite,
    "steel": _steel,
    "uhcs": _uhcs,
    "superalloy": _superalloy,
    "interconnect": _interconnect,
    "membrane": _membrane,
    "titanium-bse": _titanium_bse,
    "titanium-sem": _titanium_sem,
}


def _grey(path: Path) -> np.ndarray:
    values = read_stored(path).values  # 8 bits; what is transparent in a screenshot is cut off by the caller
    return (values if values.ndim == 2 else values[..., 0]) / np.float32(255)


def _colours(path: Path) -> np.ndarray:
    """Class ids of a grey micrograph with blue (1) and red (2) painted over it."""
    with Image.open(path, formats=("TIFF",)) as image:
        painted = np.asarray(image)[..., :3]
    classes = np.zeros(painted.shape[:2], dtype=np.uint8)
    classes[(painted == (0, 0, 255)).all(axis=-1)] = 1
    classes[(painted == (255, 0, 0)).all(axis=-1)] = 2
    return classes


def _dataset(name: str) -> DataSet:
    if name not in DATASETS:
        raise DatasetError(f"no data set {name!r}; choose from {', '.join(DATASETS)}")
    return DATASETS[name]


def _registry(name: str) -> tuple[str, dict[str, str]]:
    """Base address and sha256 of each file, from the packaged registry."""
    text = (Path(__file__).parent / "registries" / f"{_dataset(name).name}.registry").read_text()
    first, *lines = text.splitlines()
    base_url = first.removeprefix("# base_url:").strip()
    return base_url, dict(line.split(" sha256:") for line in lines if line)


def cache_folder() -> Path:
    """The folder of this user into which data sets are downloaded; it need not exist."""
    import pooch

    return Path(pooch.os_cache("microlab"))


def _local(name: str, path: str, digest: str) -> Path | None:
    """The file in MICROLAB_DATA or in the cache, checked; None if it is in neither."""
    folders = [cache_folder()]
    if given := os.environ.get("MICROLAB_DATA"):
        if not Path(given).is_dir():
            raise DatasetError(f"MICROLAB_DATA={given}: no such folder; correct or unset it")
        folders.insert(0, Path(given))
    for folder in folders:
        file = folder / name / path
        if file.is_file():
            state = file.stat()
            if _checksum(file, state.st_size, state.st_mtime_ns) != digest:
                raise DatasetError(
                    f"{file}: differs from its checksum, damaged or changed; delete it to fetch it anew"
                )
            return file
    return None


@functools.cache
def _checksum(file: Path, size: int, modified: int) -> str:
    """sha256, computed once per process while size and time of change stay the same."""
    return sha256(file)


def _download(name: str, base_url: str, path: str, digest: str) -> Path:
    import pooch

    target = cache_folder() / name / path
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # a line for each of sixty files; there is a progress bar
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(base_url + path, f"sha256:{digest}", fname=target.name, path=target.parent)
    except OSError as error:  # every failure of the network is one
        raise DatasetError(
            f"{name}: not on this machine and not available from {base_url} ({type(error).__name__}); "
            f"connect to the internet, or set MICROLAB_DATA to a folder that holds {name}/{path}"
        ) from None
    except ValueError:
        raise DatasetError(
            f"{name}: {base_url + path} differs from its checksum; the download was discarded"
        ) from None
    finally:
        logger.setLevel(level)
    return target


@dataclass(frozen=True)
class DataSet:
    """What a data set holds, its source and its licence."""

    name: str
    title: str
    licence: str
    url: str
    citation: str
    mask: str  # what the mask means
    splits: tuple[str, ...] = ()  # names that `load` accepts; None means all of them
    classes: tuple[str, ...] = ()  # names of the class ids 0, 1, ...
    pixel_size: float | None = None  # micrometres per pixel
    legend: tuple[slice, slice] | None = None  # rows and columns of one pasted into the field


DATASETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            name="perovskite",
            title="Halide perovskite film, SEM, 1 field of 1070 x 1068 pixels, about 216 grains",
            licence="MIT",
            url="https://github.com/yamanmy/grain_boundary.github.io",
            citation="yamanmy, grain_boundary: grain boundaries in images of perovskite thin films, GitHub.",
            mask="boundary, drawn by an expert as lines 3 to 7 px wide",
            splits=("style", "test"),
        ),
        DataSet(
            name="steel",
            title="Etched steel, optical, 1 field of 600 x 800 pixels",
            licence="NIST software notice: free use with acknowledgement",
            url="https://github.com/usnistgov/grain-size-analysis-tools",
            citation="N. Moser, Grain Size Library, National Institute of Standards and Technology, GitHub.",
            mask="boundary, segmented from lines highlighted by hand",
            splits=("test",),
            pixel_size=0.2252,  # 222 px are 50 um, says the readme beside the micrograph
        ),
        DataSet(
            name="uhcs",
            title="Ultrahigh carbon steel, SEM, 24 fields of 484 x 645 pixels",
            licence="MIT (repository)",
            url="https://github.com/lei-bo/MatSeg",
            citation="B. L. DeCost, B. Lei, T. Francis, E. A. Holm, High throughput quantitative "
            "metallography for complex microstructures using deep learning: a case study in ultrahigh "
            "carbon steel, Microscopy and Microanalysis 25 (2019) 21-29, doi:10.1017/S1431927618015635.",
            mask="class",
            splits=("train", "val", "test"),
            classes=("ferritic matrix", "network carbide", "spheroidite", "Widmanstätten cementite"),
        ),
        DataSet(
            name="superalloy",
            title="Nickel superalloy, SEM, 18 fields of 512 x 512 pixels",
            licence="MIT",
            url="https://github.com/nasa/pretrained-microscopy-models",
            citation="J. Stuckner, B. Harder, T. M. Smith, Microstructure segmentation with deep learning "
            "encoders pre-trained on a large microscopy dataset, npj Computational Materials 8 (2022) 200, "
            "doi:10.1038/s41524-022-00878-5.",
            mask="class",
            splits=("train", "val", "test"),
            classes=("matrix", "secondary gamma prime", "tertiary gamma prime"),
        ),
        DataSet(
            name="interconnect",
            title="Metal interconnect, TEM, 1 strip of 154 x 1166 pixels",
            licence="CC0",
            url="https://github.com/A-S-Saleh/Concept-Oriented-Synthetic-Data-for-Crystal-Grain-Analysis",
            citation="A. S. Saleh, K. Croes, H. Ceric, I. De Wolf, H. Zahedmanesh, Novel concept-oriented "
            "synthetic data approach for training generative AI-driven crystal grain analysis using "
            "diffusion model, arXiv:2504.14782 (2025).",
            mask="none",
        ),
        DataSet(
            name="membrane",
            title="Fly larva nerve cord, TEM, 30 sections of 512 x 512 pixels (ISBI 2012)",
            licence="MIT (mirror of the ISBI 2012 challenge)",
            url="https://github.com/zhixuhao/unet",
            citation="I. Arganda-Carreras et al., Crowdsourcing the creation of image segmentation "
            "algorithms for connectomics, Frontiers in Neuroanatomy 9 (2015) 142, "
            "doi:10.3389/fnana.2015.00142.",
            mask="boundary, the cell membranes",
            splits=("test",),
            pixel_size=0.004,  # 4 x 4 x 50 nm voxels, says the challenge
        ),
        DataSet(
            name="titanium-bse",
            title="Alpha titanium, SEM with backscattered electrons, 1 field of 852 x 1422 pixels, 134 "
            "grains that differ in grey level only, a legend pasted into it",
            licence="MIT",
            url="https://github.com/hosoda-tahara-org/voronoi-grain-net",
            citation="hosoda-tahara-org, voronoi-grain-net, GitHub; doi:10.1016/j.commatsci.2025.114378.",
            mask="boundary, drawn by an expert as lines about 1 px wide, dilated by 1 px",
            splits=("test",),
            legend=(slice(670, 822), slice(25, 263)),
        ),
        DataSet(
            name="titanium-sem",
            title="Ti-6Al-4V, SEM, 1 field with bright lines between alpha grains",
            licence="NIST software notice: free use with acknowledgement",
            url="https://github.com/usnistgov/grain-size-analysis-tools",
            citation="N. Moser, Grain Size Library, National Institute of Standards and Technology, GitHub.",
            mask="boundary, segmented by NIST's own tool; its lines are open, so it scores boundary F1 only",
            splits=("test",),
        ),
    )
}
