"""Losses and gradients that are not finite, or far too large: which step it was, and whose rows.

Next: optimizer.py, whose guard keeps the weights as they were before that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.amp.grad_scaler import GradScaler

from engine.data.batch import Key
from engine.data.plan import Position
from engine.errors import DivergedError
from engine.state import StepRecord

MIN_LOSS_SCALE = 1e-4  # GradScaler starts at 65,536 and halves at each overflow
JUMP, MEMORY = 3.0, 5  # how many times the usual loss is a jump; lines that make up what is usual


class LossJumps:
    """Watches the losses of the log lines. What is usual is a moving mean of them, and of this process."""

    def __init__(self) -> None:
        self.usual: float | None = None
        self.first = 0.0

    def warning(self, loss: float, step: int) -> str | None:
        """A loss far above the usual one, and above where it began: bad rows, or a learning rate that is too high."""
        if self.usual is None:
            self.usual = self.first = loss
        usual, self.usual = self.usual, self.usual + (loss - self.usual) / MEMORY
        if loss > JUMP * usual and loss > JUMP * self.first / 2:
            return (
                f"warning: the loss has jumped to {loss:.4g} by step {step}; it was {usual:.4g}. "
                "Look at the rows of these steps, or lower --learning-rate"
            )
        return None


Bad = tuple[int, bool, float, list[int]]  # step, was its loss finite, epochs done, rows


def refuse_collapsed_scale(scaler: GradScaler, step: int) -> None:
    """Raises DivergedError when fp16's loss scale has been halved until nothing is left of it: all gradients overflow."""
    if scaler.is_enabled() and scaler.get_scale() < MIN_LOSS_SCALE:
        raise DivergedError(
            f"the fp16 loss scale has collapsed to {scaler.get_scale():.1e} by step {step}: all overflow. "
            "Use --precision bf16 or fp32, or lower --learning-rate"
        )


def first_bad_step(steps: list[tuple[Position, list[Key], StepRecord]], *, scaled: bool) -> Bad | None:
    """The first step that is not finite, and this rank's rows of it; the guard has kept it, and all after, from updating.

    ``scaled``: in fp16, where a gradient may overflow and nothing is wrong.
    """
    for at, keys, record in steps:
        has_loss = bool(torch.isfinite(record.loss_sum))
        if not has_loss or not (scaled or torch.isfinite(record.grad_norm)):
            return at.step, has_loss, at.epochs_done, [row for _, row in keys]
    return None


def describe_first(bad: list[Bad], called: Callable[[Sequence[int]], str]) -> str:
    """What the ranks have found as one message: the rows are those of the ranks whose loss it is, if it is a loss.

    ``called``: what rows are called.
    """
    advice = "Lower --learning-rate, or look at {}; the last checkpoint holds finite weights, and --resume continues from it"
    if not bad:
        return "the loss is not finite. " + advice.format("the data")
    step, has_loss, epochs_done, _ = min(bad)
    rows = [row for *where, _, found in bad if where == [step, has_loss] for row in found]
    return (
        f"the {'gradient norm' if has_loss else 'loss'} is not finite at step {step} (epoch {epochs_done:.2f}), in "
        f"{called(rows)}. {advice.format('these rows')}"
    )
