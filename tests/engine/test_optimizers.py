"""The table of optimizers, each entry under the same demands, and what goes around them: groups by depth, the average.

References are torch.optim's classes driven by hand, torch's own AveragedModel, and the numbers of the state itself.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.toys import tiny
from engine.build import build
from engine.checkpoint import snapshot, store
from engine.config import TrainConfig
from engine.distributed.world import World
from engine.errors import DivergedError, UsageError
from engine.fit import fit
from engine.loader import batches as batches_of
from engine.loader import eval_loader
from engine.loop import train_step
from engine.muon import MuonWithAdamW, unless
from engine.optimizer import (
    OPTIMIZERS,
    SkipGuard,
    depths,
    describe_optimizer,
    make_optimizer,
    make_sgd,
    matrices_of,
    parameter_groups,
    state_bytes,
)
from engine.record.evaluate import evaluate
from tests.engine.test_resume import SMALL, assert_same_bits, run_to

WORLD = World(torch.device("cpu"))
CONFIG = TrainConfig(
    learning_rate=1e-3, weight_decay=0.1, batch_size=8, epochs=1, device="cpu", schedule="constant", batching="padded",
    precision="fp32",
)  # fmt: skip
KINDS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd"},
    "sgd, momentum": {"optimizer": "sgd", "momentum": 0.9},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "average": {"ema_decay": 0.9},
    "muon, layers, average": {"optimizer": "muon", "ema_decay": 0.9, "layer_decay": 0.5, "head_learning_rate": 1e-2},
}


def started(kind: str, *, scaled: bool = False, done: int = 2):
    """A state after some steps, and the micro-batches that follow."""
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    setup = build(tiny.TokenTask(), tiny.token_rows(64), config, tiny.bert(dropout=0.0))
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


def held(state) -> dict[str, bytes]:
    """The bytes of all weights, of everything that the optimizer keeps, and of the average; -0 is not 0 here."""
    found = {f"average {name}": value for name, value in state.average.tensors.items()}
    for name, parameter in state.model.named_parameters():
        found[name] = parameter.detach()
        found |= {f"{name}//{key}": value for key, value in state.optimizer.state.get(parameter, {}).items()}
    return {name: value.numpy().tobytes() for name, value in found.items()}


def spoil(model, value: float):
    """From now on one gradient holds this value."""
    return model.classifier.weight.register_hook(lambda gradient: torch.full_like(gradient, value))


# --------------------------------------------------------------------------------------------------- skipping an update


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_items_leaves_every_byte(kind, scaled):
    state, batches = started(kind, scaled=scaled)
    before = held(state)
    step(state, without_items(batches[0]))
    assert held(state) == before
    step(state, batches[1])
    after = held(state)
    assert after.keys() == before.keys()
    assert all(after[name] != value for name, value in before.items() if name.endswith("weight")), "the next one counts"


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_items_would_change_the_weights_if_nobody_looked(kind):
    """The guard can fail: a zero gradient decays the weights, of which the average then has some."""
    state, batches = started(kind)
    before = held(state)
    state.guard.check = lambda grad_norm, num_items: None
    step(state, without_items(batches[0]))
    assert held(state)["classifier.weight"] != before["classifier.weight"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_sticks_and_leaves_every_byte(kind, value):
    state, batches = started(kind)
    before = held(state)
    hook = spoil(state.model, value)
    step(state, batches[0])
    assert bool(state.guard.diverged) and held(state) == before
    hook.remove()
    step(state, batches[1])
    assert held(state) == before, "this step is sound, and does not count all the same"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_would_spoil_the_weights_if_nobody_looked(kind):
    state, batches = started(kind)
    spoil(state.model, math.nan)
    state.guard.check = lambda grad_norm, num_items: None
    step(state, batches[0])
    assert not state.model.classifier.weight.isfinite().any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_step_that_is_skipped_leaves_the_weights_and_nought(kind):
    state, batches = started(kind, done=0)
    before = held(state)
    step(state, without_items(batches[0]))
    after = held(state)
    assert {name: after[name] for name in before} == before
    assert not any(any(value) for name, value in after.items() if name not in before), "state that is made is all zeros"
    for micro_batches in batches[1:3]:
        step(state, micro_batches)
    reference, batches = started(kind, done=0)
    for micro_batches in batches[1:3]:
        step(reference, micro_batches)
    assert held(state) == held(reference), "as if it had not been: the schedule is constant"


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_in_fp16_skips_its_update_and_is_over(kind):
    """The scaler's rule, with each optimizer: every byte stays, the scale is halved, the next step counts."""
    state, batches = started(kind, scaled=True)
    before = held(state)
    hook = spoil(state.model, math.inf)
    step(state, batches[0])
    assert held(state) == before and float(state.scaler.get_scale()) == 512.0
    hook.remove()
    step(state, batches[1])
    assert held(state)["classifier.weight"] != before["classifier.weight"] and float(state.scaler.get_scale()) == 512.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_in_the_very_first_step_warns_of_nothing(kind, recwarn):
    """torch would say that the schedule must not be called before the optimizer, which GradScaler has left out."""
    state, batches = started(kind, scaled=True, done=0)
    hook = spoil(state.model, math.inf)
    step(state, batches[0])
    hook.remove()
    step(state, batches[1])
    assert [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_a_power_of_two_changes_no_bit(kind):
    plain, batches = started(kind)
    scaled, _ = started(kind, scaled=True)
    for micro_batches in batches[:3]:
        step(plain, micro_batches)
        step(scaled, micro_batches)
    assert held(plain) == held(scaled)


def test_who_decides_on_the_device():
    """AdamW, Muon and, on CUDA, SGD obey ``found_inf``; where the others run, the host reads."""
    by_host = {}
    for name in OPTIMIZERS:
        optimizer = make_optimizer(tiny.bert(), TrainConfig(optimizer=name))
        by_host[name] = SkipGuard(optimizer, torch.device("cpu"), sticky=True).by_host
    assert by_host == {"adamw": False, "sgd": True, "adafactor": True, "muon": False}
    fused = make_sgd(parameter_groups(tiny.bert(), CONFIG), CONFIG, fused=True)
    assert not SkipGuard(fused, torch.device("cpu"), sticky=True).by_host


def test_the_fused_sgd_of_cuda_starts_from_zeros_when_its_first_update_is_skipped():
    """torch would make its buffers of memory as it finds it, skip, and use them in the next step."""
    config = dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.9)
    results = []
    for skipped_first in (False, True):
        model = tiny.bert()
        optimizer = make_sgd(parameter_groups(model, config), config, fused=True)
        for first in [True, False] if skipped_first else [False]:
            optimizer.found_inf = torch.tensor(float(first))
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, math.nan if first else 0.5)
            optimizer.step()
        results.append([parameter.detach().numpy().tobytes() for parameter in model.parameters()])
    assert results[0] == results[1]


def test_muons_step_never_asks_the_device():
    """What has no value, on the meta device, cannot be read."""
    tensors = [torch.zeros(3, device="meta")]
    unless(torch.zeros((), device="meta"), tensors, lambda: tensors[0].add_(1))
    tensors = [torch.zeros(3)]
    unless(torch.ones(()), tensors, lambda: tensors[0].add_(math.nan))
    assert torch.equal(tensors[0], torch.zeros(3))
    unless(torch.zeros(()), tensors, lambda: tensors[0].add_(1))
    assert torch.equal(tensors[0], torch.ones(3))


# ------------------------------------------------------------------------------------------------- the updates themselves


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


# ------------------------------------------------------------------------------------------------------------ by depth


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


# ----------------------------------------------------------------------------------------------------------- the average


def test_the_average_is_torchs_bitwise_and_training_does_not_see_it():
    """AveragedModel copies the weights when it is first updated; ours begins with those at the start, so it is told so."""
    state, batches = started("average", done=0)
    plain, _ = started("adamw", done=0)
    theirs = AveragedModel(state.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged += 1
    for number, full in enumerate(batches[:6]):
        micro_batches = without_items(full) if number == 3 else full
        step(state, micro_batches)
        step(plain, micro_batches)
        if number != 3:
            theirs.update_parameters(state.model)
    for name, p in theirs.module.named_parameters():
        assert torch.equal(state.average.tensors[name], p), name
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), plain.model.parameters(), strict=True))


def test_an_average_in_place_is_what_is_evaluated_and_the_weights_come_back():
    state, _ = started("average")
    before = held(state)
    with pytest.raises(RuntimeError, match="in the middle"), state.average.in_place():
        for name, p in state.model.named_parameters():
            assert p.detach().numpy().tobytes() == before[f"average {name}"]
        raise RuntimeError("in the middle")
    assert held(state) == before


def finished(folder: Path, **more):
    task = tiny.TokenTask(train=tiny.token_rows(50), evaluation=tiny.token_rows(20, seed=5))
    config = TrainConfig(**{**SMALL, "precision": "fp32", "output_dir": str(folder), **more})
    return task, fit(task, config, tiny.bert())


@pytest.mark.parametrize("eval_steps", [2, 15])
def test_the_average_is_saved_and_is_what_the_figures_are_of(tmp_path, eval_steps):
    """Best in the middle (its checkpoint is read) or at the end (it is taken from memory)."""
    task, result = finished(tmp_path / "run", ema_decay=0.8, eval_steps=eval_steps, save_steps=1, keep_checkpoints=20)
    saved = load_file(tmp_path / "run/model.safetensors")
    matching = [
        path for path in sorted((tmp_path / "run/checkpoints").iterdir())
        if all(torch.equal(saved[name], tensor) for name, tensor in load_file(path / "average.safetensors").items())
    ]  # fmt: skip
    assert len(matching) == 1
    assert not torch.equal(load_file(matching[0] / "model.safetensors")["classifier.weight"], saved["classifier.weight"])
    model = tiny.bert()
    model.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    setup = build(task, task.train, TrainConfig(**{**SMALL, "precision": "fp32"}), model)
    loader = eval_loader(task, task.evaluation, setup.layout, TrainConfig(), WORLD)
    found = evaluate(model, task, batches_of(loader), setup.state.autocast, WORLD)
    assert found.figures["loss"] == result.metrics["eval_loss"]


def test_without_a_decay_there_is_no_file_of_averages(tmp_path):
    finished(tmp_path / "run", max_steps=2)
    names = {path.name for path in next((tmp_path / "run/checkpoints").iterdir()).iterdir()}
    assert names == {"MANIFEST.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}


def test_an_average_that_remembers_more_than_the_run_is_said(tmp_path, capsys):
    finished(tmp_path / "short", max_steps=2, ema_decay=0.99)
    assert "--ema-decay 0.99 remembers 100 steps, and the run has 2" in capsys.readouterr().err
    finished(tmp_path / "long", ema_decay=0.9)
    assert "remembers" not in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_resume_is_bitwise(tmp_path, kind, precision):
    """5 steps an epoch, a checkpoint every 3, killed after 7; dropout on."""
    config = TrainConfig(**SMALL, save_steps=3, eval_steps=5, precision=precision, **KINDS[kind])
    whole = run_to(tmp_path / "whole", config, None)
    run_to(tmp_path / "cut", config, 7)
    resumed = run_to(tmp_path / "cut", config, None, resume=True)
    assert_same_bits(whole, resumed)
    assert held(whole) == held(resumed)
    for one, other in zip(whole.optimizer.param_groups, resumed.optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
        assert [type(value) for value in one.values()] == [type(one[key]) for key in one]


@pytest.mark.parametrize("kind", ["sgd, momentum", "adafactor", "muon", "average"])
def test_resuming_without_the_state_would_not_be(tmp_path, kind, monkeypatch):
    """The comparison can fail."""
    config = TrainConfig(**SMALL, save_steps=3, precision="fp32", **KINDS[kind])
    whole = run_to(tmp_path / "whole", config, None)
    run_to(tmp_path / "cut", config, 7)
    what = "load_average" if kind == "average" else "load_optimizer"
    monkeypatch.setattr(f"engine.checkpoint.snapshot.{what}", lambda *arguments: None)
    resumed = run_to(tmp_path / "cut", config, None, resume=True)
    assert held(whole) != held(resumed)


def test_a_checkpoint_without_the_average_is_refused(tmp_path):
    run_to(tmp_path / "run", TrainConfig(**SMALL, save_steps=3, precision="fp32"), 4)
    setup = build(tiny.TokenTask(), tiny.token_rows(50), TrainConfig(**SMALL, precision="fp32", ema_decay=0.9), tiny.bert())
    with pytest.raises(ValueError, match="averaged weights are not those of this run"):
        snapshot.load_state(setup.state, store.newest(tmp_path / "run/checkpoints"))


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


# -------------------------------------------------------------------------------------------- names, sizes, descriptions


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
