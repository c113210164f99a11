"""What evaluations have answered, kept for the profile of the run: of the last one, and of the best.

It costs an evaluation a softmax of its logits, and memory a few numbers for each row. Next: findings/profile.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.console import note
from engine.data.batch import Batch
from engine.record.progress import Best
from engine.task import Task, Watch

Look = Callable[[Any, Batch], None]


class Seen:
    """``sets``: the names of the evaluation sets, of which the first is looked at. ``at``: by step, what was answered then."""

    def __init__(self, task: Task[Any], sets: Sequence[str]):
        self.task, self.at = task, dict[int, Watch]()
        self.split = sets[0] if task.watched and sets else None

    def look(self, split: str, step: int, best: Best | None) -> Look | None:
        """What an evaluation shows its outputs; None: nothing is kept of this set."""
        if split != self.split:
            return None
        self.at = {each: watch for each, watch in self.at.items() if best is not None and each == best.step}
        try:
            self.at[step] = watch = self.task.watch(split)
        except Exception as error:  # of whatever a subclass has changed: a profile is not worth a run
            self.give_up(error)
            return None

        def look(outputs: Any, batch: Batch) -> None:
            if self.split is not None and batch.weight:  # a filler is there for the other ranks only
                try:
                    watch.update(outputs, batch)
                except Exception as error:
                    self.give_up(error)

        return look

    def give_up(self, error: Exception) -> None:
        """Once, and for all evaluations that follow."""
        self.split, self.at = None, {}
        note(f"warning: there will be no profile of what the model answers ({type(error).__name__}: {error})")
