"""Training files with shares: a.csv:0.7,b.csv:0.3. An epoch holds every row, and rows of what would be too few again.

The rows of an epoch are a function of the files, the shares and --data-seed, and are known before the first step: the plan
deals them like any others, and a run resumes exactly. Next: plan.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.console import counted, note
from engine.data.places import Part
from engine.data.tables import chosen, origin_of
from engine.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

MOST_TIMES = 10_000  # that a row may stand in an epoch; more is a slip in a share


@dataclass(frozen=True)
class Mixture:
    """``starts``: the first row of each part in the table of all, from 0; ``shares`` add up to 1."""

    names: Sequence[str]
    starts: Sequence[int]
    shares: Sequence[float]

    @classmethod
    def of(cls, parts: Sequence[Part], table: Dataset) -> Mixture:
        """The parts of a table that holds the rows of their files, one below the other."""
        firsts = np.cumsum([0, *(len(part.files) for part in parts)])[:-1]
        shares = np.asarray([part.share for part in parts], dtype=np.float64)
        starts = [origin_of(table).starts[first] for first in firsts]
        return cls([part.name for part in parts], starts, (shares / shares.sum()).tolist())

    def mixed(self, table: Dataset, seed: int) -> Dataset:
        """The table with each row as often as its part's share wants it; all occur. Says the shares. Raises DataError.

        A part that is too small is repeated as a whole, and what is still missing drawn without replacement.
        """
        numbers = origin_of(table).rows
        numbers = np.arange(len(table)) if numbers is None else numbers
        of = np.searchsorted(self.starts, numbers, side="right") - 1  # [N]: the part of each row
        there = np.bincount(of, minlength=len(self.names))
        if not there.all():
            raise DataError(f"{self.names[int(there.argmin())]}: no row of it is left to train on")
        rows_wanted = np.max(there / self.shares) * np.asarray(self.shares)
        if (times := rows_wanted / there).max() > MOST_TIMES:
            often, seldom = int(times.argmax()), int(times.argmin())
            raise DataError(
                f"{self.names[seldom]}: its share of {self.shares[seldom]:.4g} is so small that {self.names[often]} would stand"
                f" {times[often]:,.0f} times in an epoch that holds all rows: give it a larger one"
            )
        wanted = np.rint(rows_wanted).astype(int)
        generator = np.random.default_rng((seed, 3))
        rows: list[np.ndarray] = []
        for part, number in enumerate(wanted):
            own = np.flatnonzero(of == part)
            whole, rest = divmod(max(int(number), len(own)), len(own))
            rows += [own] * whole + [np.sort(generator.permutation(own)[:rest])]
        picked = np.concatenate(rows)
        words = [
            f"{name} {share:.1%} ({counted(int(own), 'row')}, each {number / own:.3g} times)"
            for name, share, own, number in zip(self.names, self.shares, there, wanted, strict=True)
        ]
        note(f"mixture: {', '.join(words)}: {len(picked)} rows an epoch")
        return chosen(table, picked)
