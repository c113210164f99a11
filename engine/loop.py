"""The training loop. Everything that Trainer hides is a line below; read from top to bottom.

A feature enters by a door that is open already, never by an ``if`` here: an object whose "off" is the identity (autocast,
scaler, guard, world), the data (plan, collate), a context (``clock.phase``), or a function around these three.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.distributed.world import World
from engine.distributed.wrap import full_tensor, gradient_sync
from engine.loader import Data
from engine.record.run import Run
from engine.state import StepRecord, TrainState
from engine.task import Task


def forward_backward(state: TrainState, task: Task[Any], batch: Batch, divisor: Tensor) -> Tensor:
    """Add one micro-batch's share to the gradients; returns its loss, a () SUM over its items."""
    with state.clock.phase("forward"), state.autocast():  # the identity in fp32
        loss = task.loss(task.forward(state.replica, batch), batch) * batch.weight  # () sum over the batch's items
    with state.clock.phase("backward"):
        state.scaler.scale(loss / divisor).backward()  # scaled in fp16 only, so that small gradients survive
        loss = loss.detach()  # the graph goes here
    return loss


def accumulate(state: TrainState, task: Task[Any], micro_batches: Collection[Batch], divisor: Tensor) -> Tensor:
    """The gradients of a whole step; returns the () SUM of this rank's losses."""
    loss_sum = divisor.new_zeros(())
    for i, batch in enumerate(micro_batches):
        with gradient_sync(state.replica, last=i + 1 == len(micro_batches)):  # the ranks exchange them once a step
            loss_sum += forward_backward(state, task, state.to_device(batch), divisor)
    return loss_sum


def update(state: TrainState, config: TrainConfig, num_items: Tensor) -> Tensor:
    """One optimizer step from the gathered gradients; returns their () 2-norm before clipping."""
    with state.clock.phase("clip"):
        state.scaler.unscale_(state.optimizer)  # clipping has to see the true gradients
        grad_norm = full_tensor(clip_grad_norm_(state.parameters, config.max_grad_norm))
    with state.clock.phase("optimizer"):
        state.guard.check(grad_norm, num_items)  # no items, or not finite: the step below changes nothing
        state.scaler.step(state.optimizer)  # in fp16, skipped when a gradient overflowed ...
        state.scaler.update()  # ... and then the scale is halved
        state.schedule.step()  # after the optimizer: the first step uses the first rate
        state.zero_grad()  # the next backward pass begins anew
    return grad_norm


def train_step(state: TrainState, task: Task[Any], micro_batches: list[Batch], config: TrainConfig, world: World) -> StepRecord:
    """One optimizer step over ``micro_batches``: the same however its examples were cut into them, and over the ranks."""
    num_items = world.sum(sum(batch.num_items for batch in micro_batches))  # (): a mean of means would be wrong
    learning_rate = state.schedule.get_last_lr()[0]
    divisor = num_items.clamp(min=1) / world.size  # the ranks' gradients are averaged
    loss_sum = state.execute(accumulate, state, task, micro_batches, divisor)  # a call, or cuda_graph.py, memory/retry.py
    grad_norm = update(state, config, num_items)
    state.step += 1
    return StepRecord(loss_sum, num_items, grad_norm, learning_rate)


def train(state: TrainState, task: Task[Any], data: Data, config: TrainConfig, world: World, run: Run) -> None:
    """Train from ``state.step`` to the end of the plan; what happens between two steps is in ``run``."""
    state.model.train()
    for at, micro_batches in data.steps(start=state.step):
        record = train_step(state, task, micro_batches, config, world)
        run.log(at, micro_batches, record)  # reads the device only when a line is due
        if at.due(config.eval_steps):
            run.evaluate(at)  # nothing without evaluation data
        if at.due(config.save_steps) or run.is_best or run.should_stop:
            run.save(at)
        if run.should_stop:
            break
