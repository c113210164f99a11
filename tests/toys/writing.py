"""Toy sources and targets: words of letters and the same backwards, a tokenizer that makes a token of each letter, and small models
with an encoder and a decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    PegasusConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from engine.data.sources import Source, SourceConfig
from tasks.options import Seq2SeqOptions
from tasks.seq2seq.task import Seq2Seq

PIECES = ["<pad>", "</s>", "<unk>", *"abcdefgh", ":", "."]
POSITIONS = 64
WIDE = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": POSITIONS}  # fmt: skip
OFF = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
ENDS = {"vocab_size": len(PIECES), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
CONFIGS: dict[str, Any] = {
    "t5": T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0, decoder_start_token_id=0, **ENDS),
    "bart": BartConfig(**WIDE, **OFF, **ENDS, decoder_start_token_id=1, forced_eos_token_id=None),
    "marian": MarianConfig(**WIDE, **OFF, **ENDS, decoder_start_token_id=0, decoder_vocab_size=len(PIECES), forced_eos_token_id=None),
    "pegasus": PegasusConfig(**WIDE, **OFF, **ENDS, decoder_start_token_id=0, forced_eos_token_id=None),
}  # fmt: skip


def tokenizer(kind: type[PreTrainedTokenizerFast] = PreTrainedTokenizerFast, end: str = " </s>") -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single=f"$A{end}", special_tokens=[("</s>", 1)])
    return kind(
        tokenizer_object=backend, model_max_length=POSITIONS, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def model(name: str = "t5", dropout: float = 0.0) -> PreTrainedModel:
    """With weights large enough that what is read, and where, shows in what is written."""
    torch.manual_seed(0)
    config = type(CONFIGS[name])(**CONFIGS[name].to_dict())
    config.dropout = config.dropout_rate = dropout
    net = AutoModelForSeq2SeqLM.from_config(config)
    for parameter_name, parameter in net.named_parameters():
        if parameter.dim() > 1 and "norm" not in parameter_name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return net


def save_model(folder: Path, name: str = "t5") -> Path:
    model(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def row(seed: int, i: int) -> dict[str, str]:
    """2 to 9 letters, and the same backwards."""
    generator = np.random.default_rng((seed, i))
    some = generator.choice(list("abcdefgh"), generator.integers(2, 10)).tolist()
    return {"source": " ".join(some), "target": " ".join(reversed(some))}


def rows(number: int, seed: int = 0) -> list[dict[str, str]]:
    return [row(seed, i) for i in range(number)]


def save_rows(path: Path, some: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in some))
    return str(path)


def make_task(number: int = 42, name: str = "t5", held_out: int = 21, **options: Any) -> Any:
    """A task on rows in memory."""
    from datasets import Dataset

    given = {"train": Dataset.from_list(rows(number)), "eval": Dataset.from_list(rows(held_out, 5))}
    task = Seq2Seq(Seq2SeqOptions(**{"max_new_tokens": 12} | options), Source(SourceConfig(), tables=given))
    task._tokenizer, task._config = tokenizer(), CONFIGS[name]
    return task
