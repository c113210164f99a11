"""Have the data changed? Two profiles compared, feature by feature: a test, the size of the difference, one verdict.

Numbers: the two-sample test of Kolmogorov and Smirnov, whose size is the largest distance of the two distribution functions.
Labels: the chi-squared test of homogeneity, whose size is the total variation distance, half the sum of the differences of the
shares. Vectors of the model: Hotelling's two-sample T-squared (1931) of their means on a few random lines (model/projected.py
names the source), whose size is the largest distance of the two distribution functions on any line, were they normal. All sizes
lie between 0 and 1. Many tests find something by chance, so their p are corrected (Holm, 1979); and with
many rows the slightest difference is beyond chance, so a drift must be of some size, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UsageError
from engine.findings.profile import Moments, Numbers, Profile, Shares
from engine.findings.significance import holm
from engine.installed import install

KS, CHI_SQUARED, HOTELLING = "Kolmogorov-Smirnov", "chi-squared", "Hotelling's T-squared"
EMBEDDING = "embedding"
LEAST_TIMES = 2  # as many rows as there are lines, in either data, or means are not compared
LEAST_VARIANCE = 1e-10  # of a direction, as a share of the largest: below it the numbers are rounding
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
    if before.embedding is not None and now.embedding is not None:
        found += filter(None, [vectors_differ(before.embedding, now.embedding)])
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


def vectors_differ(before: Moments, now: Moments) -> Feature | None:
    """Of two sets of vectors; None: too few to compare, or on other lines.

    The covariance is that of both together, as it is where the data are the same. The effect is made of Mahalanobis' squared
    distance D without what chance adds to it: of normal data rest / (rest - k - 1) (D + k (n + m) / (n m)) is expected.
    """
    from scipy.stats import f, norm

    n, m, lines = before.rows, now.rows, len(before.mean)
    if len(now.mean) != lines or min(n, m) < LEAST_TIMES * lines:
        return None
    together = ((n - 1) * np.asarray(before.covariance) + (m - 1) * np.asarray(now.covariance)) / (n + m - 2)
    variances, axes = np.linalg.eigh(together)
    kept = variances > max(LEAST_VARIANCE * variances.max(), 0.0)
    k, rest = int(kept.sum()), n + m - 2
    if not k:
        return None
    along = (np.asarray(now.mean) - np.asarray(before.mean)) @ axes[:, kept]
    squared = float((along**2 / variances[kept]).sum())
    p = float(f.sf((rest - k + 1) / (k * rest) * n * m / (n + m) * squared, k, rest - k + 1))
    unbiased = max(0.0, (rest - k - 1) / rest * squared - k * (n + m) / (n * m))
    return Feature(EMBEDDING, HOTELLING, float(2 * norm.cdf(unbiased**0.5 / 2) - 1), p, (n, m))


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
