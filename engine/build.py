"""Putting a run together, in the one order that works; the only place that knows it.

seed -> examples -> model -> device -> optimizer and schedule -> (checkpoint) -> seed again, or the checkpoint's RNG.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.clock import Clock
from engine.collate import Layout
from engine.config import TrainConfig
from engine.data import Data
from engine.errors import UsageError
from engine.optimizer import Guard, make_optimizer, make_schedule
from engine.parallel import World, choose_device
from engine.plan import Plan
from engine.precision import Precision, choose_precision, make_autocast, make_scaler
from engine.state import TrainState
from engine.task import Examples, Task


@dataclass(frozen=True)
class Setup:
    """A run put together, before its first step."""

    state: TrainState
    data: Data
    world: World
    precision: Precision
    layout: Layout


def set_seed(seed: int) -> None:
    """Every generator a step may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # CUDA and MPS too


def build(task: Task[Any], examples: Examples, config: TrainConfig, model: nn.Module | None = None) -> Setup:
    """The state before step 1. ``model``: one's own, else the task's. Raises UsageError, ModelError.

    The seed is set before the model is built, so that a new head is a function of it, and again after, so that the
    dropout of step 1 does not depend on how many numbers the head took (nor does Trainer's, which seeds there).
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it before its first call
    torch.use_deterministic_algorithms(config.deterministic)
    set_seed(config.seed)
    model = (task.build_model() if model is None else model).to(device)
    plan = Plan.of(config, examples.lengths)
    layout = make_layout(task, config)
    optimizer = make_optimizer(model, config)
    clock = Clock(device)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, plan.num_steps),
        scaler=make_scaler(precision, device),
        guard=Guard(optimizer, device, sticky=precision != "fp16"),
        autocast=make_autocast(precision, device),
        clock=clock,
        device=device,
    )
    data = Data(plan, task, examples, layout, config, device, clock)
    set_seed(config.seed)
    return Setup(state, data, World(device), precision, layout)


def make_layout(task: Task[Any], config: TrainConfig) -> Layout:
    """What ``--batching`` means for a batch; which examples meet in it is the plan's."""
    if config.batching != "max_length":
        return Layout("padded")
    max_length = getattr(task, "max_length", None)
    if max_length is None:
        raise UsageError(f"--batching max_length: the task {type(task).__name__} has no length to pad to")
    return Layout("max_length", max_length)
