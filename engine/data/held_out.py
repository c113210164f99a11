"""Which rows are held out for evaluation: a share of each stratum, or whole groups; or all in turn, part by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import note
from engine.data.places import UNNAMED
from engine.data.tables import chosen, row_name
from engine.errors import DataError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset

    from engine.data.sources import SourceConfig

Strata = Callable[["Dataset"], Sequence[Any] | None]  # of a table: a value per row


def hold_out(table: Dataset, strata: Sequence[Any] | None, fraction: float, config: SourceConfig) -> dict[str, Dataset]:
    """Two disjoint parts, random by ``data_seed``; each stratum gives the same share (at least one row each side)."""
    generator = np.random.default_rng((config.data_seed, 2))
    if config.group_column and config.group_column in table.column_names:
        held = whole_groups(table, config.group_column, fraction, generator)
    else:
        held = rows_of_each(by_stratum(len(table), strata), fraction, generator)
    is_held = np.zeros(len(table), dtype=bool)
    is_held[held] = True
    parts = {"train": chosen(table, np.flatnonzero(~is_held)), UNNAMED: chosen(table, np.flatnonzero(is_held))}
    for split, part in parts.items():
        if len(part) == 0:
            raise DataError(f"--eval-fraction {fraction} of {len(table)} rows leaves none to {split} on")
    return parts


def parted(tables: Mapping[str, Dataset], strata: Strata, config: SourceConfig) -> dict[str, Dataset]:
    """After ``--fold`` or ``--eval-part``. Raises UsageError, DataError."""
    held = {split: table for split, table in tables.items() if split != "train"}

    def parts_at(table: Dataset, number: int, stream: int) -> np.ndarray:
        generator = np.random.default_rng((config.data_seed, stream))
        return parts(table, number, generator, strata(table), config.group_column)

    if config.fold and "train" in tables:
        (at, number), table = part_of(config.fold, "--fold"), tables["train"]
        is_held = parts_at(table, number, 3) == at - 1
        found = {"train": chosen(table, np.flatnonzero(~is_held)), UNNAMED: chosen(table, np.flatnonzero(is_held))}
        left = f"; the evaluation data ({', '.join(held)}) have no part in it" if held else ""
        note(f"fold {config.fold}: {len(found['train'])} rows to train on, {len(found[UNNAMED])} to evaluate on{left}")
        return found
    if not config.eval_part:
        return dict(tables)
    if not held:
        raise UsageError(f"--eval-part {config.eval_part}: there are no evaluation data: hold some out, --eval-fraction 0.1")
    at, number = part_of(config.eval_part, "--eval-part")
    found = {split: chosen(table, np.flatnonzero(parts_at(table, number, 4) == at - 1)) for split, table in held.items()}
    sizes = ", ".join(f"{len(part)} of {len(held[split])} rows" for split, part in found.items())
    note(f"evaluation data: part {config.eval_part}, {sizes}")
    return {split: found.get(split, table) for split, table in tables.items()}


def by_stratum(number: int, strata: Sequence[Any] | None) -> list[list[int]]:
    """The rows of each stratum; None: all of so many are of one."""
    found: dict[str, list[int]] = {}
    for row in range(number):
        found.setdefault("" if strata is None else str(strata[row]), []).append(row)
    return [rows for _, rows in sorted(found.items())]


def rows_of_each(strata: Sequence[list[int]], fraction: float, generator: np.random.Generator) -> list[int]:
    """Rows to hold out, of each stratum the same share."""
    held: list[int] = []
    for rows in strata:
        number = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        held += [rows[i] for i in generator.permutation(len(rows))[:number]]
    return held


def whole_groups(table: Dataset, column: str, fraction: float, generator: np.random.Generator) -> list[int]:
    """Rows to hold out: all of some groups, drawn at random, as near to the share as they come. Raises DataError."""
    groups = groups_in(table, column)
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


def groups_in(table: Dataset, column: str) -> dict[str, list[int]]:
    """The rows of each group. Raises DataError for a row that belongs to none."""
    groups: dict[str, list[int]] = {}
    for row, value in enumerate(table[column][:]):
        if value is None or str(value).strip() == "":
            raise DataError(f"{row_name(table, row)}: column {column!r} is empty, and says what the row belongs to")
        groups.setdefault(str(value), []).append(row)
    return groups


MOST_PARTS = 100


def part_of(text: str, flag: str) -> tuple[int, int]:
    """``2/5``: (2, 5), the second of five parts. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    at, number = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (2 <= number <= MOST_PARTS and 1 <= at <= number):
        raise UsageError(f"{flag} names one of 2 to {MOST_PARTS} parts, such as 1/2 or 3/5, found {text!r}")
    return at, number


def parts(
    table: Dataset, number: int, generator: np.random.Generator, strata: Sequence[Any] | None, column: str | None
) -> np.ndarray:
    """[N] int64: in which of so many disjoint parts each row is, from 0, at random.

    The parts are of equal size (one row more or less), each stratum, too; of whole groups (``column``) as near to it as they
    come. Raises DataError where a part would be empty.
    """
    found = np.zeros(len(table), dtype=np.int64)
    sizes = np.zeros(number, dtype=np.int64)
    if column is not None and column in table.column_names:
        groups = groups_in(table, column)
        order = generator.permutation(sorted(groups))
        for name in sorted(order, key=lambda name: -len(groups[name])):  # stable: large ones first
            at = int(sizes.argmin())
            found[groups[name]] = at
            sizes[at] += len(groups[name])
    else:
        for rows in by_stratum(len(table), strata):
            for row in generator.permutation(rows):
                at = int(sizes.argmin())
                found[row] = at
                sizes[at] += 1
    if not sizes.all():
        raise DataError(
            f"{len(table)} rows{f', in groups of {column!r},' if column else ''} do not fill {number} parts: give more rows"
        )
    return found
