"""Queries for which another passage than a right one comes first: which, by how much, and where the right one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number
from tasks.reranker.metrics import RIGHT, TOP, of_each_query
from tasks.reranker.rows import Pairs

if TYPE_CHECKING:
    from datasets import Dataset


class RankingMistakes:
    """Gathered batch by batch. ``pairs``: those of the ``table`` that is evaluated."""

    order = "the surest first"

    def __init__(self, table: Dataset, pairs: Pairs):
        self.table_, self.pairs, self.scores = table, pairs, dict[int, float]()

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, 1]."""
        self.scores |= zip((row for _, row in batch.keys), outputs.logits.float().squeeze(-1).tolist(), strict=True)

    def columns(self) -> Columns:
        return {"query": self.pairs.queries, "passage": self.pairs.passages}

    def judged(self) -> list[tuple[int, int, int]]:
        """Of each query: the place of its best right passage, that passage, the best wrong one. Equal scores are no better."""
        labels, found = np.array(self.pairs.labels), []
        for rows in of_each_query(*self.pairs.numbers(), labels):
            scores, right = np.array([self.scores[int(row)] for row in rows]), labels[rows] >= RIGHT
            best, other = (int(rows[mask][np.argmax(scores[mask])]) for mask in (right, ~right))
            found.append((1 + int((scores[~right] >= self.scores[best]).sum()), best, other))
        return found

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows; ``row``: of the file, from 1, where the right passage stands; ``ahead``: by how much, in logits."""
        where, pairs, found = row_name if len(origin_of(self.table_).files) > 1 else row_number, self.pairs, []
        for place, right, first in self.judged():
            if place > 1:
                ahead = round(self.scores[first] - self.scores[right], 4)
                texts = pairs.queries[right], pairs.passages[first], pairs.passages[right]
                found.append([where(self.table_, pairs.rows[right]), *texts, place, ahead])
        return ["row", "query", "first", "right", "place", "ahead"], sorted(found, key=lambda row: -row[-1])

    def table(self) -> str:
        """Where the right passage stands, and how often."""
        places = [place for place, *_ in self.judged()]
        parts = {"comes first": (1, 1), "second or third": (2, 3), "fourth to tenth": (4, TOP), "behind": (TOP + 1, 10**9)}
        counts = {name: sum(low <= place <= high for place in places) for name, (low, high) in parts.items()}
        return "\n".join(f"  the right passage {name:<20}{count:>7,}" for name, count in counts.items())
