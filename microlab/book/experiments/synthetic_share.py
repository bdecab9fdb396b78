"""Paper B's question: how much synthetic data helps a segmentation of constituents, and where?

    training set = real pairs of a base + share / 100 * (their number) pairs from a pool of synthetic ones
    gain = mean d_s +- t_{n-1} sd(d) / sqrt(n),     d_s = score with synthetic - without, both of seed s

Every model has the same network, the same maximum number of optimiser steps and the same test images. In the
paper an epoch grows with the training set, so there a larger set also means more steps; here it does not.
Both models of a difference have the same seed, so the same initial weights and random numbers: common
variation cancels. The seeds vary training and the choice from the pool, not the real patches or the test
fields; the interval does not cover those.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from tqdm.auto import tqdm

from microlab.book.experiments.label_noise import PoorMask, poor_mask
from microlab.data.files import atomic
from microlab.data.micrograph import Micrograph
from microlab.data.pairs import checksum
from microlab.data.parallel import imap_unordered
from microlab.data.run_folder import RunFolder
from microlab.measure import pixel
from microlab.measure.two_sample import percentile_interval
from microlab.pipelines.samples import LabelledFields, corner_patches, few_many
from microlab.segment.constituents import ConstituentConfig, evaluate_constituents, train_constituents
from microlab.training import devices

SHARES = (0, 50, 75, 100, 150, 200, 250, 300)  # % of the number of real pairs


@dataclass(frozen=True)
class Base:
    """A training set before synthetic pairs are added."""

    paper: str  # its name in paper B
    many: bool  # all patches, or the few first ones
    masks: str  # 'good' (the expert's), 'poor' (corrupted), or 'mixed' (the few good, the rest poor)
    real: bool = True  # False: no real pair is trained on, only validated


BASES = {
    "few good": Base("SHQ", many=False, masks="good"),
    "few poor": Base("SLQ", many=False, masks="poor"),
    "many poor": Base("BLQ", many=True, masks="poor"),
    "many mixed": Base("BMQ", many=True, masks="mixed"),
    "synthetic only": Base("SyntMQ", many=True, masks="mixed", real=False),
    "synthetic only, poor validation": Base("SyntLQ", many=True, masks="poor", real=False),
}


@dataclass(frozen=True)
class Cell:
    """One model of the study."""

    base: str  # key of BASES
    share: int  # % synthetic
    source: str  # name of the pool; '' if share is 0
    seed: int
    augmented: bool = False  # the control: photometric augmentation instead of synthetic data

    @property
    def name(self) -> str:
        """A name for files."""
        parts = (self.base, self.source, f"{self.share}", "augmented" if self.augmented else "", self.seed)
        return "_".join(re.sub(r"[ ,]+", "-", str(part)) for part in parts if part != "")


@dataclass(frozen=True)
class Grid:
    """The whole study. `bases`, `shares`, `sources`, `seeds` and `control` may grow from run to run."""

    bases: tuple[str, ...] = tuple(BASES)[:5]
    shares: tuple[int, ...] = SHARES
    sources: tuple[str, ...] = ("vqvae",)  # names of pools
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of weights, crops and the choice from the pool
    control: bool = True  # also 'many mixed' with photometric augmentation and nothing synthetic
    few: int = 16  # patches of the few, and of those with a good mask in 'many mixed'
    few_validation: int = 5
    poor: PoorMask = field(default_factory=PoorMask)
    poor_seed: int = 0
    training: ConstituentConfig = field(default_factory=ConstituentConfig)  # the cell's seed replaces its own

    def __post_init__(self) -> None:
        for base in self.bases:
            if base not in BASES:
                raise ValueError(f"bases must be of {', '.join(BASES)}, got {base!r}")
        for source in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", source):
                raise ValueError(f"sources must be names of letters, digits and hyphens, got {source!r}")
        if not self.seeds or min(self.shares, default=-1) < 0 or min(self.seeds) < 0:
            raise ValueError(f"shares {self.shares} and seeds {self.seeds} must hold numbers >= 0")
        if min(self.few, self.few_validation) < 1:
            raise ValueError(
                f"few and few_validation must be at least 1, got {self.few}, {self.few_validation}"
            )
        if self.control and "photometric" in self.training.augment:
            raise ValueError("training.augment is photometric already, so control=True would compare nothing")

    def cells(self) -> list[Cell]:
        """All models, seed by seed, so that an interrupted study has complete seeds."""
        cells = []
        for seed in self.seeds:
            for base in self.bases:
                if 0 in self.shares and BASES[base].real:  # the same for all sources
                    cells.append(Cell(base, 0, "", seed))
                cells += [Cell(base, s, source, seed) for source in self.sources for s in self.shares if s]
            if self.control:
                cells.append(Cell("many mixed", 0, "", seed, augmented=True))
        return cells


@dataclass(frozen=True)
class PhaseData:
    """Real patches with expert masks. The study makes the poor masks itself."""

    name: str
    classes: tuple[str, ...]  # names, in the order of their ids
    train: Sequence[Micrograph]  # the first ones are the few
    validation: Sequence[Micrograph]  # likewise
    test: Sequence[Micrograph]  # of fields that no other patch is from
    virtual: bool = False

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            if not getattr(self, part):
                raise ValueError(f"{part} must hold at least one pair, got none")
        used = {field_of(pair) for pair in (*self.train, *self.validation)}
        shared = used & {field_of(pair) for pair in self.test}
        if shared:
            raise ValueError(f"test holds patches of {', '.join(sorted(shared))}, which training has seen")


def field_of(pair: Micrograph) -> str:
    """The field of view that a patch was cut from, by its name as `corner_patches` gives it."""
    return re.sub(r"_y\d+_x\d+$", "", pair.name)


def phase_data(
    target: LabelledFields, grid: Grid, side: int = 256, *, per_field: int = 3, test_per_field: int = 6
) -> PhaseData:
    """The patches of a material for a study, the few of `grid` first.

    Parameters
    ----------
    target : LabelledFields
    grid : Grid
    side : int
        Of the patches, pixels.
    per_field, test_per_field : int
        Patches of each training and validation field, and of each test field.

    Raises
    ------
    ValueError
        As `microlab.pipelines.samples.few_many`.
    """
    sets = few_many(target, side, per_field=per_field, few_train=grid.few, few_val=grid.few_validation)
    parts = {}
    for part, short in (("train", "train"), ("validation", "val")):
        few = {patch.name for patch in sets[f"few_{short}"]}
        rest = [patch for patch in sets[f"many_{short}"] if patch.name not in few]
        parts[part] = [*sets[f"few_{short}"], *rest]
    test = corner_patches(target.test, side, test_per_field)
    return PhaseData(target.name, target.classes, **parts, test=test, virtual=target.virtual)


# Smoke: does everything run? Laptop: minutes on two cores. Paper: one GPU, hours.
SMOKE = Grid(
    shares=(0, 100),
    seeds=(0, 1),
    few=4,
    few_validation=2,
    training=ConstituentConfig(width=4, depth=2, crop=64, batch=4, steps=20, validate_every=10, lr=3e-3),
)
LAPTOP = Grid(
    shares=(0, 100, 300),
    seeds=(0, 1),
    training=ConstituentConfig(width=8, depth=3, crop=128, batch=4, steps=400, validate_every=50, lr=3e-3),
)
# An hour or two on two cores: five seeds of a network that is wide enough to learn the rarest class.
OVERNIGHT = Grid(
    shares=(0, 100, 300),
    training=ConstituentConfig(
        width=16, depth=4, crop=96, batch=8, steps=500, validate_every=50, lr=2e-3, plateau=3, ema=0.98
    ),
)
PAPER = Grid(
    bases=tuple(BASES),
    training=ConstituentConfig(width=32, depth=4, crop=256, batch=4, steps=2400, validate_every=24),
)
SIZES = {"smoke": SMOKE, "laptop": LAPTOP, "evening": OVERNIGHT, "paper": PAPER}


def real_pairs(data: PhaseData, grid: Grid, base: str, part: str) -> list[Micrograph]:
    """The real pairs of a base, with its expert or poor masks.

    Parameters
    ----------
    data : PhaseData
    grid : Grid
    base : str
        Key of `BASES`.
    part : {'train', 'validation'}
        A base without real training pairs has an empty 'train'.
    """
    few = grid.few if part == "train" else grid.few_validation
    pairs, kind = list(getattr(data, part)), BASES[base]
    if part == "train" and not kind.real:
        return []
    good = {"good": len(pairs), "poor": 0, "mixed": few}[kind.masks]
    stream = ("train", "validation").index(part)
    if not kind.many:
        pairs = pairs[:few]
    seeds = ([grid.poor_seed, stream, k] for k in range(good, len(pairs)))
    poor = [
        replace(pair, classes=poor_mask(pair.classes, grid.poor, np.random.default_rng(seed)))
        for pair, seed in zip(pairs[good:], seeds, strict=True)
    ]
    return pairs[:good] + poor


def synthetic_number(data: PhaseData, grid: Grid, base: str, share: float) -> int:
    """Number of synthetic pairs of a share: of the base's real pairs, or of 'many' if it has none."""
    return round(share / 100 * (len(data.train) if BASES[base].many else grid.few))


def check_pool(data: PhaseData, pool: Sequence[Micrograph], grid: Grid, cell: Cell) -> None:
    """Raise a ValueError if the few or a pool are fewer than a cell needs."""
    for part, few in (("train", grid.few), ("validation", grid.few_validation)):
        if len(getattr(data, part)) < few:
            raise ValueError(f"{part} holds {len(getattr(data, part))} pairs, the few are {few}")
    n = synthetic_number(data, grid, cell.base, cell.share)
    if n > len(pool):
        raise ValueError(
            f"{cell.base} with {cell.share} % needs {n} synthetic pairs, pool {cell.source!r} has {len(pool)}"
        )


def training_pairs(data: PhaseData, pool: Sequence[Micrograph], grid: Grid, cell: Cell) -> list[Micrograph]:
    """Training pairs of a model: the real ones, then the synthetic ones.

    The synthetic ones are drawn from the pool without replacement, by the cell's seed. A larger share
    contains a smaller one.
    """
    check_pool(data, pool, grid, cell)
    n = synthetic_number(data, grid, cell.base, cell.share)
    order = np.random.default_rng([cell.seed, 1]).permutation(len(pool))[:n]
    return real_pairs(data, grid, cell.base, "train") + [pool[k] for k in order]


MEASURES = {  # column -> display name
    "accuracy": "accuracy",
    "mIoU": "mIoU",
    "missing_class_iou": "Missing Class IoU",
}
KEYS = ["base", "share", "source", "augmented"]
COUNTS = ["seed", "real", "synthetic", "steps", "best_step", "seconds"]
REFERENCE = {"synthetic only": "many mixed", "synthetic only, poor validation": "many poor"}


@dataclass(frozen=True)
class Gain:
    """A mean paired difference with its interval. With one seed the interval is NaN."""

    mean: float
    low: float  # of the t interval over seeds
    high: float
    bootstrap: tuple[float, float]  # percentile interval; too narrow for few seeds
    n: int  # pairs

    @property
    def excludes_zero(self) -> bool:
        """Whether the t interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PaperFigure:
    """A figure that the text of paper B states."""

    base: str
    share: int | None  # None: not stated
    measure: str
    value: float
    words: str = ""  # qualifier in the text
    augmented: bool = False


# Section 5 and caption of figure 19 of M. O. Volman Stern et al. 2024, doi:10.1515/mim-2024-0016. Nothing is
# read off a drawing. One model each, no spread; Fe14Nd2B magnets, another material than ours.
PAPER_FIGURES = (
    PaperFigure("few good", 0, "missing_class_iou", 0.89, "about"),
    PaperFigure("few good", 50, "missing_class_iou", 0.90, "about"),
    PaperFigure("few good", None, "missing_class_iou", 0.903, "its best share"),
    PaperFigure("few poor", 0, "missing_class_iou", 0.861),
    PaperFigure("few poor", 50, "missing_class_iou", 0.90, "about"),
    PaperFigure("many poor", 0, "missing_class_iou", 0.89, "about"),
    PaperFigure("many mixed", 0, "missing_class_iou", 0.895),
    PaperFigure("many mixed", 0, "missing_class_iou", 0.892, augmented=True),
    PaperFigure("many mixed", 100, "missing_class_iou", 0.910),
    PaperFigure("many mixed", 300, "missing_class_iou", 0.761),
    PaperFigure("synthetic only, poor validation", 50, "missing_class_iou", 0.873),
    PaperFigure("many mixed", 0, "mIoU", 0.69),
    PaperFigure("many mixed", 50, "mIoU", 0.82),
    PaperFigure("many mixed", 150, "mIoU", 0.705),
    PaperFigure("many mixed", 300, "mIoU", 0.716),
    PaperFigure("few good", 0, "accuracy", 0.98, "about"),
    PaperFigure("many poor", 0, "accuracy", 0.98, "about"),
    PaperFigure("many mixed", 100, "accuracy", 0.98, "a little more"),
    PaperFigure("many mixed", 300, "accuracy", 0.914),
    PaperFigure("many mixed", 300, "IoU of the Eta phase", 0.0),
    PaperFigure("synthetic only", 50, "IoU of the Eta phase", 0.149),
)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds.

    Parameters
    ----------
    scores : DataFrame
        As :func:`run` returns them.

    Returns
    -------
    DataFrame
        Index (base, share, source, augmented), columns (measure, 'mean' | 'sd').
    """
    measures = [column for column in scores.columns if column not in (*KEYS, *COUNTS)]
    return scores.groupby(KEYS, sort=False)[measures].agg(["mean", "std"]).rename(columns={"std": "sd"})


def gain(
    scores: pd.DataFrame,
    base: str,
    share: int,
    source: str = "",
    *,
    augmented: bool = False,
    measure: str = "missing_class_iou",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> Gain:
    """Paired difference to the same base without synthetic pairs.

    With its interval it is eq. 1 of chapter 12 (dose-gain).

    A base without real pairs is compared with the base that shares its validation set.

    Parameters
    ----------
    scores : DataFrame
        As :func:`run` returns them.
    base, share, source, augmented
        Which models.
    measure : str
        Column of `scores`.
    level : float in (0, 1)
        Of both intervals. Without any effect, 1 in 20 intervals at 0.95 excludes 0: for the best of m cells,
        take 1 - 0.05 / m (Bonferroni).
    resamples : int
        Bootstrap samples.
    seed : int or Generator
        Of the bootstrap.

    Raises
    ------
    ValueError
        If the scores hold no two such models of one seed.
    """
    with_it = _of(scores, base, share, source, augmented)[measure]
    without = _of(scores, REFERENCE.get(base, base), 0, "", False)[measure]
    both = pd.concat([with_it, without], axis=1, join="inner").dropna().to_numpy()
    n = len(both)
    if n == 0:
        raise ValueError(
            f"no seed has both {base!r} with {share} % {source or 'synthetic'} and its 0 %: run those cells"
        )
    differences = both[:, 0] - both[:, 1]
    mean = float(differences.mean())
    low = high = np.nan
    bootstrap = (np.nan, np.nan)
    if n > 1:
        deviation, quantile = differences.std(ddof=1), stats.t.ppf((1 + level) / 2, n - 1)
        half = float(quantile * deviation / np.sqrt(n))
        low, high = mean - half, mean + half
        drawn = np.random.default_rng(seed).choice(differences, (resamples, n)).mean(1)
        bootstrap = tuple(percentile_interval(drawn, level).tolist())
    return Gain(mean, low, high, bootstrap, n)


def gains(scores: pd.DataFrame, *, measure: str = "missing_class_iou", level: float = 0.95) -> pd.DataFrame:
    """The gain of every training set over its base.

    Returns
    -------
    DataFrame
        Columns base, share, source, augmented, gain, low, high, n, excludes 0.
    """
    rows = []
    for base, share, source, augmented in scores[KEYS].drop_duplicates().itertuples(index=False):
        if share == 0 and not augmented:
            continue
        if _of(scores, REFERENCE.get(base, base), 0, "", False).empty:
            continue
        g = gain(scores, base, share, source, augmented=augmented, measure=measure, level=level)
        row = {"gain": g.mean, "low": g.low, "high": g.high, "n": g.n, "excludes 0": g.excludes_zero}
        rows.append({"base": base, "share": share, "source": source, "augmented": augmented, **row})
    columns = [*KEYS, "gain", "low", "high", "n", "excludes 0"]
    return pd.DataFrame(rows, columns=columns)


def beside_paper(scores: pd.DataFrame, source: str) -> pd.DataFrame:
    """The paper's figures and ours for the same training sets.

    Parameters
    ----------
    scores : DataFrame
        As :func:`run` returns them.
    source : str
        The pool that stands for the paper's.

    Returns
    -------
    DataFrame
        Columns base, share, augmented, measure, paper, words, mean, sd: ours are NaN where we have none.
    """
    ours = summary(scores)
    rows = []
    for figure in PAPER_FIGURES:
        key = (figure.base, figure.share, source if figure.share else "", figure.augmented)
        measured = key in ours.index and figure.measure in ours.columns.get_level_values(0)
        mean, sd = (ours.loc[key, (figure.measure, part)] if measured else np.nan for part in ("mean", "sd"))
        row = {"base": figure.base, "share": figure.share, "augmented": figure.augmented}
        row |= {"measure": figure.measure, "paper": figure.value, "words": figure.words}
        rows.append({**row, "mean": float(mean), "sd": float(sd)})
    return pd.DataFrame(rows)


def _of(scores: pd.DataFrame, base: str, share: int, source: str, augmented: bool) -> pd.DataFrame:
    """Rows of one training set, by seed."""
    chosen = (scores["base"] == base) & (scores["share"] == share) & (scores["source"] == source)
    return scores[chosen & (scores["augmented"] == augmented)].set_index("seed")


def run(
    grid: Grid,
    data: PhaseData,
    pools: Mapping[str, Sequence[Micrograph]],
    folder: str | Path,
    *,
    jobs: int = -1,
    scheduler: str | None = None,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train and score every model of a grid that is not finished yet.

    Each score is written at once as ``scores/<cell>.json``, and an interrupted training resumes from its
    checkpoint: after a kill, make the same call again.

    Parameters
    ----------
    grid : Grid
    data : PhaseData
    pools : mapping of name to sequence of Micrograph
        Synthetic pairs for each of ``grid.sources``, at least as many as the largest share needs. More make
        the seeds differ in what they draw.
    folder : path
        Receives the inputs, the trained weights and the scores.
    jobs : int
        Processes on this machine, each with one thread; -1 for one per core.
    scheduler : str, optional
        Address of a Dask scheduler whose workers train instead. They must see `folder` under the same path.
    device : str, optional
        Default: :func:`microlab.training.devices.pick_device`.
    progress : bool

    Returns
    -------
    DataFrame
        A row per model, in the order of ``grid.cells()``: base, share, source, seed, augmented, real and
        synthetic (numbers of training pairs), steps, best_step, seconds (of the call that finished it), and
        the scores of `microlab.segment.constituents.evaluate_constituents` on the test images.

    Raises
    ------
    ValueError
        If the folder holds a study of other settings, data or pools, or a pool is missing or too small.
    """
    folder = Path(folder).absolute()
    place = devices.pick_device(device)
    cells = grid.cells()
    for cell in cells:
        if cell.source and cell.source not in pools:
            raise ValueError(f"pools must hold {cell.source!r}, got {sorted(pools)}")
        check_pool(data, pools.get(cell.source, ()), grid, cell)  # all of them, before anything is trained
    precision = devices.resolve_precision(grid.training.precision, place)  # one for all workers
    grid = replace(grid, training=replace(grid.training, precision=precision))
    _open(folder, grid, data, {source: pools[source] for source in grid.sources})
    todo = [cell for cell in cells if not _score_file(folder, cell).exists()]
    tasks = [(folder, grid, cell, str(place)) for cell in todo]
    work = imap_unordered(_train_cell, tasks, jobs, scheduler, threads=1)
    bar = {"desc": f"phase study, {data.name}", "total": len(cells), "initial": len(cells) - len(todo)}
    for _ in tqdm(work, disable=not progress, **bar):
        pass
    return pd.DataFrame([json.loads(_score_file(folder, cell).read_text()) for cell in cells])


def trivial(data: PhaseData) -> dict[str, float]:
    """Scores of predicting the commonest training class everywhere, named as in `run`."""
    commonest = np.bincount(np.concatenate([pair.classes.ravel() for pair in data.train])).argmax()
    truths = [pair.classes for pair in data.test]
    answers = [np.full_like(truth, commonest) for truth in truths]
    scores = {}
    for prefix, single in (("", True), ("pooled_", False)):
        for name, measure in (
            ("accuracy", pixel.pixel_accuracy),
            ("mIoU", pixel.mean_iou),
            ("missing_class_iou", pixel.missing_class_iou),
        ):
            values = measure(truths, answers, len(data.classes), per_image=single)
            scores[prefix + name] = float(np.mean(values))
        of_class = pixel.class_iou(truths, answers, len(data.classes), missing_class=True, per_image=single)
        of_class = np.ma.masked_invalid(np.atleast_2d(of_class)).mean(0).filled(np.nan)
        scores |= {f"{prefix}IoU_{c}": float(value) for c, value in enumerate(of_class)}
    return scores


def finished(folder: str | Path) -> pd.DataFrame:
    """Every score of a study's folder, as `run` returns them, those of earlier calls included.

    Raises
    ------
    ValueError
        If nothing is finished there.
    """
    rows = [json.loads(path.read_text()) for path in sorted((Path(folder) / "scores").glob("*.json"))]
    if not rows:
        raise ValueError(f"{folder} holds no finished model: call `run` first")
    scores = pd.DataFrame(rows)
    order = scores.assign(base=pd.Categorical(scores["base"], BASES, ordered=True))
    order = order.sort_values(["base", "augmented", "source", "share", "seed"]).index
    return scores.loc[order].reset_index(drop=True)


def _train_cell(folder: Path, grid: Grid, cell: Cell, device: str) -> str:
    """Train and score one model; runs in a worker."""
    start = time.perf_counter()
    data, pool = _read(folder, cell.source)
    pairs = training_pairs(data, pool, grid, cell)
    augment = grid.training.augment
    if cell.augmented:
        augment = "photometric" if augment == "none" else f"{augment}+photometric"
    place = folder / "models" / cell.name
    model, history = train_constituents(
        pairs,
        real_pairs(data, grid, cell.base, "validation"),
        replace(grid.training, seed=cell.seed, augment=augment),
        folder=place,
        device=device,
        progress=False,
    )
    scores = evaluate_constituents(model, data.test, grid.training.classes, device=device)
    synthetic = synthetic_number(data, grid, cell.base, cell.share)
    row = {
        **asdict(cell),
        "real": len(pairs) - synthetic,
        "synthetic": synthetic,
        "steps": int(history.rows[-1]["step"]),
        "best_step": history.best_step,
        "seconds": round(time.perf_counter() - start, 2),
        **scores,
    }
    with atomic(_score_file(folder, cell)) as partial:
        partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    (place / "state.safetensors").unlink(missing_ok=True)  # several times the size of the weights
    return cell.name


def _score_file(folder: Path, cell: Cell) -> Path:
    return folder / "scores" / f"{cell.name}.json"


# ---- inputs on disk, readable by every worker --------------------------------------------------------------


def _open(folder: Path, grid: Grid, data: PhaseData, pools: Mapping[str, Sequence[Micrograph]]) -> None:
    """Write the inputs and settings; raise if the folder holds others."""
    settings = {**asdict(grid.training), "few": grid.few, "few_validation": grid.few_validation}
    del settings["seed"]  # the cells have their own
    settings |= {f"poor {name}": value for name, value in asdict(grid.poor).items()}
    settings |= {"poor_seed": grid.poor_seed, "data": data.name, "names of classes": list(data.classes)}
    sets = {part: getattr(data, part) for part in ("train", "validation", "test")}
    settings |= {f"{part} images": checksum(pairs) for part, pairs in sets.items()}
    run = RunFolder(folder, settings)
    for source, pool in pools.items():
        run.require(f"pool_{source}.json", {"pairs": len(pool), "images": checksum(pool)})
    for name, pairs in (sets | {f"pool_{source}": pool for source, pool in pools.items()}).items():
        path = folder / "inputs" / f"{name}.npz"
        if not path.exists():
            arrays = {f"image_{k}": pair.image for k, pair in enumerate(pairs)}
            arrays |= {f"mask_{k}": pair.classes for k, pair in enumerate(pairs)}
            with atomic(path) as partial:
                np.savez(partial, names=np.array([pair.name for pair in pairs]), **arrays)


def _read(folder: Path, source: str) -> tuple[PhaseData, list[Micrograph]]:
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    parts = {part: _read_pairs(folder, part) for part in ("train", "validation", "test")}
    data = PhaseData(settings["data"], tuple(settings["names of classes"]), **parts)
    return data, _read_pairs(folder, f"pool_{source}") if source else []


def _read_pairs(folder: Path, name: str) -> list[Micrograph]:
    with np.load(folder / "inputs" / f"{name}.npz", allow_pickle=False) as file:
        return [
            Micrograph(file[f"image_{k}"], name=str(name), classes=file[f"mask_{k}"])
            for k, name in enumerate(file["names"])
        ]
