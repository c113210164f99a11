"""Two models on the same held-out rows: is the new one worse? Rows that the new one was trained on have no say.

Of each set: the difference of the accuracies, its 95% interval for paired rows (Tango, 1998), and McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.flags import UpdateConfig
from engine.config import TrainConfig
from engine.console import note, shown
from engine.data.files import read_named
from engine.data.form import Form
from engine.data.places import UNNAMED, sets_of
from engine.distributed.world import World
from engine.errors import DataError, UsageError
from engine.findings.significance import mcnemar, paired_interval
from engine.finished import Find, open_model
from engine.loader import batches, eval_loader
from engine.precision import make_autocast
from engine.record.evaluate import evaluate
from engine.task import Judge, held_out

OWN, GIVEN = "evaluation rows", "--eval-file"


@dataclass(frozen=True)
class Compared:
    """One set. ``rows``: that have a say; ``left_out``: that are among the new rows. ``gained``: rows that only the new model
    has right; ``lost``: those that only the old one has."""

    name: str
    rows: int
    left_out: int
    old: float
    new: float
    gained: int
    lost: int

    @property
    def interval(self) -> tuple[float, float]:
        return paired_interval(self.gained, self.lost, self.rows)

    @property
    def p(self) -> float:
        return mcnemar(self.gained, self.lost)

    def line(self) -> str:
        low, high = self.interval
        return (
            f"{shown(self.name, 40)}: accuracy {self.old:.4f}, new {self.new:.4f}: {self.new - self.old:+.4f} (95% interval {low:+.4f} to "
            f"{high:+.4f}, {self.rows:,} rows: {self.gained} gained, {self.lost} lost, McNemar's p {self.p:.2g})"
        )


@dataclass(frozen=True)
class Judged:
    """Of a set: which rows a model has right, [N] bool, and their texts."""

    right: np.ndarray
    words: Sequence[str]


def rule(margin: float) -> str:
    """When the new model is kept, in words."""
    return f"The rule: on each set the lower end of the 95% interval of the difference is at least {-margin or 0:g}"


def keeps(found: Sequence[Compared], margin: float) -> bool:
    return all(each.interval[0] >= -margin for each in found)


def compared(config: UpdateConfig, old: Path, new: Path, find: Find) -> list[Compared]:
    """Both models on the run's evaluation rows, and on ``--eval-file``. Raises DataError where no row has a say."""
    before, after = (judged(config, model, find) for model in (old, new))
    known = new_texts(config, old, find)
    found = []
    for name, one in before.items():
        other = after.get(name)
        if other is None or list(other.words) != list(one.words):
            raise DataError(f"{name}: the rows are not the same for both models: have the files changed since?")
        counts = np.array([text not in known for text in one.words], dtype=bool)
        if (left_out := int((~counts).sum())):
            note(f"warning: {left_out} of {len(counts)} rows of {name} are among the new rows, which tells of both models nothing: "
                 "they are left out of the comparison")  # fmt: skip
        if not counts.any():
            raise DataError(f"{name}: all rows are among the new rows, and none is left to decide: give --eval-file")
        right = one.right[counts], other.right[counts]
        found.append(
            Compared(
                name, int(counts.sum()), left_out, float(right[0].mean()), float(right[1].mean()),
                gained=int((right[1] & ~right[0]).sum()), lost=int((right[0] & ~right[1]).sum()),
            )
        )  # fmt: skip
    return found


def judged(config: UpdateConfig, model: Path, find: Find) -> dict[str, Judged]:
    """A model on all sets, in fp32, in which predict computes, too."""
    found: dict[str, Judged] = {}
    given = {GIVEN if name == UNNAMED else f"{GIVEN} {name}": file for name, file in sets_of(config.eval_file).items()} if (
        config.eval_file) else {}  # fmt: skip
    for files in (None, *({UNNAMED: file} for file in given.values())):
        changes: Mapping[str, Any] = {} if files is None else {"max_eval_examples": 0}
        task, loaded, layout = open_model(
            str(model), find, device=config.device, task=config.task, changes=changes, files=files
        )
        device = next(loaded.parameters()).device
        names = [*given][len([name for name in found if name.startswith(GIVEN)])] if files else None
        for split, examples in held_out(task.examples()).items():
            review = task.review(split)
            if not isinstance(review, Judge):
                raise UsageError("update: this task does not tell right from wrong row by row")
            loader = eval_loader(task, examples, layout, TrainConfig(eval_batch_size=32, workers=config.workers), World(device))
            evaluate(loaded, task, batches(loader), make_autocast("fp32", device), World(device), split=split,
                     total=len(loader), look=review.update)  # fmt: skip
            own = OWN if split == UNNAMED else f"{OWN} {split}"
            found[names or own] = Judged(review.right(), review.words())
    if not found:
        raise DataError(f"the run {model} has no evaluation data: give --eval-file")
    return found


def new_texts(config: UpdateConfig, model: Path, find: Find) -> set[str]:
    """Those of the new rows, in the form of ``Judged.words``."""
    assert config.train_file is not None
    task = open_model(str(model), find, device="cpu", task=config.task)[0]
    rows = task.inputs_of(read_named(config.train_file, "--train-file", Form.of(task.source.config)))
    return {row if isinstance(row, str) else " ".join(row) for row in rows}
