"""A small GPT-2 with random weights, and a tokenizer made from the training text: for where no checkpoint can be had.

It is written to the cache folder as a model directory like any other, so nothing else needs to know about it. It knows
nothing: a learning rate near 1e-3 suits it, not one for fine-tuning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from engine.data.cache import entry_or_temporary

SIZES = {"n_embd": 192, "n_layer": 4, "n_head": 6, "n_positions": 512}
VOCABULARY = 4096
END, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def small_gpt2(texts: Sequence[str]) -> tuple[str, str]:
    """Its folder and what to call it; the same texts give the same one."""
    digest = hashlib.sha256(repr((SIZES, VOCABULARY, CHAT_TEMPLATE)).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())

    def write(folder: Path) -> None:
        tokenizer = train_tokenizer(texts)
        tokenizer.save_pretrained(folder)
        random_gpt2(tokenizer).save_pretrained(folder)

    folder = entry_or_temporary("models", f"gpt2-{digest.hexdigest()[:16]}", write)
    return str(folder), "a small GPT-2 with random weights and a tokenizer made from this text (--learning-rate 1e-3 suits it)"


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
