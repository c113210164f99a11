"""Is a difference more than chance? Fisher's exact test, Holm's correction for looking at many, two models on the same rows.

All are short; SciPy, which has most of them, comes with an extra only (tests/engine/findings/ compares).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def log_factorials(most: int) -> np.ndarray:
    """[most + 1]: of 0 to ``most``."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def fisher(wrong: int, rows: int, all_wrong: int, all_rows: int, logs: np.ndarray) -> float:
    """The two-sided p of Fisher's exact test: is the share of wrong rows among these ``rows`` that of the others?

    The sum of the probabilities of all tables with the same margins that are not more probable than this one. ``logs``:
    log_factorials(all_rows).
    """
    low, high = max(0, rows - (all_rows - all_wrong)), min(rows, all_wrong)
    k = np.arange(low, high + 1)

    def choose(n: int, of: np.ndarray) -> np.ndarray:
        return np.asarray(logs[n] - logs[of] - logs[n - of])

    log_p = choose(all_wrong, k) + choose(all_rows - all_wrong, rows - k) - choose(all_rows, np.array(rows))
    p = np.exp(log_p)
    return float(min(1.0, p[log_p <= log_p[wrong - low] + 1e-7].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p: below 0.05, no more than 5 in 100 such searches find anything where there is nothing (Holm, 1979)."""
    order = np.argsort(values, kind="stable")
    steps = np.asarray(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(values) else steps
    return [float(each) for each in adjusted]


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p of McNemar's exact test: rows that only the second model has right, and those that only the first has;
    where the models are equally good each such row is one or the other with probability 1/2."""
    number, fewer = gained + lost, min(gained, lost)
    logs = log_factorials(number)
    k = np.arange(fewer + 1)
    return float(min(1.0, 2 * np.exp(logs[number] - logs[k] - logs[number - k] - number * math.log(2)).sum()))


Z = 1.959964  # of the normal distribution 95% lie within so many standard deviations


def paired_interval(gained: int, lost: int, rows: int) -> tuple[float, float]:
    """The 95% score interval (Tango, 1998) of the difference of two accuracies on the same rows, second minus first.

    It holds the differences that a score test does not reject, and says something, too, where no row differs.
    """

    def statistic(difference: float) -> float:
        a, b = 2 * rows, -gained - lost + (2 * rows - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # the probability of "lost" that is most likely then
        variance = rows * (2 * q + difference * (1 - difference))
        distance = gained - lost - rows * difference
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0

    middle = (gained - lost) / rows
    return bound(statistic, middle, -1.0, Z), bound(statistic, middle, 1.0, -Z)


def bound(statistic: Callable[[float], float], inside: float, outside: float, z: float) -> float:
    """Where the statistic, which falls, reaches ``z`` between a difference of the interval and one beyond it."""
    if abs(statistic(outside)) <= abs(z):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if abs(statistic(middle)) > abs(z) else (middle, outside)
    return inside
