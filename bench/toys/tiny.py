"""Toy models, tokenizers and data, built in memory in milliseconds; no network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from engine.data.batch import Batch
from engine.data.collate import Layout, arrange
from engine.data.sources import Source
from engine.data.tokens import TokenDataset, Tokens
from engine.task import NoOptions, Task

NUM_WORDS = 95
WORDS = [f"w{i}" for i in range(NUM_WORDS)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 ... w94 and BERT's special tokens; 100 ids."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **dict(zip(names, special, strict=True)))


def bert(num_labels: int = 3, dropout: float = 0.1, seed: int = 0) -> BertForSequenceClassification:
    """2 layers of width 32."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(
        BertConfig(vocab_size=100, max_position_embeddings=32, num_labels=num_labels, hidden_dropout_prob=dropout,
                   attention_probs_dropout_prob=dropout, **sizes)
    )  # fmt: skip


def distilbert(num_labels: int = 3, dropout: float = 0.1, seed: int = 0) -> DistilBertForSequenceClassification:
    """2 layers of width 32."""
    torch.manual_seed(seed)
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=100, max_position_embeddings=32, num_labels=num_labels, dim=32, n_layers=2, n_heads=2,
                         hidden_dim=64, dropout=dropout, attention_dropout=dropout, seq_classif_dropout=dropout)
    )  # fmt: skip


def save_texts(folder: Path, **sizes: int) -> None:
    """``train=24, eval=12``: train.csv and eval.csv with so many labelled texts, the seeds 0, 1 ..."""
    for seed, (name, number) in enumerate(sizes.items()):
        with open(folder / f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *texts(number, seed)])


def save_model(directory: Path, model: nn.Module | None = None) -> Path:
    """A model directory as the Hub has them: config, weights, tokenizer."""
    saved: Any = model or bert()
    saved.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def token_rows(num_rows: int, seed: int = 0, num_labels: int = 3, longest: int = 24) -> TokenDataset:
    """Rows of random length with random ids and labels."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, longest, num_rows)
    ids = generator.integers(5, 100, int(lengths.sum())).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = generator.integers(0, num_labels, num_rows).astype(np.int64)
    return TokenDataset(Tokens(ids, offsets, None, 0), {"labels": labels})


def texts(num_rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): which of the words w0 (a), w1 (b) or w2 (c) stands in a sentence decides its label."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        words = [WORDS[i] for i in generator.integers(3, NUM_WORDS, int(generator.integers(3, 20)))]
        label = int(generator.integers(0, 3))
        words.insert(int(generator.integers(0, len(words) + 1)), WORDS[label])
        rows.append((" ".join(words), "abc"[label]))
    return rows


class TokenTask(Task[NoOptions]):
    """Cross-entropy over classes, on rows that are token ids already; the smallest task there is."""

    def __init__(
        self, model: nn.Module | None = None, train: TokenDataset | None = None, evaluation: TokenDataset | None = None
    ):
        super().__init__(NoOptions(), Source())
        self.model, self.train, self.evaluation = model, train, evaluation
        self.tokenizer = tokenizer()

    def examples(self) -> dict[str, Any]:
        return {"train": self.train} | ({"eval": self.evaluation} if self.evaluation is not None else {})

    def build_model(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.tokenizer)
        labels = torch.tensor([int(row["labels"]) for row in rows])
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels != -100).sum()), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits.float(), batch.targets["labels"], reduction="sum")

    def metrics(self, split: str) -> Any:
        from tasks.classification.metrics import ClassificationMetrics

        return ClassificationMetrics("single_label", ["0", "1", "2"])

    def load_model(self, path: str) -> nn.Module:
        kind: Any = type(self.build_model())
        model: nn.Module = kind.from_pretrained(path)
        return model

    def predict(self, model: nn.Module, inputs: Any, layout: Layout = Layout()) -> Any:  # noqa: B008 - frozen
        yield from ()

    def save(self, model: nn.Module, directory: Path) -> None:
        model.save_pretrained(directory)  # type: ignore[operator]
