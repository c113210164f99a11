"""Small models that are told languages beside the texts: NLLB, mBART and mBART-50, with their own tokenizers of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    M2M100Config,
    MBart50Tokenizer,
    MBartConfig,
    MBartTokenizer,
    NllbTokenizer,
)

LETTERS = [*"abcdefgh"]
ENDS = ["<s>", "<pad>", "</s>", "<unk>"]
CODES = {
    "nllb": ("eng_Latn", "deu_Latn", "fra_Latn"),
    "mbart": ("en_XX", "de_DE", "fr_XX"),
    "mbart50": ("en_XX", "de_DE", "fr_XX"),
}
SIZES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
         "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0,
         "activation_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}  # fmt: skip


def tokenizer(kind: str, **more: Any) -> Any:
    """``kind``: a key of CODES. Only NLLB's knows no other languages than those there."""
    if kind == "nllb":
        pieces = {piece: i for i, piece in enumerate([*ENDS, "▁", *LETTERS])}
        return NllbTokenizer(vocab=pieces, merges=[], extra_special_tokens=[*CODES[kind]], model_max_length=64, **more)
    scored = [("▁", -2.0), *((letter, -1.0) for letter in LETTERS)]
    if kind == "mbart":
        return MBartTokenizer(vocab=[*((end, 0.0) for end in ENDS), *scored], model_max_length=64, **more)
    of_pieces = [(end, 0.0) for end in ("<unk>", "<s>", "</s>")]  # as sentencepiece has them
    return MBart50Tokenizer(vocab=[*of_pieces, *scored], model_max_length=64, **more)


def model(kind: str) -> Any:
    """With weights large enough that what is read shows in what is written."""
    torch.manual_seed(0)
    ids = {
        "vocab_size": len(tokenizer(kind)),
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "forced_eos_token_id": None,
    }
    start = {"decoder_start_token_id": None if kind == "mbart" else 2}
    net = AutoModelForSeq2SeqLM.from_config((M2M100Config if kind == "nllb" else MBartConfig)(**SIZES, **ids, **start))
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return net


def save(folder: Path, kind: str, **more: Any) -> Path:
    """``more``: of the tokenizer."""
    model(kind).save_pretrained(folder)
    tokenizer(kind, **more).save_pretrained(folder)
    return folder
