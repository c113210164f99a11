"""The model as several ranks train it: what is exchanged and how often, what is sharded, and a model without weights."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.toys import tiny
from bench.toys.ranks import NoResult
from engine.build import build
from engine.checkpoint.snapshot import model_tensors
from engine.distributed import join
from engine.distributed.wrap import blocks, fill, shard, skeleton
from engine.errors import UsageError
from engine.fit import fit
from engine.loop import accumulate
from tests.toys.pairs import make_task as make_pairs
from tests.toys.ranks import assert_close_runs, config, in_ranks, make


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_are_exchanged_once_a_step(shard):
    """Of three micro-batches; a small model is one bucket, or three groups of shards."""

    def part(rank: int) -> int:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            setup = build(task, task.train, config(Path(), batch_size=7, accumulation_steps=3, shard=shard), model, world)
            steps = setup.data.steps()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:  # a hook in Python may wait for its own lock
                for _ in range(2):
                    _, micro_batches = next(steps)
                    accumulate(setup.state, task, micro_batches, torch.tensor(8.0))
            calls = {event.key: event.count for event in profiled.key_averages()}
            return int(calls["c10d::_reduce_scatter_base_" if shard else "c10d::allreduce_"])

    assert in_ranks(2, part) == [2 * (3 if shard else 1)] * 2


def test_halves_that_overflow_on_one_rank_are_skipped_on_all():
    """fp16 with shards: the overflow lies in one rank's; no weight moves, and the scale is halved everywhere."""

    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            model = shard(tiny.bert(), world, "fp32")
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
            before = {name: p.to_local().clone() for name, p in model.named_parameters()}
            for overflows in (True, False):
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                    parameter.grad.to_local().fill_(8.0)
                if overflows and rank == 1:
                    next(model.parameters()).grad.to_local().view(-1)[0] = float("inf")
                scaler.scale(torch.ones(()))
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                moved = [name for name, p in model.named_parameters() if not torch.equal(p.to_local(), before[name])]
                found_here.append((scaler.get_scale(), len(moved)))
            return found_here

    found_here: list[tuple[float, int]] = []
    for found in in_ranks(2, part):
        (scale, moved), (again, all_moved) = found
        assert (scale, moved, again) == (4.0, 0, 4.0) and all_moved > 0


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_chunks_of_a_contrastive_batch_are_exchanged(shard, tmp_path):
    """Each chunk is a forward pass of its own, computed again in the backward pass; the end is that without chunks."""
    start = tiny.save_model(tmp_path / "start", tiny.distilbert(dropout=0.0).distilbert)

    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            for size in (None, 3):
                settings = config(tmp_path / f"{size}", shard=shard, batch_size=8, accumulation_steps=1, max_steps=4)
                fit(make_pairs(start, chunk_size=size), settings, world=world)

    assert in_ranks(2, part) == [None, None]
    assert_close_runs(tmp_path / "None", tmp_path / "3")


def test_a_task_whose_figures_generate_is_not_sharded(tmp_path):
    """Its ranks would call the model, and with it the exchange, as often as their own rows happen to want."""
    task, model = make("sequence")
    task.shardable = False
    with pytest.raises(UsageError, match="--shard: this task's evaluation generates"):
        fit(task, config(tmp_path, shard=True), model)


def test_the_process_group_dies_after_what_uses_it(tmp_path):
    """Torch's reducer, let go of last, would wait with the GIL for the group's threads, of which one may be waiting for it:
    of 100 runs that ended with their first exchange of gradients 8 did not end. From Python, the group lets go of the GIL."""

    def part(rank: int) -> list[str]:
        died: list[str] = []
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            setup = build(task, task.train, config(tmp_path / "run"), model, world)
            weakref.finalize(setup.state.replica.reducer, died.append, "reducer")
            weakref.finalize(setup.state.replica.process_group, died.append, "group")
        assert died == []
        del setup
        gc.collect()
        return died

    assert in_ranks(2, part) == [["reducer", "group"]] * 2


def test_a_rank_that_dies_without_a_word_is_no_result():
    """Not to be taken for a function that returns None."""

    def part(rank: int) -> None:
        if rank == 1:
            os._exit(3)
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    none, exited, killed = in_ranks(3, part)
    assert none is None and (str(exited), str(killed)) == ("exit code 3", "exit code -9")
    assert isinstance(exited, NoResult)


def test_blocks_are_the_outermost_lists():
    model = tiny.bert()
    assert blocks(model) == [*model.bert.encoder.layer]
    nested = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(2, 2)])])
    assert blocks(torch.nn.Sequential(nested)) == [nested[0]]


def test_a_skeleton_has_no_weights_and_keeps_what_is_tied():
    model = tiny.bert()
    model.classifier.weight = model.bert.pooler.dense.bias  # any two
    empty = skeleton(model)
    assert all(parameter.is_meta for parameter in empty.parameters())
    filled = fill(empty, {name: tensor.clone() for name, tensor in model_tensors(model).items()})
    assert filled.classifier.weight is filled.bert.pooler.dense.bias
    assert all(torch.equal(a, b) for a, b in zip(filled.state_dict().values(), model.state_dict().values(), strict=True))


def test_the_rehearsal_is_no_part_of_the_time(tmp_path, capfd):
    def part(rank: int) -> float:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            setup = build(task, task.train, config(tmp_path / "run"), model, world)
            return sum(setup.state.clock.read().values()) + sum(setup.state.clock.take().values())

    assert in_ranks(2, part) == [0.0, 0.0]
