"""Have the data changed? Two profiles compared, feature by feature: a test, the size of the difference, one verdict.

Numbers: the two-sample test of Kolmogorov and Smirnov, whose size is the largest distance of the two distribution functions.
Labels: the chi-squared test of homogeneity, whose size is the total variation distance, half the sum of the differences of the
shares. Both sizes lie between 0 and 1. Many tests find something by chance, so their p are corrected (Holm, 1979); and with
many rows the slightest difference is beyond chance, so a drift must be of some size, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UsageError
from engine.findings.profile import Numbers, Profile, Shares
from engine.findings.significance import holm
from engine.installed import install

KS, CHI_SQUARED = "Kolmogorov-Smirnov", "chi-squared"
LEAST_EXPECTED = 5  # rows of a label in either data, or it is counted with others (Cochran's rule)


@dataclass(frozen=True)
class Feature:
    """One thing that was compared. ``effect``: 0 to 1; ``adjusted``: p after Holm's correction; ``rows``: before and now."""

    name: str
    test: str
    effect: float
    p: float
    rows: tuple[int, int]
    adjusted: float = 1.0
    is_drift: bool = False


def require_scipy() -> None:
    """Raises UsageError without it, before a model is loaded."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise UsageError(f"monitor needs SciPy: {install('watch')}") from error


def compare(before: Profile, now: Profile, alpha: float, least: float) -> list[Feature]:
    """What both have, the least probable first. A drift: ``adjusted`` below ``alpha``, and an effect of at least ``least``."""
    found = [
        numbers_differ(name, each, now.numbers[name]) for name, each in before.numbers.items() if is_in(now.numbers, name, each)
    ]
    found += [
        shares_differ(name, each, now.shares[name]) for name, each in before.shares.items() if is_in(now.shares, name, each)
    ]
    judged = [
        Feature(each.name, each.test, each.effect, each.p, each.rows, adjusted, adjusted < alpha and each.effect >= least)
        for each, adjusted in zip(found, holm([each.p for each in found]), strict=True)
    ]
    return sorted(judged, key=lambda each: (not each.is_drift, each.p, -each.effect))


def is_in(now: Mapping[str, Numbers] | Mapping[str, Shares], name: str, before: Numbers | Shares) -> bool:
    return name in now and bool(before.rows) and bool(now[name].rows)


def numbers_differ(name: str, before: Numbers, now: Numbers) -> Feature:
    """Of two samples. The p is the asymptotic one; with equal values among them it is, if anything, too large."""
    from scipy.stats import ks_2samp

    found = ks_2samp(before.sample, now.sample, method="asymp")
    return Feature(name, KS, float(found.statistic), float(found.pvalue), (len(before.sample), len(now.sample)))


def shares_differ(name: str, before: Shares, now: Shares) -> Feature:
    """Of two tables of counts."""
    from scipy.stats import chi2_contingency

    names = [*dict.fromkeys([*before.counts, *now.counts])]
    table = np.array([[each.counts.get(label, 0) for label in names] for each in (before, now)], dtype=np.float64)  # [2, C]
    totals = table.sum(1, keepdims=True)
    effect = float(np.abs(np.diff(table / totals, axis=0)).sum() / 2)
    large = merged(table)
    p = float(chi2_contingency(large, correction=False).pvalue) if large.shape[1] > 1 else 1.0
    return Feature(name, CHI_SQUARED, effect, p, (before.rows, now.rows))


def merged(table: np.ndarray) -> np.ndarray:
    """[2, c]: labels that are too rare for the test are counted together, the rarest first, until none is."""
    columns = [column for column in table.T[np.argsort(table.sum(0), kind="stable")] if column.sum()]
    least = table.sum(1).min() / table.sum()
    while len(columns) > 1 and columns[0].sum() * least < LEAST_EXPECTED:
        columns = sorted([columns[0] + columns[1], *columns[2:]], key=lambda column: float(column.sum()))
    return np.array(columns).T if columns else np.zeros((2, 0))


def rule(alpha: float, least: float, number: int) -> str:
    """When a drift is called, in words."""
    return f"p below {alpha:g} after Holm's correction over {number} features, and an effect of at least {least:g}"


def verdict(features: Sequence[Feature], alpha: float, least: float) -> str:
    """One line."""
    how = rule(alpha, least, len(features))
    drifted = [each for each in features if each.is_drift]
    if not drifted:
        return f"no drift: no feature has {how}"
    return f"drift: {', '.join(f'{each.name} ({each.effect:.2f}, p {each.adjusted:.2g})' for each in drifted)}; the rule: {how}"
