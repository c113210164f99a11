"""From the labels in the data to numbers, checked row by row: a label that is off is never trained on in silence."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import note
from engine.data.tables import RowName, row_name
from engine.data.tokens import cells_of
from engine.errors import DataError, UsageError

if TYPE_CHECKING:
    from datasets import Dataset


Where = Callable[[str, int], str]  # what errors call a row of a split, from 0
DECIMAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+)")
MOST_DIGITS = 18  # of a whole number; what is longer is a name (and Python refuses to convert thousands of digits)


@dataclass(frozen=True)
class Labels:
    """Names in the order of their ids, and how many training examples have each: [C]."""

    names: tuple[str, ...]
    counts: np.ndarray

    def weights(self, asked: str) -> list[float]:
        """``balanced``: n / (C * count), scikit-learn's rule, whose mean over the training examples is 1; or numbers."""
        if asked == "balanced":
            if not self.counts.all():
                empty = self.names[int(np.argmin(self.counts))]
                raise DataError(f"--class-weights balanced: no training example has the label {empty!r}")
            return [float(w) for w in self.counts.sum() / (len(self.names) * self.counts)]
        try:
            weights = [float(word) for word in asked.split(",")]
        except ValueError as error:
            raise UsageError(f"--class-weights must be 'balanced' or numbers, found {asked!r}") from error
        if len(weights) != len(self.names) or not all(0 <= w < float("inf") for w in weights) or not any(weights):
            raise UsageError(
                f"--class-weights needs {len(self.names)} numbers of at least 0, not all 0 ({', '.join(self.names)})"
            )
        return weights


def read_labels(
    tables: Mapping[str, Dataset], column: str, problem: str, given: tuple[str, ...] | None, separator: str
) -> tuple[Labels, dict[str, np.ndarray]]:
    """The labels' names and, for each split, ids [N] int64, 0/1 matrix [N, C] float32, or values [N] float32.

    Names are those given, else a Hub data set's own, else those in the training data: in numeric order if all are
    whole numbers, else in alphabetical order. Without training data names must be given. Raises DataError with the row.
    """
    cells = {split: shared(table[column]) for split, table in tables.items()}

    def where(split: str, row: int) -> str:
        return f"{split} data, {row_name(tables[split], row)}"

    if given is None:
        given = class_names(tables["train"], column)
    if problem == "regression":
        values = {split: numbers(column_cells, column, partial(where, split)) for split, column_cells in cells.items()}
        return Labels(("value",), np.array([len(cells.get("train", ()))])), values
    if problem == "multi_label":
        return many_of_each(cells, column, given, separator, where)
    return one_of_each(cells, column, given, where)


def shared(column: Sequence[Any]) -> list[Any]:
    """The cells; equal texts are one object, so that a million labels of few kinds take little memory."""
    kinds: dict[str, str] = {}
    return [kinds.setdefault(cell, cell) if isinstance(cell, str) else cell for cell in cells_of(column)]


def class_names(table: Dataset, column: str) -> tuple[str, ...] | None:
    """The names a Hub data set gives to its label ids, if it does."""
    feature = table.features[column]
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return tuple(names) if names else None


def whole_number(cell: Any) -> int | None:
    """``3``, ``"3"``, ``"-1"``; None for anything else."""
    if isinstance(cell, str):
        text = cell.strip()
        return int(text) if text.removeprefix("-").isdecimal() and len(text) <= MOST_DIGITS else None
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """As numbers if all are whole ones, else as text."""
    ordered = sorted(names)
    values = {name: whole_number(name) for name in ordered}
    return tuple(ordered if None in values.values() else sorted(ordered, key=lambda name: values[name] or 0))


def one_of_each(
    cells: Mapping[str, Sequence[Any]], column: str, given: tuple[str, ...] | None, where: Where
) -> tuple[Labels, dict[str, np.ndarray]]:
    """Classes: whole numbers or names."""
    ids: dict[str, int] = {}
    arrays = {}
    for split, values in cells.items():
        if (missing := next((row for row, cell in enumerate(values) if is_missing(cell)), None)) is not None:
            raise DataError(f"{where(split, missing)}: the label is missing (column {column!r})")
        for row, cell in enumerate(values):
            if isinstance(cell, float) or (given is None and isinstance(cell, str) and DECIMAL.fullmatch(cell.strip())):
                raise DataError(
                    f"{where(split, row)}: label {cell!r} is not a class: classes are whole numbers or names "
                    "(or --problem regression)"
                )
            if (whole_number(cell) or 0) < 0:
                raise DataError(
                    f"{where(split, row)}: label {cell!r} is negative; -1 often marks rows without a label: take them out"
                )
            if not isinstance(cell, str | int):
                raise DataError(
                    f"{where(split, row)}: label {cell!r} is not a class (a list of labels needs --problem multi_label)"
                )
    if given is None:
        if not cells["train"]:
            raise DataError("there is no row to train on")
        found = list(dict.fromkeys(cells["train"]))
        are_numbers = [whole_number(cell) is not None for cell in found]
        if any(are_numbers) and not all(are_numbers):
            number, word = found[are_numbers.index(True)], found[are_numbers.index(False)]
            raise DataError(f"column {column!r} mixes numbers and names ({number!r}, {word!r}): use one kind")
        given = in_order({str(cell) for cell in found})
        warn_of_odd_classes(given, len(cells["train"]))
        ids = {name: i for i, name in enumerate(given)}
    else:
        if repeated := [name for name in given if given.count(name) > 1]:
            raise DataError(f"the label name {repeated[0]!r} is given twice")
        ids = {name: i for i, name in enumerate(given)} | {str(i): i for i in range(len(given)) if str(i) not in given}
    for split, values in cells.items():
        for row, cell in enumerate(values):
            if str(cell) not in ids:
                known = f"{', '.join(given[:10])}{' ...' if len(given) > 10 else ''}"
                raise DataError(f"{where(split, row)}: label {cell!r} is none of the {len(given)} labels ({known})")
        arrays[split] = np.array([ids[str(cell)] for cell in values], dtype=np.int64)
    trained = arrays.get("train", np.empty(0, dtype=np.int64))
    if "train" in arrays and (trained == trained[:1]).all():
        raise DataError(f"all training labels are {given[trained[0]]!r}: at least two classes are needed")
    return Labels(given, np.bincount(trained, minlength=len(given))), arrays


def appearance(name: str) -> str:
    """Equal for names that are one to the eye, or to who typed them: spaces, capitals, zeros in front of a number, composed
    and decomposed letters, and characters without a width.
    """
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    plain = " ".join(visible.split()).casefold()
    return str(number) if (number := whole_number(plain)) is not None else plain


def warn_of_odd_classes(names: Sequence[str], num_rows: int) -> None:
    """Names that look like one class written in two ways, and so many that the column can hardly be a label."""
    warn_of_lookalikes(names)
    if len(names) > max(10, num_rows / 2):
        note(f"warning: {len(names)} different labels in {num_rows} rows; is that the right column?")


def warn_of_lookalikes(names: Sequence[str]) -> None:
    """The first two that look like one."""
    alike: dict[str, str] = {}
    for name in names:
        if (other := alike.setdefault(appearance(name), name)) != name:
            both = f"{other!r} and {name!r}" if repr(other) != repr(name) else f"{other!a} and {name!a}"
            note(f"warning: the labels {both} look alike, and are two classes")
            return


def is_missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))


def many_of_each(
    cells: Mapping[str, Sequence[Any]], column: str, given: tuple[str, ...] | None, separator: str, where: Where
) -> tuple[Labels, dict[str, np.ndarray]]:
    """Several labels: a list of names or ids, a list of 0 and 1 for every label, or names in a CSV cell."""

    def words(cell: Any, split: str, row: int) -> list[Any]:
        if cell is None:
            raise DataError(f"{where(split, row)}: the labels are missing (an empty list, or an empty CSV cell, means none)")
        if isinstance(cell, str):
            return [word.strip() for word in cell.split(separator) if word.strip()]
        if isinstance(cell, list):
            for word in cell:
                if is_missing(word) or (whole_number(word) or 0) < 0:
                    raise DataError(f"{where(split, row)}: {cell!r} holds a label that is missing or negative")
                if not isinstance(word, str | int | float) or (isinstance(word, float) and word not in (0, 1)):
                    raise DataError(f"{where(split, row)}: {cell!r} holds {word!r}, which is neither a name nor a whole number")
            return cell
        raise DataError(f"{where(split, row)}: a list of labels is needed, found {cell!r}")

    lists = {split: [words(cell, split, row) for row, cell in enumerate(values)] for split, values in cells.items()}
    shown = lists.get("train") or next(iter(lists.values()))
    if is_indicator(shown):
        width = len(given) if given else len(shown[0])
        names = given or tuple(f"label_{i}" for i in range(width))
        matrices = {}
        for split, rows in lists.items():
            for row, values in enumerate(rows):
                if len(values) != width or any(v not in (0, 1) for v in values):
                    raise DataError(f"{where(split, row)}: {width} values of 0 or 1 are needed, found {values!r}")
            matrices[split] = np.asarray(rows, dtype=np.float32)
    else:
        names = given or in_order({str(word) for row in shown for word in row})
        ids = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names)) if str(i) not in names}
        if not names:
            raise DataError(f"column {column!r}: no training row has a label")
        warn_of_lookalikes(names)
        if odd := next((word for rows in lists.values() for row in rows for word in row if isinstance(word, float)), None):
            raise DataError(
                f"column {column!r} holds {odd!r} beside labels that are neither 0 nor 1: use whole numbers or names"
            )
        matrices = {split: np.zeros((len(rows), len(names)), dtype=np.float32) for split, rows in lists.items()}
        for split, rows in lists.items():
            for row, values in enumerate(rows):
                for word in values:
                    if str(word) not in ids:
                        known = ", ".join(names[:10])
                        raise DataError(f"{where(split, row)}: label {word!r} is none of the {len(names)} ({known} ...)")
                    matrices[split][row, ids[str(word)]] = 1
    return Labels(names, matrices.get("train", np.zeros((0, len(names)))).sum(0)), matrices


def is_indicator(rows: Sequence[list[Any]]) -> bool:
    """One value for every label: lists of 0 and 1, mostly of one length of at least 2.

    Lists of one length in which a number stands twice are meant so, too: no list of ids has it (their faults are found later).
    """
    lengths = [len(row) for row in rows]
    usual = max(set(lengths), key=lengths.count)
    values = [value for row in rows for value in row]
    if usual < 2 or any(isinstance(value, str) for value in values):
        return False
    return all(value in (0, 1) for value in values) or (len(set(lengths)) == 1 and any(len(set(row)) < usual for row in rows))


def numbers(values: Sequence[Any], column: str, where: RowName) -> np.ndarray:
    """[N] float32 for regression."""
    result = np.empty(len(values), dtype=np.float32)
    for row, cell in enumerate(values):
        try:
            result[row] = float("" if "_" in str(cell) else cell)  # Python would read 1_000 as a number
        except (TypeError, ValueError) as error:
            raise DataError(f"{where(row)}: {cell!r} (column {column!r}) is not a number") from error
        if not np.isfinite(result[row]):
            raise DataError(f"{where(row)}: {cell!r} (column {column!r}) is not a finite number")
    return result
