"""One contender's process: ``python -m bench.contest.worker JOB.json``, started by contest.py.

First a few steps without dropout, whose losses and clipped gradient norms have to be everybody's; then, from the same
weights again, warm-up and windows with the dropout of the checkpoint. The contender's code is the same in both.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.contest.job import Job
from bench.contest.timing import Channel, Gate, Watch, cost_clock
from bench.contest.workload import Features, Workload, batches, build_model, collator
from engine.distributed.device import choose_device
from engine.errors import UsageError
from engine.memory.usage import keep_freed_memory, peak_memory_gb
from engine.seed import set_seed
from engine.settings.own import is_own, object_in_file

FLOOR_STEPS = 100


def main(path: str) -> None:
    """Run the job; every line on stdout is a message."""
    channel = Channel(claim_stdout())
    job = Job.read(Path(path))
    if job.allocator == "mallopt" and not keep_freed_memory():
        raise SystemExit("--allocator mallopt: this C library has no such setting")
    if job.threads:
        torch.set_num_threads(job.threads)
    resolve(job.contender)  # imported now, while all may compute at once
    channel.send("hello")
    if not channel.wait():
        return
    device = choose_device(job.device)
    if job.tf32 and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    workload = Workload.load(job.tokens)
    check, _ = train(job, workload, channel, device, check=True)
    torch.compiler.reset()
    _, gate = train(job, workload, channel, device, check=False, before=check)
    channel.send("done", progress=gate.progress() | {"profile": profile_of(job, gate, device)})
    channel.wait()  # ending takes time, too: not while others are measured


def train(
    job: Job,
    workload: Workload,
    channel: Channel,
    device: torch.device,
    *,
    check: bool,
    before: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], Gate]:
    """The contender, once, from the starting weights. ``before``: what the check reported, for the timed run's progress."""
    job = job.for_check() if check else job
    model = build_model(job, workload.num_labels, dropout=not check)
    wants_floor = job.measure_floor and not check
    gate = Gate(
        job,
        channel,
        device,
        check=check,
        floor=make_floor(job, workload, model, device) if wants_floor else None,
        recompiles=num_compiled if job.compiles else lambda: 0,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    set_seed(job.seed)
    with Watch(model, norms=check) as watch:
        gate.progress = lambda: {
            "check": before, "timed": gate.report() | watch.report(), "memory_gb": peak_memory_gb(device), "profile": None,
            "precision": gate.precision, "layout": gate.layout,
        }  # fmt: skip
        resolve(job.contender)(job, workload, model, gate)
    return gate.report() | watch.report(), gate


def resolve(name: str) -> Callable[[Job, Workload, nn.Module, Gate], None]:
    """``module:function``, or the user's own ``FILE.py:FUNCTION``. Raises UsageError for what is no function."""
    module, _, function = name.rpartition(":")
    found: Any
    if is_own(name):
        found = object_in_file(name, "contender", f"--contender {name}")
    else:
        found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise UsageError(f"--contender {name}: the file defines no function of that name")
    return found  # type: ignore[no-any-return]


def claim_stdout() -> Any:
    """stdout for messages alone: what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def num_compiled() -> int:
    """Frames that torch.compile has taken up so far."""
    from torch._dynamo.utils import counters

    return int(counters["frames"]["total"])


def make_floor(job: Job, workload: Workload, model: nn.Module, device: torch.device) -> Callable[[], float]:
    """Seconds (see ``cost_clock``) of forward and backward alone, on the same batches and a copy of the same model."""
    collate, features = collator(job), Features(workload)
    prepared: list[Any] = []
    for rows in batches(job, workload.lengths)[:FLOOR_STEPS]:
        batch = collate([{k: v for k, v in features[row].items() if k != "row"} for row in rows])
        prepared.append({name: tensor.to(device) for name, tensor in batch.items()})
    cost = cost_clock(device)
    twin = copy.deepcopy(model).to(device).train()  # dropout belongs to the floor: all have it

    def measure() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = cost()
        for batch in prepared:
            twin(**batch).loss.backward()
            for parameter in twin.parameters():
                parameter.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (cost() - began) / len(prepared)

    return measure


def profile_of(job: Job, gate: Gate, device: torch.device) -> dict[str, Any] | None:
    """Milliseconds a step of each kind of work, and what the profiled steps had to do."""
    if gate.profile is None:
        return None
    from bench.contest.breakdown import by_kind

    counts = gate.batches[len(gate.losses) - job.profile_steps : len(gate.losses)]
    return {
        "ms": {kind: ms / job.profile_steps for kind, ms in by_kind(gate.profile, device).items()},
        "num_tokens": sum(c.num_tokens for c in counts) / job.profile_steps,
        "sum_squares": sum(c.sum_squares for c in counts) / job.profile_steps,
        "examples": sum(len(c.rows) for c in counts) / job.profile_steps,
    }


if __name__ == "__main__":
    main(sys.argv[1])
