"""What a model writes otherwise than its target: which rows, and how far off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sacrebleu import sentence_chrf

from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number
from tasks.seq2seq.metrics import is_met

if TYPE_CHECKING:
    from datasets import Dataset

STEP = 20  # of chrF, in the table


class WritingMistakes:
    """``table``: the one that was evaluated, with the source and target of each row. ``written``: by row, when all is over."""

    order = "the furthest from its target first, by chrF"

    def __init__(self, table: Dataset, sources: Sequence[str], targets: Sequence[str], written: Mapping[int, str]):
        self.table_, self.sources, self.targets, self.written = table, sources, targets, written

    def update(self, outputs: Any, batch: Batch) -> None:
        """Nothing: what the outputs are for is written by the metrics (metrics.py)."""

    def columns(self) -> Columns:
        return {"source": list(self.sources), "target": list(self.targets)}

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows; ``row`` is that of the file, from 1."""
        where = row_name if len(origin_of(self.table_).files) > 1 else row_number
        wrong = sorted((self.chrf(row), row) for row, text in self.written.items() if not is_met(self.targets[row], text))
        found = [[where(self.table_, row), self.sources[row], self.targets[row], self.written[row], round(score, 2)]
                 for score, row in wrong]  # fmt: skip
        return ["row", "source", "target", "prediction", "chrf"], found

    def chrf(self, row: int) -> float:
        """How near what was written is to the target, from 0 to 100."""
        return float(sentence_chrf(self.written[row], [self.targets[row]]).score)

    def table(self) -> str:
        """How many rows are how near."""
        kinds = Counter(
            "as its target" if is_met(self.targets[row], text) else self.kind(self.chrf(row))
            for row, text in self.written.items()
        )
        return "\n".join(f"  {kind:<40}{number:>7,}" for kind, number in sorted(kinds.items()))

    def kind(self, score: float) -> str:
        """In words, how near."""
        least = min(int(score) // STEP * STEP, 100 - STEP)
        return f"otherwise, chrF {least} to {least + STEP}"
