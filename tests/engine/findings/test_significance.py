"""Two models on the same rows: McNemar's test against SciPy, the score interval against the likelihood itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from engine.findings.significance import mcnemar, paired_interval

COUNTS = [(3, 9, 200), (5, 5, 60), (40, 12, 1000), (0, 6, 50), (1, 0, 30), (12, 1, 14)]


@pytest.mark.parametrize(("gained", "lost", "rows"), COUNTS)
def test_mcnemars_test_is_the_binomial_one(gained, lost, rows):
    assert mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_no_row_that_differs_is_no_proof():
    assert mcnemar(0, 0) == 1
    low, high = paired_interval(0, 0, 100)
    assert (low, high) == pytest.approx((-3.8415 / 103.8415, 3.8415 / 103.8415), abs=1e-5)  # z^2 / (n + z^2), by hand


def score(difference, gained, lost, rows):
    """The score statistic at a difference, with the other parameter found by maximising the likelihood, not by a formula."""

    def likelihood(q):
        p = np.array([q + difference, q, 1 - 2 * q - difference])  # gained, lost, neither
        counts = np.array([gained, lost, rows - gained - lost])
        if (p < 0).any() or (p[counts > 0] <= 0).any():
            return math.inf
        return -float((counts[counts > 0] * np.log(p[counts > 0])).sum())

    q = minimize_scalar(
        likelihood, bounds=(max(0.0, -difference), (1 - difference) / 2), method="bounded", options={"xatol": 1e-12}
    ).x
    return (gained - lost - rows * difference) / math.sqrt(rows * (2 * q + difference - difference**2))


@pytest.mark.parametrize(("gained", "lost", "rows"), COUNTS)
def test_the_interval_ends_where_the_score_test_rejects(gained, lost, rows):
    low, high = paired_interval(gained, lost, rows)
    assert low < (gained - lost) / rows < high
    assert score(low, gained, lost, rows) == pytest.approx(1.95996, abs=2e-3)
    assert score(high, gained, lost, rows) == pytest.approx(-1.95996, abs=2e-3)
    assert paired_interval(lost, gained, rows) == pytest.approx((-high, -low), abs=1e-6)


def test_it_holds_the_true_difference_as_often_as_it_says():
    generator = np.random.default_rng(0)
    found = 0
    for gained, lost, _ in generator.multinomial(100, [0.10, 0.05, 0.85], 500):
        low, high = paired_interval(int(gained), int(lost), 100)
        found += low <= 0.05 <= high
    assert abs(found / 500 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 500)
