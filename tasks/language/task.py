"""What language models have in common: rows cut from texts, logits for targets only, loss, perplexity and accuracy.

Next: masked_lm.py, causal_lm.py, sft.py; they differ in what the targets of a row are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.data.tables import RowName
from engine.data.tokens import Tokens
from engine.distributed.world import World
from engine.errors import ModelError
from engine.task import Metrics, Row
from tasks.text import O, TextTask, check_loaded

WHOLE = 2**31 - 1  # a length that no text has: nothing is cut off when tokenising


class LanguageModel(TextTask[O]):
    """Predicts tokens. A subclass says with ``labels_of`` which, and makes the rows."""

    kind: ClassVar[str]  # in words, for messages
    level: ClassVar[Literal["sequence", "token"] | None] = "token"
    cuts = False  # long texts become several rows

    def labels_of(self, row: Row) -> np.ndarray:
        """[T]: what is to be predicted at each token, -100 where nothing is."""
        labels: np.ndarray = row["labels"]
        return labels

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``inputs["target_index"]`` [N] says where the N targets are (engine/model/target_logits.py).

        ``targets["labels"]``: [N].
        """
        inputs, counts = arrange(rows, layout, self.tokenizer)
        left = layout.pads_left(self.tokenizer)
        labels = per_token([self.labels_of(row) for row in rows], layout, -100, left=left).flatten()
        index = (labels != -100).nonzero()[:, 0]
        tail = (0, layout.filled(len(index)) - len(index))  # few shapes where that matters: -100 is not an item
        inputs["target_index"] = F.pad(index, tail)
        return Batch(inputs=inputs, targets={"labels": F.pad(labels[index], tail, value=-100)}, num_items=len(index), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits.squeeze(0).float(), batch.targets["labels"], reduction="sum")  # [N, V] and [N]

    def metrics(self, split: str) -> Metrics:
        return LanguageMetrics()

    def build_model(self) -> nn.Module:
        model, report = self.from_pretrained(self.path)
        check_loaded(model, report, self.path)
        return self.with_room_for_the_tokens(model, self.path)

    def from_pretrained(self, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """As for other texts; ModelError in short where the architecture is another."""
        try:
            return super().from_pretrained(path, **arguments)
        except ModelError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise ModelError(f"model {path} is a {self.config.model_type} model, and no {self.kind}{self.way_on()}") from error

    def way_on(self) -> str:
        """The task that a model with an encoder and a decoder is for."""
        return " (--task seq2seq)" if self.config.is_encoder_decoder and self.level is not None else ""

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path)
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"model {path} is no {self.kind}: it lacks {missing[0]}{self.way_on()}")
        return self.with_room_for_the_tokens(model, path)


class LanguageMetrics:
    """perplexity: exp of the mean loss; accuracy: share of targets that are the most probable token.

    torchmetrics.text.Perplexity takes the logarithm of a probability that underflows to 0: one very improbable token and
    its figure is infinite. So its MeanMetric is fed with cross-entropies.
    """

    lower_is_better = ("perplexity", "bits_per_byte")

    def __init__(self, tokens_per_byte: float | None = None) -> None:
        from torchmetrics import MeanMetric

        self.tokens_per_byte = tokens_per_byte
        self.names = ("perplexity", "accuracy") + (("bits_per_byte",) if tokens_per_byte else ())
        self.nats, self.hits = MeanMetric(), MeanMetric()

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [1, N, V], or [B, T, V] where ``labels`` are [B, T]."""
        labels = batch.targets["labels"].flatten()
        real = labels != -100
        logits, labels = outputs.logits.flatten(0, 1).float()[real], labels[real]
        if len(labels):  # torchmetrics cannot take none
            self.nats.to(logits.device).update(F.cross_entropy(logits, labels, reduction="none"))
            self.hits.to(logits.device).update((logits.argmax(-1) == labels).float())

    def compute(self) -> dict[str, float]:
        nats = float(self.nats.compute())
        figures = {"perplexity": float(torch.tensor(nats).exp()), "accuracy": float(self.hits.compute())}
        if self.tokens_per_byte:
            figures["bits_per_byte"] = nats / math.log(2) * self.tokens_per_byte
        return figures

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running: on the host, as a rank without rows is there."""
        self.nats.to("cpu")
        self.hits.to("cpu")


def in_pieces(tokens: Tokens, size: int, name: str) -> Tokens:
    """Each text by itself, the long ones in pieces of about equal length and at most ``size`` tokens; nothing is lost."""
    starts = [
        np.linspace(start, stop, -(-(stop - start) // size), endpoint=False).astype(np.int64)
        for start, stop in zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True)
    ]
    offsets = np.append(np.concatenate(starts), tokens.offsets[-1])
    if (number := len(offsets) - 1) > len(starts):
        note(f"{name}: {len(starts)} texts in {number} pieces of at most {size} tokens")
    return Tokens(tokens.ids, offsets, tokens.types, 0)


def in_blocks(tokens: Tokens, size: int) -> Tokens:
    """All texts end to end, cut every ``size`` tokens; the last block is what remains."""
    total = int(tokens.offsets[-1])
    return Tokens(tokens.ids, np.append(np.arange(0, total, size), total), tokens.types, 0)


def names_of_parts(texts: Tokens, parts: Tokens, row: RowName) -> RowName:
    """What errors call a piece of a text, or a block: the row in which it begins. ``row``: what a text's row is called."""
    of = np.searchsorted(texts.offsets, parts.offsets[:-1], side="right") - 1
    return lambda part: row(int(of[part]))
