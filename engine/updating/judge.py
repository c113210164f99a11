"""Two models on the same held-out rows: is the new one worse? Rows that the new one was trained on have no say.

Of each set: the difference of the accuracies, its 95% interval for paired rows (Tango, 1998), and McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        figures = f"accuracy {self.old:.4f}, new {self.new:.4f}: {self.new - self.old:+.4f}"
        counts = f"{self.rows:,} rows: {self.gained} gained, {self.lost} lost, McNemar's p {self.p:.2g}"
        return f"{shown(self.name, 40)}: {figures} (95% interval {low:+.4f} to {high:+.4f}, {counts})"


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
        if left_out := int((~counts).sum()):
            note(f"warning: {name}: {left_out} of {len(counts)} are among the new rows, and have no say")
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
    """A model on all sets, by the name of each. Raises UsageError, DataError, ModelError."""
    given = sets_of(config.eval_file) if config.eval_file else {}
    found = answered(config, model, find, None, OWN)
    for name, file in given.items():
        found |= answered(config, model, find, file, GIVEN if name == UNNAMED else f"{GIVEN} {name}")
    if not found:
        raise DataError(f"the run {model} has no evaluation data: give --eval-file")
    return found


def answered(config: UpdateConfig, model: Path, find: Find, file: str | None, name: str) -> dict[str, Judged]:
    """A model on the rows of a file (None: on the run's own, which may be several sets), in fp32, as predict computes."""
    task, loaded, layout = open_model(
        str(model), find, device=config.device, task=config.task,
        changes={} if file is None else {"max_eval_examples": 0}, files=None if file is None else {UNNAMED: file},
    )  # fmt: skip
    world, found = World(next(loaded.parameters()).device), {}
    for split, examples in held_out(task.examples()).items():
        review = task.review(split)
        if not isinstance(review, Judge):
            raise UsageError("update: this task does not tell right from wrong row by row")
        loader = eval_loader(task, examples, layout, TrainConfig(workers=config.workers), world)
        autocast = make_autocast("fp32", world.device)
        evaluate(loaded, task, batches(loader), autocast, world, split=split, total=len(loader), look=review.update)
        found[name if split == UNNAMED else f"{name} {split}"] = Judged(review.right(), review.words())
    return found


def new_texts(config: UpdateConfig, model: Path, find: Find) -> set[str]:
    """Those of the new rows, in the form of ``Judged.words``."""
    assert config.train_file is not None
    task = open_model(str(model), find, device="cpu", task=config.task)[0]
    rows = task.inputs_of(read_named(config.train_file, "--train-file", Form.of(task.source.config)))
    return {row if isinstance(row, str) else " ".join(row) for row in rows}
