"""Where in the model the time of a step goes: each operation counts for one module, the backward pass for the forward's."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from engine.record.modules import SPAN, over_layers, own_times, spans_of, with_parts


class Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(ctx.backward_seconds)
        return gradient.clone(), None, None


class Slow(nn.Module):
    def __init__(self, forward, backward):
        super().__init__()
        self.seconds = forward, backward

    def forward(self, x):
        return Sleep.apply(x, *self.seconds)


class Layer(nn.Module):
    """Its own time is none; that of its part lies between two linear layers, so that the numbers must be told apart."""

    def __init__(self, forward, backward, again=False):
        super().__init__()
        self.first, self.slow, self.last, self.again = nn.Linear(4, 4), Slow(forward, backward), nn.Linear(4, 4), again

    def forward(self, x):
        x = self.first(x)
        return checkpoint(self.rest, x, use_reentrant=False) if self.again else self.rest(x)

    def rest(self, x):
        return self.last(self.slow(x))


def look(model):
    x = torch.randn(3, 4, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, spans_of(model):
        model(x).sum().backward()
    return own_times(profiler.events(), on_device=False)


def assert_at_least(found, seconds):
    """A busy machine sleeps longer; what is counted for one module is counted for no other (the last test but one)."""
    assert all(micro / 1e6 >= 0.95 * least for micro, least in zip(found, seconds, strict=True)), (found, seconds)


def test_forward_and_backward_count_for_the_module_that_they_are_of():
    model = nn.Sequential(Layer(0.01, 0.03), Layer(0.02, 0.0), Layer(0.0, 0.02))
    own = look(model)
    for i, times in enumerate([(0.01, 0.03), (0.02, 0.0), (0.0, 0.02)]):
        assert_at_least(own[f"{i}.slow"], times)
    assert all(min(own[f"{i}.first"]) > 0 for i in range(3)), "both passes of each linear layer"


def test_what_is_computed_again_counts_as_backward():
    """Recomputing stops within ``last`` by an exception; the spans that it leaves are closed, and the next module is right."""
    own = look(nn.Sequential(Layer(0.01, 0.03), Layer(0.02, 0.0, again=True)))
    assert_at_least(own["1.slow"], (0.02, 0.02))
    assert_at_least(own["0.slow"], (0.01, 0.03))


def test_the_rows_hold_what_is_within_and_nothing_twice():
    model = nn.Sequential(Layer(0.01, 0.01), Layer(0.01, 0.0))
    own = look(model)
    rows = {row["name"]: row for row in with_parts(own, model, num_steps=2, wall=0.06)}
    everything = sum(map(sum, own.values())) / 1000 / 2
    assert rows[""]["forward"] + rows[""]["backward"] == pytest.approx(everything)
    assert rows["0"]["forward"] == pytest.approx(sum(own[name][0] for name in own if name.startswith("0")) / 2000)
    assert rows[""]["share"] == pytest.approx(everything * 2 / 1000 / 0.06)
    assert sum(row["own"] for row in rows.values()) == pytest.approx(everything, rel=0.02), "but for the smallest"
    assert over_layers(list(rows.values()), 1)[0][:2] == ("*.slow", 2)


def test_a_failing_forward_pass_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError), spans_of(model):
        model(torch.zeros(1, 5))
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        model(torch.zeros(1, 4))
    assert not any(event.name.startswith(SPAN) for event in profiler.events())
