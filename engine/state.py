"""Everything a step changes, in one object: what is saved is what is here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from engine.clock import Clock
from engine.optimizer import Guard


@dataclass
class TrainState:
    """The state of a run between two steps; ``step`` counts optimizer steps done."""

    model: nn.Module
    parameters: list[nn.Parameter]  # the trained ones, listed once: walking the modules costs a small model half its step
    optimizer: torch.optim.AdamW
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    guard: Guard
    autocast: Callable[[], AbstractContextManager[Any]]
    clock: Clock
    device: torch.device
    step: int = 0


@dataclass(frozen=True)
class StepRecord:
    """What a step leaves for the log. The tensors live on the device; reading them waits for it.

    ``loss_sum``: () over ``num_items`` () items of the whole step; ``grad_norm``: () before clipping;
    ``learning_rate``: the one this step used.
    """

    loss_sum: Tensor
    num_items: Tensor
    grad_norm: Tensor
    learning_rate: float | Tensor
