"""The run's book-keeping, with a clock around a window of steps: what ``python -m bench steps`` trains with."""

from __future__ import annotations

import time

import torch

from engine.data.batch import Batch
from engine.data.plan import Position
from engine.record.run import Run
from engine.state import StepRecord


class Counting(Run):
    """Notes the time when the warm-up ends and when the window does."""

    warmup = 0
    began = ended = 0.0
    num_examples = num_tokens = 0

    def log(self, at: Position, micro_batches: list[Batch], record: StepRecord) -> None:
        super().log(at, micro_batches, record)
        if at.step > self.warmup:
            self.num_examples += sum(batch.num_examples for batch in micro_batches)
            self.num_tokens += sum(batch.num_tokens for batch in micro_batches)
        if at.step == self.warmup or at.is_last:
            if self.state.device.type == "cuda":
                torch.cuda.synchronize()
            self.began, self.ended = (time.perf_counter(), 0.0) if at.step == self.warmup else (self.began, time.perf_counter())

    def save(self, at: Position) -> None:
        """Nothing: a checkpoint is no step."""
