"""What the scores of a phase study say: means, paired gains with intervals, paper B beside them (chapter 12).

    gain = mean d_s +- t_{n-1} sd(d) / sqrt(n),     d_s = score with synthetic - without, both of seed s

Both models of a difference have the same seed, so the same initial weights and order of random numbers: what
the seeds have in common cancels. The seeds cover training and the choice from the pool, not another choice
of real patches or of test fields; the interval says nothing about those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

MEASURES = {  # column -> what it is called
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
    words: str = ""  # where the text is less than exact
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
        Of `microlab.phase_study.run`.

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
    """Paired difference to the same base with nothing synthetic.

    With its interval it is eq. 1 of chapter 12 (dose-gain).

    A base without real pairs is compared with the base whose validation it shares.

    Parameters
    ----------
    scores : DataFrame
        Of `microlab.phase_study.run`.
    base, share, source, augmented
        Which models.
    measure : str
        Column of `scores`.
    level : float in (0, 1)
        Of both intervals. Of 20 intervals at 0.95 around nothing, one excludes 0: for the best of m cells,
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
        quantile, deviation = stats.t.ppf((1 + level) / 2, n - 1), differences.std(ddof=1)
        half = float(quantile * deviation / np.sqrt(n))
        low, high = mean - half, mean + half
        drawn = np.random.default_rng(seed).choice(differences, (resamples, n)).mean(1)
        bootstrap = tuple(float(q) for q in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Gain(mean, low, high, bootstrap, n)


def gains(scores: pd.DataFrame, *, measure: str = "missing_class_iou", level: float = 0.95) -> pd.DataFrame:
    """The gain of every training set that is not a plain base.

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
        Of `microlab.phase_study.run`.
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
        found = key in ours.index and figure.measure in ours.columns.get_level_values(0)
        mean, sd = (ours.loc[key, (figure.measure, part)] if found else np.nan for part in ("mean", "sd"))
        row = {"base": figure.base, "share": figure.share, "augmented": figure.augmented}
        row |= {"measure": figure.measure, "paper": figure.value, "words": figure.words}
        rows.append({**row, "mean": float(mean), "sd": float(sd)})
    return pd.DataFrame(rows)


def _of(scores: pd.DataFrame, base: str, share: int, source: str, augmented: bool) -> pd.DataFrame:
    """Rows of one training set, by seed."""
    wanted = (scores["base"] == base) & (scores["share"] == share) & (scores["source"] == source)
    return scores[wanted & (scores["augmented"] == augmented)].set_index("seed")
