"""Everything a step changes, in one object: what is saved is what is here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler

from engine.average import Average
from engine.clock import Clock
from engine.data.batch import Batch
from engine.optimizer import SkipGuard

T = TypeVar("T")


def call(function: Callable[..., T], *arguments: Any) -> T:
    """The plain way to run a part of a step; memory/retry.py has another."""
    return function(*arguments)


@dataclass
class TrainState:
    """The state of a run between two steps; ``step`` counts optimizer steps done."""

    model: nn.Module  # for saving, metrics and evaluation
    replica: nn.Module  # the same as training calls it: with several ranks, DistributedDataParallel is around it
    parameters: list[nn.Parameter]  # the trained ones, listed once: walking the modules costs a small model half its step
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    guard: SkipGuard
    average: Average  # of the weights; it holds nothing without --ema-decay
    autocast: Callable[[], AbstractContextManager[Any]]
    clock: Clock
    device: torch.device
    step: int = 0
    max_tokens: int | None = None  # larger micro-batches are cut in two, because one has not fitted into memory
    execute: Callable[..., Any] = call

    def zero_grad(self) -> None:
        """Let the gradients go. As ``optimizer.zero_grad()`` does, which takes longer for many small tensors."""
        for parameter in self.parameters:
            parameter.grad = None

    def to_device(self, batch: Batch) -> Batch:
        """The batch on this device; the copy is asynchronous on CUDA."""
        with self.clock.phase("copy"):
            return batch.to(self.device)


@dataclass(frozen=True)
class StepRecord:
    """What a step leaves for the log. The tensors live on the device; reading them waits for it.

    ``loss_sum``: () over this rank's items; ``num_items``: () of the whole step; ``grad_norm``: () before clipping;
    ``learning_rate``: the one this step used.
    """

    loss_sum: Tensor
    num_items: Tensor
    grad_norm: Tensor
    learning_rate: float | Tensor
