"""What a model takes, asked of its modules: token types, end tokens, the table that tokens are looked up in."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from engine.model.capabilities import ANY_TYPE, counts_ends, num_token_types, rows_of_token_table, without_weights
from tests.toys.architectures import BART, DECODER, DISTIL, ENCODER, GPT2, LLAMA, ROBERTA, T5

XLNET = transformers.XLNetConfig(vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=64)


def skeleton(config, kind=AutoModelForSequenceClassification):
    return without_weights(kind, config)


TYPES = {
    "Bert": (transformers.BertConfig(**ENCODER), 2),
    "Bert of sixteen": (transformers.BertConfig(**ENCODER, type_vocab_size=16), 16),
    "Roberta": (transformers.RobertaConfig(**ROBERTA, type_vocab_size=1), 1),
    "DistilBert": (DISTIL, 0),
    "GPT2, which looks them up among the tokens": (GPT2, 0),
    "Llama": (LLAMA, 0),
    "DebertaV2": (transformers.DebertaV2Config(**ENCODER), 0),
    "XLNet, which compares them": (XLNET, ANY_TYPE),
}


@pytest.mark.parametrize("name", TYPES)
def test_token_types_are_counted_in_their_table(name):
    config, number = TYPES[name]
    assert num_token_types(skeleton(config)) == number


def test_a_head_that_counts_end_tokens_is_found_by_trying():
    state = torch.get_rng_state()
    assert counts_ends(skeleton(BART)) and counts_ends(skeleton(T5))
    assert not any(counts_ends(skeleton(config)) for config in (transformers.BertConfig(**ENCODER), LLAMA, GPT2))
    gemma = transformers.T5GemmaConfig(**dict.fromkeys(("encoder", "decoder"), DECODER))
    assert not counts_ends(skeleton(gemma)), "an encoder with a decoder, whose head reads the last token whatever it is"
    assert torch.equal(state, torch.get_rng_state())


def test_the_table_of_tokens():
    assert rows_of_token_table(skeleton(transformers.BertConfig(**ENCODER))) == ENCODER["vocab_size"]
    canine = transformers.CanineConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    assert rows_of_token_table(skeleton(canine)) is None, "it hashes characters"
    perceiver = transformers.PerceiverConfig(d_model=32, d_latents=32, num_latents=8, num_self_attends_per_block=1)
    assert rows_of_token_table(skeleton(perceiver)) is None, "what it calls input embeddings are its latents"


def test_what_cannot_be_built_is_none():
    assert skeleton(transformers.ViTConfig()) is None
    assert skeleton(transformers.BertConfig(**ENCODER)).device.type == "meta"
