"""What a tagger gets wrong: which words of which rows, how sure it was of them, and which tag it takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number
from tasks.classification.mistakes import Mistakes
from tasks.tagging.tags import of_rows, tags_of_rows

if TYPE_CHECKING:
    from datasets import Dataset

Place = tuple[int, np.ndarray]  # of a row of tokens: its row of the table, and which words of that it tags


class TagMistakes:
    """Gathered batch by batch. ``sentences``: the table that was evaluated; ``places``: one for each row of tokens."""

    order = "the surest first"

    def __init__(self, names: Sequence[str], sentences: Dataset, places: Sequence[Place], text_column: str):
        self.names, self.sentences, self.places, self.text_column = names, sentences, places, text_column
        self.confused = Mistakes(names, sentences)
        self.wrong: list[tuple[float, int, int, int, int]] = []  # (confidence, row, word, tag, prediction)

    def update(self, outputs: Any, batch: Batch) -> None:
        """``outputs.logits``: [1, N, L]."""
        sure = of_rows(outputs.logits.squeeze(0).float().softmax(-1).max(-1).values, batch)
        for (_, row), (tags, predicted), scores in zip(batch.keys, tags_of_rows(outputs, batch), sure, strict=True):
            sentence, words = self.places[row]
            np.add.at(self.confused.counts, (tags.numpy(), predicted.numpy()), 1)
            for i in (tags != predicted).nonzero()[:, 0].tolist():
                self.wrong.append((float(scores[i]), sentence, int(words[i]) + 1, int(tags[i]), int(predicted[i])))

    def columns(self) -> Columns:
        return {self.text_column: [self.text(row) for row in range(len(self.sentences))]}

    def text(self, row: int) -> str:
        """A sentence as one text."""
        cell = self.sentences[row][self.text_column]
        return cell if isinstance(cell, str) else " ".join(cell)

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows, the most confident mistake first; ``row`` is that of the file and ``word`` its word, both from 1."""
        found: list[list[Any]] = []
        where = row_name if len(origin_of(self.sentences).files) > 1 else row_number
        for score, row, word, tag, predicted in sorted(self.wrong, key=lambda wrong: (-wrong[0], *wrong[1:])):
            numbers = where(self.sentences, row), word
            found.append([*numbers, self.text(row), self.names[tag], self.names[predicted], round(score, 4)])
        return ["row", "word", self.text_column, "tag", "prediction", "confidence"], found

    def table(self) -> str:
        """Which tag is taken for which."""
        return self.confused.table()
