"""Where a model is worse than elsewhere: parts of the evaluated rows, by length, by a column, by file, by the words in them.

Each part is tested against all other rows. Parts are one family and words another: of each, p is adjusted for their number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.findings.significance import fisher, holm, log_factorials

LEAST_ROWS = 10  # of a part, and of the others
LEAST_WITH_WORD, MOST_WORDS = 20, 2000  # rows; the most frequent ones
NUM_BINS, MOST_VALUES = 5, 50  # of numbers; of a column
LEVEL = 0.05
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Slice:
    """Some rows, named by ``kind`` ("length", a column, "file", "word") and ``value``. ``rest``: the accuracy of all others;
    ``p``: of Fisher's exact test, ``adjusted`` by Holm for all of its family."""

    kind: str
    value: str
    rows: int
    wrong: int
    rest: float
    p: float
    adjusted: float

    @property
    def accuracy(self) -> float:
        return 1 - self.wrong / self.rows

    @property
    def error(self) -> float:
        """The standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.rows))

    @property
    def is_worse(self) -> bool:
        return self.adjusted < LEVEL and self.accuracy < self.rest

    def line(self) -> list[Any]:
        """Under HEADER."""
        found = "worse" if self.is_worse else "better" if self.adjusted < LEVEL else ""
        figures = [self.accuracy, self.error, self.rest, self.accuracy - self.rest]
        return [self.kind, self.value, self.rows, self.wrong, *(round(f, 4) for f in figures), self.p, self.adjusted, found]


HEADER = [
    "slice",
    "value",
    "rows",
    "wrong",
    "accuracy",
    "standard_error",
    "accuracy_of_others",
    "difference",
    "p",
    "p_holm",
    "found",
]


def tested(right: np.ndarray, parts: Mapping[tuple[str, str], np.ndarray]) -> list[Slice]:
    """One family: each part against the others; the least probable first. ``right``: [N] bool; ``parts``: rows, by kind and
    value."""
    wrong_rows, total = ~right, len(right)
    all_wrong, logs = int(wrong_rows.sum()), log_factorials(total)
    kept = {name: rows for name, rows in parts.items() if LEAST_ROWS <= len(rows) <= total - LEAST_ROWS}
    counts = {name: int(wrong_rows[rows].sum()) for name, rows in kept.items()}
    p = [fisher(counts[name], len(rows), all_wrong, total, logs) for name, rows in kept.items()]
    found = [
        Slice(*name, len(rows), counts[name], 1 - (all_wrong - counts[name]) / (total - len(rows)), each, adjusted)
        for (name, rows), each, adjusted in zip(kept.items(), p, holm(p), strict=True)
    ]
    return sorted(found, key=lambda part: (part.p, part.kind, part.value))


def parts_by_length(lengths: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    return by_number("length", lengths, np.ones(len(lengths), dtype=bool), " tokens")


def parts_by_column(name: str, cells: Sequence[Any]) -> dict[tuple[str, str], np.ndarray]:
    """By value: of numbers by fifths where there are many, else the values that most rows have."""
    is_number = np.array([isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells], dtype=bool)
    is_empty = np.array([cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells], dtype=bool)
    empty = {(name, "(empty)"): np.flatnonzero(is_empty)} if is_empty.any() else {}
    if (is_number | is_empty).all() and len({*np.array(cells, dtype=object)[is_number]}) > MOST_VALUES // 2:
        numbers = np.array([cell if number else 0.0 for cell, number in zip(cells, is_number, strict=True)], dtype=float)
        return by_number(name, numbers, is_number & np.isfinite(numbers), "") | empty
    words = np.array([str(cell) for cell in cells], dtype=object)
    most = Counter(words[~is_empty]).most_common(MOST_VALUES)
    return {(name, value): np.flatnonzero((words == value) & ~is_empty) for value, _ in most} | empty


def by_number(name: str, values: np.ndarray, has: np.ndarray, unit: str) -> dict[tuple[str, str], np.ndarray]:
    """Fifths of the rows that have one, each named by its least and its largest value."""
    if not has.any() or values[has].min() == values[has].max():
        return {}
    edges = np.unique(np.quantile(values[has], np.arange(1, NUM_BINS) / NUM_BINS))
    at = np.searchsorted(edges, values, side="left")
    parts = [np.flatnonzero((at == i) & has) for i in range(len(edges) + 1)]
    return {(name, f"{values[rows].min():g} to {values[rows].max():g}{unit}"): rows for rows in parts if len(rows)}


def parts_by_word(texts: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """The rows in which each of the most frequent words stands, in capitals or not; of words that stand in the same rows
    one."""
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        for word in set(WORD.findall(text.casefold())):
            rows_of.setdefault(word, []).append(row)
    often = sorted(
        (word for word, rows in rows_of.items() if len(rows) >= LEAST_WITH_WORD), key=lambda word: (-len(rows_of[word]), word)
    )
    first: dict[tuple[int, ...], str] = {}
    for word in often[:MOST_WORDS]:
        first.setdefault(tuple(rows_of[word]), word)
    return {("word", word): np.array(rows) for rows, word in first.items()}
