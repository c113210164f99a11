"""What an evaluation has found. One definition of a figure: for the log, the checkpoints, run.json, the card and the report.

The figures are the loss and the task's metrics. Whatever else stands beside them in a file (where in the training, how many,
how long) has a name that no metric may have.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.checked import expect, expect_each
from engine.data.places import UNNAMED

IN_CHECKPOINT = ("num_examples", "num_steps", "runtime_seconds")
IN_LINE = ("kind", "split", "step", "epoch", "num_examples", "runtime_seconds", "examples_per_second", "steps_per_second")
IN_METRICS = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")  # under Trainer's names
RESERVED = frozenset({"loss", "classes", *IN_CHECKPOINT, *IN_LINE, *(name.removeprefix("eval_") for name in IN_METRICS)})


def figure_text(value: Any) -> str:
    """A figure for people: four decimals; a count as it is; one that is not defined or not finite in a word."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def figure_names(names: Iterable[str], sets: Collection[str]) -> list[str]:
    """What figures are called: as they are where there is one evaluation set without a name, else ``dev/f1``."""
    return [*names] if [*sets] == [UNNAMED] else [f"{each}/{name}" for each in sets for name in names]


def by_set(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures by the name of their evaluation set, whose loss is called ``dev/loss``; "": of one without a name."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in figures.items():
        each, _, figure = name.partition("/")
        is_named = f"{each}/loss" in figures
        found.setdefault(each if is_named else "", {})[figure if is_named else name] = value
    return found


@dataclass(frozen=True)
class Evaluation:
    """One pass over held-out data. ``figures``: "loss" first, then the metrics; None: not finite. ``num_steps``: batches.

    Of several evaluation sets, or one with a name, each has its figures: ``dev/loss``. ``classes``: figures of each class of
    a task that has some, by its name, under ``dev/positive``, too.
    """

    figures: Mapping[str, float | None]
    num_examples: int
    num_steps: int
    seconds: float
    classes: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, sets: Mapping[str, Evaluation]) -> Evaluation:
        """That of all evaluation sets, by the name of each."""
        if [*sets] == [UNNAMED]:
            return sets[UNNAMED]
        figures = {f"{each}/{name}": value for each, found in sets.items() for name, value in found.figures.items()}
        classes = {f"{each}/{name}": value for each, found in sets.items() for name, value in found.classes.items()}
        counts = [sum(each) for each in zip(*((e.num_examples, e.num_steps, e.seconds) for e in sets.values()), strict=True)]
        return cls(figures, int(counts[0]), int(counts[1]), counts[2], classes)

    def finite(self) -> Evaluation:
        """NaN and infinity are not JSON: they become None."""

        def clean(figures: Mapping[str, float | None]) -> dict[str, float | None]:
            return {name: None if value is None or not math.isfinite(value) else value for name, value in figures.items()}

        classes = {name: clean(figures) for name, figures in self.classes.items()}
        return replace(self, figures=clean(self.figures), classes=classes)

    def line(self) -> dict[str, Any]:
        """The evaluation as it stands in metrics.jsonl."""
        return {**self.figures, "num_examples": self.num_examples, "runtime_seconds": self._seconds, **self._rates("examples")}

    def metrics(self) -> dict[str, Any]:
        """The evaluation as it stands in run.json, under the names that Trainer gives them."""
        named = {f"eval_{name}": value for name, value in self.figures.items()}
        return {**named, "eval_runtime": self._seconds, **{f"eval_{name}": v for name, v in self._rates("samples").items()}}

    def to_json(self) -> dict[str, Any]:
        """The evaluation as it stands in a checkpoint."""
        counts = (self.num_examples, self.num_steps, self.seconds)
        classes = {"classes": self.classes} if self.classes else {}
        return {**self.figures, **dict(zip(IN_CHECKPOINT, counts, strict=True)), **classes}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Evaluation:
        """Raises ValueError for what ``to_json`` does not write."""
        figures = {name: value for name, value in found.items() if name not in (*IN_CHECKPOINT, "classes")}
        expect_each("evaluation", figures, float, optional=True)
        num_examples, num_steps = (expect(found, name, int, least=0) for name in IN_CHECKPOINT[:2])
        classes = expect(found, "classes", dict, default={})
        check_classes(classes)
        return cls(figures, num_examples, num_steps, expect(found, IN_CHECKPOINT[2], float), classes)

    @property
    def _seconds(self) -> float:
        """What rates may be divided by."""
        return max(self.seconds, 1e-9)

    def _rates(self, examples: str) -> dict[str, float]:
        return {
            f"{examples}_per_second": self.num_examples / self._seconds,
            "steps_per_second": self.num_steps / self._seconds,
        }


def check_classes(found: Mapping[str, Any]) -> None:
    """Raises ValueError for what are no figures by class."""
    for name, figures in found.items():
        if not isinstance(figures, dict):
            raise ValueError(f"the figures of class {name[:60]!r} are none")
        expect_each("classes", figures, float, optional=True)


def figures_in_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in a line of metrics.jsonl of the kind "eval"."""
    return {name: value for name, value in line.items() if name not in IN_LINE}


def figures_in_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in the metrics of run.json, without the "eval_" of their names."""
    found = {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in IN_METRICS}
    return {name.removeprefix("eval_"): value for name, value in found.items()}
