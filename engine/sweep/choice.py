"""Which setting is best, and how sure that is: means and standard errors over runs, paired tests over the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.findings.paired import T_SEEDS, Paired, of_rows, paired_t
from engine.findings.rows import RowFigures, same_rows
from engine.findings.significance import holm
from engine.sweep.plan import Repeat, Setting

LOSS_LIKE = ("loss", "perplexity", "bits_per_byte")  # figures that follow from the losses of the rows


@dataclass(frozen=True)
class Figure:
    """What chooses. ``name``: as an evaluation has it; ``split``: the evaluation set that it is of."""

    name: str
    split: str
    lower_is_better: bool

    @property
    def of_rows(self) -> str:
        """What of each row is compared: its loss, or whether it is right."""
        return "loss" if self.name.rpartition("/")[2] in LOSS_LIKE else "accuracy"

    @property
    def is_mean_of_rows(self) -> bool:
        """Is the figure itself the mean over the rows?"""
        return self.name.rpartition("/")[2] in ("loss", "accuracy")

    def is_better(self, value: float, than: float) -> bool:
        return value < than if self.lower_is_better else value > than


@dataclass(frozen=True)
class Ran:
    """A finished run. ``value``: of the figure that chooses; ``rows``: of the rows that it was measured on."""

    value: float
    seconds: float
    rows: RowFigures | None = None


@dataclass
class Candidate:
    """A setting, and what became of its runs. ``dropped``: why it is out of the choice; "": it is not."""

    setting: Setting
    runs: dict[Repeat, Ran] = field(default_factory=dict)
    dropped: str = ""

    @property
    def values(self) -> list[float]:
        return [run.value for run in self.runs.values()]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.runs else math.nan

    @property
    def error(self) -> float | None:
        """The standard error of the mean, over the runs; None: there are fewer than two."""
        return standard_error(self.values)


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def best_of(candidates: Sequence[Candidate], figure: Figure) -> Candidate | None:
    """The first of those with the best mean; None: all are out."""
    best: Candidate | None = None
    for each in candidates:
        if each.runs and not each.dropped and (best is None or figure.is_better(each.mean, best.mean)):
            best = each
    return best


def drop_losers(candidates: Sequence[Candidate], figure: Figure, limit: float, of: int) -> list[Candidate]:
    """Those that are worse than the best so far by more than ``limit`` standard errors of the paired differences, of the runs
    that all have had; they are out from now on. ``of``: the number of runs that each was to have."""
    best = best_of(candidates, figure)
    found = []
    for each in candidates:
        if each is best or each.dropped or best is None or len(each.runs) < 2:
            continue
        worse = np.array(each.values) - np.array(best.values)
        worse = worse if figure.lower_is_better else -worse
        if worse.mean() > limit * (standard_error(worse) or 0.0):
            each.dropped = f"stopped after {len(each.runs)} of {of} runs"
            found.append(each)
    return found


def paired(one: Candidate, other: Candidate, what: str) -> Paired:
    """The mean of the one less that of the other, over the runs that both have had; of each row, where these are known."""
    repeats = [repeat for repeat in other.runs if repeat in one.runs]
    by_fold: dict[int | None, list[Repeat]] = {}
    for repeat in repeats:
        by_fold.setdefault(repeat.fold, []).append(repeat)
    vectors: list[list[np.ndarray]] = [[], []]
    for some in by_fold.values():
        figures = [[each.runs[repeat].rows for repeat in some] for each in (one, other)]
        known = [rows for each in figures for rows in each if rows is not None and rows.of(what) is not None]
        if len(known) < 2 * len(some) or not same_rows(known):
            break
        for vector, each in zip(vectors, figures, strict=True):
            vector.append(np.mean([rows.of(what) for rows in each if rows is not None], axis=0))  # type: ignore[arg-type]
    else:
        if repeats:
            first, second = (np.concatenate(vector) for vector in vectors)
            return of_rows([first], [second], is_right=what == "accuracy" and len(repeats) == len(by_fold))
    ours, theirs = (np.array([each.runs[repeat].value for repeat in repeats]) for each in (one, other))
    return paired_t(ours, theirs, T_SEEDS)


def compared(candidates: Sequence[Candidate], best: Candidate, figure: Figure) -> dict[int, tuple[Paired, float | None]]:
    """By place: each but the best beside it, and Holm's p over all of them."""
    found = {i: paired(each, best, figure.of_rows) for i, each in enumerate(candidates) if each is not best and each.runs}
    tested = [i for i, each in found.items() if each.p is not None]
    adjusted = dict(zip(tested, holm([found[i].p or 0.0 for i in tested]), strict=True))
    return {i: (each, adjusted.get(i)) for i, each in found.items()}


@dataclass(frozen=True)
class Reported:
    """The best setting's models on rows that chose nothing. ``values``: of each run; ``over_rows``: the standard error of the
    mean over the rows, for these models; ``over_runs``: over the models, for these rows."""

    number: int
    values: Sequence[float]
    over_rows: float | None
    over_runs: float | None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


def reported(values: Sequence[float], rows: Sequence[RowFigures], figure: Figure) -> Reported:
    """``rows``: of each run."""
    known = [found for each in rows if (found := each.of(figure.of_rows)) is not None]
    over_rows = None
    if figure.is_mean_of_rows and len(known) == len(values) and same_rows(rows):
        over_rows = standard_error(np.mean(known, axis=0))
    return Reported(rows[0].number, values, over_rows, standard_error(values))


def ordered(candidates: Sequence[Candidate], figure: Figure) -> list[Candidate]:
    """The best first, those that are out last."""
    sign = 1 if figure.lower_is_better else -1
    return sorted(
        candidates, key=lambda each: (bool(each.dropped), math.isnan(each.mean), sign * each.mean if each.runs else 0.0)
    )
