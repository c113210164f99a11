"""Rows of several texts each: what is compared lies in one batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from engine.data.batch import Batch
from engine.data.tables import RowName
from engine.data.tokens import TokenDataset
from engine.task import Row


class Pairs(torch.utils.data.Dataset[Row]):
    """Rows ``{"texts": [{"input_ids": ...}, ...], <column>: value}``; an example's length is that of its texts together.

    ``parts``: the first texts of all rows, the second, and so on; ``columns`` have a value for each row: [N].
    """

    def __init__(self, parts: Sequence[TokenDataset], columns: Mapping[str, np.ndarray], row_name: RowName | None = None):
        self.parts, self.columns, self.row_name = parts, columns, row_name

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, row: int) -> Row:
        return {"texts": [part[row] for part in self.parts]} | {name: column[row] for name, column in self.columns.items()}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example: [N]."""
        total: np.ndarray = np.sum([part.lengths for part in self.parts], axis=0)
        return total

    def fingerprint(self) -> str:
        columns = (hashlib.sha256(column.tobytes()).hexdigest() for column in self.columns.values())
        return hashlib.sha256(" ".join([*(part.fingerprint() for part in self.parts), *columns]).encode()).hexdigest()


def one_after_the_other(rows: Sequence[Row]) -> list[Row]:
    """All first texts of rows of a batch, then all second ones, and so on."""
    return [row["texts"][i] for i in range(len(rows[0]["texts"])) for row in rows]


def of_pairs(batch: Batch, texts: int = 2) -> Batch:
    """The batch of such rows, whose examples are pairs, each as long as its texts together."""
    return dataclasses.replace(batch, num_examples=batch.num_examples // texts, longest=texts * batch.longest)
