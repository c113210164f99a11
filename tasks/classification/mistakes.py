"""What a classifier gets wrong: which rows, how sure it was of them, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.console import shown
from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number

if TYPE_CHECKING:
    from datasets import Dataset

MAX_CLASSES, MAX_PAIRS = 10, 10


class Mistakes:
    """Gathered batch by batch. ``texts``: the evaluated rows, of which those that are wrong are shown."""

    def __init__(self, names: Sequence[str], texts: Dataset):
        self.names, self.texts = names, texts
        self.counts = np.zeros((len(names), len(names)), dtype=np.int64)  # [label, prediction]
        self.wrong: list[tuple[float, int, int, int]] = []  # (confidence, row, label, prediction)

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [B, C]."""
        scores, predictions = (t.cpu().numpy() for t in outputs.logits.float().softmax(-1).max(-1))
        labels = batch.targets["labels"].cpu().numpy()
        np.add.at(self.counts, (labels, predictions), 1)
        for i in np.flatnonzero(labels != predictions):
            self.wrong.append((float(scores[i]), batch.keys[i][1], int(labels[i]), int(predictions[i])))

    def columns(self) -> Columns:
        return {name: self.texts[name][:] for name in self.texts.column_names}

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows, the most confident mistake first; ``row`` is that of the file, from 1; of several with its name."""
        found: list[list[Any]] = []
        where = row_name if len(origin_of(self.texts).files) > 1 else row_number
        for score, row, label, prediction in sorted(self.wrong, key=lambda wrong: (-wrong[0], wrong[1])):
            cells = (where(self.texts, row), *self.texts[row].values())
            found.append([*cells, self.names[label], self.names[prediction], round(score, 4)])
        return ["row", *self.texts.column_names, "label", "prediction", "confidence"], found

    def table(self) -> str:
        """All classes against all, or with many of them the pairs that are confused most."""
        names = [shown(name, 18) for name in self.names]
        if len(names) <= MAX_CLASSES:
            rows = [["label / prediction", *names], *([name, *row] for name, row in zip(names, self.counts, strict=True))]
            width = max(map(len, names)) + 2
            return "\n".join(f"{row[0]:<20}" + "".join(f"{cell:>{max(width, 8)}}" for cell in row[1:]) for row in rows)
        off = self.counts * ~np.eye(len(names), dtype=bool)
        pairs = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None, kind="stable")[:MAX_PAIRS]]
        lines = [f"{off[i, j]:>6}  {names[i]} taken for {names[j]}" for i, j in pairs if off[i, j]]
        return "\n".join([f"most often confused, of {len(names)} classes:", *lines])
