"""Metrics of classification, from torchmetrics: states that add up over batches and devices, not kept logits.

Each is what scikit-learn or SciPy give for the whole, constant predictions and absent classes included (agreement.py).
Some keep examples: the correlations a prediction and a target for each [N], average precision one of each for each label
[N, C] (binned thresholds were off by as much as 0.5 on a rare label).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.data.batch import Batch
from engine.distributed.world import World


class ClassificationMetrics:
    """accuracy, f1 (macro), mcc; micro and macro f1, average precision (macro); rmse, pearson, spearman."""

    lower_is_better = ("rmse",)

    def __init__(self, problem: str, num_labels: int):
        from torchmetrics import MetricCollection, classification, regression

        from tasks.agreement import Matthews, Pearson, Spearman

        many: dict[str, Any] = {"num_labels": max(num_labels, 2)}  # torchmetrics takes no single label: it counts twice
        classes: dict[str, Any] = {"num_classes": num_labels}
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
        self.problem = problem
        self.names = tuple(figures)
        self.collection = MetricCollection(figures, compute_groups=False)

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        logits, labels = outputs.logits.float(), batch.targets["labels"]
        self.collection.to(logits.device)
        if self.problem == "multi_label":
            cells = (-1, max(logits.shape[-1], 2))  # twice the same label: every figure stays what it is
            self.collection.update(logits.sigmoid().expand(cells), labels.long().expand(cells))
        elif self.problem == "regression":
            self.collection.update(logits.squeeze(-1), labels)
        else:
            real = labels != -100
            if batch.num_items:  # torchmetrics cannot take none
                self.collection.update(logits[real].argmax(-1), labels[real])

    def compute(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.collection.compute().items()}

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running: on the host, as a rank without rows is there."""
        self.collection.to("cpu")
        ranking: Any = self.collection["average_precision"] if self.problem == "multi_label" else None
        if ranking is not None and not ranking.preds:  # the others' have [N, C]: nothing must be of that shape, too
            ranking.preds.append(torch.empty(0, ranking.num_labels))
            ranking.target.append(torch.empty(0, ranking.num_labels, dtype=torch.long))
