"""The plain loop with Accelerate: prepare, backward, clip_grad_norm_ are its."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from transformers import get_linear_schedule_with_warmup

from bench.contest.contenders.plain_loop import make_loader, make_optimizer
from bench.contest.job import Job
from bench.contest.timing import Gate
from bench.contest.workload import Workload


def train(job: Job, workload: Workload, model: nn.Module, gate: Gate) -> None:
    """As its guide has it."""
    accelerator = Accelerator(
        mixed_precision="bf16" if job.precision == "bf16" else "no",
        cpu=gate.device.type == "cpu",
        dataloader_config=DataLoaderConfiguration(non_blocking=job.precollated),
    )
    optimizer = make_optimizer(job, model)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, job.num_steps)
    loader = make_loader(job, workload, gate)
    prepared, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    prepared.train()
    for batch in loader:
        loss = prepared(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), job.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if not gate.step(loss):
            break
