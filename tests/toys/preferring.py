"""Toy preferences, those of the sample, as conversations and as texts; a tokenizer made from them, and a GPT-2 of two layers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from engine.data.sources import Source, SourceConfig
from tasks import find
from tasks.language.scratch import train_tokenizer
from tasks.samples.preferences import preferences


@functools.cache
def words() -> Any:
    return train_tokenizer([message["content"] for row in preferences(400, 9) for message in row["chosen"]])


def tokenizer() -> Any:
    import copy

    return copy.deepcopy(words())


def model(kind: str = "dpo", dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(words())}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), words().eos_token_id)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    head = GPT2ForSequenceClassification if kind == "reward" else GPT2LMHeadModel
    return head(GPT2Config(**sizes, **ids, **drop, num_labels=1))


def save_model(folder: Path) -> Path:
    """A language model."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def as_texts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {"prompt": row["chosen"][0]["content"] + "\n", "chosen": row["chosen"][1]["content"], "rejected": row["rejected"][1]["content"]}
        for row in rows
    ]  # fmt: skip


def make_task(kind: str, number: int = 24, held_out: int = 12, tables: dict[str, Any] | None = None, **options: Any) -> Any:
    """A task on conversations in memory. For dpo the reference is ``model()``."""
    given = tables or {"train": preferences(number, 0), "eval": preferences(held_out, 5)}
    options = ({"prompt_column": "none"} if tables is None else {}) | options
    source = Source(SourceConfig(), tables={split: Dataset.from_list(rows) for split, rows in given.items()})
    task = find(kind)(find(kind).Options(**{"max_length": 64} | options), source)
    task._tokenizer, task._config = tokenizer(), model(kind).config
    if kind == "dpo":
        examples = task.examples

        def referred() -> Any:
            found = examples()
            task.refer_to(model())
            return found

        task.examples = referred
    return task
