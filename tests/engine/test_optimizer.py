"""AdamW as Trainer groups it, the schedule as transformers computes it, and the guard that changes nothing when it must not.

The references are Trainer's own rule, torch's plain AdamW, AdamW's formula in float64, and the schedule's formula.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer, TrainingArguments

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.distributed.world import World
from engine.errors import UsageError
from engine.loop import train_step
from engine.optimizer import SkipGuard, decay_names, freeze, make_optimizer
from engine.schedule import make_schedule

CPU = torch.device("cpu")
WORLD = World(CPU)
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


# ------------------------------------------------------------------------------------------------------ decay groups


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


def test_the_schedule_scales_both_rates(tmp_path):
    config = TrainConfig(learning_rate=1e-3, head_learning_rate=1e-2, warmup_ratio=0.2)
    optimizer = make_optimizer(tiny.bert(), config)
    schedule = make_schedule(optimizer, config, 10)
    shares = []
    for _ in range(10):
        body, head = optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]
        assert head == pytest.approx(10 * body) and schedule.get_last_lr()[0] == body, "the log shows the body's"
        shares.append(body / 1e-3)
        optimizer.step()
        schedule.step()
    assert max(shares) == 1 and shares[0] == 0


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


# ------------------------------------------------------------------------------------------------------------- AdamW


def steps(optimizer, parameters, number=30, seed=0, scale=0.02):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
        optimizer.step()


def differing(one, other) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def plain_adamw(model, config, **options):
    decay = set(Trainer.get_decay_parameter_names(None, model))
    groups = [
        {"params": [p for n, p in model.named_parameters() if (n in decay) == wanted], "weight_decay": value}
        for wanted, value in ((True, config.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, **options)


def test_the_fused_update_is_trainers_bitwise(tmp_path):
    """transformers' default is adamw_torch_fused, too; its betas and epsilon are TrainingArguments'."""
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.1)
    ours = tiny.bert()
    theirs = copy.deepcopy(ours)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    assert arguments.optim == "adamw_torch_fused"
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    steps(make_optimizer(ours, config), list(ours.parameters()))
    steps(plain_adamw(theirs, config, betas=betas, eps=arguments.adam_epsilon, fused=True), list(theirs.parameters()))
    assert differing(ours, theirs) == 0.0


def test_the_fused_update_is_near_the_plain_one():
    """The kernel rounds in another order: each of 30 steps moves a weight by up to 1e-2, and errs by some 1e-9 of that."""
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.1)
    ours = tiny.bert()
    theirs, undecayed = copy.deepcopy(ours), copy.deepcopy(ours)
    start = copy.deepcopy(ours)
    steps(make_optimizer(ours, config), list(ours.parameters()))
    steps(plain_adamw(theirs, config, foreach=False, fused=False), list(theirs.parameters()))
    steps(plain_adamw(undecayed, TrainConfig(learning_rate=1e-2, weight_decay=0.0)), list(undecayed.parameters()))
    assert differing(ours, theirs) < 1e-6
    assert differing(ours, undecayed) > 1e-4, "a forgotten decay would be noticed"
    assert differing(ours, start) > 1e-2


def test_the_update_is_the_papers_formula():
    """Decoupled decay (Loshchilov & Hutter), in float64; float32 has 24 bits: 1e-6 after 20 steps."""
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.1)
    model = nn.Linear(3, 2)
    weights = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 21):
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            g = p.grad.double().numpy()
            m, v = (0.9 * moments[name][0] + 0.1 * g, 0.999 * moments[name][1] + 0.001 * g * g)
            moments[name] = m, v
            decay = 0.1 if name == "weight" else 0.0
            w = weights[name] * (1 - 1e-2 * decay)
            weights[name] = w - 1e-2 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        optimizer.step()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), weights[name], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- schedule


def rates(config: TrainConfig, num_steps: int) -> list[float]:
    """The learning rate that each step uses, and the one after the last."""
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, num_steps)
    used = []
    for _ in range(num_steps):
        used.append(optimizer.param_groups[0]["lr"])
        assert {group["lr"] for group in optimizer.param_groups} == {used[-1]} == set(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    return [*used, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("ratio", [0.0, 0.06, 0.1, 0.5, 0.99])
def test_the_linear_schedule_is_transformers_at_every_step(num_steps, ratio, tmp_path):
    config = TrainConfig(learning_rate=3e-5, warmup_ratio=ratio)
    warmup = TrainingArguments(str(tmp_path), use_cpu=True, warmup_steps=ratio).get_warmup_steps(num_steps)
    assert warmup == math.ceil(ratio * num_steps)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=3e-5)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, num_steps)
    expected = []
    for _ in range(num_steps + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(config, num_steps) == expected
    assert expected[-1] == 0.0


def formula(kind: str, step: int, warmup: int, num_steps: int) -> float:
    if step < warmup:
        return step / warmup
    share = (step - warmup) / max(1, num_steps - warmup)
    return {"linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25])
def test_each_schedule_is_its_formula(kind, ratio):
    """Rises from 0 in the warm-up; the first step without one uses the peak."""
    found = rates(TrainConfig(learning_rate=2e-3, warmup_ratio=ratio, schedule=kind), 40)
    expected = [2e-3 * formula(kind, step, math.ceil(ratio * 40), 40) for step in range(41)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)
    assert found[0] == (0.0 if ratio else 2e-3)


def test_the_warm_up_is_rounded_up():
    """10 % of 33 steps are 4, as Trainer counts them."""
    found = rates(TrainConfig(learning_rate=1.0, warmup_ratio=0.1), 33)
    assert found[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]


# ------------------------------------------------------------------------------------------------------------- guard

CONFIG = TrainConfig(
    learning_rate=1e-3, weight_decay=0.1, batch_size=8, epochs=1, device="cpu", schedule="constant", batching="padded",
    precision="fp32",
)  # fmt: skip


def started(scaled: bool = False, done: int = 2):
    """A state after some steps, so that Adam has moments, and the micro-batches that follow."""
    setup = build(tiny.TokenTask(), tiny.token_rows(64), CONFIG, tiny.bert(dropout=0.0))
    state = setup.state
    if scaled:
        state.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
        state.guard.sticky = False  # as build() does for fp16
    batches = [micro_batches for _, micro_batches in setup.data.steps()]
    for micro_batches in batches[:done]:
        step(state, micro_batches)
    return state, batches[done:]


def step(state, micro_batches):
    return train_step(state, tiny.TokenTask(), micro_batches, CONFIG, WORLD)


def without_items(micro_batches):
    """The same texts, all labels -100."""
    return [
        dataclasses.replace(batch, targets={"labels": torch.full_like(batch.targets["labels"], -100)}, num_items=0)
        for batch in micro_batches
    ]


def snapshot(state) -> dict[str, torch.Tensor]:
    """All weights and everything that Adam keeps, the step counts included."""
    tensors = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for name, p in state.model.named_parameters():
        tensors |= {f"{name}//{key}": value.clone() for key, value in state.optimizer.state.get(p, {}).items()}
    return tensors


def same(one, other) -> bool:
    """Bitwise."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def spoil(model, value: float):
    """From now on one gradient holds this value."""
    return model.classifier.weight.register_hook(lambda gradient: torch.full_like(gradient, value))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_without_items_leaves_everything_bitwise(scaled):
    state, batches = started(scaled)
    before = snapshot(state)
    assert "classifier.weight//exp_avg" in before
    record = step(state, without_items(batches[0]))
    assert (float(record.num_items), float(record.loss_sum), float(record.grad_norm)) == (0, 0, 0)
    assert same(before, snapshot(state))
    step(state, batches[1])
    assert not same(before, snapshot(state)), "the next step counts again"


def test_a_step_without_items_would_decay_the_weights_if_nobody_looked():
    """The guard can fail: a zero gradient is not nothing to AdamW."""
    state, batches = started()
    before = snapshot(state)
    state.guard.check = lambda grad_norm, num_items: None
    step(state, without_items(batches[0]))
    after = snapshot(state)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert not torch.equal(before["classifier.weight//step"], after["classifier.weight//step"])


def test_a_first_step_without_items_leaves_the_weights_and_counts_nothing():
    state, batches = started(done=0)
    before = snapshot(state)
    step(state, without_items(batches[0]))
    after = snapshot(state)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(not value.any() for name, value in after.items() if "//" in name), "Adam's state is made, and nought"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_sticks_and_keeps_the_weights(value):
    state, batches = started()
    before = snapshot(state)
    hook = spoil(state.model, value)
    record = step(state, batches[0])
    assert not math.isfinite(float(record.grad_norm))
    assert bool(state.guard.diverged)
    assert same(before, snapshot(state))
    hook.remove()
    record = step(state, batches[1])
    assert math.isfinite(float(record.grad_norm)), "this step is sound, and does not count all the same"
    step(state, without_items(batches[2]))
    step(state, batches[3])
    assert same(before, snapshot(state))
    assert bool(state.guard.diverged)


def test_a_gradient_that_is_not_finite_would_spoil_the_weights_if_nobody_looked():
    """clip_grad_norm_ spreads it over all of them."""
    state, batches = started()
    spoil(state.model, math.nan)
    state.guard.check = lambda grad_norm, num_items: None
    step(state, batches[0])
    assert not any(p.isfinite().all() for p in state.model.parameters())


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_an_inactive_guard_is_bitwise_the_plain_optimizer(precision):
    """Five steps with the guard, and the same in plain PyTorch without one."""
    model = tiny.bert(dropout=0.0)
    config = dataclasses.replace(CONFIG, precision=precision)
    setup = build(tiny.TokenTask(), tiny.token_rows(40), config, copy.deepcopy(model))
    optimizer = make_optimizer(model, CONFIG)
    model.train()
    setup.state.model.train()
    for _, [batch] in setup.data.steps():
        step(setup.state, [batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(**batch.inputs).logits.float()
        loss = nn.functional.cross_entropy(logits, batch.targets["labels"], reduction="sum")
        (loss / batch.num_items).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    assert setup.state.step == 5
    assert differing(setup.state.model, model) == 0.0
    for ours, theirs in zip(setup.state.model.parameters(), model.parameters(), strict=True):
        moments = setup.state.optimizer.state[ours]
        assert all(torch.equal(value, optimizer.state[theirs][key]) for key, value in moments.items())


def test_checking_never_asks_the_device():
    """A tensor on the meta device has no value: reading one would raise."""
    guard = SkipGuard(torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True), torch.device("meta"), sticky=True)
    guard.check(torch.zeros((), device="meta"), torch.ones((), device="meta"))
    assert guard.skip.is_meta


# ------------------------------------------------------------------------------------------------ guard and GradScaler


def scale_of(state) -> float:
    return float(state.scaler.get_scale())


def test_a_scale_of_a_power_of_two_changes_no_bit():
    """1024 shifts the exponent of every gradient and back: nothing is lost in float32."""
    plain, batches = started()
    scaled, _ = started(scaled=True)
    for micro_batches in batches:
        step(plain, micro_batches)
        step(scaled, micro_batches)
    assert scale_of(scaled) == 1024.0
    assert same(snapshot(plain), snapshot(scaled))


def test_an_overflow_skips_the_update_halves_the_scale_and_is_over():
    state, batches = started(scaled=True)
    before = snapshot(state)
    hook = spoil(state.model, math.inf)
    step(state, batches[0])
    assert same(before, snapshot(state))
    assert scale_of(state) == 512.0
    assert not bool(state.guard.diverged), "in fp16 an overflow is no divergence"
    hook.remove()
    step(state, batches[1])
    assert not same(before, snapshot(state))
    assert scale_of(state) == 512.0


def test_a_step_without_items_leaves_the_scale_alone():
    """It has not overflowed. The scaler may take its flag for the guard's: then the scale would fall."""
    state, batches = started(scaled=True)
    before = snapshot(state)
    for micro_batches in batches[:3]:
        step(state, without_items(micro_batches))
        assert scale_of(state) == 1024.0
    assert same(before, snapshot(state))


def test_an_overflow_in_a_step_without_items_still_halves_the_scale():
    state, batches = started(scaled=True)
    before = snapshot(state)
    spoil(state.model, math.inf)
    step(state, without_items(batches[0]))
    assert scale_of(state) == 512.0
    assert same(before, snapshot(state))


def test_skipping_leaves_nothing_behind_in_the_optimizer():
    """An overflow's flag that stayed would skip the next step, too; the guard's own is renewed at each check."""
    state, batches = started(scaled=True)
    spoil(state.model, math.inf)
    step(state, without_items(batches[0]))
    assert not hasattr(state.optimizer, "found_inf")
    assert not hasattr(state.optimizer, "grad_scale")
    state, batches = started()
    step(state, without_items(batches[0]))
    assert float(state.optimizer.found_inf) == 1.0
    step(state, batches[1])
    assert float(state.optimizer.found_inf) == 0.0
