"""Which examples meet in which step: a pure function of (seed, epoch), known in full before training starts.

So the number of steps is known, resuming is a slice (nothing is read to be skipped), and the position in a run is one
number: ``step``. Order of epoch e: ``torch.randperm(n, generator=Generator().manual_seed(seed + e))``, which is also
Trainer's (accelerate's SeedableRandomSampler). Next: loader.py, which reads what is planned here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from engine.config import TrainConfig
from engine.data.batch import Key

BUCKET_BATCHES = 50  # batches that are sorted by length together, as Trainer's length grouping does


@dataclass(frozen=True)
class Position:
    """Where a step stands. ``step`` counts from 1, ``epoch`` from 0."""

    step: int
    epoch: int
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

    ``lengths`` ([num_examples] tokens) is needed for ``bucketed`` and for a budget of ``tokens_per_batch``, which takes
    the place of ``batch_size``: a micro-batch then has as many rows as fit, at least one, counted with their padding
    unless they are ``packed``. ``max_steps`` overrides ``epochs``.
    """

    num_examples: int
    batch_size: int
    accumulation_steps: int = 1
    epochs: int = 1
    max_steps: int | None = None
    seed: int = 0
    lengths: np.ndarray | None = field(default=None, repr=False)
    bucketed: bool = False
    tokens_per_batch: int | None = None
    packed: bool = False

    @classmethod
    def of(cls, config: TrainConfig, lengths: np.ndarray, *, packed: bool = False) -> Plan:
        """The plan of a run over rows with these token counts."""
        return cls(
            len(lengths), config.batch_size, config.accumulation_steps, config.epochs, config.max_steps, config.seed,
            lengths, config.batching == "bucketed", config.tokens_per_batch, packed,
        )  # fmt: skip

    def num_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch; the same in each unless a token budget cuts them."""
        return len(self.batches(epoch)) if self.tokens_per_batch else -(-self.num_examples // self.batch_size)

    def steps_in(self, epoch: int) -> int:
        """Micro-batches are grouped within an epoch; its last group may be short."""
        return -(-self.num_batches(epoch) // self.accumulation_steps)

    @cached_property
    def num_steps(self) -> int:
        """The optimizer steps of the whole run."""
        return self.max_steps or sum(self.steps_in(epoch) for epoch in range(self.epochs))

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in random order: [num_examples]."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.num_examples, generator=generator).numpy()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each micro-batch of an epoch; only the last of a random-order epoch is short."""
        order = self.order(epoch)
        if not self.bucketed:
            return self.cut(order)
        assert self.lengths is not None
        batches = []
        size = max(1, int(self.tokens_per_batch / self.lengths.mean())) if self.tokens_per_batch else self.batch_size
        for chunk in cut(order, size * BUCKET_BATCHES):
            batches += self.cut(chunk[np.argsort(-self.lengths[chunk], kind="stable")])
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(batches))
        return [batches[i] for i in shuffled]

    def cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows as consecutive micro-batches, by number of rows or of tokens."""
        if self.tokens_per_batch is None:
            return cut(rows, self.batch_size)
        assert self.lengths is not None
        return cut_by_tokens(rows, self.lengths[rows], self.tokens_per_batch, packed=self.packed)

    def epochs_from(self, start: int) -> Iterator[tuple[int, int, int, int]]:
        """``(epoch, its steps, steps of it that are done, steps of it until the run ends)`` after ``start`` done steps."""
        before, epoch = 0, 0
        while before < self.num_steps:
            steps = self.steps_in(epoch)
            if before + steps > start:
                yield epoch, steps, max(start - before, 0), min(steps, self.num_steps - before)
            before, epoch = before + steps, epoch + 1

    def positions(self, start: int = 0) -> Iterator[Position]:
        """The steps after ``start`` done ones."""
        step = start
        for epoch, steps, done, until in self.epochs_from(start):
            num_batches = self.num_batches(epoch)
            for index in range(done, until):
                step += 1
                yield Position(
                    step=step,
                    epoch=epoch,
                    num_micro_batches=min(self.accumulation_steps, num_batches - index * self.accumulation_steps),
                    epochs_done=epoch + (index + 1) / steps,
                    is_epoch_end=index + 1 == steps,
                    is_last=step == self.num_steps,
                )

    def micro_batches(self, start: int = 0) -> Iterator[list[Key]]:
        """The keys of every micro-batch after ``start`` done steps, to the end of the run."""
        for epoch, _, done, until in self.epochs_from(start):
            for rows in self.batches(epoch)[done * self.accumulation_steps : until * self.accumulation_steps]:
                yield [(epoch, int(row)) for row in rows]


def cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of ``size`` rows; the last may be shorter."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def cut_by_tokens(rows: np.ndarray, lengths: np.ndarray, budget: int, *, packed: bool) -> list[np.ndarray]:
    """Consecutive pieces of at most ``budget`` tokens, or one row; padded rows count as much as the longest beside them."""
    starts, longest, total = [0], 0, 0
    for i, length in enumerate(lengths.tolist()):
        longest, total = max(longest, length), total + length
        if i > starts[-1] and (total if packed else longest * (i + 1 - starts[-1])) > budget:
            starts.append(i)
            longest = total = length
    return [rows[a:b] for a, b in pairwise([*starts, len(rows)])]


def eval_batches(lengths: np.ndarray, batch_size: int, *, same_length: bool = False) -> list[list[Key]]:
    """Every row once, longest first: least padding, and a batch that does not fit fails at the start.

    ``same_length``: no padding at all, for a model to which it matters.
    """
    order = np.argsort(-lengths, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if same_length else [order]
    return [[(0, int(row)) for row in rows] for run in runs for rows in cut(run, batch_size)]
