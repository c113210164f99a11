"""Putting a run together, in the one order that works; the only place that knows it.

seed -> examples -> model -> packed attention -> targets -> LoRA -> frozen parameters -> device -> compile -> optimizer
and schedule -> (checkpoint) -> seed again, or the checkpoint's RNG.
"""

from __future__ import annotations

import dataclasses
import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from engine import lora, targets
from engine.batching import choose_layout
from engine.clock import Clock
from engine.collate import Layout
from engine.config import TrainConfig
from engine.data import Data
from engine.errors import UsageError
from engine.memory import keep_freed_memory
from engine.memory_guard import MemoryGuard
from engine.optimizer import Guard, freeze, make_optimizer, make_schedule
from engine.parallel import World, choose_device
from engine.plan import Plan
from engine.precision import Precision, allow_tf32, choose_precision, make_autocast, make_scaler
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
    allow_tf32(device)
    if device.type == "cpu":
        keep_freed_memory()
    if config.lora:
        lora.library()  # is it there? asked before a model is loaded
    model = task.build_model() if model is None else model
    layout = choose_layout(config.batching, model, task.level, getattr(task, "max_length", None), device, precision)
    targets.enable(model, task.level)
    if config.lora:
        model = lora.add(model, config, task.source.config.revision)
    if config.freeze is not None:
        freeze(model, config.freeze)
    model = model.to(device)
    if config.cuda_graph == "on":
        longest = int(getattr(task, "max_length", 0) or model.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
        layout = few_shapes(layout, longest, device)
    if config.compile and layout.kind == "packed" and device.type == "cpu":
        raise UsageError("--compile on a CPU needs --batching padded: the packed attention there is a loop, and not a graph")
    if config.compiled:  # in place: torch.compile(model) would rename the parameters
        model.compile(dynamic=True, mode="reduce-overhead" if config.cuda_graph == "on" else None)
    plan = Plan.of(config, examples.lengths, packed=layout.kind == "packed")
    optimizer = make_optimizer(model, config)
    clock = Clock(device)
    state = TrainState(
        model=model,
        parameters=[p for p in model.parameters() if p.requires_grad],
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, plan.num_steps),
        scaler=make_scaler(precision, device),
        guard=Guard(optimizer, device, sticky=precision != "fp16"),
        autocast=make_autocast(precision, device),
        clock=clock,
        device=device,
    )
    data = Data(plan, task, examples, layout, config, device, clock)
    if task.additive:
        state.run = MemoryGuard(data.batch)
    set_seed(config.seed)
    return Setup(state, data, World(device), precision, layout)


def few_shapes(layout: Layout, max_length: int, device: torch.device) -> Layout:
    """Rounded lengths and a constant longest one, so that a CUDA graph is recorded a few times only. Raises UsageError."""
    if device.type != "cuda" or layout.kind != "packed":
        raise UsageError("--cuda-graph on needs a CUDA device and packed batches")
    return dataclasses.replace(layout, max_length=max_length, round_to=256)
