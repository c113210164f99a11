"""How good vectors are: does a text find the one that belongs to it, do cosines follow given scores?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.data.batch import Batch
from engine.distributed.world import World

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
    lower_is_better = ()

    def __init__(self) -> None:
        self.anchors: list[Tensor] = []
        self.positives: list[Tensor] = []

    def update(self, model: nn.Module, outputs: Tensor, batch: Batch) -> None:
        """``outputs``: [n B, H]."""
        anchors, positives, *_ = outputs.split(batch.num_examples)
        self.anchors.append(anchors)
        self.positives.append(positives)

    def compute(self) -> dict[str, float]:
        found = ranks(torch.cat(self.anchors), torch.cat(self.positives))
        return {self.names[0]: float((found < TOP).float().mean()), "mrr": float((1 / (found + 1)).mean())}

    def sync(self, world: World) -> None:
        """torchmetrics would do it, but not where a rank has no vectors."""
        parts = world.gather([torch.cat(kept).cpu() for kept in (self.anchors, self.positives) if kept])
        self.anchors, self.positives = ([part[i].to(world.device) for part in parts if part] for i in range(2))


class ScoreMetrics:
    """spearman and pearson of cosines and given scores; NaN where all of either are the same."""

    names = ("spearman", "pearson")
    lower_is_better = ()

    def __init__(self) -> None:
        from torchmetrics import MetricCollection

        from tasks.agreement import Pearson, Spearman

        figures = {"spearman": Spearman(), "pearson": Pearson()}
        self.collection = MetricCollection(figures, compute_groups=False)

    def update(self, model: nn.Module, outputs: Tensor, batch: Batch) -> None:
        """``outputs``: [2 B, H]."""
        anchors, others, *_ = outputs.split(batch.num_examples)
        self.collection.to(outputs.device)
        self.collection.update((anchors * others).sum(-1), batch.targets["scores"])

    def compute(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.collection.compute().items()}

    def sync(self, world: World) -> None:
        """torchmetrics merges by itself when torch.distributed is running: on the host, as a rank without rows is there."""
        self.collection.to("cpu")
