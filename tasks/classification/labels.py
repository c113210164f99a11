"""From the labels in the data to numbers: one rule for training, evaluation and ``evaluate --file`` (docs/data.md).

The ids of a ``ClassLabel`` are ids, and so are the columns of a one-hot table and lists of 0 and 1. Any other column is
names or ids as a whole: names if all its cells are names of labels; ids if no name is a number, all are in range, and 0
is among them. Whatever can be read in two ways is refused with both: a label that is off is never trained on in silence.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import note
from engine.data.tables import row_name
from engine.data.tokens import cells_of
from engine.errors import DataError, UsageError
from tasks.classification.cells import name_of, number, truth, whole
from tasks.classification.column import Column, Rule, is_onehot, key, read_column, unlabelled

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Labels:
    """Names in the order of their ids, and how many training examples have each: [C].

    ``num_rows``: the training examples, where one may have several labels; None where each has one.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    num_rows: int | None = None

    def weights(self, asked: str) -> list[float]:
        """``balanced``: n / (C * count), scikit-learn's rule, whose mean over the training examples is 1; or numbers.

        Where an example may have several labels: (n - count) / count, so that for each label the examples that have it
        weigh as much as those that have not, as the documentation of torch's BCEWithLogitsLoss has it for ``pos_weight``.
        """
        if asked == "balanced":
            if not self.counts.all():
                empty = self.names[int(np.argmin(self.counts))]
                raise DataError(f"--class-weights balanced: no training example has the label {empty!r}")
            if self.num_rows is None:
                return [float(w) for w in self.counts.sum() / (len(self.names) * self.counts)]
            if (self.counts == self.num_rows).any():
                full = self.names[int(np.argmax(self.counts))]
                raise DataError(f"--class-weights balanced: every training example has the label {full!r}")
            return [float(w) for w in (self.num_rows - self.counts) / self.counts]
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
    tables: Mapping[str, Dataset], rule: Rule, everything: Dataset | None = None
) -> tuple[Labels, dict[str, np.ndarray]]:
    """The labels' names and, for each split, ids [N] int64, 0/1 matrix [N, C] float32, or values [N] float32.

    Names are those of the rule, else a ClassLabel's own, else those in the training data: in numeric order if all are
    numbers, else in alphabetical order. ``everything``: the training data before they were limited, whose names all count.
    Raises DataError with the row.
    """
    if rule.problem == "regression":
        values = {split: numbers(table, split, rule) for split, table in tables.items()}
        return Labels(("value",), np.array([len(values.get("train", ()))])), values
    columns = {split: read_column(table, split, rule) for split, table in tables.items()}
    first = columns.get("train") or next(iter(columns.values()))
    source = first if everything is None else read_column(everything, "train", rule)
    every = [*columns.values()] if source is first else [source, *columns.values()]
    if rule.problem == "multi_label" and first.own is None and is_onehot(source, rule):
        own = rule.names or tuple(f"label_{i}" for i in range(len(source.words[0])))
        for column in every:
            column.hold_values(own)
    names = rule.names or names_in(source, rule)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"the label name {repeated[0]!r} is given twice")
    plain = [column for column in every if column.own is None]
    from_zero = any(whole(word) == 0 or isinstance(word, bool) for column in plain for word, _ in column.distinct().values())
    arrays = {}
    for split, column in columns.items():
        ids = ids_of(column, names, rule, from_zero, first)
        rows = [[ids[key(word)] for word in words] for words in column.words]
        if rule.problem == "single_label":
            arrays[split] = np.array([row[0] for row in rows], dtype=np.int64)[column.kinds]
        else:
            matrix = np.zeros((len(rows), len(names)), dtype=np.float32)
            for kind, row in enumerate(rows):
                matrix[kind, row] = 1
            arrays[split] = matrix[column.kinds]
    if rule.problem == "multi_label":
        matrix = arrays.get("train", np.zeros((0, len(names))))
        return Labels(names, matrix.sum(0), len(matrix)), arrays
    trained = arrays.get("train", np.empty(0, dtype=np.int64))
    if "train" in arrays and (trained == trained[:1]).all():
        raise DataError(f"all training labels are {names[trained[0]]!r}: at least two classes are needed")
    return Labels(names, np.bincount(trained, minlength=len(names))), arrays


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """As numbers if all are, else as text."""
    ordered = sorted(names)
    values = {name: number(name) for name in ordered}
    return tuple(ordered if None in values.values() else sorted(ordered, key=lambda name: values[name] or 0))


def names_in(column: Column, rule: Rule) -> tuple[str, ...]:
    """The names that the training data hold. Raises DataError for what cannot be a class."""
    if column.split != "train":
        raise UsageError("the names of the labels are not known: --label-names, or a model that has them")
    if column.own is not None:
        return column.own
    found = column.distinct().values()
    name = rule.columns[0]
    if not found:
        raise DataError(f"column {name!r}: no training row has a label")
    refuse_negative(column)
    if rule.values == "ids":
        return tuple(map(str, range(1 + max(whole(word) or 0 for word, _ in found))))
    numbers = [word for word, _ in found if number(word) is not None]
    words = [word for word, _ in found if number(word) is None]
    if rule.problem == "single_label":
        for word, kind in found:
            if number(word) is not None and whole(word) is None:
                raise DataError(
                    f"{column.where[kind]}: label {word!r} is not a class: classes are whole numbers or names (--problem "
                    "regression learns numbers; --label-names, with all of them, makes them names)"
                )
        if numbers and words:
            raise DataError(
                f"column {name!r} mixes numbers and names ({numbers[0]!r}, {words[0]!r}): use one kind, or name all: "
                "--label-names A,B,C"
            )
    names = in_order({str(word) if words else name_of(word) for word, _ in found})
    if rule.problem == "single_label":
        warn_of_odd_classes(names, len(column.kinds))
    else:
        warn_of_lookalikes(names)
    return names


def appearance(name: str) -> str:
    """Equal for names that are one to the eye, or to who typed them: spaces, capitals, zeros in front of a number, composed
    and decomposed letters, and characters without a width.
    """
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    plain = " ".join(visible.split()).casefold()
    return str(found) if (found := whole(plain)) is not None else plain


def warn_of_odd_classes(names: Sequence[str], num_rows: int) -> None:
    """Names that look like one class written in two ways, and so many that the column can hardly be a label."""
    warn_of_lookalikes(names)
    if len(names) > max(10, num_rows / 2):
        note(f"warning: {len(names)} different labels in {num_rows} rows; is that the right column?")


def warn_of_lookalikes(names: Sequence[str], what: str = "labels") -> None:
    """The first two that look like one; ``what`` they are called."""
    alike: dict[str, str] = {}
    for name in names:
        if (other := alike.setdefault(appearance(name), name)) != name:
            both = f"{other!r} and {name!r}" if repr(other) != repr(name) else f"{other!a} and {name!a}"
            note(f"warning: the {what} {both} look alike, and are two classes")
            return


def ids_of(column: Column, names: tuple[str, ...], rule: Rule, from_zero: bool, first: Column) -> dict[Any, int]:
    """The id of each word, by its key: of the whole column in one way. Raises DataError with the first row that has none."""
    at, words = {name: i for i, name in enumerate(names)}, column.distinct()
    readings: list[dict[Any, int | None]] = []
    if rule.values != "ids" and column.own is not None:
        own = column.own
        theirs = {k: own[i] if (i := whole(word)) is not None and 0 <= i < len(own) else "" for k, (word, _) in words.items()}
        renamed = {name: i for i, name in enumerate(own)}
        may_rename = column is first and rule.renames and all(at.get(name, i) == i for name, i in renamed.items())
        for known in (at, renamed if may_rename and len(own) == len(names) else first.known):
            if all(name in known for name in theirs.values()):
                column.known = known
                return {k: known[name] for k, name in theirs.items()}
    elif rule.values != "ids":
        readings = [{k: at.get(str(word)) for k, (word, _) in words.items()}]
        for of in (number, truth):
            alike = [(of(name), i) for name, i in at.items() if of(name) is not None]
            if len(same := dict(alike)) == len(alike):
                readings.append({k: same.get(of(word)) for k, (word, _) in words.items()})
    as_ids = {k: int(word) if isinstance(word, bool) else whole(word) for k, (word, _) in words.items()}
    is_in_range = all(i is not None and 0 <= i < len(names) for i in as_ids.values())
    is_named = any(number(name) is not None for name in names)
    if is_in_range and (rule.values == "ids" or (rule.values == "auto" and column.own is None and not is_named and from_zero)):
        readings.append(as_ids)
    for reading in readings:
        if None not in reading.values():
            return {k: i for k, i in reading.items() if i is not None}
    raise unreadable(column, names, rule, is_in_range, is_named)


def refuse_negative(column: Column) -> None:
    """Raises DataError: -1 marks rows without a label, and may be a class as well."""
    for word, kind in column.distinct().values():
        if (found := number(word)) is not None and found < 0:
            words = [word for word, _ in column.distinct().values()]
            way_out = unlabelled(words, column.split) or (
                f"; if it is a class, name all: --label-names={','.join(in_order(map(name_of, words)))}"
            )
            raise DataError(
                f"{column.where[kind]}: label {word!r} is negative; -1 often marks rows without a label: take them out{way_out}"
            )


def unreadable(column: Column, names: tuple[str, ...], rule: Rule, is_in_range: bool, is_named: bool) -> DataError:
    """What a column cannot be, in one line: the row, the readings there are, and the way in."""
    words, own = list(column.distinct().values()), column.own
    if own is not None:
        for word, kind in words:
            if (i := whole(word)) is None or not 0 <= i < len(own):
                way_out = unlabelled([word for word, _ in words], column.split)
                return DataError(f"{column.where[kind]}: label {word!r} is no id of {listed(own)}: take such rows out{way_out}")
        word, kind, name = next((w, k, own[int(w)]) for w, k in words if own[int(w)] not in names)
        return DataError(
            f"{column.where[kind]}: label {word!r} is {name!r} by the names of the data ({listed(own)}), none of the "
            f"{len(names)} labels ({listed(names)}): --label-names, with the names you want in order, trains with these; "
            f"--label-values ids takes 0 for {names[0]!r}, and so on"
        )
    refuse_negative(column)
    ids = [whole(word) for word, _ in words]
    off = [at for at, i in zip(words, ids, strict=True) if rule.values == "ids" or str(at[0]) not in names]
    beyond = [at for at in off if (i := whole(at[0])) is None or not 0 <= i < len(names)]
    word, kind = ((beyond if None not in ids else off) or words)[0]
    line = f"{column.where[kind]}: label {word!r} is none of the {len(names)} labels ({listed(names)})"
    line += f" of {'the training data' if rule.names is None else rule.whose}"
    some = sorted(i for i in set(ids) if i is not None)[:3]
    if is_in_range and rule.values == "auto":
        line += f"; counted from 0, as ids, {', '.join(f'{i} would be {names[i]!r}' for i in some)}"
    if None not in ids and not is_named and all(1 <= i <= len(names) for i in some):
        line += f"; counted from 1, {', '.join(f'{i} would be {names[i - 1]!r}' for i in some)}"
    if rule.names is None:
        every = in_order({*names, *(str(word) for word, _ in words)})
        listing = f"{','.join(every[:10])}{',...' if len(every) > 10 else ''}"
        return DataError(f"{line}: write the labels as there; if it is another class, name all: --label-names {listing}")
    if is_in_range and rule.values == "auto":
        return DataError(f"{line}: --label-values ids counts from 0; else write the names")
    return DataError(f"{line}: write these, or ids from 0, or train with --label-names that hold them all")


def listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:10])}{' ...' if len(names) > 10 else ''}"


def numbers(table: Dataset, split: str, rule: Rule) -> np.ndarray:
    """[N] float32 for regression."""
    result = np.empty(len(table), dtype=np.float32)

    def refusal(row: int, cell: Any, what: str) -> DataError:
        return DataError(f"{split} data, {row_name(table, row)}: {cell!r} (column {rule.columns[0]!r}) is not a {what}")

    for row, cell in enumerate(cells_of(table[rule.columns[0]])):
        try:
            result[row] = float("" if "_" in str(cell) else cell)  # Python would read 1_000 as a number
        except (TypeError, ValueError) as error:
            raise refusal(row, cell, "number") from error
        if not np.isfinite(result[row]):
            raise refusal(row, cell, "finite number")
    return result
