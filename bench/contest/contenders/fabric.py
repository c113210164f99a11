"""The plain loop with Lightning Fabric: setup, backward, clip_gradients are its."""

from __future__ import annotations

from typing import Any

from lightning_fabric import Fabric
from torch import nn
from transformers import get_linear_schedule_with_warmup

from bench.contest.contenders.plain_loop import make_loader, make_optimizer
from bench.contest.job import Job
from bench.contest.timing import Gate
from bench.contest.workload import Workload


def train(job: Job, workload: Workload, model: nn.Module, gate: Gate) -> None:
    """As its guide has it."""
    precision = "bf16-mixed" if job.precision == "bf16" else "32-true"
    fabric = Fabric(accelerator=gate.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    optimizer = make_optimizer(job, model)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, job.num_steps)
    wrapped, prepared = fabric.setup(model, optimizer)
    loader: Any = fabric.setup_dataloaders(make_loader(job, workload, gate))
    wrapped.train()
    for batch in loader:
        loss = wrapped(**batch).loss
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, prepared, max_norm=job.max_grad_norm)
        prepared.step()
        schedule.step()
        prepared.zero_grad()
        if not gate.step(loss):
            break
