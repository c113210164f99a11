"""Metrics of classification, from torchmetrics: states that add up over batches and devices, not kept logits.

Each is what scikit-learn or SciPy give for the whole, constant predictions and absent classes included (agreement.py).
Some keep examples: the correlations a prediction and a target for each [N], average precision one of each for each label
[N, C] (binned thresholds were off by as much as 0.5 on a rare label).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.distributed.world import World
from tasks.classification.calibration import Calibration

MOST_CONFUSED = 20  # classes, of which each pair is counted


class ClassificationMetrics:
    """accuracy, f1 (macro), mcc; micro and macro f1, average precision (macro); rmse, pearson, spearman. Of a finished model
    ece and brier, too (calibration.py): how far its probabilities can be believed."""

    lower_is_better = ("rmse", "ece", "brier")

    def __init__(self, problem: str, labels: Sequence[str] | int, calibration: Calibration | None = None):
        """``labels``: their names in the order of the logits, or how many there are. ``calibration``: of a finished model."""
        from torchmetrics import MetricCollection, classification, regression

        from tasks.agreement import Matthews, Pearson, Spearman
        from tasks.classification.reliability import Reliability

        labels = [str(i) for i in range(labels)] if isinstance(labels, int) else labels
        many: dict[str, Any] = {"num_labels": max(len(labels), 2)}  # torchmetrics takes no single label: it counts twice
        classes: dict[str, Any] = {"num_classes": len(labels)}
        counts: dict[str, Any] = {
            "single_label": lambda: (
                classification.MulticlassConfusionMatrix(**classes)
                if len(labels) <= MOST_CONFUSED
                else classification.MulticlassStatScores(**classes, average=None)
            ),
            "multi_label": lambda: classification.MultilabelStatScores(**many, average=None),
            "regression": lambda: None,
        }
        figures: dict[str, Any] = {
            "single_label": lambda: {
                "accuracy": classification.MulticlassAccuracy(**classes, average="micro"),
                "f1": classification.MulticlassF1Score(**classes, average="macro"),
                "mcc": Matthews(**classes),
            },
            "multi_label": lambda: {
                "f1_micro": classification.MultilabelF1Score(**many, average="micro"),
                "f1_macro": classification.MultilabelF1Score(**many, average="macro"),
                "average_precision": classification.MultilabelAveragePrecision(**many),
            },
            "regression": lambda: {
                "rmse": regression.MeanSquaredError(squared=False),
                "pearson": Pearson(),
                "spearman": Spearman(),
            },
        }[problem]()
        self.problem, self.labels = problem, labels
        self.counts = counts[problem]()
        self.calibration = calibration or Calibration()
        self.reliability: Any = Reliability(problem) if calibration is not None and problem != "regression" else None
        self.names = (*figures, *(("ece", "brier") if self.reliability is not None else ()))
        self.collection = MetricCollection(figures, compute_groups=False)

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        logits, labels = outputs.logits.float(), batch.targets["labels"]
        self._to(logits.device)
        if self.problem == "multi_label":
            cells = (-1, max(logits.shape[-1], 2))  # twice the same label: every figure stays what it is
            p = logits.sigmoid() if self.calibration.thresholds is None else self.calibration.chosen(logits).float()
            self._count(p.expand(cells), labels.long().expand(cells), logits.sigmoid().expand(cells))
            self._believe(logits, labels.long())
        elif self.problem == "regression":
            self.collection.update(logits.squeeze(-1), labels)
        else:
            real = labels != -100
            if batch.num_items:  # torchmetrics cannot take none
                self._count(self.calibration.best(logits[real]), labels[real])
                self._believe(logits[real], labels[real])

    def _count(self, predicted: Tensor, labels: Tensor, ranked: Tensor | None = None) -> None:
        """``ranked``: for the figures that are of probabilities, whatever the thresholds say."""
        for name, figure in self.collection.items():
            figure.update(ranked if name == "average_precision" else predicted, labels)
        self.counts.update(predicted, labels)

    def _believe(self, logits: Tensor, labels: Tensor) -> None:
        if self.reliability is not None:
            self.reliability.update(self.calibration.scaled(logits).cpu(), labels.cpu())

    def _to(self, device: torch.device | str) -> None:
        for states in (self.collection, self.counts):
            if states is not None:
                states.to(device)

    def compute(self) -> dict[str, float]:
        more = {} if self.reliability is None else self.reliability.compute()
        return {name: float(value) for name, value in [*self.collection.compute().items(), *more.items()]}

    def classes(self) -> dict[str, dict[str, float]]:
        """Precision, recall and f1 of each class (0 where nothing is predicted, or is there), and its rows. Collective.

        Of a few classes that exclude each other ``as NAME``, too: how many of its rows were taken for that class.
        """
        if self.counts is None:
            return {}
        counted: Tensor = self.counts.compute()  # [C, 5], or [C, C]: the rows of each class, by what they were taken for
        taken: Sequence[Sequence[int]] = [()] * len(counted)
        if self.problem == "single_label" and len(self.labels) <= MOST_CONFUSED:
            taken, right, rows = counted.tolist(), counted.diag(), counted.sum(1)
            counted = torch.stack([right, counted.sum(0) - right, right, rows - right, rows], 1)
        found = {}
        for name, (right, extra, _, missed, rows), others in zip(self.labels, counted.tolist(), taken, strict=False):  # once
            found[name] = {
                "precision": right / max(right + extra, 1),
                "recall": right / max(rows, 1),
                "f1": 2 * right / max(2 * right + extra + missed, 1),
                "rows": rows,
                **{f"as {other}": number for other, number in zip(self.labels, others, strict=False)},
            }
        return found

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running: on the host, as a rank without rows is there."""
        self._to("cpu")
        ranking: Any = self.collection["average_precision"] if self.problem == "multi_label" else None
        if ranking is not None and not ranking.preds:  # the others' have [N, C]: nothing must be of that shape, too
            ranking.preds.append(torch.empty(0, ranking.num_labels))
            ranking.target.append(torch.empty(0, ranking.num_labels, dtype=torch.long))
