"""``evaluate --rows``: the loss of each row, and whether it is right; and the same for ``sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from engine.data.batch import Batch
from engine.errors import UsageError
from engine.findings.rows import RowLook
from engine.task import Examples, Judge, Review, Task


class Looks:
    """Several that are shown the outputs of one evaluation."""

    def __init__(self, looks: Sequence[Any]):
        self.looks = looks

    def update(self, outputs: Any, batch: Batch) -> None:
        for look in self.looks:
            look.update(outputs, batch)


def row_looks(
    task: Task[Any], sets: Mapping[str, Examples], reviews: Mapping[str, Review]
) -> tuple[dict[str, RowLook], dict[str, Looks]]:
    """What gathers the rows of each set, and what is shown its outputs. ``reviews``: that are made already, and are shown them,
    too."""
    found, shown = {}, {}
    for name, examples in sets.items():
        review: Any = reviews.get(name)
        if review is None:
            with suppress(UsageError):  # nothing is right or wrong
                review = task.review(name)
        judge = review if isinstance(review, Judge) else None
        found[name] = RowLook(task, examples, task.source.held.get(name), judge)
        also = [review] if judge is not None or name in reviews else []
        shown[name] = Looks([found[name], *also])
    return found, shown
