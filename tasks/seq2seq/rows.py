"""Where source and target of a row stand, and what cannot be learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.form import Columns
from engine.data.tables import RowName, names_of_rows, plain_row
from engine.errors import DataError
from tasks.pairs import Pairs
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset

KNOWN = (("article", "highlights"), ("document", "summary"), ("dialogue", "summary"), ("text", "summary"),
         ("input", "output"), ("input", "target"))  # fmt: skip


class SourcesAndTargets(Pairs):
    """Two texts each, of which one is read, and the other written."""

    @property
    def shapes(self) -> np.ndarray:
        """[N]: equal for rows whose sources, and whose targets, have equally many tokens."""
        sources, targets = (part.lengths for part in self.parts)
        shapes: np.ndarray = sources * (1 + targets.max(initial=0)) + targets
        return shapes


def column_of(name: str) -> str:
    """The column of the data: of ``translation.en``, which is the key ``en`` of its objects, ``translation``."""
    return name.partition(".")[0]


def texts_in(rows: Any, name: str, where: str, row: RowName = plain_row) -> Sequence[str]:
    """The texts of a column, or of a key of its objects. Raises DataError with the row."""
    column, _, key = name.partition(".")
    cells = rows[column][:]
    if key:
        for number, cell in enumerate(cells):
            if not isinstance(cell, Mapping) or key not in cell:
                raise DataError(f"{where}, {row(number)}: {column!r} must be an object with {key!r}, found {cell!r:.60}")
        cells = [cell[key] for cell in cells]
    return checked_texts(cells, f"{where}, column {name!r}", row)


def source_cells(rows: Columns, name: str | None) -> list[Any]:
    """What ``predict`` is given: the only column of a file, or the one that is named. Raises DataError."""
    name = next(iter(rows)) if len(rows) == 1 and name is None else name or "source"
    if column_of(name) not in rows:
        raise DataError(
            f"the input has no column {column_of(name)!r} (it has: {', '.join(rows)}): name it with --source-column"
        )
    return list(texts_in(rows, name, "the input"))


def both_in(table: Dataset, names: Sequence[str], where: str) -> tuple[Sequence[str], Sequence[str]]:
    """Sources and targets of a table. Raises DataError for a row that has none, or a blank target: nothing to be learned."""
    row = names_of_rows(table)
    sources, targets = (texts_in(table, name, where, row) for name in names)
    if (blank := next((number for number, text in enumerate(targets) if not text.strip()), None)) is not None:
        raise DataError(f"{where}, {row(blank)}: the target is blank: remove the row or fill it")
    return sources, targets


def ways_in(found: Sequence[str]) -> str:
    """Flags that take these columns, as others call them or as the user does."""
    if (pair := next((pair for pair in KNOWN if set(pair) <= set(found)), None)) is not None:
        return f"--source-column {pair[0]} --target-column {pair[1]}"
    names = ("translation.en", "translation.de") if "translation" in found else ("NAME", "NAME")
    return f"--source-column {names[0]} --target-column {names[1]}"
