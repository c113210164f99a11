"""What stands in the column of the labels of one split: kinds of cells, and the words of each. Next: labels.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.data.tables import row_name
from engine.data.tokens import cells_of
from engine.errors import DataError
from tasks.classification.cells import as_list, is_missing, other_mark, value, whole, words_of

if TYPE_CHECKING:
    from datasets import Dataset

PIECE = 10_000  # rows whose cells are compared at once


@dataclass(frozen=True)
class Rule:
    """How the labels are asked to be read.

    ``columns``: one, or one-hot columns. ``names``: of the classes, where they stand before the data are read, and
    ``whose`` they are. ``renames``: these names take the place of a ClassLabel's own, id by id, where it does not know them.
    """

    columns: tuple[str, ...]
    problem: str = "single_label"
    separator: str = "|"
    values: Literal["auto", "names", "ids", "onehot"] = "auto"
    names: tuple[str, ...] | None = None
    whose: str = "--label-names"
    renames: bool = True


@dataclass
class Column:
    """The labels of a split: the kind of cell of each row [N]; of each kind ``where`` it first stands, and its words.

    ``own``: where the words are ids, what these mean. ``known``: the ids of those names, as they were read.
    """

    split: str
    kinds: np.ndarray
    where: list[str]
    words: list[list[Any]]
    own: tuple[str, ...] | None = None
    known: Mapping[str, int] = field(default_factory=dict)

    def distinct(self) -> dict[Any, tuple[Any, int]]:
        """Each word, and the first kind of cell that holds it, by a key that tells True from 1."""
        found: dict[Any, tuple[Any, int]] = {}
        for kind, words in enumerate(self.words):
            for word in words:
                found.setdefault(key(word), (word, kind))
        return found

    def hold_values(self, own: tuple[str, ...]) -> None:
        """From a value of 0 or 1 for each label to the ids of those that have 1. Raises DataError."""
        for kind, words in enumerate(self.words):
            bits = [value(word) for word in words]
            if len(bits) != len(own) or any(bit not in (0, 1) for bit in bits):
                raise DataError(f"{self.where[kind]}: {len(own)} values of 0 or 1 are needed, found {words!r}")
            self.words[kind] = [i for i, bit in enumerate(bits) if bit]
        self.own = own


def key(cell: Any) -> Any:
    """Equal for equal cells of one type."""
    if isinstance(cell, list | tuple):
        return tuple(key(part) for part in cell)
    return (type(cell), repr(cell) if isinstance(cell, dict) else cell)


def read_column(table: Dataset, split: str, rule: Rule) -> Column:
    """The words of each cell, checked. Raises DataError with the row."""
    number_of: dict[Any, int] = {}
    cells: list[Any] = []
    where: list[str] = []
    kinds = np.empty(len(table), dtype=np.int32)
    for start, found, which in pieces_of(table, rule.columns):
        numbers = np.array([number_of.setdefault(key(cell), len(number_of)) for cell in found], dtype=np.int32)
        for at in map(int, np.flatnonzero(numbers >= len(cells))):
            if numbers[at] == len(cells):
                cells.append(found[at])
                where.append(f"{split} data, {row_name(table, start + int(np.argmax(which == at)))}")
        kinds[start : start + len(which)] = numbers[which]
    if not cells:
        raise DataError(f"there is no row to {split} on" if split == "train" else f"no row of the {split} data is left")
    column = Column(split, kinds, where, [[cell] for cell in cells], class_names(table, rule.columns[0]))
    if len(rule.columns) > 1:
        column.words = cells
        column.hold_values(rule.columns)
    elif rule.problem == "multi_label":
        column.words = words_of(cells, where, rule.separator)
        refuse_doubtful(column, cells, rule)
    else:
        for cell, place in zip(cells, where, strict=True):
            if is_missing(cell):
                raise DataError(f"{place}: the label is missing (column {rule.columns[0]!r}){unlabelled(cells, split)}")
            if (as_list(cell) is not None and rule.names is None) if isinstance(cell, str) else value(cell) is None:
                raise DataError(f"{place}: label {cell!r} is not a class (a list of labels needs --problem multi_label)")
    return column


def pieces_of(table: Dataset, names: Sequence[str]) -> Iterator[tuple[int, Sequence[Any], np.ndarray]]:
    """The cells of some rows at a time: the number of the first row, from 0, the cells that they hold, in the order of their
    first rows, and which of these each row has. With several columns a row's cell is the list of theirs.

    Arrow finds equal cells in a fraction of the time that Python needs; it is asked where its idea of equal is Python's.
    """
    import datasets
    import pyarrow

    kind, feature = table.data.schema.field(names[0]).type, table.features[names[0]]
    is_kept_so = isinstance(feature, datasets.Value | datasets.ClassLabel)  # the text of another one is more than a text
    is_plain = is_kept_so and (
        pyarrow.types.is_string(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind)
    )
    if len(names) == 1 and is_plain:
        column = table.select_columns(list(names)).with_format("arrow")
        for start in range(0, len(table), PIECE):
            piece = column[start : start + PIECE].column(0).combine_chunks().dictionary_encode(null_encoding="encode")
            yield start, piece.dictionary.to_pylist(), piece.indices.to_numpy()
        return
    parts = [cells_of(table[name]) for name in names]
    for row, cell in enumerate(parts[0] if len(parts) == 1 else map(list, zip(*parts, strict=True))):
        yield row, [cell], np.zeros(1, dtype=np.int32)


def class_names(table: Dataset, column: str) -> tuple[str, ...] | None:
    """The names that a ClassLabel gives to its ids, if the column is one, or holds lists of them."""
    feature = table.features[column]
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return tuple(names) if names else None


def unlabelled(cells: Sequence[Any], split: str) -> str:
    """The way out where no row has a label, as in the test splits of competitions."""
    if not all(is_missing(cell) or whole(cell) == -1 for cell in cells):
        return ""
    flag = "--train-split" if split == "train" else "--eval-split"
    return f"; no row of the {split} data has one: name another file, or another split with {flag}"


def refuse_doubtful(column: Column, cells: Sequence[Any], rule: Rule) -> None:
    """Raises DataError for a column of several labels that hardly holds any: another separator, one column of 0 and 1."""
    words = [word for words in column.words for word in words]
    if rule.values != "auto" or column.own or all(str(word) in (rule.names or ()) for word in words):
        return
    texts = [cell for cell in cells if isinstance(cell, str) and as_list(cell) is None]
    if (mark := other_mark(texts, rule.separator)) is not None:
        cell = next(text for text in texts if mark in text)
        raise DataError(
            f"column {rule.columns[0]!r}: no cell holds the separator {rule.separator!r}, and {cell!r} holds {mark!r}: "
            f"--label-separator {mark!r} splits there; --label-values names takes it for one label"
        )
    if texts and all(len(words) <= 1 for words in column.words) and all(whole(word) in (0, 1) for word in words):
        raise DataError(
            f"column {rule.columns[0]!r} holds nothing but 0 and 1: name a column for each label, --label-column A,B,C, "
            "or leave out --problem multi_label; --label-values names takes 0 and 1 for labels"
        )


def is_onehot(column: Column, rule: Rule) -> bool:
    """A value for every label: lists of 0 and 1, mostly of one length of at least 2.

    Lists of one length in which a number stands twice are meant so, too: no list of ids has it (their faults are found later).
    """
    if rule.values != "auto":
        return rule.values == "onehot"
    rows = [[value(word) for word in words] for words in column.words]
    lengths = [len(row) for row in rows]
    usual = max(sorted(set(lengths)), key=lengths.count)
    values = [bit for row in rows for bit in row]
    if usual < 2 or None in values:
        return False
    if all(bit in (0, 1) for bit in values):
        if {"0", "1"} <= set(rule.names or ()):
            raise DataError(
                f"column {rule.columns[0]!r} can be read as values of 0 or 1, one for each label, and as the labels 0 and 1: "
                "--label-values onehot, or --label-values names"
            )
        return True
    return set(lengths) == {usual} and any(len(set(row)) < usual for row in rows)
