"""Figures that torchmetrics computes otherwise than scikit-learn and SciPy where there is one class, one value or no positive.

Its states are kept, so these merge over batches and devices as its own do. Of its Matthews coefficient, two classes of which
one is always predicted got up to 0.95 for 0; its correlations of constants are 0, or rounding divided by rounding. Imported
late, as torchmetrics is. Next: classification/metrics.py and embeddings/retrieval.py, which use them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat


class Matthews(MulticlassConfusionMatrix):  # type: ignore[misc,no-any-unimported]
    """Matthews' correlation from the table of true [C] by predicted [C] counts; 0 where one of them is constant.

    Gorodkin (2004), as ``sklearn.metrics.matthews_corrcoef`` computes it.
    """

    def compute(self) -> Tensor:
        table = self.confmat.cpu().double()  # [C, C]
        true, predicted, total = table.sum(1), table.sum(0), table.sum()
        spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
        if spread <= 0:
            return torch.zeros(())
        found: Tensor = (table.trace() * total - true @ predicted) / spread.sqrt()
        return found


class Pairs(Metric):  # type: ignore[misc,no-any-unimported]
    """Keeps a prediction and a target for each example: two [N]."""

    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **options: Any):
        super().__init__(**options)
        for name in ("predictions", "targets"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Both [B]."""
        self.predictions.append(predictions.float())
        self.targets.append(targets.float())

    def pairs(self) -> tuple[Tensor, Tensor]:
        """All of them in float64: two [N]."""
        return dim_zero_cat(self.predictions).cpu().double(), dim_zero_cat(self.targets).cpu().double()


class Pearson(Pairs):
    """The linear correlation; NaN where predictions or targets are constant, as ``scipy.stats.pearsonr`` has it."""

    def compute(self) -> Tensor:
        return correlation(*self.pairs())


class Spearman(Pairs):
    """The linear correlation of the ranks; NaN where they are constant, as ``scipy.stats.spearmanr`` has it."""

    def compute(self) -> Tensor:
        return correlation(*map(ranks, self.pairs()))


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's, of two [N]; NaN where one of them is constant."""
    if x.min() == x.max() or y.min() == y.max():
        return torch.tensor(math.nan)
    x, y = x - x.mean(), y - y.mean()
    found: Tensor = (x / x.norm()) @ (y / y.norm())
    return found.clamp(-1, 1)


def ranks(values: Tensor) -> Tensor:
    """[N]: from 1; values that are equal share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    mean: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return mean[place]
