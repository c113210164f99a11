"""Plainloop: engine.build and engine.loop.train with the run's real book-keeping, in a temporary directory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine.build
import engine.seed
from bench.contest.contenders.plain_loop import RECORDINGS
from bench.contest.job import Job
from bench.contest.language import LanguageTask
from bench.contest.ready import ReadyData
from bench.contest.timing import Gate
from bench.contest.workload import TokenTask, Workload
from engine import loop
from engine.build import build
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.plan import Position
from engine.model import packing
from engine.model.flops import count_flops, peak_flops
from engine.record.run import Run
from engine.state import StepRecord, TrainState


class TimedRun(Run):
    """The run's book-keeping, and the gate after it. Nothing is saved: no contender saves."""

    gate: Gate

    def log(self, at: Position, micro_batches: list[Batch], record: StepRecord) -> None:
        super().log(at, micro_batches, record)
        for batch in micro_batches:
            self.gate.saw([row for _, row in batch.keys], batch.num_tokens, batch.executed_tokens, batch.sum_squares)
        if not self.gate.step(record.loss_sum / record.num_items):
            self.should_stop = True

    def save(self, at: Position) -> None:
        pass


def train(job: Job, workload: Workload, model: nn.Module, gate: Gate) -> None:
    """As run.py would, on token arrays."""
    if not job.fast_dropout:
        setattr(packing, "use_fast_dropout", lambda model: None)  # noqa: B010 - mypy takes the name for a private import
    if job.track != "D":  # beside others at equal terms: --allocator decides for all
        setattr(engine.build, "keep_freed_memory", lambda: False)  # noqa: B010
    settings: dict[str, Any] = {
        "batch_size": job.batch_size, "max_steps": job.num_steps, "learning_rate": job.learning_rate,
        "weight_decay": job.weight_decay, "max_grad_norm": job.max_grad_norm, "precision": job.precision,
        "batching": job.batching, "compile": job.compile, "device": job.device, "seed": job.seed,
    }  # fmt: skip
    settings["cuda_graph"] = {None: "auto", True: "on", False: "off"}[job.cuda_graph]
    config = TrainConfig(**settings)
    task = (LanguageTask if job.task == "language" else TokenTask)(workload, job.max_length)
    setup = build(task, workload.examples(), config, model)
    gate.precision, gate.layout = setup.precision, "bucketed" if setup.data.plan.bucketed else setup.layout.kind
    data: Any = setup.data
    if job.precollated:
        data = ReadyData(data, gate.num_steps)
        if setup.graphs:
            record_graphs(setup.state, task, data)
            engine.seed.set_seed(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = TimedRun(
            Path(folder), config, setup.state, setup.data.plan.num_steps,
            flops=count_flops(setup.state.model, task.level), peak_flops=peak_flops(setup.state.device, setup.precision),
        )  # fmt: skip
        run.gate = gate
        try:
            loop.train(setup.state, task, data, config, setup.world, run)
        finally:
            run.close()


def record_graphs(state: TrainState, task: TokenTask, data: ReadyData) -> None:
    """Forward and backward on a batch of every shape, so that all are recorded. The weights stay as they are."""
    state.model.train()
    for batch in data.of_each_shape():
        for _ in range(RECORDINGS):
            state.execute(loop.accumulate, state, task, [batch], torch.ones((), device=state.device))
            state.optimizer.zero_grad(set_to_none=True)
    state.clock.forget()
