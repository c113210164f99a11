"""What evaluations have answered, kept for the profile of the run: of the last one, and of the best.

It costs an evaluation a softmax of its logits and a product of its last layer's vectors with a narrow matrix, and memory a
few numbers for each row. Next: findings/profile.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.console import note
from engine.data.batch import Batch
from engine.record.progress import Best
from engine.task import Answers, Task, Watch

Look = Callable[[Any, Batch], None]


class Answered:
    """What is answered in one evaluation: what the task keeps of it, and where the rows' vectors stand (model/projected.py)."""

    def __init__(self, watch: Watch):
        self.watch, self.projected = watch, list[Tensor]()  # of each batch, on its device

    def update(self, outputs: Any, batch: Batch) -> None:
        """Nothing waits for the device."""
        self.watch.update(outputs, batch)
        if (found := getattr(outputs, "projected", None)) is not None:
            self.projected.append(found)

    def answers(self) -> Answers:
        """Without vectors where there is not one for each row."""
        found = self.watch.answers()
        if sum(map(len, self.projected)) != len(found.rows) or not len(found.rows):
            return found
        return found._replace(projected=torch.cat(self.projected).cpu().numpy())


class Seen:
    """``sets``: the names of the evaluation sets, of which the first is looked at. ``at``: by step, what was answered then."""

    def __init__(self, task: Task[Any], sets: Sequence[str]):
        self.task, self.at = task, dict[int, Answered]()
        self.split = sets[0] if task.watched and sets else None

    def look(self, split: str, step: int, best: Best | None) -> Look | None:
        """What an evaluation shows its outputs; None: nothing is kept of this set."""
        if split != self.split:
            return None
        self.at = {each: found for each, found in self.at.items() if best is not None and each == best.step}
        try:
            self.at[step] = answered = Answered(self.task.watch(split))
        except Exception as error:  # of whatever a subclass has changed: a profile is not worth a run
            self.give_up(error)
            return None

        def look(outputs: Any, batch: Batch) -> None:
            if self.split is not None and batch.weight:  # a filler is there for the other ranks only
                try:
                    answered.update(outputs, batch)
                except Exception as error:
                    self.give_up(error)

        return look

    def give_up(self, error: Exception) -> None:
        """Once, and for all evaluations that follow."""
        self.split, self.at = None, {}
        note(f"warning: there will be no profile of what the model answers ({type(error).__name__}: {error})")
