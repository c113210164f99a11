"""A model that classifies texts: what it takes, and what it says of a text. Next: task.py, which trains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns, delimiter_hint
from engine.data.read import read, read_cut, read_vectors
from engine.data.sources import Source
from engine.data.tables import RowName, plain_row
from engine.data.tokens import TokenDataset, tokenize_now
from engine.errors import DataError, ModelError, UsageError
from engine.model.capabilities import counts_ends
from engine.task import Row
from tasks.classification.calibration import Calibration
from tasks.classification.ends import alike, ends_in
from tasks.classification.labelled import Labelled
from tasks.classification.windows import Documents, check_stride, documents, of_whole_texts, pooled, texts_of
from tasks.options import ClassificationOptions
from tasks.text import checked_texts


class Classifier(Labelled[ClassificationOptions]):
    """A transformer with a head that reads one vector of a text, or of each of its windows."""

    auto_class = AutoModelForSequenceClassification
    head = "ForSequenceClassification"
    pipeline_tag = "text-classification"
    exported = ("logits",)

    def __init__(self, options: ClassificationOptions, source: Source):
        super().__init__(options, source)
        self.one_text = options.stride is None
        if options.stride is not None and options.text_pair_column:
            raise UsageError(f"--stride {options.stride} cuts one text into windows, and --text-pair-column makes rows of two")

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
        for chunk in alike(rows.lengths, ends, layout):
            batch = self.collate([rows[i] | {"labels": np.int64(-100)} for i in chunk], layout).to(device)
            with torch.inference_mode():
                outputs = self.forward(model, batch)
            read_vectors(chunk, outputs)
            for i, row in zip(chunk, outputs.logits.float().cpu(), strict=True):
                predictions[i] = self.prediction(row, self.labels.names)
        yield from predictions

    def rows_to_predict(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Documents | TokenDataset, np.ndarray]:
        """And how many end tokens each has, where they count."""
        if not self.one_text:
            found = self.documents(texts, "the input", plain_row)
            read(found.tokens)
            return found, np.zeros(len(texts), np.int64)
        tokens = tokenize_now(texts, pairs, self.tokenizer, self.max_length, "the input")
        read_cut(tokens, self.max_length)
        none = np.zeros(len(texts), np.int64)
        return TokenDataset(tokens), ends_in(tokens, self.config.eos_token_id) if self.counts_ends else none
