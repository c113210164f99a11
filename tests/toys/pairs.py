"""Pairs of sentences on the same topic, and the embeddings task over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.toys.tiny import WORDS
from engine.data.sources import Source, SourceConfig
from tasks.embeddings.task import Embeddings, EmbeddingsOptions


def sentence(generator: np.random.Generator, topic: int) -> str:
    """Words of one of ten topics, and one of any."""
    words = [WORDS[9 * topic + int(i)] for i in generator.integers(0, 9, int(generator.integers(3, 9)))]
    return " ".join([*words, WORDS[int(generator.integers(0, 90))]])


def pairs(number: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """(anchor, positive, score): the first two are of one topic; the score is 1 for the same topic, else 0."""
    generator = np.random.default_rng(seed)
    topics = [int(topic) for topic in generator.integers(0, 10, number)]
    return [(sentence(generator, topic), sentence(generator, topic), 1.0) for topic in topics]


def table(rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("anchor", "positive", "score")) -> Any:
    """The rows as a dataset with these columns."""
    from datasets import Dataset

    return Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(names)})


def make_task(start: Path, number: int = 40, held: int = 20, **options: Any) -> Embeddings:
    tables = {"train": table(pairs(number)), "eval": table(pairs(held, seed=1))}
    return Embeddings(EmbeddingsOptions(**options), Source(SourceConfig(model=str(start)), tables))
