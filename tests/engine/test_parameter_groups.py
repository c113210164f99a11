"""Which weights decay, which have a rate of their own, and which are frozen; Trainer's rule is the reference."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.errors import UsageError
from engine.loop import train_step
from engine.optimizer import (
    decay_names,
    depths,
    freeze,
    make_optimizer,
)

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
FEW_HEADS = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "BertForSequenceClassification": SIZES,
    "DistilBertForSequenceClassification": {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "RobertaForSequenceClassification": SIZES,
    "ElectraForSequenceClassification": SIZES | {"embedding_size": 8},
    "AlbertForSequenceClassification": SIZES | {"embedding_size": 8},
    "MPNetForSequenceClassification": SIZES,
    "DebertaV2ForSequenceClassification": SIZES
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    "ModernBertForSequenceClassification": SIZES | {"cls_token_id": 1, "sep_token_id": 2},
    "GPT2ForSequenceClassification": GPT2,
    "GPT2LMHeadModel": GPT2,
    "LlamaForSequenceClassification": FEW_HEADS,
    "Qwen3ForCausalLM": FEW_HEADS,
    "T5EncoderModel": T5,
    "T5ForConditionalGeneration": T5,
    "XLNetForSequenceClassification": {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "ViTForImageClassification": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                  "intermediate_size": 32, "image_size": 8, "patch_size": 4},
}  # fmt: skip


def make(name: str) -> nn.Module:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_decay_groups_are_trainers(name):
    model = make(name)
    named = dict(model.named_parameters())
    expected = set(Trainer.get_decay_parameter_names(None, model)) & named.keys()
    assert decay_names(model) & named.keys() == expected
    assert 0 < len(expected) < len(named)
    decayed, plain = make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(p) for n, p in named.items() if n in expected]
    assert [id(p) for p in plain["params"]] == [id(p) for n, p in named.items() if n not in expected]


def test_odd_names_are_grouped_as_trainer_does():
    """Names that hold the word norm in another place, norms of one's own class, a parameter outside of any module."""
    names = [
        "norm",
        "norm1",
        "normalizer",
        "final_norm",
        "norm_final",
        "subnorm",
        "RMSNorm",
        "LayerNorm_in",
        "unbiased",
        "dense",
    ]
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names} | {"ln": nn.LayerNorm(2), "group": nn.GroupNorm(1, 2)})
    model["dense"].register_parameter("norm", nn.Parameter(torch.zeros(2)))
    model["dense"].register_parameter("my_norm", nn.Parameter(torch.zeros(2)))
    model.register_parameter("scale", nn.Parameter(torch.zeros(2)))
    model.register_parameter("bias", nn.Parameter(torch.zeros(2)))
    expected = set(Trainer.get_decay_parameter_names(None, model))
    assert {"norm1.weight", "scale", "group.weight"} <= expected, "Trainer's rule goes by the names alone"
    assert decay_names(model) == expected


@pytest.mark.parametrize(("name", "rule"), [
    ("BertForSequenceClassification", lambda name: True),
    ("LlamaForSequenceClassification", lambda name: "bias" not in name),
    ("GPT2ForSequenceClassification", lambda name: "bias" not in name and "norm" not in name),
    ("ElectraForSequenceClassification", lambda name: "norm" not in name.lower()),
])  # fmt: skip
def test_a_simpler_rule_would_be_noticed(name, rule):
    """Llama's norms have no bias, GPT-2 calls its norms ln_1, Electra has biases outside its norms."""
    model = make(name)
    named = dict(model.named_parameters())
    assert {n for n in named if rule(n)} != set(Trainer.get_decay_parameter_names(None, model)) & named.keys()


def test_frozen_parameters_are_left_out_and_an_empty_group_is_not_made():
    model = tiny.bert()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name == "classifier.bias"
    [group] = make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert group["weight_decay"] == 0.0
    assert [id(p) for p in group["params"]] == [id(model.classifier.bias)]


def test_the_head_gets_its_own_rate_and_the_same_decay_rule():
    """The references: what transformers calls the body, and Trainer's decay rule."""
    model = tiny.distilbert()
    named = dict(model.named_parameters())
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    groups = make_optimizer(model, TrainConfig(learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.3)).param_groups
    for group, in_head, decays in zip(groups, (False, False, True, True), (True, False, True, False), strict=True):
        expected = [n for n in named if (not n.startswith("distilbert.")) == in_head and (n in decayed) == decays]
        assert [id(p) for p in group["params"]] == [id(named[n]) for n in expected] and expected
        assert group["lr"] == (1e-2 if in_head else 1e-3) and group["weight_decay"] == (0.3 if decays else 0.0)


def test_a_model_without_a_head_has_no_rate_for_it():
    with pytest.raises(UsageError, match="BertModel has no parameters outside its body"):
        make_optimizer(tiny.bert().bert, TrainConfig(head_learning_rate=1e-2))


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_frozen_parameters_stay_and_are_in_neither_step_nor_clipping(batching):
    """The body is frozen: no gradient is computed there, and the norm is that of the head alone."""
    model = tiny.distilbert()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainConfig(batch_size=8, device="cpu", batching=batching, freeze=r"^distilbert\.", max_grad_norm=1e-3)
    setup = build(tiny.TokenTask(), tiny.token_rows(40), config, model)
    model.train()
    for _, micro_batches in setup.data.steps():
        record = train_step(setup.state, tiny.TokenTask(), micro_batches, config, setup.world)
    assert float(record.grad_norm) > 1e-3, "clipped"
    body = {name for name in before if name.startswith("distilbert.")}
    after = dict(model.named_parameters())
    assert {name for name in before if torch.equal(before[name], after[name])} == body
    assert all(after[name].grad is None and not after[name].requires_grad for name in body)
    assert {id(p) for p in setup.state.parameters} == {id(p) for n, p in after.items() if n not in body}


def test_frozen_layers_cost_no_backward():
    """Counted by torch: with the body frozen, the backward pass is the head's alone."""
    from torch.utils.flop_counter import FlopCounterMode

    def backward_flops(pattern: str | None) -> int:
        model = tiny.bert(dropout=0.0)
        if pattern:
            freeze(model, pattern)
        ids = torch.randint(5, 100, (4, 16), generator=torch.Generator().manual_seed(0))
        loss = model(input_ids=ids).logits.sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        return counter.get_total_flops()

    assert backward_flops(r"^bert\.") == 2 * 4 * 32 * 3, "one product, for the classifier's weight: 4 rows of 32, 3 labels"
    assert backward_flops("embeddings|layer.0") < backward_flops(None) * 0.6


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("nothing", "no parameter's name matches; there are bert.embeddings.word_embeddings, .*classifier"),
     (".", "that is every parameter")],
)  # fmt: skip
def test_a_pattern_that_finds_nothing_or_all_is_refused(pattern, words):
    with pytest.raises(UsageError, match=words):
        freeze(tiny.bert(), pattern)


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(UsageError, match=r"--freeze \[ is no regular expression: unterminated"):
        TrainConfig(freeze="[")
    with pytest.raises(UsageError, match="--head-learning-rate must be a positive finite number"):
        TrainConfig(head_learning_rate=0.0)


def test_a_tied_weight_is_updated_once():
    model = make("GPT2LMHeadModel")
    assert model.lm_head.weight is model.transformer.wte.weight
    parameters = [p for group in make_optimizer(model, TrainConfig()).param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(model.parameters()))


def test_depths_of_a_model_with_everything():
    """Embeddings below the first block, pooler and head at the top."""
    model = tiny.bert()
    found = {name: depths(model)[p] for name, p in model.named_parameters()}
    for name, depth in found.items():
        expected = 3 if "embeddings" in name else 2 if "layer.0" in name else 1 if "layer.1" in name else 0
        assert depth == expected, name


def test_tables_behind_the_blocks_count_as_embeddings_and_what_is_between_as_the_block_before():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.lower = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.bridge = nn.Linear(2, 2)
            self.upper = nn.ModuleList([nn.Linear(2, 2)])
            self.positions = nn.Embedding(2, 2)
            self.norm = nn.LayerNorm(2)

    model = Odd()
    found = {name.rsplit(".", 1)[0]: depths(model)[p] for name, p in model.named_parameters()}
    assert found == {"first": 4, "lower.0": 3, "lower.1": 2, "bridge": 2, "upper.0": 1, "positions": 4, "norm": 0}
    with pytest.raises(UsageError, match="has no transformer blocks"):
        depths(nn.Linear(2, 2))


def test_each_block_has_the_rate_of_the_one_above_it_times_the_decay():
    model = tiny.bert()
    config = TrainConfig(learning_rate=1e-3, layer_decay=0.5, head_learning_rate=1e-2, weight_decay=0.3)
    groups = make_optimizer(model, config).param_groups
    rate = {p: group["lr"] for group in groups for p in group["params"]}
    decay = {p: group["weight_decay"] for group in groups for p in group["params"]}
    for name, p in model.named_parameters():
        expected = 1.25e-4 if "embeddings" in name else 2.5e-4 if "layer.0" in name else 5e-4 if "layer.1" in name else 1e-3
        assert rate[p] == (1e-2 if name.startswith("classifier") else expected), name
        assert decay[p] == (0.0 if "bias" in name or "LayerNorm" in name else 0.3), name
    assert groups[0]["lr"] == 1e-3, "the first group, whose rate is logged, is the top's"
