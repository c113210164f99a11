"""One pass over held-out data: the mean loss over all items, and the task's metrics.

The loss is summed over items and divided once, so it does not depend on the evaluation batch size (a mean of batch
means does). Metrics are merged batch by batch; no logits are kept. The training RNG is not touched: nothing here draws
from it (dropout is off, the loader has its own generator).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from engine.console import note, progress_bar
from engine.data.batch import Batch
from engine.distributed.world import World
from engine.distributed.wrap import release
from engine.record.figures import Evaluation
from engine.task import Task


def evaluate(
    model: nn.Module,
    task: Task[Any],
    loader: Iterable[Batch],
    autocast: Callable[[], AbstractContextManager[Any]],
    world: World,
    *,
    split: str = "eval",
    total: int | None = None,
    look: Callable[[Any, Batch], None] | None = None,
) -> Evaluation:
    """The mean loss over all items, NaN if there are none, and the task's metrics. Collective.

    ``split``: the name of the evaluation set. ``total``: the number of batches, for the bar; ``look`` is shown the outputs of
    each.
    """
    began = time.perf_counter()
    was_training = model.training
    model.eval()
    metrics = task.metrics(split)
    wide = torch.float32 if world.device.type == "mps" else torch.float64
    loss_sum = torch.zeros((), dtype=wide, device=world.device)
    num_items = num_examples = num_steps = 0
    bar = progress_bar(loader, desc=f"evaluating ({split})", total=total, leave=False, hidden=not world.is_main, unit="batch")
    try:
        with torch.inference_mode():
            for batch in bar:
                moved = batch.to(world.device)
                with autocast():
                    outputs = task.forward(model, moved)
                    loss_sum += task.loss(outputs, moved) * moved.weight
                if moved.weight:  # a filler is there for the other ranks only
                    metrics.update(model, outputs, moved)
                if look is not None:
                    look(outputs, moved)
                num_items += batch.num_items
                num_examples += batch.num_examples
                num_steps += 1
    finally:
        release(model)
        model.train(was_training)
    metrics.sync(world)
    loss, *counts = world.all_reduce(torch.tensor([float(loss_sum), num_items, num_examples], dtype=torch.float64)).tolist()
    num_items, num_examples = (int(count) for count in counts)
    if not num_items:
        note(f"nothing to measure: the {num_examples} examples of {split!r} hold no target, so there is no loss and no metric")
    loss = loss / num_items if num_items else math.nan
    runtime = time.perf_counter() - began
    figures = {"loss": loss, **metrics.compute()}
    classes = metrics.classes() if num_items and hasattr(metrics, "classes") else {}
    return Evaluation(figures, num_examples, num_steps, runtime, classes)
