"""Classify pictures: which of two or more classes, several labels at once, or a number.

    cat/001.jpg  dog/001.jpg                             a folder for each class, whose name is the label
    file_name,label                                      or metadata.csv (or .jsonl) beside the pictures
    001.jpg,cat

What the labels mean, the loss and the figures are those of texts with labels (classification/labelled.py); how pictures are
opened is that of captioning (captioning/pictures.py). Pictures are decoded once at the start, to find damage, and when a
batch wants them, in ``--workers`` processes. Offline the pictures are scikit-learn's handwritten digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.sources import Source
from engine.data.tables import origin_of, with_origin
from engine.data.taken import HubData, TakenModel
from engine.data.tokens import cells_of
from engine.settings.fields import user_path
from engine.task import Examples, Row
from tasks.classification.column import Rule, read_column
from tasks.classification.labelled import Labelled
from tasks.classification.labels import listed
from tasks.classification.overlap import warn_of_overlap
from tasks.image import ImageTask, without_batch_norm
from tasks.options import ImageClassificationOptions
from tasks.samples import digits
from tasks.text import refuse_settings

if TYPE_CHECKING:
    from datasets import Dataset


class ImageClassification(ImageTask[ImageClassificationOptions], Labelled[ImageClassificationOptions]):
    """Pictures with labels."""

    Options = ImageClassificationOptions
    hub_data = HubData("AI-Lab-Makerere/beans")
    hub_model = "google/vit-base-patch16-224"
    auto_class = AutoModelForImageClassification
    head = "ForImageClassification"
    pipeline_tag = "image-classification"

    def __init__(self, options: ImageClassificationOptions, source: Source):
        super().__init__(options, source)
        refuse_settings(source.config, "pictures", "contains", "tokenizer", "add_tokens")
        self.best_metric = "accuracy" if options.problem == "single_label" else "loss"

    # ---------------------------------------------------------------------------------------------------------- data

    @property
    def max_length(self) -> None:  # type: ignore[override]
        """A picture has none."""

    @property
    def label_column(self) -> str:
        """As asked; that of the task's own data has another name."""
        return self.options.label_column or ("labels" if self.source.is_own else "label")

    def columns(self) -> list[str]:
        return [self.image_column, *self.label_columns]

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Digits that people have written."""
        from datasets import Dataset, Image

        tables, column = {}, self.image_column
        for split, (pictures, labels) in digits.splits().items():
            cells = [{"bytes": picture, "path": None} for picture in pictures]
            table = Dataset.from_dict({column: cells, self.label_column: labels})
            tables[split] = table.cast_column(column, Image(decode=False))
        return tables, "scikit-learn's handwritten digits (real: 8 x 8 points, of the UCI repository)"

    def names_to_keep(self, tables: Mapping[str, Dataset]) -> tuple[str, ...] | None:
        """Those of a run of ours. Nearly every checkpoint tells the thousand classes of ImageNet apart: it keeps them where the
        data have some of these, and has its head replaced, which is said, where they have others.
        """
        own = super().names_to_keep(tables)
        if own is None or (user_path(self.source.config.model) / "run.json").exists():
            return own
        rule = Rule(self.label_columns, self.options.problem, self.options.label_separator, self.options.label_values or "auto")
        column = read_column(tables["train"], "train", rule)
        names = column.own or [str(word) for word, _ in column.distinct().values()]
        if not set(names).isdisjoint(own):
            return own
        note(f"labels: those of the data; the {len(own)} of {self.path} ({listed(own)}) go, and its head is trained anew")
        return None

    def with_targets(self, tables: Mapping[str, Dataset], targets: Mapping[str, np.ndarray]) -> dict[str, Examples]:
        found = {
            split: self.pictures(table, split, "labels", targets[split], np.ones(len(table), dtype=np.int64))
            for split, table in tables.items()
        }
        warn_of_overlap({split: pictures.digests for split, pictures in found.items()}, "pictures are training pictures")
        return dict(found)

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``pixel_values`` [B, 3, H, W]; in rates, and for --tokens-per-batch, a picture counts as one token."""
        num = len(rows)
        counts = dict.fromkeys(("num_examples", "num_tokens", "executed_tokens", "sum_squares"), num) | {"longest": 1}
        pixel_values = torch.from_numpy(np.stack([row["pixel_values"] for row in rows]))
        return self.labelled(rows, {"pixel_values": pixel_values}, counts)

    def evaluated(self, table: Dataset) -> Dataset:
        """The names of the pictures; "" for one that has none."""
        from datasets import Dataset

        cells = cells_of(table[self.image_column])  # not all at once: they may hold the pictures
        names = [cell if isinstance(cell, str) else (cell or {}).get("path") or "" for cell in cells]
        return with_origin(Dataset.from_dict({self.image_column: names}), origin_of(table))

    # --------------------------------------------------------------------------------------------------------- model

    def substitute(self) -> TakenModel | None:
        """A small model that has to learn to see."""
        return TakenModel(*digits.small_vit())

    def build_model(self) -> nn.Module:
        return without_batch_norm(super().build_model(), self.path)

    def load_model(self, path: str) -> nn.Module:
        return without_batch_norm(super().load_model(path), path)

    # ----------------------------------------------------------------------------------------------------- inference

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each picture (a path, an address, or a PIL image) ``{"label", "score", "probabilities": {name: p}}``."""
        if self.labels is None:
            self.adopt(model)
        names = self.known(self.labels).names
        for pixel_values in self.opened(inputs, next(model.parameters()).device):
            with torch.inference_mode():
                logits = model(pixel_values=pixel_values).logits.float().cpu()
            for row in logits:
                yield self.prediction(row, names)
