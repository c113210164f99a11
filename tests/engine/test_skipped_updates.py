"""An update that must not happen leaves every byte: no items, a gradient that is not finite, an overflow in fp16.

Every optimizer of the table is under the same demands, and each demand is seen to fail when nobody looks.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.muon import unless
from engine.optimizer import (
    OPTIMIZERS,
    SkipGuard,
    make_optimizer,
    make_sgd,
    parameter_groups,
)
from tests.toys.updates import CONFIG, KINDS, held, spoil, started, step, without_items


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_items_leaves_every_byte(kind, scaled):
    state, batches = started(kind, scaled=scaled)
    before = held(state)
    record = step(state, without_items(batches[0]))
    assert (float(record.num_items), float(record.loss_sum), float(record.grad_norm)) == (0, 0, 0)
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_sticks_and_leaves_every_byte(kind, value):
    state, batches = started(kind)
    before = held(state)
    hook = spoil(state.model, value)
    assert not math.isfinite(float(step(state, batches[0]).grad_norm))
    assert bool(state.guard.diverged) and held(state) == before
    hook.remove()
    assert math.isfinite(float(step(state, batches[1]).grad_norm))
    assert held(state) == before, "this step is sound, and does not count all the same"
    step(state, without_items(batches[2]))
    assert held(state) == before and bool(state.guard.diverged)


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
    for ours, theirs in zip(setup.state.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        moments = setup.state.optimizer.state[ours]
        assert all(torch.equal(value, optimizer.state[theirs][key]) for key, value in moments.items())


def test_checking_never_asks_the_device():
    """A tensor on the meta device has no value: reading one would raise."""
    guard = SkipGuard(torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True), torch.device("meta"), sticky=True)
    guard.check(torch.zeros((), device="meta"), torch.ones((), device="meta"))
    assert guard.skip.is_meta


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


# ------------------------------------------------------------------------------------------------ with a GradScaler


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_a_power_of_two_changes_no_bit(kind):
    plain, batches = started(kind)
    scaled, _ = started(kind, scaled=True)
    for micro_batches in batches[:3]:
        step(plain, micro_batches)
        step(scaled, micro_batches)
    assert held(plain) == held(scaled)


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_in_fp16_skips_its_update_and_is_over(kind):
    """The scaler's rule, with each optimizer: every byte stays, the scale is halved, the next step counts."""
    state, batches = started(kind, scaled=True)
    before = held(state)
    hook = spoil(state.model, math.inf)
    step(state, batches[0])
    assert held(state) == before and float(state.scaler.get_scale()) == 512.0
    assert not bool(state.guard.diverged), "in fp16 an overflow is no divergence"
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


def scale_of(state) -> float:
    return float(state.scaler.get_scale())


def test_a_step_without_items_leaves_the_scale_alone():
    """It has not overflowed. The scaler may take its flag for the guard's: then the scale would fall."""
    state, batches = started("adamw", scaled=True)
    before = held(state)
    for micro_batches in batches[:3]:
        step(state, without_items(micro_batches))
        assert scale_of(state) == 1024.0
    assert held(state) == before


def test_an_overflow_in_a_step_without_items_still_halves_the_scale():
    state, batches = started("adamw", scaled=True)
    before = held(state)
    spoil(state.model, math.inf)
    step(state, without_items(batches[0]))
    assert scale_of(state) == 512.0
    assert held(state) == before


def test_skipping_leaves_nothing_behind_in_the_optimizer():
    """An overflow's flag that stayed would skip the next step, too; the guard's own is renewed at each check."""
    state, batches = started("adamw", scaled=True)
    spoil(state.model, math.inf)
    step(state, without_items(batches[0]))
    assert not hasattr(state.optimizer, "found_inf")
    assert not hasattr(state.optimizer, "grad_scale")
    state, batches = started("adamw")
    step(state, without_items(batches[0]))
    assert float(state.optimizer.found_inf) == 1.0
    step(state, batches[1])
    assert float(state.optimizer.found_inf) == 0.0
