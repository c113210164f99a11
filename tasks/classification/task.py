"""Classify texts: two or more classes, several labels at once, or a number (regression).

    {"text": "Great tacos, slow service.", "label": "positive"}                    --problem single_label (default)
    {"text": "You idiot, I will find you", "label": ["insult", "threat"]}          --problem multi_label
    {"text": "A soft, dry Riesling", "label": 4.5}                                 --problem regression
    {"premise": "...", "hypothesis": "...", "label": "neutral"}   --text-column premise --text-pair-column hypothesis

What is the same whatever carries the labels stands in labelled.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns, delimiter_hint
from engine.data.places import UNNAMED
from engine.data.plan import eval_batches
from engine.data.sources import Source
from engine.data.tables import RowName, names_of_rows, plain_row
from engine.data.tokens import TokenDataset, Tokens, cells_of, tokenize_now
from engine.errors import DataError, ModelError, UsageError
from engine.model.capabilities import counts_ends
from engine.task import Examples, Row, held_out
from tasks.classification.calibration import Calibration
from tasks.classification.labelled import Labelled
from tasks.classification.watch import Watched
from tasks.classification.windows import Documents, check_stride, documents, of_whole_texts, pooled, texts_of
from tasks.options import ClassificationOptions
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset


class Classification(Labelled[ClassificationOptions]):
    """Texts with labels; the data are the user's own."""

    Options = ClassificationOptions
    hub_model = "distilbert-base-uncased"
    auto_class = AutoModelForSequenceClassification
    head = "ForSequenceClassification"
    pipeline_tag = "text-classification"
    exported = ("logits",)
    watched = True

    def __init__(self, options: ClassificationOptions, source: Source):
        super().__init__(options, source)
        self._sets: dict[str, tuple[Dataset, Any]] = {}  # texts and rows, for ``watch``
        self.has_labels = True  # False: of data that are ``unlabelled``
        self.one_text = options.stride is None
        if options.stride is not None and options.text_pair_column:
            raise UsageError(f"--stride {options.stride} cuts one text into windows, and --text-pair-column makes rows of two")

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def label_column(self) -> str:
        return self.options.label_column

    def columns(self) -> list[str]:
        o = self.options
        labels = self.label_columns if self.has_labels else ()
        return [name for name in (o.text_column, o.text_pair_column, *labels) if name]

    def with_targets(self, tables: Mapping[str, Dataset], targets: Mapping[str, np.ndarray]) -> dict[str, Examples]:
        warn_of_overlap(tables, self.options.text_column, self.options.text_pair_column)
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
            self.refuse_ends(tokens, f"{split} data", row)
        return TokenDataset(tokens, {"labels": targets}, row_name=row)

    def documents(
        self, texts: Sequence[str], where: str, row: RowName, columns: Mapping[str, np.ndarray] | None = None
    ) -> Documents:
        """Texts as windows; says how many have several. Raises UsageError, ModelError."""
        stride = self.options.stride
        assert stride is not None
        check_stride(self.tokenizer, self.max_length, stride, self.path)
        if self.counts_ends:
            raise ModelError(
                f"model {self.path} reads the vector of an end token, of which windows have their own: no --stride"
            )
        found = Documents(*documents(texts, self.tokenizer, self.max_length, stride, where, row), columns, row)
        if found.num_cut:
            note(f"{where}: {found.num_cut} of {len(found)} texts are several windows, {len(found.windows)} in all")
        return found

    @cached_property
    def counts_ends(self) -> bool:
        """Must all rows of a batch have as many end tokens?"""
        return self.skeleton is not None and counts_ends(self.skeleton)

    def ends_in(self, tokens: Tokens) -> np.ndarray:
        """[N]: the model's end tokens in each row."""
        return np.add.reduceat(np.asarray(tokens.ids) == self.config.eos_token_id, tokens.offsets[:-1], dtype=np.int64)

    def refuse_ends(self, tokens: Tokens, where: str, row: RowName) -> None:
        """Raises DataError for a row whose text holds an end token: the head reads the last one, and takes no batch in which
        rows have more than others. ModelError where the tokenizer adds none."""
        pair = ["a"] if self.options.text_pair_column else None
        usual = int(self.ends_in(tokenize_now(["a"], pair, self.tokenizer, self.max_length, where))[0])
        end = self.tokenizer.convert_ids_to_tokens(self.config.eos_token_id)
        if not usual:
            raise ModelError(
                f"model {self.path} reads the vector of the end token {end!r}, and its tokenizer puts none behind a text: take "
                "the tokenizer that belongs to it, or another model"
            )
        if len(odd := np.flatnonzero(self.ends_in(tokens) != usual)):
            raise DataError(
                f"{where}, {row(int(odd[0]))}: the text holds {end!r}, the model's end token, and its head takes no batch in "
                "which a text has more of them than another: remove it from the text"
            )

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """With --stride ``targets["text"]`` says which row each window is of: [W]."""
        if self.one_text:
            inputs, counts = arrange(rows, layout, self.tokenizer)
            return self.labelled(rows, inputs, counts)
        if layout.padding_matters:
            raise ModelError(
                f"model {self.path} answers otherwise beside a longer text, so windows do not go together: no --stride"
            )
        inputs, counts = arrange([window for row in rows for window in row["windows"]], layout, self.tokenizer)
        batch = self.labelled(rows, inputs, counts | of_whole_texts(rows))
        return replace(batch, targets=batch.targets | {"text": texts_of(rows)})

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        outputs = super().forward(model, batch)
        if "text" in batch.targets:
            pooling, number = self.options.window_pooling or "mean", len(batch.targets["labels"])
            outputs.logits = pooled(outputs.logits, batch.targets["text"], number, pooling)
        return outputs

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        config = model.config.get_text_config()  # a model of pictures and text has one of its own
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        return self.with_room_for_the_tokens(model, self.path)

    def load_model(self, path: str) -> nn.Module:
        return self.with_room_for_the_tokens(super().load_model(path), path)

    def save_exported(self, model: nn.Module, directory: Path) -> None:
        super().save_exported(model, directory)
        if self.calibration != Calibration():
            note("the exported model gives logits: temperature and thresholds, calibration in config.json, are yours to apply")
        if not self.one_text:
            note("the exported model reads a window: cutting a text, and pooling the logits of its windows, are yours to do")

    def evaluated(self, table: Dataset) -> Dataset:
        return table.select_columns(self.carriers())

    def carriers(self) -> list[str]:
        return [name for name in (self.options.text_column, self.options.text_pair_column) if name]

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        o = self.options
        if list(rows) == ["text"] and not o.text_pair_column:  # a .txt file has no column but this one
            return list(checked_texts(rows["text"], "the input"))
        for name in filter(None, (o.text_column, o.text_pair_column)):
            if name not in rows:
                hint = delimiter_hint(list(rows)) or ": name it with --text-column"
                raise DataError(f"the input has no column {name!r} (it has: {', '.join(rows)}){hint}")
        texts = checked_texts(rows[o.text_column], "the input")
        if not o.text_pair_column:
            return list(texts)
        return list(zip(texts, checked_texts(rows[o.text_pair_column], "the input"), strict=True))

    @property
    def longest_input(self) -> int | None:
        return self.max_length if self.one_text else None

    def served(self) -> list[dict[str, Any]]:
        o, examples = self.options, ("The food was good.", "It tasted fine.")
        return [dict(zip(filter(None, (o.text_column, o.text_pair_column)), examples, strict=False))]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text (or pair): ``{"label", "score", "probabilities": {name: p}}``; ``{"value"}`` for regression."""
        texts = list(inputs)
        if not texts:
            return
        checked_texts([text for item in texts for text in ([item] if isinstance(item, str) else item)], "the input")
        if self.options.text_pair_column and isinstance(texts[0], str):
            raise UsageError("this model compares two texts: give them as two columns of --input FILE")
        firsts, seconds = zip(*[(t, None) if isinstance(t, str) else t for t in texts], strict=True)
        rows, ends = self.rows_to_predict(firsts, None if seconds[0] is None else seconds)
        if self.labels is None:
            self.adopt(model)
        assert self.labels is not None
        device = next(model.parameters()).device
        predictions: list[dict[str, Any]] = [{} for _ in texts]
        for chunk in self.alike(rows.lengths, ends, layout):
            batch = self.collate([rows[i] | {"labels": np.int64(-100)} for i in chunk], layout).to(device)
            with torch.inference_mode():
                logits = self.forward(model, batch).logits.float().cpu()
            for i, row in zip(chunk, logits, strict=True):
                predictions[i] = self.prediction(row, self.labels.names)
        yield from predictions

    def rows_to_predict(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Documents | TokenDataset, np.ndarray]:
        """And how many end tokens each has, where they count."""
        if not self.one_text:
            return self.documents(texts, "the input", plain_row), np.zeros(len(texts), np.int64)
        tokens = tokenize_now(texts, pairs, self.tokenizer, self.max_length, "the input")
        if tokens.num_truncated:
            note(f"{tokens.num_truncated} of {len(texts)} texts cut to {self.max_length} tokens")
        return TokenDataset(tokens), self.ends_in(tokens) if self.counts_ends else np.zeros(len(texts), np.int64)

    def alike(self, lengths: np.ndarray, ends: np.ndarray, layout: Layout) -> Iterator[list[int]]:
        """The rows in batches, longest first; in each as many end tokens, and rows of one length where padding matters."""
        for number in np.unique(ends):
            group = np.flatnonzero(ends == number)
            for batch in eval_batches(lengths[group], 32, same_length=layout.padding_matters):
                yield [int(group[i]) for _, i in batch]


def warn_of_overlap(tables: Mapping[str, Dataset], column: str, pair_column: str | None) -> None:
    """Evaluation rows that stand in the training data, too, make the evaluation look better than it is."""
    if "train" not in tables:
        return

    def hashes(table: Dataset) -> np.ndarray:
        """[N]: of each row's texts; the texts themselves may be more than the memory holds."""
        texts = [cells_of(table[name]) for name in (column, pair_column) if name]
        return np.fromiter((hash(row) for row in zip(*texts, strict=True)), dtype=np.int64, count=len(table))

    for split, table in held_out(tables).items():
        if repeated := int(np.isin(hashes(table), hashes(tables["train"])).sum()):
            name = "evaluation" if split == UNNAMED else split
            note(f"warning: {repeated} of {len(table)} {name} texts stand in the training data, too")
