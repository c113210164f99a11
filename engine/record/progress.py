"""What a checkpoint says of a run's book-keeping: checked in one place when it is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checked import expect
from engine.record.figures import Evaluation
from engine.record.tally import Tally


@dataclass(frozen=True)
class Best:
    """The best model so far: its step, and what was measured there. ``value``: of the metric named."""

    step: int
    metric: str
    value: float
    evaluation: Evaluation

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Best:
        """Raises ValueError for what a run does not save."""
        evaluation = Evaluation.from_json(expect(found, "evaluation", dict))
        step, metric, value = expect(found, "step", int, least=0), expect(found, "metric", str), expect(found, "value", float)
        return cls(step, metric, value, evaluation)


class BestSoFar:
    """The best evaluation so far, and how many since were no better. ``patience``: so many of them are enough; None: never."""

    def __init__(self, metric: str, patience: int | None, *, lower_is_better: bool):
        self.metric, self.patience, self.lower_is_better = metric, patience, lower_is_better
        self.best: Best | None = None
        self.num_worse = 0

    def count(self, step: int, evaluation: Evaluation) -> bool:
        """Is it the best so far? A figure that is not defined never is."""
        value = evaluation.figures[self.metric]
        is_best = value is not None and (self.best is None or self.is_better(value, self.best.value))
        if is_best and value is not None:
            self.best = Best(step, self.metric, value, evaluation)
        self.num_worse = 0 if is_best else self.num_worse + 1
        return is_best

    def is_better(self, value: float, than: float) -> bool:
        return value < than if self.lower_is_better else value > than

    @property
    def is_hopeless(self) -> bool:
        """Is it time to stop early?"""
        return self.num_worse >= (self.patience or math.inf)


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says of a run's book-keeping.

    ``ranks``: what decides in which order numbers are added up; {} of a checkpoint that is older than that. ``window``,
    ``epoch``, ``total``: since the last log line, since the epoch began, and in all. ``num_worse``: evaluations since the
    best. ``metrics_bytes``: the length of metrics.jsonl. ``writers``: the states of the log writers of one's own.
    ``evaluation_due``: the evaluation of this step is still to come.
    """

    ranks: Mapping[str, Any]
    window: Tally
    epoch: Tally
    total: Tally
    best: Best | None
    last_evaluation: Evaluation | None
    num_worse: int
    train_seconds: float
    metrics_bytes: int
    writers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation_due: bool = False

    def to_json(self) -> dict[str, Any]:
        """The book-keeping as it stands in state.json. The tallies are copied: they go on counting."""
        return {
            "ranks": dict(self.ranks),
            "window": dataclasses.asdict(self.window),
            "epoch": dataclasses.asdict(self.epoch),
            "total": dataclasses.asdict(self.total),
            "best": self.best and {**vars(self.best), "evaluation": self.best.evaluation.to_json()},
            "last_evaluation": self.last_evaluation and self.last_evaluation.to_json(),
            "num_worse": self.num_worse,
            "train_seconds": self.train_seconds,
            "metrics_bytes": self.metrics_bytes,
            **({"writers": dict(self.writers)} if self.writers else {}),
            **({"evaluation_due": True} if self.evaluation_due else {}),
        }

    @classmethod
    def from_json(cls, found: Any) -> Progress:
        """Raises ValueError for what a run does not save: it would be taken over as it is and go wrong later."""
        if not isinstance(found, dict):
            raise ValueError("no progress")
        best, last = (expect(found, name, dict, optional=True) for name in ("best", "last_evaluation"))
        window, epoch, total = (Tally.from_json(name, expect(found, name, dict)) for name in ("window", "epoch", "total"))
        return cls(
            expect(found, "ranks", dict, default={}),
            window,
            epoch,
            total,
            None if best is None else Best.from_json(best),
            None if last is None else Evaluation.from_json(last),
            expect(found, "num_worse", int, least=0),
            expect(found, "train_seconds", float, least=0),
            expect(found, "metrics_bytes", int, least=0),
            expect(found, "writers", dict, default={}),  # older checkpoints have none
            expect(found, "evaluation_due", bool, default=False),  # nor this
        )
