"""How near the top the right passages of a query come: NDCG@10, MRR@10, MAP; and the average precision of all pairs.

What has the same score has no order. So each figure is what is to be expected over all orders of such passages (McSherry and
Najork, Computing information retrieval performance measures efficiently in the presence of tied scores, 2008), which is what
scikit-learn's ``ndcg_score`` gives; its ``average_precision_score`` and the evaluators of sentence-transformers do not, and
in half precision many scores are the same. Without such, all are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from engine.data.batch import Batch
from engine.distributed.world import World

TOP = 10
RIGHT = 0.5  # a passage of at least this label counts as right


class Ranked:
    """Passages by score, the best first, those of one score together. ``scores`` and ``labels``: [N].

    ``sizes`` and ``hits`` [groups]: how many passages have each score, and how many of them are right.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        _, group, self.sizes = np.unique(-scores, return_inverse=True, return_counts=True)
        self.labels, right = labels, labels >= RIGHT
        self.hits = np.bincount(group, weights=right)
        self.gains = np.bincount(group, weights=labels) / self.sizes  # the mean label of each score
        self.before = np.cumsum(self.sizes) - self.sizes  # passages with a better score
        self.hits_before = np.cumsum(self.hits) - self.hits

    def ndcg(self) -> float:
        """Of the first ten: the labels, each divided by log2(1 + its place), over what the best order would give."""
        discounts = 1 / np.log2(np.arange(2, TOP + 2))
        gains, best = np.repeat(self.gains, self.sizes)[:TOP], np.sort(self.labels)[::-1][:TOP]
        return float(gains @ discounts[: len(gains)] / (best @ discounts[: len(best)]))

    def reciprocal_rank(self) -> float:
        """1 / the place of the first right passage; 0 if it is not among the first ten."""
        first = int(np.argmax(self.hits > 0))
        size, hits, before = int(self.sizes[first]), int(self.hits[first]), int(self.before[first])
        orders = math.comb(size, hits)
        places = range(1, min(size - hits + 1, TOP - before) + 1)
        return sum(math.comb(size - place, hits - 1) / orders / (before + place) for place in places)

    def average_precision(self) -> float:
        """The share of right passages down to each of them, on average."""
        size, hits, before, hits_before = (
            np.repeat(each, self.sizes) for each in (self.sizes, self.hits, self.before, self.hits_before)
        )
        place = np.arange(len(size)) - before  # among those of its score, from 0
        above = hits_before + place * (hits - 1) / np.maximum(size - 1, 1)  # right ones above one that is right itself
        return float((hits / size * (above + 1) / (np.arange(len(size)) + 1)).sum() / self.hits.sum())


def of_each_query(query: np.ndarray, pair: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each query that has passages to tell apart: of one label at least RIGHT, and one below. All: [N].

    A passage that stands there twice counts once, with the better label.
    """
    order = np.lexsort((-labels, pair))
    once = order[np.unique(pair[order], return_index=True)[1]]
    once = once[np.argsort(query[once], kind="stable")]
    for rows in np.split(once, np.flatnonzero(np.diff(query[once])) + 1):
        if labels[rows].max() >= RIGHT > labels[rows].min():
            yield np.sort(rows)


class RankingMetrics:
    """The score of each pair is kept until all have been seen, on all ranks.

    ``query``, ``pair``, ``labels``: [N], as ``Pairs.numbers`` has them. Where no query has passages to tell apart there is
    nothing to rank, and ``average_precision`` alone is left.
    """

    lower_is_better = ()

    def __init__(self, query: np.ndarray, pair: np.ndarray, labels: np.ndarray):
        self.labels, self.scores = labels, dict[int, float]()
        self.queries = list(of_each_query(query, pair, labels))
        ranking = (f"ndcg@{TOP}", f"mrr@{TOP}", "map") if self.queries else ()
        self.names = (*ranking, "average_precision")

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, 1]."""
        rows = [row for _, row in batch.keys]
        self.scores |= zip(rows, outputs.logits.float().squeeze(-1).tolist(), strict=True)

    def sync(self, world: World) -> None:
        """Every rank's scores."""
        for others in world.gather(self.scores):
            self.scores |= others

    def compute(self) -> dict[str, float]:
        """nan where no pair is right."""
        scores = np.array([self.scores.get(row, math.nan) for row in range(len(self.labels))])
        ranked = [Ranked(scores[rows], self.labels[rows]) for rows in self.queries]
        figures = [(each.ndcg(), each.reciprocal_rank(), each.average_precision()) for each in ranked]
        means = [float(each) for each in np.mean(figures, axis=0)] if figures else []
        of_all = Ranked(scores, self.labels)
        return dict(zip(self.names, [*means, of_all.average_precision() if of_all.hits.any() else math.nan], strict=True))
