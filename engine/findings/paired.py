"""Two models on the same rows, or with the same seeds: is the difference more than chance?

McNemar's exact test counts the rows that one of two models alone gets right (McNemar, 1947). The paired t-test looks at the
mean of the differences beside its standard error. Of several comparisons p is adjusted by Holm (significance.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UsageError
from engine.findings.rows import RowFigures, same_rows
from engine.findings.significance import holm
from engine.installed import install

MCNEMAR, T_ROWS, T_SEEDS = "McNemar, exact", "paired t over rows", "paired t over runs"


@dataclass(frozen=True)
class Paired:
    """``difference``: the mean of the one less that of the other, with its standard ``error``. ``p``: two-sided; None: there is
    nothing to test with. ``number``: of pairs."""

    difference: float
    error: float | None
    p: float | None
    test: str
    number: int


def require_scipy() -> None:
    """Raises UsageError where it is not installed."""
    try:
        import scipy.stats  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"paired tests are scipy's, which is not installed: {install('sweep')}") from error


def paired_t(one: np.ndarray, other: np.ndarray, test: str) -> Paired:
    """``one``, ``other``: [N] float64. No p of fewer than two pairs, nor where all differences are equal and not 0, as few runs
    of few rows can be: the error would be 0."""
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    number, mean = len(differences), float(differences.mean())
    if number < 2:
        return Paired(mean, None, None, test, number)
    error = float(differences.std(ddof=1) / math.sqrt(number))
    if error <= 1e-12 * max(1.0, abs(mean)):
        return Paired(mean, 0.0, 1.0 if abs(mean) <= 1e-12 else None, test, number)
    from scipy import stats

    return Paired(mean, error, float(2 * stats.t.sf(abs(mean / error), number - 1)), test, number)


def mcnemar(one: np.ndarray, other: np.ndarray) -> Paired:
    """``one``, ``other``: [N] bool, right or wrong. Exact: the binomial test of the rows that only one of them has right."""
    from scipy import stats

    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    apart = only_one + only_other
    p = float(stats.binomtest(only_one, apart).pvalue) if apart else 1.0
    plain = paired_t(one.astype(float), other.astype(float), MCNEMAR)
    return Paired(plain.difference, plain.error, p, MCNEMAR, len(one))


def of_rows(one: Sequence[np.ndarray], other: Sequence[np.ndarray], *, is_right: bool) -> Paired:
    """Each model's runs on the same rows, [N] of each run: McNemar's test of one run each that is right or wrong, else the
    paired t-test of each row's mean over the runs."""
    if is_right and len(one) == len(other) == 1:
        return mcnemar(one[0].astype(bool), other[0].astype(bool))
    return paired_t(np.mean(one, axis=0), np.mean(other, axis=0), T_ROWS)


def table(runs: Mapping[str, Mapping[str, RowFigures]]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows): each run beside the first, by evaluation set, on the same rows; no rows where there are none."""
    first, *others = runs
    found: list[tuple[list[str], Paired]] = []
    for name in others:
        for each_set, figures in runs[name].items():
            base = runs[first].get(each_set)
            if base is None or not same_rows([base, figures]):
                continue
            for what, of in (("accuracy", figures.of("accuracy")), ("loss", figures.of("loss"))):
                if of is not None and (beside := base.of(what)) is not None and np.isfinite([of, beside]).all():
                    where = "" if each_set == "eval" else f"{each_set}/"
                    found.append(([name, f"{where}{what}"], of_rows([of], [beside], is_right=what == "accuracy")))
    adjusted = holm([1.0 if each.p is None else each.p for _, each in found])
    rows = [
        [
            *names,
            str(each.number),
            f"{each.difference:+.4f}",
            text(each.error, ".4f"),
            text(each.p, ".2g"),
            f"{p:.2g}",
            each.test,
        ]
        for (names, each), p in zip(found, adjusted, strict=True)
    ]
    return ["run", "figure", "rows", f"less {first}", "standard error", "p", "p, Holm", "test"], rows


def text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
