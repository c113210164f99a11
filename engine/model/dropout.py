"""Cheap dropout on a CPU.

``nn.Dropout`` there spends nearly all of its time drawing one random float an element, on one thread. Here an element
costs 16 random bits, four to a 64-bit draw of numpy's SFC64, and the comparison is one vectorised kernel. The probability
is rounded to 1/65536 (0.1 becomes 0.10001). A stream starts from torch's generator, so the seed, and a checkpoint's RNG
state, decide the masks. What is saved for the backward pass takes two bytes an element: ``keep``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import UsageError

HALF = 1 << 15
STREAM_WORDS = 8192  # starting a stream costs as much as drawing so many words from torch
PIECE_WORDS = 1 << 16  # drawn at a time, half a megabyte: an array of all of them would be large, new and slow to touch


def random_bits(num_elements: int) -> Tensor:
    """[num_elements] int16, uniform, from torch's CPU generator, or from a stream that it starts where that is faster."""
    words = torch.empty(-(-num_elements // 4), dtype=torch.int64)
    if len(words) < STREAM_WORDS:
        words.random_(-(2**63), None)
    else:
        stream = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
        for piece in words.split(PIECE_WORDS):
            piece.numpy()[:] = stream.random_raw(len(piece)).view(np.int64)
    return words.view(torch.int16)[:num_elements]


def lowest_kept(p: float) -> int:
    """Elements whose 16 bits are at least this number are kept; never so many that none is, whatever ``p`` below 1."""
    return min(round(p * 2 * HALF), 2 * HALF - 1) - HALF


def keep(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """What is saved for data of this type, in the memory of the int16 ``bits``, which are lost.

    For two-byte types 1 where an element is kept and 0 elsewhere, so that the backward pass compares nothing; else the bits.
    """
    return bits.ge_(lowest_kept(p)) if dtype.itemsize == 2 else bits


def numbers(kept: Tensor, scratch: Tensor) -> Tensor:
    """What ``drop`` compares: for types wider than two bytes the bits as numbers, in ``scratch``, which is like the data."""
    return kept if scratch.element_size() == 2 else scratch.copy_(kept)


def drop(x: Tensor, kept: Tensor, p: float, *, out: Tensor | None = None) -> Tensor:
    """``x`` where an element is kept, else 0; not rescaled. One vectorised kernel: a boolean mask takes four times it.

    ``kept``: as ``numbers`` gives it.
    """
    if out is None:
        out = torch.empty_like(x)
    if x.element_size() == 2:  # the bits of the number, times 1 or 0: half the memory, and no conversion to float32 and back
        torch.mul(x.view(torch.int16), kept, out=out.view(torch.int16))
    else:
        torch.ops.aten.threshold_backward.grad_input(x, kept, lowest_kept(p) - 0.5, grad_input=out)
    return out


class _Dropout(torch.autograd.Function):
    """x: any shape. Saves ``kept``, which ``keep`` gives, two bytes an element. Its gradient is the same for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.p = p
        return drop(x, numbers(kept, torch.empty_like(x)), p).mul_(1 / (1 - p))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return _Dropout.apply(gradient, kept, ctx.p), None, None  # type: ignore[no-untyped-call]


class FastDropout(nn.Dropout):
    """``nn.Dropout`` for tensors on a CPU; elsewhere, outside training and in a compiled graph, it is nn.Dropout."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        kept = keep(random_bits(x.numel()).view(x.shape), self.p, x.dtype)
        return _Dropout.apply(x, kept, self.p)  # type: ignore[no-any-return,no-untyped-call]


def set_head_dropout(model: nn.Module, p: float) -> None:
    """Give every dropout outside the model's body (its ``base_model``) this probability. Raises UsageError without one."""
    body = set(getattr(model, "base_model", model).modules())
    found = [module for module in model.modules() if isinstance(module, nn.Dropout) and module not in body]
    if not found:
        raise UsageError(f"--classifier-dropout: {type(model).__name__} has no dropout outside its body: leave it out")
    for module in found:
        module.p = p


def use_fast_dropout(model: nn.Module) -> None:
    """Every ``nn.Dropout`` of the model becomes the fast one, in place. Names of parameters stay."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout
