"""Training sets of paper B's study: which real patches with which masks, and how much synthetic (chapter 12).

training set = real pairs of a base + share / 100 * (their number) pairs from a pool of synthetic ones
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from microlab.generate.pairs import Pair
from microlab.label_noise import PoorMask, poor_mask
from microlab.phase_examples import PhaseTarget, corner_patches, few_many
from microlab.segment.phases import PhaseConfig

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
    training: PhaseConfig = field(default_factory=PhaseConfig)  # its seed gives way to the cell's

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
        """All models, seed by seed, so that a study that was stopped has whole seeds."""
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
    train: Sequence[Pair]  # the first ones are the few
    validation: Sequence[Pair]  # likewise
    test: Sequence[Pair]  # of fields that no other patch is from
    virtual: bool = False

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            if not getattr(self, part):
                raise ValueError(f"{part} must hold at least one pair, got none")
        used = {field_of(pair) for pair in (*self.train, *self.validation)}
        shared = used & {field_of(pair) for pair in self.test}
        if shared:
            raise ValueError(f"test holds patches of {', '.join(sorted(shared))}, which training has seen")


def field_of(pair: Pair) -> str:
    """The field of view that a patch was cut from, by its name as `corner_patches` gives it."""
    return re.sub(r"_y\d+_x\d+$", "", pair.name)


def phase_data(
    target: PhaseTarget, grid: Grid, side: int = 256, *, per_field: int = 3, test_per_field: int = 6
) -> PhaseData:
    """The patches of a material as a study takes them, the few of `grid` first.

    Parameters
    ----------
    target : PhaseTarget
    grid : Grid
    side : int
        Of the patches, pixels.
    per_field, test_per_field : int
        Patches of each training and validation field, and of each test field.

    Raises
    ------
    ValueError
        As `microlab.phase_examples.few_many`.
    """
    sets = few_many(target, side, per_field=per_field, few_train=grid.few, few_val=grid.few_validation)
    parts = {}
    for part, short in (("train", "train"), ("validation", "val")):
        few = {name for name, _, _ in sets[f"few_{short}"]}
        rest = [patch for patch in sets[f"many_{short}"] if patch[0] not in few]
        parts[part] = _pairs([*sets[f"few_{short}"], *rest])
    test = _pairs(corner_patches(target.test, side, test_per_field))
    return PhaseData(target.name, target.classes, **parts, test=test, virtual=target.virtual)


def _pairs(patches: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> list[Pair]:
    return [Pair(image, mask, name) for name, image, mask in patches]


# Smoke: does everything run? Laptop: minutes on two cores. Paper: one GPU, hours.
SMOKE = Grid(
    shares=(0, 100),
    seeds=(0, 1),
    few=4,
    few_validation=2,
    training=PhaseConfig(width=4, depth=2, crop=64, batch=4, steps=20, validate_every=10, lr=3e-3),
)
LAPTOP = Grid(
    shares=(0, 100, 300),
    seeds=(0, 1),
    training=PhaseConfig(width=8, depth=3, crop=128, batch=4, steps=400, validate_every=50, lr=3e-3),
)
# An hour or two on two cores: five seeds of a network that is wide enough to learn the rarest class.
EVENING = Grid(
    shares=(0, 100, 300),
    training=PhaseConfig(
        width=16, depth=4, crop=96, batch=8, steps=500, validate_every=50, lr=2e-3, plateau=3, ema=0.98
    ),
)
PAPER = Grid(
    bases=tuple(BASES),
    training=PhaseConfig(width=32, depth=4, crop=256, batch=4, steps=2400, validate_every=24),
)
SIZES = {"smoke": SMOKE, "laptop": LAPTOP, "evening": EVENING, "paper": PAPER}


def real_pairs(data: PhaseData, grid: Grid, base: str, part: str) -> list[Pair]:
    """The real pairs of a base, with the masks that it has.

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
    return [
        pair
        if k < good
        else replace(
            pair, mask=poor_mask(pair.mask, grid.poor, np.random.default_rng([grid.poor_seed, stream, k]))
        )
        for k, pair in enumerate(pairs if kind.many else pairs[:few])
    ]


def synthetic_number(data: PhaseData, grid: Grid, base: str, share: float) -> int:
    """How many synthetic pairs a share is: of the base's own number, or of 'many' if it has none."""
    return round(share / 100 * (len(data.train) if BASES[base].many else grid.few))


def check_pool(data: PhaseData, pool: Sequence[Pair], grid: Grid, cell: Cell) -> None:
    """Raise a ValueError if the few or a pool are fewer than a cell needs."""
    for part, few in (("train", grid.few), ("validation", grid.few_validation)):
        if len(getattr(data, part)) < few:
            raise ValueError(f"{part} holds {len(getattr(data, part))} pairs, the few are {few}")
    n = synthetic_number(data, grid, cell.base, cell.share)
    if n > len(pool):
        raise ValueError(
            f"{cell.base} with {cell.share} % needs {n} synthetic pairs, pool {cell.source!r} has {len(pool)}"
        )


def training_pairs(data: PhaseData, pool: Sequence[Pair], grid: Grid, cell: Cell) -> list[Pair]:
    """What a model is trained on: the real pairs, then the synthetic ones.

    The synthetic ones are drawn from the pool without repetition, by the cell's seed. A larger share holds
    those of a smaller one.
    """
    check_pool(data, pool, grid, cell)
    n = synthetic_number(data, grid, cell.base, cell.share)
    order = np.random.default_rng([cell.seed, 1]).permutation(len(pool))[:n]
    return real_pairs(data, grid, cell.base, "train") + [pool[k] for k in order]
