"""What travels from the data to the model: one micro-batch with its counts.

The counts are host integers, known when the batch is put together, so nothing on the device has to be read for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Key = tuple[int, int]  # (epoch, row): all randomness of the data is a function of (seed, key)


class FillerKey(NamedTuple):
    """A row that fills the place of those that a rank does not have: it is computed, as all ranks take part, and weighs 0."""

    epoch: int
    row: int


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B rows.

    ``inputs`` is passed to the model as keyword arguments (``[B, T]`` tensors, or ``[1, T]`` with all rows end to end; see
    collate.py); ``targets`` is what the task's loss compares with: labels are not passed to the model, so no loss is computed
    out of sight. ``num_items`` is what the loss is a sum over: examples, or target tokens. ``num_tokens`` counts real tokens,
    ``executed_tokens`` those the model works on (with padding), ``longest`` is what each example takes of a padded batch,
    ``sum_squares`` the sum over the rows of length squared: what attention costs. ``weight`` is 0.0 for a filler: a rank
    without rows of a micro-batch takes part in it with a row that counts for nothing.
    """

    inputs: dict[str, Tensor | int]
    targets: dict[str, Tensor]
    num_items: int
    num_examples: int
    num_tokens: int
    executed_tokens: int
    sum_squares: int
    longest: int
    keys: list[Key] = field(default_factory=list)
    weight: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; asynchronous on CUDA only, where memory is pinned (on MPS it would read freed memory)."""
        if device.type == "cpu":
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; DataLoader calls this when it pins."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return dataclasses.replace(
            self,
            inputs={name: function(x) if isinstance(x, Tensor) else x for name, x in self.inputs.items()},
            targets={name: function(tensor) for name, tensor in self.targets.items()},
        )
