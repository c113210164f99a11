"""Toy language models, and the three tasks on rows of random tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from bench.toys import tiny
from engine.data.sources import Source
from engine.data.tokens import TokenDataset
from tasks.language.causal_lm import CausalLM, CausalOptions
from tasks.language.masked_lm import MaskedLM, MaskedOptions
from tasks.language.sft import SFT, SFTOptions

KINDS = ("mlm", "clm", "sft")


def masked_bert(dropout: float = 0.0) -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForMaskedLM(BertConfig(vocab_size=100, max_position_embeddings=32, **sizes, **drop))


def gpt2(dropout: float = 0.0, **changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 100}
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    ids = {"bos_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes | drop | ids | changes))


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
    return LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=3, eos_token_id=3, pad_token_id=0, max_position_embeddings=64))


def make_model(kind: str, dropout: float = 0.0) -> torch.nn.Module:
    return masked_bert(dropout) if kind == "mlm" else gpt2(dropout)


def make_task(kind: str, **options: Any) -> Any:
    """A task that needs no data of its own."""
    made = {"mlm": (MaskedLM, MaskedOptions), "clm": (CausalLM, CausalOptions), "sft": (SFT, SFTOptions)}[kind]
    task = made[0](made[1](**options), Source())
    task._tokenizer, task._config = tiny.tokenizer(), make_model(kind).config
    if kind == "mlm":
        task.mask_id, task.maskable, task.continues = task.vocabulary()
    task.tokens_per_byte = {"eval": 0.25}
    return task


def make_rows(kind: str, num_rows: int = 42, seed: int = 0) -> Any:
    tokens = tiny.token_rows(num_rows, seed).tokens
    if kind != "sft":
        return TokenDataset(tokens, {})
    generator = np.random.default_rng(seed)
    labels = np.where(generator.random(len(tokens.ids)) < 0.5, np.roll(tokens.ids, -1), -100)
    labels[tokens.offsets[1:] - 1] = -100  # behind the last token there is nothing
    return TokenDataset(tokens, token_columns={"labels": labels.astype(np.int32)})
