"""A small GPT-2, or T5, with random weights, and a tokenizer made from the training text: where no checkpoint can be had.

It is written to the cache folder as a model directory like any other, so nothing else needs to know about it. It knows
nothing: a learning rate near 1e-3 suits it, not one for fine-tuning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from engine.data.cache import entry_or_temporary

SIZES = {"n_embd": 192, "n_layer": 4, "n_head": 6, "n_positions": 512}
VOCABULARY = 4096
T5_SIZES = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 3, "num_heads": 4}
PAD = "<|pad|>"
END, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def small_gpt2(texts: Sequence[str]) -> tuple[str, str]:
    """Its folder and what to call it; the same texts give the same one."""
    return small_model("GPT-2", (SIZES, VOCABULARY, CHAT_TEMPLATE), texts, train_tokenizer, random_gpt2)


def small_t5(texts: Sequence[str]) -> tuple[str, str]:
    """The same for a model with an encoder and a decoder."""
    return small_model("T5", (T5_SIZES, VOCABULARY), texts, tokenizer_with_ends, random_t5)


def small_model(
    name: str, settings: object, texts: Sequence[str], make_tokenizer: Callable[[Sequence[str]], Any],
    make_model: Callable[[Any], PreTrainedModel],
) -> tuple[str, str]:  # fmt: skip
    """Made once for the same ``settings`` and texts."""
    digest = hashlib.sha256(repr(settings).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())

    def write(folder: Path) -> None:
        tokenizer = make_tokenizer(texts)
        tokenizer.save_pretrained(folder)
        make_model(tokenizer).save_pretrained(folder)

    kind = name.lower().replace("-", "")
    folder = entry_or_temporary("models", f"{kind}-{digest.hexdigest()[:16]}", write)
    return str(
        folder
    ), f"a small {name} with random weights and a tokenizer made from this text (--learning-rate 1e-3 suits it)"


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's: every text can be written with it, and nothing is lost."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, VOCABULARY, special_tokens=[END, USER, ASSISTANT], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_str()), bos_token=END, eos_token=END, pad_token=END,
        chat_template=CHAT_TEMPLATE, model_max_length=SIZES["n_positions"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def random_gpt2(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """The same weights each time, whatever has been drawn before. Without dropout: it will not overfit in minutes."""
    end = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), **SIZES, **end, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        )


def tokenizer_with_ends(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with an end token behind each text, as T5's."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, VOCABULARY, special_tokens=[PAD, END], show_progress=False)
    backend = Tokenizer.from_str(bpe.to_str())
    backend.post_processor = TemplateProcessing(single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, model_max_length=512, clean_up_tokenization_spaces=False
    )


def random_t5(tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """The same weights each time, without dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return T5ForConditionalGeneration(
            T5Config(vocab_size=len(tokenizer), **T5_SIZES, dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id,
                     eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id)
        )  # fmt: skip
