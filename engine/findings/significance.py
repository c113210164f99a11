"""Is a difference more than chance? Fisher's exact test, and Holm's correction for looking at many.

Both are short; SciPy, which has them, too, comes with an extra only (tests/engine/findings/test_slices.py compares).
"""

from __future__ import annotations

from collections.abc import Sequence

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
