"""Toy questions and models: words of letters, a tokenizer that makes a token of each letter, and a BERT of two layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

from engine.data.sources import Source, SourceConfig
from tasks.options import QAOptions
from tasks.qa.task import QuestionAnswering

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *".,?", *(f"##{c}" for c in LETTERS)]
POSITIONS = 64


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=POSITIONS, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, PIECES, strict=False)),
    )  # fmt: skip


def model(dropout: float = 0.0) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForQuestionAnswering(BertConfig(vocab_size=len(PIECES), max_position_embeddings=POSITIONS, **sizes, **drop))


def save_model(folder: Path) -> None:
    """Without a head."""
    model(0.1).bert.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def row(seed: int, i: int, *, words: int | None = None, length: int | None = None, none: bool = False) -> dict[str, Any]:
    """Words of letters; the question is one of them, and the answer is the one behind it, or nothing.

    ``words`` of ``length`` letters: all rows are of one length.
    """
    generator = np.random.default_rng((seed, i))
    some = [
        "".join(generator.choice(list(LETTERS), length or generator.integers(1, 6)))
        for _ in range(words or generator.integers(3, 13))
    ]
    at = int(generator.integers(0, len(some) - 1))
    context, start = " ".join(some), len(" ".join(some[: at + 1])) + 1
    answers = {"text": [], "answer_start": []} if none else {"text": [some[at + 1]], "answer_start": [start]}
    return {"id": f"{seed}-{i}", "question": f"{some[at]}?", "context": context, "answers": answers}


def rows(number: int, seed: int = 0, *, every_none: int = 0, **more: Any) -> list[dict[str, Any]]:
    """``every_none``: every so manieth row has no answer; 0: all have one."""
    return [row(seed, i, none=bool(every_none) and i % every_none == 0, **more) for i in range(number)]


def save_rows(path: Path, some: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in some))
    return str(path)


def make_task(number: int = 42, seed: int = 0, every_none: int = 4, held_out: int = 21, **options: Any) -> Any:
    """A task on rows in memory, with short windows, so that many texts have several."""
    from datasets import Dataset

    given = {"train": Dataset.from_list(rows(number, seed, every_none=every_none)),
             "eval": Dataset.from_list(rows(held_out, 5, every_none=every_none))}  # fmt: skip
    task = QuestionAnswering(QAOptions(**{"max_length": 32, "stride": 8} | options), Source(SourceConfig(), tables=given))
    task._tokenizer, task._config = tokenizer(), model().config
    return task
