"""An exported model beside the one that it is of, on labelled rows: probabilities, the metric, and how fast both are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.data.tables import called
from engine.exporting.program import Called
from engine.task import Examples, Task

MOST_GROUPS = 20  # of rows, each left out in turn
ROWS = 32  # of a batch
ROUNDS, TIMED = 3, 20  # of the timing, and the batches of each


@dataclass(frozen=True)
class Difference:
    """What both say of the same rows.

    ``largest``: of probabilities, in the row, or the first of the rows, that is called ``where``. ``before`` and ``after``: the
    metric of either; ``lost``: by how much it is worse, with its standard error (None: there is one batch).
    """

    num_rows: int
    largest: float
    where: str
    metric: str
    before: float
    after: float
    lost: float
    standard_error: float | None


class Sums:
    """The figures of one model, of all rows and of all but each group of them."""

    def __init__(self, task: Task[Any], split: str, groups: int):
        self.task = task
        self.metrics = [task.metrics(split) for _ in range(groups + 1)]  # the last: of all
        self.losses, self.items = [0.0] * (groups + 1), [0] * (groups + 1)

    def update(self, group: int, model: Any, outputs: Any, batch: Batch) -> None:
        loss = float(self.task.loss(outputs, batch))
        for left_out, metrics in enumerate(self.metrics):
            if left_out != group:
                metrics.update(model, outputs, batch)
                self.losses[left_out] += loss
                self.items[left_out] += batch.num_items

    def figure(self, name: str, left_out: int = -1) -> float:
        if name == "loss":
            return self.losses[left_out] / max(1, self.items[left_out])
        return float(self.metrics[left_out].compute()[name])


def chosen_metric(task: Task[Any], split: str, name: str | None) -> str:
    """The run's; where that is the loss, the first of the task's figures, for a limit on it means something."""
    metrics = task.metrics(split)
    name = (name or task.best_metric).rpartition("/")[2]  # of one of several sets
    return name if name in metrics.names else next(iter(metrics.names), "loss")


def compare(
    task: Task[Any], model: nn.Module, layout: Layout, program: Called, padded: Layout, examples: Examples, split: str,
    metric: str,
) -> Difference:  # fmt: skip
    """Both on all rows. The standard error is a jackknife's: groups of rows left out in turn, of the difference of the two."""
    number = len(examples)
    batches = batches_of(number)
    groups = min(MOST_GROUPS, len(batches))
    sums = Sums(task, split, groups), Sums(task, split, groups)
    largest, worst = -1.0, 0
    with torch.inference_mode():
        for index, rows in enumerate(batches):
            some = [examples[row] for row in rows]
            ours, theirs = task.collate(some, layout), task.collate(some, padded)
            one, other = task.forward(model, ours), task.forward(program, theirs)  # type: ignore[arg-type]
            difference = (task.compared(one, ours) - task.compared(other, theirs)).abs()
            if difference.numel() and not (most := float(difference.max())) <= largest:  # NaN is
                is_by_row = len(difference) == len(rows)
                largest, worst = most, rows[int(difference.flatten(1).amax(1).argmax()) if is_by_row else 0]
            sums[0].update(index % groups, model, one, ours)
            sums[1].update(index % groups, program, other, theirs)
    is_lower = metric == "loss" or metric in task.metrics(split).lower_is_better
    before, after = sums[0].figure(metric), sums[1].figure(metric)
    lost = [(after - before) if is_lower else (before - after)]
    for group in range(groups if groups > 1 else 0):
        one_left, other_left = sums[0].figure(metric, group), sums[1].figure(metric, group)
        lost.append((other_left - one_left) if is_lower else (one_left - other_left))
    return Difference(number, largest, called(examples, [worst]), metric, before, after, lost[0], jackknife(lost[1:]))


def jackknife(left_out: Sequence[float]) -> float | None:
    """The standard error of a figure from those with each group left out."""
    if len(left_out) < 2:
        return None
    mean = sum(left_out) / len(left_out)
    return math.sqrt((len(left_out) - 1) / len(left_out) * sum((each - mean) ** 2 for each in left_out))


def batches_of(number: int) -> list[list[int]]:
    """The rows as they stand, in batches so small that there are groups of them."""
    size = max(1, min(ROWS, number // MOST_GROUPS))
    return [list(range(start, min(start + size, number))) for start in range(0, number, size)]


def rows_per_second(task: Task[Any], runs: Sequence[tuple[Any, Layout]], examples: Examples) -> list[float]:
    """Of each model with its layout, in the best of some rounds that they take by turns."""
    return [max(found) for found in rounds(task, runs, examples, ROUNDS)]


def rounds(
    task: Task[Any], runs: Sequence[tuple[Any, Layout]], examples: Examples, number: int, timed: int = TIMED
) -> list[list[float]]:
    """Rows a second of each model in each of so many rounds, in which all compute the same ``timed`` batches by turns."""
    order = sorted(range(len(examples)), key=lambda row: -int(examples.lengths[row]))
    cut = [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
    some = cut[:: max(1, len(cut) // timed)][:timed]
    made = [[task.collate([examples[row] for row in rows], layout) for rows in some] for _, layout in runs]
    taken: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for _ in range(number + 1):  # the first warms up
            for at, ((model, _), batches) in enumerate(zip(runs, made, strict=True)):
                taken[at].append(seconds(task, model, batches))
    return [[sum(map(len, some)) / each for each in found[1:]] for found in taken]


def seconds(task: Task[Any], model: Any, batches: Sequence[Batch]) -> float:
    began = time.perf_counter()
    for batch in batches:
        task.forward(model, batch)
    return time.perf_counter() - began
