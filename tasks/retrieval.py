"""How good vectors are: does a text find the one that belongs to it, do cosines follow given scores?"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from engine.batch import Batch
from engine.parallel import World

CHUNK_ROWS = 1024
TOP = 10


def ranks(anchors: Tensor, candidates: Tensor) -> Tensor:
    """[N]: how many candidates are nearer to anchor i than candidate i, which is its own; 0 is best. Both [N, H]."""
    found = []
    for start in range(0, len(anchors), CHUNK_ROWS):
        scores = anchors[start : start + CHUNK_ROWS] @ candidates.T
        own = scores.diagonal(start)[:, None]
        found.append((scores > own).sum(1))
    return torch.cat(found)


class RetrievalMetrics:
    """recall@10 and mrr (the mean of 1 / rank) of finding the second text among all second texts of the evaluation data.

    The vectors of all pairs are kept until the end (1.5 kB a text at 384 dimensions): every one is a candidate for all.
    """

    names = (f"recall@{TOP}", "mrr")

    def __init__(self) -> None:
        from torchmetrics import CatMetric

        self.anchors, self.positives = CatMetric("disable"), CatMetric("disable")

    def update(self, model: nn.Module, outputs: Tensor, batch: Batch) -> None:
        """``outputs``: [n B, H]."""
        anchors, positives, *_ = outputs.split(batch.num_examples)
        for metric, vectors in ((self.anchors, anchors), (self.positives, positives)):
            metric.to(outputs.device)
            metric.update(vectors)

    def compute(self) -> dict[str, float]:
        found = ranks(self.anchors.compute(), self.positives.compute())
        return {self.names[0]: float((found < TOP).float().mean()), "mrr": float((1 / (found + 1)).mean())}

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running."""


class ScoreMetrics:
    """spearman and pearson of cosines and given scores."""

    names = ("spearman", "pearson")

    def __init__(self) -> None:
        from torchmetrics import MetricCollection, regression

        warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save all targets")
        figures = {"spearman": regression.SpearmanCorrCoef(), "pearson": regression.PearsonCorrCoef()}
        self.collection = MetricCollection(figures, compute_groups=False)

    def update(self, model: nn.Module, outputs: Tensor, batch: Batch) -> None:
        """``outputs``: [2 B, H]."""
        anchors, others, *_ = outputs.split(batch.num_examples)
        self.collection.to(outputs.device)
        self.collection.update((anchors * others).sum(-1), batch.targets["scores"])

    def compute(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.collection.compute().items()}

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running."""
