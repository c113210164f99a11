"""Rows that are several texts each: two that belong together, or a source and its target."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from engine.data.tables import RowName
from engine.data.tokens import TokenDataset
from engine.task import Row


class Pairs(torch.utils.data.Dataset[Row]):
    """Rows ``{"texts": [{"input_ids": ...}, ...], "score": number}``; an example's length is that of its texts together.

    ``scores``: None where there are none; then a row has no "score".
    """

    def __init__(self, parts: Sequence[TokenDataset], scores: np.ndarray | None, row_name: RowName | None = None):
        self.parts, self.scores, self.row_name = parts, scores, row_name

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, row: int) -> Row:
        return {"texts": [part[row] for part in self.parts]} | ({} if self.scores is None else {"score": self.scores[row]})

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example: [N]."""
        total: np.ndarray = np.sum([part.lengths for part in self.parts], axis=0)
        return total

    def fingerprint(self) -> str:
        parts = [part.fingerprint() for part in self.parts]
        parts += [] if self.scores is None else [hashlib.sha256(self.scores.tobytes()).hexdigest()]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()
