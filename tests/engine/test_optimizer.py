"""The optimizers of the table: their updates are torch.optim's own, they resume to the same bits, and their sizes and names are told.

References are Trainer's AdamW, AdamW's formula in float64, and torch.optim's classes driven by hand.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from bench.toys import tiny
from engine.config import TrainConfig
from engine.errors import DivergedError, UsageError
from engine.fit import fit
from engine.muon import MuonWithAdamW
from engine.optimizer import (
    OPTIMIZERS,
    describe_optimizer,
    make_optimizer,
    matrices_of,
    state_bytes,
)
from tests.toys.killed import SMALL, assert_same_bits, small_task, train_to
from tests.toys.updates import CONFIG, KINDS, held, started, step


def finished(folder: Path, **more):
    config = TrainConfig(**{**SMALL, "precision": "fp32", "output_dir": str(folder), **more})
    return fit(small_task(), config, tiny.bert())


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


def torchs_own(model, name: str) -> list[torch.optim.Optimizer]:
    """The same, written down by hand from torch.optim, with the decay groups by name."""
    decayed = {p for n, p in model.named_parameters() if "bias" not in n and "LayerNorm" not in n}

    def groups(parameters):
        parts = ([p for p in parameters if (p in decayed) == wanted] for wanted in (True, False))
        both = zip(parts, (0.1, 0.0), strict=True)
        return [{"params": part, "weight_decay": decay} for part, decay in both if part]

    everything = list(model.parameters())
    if name == "adamw":
        return [torch.optim.AdamW(groups(everything), lr=1e-3, fused=True)]
    if name == "sgd":
        return [torch.optim.SGD(groups(everything), lr=1e-3)]
    if name == "sgd, momentum":
        return [torch.optim.SGD(groups(everything), lr=1e-3, momentum=0.9)]
    if name == "adafactor":
        return [torch.optim.Adafactor(groups(everything), lr=1e-3)]
    matrices = [p for n, p in model.named_parameters() if "encoder.layer" in n and p.ndim == 2]
    others = [p for p in everything if not any(p is matrix for matrix in matrices)]
    muon = torch.optim.Muon(groups(matrices), lr=1e-3, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups(others), lr=1e-3, fused=True)]


@pytest.mark.parametrize("kind", ["adamw", "sgd", "sgd, momentum", "adafactor", "muon"])
def test_each_is_torchs_own_bitwise(kind):
    """Six steps through the loop against a plain loop around torch.optim."""
    state, batches = started(kind, done=0)
    model = tiny.bert(dropout=0.0)
    optimizers = torchs_own(model, kind)
    for [batch] in batches[:6]:
        step(state, [batch])
        loss = nn.functional.cross_entropy(model(**batch.inputs).logits.float(), batch.targets["labels"], reduction="sum")
        (loss / batch.num_items).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (name, ours), theirs in zip(state.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_settings_of_an_optimizer_reach_it():
    adamw = make_optimizer(tiny.bert(), TrainConfig(adam_beta1=0.8, adam_beta2=0.95, adam_eps=1e-6)).param_groups[0]
    assert adamw["betas"] == (0.8, 0.95) and adamw["eps"] == 1e-6 and adamw["fused"]
    assert make_optimizer(tiny.bert(), TrainConfig(optimizer="sgd", momentum=0.7)).param_groups[0]["momentum"] == 0.7
    groups = make_optimizer(tiny.bert(), TrainConfig(optimizer="muon", momentum=0.7, adam_beta2=0.95)).param_groups
    assert {g["momentum"] for g in groups if g["kind"] == "muon"} == {0.7}
    assert {g["betas"] for g in groups if g["kind"] == "adamw"} == {(0.9, 0.95)}
    default = make_optimizer(tiny.bert(), TrainConfig(optimizer="muon")).param_groups[-1]
    assert default["momentum"] == 0.95 and default["adjust_lr_fn"] == "match_rms_adamw"


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else():
    model = tiny.bert()
    names = {name for name, p in model.named_parameters() if p in matrices_of(model)}
    assert names == {
        f"bert.encoder.layer.{layer}.{part}.weight"
        for layer in (0, 1)
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                     "intermediate.dense", "output.dense")
    }  # fmt: skip
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon"))
    assert isinstance(optimizer, MuonWithAdamW)
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len({id(p) for p in listed}) == len(list(model.parameters()))
    model.bert.requires_grad_(False)
    with pytest.raises(UsageError, match="no matrix in a transformer block to train"):
        make_optimizer(model, TrainConfig(optimizer="muon"))


def test_muon_alone_where_nothing_else_is_trained():
    model = tiny.bert()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.weight.requires_grad_(True)
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=1e-2))
    assert [group["kind"] for group in optimizer.param_groups] == ["muon"]
    before = model.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.weight.grad = torch.randn(32, 32)
    optimizer.step()
    assert not torch.equal(before, model.bert.encoder.layer[0].attention.self.query.weight)


SECONDS = [pytest.mark.bf16, pytest.mark.slow]


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(kind, "fp32") for kind in list(KINDS)[1:]] + [pytest.param(kind, "bf16", marks=SECONDS) for kind in list(KINDS)[1:]],
)
def test_resume_is_bitwise(tmp_path, kind, precision):
    """5 steps an epoch, a checkpoint every 3, killed after 7; dropout on."""
    config = TrainConfig(**SMALL, save_steps=3, eval_steps=5, precision=precision, **KINDS[kind])
    whole = train_to(tmp_path / "whole", small_task(), config, tiny.bert())
    train_to(tmp_path / "cut", small_task(), config, tiny.bert(), until=7)
    resumed = train_to(tmp_path / "cut", small_task(), config, tiny.bert(), resume=True)
    assert_same_bits(whole, resumed)
    assert held(whole) == held(resumed)
    for one, other in zip(whole.optimizer.param_groups, resumed.optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
        assert [type(value) for value in one.values()] == [type(one[key]) for key in one]


@pytest.mark.parametrize("kind", ["sgd, momentum", "adafactor", "muon", "average"])
def test_resuming_without_the_state_would_not_be(tmp_path, kind, monkeypatch):
    """The comparison can fail."""
    config = TrainConfig(**SMALL, save_steps=3, precision="fp32", **KINDS[kind])
    whole = train_to(tmp_path / "whole", small_task(), config, tiny.bert())
    train_to(tmp_path / "cut", small_task(), config, tiny.bert(), until=7)
    what = "load_average" if kind == "average" else "load_optimizer"
    monkeypatch.setattr(f"engine.checkpoint.snapshot.{what}", lambda *arguments: None)
    resumed = train_to(tmp_path / "cut", small_task(), config, tiny.bert(), resume=True)
    assert held(whole) != held(resumed)


@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_a_run_that_diverges_stops_with_the_weights_from_before(tmp_path, kind, monkeypatch):
    """Through fit: exit code 5, and the checkpoint is finite."""
    loss = tiny.TokenTask.loss

    def broken(self, outputs, batch):
        bad = any(key[1] == 13 for key in batch.keys) and outputs.logits.requires_grad
        return loss(self, outputs, batch) * (math.nan if bad else 1.0)

    monkeypatch.setattr(tiny.TokenTask, "loss", broken)
    with pytest.raises(DivergedError):
        finished(tmp_path / "run", save_steps=1, log_steps=1, **KINDS[kind])
    for path in (tmp_path / "run/checkpoints").glob("*/*.safetensors"):
        assert path.name.startswith("rng") or all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_the_flag_and_the_table_have_the_same_names():
    assert list(get_args(get_type_hints(TrainConfig)["optimizer"])) == list(OPTIMIZERS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_memory_is_what_is_held(kind):
    state, _ = started(kind)
    counted = sum(value.nbytes for values in state.optimizer.state.values() for key, value in values.items() if key != "step")
    averaged = sum(tensor.nbytes for tensor in state.average.tensors.values())
    found = state_bytes(state.model, dataclasses.replace(CONFIG, **KINDS[kind]))
    assert found.pop("average", 0) == averaged
    assert list(found.values()) == [counted]


@pytest.mark.parametrize(("settings", "text"), [
    ({}, "AdamW (betas 0.9 and 0.999, epsilon 1e-8)"),
    ({"optimizer": "adamw", "adam_beta2": 0.95, "adam_eps": 1e-6}, "AdamW (betas 0.9 and 0.95, epsilon 1e-6)"),
    ({"optimizer": "sgd", "momentum": None}, "SGD (momentum 0; weight decay is added to the gradient)"),
    ({"optimizer": "sgd", "momentum": 0.9}, "SGD (momentum 0.9; weight decay is added to the gradient)"),
    ({"optimizer": "adafactor"}, "Adafactor (that of torch.optim, with its defaults)"),
    ({"optimizer": "muon", "momentum": None}, "Muon (momentum 0.95) for the matrices of the transformer blocks, "
     "AdamW (betas 0.9 and 0.999, epsilon 1e-8) for all else"),
    ({"layer_decay": 0.8}, "AdamW (betas 0.9 and 0.999, epsilon 1e-8), the learning rate of each block 0.8 times that of the "
     "one above it"),
])  # fmt: skip
def test_descriptions(settings, text):
    """Of an older run's settings, too, which name no optimizer."""
    assert describe_optimizer(settings) == text


def test_the_card_says_what_was_used(tmp_path):
    finished(tmp_path / "run", max_steps=3, optimizer="sgd", momentum=0.9, ema_decay=0.5)
    card = (tmp_path / "run/README.md").read_text()
    assert (
        "The optimizer is SGD (momentum 0.9; weight decay is added to the gradient). Saved is an exponential moving average"
        in card
    )
    assert "| momentum | 0.9 |" in card and "| ema decay | 0.5 |" in card and "AdamW" not in card


def test_explain_says_what_is_used(tmp_path, capsys):
    task = tiny.TokenTask(train=tiny.token_rows(20))
    config = TrainConfig(**SMALL, optimizer="muon", ema_decay=0.5, explain=True, output_dir=str(tmp_path / "run"))
    fit(task, config, tiny.bert())
    said = capsys.readouterr().out
    assert "optimizer  Muon (momentum 0.95) for the matrices of the transformer blocks" in said
    assert "12 tensors: rate 0.001, decay 0.01, Muon" in said and "+ Muon and AdamW " in said and "+ average " in said


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_what_needs_whole_matrices_is_not_sharded(name):
    with pytest.raises(UsageError, match=f"--optimizer {name} needs whole matrices, which --shard takes apart"):
        TrainConfig(optimizer=name, shard=True)
    TrainConfig(optimizer="sgd", shard=True, ema_decay=0.9)


@pytest.mark.parametrize(("settings", "text"), [
    ({"optimizer": "sgd", "adam_beta1": 0.8}, "--adam-beta1 is AdamW's, and --optimizer sgd has none"),
    ({"optimizer": "adafactor", "adam_eps": 1e-6}, "--adam-eps is AdamW's, and --optimizer adafactor has none"),
    ({"momentum": 0.9}, "--momentum is of sgd and muon, and --optimizer adamw has none"),
    ({"optimizer": "sgd", "momentum": 1.0}, "--momentum must be at least 0 and less than 1, found 1.0"),
    ({"adam_beta2": 1.0}, "--adam-beta2 must be at least 0 and less than 1, found 1.0"),
    ({"adam_beta1": math.nan}, "--adam-beta1 must be at least 0 and less than 1, found nan"),
    ({"adam_eps": 0.0}, "--adam-eps must be a positive finite number, found 0.0"),
    ({"layer_decay": 0.0}, "--layer-decay must be above 0 and at most 1, found 0.0"),
    ({"layer_decay": 1.5}, "--layer-decay must be above 0 and at most 1, found 1.5"),
    ({"ema_decay": 1.0}, "--ema-decay must be at least 0 and less than 1, found 1.0"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings, text):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**settings)
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_a_copy_of_the_model_has_an_optimizer_of_its_own():
    """``copy`` is used by --explain: two optimizers never share a state."""
    model = tiny.bert()
    one, two = (make_optimizer(m, TrainConfig(optimizer="muon")) for m in (model, copy.deepcopy(model)))
    assert one.state is not two.state and one.muon.state is one.state is one.adamw.state
