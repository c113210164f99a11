"""Toy queries and passages: a passage with an "a" answers any query; and a BERT of two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification

from engine.data.sources import Source, SourceConfig
from tasks.options import RerankerOptions
from tasks.reranker.task import Reranker
from tests.toys import answers

LISTS = {"text_pair_column": "positive", "negatives_column": "negatives"}


def model(dropout: float = 0.0, num_labels: int = 1) -> BertForSequenceClassification:
    config = answers.model(dropout).config
    config.num_labels = num_labels
    torch.manual_seed(0)
    return BertForSequenceClassification(config)


def save_model(folder: Path) -> None:
    """Without a head."""
    answers.save_model(folder)


def row(seed: int, i: int, negatives: int) -> dict[str, Any]:
    """A query, a passage that has an "a", and so many that have none, but for some of them."""
    generator = np.random.default_rng((seed, i))

    def passage(letter: str) -> str:
        some = [*generator.choice(list("efghijklm"), generator.integers(2, 8)), letter]
        return " ".join(generator.permutation(some))

    wrong = [passage("a" if generator.random() < 0.1 else "b") for _ in range(negatives)]
    return {"query": f"{'pqrs'[i % 4]}?{'x' * (i // 4)}", "positive": passage("a"), "negatives": wrong}


def lists(number: int, seed: int = 0, negatives: int = 3) -> list[dict[str, Any]]:
    return [row(seed, i, negatives) for i in range(number)]


def pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as rows of one passage each."""
    return [
        {"query": each["query"], "passage": passage, "label": int(i == 0)}
        for each in rows
        for i, passage in enumerate([each["positive"], *each["negatives"]])
    ]


def make_task(number: int = 12, held_out: int = 6, tables: dict[str, Any] | None = None, **options: Any) -> Any:
    """A task on lists in memory."""
    given = tables or {"train": lists(number), "eval": lists(held_out, 5)}
    options = LISTS | options if tables is None else options
    source = Source(SourceConfig(), tables={split: Dataset.from_list(rows) for split, rows in given.items()})
    task = Reranker(RerankerOptions(**{"max_length": 32} | options), source)
    task._tokenizer, task._config = answers.tokenizer(), model().config
    source.taken_model = None
    task.fitted = lambda net, path: net
    return task
