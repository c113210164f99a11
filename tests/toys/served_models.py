"""A small model of each task that is served, and what equal answers are."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification

from bench.toys import tiny
from tests.toys import answers, language, preferring, ranking, writing

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}


def with_tokenizer(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tagger():
    torch.manual_seed(0)
    names = dict(enumerate(("O", "B-person", "I-person", "B-place")))
    return BertForTokenClassification(
        BertConfig(**TINY, max_position_embeddings=64, id2label=names, label2id={n: i for i, n in names.items()})
    )


def answering():
    torch.manual_seed(0)
    return BertForQuestionAnswering(answers.model().config)


MODELS = {  # task: how its model gets into a folder
    "classification": tiny.save_model,
    "ner": lambda folder: tiny.save_model(folder, tagger()),
    "qa": lambda folder: with_tokenizer(folder, answering(), answers.tokenizer()),
    "reranker": lambda folder: with_tokenizer(folder, ranking.model(), answers.tokenizer()),
    "reward": lambda folder: with_tokenizer(folder, preferring.model("reward"), preferring.tokenizer()),
    "embeddings": tiny.save_model,
    "mlm": lambda folder: tiny.save_model(folder, language.masked_bert()),
    "clm": preferring.save_model,
    "sft": preferring.save_model,
    "dpo": preferring.save_model,
    "seq2seq": writing.save_model,
}


def close(found, expected):
    """Equal, numbers to 1e-5."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else found == expected
