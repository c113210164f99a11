"""An exponential moving average of the trained weights (``--ema-decay``): what is evaluated, and saved as the finished model.

After each step that was not skipped, ``average = decay * average + (1 - decay) * weights``, beginning with the weights that
training starts from (Polyak & Juditsky 1992, with exponential weights). Training itself never sees it. Without a decay the
object below holds nothing, and all that it does is the identity. Next: state.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimizer import SkipGuard


class Average:
    """``tensors``: the averages by parameter name, sharded as the parameters are; {} without a decay."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, guard: SkipGuard, decay: float | None):
        self.decay, self.guard = decay, guard
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad and decay is not None}
        self.weights: dict[str, Tensor] = dict(trained)
        self.tensors = {name: parameter.detach().clone() for name, parameter in trained.items()}
        if decay is not None:
            optimizer.register_step_post_hook(self._follow)

    @torch.no_grad()
    def _follow(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """One step on; in a step that was skipped, every bit stays. Nothing is read from the device."""
        assert self.decay is not None
        skipped = self.guard.skipped > 0
        for weight, average in self._pairs():
            average.copy_(torch.where(skipped, average, average.lerp(weight, 1 - self.decay)))

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(weight, average); of sharded ones this rank's part."""
        for name, average in self.tensors.items():
            yield local(self.weights[name].detach()), local(average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages for its weights, and its own again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in self._pairs():  # contents, not storage: DDP, FSDP2 and CUDA graphs hold on to that
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)

    @torch.no_grad()
    def replace_weights(self) -> None:
        """The model has the averages for good: training is over."""
        for weight, average in self._pairs():
            weight.copy_(average)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other as it is."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part
