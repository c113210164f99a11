"""Which rows of the training data are held out for evaluation: a share of each stratum, or whole groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import note
from engine.data.tables import row_name
from engine.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of_each(strata: Sequence[Any], fraction: float, generator: np.random.Generator, *, is_one: bool) -> list[int]:
    """Rows to hold out, of each stratum the same share; ``is_one``: all rows are of one stratum."""
    groups: dict[str, list[int]] = {}
    for row in range(len(strata)):
        groups.setdefault("" if is_one else str(strata[row]), []).append(row)
    held: list[int] = []
    for _, rows in sorted(groups.items()):
        number = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        held += [rows[i] for i in generator.permutation(len(rows))[:number]]
    return held


def whole_groups(table: Dataset, column: str, fraction: float, generator: np.random.Generator) -> list[int]:
    """Rows to hold out: all of some groups, drawn at random, as near to the share as they come. Raises DataError."""
    groups: dict[str, list[int]] = {}
    for row, value in enumerate(table[column][:]):
        if value is None or str(value).strip() == "":
            raise DataError(f"{row_name(table, row)}: column {column!r} is empty, and says what the row belongs to")
        groups.setdefault(str(value), []).append(row)
    held: list[int] = []
    wanted = len(table) * fraction
    for name in generator.permutation(sorted(groups)):
        if abs(len(held) + len(groups[name]) - wanted) < abs(len(held) - wanted):
            held += groups[name]
    if not held or len(held) == len(table):
        raise DataError(
            f"--group-column {column}: {len(groups)} groups cannot be parted so that {fraction} of the rows is held out"
        )
    note(f"held out: {len(held)} of {len(table)} rows, in whole groups of {column!r} ({len(groups)} groups in all)")
    return held
