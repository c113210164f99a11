"""The loop that everyone writes by hand: DataLoader, autocast, backward, clip, AdamW, schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from bench.contest.job import Job
from bench.contest.ready import ready_loader
from bench.contest.timing import Gate
from bench.contest.workload import Features, Workload, batches, collator

RECORDINGS = 3


def train(job: Job, workload: Workload, model: nn.Module, gate: Gate) -> None:
    """In PyTorch alone."""
    device = gate.device
    loader = make_loader(job, workload, gate)
    model.to(device)
    optimizer = make_optimizer(job, model)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, job.num_steps)
    if job.compiles:
        model.compile(dynamic=True, mode="reduce-overhead" if job.cuda_graph else None)
    model.train()

    def forward(batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: tensor.to(device, non_blocking=job.tuned or job.precollated) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            loss: Tensor = model(**inputs).loss
        return loss

    if job.cuda_graph and job.precollated:
        record_graphs([batch for _, batch in loader.dataset], forward, optimizer)  # type: ignore[attr-defined]
    for batch in loader:
        loss = forward(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), job.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if not gate.step(loss):
            break


def record_graphs(
    batches: list[dict[str, Tensor]], forward: Callable[[dict[str, Tensor]], Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Forward and backward thrice on a batch of every shape: run, recorded, replayed. The weights stay as they are."""
    for batch in {batch["input_ids"].shape: batch for batch in batches}.values():
        for _ in range(RECORDINGS):
            forward(batch).backward()
            optimizer.zero_grad()


def make_loader(job: Job, workload: Workload, gate: Gate) -> DataLoader[Any]:
    """Over the batches of the plan."""
    if job.precollated:
        return ready_loader(job, workload, gate)
    return DataLoader(
        Features(workload),
        batch_sampler=batches(job, workload.lengths),
        collate_fn=gate.watched(collator(job)),
        generator=torch.Generator(),  # of its own: else it draws from the global one, and dropout differs
        pin_memory=job.tuned and gate.device.type == "cuda",
    )


def make_optimizer(job: Job, model: nn.Module) -> torch.optim.AdamW:
    """Weight decay for matrices, none for biases and norms: what has one dimension."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": job.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=job.learning_rate, fused=True if job.fused else None)
