"""Small configurations of many architectures, and weights large enough that a mistake in attention shows."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    BartConfig,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
    T5Config,
)

ENCODER = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
           "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": 0}  # fmt: skip
DECODER = ENCODER | {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
ROBERTA = ENCODER | {"max_position_embeddings": 66, "pad_token_id": 1}
DISTIL = DistilBertConfig(
    vocab_size=200, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=64, num_labels=3
)
MODERN = ENCODER | {"max_position_embeddings": 128, "local_attention": 8, "global_attn_every_n_layers": 3, "bos_token_id": 1,
                    "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
GPT2 = GPT2Config(vocab_size=200, n_embd=32, n_layer=3, n_head=4, n_positions=64, num_labels=3, pad_token_id=0, bos_token_id=1,
                  eos_token_id=2)  # fmt: skip
OPT = OPTConfig(vocab_size=200, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64, num_labels=3,
                max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
NEOX = GPTNeoXConfig(**ENCODER | {"bos_token_id": 1, "eos_token_id": 2})
QWEN3, LLAMA = Qwen3Config(**DECODER), LlamaConfig(**DECODER)

BART = BartConfig(
    vocab_size=100, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, eos_token_id=3, pad_token_id=0, bos_token_id=2,
    decoder_start_token_id=3,
)  # fmt: skip
T5 = T5Config(
    vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, eos_token_id=3, pad_token_id=0, decoder_start_token_id=0
)  # fmt: skip


def strong(model: nn.Module) -> nn.Module:
    """Random weights of the size that a trained model's attention has."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.eval()
