"""From rows of data to pairs of a query and a passage, each with how well they belong together, from 0 to 1.

A row is one pair with its label; a query with a list of passages and one of labels; or a query with a passage that answers it
and others that do not, which are the pairs with the labels 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.sources import Source
from engine.data.tables import names_of_rows
from engine.data.tokens import cells_of
from engine.errors import DataError, UsageError
from tasks.classification.cells import as_list
from tasks.options import RerankerOptions
from tasks.text import checked_texts, names_of_pieces

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Form:
    """The columns of a row: ``label``, or ``negatives``."""

    query: str
    passage: str
    label: str
    negatives: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return [self.query, self.passage, *(self.negatives or (self.label,))]


OWN = Form("query", "positive", "", ("negative",))  # of the task's own data


def form_of(options: RerankerOptions, source: Source) -> Form:
    """The columns that are asked for; of the task's own data, if no others are, theirs."""
    if source.is_own and options == RerankerOptions(max_length=options.max_length):
        return OWN
    return Form(options.text_column, options.text_pair_column, options.label_column, options.negatives)


@dataclass
class Pairs:
    """Queries and passages [N each]; how well they belong together [N], from 0 to 1; and the row of the table of each [N]."""

    queries: list[str] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, row: int, query: str, passages: Sequence[str], labels: Sequence[float]) -> None:
        self.queries += [query] * len(passages)
        self.passages += passages
        self.labels += labels
        self.rows += [row] * len(passages)

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair the number of its query, and of that query and passage: two [N]. The same text is the same query."""
        both = list(zip(self.queries, self.passages, strict=True))
        return numbered(self.queries), numbered(both)


def numbered(values: Sequence[Any]) -> np.ndarray:
    """[N]: equal for equal values."""
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)


def pairs_of(table: Dataset, form: Form, where: str) -> Pairs:
    """All pairs of the table. Raises DataError with the row."""
    found, name = Pairs(), names_of_rows(table)
    cells = zip(*(cells_of(table[column]) for column in form.columns), strict=True)
    for row, (query, passage, *others) in enumerate(cells):
        try:
            given = with_negatives(passage, others) if form.negatives else with_labels(passage, others[0])
        except ValueError as error:
            raise DataError(f"{where}, {name(row)}: {error}") from error
        found.add(row, query, *given)
    for texts, column in ((found.queries, form.query), (found.passages, form.passage)):
        checked_texts(texts, f"{where}, column {column!r}", names_of_pieces(table, found.rows))
    if not found.rows:
        raise DataError(f"{where}: no row has a passage")
    return found


def known_names(found: Sequence[str]) -> str:
    """Flags that take columns whose names are known; "": they are not."""
    names = [name for name in found if name.startswith("negative")]
    if names and (right := next((name for name in ("positive", "answer") if name in found), None)):
        query = "" if "query" in found else " --text-column NAME"
        return f"--text-pair-column {right} --negatives-column {','.join(names)}{query}"
    return "--label-column score" if {"query", "passage", "score"} <= set(found) else ""


def refuse_parted(source: Source, whole: Dataset, kept: int, column: str) -> None:
    """Raises UsageError where pairs were drawn and a query has several: its figures would be those of fewer passages.

    ``whole``: the held-out rows before ``kept`` of them were drawn.
    """
    config = source.config
    if len({*cells_of(whole[column])}) == len(whole):
        return
    if kept < len(whole):
        raise UsageError(
            "--max-eval-examples draws pairs, and parts the passages of a query, of which fewer are easier to rank: "
            "cut the file by queries, or give a row for each query (--negatives-column)"
        )
    if config.eval_fraction and config.group_column is None and not source.is_replaced:
        raise UsageError(f"--eval-fraction parts the passages of a query: --group-column {column} holds out whole queries")


def with_negatives(passage: Any, others: Sequence[Any]) -> tuple[list[Any], list[float]]:
    """Passages and labels of a row of passages that answer, one or a list, and others that do not. Raises ValueError."""
    right = listed(passage)
    wrong = [text for cell in others if cell is not None for text in listed(cell)]
    return right + wrong, [1.0] * len(right) + [0.0] * len(wrong)


def listed(cell: Any) -> list[Any]:
    """A text, or a list of them. Raises ValueError for a list that was written as a text."""
    if isinstance(cell, str) and as_list(cell):
        raise ValueError(f"a list of texts, written as one: {cell!r:.60}. Give such rows as JSONL or Parquet")
    return cell if isinstance(cell, list) else [cell]


def with_labels(passage: Any, label: Any) -> tuple[list[Any], list[float]]:
    """Of a pair, or of lists of equal length. Raises ValueError."""
    if not isinstance(passage, list):
        return [passage], [as_label(label)]
    if not isinstance(label, list) or len(label) != len(passage):
        raise ValueError(f"{len(passage)} passages need a list of as many labels, found {label!r:.60}")
    return passage, [as_label(each) for each in label]


def as_label(value: Any) -> float:
    """From 0 to 1. Raises ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"a label is a number from 0 (no answer) to 1 (an answer), found {value!r:.60}: rescale the column")
    return number
