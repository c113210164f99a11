"""Describe pictures: an encoder sees the picture, a decoder writes the caption token by token.

    file_name,text                                       metadata.csv (or .jsonl) beside the pictures, as the Hub's imagefolder
    0001.png,a red circle in the top left

Three kinds of models: GIT (one decoder that reads picture and text), BLIP (a decoder that looks at the picture), and any
VisionEncoderDecoder (ViT-GPT2). All get the caption from its start token on and predict the next token; the loss is the sum
over the tokens of the caption and the end token, from the logits; labels are not passed to the model.

Pictures are decoded once at the start, to find damage, and when a batch wants them, in ``--workers`` processes. Offline the
pictures are drawn (shapes.py) and the model is small and starts from random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.data.sources import Source
from engine.data.tables import row_name
from engine.data.taken import HubData, TakenModel
from engine.errors import DataError
from engine.task import Examples, Row
from tasks.captioning.captioner import Captioner
from tasks.captioning.metrics import CaptionMetrics
from tasks.captioning.pictures import Pictures
from tasks.options import CaptioningOptions
from tasks.samples.shapes import drawn, small_captioner
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset


class Captioning(Captioner):
    """Pictures with captions."""

    Options = CaptioningOptions
    hub_data = HubData("reach-vb/pokemon-blip-captions")
    hub_model = "microsoft/git-base-coco"
    best_metric = "rouge_l"

    def __init__(self, options: CaptioningOptions, source: Source):
        super().__init__(options, source)
        self._captions: list[str] = []
        self._references: dict[str, list[list[str]]] = {}

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return [self.image_column, self.options.text_column]

    @property
    def text_column(self) -> str:
        return self.options.text_column

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Pictures that are drawn here."""
        from datasets import Dataset, Image

        tables, column = {}, self.image_column
        for split in ("train", "eval"):
            pictures, captions = drawn(split)
            rows = {column: [{"bytes": picture, "path": None} for picture in pictures], self.options.text_column: captions}
            tables[split] = Dataset.from_dict(rows).cast_column(column, Image(decode=False))
        return tables, "embedded sample (shapes drawn by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        captions = {split: self.captions(table, split) for split, table in tables.items()}
        self._captions = [text for _, text in captions.get("train", ())]
        return {split: self.captioned(table, split, captions[split]) for split, table in tables.items()}

    def captions(self, table: Dataset, split: str) -> list[tuple[int, str]]:
        """(row of the table, caption); a row with a list has several."""
        name = self.options.text_column
        cells = [cell if isinstance(cell, list) else [cell] for cell in table[name][:]]
        pairs = [(row, text) for row, cell in enumerate(cells) for text in cell]
        checked_texts([text for _, text in pairs], f"{split} data, column {name!r}", lambda i: row_name(table, pairs[i][0]))
        if blank := [row for row, text in pairs if not text.strip()]:
            raise DataError(f"{split} data, {row_name(table, blank[0])}: the caption is blank: remove or fill it")
        return pairs

    def captioned(self, table: Dataset, split: str, captions: Sequence[tuple[int, str]]) -> Pictures:
        """Rows of picture and tokens; remembers all captions of each evaluation picture as references."""
        start, end = self.start_and_end
        self.tokenizer.padding_side = "right"
        limit = self.max_length - 2
        ids = self.tokenizer([text for _, text in captions], add_special_tokens=False)["input_ids"]
        if cut := sum(len(row) > limit for row in ids):
            note(f"{split} data: {cut} of {len(ids)} captions cut to {self.max_length} tokens")
        tokens = [np.asarray([start, *row[:limit], end], dtype=np.int32) for row in ids]
        lengths = np.asarray([len(row) - 1 for row in tokens])
        found = self.pictures(table, split, "tokens", tokens, lengths, [row for row, _ in captions])
        by_picture: dict[bytes, list[str]] = {}
        for digest, (_, text) in zip(found.digests, captions, strict=True):
            by_picture.setdefault(digest, []).append(text)
        self._references[split] = [by_picture[digest] for digest in found.digests]
        return found

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """The caption without its last token goes in, without its first it is the target: [B, T]; pixel_values [B, 3, H, W]."""
        inputs, counts = arrange([{"input_ids": row["tokens"][:-1]} for row in rows], layout, self.tokenizer)
        labels = per_token([row["tokens"][1:] for row in rows], layout, -100)
        prefix = "decoder_" if self.config.is_encoder_decoder else ""
        inputs = {f"{prefix}{name}": tensor for name, tensor in inputs.items()}
        inputs["pixel_values"] = torch.from_numpy(np.stack([row["pixel_values"] for row in rows]))
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels != -100).sum()), **counts)

    # --------------------------------------------------------------------------------------------------------- model

    def substitute(self) -> TakenModel | None:
        """A small model with the words of the training captions."""
        return TakenModel(*small_captioner(self._captions)) if self._captions else None

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        labels = batch.targets["labels"]  # [B, T]
        logits = outputs.logits[:, -labels.shape[1] :].float()  # GIT's begin with those of the picture
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")

    def metrics(self, split: str) -> CaptionMetrics:
        return CaptionMetrics(self.write, self._references[split])
