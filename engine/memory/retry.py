"""Out of memory: the micro-batch that did not fit is cut in two, and the step's gradients are begun again.

The loss is a sum over items that is divided once by those of the whole step, so the cut changes nothing but the order of
additions, and, with dropout, which units are dropped. Micro-batches of that size are cut from then on; the size is part
of the state, so a resumed run cuts the same. Next: loop.py, whose ``accumulate`` this goes around.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.console import note
from engine.data.batch import Batch, Key
from engine.distributed.device import describe_device
from engine.errors import ResourceError
from engine.seed import get_generators, set_generators
from engine.state import TrainState

Accumulate = Callable[[TrainState, Any, Collection[Batch], Tensor], Tensor]


class OutOfMemoryRetry:
    """Takes the place of ``state.execute``. ``collate`` makes a batch of some keys, the same one each time.

    ``called``: what rows are called.
    """

    def __init__(self, collate: Callable[[Sequence[Key]], Batch], called: Callable[[Sequence[int]], str]):
        self.collate, self.called = collate, called
        self.at: Batch | None = None

    def __call__(
        self, accumulate: Accumulate, state: TrainState, task: Any, batches: Collection[Batch], divisor: Tensor
    ) -> Tensor:
        """``accumulate(...)``. Raises ResourceError when a single example does not fit."""
        with state.clock.phase("guard"):
            before = get_generators(state.device)
            batches = list(batches)
        while True:
            batches = [piece for batch in batches for piece in self.fitting(batch, state.max_tokens)]
            try:
                return accumulate(state, task, TrackedBatches(self, batches), divisor)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Only here are the traceback and the activations that it holds gone.
            assert self.at is not None
            state.optimizer.zero_grad(set_to_none=True)  # what earlier micro-batches, and half of this one, have added
            set_generators(before)
            if state.device.type == "cuda":
                torch.cuda.empty_cache()  # in pieces of the old size
            self.shrink(self.at, state)

    def fitting(self, batch: Batch, max_tokens: int | None) -> list[Batch]:
        """``batch`` in halves, and halves of these, until each is within ``max_tokens`` or one example."""
        if max_tokens is None or batch.executed_tokens <= max_tokens or len(batch.keys) == 1:
            return [batch]
        half = (len(batch.keys) + 1) // 2
        parts = (batch.keys[:half], batch.keys[half:])
        return [piece for keys in parts for piece in self.fitting(self.collate(keys), max_tokens)]

    def shrink(self, batch: Batch, state: TrainState) -> None:
        """Make nothing as large as ``batch`` any more."""
        where, size = describe_device(state.device), f"{batch.executed_tokens} tokens"
        if len(batch.keys) == 1:
            epoch, row = batch.keys[0]
            raise ResourceError(
                f"out of memory on {where} with a single example ({self.called([row])}, {size}, in epoch {epoch}): lower "
                "--max-length, or take a smaller model; what is saved stands, and --resume continues from it"
            )
        state.max_tokens = batch.executed_tokens - 1
        note(
            f"out of memory on {where} at step {state.step + 1} with {len(batch.keys)} examples ({size}): from here on "
            "micro-batches of that size are cut in two; a step still holds the same examples"
        )


class TrackedBatches(Collection[Batch]):
    """``batches``; the guard's ``at`` is the one that was asked for last."""

    def __init__(self, guard: OutOfMemoryRetry, batches: Collection[Batch]):
        self.guard, self.batches = guard, batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.guard.at = batch
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def __contains__(self, batch: object) -> bool:
        return batch in self.batches


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA and MPS have a type for it, torch's allocator for CPUs has a text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
