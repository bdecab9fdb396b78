"""What determines an adaptation, and its three sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from microlab.data.errors import InputError
from microlab.generate.registry import STYLES as LEARNT
from microlab.generate.style import PAPER, StyleConfig
from microlab.pipelines.train_appearances import TrainingConfig
from microlab.pipelines.train_segmenter import STRUCTURES
from microlab.segment.registry import REGISTRY
from microlab.segment.uncertainty import VIEWS
from microlab.simulate.library import Ranges
from microlab.training.profiles import PROFILES

STYLES = ("render", *LEARNT, "mixed")
# The labour-free set with the lowest Rand error on both targets before batch-norm adaptation
# (studies/training_sets/__main__.py); `render` needs no translator and is several times faster.
DEFAULT_STYLE = "mixed"
HELD_OUT_VIEWS = 3  # virtual micrographs of each held-out structure
LEAST_CROP = 64  # px, of a field of `microlab.render.appearances`


@dataclass(frozen=True)
class AdaptSettings:
    """Everything that determines the adapted network. Sizes of the laptop profile.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    style: str = DEFAULT_STYLE  # 'render': any appearance; 'cyclegan', 'cut': learnt; 'mixed': half of each
    structures: int = 40  # simulated polycrystals
    held_out: int = 4  # of them, held out: their truth judges the adapted network
    ranges: Ranges = STRUCTURES  # of the simulation
    images: int = 200  # training images made of the others
    candidates: int = 4  # virtual fields drawn for each one kept; 1 keeps all
    learnt: StyleConfig = field(default_factory=StyleConfig)  # of 'cyclegan', 'cut' and 'mixed'
    start: str | None = REGISTRY["appearances"].weights  # to go on from; None trains from random weights
    width: int = 16  # channels of the U-Net's first level
    depth: int = 5  # levels
    crop: int = 160  # side of a training crop, pixels
    batch: int = 6  # half of it are fields of every appearance, drawn anew (`rehearsal`)
    steps: int = 400
    lr: float = 5e-4
    batch_norm: bool = False  # re-estimate batch-norm statistics on the images, after training
    patches: int = 400  # of each set, for the realism report
    views: int = VIEWS  # of each image, for its uncertainty
    seed: int = 0

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise InputError(f"style must be one of {', '.join(STYLES)}, got {self.style!r}")
        if not 0 < self.held_out < self.structures:
            raise InputError(
                f"held_out must lie between 0 and structures={self.structures}, got {self.held_out}"
            )
        least = {"images": 1, "candidates": 1, "crop": LEAST_CROP, "batch": 2, "steps": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if self.crop > min(self.ranges.shape):
            raise InputError(f"crop must fit the structures, {self.ranges.shape}, got {self.crop}")
        if self.style in LEARNT and self.learnt.method != self.style:
            raise InputError(f"learnt.method must be the style {self.style!r}, got {self.learnt.method!r}")
        if self.learns and self.learnt.crop > min(self.ranges.shape):
            raise InputError(
                f"learnt.crop must fit the structures, {self.ranges.shape}, got {self.learnt.crop}"
            )

    @property
    def learns(self) -> bool:
        """Whether the style is learnt from the images."""
        return self.style != "render"

    @property
    def translated(self) -> int:
        """How many of the training images are translations."""
        return {"render": 0, "mixed": self.images // 2}.get(self.style, self.images)

    @property
    def rehearsal(self) -> TrainingConfig:
        """What the default network learnt from, to be met again in half of every batch."""
        return TrainingConfig(
            structures=self.structures,
            held_out=self.held_out,
            width=self.width,
            depth=self.depth,
            crop=self.crop,
            batch=self.batch // 2,
            steps=self.steps,
            lr=self.lr,
            start=self.start,
            seed=self.seed,
        )


def profile_settings(profile: str, style: str = DEFAULT_STYLE, seed: int = 0) -> AdaptSettings:
    """Settings of a profile: ``smoke`` (does it run?), ``laptop`` (two cores) or ``paper`` (a GPU).

    Fine-tuning from the default network is faster than starting anew and never saw a label either. The paper
    profile starts from random weights, with a wider network.

    Raises
    ------
    InputError
        If `profile` or `style` is unknown.
    """
    method = style if style in LEARNT else "cyclegan"
    common = {"style": style, "seed": seed}
    laptop = AdaptSettings(**common, learnt=StyleConfig(method=method, seed=seed))
    if profile == "laptop":
        return laptop
    if profile == "smoke":
        return replace(
            laptop,
            structures=3,
            held_out=1,
            ranges=replace(STRUCTURES, shape=(160, 160), grains=(14, 24), steps=(10, 30)),
            images=6,
            candidates=2,
            learnt=replace(laptop.learnt, width=4, blocks=1, crop=48, steps=6),
            crop=64,
            batch=2,
            steps=8,
            patches=100,
        )
    if profile == "paper":
        return replace(
            laptop,
            structures=300,
            held_out=20,
            images=2000,
            learnt=replace(PAPER, method=method, seed=seed),
            start=None,
            width=32,
            crop=224,
            batch=16,
            steps=20_000,
            lr=3e-3,
        )
    raise InputError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
