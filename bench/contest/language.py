"""Language models for the track LM: rows as long as those of conversations, models of known sizes, Plainloop's loss.

No text is needed, for speed does not depend on what a model knows. Without flash-attn, transformers keeps flattened rows
apart in the attention "sdpa" and "flex_attention", by where position_ids begin anew, but only without a KV cache
(masking_utils.py, _preprocess_mask_arguments): Trainer turns that off, and so does the bench for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from bench.contest.workload import PAD, TokenTask, Workload, of_rows
from engine.data.batch import Batch
from engine.data.collate import Layout
from tasks.language.task import LanguageModel

MEAN_LENGTH, SPREAD = 400, 0.7  # of the log-normal distribution: mean in tokens, standard deviation of the logarithm


def language_workload(num_rows: int, max_length: int, vocabulary: int, seed: int = 0) -> Workload:
    """Random ids; lengths log-normal with a mean of about 400 tokens, or a good third of ``max_length``, and cut there."""
    generator = np.random.default_rng(seed)
    mean = min(MEAN_LENGTH, 0.4 * max_length)
    drawn = generator.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, num_rows)
    lengths = np.clip(drawn.astype(np.int64), 4, max_length)
    rows = [generator.integers(PAD + 1, vocabulary, n) for n in lengths]
    name = f"{num_rows} random rows, log-normal lengths, mean {lengths.mean():.0f}, at most {lengths.max()}"
    return of_rows(rows, np.zeros(num_rows), name)


class LanguageTask(TokenTask):
    """Predict each next token of rows that are token ids already: collating and loss are those of Plainloop's tasks."""

    level = "token"

    def __init__(self, workload: Workload, max_length: int):
        super().__init__(workload, max_length)
        self.tokenizer = SimpleNamespace(pad_token_id=PAD, pad_token_type_id=0, padding_side="right")

    def labels_of(self, row: dict[str, Any]) -> np.ndarray:
        """[T]: the next token; the last of a row has none."""
        return np.append(row["input_ids"][1:], -100)

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        return LanguageModel.collate(self, rows, layout)  # type: ignore[arg-type]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return LanguageModel.loss(self, outputs, batch)  # type: ignore[arg-type]
