"""Out of memory: the same step in smaller pieces, and nothing of the failed try is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.toys import tiny
from engine.build import build
from engine.checkpoint.snapshot import load_state, take_snapshot
from engine.checkpoint.store import commit, open_checkpoint
from engine.config import TrainConfig
from engine.errors import ResourceError
from engine.loop import train_step
from engine.memory import retry

SMALL = {"batch_size": 8, "accumulation_steps": 2, "max_steps": 4, "learning_rate": 1e-3, "device": "cpu"}
BF16 = pytest.param("bf16", marks=pytest.mark.bf16)


class TooLarge(torch.autograd.Function):
    """The identity, whose backward pass runs out of memory."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("out of memory")


def runs_out(model: nn.Module, max_examples: int, where: str) -> list[int]:
    """From now on more than ``max_examples`` rows do not fit; returns the sizes of the batches that did not."""
    failed: list[int] = []

    def rows(kwargs) -> int:
        return int((kwargs["cu_seq_lens_q"].diff() > 0).sum()) if "cu_seq_lens_q" in kwargs else len(kwargs["input_ids"])

    def forward(module, args, kwargs):
        nonlocal too_many
        too_many = rows(kwargs) > max_examples
        if too_many:
            failed.append(rows(kwargs))
        if too_many and where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory")

    def backward(module, args, output):
        """At the model's lower end: all gradients above have been added by then."""
        return TooLarge.apply(output) if too_many and where == "backward" else output

    too_many = False
    model.register_forward_pre_hook(forward, with_kwargs=True)
    model.base_model.embeddings.register_forward_hook(backward)
    return failed


def steps(
    num_steps=4, *, max_examples=None, where="forward", dropout=0.0, preset=None, batching="padded", rows=64, precision="fp32"
):
    """Some steps; returns the state, the losses and the sizes that did not fit. ``preset``: cut from the start."""
    config = TrainConfig(**SMALL, batching=batching, precision=precision)
    task = tiny.TokenTask(train=tiny.token_rows(rows))
    model = tiny.bert(dropout=dropout)
    setup = build(task, task.train, config, model)
    failed = runs_out(model, max_examples, where) if max_examples is not None else []
    setup.state.max_tokens = preset
    model.train()
    losses = []
    for (_, batches), _ in zip(setup.data.steps(), range(num_steps), strict=False):
        losses.append(float(train_step(setup.state, task, batches, config, setup.world).loss_sum))
    return setup.state, losses, failed


def largest_difference(a, b) -> float:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)


@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_run_that_ran_out_ends_with_the_same_weights(where, batching, precision, capsys):
    """Float noise only: the sums are taken in other pieces. AdamW moves each weight by up to 1e-3 a step here.

    In bf16 a gradient has 8 bits of mantissa in each piece, and AdamW divides by its size: a gradient that is nearly 0 may
    change its sign, so that a weight goes the other way.
    """
    whole, losses, _ = steps(batching=batching, precision=precision)
    cut, cut_losses, failed = steps(batching=batching, max_examples=3, where=where, precision=precision)
    assert failed  # 8 rows, then perhaps 4
    assert largest_difference(whole, cut) < {"fp32": 2e-6, "bf16": 4e-3}[precision]
    assert cut_losses == pytest.approx(losses, rel={"fp32": 1e-6, "bf16": 2**-8}[precision])
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "out of memory" in line]) == len(failed)


def test_the_size_is_remembered():
    _, _, failed = steps(max_examples=4)
    _, _, again = steps(max_examples=4, preset=1)
    assert 1 <= len(failed) < 8  # of eight micro-batches: those of the size that was known are cut before they fail
    assert again == []


@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_nothing_of_the_failed_try_is_left(where, precision):
    """With dropout: bit by bit as if the batches had been cut from the start, so gradients and random numbers are back."""
    state, losses, failed = steps(1, max_examples=4, where=where, dropout=0.1, precision=precision)
    known, known_losses, none = steps(1, preset=state.max_tokens, dropout=0.1, precision=precision)
    assert failed and not none
    assert losses == known_losses
    assert largest_difference(state, known) == 0


@pytest.mark.parametrize("guard", ["set_generators", "zero_grad"])
def test_that_comparison_can_fail(guard, monkeypatch):
    if guard == "set_generators":
        monkeypatch.setattr(retry, "set_generators", lambda states: None)
    else:
        monkeypatch.setattr(torch.optim.AdamW, "zero_grad", lambda self, set_to_none=True: None)
    state, _, _ = steps(1, max_examples=4, where="backward", dropout=0.1)
    monkeypatch.undo()
    known, _, _ = steps(1, preset=state.max_tokens, dropout=0.1)
    assert largest_difference(state, known) > 0


def test_a_single_example_that_does_not_fit_ends_the_run():
    with pytest.raises(ResourceError, match=r"single example \(row \d+ of the data, counted from 0.*--max-length") as error:
        steps(max_examples=0)
    assert error.value.exit_code == 6


def test_other_errors_pass():
    def broken(*arguments):
        raise RuntimeError("shapes do not fit")

    state, _, _ = steps(0)
    with pytest.raises(RuntimeError, match="shapes"):
        state.execute(broken, state, None, [], torch.ones(()))


def test_a_loss_that_is_not_additive_is_not_cut():
    class Contrastive(tiny.TokenTask):
        additive = False

    config = TrainConfig(**SMALL, batching="padded")
    task = Contrastive(train=tiny.token_rows(20))
    model = tiny.bert()
    setup = build(task, task.train, config, model)
    runs_out(model, 3, "forward")
    _, batches = next(iter(setup.data.steps()))
    with pytest.raises(torch.OutOfMemoryError):
        train_step(setup.state, task, batches, config, setup.world)


def test_a_resumed_run_cuts_the_same(tmp_path):
    state, _, _ = steps(1, max_examples=4)
    fresh, _, _ = steps(0)
    load_state(fresh, open_checkpoint(commit(tmp_path, 1, take_snapshot(state, {}).files())))
    assert fresh.max_tokens == state.max_tokens is not None


REAL = """
import resource, torch
from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.loop import train_step

def pages():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def hook(module, args, kwargs):
    torch.empty(len(kwargs["input_ids"]), 16 << 20)  # 64 MiB a row of the address space, which is what is limited

config = TrainConfig(batch_size=8, accumulation_steps=2, max_steps=4, learning_rate=1e-3, device="cpu", batching="padded")
task = tiny.TokenTask(train=tiny.token_rows(64))
model = tiny.bert(dropout=0.0)
setup = build(task, task.train, config, model)
model.train()
_, batches = next(iter(setup.data.steps()))
train_step(setup.state, task, batches, config, setup.world)  # whatever is allocated once, is now
model.register_forward_pre_hook(hook, with_kwargs=True)
resource.setrlimit(resource.RLIMIT_AS, (pages() + (500 << 20), resource.RLIM_INFINITY))
train_step(setup.state, task, batches, config, setup.world)
assert setup.state.max_tokens is not None
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the address space")
@pytest.mark.slow
def test_with_memory_that_really_is_short():
    """64 MiB a row and 500 MiB left: eight rows do not fit."""
    root = Path(__file__).parent.parent.parent.parent
    done = subprocess.run([sys.executable, "-c", REAL], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "out of memory on cpu" in done.stderr, done.stderr  # once or more: the heap may be in pieces
