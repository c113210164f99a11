"""The FLOP count equals what torch's FlopCounterMode sees, for architectures of every shape."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    ModernBertConfig,
    RobertaConfig,
)

from engine.model.flops import FlopCount, count_flops, peak_flops

SIZES = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CASES = {
    "bert": (BertConfig(**SIZES, num_labels=5), AutoModelForSequenceClassification),
    "bert mlm": (BertConfig(**SIZES), AutoModelForMaskedLM),
    "distilbert": (
        DistilBertConfig(vocab_size=300, dim=64, n_layers=3, n_heads=4, hidden_dim=160),
        AutoModelForSequenceClassification,
    ),
    "roberta": (RobertaConfig(**SIZES), AutoModelForSequenceClassification),
    "albert": (AlbertConfig(**SIZES, embedding_size=32), AutoModelForSequenceClassification),
    "albert, groups": (
        AlbertConfig(**SIZES | {"num_hidden_layers": 6}, embedding_size=32, num_hidden_groups=3, inner_group_num=2),
        AutoModelForSequenceClassification,
    ),
    "bert, no head": (BertConfig(**SIZES), AutoModel),
    "gpt2": (GPT2Config(vocab_size=300, n_embd=64, n_layer=3, n_head=4), AutoModelForCausalLM),
    "llama": (LlamaConfig(**SIZES, **TOKENS, num_key_value_heads=2), AutoModelForCausalLM),
    "llama, wide heads": (LlamaConfig(**SIZES, **TOKENS, num_key_value_heads=2, head_dim=32), AutoModelForCausalLM),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_torchs_counter(name):
    """Rows of equal length, eager attention, which computes all pairs: so causal is switched off in the formula."""
    config, kind = CASES[name]
    bare = {"add_pooling_layer": False} if kind is AutoModel else {}  # with it, one product a row that nobody reads
    model = kind.from_config(config, attn_implementation="eager", **bare)
    rows, length = 4, 50
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.randint(5, 300, (rows, length)))[0]
        logits.float().sum().backward()
    level = "sequence" if kind is AutoModelForSequenceClassification else "token"
    count = count_flops(model, level)
    assert count.causal == (name in ("gpt2", "llama", "llama, wide heads"))
    all_pairs = FlopCount(count.per_token, count.per_pair, count.per_row, per_item=count.per_item)
    angles = length * (getattr(config, "head_dim", None) or 0)  # of rotary positions, by a matmul in older transformers
    beside = counter.get_total_flops() - all_pairs(rows * length, rows * length**2, rows, rows * length)
    assert beside in (0, angles)


def test_padding_costs_nothing_in_the_count_and_causal_counts_half_the_pairs():
    count = FlopCount(per_token=10, per_pair=2, per_row=3, per_item=100)
    assert count(num_tokens=7, sum_squares=9 + 16, num_rows=2, num_items=4) == 70 + 50 + 6 + 400
    assert FlopCount(10, 2, 3, causal=True)(7, 9 + 16, 2, 2) == 70 + 2 * (6 + 10) + 6


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama"])
@pytest.mark.parametrize("frozen", ["^(bert|distilbert|transformer|model)\\.", "embed|wte|wpe|\\.0\\."])
def test_what_is_frozen_below_all_that_is_trained_only_goes_forward(name, frozen):
    """Neither its weights nor what comes into it has a gradient: torch's counter sees no product of a backward pass there."""
    config, kind = CASES[name]
    model = kind.from_config(config, attn_implementation="eager")
    if name == "gpt2":  # else it is the embedding, which is frozen
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    full = count_flops(model, "token")
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(not re.search(frozen, parameter_name))
    rows, length = 4, 50
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(5, 300, (rows, length)))[0].float().sum().backward()
    count = count_flops(model, "sequence" if kind is AutoModelForSequenceClassification else "token")
    all_pairs = FlopCount(count.per_token, count.per_pair, count.per_row, per_item=count.per_item)
    of_head_alone = frozen.startswith("^")
    found = all_pairs(rows * length, rows * length**2, rows, rows * length)
    close = 1e-4 if of_head_alone else 0.05  # what comes into the first trained layer has no gradient, and is counted
    assert found == pytest.approx(counter.get_total_flops(), rel=close)
    assert count.per_pair == pytest.approx(full.per_pair * (1 / 3 if of_head_alone else 7 / 9))


def test_no_figure_is_better_than_a_wrong_one():
    local = MistralConfig(**SIZES, **TOKENS, num_key_value_heads=2, sliding_window=8)
    modern = ModernBertConfig(**SIZES, **TOKENS, cls_token_id=1, sep_token_id=2)
    assert count_flops(AutoModelForCausalLM.from_config(local), "token") is None
    assert count_flops(AutoModelForMaskedLM.from_config(modern), "token") is None
    assert count_flops(nn.Linear(2, 2), "sequence") is None
    experts = MixtralConfig(**SIZES, **TOKENS, num_key_value_heads=2, num_local_experts=2, sliding_window=None)
    assert count_flops(AutoModelForCausalLM.from_config(experts), "token") is None


def test_a_cpu_has_no_vendor_peak(monkeypatch):
    assert peak_flops(torch.device("cpu"), "bf16") is None
    for name, tera in (
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40", 181),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda"), "bf16") == tera * 1e12
        assert peak_flops(torch.device("cuda"), "fp32") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T400")
    assert peak_flops(torch.device("cuda"), "bf16") is None


def test_a_model_whose_layers_differ_is_not_counted():
    """Its window is no one number: transformers raises where it is asked for one."""
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8, per_layer_config={1: {"sliding_window": 4}})
    model = AutoModelForCausalLM.from_config(config)
    assert config.is_heterogeneous and count_flops(model, "token") is None
