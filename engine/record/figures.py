"""What an evaluation has found. One definition of a figure: for the log, the checkpoints, run.json, the card and the report.

The figures are the loss and the task's metrics. Whatever else stands beside them in a file (where in the training, how many,
how long) has a name that no metric may have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checked import expect, expect_each

IN_CHECKPOINT = ("num_examples", "num_steps", "runtime_seconds")
IN_LINE = ("kind", "split", "step", "epoch", "num_examples", "runtime_seconds", "examples_per_second", "steps_per_second")
IN_METRICS = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")  # under Trainer's names
RESERVED = frozenset({"loss", *IN_CHECKPOINT, *IN_LINE, *(name.removeprefix("eval_") for name in IN_METRICS)})


def figure_text(value: Any) -> str:
    """A figure for people: four decimals; a count as it is; one that is not defined or not finite in a word."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Evaluation:
    """One pass over held-out data. ``figures``: "loss" first, then the metrics; None: not finite. ``num_steps``: batches."""

    figures: Mapping[str, float | None]
    num_examples: int
    num_steps: int
    seconds: float

    def finite(self) -> Evaluation:
        """NaN and infinity are not JSON: they become None."""
        clean = {name: None if value is None or not math.isfinite(value) else value for name, value in self.figures.items()}
        return Evaluation(clean, self.num_examples, self.num_steps, self.seconds)

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
        return {**self.figures, **dict(zip(IN_CHECKPOINT, counts, strict=True))}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Evaluation:
        """Raises ValueError for what ``to_json`` does not write."""
        figures = {name: value for name, value in found.items() if name not in IN_CHECKPOINT}
        expect_each("evaluation", figures, float, optional=True)
        num_examples, num_steps = (expect(found, name, int, least=0) for name in IN_CHECKPOINT[:2])
        return cls(figures, num_examples, num_steps, expect(found, IN_CHECKPOINT[2], float))

    @property
    def _seconds(self) -> float:
        """What rates may be divided by."""
        return max(self.seconds, 1e-9)

    def _rates(self, examples: str) -> dict[str, float]:
        return {
            f"{examples}_per_second": self.num_examples / self._seconds,
            "steps_per_second": self.num_steps / self._seconds,
        }


def figures_in_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in a line of metrics.jsonl of the kind "eval"."""
    return {name: value for name, value in line.items() if name not in IN_LINE}


def figures_in_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures in the metrics of run.json, without the "eval_" of their names."""
    found = {name: value for name, value in metrics.items() if name.startswith("eval_") and name not in IN_METRICS}
    return {name.removeprefix("eval_"): value for name, value in found.items()}
