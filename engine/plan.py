"""Which examples meet in which step: a pure function of (seed, epoch), known in full before training starts.

So the number of steps is known, resuming is a slice (nothing is read to be skipped), and the position in a run is one
number: ``step``. Order of epoch e: ``torch.randperm(n, generator=Generator().manual_seed(seed + e))``, which is also
Trainer's (accelerate's SeedableRandomSampler). Next: data.py, which reads what is planned here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.batch import Key
from engine.config import TrainConfig

BUCKET_BATCHES = 50  # batches that are sorted by length together, as Trainer's length grouping does


@dataclass(frozen=True)
class Position:
    """Where a step stands. ``step`` counts from 1, ``epoch`` from 0."""

    step: int
    epoch: int
    step_in_epoch: int
    num_micro_batches: int
    epochs_done: float
    is_epoch_end: bool
    is_last: bool

    def due(self, every: int) -> bool:
        """Every ``every`` steps (0: at each epoch's end), and always at the last step."""
        return self.is_last or (self.step % every == 0 if every else self.is_epoch_end)


@dataclass(frozen=True)
class Plan:
    """The whole run as lists of rows.

    ``lengths`` ([num_examples] tokens) is needed for bucketing only; ``max_steps`` overrides ``epochs``.
    """

    num_examples: int
    batch_size: int
    accumulation_steps: int = 1
    epochs: int = 1
    max_steps: int | None = None
    seed: int = 0
    lengths: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: TrainConfig, lengths: np.ndarray) -> Plan:
        """The plan of a run over rows with these token counts."""
        return cls(
            len(lengths), config.batch_size, config.accumulation_steps, config.epochs, config.max_steps, config.seed,
            lengths if config.batching == "bucketed" else None,
        )  # fmt: skip

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Micro-batches are grouped within an epoch; its last group may be short."""
        return -(-self.batches_per_epoch // self.accumulation_steps)

    @property
    def num_steps(self) -> int:
        return self.max_steps or self.epochs * self.steps_per_epoch

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in random order: [num_examples]."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.num_examples, generator=generator).numpy()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each micro-batch of an epoch; only the last of a random-order epoch is short."""
        order = self.order(epoch)
        if self.lengths is None:
            return cut(order, self.batch_size)
        lengths = self.lengths
        batches = []
        for chunk in cut(order, self.batch_size * BUCKET_BATCHES):
            batches += cut(chunk[np.argsort(-lengths[chunk], kind="stable")], self.batch_size)
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(batches))
        return [batches[i] for i in shuffled]

    def positions(self, start: int = 0) -> Iterator[Position]:
        """The steps after ``start`` done ones."""
        for step in range(start + 1, self.num_steps + 1):
            epoch, index = divmod(step - 1, self.steps_per_epoch)
            left = self.batches_per_epoch - index * self.accumulation_steps
            yield Position(
                step=step,
                epoch=epoch,
                step_in_epoch=index + 1,
                num_micro_batches=min(self.accumulation_steps, left),
                epochs_done=epoch + (index + 1) / self.steps_per_epoch,
                is_epoch_end=index + 1 == self.steps_per_epoch,
                is_last=step == self.num_steps,
            )

    def micro_batches(self, start: int = 0) -> Iterator[list[Key]]:
        """The keys of every micro-batch after ``start`` done steps, to the end of the run."""
        epoch, index = divmod(start, self.steps_per_epoch)
        last_epoch, left_over = divmod(self.num_steps - 1, self.steps_per_epoch)
        for e in range(epoch, last_epoch + 1):
            first = index * self.accumulation_steps if e == epoch else 0
            stop = (left_over + 1) * self.accumulation_steps if e == last_epoch else self.batches_per_epoch
            for rows in self.batches(e)[first:stop]:
                yield [(e, int(row)) for row in rows]


def cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of ``size`` rows; the last may be shorter."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def eval_batches(lengths: np.ndarray, batch_size: int) -> list[list[Key]]:
    """Every row once, longest first: least padding, and a batch that does not fit fails at the start."""
    order = np.argsort(-lengths, kind="stable")
    return [[(0, int(row)) for row in rows] for rows in cut(order, batch_size)]
