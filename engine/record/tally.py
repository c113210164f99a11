"""What has passed by since some point: losses, items, examples, tokens and padding, counted on the host."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.checked import expect_each, known
from engine.data.batch import Batch
from engine.distributed.world import World


@dataclass
class Tally:
    """What has passed by since some point."""

    loss_sum: float = 0.0
    num_items: float = 0.0
    num_steps: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    executed_tokens: int = 0
    padded_tokens: int = 0
    sum_squares: int = 0

    def count(self, micro_batches: list[Batch]) -> None:
        """Add this rank's host-side counts of a step; its loss follows when the device is read."""
        self.num_steps += 1
        self.num_items += sum(batch.num_items for batch in micro_batches)
        self.num_examples += sum(batch.num_examples for batch in micro_batches)
        self.num_tokens += sum(batch.num_tokens for batch in micro_batches)
        self.executed_tokens += sum(batch.executed_tokens for batch in micro_batches)
        self.padded_tokens += sum(batch.num_examples * batch.longest for batch in micro_batches)
        self.sum_squares += sum(batch.sum_squares for batch in micro_batches)

    @classmethod
    def from_json(cls, name: str, found: Mapping[str, Any]) -> Tally:
        """Raises ValueError with the name for what is no number."""
        expect_each(name, found, float)
        return cls(**known(cls, found))

    def over_ranks(self, world: World) -> Tally:
        """The counts of all ranks added up; each has done the same steps."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "num_steps"]
        sums = world.all_reduce(torch.tensor([getattr(self, name) for name in names], dtype=torch.float64)).tolist()
        counts = {name: type(getattr(self, name))(value) for name, value in zip(names, sums, strict=True)}
        return Tally(num_steps=self.num_steps, **counts)

    def add(self, other: Tally) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def loss(self) -> float:
        """The mean loss over items; NaN where there were none."""
        return self.loss_sum / self.num_items if self.num_items else math.nan

    @property
    def padding_waste(self) -> float:
        """Share of the executed tokens that are padding."""
        return 1 - self.num_tokens / max(self.executed_tokens, 1)

    @property
    def waste_if_padded(self) -> float:
        """The same share, had each batch been padded to its longest row."""
        return 1 - self.num_tokens / max(self.padded_tokens, 1)


def waste_text(tally: Tally) -> str:
    """The share of padding, and what the other way of batching would have."""
    is_little = tally.padding_waste <= 1 / 32  # as packed batches have: Layout.filled
    if is_little and tally.executed_tokens < tally.padded_tokens:
        return f"{tally.padding_waste:.0%} padding (padded: {tally.waste_if_padded:.0%})"
    return f"{tally.padding_waste:.0%} padding" + ("" if is_little else " (packed: 0%)")
