"""Classify texts: two or more classes, several labels at once, or a number (regression).

    {"text": "Great tacos, slow service.", "label": "positive"}                    --problem single_label (default)
    {"text": "You idiot, I will find you", "label": ["insult", "threat"]}          --problem multi_label
    {"text": "A soft, dry Riesling", "label": 4.5}                                 --problem regression
    {"premise": "...", "hypothesis": "...", "label": "neutral"}   --text-column premise --text-pair-column hypothesis

What is the same whatever carries the labels stands in labelled.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.sources import Source
from engine.data.tables import names_of_rows
from engine.data.tokens import TokenDataset, cells_of
from engine.task import Examples, Observed
from tasks.classification.classifier import Classifier
from tasks.classification.ends import refuse_ends
from tasks.classification.overlap import warn_of_overlap
from tasks.classification.watch import Watched, observed
from tasks.options import ClassificationOptions
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(Classifier):
    """Texts with labels; the data are the user's own."""

    Options = ClassificationOptions
    hub_model = "distilbert-base-uncased"
    watched = True

    def __init__(self, options: ClassificationOptions, source: Source):
        super().__init__(options, source)
        self._sets: dict[str, tuple[Dataset, Any]] = {}  # texts and rows, for ``watch``
        self.has_labels = True  # False: of data that are ``unlabelled``

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def label_column(self) -> str:
        return self.options.label_column

    def columns(self) -> list[str]:
        o = self.options
        labels = self.label_columns if self.has_labels else ()
        return [name for name in (o.text_column, o.text_pair_column, *labels) if name]

    def with_targets(self, tables: Mapping[str, Dataset], targets: Mapping[str, np.ndarray]) -> dict[str, Examples]:
        columns = self.carriers()
        texts = {split: zip(*(cells_of(table[name]) for name in columns), strict=True) for split, table in tables.items()}
        warn_of_overlap(texts, "texts stand in the training data")
        found = {split: self.tokenized(table, split, targets[split]) for split, table in tables.items()}
        self._sets = {split: (self.evaluated(table), found[split]) for split, table in tables.items()}
        return found

    def unlabelled(self) -> dict[str, Examples]:
        self.has_labels = False
        tables, number = self.splits(), len(self.known(self.labels).names)
        shapes: dict[str, Any] = {"single_label": (-100, np.int64), "regression": (0, np.float32)}
        targets = {
            split: np.zeros((len(table), number), np.float32)
            if self.problem == "multi_label"
            else np.full(len(table), *shapes[self.problem])
            for split, table in tables.items()
        }
        return self.with_targets(tables, targets)

    def label_columns_in(self, names: Collection[str]) -> bool:
        return all(name in names for name in self.label_columns)

    def watch(self, split: str) -> Watched:
        texts, rows = self._sets[split]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return Watched(self.problem, self.known(self.labels).names, texts, rows, unknown, has_labels=self.has_labels)

    def observed(self, inputs: Sequence[Any], predictions: Sequence[Mapping[str, Any]]) -> Observed:
        names, unknown = self.known(self.labels).names, getattr(self.tokenizer, "unk_token_id", None)
        return observed(self.problem, names, self.calibration.temperature, inputs, predictions, unknown)

    def tokenized(self, table: Dataset, split: str, targets: np.ndarray) -> Examples:
        """Token ids beside the labels; says how many texts were cut or blank."""
        o, row = self.options, names_of_rows(table)
        texts = checked_texts(table[o.text_column], f"{split} data, column {o.text_column!r}", row)
        pairs = None
        if o.text_pair_column:
            pairs = checked_texts(table[o.text_pair_column], f"{split} data, column {o.text_pair_column!r}", row)
        if o.stride is not None:
            return self.documents(texts, f"{split} data", row, {"labels": targets})
        tokens = self.tokenize(texts, pairs, f"{split} data", row)
        if self.counts_ends:
            end, where = self.config.eos_token_id, f"{split} data"
            refuse_ends(tokens, self.tokenizer, end, self.path, where, row, of_pairs=pairs is not None)
        return TokenDataset(tokens, {"labels": targets}, row_name=row)

    def evaluated(self, table: Dataset) -> Dataset:
        return table.select_columns(self.carriers())

    def carriers(self) -> list[str]:
        return [name for name in (self.options.text_column, self.options.text_pair_column) if name]
