"""Queries for which another passage than a right one comes first: which, by how much, and where the right one is."""

from __future__ import annotations

from collections import Counter
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
        """Of each query: the place of its best right passage, that passage, and the best wrong one. Equal scores are no better."""
        labels, found = np.array(self.pairs.labels), []
        for rows in of_each_query(*self.pairs.numbers(), labels):
            scores, right = np.array([self.scores[int(row)] for row in rows]), labels[rows] >= RIGHT
            best, other = (int(rows[mask][np.argmax(scores[mask])]) for mask in (right, ~right))
            found.append((1 + int((scores[~right] >= self.scores[best]).sum()), best, other))
        return found

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows; ``row``: of the file, from 1, where the right passage stands; ``ahead``: by how much, in logits."""
        where, pairs = row_name if len(origin_of(self.table_).files) > 1 else row_number, self.pairs
        wrong = [(self.scores[other] - self.scores[best], place, best, other) for place, best, other in self.judged() if place > 1]
        return ["row", "query", "first", "right", "place", "ahead"], [
            [where(self.table_, pairs.rows[best]), pairs.queries[best], pairs.passages[other], pairs.passages[best], place, round(by, 4)]
            for by, place, best, other in sorted(wrong, key=lambda each: (-each[0], each[2]))
        ]  # fmt: skip

    def table(self) -> str:
        """Where the right passage stands, and how often."""
        names = {1: "first", **dict.fromkeys(range(2, 4), "second or third"), **dict.fromkeys(range(4, TOP + 1), "to the tenth place")}
        counts = Counter(names.get(place, "behind it") for place, *_ in self.judged())
        return "\n".join(f"  the right passage {name:<24}{counts[name]:>7,}" for name in dict.fromkeys([*names.values(), "behind it"]))
